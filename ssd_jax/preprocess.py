"""What every image goes through before the network: the mean colour is subtracted."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN_COLOUR = (123.0, 117.0, 104.0)
"""ImageNet's mean colour as Caffe rounds it: RGB, on the scale 0..255."""


def preprocess(images: jax.Array) -> jax.Array:
    """Turn RGB pixels 0..255 `[..., 3]` of any type into float32 `pixel - MEAN_COLOUR`, which the model is fed."""
    mean = np.asarray(MEAN_COLOUR, np.float32).reshape((1,) * (images.ndim - 1) + (3,))
    return images.astype(jnp.float32) - mean
