"""What an evaluation page shows of a record: the numbers, and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ssd_jax import box
from ssd_jax.metrics import COCO_IOU_THRESHOLDS, Curve, best_f1, precision_recall_at
from ssd_jax.metrics.bootstrap import Ranking, interval, mean_average_precisions, resamples
from ssd_jax.metrics.errors import (
    KINDS,
    Errors,
    RecallBin,
    confusion_matrix,
    find_errors,
    missed_without_prior,
    recall_by_size,
    suspect_annotations,
)
from ssd_jax.metrics.places import (
    PositionCounts,
    count_by_class,
    count_by_position,
    recall_by_number,
    recall_by_overlap,
)
from ssd_jax.report.record import Record

CALIBRATION_BINS = 10
CONFUSION_SCORE = 0.3  # wrong detections of a lower score are not counted in the confusion and by position


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as text, in the unit of the number."""
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the page shows of one record.

    Attributes:
      record: what was analysed.
      errors: TIDE's kinds at IoU 0.5.
      mAP: at IoU 0.5 by 11 points, with its interval.
      mAP_area: at IoU 0.5 by area, with its interval.
      mAP_over_iou: mean over IoU 0.5, 0.55, ..., 0.95.
      AP: by class: (11 points, area, mean over IoU); nan for a class without objects.
      n_objects: by class: objects that are not difficult.
      curves: by class, those with objects.
      confusion: [C, C], row the true label, column the detected one; label 0 is background.
      sizes: recall by size at the network's input.
      overlaps: recall by the largest IoU with another object.
      numbers: recall by the number of objects in the image.
      positions: counts in 3 x 3 parts of the image.
      by_class: by kind of error, how many there are of each class [C - 1].
      calibration: (mean score, precision, count), each [bins]: nan where a bin is empty.
      no_prior: missed objects that no prior overlaps by 0.5; None if the priors are not known.
    """

    record: Record
    errors: Errors
    mAP: Interval
    mAP_area: Interval
    mAP_over_iou: float
    AP: Mapping[str, tuple[float, float, float]]
    n_objects: Mapping[str, int]
    curves: Mapping[str, Curve]
    confusion: np.ndarray
    sizes: Sequence[RecallBin]
    overlaps: Sequence[RecallBin]
    numbers: Sequence[RecallBin]
    positions: PositionCounts
    by_class: Mapping[str, np.ndarray]
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray]
    no_prior: np.ndarray | None


def analyse(record: Record, *, replicates: int = 1000, seed: int = 0) -> Analysis:
    """Compute all numbers of the page.

    Args:
      record: of `loop.evaluate.Evaluator` or `load_record`; if it has no priors, sizes are those at an input of 300
        pixels.
      replicates: resamples of the bootstrap.
      seed: of the bootstrap.
    """
    metric = record.metric
    errors = find_errors(metric)
    eleven = metric.compute(interpolation="11point")
    area = metric.compute(interpolation="area", iou_thresholds=COCO_IOU_THRESHOLDS)
    assert "mAP_over_iou" in area and "AP_over_iou" in area  # as the thresholds were given; a type checker needs it
    weights = resamples(len(record.image_ids), replicates, seed=seed)
    ranked = rankings(record, errors)
    drawn = mean_average_precisions(ranked, weights, ("11point", "area"))  # [2, replicates]
    spec = record.spec
    size = spec.mean_side if spec else 300
    return Analysis(
        record,
        errors,
        mAP=Interval(eleven["mAP"], *interval(drawn[0])),
        mAP_area=Interval(area["mAP"], *interval(drawn[1])),
        mAP_over_iou=area["mAP_over_iou"],
        AP={name: (ap, area["AP"][name], area["AP_over_iou"][name]) for name, ap in eleven["AP"].items()},
        n_objects=eleven["n_ground_truth"],
        curves=metric.curves(),
        confusion=confusion_matrix(metric, score_threshold=CONFUSION_SCORE),
        sizes=recall_by_size(errors, record.sizes, size),
        overlaps=recall_by_overlap(errors, inclusive=metric.inclusive),
        numbers=recall_by_number(errors),
        positions=count_by_position(errors, record.sizes, score_threshold=CONFUSION_SCORE),
        by_class=count_by_class(errors, len(record.class_names)),
        calibration=calibrate(errors),
        no_prior=missed_without_prior(errors, record.sizes, np.asarray(box.make_priors(spec))) if spec else None,
    )


def rankings(record: Record, errors: Errors) -> list[Ranking]:
    """Return what the bootstrap needs of each class: its counted detections by falling score."""
    objects, detections = errors.objects, errors.detections
    images = len(record.image_ids)
    result = []
    for label in range(1, 1 + len(record.class_names)):
        own = np.flatnonzero((detections.labels == label) & (errors.outcome != "ignored"))
        own = own[np.argsort(-detections.scores[own], kind="stable")]
        counted = objects.image[(objects.labels == label) & ~objects.difficult]
        result.append(
            Ranking(errors.outcome[own] == "true", detections.image[own], np.bincount(counted, minlength=images))
        )
    return result


def calibrate(errors: Errors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean score, precision and count of the detections in bins of equal width of the score, each [bins]."""
    counted = errors.outcome != "ignored"
    scores, true = errors.detections.scores[counted], errors.outcome[counted] == "true"
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count, total, correct = (
        np.bincount(bins, weights=w, minlength=CALIBRATION_BINS) for w in (np.ones(len(scores)), scores, true)
    )
    with np.errstate(invalid="ignore"):
        return total / count, correct / count, count.astype(int)


def counts_by_score(errors: Errors, n_classes: int) -> list[dict[str, int | list[int]]]:
    """Return for each class its objects, and the correct and wrong detections that score at least t / 100 [101]."""
    result = []
    thresholds = np.arange(101) / 100
    for label in range(1, 1 + n_classes):
        own = errors.detections.labels == label
        counts: dict[str, int | list[int]] = {
            "objects": int(np.sum((errors.objects.labels == label) & ~errors.objects.difficult))
        }
        true, ignored = errors.outcome == "true", errors.outcome == "ignored"
        for name, chosen in (("correct", own & true), ("wrong", own & ~true & ~ignored)):
            scores = np.sort(errors.detections.scores[chosen])
            counts[name] = (len(scores) - np.searchsorted(scores, thresholds, side="left")).tolist()
        result.append(counts)
    return result


def errors_per_image(errors: Errors, images: int, *, score: float) -> np.ndarray:
    """Return how many wrong detections of at least `score`, and missed objects, each image has: int [N]."""
    seen = errors.detections.scores >= score
    wrong = seen & (errors.outcome != "true") & (errors.outcome != "ignored")
    return np.bincount(errors.detections.image[wrong], minlength=images) + missed_per_image(
        errors, images, score=score
    )


def missed_per_image(errors: Errors, images: int, *, score: float) -> np.ndarray:
    """Return how many objects no detection of at least `score` finds in each image: int [N]."""
    found = np.zeros(len(errors.objects.labels), bool)
    found[errors.target[(errors.detections.scores >= score) & (errors.outcome == "true")]] = True
    return np.bincount(errors.objects.image[~found & ~errors.objects.difficult], minlength=images)


def largest(counts: np.ndarray, most: int) -> list[int]:
    """Return the images of the largest counts [N] above 0, the largest first; the first of equals comes first."""
    return [k for k in np.argsort(-counts, kind="stable")[:most].tolist() if counts[k]]


def worst_by_loss(record: Record, most: int) -> list[int]:
    """Return the images of the highest loss, the highest first; none if the losses are not known.

    A loss that is not a number, of a network that diverged, counts as the highest.
    """
    if record.loss is None or np.isnan(record.loss).all():
        return []
    return np.argsort(-np.nan_to_num(record.loss, nan=np.inf), kind="stable")[:most].tolist()


def suspects(errors: Errors, most: int = 20) -> list[int]:
    """Return the images of likely annotation errors, the most likely first."""
    detections, objects = suspect_annotations(errors)
    images = [*errors.detections.image[detections].tolist(), *errors.objects.image[objects].tolist()]
    return list(dict.fromkeys(images))[:most]


def to_numbers(analysis: Analysis, *, score: float = 0.4, worst: int = 40) -> dict[str, Any]:
    """Return all numbers of the page as JSON values; nan where there is none.

    Args:
      analysis: of `analyse`.
      score: errors of detections of at least this score choose the worst images.
      worst: how many of them to name.
    """
    record, errors = analysis.record, analysis.errors
    per_image = errors_per_image(errors, len(record.image_ids), score=score)
    missed = missed_per_image(errors, len(record.image_ids), score=score)
    classes = {}
    for name, aps in analysis.AP.items():
        best = best_f1(analysis.curves[name]) if name in analysis.curves else None
        precision, recall = precision_recall_at(analysis.curves[name], best.score) if best else (np.nan, np.nan)
        classes[name] = {
            "objects": analysis.n_objects[name],
            **dict(zip(("AP", "AP_area", "AP_over_iou"), aps, strict=True)),
            "best": {"F1": best.f1, "score": best.score, "precision": precision, "recall": recall} if best else None,
            "errors": {kind: int(count[record.class_names.index(name)]) for kind, count in analysis.by_class.items()},
        }
    return {
        "mAP": analysis.mAP._asdict(),
        "mAP_area": analysis.mAP_area._asdict(),
        "mAP_over_iou": analysis.mAP_over_iou,
        "images": len(record.image_ids),
        "objects": sum(analysis.n_objects.values()),
        "classes": classes,
        "errors": {kind: {"count": errors.counts[kind], "mAP_lost": errors.costs[kind]} for kind in KINDS},
        "missed_without_prior": None if analysis.no_prior is None else len(analysis.no_prior),
        "recall_by_size": [_bin(b) for b in analysis.sizes],
        "recall_by_overlap": [_bin(b) for b in analysis.overlaps],
        "recall_by_number": [_bin(b) for b in analysis.numbers],
        "by_position": {name.removeprefix("n_"): n.tolist() for name, n in analysis.positions._asdict().items()},
        "calibration": dict(
            zip(("score", "precision", "count"), (c.tolist() for c in analysis.calibration), strict=True)
        ),
        "confusion": {"labels": ["background", *record.class_names], "counts": analysis.confusion.tolist()},
        "worst_by_errors": {record.image_ids[i]: int(per_image[i]) for i in largest(per_image, worst)},
        "worst_by_misses": {record.image_ids[i]: int(missed[i]) for i in largest(missed, worst)},
        "worst_by_loss": (
            {record.image_ids[i]: float(record.loss[i]) for i in worst_by_loss(record, worst)}
            if record.loss is not None
            else None
        ),
    }


def _bin(of: RecallBin) -> dict[str, float]:
    return {"smallest": of.smallest, "largest": of.largest, "objects": of.n_objects, "found": of.n_found}
