"""The layers of SSD, and how their kernels start."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.box.numerics import maximum

Init = Callable[..., jax.Array]

INITS: dict[str, Init] = {
    # Caffe's "xavier" filler divides by fan-in alone: U(-sqrt(3 / fan_in), sqrt(3 / fan_in)).
    "xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
    "he": nn.initializers.he_normal(),
    "normal": nn.initializers.normal(0.01),
}


class L2Norm(nn.Module):
    """Scale the channels of each pixel to unit L2 norm, times a learned factor per channel (arXiv:1506.04579).

    Input and output are `[..., C]`. As in Caffe's `Normalize` layer, epsilon is added inside the root: outside it
    the gradient of an all-zero pixel is NaN. The sum of squares is computed in float32 for an input of any type.

    Attributes:
      initial_scale: where the learned factors start.
      epsilon: added to the sum of squares.
    """

    initial_scale: float = 20.0
    epsilon: float = 1e-10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise `x` [..., C] over its last axis."""
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide / norm * scale).astype(x.dtype)


class ConvBlock(nn.Module):
    """A convolution, BatchNorm if asked for, and a ReLU: `[B, H, W, C]` to `[B, H', W', features]`.

    Attributes:
      features: channels of the output.
      kernel: side of the kernel, pixels.
      stride: pixels between neighbouring outputs.
      dilation: pixels between neighbouring entries of the kernel.
      padding: zeros on each side of the map; None for as many as keep its size at stride 1.
      relu: whether a ReLU follows.
      norm: None, or "batch" for BatchNorm. The convolution then has no bias: BatchNorm would subtract it again.
      kernel_init: a name of `INITS`.
      dtype: the type in which the block computes; parameters are float32.
      axis_name: the mapped axis of devices over which BatchNorm averages its statistics.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    relu: bool = True
    norm: str | None = None
    kernel_init: str = "xavier"
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply the block to `x` [B, H, W, C]; with `train`, BatchNorm uses the statistics of the batch."""
        padding = self.dilation * (self.kernel - 1) // 2 if self.padding is None else self.padding
        x = nn.Conv(
            self.features,
            (self.kernel, self.kernel),
            strides=self.stride,
            kernel_dilation=self.dilation,
            padding=padding,
            use_bias=self.norm is None,
            kernel_init=INITS[self.kernel_init],
            dtype=jnp.dtype(self.dtype),
            name="conv",
        )(x)
        if self.norm == "batch":
            x = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.95,
                axis_name=self.axis_name,
                dtype=jnp.dtype(self.dtype),
                name="norm",
            )(x)
        return nn.relu(x) if self.relu else x


class Head(nn.Module):
    """Predict `values` numbers for each prior of a map: `[B, H, W, F]` to float32 `[B, H * W * per_cell, values]`.

    Attributes:
      per_cell: priors in each cell of the map.
      values: 4 for offsets, the number of classes for logits.
      kernel_init: a name of `INITS`.
    """

    per_cell: int
    values: int
    kernel_init: str = "xavier"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Predict from the feature map `x` [B, H, W, F]."""
        conv = nn.Conv(
            self.per_cell * self.values, (3, 3), padding=1, kernel_init=INITS[self.kernel_init], name="conv"
        )
        return conv(x.astype(jnp.float32)).reshape(x.shape[0], -1, self.values)


def scaled(features: int, width: float) -> int:
    """Return the number of channels of a layer of `features` channels times `width`, at least 4."""
    return max(4, round(features * width))


def pool2(x: jax.Array) -> jax.Array:
    """Apply 2x2 max pooling of stride 2 to `x` [B, H, W, F]; an odd side is rounded up, as in Caffe (75 -> 38).

    It is written as two comparisons, because the gradient of a window reduction is a scatter, which is slow on a
    CPU. As in Caffe, the first of equal pixels, row by row, gets the whole gradient.
    """
    batch, height, width, features = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, features)
    x = maximum(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return maximum(x[:, :, 0], x[:, :, 1])


def pool5(x: jax.Array) -> jax.Array:
    """Apply 3x3 max pooling of stride 1 to `x` [B, H, W, F], which keeps its size (pool5 of SSD)."""
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
