"""Detection in many images, in parts that a stopped job goes on with."""

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import os
import signal
import tarfile

import detect_kills
import jax
import numpy as np
import pytest
from bright import Bright, square

from ssd_jax.inference.drawing import write_png
from ssd_jax.loop import detect_many as module
from ssd_jax.loop.detect_many import detect_many
from ssd_jax.loop.image_lists import list_images

COUNT = 23


@pytest.fixture(autouse=True, scope="module")
def _no_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_detector", lambda workdir, **options: Bright())
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Make 23 images in two folders, of which number 4 is damaged."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "b").mkdir()
    for number in range(COUNT):
        place = folder / "b" if number >= 10 else folder
        write_png(place / f"{number:03}.png", square(number)[0])
    (folder / "004.png").write_bytes(b"damaged")
    (folder / "notes.md").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def names(folder):
    return [f"{number:03}.png" for number in range(10)] + [f"b/{number:03}.png" for number in range(10, COUNT)]


def rows(out):
    return [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.read_text().splitlines()]


def check(table, names):
    """Compare the rows with what is drawn in the images of those names."""
    assert [row["image"] for row in table] == names
    for number, row in enumerate(table):
        if number == 4:
            assert row["error"].startswith("the file must be JPEG, PNG")
        else:
            assert (row["width"], row["height"]) == (64, 64)
            (found,) = row["detections"]
            assert (found["class"], found["label"], found["box"]) == ("square", 1, square(number)[1])


def test_a_folder_becomes_parts_with_a_row_for_each_image(folder, names, tmp_path):
    seen = []
    done = detect_many("run", [folder], tmp_path, part_size=10, report=seen.append)
    assert [path.name for path in sorted(tmp_path.glob("part*"))] == [f"part-0000{k}.jsonl" for k in range(3)]
    assert [len(path.read_text().splitlines()) for path in sorted(tmp_path.glob("part*"))] == [10, 10, 3]
    check(rows(tmp_path), [str(folder / name) for name in names])
    assert (done.images, done.new, done.errors) == (COUNT, COUNT, 1)
    assert [(progress.images, progress.new) for progress in seen] == [(10, 10), (20, 20), (23, 23)]


def test_a_list_and_files_of_any_name(folder, names, tmp_path):
    (tmp_path / "list.txt").write_bytes(
        b"\n".join(str(folder / name).encode() for name in names[:20]) + b"\r\n\n/no/such/image.jpg\n"
    )
    inputs = [tmp_path / "list.txt", *(folder / name for name in names[20:]), tmp_path / "gone.png"]
    with pytest.raises(FileNotFoundError, match=r"no such image, folder, list, tar or table: .*gone\.png"):
        detect_many("run", inputs, tmp_path / "out")
    detect_many("run", inputs[:-1], tmp_path / "out")
    table = rows(tmp_path / "out")
    assert table.pop(20) == {"image": "/no/such/image.jpg", "error": "No such file or directory"}
    check(table, [str(folder / name) for name in names])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", ["", "\n"])
@pytest.mark.parametrize(
    "encode",
    [
        lambda text: codecs.BOM_UTF8 + os.fsencode(text),
        lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        os.fsencode,
    ],
    ids=["UTF-8 with a mark", "UTF-16 LE", "UTF-16 BE", "bytes"],
)
def test_a_list_may_have_a_byte_order_mark(tmp_path, encode, last, end):
    names = [
        "a.png",
        "b c/\u010a\u0d0a.png",
        "\u00a0d\x85.png",
    ]  # bytes of line ends in UTF-16, and spaces of Unicode
    (tmp_path / "list.txt").write_bytes(encode(end.join([names[0], "", f"  {names[1]}\t", names[2]]) + last))
    assert [image.name for _, image in list_images([tmp_path / "list.txt"])] == names


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_names_in_a_list_that_are_not_utf8_are_read(tmp_path, mark):
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    write_png(path, square(3)[0])
    (tmp_path / "list.txt").write_bytes(mark + os.fsencode(path) + b"\r\n")
    ((_, image),) = list_images([tmp_path / "list.txt"])
    assert image.name == str(path) and image.load() == path.read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.png\nb.png\n".encode("utf-16-le"), "line 1 must be a path; got one with a null byte"),
        (b"a.png\n\0\n", "line 2 must be a path; got one with a null byte"),
        (codecs.BOM_UTF16_LE + "a.png\n".encode("utf-16-le")[:-1], "a list must be text; got damaged UTF-16"),
        (codecs.BOM_UTF16_LE + b"\x00\xd8a\x00", "a list must be text; got damaged UTF-16"),
    ],
)
def test_a_list_that_is_no_text_is_one_line(tmp_path, content, message):
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"^\S*list\.txt: {message}$"):
        detect_many("run", [tmp_path / "list.txt"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz"])
def test_a_tar_is_read_as_a_stream(folder, names, tmp_path, name):
    with tarfile.open(tmp_path / name, "w:gz" if name.endswith("gz") else "w") as tar:
        for image in names:
            tar.add(folder / image, image)
            label = tarfile.TarInfo(image.replace(".png", ".cls"))
            tar.addfile(label, io.BytesIO())
    detect_many("run", [tmp_path / name], tmp_path / "out", part_size=7)
    check(rows(tmp_path / "out"), [f"{tmp_path / name}/{image}" for image in names])


@pytest.fixture(scope="module")
def tar(folder, names):
    """Return the bytes of a tar of 23 images, and where its members' headers begin."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for image in names:
            tar.add(folder / image, image)
    with tarfile.open(fileobj=io.BytesIO(content.getvalue())) as tar:
        return content.getvalue(), [member.offset for member in tar]


def zeroed(content, start, end):
    return content[:start] + bytes(end - start) + content[end:]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tar, at: tar[: at + 100], "before byte {0}: a damaged header at byte {at}, or data after the end"),
        (
            lambda tar, at: zeroed(tar, at, at + 1),
            "before byte .*: a damaged header at byte {at}, or data after the end",
        ),
        (
            lambda tar, at: zeroed(tar, at, at + 512),
            "before byte .*: a damaged header at byte {at}, or data after .*",
        ),
        (lambda tar, at: tar + tar, "before byte .*: a damaged header at byte .*, or data after the end"),
        (lambda tar, at: tar[: at + 520], "before byte .*: unexpected end of data"),
        (lambda tar, at: b"", "before byte 0: empty file"),
    ],
    ids=["cut in a header", "damaged header", "empty header", "two tars", "cut in an image", "empty"],
)
def test_a_cut_or_damaged_tar_is_one_line(tar, tmp_path, damage, message, wanted):
    """`tarfile` takes a damaged header for the end."""
    content, offsets = tar
    path = tmp_path / "a.tar"
    path.write_bytes(damage(content, offsets[12]))
    message = message.format(path.stat().st_size, at=offsets[12])
    with pytest.raises(ValueError, match=rf"^\S*a\.tar: must be a tar; got damage {message}\Z"):
        list(list_images([path], lambda _: wanted))


def test_the_finished_parts_of_a_damaged_tar_are_kept(tar, tmp_path):
    content, offsets = tar
    (tmp_path / "a.tar").write_bytes(content[: offsets[12] + 100])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a\.tar: must be a tar; got damage before byte"):
            detect_many("run", [tmp_path / "a.tar"], tmp_path / "out", part_size=5)
        assert [path.name for path in sorted((tmp_path / "out").glob("part*"))] == [
            "part-00000.jsonl",
            "part-00001.jsonl",
        ]


@pytest.mark.parametrize(
    ("compress", "cut"),
    [(gzip.compress, "Compressed file ended"), (bz2.compress, "Compressed"), (lzma.compress, "Compressed")],
)
def test_a_compressed_tar_is_checked_to_its_end(tar, tmp_path, compress, cut):
    path, packed = tmp_path / "a.tar", compress(tar[0])
    path.write_bytes(packed)
    assert len(list(list_images([path]))) == COUNT
    path.write_bytes(packed[:-1])
    with pytest.raises(ValueError, match=rf"a\.tar: must be a tar; got damage before byte \d+: {cut}"):
        list(list_images([path], lambda _: False))
    if compress is gzip.compress:
        path.write_bytes(packed[:-8] + bytes(4) + packed[-4:])
        with pytest.raises(ValueError, match=r"a\.tar: must be a tar; got damage before byte \d+: CRC check failed"):
            list(list_images([path]))


def test_a_tar_without_an_end_marker_is_read_with_a_warning(tar, tmp_path, caplog):
    content, offsets = tar
    (tmp_path / "a.tar").write_bytes(content[: offsets[12]])
    assert len(list(list_images([tmp_path / "a.tar"]))) == 12
    assert f"a.tar: has no end marker at byte {offsets[12]}; one that was cut" in caplog.text
    caplog.clear()
    (tmp_path / "a.tar").write_bytes(content)
    assert len(list(list_images([tmp_path / "a.tar"]))) == COUNT
    assert not caplog.text


@pytest.mark.parametrize("kind", ["bytes", "struct", "unnamed"])
def test_parquet_in_and_out(folder, names, tmp_path, kind):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")
    parquet = pytest.importorskip("pyarrow.parquet")
    files = [(folder / name).read_bytes() for name in names]
    columns = {
        "bytes": {"png": files, "image_id": names, "label": list(range(COUNT))},
        "struct": {"image": [{"bytes": file, "path": name} for file, name in zip(files, names, strict=True)]},
        "unnamed": {"png": files},
    }[kind]
    table = tmp_path / "table.parquet"
    parquet.write_table(arrow.table(columns), table, row_group_size=8)
    out = tmp_path / "out"
    detect_many("run", [table], out, format="parquet", part_size=10)
    (out / "part-00001.parquet").unlink()
    assert detect_many("run", [table], out, format="parquet", part_size=10).new == 10
    parts = [parquet.read_table(part).to_pylist() for part in sorted(out.glob("part-*.parquet"))]
    assert [len(part) for part in parts] == [10, 10, 3]
    check(
        [row for part in parts for row in part],
        [f"{table}:{row}" for row in range(COUNT)] if kind == "unnamed" else names,
    )


def test_images_that_are_not_wanted_are_not_read(folder, tmp_path):
    numbers = [number for number, _ in list_images([folder], lambda number: number % 5 == 3)]
    assert numbers == [3, 8, 13, 18]


class Stop(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("after", [0, 9, 10, 11, 19, 22])
def test_a_stopped_job_repeats_at_most_one_part_and_no_row(folder, names, tmp_path, monkeypatch, after):
    counted = iter(range(after))

    def decode(image, decode=module.decode_image):
        if next(counted, None) is None:
            raise Stop
        return decode(image)

    monkeypatch.setattr(module, "decode_image", decode)
    with pytest.raises(Stop):
        detect_many("run", [folder], tmp_path, part_size=5)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("part*")}
    assert len(kept) in (after // 5, after // 5 - 1)  # the part that was just filled is written with the next row
    monkeypatch.undo()
    done = detect_many("run", [folder], tmp_path, part_size=5)
    assert done.new == COUNT - 5 * len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    check(rows(tmp_path), [str(folder / name) for name in names])
    assert detect_many("run", [folder], tmp_path, part_size=5).new == 0


def test_a_folder_of_another_job_is_refused(folder, tmp_path):
    detect_many("run", [folder], tmp_path, part_size=10)
    job = (tmp_path / "job.json").read_bytes()
    for changes, message in (
        ({"part_size": 9}, "a job must go on with part_size 10; got 9: choose another folder"),
        ({"score": 0.5}, "a job must go on with score 0.4; got 0.5"),
        ({"step": 8}, "a job must go on with step 7; got 8"),
        ({"format": "parquet"}, "a job must go on with format 'jsonl'; got 'parquet'"),
    ):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")
        with pytest.raises(ValueError, match=message):
            detect_many("run", [folder], tmp_path, **{"part_size": 10} | changes)
    (folder / "b" / "new.png").write_bytes(b"")
    try:
        with pytest.raises(ValueError, match="a job must go on with the same images; got others"):
            detect_many("run", [folder], tmp_path, part_size=10)
    finally:
        (folder / "b" / "new.png").unlink()
    assert (tmp_path / "job.json").read_bytes() == job
    (tmp_path / "job.json").write_text("[]")
    with pytest.raises(ValueError, match="a job must be a JSON object; got list"):
        detect_many("run", [folder], tmp_path, part_size=10)


@pytest.mark.parametrize("name", ["m.onnx", "m.stablehlo"])
def test_a_job_does_not_go_on_with_another_exported_file(folder, names, tmp_path, name):
    model, beside, out = tmp_path / name, tmp_path / f"{name}.json", tmp_path / "out"
    model.write_bytes(b"one")
    beside.write_text("1")
    detect_many(model, [folder], out, part_size=10)
    job = json.loads((out / "job.json").read_text())
    wanted = b"one" if name == "m.onnx" else b"one1"
    assert job["sha256"] == hashlib.sha256(wanted).hexdigest()
    (out / "part-00001.jsonl").unlink()
    message = r"job\.json: a job must go on with the model that it began with; got another: choose another folder"
    changes = [(model, b"two")] + ([(beside, b"2")] if name == "m.stablehlo" else [])
    for file, content in changes:
        before = file.read_bytes()
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            detect_many(model, [folder], out, part_size=10)
        assert not (out / "part-00001.jsonl").exists()
        assert json.loads((out / "job.json").read_text()) == job
        file.write_bytes(before)
    assert detect_many(model, [folder], out, part_size=10).new == 10
    check(rows(out), [str(folder / name) for name in names])


def test_a_job_does_not_go_on_with_other_parameters_of_the_same_step(folder, tmp_path, monkeypatch):
    def load(scale):
        detector = Bright()
        detector.variables = {"params": {"kernel": np.full(3, scale)}}
        return detector

    monkeypatch.setattr(module, "load_detector", lambda workdir, **options: load(1.0))
    detect_many("run", [folder], tmp_path)
    assert detect_many("run", [folder], tmp_path).new == 0
    monkeypatch.setattr(module, "load_detector", lambda workdir, **options: load(2.0))
    with pytest.raises(ValueError, match="a job must go on with the model that it began with; got another"):
        detect_many("run", [folder], tmp_path)


def test_a_job_of_an_earlier_version_goes_on_with_the_same_classes(folder, tmp_path, monkeypatch):
    """Its job.json has no hash of the model."""
    model, path = tmp_path / "m.onnx", tmp_path / "out" / "job.json"
    model.write_bytes(b"one")
    detect_many(model, [folder], path.parent, part_size=10)
    job = json.loads(path.read_text())
    sha256 = job.pop("sha256")
    path.write_text(json.dumps(job))
    (path.parent / "part-00001.jsonl").unlink()
    assert detect_many(model, [folder], path.parent, part_size=10).new == 10
    assert json.loads(path.read_text()) == job | {"sha256": sha256}
    for change, message in (
        ({"class_names": ["circle"]}, r"a job must go on with class_names \['circle'\]; got \['square'\]"),
        ({"step": 6}, "a job must go on with step 6; got 7"),
    ):
        path.write_text(json.dumps(job | change))
        with pytest.raises(ValueError, match=message):
            detect_many(model, [folder], path.parent, part_size=10)


def test_a_job_goes_on_with_the_best_scores_that_it_began_with(folder, names, tmp_path, monkeypatch):
    """Bright's score is 0.9; between the two starts the run is evaluated again."""

    def load(best):
        detector = Bright()
        detector.thresholds = {"square": best}
        return detector

    monkeypatch.setattr(module, "load_detector", lambda workdir, **options: load(0.8))
    detect_many("run", [folder], tmp_path, part_size=10, score="auto")
    (tmp_path / "part-00001.jsonl").unlink()
    monkeypatch.setattr(module, "load_detector", lambda workdir, **options: load(0.95))
    assert detect_many("run", [folder], tmp_path, part_size=10, score="auto").new == 10
    assert json.loads((tmp_path / "job.json").read_text())["best_scores"] == [0.8]
    check(rows(tmp_path), [str(folder / name) for name in names])


def test_a_file_system_that_fails_ends_the_job_and_a_missing_image_does_not(folder, tmp_path, monkeypatch):
    def decode(image):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "decode_image", decode)
    with pytest.raises(OSError, match="Input/output error"):
        detect_many("run", [folder], tmp_path)
    assert not list(tmp_path.glob("part*"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tar", b"no tar, but long enough to be one" * 40, r"a\.tar: must be a tar; got"),
        ("a.parquet", b"no table", r"a\.parquet: must be a Parquet table; got"),
    ],
)
def test_a_damaged_container_is_one_line(tmp_path, name, content, message):
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        detect_many("run", [tmp_path / name], tmp_path / "out")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["list", "tar", "tar of others", "table", "folder"])
def test_an_input_without_images_is_refused_before_the_job_begins(folder, tmp_path, kind):
    path = tmp_path / {"list": "a.txt", "table": "a.parquet", "folder": "a"}.get(kind, "a.tar")
    if kind == "list":
        path.write_text("\n \r\n")
    elif kind == "folder":
        path.mkdir()
    elif kind == "table":
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"a": arrow.array([], arrow.binary())}), path)
    else:
        with tarfile.open(path, "w") as tar:
            if kind == "tar of others":
                tar.add(folder / "notes.md", "notes.md")
    message = rf"^no images \(\.jpg, .*\) in the {kind.split()[0]} {path}$"
    for inputs in ([path], [folder, path]):
        with pytest.raises(FileNotFoundError, match=message):
            detect_many("run", inputs, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=message):
        list(list_images([path]))


def test_a_table_without_images_is_refused(tmp_path):
    arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the extra [parquet]")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"must have one column of encoded images; got \['a'\]"):
        detect_many("run", [tmp_path / "a.parquet"], tmp_path / "out")


def test_a_killed_job_ends_with_each_image_once(workdir):
    """`detect_kills.py` does this at length."""
    hits, problems = detect_kills.interrupted(
        workdir, images=60, part_size=10, signals=[signal.SIGKILL], cache=jax.config.jax_compilation_cache_dir
    )
    assert (hits, problems) == (1, [])
