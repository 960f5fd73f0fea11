"""The boxes of a whole dataset in flat arrays, without annotation errors."""

import logging
from collections.abc import Sequence

import numpy as np

logger = logging.getLogger("ssd_jax")

ROUNDING = 1e-4  # of a side: a box may reach so far outside its image because numbers in the file are rounded
FURTHEST = 2.0  # a coordinate beyond is no fraction of an image's side
OUTSIDE, INVERTED, NO_SIZE = "box outside its image", "inverted box", "box of no size"


class BoxTable:
    """All boxes of a dataset; those of image i are `rows(i)` of `boxes`, `labels` and `difficult`.

    Annotation errors: a box that reaches outside its image is clipped. A box that then has no size (a side of 0, or
    corners in the wrong order) is dropped. For each kind, one warning counts the boxes and names their images.

    Attributes:
      boxes: float32 [M, 4], the corners that are left, fractions of the image's sides.
      labels: int32 [M].
      difficult: bool [M].
      kept: bool [N], which of the boxes given these are.
      warnings: what was clipped and dropped, a message for each kind.
    """

    def __init__(
        self,
        owner: np.ndarray,
        corners: np.ndarray,
        labels: np.ndarray,
        difficult: np.ndarray,
        *,
        names: Sequence[str],
        where: str,
        strict: bool,
        quiet: bool = False,
    ):
        """Clip and drop boxes.

        Args:
          owner: index of the image of each box [N], non-decreasing.
          corners: float64 [N, 4], fractions of the image's sides.
          labels: from 1 [N].
          difficult: bool [N].
          names: of the images.
          where: the dataset, for messages.
          strict: raise instead of clipping and dropping.
          quiet: do not warn; `warnings` has the messages.

        Raises:
          ValueError: `strict`, and there is an annotation error.
        """
        boxes = np.clip(corners, 0, 1).astype(np.float32)  # [N, 4]
        self.kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # [N]
        outside = self.kept & ((corners < -ROUNDING) | (corners > 1 + ROUNDING)).any(axis=1)  # [N]
        inverted = (corners[:, 2:] < corners[:, :2]).any(axis=1)  # [N]
        self._errors: dict[int, list[str]] = {}
        for kind, found in {OUTSIDE: outside, INVERTED: inverted, NO_SIZE: ~self.kept & ~inverted}.items():
            for index in owner[found].tolist():
                self._errors.setdefault(index, []).append(kind)
        self.warnings: list[str] = []
        for what, done, owners in (
            ("have no size", "dropped", owner[~self.kept]),
            ("reach outside their image", "clipped", owner[outside]),
        ):
            if not len(owners):
                continue
            found = f"{len(owners)}, in {some([names[int(i)] for i in dict.fromkeys(owners.tolist())])}"
            if strict:
                raise ValueError(f"{where}: with strict, boxes must not {what}; got {found}")
            self.warnings.append(f"{where}: boxes that {what} were {done}: {found}")
        if not quiet:
            self.warn()

        self._starts = np.searchsorted(owner[self.kept], np.arange(len(names) + 1))  # [len + 1]
        self.boxes = boxes[self.kept]
        self.labels = labels[self.kept].astype(np.int32)
        self.difficult = difficult[self.kept].astype(bool)

    def warn(self) -> None:
        """Log the warnings."""
        for message in self.warnings:
            logger.warning("%s", message)

    def rows(self, index: int) -> slice:
        """Return the rows of the boxes of image `index`."""
        return slice(self._starts[index], self._starts[index + 1])

    def errors(self, index: int) -> tuple[str, ...]:
        """Return the annotation errors of image `index`, an entry for each box."""
        return tuple(self._errors.get(index, ()))


def some(names: Sequence[str], most: int = 10) -> str:
    """List the first names, and say how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
