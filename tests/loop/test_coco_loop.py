"""A run on a set in COCO's format: the twelve numbers and the results file."""

import json

import cv2
import numpy as np
import pytest
import tiny
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_jax.data import open_source
from ssd_jax.inference import Detections
from ssd_jax.loop.evaluate import Evaluator, evaluate, table
from ssd_jax.loop.train import train
from ssd_jax.metrics.coco import NUMBERS

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
CATEGORIES = [{"id": 31, "name": "dark"}, {"id": 9, "name": "bright"}]  # labels 2 and 1


def write_coco(root, source, splits, categories=CATEGORIES):
    """Write images of `source` in COCO's layout; a dark box of each is a crowd."""
    ids = {category["name"]: category["id"] for category in categories}
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, indices in splits.items():
        data = {"images": [], "categories": categories, "annotations": []}
        (root / split).mkdir()
        for index in indices:
            example, crowd = source[index], 1
            size, name = example.image.shape[0], f"{example.image_id}.png"
            cv2.imwrite(str(root / split / name), example.image[:, :, ::-1])
            data["images"].append({"id": 1000 - index, "file_name": name, "width": size, "height": size})
            for (x0, y0, x1, y1), label in zip((example.boxes * size).tolist(), example.labels, strict=True):
                row = {"image_id": 1000 - index, "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
                row |= {"id": len(data["annotations"]), "category_id": ids[source.class_names[label - 1]]}
                row["iscrowd"] = crowd if source.class_names[label - 1] == "dark" else 0
                crowd = crowd and int(not row["iscrowd"])
                data["annotations"].append(row)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(data))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("coco") / "c", tiny.Images(14), {"t": range(8), "v": range(8, 14)})


def test_a_run(root, tmp_path, capsys):
    changes = {"data.source": "coco_json", "data.train": "t", "data.eval": "v"}
    train(tiny.config(root, steps=3, save_every=3, **changes), tmp_path)
    results = evaluate(tmp_path)
    assert json.loads((tmp_path / "eval_v.json").read_text())["coco"].keys() == {*NUMBERS, "AP_by_class"}
    assert list(results["coco"]["AP_by_class"]) == ["bright", "dark"]

    truth = COCO(root / "annotations" / "instances_v.json")
    for row in truth.dataset["annotations"]:
        row["id"] += 1  # pycocotools takes 0 for "not matched"
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "coco_results_v.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    numbers = [results["coco"][name] for name in NUMBERS]
    assert numbers == pytest.approx([x if x != -1 else float("nan") for x in evaluation.stats], nan_ok=True)
    assert numbers[8] > 0  # something was found
    text = table(results)
    assert all(f"{name:<9}  {results['coco'][name]:>7.4f}" in text for name in NUMBERS)


def test_detections_are_scored_in_pixels_of_the_annotation(root, tmp_path, monkeypatch):
    """The annotation is of a copy at half the size."""
    copy = write_coco(tmp_path / "c", tiny.Images(6), {"v": range(6)})
    path = copy / "annotations" / "instances_v.json"
    truth = json.loads(path.read_text())
    for image in truth["images"]:
        image["width"] //= 2
        image["height"] //= 2
    for row in truth["annotations"]:
        row["bbox"] = [x / 2 for x in row["bbox"]]
        row["area"] /= 4
    path.write_text(json.dumps(truth))
    source = open_source("coco_json", "v", root=copy)

    def perfect(self, variables):
        for index, example in enumerate(source):
            found = Detections(64 * example.boxes, np.ones(len(example.boxes), np.float32), example.labels)
            yield index, example, (64, 64), found, np.zeros(2)

    monkeypatch.setattr(Evaluator, "_detect_all", perfect)
    results = Evaluator(tiny.MODEL, source, tiny.config(copy))({}).results
    assert results["coco"]["AP"] == pytest.approx(1)
