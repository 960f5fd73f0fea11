"""Compare the weight matrices with OpenCV's resize of an image that is cut out by hand."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.augment import INTERPOLATIONS, MEAN_COLOUR
from ssd_jax.augment.resample import axis_weights, resample

OPENCV = {
    "linear": cv2.INTER_LINEAR,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST_EXACT,
    "cubic": cv2.INTER_CUBIC,
    "lanczos4": cv2.INTER_LANCZOS4,
}
HEIGHT, WIDTH = 41, 53


@partial(jax.jit, static_argnames=("canvas", "size", "interpolations"))
def weights(start, stop, length, *, canvas, size, interpolations, choice=0):
    return axis_weights(start, stop, length, canvas=canvas, size=size, interpolations=interpolations, choice=choice)


def ours(image, window, size, interpolation):
    """Put `image` [h, w, 3] minus the mean on a canvas of garbage, and resample `window`, in pixels."""
    h, w, _ = image.shape
    planes = np.full((64, 60, 3), 1e4, np.float32)
    planes[:h, :w] = image - np.array(MEAN_COLOUR, np.float32)
    left, top, right, bottom = (np.float32(v) for v in window)
    rows = weights(top, bottom, np.int32(h), canvas=64, size=size, interpolations=(interpolation,))
    columns = weights(left, right, np.int32(w), canvas=60, size=size, interpolations=(interpolation,))
    return np.asarray(resample(rows, jnp.asarray(planes.transpose(0, 2, 1)), columns))


def opencvs(image, window, size, interpolation):
    """Cut the window out of the image, or of the mean colour around it, and let OpenCV resize it."""
    margin = 200
    mean = np.array(MEAN_COLOUR, np.float32)
    expanded = np.pad(image - mean, ((margin, margin), (margin, margin), (0, 0)))
    left, top, right, bottom = (int(v) + margin for v in window)
    return cv2.resize(expanded[top:bottom, left:right], (size, size), interpolation=OPENCV[interpolation])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((0, 0, WIDTH, HEIGHT), 20),  # shrink the whole image
        ((0, 0, WIDTH, HEIGHT), 72),  # enlarge it
        ((7, 5, 28, 32), 72),  # enlarge a crop
        ((7, 5, 49, 40), 20),  # shrink a crop
        ((-37, -11, 103, 81), 72),  # expanded
        ((-37, -11, 14, 23), 72),  # expanded, then cropped
        ((-89, -60, -10, 11), 20),  # nothing but the mean colour to the left
    ],
)
def test_a_window_of_whole_pixels_is_opencvs_resize(interpolation, window, size):
    image = np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    got = ours(image, window, size, interpolation)
    np.testing.assert_allclose(got, opencvs(image, window, size, interpolation), atol=4e-3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_reversed_window_mirrors(interpolation):
    image = np.random.default_rng(1).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    left, top, right, bottom = -5.3, 2.2, 40.9, 44.7
    plain = ours(image, (left, top, right, bottom), 72, interpolation)
    mirrored = ours(image, (right, top, left, bottom), 72, interpolation)
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=6e-3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_weights_sum_to_one_inside_the_image_and_never_use_the_rest_of_the_canvas(interpolation):
    shape = {"canvas": 64, "size": 72, "interpolations": (interpolation,)}
    inside = weights(np.float32(3.7), np.float32(38.9), np.int32(40), **shape)
    np.testing.assert_allclose(inside.sum(axis=1), 1, atol=1e-6)
    beyond = weights(np.float32(-30), np.float32(90), np.int32(40), **shape)
    assert not beyond[:, 40:].any()
    np.testing.assert_array_equal(beyond.sum(axis=1)[np.array([0, -1])], 0)
    np.testing.assert_allclose(beyond.sum(axis=1)[25], 1, atol=1e-6)


def test_the_choice_is_among_the_interpolations_as_given():
    shape = {"canvas": 60, "size": 72}
    names = ("cubic", "area", "linear", "lanczos4", "nearest")
    for place, name in enumerate(names):
        among = weights(np.float32(-3), np.float32(50), np.int32(40), interpolations=names, choice=place, **shape)
        alone = weights(np.float32(-3), np.float32(50), np.int32(40), interpolations=(name,), **shape)
        np.testing.assert_allclose(among, alone, atol=1e-6)


def test_a_window_that_ends_a_rounding_error_beyond_the_image_does_not_fade_its_border():
    shape = {"canvas": 64, "size": 72, "interpolations": ("linear",)}
    w = weights(np.float32(-1e-5), np.float32(40.00001), np.int32(40), **shape)
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-6)


def rounded(x, bits):
    """Round to so many significant bits, as bfloat16 (8) and TensorFloat32 (11) do."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)


def one_pass(a, b, bits):
    return rounded(a, bits) @ rounded(b, bits)


def three_passes(a, b):
    rest = a - rounded(a, 8), b - rounded(b, 8)
    return one_pass(a, b, 8) + one_pass(rest[0], b, 8) + one_pass(a, rest[1], 8)


@pytest.mark.parametrize(
    ("product", "low", "high"),
    [
        (three_passes, 0, 0.01),
        (partial(one_pass, bits=11), 0.05, 0.2),
        (partial(one_pass, bits=8), 0.9, 2),
    ],
)
def test_levels_change_by_what_the_precision_of_the_accelerator_leaves(product, low, high):
    random = np.random.default_rng(0)
    plane = random.integers(-123, 152, (64, 60)).astype(float)
    worst = 0
    for _ in range(20):
        start = random.uniform(0, 20, 2).astype(np.float32)
        stop = start + random.uniform(5, 40, 2).astype(np.float32)
        rows, columns = (
            np.asarray(weights(*place, np.int32(50), canvas=side, size=100, interpolations=("linear",)), float)
            for *place, side in zip(start, stop, plane.shape, strict=True)
        )
        exact = rows @ plane @ columns.T
        worst = max(worst, np.abs(product(product(rows, plane), columns.T) - exact).max())
    assert low <= worst < high
