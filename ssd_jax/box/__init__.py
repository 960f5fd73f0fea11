"""Boxes for detectors: pure functions of one image; the caller vmaps them over a batch.

Conventions of the whole library:

* corners are `[x_min, y_min, x_max, y_max]`, fractions of the image side, origin top left;
  centers are `[cx, cy, w, h]` in the same unit.
* priors are centers, shape `[P, 4]`, in the order feature map, row, column, shape; the network's heads have the same
  order.
* label 0 is background (`BACKGROUND`), object classes are 1..C-1; a padding row of ground truth has label 0. A prior
  that counts neither as an object nor as background has label -1 (`IGNORED`).
* images are RGB, `[B, H, W, 3]`; the network takes `pixel - (123, 117, 104)`.
* axis letters: B images, P priors, G ground-truth slots, C classes, K candidates, D detections. Sizes are
  (height, width).
* arrays have static shapes; missing rows are masked.
"""

from ssd_jax.box.codec import (
    VARIANCES,
    decode,
    encode,
)
from ssd_jax.box.geometry import (
    area,
    center_to_corner,
    clip,
    coco_to_corner,
    complete_iou,
    corner_to_center,
    corner_to_coco,
    corner_to_xywh,
    corner_to_yxyx,
    distance_iou,
    flip_horizontal,
    flip_vertical,
    from_pixels,
    generalized_iou,
    intersection_over_foreground,
    iou,
    paired_complete_iou,
    paired_distance_iou,
    paired_generalized_iou,
    paired_intersection_over_foreground,
    paired_iou,
    to_pixels,
    xywh_to_corner,
    yxyx_to_corner,
)
from ssd_jax.box.matching import (
    BACKGROUND,
    IGNORED,
    assign,
    match,
)
from ssd_jax.box.nms import (
    gaussian_decay,
    linear_decay,
    multiclass_nms,
    non_max_suppression,
    soft_nms,
)
from ssd_jax.box.priors import (
    SSD300_COCO,
    SSD300_VOC,
    SSD320_COCO,
    SSD320_VOC,
    SSD321_COCO,
    SSD321_VOC,
    SSD512_COCO,
    SSD512_VOC,
    SSD513_COCO,
    SSD513_VOC,
    SSDLITE320_COCO,
    PriorSpec,
    linear_spec,
    make_priors,
    retina_spec,
)

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "SSD300_COCO",
    "SSD300_VOC",
    "SSD320_COCO",
    "SSD320_VOC",
    "SSD321_COCO",
    "SSD321_VOC",
    "SSD512_COCO",
    "SSD512_VOC",
    "SSD513_COCO",
    "SSD513_VOC",
    "SSDLITE320_COCO",
    "VARIANCES",
    "PriorSpec",
    "area",
    "assign",
    "center_to_corner",
    "clip",
    "coco_to_corner",
    "complete_iou",
    "corner_to_center",
    "corner_to_coco",
    "corner_to_xywh",
    "corner_to_yxyx",
    "decode",
    "distance_iou",
    "encode",
    "flip_horizontal",
    "flip_vertical",
    "from_pixels",
    "gaussian_decay",
    "generalized_iou",
    "intersection_over_foreground",
    "iou",
    "linear_decay",
    "linear_spec",
    "make_priors",
    "match",
    "multiclass_nms",
    "non_max_suppression",
    "paired_complete_iou",
    "paired_distance_iou",
    "paired_generalized_iou",
    "paired_intersection_over_foreground",
    "paired_iou",
    "retina_spec",
    "soft_nms",
    "to_pixels",
    "xywh_to_corner",
    "yxyx_to_corner",
]
