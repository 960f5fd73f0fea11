"""Small objects in large images: the network looks at parts of an image, and the results are merged."""

from collections.abc import Sequence

import numpy as np

from ssd_jax.inference.detections import Detections

Window = tuple[int, int, int, int]
"""A part of an image: x_min, y_min, x_max, y_max in pixels."""


def tile_windows(height: int, width: int, *, tile: int, overlap: float) -> list[Window]:
    """Return the windows to look at: the whole image, for large objects, then tiles from the top left.

    Neighbours overlap by at least `overlap` of their side, and the tiles are spread evenly. A tile is as large as the
    image where that is smaller; an image that fits in one is not tiled.

    Args:
      height: of the image, pixels.
      width: of the image, pixels.
      tile: side of the tiles, pixels.
      overlap: in [0, 1).
    """
    whole = [(0, 0, width, height)]
    rows, columns = (_starts(side, tile, overlap) for side in (height, width))
    if len(rows) == len(columns) == 1:
        return whole
    h, w = min(tile, height), min(tile, width)
    return whole + [(x, y, x + w, y + h) for y in rows for x in columns]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Return where the tiles of one axis begin, so that the last one ends with the image."""
    room = side - tile
    if room <= 0:
        return [0]
    count = 1 + int(np.ceil(room / max(1.0, tile * (1 - overlap))))
    return np.rint(np.linspace(0, room, count)).astype(int).tolist()


def check_tiles(tile: object, overlap: object) -> None:
    """Raise `ValueError` unless `tile` is None or a number of pixels, and `overlap` a fraction below 1."""
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 8):
        raise ValueError(f"tile must be an integer of at least 8 (pixels); got {tile!r}")
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap <= 0.9:
        raise ValueError(f"overlap must be a number in [0, 0.9]; got {overlap!r}")


def merge_windows(windows: Sequence[Window], found: Sequence[Detections], *, iou_threshold: float) -> Detections:
    """Move what was found in each window to the image, and suppress, in each class, what overlaps a better box.

    Args:
      windows: parts of one image.
      found: the detections in each, in its pixels.
      iou_threshold: largest IoU of two boxes of a class that both stay.

    Returns:
      all that stays, best first, in pixels of the image.
    """
    boxes = np.concatenate(
        [f.boxes + np.array([x, y, x, y], np.float32) for (x, y, _, _), f in zip(windows, found, strict=True)]
    )
    scores = np.concatenate([f.scores for f in found])
    labels = np.concatenate([f.labels for f in found])
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]  # of each class
    kept = np.concatenate([np.zeros(0, int), *(r[_suppress(boxes[r], scores[r], iou_threshold)] for r in rows)])
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    return Detections(boxes[kept], scores[kept], labels[kept], found[0].class_names)


def _suppress(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Return which boxes [n] of one class stay, as places."""
    from ssd_jax.box import non_max_suppression

    # Padded to a power of two: a handful of compilations serve every number of boxes.
    padding = (0, (1 << (len(boxes) - 1).bit_length()) - len(boxes))
    boxes, scores = np.pad(boxes, (padding, (0, 0))), np.pad(scores, padding)
    order, keep = non_max_suppression(
        boxes, scores, iou_threshold=iou_threshold, score_threshold=0.0, max_candidates=len(boxes)
    )
    return np.asarray(order)[np.asarray(keep)]
