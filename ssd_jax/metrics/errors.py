"""Why a detector loses mAP: TIDE's kinds of errors (arXiv:2008.08115), confusion of classes, sizes, suspect labels.

Everything starts from a `VOCMetric` with all images added, so difficult objects are treated as VOC does: they are
neither found nor missed, and detections of them are ignored.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from ssd_jax import box
from ssd_jax.metrics.voc import (
    INTERPOLATIONS,
    DetectionTable,
    ObjectTable,
    Overlaps,
    VOCMetric,
    best_of_pairs,
    match_detections,
    pairs,
    pairs_iou,
)

KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


class Errors(NamedTuple):
    """All objects and detections with what became of them, and what each kind of error costs.

    Attributes:
      objects: ground truth, [n] rows.
      detections: [d] rows.
      outcome: [d] text: "true", "ignored" (a detection of a difficult object), or the kind of error:
        "localisation": its IoU with an object of its class is too small, but at least `background_iou`;
        "classification": its IoU with an object of another class is large enough;
        "duplicate": the object it detects has a detection of a higher score;
        "background": its IoU with every object is below `background_iou`;
        "both": its largest IoU is with an object of another class, and too small.
        The first of these that holds counts.
      target: [d] the object meant in `outcome`; -1 for "background".
      fate: [n] text: "found", "ignored" (difficult), "localisation" or "classification" (an error of this kind, of
        the highest score, is a detection of it), or "missed".
      counts: how many errors there are of each of `KINDS`.
      costs: by how much mAP would rise without the errors of each of `KINDS`, in [0, 1]. A localisation or
        classification error is repaired (it becomes the true positive of its target, unless that is found already or
        a repaired error of a higher score has it); of the others, detections are removed and objects not counted.
        The costs do not add up to 1 - mAP.
      mAP: before any repair, "area" interpolation.
    """

    objects: ObjectTable
    detections: DetectionTable
    outcome: np.ndarray
    target: np.ndarray
    fate: np.ndarray
    counts: dict[str, int]
    costs: dict[str, float]
    mAP: float


class _Rows(NamedTuple):
    """What average precision is computed from: detections with their class, and objects per class."""

    labels: np.ndarray  # [d]
    scores: np.ndarray  # [d]
    by_score: np.ndarray  # [d] indices by falling score
    true: np.ndarray  # [d] bool
    kept: np.ndarray  # [d] bool: neither ignored nor removed
    n_objects: np.ndarray  # [C + 1], by label


def find_errors(metric: VOCMetric, *, iou_threshold: float = 0.5, background_iou: float = 0.1) -> Errors:
    """Sort all false positives and missed objects by TIDE's kinds, and compute what mAP each kind costs.

    Args:
      metric: with all images added.
      iou_threshold: from which a detection finds an object, in (0, 1].
      background_iou: below which a detection has nothing to do with an object, at most `iou_threshold`.

    Raises:
      ValueError: for a value out of its range, and if no image was added.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1]; got {iou_threshold}")
    if not 0 < background_iou <= iou_threshold:
        raise ValueError(f"background_iou must be in (0, iou_threshold={iou_threshold}]; got {background_iou}")
    objects, detections = metric.tables()
    n_detections = len(detections.labels)
    d, g = pairs(detections.image, objects.image)
    iou = pairs_iou(detections.boxes[d], objects.boxes[g], inclusive=metric.inclusive)  # [pairs]
    own = detections.labels[d] == objects.labels[g]  # [pairs]
    own_iou, own_object = best_of_pairs(d[own], g[own], iou[own], n_detections)
    other_iou, other_object = best_of_pairs(d[~own], g[~own], iou[~own], n_detections)

    by_score = np.argsort(-detections.scores, kind="stable")  # [d]
    true, ignored = _match(detections.scores, by_score, own_iou, own_object, objects.difficult, iou_threshold)
    rest = ~true & ~ignored  # [d]
    outcome = np.full(n_detections, "", dtype="<U14")
    target = np.where(own_iou >= background_iou, own_object, np.where(other_iou >= background_iou, other_object, -1))
    outcome[true], outcome[ignored] = "true", "ignored"
    for kind, holds in (
        ("localisation", (own_iou >= background_iou) & (own_iou < iou_threshold)),
        ("classification", other_iou >= iou_threshold),
        ("duplicate", own_iou >= iou_threshold),
        ("background", np.maximum(own_iou, other_iou) < background_iou),
        ("both", np.ones(n_detections, bool)),
    ):
        outcome[rest & holds & (outcome == "")] = kind
    target = np.where(outcome == "classification", other_object, target)

    fate = np.full(len(objects.labels), "missed", dtype="<U14")
    near = by_score[((outcome == "localisation") | (outcome == "classification"))[by_score]]
    best = near[np.unique(target[near], return_index=True)[1]]  # the error of the highest score on each object
    fate[target[best]] = outcome[best]
    fate[target[true]] = "found"
    fate[objects.difficult] = "ignored"

    n_objects = np.bincount(objects.labels[~objects.difficult], minlength=1 + len(metric.class_names))
    rows = _Rows(detections.labels, detections.scores, by_score, true, ~ignored, n_objects)
    mean_ap = _mean_ap(rows, n_objects > 0)
    counts = {kind: int(np.sum(outcome == kind)) for kind in KINDS} | {"missed": int(np.sum(fate == "missed"))}
    costs = {}
    for kind in KINDS:
        repaired = rows
        if kind == "missed":
            missed = np.bincount(objects.labels[fate == "missed"], minlength=len(n_objects))
            repaired = rows._replace(n_objects=n_objects - missed)
        elif kind in ("localisation", "classification"):
            repaired = _repair(rows, outcome == kind, target, objects, fate == "found")
        else:
            repaired = rows._replace(kept=rows.kept & (outcome != kind))
        costs[kind] = _mean_ap(repaired, n_objects > 0) - mean_ap
    return Errors(objects, detections, outcome, target, fate, counts, costs, mean_ap)


def confusion_matrix(metric: VOCMetric, *, iou_threshold: float = 0.5, score_threshold: float = 0.3) -> np.ndarray:
    """Count which class is taken for which: integers [C, C], row the true label, column the detected one.

    Label 0 is background: row 0 counts detections without an object, column 0 objects without a detection. By falling
    score, each detection takes the free object of its image, of any class, with which its IoU is largest, if that is
    at least `iou_threshold`. Difficult objects, and the detections that take one, are not counted.

    Args:
      metric: with all images added.
      iou_threshold: in (0, 1].
      score_threshold: detections of a lower score are not counted.

    Raises:
      ValueError: for a threshold out of its range, and if no image was added.
    """
    if not 0 < iou_threshold <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1]; got {iou_threshold}")
    objects, detections = metric.tables()
    detections = DetectionTable(*(column[detections.scores >= score_threshold] for column in detections))
    order = np.argsort(-detections.scores, kind="stable")
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))  # [d] 0 has the highest score
    d, g = pairs(detections.image, objects.image)
    iou = pairs_iou(detections.boxes[d], objects.boxes[g], inclusive=metric.inclusive)
    near = iou >= iou_threshold
    d, g, iou = d[near], g[near], iou[near]
    taken = np.full(len(detections.labels), -1)  # [d] the object that a detection takes
    free = np.ones(len(objects.labels), bool)
    for pair in np.lexsort((g, -iou, rank[d])):
        if taken[d[pair]] < 0 and free[g[pair]]:
            taken[d[pair]], free[g[pair]] = g[pair], False

    counted = np.where(taken >= 0, ~objects.difficult[taken], True) if len(objects.labels) else taken < 0  # [d]
    truth = np.where(taken >= 0, objects.labels[taken], 0) if len(objects.labels) else np.zeros_like(taken)  # [d]
    missed = objects.labels[free & ~objects.difficult]
    classes = 1 + len(metric.class_names)
    matrix = np.zeros((classes, classes), int)
    np.add.at(matrix, (truth[counted], detections.labels[counted]), 1)
    matrix[:, 0] += np.bincount(missed, minlength=classes)
    return matrix


def to_fractions(table: ObjectTable | DetectionTable, image_sizes: np.ndarray) -> np.ndarray:
    """Return the corners of a table's rows as fractions of their image's sides [rows, 4].

    Args:
      table: of a metric.
      image_sizes: [images, 2] (height, width) in pixels, in the order in which images were added to the metric.

    Raises:
      ValueError: for `image_sizes` of another shape.
    """
    image_sizes = np.asarray(image_sizes, np.float64)
    images = 1 + int(np.max(table.image, initial=-1))
    if image_sizes.ndim != 2 or image_sizes.shape[1] != 2 or len(image_sizes) < images:
        raise ValueError(f"image_sizes must have shape [images, 2], a row per image; got {list(image_sizes.shape)}")
    return np.asarray(box.from_pixels(table.boxes, image_sizes[table.image].T))


class RecallBin(NamedTuple):
    """Objects of one range of a quantity, such as their size.

    Attributes:
      smallest: lower end of the range, included.
      largest: upper end, not included.
      n_objects: objects that are not difficult.
      n_found: those of them that were found.
    """

    smallest: float
    largest: float
    n_objects: int
    n_found: int

    @property
    def recall(self) -> float:
        """Share of the objects that were found; nan if there is none."""
        return self.n_found / self.n_objects if self.n_objects else np.nan


SizeBin = RecallBin  # the name in 0.1.0


def recall_in_bins(errors: Errors, values: np.ndarray, edges: Sequence[float]) -> list[RecallBin]:
    """Count objects and found objects by a quantity; difficult objects are not counted.

    Args:
      errors: of `find_errors`.
      values: [n] the quantity of each of `errors.objects`.
      edges: limits of the bins, rising.

    Raises:
      ValueError: for edges that do not rise.
    """
    if len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise ValueError(f"edges must be two or more rising numbers; got {tuple(edges)}")
    counted, found = errors.fate != "ignored", errors.fate == "found"
    return [
        RecallBin(float(low), float(high), int(np.sum(counted & inside)), int(np.sum(found & inside)))
        for low, high in pairwise(edges)
        for inside in [(values >= low) & (values < high)]
    ]


def recall_by_size(
    errors: Errors,
    image_sizes: np.ndarray,
    input_size: float,
    *,
    edges: Sequence[float] = (0, 16, 32, 64, 128, np.inf),
) -> list[RecallBin]:
    """Count objects and found objects by size, as the network sees it: after its input is resized.

    The size of an object is the square root of its area, in pixels of the network's square input.

    Args:
      errors: of `find_errors`.
      image_sizes: [images, 2] (height, width) in pixels, in the order in which images were added to the metric.
      input_size: side of the network's input, pixels.
      edges: limits of the bins, rising.

    Raises:
      ValueError: for `image_sizes` of another shape and for `edges` that do not rise.
    """
    side = input_size * np.sqrt(box.area(to_fractions(errors.objects, image_sizes)))  # [n]
    return recall_in_bins(errors, side, edges)


def missed_without_prior(
    errors: Errors, image_sizes: np.ndarray, priors: np.ndarray, *, threshold: float = 0.5
) -> np.ndarray:
    """Return the missed objects that no prior overlaps by the IoU of matching: indices [m] into `errors.objects`.

    Training matches such an object to its best prior alone, so that it is learned from one prior at most. Only a
    detector with priors misses objects for this reason; other priors or larger crops help.

    Args:
      errors: of `find_errors`.
      image_sizes: [images, 2] (height, width) in pixels, in the order in which images were added to the metric.
      priors: [P, 4] centers, as `box.make_priors`.
      threshold: IoU from which a prior is matched.

    Raises:
      ValueError: for `image_sizes` of another shape.
    """
    missed = np.flatnonzero(errors.fate == "missed")
    corners = to_fractions(errors.objects, image_sizes)[missed].astype(np.float32)
    prior_corners = box.center_to_corner(np.asarray(priors))
    best = [
        np.max(box.iou(chunk, prior_corners), axis=1) for chunk in np.array_split(corners, 1 + len(corners) // 256)
    ]
    return missed[np.concatenate(best) < threshold]


def suspect_annotations(errors: Errors, *, score_threshold: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
    """Return what may be an annotation error, to be looked at first.

    Args:
      errors: of `find_errors`.
      score_threshold: from which a detection counts as confident.

    Returns:
      Detections [k], indices by falling score: confident ones of the background (an object without a box?) or of
      another class (a wrong label?). Objects [m], indices by falling area in pixels: those that no detection of any
      class and score touches (a box without an object?).
    """
    suspicious = np.isin(errors.outcome, ("background", "classification"))
    suspicious &= errors.detections.scores >= score_threshold
    detections = np.flatnonzero(suspicious)
    detections = detections[np.argsort(-errors.detections.scores[detections], kind="stable")]
    touched = np.zeros(len(errors.fate), bool)
    touched[errors.target[errors.target >= 0]] = True
    objects = np.flatnonzero((errors.fate == "missed") & ~touched)
    area = np.asarray(box.area(errors.objects.boxes[objects]))
    return detections, objects[np.argsort(-area, kind="stable")]


def _match(
    scores: np.ndarray,
    order: np.ndarray,
    iou: np.ndarray,
    nearest: np.ndarray,
    difficult: np.ndarray,
    iou_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return which detections of all classes are true [d] and which are ignored [d]; `order` is by falling score."""
    result = np.zeros((2, len(scores)), bool)
    # An object is of one class, so that all classes can be matched at once.
    result[:, order] = match_detections(Overlaps(scores[order], iou[order], nearest[order], difficult), iou_threshold)
    return result[0], result[1]


def _repair(rows: _Rows, wrong: np.ndarray, target: np.ndarray, objects: ObjectTable, found: np.ndarray) -> _Rows:
    """Make the best of the errors `wrong` [d] on each object not found its true positive; remove the others."""
    open_to = ~found & ~objects.difficult  # [n]
    by_score = rows.by_score[wrong[rows.by_score]]
    by_score = by_score[open_to[target[by_score]]]
    best = by_score[np.unique(target[by_score], return_index=True)[1]]
    labels, true, kept = rows.labels.copy(), rows.true.copy(), rows.kept.copy()
    kept[wrong] = False
    kept[best], true[best], labels[best] = True, True, objects.labels[target[best]]
    return rows._replace(labels=labels, true=true, kept=kept)


def _mean_ap(rows: _Rows, counted: np.ndarray) -> float:
    """Return the mean AP of the labels `counted` [C + 1]; a label that has lost all its objects counts as 0."""
    order = rows.by_score[rows.kept[rows.by_score]]
    labels, true = rows.labels[order], rows.true[order]
    aps = []
    for label in np.flatnonzero(counted):
        n_objects = rows.n_objects[label]
        hits = np.cumsum(true[labels == label])
        aps.append(INTERPOLATIONS["area"](hits, n_objects) if n_objects else 0.0)
    return float(np.mean(aps)) if aps else np.nan
