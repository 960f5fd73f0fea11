"""How good detections are: VOC's average precision and COCO's twelve numbers, in NumPy."""

from ssd_jax.metrics.coco import COCOMetric, COCOTruth
from ssd_jax.metrics.voc import VOCMetric

__all__ = ["COCOMetric", "COCOTruth", "VOCMetric"]
