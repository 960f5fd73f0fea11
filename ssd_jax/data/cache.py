"""A cache of loaded rows in memory."""

import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("ssd_jax")

Row = dict[str, Any]  # arrays by name; a cached row has nothing else


class Cache:
    """Memoize `load`, keeping at most `gb` GB of arrays; further rows are loaded each time.

    The arrays are shared, so nobody may write into them.
    """

    def __init__(self, load: Callable[[int], Row], *, gb: float, length: int):
        """Start an empty cache.

        Args:
          load: loads a row by its index.
          gb: 10^9 bytes of arrays.
          length: number of rows, for the warning that not all of them fit.
        """
        if gb < 0:
            raise ValueError(f"cache_gb must be at least 0; got {gb}")
        self._load, self._gb, self._length = load, gb, length
        self._rows: dict[int, Row] = {}
        self._free = gb * 1e9
        self._full = False
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Row:
        """Return row `index`, from memory if it is there."""
        row = self._rows.get(index)
        if row is None:
            row = self._load(index)
            if not self._full:
                self._keep(index, row)
        return row

    def _keep(self, index: int, row: Row):
        size = sum(array.nbytes for array in row.values())
        with self._lock:
            if index in self._rows or self._full:
                return
            self._full = size > self._free
            if self._full:
                logger.warning(
                    "cache_gb = %g: only %d of %d images fit; the others are decoded each time",
                    self._gb,
                    len(self._rows),
                    self._length,
                )
            else:
                self._rows[index] = row
                self._free -= size
