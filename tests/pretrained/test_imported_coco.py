"""A detector of COCO's classes, imported and evaluated by the commands alone."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import reference
from writers import pth

import ssd_jax.pretrained.__main__ as command
from ssd_jax.data.classes import COCO, COCO_IDS
from ssd_jax.metrics.coco import NUMBERS
from ssd_jax.pretrained import load

ROOT = Path(__file__).parents[2]


def write_coco(root):
    """Two images of noise, with a dog in one and a toothbrush in the other."""
    categories = [{"id": i, "name": name} for i, name in zip(COCO_IDS, COCO, strict=True)]
    data = {"images": [], "categories": categories, "annotations": []}
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    random = np.random.default_rng(0)
    for image_id, (height, width), label in ((139, (40, 60), 18), (285, (60, 40), 90)):
        name = f"{image_id:012}.jpg"
        cv2.imwrite(str(root / "val2017" / name), random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        data["images"].append({"id": image_id, "file_name": name, "height": height, "width": width})
        box = {"bbox": [5.0, 10.0, 20.0, 15.0], "area": 300.0, "category_id": label, "iscrowd": 0}
        data["annotations"].append(box | {"image_id": image_id, "id": image_id})
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(data))
    return root


def test_eval_of_an_imported_workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "load", functools.partial(load, width=reference.WIDTH))
    weights = tmp_path / "vgg_ssd300_coco.pth"
    weights.write_bytes(pth(reference.random_tensors(reference.lufficc(6), 6, 81)))
    root = write_coco(tmp_path / "coco")
    line = command.run([str(weights), f"--workdir={tmp_path / 'run'}", f"--root={root}"])
    assert "an SSD of lufficc/SSD; 300 pixels, 80 classes, priors of COCO; written to" in line

    evaluation = [sys.executable, "eval.py", f"--workdir={tmp_path / 'run'}"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # one device, optimised
    result = subprocess.run(evaluation, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "on 2 images of val2017, step 0" in result.stdout
    scores = json.loads((tmp_path / "run" / "eval_val2017.json").read_text())
    assert scores["coco"].keys() == {*NUMBERS, "AP_by_class"}
    assert tuple(scores["coco"]["AP_by_class"]) == COCO
    found = json.loads((tmp_path / "run" / "coco_results_val2017.json").read_text())
    assert len(found) > 0
    assert {row["image_id"] for row in found} <= {139, 285}
    assert {row["category_id"] for row in found} <= set(COCO_IDS)
