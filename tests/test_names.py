"""A name means one thing: no two files and no two public functions or classes share one, but for those listed here.

Old names of moved modules still work, with a warning that names the new one.
"""

import ast
import importlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import ssd_jax

PACKAGE = Path(ssd_jax.__file__).parent

# Files and functions that may share a name, and why.
SAME_FILES = {
    "__init__": "Python's name for a package",
    "__main__": "Python's name for what `python -m` runs",
    "classes": "classes.py is the old name of data/classes.py, until 0.2",
    "train": "commands holds the command line of what loop does",
    "detect": "commands holds the command line of what loop does",
    "export": "commands holds the command line of what the room export does",
    "convert": "commands writes datasets in other layouts, and pretrained turns published weights into ours",
    "coco": "data reads the annotations and metrics computes the numbers of one benchmark, COCO",
    "voc": "data reads the annotations and metrics computes the numbers of one benchmark, PASCAL VOC",
}
SAME_FUNCTIONS = {
    "main": "the usual name of what a command runs",
}


def shared(named: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return the names that stand in several places, and these places."""
    places = defaultdict(list)
    for name, place in named:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def modules() -> Iterator[tuple[str, str]]:
    """Name every file and folder of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.stem, str(path.relative_to(PACKAGE))
        if path.name == "__init__.py":
            yield path.parent.name, f"{path.parent.relative_to(PACKAGE)}/"


def definitions(source: str) -> list[str]:
    """Return the public functions and classes that a module defines itself."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds) and not node.name.startswith("_")]


def functions() -> Iterator[tuple[str, str]]:
    """Name every public function and class of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in definitions(path.read_text()):
            yield name, str(path.relative_to(PACKAGE))


def test_no_two_files_share_a_name_without_a_reason():
    twins = shared(modules())
    assert {name: places for name, places in twins.items() if name not in SAME_FILES} == {}
    assert set(SAME_FILES) <= set(twins), "this list names files that no longer share a name"


def test_no_two_public_functions_share_a_name_without_a_reason():
    twins = shared(functions())
    assert {name: places for name, places in twins.items() if name not in SAME_FUNCTIONS} == {}
    assert set(SAME_FUNCTIONS) <= set(twins), "this list names functions that no longer share a name"


def test_twins_would_be_noticed():
    assert definitions("def a(): pass\ndef _b():\n    def c(): pass\nclass D:\n    def e(self): pass\nf = 1") == [
        "a",
        "D",
    ]
    assert shared([("a", "x.py"), ("b", "x.py"), ("a", "y.py")]) == {"a": ["x.py", "y.py"]}


# All public names of the rooms before 0.1.
OLD_NAMES = {
    "ssd_jax.datasets": "KINDS TFDS COCOJson Examples Joined OnlyClasses Shapes Subset VOCFolder "
    "coco_truth open_coco open_source",
    "ssd_jax.batching": "GREY Example Source UnreadableImage decode eval_batches pad_boxes shrink train_batches warp",
    "ssd_jax.classes": "VOC COCO COCO_IDS NAMES",
}
NEW_MODULES = {"ssd_jax.classes": "ssd_jax.data.classes"}  # the others are now ssd_jax.data
NEW_NAMES = {"decode": "decode_image"}


@pytest.mark.parametrize(("old", "name"), [(old, name) for old, names in OLD_NAMES.items() for name in names.split()])
def test_an_old_name_works_and_its_warning_names_the_new_one(old, name):
    new, new_name = NEW_MODULES.get(old, "ssd_jax.data"), NEW_NAMES.get(name, name)
    with pytest.warns(DeprecationWarning, match=f"^{old}.{name} is now {new}.{new_name}$") as warnings:
        value = getattr(importlib.import_module(old), name)
    assert value is getattr(importlib.import_module(new), new_name)
    assert [warning.filename for warning in warnings] == [__file__]  # the line to change, not ours


@pytest.mark.parametrize("old", ["ssd_jax.datasets", "ssd_jax.batching", "ssd_jax.classes"])
def test_a_name_that_never_existed_is_missing_under_an_old_name_too(old):
    for name in ("no_such_name", "__no_such_name__"):
        with pytest.raises(AttributeError, match=name):
            getattr(importlib.import_module(old), name)


@pytest.mark.parametrize("room", ["data", "inference"])
def test_the_lazy_names_of_a_room_are_those_that_type_checkers_see(room):
    path = PACKAGE / room / "__init__.py"
    (block,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    package = importlib.import_module(f"ssd_jax.{room}")
    assert sorted(alias.name for node in imports for alias in node.names) == sorted(package.__all__)
    for node in imports:
        for alias in node.names:
            assert getattr(package, alias.name) is getattr(importlib.import_module(node.module), alias.name)
    with pytest.raises(AttributeError, match=f"^module 'ssd_jax.{room}' has no attribute 'nothing'$"):
        _ = package.nothing
