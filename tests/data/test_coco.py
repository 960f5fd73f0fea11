import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ssd_jax.data import COCOJson, decode, eval_batches, open_coco

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
    np.testing.assert_array_equal(decode(pets.image), IMAGE)
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


def test_a_missing_size_is_read_from_the_image(root):
    changed = data()
    del changed["images"][0]["width"]
    np.testing.assert_array_equal(
        open_coco(write(root, changed), "train")[0].boxes[0], np.float32([0.1, 0.1, 0.6, 0.5])
    )


def test_images_may_lie_in_folders(root):
    changed = data()
    changed["images"][1]["file_name"] = "deep/p3.jpg"
    (root / "train" / "deep").mkdir()
    os.rename(root / "train" / "p3.jpg", root / "train" / "deep" / "p3.jpg")
    assert decode(open_coco(write(root, changed), "train")[1].image).shape == (50, 100, 3)


DIRT = {"reaching outside their image": [90, 0, 20, 10], "of no size": [5, 5, 0, 3]}


@pytest.mark.parametrize("what", DIRT)
def test_dirty_boxes_are_reported_or_refused(root, caplog, what):
    def change(data):
        data["annotations"][0]["bbox"] = DIRT[what]

    assert refused(root, change, strict=True) == (
        f"{root}/annotations/instances_train.json: strict data has no boxes {what}; got 1, in p5.jpg"
    )
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        boxes = open_coco(root, "train")[2].boxes
    (message,) = [r.getMessage() for r in caplog.records]
    assert what in message and message.endswith("1, in p5.jpg")
    np.testing.assert_array_equal(boxes, np.float32([[0.9, 0, 1, 0.2]] if "outside" in what else np.zeros((0, 4))))


def test_decimals_that_are_rounded_are_no_dirt(root):
    changed = data()
    changed["annotations"][0]["bbox"] = [0.004, 0, 100.001, 50.001]
    np.testing.assert_array_equal(open_coco(write(root, changed), "train", strict=True)[2].boxes[:, 2:], [[1, 1]])


def test_what_is_refused(root):
    def bbox(value):
        return lambda data: data["annotations"][1].update(bbox=value)

    assert "a bbox is four finite numbers, x, y, width, height; annotation 0 has [1, 2]" in refused(
        root, bbox([1, 2])
    )
    assert "annotation 0 has [1, 2, nan, 3]" in refused(root, bbox([1, 2, float("nan"), 3]))
    assert "annotation 0 has None" in refused(root, bbox(None))
    assert "annotation 0 has image 8 and category 18" in refused(
        root, lambda d: d["annotations"][1].update(image_id=8)
    )
    assert "has image 7 and category 1" in refused(root, lambda d: d["annotations"][1].update(category_id=1))
    assert "every one of images has id, file_name; one lacks id" in refused(root, lambda d: d["images"][0].pop("id"))
    assert "an object with the lists images, annotations, categories" in refused(root, lambda d: d.pop("images"))
    assert "at least one image" in refused(root, lambda d: d.update(images=[], annotations=[]))
    assert "the ids of images are different" in refused(root, lambda d: d["images"][0].update(id=3))
    assert "categories have different names" in refused(root, lambda d: d["categories"][0].update(name="dog"))

    missing = refused(root, lambda d: d["images"][0].update(file_name="gone.jpg"), FileNotFoundError)
    assert missing.endswith("1 are not: gone.jpg")
    assert "No such file" in refused_split(root, "val")
    (root / "annotations" / "instances_train.json").write_text("{")
    with pytest.raises(ValueError, match="not well-formed JSON"):
        open_coco(root, "train")


def refused_split(root, split):
    with pytest.raises(FileNotFoundError) as raised:
        open_coco(root, split)
    return str(raised.value)


def test_an_image_that_went_away_is_an_unreadable_one(root):
    source = open_coco(root, "train")
    (root / "train" / "p3.jpg").unlink()
    batch = next(iter(eval_batches(source, batch_size=3, image_size=16)))
    np.testing.assert_array_equal(batch["readable"], [True, False, True])


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
