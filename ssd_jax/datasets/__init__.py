"""Sources of pictures: random access to `batching.Example`, a length, and what its labels and corners mean.

A source has `class_names` (objects only: label k is `class_names[k - 1]`), `__len__`, `__getitem__`, and
`inclusive`: True where its corners name the last pixel inside a box, as PASCAL VOC's do, so that the VOC
metric adds 1 to widths and heights.
"""

from ssd_jax.datasets.coco import COCOJson, open_coco
from ssd_jax.datasets.combine import Examples, Joined, OnlyClasses, Subset, coco_truth
from ssd_jax.datasets.opening import KINDS, open_source
from ssd_jax.datasets.shapes import Shapes
from ssd_jax.datasets.tfds import TFDS
from ssd_jax.datasets.voc import VOCFolder

__all__ = [
    "KINDS",
    "TFDS",
    "COCOJson",
    "Examples",
    "Joined",
    "OnlyClasses",
    "Shapes",
    "Subset",
    "VOCFolder",
    "coco_truth",
    "open_coco",
    "open_source",
]
