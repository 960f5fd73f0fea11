"""Areas, overlaps and conversions of boxes. NumPy in, NumPy out; JAX in, JAX out.

Arithmetic is float32 (float64 for NumPy's float64): integers, bfloat16 and float16 are widened first. Any finite
input gives finite values and finite gradients, but that steep ones overflow in float16: in areas and overlaps an
inverted side counts as one of length 0, coordinates saturate at +-1e9, and areas below 1e-18 fade out of the ratios.
"""

import math

import jax
import jax.numpy as jnp

from ssd_jax.box.numerics import Array, Float, Real, bounded, check_shape, maximum, minimum, widen

# The smallest denominators: their inverse squares, in the gradient of a quotient, must stay inside float32.
NO_AREA = 1e-18
NO_SIDE = 1e-9


def corner_to_center(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4] to centers [*n, 4], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([(x_min + x_max) / 2, (y_min + y_max) / 2, x_max - x_min, y_max - y_min], axis=-1)


def center_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Centers [*n, 4] to corners [*n, 4], same unit."""
    xp, (cx, cy, w, h) = _columns("centers", boxes)
    return xp.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=-1)


def corner_to_xywh(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4] to [x_min, y_min, width, height], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([x_min, y_min, x_max - x_min, y_max - y_min], axis=-1)


def xywh_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """[x_min, y_min, width, height] to corners [*n, 4], same unit."""
    xp, (x, y, w, h) = _columns("xywh boxes", boxes)
    return xp.stack([x, y, x + w, y + h], axis=-1)


def corner_to_yxyx(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4] to TensorFlow's [y_min, x_min, y_max, x_max], same unit."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", boxes)
    return xp.stack([y_min, x_min, y_max, x_max], axis=-1)


def yxyx_to_corner(boxes: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """TensorFlow's [y_min, x_min, y_max, x_max] to corners [*n, 4], same unit."""
    return corner_to_yxyx(boxes)


def to_pixels(corners: Real[Array, "*n 4"], size) -> Float[Array, "*n 4"]:
    """Corners in fractions of an image's sides to pixels; `size` is its (height, width) in pixels."""
    xp, (x_min, y_min, x_max, y_max), (height, width) = _columns_and_size(corners, size)
    return xp.stack([x_min * width, y_min * height, x_max * width, y_max * height], axis=-1)


def from_pixels(corners: Real[Array, "*n 4"], size) -> Float[Array, "*n 4"]:
    """Corners in pixels to fractions of an image's sides; `size` is its (height, width) in pixels."""
    xp, (x_min, y_min, x_max, y_max), (height, width) = _columns_and_size(corners, size)
    return xp.stack([x_min / width, y_min / height, x_max / width, y_max / height], axis=-1)


def coco_to_corner(boxes: Real[Array, "*n 4"], size) -> Float[Array, "*n 4"]:
    """COCO's [x_min, y_min, width, height] in pixels to corners in fractions; `size` is (height, width)."""
    return from_pixels(xywh_to_corner(boxes), size)


def corner_to_coco(corners: Real[Array, "*n 4"], size) -> Float[Array, "*n 4"]:
    """Corners in fractions to COCO's [x_min, y_min, width, height] in pixels; `size` is (height, width)."""
    return corner_to_xywh(to_pixels(corners, size))


def flip_horizontal(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4], fractions, in the image mirrored left to right."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", corners)
    return xp.stack([1 - x_max, y_min, 1 - x_min, y_max], axis=-1)


def flip_vertical(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4], fractions, in the image mirrored top to bottom."""
    xp, (x_min, y_min, x_max, y_max) = _columns("corners", corners)
    return xp.stack([x_min, 1 - y_max, x_max, 1 - y_min], axis=-1)


def clip(corners: Real[Array, "*n 4"]) -> Float[Array, "*n 4"]:
    """Corners [*n, 4], fractions, cut to the image: every coordinate in [0, 1]."""
    check_shape("corners", corners, "...", 4)
    xp, corners = widen(corners)
    return bounded(xp, corners, 0, 1)


def area(corners: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Areas [*n] of corners [*n, 4], in the square of their unit; 0 where a side is negative."""
    check_shape("corners", corners, "...", 4)
    xp, corners = widen(corners)
    return _area(upright(xp, corners))


def iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Jaccard overlap [n, m], in [0, 1], of each corner box of a [n, 4] with each of b [m, 4].

    0 for a box without area, even with itself.
    """
    return broadcast_iou(*_pairs(a, b))


def generalized_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Generalized IoU [n, m], in [-1, 1], of corners a [n, 4] and b [m, 4] (arXiv:1902.09630)."""
    return _generalized_iou(*_pairs(a, b))


def distance_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Distance IoU [n, m], in [-1, 1], of corners a [n, 4] and b [m, 4] (arXiv:1911.08287, eq. 7)."""
    return _distance_iou(*_pairs(a, b))


def complete_iou(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Complete IoU [n, m], in [-2, 1], of corners a [n, 4] and b [m, 4] (arXiv:1911.08287, eq. 10).

    As in the paper, the weight of the aspect ratios' term is a constant to the gradient.
    """
    return _complete_iou(*_pairs(a, b))


def intersection_over_foreground(a: Real[Array, "n 4"], b: Real[Array, "m 4"]) -> Float[Array, "n m"]:
    """Share [n, m], in [0, 1], of each corner box of a [n, 4] that lies inside each of b [m, 4].

    With detections as a and crowd regions as b, this is COCO's overlap with a crowd.
    """
    return _intersection_over_foreground(*_pairs(a, b))


def paired_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """`iou` of a [*n, 4] and b [*n, 4], row by row: [*n]."""
    return broadcast_iou(*_rows(a, b))


def paired_generalized_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """`generalized_iou` of a [*n, 4] and b [*n, 4], row by row: [*n]."""
    return _generalized_iou(*_rows(a, b))


def paired_distance_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """`distance_iou` of a [*n, 4] and b [*n, 4], row by row: [*n]."""
    return _distance_iou(*_rows(a, b))


def paired_complete_iou(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """`complete_iou` of a [*n, 4] and b [*n, 4], row by row: [*n]."""
    return _complete_iou(*_rows(a, b))


def paired_intersection_over_foreground(a: Real[Array, "*n 4"], b: Real[Array, "*n 4"]) -> Float[Array, "*n"]:
    """`intersection_over_foreground` of a [*n, 4] and b [*n, 4], row by row: [*n]."""
    return _intersection_over_foreground(*_rows(a, b))


# Below, a box is its four upright coordinates, arrays of any shapes that broadcast.


def broadcast_iou(xp, a, b):
    """`iou` of boxes given by their four `upright` coordinates, arrays of any shapes that broadcast."""
    intersection = _intersection(xp, a, b)
    return _ratio(xp, intersection, _union(a, b, intersection))


def _intersection_over_foreground(xp, a, b):
    return _ratio(xp, _intersection(xp, a, b), _area(a))


def _generalized_iou(xp, a, b):
    intersection = _intersection(xp, a, b)
    union = _union(a, b, intersection)
    hull = _area(_hull(xp, a, b))
    return _ratio(xp, intersection, union) - _ratio(xp, hull - union, hull)


def _distance_iou(xp, a, b):
    width, height = _sides(_hull(xp, a, b))
    across, down = (a[0] + a[2] - b[0] - b[2]) / 2, (a[1] + a[3] - b[1] - b[3]) / 2
    return broadcast_iou(xp, a, b) - _ratio(xp, across**2 + down**2, width**2 + height**2)


def _complete_iou(xp, a, b):
    constant = jax.lax.stop_gradient if xp is jnp else lambda x: x
    shape = 4 / math.pi**2 * (_angle(xp, a) - _angle(xp, b)) ** 2
    weight = constant(_ratio(xp, shape, maximum(xp, 1 - broadcast_iou(xp, a, b), 0) + shape))
    return _distance_iou(xp, a, b) - weight * shape


def _sides(box):
    return box[2] - box[0], box[3] - box[1]


def _area(box):
    width, height = _sides(box)
    return width * height


def _angle(xp, box):
    width, height = _sides(box)
    return xp.arctan2(maximum(xp, width, NO_SIDE), maximum(xp, height, NO_SIDE))


def _hull(xp, a, b):
    return minimum(xp, a[0], b[0]), minimum(xp, a[1], b[1]), maximum(xp, a[2], b[2]), maximum(xp, a[3], b[3])


def _intersection(xp, a, b):
    width = minimum(xp, a[2], b[2]) - maximum(xp, a[0], b[0])
    height = minimum(xp, a[3], b[3]) - maximum(xp, a[1], b[1])
    return maximum(xp, width, 0) * maximum(xp, height, 0)


def _union(a, b, intersection):
    return _area(a) + _area(b) - intersection


def _ratio(xp, part, whole):
    return part / maximum(xp, whole, NO_AREA)


def _columns(name, boxes):
    check_shape(name, boxes, "...", 4)
    xp, boxes = widen(boxes)
    return xp, _split(boxes)


def _columns_and_size(corners, size):
    check_shape("corners", corners, "...", 4)
    xp, corners, height, width = widen(corners, scalars=size)
    return xp, _split(corners), (maximum(xp, height, 1), maximum(xp, width, 1))


def _pairs(a, b):
    check_shape("a", a, "n", 4)
    check_shape("b", b, "m", 4)
    xp, a, b = widen(a, b)
    return xp, upright(xp, a[:, None]), upright(xp, b[None, :])


def _rows(a, b):
    check_shape("a", a, "...", 4)
    check_shape("b", b, *a.shape)
    xp, a, b = widen(a, b)
    return xp, upright(xp, a), upright(xp, b)


def _split(boxes):
    return tuple(boxes[..., i] for i in range(4))


def upright(xp, corners):
    """The four coordinates; an inverted side becomes a side of length 0 at its start."""
    x_min, y_min, x_max, y_max = _split(corners)
    return x_min, y_min, maximum(xp, x_max, x_min), maximum(xp, y_max, y_min)
