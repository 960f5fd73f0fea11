"""The checker on datasets with every kind of dirt, and priors fitted to boxes."""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_voc

from ssd_jax.box import SSD300_VOC, SSD512_VOC, PriorSpec, iou, linear_spec, make_priors
from ssd_jax.box import center_to_corner as corners_of
from ssd_jax.data import Example, Examples, VOCFolder
from ssd_jax.data.headers import read_header
from ssd_jax.loop.build import open_source
from ssd_jax.report.check import main
from ssd_jax.report.coverage import best_iou, cluster, coverage, propose
from ssd_jax.report.dataset import check
from ssd_jax.report.sheet import sheet

voc = pytest.fixture(name="voc")(test_voc.root.__wrapped__)
IMAGE = test_voc.IMAGE
COLOURS = np.random.default_rng(0).integers(0, 256, (50, 100, 3), np.uint8)


def exif(jpeg, orientation, order="little"):
    tiff = (b"II*\0" if order == "little" else b"MM\0*") + (8).to_bytes(4, order) + (1).to_bytes(2, order)
    tiff += (0x0112).to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(4, order)
    tiff += orientation.to_bytes(2, order) + b"\0\0" + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(tiff) + 8).to_bytes(2, "big") + b"Exif\0\0" + tiff + jpeg[2:]


def encoded(extension, image):
    return cv2.imencode(extension, image)[1].tobytes()


def test_headers():
    alpha = np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2)
    assert read_header(encoded(".jpg", COLOURS)) == (".jpg", "colour", 8, 1, (50, 100))
    assert read_header(encoded(".jpg", COLOURS[:, :, 0])).colour == "grayscale"
    assert read_header(encoded(".png", COLOURS[:, :, 0])) == (".png", "grayscale", 8, 1, (50, 100))
    assert read_header(encoded(".png", alpha)).colour == "alpha"
    assert read_header(encoded(".png", COLOURS.astype(np.uint16))).bits == 16
    assert read_header(encoded(".webp", COLOURS)).extension == ".webp"
    for order in ("little", "big"):
        assert read_header(exif(encoded(".jpg", COLOURS), 6, order)).orientation == 6
    assert read_header(b"") == ("", "colour", 8, 1, None)
    jpeg = exif(encoded(".jpg", COLOURS), 6)
    for cut in range(40):
        read_header(jpeg[:cut])  # damage does not raise


def test_every_kind_of_dirt(voc):
    def add(name, *objects, file=None, extension=".png", **options):
        test_voc.add(voc, name, test_voc.xml(*objects, **options), image=None)
        data = encoded(".png", np.roll(COLOURS, len(names), axis=0)) if file is None else file
        (voc / "JPEGImages" / f"{name}{extension}").write_bytes(data)
        names.append(name)

    names = []
    add("outside", ("dog", 10, 10, 120, 20))
    add("inverted", ("dog", 60, 10, 20, 20))
    add("flat", ("dog", 10, 10, 10, 20), ("dog", 5, 5, 5, 5))
    add("cut", file=encoded(".jpg", COLOURS)[:900], extension=".jpg")
    add("turned", file=exif(encoded(".jpg", COLOURS), 6), extension=".jpg")
    add("grey", file=encoded(".png", COLOURS[:, :, 0]))
    add("alpha", file=encoded(".png", np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2)))
    add("deep", file=encoded(".png", COLOURS.astype(np.uint16) * 257))
    add("named", extension=".jpg")
    add("size", size=(99, 50))
    add("copy", file=(voc / "JPEGImages" / "outside.png").read_bytes())
    add("twice", ("dog", 1, 1, 9, 9), ("dog", 1, 1, 9, 9), ("cat", 1, 1, 9, 9))
    test_voc.split(voc, "dirty", *names)
    report = check(VOCFolder(voc, "dirty"))
    (cut,) = report.dirt.pop("unreadable")
    assert cut.startswith("cut.jpg (the file is cut short")
    assert report.dirt == {
        "box outside its image": ["outside.png"],
        "inverted box": ["inverted.png"],
        "box of no size": ["flat.png", "flat.png"],
        "EXIF-turned": ["turned.jpg"],
        "grayscale": ["grey.png"],
        "alpha": ["alpha.png"],
        "16 bits": ["deep.png"],
        "wrong extension (a png)": ["named.jpg"],
        "size disagrees with the annotation": ["size.png"],
        "same file as another": ["copy.png = outside.png"],
        "box twice": ["twice.png"],
        "class without a box": ["bird"],
    }
    assert (report.images, report.boxes, report.empty, report.most_boxes) == (12, 4, 10, 3)
    assert report.by_class == {"dog": 3, "cat": 1} and report.sizes == {(50, 100): 11}
    text = report.text(names=1)
    assert "          2  box of no size: flat.png\n" in text and "11  100 x 50" in text
    assert json.loads(json.dumps(report.to_dict()))["boxes_by_class"] == {"bird": 0, "cat": 1, "dog": 3}


def test_boxes_beyond_max_boxes_are_dirt(voc):
    crowded(voc)
    report = check(VOCFolder(voc, "many"), max_boxes=4)
    assert report.dirt.pop("box beyond max_boxes = 4") == [f"d{i}.jpg" for i in range(20) for _ in range(2)]
    assert "box beyond max_boxes = 6" not in check(VOCFolder(voc, "many"), max_boxes=6).dirt


def test_a_clean_set_has_no_dirt(voc):
    (voc / "JPEGImages" / "b.png").write_bytes(encoded(".png", COLOURS))
    (voc / "JPEGImages" / "c.JPEG").write_bytes(encoded(".jpg", COLOURS))
    report = check(VOCFolder(voc, "train+val"))
    assert report.dirt == {} and "dirt        none" in report.text()
    assert (report.images, report.boxes, report.difficult, report.empty) == (3, 3, 1, 1)


# -- priors


def boxes(n, low, high, aspect=1.0, seed=0):
    """Corners [n, 4] of boxes with sides around `low` to `high` of the image's, inside it."""
    random = np.random.default_rng(seed)
    side = random.uniform(low, high, n)
    wh = np.stack([side * aspect**0.5, side / aspect**0.5], axis=1)
    corner = random.uniform(0, 1 - wh)
    return np.concatenate([corner, corner + wh], axis=1).astype(np.float32)


def test_coverage_by_hand():
    spec = PriorSpec(100, grids=(1,), steps=(100,), sizes=(50, 50), ratios=((),))  # two squares, 25..75
    corners = np.float32([[0.25, 0.25, 0.75, 0.75], [0.25, 0.25, 0.75, 0.45], [0, 0, 0.1, 0.1]])
    np.testing.assert_allclose(best_iou(corners, spec), [1, 0.4, 0], atol=1e-6)
    rows = coverage(corners, spec)
    # Sides in pixels: 50; sqrt(50 * 20) = 31.6; 10.
    assert [row.boxes for row in rows] == [1, 1, 1, 0, 0, 0, 3]
    assert [row.recall for row in rows[:3]] == [0, 0, 1] and np.isnan(rows[3].recall)
    assert rows[-1].mean_iou == pytest.approx(1.4 / 3) and rows[-1].recall == pytest.approx(1 / 3)
    assert coverage(corners, spec, threshold=0.39)[-1].recall == pytest.approx(2 / 3)


def test_best_iou_is_that_of_all_priors():
    corners = boxes(300, 0.05, 0.5)
    expected = np.max(iou(corners, corners_of(make_priors(SSD300_VOC))), axis=1)
    np.testing.assert_array_equal(best_iou(corners, SSD300_VOC), expected)


def test_clusters_of_shapes():
    shapes = np.repeat([[10.0, 20.0], [40.0, 40.0], [90.0, 30.0]], (30, 50, 9), axis=0)
    random = np.random.default_rng(0)
    found = cluster(random.permutation(shapes), 3)
    np.testing.assert_allclose(found[np.argsort(found[:, 0])], [[10, 20], [40, 40], [90, 30]])
    held = cluster(shapes, 3, fixed=np.array([[40.0, 40.0]]))
    np.testing.assert_allclose(held[0], [40, 40])


def test_a_proposal_covers_better():
    spec = linear_spec(96, (12, 6, 3), smallest=0.5, largest=0.9)
    corners = np.concatenate([boxes(300, 0.15, 0.2, aspect=3.0), boxes(300, 0.3, 0.4, aspect=1 / 3.0)])
    fitted = propose(corners, spec)
    assert fitted.per_cell == spec.per_cell and fitted.grids == spec.grids
    assert list(fitted.sizes) == sorted(fitted.sizes)
    before, after = (coverage(corners, s)[-1] for s in (spec, fitted))
    assert after.recall > 2 * before.recall and after.mean_iou > before.mean_iou + 0.1
    assert propose(corners, spec) == fitted
    with pytest.raises(ValueError, match="at least 100 boxes; got 99"):
        propose(corners[:99], spec)


def test_a_worse_proposal_is_not_made():
    # One size is frequent and one is not: the fit, which weighs them alike, would give up a prior of the first.
    corners = np.concatenate([boxes(400, 0.2, 0.24), boxes(40, 0.88, 0.9)])
    coarse = PriorSpec(96, grids=(8,), steps=(12.0,), sizes=(20.0, 24.0), ratios=((),))
    assert propose(corners, coarse) == coarse
    fine = dataclasses.replace(coarse, grids=(16,), steps=(6.0,))
    before, after = (coverage(corners, s)[-1] for s in (fine, propose(corners, fine)))
    assert after.mean_iou > before.mean_iou and after.recall >= before.recall


def test_a_perfect_spec_stays():
    spec = dataclasses.replace(linear_spec(96, (4,) * 2), ratios=((), ()))
    assert propose(corners_of(np.tile(make_priors(spec), (4, 1))), spec) == spec


# -- as a command


def crowded(root):
    for i in range(20):
        objects = [("dog", 5 * i % 40 + k, 5, 5 * i % 40 + k + 20 + k, 40) for k in range(6)]
        test_voc.add(root, f"d{i}", test_voc.xml(*objects))
    test_voc.split(root, "many", *(f"d{i}" for i in range(20)))


def test_the_command_writes_what_it_says(voc, tmp_path, capsys):
    crowded(voc)
    config, report = tmp_path / "mine.py", tmp_path / "report.json"
    written = [f"--config={config}", "--eval=many[90%:]", f"--json={report}"]
    main(["check", "voc_folder", "many[:90%]", f"--root={voc}", *written])
    out = capsys.readouterr().out
    assert "images      18" in out and "ssd300_voc, sizes (30, 60" in out and "fitted, sizes" in out
    assert json.loads(report.read_text())["boxes"] == 108
    made = runpy.run_path(str(config))["get_config"]()
    assert made.data.root == str(voc) and made.data.train == "many[:90%]" and made.data.max_boxes == 8
    spec = PriorSpec(**made.spec.to_dict())
    assert spec.grids == SSD300_VOC.grids and spec.sizes != SSD300_VOC.sizes
    assert len(open_source(made.data, made.data.train)) == 18
    assert open_source(made.data, made.data.eval).class_names == made.data.class_names


def test_a_config_changes_the_one_that_is_named(voc, tmp_path):
    crowded(voc)
    written = [f"--config={tmp_path}/mine.py", "--eval=many", "--base=voc_folder", "--spec=ssd512_voc"]
    main(["check", "voc_folder", "many", f"--root={voc}", *written])
    made = runpy.run_path(f"{tmp_path}/mine.py")["get_config"]()
    assert made.model.norm == "batch" and made.data.root == str(voc)
    assert PriorSpec(**made.spec.to_dict()).grids == SSD512_VOC.grids


def test_a_config_to_change_is_one_of_ours(voc, tmp_path, capsys):
    arguments = ["check", "voc_folder", "trainval", f"--root={voc}", "--base=mine"]
    with pytest.raises(SystemExit):
        main(arguments)
    assert "--base=NAME goes with --config=FILE" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"--base is the name of a file in configs/, shapes, .*; got 'mine'"):
        main([*arguments, f"--config={tmp_path}/mine.py", "--eval=trainval"])


def test_a_config_names_its_evaluation_split(voc, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["check", "voc_folder", "many", f"--root={voc}", f"--config={tmp_path}/mine.py"])
    assert "--config=FILE and --eval=SPLIT go together" in capsys.readouterr().err


def test_the_command_says_when_the_priors_cannot_be_bettered(voc, capsys, monkeypatch):
    crowded(voc)
    monkeypatch.setattr("ssd_jax.report.check.propose", lambda corners, spec: spec)
    main(["check", "voc_folder", "many", f"--root={voc}", "--max_boxes=5"])
    out = capsys.readouterr().out
    assert "no sizes and ratios were found that cover these boxes better than those of ssd300_voc" in out
    assert "20  box beyond max_boxes = 5: d0.jpg" in out


def test_the_sheet():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] + 100, (64, 64, 3)).copy()
    box = np.float32([[0.25, 0.25, 0.75, 0.75]])
    examples = [Example(str(i), ramp, box, np.int32([1 + i % 2]), np.zeros(1, bool)) for i in range(4)]
    drawn = sheet(Examples(examples, ("a", "b")), rows=2, augmented=2, image_size=64, canvas_size=64)
    assert drawn.shape == (2 * 68, 3 * 68, 3) and drawn.dtype == np.uint8
    first = drawn[2:66, 2:66]
    assert (first[16, 16:48] == first[16, 16]).all() and (first[16, 16] != ramp[16, 16]).any()  # the box's upper side
    np.testing.assert_array_equal(first[:16], ramp[:16])  # the image elsewhere


def test_errors_are_one_line(tmp_path):
    for arguments in (["voc_folder", "train", f"--root={tmp_path}/none"], ["voc", "train"]):
        command = [sys.executable, "-m", "ssd_jax", "check", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert result.returncode == 1
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
