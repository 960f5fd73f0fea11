"""MobileNetV3-Large (arXiv:1905.02244) as a backbone of SSD, as in torchvision's SSDLite."""

from collections.abc import Callable

import flax.linen as nn
import jax

from ssd_jax.model.backbones.inverted import InvertedResidual
from ssd_jax.model.layers import scaled

# Kernel, expansion, channels, squeeze and excitation, activation and stride of each block (the paper's table 1).
BLOCKS = (
    (3, 16, 16, False, "relu", 1),
    (3, 64, 24, False, "relu", 2),
    (3, 72, 24, False, "relu", 1),
    (5, 72, 40, True, "relu", 2),
    (5, 120, 40, True, "relu", 1),
    (5, 120, 40, True, "relu", 1),
    (3, 240, 80, False, "hard_swish", 2),
    (3, 200, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 184, 80, False, "hard_swish", 1),
    (3, 480, 112, True, "hard_swish", 1),
    (3, 672, 112, True, "hard_swish", 1),
    (5, 672, 160, True, "hard_swish", 2),
    (5, 960, 160, True, "hard_swish", 1),
    (5, 960, 160, True, "hard_swish", 1),
)
STEM, LAST = 16, 960
TAIL = 13  # the first of the blocks whose channels a reduced tail halves


class MobileNetV3Large(nn.Module):
    """MobileNetV3-Large up to its last convolution, with the maps of strides 8, 16 and 32.

    The first two are the expansions inside the blocks that halve them, as in SSDLite.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      reduced_tail: whether the blocks from the 13th on and the last convolution have half the channels (the paper,
        section 6.3), as in torchvision's published SSDLite.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    reduced_tail: bool = False
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> list[jax.Array]:
        """Map images `[B, H, W, 3]`, normalised, to maps of 240, 672 and 960 channels (480 if reduced)."""
        tail = 2 if self.reduced_tail else 1
        stem = self.block(scaled(STEM, self.width), stride=2, activation="hard_swish", name="stem")
        x = stem(x, train=train)
        maps = []
        for number, (kernel, expanded, features, squeeze, activation, stride) in enumerate(BLOCKS, start=1):
            residual = InvertedResidual(
                self.block,
                scaled(expanded // (tail if number > TAIL else 1), self.width),
                scaled(features // (tail if number >= TAIL else 1), self.width),
                kernel,
                stride,
                activation,
                squeeze,
                name=f"block{number}",
            )
            x, wide = residual(x, train=train)
            if stride == 2:
                maps.append(wide)
        last = self.block(scaled(LAST // tail, self.width), kernel=1, activation="hard_swish", name="last")
        return [*maps[-2:], last(x, train=train)]
