"""Time of an evaluation's numbers: COCO's twelve by hotcoco and by pycocotools, VOC's, and those of the page.

    python benchmarks/evaluate.py [--images 5000] [--detections 80] [--repeat 3]
    python benchmarks/evaluate.py --workdir=runs/demo --split=test:5000

The first line times them on random ground truth of 80 classes, 7 objects an image, half of them found, and says by
how much the twelve numbers differ at most. The second evaluates a run without and with the page (`--report`), by
turns in processes of their own, and compares the medians of the time and the processor time. It needs pycocotools
(`.[test]`) and Matplotlib (`.[report]`).
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import timing
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_jax.metrics import COCO_IOU_THRESHOLDS, COCOMetric, COCOTruth, VOCMetric
from ssd_jax.metrics.coco import NUMBERS
from ssd_jax.report.analysis import analyse
from ssd_jax.report.record import Record

CLASSES, OBJECTS = 80, 7


def random_images(images: int, detections: int) -> list[tuple[np.ndarray, ...]]:
    """Return (gt_boxes, gt_labels, boxes, scores, labels) of images of 640 x 480 pixels."""
    rng = np.random.default_rng(0)

    def boxes(n: int) -> np.ndarray:
        corners, sides = rng.uniform(0, 400, (n, 2)), 10 ** rng.uniform(0.8, 2.4, (n, 2))
        return np.concatenate([corners, corners + sides], axis=1).round(2)

    rows = []
    for _ in range(images):
        truth, labels = boxes(OBJECTS), rng.integers(1, CLASSES + 1, OBJECTS)
        seen = rng.permutation(OBJECTS)[: OBJECTS // 2]
        sides = np.tile(truth[seen, 2:] - truth[seen, :2], 2)
        near = (truth[seen] + rng.normal(0, 0.05, (len(seen), 4)) * sides).round(2)
        others = detections - len(seen)
        scores = np.concatenate([rng.beta(5, 2, len(seen)), rng.beta(1, 8, others)])
        rows.append(
            (
                truth,
                labels,
                np.concatenate([near, boxes(others)]),
                scores,
                np.concatenate([labels[seen], rng.integers(1, CLASSES + 1, others)]),
            )
        )
    return rows


def coco_truth(rows: list[tuple[np.ndarray, ...]]) -> COCOTruth:
    annotations = [
        (image, label, [x0, y0, x1 - x0, y1 - y0])
        for image, (boxes, labels, *_) in enumerate(rows, start=1)
        for (x0, y0, x1, y1), label in zip(boxes.tolist(), labels.tolist(), strict=True)
    ]
    return {
        "images": [{"id": image} for image in range(1, 1 + len(rows))],
        "categories": [{"id": label, "name": str(label)} for label in range(1, 1 + CLASSES)],
        "annotations": [
            {"id": k, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for k, (image, label, box) in enumerate(annotations, start=1)
        ],
    }


def by_pycocotools(truth: COCOTruth, metric: COCOMetric) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = cast("Any", {"info": {}} | truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(cast("Any", metric.results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def seconds(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Return the median time of `repeat` calls, and the last result."""
    times, result = [], None
    for _ in range(repeat):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return statistics.median(times), result


def compare_metrics(images: int, detections: int, repeat: int) -> None:
    rows = random_images(images, detections)
    truth = coco_truth(rows)
    print(f"{images:,} images, {images * OBJECTS:,} objects, {images * detections:,} detections, {CLASSES} classes")
    coco, voc = COCOMetric(truth), VOCMetric([str(k) for k in range(1, 1 + CLASSES)])
    for image, (gt_boxes, gt_labels, *found) in enumerate(rows, start=1):
        coco.add(image, *found)
        voc.add(image, gt_boxes, gt_labels, np.zeros(len(gt_labels), bool), *found)
    ours, result = seconds(coco.compute, repeat)
    theirs, expected = seconds(lambda: by_pycocotools(truth, coco), 1)
    largest = max(abs(result[name] - value) for name, value in zip(NUMBERS, expected, strict=True))
    print(f"COCO's numbers, hotcoco           {ours:8.2f} s")
    print(f"COCO's numbers, pycocotools       {theirs:8.2f} s, {theirs / ours:.0f} times as long")
    print(f"largest difference of a number    {largest:.1e}")
    both, _ = seconds(lambda: voc.compute(iou_thresholds=COCO_IOU_THRESHOLDS), 1)
    print(f"VOC's numbers at ten IoUs         {both:8.2f} s")
    record = Record(voc, tuple(map(str, range(images))), np.arange(images), np.full((images, 2), (480, 640)))
    page, _ = seconds(lambda: analyse(record), 1)
    print(f"numbers of the page               {page:8.2f} s, with 1,000 bootstrap resamples")


def compare_reports(workdir: str, split: str, repeat: int) -> None:
    command = [sys.executable, "-m", "ssd_jax", "eval", f"--workdir={workdir}", f"--split={split}"]
    variants = {"without the page": command, "with the page": [*command, "--report"]}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants}
    for _ in range(repeat):
        for name, arguments in variants.items():
            start, before = time.perf_counter(), os.times()
            done = subprocess.run(arguments, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            after = os.times()
            processor = after.children_user + after.children_system - before.children_user - before.children_system
            times[name].append((time.perf_counter() - start, processor))
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in times.items()
    }
    for name, (wall, processor) in medians.items():
        print(f"evaluation {name:<17} {wall:7.1f} s, {processor:7.1f} s of processor")
    more = [100 * (b / a - 1) for a, b in zip(*medians.values(), strict=True)]
    print(f"with the page: {more[0]:+.1f} % of time, {more[1]:+.1f} % of processor time")
    pages = sorted(Path(workdir).glob("report_*.html"), key=lambda path: path.stat().st_mtime)
    print(f"the page has {pages[-1].stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=80, help="an image")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--workdir", help="of a run, to compare eval.py without and with --report")
    parser.add_argument("--split", default="test")
    options = parser.parse_args()
    print(timing.machine("numpy", "hotcoco", "pycocotools"))
    if options.workdir:
        compare_reports(options.workdir, options.split, options.repeat)
    else:
        compare_metrics(options.images, options.detections, options.repeat)
