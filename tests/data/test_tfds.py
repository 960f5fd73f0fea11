"""A TFDS builder of our own, prepared and read without TensorFlow."""

import io
import sys

import cv2
import numpy as np
import pytest

from ssd_jax import data
from ssd_jax.data import coco_truth, open_source
from ssd_jax.data.tfds import TFDS

pytest.importorskip("tensorflow_datasets", reason="needs the extra [tfds]")
pytestmark = pytest.mark.filterwarnings("default")  # TFDS's own

ROWS = {
    # y, x, y, x
    "a.png": [((0.1, 0.2, 0.3, 0.6), "dog", False, False), ((0, 0, 1, 1), "cat", True, False)],
    "b.png": [],
    "c.png": [((0.5, 0.5, 0.75, 1), "cat", False, False), ((0, 0, 1, 1), "dog", False, True)],
    "d.png": [((0.5, 0.5, 0.5, 1), "cat", False, False)],
}


def builder(data_dir):
    import tensorflow_datasets as tfds

    class Pets(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        MODULE_PATH = str(data_dir)
        pkg_dir_path = data_dir

        def _info(self):
            objects = {
                "bbox": tfds.features.BBoxFeature(),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "is_difficult": np.bool_,
                "is_crowd": np.bool_,
                "area": np.int64,
            }
            features = {
                "image": tfds.features.Image(),
                "image/filename": tfds.features.Text(),
                "image/id": np.int64,
                "objects": tfds.features.Sequence(objects),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features), description="pets"
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(list(ROWS)), "test": self._generate_examples(["c.png"])}

        def _generate_examples(self, names):
            for k, name in enumerate(names):
                png = cv2.imencode(".png", np.full((20, 30, 3), 10 * k, np.uint8))[1].tobytes()
                yield (
                    name,
                    {
                        "image": io.BytesIO(png),
                        "image/filename": name,
                        "image/id": 100 + k,
                        "objects": [
                            {
                                "bbox": tfds.features.BBox(*map(float, box)),
                                "label": label,
                                "is_difficult": hard,
                                "is_crowd": crowd,
                                "area": -1 if hard else 30,  # below 0: not known
                            }
                            for box, label, hard, crowd in ROWS[name]
                        ],
                    },
                )

    return Pets(data_dir=str(data_dir), file_format="array_record")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("tfds")
    builder(data_dir).download_and_prepare()
    return data_dir


def test_examples(data_dir):
    source = open_source("tfds", "pets:train", root=data_dir)
    assert "tensorflow" not in sys.modules
    assert source.class_names == ("cat", "dog") and len(source) == 4 and not source.inclusive
    by_name = {source[i].image_id: source[i] for i in range(4)}
    assert set(by_name) == set(ROWS)
    a = by_name["a.png"]
    np.testing.assert_array_equal(a.boxes, np.float32([[0.2, 0.1, 0.6, 0.3], [0, 0, 1, 1]]))
    np.testing.assert_array_equal(a.labels, [2, 1])
    np.testing.assert_array_equal(a.difficult, [False, True])
    assert a.boxes.dtype == np.float32 and a.labels.dtype == np.int32 and a.difficult.dtype == bool
    assert isinstance(a.image, bytes) and data.decode_image(a.image).shape == (20, 30, 3)
    assert by_name["b.png"].boxes.shape == (0, 4)
    np.testing.assert_array_equal(by_name["c.png"].boxes, np.float32([[0.5, 0.5, 1, 0.75]]))  # without the crowd
    assert len(by_name["d.png"].boxes) == 0 and by_name["d.png"].errors == ("box of no size",)


def test_truth(data_dir):
    """The ground truth in COCO's format, with crowds; an area that is not known is that of the box."""
    source = open_source("tfds", "pets:train", root=data_dir, class_names=("dog", "eel", "cat"))
    truth = coco_truth(source)
    assert [image["file_name"] for image in truth["images"]] == [source[i].image_id for i in range(4)]
    assert [category["name"] for category in truth["categories"]] == ["dog", "eel", "cat"]
    images = {image["id"]: (image["file_name"], image["width"], image["height"]) for image in truth["images"]}
    classes = {category["id"]: category["name"] for category in truth["categories"]}
    rows = {
        (
            *images[row["image_id"]],
            classes[row["category_id"]],
            *np.round(row["bbox"], 3),
            row["area"],
            row["iscrowd"],
        )
        for row in truth["annotations"]
    }
    assert rows == {
        ("a.png", 30, 20, "dog", 6, 2, 12, 4, 30, 0),
        ("a.png", 30, 20, "cat", 0, 0, 30, 20, 600, 0),
        ("c.png", 30, 20, "cat", 15, 10, 15, 5, 30, 0),
        ("c.png", 30, 20, "dog", 0, 0, 30, 20, 30, 1),
        ("d.png", 30, 20, "cat", 15, 10, 15, 0, 30, 0),
    }
    both = coco_truth(open_source("tfds", "pets:train+pets:test", root=data_dir))
    assert [image["id"] for image in both["images"]] == [1, 2, 3, 4, 5]


def test_splits_are_joined_and_cut(data_dir):
    source = open_source("tfds", "pets:train[:50%]+pets:1.0.0:test", root=data_dir)
    assert len(source) == 3 and source[2].image_id == "c.png"
    batch = next(iter(data.eval_batches(source, batch_size=3, image_size=8)))
    assert batch.info["readable"].all()
    dogs = open_source("tfds", "pets:train", root=data_dir, class_names=["dog"], drop_other_classes=True)
    assert sum(len(dogs[i].boxes) for i in range(4)) == 1


def test_classes_are_mapped_by_name(data_dir):
    classes = ("dog", "bird", "cat")
    source = open_source("tfds", "pets:train+pets:test", root=data_dir, class_names=classes)
    plain = open_source("tfds", "pets:train+pets:test", root=data_dir)
    assert source.class_names == classes
    for i in range(5):
        names = [[s.class_names[label - 1] for label in s[i].labels] for s in (source, plain)]
        assert names[0] == names[1]


def test_errors(data_dir):
    with pytest.raises(ValueError, match="pets: a split must be one of train, test; got 'val'"):
        TFDS("pets", "val", data_dir=data_dir)
    with pytest.raises(ValueError, match="no_such_set: must be prepared by TFDS; got: Could not find dataset files"):
        TFDS("no_such_set", "train", data_dir=data_dir)
    with pytest.raises(ValueError, match="a split of TFDS must be NAME:SPLIT"):
        open_source("tfds", "train", root=data_dir)
    strict = open_source("tfds", "pets:train", root=data_dir, strict=True)
    with pytest.raises(ValueError, match=r"pets, train: with strict, boxes must have a size; got none in d\.png"):
        [strict[i] for i in range(4)]
