"""Which file a name in an annotation means."""

import pytest

from ssd_jax.data.folder import Folder


class Bases(list):
    """Folders that a path may be relative to, which count how often they are looked through."""

    looks = 0

    def __iter__(self):
        self.looks += 1
        return super().__iter__()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a/images").mkdir(parents=True)
    (tmp_path / "a/images/1.png").touch()
    (tmp_path / "list.txt").touch()
    return Folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("images", "a/images"),
        ("../images", "a/images"),
        (r"C:\data\a\images", "a/images"),
        ("/data" * 10_000 + "/images", "a/images"),
        ("x/list.txt", "list.txt"),
        (".", "a"),
        ("x/" * 10_000, None),
        ("x/" * 10_000 + "x", None),
        ("", "a"),
    ],
)
def test_the_end_of_a_path_is_looked_up_with_as_many_parts_as_any_file_has(folder, name, place):
    bases = Bases(["a", "."])
    assert folder.find_place(name, bases) == place
    assert bases.looks <= 3
