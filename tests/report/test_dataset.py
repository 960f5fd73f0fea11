"""The checker on datasets with every kind of finding, and how well priors cover boxes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import test_voc
import tiny
from layouts import voc_beside

from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import SSD300_VOC, PriorSpec, iou, make_priors
from ssd_jax.box import center_to_corner as corners_of
from ssd_jax.data import Example, Examples, VOCFolder
from ssd_jax.report.check import load_base, main
from ssd_jax.report.coverage import best_iou, coverage, coverage_text
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


def test_every_kind_of_finding(voc):
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
    add("alpha", file=encoded(".png", np.concatenate([COLOURS, COLOURS[:, :, :1]], axis=2)[::-1]))
    add("deep", file=encoded(".png", COLOURS[:, ::-1].astype(np.uint16) * 257))
    add("named", extension=".jpg")
    add("size", size=(99, 50))
    add("copy", file=(voc / "JPEGImages" / "outside.png").read_bytes())
    add("twice", ("dog", 1, 1, 9, 9), ("dog", 1, 1, 9, 9), ("cat", 1, 1, 9, 9))
    test_voc.split(voc, "odd", *names)
    report = check(VOCFolder(voc, "odd"))
    (cut,) = report.findings.pop("unreadable")
    assert cut.startswith("cut.jpg (the file is cut short")
    assert report.findings == {
        "box outside its image": ["outside.png"],
        "inverted box": ["inverted.png"],
        "box of no size": ["flat.png", "flat.png"],
        "EXIF-turned": ["turned.jpg"],
        "grayscale": ["grey.png"],
        "alpha": ["alpha.png"],
        "16 bits": ["deep.png"],
        "wrong extension (a png)": ["named.jpg"],
        "size disagrees with the annotation": ["size.png"],
        "same image as another": ["copy.png = outside.png"],
        "box twice": ["twice.png"],
        "class without a box": ["bird"],
    }
    assert (report.images, report.boxes, report.empty, report.most_boxes) == (12, 4, 10, 3)
    assert report.by_class == {"dog": 3, "cat": 1} and report.sizes == {(50, 100): 11}
    text = report.text(names=1)
    assert "          2  box of no size: flat.png\n" in text and "11  100 x 50" in text
    assert json.loads(json.dumps(report.to_dict()))["boxes_by_class"] == {"bird": 0, "cat": 1, "dog": 3}


@pytest.mark.parametrize("damage", [b"II*\0", b"\0" * 40, b"MM\0*\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff"])
def test_broken_metadata_is_no_error(damage):
    jpeg = encoded(".jpg", COLOURS)
    segment = b"\xff\xe1" + (len(damage) + 8).to_bytes(2, "big") + b"Exif\0\0" + damage
    example = Example("a", jpeg[:2] + segment + jpeg[2:], np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool))
    report = check(Examples([example], ["cat"]))
    assert report.sizes == {(50, 100): 1} and "unreadable" not in report.findings


def test_boxes_beyond_max_boxes_are_a_finding(voc):
    crowded(voc)
    report = check(VOCFolder(voc, "many"), max_boxes=4)
    assert report.findings.pop("box beyond max_boxes = 4") == [f"d{i}.jpg" for i in range(20) for _ in range(2)]
    assert "box beyond max_boxes = 6" not in check(VOCFolder(voc, "many"), max_boxes=6).findings


def test_a_clean_dataset_has_no_findings(voc):
    (voc / "JPEGImages" / "b.png").write_bytes(encoded(".png", COLOURS))
    (voc / "JPEGImages" / "c.JPEG").write_bytes(encoded(".jpg", COLOURS))
    report = check(VOCFolder(voc, "train+val"))
    assert report.findings == {} and "findings    none" in report.text()
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


def test_the_table_gives_the_threshold_that_was_used():
    corners = boxes(50, 0.05, 0.5)
    for threshold in (0.5, 0.7):
        rows = coverage(corners, SSD300_VOC, threshold=threshold)
        first, *_, last = coverage_text(rows).splitlines()
        assert first.endswith(f"IoU >= {threshold}") and last.endswith(f"{rows[-1].recall:.1%}")


# -- the images of both splits


def test_images_of_both_splits_are_found_by_their_pixels(voc):
    """The same image under another name, in another format, or after a change of its metadata is the same image."""
    held_out = {
        "other_name": (".png", encoded(".png", COLOURS)),
        "other_format": (".bmp.png", encoded(".bmp", COLOURS)),
        "other": (".png", encoded(".png", COLOURS[:, ::-1])),
        "grey": (".png", encoded(".png", COLOURS[:, :, 0])),
    }
    for name, (extension, file) in held_out.items():
        test_voc.add(voc, name, test_voc.xml(), image=None)
        (voc / "JPEGImages" / f"{name}{extension[-4:]}").write_bytes(file)
    test_voc.add(voc, "mine", test_voc.xml(("dog", 1, 1, 9, 9)), image=None)
    (voc / "JPEGImages" / "mine.png").write_bytes(encoded(".png", COLOURS))
    test_voc.split(voc, "mine", "mine")
    test_voc.split(voc, "held_out", *held_out)
    mine, other = (check(VOCFolder(voc, split)) for split in ("mine", "held_out"))
    assert other.also_in(mine) == ["other_name.png = mine.png", "other_format.png = mine.png"]
    assert mine.also_in(other) == ["mine.png = other_name.png"] and mine.also_in(mine) == ["mine.png"]


# -- as a command


def crowded(root):
    for i in range(20):
        objects = [("dog", 5 * i % 40 + k, 5, 5 * i % 40 + k + 20 + k, 40) for k in range(6)]
        test_voc.add(root, f"d{i}", test_voc.xml(*objects))
    test_voc.split(root, "many", *(f"d{i}" for i in range(20)))


def test_the_command_writes_what_it_says(voc, tmp_path, capsys):
    crowded(voc)
    main(["voc_folder", "many[:90%]", f"--root={voc}", f"--json={tmp_path}/report.json", "--max_boxes=5"])
    out = capsys.readouterr().out
    assert "images      18" in out and "18  box beyond max_boxes = 5: d0.jpg" in out
    assert '--config.spec.sizes="(30, 60' in out and re.search(r"all +108 +0\.", out)
    assert json.loads((tmp_path / "report.json").read_text())["boxes"] == 108


@pytest.mark.parametrize(
    ("split", "evaluation", "said"),
    [
        ("train", "val", "none is also in the training split"),
        ("train+val", "val", "WARNING: 1 are also in the training split: c.JPEG\n"),
        ("many+train", "train+many[:3]", "and 3 more\n"),
    ],
)
def test_the_command_warns_of_images_in_both_splits(voc, capsys, split, evaluation, said):
    crowded(voc)
    random = np.random.default_rng(1)
    for path in sorted((voc / "JPEGImages").iterdir()):  # every image its own
        path.write_bytes(encoded(".png", random.integers(0, 256, (50, 100, 3), np.uint8)))
    main(["voc_folder", split, f"--root={voc}", f"--eval={evaluation}", "--names=2"])
    assert said in capsys.readouterr().out


BASE = """
import dataclasses
import sys

from ml_collections import ConfigDict

from configs import voc_folder
from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import PriorSpec

SPEC = PriorSpec(64, grids=(8,), steps=(8.0,), sizes=(20.0, 30.0), ratios=((2.0,),))


def get_config():
    config = voc_folder.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SPEC))
    config.augment = ConfigDict(dataclasses.asdict(NO_AUGMENTATION))
    config.data.class_names = ("dog", "cat", "eel")
    config.data.max_boxes = 5
    return config.lock()
"""


def columns(path):
    """The five columns of a sheet, without their borders."""
    drawn = cv2.imread(str(path)).astype(int)
    below = len(drawn) - 6 * 68  # the legend
    assert drawn.shape[1] == 5 * 68 and 18 <= below <= 5 * 18 + 6
    assert (drawn[6 * 68 :] != 255).any()
    return drawn[: 6 * 68].reshape(6, 68, 5, 68, 3)[:, 2:66, :, 2:66].transpose(2, 0, 1, 3, 4)


def test_the_report_is_of_the_config_to_train_with(voc, tmp_path, monkeypatch, capsys):
    """Priors, augmentation, class names and limits are those of --base, in any folder."""
    crowded(voc)
    (tmp_path / "mine.py").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    arguments = ["voc_folder", "many", f"--root={voc}", "--base=mine.py", "--sheet=sheet.png"]
    main(arguments)
    out = capsys.readouterr().out
    assert "20  box beyond max_boxes = 5" in out and "class without a box: cat, eel" in out
    assert '--config.spec.sizes="(20.0, 30.0)" --config.spec.ratios="((2.0,),)"' in out
    plain, *trained = columns("sheet.png")
    assert all((column == trained[0]).all() for column in trained)  # without augmentation all samples are the same
    assert np.abs(plain - trained[0]).mean() < 3
    labels = np.abs(plain - IMAGE[0, 0, ::-1]).max(axis=-1) > 60
    assert labels.any()

    main([*arguments, "--config.augment.brightness_probability=1.0"])
    plain, *trained = columns("sheet.png")
    assert not all((column == trained[0]).all() for column in trained)


def test_a_folder_is_all_that_the_command_needs(tmp_path, monkeypatch, capsys):
    """Its split and its sheet are the folder's; the config is that for one's own images."""
    images = tiny.Images(12)
    voc_beside(tmp_path / "pets", Examples([images[i] for i in range(12)], images.class_names))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["../pets", "--sheet=", "--config.spec.sizes=(10.0, 20.0, 40.0, 80.0, 100.0)"])
    out = capsys.readouterr().out
    found = "VOC XML in *.xml: 12 images, 18 boxes of 2 classes (bright, dark); no splits"
    assert out.startswith(f"../pets: {found}\nsplit       all\n")
    assert "priors of finetune" in out and "12 images are few" in out and not list(Path().iterdir())
    monkeypatch.chdir(tmp_path / "pets")
    main([".", "--config.spec.sizes=(10.0, 20.0, 40.0, 80.0, 100.0)"])
    assert "samples before" not in capsys.readouterr().out and len(list(Path().iterdir())) == 24
    monkeypatch.chdir(tmp_path / "here")
    main(["../pets", "all[~:50%]", "--eval=all[~50%:]", "--base=voc_folder", f"--json={tmp_path}/report.json"])
    out = capsys.readouterr().out
    assert (
        "none is also in the training split" in out
        and "samples before and after augmentation: pets_samples.png" in out
    )
    assert json.loads((tmp_path / "report.json").read_text())["images"] == 6
    assert cv2.imread("pets_samples.png").shape[1] == 5 * 304
    base = f"--config.data.source=auto --config.data.root={tmp_path}/pets --config.data.train=all[:4]".split()
    main(["--base=voc_folder", *base, "--eval=all[4:]"])
    assert "images      4," in capsys.readouterr().out


def test_a_folder_of_two_meanings_and_its_splits_by_flags(tmp_path, capsys):
    """The fields of the config choose what is read, as they do in training."""
    images = tiny.Images(9)
    voc_beside(tmp_path / "both", Examples([images[i] for i in range(9)], images.class_names))
    files = sorted(path.name for path in (tmp_path / "both").glob("*.png"))
    rows = [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(files)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 16, 16]} for i in range(9)]
    content = {"images": rows, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    (tmp_path / "both" / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"choose with data\.source=voc or data\.source=coco"):
        main([f"{tmp_path}/both", "--sheet="])
    main([f"{tmp_path}/both", "--sheet=", "--config.data.source=coco"])
    out = capsys.readouterr().out
    assert "COCO JSON in boxes.json: 9 images, 9 boxes of 1 class (box)" in out and "split       all\n" in out
    splits = ["--config.data.train=all[:4]", "--config.data.eval=all[4:]"]
    main([f"{tmp_path}/both", "--sheet=", "--config.data.source=voc", *splits])
    out = capsys.readouterr().out
    assert "split       all[:4]\n" in out and "evaluation  5 images" in out
    with pytest.raises(SystemExit, match="a split must be given for the kind voc_folder; got none"):
        main([f"{tmp_path}/both", "--config.data.source=voc_folder"])


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(SystemExit, match=r"a dataset must be a folder, or one of auto, .*; got '.*/none'"):
        main([f"{tmp_path}/none"])
    with pytest.raises(SystemExit, match=r"a split must be given for the kind shapes; got none"):
        main(["shapes"])


def test_a_name_is_a_config_of_the_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = '--config.spec.sizes="(15, 60, 111, 162, 213, 264, 315)"'.replace('"', "")
    config = load_base("voc_folder", [sizes, "--config.spec.ratios=((2.0,),(2.0,3.0))"])
    assert config.augment.expand_ratio == 1.6 and config.spec.sizes[:2] == (15, 60)
    assert config.spec.ratios == ((2.0,), (2.0, 3.0))
    assert load_base(None).spec.sizes == SSD300_VOC.sizes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base=nope"], r"a config must be a Python file, or one of .*shapes, .*; got 'nope'"),
        (["--base=nope.py"], r"a config must be a Python file.*; got 'nope\.py'"),
        (["--config.data.max=3"], r"a --config\. flag must name a field of the config; got --config\.data\.max=3"),
        (["--config.data.max_boxes=x"], r"--config\.data\.max_boxes=x: invalid literal"),
        (["--base=shapes", "--config.spec.sizes=(1,"], r"--config\.spec\.sizes=\(1,"),
    ],
)
def test_a_wrong_base_is_one_line(voc, arguments, message):
    with pytest.raises(SystemExit, match=message) as raised:
        main(["voc_folder", "train", f"--root={voc}", *arguments])
    assert "\n" not in str(raised.value)


def test_a_base_without_a_config(voc, tmp_path):
    (tmp_path / "mine.py").write_text("x = 1\n")
    with pytest.raises(SystemExit, match=r"mine\.py: a config must define get_config\(\); got a file without it"):
        main(["voc_folder", "train", f"--root={voc}", f"--base={tmp_path}/mine.py"])


def test_an_unknown_flag(capsys):
    with pytest.raises(SystemExit):
        main(["voc_folder", "train", "--rot=x"])
    assert "unrecognized arguments: --rot=x" in capsys.readouterr().err


def test_the_sheet_shows_class_names():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None, None] + 100, (64, 64, 3)).copy()
    box = np.float32([[0.25, 0.5, 0.75, 0.75]])
    examples = [Example(str(i), ramp, box, np.int32([1]), np.zeros(1, bool)) for i in range(2)]
    options = {"rows": 2, "augmented": 0, "image_size": 64, "canvas_size": 64, "max_boxes": 4}
    one, other = (
        sheet(Examples(examples, (name,)), augment_options=NO_AUGMENTATION, **options)[2:66, 2:66]
        for name in ("a", "bbb")
    )
    assert (one[48, 16:49] == one[48, 48]).all() and (one[48, 48] != ramp[48, 48]).any()  # the box's lower side
    np.testing.assert_array_equal(one[49:], ramp[49:])  # the image elsewhere
    assert (one[:32] != other[:32]).any()  # the names


def test_errors_are_one_line(tmp_path):
    for arguments in (["voc_folder", "train", f"--root={tmp_path}/none"], ["voc", "train"]):
        command = [sys.executable, "-m", "ssd_jax", "check", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert result.returncode == 1
        assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
