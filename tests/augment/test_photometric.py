"""Compare colours with OpenCV's HSV, and test the two orders of Caffe's distortion."""

from dataclasses import replace

import caffe_augment as caffe
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.augment.options import AugmentOptions
from ssd_jax.augment.photometric import adjust_hsv, adjust_saturation, distort

hsv = jax.jit(adjust_hsv)


@pytest.fixture(scope="module")
def colours():
    """Make levels [n, 1, 3]: all corners and edges of the cube, greys, and random ones."""
    rng = np.random.default_rng(0)
    corners = np.stack(np.meshgrid(*[[0, 1, 127, 254, 255]] * 3), axis=-1).reshape(-1, 3)
    greys = np.repeat(np.arange(256)[:, None], 3, axis=1)
    return np.concatenate([corners, greys, rng.integers(0, 256, (4000, 3))]).astype(np.uint8)[:, None]


def planes(image):
    return [jnp.asarray(image[..., c], jnp.float32) for c in range(3)]


def opencvs_float_hsv(image, factor, degrees):
    hsv = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = np.minimum(hsv[..., 1] * factor, 1)
    hsv[..., 0] = np.maximum(hsv[..., 0] + degrees, 0) % 360
    return 255 * cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def opencvs_uint8_hsv(image, factor, units):
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 1] = caffe.saturate(hsv[..., 1] * factor)
    hsv[..., 0] = caffe.saturate(hsv[..., 0].astype(np.float32) + units)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB).astype(np.float32)


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("degrees", [-36.0, -7.3, 0.0, 11.0, 36.0])
def test_hsv_is_opencvs_in_float(colours, factor, degrees):
    got = np.stack(hsv(planes(colours), factor, degrees), axis=-1)
    np.testing.assert_allclose(got, opencvs_float_hsv(colours, factor, degrees), atol=0.01)


@pytest.mark.parametrize("factor", [0.5, 1.5])
@pytest.mark.parametrize("units", [-18, -4, 9, 18])
def test_hsv_is_opencvs_in_uint8_but_for_its_rounding_of_hue_to_two_degrees(colours, factor, units):
    got = np.stack(hsv(planes(colours), factor, 2.0 * units), axis=-1)
    error = np.abs(got - opencvs_uint8_hsv(colours, factor, units))
    hue = cv2.cvtColor(colours.astype(np.float32), cv2.COLOR_RGB2HSV)[..., 0]
    error = error[hue < 359]  # OpenCV rounds 359 degrees to 0, where a decrease stops
    assert error.max() < 7
    assert error.mean() < 1


@pytest.mark.parametrize("factor", [0.0, 0.5, 0.99, 1.0, 1.5, 9.0])
def test_saturation_alone_is_hsv_without_a_change_of_hue(colours, factor):
    got = adjust_saturation(planes(colours), factor)
    np.testing.assert_allclose(np.stack(got), np.stack(hsv(planes(colours), factor, 0.0)), atol=1e-3)


def test_a_hue_below_0_becomes_0():
    rgb = planes(np.array([[[255, 60, 0]]], np.uint8))  # 14 degrees
    np.testing.assert_allclose(np.stack(hsv(rgb, 1.0, -36.0)).ravel(), [255, 0, 0], atol=1e-3)


def fixed(**options):
    """Make options that always use contrast 1.5 and saturation 0.5, and those given."""
    always = {"contrast_probability": 1, "saturation_probability": 1}
    return replace(NO_AUGMENTATION, **always, contrast_range=(1.5, 1.5), saturation_range=(0.5, 0.5), **options)


@pytest.mark.parametrize("hue", [0, 1])
def test_contrast_comes_first_half_of_the_time(hue):
    colour = np.array([[[250, 100, 50]]], np.float32)
    first = opencvs_float_hsv(np.minimum(colour * 1.5, 255), 0.5, 0.0)
    last = np.minimum(opencvs_float_hsv(colour, 0.5, 0.0) * 1.5, 255)
    assert np.abs(first - last).max() > 10
    options = fixed(hue_probability=hue, hue_delta=0)
    keys = jax.random.split(jax.random.key(0), 1000)
    got = jax.jit(jax.vmap(lambda k: jnp.stack(distort(k, planes(colour), options=options), axis=-1)))(keys)
    is_first = np.abs(np.asarray(got) - first).max(axis=(1, 2, 3)) < 0.01
    is_last = np.abs(np.asarray(got) - last).max(axis=(1, 2, 3)) < 0.01
    assert (is_first ^ is_last).all()
    assert abs(is_first.mean() - 0.5) < 4.5 * np.sqrt(0.25 / 1000)


@pytest.mark.parametrize(
    ("name", "amount", "lowest", "highest"),
    [
        ("brightness", {"brightness_delta": 20}, 80, 120),
        ("contrast", {"contrast_range": (0.7, 1.2)}, 70, 120),
    ],
)
def test_levels_are_uniform_in_their_range_with_their_probability(name, amount, lowest, highest):
    options = replace(NO_AUGMENTATION, **{f"{name}_probability": 0.3}, **amount)
    keys = jax.random.split(jax.random.key(1), 3000)
    grey = [jnp.full((1, 1), 100.0)] * 3
    got = np.asarray(jax.jit(jax.vmap(lambda k: jnp.stack(distort(k, grey, options=options))))(keys))[:, :, 0, 0]
    assert (got == got[:, :1]).all()
    changed = got[got[:, 0] != 100, 0]
    assert abs(len(changed) / 3000 - 0.3) < 4.5 * np.sqrt(0.21 / 3000)
    ranks = (np.sort(changed) - lowest) / (highest - lowest)
    assert np.abs(ranks - np.linspace(0, 1, len(ranks))).max() < 2.7 / np.sqrt(len(ranks))  # Kolmogorov, 1e-6


def test_levels_stay_in_range(colours):
    keys = jax.random.split(jax.random.key(2), 50)
    got = jax.jit(jax.vmap(lambda k: jnp.stack(distort(k, planes(colours), options=AugmentOptions()))))(keys)
    assert got.min() >= 0
    assert got.max() <= 255
    assert jnp.isfinite(got).all()


def test_everything_off_is_the_identity(colours):
    got = distort(jax.random.key(0), planes(colours), options=NO_AUGMENTATION)
    np.testing.assert_array_equal(np.stack(got, axis=-1), colours.astype(np.float32))
