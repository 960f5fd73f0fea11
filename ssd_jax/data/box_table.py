"""The boxes of a whole dataset in flat arrays, and what becomes of those that cannot be right."""

import logging
from collections.abc import Sequence

import numpy as np

logger = logging.getLogger("ssd_jax")

ROUNDING = 1e-4  # of a side: so far outside an image may be the rounding of the file's numbers
OUTSIDE, INVERTED, NO_SIZE = "box outside its image", "inverted box", "box of no size"


class BoxTable:
    """All boxes of a dataset; those of image i are `rows(i)` of `boxes`, `labels` and `difficult`.

    `owner` [N] says whose a box is and never falls; `corners` float64 [N, 4] are fractions of the image's sides.

    A box that reaches outside its image is clipped; one that then has no size (a side of 0, or inverted) is left
    out. Each kind is one warning that counts the boxes and names their images; if `strict`, a `ValueError`.
    `kept` bool [N] tells which of the boxes given are there.
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
    ):
        boxes = np.clip(corners, 0, 1).astype(np.float32)  # [N, 4]
        self.kept = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # [N]
        outside = self.kept & ((corners < -ROUNDING) | (corners > 1 + ROUNDING)).any(axis=1)  # [N]
        inverted = (corners[:, 2:] < corners[:, :2]).any(axis=1)  # [N]
        self._dirt: dict[int, list[str]] = {}
        for kind, found in {
            OUTSIDE: outside,
            INVERTED: inverted,
            NO_SIZE: ~self.kept & ~inverted,
        }.items():
            for index in owner[found].tolist():
                self._dirt.setdefault(index, []).append(kind)
        dirt = {
            "of no size, left out": owner[~self.kept],
            "reaching outside their image, clipped": owner[outside],
        }
        for what, owners in dirt.items():
            if not len(owners):
                continue
            found = f"{len(owners)}, in {some([names[i] for i in dict.fromkeys(owners.tolist())])}"
            if strict:
                raise ValueError(f"{where}: strict data has no boxes {what.split(',')[0]}; got {found}")
            logger.warning("%s: boxes %s: %s", where, what, found)

        self._starts = np.searchsorted(owner[self.kept], np.arange(len(names) + 1))  # [len + 1]
        self.boxes = boxes[self.kept]
        self.labels = labels[self.kept].astype(np.int32)
        self.difficult = difficult[self.kept].astype(bool)

    def rows(self, index: int) -> slice:
        """Where the boxes of image `index` stand."""
        return slice(self._starts[index], self._starts[index + 1])

    def dirt(self, index: int) -> tuple[str, ...]:
        """What was wrong with boxes of image `index`, an entry for each."""
        return tuple(self._dirt.get(index, ()))


def some(names: Sequence[str], most: int = 10) -> str:
    """The first names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
