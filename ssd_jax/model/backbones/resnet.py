"""ResNet (arXiv:1512.03385) as a backbone: ResNet-50 as in NVIDIA's SSD300 and whole, ResNet-101 as in SSD321.

The layers of ResNet-50 are those of torchvision, whose weights fit: the 3x3 convolution of a block has the stride,
not the 1x1 before it. Those of ResNet-101 are the original authors', where the 1x1 has it.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np

from ssd_jax.model.layers import scaled
from ssd_jax.preprocess import MEAN_COLOUR

# Channels, blocks and stride of each stage. The third has stride 1, so that the map is as fine as VGG16's conv4_3.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 1))
WHOLE = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
IMAGENET_MEAN = (123.675, 116.28, 103.53)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut: `[B, H, W, C]` to `[B, H / stride, W / stride, 4 * features]`.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      features: channels of the first two convolutions.
      stride: of the 3x3 convolution, or of the first one.
      project: whether the shortcut is a 1x1 convolution of the input, as where the shape changes; else it is the
        input itself.
      stride_first: whether the first convolution has the stride.
      dilation: of the 3x3 convolution.
      kernel: side of the first convolution, and of the shortcut's; above 1 without padding.
    """

    block: Callable[..., nn.Module]
    features: int
    stride: int = 1
    project: bool = False
    stride_first: bool = False
    dilation: int = 1
    kernel: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply the block to `x` [B, H, W, C]."""
        first, second = (self.stride, 1) if self.stride_first else (1, self.stride)
        y = self.block(self.features, kernel=self.kernel, stride=first, padding=0, name="conv1")(x, train=train)
        y = self.block(self.features, stride=second, dilation=self.dilation, name="conv2")(y, train=train)
        y = self.block(4 * self.features, kernel=1, activation=None, name="conv3")(y, train=train)
        if self.project:
            options = {"kernel": self.kernel, "stride": self.stride, "padding": 0, "activation": None}
            x = self.block(4 * self.features, **options, name="downsample")(x, train=train)
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50: the part that SSD uses, up to conv4_x of stride 8 and 1024 channels; or the whole.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      width: factor on the number of channels.
      whole: whether it has all stages with their own strides.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, H, W, 3]` to `[conv4_x]`, or to the maps of strides 8, 16 and 32."""
        # torchvision subtracts IMAGENET_MEAN, so the zeros that a convolution pads with must stand for that colour.
        shift = np.subtract(MEAN_COLOUR, IMAGENET_MEAN).astype(np.float32).reshape(1, 1, 1, 3)
        x = self.block(scaled(64, self.width), kernel=7, stride=2, name="conv1")(x + shift, train=train)
        # pyright takes the type of `padding` from its default, a string.
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]
        maps = []
        for stage, (features, blocks, stride) in enumerate(WHOLE if self.whole else STAGES, start=1):
            for k in range(blocks):
                first = {"stride": stride, "project": True} if k == 0 else {}
                name = f"layer{stage}_{k}"
                x = Bottleneck(self.block, scaled(features, self.width), **first, name=name)(x, train=train)
            maps.append(x)
        return maps[1:] if self.whole else maps[-1:]


# Channels, blocks, stride and dilation of each stage of ResNet-101. SSD's last stage is dilated instead of halved.
STAGES_101 = ((64, 3, 1, 1), (128, 4, 2, 1), (256, 23, 2, 1), (512, 3, 1, 2))


class ResNet101(nn.Module):
    """ResNet-101 as in SSD321 and DSSD321 (arXiv:1701.06659): maps of stride 8 and 16, 512 and 2048 channels.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      width: factor on the number of channels.
      blocks: of each stage.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0
    blocks: tuple[int, ...] = tuple(blocks for _, blocks, _, _ in STAGES_101)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, H, W, 3]` to `[res3, res5]`, the outputs of the second and the fourth stage."""
        x = self.block(scaled(64, self.width), kernel=7, stride=2, name="conv1")(x, train=train)
        # Caffe rounds the number of windows up: the last may reach beyond the map.
        beyond = [(0, (side - 3) % 2) for side in x.shape[1:3]]
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=beyond)  # pyright: ignore[reportArgumentType]
        maps = []
        for stage, (features, _, stride, dilation) in enumerate(STAGES_101, start=1):
            for k in range(self.blocks[stage - 1]):
                options = {"stride": stride, "project": True} if k == 0 else {}
                block = Bottleneck(
                    self.block,
                    scaled(features, self.width),
                    **options,
                    stride_first=True,
                    dilation=dilation,
                    name=f"layer{stage}_{k}",
                )
                x = block(x, train=train)
            if stage in (2, 4):
                maps.append(x)
        return maps
