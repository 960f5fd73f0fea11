"""Expand, crop and mirror as one window, and the boxes as that window sees them.

A window is `[left, top, right, bottom]`: the places in the image, as fractions of its sides, that become the sides
of the result. It may lie partly outside the image (expanded), and one whose left exceeds its right mirrors.
"""

import math

import jax
import jax.numpy as jnp

from ssd_jax.box import iou


def sample_window(key, boxes, valid, *, options):
    """Caffe's expand, batch samplers and mirror, composed.

    Args:
        key: a JAX random key.
        boxes: float32 [G, 4] corners, fractions of the image.
        valid: bool [G], False for padding.
        options: `AugmentOptions`.

    Returns:
        float32 [4], a window.
    """
    expand_key, crop_key, mirror_key = jax.random.split(key, 3)
    window = jnp.array([0.0, 0.0, 1.0, 1.0], jnp.float32)
    if options.expand_probability:
        window = sample_expansion(expand_key, options=options)
    if options.crop_min_ious:
        crop = sample_crop(crop_key, through_window(boxes, window), valid, options=options)
        window = compose(window, crop)
    if options.mirror_probability:
        mirrored = jax.random.uniform(mirror_key) < options.mirror_probability
        window = jnp.where(mirrored, window[jnp.array([2, 1, 0, 3])], window)
    return window


def sample_expansion(key, *, options):
    """The window of Caffe's `ExpandImage`: 1 to `expand_ratio` times as large, the image anywhere inside it."""
    chance, amount, *offset = jax.random.uniform(key, (4,))
    ratio = jnp.where(chance < options.expand_probability, 1 + amount * (options.expand_ratio - 1), 1.0)
    top_left = -jnp.stack(offset) * (ratio - 1)
    return jnp.concatenate([top_left, top_left + ratio])


def sample_crop(key, boxes, valid, *, options):
    """One of the successful samplers' windows, or the whole, each with the same chance.

    Args:
        key: a JAX random key.
        boxes: float32 [G, 4] corners, fractions of what is cropped.
        valid: bool [G].
        options: `AugmentOptions`.

    Returns:
        float32 [4], a window.
    """
    trials_key, choice_key = jax.random.split(key)
    windows, success = crop_candidates(trials_key, boxes, valid, options=options)
    whole = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
    windows = jnp.concatenate([whole, windows])  # [1 + samplers, 4]
    return windows[choose(choice_key, jnp.concatenate([jnp.array([True]), success]))]


def choose(key, among):
    """The index of one of the true entries of `among` [n], each with the same chance; at least one must be true."""
    rank = jnp.cumsum(among.astype(jnp.float32))  # a true entry's place among them, from 1
    return jnp.argmax(rank > jax.random.uniform(key) * rank[-1])


def crop_candidates(key, boxes, valid, *, options):
    """Each sampler's first window that overlaps some valid box enough (Caffe's `GenerateSamples`).

    Without a valid box no sampler succeeds, not even the one that asks for an IoU of 0.

    Returns:
        (windows [samplers, 4], success [samplers]); a window means nothing where its sampler failed.
    """
    samplers = len(options.crop_min_ious)
    wanted = jnp.array(options.crop_min_ious, jnp.float32)
    windows = random_windows(key, (samplers, options.crop_trials), options=options)  # [samplers, trials, 4]
    overlap = iou(windows.reshape(-1, 4), boxes)  # [samplers * trials, G]
    best = jnp.where(valid[None, :], overlap, -1.0).max(axis=1, initial=-1.0).reshape(samplers, -1)
    enough = best >= wanted[:, None]  # [samplers, trials]
    first = enough.argmax(axis=1)
    return jnp.take_along_axis(windows, first[:, None, None], axis=1)[:, 0], enough.any(axis=1)


def random_windows(key, shape, *, options):
    """Windows inside the unit square, float32 [*shape, 4] (Caffe's `SampleBBox`)."""
    # Drawn flat: XLA takes seconds to compile random numbers of three axes.
    scale, aspect, *offset = jax.random.uniform(key, (4 * math.prod(shape),)).reshape(4, *shape)
    scale = options.crop_scale[0] + scale * (options.crop_scale[1] - options.crop_scale[0])
    aspect = options.crop_aspect[0] + aspect * (options.crop_aspect[1] - options.crop_aspect[0])
    root = jnp.sqrt(jnp.clip(aspect, scale**2, scale**-2))
    sides = jnp.minimum(jnp.stack([scale * root, scale / root], axis=-1), 1.0)  # [*shape, 2]
    top_left = jnp.stack(offset, axis=-1) * (1 - sides)
    return jnp.concatenate([top_left, top_left + sides], axis=-1)


def compose(outer, inner):
    """`inner`, given in fractions of `outer`, in the coordinates that `outer` is given in. [4], [4] -> [4]."""
    origin, size = jnp.tile(outer[:2], 2), jnp.tile(outer[2:] - outer[:2], 2)
    return origin + inner * size


def through_window(boxes, window):
    """The corners [G, 4] as fractions of the window [4], still ordered if it mirrors; not clipped, not dropped."""
    origin, size = window[:2], window[2:] - window[:2]
    ends = (boxes.reshape(-1, 2, 2) - origin[None, None]) / size[None, None]  # [G, 2 corners, xy]
    return jnp.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)


def move_boxes(boxes, labels, window):
    """What the window shows of the boxes: moved and clipped, and gone where the box's centre is outside.

    Args:
        boxes: float32 [G, 4] corners, fractions of the image.
        labels: int [G], 0 for padding.
        window: float32 [4].

    Returns:
        (boxes [G, 4] fractions of the window, labels [G]); both are 0 where a box is gone or was padding.
    """
    moved = through_window(boxes, window)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    inside = ((centre >= 0) & (centre <= 1)).all(axis=1)
    moved = jnp.clip(moved, 0, 1)
    has_area = (moved[:, 2:] > moved[:, :2]).all(axis=1)
    keep = (labels > 0) & inside & has_area  # [G]
    return jnp.where(keep[:, None], moved, 0.0), jnp.where(keep, labels, 0)
