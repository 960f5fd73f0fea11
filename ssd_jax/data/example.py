"""What a source gives."""

import dataclasses
from typing import Protocol

import numpy as np

from ssd_jax.metrics.coco import COCOTruth


@dataclasses.dataclass(frozen=True)
class Example:
    """One image as a source gives it.

    `image` is an encoded file (bytes) or RGB uint8 [h, w, 3]; `boxes` float32 [n, 4] are corners, fractions
    of the image's sides; `labels` int32 [n] count from 1; `difficult` is bool [n].

    The rest is for reports, where the source knows it: `file` is the image's name on disk, `size` its (height,
    width) as the annotation says, and `dirt` names what was wrong with its boxes, an entry for each.
    """

    image_id: str
    image: bytes | np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    file: str = ""
    size: tuple[int, int] | None = None
    dirt: tuple[str, ...] = ()

    def __post_init__(self):
        n = len(self.boxes)
        shapes = [np.shape(a) for a in (self.boxes, self.labels, self.difficult)]
        if shapes != [(n, 4), (n,), (n,)]:
            boxes, labels, difficult = shapes
            raise ValueError(
                f"an example has boxes [n, 4], labels [n] and difficult [n]; {self.image_id!r} has "
                f"{list(boxes)}, {list(labels)} and {list(difficult)}"
            )
        if n and np.min(self.labels) < 1:
            raise ValueError(f"object labels count from 1; {self.image_id!r} has {np.min(self.labels)}")


class Source(Protocol):
    """A dataset: random access to its examples, and what is the same for all of them.

    A class of your own may inherit from this one, which gives it `truth`, but need not.

    Attributes:
      class_names: the classes; label k is `class_names[k - 1]`.
      inclusive: whether corners name the last pixel inside a box, as PASCAL VOC's do: VOC's metric then adds 1 to
        widths and heights.
    """

    class_names: tuple[str, ...]
    inclusive: bool

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...

    def truth(self) -> COCOTruth | None:
        """Give the ground truth in COCO's format, images in the order of the source; None if it is not from COCO."""
        return None
