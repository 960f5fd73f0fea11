"""How good detections are, and why they err: VOC's AP, COCO's twelve numbers, curves, kinds of errors."""

from ssd_jax.metrics.coco import COCOMetric, COCOResult, COCOTruth
from ssd_jax.metrics.curves import (
    F1,
    Curve,
    average_recall,
    best_f1,
    precision_at_recall,
    precision_recall,
    precision_recall_at,
    recall_at_precision,
)
from ssd_jax.metrics.errors import (
    Errors,
    RecallBin,
    SizeBin,
    confusion_matrix,
    find_errors,
    missed_without_prior,
    recall_by_size,
    recall_in_bins,
    suspect_annotations,
)
from ssd_jax.metrics.places import (
    PositionCounts,
    count_by_class,
    count_by_position,
    recall_by_number,
    recall_by_overlap,
)
from ssd_jax.metrics.voc import COCO_IOU_THRESHOLDS, VOCMetric, VOCResult

__all__ = [
    "COCO_IOU_THRESHOLDS",
    "F1",
    "COCOMetric",
    "COCOResult",
    "COCOTruth",
    "Curve",
    "Errors",
    "PositionCounts",
    "RecallBin",
    "SizeBin",
    "VOCMetric",
    "VOCResult",
    "average_recall",
    "best_f1",
    "confusion_matrix",
    "count_by_class",
    "count_by_position",
    "find_errors",
    "missed_without_prior",
    "precision_at_recall",
    "precision_recall",
    "precision_recall_at",
    "recall_at_precision",
    "recall_by_number",
    "recall_by_overlap",
    "recall_by_size",
    "recall_in_bins",
    "suspect_annotations",
]
