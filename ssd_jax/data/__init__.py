"""From files on a disk to batches: sources, their combinations, decoding, and the pipeline of batches.

A source gives random access to `Example`s; `Source` lists what it has.

Nothing here is random but the order of the images, which follows from the seed alone: batch k is the same for any
number of threads, with or without a cache. Process p of n reads every n-th row of the batch that a single process
would read.
"""

from typing import TYPE_CHECKING

from ssd_jax.lazy import lazy

if TYPE_CHECKING:
    from ssd_jax.data.auto import FolderDescription, describe_folder
    from ssd_jax.data.batches import Batch, eval_batches, pad_boxes, train_batches
    from ssd_jax.data.coco import COCOJson, open_coco
    from ssd_jax.data.combine import Examples, Joined, OnlyClasses, Subset, coco_truth
    from ssd_jax.data.example import Example, Source
    from ssd_jax.data.formats import EXTENSIONS, UnreadableImage
    from ssd_jax.data.image import GREY, ReadOptions, decode_image, decoded_size, shrink, warp
    from ssd_jax.data.open import KINDS, open_source
    from ssd_jax.data.random_cut import random_order
    from ssd_jax.data.shapes import Shapes
    from ssd_jax.data.tfds import TFDS
    from ssd_jax.data.voc import VOCFolder

__getattr__ = lazy(
    __name__,
    {
        "auto": "FolderDescription describe_folder",
        "batches": "Batch eval_batches pad_boxes train_batches",
        "coco": "COCOJson open_coco",
        "combine": "Examples Joined OnlyClasses Subset coco_truth",
        "example": "Example Source",
        "formats": "EXTENSIONS UnreadableImage",
        "image": "GREY ReadOptions decode_image decoded_size shrink warp",
        "open": "KINDS open_source",
        "random_cut": "random_order",
        "shapes": "Shapes",
        "tfds": "TFDS",
        "voc": "VOCFolder",
    },
)

__all__ = [
    "EXTENSIONS",
    "GREY",
    "KINDS",
    "TFDS",
    "Batch",
    "COCOJson",
    "Example",
    "Examples",
    "FolderDescription",
    "Joined",
    "OnlyClasses",
    "ReadOptions",
    "Shapes",
    "Source",
    "Subset",
    "UnreadableImage",
    "VOCFolder",
    "coco_truth",
    "decode_image",
    "decoded_size",
    "describe_folder",
    "eval_batches",
    "open_coco",
    "open_source",
    "pad_boxes",
    "random_order",
    "shrink",
    "train_batches",
    "warp",
]
