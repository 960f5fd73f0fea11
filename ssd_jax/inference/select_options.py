"""The options of `selection.select`. Needs NumPy alone, so that exported files can be checked without JAX."""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np


class SelectOptions(TypedDict, total=False):
    """The options of `select`."""

    score_threshold: float
    max_candidates: int
    iou_threshold: float
    max_detections: int


def check_options(options: Mapping[str, object]) -> None:
    """Check the names and the values of options.

    Raises:
      ValueError: for an option that does not exist or has a wrong value.
    """
    rules = {
        "score_threshold": _check_fraction,
        "max_candidates": _check_count,
        "iou_threshold": _check_fraction,
        "max_detections": _check_count,
    }
    for name, value in options.items():
        if name not in rules:
            raise ValueError(f"an option must be one of {', '.join(rules)}; got {name!r}")
        rules[name](name, value)


def _check_fraction(name: str, value: object) -> None:
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be a number in [0, 1]; got {value!r}")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or int(value) < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}")
