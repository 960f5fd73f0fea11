"""Precision and recall over the score threshold, and the numbers that people read off such a curve.

All functions are NumPy. A curve has one point per distinct score, because detections of equal score stand on the same
side of every threshold.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Curve(NamedTuple):
    """Precision and recall at each threshold, the highest threshold first.

    Point i counts the detections whose score is at least `score[i]`. Recall never falls along the curve.

    Attributes:
      recall: [k] true positives over objects, in [0, 1]; nan if there is no object to find.
      precision: [k] true positives over detections, in [0, 1].
      score: [k] the thresholds: the distinct scores, falling.
    """

    recall: np.ndarray
    precision: np.ndarray
    score: np.ndarray


class F1(NamedTuple):
    """The best F1 on a curve.

    Attributes:
      f1: harmonic mean of precision and recall, in [0, 1].
      score: the threshold that gives it: keep detections whose score is at least this.
    """

    f1: float
    score: float


def precision_recall(scores: np.ndarray, true: np.ndarray, n_objects: int) -> Curve:
    """Return precision and recall at every score threshold.

    Args:
      scores: [d] scores of the detections of one class, in any order.
      true: [d] bool: whether the detection found an object; at most one detection per object.
      n_objects: how many objects there are to find, found or not.

    Raises:
      ValueError: for shapes that do not agree, a score that is not finite, `true` that is not bool, and fewer objects
        than true detections.
    """
    scores, true = np.asarray(scores, np.float64), np.asarray(true)
    if not scores.size and not true.size:
        true = true.astype(bool)  # np.asarray([]) is float
    if scores.ndim != 1 or scores.shape != true.shape:
        raise ValueError(f"scores and true must have one shape [d]; got {list(scores.shape)} and {list(true.shape)}")
    if true.dtype != bool:
        raise ValueError(f"true must be bool; got {true.dtype}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite; got {scores[~np.isfinite(scores)][0]}")
    if n_objects < np.sum(true):
        raise ValueError(f"n_objects must be at least the {np.sum(true)} true detections; got {n_objects}")
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(true[order])  # [d], [d]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # [k] the last detection of each distinct score
    recall = hits[last] / n_objects if n_objects else np.full(len(last), np.nan)
    return Curve(recall, hits[last] / (1 + last), scores[last])


def precision_at_recall(curve: Curve, recall: float) -> float:
    """Return the best precision at this recall or a higher one, in [0, 1].

    0 if the curve does not reach the recall, as one without points; nan where recall is nan.

    Raises:
      ValueError: unless `recall` is in [0, 1].
    """
    return _best(curve, "recall", recall, curve.recall, curve.precision)


def recall_at_precision(curve: Curve, precision: float) -> float:
    """Return the best recall at this precision or a higher one, in [0, 1].

    0 if the curve does not reach the precision, as one without points; nan where recall is nan.

    Raises:
      ValueError: unless `precision` is in [0, 1].
    """
    return _best(curve, "precision", precision, curve.precision, curve.recall)


def best_f1(curve: Curve) -> F1:
    """Return the best F1 = 2 p r / (p + r) on the curve and the highest threshold that reaches it.

    Without a true detection F1 is 0 and the threshold nan; where recall is nan, both are nan.
    """
    if np.isnan(curve.recall).any():
        return F1(np.nan, np.nan)
    total = curve.precision + curve.recall
    f1 = 2 * curve.precision * curve.recall / np.where(total > 0, total, 1)  # [k]
    if not f1.any():
        return F1(0.0, np.nan)
    best = np.argmax(f1)
    return F1(float(f1[best]), float(curve.score[best]))


def precision_recall_at(curve: Curve, score: float) -> tuple[float, float]:
    """Return precision and recall of the detections that score at least `score`.

    Both are 0 if there are no such detections, as for a threshold of nan; recall is nan where it is nan in the curve.
    """
    kept = np.flatnonzero(curve.score >= score)
    if not kept.size:
        return 0.0, np.nan if np.isnan(curve.recall).any() else 0.0
    return float(curve.precision[kept[-1]]), float(curve.recall[kept[-1]])


def average_recall(curves: Sequence[Curve]) -> float:
    """Return the mean, over curves at several IoU thresholds, of the recall of all detections, in [0, 1].

    With the thresholds 0.5, 0.55, ..., 0.95 it is the average recall that COCO reports for one class. A curve
    without points counts as 0; nan where recall is nan.

    Raises:
      ValueError: without a curve.
    """
    if not curves:
        raise ValueError("curves must be one or more; got none")
    return float(np.mean([curve.recall[-1] if len(curve.recall) else 0.0 for curve in curves]))


def _best(curve: Curve, name: str, least: float, given: np.ndarray, wanted: np.ndarray) -> float:
    if not 0 <= least <= 1:
        raise ValueError(f"{name} must be in [0, 1]; got {least}")
    if np.isnan(curve.recall).any():
        return np.nan
    return float(np.max(wanted[given >= least], initial=0.0))
