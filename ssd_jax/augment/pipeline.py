"""The steps in Caffe's order: distort, expand, crop, resize, mirror, subtract the mean."""

import jax
import jax.numpy as jnp

from ssd_jax.augment.crop import move_boxes, sample_window
from ssd_jax.augment.photometric import distort
from ssd_jax.augment.resample import axis_weights, resample
from ssd_jax.preprocess import MEAN_COLOUR


def augment(key, image, size, boxes, labels, *, image_size, options):
    """SSD's training augmentation of one image (arXiv:1512.02325, 2.2 and 3.6; Caffe's `AnnotatedDataLayer`).

    Pure and keyed: the caller vmaps it over a batch, inside the jitted train step.

    Args:
        key: a JAX random key.
        image: uint8 [S, S, 3] RGB canvas, the image at its top left.
        size: int32 [2], (height, width) of the image in the canvas, pixels; what is outside is never looked at.
        boxes: float32 [G, 4] corners, fractions of the image.
        labels: int32 [G], 0 for padding.
        image_size: side of the result, pixels.
        options: `AugmentOptions`; `NO_AUGMENTATION` leaves only the linear warp.

    Returns:
        image: float32 [image_size, image_size, 3], RGB minus `MEAN_COLOUR`.
        boxes: float32 [G, 4] corners, fractions of the result, within 0..1; 0 where a box is gone.
        labels: int32 [G], 0 where the box's centre is outside the result, and for padding.

    Raises:
        ValueError: a wrong shape, such as a batch that was not vmapped.
    """
    if image.ndim != 3 or image.shape[2] != 3 or size.shape != (2,) or boxes.shape != (*labels.shape, 4):
        raise ValueError(
            "augment takes one image, image [S, S, 3], size [2], boxes [G, 4] and labels [G] (vmap it for a batch);"
            f" got {image.shape}, {size.shape}, {boxes.shape}, {labels.shape}."
        )
    distort_key, window_key, interpolation_key = jax.random.split(key, 3)

    rgb = image.transpose(0, 2, 1).astype(jnp.float32)  # [S, 3, S]
    rgb = distort(distort_key, [rgb[:, c] for c in range(3)], options=options)
    planes = jnp.stack([x - mean for x, mean in zip(rgb, MEAN_COLOUR, strict=True)], axis=1)  # [S, 3, S]

    window = sample_window(window_key, boxes, labels > 0, options=options)
    left, top, right, bottom = window * jnp.tile(size[::-1], 2).astype(jnp.float32)  # pixels
    choices = len(options.interpolations)
    choice = 0 if choices == 1 else jax.random.randint(interpolation_key, (), 0, choices)
    kernel = {"size": image_size, "interpolations": options.interpolations, "choice": choice}
    rows = axis_weights(top, bottom, size[0], canvas=image.shape[0], **kernel)  # [image_size, S]
    columns = axis_weights(left, right, size[1], canvas=image.shape[1], **kernel)
    resampled = resample(rows, planes, columns)

    mean = jnp.array(MEAN_COLOUR, jnp.float32)[None, None]
    return jnp.clip(resampled, -mean, 255 - mean), *move_boxes(boxes, labels, window)
