"""The block of MobileNets and EfficientNets: a 1x1 convolution up, a depthwise one, and a 1x1 convolution down."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp


def divisible(channels: float, by: int = 8) -> int:
    """Return the multiple of `by` that is next to `channels`; one higher if that were less than nine tenths of it."""
    nearest = max(by, int(channels + by / 2) // by * by)
    return nearest if nearest >= 0.9 * channels else nearest + by


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; a shortcut where the shape stays.

    Source: MobileNetV2 (arXiv:1801.04381, section 3.3) and V3 (arXiv:1905.02244, section 5.3).

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm, padded as the depthwise one needs it.
      expanded: channels of the expansion, which is left out where the input has so many.
      features: channels of the output.
      kernel: side of the depthwise kernel, pixels.
      stride: of the depthwise convolution.
      activation: of the expansion and the depthwise convolution, as in `ConvBlock`.
      squeeze: whether the channels are weighted by squeeze and excitation (arXiv:1709.01507).
    """

    block: Callable[..., nn.Module]
    expanded: int
    features: int
    kernel: int = 3
    stride: int = 1
    activation: str = "relu6"
    squeeze: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Apply the block to `x` [B, H, W, C]; return its output, and the expansion [B, H, W, expanded]."""
        y = x
        if self.expanded != x.shape[-1]:
            y = self.block(self.expanded, kernel=1, activation=self.activation, name="expand")(y, train=train)
        wide = y
        depthwise = self.block(
            None, kernel=self.kernel, stride=self.stride, activation=self.activation, name="depthwise"
        )
        y = depthwise(y, train=train)
        if self.squeeze:
            mean = jnp.mean(y, axis=(1, 2), keepdims=True)
            narrow = divisible(self.expanded // 4)
            mean = self.block(narrow, kernel=1, norm=None, name="squeeze")(mean, train=train)
            weights = self.block(self.expanded, kernel=1, norm=None, activation="hard_sigmoid", name="excite")
            y = y * weights(mean, train=train)
        y = self.block(self.features, kernel=1, activation=None, name="project")(y, train=train)
        return (x + y if self.stride == 1 and self.features == x.shape[-1] else y), wide
