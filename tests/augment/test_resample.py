"""The weight matrices against OpenCV's own resize on a picture cut out by hand."""

import cv2
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


def weights(start, stop, length, *, canvas, size, interpolation):
    return axis_weights(
        jnp.float32(start),
        jnp.float32(stop),
        jnp.int32(length),
        canvas=canvas,
        size=size,
        interpolations=(interpolation,),
        choice=jnp.int32(0),
    )


def ours(image, window, size, interpolation, *, canvas):
    """`image` [h, w, 3] less the mean, on a canvas of garbage, resampled from `window` in pixels."""
    h, w, _ = image.shape
    planes = np.full((*canvas, 3), 1e4, np.float32)
    planes[:h, :w] = image - np.array(MEAN_COLOUR, np.float32)
    left, top, right, bottom = window
    rows = weights(top, bottom, h, canvas=canvas[0], size=size, interpolation=interpolation)
    columns = weights(left, right, w, canvas=canvas[1], size=size, interpolation=interpolation)
    return np.asarray(resample(rows, jnp.asarray(planes.transpose(0, 2, 1)), columns))


def opencvs(image, window, size, interpolation):
    """Cut the window out of the picture, or of the mean colour around it, and let OpenCV resize it."""
    margin = 200
    mean = np.array(MEAN_COLOUR, np.float32)
    expanded = np.pad(image - mean, ((margin, margin), (margin, margin), (0, 0)))
    left, top, right, bottom = (int(v) + margin for v in window)
    return cv2.resize(expanded[top:bottom, left:right], (size, size), interpolation=OPENCV[interpolation])


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    ("window", "size"),
    [
        ((0, 0, WIDTH, HEIGHT), 29),  # shrink the whole picture
        ((0, 0, WIDTH, HEIGHT), 71),  # enlarge it
        ((7, 5, 28, 32), 71),  # enlarge a crop
        ((7, 5, 49, 40), 19),  # shrink a crop
        ((-37, -11, 103, 81), 71),  # expanded
        ((-37, -11, 14, 23), 97),  # expanded, then cropped
        ((-90, -60, -10, 10), 33),  # nothing but the mean colour to the left
    ],
)
def test_a_window_of_whole_pixels_is_opencvs_resize(interpolation, window, size):
    image = np.random.default_rng(0).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    got = ours(image, window, size, interpolation, canvas=(64, 60))
    np.testing.assert_allclose(got, opencvs(image, window, size, interpolation), atol=4e-3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_reversed_window_mirrors(interpolation):
    image = np.random.default_rng(1).uniform(0, 255, (HEIGHT, WIDTH, 3)).astype(np.float32)
    left, top, right, bottom = -5.3, 2.2, 40.9, 44.7
    plain = ours(image, (left, top, right, bottom), 37, interpolation, canvas=(64, 60))
    mirrored = ours(image, (right, top, left, bottom), 37, interpolation, canvas=(64, 60))
    np.testing.assert_allclose(mirrored, plain[:, ::-1], atol=6e-3)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_weights_sum_to_one_inside_the_picture_and_never_use_the_rest_of_the_canvas(interpolation):
    w = np.asarray(weights(3.7, 38.9, 40, canvas=64, size=50, interpolation=interpolation))
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-6)
    beyond = np.asarray(weights(-30.0, 90.0, 40, canvas=64, size=50, interpolation=interpolation))
    assert not beyond[:, 40:].any()
    assert beyond.sum(axis=1).min() < 0.01
    np.testing.assert_allclose(beyond.sum(axis=1).max(), 1, atol=1e-6 if interpolation != "lanczos4" else 0.2)


def test_a_window_that_ends_a_rounding_error_beyond_the_picture_does_not_fade_its_border():
    w = np.asarray(weights(-1e-5, 40.00001, 40, canvas=64, size=300, interpolation="linear"))
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-6)
