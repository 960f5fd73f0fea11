"""Where in the image, and in what company, a detector errs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ssd_jax.metrics.errors import KINDS, Errors, RecallBin, recall_in_bins, to_fractions
from ssd_jax.metrics.voc import DetectionTable, ObjectTable, best_of_pairs, pairs, pairs_iou


class PositionCounts(NamedTuple):
    """Counts in the cells of a grid over the image, each [rows, columns].

    Attributes:
      n_objects: objects that are not difficult, by their centre.
      n_found: those of them that were found.
      n_wrong: detections that are an error of any kind, by their centre.
    """

    n_objects: np.ndarray
    n_found: np.ndarray
    n_wrong: np.ndarray


def count_by_position(
    errors: Errors, image_sizes: np.ndarray, *, rows: int = 3, columns: int = 3, score_threshold: float = 0.3
) -> PositionCounts:
    """Count objects, found objects and wrong detections by where in the image their centre is.

    Args:
      errors: of `find_errors`.
      image_sizes: [images, 2] (height, width) in pixels, in the order in which images were added to the metric.
      rows: of the grid, from the top.
      columns: of the grid, from the left.
      score_threshold: wrong detections of a lower score are not counted.

    Raises:
      ValueError: for `image_sizes` of another shape, and for a grid without cells.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"rows and columns must be at least 1; got {rows} and {columns}")

    def count(table: ObjectTable | DetectionTable, chosen: np.ndarray) -> np.ndarray:
        corners = to_fractions(table, image_sizes)[chosen]
        x, y = ((corners[:, k] + corners[:, k + 2]) / 2 for k in (0, 1))
        row, column = (
            np.clip(np.floor(at * cells), 0, cells - 1).astype(int) for at, cells in ((y, rows), (x, columns))
        )
        return np.bincount(columns * row + column, minlength=rows * columns).reshape(rows, columns)

    wrong = (errors.outcome != "true") & (errors.outcome != "ignored")
    return PositionCounts(
        count(errors.objects, errors.fate != "ignored"),
        count(errors.objects, errors.fate == "found"),
        count(errors.detections, wrong & (errors.detections.scores >= score_threshold)),
    )


def recall_by_overlap(
    errors: Errors, *, inclusive: bool = False, edges: Sequence[float] = (0, 0.01, 0.1, 0.3, 0.5, np.inf)
) -> list[RecallBin]:
    """Count objects and found objects by crowding: the largest IoU with another object of the image, of any class.

    Non-maximum suppression drops the weaker of two detections of a class that overlap by more than its threshold, so
    that an object that overlaps another one by more is hard to find.

    Args:
      errors: of `find_errors`.
      inclusive: of the metric.
      edges: limits of the bins, rising.
    """
    objects = errors.objects
    a, b = pairs(objects.image, objects.image)
    a, b = a[a != b], b[a != b]
    iou = pairs_iou(objects.boxes[a], objects.boxes[b], inclusive=inclusive)
    largest, _ = best_of_pairs(a, b, iou, len(objects.labels))
    return recall_in_bins(errors, np.maximum(largest, 0), edges)


def recall_by_number(errors: Errors, *, edges: Sequence[float] = (1, 2, 5, 10, 20, np.inf)) -> list[RecallBin]:
    """Count objects and found objects by the number of objects in their image, difficult ones included."""
    number = np.bincount(errors.objects.image)[errors.objects.image]
    return recall_in_bins(errors, number, edges)


def count_by_class(errors: Errors, n_classes: int) -> dict[str, np.ndarray]:
    """Count the errors of each of `KINDS` by class [n_classes]: the detection's, or that of the missed object."""
    missed = errors.objects.labels[errors.fate == "missed"]
    labels = {kind: errors.detections.labels[errors.outcome == kind] for kind in KINDS} | {"missed": missed}
    return {kind: np.bincount(found, minlength=1 + n_classes)[1:] for kind, found in labels.items()}
