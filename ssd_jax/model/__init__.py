"""SSD's network in Flax (Linen)."""

from ssd_jax.model.layers import ChannelNorm
from ssd_jax.model.ssd import MEAN_COLOUR, SSD, describe, from_description, preprocess
from ssd_jax.model.vgg import VGG16

__all__ = ["MEAN_COLOUR", "SSD", "VGG16", "ChannelNorm", "describe", "from_description", "preprocess"]
