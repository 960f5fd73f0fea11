"""How well priors cover the boxes of a dataset."""

import itertools
from typing import NamedTuple

import numpy as np

from ssd_jax.box import PriorSpec, area, center_to_corner, iou, make_priors

BUCKETS = (0, 16, 32, 64, 128, 256, np.inf)  # sides of squares of equal area, in pixels of the network's input


class Coverage(NamedTuple):
    """The boxes of one size bucket and their best priors."""

    smallest: float  # of the bucket, in pixels
    largest: float
    boxes: int
    mean_iou: float  # of the boxes with their best priors
    recall: float  # share of the boxes whose best prior has an IoU of `threshold` or more
    threshold: float


def best_iou(corners: np.ndarray, spec: PriorSpec) -> np.ndarray:
    """Corners [N, 4], fractions -> [N], IoU with the best prior."""
    priors = center_to_corner(make_priors(spec))  # [P, 4]
    best = [np.max(iou(corners[i : i + 256], priors), axis=1) for i in range(0, len(corners), 256)]
    return np.concatenate([np.zeros(0, np.float32), *best])


def coverage(corners: np.ndarray, spec: PriorSpec, *, threshold: float = 0.5) -> list[Coverage]:
    """Measure recall of ground truth by best-prior IoU.

    Args:
      corners: the boxes [N, 4], fractions of the image.
      spec: the priors.
      threshold: IoU from which a prior covers a box.

    Returns:
      a row for each of `BUCKETS`, and a last one for all boxes together.
    """
    best = best_iou(corners, spec)  # [N]
    side = spec.mean_side * np.sqrt(area(corners))  # [N]
    rows = []
    for low, high in [*itertools.pairwise(BUCKETS), (0, np.inf)]:
        own = best[(side >= low) & (side < high)]
        mean, recall = (float(np.mean(x)) if len(own) else np.nan for x in (own, own >= threshold))
        rows.append(Coverage(low, high, len(own), mean, recall, threshold))
    return rows


def coverage_text(rows: list[Coverage]) -> str:
    """Lay out the result of `coverage` as a table, without empty buckets."""
    lines = [f"{'pixels':>12}  {'boxes':>9}  mean best IoU  IoU >= {rows[-1].threshold}"]
    for row in rows:
        end = "" if np.isinf(row.largest) else f"{row.largest:.0f}"
        name = "all" if row is rows[-1] else f"{row.smallest:.0f}-{end}"
        if row.boxes:
            lines.append(f"{name:>12}  {row.boxes:>9,}  {row.mean_iou:13.3f}  {row.recall:8.1%}")
    return "\n".join(lines)
