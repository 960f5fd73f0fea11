"""Detection with a run's checkpoint in files and folders."""

import json

import cv2
import pytest
import tiny

from ssd_jax.inference import load_detector
from ssd_jax.loop.detect import detect_images

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
