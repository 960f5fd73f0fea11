"""The steps of the augmentation in Caffe's order: distort, expand, crop, resize, mirror, subtract the mean."""

import jax
import jax.numpy as jnp

from ssd_jax.augment.crop import move_boxes, sample_window
from ssd_jax.augment.options import AugmentOptions
from ssd_jax.augment.photometric import distort
from ssd_jax.augment.resample import axis_weights, resample
from ssd_jax.preprocess import MEAN_COLOUR
from ssd_jax.sides import Side, sides_of


def augment(
    key: jax.Array,
    image: jax.Array,
    size: jax.Array,
    boxes: jax.Array,
    labels: jax.Array,
    *,
    image_size: Side,
    options: AugmentOptions,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Augment one image and its boxes for training (arXiv:1512.02325, 2.2 and 3.6; Caffe's `AnnotatedDataLayer`).

    The caller vmaps it over a batch, inside the compiled train step.

    Args:
      key: a JAX random key.
      image: uint8 [S, S, 3] RGB canvas with the image at its top left.
      size: int32 [2], (height, width) of the image in the canvas, pixels; the rest of the canvas is not used.
      boxes: float32 [G, 4] corners, fractions of the image.
      labels: int32 [G], 0 for padding.
      image_size: side of the result, or (height, width), pixels.
      options: the steps and their parameters; `NO_AUGMENTATION` only resizes.

    Returns:
      image: float32 [height, width, 3] of `image_size`, RGB minus `MEAN_COLOUR`.
      boxes: float32 [G, 4] corners, fractions of the result, within 0..1; 0 for removed boxes.
      labels: int32 [G], 0 for boxes whose centre is outside the result, and for padding.

    Raises:
      ValueError: if an array has a wrong shape, such as that of a batch that is not vmapped.
    """
    for name, array, rule, fits in (
        ("image", image, "[S, S, 3]", image.ndim == 3 and image.shape[2] == 3),
        ("size", size, "[2]", size.shape == (2,)),
        ("labels", labels, "[G]", labels.ndim == 1),
        ("boxes", boxes, f"[{labels.size}, 4]", boxes.shape == (labels.size, 4)),
    ):
        if not fits:
            raise ValueError(f"{name} must have shape {rule}, one image's (vmap a batch); got {list(array.shape)}")
    distort_key, window_key, interpolation_key = jax.random.split(key, 3)

    rgb = image.transpose(0, 2, 1).astype(jnp.float32)  # [S, 3, S]
    rgb = distort(distort_key, [rgb[:, c] for c in range(3)], options=options)
    planes = jnp.stack([x - mean for x, mean in zip(rgb, MEAN_COLOUR, strict=True)], axis=1)  # [S, 3, S]

    window = sample_window(window_key, boxes, labels > 0, options=options)
    left, top, right, bottom = window * jnp.tile(size[::-1], 2).astype(jnp.float32)  # pixels
    choices = len(options.interpolations)
    choice = 0 if choices == 1 else jax.random.randint(interpolation_key, (), 0, choices)
    height, width = sides_of(image_size)
    kernel = {"interpolations": options.interpolations, "choice": choice}
    rows = axis_weights(top, bottom, size[0], canvas=image.shape[0], size=height, **kernel)  # [height, S]
    columns = axis_weights(left, right, size[1], canvas=image.shape[1], size=width, **kernel)  # [width, S]
    resampled = resample(rows, planes, columns)

    mean = jnp.array(MEAN_COLOUR, jnp.float32)[None, None]
    return jnp.clip(resampled, -mean, 255 - mean), *move_boxes(boxes, labels, window)
