"""The parts of RetinaNet (arXiv:1708.02002): a feature pyramid, and the subnets that all its maps share.

The layers are those of torchvision's retinanet_resnet50_fpn. None has BatchNorm.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.model.layers import scaled

FEATURES = 256  # channels of every map


class FPN(nn.Module):
    """A feature pyramid network (arXiv:1612.03144): maps that all have 256 channels and know of the coarser ones.

    Each map of the backbone is projected and added to the enlarged map above it, then smoothed by a 3x3 convolution.
    Further maps are halved from the last one by convolutions of stride 2.

    Attributes:
      block: `block(features, **options)` makes a convolution.
      maps: how many to make.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    maps: int
    width: float = 1.0

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array], *, train: bool) -> list[jax.Array]:
        """Return `self.maps` maps for those of a backbone, the finest first."""
        features = scaled(FEATURES, self.width)

        def convolve(name: str, x: jax.Array, **options: int) -> jax.Array:
            return self.block(features, norm=None, activation=None, name=name, **options)(x, train=train)

        projected = [convolve(f"lateral{k}", x, kernel=1) for k, x in enumerate(maps)]
        for k in reversed(range(len(projected) - 1)):
            projected[k] += enlarged(projected[k + 1], projected[k].shape[1:3])
        pyramid = [convolve(f"output{k}", x) for k, x in enumerate(projected)]
        for k in range(len(maps), self.maps):
            x = pyramid[-1] if k == len(maps) else nn.relu(pyramid[-1])
            pyramid.append(convolve(f"output{k}", x, stride=2))
        return pyramid


def enlarged(x: jax.Array, sides: Sequence[int]) -> jax.Array:
    """Repeat each pixel of `x` [B, h, w, F] in a square of 2x2, and cut to [B, *sides, F]: 2h or 2h - 1 rows."""
    batch, height, width, features = x.shape
    x = jnp.concatenate([x[:, :, :, None]] * 2, axis=3).reshape(batch, height, 2 * width, features)
    x = jnp.concatenate([x[:, :, None]] * 2, axis=2).reshape(batch, 2 * height, 2 * width, features)
    return x[:, : sides[0], : sides[1]]


class Tower(nn.Module):
    """The four 3x3 convolutions before a head of RetinaNet.

    Attributes:
      block: `block(features, **options)` makes a convolution with a ReLU.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply the convolutions to `x` [B, H, W, F]."""
        for k in range(4):
            x = self.block(scaled(FEATURES, self.width), norm=None, name=f"conv{k}")(x, train=train)
        return x
