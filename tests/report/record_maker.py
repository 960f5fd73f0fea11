"""Records of random ground truth and detections."""

import numpy as np

from ssd_jax.box import SSD300_VOC
from ssd_jax.metrics import VOCMetric
from ssd_jax.report.record import Record

CLASSES = ("cat", "dog", "emu")


def make_record(*, seed: int = 0, images: int = 12, noise: float = 4.0) -> Record:
    """Return a record whose detections are the objects, moved by `noise` pixels, and some at random places."""
    truths, found = np.random.default_rng(0), np.random.default_rng(seed)
    metric = VOCMetric(CLASSES)
    for index in range(images):
        n, extra = int(truths.integers(0, 4)), int(found.integers(0, 3))
        corner = truths.uniform(0, 60, (n, 2))
        boxes = np.concatenate([corner, corner + truths.uniform(10, 40, (n, 2))], axis=1)
        labels, difficult = truths.integers(1, 4, n), truths.random(n) < 0.2
        seen = found.random(n) < 0.8
        far = found.uniform(0, 60, (extra, 2))
        moved = np.concatenate([boxes[seen] + found.normal(0, noise, (seen.sum(), 4)), np.hstack([far, far + 30])])
        wrong = np.concatenate(
            [np.where(found.random(seen.sum()) < 0.8, labels[seen], 1), found.integers(1, 4, extra)]
        )
        metric.add(index, boxes, labels, difficult, moved, found.random(len(moved)), wrong.astype(int))
    names = tuple(f"image {k}" for k in range(images))
    sizes, loss = np.full((images, 2), (100, 120)), 5 * found.random(images)
    return Record(metric, names, np.arange(images), sizes, SSD300_VOC, loss)
