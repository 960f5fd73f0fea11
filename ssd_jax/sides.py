"""A size with one number for both sides, or with two."""

from typing import Any

Side = int | tuple[int, int]
"""One number for both sides, or (height, width), or (rows, columns)."""


def sides_of(side: Any) -> Any:
    """Return the pair (vertical, horizontal) of a number that stands for both sides, or of such a pair."""
    return tuple(side) if isinstance(side, list | tuple) else (side, side)
