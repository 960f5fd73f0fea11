"""The command `ssd-jax detect`: which inputs give which results, and one line for a wrong one."""

import json
import os
import sys
import tarfile

import pytest
from bright import Bright, square

import ssd_jax.inference
from ssd_jax.cli import main
from ssd_jax.inference.drawing import write_png
from ssd_jax.inference.video import VideoWriter
from ssd_jax.loop import detect, detect_many


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    for module in (ssd_jax.inference, detect, detect_many):
        monkeypatch.setattr(module, "load_detector", lambda workdir, **options: Bright())


@pytest.fixture
def folder(tmp_path):
    """Make an image, a tar with two, and a video of three frames."""
    for number in (3, 4):
        write_png(tmp_path / f"{number}.png", square(number)[0])
    with tarfile.open(tmp_path / "two.tar", "w") as tar:
        for number in (3, 4):
            tar.add(tmp_path / f"{number}.png", f"{number}.png")
    (tmp_path / "empty.txt").write_text("")
    with VideoWriter(tmp_path / "clip.mp4", 10) as writer:
        for number in (3, 4, 5):
            writer.write(square(number)[0])
    return tmp_path


def run(folder, *arguments):
    main(["detect", "--workdir=run", f"--out={folder / 'out'}", *map(str, arguments)])
    return sorted(name for name in os.listdir(folder / "out") if not name.startswith("."))


def test_images_become_drawings(folder, capsys):
    assert run(folder, folder / "3.png", folder / "4.png") == ["3.png", "4.png", "detections.json"]
    records = json.loads((folder / "out" / "detections.json").read_text())
    assert [record["detections"][0]["box"] for record in records] == [square(3)[1], square(4)[1]]
    assert capsys.readouterr().out == f"2 images with their detections, and detections.json, in {folder / 'out'}\n"


@pytest.mark.parametrize("given", ["two.tar", "."])
def test_many_images_become_parts_which_the_same_command_goes_on_with(folder, given, capsys):
    flags = [folder / given, "--part_size=1"] + (["--format=jsonl"] if given == "." else [])
    assert run(folder, *flags) == ["job.json", "part-00000.jsonl", "part-00001.jsonl"]
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.startswith("1 images done, ") and second.startswith("2 images done, ")
    assert last.startswith(f"2 images in {folder / 'out'}/part-*.jsonl, 2 of them now, ")
    run(folder, *flags)
    assert capsys.readouterr().out == f"2 images in {folder / 'out'}/part-*.jsonl, all of them before\n"


def test_a_video_becomes_lines_and_a_video_which_do_not_replace_it(folder, capsys):
    assert run(folder, folder / "clip.mp4") == ["clip.jsonl", "clip.mp4"]
    before = (folder / "clip.mp4").read_bytes()
    main(["detect", "--workdir=run", f"--out={folder}", str(folder / "clip.mp4")])
    assert (folder / "clip.mp4").read_bytes() == before
    assert {"clip_2.mp4", "clip_2.jsonl"} <= set(os.listdir(folder))
    assert capsys.readouterr().out.count("3 frames in ") == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["clip.mp4", "3.png"], r"inputs must be videos alone, or no videos; got .*clip\.mp4 and .*3\.png"),
        (["clip.mp4", "--format=jsonl"], "format must not be given for videos; got jsonl"),
        (
            ["two.tar", "--format=drawings"],
            r"format must be jsonl or parquet for lists, .*; got .*two\.tar",
        ),
        (["3.png", "--track"], "track must be of videos; got none"),
        (["--format=jsonl"], "inputs must be images, folders, lists, tars or tables; got none"),
        (["3.png", "--tile=2"], r"tile must be an integer of at least 8 \(pixels\); got 2"),
        (["two.tar", "--part_size=0"], "part_size must be an integer of at least 1; got 0"),
        (["empty.txt"], r"no images \(.*\) in the list .*empty\.txt"),
        (["none.mp4"], r"no such video: .*none\.mp4"),
    ],
)
def test_what_does_not_fit_together_is_one_line(folder, flags, message):
    arguments = [flag if flag.startswith("--") else folder / flag for flag in flags]
    with pytest.raises(SystemExit, match=f"^error: {message}$"):
        run(folder, *arguments)
    assert not (folder / "out").exists() or not list((folder / "out").glob("[!.]*"))


def test_a_track_without_its_extra_is_one_line(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(SystemExit, match=r"^error: trackers must be installed: pip install 'ssd_jax\[track\]'$"):
        run(folder, folder / "clip.mp4", "--track")


def test_an_exported_file_has_no_images_of_its_own(tmp_path):
    message = "error: inputs must be given with an exported file; got none with runs/mine.onnx"
    with pytest.raises(SystemExit, match=f"^{message}$"):
        main(["detect", "--workdir=runs/mine.onnx", f"--out={tmp_path / 'out'}"])
