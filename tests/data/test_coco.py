import json
import logging
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from image_files import with_orientation

from ssd_jax.data import COCOJson, decode_image, eval_batches, open_coco, open_source
from ssd_jax.metrics import COCOMetric

IMAGE = np.full((50, 100, 3), 77, np.uint8)


def annotation(image_id, category_id, *bbox, **more):
    return {"image_id": image_id, "category_id": category_id, "bbox": list(bbox), **more}


def data():
    """Three images, ids 7, 3, 5: a dog, a crowd of cats and a cat; nothing; a dog. Category ids have gaps."""
    return {
        "images": [{"id": i, "file_name": f"p{i}.jpg", "width": 100, "height": 50} for i in (7, 3, 5)],
        "categories": [{"id": 90, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 44, "name": "bird"}],
        "annotations": [
            annotation(5, 18, 0, 0, 100, 50, id=4, area=1234.5),
            annotation(7, 18, 10, 5, 50, 20, id=0, segmentation=[[1, 2, 3]]),
            annotation(7, 90, 0, 0, 99, 49, id=1, iscrowd=1),
            annotation(7, 90, 20, 10, 10, 10, id=2, iscrowd=0),
        ],
    }


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train").mkdir()
    for i in (7, 3, 5):
        cv2.imwrite(str(tmp_path / "train" / f"p{i}.jpg"), IMAGE)
    return write(tmp_path, data())


def write(root, data):
    (root / "annotations" / "instances_train.json").write_text(json.dumps(data))
    return root


def refused(root, change, error=ValueError, **options):
    """The message, one line, with which the data changed by `change(data)` is refused."""
    changed = data()
    change(changed)
    with pytest.raises(error) as raised:
        open_coco(write(root, changed), "train", **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_examples(root):
    source = open_coco(root, "train")
    assert source.class_names == ("dog", "bird", "cat")  # by rising id
    assert len(source) == 3 and not source.inclusive
    pets, empty, dog = (source[i] for i in range(3))
    assert [e.image_id for e in (pets, empty, dog)] == ["p7.jpg", "p3.jpg", "p5.jpg"]
    np.testing.assert_array_equal(decode_image(pets.image), IMAGE)
    # The crowd is not among them; [x, y, x + w, y + h] / (100, 50)
    np.testing.assert_array_equal(pets.boxes, np.float32([[0.1, 0.1, 0.6, 0.5], [0.2, 0.2, 0.3, 0.4]]))
    np.testing.assert_array_equal(pets.labels, [1, 3])
    np.testing.assert_array_equal(pets.difficult, [False, False])
    np.testing.assert_array_equal(dog.boxes, [[0, 0, 1, 1]])
    assert empty.boxes.shape == (0, 4) and empty.labels.shape == (0,)
    assert pets.boxes.dtype == np.float32 and pets.labels.dtype == np.int32 and pets.difficult.dtype == bool
    assert source[-1].image_id == "p5.jpg"
    with pytest.raises(IndexError):
        source[3]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize(("size", "annotated"), [((50, 100), "upright"), (None, "upright"), ((100, 50), "stored")])
def test_boxes_and_pixels_agree_where_an_image_is_turned(root, size, annotated, kind):
    """A dog in the upper left corner of what the annotator saw; by EXIF, the stored pixels are turned clockwise."""
    stored = cv2.resize(np.random.default_rng(0).integers(0, 255, (6, 12, 3), np.uint8), (100, 50))
    changed = data()
    changed["images"][2] = {"id": 5, "file_name": "turned"}
    if size:
        changed["images"][2] |= {"width": size[0], "height": size[1]}
    changed["annotations"] = [annotation(5, 18, 0, 0, 10, 10)]
    (root / "train" / "turned").write_bytes(with_orientation(stored, 6, kind))
    source = open_coco(write(root, changed), "train")
    seen = np.rot90(stored, -1) if annotated == "upright" else stored
    np.testing.assert_allclose(source[2].decode().astype(int), seen, atol=0 if kind == "PNG" else 40)
    h, w = seen.shape[:2]
    np.testing.assert_allclose(source[2].boxes, [[0, 0, 10 / w, 10 / h]], rtol=1e-6)
    image = source.truth()["images"][2]
    assert (image["width"], image["height"]) == (w, h)


def test_a_file_and_a_folder_of_any_name(root):
    one = COCOJson(root / "annotations" / "instances_train.json", root / "train")
    other = open_coco(root, "annotations/instances_train.json:train")
    assert [e.image_id for e in one] == [e.image_id for e in other] == ["p7.jpg", "p3.jpg", "p5.jpg"]


def test_truth_keeps_crowds_ids_and_areas(root):
    truth = open_coco(root, "train").truth()
    assert [image["id"] for image in truth["images"]] == [7, 3, 5]
    assert {c["name"]: c["id"] for c in truth["categories"]} == {"dog": 18, "bird": 44, "cat": 90}
    assert [(a["id"], a["image_id"], a["category_id"], a["iscrowd"], a["area"]) for a in truth["annotations"]] == [
        (1, 7, 18, 0, 1000),
        (2, 7, 90, 1, 99 * 49),
        (3, 7, 90, 0, 100),
        (4, 5, 18, 0, 1234.5),
    ]
    assert truth["annotations"][0]["bbox"] == [10, 5, 50, 20]
    json.dumps(truth)


def test_images_may_lie_in_folders(root):
    changed = data()
    changed["images"][1]["file_name"] = "deep/p3.jpg"
    (root / "train" / "deep").mkdir()
    os.rename(root / "train" / "p3.jpg", root / "train" / "deep" / "p3.jpg")
    assert decode_image(open_coco(write(root, changed), "train")[1].image).shape == (50, 100, 3)


ERRORS = {"reach outside their image": [90, 0, 20, 10], "have no size": [5, 5, 0, 3]}


@pytest.mark.parametrize("what", ERRORS)
def test_annotation_errors_are_reported_or_refused(root, caplog, what):
    def change(data):
        data["annotations"][0]["bbox"] = ERRORS[what]

    assert refused(root, change, strict=True) == (
        f"{root}/annotations/instances_train.json: with strict, boxes must not {what}; got 1, in p5.jpg"
    )
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        boxes = open_coco(root, "train")[2].boxes
    (message,) = [r.getMessage() for r in caplog.records]
    assert what in message and message.endswith("1, in p5.jpg")
    np.testing.assert_array_equal(boxes, np.float32([[0.9, 0, 1, 0.2]] if "outside" in what else np.zeros((0, 4))))


def test_rounded_decimals_are_no_error(root):
    changed = data()
    changed["annotations"][0]["bbox"] = [0.004, 0, 100.001, 50.001]
    np.testing.assert_array_equal(open_coco(write(root, changed), "train", strict=True)[2].boxes[:, 2:], [[1, 1]])


def set_annotation(**fields):
    return lambda data: data["annotations"][1].update(fields)


def set_image(**fields):
    return lambda data: data["images"][0].update(fields)


def set_category(**fields):
    return lambda data: data["categories"][0].update(fields)


def add_row(part, row):
    return lambda data: data[part].append(row)


IDS = "image_id and category_id of an annotation must be ids of the file; got "
BBOX = "bbox must be four finite numbers, x, y, width, height; got "
WRONG = {
    "bbox of two": (set_annotation(bbox=[1, 2]), f"{BBOX}[1, 2] in annotation 0"),
    "bbox nan": (set_annotation(bbox=[1, 2, float("nan"), 3]), f"{BBOX}[1, 2, nan, 3] in annotation 0"),
    "bbox null": (set_annotation(bbox=None), f"{BBOX}None in annotation 0"),
    "bbox text": (set_annotation(bbox=["a", 0, 1, 1]), f"{BBOX}['a', 0, 1, 1] in annotation 0"),
    "bbox object": (set_annotation(bbox={"x": 1}), f"{BBOX}{{'x': 1}} in annotation 0"),
    "bbox with a huge number": (set_annotation(bbox=[0, 0, 10**400, 1]), BBOX),
    "area list": (set_annotation(area=[5]), "area must be a finite number; got [5] in annotation 0"),
    "area text": (set_annotation(area="big"), "area must be a finite number; got 'big' in annotation 0"),
    "area with a huge number": (set_annotation(area=10**400), "area must be a finite number; got 1000"),
    "iscrowd": (set_annotation(iscrowd="no"), "iscrowd must be 0 or 1; got 'no' in annotation 0"),
    "iscrowd 2": (set_annotation(iscrowd=2), "iscrowd must be 0 or 1; got 2 in annotation 0"),
    "iscrowd list": (set_annotation(iscrowd=[1]), "iscrowd must be 0 or 1; got [1] in annotation 0"),
    "no such image": (set_annotation(image_id=8), f"{IDS}8 and 18 in annotation 0"),
    "no such image, as text": (set_annotation(image_id="8", id="0"), f"{IDS}'8' and 18 in annotation '0'"),
    "image_id list": (set_annotation(image_id=[7]), f"{IDS}[7] and 18 in annotation 0"),
    "image_id null": (set_annotation(image_id=None), f"{IDS}None and 18 in annotation 0"),
    "no such category": (set_annotation(category_id=1), f"{IDS}7 and 1 in annotation 0"),
    "category_id true": (set_annotation(category_id=True), f"{IDS}7 and True in annotation 0"),
    "id of an image null": (set_image(id=None), "the id of an image must be a whole number or text; got None"),
    "id of an image list": (set_image(id=[7]), "the id of an image must be a whole number or text; got [7]"),
    "doubled images": (set_image(id=3), "ids of images must differ; got 3 twice"),
    "doubled images, as text": (set_image(id="3"), "ids of images must differ; got 3 twice"),
    "file_name number": (set_image(file_name=7), "file_name must be one line of text; got 7"),
    "file_name null": (set_image(file_name=None), "file_name must be one line of text; got None"),
    "file_name two lines": (set_image(file_name="a\nb.jpg"), r"file_name must be one line of text; got 'a\nb.jpg'"),
    "file_name half a character": (set_image(file_name="\ud800"), r"one line of text; got '\ud800'"),
    "file_name with a NUL": (set_image(file_name="a\0b/c"), r"one line of text; got 'a\x00b/c'"),
    "width text": (set_image(width="wide"), "p7.jpg: width must be a whole number up to 1,000,000; got 'wide'"),
    "width fraction": (set_image(width=80.5), "p7.jpg: width must be a whole number up to 1,000,000; got 80.5"),
    "height list": (set_image(height=[50]), "p7.jpg: height must be a whole number up to 1,000,000; got [50]"),
    "height huge": (set_image(height=10**400), "p7.jpg: height must be a whole number up to 1,000,000; got 1000"),
    "doubled categories": (set_category(id=18), "ids of categories must differ; got 18 twice"),
    "doubled categories, as text": (set_category(id="18"), "ids of categories must differ; got 18 twice"),
    "doubled names": (set_category(name="dog"), "names of categories must differ; got 'dog' twice"),
    "id of a category null": (set_category(id=None), "the id of a category must be a whole number; got None"),
    "id of a category text": (set_category(id="c"), "the id of a category must be a whole number; got 'c'"),
    "class name 7": (set_category(name=7), "the name of a category must be one line of text; got 7"),
    "class name list": (set_category(name=["dog"]), "the name of a category must be one line of text; got ['dog']"),
    "null row": (add_row("annotations", None), "every entry of annotations must be an object; got None"),
    "text row": (add_row("images", "p7.jpg"), "every entry of images must be an object; got 'p7.jpg'"),
    "list row": (add_row("categories", [1, "cat"]), "every entry of categories must be an object; got [1, 'cat']"),
    "row without id": (
        lambda d: d["images"][0].pop("id"),
        "images must have id, file_name; got one without id",
    ),
    "no images list": (
        lambda d: d.pop("images"),
        "must be an object with the lists images, annotations",
    ),
    "images object": (
        lambda d: d.update(images={}),
        "must be an object with the lists images, annotations",
    ),
    "no images": (lambda d: d.update(images=[], annotations=[]), "images must be one or more; got none"),
    "no categories": (lambda d: d.update(categories=[], annotations=[]), "categories must be one or more; got none"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(root, what):
    change, message = WRONG[what]
    error = refused(root, change)
    assert error.startswith(f"{root}/annotations/instances_train.json: ") and message in error
    assert len(error) < len(str(root)) + 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be well-formed JSON; got: "),
        ("[" * 100_000, "must be nested less deeply"),
        ('{"images": ' + "9" * 5000 + "}", "must be well-formed JSON; got: "),
        ("\xff", "must be well-formed JSON; got: "),
        ("null", "must be an object with the lists images, annotations, categories; got 'NoneType'"),
    ],
)
def test_files_that_are_not_json(root, text, message):
    (root / "annotations" / "instances_train.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="instances_train.json: .*" + re.escape(message)) as raised:
        open_coco(root, "train")
    assert "\n" not in str(raised.value)


def test_missing_files(root):
    missing = refused(root, lambda d: d["images"][0].update(file_name="gone.jpg"), FileNotFoundError)
    assert missing.endswith("1 are not: gone.jpg")
    assert "No such file" in refused_split(root, "val")


NUMBERS = {
    "text": (str, {"iscrowd": "0"}),
    "text with a fraction": (lambda n: f" {n}.0 ", {"iscrowd": "0.0"}),
    "fraction": (float, {"iscrowd": 0.0}),
}


@pytest.mark.parametrize("how", NUMBERS)
def test_numbers_may_be_text(root, how):
    """The same dataset with its numbers written another way is the same dataset."""
    write_as, more = NUMBERS[how]
    changed = data()
    plain = open_coco(write(root, data()), "train")
    for image in changed["images"]:
        image.update({name: write_as(image[name]) for name in ("id", "width", "height")})
    for category in changed["categories"]:
        category["id"] = write_as(category["id"])
    for row in changed["annotations"]:
        numbers = [name for name in ("id", "image_id", "category_id", "area") if name in row]
        row.update({name: row[name] if name == "area" else write_as(row[name]) for name in numbers})
        row["bbox"] = [write_as(number) for number in row["bbox"]]
        row["iscrowd"] = write_as(row["iscrowd"]) if row.get("iscrowd") else more["iscrowd"]
    source = open_coco(write(root, changed), "train")
    assert source.truth() == plain.truth()
    for one, other in zip(source, plain, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize("ids", [{7: "i7", 3: "i3", 5: "i5"}, {7: "7a", 3: 3, 5: "5"}, {7: 7, 3: "three", 5: 5}])
def test_ids_of_images_may_be_text(root, ids):
    """If one id is text, all are: 3 is then "3", so that pycocotools can sort them."""
    changed = data()
    for image in changed["images"]:
        image["id"] = ids[image["id"]]
    for row in changed["annotations"]:
        row["image_id"] = ids[row["image_id"]]
    source = open_coco(write(root, changed), "train")
    assert [len(e.boxes) for e in source] == [2, 0, 1]
    truth = source.truth()
    assert [image["id"] for image in truth["images"]] == [str(ids[i]) for i in (7, 3, 5)]
    metric = COCOMetric(truth)
    for image, found in zip(truth["images"], source, strict=True):
        metric.add(image["id"], found.boxes * np.float32([100, 50, 100, 50]), np.ones(len(found.boxes)), found.labels)
    assert metric.compute()["AP"] == 1


@pytest.mark.parametrize("value", [0, -1, "-1", None, "0"])
def test_a_size_that_is_unknown_is_read_from_the_image(root, value):
    for side in ("width", "height"):
        changed = data()
        changed["images"][0][side] = value
        source = open_coco(write(root, changed), "train")
        np.testing.assert_array_equal(source[0].boxes[0], np.float32([0.1, 0.1, 0.6, 0.5]))
        assert source.truth()["images"][0] == {"id": 7, "file_name": "p7.jpg", "width": 100, "height": 50}


@pytest.mark.parametrize("value", [None, -1, "-1", -0.5])
def test_an_area_that_is_unknown_is_that_of_the_box(root, value):
    changed = data()
    changed["annotations"][0]["area"] = value
    assert open_coco(write(root, changed), "train").truth()["annotations"][-1]["area"] == 100 * 50


def test_files_outside_the_folder_are_refused(root, tmp_path_factory):
    """Absolute names, names with .., links: whatever leads out of the folder is refused, unless allowed."""
    outside = tmp_path_factory.mktemp("outside")
    cv2.imwrite(str(outside / "x.jpg"), IMAGE)
    (root / "train" / "link.jpg").symlink_to(outside / "x.jpg")
    (root / "train" / "linked").symlink_to(outside)
    (root / "train" / "deep").mkdir()
    up = os.path.relpath(outside, root / "train")
    for name in (f"{up}/x.jpg", f"{outside}/x.jpg", "link.jpg", "linked/x.jpg", "/dev/zero", f"deep/../{up}/x.jpg"):
        error = refused(root, set_image(file_name=name))
        assert error.endswith(f"below {root}/train, unless allow_outside; got 1 outside: {name}")
    assert "outside: ../gone.jpg" in refused(root, set_image(file_name="../gone.jpg"))

    changed = data()
    for image, name in zip(changed["images"], (f"{up}/x.jpg", f"{outside}/x.jpg", "linked/x.jpg"), strict=True):
        image["file_name"] = name
    source = open_coco(write(root, changed), "train", allow_outside=True)
    assert [decode_image(e.image).shape for e in source] == [(50, 100, 3)] * 3
    assert len(open_source("coco_json", "train", root=root, allow_outside=True)) == 3


def test_files_inside_the_folder_however_named(root):
    (root / "train" / "deep").mkdir()
    (root / "train" / "copy.jpg").symlink_to("p3.jpg")
    (root / "other").symlink_to(root / "train")
    changed = data()
    for image, name in zip(changed["images"], ("deep/../p7.jpg", f"{root}/train/p3.jpg", "copy.jpg"), strict=True):
        image["file_name"] = name
    assert len(open_coco(write(root, changed), "train")) == 3
    assert len(open_coco(root, "annotations/instances_train.json:other")) == 3


def refused_split(root, split):
    with pytest.raises(FileNotFoundError) as raised:
        open_coco(root, split)
    return str(raised.value)


def test_an_image_that_went_away_is_an_unreadable_one(root):
    source = open_coco(root, "train")
    (root / "train" / "p3.jpg").unlink()
    batch = next(iter(eval_batches(source, batch_size=3, image_size=16)))
    np.testing.assert_array_equal(batch.info["readable"], [True, False, True])


SHARED = os.environ.get("SSD_JAX_SHARED_DATA")


@pytest.mark.skipif(not SHARED, reason="SSD_JAX_SHARED_DATA names no data folder")
@pytest.mark.parametrize("split, boxes, crowds, empty", [("train2017", 470, 5, 1), ("val2017", 382, 5, 2)])
def test_real_coco(split, boxes, crowds, empty):
    source = open_coco(Path(SHARED) / "tiny_coco" / "tiny_coco", split, strict=True)
    assert len(source) == 50 and len(source.class_names) == 80
    truth = source.truth()["annotations"]
    assert len(truth) == boxes and sum(a["iscrowd"] for a in truth) == crowds
    assert sum(len(example.boxes) for example in source) == boxes - crowds
    with_any = {a["image_id"] for a in truth}
    assert len(source) - len(with_any) == empty
