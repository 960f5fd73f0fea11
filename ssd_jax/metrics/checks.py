"""Checks of the arrays that metrics are given. Each error names the argument, the rule and the value."""

import numpy as np


def check_labels(labels: np.ndarray, classes: int, what: str) -> np.ndarray:
    """Return labels [n] as int64, which must be integers from 1 to `classes`; an empty list of any type will do.

    Raises:
      ValueError: if they are not.
    """
    labels = check_column(labels, np.size(labels), what)
    if labels.size and not (
        np.issubdtype(labels.dtype, np.integer) and labels.min() >= 1 and labels.max() <= classes
    ):
        wrong = next(x for x in labels.tolist() if type(x) is not int or not 1 <= x <= classes)
        raise ValueError(f"{what} must be integers from 1 to {classes}, the number of classes; got {wrong}")
    return labels.astype(np.int64)


def check_column(values: np.ndarray, n: int, what: str) -> np.ndarray:
    """Return `values` as an array, which must be [n] and finite.

    Raises:
      ValueError: if it is not.
    """
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"{what} must have shape [{n}], one number per label; got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} must be finite; got {values[~np.isfinite(values)][0]}")
    return values


def check_boxes(boxes: np.ndarray, n: int, what: str) -> np.ndarray:
    """Return `boxes` as float64, which must be [n, 4] and finite; an empty list will do for n = 0.

    Raises:
      ValueError: if they are not.
    """
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape != (n, 4) and not boxes.size == n == 0:
        raise ValueError(f"{what} must have shape [{n}, 4], one row per label; got {list(boxes.shape)}")
    boxes = boxes.reshape(n, 4)
    finite = np.isfinite(boxes).all(axis=1)  # [n]
    if not finite.all():
        raise ValueError(f"{what} must be finite; got {boxes[~finite][0].tolist()}")
    return boxes
