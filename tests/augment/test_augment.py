"""The whole of `augment`: geometry through the resampler, invariances, and what it refuses."""

from dataclasses import replace
from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.augment import INTERPOLATIONS, MEAN_COLOUR, NO_AUGMENTATION, AugmentOptions, augment

MEAN = np.array(MEAN_COLOUR, np.float32)
SIZE = 48
GEOMETRY = AugmentOptions(
    brightness_probability=0, contrast_probability=0, saturation_probability=0, hue_probability=0, expand_ratio=2
)


def picture(seed=0, *, height=40, width=60, canvas=64, padding=2):
    """image, size, boxes, labels: noise, three objects and padding rows."""
    rng = np.random.default_rng(seed)
    image = np.zeros((canvas, canvas, 3), np.uint8)
    image[:height, :width] = rng.integers(0, 256, (height, width, 3))
    corner = rng.uniform(0, 0.6, (3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, (3, 2))], axis=1)
    boxes = np.concatenate([boxes, np.zeros((padding, 4))]).astype(np.float32)
    labels = np.array([1, 2, 3] + [0] * padding, np.int32)
    return image, np.array([height, width], np.int32), boxes, labels


def one(options, *, size=SIZE):
    return jax.jit(partial(augment, image_size=size, options=options))


def many(options, count, *, size=SIZE, seed=0):
    """`augment` of one picture with `count` keys."""
    keys = jax.random.split(jax.random.key(seed), count)
    f = jax.jit(jax.vmap(partial(augment, image_size=size, options=options), in_axes=(0, None, None, None, None)))
    return lambda *example: [np.asarray(x) for x in f(keys, *example)]


def test_no_augmentation_is_the_linear_warp_of_evaluation():
    image, size, boxes, labels = picture()
    got, got_boxes, got_labels = one(NO_AUGMENTATION)(jax.random.key(0), image, size, boxes, labels)
    warped = cv2.resize(image[:40, :60].astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(got, warped - MEAN, atol=2e-3)
    np.testing.assert_allclose(got_boxes, boxes, atol=1e-6)
    np.testing.assert_array_equal(got_labels, labels)
    assert got.dtype == got_boxes.dtype == jnp.float32
    assert got_labels.dtype == jnp.int32


def crossings(profile, level):
    """Where a profile crosses the level upwards and then downwards, in pixels whose centres lie at halves."""
    up, down = np.flatnonzero(np.diff(profile > level))
    at = [i + 0.5 + (level - profile[i]) / (profile[i + 1] - profile[i]) for i in (up, down)]
    return np.array(at)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_drawn_rectangle_lands_on_the_moved_box(interpolation):
    """White on dark grey with corners on whole pixels; its edges in the result, to a fraction of a pixel."""
    height, width, size = 80, 110, 96
    image = np.full((128, 128, 3), 65, np.uint8)
    left, top, right, bottom = 23, 31, 67, 58
    image[top:bottom, left:right] = 255
    box = np.array([[left / width, top / height, right / width, bottom / height]], np.float32)
    options = replace(
        GEOMETRY, expand_probability=1, crop_min_ious=(0.1, 0.3, 0.5, 0.0), interpolations=(interpolation,)
    )
    images, boxes, labels = many(options, 200, size=size)(
        image, np.array([height, width], np.int32), box, np.array([1], np.int32)
    )
    errors = []
    for picture_, moved in zip(images[labels[:, 0] == 1], boxes[labels[:, 0] == 1, 0], strict=True):
        if moved.min() < 0.03 or moved.max() > 0.97:  # clipped
            continue
        levels = picture_[:, :, 0] + MEAN[0]
        column, row = (((moved[:2] + moved[2:]) / 2) * size).astype(int)
        x = crossings(levels[row], 160) - moved[[0, 2]] * size
        y = crossings(levels[:, column], 160) - moved[[1, 3]] * size
        errors.append([x[0], y[0], x[1], y[1]])
    errors = np.array(errors)
    assert len(errors) > 60
    assert np.abs(errors).max() < 0.51
    standard_error = errors.std(axis=0) / np.sqrt(len(errors))
    assert (np.abs(errors.mean(axis=0)) < 4.5 * standard_error + 0.01).all()
    assert standard_error.max() < 0.05


def test_boxes_are_inside_and_in_order_and_gone_ones_are_zero():
    example = picture()
    _, boxes, labels = many(AugmentOptions(interpolations=("linear",)), 500, size=8)(*example)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    kept = labels > 0
    assert (boxes[kept][:, 2:] > boxes[kept][:, :2]).all()
    assert not boxes[~kept].any()
    assert 0.5 < kept[:, :3].mean() < 0.95
    assert not labels[:, 3:].any()
    np.testing.assert_array_equal(np.where(kept, labels, example[3][None]), np.tile(example[3], (500, 1)))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_mirroring_twice_is_the_identity(interpolation):
    example = picture()
    options = replace(GEOMETRY, interpolations=(interpolation,), mirror_probability=0)
    image, boxes, labels = many(options, 20)(*example)
    mirrored, mirrored_boxes, mirrored_labels = many(replace(options, mirror_probability=1), 20)(*example)
    np.testing.assert_allclose(mirrored[:, :, ::-1], image, atol=0.02)
    back = np.stack([1 - mirrored_boxes[..., i] if i % 2 == 0 else mirrored_boxes[..., i] for i in (2, 1, 0, 3)], -1)
    np.testing.assert_allclose(np.where(labels[..., None] > 0, back, 0), boxes, atol=1e-6)
    np.testing.assert_array_equal(mirrored_labels, labels)


def test_padding_rows_change_nothing():
    few, more = picture(padding=0), picture(padding=9)
    for a, b in zip(many(AugmentOptions(), 20)(*few), many(AugmentOptions(), 20)(*more), strict=True):
        np.testing.assert_array_equal(b if b.ndim == 4 else b[:, :3], a)


def test_what_padding_rows_hold_changes_nothing():
    image, size, boxes, labels = picture()
    dirty = np.where((labels > 0)[:, None], boxes, np.array([0.1, 0.1, 0.9, 0.9], np.float32))
    f = many(GEOMETRY, 20)
    for a, b in zip(f(image, size, boxes, labels), f(image, size, dirty, labels), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_canvas_around_the_picture_changes_nothing():
    small = picture(canvas=60)
    large, size, boxes, labels = picture(canvas=96)
    large[40:] = 255
    large[:, 60:] = 77
    got = many(AugmentOptions(), 20)(*small)
    for a, b in zip(got, many(AugmentOptions(), 20)(large, size, boxes, labels), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_one_key_gives_one_result_eager_or_jitted_vmapped_or_looped():
    example = picture()
    options = AugmentOptions(crop_trials=10)
    batch = many(options, 8, seed=5)(*example)
    keys = jax.random.split(jax.random.key(5), 8)
    for i, key in enumerate(keys):
        for a, b in zip(one(options)(key, *example), batch, strict=True):
            np.testing.assert_allclose(a, b[i], atol=2e-3)
    for a, b in zip(augment(keys[0], *example, image_size=SIZE, options=options), batch, strict=True):
        np.testing.assert_allclose(a, b[0], atol=2e-3)
    for a, b in zip(many(options, 8, seed=5)(*example), batch, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(batch[0][0] - batch[0][1]).max() > 10


def test_each_picture_draws_one_of_the_interpolations():
    example = picture()
    options = replace(GEOMETRY, expand_probability=0, crop_min_ious=())
    drawn, *_ = many(options, 400)(*example)
    singles = [many(replace(options, interpolations=(name,)), 400)(*example)[0] for name in INTERPOLATIONS]
    same = np.stack([np.abs(drawn - s).max(axis=(1, 2, 3)) < 1e-3 for s in singles])
    assert (same.sum(axis=0) == 1).all()
    assert np.abs(same.mean(axis=1) - 0.2).max() < 4.5 * np.sqrt(0.16 / 400)


def test_levels_stay_what_a_screen_can_show():
    images, *_ = many(AugmentOptions(interpolations=("cubic", "lanczos4")), 50)(*picture())
    assert (images + MEAN).min() >= -1e-4
    assert (images + MEAN).max() <= 255 + 1e-4


def test_a_picture_without_objects_is_never_cropped():
    image, size, _, _ = picture()
    options = replace(GEOMETRY, expand_probability=0, mirror_probability=0, interpolations=("linear",))
    for none in (0, 3):
        got, boxes, labels = many(options, 30)(image, size, np.zeros((none, 4), np.float32), np.zeros(none, np.int32))
        assert np.ptp(got, axis=0).max() == 0
        assert not boxes.any()
        assert not labels.any()


def test_around_an_expanded_picture_lies_exactly_the_mean():
    image, size, boxes, labels = picture()
    options = replace(NO_AUGMENTATION, expand_probability=1, expand_ratio=4)
    images, *_ = many(options, 50)(np.full_like(image, 255), size, boxes, labels)
    share = (images == 0).all(axis=-1).mean(axis=(1, 2))  # 1 - 1 / ratio^2, ratio uniform in 1..4: 0.75 on average
    assert abs(share.mean() - 0.75) < 0.12
    np.testing.assert_allclose(images.max(axis=(1, 2)), np.tile(255 - MEAN, (50, 1)), atol=1e-3)


def test_a_batch_that_was_not_vmapped_is_refused():
    image, size, boxes, labels = picture()
    message = r"one picture, image \[S, S, 3\].*vmap it.*got \(2, 64, 64, 3\)"
    with pytest.raises(ValueError, match=message):
        augment(jax.random.key(0), np.stack([image] * 2), size, boxes, labels, image_size=8, options=NO_AUGMENTATION)
