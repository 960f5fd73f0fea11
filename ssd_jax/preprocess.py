"""The step between an image and the network: the mean colour is subtracted."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN_COLOUR = (123.0, 117.0, 104.0)
"""ImageNet's mean colour as Caffe rounds it: RGB, on the scale 0..255."""


def preprocess(images: jax.Array) -> jax.Array:
    """Subtract `MEAN_COLOUR` from RGB pixels 0..255 `[..., 3]` of any type: float32, as the model takes them."""
    mean = np.asarray(MEAN_COLOUR, np.float32).reshape((1,) * (images.ndim - 1) + (3,))
    return images.astype(jnp.float32) - mean


# What the weights of a backbone are fed: (pixel - mean) / deviation, RGB of 0 to 255.
INPUT_SCALINGS = {
    "caffe": (MEAN_COLOUR, (1.0, 1.0, 1.0)),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision's classifiers
    "half": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # torchvision's SSDLite
    "efficientnet": ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0)),  # Google's EfficientNet-Lite
}
