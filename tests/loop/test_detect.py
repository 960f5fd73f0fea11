"""Detection with a run's checkpoint in files and folders."""

import json
import os
import shutil

import cv2
import numpy as np
import pytest
import tiny

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.cli import main
from ssd_jax.data import decode_image
from ssd_jax.inference import Detections, Detector, load_detector
from ssd_jax.inference.drawing import write_png
from ssd_jax.loop.detect import JSONList, best_scores, detect_images, find

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


def test_detection_draws_files_folders_and_held_out_images(workdir, data, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        cv2.imwrite(str(folder / name), tiny.Images(size=100)[3].image)
    (folder / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert detect_images(workdir, [folder, folder / "a.png"], out, score=0.01) == 3
    records = json.loads((out / "detections.json").read_text())
    assert [record["drawing"] for record in records] == ["a.png", "b.png", "a_2.png"]
    assert (records[0]["width"], records[0]["height"]) == (100, 100)
    assert records[0]["detections"] == records[2]["detections"]
    for found in records[0]["detections"]:
        assert found["class"] in ("bright", "dark") and found["score"] >= 0.01
        assert 0 <= found["box"][0] <= found["box"][2] <= 100
    assert all(cv2.imread(str(out / record["drawing"])) is not None for record in records)
    assert detect_images(workdir, [], tmp_path / "held", samples=2) == 2
    assert detect_images(workdir, [folder / "broken.jpg"], tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def test_score_auto_takes_the_best_score_of_each_class(workdir, tmp_path, caplog):
    run = shutil.copytree(workdir, tmp_path / "run")
    with Checkpoints.of_run(run) as checkpoints:
        checkpoints.store_thresholds(6, {"bright": 0.3, "dark": 0.6})
    found = Detections(np.zeros((5, 4)), np.array([0.7, 0.6, 0.5, 0.3, 0.2]), np.array([1, 2, 2, 1, 1]))
    kept = found.above(best_scores(load_detector(run), run))
    assert kept.scores.tolist() == [0.7, 0.6, 0.3] and kept.labels.tolist() == [1, 2, 1]
    assert detect_images(run, [], tmp_path / "out", samples=3, score="auto") == 3
    for record in json.loads((tmp_path / "out" / "detections.json").read_text()):
        assert all(found["score"] >= {"bright": 0.3, "dark": 0.6}[found["class"]] for found in record["detections"])
    with Checkpoints.of_run(run) as checkpoints:
        checkpoints.store_thresholds(6, {"bright": 0.3, "dark": float("nan")})
    assert best_scores(load_detector(run), run).tolist() == [0.3, 0.4]
    assert "the evaluation found nothing of dark; their lowest score is 0.4" in caplog.text
    (run / "checkpoints" / "6" / "thresholds.json").unlink()
    with pytest.raises(ValueError, match=r"best scores of step 6 of .*; got auto; evaluate first: ssd-jax eval"):
        detect_images(run, [], tmp_path / "none", score="auto")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("text", ["", "1.1", "-0.1", "nan", "best", "0,5"])
def test_a_score_is_a_number_or_auto(text, capsys):
    with pytest.raises(SystemExit):
        main(["detect", "--workdir=run", "--out=drawings", f"--score={text}"])
    assert f"--score: must be a number from 0 to 1, or auto; got {text!r}" in capsys.readouterr().err


def test_a_file_name_that_is_not_utf8_is_read_and_drawn(workdir, tmp_path):
    folder, out = tmp_path / os.fsdecode(b"in\xff"), tmp_path / os.fsdecode(b"out\xff")
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9.png")
    write_png(folder / name, tiny.Images(size=100)[3].image)
    assert detect_images(workdir, [folder], out) == 1
    (record,) = json.loads((out / "detections.json").read_text())
    assert (record["image"], record["drawing"]) == (str(folder / name), name)
    assert decode_image((out / name).read_bytes()).shape == (400, 400, 3)


def test_results_are_written_as_they_come(workdir, tmp_path, monkeypatch):
    """A fault in the third batch leaves the records and drawings of two."""
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number in range(20):
        write_png(folder / f"{number:02}.png", tiny.Images()[3].image)
    batches = iter(range(2))

    def run(self, pixels, run=Detector._run):
        if next(batches, None) is None:
            raise RuntimeError("the device is lost")
        return run(self, pixels)

    monkeypatch.setattr(Detector, "_run", run)
    with pytest.raises(RuntimeError, match="the device is lost"):
        detect_images(workdir, [folder], out)
    records = json.loads((out / "detections.json").read_text())
    assert [record["drawing"] for record in records] == [f"{number:02}.png" for number in range(16)]
    assert {path.name for path in out.glob("*.png")} == {record["drawing"] for record in records}


class AlmostFull:
    """A file on a disk with room for five bytes more."""

    def __init__(self, file):
        self._file, self._room = file, 5

    def write(self, text):
        if text == JSONList.END:  # it was there before
            return self._file.write(text)
        if not self._room:
            raise OSError("No space left on device")
        written, self._room = self._file.write(text[: self._room]), 0
        return written

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_json_list_is_whole_after_every_item_and_after_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "list.json"
    path.write_text("older and longer than what follows")
    with JSONList(path) as items:
        assert path.read_text().startswith("older")
        for number in range(3):
            items.add({"n": number, "name": "\udcff"})
            assert [item["n"] for item in json.loads(path.read_text())] == list(range(number + 1))
        monkeypatch.setattr(items, "_file", AlmostFull(items._file))
        with pytest.raises(OSError, match="No space left"):
            items.add({"n": 3})
    assert len(json.loads(path.read_text())) == items.length == 3


def test_drawings_do_not_replace_the_images(workdir, tmp_path):
    image = tiny.Images(size=100)[3].image
    write_png(tmp_path / "a.png", image)
    (tmp_path / "b.jpg").write_bytes(cv2.imencode(".jpg", image)[1].tobytes())
    assert detect_images(workdir, [tmp_path], tmp_path) == 2
    np.testing.assert_array_equal(decode_image((tmp_path / "a.png").read_bytes()), image)
    records = json.loads((tmp_path / "detections.json").read_text())
    assert [record["drawing"] for record in records] == ["a_2.png", "b.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no fifos")
def test_only_files_of_a_folder_are_images(workdir, tmp_path):
    os.mkfifo(tmp_path / "a.png")
    (tmp_path / "b.png").mkdir()
    write_png(tmp_path / "c.png", tiny.Images()[3].image)
    assert [path.name for path in find([tmp_path])] == ["c.png"]
    with pytest.raises(FileNotFoundError, match="no such image or folder"):
        find([tmp_path / "a.png"])


def test_a_detector_needs_nothing_but_the_checkpoint(workdir):
    for place in (workdir, workdir / "checkpoints"):
        detector = load_detector(place)
        assert detector.class_names == ("bright", "dark")
        assert detector.model == tiny.SHORT.clone(l2_scale=10.0)
        assert len(detector([tiny.Images()[1].image])) == 1


def test_images_that_are_not_there_are_refused(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such image or folder: .*gone.jpg"):
        detect_images(workdir, [tmp_path / "gone.jpg"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no images .* in the folder"):
        detect_images(workdir, [tmp_path], tmp_path / "out")
