"""The layers SSD is made of, and Caffe's initialisation."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

Init = Callable[..., jax.Array]

INITS: dict[str, Init] = {
    # Caffe's "xavier" filler divides by fan-in alone: U(-sqrt(3 / fan_in), sqrt(3 / fan_in)).
    "xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
    "he": nn.initializers.he_normal(),
    "normal": nn.initializers.normal(0.01),
}


class L2Norm(nn.Module):
    """Scale each pixel's channels to unit L2 norm, times a learned factor a channel (Caffe's `Normalize`, ParseNet).

    `[..., C]` in and out. The epsilon stands inside the root, as in Caffe: outside it the gradient of an all-zero
    pixel is NaN. The sum of squares is taken in float32 whatever the input's type.
    """

    initial_scale: float = 20.0
    epsilon: float = 1e-10

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of `x`."""
        scale = self.param("scale", nn.initializers.constant(self.initial_scale), (x.shape[-1],), jnp.float32)
        wide = x.astype(jnp.float32)
        norm = jnp.sqrt(jnp.sum(jnp.square(wide), axis=-1, keepdims=True) + self.epsilon)
        scale = scale.reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide / norm * scale).astype(x.dtype)


class ConvBlock(nn.Module):
    """Convolution, then BatchNorm if asked for, then ReLU unless not: `[B, H, W, C]` to `[B, H', W', features]`.

    With `norm="batch"` the statistics are averaged over the devices of `axis_name` and the convolution, whose mean
    is taken out again, has no bias.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | None = None  # None keeps the size at stride 1
    relu: bool = True
    norm: str | None = None
    kernel_init: str = "xavier"
    dtype: str = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Convolve `x`; `train` lets BatchNorm use and update the batch's statistics."""
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
    """Predict `values` numbers for each prior of a map: `[B, H, W, F]` to float32 `[B, H * W * per_cell, values]`."""

    per_cell: int
    values: int
    kernel_init: str = "xavier"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Predict from a map of features."""
        conv = nn.Conv(
            self.per_cell * self.values, (3, 3), padding=1, kernel_init=INITS[self.kernel_init], name="conv"
        )
        return conv(x.astype(jnp.float32)).reshape(x.shape[0], -1, self.values)


def scaled(features: int, width: float) -> int:
    """Return a layer's number of channels in a model of relative `width`, at least 4."""
    return max(4, round(features * width))


def pool2(x: jax.Array) -> jax.Array:
    """2x2 max pooling, stride 2; an odd side is rounded up, as Caffe does (75 -> 38).

    The gradient of two selections is a select, where that of a window reduction is a slow scatter. Of equal pixels
    the first, row by row, gets all of it, as in Caffe.
    """
    batch, height, width, features = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, features)
    x = _larger(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return _larger(x[:, :, 0], x[:, :, 1])


def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """The maximum, whose gradient goes to `a` where they are equal; jnp.maximum may lose it (see box/extrema.py)."""
    return jnp.where((a >= b) | jnp.isnan(a), a, b)


def pool5(x: jax.Array) -> jax.Array:
    """3x3 max pooling, stride 1: the size stays (SSD's pool5)."""
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
