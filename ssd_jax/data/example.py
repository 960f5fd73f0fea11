"""What a source gives."""

import dataclasses
from typing import Protocol

import numpy as np

from ssd_jax.data.box_table import FURTHEST, OUTSIDE, ROUNDING
from ssd_jax.data.image import DEFAULTS, ReadOptions, decode_image
from ssd_jax.metrics.coco import COCOTruth


@dataclasses.dataclass(frozen=True)
class Example:
    """One image and its objects.

    Attributes:
      image_id: names the image in messages and results.
      image: an encoded file, or RGB uint8 [h, w, 3].
      boxes: float32 [n, 4], corners, fractions of the sides of the image that `decode_image` returns. A box that
        reaches outside is clipped, and `errors` says so.
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
        """Check the arrays, and clip boxes.

        Raises:
          ValueError: an array has another shape or type, a label is below 1, or a box is not finite, is not in
            fractions, or has no size inside the image.
        """
        n = len(self.boxes)
        shapes = [np.shape(a) for a in (self.boxes, self.labels, self.difficult)]
        if shapes != [(n, 4), (n,), (n,)]:
            boxes, labels, difficult = shapes
            raise ValueError(
                f"{self.image_id}: an example must have boxes [n, 4], labels [n] and difficult [n]; got "
                f"{list(boxes)}, {list(labels)} and {list(difficult)}"
            )
        if not isinstance(self.image, bytes | bytearray | memoryview | np.ndarray):
            got = type(self.image).__name__
            raise ValueError(f"{self.image_id}: image must be the bytes of a file, or an array; got {got}")
        for name, kinds, what in (
            ("boxes", "iuf", "numbers"),
            ("labels", "iu", "integers"),
            ("difficult", "b", "bool"),
        ):
            array = getattr(self, name)
            kind = getattr(array, "dtype", type(array).__name__)
            if not isinstance(kind, np.dtype) or (kind.kind not in kinds and (n or name == "difficult")):
                raise ValueError(f"{self.image_id}: {name} must be an array of {what}; got {kind}")
        if not n:
            return
        if np.min(self.labels) < 1:
            raise ValueError(f"{self.image_id}: labels must be at least 1; got {np.min(self.labels)}")
        self._check_boxes()

    def _check_boxes(self) -> None:
        wrong = ~(np.abs(self.boxes) <= FURTHEST).all(axis=1)  # [n]
        if wrong.any():
            box = self.boxes[wrong][0]
            hint = "; if these are pixels, divide by width, height, width, height" if np.isfinite(box).all() else ""
            raise ValueError(
                f"{self.image_id}: boxes must be fractions of the image's sides, from 0 to 1; got {_text(box)}{hint}"
            )
        boxes = np.clip(self.boxes, 0, 1)
        empty = ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # [n]
        if empty.any():
            raise ValueError(
                f"{self.image_id}: boxes must have x_max > x_min and y_max > y_min inside the image; got "
                f"{_text(self.boxes[empty][0])}"
            )
        outside = int((np.abs(self.boxes - boxes) > ROUNDING).any(axis=1).sum())
        if (boxes != self.boxes).any():
            object.__setattr__(self, "boxes", boxes)
            object.__setattr__(self, "errors", (*self.errors, *[OUTSIDE] * outside))

    def decode(self, *, at_least: int | None = None) -> np.ndarray:
        """Return the image as RGB uint8 [h, w, 3], turned so that the boxes fit: see `ReadOptions.exif`.

        Args:
          at_least: of `decode_image`.

        Raises:
          UnreadableImage: the image cannot be decoded.
        """
        return decode_image(self.image, size=self.size, options=self.options, at_least=at_least)


def _text(box: np.ndarray) -> str:
    return f"[{', '.join(f'{corner:g}' for corner in box.tolist())}]"


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
