"""SSD's network in Flax (Linen)."""

from ssd_jax.model.layers import ChannelNorm
from ssd_jax.model.resnet import ResNet50
from ssd_jax.model.ssd import (
    MEAN_COLOUR,
    SSD,
    compile_to_run_once,
    deep_tuple,
    describe,
    draw,
    from_description,
    initialise,
    preprocess,
    variable_shapes,
)
from ssd_jax.model.vgg import VGG16

__all__ = [
    "MEAN_COLOUR",
    "SSD",
    "VGG16",
    "ChannelNorm",
    "ResNet50",
    "compile_to_run_once",
    "deep_tuple",
    "describe",
    "draw",
    "from_description",
    "initialise",
    "preprocess",
    "variable_shapes",
]
