"""The parts that SSD and DSSD on ResNet-101 have beside the paper's SSD (arXiv:1701.06659)."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.model.backbones.resnet import Bottleneck
from ssd_jax.model.layers import Head, scaled

FEATURES = 256  # channels inside a residual block; it returns four times as many
DECODED = 512  # channels of the maps of a deconvolution module


class ResidualExtra(nn.Module):
    """The next smaller map, by a residual block: 1024 channels.

    An even map is halved by kernels of 2x2 and stride 2; an odd one loses its border to kernels of 3x3.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      width: factor on the number of channels.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Map `x` [B, H, W, F] to [B, H / 2, W / 2, 1024] or [B, H - 2, W - 2, 1024]."""
        kernel, stride = (2, 2) if max(x.shape[1:3]) % 2 == 0 else (3, 1)
        features = scaled(FEATURES, self.width)
        return Bottleneck(self.block, features, stride, project=True, stride_first=True, kernel=kernel, name="block")(
            x, train=train
        )


class ResidualHead(nn.Module):
    """The prediction module: a residual block, then a convolution for each of both predictions (figure 2, variant c).

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      per_cell: priors in each cell of the map.
      num_classes: C.
      kernel: side of the kernels of the predictions: 5 on the two finest maps.
      width: factor on the number of channels of the block.
      kernel_init: of the predictions, a name of `INITS`.
      features: channels inside the block.
      inner: channels of a 3x3 convolution before each prediction; 0 for none. The released script of DSSD513 for COCO
        has it, the paper has not.
      conf_bias: where the biases of the logits start.
    """

    block: Callable[..., nn.Module]
    per_cell: int
    num_classes: int
    kernel: int = 3
    width: float = 1.0
    kernel_init: str = "xavier"
    features: int = FEATURES
    inner: int = 0
    conf_bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        """Predict offsets [B, H * W * per_cell, 4] and logits [B, H * W * per_cell, C] from `x` [B, H, W, F]."""
        x = Bottleneck(self.block, scaled(self.features, self.width), project=True, name="block")(x, train=train)
        predictions = []
        for name, values, bias in (("loc", 4, 0.0), ("conf", self.num_classes, self.conf_bias)):
            y = x
            if self.inner:
                y = self.block(scaled(self.inner, self.width), name=f"{name}_inner")(x, train=train)
            head = Head(self.per_cell, values, self.kernel_init, kernel=self.kernel, bias=bias, name=name)
            predictions.append(head(y))
        offsets, logits = predictions
        return offsets, logits


class Deconvolution(nn.Module):
    """The deconvolution module: a map enlarged to the size of a finer one, and multiplied by it (figure 3).

    A map that is half as large is enlarged by kernels of 2x2 and stride 2; others by a kernel that adds the missing
    border.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm.
      width: factor on the number of channels.
      dtype: the type in which the deconvolution computes.
    """

    block: Callable[..., nn.Module]
    width: float = 1.0
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: jax.Array, finer: jax.Array, *, train: bool) -> jax.Array:
        """Return [B, H, W, 512] for the coarse map `x` and the map `finer` [B, H, W, F]."""
        features = scaled(DECODED, self.width)
        shapes = list(zip(x.shape[1:3], finer.shape[1:3], strict=True))
        kernel, stride = zip(*((2, 2) if n == 2 * m else (n - m + 1, 1) for m, n in shapes), strict=True)
        up = nn.ConvTranspose(
            features, kernel, strides=stride, padding="VALID", dtype=jnp.dtype(self.dtype), name="up"
        )
        x = self.block(features, activation=None, name="coarse")(up(x), train=train)
        y = self.block(features, name="fine1")(finer, train=train)
        y = self.block(features, activation=None, name="fine2")(y, train=train)
        return nn.relu(x * y)


def decode_maps(make: Callable[[int], Deconvolution], maps: Sequence[jax.Array], *, train: bool) -> list[jax.Array]:
    """Replace all maps but the last by those of deconvolution modules, from the coarsest to the finest.

    Args:
      make: `make(k)` returns the module for map k.
      maps: the finest first.
      train: as in `SSD`.
    """
    decoded = [maps[-1]]
    for k in reversed(range(len(maps) - 1)):
        decoded.insert(0, make(k)(decoded[0], maps[k], train=train))
    return decoded
