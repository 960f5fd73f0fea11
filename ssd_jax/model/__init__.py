"""SSD's network in Flax (Linen).

`flax.linen.tabulate(model, key, compute_flops=True)(images)` lists its layers, shapes, operations and parameters.
"""

from ssd_jax.model.backbones.efficientnet import EfficientNetLite
from ssd_jax.model.backbones.mobilenet import MobileNetV3Large
from ssd_jax.model.backbones.resnet import ResNet50, ResNet101
from ssd_jax.model.backbones.vgg import VGG16
from ssd_jax.model.catalogue import MODELS, make
from ssd_jax.model.layers import L2Norm
from ssd_jax.model.ssd import (
    SSD,
    compile_to_run_once,
    describe,
    from_description,
    init_variables,
    initialise,
    variable_shapes,
)
from ssd_jax.preprocess import MEAN_COLOUR, preprocess

__all__ = [
    "MEAN_COLOUR",
    "MODELS",
    "SSD",
    "VGG16",
    "EfficientNetLite",
    "L2Norm",
    "MobileNetV3Large",
    "ResNet50",
    "ResNet101",
    "compile_to_run_once",
    "describe",
    "from_description",
    "init_variables",
    "initialise",
    "make",
    "preprocess",
    "variable_shapes",
]
