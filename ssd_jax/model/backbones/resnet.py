"""ResNet-50 (arXiv:1512.03385) as a backbone of SSD, as in NVIDIA's SSD300.

The layers are those of torchvision, whose weights fit: the 3x3 convolution of a block has the stride, not the 1x1
before it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from ssd_jax.model.layers import scaled
from ssd_jax.preprocess import MEAN_COLOUR

# Channels, blocks and stride of each stage. The third has stride 1, so that the map is as fine as VGG16's conv4_3.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 1))
IMAGENET_MEAN = (123.675, 116.28, 103.53)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: `[B, H, W, C]` to `[B, H / stride, W / stride, 4 * features]`.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      features: channels of the first two convolutions.
      stride: of the 3x3 convolution.
      project: whether the shortcut is a 1x1 convolution of the input, as where the shape changes; else it is the
        input itself.
    """

    block: Callable[..., nn.Module]
    features: int
    stride: int = 1
    project: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply the block to `x` [B, H, W, C]."""
        y = self.block(self.features, kernel=1, name="conv1")(x, train=train)
        y = self.block(self.features, stride=self.stride, name="conv2")(y, train=train)
        y = self.block(4 * self.features, kernel=1, activation=None, name="conv3")(y, train=train)
        if self.project:
            wide = self.block(4 * self.features, kernel=1, stride=self.stride, activation=None, name="downsample")
            x = wide(x, train=train)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """The part of ResNet-50 that SSD uses, up to conv4_x: stride 8, 1024 channels.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, S, S, 3]` to `[conv4_x]`."""
        # torchvision subtracts IMAGENET_MEAN, so the zeros that a convolution pads with must stand for that colour.
        shift = np.subtract(MEAN_COLOUR, IMAGENET_MEAN).astype(np.float32).reshape(1, 1, 1, 3)
        x = self.block(scaled(64, self.width), kernel=7, stride=2, name="conv1")(x + shift, train=train)
        # pyright takes the type of `padding` from its default, a string.
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        for stage, (features, blocks, stride) in enumerate(STAGES, start=1):
            for k in range(blocks):
                first = {"stride": stride, "project": True} if k == 0 else {}
                name = f"layer{stage}_{k}"
                x = Bottleneck(self.block, scaled(features, self.width), **first, name=name)(x, train=train)
        return [x]
