from fractions import Fraction

import box_oracles as oracles
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import box

UNARY = {
    "corner_to_center": box.corner_to_center,
    "center_to_corner": box.center_to_corner,
    "corner_to_xywh": box.corner_to_xywh,
    "xywh_to_corner": box.xywh_to_corner,
    "corner_to_yxyx": box.corner_to_yxyx,
    "yxyx_to_corner": box.yxyx_to_corner,
    "to_pixels": lambda boxes: box.to_pixels(boxes, (300, 500)),
    "from_pixels": lambda boxes: box.from_pixels(boxes, (300, 500)),
    "coco_to_corner": lambda boxes: box.coco_to_corner(boxes, (300, 500)),
    "corner_to_coco": lambda boxes: box.corner_to_coco(boxes, (300, 500)),
    "flip_horizontal": box.flip_horizontal,
    "flip_vertical": box.flip_vertical,
    "clip": box.clip,
    "area": box.area,
}
PAIRWISE = {
    "iou": (box.iou, box.paired_iou),
    "generalized_iou": (box.generalized_iou, box.paired_generalized_iou),
    "distance_iou": (box.distance_iou, box.paired_distance_iou),
    "complete_iou": (box.complete_iou, box.paired_complete_iou),
    "intersection_over_foreground": (
        box.intersection_over_foreground,
        box.paired_intersection_over_foreground,
    ),
}

# A is 2 x 2. B: the same box; the same, shifted by 1 in x and y; 1 x 2 inside A; 2 x 1 at a distance of 1.
A = np.float32([[0, 0, 2, 2]])
B = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [0, 0, 1, 2], [3, 0, 5, 1]])
ATAN = (4 / np.pi**2) * np.square(np.arctan([1 / 1, 1 / 1, 1 / 2, 2 / 1]) - np.arctan(1))  # CIoU's v
BY_HAND = {
    "iou": [Fraction(1), Fraction(1, 7), Fraction(2, 4), Fraction(0)],
    "intersection_over_foreground": [Fraction(1), Fraction(1, 4), Fraction(2, 4), Fraction(0)],
    "generalized_iou": [
        Fraction(1),
        Fraction(1, 7) - Fraction(9 - 7, 9),
        Fraction(1, 2),
        -Fraction(10 - 6, 10),
    ],
    # squared distance of the centres over the squared diagonal of the hull
    "distance_iou": [
        Fraction(1),
        Fraction(1, 7) - Fraction(2, 18),
        Fraction(1, 2) - Fraction(1, 4) / 8,
        -Fraction(37, 4) / 29,
    ],
}
BY_HAND["complete_iou"] = [
    float(d) - (v * v / (1 - float(i) + v) if v else 0)
    for d, i, v in zip(BY_HAND["distance_iou"], BY_HAND["iou"], ATAN, strict=True)
]


@pytest.mark.parametrize("name", PAIRWISE)
def test_overlaps_in_hand_computed_fractions(name):
    pairwise, paired = PAIRWISE[name]
    expected = np.array(BY_HAND[name], np.float64)
    np.testing.assert_allclose(pairwise(A, B)[0], expected, rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(paired(np.repeat(A, 4, axis=0), B), expected, rtol=2e-6, atol=1e-7)


def test_conversions_by_hand():
    corners = np.float32([[1, 2, 5, 10]])
    np.testing.assert_array_equal(box.corner_to_center(corners), [[3, 6, 4, 8]])
    np.testing.assert_array_equal(box.center_to_corner(np.float32([[3, 6, 4, 8]])), corners)
    np.testing.assert_array_equal(box.corner_to_xywh(corners), [[1, 2, 4, 8]])
    np.testing.assert_array_equal(box.xywh_to_corner(np.float32([[1, 2, 4, 8]])), corners)
    np.testing.assert_array_equal(box.corner_to_yxyx(corners), [[2, 1, 10, 5]])
    np.testing.assert_array_equal(box.yxyx_to_corner(np.float32([[2, 1, 10, 5]])), corners)
    np.testing.assert_array_equal(box.area(corners), [32])


def test_pixels_and_fractions_by_hand():
    corners = np.float32([[0.25, 0.5, 0.75, 1.0]])
    height, width = size = (200, 400)
    np.testing.assert_array_equal(box.to_pixels(corners, size), [[100, 100, 300, 200]])
    np.testing.assert_array_equal(box.from_pixels(np.float32([[100, 100, 300, 200]]), size), corners)
    np.testing.assert_array_equal(box.coco_to_corner(np.float32([[100, 100, 200, 100]]), size), corners)
    np.testing.assert_array_equal(box.corner_to_coco(corners, size), [[100, 100, 200, 100]])
    np.testing.assert_array_equal(box.to_pixels(jnp.asarray(corners), jnp.array([height, width]))[0, 2], 300)


def test_flips_and_clip_by_hand():
    corners = np.float32([[0.25, 0.5, 0.5, 1.5]])
    np.testing.assert_array_equal(box.flip_horizontal(corners), [[0.5, 0.5, 0.75, 1.5]])
    np.testing.assert_array_equal(box.flip_vertical(corners), [[0.25, -0.5, 0.5, 0.5]])
    np.testing.assert_array_equal(box.clip(corners), [[0.25, 0.5, 0.5, 1.0]])


def test_iou_is_the_loop():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 1, (30, 2))
    corners = np.concatenate([low, low + rng.uniform(-0.1, 0.5, (30, 2))], axis=1).astype(np.float32)
    np.testing.assert_allclose(box.iou(corners, corners[:20]), oracles.iou(corners, corners[:20]), atol=2e-6)


def boxes(shape, dtype=np.float32):
    return np.random.default_rng(1).uniform(0, 1, (*shape, 4)).astype(dtype)


@pytest.mark.parametrize("name", UNARY)
def test_conversions_take_numpy_and_jax_of_any_leading_shape(name):
    convert = UNARY[name]
    x = boxes((2, 3))
    host, device = convert(x), jax.jit(convert)(x)
    assert type(host) is np.ndarray and isinstance(convert(jnp.asarray(x)), jax.Array)
    assert host.dtype == device.dtype == np.float32
    np.testing.assert_allclose(host, device, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(host[1], convert(x[1]))
    np.testing.assert_array_equal(host[1, 2], convert(x[1, 2]))
    assert convert(x[:0]).shape == host[:0].shape


@pytest.mark.parametrize("name", PAIRWISE)
def test_overlaps_take_numpy_and_jax(name):
    pairwise, paired = PAIRWISE[name]
    a, b = boxes((5,)), boxes((8,))[3:]
    host, device = pairwise(a, b), jax.jit(pairwise)(a, b)
    assert type(host) is np.ndarray and isinstance(pairwise(a, jnp.asarray(b)), jax.Array)
    assert host.dtype == device.dtype == np.float32
    np.testing.assert_allclose(host, device, atol=1e-6)
    np.testing.assert_array_equal(np.diag(host), paired(a, b))
    assert pairwise(a[:0], b).shape == (0, 5) and pairwise(a, b[:0]).shape == (5, 0)


@pytest.mark.parametrize("name", [*UNARY, *PAIRWISE])
def test_other_dtypes_are_widened(name):
    function = UNARY.get(name) or (lambda x: PAIRWISE[name][0](x, x))
    exact = boxes((4,), np.float64)
    assert function(exact).dtype == np.float64
    half = jnp.asarray(exact, jnp.bfloat16)
    np.testing.assert_array_equal(function(half), function(half.astype(jnp.float32)))
    assert function(half).dtype == jnp.float32
    whole = np.uint8([[250, 0, 2, 40], [1, 2, 3, 4]])
    np.testing.assert_array_equal(function(whole), function(whole.astype(np.float32)))


CORNERS = np.float32(
    [
        [0.2, 0.3, 0.5, 0.9],
        [0.2, 0.3, 0.5, 0.9],  # the same box
        [0.2, 0.3, 0.2, 0.9],  # no width
        [0.4, 0.4, 0.4, 0.4],  # a point
        [0.5, 0.9, 0.2, 0.3],  # inverted
        [0, 0, 0, 0],  # padding
        [0, 0, 1e-20, 1e-20],
        [0, 0, 1, 1e-25],
        [-4, -3, -2, -1],  # outside
        [0, 0, 1e9, 1e9],
        [-3e38, -3e38, 3e38, 3e38],
        [3e38, 3e38, -3e38, -3e38],
    ]
)


@pytest.mark.parametrize("name", PAIRWISE)
def test_overlaps_of_any_boxes_are_finite_and_so_are_their_gradients(name):
    pairwise, _ = PAIRWISE[name]
    value, slopes = jax.jit(jax.value_and_grad(lambda a, b: jnp.sum(pairwise(a, b)), argnums=(0, 1)))(
        CORNERS, CORNERS
    )
    chex.assert_tree_all_finite((value, slopes))
    host = pairwise(CORNERS, CORNERS)
    lowest = {"complete_iou": -2, "iou": 0, "intersection_over_foreground": 0}.get(name, -1)
    assert np.all(host >= lowest - 1e-6) and np.all(host <= 1 + 1e-6)


@pytest.mark.parametrize("name", UNARY)
def test_conversions_of_any_boxes_are_finite_and_so_are_their_gradients(name):
    value, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(UNARY[name](x))))(CORNERS)
    chex.assert_tree_all_finite((value, slope))


def test_boxes_without_area_overlap_nothing():
    np.testing.assert_array_equal(box.iou(CORNERS[2:6], CORNERS), 0)
    np.testing.assert_array_equal(box.area(CORNERS[2:6]), 0)


@pytest.mark.parametrize("name", ["iou", "generalized_iou", "distance_iou"])
def test_gradients_are_the_differences(name):
    _, paired = PAIRWISE[name]
    a, b = np.array([[0.1, 0.2, 0.5, 0.7]]), np.array([[0.3, 0.1, 0.8, 0.6]])
    slope = jax.grad(lambda a: jnp.sum(paired(a, jnp.float32(b))))(jnp.float32(a))
    for i in range(4):
        step = 1e-6 * np.eye(4)[i]
        difference = (paired(a + step, b) - paired(a - step, b)) / 2e-6
        np.testing.assert_allclose(slope[0, i], difference[0], rtol=1e-4)


def test_a_forgotten_vmap_or_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"a must have shape \[n, 4\]; got \[2, 3, 4\]"):
        box.iou(boxes((2, 3)), boxes((3,)))
    with pytest.raises(ValueError, match=r"b must have shape \[m, 4\]; got \[3, 5\]"):
        box.iou(boxes((3,)), np.zeros((3, 5), np.float32))
    with pytest.raises(ValueError, match=r"b must have shape \[3, 4\]; got \[2, 4\]"):
        box.paired_iou(boxes((3,)), boxes((2,)))
    with pytest.raises(ValueError, match=r"corners must have shape \[..., 4\]; got \[4, 3\]"):
        box.corner_to_center(np.zeros((4, 3), np.float32))
    with pytest.raises(ValueError, match=r"corners must have shape \[..., 4\]; got \[\]"):
        box.area(np.float32(0))
