"""How good detections are: VOC's average precision, COCO's twelve numbers, precision and recall by threshold."""

from ssd_jax.metrics.coco import COCOMetric, COCOResult, COCOTruth
from ssd_jax.metrics.curves import (
    F1,
    Curve,
    average_recall,
    best_f1,
    precision_at_recall,
    precision_recall,
    recall_at_precision,
)
from ssd_jax.metrics.voc import COCO_IOU_THRESHOLDS, VOCMetric, VOCResult

__all__ = [
    "COCO_IOU_THRESHOLDS",
    "F1",
    "COCOMetric",
    "COCOResult",
    "COCOTruth",
    "Curve",
    "VOCMetric",
    "VOCResult",
    "average_recall",
    "best_f1",
    "precision_at_recall",
    "precision_recall",
    "recall_at_precision",
]
