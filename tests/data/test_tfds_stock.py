"""TFDS's own `voc` and `coco`, prepared by TensorFlow from archives made here; read and trained on without it."""

import importlib.util
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import tiny

from ssd_jax import data
from ssd_jax.data import coco_truth, open_source
from ssd_jax.data.tfds import COCO_IDS
from ssd_jax.metrics.coco import NUMBERS

for library in ("tensorflow", "tensorflow_datasets"):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}: the extra [prepare]", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("default")  # TFDS's own

ROOT = Path(__file__).resolve().parents[2]
IMAGES = tiny.Images(14)
VOC_NAMES = {1: "cat", 2: "dog"}
COCO_LABELS = {1: 17, 2: 80}  # the numbers of our classes among COCO's 80

PREPARE = """
import pathlib, sys
import tensorflow_datasets as tfds

archives, data_dir = map(pathlib.Path, sys.argv[1:])
manager = tfds.download.DownloadManager
manager.download_and_extract = lambda self, urls: self.extract(
    {name: archives / url.rsplit("/", 1)[1] for name, url in urls.items()}
)
for name in ("voc/2007", "coco/2017"):
    tfds.builder(name, data_dir=data_dir, file_format="array_record").download_and_prepare()
assert "tensorflow" in sys.modules
"""

TRAIN = """
import json, sys

from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: None if name.split(".")[0] == "tensorflow" else find(name, *args)
try:
    import tensorflow
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the block does not block")
sys.path[:0] = ["tests", "."]
import tiny
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.train import train

data_dir, workdir, training, evaluation = sys.argv[1:]
changes = {"data.source": "tfds", "data.train": training, "data.eval": evaluation}
train(tiny.config(data_dir, steps=3, save_every=3, **changes), workdir)
results = evaluate(workdir)
print(json.dumps({name: results[name] for name in ("images", "unreadable", "coco") if name in results}))
"""


def run(code, *arguments):
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def write_jpeg(path, index):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), IMAGES[index].image[:, :, ::-1])


def pixels(index):
    return (IMAGES[index].boxes * IMAGES.size).astype(int).tolist()


def write_voc(folder, splits):
    """VOC2007's layout below `folder`."""
    root = folder / "VOCdevkit" / "VOC2007"
    for name in ("Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for split, indices in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{i:06}\n" for i in indices))
        for index in indices:
            write_jpeg(root / "JPEGImages" / f"{index:06}.jpg", index)
            objects = "".join(
                f"<object><name>{VOC_NAMES[int(label)]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>{int(label == 2)}</difficult><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
                f"<ymax>{y1}</ymax></bndbox></object>"
                for (x0, y0, x1, y1), label in zip(pixels(index), IMAGES[index].labels, strict=True)
            )
            side = IMAGES.size
            size = f"<size><width>{side}</width><height>{side}</height><depth>3</depth></size>"
            (root / "Annotations" / f"{index:06}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    return folder


def instances(indices):
    """COCO's JSON; a dark object (label 2) of an odd image is a crowd."""
    categories = [{"id": number, "name": f"class {number}"} for number in COCO_IDS]
    images = [
        {"id": 1000 + i, "file_name": f"{i:012}.jpg", "width": IMAGES.size, "height": IMAGES.size} for i in indices
    ]
    annotations = []
    for i in indices:
        for (x0, y0, x1, y1), label in zip(pixels(i), IMAGES[i].labels, strict=True):
            annotations.append(
                {
                    "id": 1 + len(annotations),
                    "image_id": 1000 + i,
                    "category_id": COCO_IDS[COCO_LABELS[int(label)] - 1],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0) - 7,
                    "iscrowd": int(label == 2 and i % 2),
                    "segmentation": [],
                }
            )
    return {"images": images, "annotations": annotations, "categories": categories}


def write_archives(folder, scratch):
    """The files that VOC and COCO offer for download."""
    folder.mkdir()
    for name, splits in {
        "VOCtrainval_06-Nov-2007": {"train": range(5), "val": range(5, 8)},
        "VOCtest_06-Nov-2007": {"test": range(8, 14)},
    }.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            tar.add(write_voc(scratch / name, splits) / "VOCdevkit", "VOCdevkit")
    splits = {"train2017": range(8), "val2017": range(8, 14), "test2017": range(2)}
    for split, indices in splits.items():
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for i in indices:
                write_jpeg(scratch / split / f"{i:012}.jpg", i)
                archive.write(scratch / split / f"{i:012}.jpg", f"{split}/{i:012}.jpg")
    with zipfile.ZipFile(folder / "annotations_trainval2017.zip", "w") as archive:
        for split in ("train2017", "val2017"):
            archive.writestr(f"annotations/instances_{split}.json", json.dumps(instances(splits[split])))
    with zipfile.ZipFile(folder / "image_info_test2017.zip", "w") as archive:
        info = instances(splits["test2017"]) | {"annotations": []}
        archive.writestr("annotations/image_info_test2017.json", json.dumps(info))
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    base = tmp_path_factory.mktemp("stock")
    run(PREPARE, write_archives(base / "archives", base), base / "prepared")
    return base / "prepared"


def by_id(source):
    return {source[i].image_id: source[i] for i in range(len(source))}


def test_voc(data_dir):
    source = open_source("tfds", "voc/2007:trainval+voc/2007:test", root=data_dir)
    assert len(source) == 14 and source.inclusive and source.class_names[7] == "cat" and len(source.class_names) == 20
    for name, example in by_id(source).items():
        index = int(name.removesuffix(".jpg"))
        np.testing.assert_allclose(example.boxes * IMAGES.size, np.reshape(pixels(index), (-1, 4)), atol=1e-4)
        assert [source.class_names[label - 1] for label in example.labels] == [
            VOC_NAMES[int(label)] for label in IMAGES[index].labels
        ]
        np.testing.assert_array_equal(example.difficult, IMAGES[index].labels == 2)
        error = data.decode_image(example.image).astype(int) - IMAGES[index].image
        assert np.abs(error).mean() < 20
    assert coco_truth(open_source("tfds", "voc/2007:test", root=data_dir)) is None


def test_coco(data_dir):
    source = open_source("tfds", "coco/2017:validation", root=data_dir)
    expected = instances(range(8, 14))
    truth = coco_truth(source)
    assert {row["id"]: row["file_name"] for row in truth["images"]} == {
        row["id"]: row["file_name"] for row in expected["images"]
    }
    assert [row["file_name"] for row in truth["images"]] == [source[i].image_id for i in range(len(source))]
    assert truth["categories"] == expected["categories"]

    def rows(annotations):
        kept = ("image_id", "category_id", "bbox", "area", "iscrowd")
        return sorted(
            tuple(np.round(row[name], 3).tolist() if name == "bbox" else row[name] for name in kept)
            for row in annotations
        )

    assert rows(truth["annotations"]) == rows(expected["annotations"])
    crowds = sum(row["iscrowd"] for row in expected["annotations"])
    assert crowds and sum(len(e.boxes) for e in by_id(source).values()) == len(expected["annotations"]) - crowds


@pytest.mark.parametrize(
    ("training", "evaluation"),
    [("voc/2007:trainval", "voc/2007:test"), ("coco/2017:train", "coco/2017:validation")],
)
def test_training_without_tensorflow(data_dir, tmp_path, training, evaluation):
    results = json.loads(run(TRAIN, data_dir, tmp_path, training, evaluation).splitlines()[-1])
    assert results["images"] == 6 and results["unreadable"] == []
    assert set(NUMBERS) <= set(results.get("coco", {})) or training.startswith("voc")
