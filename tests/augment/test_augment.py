"""Tests of the whole of `augment`: geometry, invariances, and the errors."""

from dataclasses import replace
from functools import cache, partial

import caffe_augment as caffe
import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_bounds import Z, assert_same_distribution, assert_same_rate

from ssd_jax.augment import INTERPOLATIONS, MEAN_COLOUR, NO_AUGMENTATION, AugmentOptions, augment
from ssd_jax.sides import sides_of

MEAN = np.array(MEAN_COLOUR, np.float32)
SIZE, KEYS = 48, 300
GEOMETRY = AugmentOptions(
    brightness_probability=0,
    contrast_probability=0,
    saturation_probability=0,
    hue_probability=0,
    expand_ratio=2,
    interpolations=("linear",),
)


def make_image(*, canvas=64, padding=2):
    """Return image, size, boxes and labels: noise, three objects and padding rows."""
    rng = np.random.default_rng(0)
    image = np.zeros((canvas, canvas, 3), np.uint8)
    image[:40, :60] = rng.integers(0, 256, (40, 60, 3))
    corner = rng.uniform(0, 0.6, (3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (3, 2))], axis=1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype(np.float32)
    labels = np.array([1, 2, 3] + [0] * padding, np.int32)
    return image, np.array([40, 60], np.int32), boxes, labels


def many(options, *example, size=SIZE):
    """Augment one image with each of the keys."""
    keys = jax.random.split(jax.random.key(0), KEYS)
    return [np.asarray(x) for x in compiled(options, size)(keys, *example)]


@cache
def compiled(options, size):
    one = partial(augment, image_size=size, options=options)
    return jax.jit(jax.vmap(one, in_axes=(0, None, None, None, None)))


def test_no_augmentation_is_the_linear_warp_of_evaluation():
    image, size, boxes, labels = make_image()
    got, got_boxes, got_labels = augment(
        jax.random.key(0), image, size, boxes, labels, image_size=SIZE, options=NO_AUGMENTATION
    )
    warped = cv2.resize(image[:40, :60].astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(got, warped - MEAN, atol=2e-3)
    np.testing.assert_allclose(got_boxes, boxes, atol=1e-6)
    np.testing.assert_array_equal(got_labels, labels)
    assert got.dtype == got_boxes.dtype == jnp.float32
    assert got_labels.dtype == jnp.int32


def crossings(profile, level):
    """Return where a profile crosses the level upwards and then downwards, in pixels whose centres lie at halves."""
    up, down = np.flatnonzero(np.diff(profile > level))
    at = [i + 0.5 + (level - profile[i]) / (profile[i + 1] - profile[i]) for i in (up, down)]
    return np.array(at)


@pytest.mark.parametrize("size", [96, (70, 120)])
def test_a_drawn_rectangle_lands_on_the_moved_box(size):
    """Draw white on dark grey, with corners on whole pixels, and find the edges in the result, also between pixels.

    The image is always expanded, often cropped, half the time mirrored, and resampled in all five ways.
    """
    height, width = 80, 110
    result = np.array(sides_of(size)[::-1])  # (width, height)
    image = np.full((128, 128, 3), 65, np.uint8)
    left, top, right, bottom = 23, 31, 67, 58
    image[top:bottom, left:right] = 255
    box = np.array([[left / width, top / height, right / width, bottom / height]], np.float32)
    options = replace(
        GEOMETRY, expand_probability=1, crop_min_ious=(0.1, 0.3, 0.5, 0.0), interpolations=INTERPOLATIONS
    )
    results = many(options, image, np.array([height, width], np.int32), box, np.array([1], np.int32), size=size)
    errors = []
    for levels, (moved,), (label,) in zip(*results, strict=True):
        if label == 0 or moved.min() < 0.03 or moved.max() > 0.97:  # removed or clipped
            continue
        levels = levels[:, :, 0] + MEAN[0]
        column, row = (((moved[:2] + moved[2:]) / 2) * result).astype(int)
        x = crossings(levels[row], 160) - moved[[0, 2]] * result[0]
        y = crossings(levels[:, column], 160) - moved[[1, 3]] * result[1]
        errors.append([x[0], y[0], x[1], y[1]])
    errors = np.array(errors)
    assert len(errors) > 100
    assert np.abs(errors).max() < 0.51  # "nearest" cannot do better
    standard_error = errors.std(axis=0) / np.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < Z * standard_error).all()
    assert standard_error.max() < 0.02


def test_boxes_are_inside_and_in_order_and_removed_ones_are_zero():
    example = make_image()
    _, boxes, labels = many(AugmentOptions(), *example)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    kept = labels > 0
    assert (boxes[kept][:, 2:] > boxes[kept][:, :2]).all()
    assert not boxes[~kept].any()
    assert 0.5 < kept[:, :3].mean() < 0.95
    assert not labels[:, 3:].any()
    np.testing.assert_array_equal(np.where(kept, labels, example[3][None]), np.tile(example[3], (KEYS, 1)))


def test_half_of_the_images_are_mirrored_and_mirroring_twice_is_the_identity():
    example = make_image()
    images, boxes, labels = many(GEOMETRY, *example)
    mirrored, mirrored_boxes, mirrored_labels = many(replace(GEOMETRY, mirror_probability=1), *example)
    np.testing.assert_array_equal(mirrored_labels, labels)
    is_mirrored = (images == mirrored).all(axis=(1, 2, 3))
    assert abs(is_mirrored.mean() - 0.5) < Z * np.sqrt(0.25 / KEYS)
    np.testing.assert_array_equal(mirrored_boxes[is_mirrored], boxes[is_mirrored])
    np.testing.assert_allclose(mirrored[~is_mirrored, :, ::-1], images[~is_mirrored], atol=0.02)
    left, top, right, bottom = np.moveaxis(mirrored_boxes, -1, 0)
    back = np.where(labels[..., None] > 0, np.stack([1 - right, top, 1 - left, bottom], axis=-1), 0)
    np.testing.assert_allclose(back[~is_mirrored], boxes[~is_mirrored], atol=1e-6)


def test_images_and_boxes_are_distributed_as_caffes():
    """Compare which objects stay, where they lie, and the images' mean and contrast with the reference of Caffe."""
    image, (height, width), boxes, labels = make_image()
    images, moved, kept = many(AugmentOptions(), *make_image())
    rng = np.random.default_rng(0)
    valid = boxes[labels > 0], labels[labels > 0]
    reference = [caffe.augment(rng, image[:height, :width], *valid, image_size=SIZE) for _ in range(KEYS)]

    for k in (1, 2, 3):
        assert_same_rate((kept == k).any(axis=1), np.array([k in found for _, _, found in reference]))
        box = np.array([b[found == k][0] for _, b, found in reference if k in found])
        for ours, expected in zip(moved[kept == k].T, box.T, strict=True):
            assert_same_distribution(ours, expected)

    caffes = np.stack([levels for levels, _, _ in reference])
    for measure in (np.mean, np.std):
        assert_same_distribution(measure(images, axis=(1, 2, 3)), measure(caffes, axis=(1, 2, 3)))


def test_padding_rows_change_nothing():
    few, more = many(GEOMETRY, *make_image()), many(GEOMETRY, *make_image(padding=9))
    for a, b in zip(few, more, strict=True):
        np.testing.assert_array_equal(b if b.ndim == 4 else b[:, :5], a)


def test_the_values_in_padding_rows_change_nothing():
    image, size, boxes, labels = make_image()
    filled = np.where((labels > 0)[:, None], boxes, np.array([0.1, 0.1, 0.9, 0.9], np.float32))
    expected = many(AugmentOptions(), image, size, boxes, labels)
    for a, b in zip(expected, many(AugmentOptions(), image, size, filled, labels), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_canvas_around_the_image_changes_nothing():
    image, *rest = make_image()
    filled = image.copy()
    filled[40:] = 255
    filled[:, 60:] = 77
    for a, b in zip(many(AugmentOptions(), image, *rest), many(AugmentOptions(), filled, *rest), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_larger_canvas_changes_nothing():
    small, large = many(GEOMETRY, *make_image(canvas=64)), many(GEOMETRY, *make_image(canvas=96))
    for a, b in zip(small, large, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_one_key_gives_one_result_jitted_and_vmapped_or_eager_and_one_by_one():
    example = make_image()
    batch = many(AugmentOptions(), *example)
    for i, key in enumerate(jax.random.split(jax.random.key(0), KEYS)[:4]):
        alone = augment(key, *example, image_size=SIZE, options=AugmentOptions())
        for a, b in zip(alone, batch, strict=True):
            np.testing.assert_allclose(a, b[i], atol=2e-3)
    for a, b in zip(many(AugmentOptions(), *example), batch, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(batch[0][0] - batch[0][1]).max() > 10


def test_each_image_draws_one_of_the_interpolations():
    options = replace(NO_AUGMENTATION, interpolations=INTERPOLATIONS)
    images, *_ = many(options, *make_image())
    _, counts = np.unique(images.reshape(KEYS, -1), axis=0, return_counts=True)
    assert len(counts) == 5
    assert np.abs(counts / KEYS - 0.2).max() < Z * np.sqrt(0.16 / KEYS)


def test_levels_stay_in_0_to_255():
    images, *_ = many(AugmentOptions(), *make_image())
    assert (images + MEAN).min() >= -1e-4
    assert (images + MEAN).max() <= 255 + 1e-4


def test_an_image_without_objects_is_never_cropped():
    image, size, *_ = make_image()
    options = replace(GEOMETRY, expand_probability=0, mirror_probability=0)
    got, boxes, labels = many(options, image, size, np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    assert np.ptp(got, axis=0).max() == 0
    assert boxes.shape == (KEYS, 0, 4)
    assert labels.shape == (KEYS, 0)


def test_around_an_expanded_image_lies_exactly_the_mean():
    image, size, boxes, labels = make_image()
    options = replace(NO_AUGMENTATION, expand_probability=1, expand_ratio=4)
    images, *_ = many(options, np.full_like(image, 255), size, boxes, labels)
    share = (images == 0).all(axis=-1).mean(axis=(1, 2))  # 1 - 1 / ratio^2, ratio uniform in 1..4: 0.75 on average
    assert abs(share.mean() - 0.75) < Z * share.std() / np.sqrt(KEYS) + 0.02  # minus a border of one pixel
    np.testing.assert_allclose(images.max(axis=(1, 2)), np.tile(255 - MEAN, (KEYS, 1)), atol=1e-3)


@pytest.mark.parametrize("name", ["image", "size", "boxes", "labels"])
def test_an_array_of_a_batch_that_is_not_vmapped_is_refused_by_name(name):
    arrays = dict(zip(("image", "size", "boxes", "labels"), make_image(), strict=True))
    arrays[name] = np.stack([arrays[name]] * 2)
    message = rf"^{name} must have shape \[.*\], one image's \(vmap a batch\); got \[{arrays[name].shape[0]}, .*\]$"
    with pytest.raises(ValueError, match=message):
        augment(jax.random.key(0), *arrays.values(), image_size=8, options=NO_AUGMENTATION)
