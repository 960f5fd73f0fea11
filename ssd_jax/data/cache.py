"""Rows that are kept in memory once they are loaded."""

import logging
import threading
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("ssd_jax")

Row = dict[str, Any]  # arrays; rows that are cached hold nothing else


class Cache:
    """`load`, whose results are kept up to `gb` gigabytes (10^9 bytes of their arrays); what no longer fits is not.

    That not all of `length` rows fit is said once. Results are shared: nobody may write into them.
    """

    def __init__(self, load: Callable[[int], Row], *, gb: float, length: int):
        if gb < 0:
            raise ValueError(f"cache_gb is at least 0; got {gb}")
        self._load, self._gb, self._length = load, gb, length
        self._rows: dict[int, Row] = {}
        self._free = gb * 1e9
        self._full = False
        self._lock = threading.Lock()

    def __call__(self, index: int) -> Row:
        """Row `index`, loaded or kept."""
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
                    "cache_gb = %g is full with %d of %d images; the others are decoded each time",
                    self._gb,
                    len(self._rows),
                    self._length,
                )
            else:
                self._rows[index] = row
                self._free -= size
