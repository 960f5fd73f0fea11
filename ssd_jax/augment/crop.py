"""Expand, crop and mirror an image as one window, and move its boxes into that window.

A window is `[left, top, right, bottom]`: the part of the image that becomes the result, in fractions of the image's
sides. It reaches beyond the image where the image is expanded; its left exceeds its right where it mirrors.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssd_jax.augment.options import AugmentOptions
from ssd_jax.box import iou


def sample_window(key: jax.Array, boxes: jax.Array, valid: jax.Array, *, options: AugmentOptions) -> jax.Array:
    """Draw a window: Caffe's expansion, batch samplers and mirror in one.

    Args:
      key: a JAX random key.
      boxes: float32 [G, 4] corners, fractions of the image.
      valid: bool [G], False for padding.
      options: the steps and their parameters.

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


def sample_expansion(key: jax.Array, *, options: AugmentOptions) -> jax.Array:
    """Draw the window [4] of Caffe's `ExpandImage`.

    It is 1 to `expand_ratio` times as wide and high as the image, which lies anywhere inside it.
    """
    chance, amount, *offset = jax.random.uniform(key, (4,))
    ratio = jnp.where(chance < options.expand_probability, 1 + amount * (options.expand_ratio - 1), 1.0)
    top_left = -jnp.stack(offset) * (ratio - 1)
    return jnp.concatenate([top_left, top_left + ratio])


def sample_crop(key: jax.Array, boxes: jax.Array, valid: jax.Array, *, options: AugmentOptions) -> jax.Array:
    """Draw among the windows of the samplers that succeed and the whole image, each with the same chance.

    Args:
      key: a JAX random key.
      boxes: float32 [G, 4] corners, fractions of the expanded image.
      valid: bool [G], False for padding.
      options: the samplers' parameters.

    Returns:
      float32 [4], a window in fractions of the expanded image.
    """
    trials_key, choice_key = jax.random.split(key)
    windows, success = crop_candidates(trials_key, boxes, valid, options=options)
    whole = jnp.array([[0.0, 0.0, 1.0, 1.0]], jnp.float32)
    windows = jnp.concatenate([whole, windows])  # [1 + samplers, 4]
    return windows[choose(choice_key, jnp.concatenate([jnp.array([True]), success]))]


def choose(key: jax.Array, among: jax.Array) -> jax.Array:
    """Draw the index of a true entry of `among` [n], each with the same chance; at least one must be true."""
    rank = jnp.cumsum(among.astype(jnp.float32))  # the place of a true entry among the true ones, from 1
    return jnp.argmax(rank > jax.random.uniform(key) * rank[-1])


def crop_candidates(
    key: jax.Array, boxes: jax.Array, valid: jax.Array, *, options: AugmentOptions
) -> tuple[jax.Array, jax.Array]:
    """Find each sampler's first window that overlaps a valid box enough (Caffe's `GenerateSamples`).

    Without a valid box no sampler succeeds, not even the one whose smallest IoU is 0.

    Args:
      key: a JAX random key.
      boxes: float32 [G, 4] corners, fractions of the expanded image.
      valid: bool [G], False for padding.
      options: the samplers' parameters.

    Returns:
      (windows [samplers, 4], success [samplers]); the window of a sampler that failed has no meaning.
    """
    samplers = len(options.crop_min_ious)
    wanted = jnp.array(options.crop_min_ious, jnp.float32)
    windows = random_windows(key, (samplers, options.crop_trials), options=options)  # [samplers, trials, 4]
    overlap = iou(windows.reshape(-1, 4), boxes)  # [samplers * trials, G]
    best = jnp.where(valid[None, :], overlap, -1.0).max(axis=1, initial=-1.0).reshape(samplers, -1)
    enough = best >= wanted[:, None]  # [samplers, trials]
    first = enough.argmax(axis=1)
    return jnp.take_along_axis(windows, first[:, None, None], axis=1)[:, 0], enough.any(axis=1)


def random_windows(key: jax.Array, shape: Sequence[int], *, options: AugmentOptions) -> jax.Array:
    """Draw windows inside the unit square, float32 [*shape, 4] (Caffe's `SampleBBox`)."""
    # One flat draw, because XLA takes seconds to compile random numbers of three axes.
    scale, aspect, *offset = jax.random.uniform(key, (4 * math.prod(shape),)).reshape(4, *shape)
    scale = options.crop_scale[0] + scale * (options.crop_scale[1] - options.crop_scale[0])
    aspect = options.crop_aspect[0] + aspect * (options.crop_aspect[1] - options.crop_aspect[0])
    root = jnp.sqrt(jnp.clip(aspect, scale**2, scale**-2))
    sides = jnp.minimum(jnp.stack([scale * root, scale / root], axis=-1), 1.0)  # [*shape, 2]
    top_left = jnp.stack(offset, axis=-1) * (1 - sides)
    return jnp.concatenate([top_left, top_left + sides], axis=-1)


def compose(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """Convert the window `inner` [4] from fractions of the window `outer` [4] to the coordinates of `outer`."""
    origin, size = jnp.tile(outer[:2], 2), jnp.tile(outer[2:] - outer[:2], 2)
    return origin + inner * size


def through_window(boxes: jax.Array, window: jax.Array) -> jax.Array:
    """Convert corners [G, 4] to fractions of the window [4], not clipped; a mirrored box keeps x_min <= x_max."""
    origin, size = window[:2], window[2:] - window[:2]
    ends = (boxes.reshape(-1, 2, 2) - origin[None, None]) / size[None, None]  # [G, 2 corners, xy]
    return jnp.concatenate([ends.min(axis=1), ends.max(axis=1)], axis=1)


def move_boxes(boxes: jax.Array, labels: jax.Array, window: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Move boxes into the window and clip them; a box whose centre is outside the window is removed.

    Args:
      boxes: float32 [G, 4] corners, fractions of the image.
      labels: int [G], 0 for padding.
      window: float32 [4].

    Returns:
      (boxes [G, 4] in fractions of the window, labels [G]); both are 0 for removed boxes and for padding.
    """
    moved = through_window(boxes, window)
    centre = (moved[:, :2] + moved[:, 2:]) / 2
    inside = ((centre >= 0) & (centre <= 1)).all(axis=1)
    moved = jnp.clip(moved, 0, 1)
    has_area = (moved[:, 2:] > moved[:, :2]).all(axis=1)
    keep = (labels > 0) & inside & has_area  # [G]
    return jnp.where(keep[:, None], moved, 0.0), jnp.where(keep, labels, 0)
