"""From a source of pictures to batches: decode, fit into a canvas, pad the boxes, share between processes.

A source is anything with `__len__` and `__getitem__(i) -> Example`. Nothing here is random but the order of
the pictures, which follows from the seed alone: batch k is the same for any number of threads, with or
without a cache, and what process p of n reads is every n-th row of the batch that a single process would read.
"""

from ssd_jax.batching.batches import eval_batches, pad_boxes, train_batches
from ssd_jax.batching.example import Example, Source
from ssd_jax.batching.picture import GREY, UnreadableImage, decode, shrink, warp

__all__ = [
    "GREY",
    "Example",
    "Source",
    "UnreadableImage",
    "decode",
    "eval_batches",
    "pad_boxes",
    "shrink",
    "train_batches",
    "warp",
]
