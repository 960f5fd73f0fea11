"""Areas, overlaps and conversions of boxes. NumPy arrays give NumPy arrays; JAX arrays give JAX arrays.

Arithmetic is float32 (float64 for NumPy's float64): integers, bfloat16 and float16 are widened first. Finite input
gives finite values and finite gradients (but a float16 input has float16 gradients, where steep ones overflow):
coordinates saturate at +-1e9, and in areas and overlaps an inverted side has length 0. A quotient's denominator is at
least 1e-18, so the overlaps of boxes with smaller areas tend to 0.
"""

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax

from ssd_jax.box.numerics import Array, Float, Real, Scalar, bounded, check_shape, maximum, minimum, namespace, widen

# The smallest denominators. The gradient of a quotient divides by their squares, which must not underflow in float32.
NO_AREA = 1e-18
NO_SIDE = 1e-9

Size = Sequence[Scalar] | Real[Array, "2"]
Coordinates = tuple[Array, ...] | Array  # x_min, y_min, x_max, y_max


def corner_to_center(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert corners [*n, 4] to centers [*n, 4], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([(x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min], axis=-1)


def center_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert centers [*n, 4] to corners [*n, 4], same unit."""
    xp, (cx, cy, w, h) = _columns("centers", boxes)
    return xp.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)


def corner_to_xywh(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert corners [*n, 4] to [x_min, y_min, width, height], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=-1)


def xywh_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert [x_min, y_min, width, height] to corners [*n, 4], same unit."""
    xp, (x, y, w, h) = _columns("xywh boxes", boxes)
    return xp.stack([x, y, x + w, y + h], axis=-1)


def corner_to_yxyx(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert corners [*n, 4] to TensorFlow's [y_min, x_min, y_max, x_max], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([y_min, x_min, y_max, x_max], axis=-1)


def yxyx_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Convert TensorFlow's [y_min, x_min, y_max, x_max] to corners [*n, 4], same unit."""
    return corner_to_yxyx(boxes)


def to_pixels(corners: Real[Array, "*n 4"], size: Size) -> Float[Array, "*n 4"]:
    """Convert corners from fractions of an image's sides to pixels; `size` is its (height, width) in pixels."""
    xp, (x_min, y_min, x_max, y_max), (height, width) = _columns_and_size(corners, size)
    return xp.stack([x_min * width, y_min * height, x_max * width, y_max * height], axis=-1)


def from_pixels(corners: Real[Array, "*n 4"], size: Size) -> Float[Array, "*n 4"]:
    """Convert corners from pixels to fractions of an image's sides; `size` is its (height, width) in pixels."""
    xp, (x_min, y_min, x_max, y_max), (height, width) = _columns_and_size(corners, size)
    return xp.stack([x_min / width, y_min / height, x_max / width, y_max / height], axis=-1)


def coco_to_corner(boxes: Real[Array, "*n 4"], size: Size) -> Float[Array, "*n 4"]:
    """Convert COCO's [x_min, y_min, width, height] in pixels to corners in fractions; `size` is (height, width)."""
    return from_pixels(xywh_to_corner(boxes), size)


def corner_to_coco(corners: Real[Array, "*n 4"], size: Size) -> Float[Array, "*n 4"]:
    """Convert corners in fractions to COCO's [x_min, y_min, width, height] in pixels; `size` is (height, width)."""
    return corner_to_xywh(to_pixels(corners, size))


def flip_horizontal(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Mirror corners [*n, 4], fractions, left to right."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", corners)
    return xp.stack([1 - x_max, y_min, 1 - x_min, y_max], axis=-1)


def flip_vertical(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Mirror corners [*n, 4], fractions, top to bottom."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", corners)
    return xp.stack([x_min, 1 - y_max, x_max, 1 - y_min], axis=-1)


def clip(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Clip corners [*n, 4], fractions, to the image: every coordinate in [0, 1]."""
    check_shape("corners", corners, "...", 4)
    _, corners = widen(corners)
    return bounded(corners, 0, 1)


def area(corners: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute areas [*n] of corners [*n, 4], in the square of their unit; 0 where a side is negative."""
    check_shape("corners", corners, "...", 4)
    _, corners = widen(corners)
    return _area(upright(corners))


def iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Compute the Jaccard overlap [n, m], in [0, 1], of each corner box of a [n, 4] with each of b [m, 4].

    A box without area has overlap 0 with every box, even with itself.
    """
    return broadcast_iou(*_pairs(a, b))


def generalized_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Compute the generalized IoU [n, m], in [-1, 1], of corners a [n, 4] and b [m, 4] (arXiv:1902.09630)."""
    return _generalized_iou(*_pairs(a, b))


def distance_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Compute the distance IoU [n, m], in [-1, 1], of corners a [n, 4] and b [m, 4] (arXiv:1911.08287, eq. 7)."""
    return _distance_iou(*_pairs(a, b))


def complete_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Compute the complete IoU [n, m], in [-2, 1], of corners a [n, 4] and b [m, 4] (arXiv:1911.08287, eq. 10).

    As in the paper, no gradient flows through the weight of the aspect ratios' term.
    """
    return _complete_iou(*_pairs(a, b))


def intersection_over_foreground(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Compute the share [n, m], in [0, 1], of each corner box of a [n, 4] that lies inside each of b [m, 4].

    With detections as a and crowd regions as b, this is COCO's overlap with a crowd.
    """
    return _intersection_over_foreground(*_pairs(a, b))


def paired_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute `iou` of a [*n, 4] and b [*n, 4] row by row: [*n]."""
    return broadcast_iou(*_rows(a, b))


def paired_generalized_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute `generalized_iou` of a [*n, 4] and b [*n, 4] row by row: [*n]."""
    return _generalized_iou(*_rows(a, b))


def paired_distance_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute `distance_iou` of a [*n, 4] and b [*n, 4] row by row: [*n]."""
    return _distance_iou(*_rows(a, b))


def paired_complete_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute `complete_iou` of a [*n, 4] and b [*n, 4] row by row: [*n]."""
    return _complete_iou(*_rows(a, b))


def paired_intersection_over_foreground(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Compute `intersection_over_foreground` of a [*n, 4] and b [*n, 4] row by row: [*n]."""
    return _intersection_over_foreground(*_rows(a, b))


# The functions below describe a box by its four coordinates, arrays of any shapes that broadcast.


def upright(corners: Real[Array, "*n 4"]) -> tuple[Array, ...]:
    """Split corners into their four coordinates; an inverted side becomes a side of length 0 at its start."""
    x_min, y_min, x_max, y_max = _split(corners)
    return x_min, y_min, maximum(x_max, x_min), maximum(y_max, y_min)


def broadcast_iou(a: Coordinates, b: Coordinates) -> Array:
    """Compute `iou` of boxes given by their four `upright` coordinates, arrays of any shapes that broadcast."""
    intersection = _intersection(a, b)
    return _ratio(intersection, _union(a, b, intersection))


def _intersection_over_foreground(a: Coordinates, b: Coordinates) -> Array:
    return _ratio(_intersection(a, b), _area(a))


def _generalized_iou(a: Coordinates, b: Coordinates) -> Array:
    intersection = _intersection(a, b)
    union = _union(a, b, intersection)
    hull = _area(_hull(a, b))
    return _ratio(intersection, union) - _ratio(hull - union, hull)


def _distance_iou(a: Coordinates, b: Coordinates) -> Array:
    width, height = _sides(_hull(a, b))
    across, down = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return broadcast_iou(a, b) - _ratio(across**2 + down**2, width**2 + height**2)


def _complete_iou(a: Coordinates, b: Coordinates) -> Array:
    shape = 4 / math.pi**2 * (_angle(a) - _angle(b)) ** 2
    weight = _constant(_ratio(shape, maximum(1 - broadcast_iou(a, b), 0) + shape))
    return _distance_iou(a, b) - weight * shape


def _constant(x: Array) -> Array:
    return jax.lax.stop_gradient(x) if isinstance(x, jax.Array) else x


def _sides(box: Coordinates) -> tuple[Array, Array]:
    return box[2] - box[0], box[3] - box[1]


def _area(box: Coordinates) -> Array:
    width, height = _sides(box)
    return width * height


def _angle(box: Coordinates) -> Array:
    width, height = _sides(box)
    return namespace(width).arctan2(maximum(width, NO_SIDE), maximum(height, NO_SIDE))


def _hull(a: Coordinates, b: Coordinates) -> Coordinates:
    return minimum(a[0], b[0]), minimum(a[1], b[1]), maximum(a[2], b[2]), maximum(a[3], b[3])


def _intersection(a: Coordinates, b: Coordinates) -> Array:
    width = minimum(a[2], b[2]) - maximum(a[0], b[0])
    height = minimum(a[3], b[3]) - maximum(a[1], b[1])
    return maximum(width, 0) * maximum(height, 0)


def _union(a: Coordinates, b: Coordinates, intersection: Array) -> Array:
    return _area(a) + _area(b) - intersection


def _ratio(part: Array, whole: Array) -> Array:
    return part / maximum(whole, NO_AREA)


def _columns(name: str, boxes: Any) -> tuple[ModuleType, tuple[Array, ...]]:
    check_shape(name, boxes, "...", 4)
    xp, boxes = widen(boxes)
    return xp, _split(boxes)


def _columns_and_size(corners: Any, size: Size) -> tuple[ModuleType, tuple[Array, ...], tuple[Array, Array]]:
    check_shape("corners", corners, "...", 4)
    xp, corners, height, width = widen(corners, scalars=size)
    return xp, _split(corners), (maximum(height, 1), maximum(width, 1))


def _pairs(a: Any, b: Any) -> tuple[Coordinates, Coordinates]:
    check_shape("a", a, "n", 4)
    check_shape("b", b, "m", 4)
    _, a, b = widen(a, b)
    return upright(a[:, None]), upright(b[None, :])


def _rows(a: Any, b: Any) -> tuple[Coordinates, Coordinates]:
    check_shape("a", a, "...", 4)
    check_shape("b", b, *a.shape)
    _, a, b = widen(a, b)
    return upright(a), upright(b)


def _split(boxes: Array) -> tuple[Array, ...]:
    return tuple(boxes[..., i] for i in range(4))
