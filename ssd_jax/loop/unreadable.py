"""The pictures that could not be decoded: a few are left out, more end the run."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.batching import Source
from ssd_jax.parallel import of_every_process


def refuse_many(names: Sequence[str], limit: int) -> None:
    """Raise `ValueError` where more than `limit` pictures could not be decoded; `batching` logged why."""
    if len(names) > limit:
        raise ValueError(
            f"data.max_unreadable allows {limit} unreadable pictures, met {', '.join(names[: limit + 1])}"
        )


class Unreadable:
    """Those that a training met so far."""

    def __init__(self, source: Source, *, limit: int) -> None:
        """Start with none."""
        self._source, self._limit = source, limit
        self._found: set[int] = set()

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Note the unreadable pictures of a batch."""
        self._found.update(batch["index"][~batch["readable"]].tolist())

    def check(self) -> None:
        """Raise `ValueError` where all processes together met too many. All ask."""
        some = sorted(self._found)[: self._limit + 1]
        mine = np.pad(some, (0, self._limit + 1 - len(some)), constant_values=-1).astype(int)  # as long in all
        found = np.unique(of_every_process(mine))
        refuse_many([self._source[index].image_id for index in found[found >= 0].tolist()], self._limit)
