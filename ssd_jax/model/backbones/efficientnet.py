"""EfficientNet-Lite (arXiv:1905.11946, and Google's "lite" variants of it) as a backbone of SSD.

It has ReLU6 in place of swish, no squeeze and excitation, and TensorFlow's "SAME" padding. The first and the last
convolution have the same channels in every variant.
"""

import math
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from ssd_jax.model.backbones.inverted import InvertedResidual, divisible
from ssd_jax.model.layers import scaled

# Kernel, stride, expansion, channels and blocks of each stage of Lite0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
# Factors on channels and on blocks.
VARIANTS = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
STEM, LAST = 32, 1280


def stages(variant: int) -> tuple[tuple[int, int, int, int, int], ...]:
    """Return `STAGES` of a variant: the first and the last stage have one block in all."""
    channels, depth = VARIANTS[variant]
    return tuple(
        (
            kernel,
            stride,
            expansion,
            divisible(features * channels),
            blocks if blocks == 1 else math.ceil(blocks * depth),
        )
        for kernel, stride, expansion, features, blocks in STAGES
    )


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to its last convolution, with the maps of strides 8, 16 and 32.

    The first two are the expansions inside the blocks that halve them, as in SSDLite.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      variant: 0, 1 or 2.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    variant: int = 0
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, H, W, 3]`, (pixel - 127) / 128, to maps of 240, 672 and 1280 channels (Lite0)."""
        block = partial(self.block, padding="SAME", activation="relu6")
        x = block(scaled(STEM, self.width), stride=2, name="stem")(x, train=train)
        maps = []
        for stage, (kernel, stride, expansion, features, blocks) in enumerate(stages(self.variant), start=1):
            for k in range(blocks):
                halves = stride == 2 and k == 0
                residual = InvertedResidual(
                    block,
                    expansion * x.shape[-1],
                    scaled(features, self.width),
                    kernel,
                    2 if halves else 1,
                    name=f"stage{stage}_{k}",
                )
                x, wide = residual(x, train=train)
                if halves and stage >= 4:
                    maps.append(wide)
        x = block(scaled(LAST, self.width), kernel=1, name="last")(x, train=train)
        return [*maps, x]
