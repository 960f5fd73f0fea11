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
    SizeBin,
    confusion_matrix,
    find_errors,
    missed_without_prior,
    recall_by_size,
    suspect_annotations,
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
    "SizeBin",
    "VOCMetric",
    "VOCResult",
    "average_recall",
    "best_f1",
    "confusion_matrix",
    "find_errors",
    "missed_without_prior",
    "precision_at_recall",
    "precision_recall",
    "precision_recall_at",
    "recall_at_precision",
    "recall_by_size",
    "suspect_annotations",
]
