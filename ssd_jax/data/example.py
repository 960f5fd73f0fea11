"""What a source gives."""

import dataclasses
from typing import Protocol

import numpy as np

from ssd_jax.data.image import DEFAULTS, ReadOptions, decode_image
from ssd_jax.metrics.coco import COCOTruth


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and its objects.

    Attributes:
      image_id: names the image in messages and results.
      image: an encoded file, or RGB uint8 [h, w, 3].
      boxes: float32 [n, 4], corners, fractions of the sides of the image that `decode_image` returns.
      labels: int32 [n], from 1.
      difficult: bool [n].
      file: name of the image's file, if the source knows it; for reports.
      size: (height, width) that the annotation gives, if it does.
      errors: what was wrong with the boxes in the annotation, an entry for each such box; for reports.
      options: how `decode_image` reads the image.
    """

    image_id: str
    image: bytes | np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    file: str = ""
    size: tuple[int, int] | None = None
    errors: tuple[str, ...] = ()
    options: ReadOptions = DEFAULTS

    def __post_init__(self):
        n = len(self.boxes)
        shapes = [np.shape(a) for a in (self.boxes, self.labels, self.difficult)]
        if shapes != [(n, 4), (n,), (n,)]:
            boxes, labels, difficult = shapes
            raise ValueError(
                f"{self.image_id}: an example must have boxes [n, 4], labels [n] and difficult [n]; got "
                f"{list(boxes)}, {list(labels)} and {list(difficult)}"
            )
        if n and np.min(self.labels) < 1:
            raise ValueError(f"{self.image_id}: labels must be at least 1; got {np.min(self.labels)}")

    def decode(self, *, at_least: int | None = None) -> np.ndarray:
        """Return the image as RGB uint8 [h, w, 3], turned so that the boxes fit: see `ReadOptions.exif`.

        Args:
          at_least: of `decode_image`.

        Raises:
          UnreadableImage: the image cannot be decoded.
        """
        return decode_image(self.image, size=self.size, options=self.options, at_least=at_least)


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
