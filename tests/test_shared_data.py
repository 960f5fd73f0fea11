"""Real datasets, through the checker and an epoch of training and evaluation, where a folder holds them."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tiny

from ssd_jax.data import Example, Examples, decode_image, open_source
from ssd_jax.data.classes import VOC
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.train import train
from ssd_jax.report.dataset import check

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote

if "SSD_JAX_SHARED_DATA" not in os.environ:
    pytest.skip("SSD_JAX_SHARED_DATA names no data folder", allow_module_level=True)
SHARED = Path(os.environ["SSD_JAX_SHARED_DATA"])
BATCH = 32


def voc2007(split):
    """VOC2007's ground truth as lines of text, of those images that are there: a source of one's own."""
    root = SHARED / "voc2007"
    lines = (root / f"voc07_{split}.txt").read_text().splitlines()
    difficult = dict(line.split(maxsplit=1) for line in (root / "voc07_test_difficult.txt").read_text().splitlines())
    examples = []
    for name, *numbers in map(str.split, lines):
        if not (root / "images" / name).exists():
            continue
        image = (root / "images" / name).read_bytes()
        height, width, _ = decode_image(image).shape
        rows = np.array(numbers, np.float32).reshape(-1, 5)
        corners = rows[:, :4] / np.float32([width, height, width, height])
        hard = np.array(difficult[name].split(), int) > 0
        examples.append(Example(name, image, corners, 1 + rows[:, 4].astype(np.int32), hard, file=name))
    return Examples(examples, VOC, inclusive=True)


@pytest.fixture(scope="module")
def voc2012(tmp_path_factory):
    """The hundred VOC2012 images in VOC's layout."""
    root, there = tmp_path_factory.mktemp("voc2012"), SHARED / "voc2012_100"
    (root / "Annotations").symlink_to(there / "gts" / "pascalvoc_format")
    (root / "JPEGImages").symlink_to(there / "images")
    (root / "ImageSets" / "Main").mkdir(parents=True)
    names = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
    for split, ids in {"train": names[::2], "val": names[1::2]}.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(ids))
    return root


# name: kind, folder (voc2012's is made), training, evaluation, images and boxes of both, findings of both
SETS = {
    "bccd": ("voc_folder", "bccd/BCCD", "train+val", "test", 364, 4886, {"box of no size": 2}),
    "tiny_coco": (
        "coco_json",
        "tiny_coco/tiny_coco",
        "train2017",
        "val2017",
        100,
        842,
        {"class without a box": 21},
    ),
    "voc2007": ("test_shared_data:voc2007", "", "test[:12]", "test[12:]", 18, 72, {"class without a box": 5}),
    "voc2012_100": ("voc_folder", None, "train", "val", 100, 273, {}),
}


@pytest.mark.parametrize("name", SETS)
def test_an_epoch(name, request, tmp_path, caplog, capsys):
    kind, folder, training, evaluation, images, boxes, findings = SETS[name]
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} in {SHARED}")
    root = request.getfixturevalue("voc2012") if folder is None else SHARED / folder if folder else ""
    options = {"root": root, "class_names": VOC} if name.startswith("voc") else {"root": root}
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        report = check(open_source(kind, f"{training}+{evaluation}", **options))
    assert (report.images, report.boxes) == (images, boxes)
    assert {found: len(names) for found, names in report.findings.items()} == findings
    assert len(caplog.records) == (name == "bccd")

    changes = {
        "data.source": kind,
        "data.train": training,
        "data.eval": evaluation,
        "data.class_names": options.get("class_names", ()),
        "data.canvas_size": 96,
        "eval.batch_size": BATCH,
        "data.max_boxes": 24,
        "data.max_unreadable": 0,
    }
    seen, held_out = (len(open_source(kind, split, **options)) for split in (training, evaluation))
    steps = max(3, -(-seen // BATCH))  # a warm-up of two comes first
    caplog.clear()
    with caplog.at_level(logging.WARNING, "ssd_jax"):
        config = tiny.config(root, steps=steps, save_every=steps, log_every=steps, batch_size=BATCH, **changes)
        assert train(config, tmp_path)
        results = evaluate(tmp_path)
    assert results["images"] == held_out and results["unreadable"] == []
    assert 0 <= results["mAP"] <= 1 and ("coco" in results) == (kind == "coco_json")

    left_out = [len(e.boxes) - 24 for e in open_source(kind, training, **options) if len(e.boxes) > 24]
    totals = [r.getMessage() for r in caplog.records if r.getMessage().startswith("max_boxes")]
    assert totals == [
        f"max_boxes = 24: {sum(left_out)} objects of {len(left_out)} images were dropped, among the first {seen} "
        "that this process read"
    ] * bool(left_out)
