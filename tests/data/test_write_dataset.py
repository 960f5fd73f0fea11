"""Conversions: round trips, what a layout cannot hold, and that nothing is left half-written."""

import dataclasses
import errno
import pathlib

import numpy as np
import pytest
from image_files import with_orientation
from layouts import coco_own, voc_beside, voc_own, write_text, yolo_list_of_names
from test_auto import BOXES, IMAGES, same_images
from test_voc import one_line

from ssd_jax.commands.convert import main
from ssd_jax.data import Example, Examples, Subset, describe_folder, open_source
from ssd_jax.data.write_dataset import write_dataset

DIFFICULT = Examples(
    [dataclasses.replace(e, difficult=np.arange(len(e.boxes)) % 2 == 0) for e in IMAGES], IMAGES.class_names
)


def rows(root, difficult=True):
    """Return all boxes by the image's stem: (class, corners in pixels, difficult)."""
    source = open_source("auto", "all", root=root)
    found = {}
    for e in source:
        height, width = e.decode().shape[:2]
        corners = (e.boxes.astype(float) * (width, height, width, height)).tolist()
        names = [source.class_names[label - 1] for label in e.labels]
        flags = e.difficult.tolist() if difficult else [False] * len(names)
        found[pathlib.Path(e.file).stem] = list(zip(names, corners, flags, strict=True))
    return found


def close(a, b):
    assert a.keys() == b.keys()
    for stem in a:
        assert [(name, hard) for name, _, hard in a[stem]] == [(name, hard) for name, _, hard in b[stem]]
        for (_, one, _), (_, other, _) in zip(a[stem], b[stem], strict=True):
            np.testing.assert_allclose(one, other, atol=0.5)


def test_from_voc_by_coco_and_yolo_to_voc(tmp_path, capsys):
    voc_own(tmp_path / "voc", DIFFICULT)
    for source, target, layout in (("voc", "coco", "coco"), ("coco", "yolo", "yolo"), ("yolo", "back", "voc")):
        main([str(tmp_path / source), str(tmp_path / target), f"--to={layout}"])
    out = capsys.readouterr().out
    assert out.count("NOTE: ") == 1 and "NOTE: 8 difficult flags left out: COCO has none." in out
    assert out.count("9 images, 12 boxes of 2 classes (bright, dark); splits train 5, val 4") == 6
    close(rows(tmp_path / "voc", difficult=False), rows(tmp_path / "back"))
    assert describe_folder(tmp_path / "back").splits == {"train": 5, "val": 4}
    assert "nc" not in (tmp_path / "yolo" / "data.yaml").read_text()
    assert open_source("voc_folder", "train", root=tmp_path / "back").class_names == ("bright", "dark")


def test_voc_keeps_difficult_flags_and_files(tmp_path):
    voc_own(tmp_path / "a", DIFFICULT)
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--to=voc"])
    close(rows(tmp_path / "a"), rows(tmp_path / "b"))
    for path in (tmp_path / "a" / "JPEGImages").iterdir():
        assert (tmp_path / "b" / "JPEGImages" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
def test_a_dataset_without_splits_or_with_repeated_names(tmp_path, layout):
    half = len(IMAGES) // 2
    for part, chosen in (("a", range(half)), ("b", range(half, 9))):
        voc_beside(tmp_path / "all" / part, Examples([IMAGES[i] for i in chosen], IMAGES.class_names))
    main([str(tmp_path / "all"), str(tmp_path / "out"), f"--to={layout}"])
    same_images(open_source("auto", "all", root=tmp_path / "out"), IMAGES)
    found = describe_folder(tmp_path / "out")
    assert set(found.splits) <= {"train"}
    parts = [open_source("auto", split, root=tmp_path / "out") for split in (found.train, found.eval)]
    assert sum(map(len, parts)) == 9


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
def test_arrays_are_written_as_files(tmp_path, layout):
    write_dataset(DIFFICULT, {"train": range(8), "held out": [8]}, tmp_path / "out", layout)
    if layout == "yolo":  # whose data.yaml has no other splits than train, val and test
        same_images(open_source("auto", "all", root=tmp_path / "out"), Subset(IMAGES, range(8)))
    else:
        same_images(open_source("auto", "all", root=tmp_path / "out"), IMAGES)


def test_what_is_lost_is_said(tmp_path, capsys):
    coco_own(tmp_path / "coco", IMAGES)
    path = tmp_path / "coco" / "annotations" / "instances_val2017.json"
    text = path.read_text().replace('"iscrowd": 0', '"iscrowd": 1', 1)
    path.write_text(text.replace('"categories": [', '"categories": [{"id": 9, "name": "eel"}, '))
    main([str(tmp_path / "coco"), str(tmp_path / "voc"), "--to=voc"])
    out = capsys.readouterr().out
    assert "NOTE: 1 class without a box left out, which VOC cannot name: eel.\nNOTE: 1 crowd left out.\n" in out


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
@pytest.mark.parametrize("size", [(50, 100), (100, 50)])
def test_boxes_stay_on_their_pixels_where_exif_turns_the_image(tmp_path, layout, size):
    """The dog is the upper left corner of what the annotator saw: the turned image, or the stored one."""
    stored = np.full((50, 100, 3), 200, np.uint8)
    box = (0.0, 0.0, 10.0 / size[1], 10.0 / size[0])
    if size == (100, 50):  # turned clockwise: its upper left corner is the stored image's lower left one
        stored[40:, :10] = 0
    else:
        stored[:10, :10] = 0
    file = with_orientation(stored, 6, "PNG")
    example = Example("a", file, np.float32([box]), np.int32([1]), np.zeros(1, bool), file="a.png", size=size)
    write_dataset(Examples([example], ("dog",)), {}, tmp_path / "out", layout)
    (read,) = open_source("auto", "all", root=tmp_path / "out")
    image = read.decode()
    x0, y0, x1, y1 = np.rint(read.boxes[0] * np.tile(image.shape[1::-1], 2)).astype(int)
    assert (x1 - x0, y1 - y0) == (10, 10) and (image[y0:y1, x0:x1] == 0).all()
    assert (image == 0).all(axis=-1).sum() == 100


def test_unreadable_images_are_left_out_and_named(tmp_path, capsys):
    voc_beside(tmp_path / "a", IMAGES)
    write_text(tmp_path / "a" / "3.png", "what")
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--to=yolo"])
    assert "NOTE: 1 image left out, which cannot be read: 3.png." in capsys.readouterr().out
    assert describe_folder(tmp_path / "b").images == 8


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
def test_a_split_whose_images_are_all_unreadable_is_not_written(tmp_path, capsys, layout):
    yolo_list_of_names(tmp_path / "a", IMAGES)
    for path in (tmp_path / "a" / "images" / "val").iterdir():
        write_text(path, "")
    main([str(tmp_path / "a"), str(tmp_path / "b"), f"--to={layout}"])
    out = capsys.readouterr().out
    assert "NOTE: 4 images left out, which cannot be read" in out and out.endswith("splits train 5\n")
    assert not list((tmp_path / "b").rglob("*val*"))


@pytest.mark.parametrize("layout", ["voc", "coco", "yolo"])
def test_splits_of_other_names_keep_the_classes(tmp_path, layout):
    write_dataset(IMAGES, {"fold0": range(5), "fold1": range(5, 9)}, tmp_path / "b", layout)
    found = describe_folder(tmp_path / "b")
    assert found.class_names == ("bright", "dark") and (found.images, found.boxes) == (9, BOXES)
    same_images(open_source("auto", "all", root=tmp_path / "b"), IMAGES)


def refused(arguments, message):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_what_cannot_be_converted(tmp_path):
    voc_beside(tmp_path / "a", IMAGES)
    write_text(tmp_path / "full" / "x", "")
    source = str(tmp_path / "a")
    refused([source, str(tmp_path / "full"), "--to=voc"], f"{tmp_path / 'full'}: the folder to write must be empty")
    refused([source, f"{source}/b", "--to=voc"], "the folder to write must not be in the folder to read")
    refused([source, source, "--to=voc"], "the folder to write must not be in the folder to read")
    refused([source, str(tmp_path / "b"), "--to=voc", "--from=x"], "from must be auto, or one of voc, coco")
    refused([str(tmp_path / "none"), str(tmp_path / "b"), "--to=voc"], f"{tmp_path / 'none'}: no such folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "full"]


def test_voc_cannot_name_classes_without_a_box(tmp_path):
    voc_beside(tmp_path / "a", Subset(IMAGES, [1, 4]))  # the second one has no box
    write_text(tmp_path / "a" / "0.png", "what")
    rule = "images to write in VOC's layout must have a box, to name its classes; got none"
    refused([str(tmp_path / "a"), str(tmp_path / "b"), "--to=voc"], rule)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    voc_beside(tmp_path / "a", IMAGES)
    write_bytes = pathlib.Path.write_bytes

    def full(path, content):
        if path.name == "7.png":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(pathlib.Path, "write_bytes", full)
    refused([str(tmp_path / "a"), str(tmp_path / "b"), "--to=coco"], f"{tmp_path / 'b'}: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_empty_folder_may_be_there(tmp_path):
    voc_beside(tmp_path / "a", IMAGES)
    (tmp_path / "b").mkdir()
    main([str(tmp_path / "a"), str(tmp_path / "b"), "--to=coco"])
    same_images(open_source("auto", "all", root=tmp_path / "b"), IMAGES)


def test_a_class_name_that_xml_cannot_hold(tmp_path):
    source = Examples([IMAGES[1]], ("a\x01b", "dark"))
    with pytest.raises(ValueError) as error:
        write_dataset(source, {}, tmp_path / "b", "voc")
    one_line(error, "XML cannot hold a class name with control characters; got 'a\\x01b'")
