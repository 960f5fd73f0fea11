"""The layers of SSD, and how their kernels start."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.box.numerics import bounded, maximum
from ssd_jax.model.depthwise import depthwise_convolution, grouped_convolution, same_pads

Init = Callable[..., jax.Array]

INITS: dict[str, Init] = {
    # Caffe's "xavier" filler divides by fan-in alone: U(-sqrt(3 / fan_in), sqrt(3 / fan_in)).
    "xavier": nn.initializers.variance_scaling(1.0, "fan_in", "uniform"),
    "he": nn.initializers.he_normal(),
    "normal": nn.initializers.normal(0.01),
    "normal_0.03": nn.initializers.normal(0.03),  # torchvision's SSDLite
}


def hard_sigmoid(x: jax.Array) -> jax.Array:
    """Return relu6(x + 3) / 6."""
    return bounded(x + 3, 0, 6) / 6


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": nn.relu,
    "relu6": lambda x: bounded(x, 0, 6),
    "hard_sigmoid": hard_sigmoid,
    "hard_swish": lambda x: x * hard_sigmoid(x),
}


def is_named(path: str, names: Sequence[str]) -> bool:
    """Say whether one of `names` is `path`, such as "trunk/conv1_1", or a part that holds it, such as "trunk".

    A name may have the wildcards of a shell, as "trunk/conv[12]_*".
    """
    return any(fnmatchcase(path, pattern) for name in names for pattern in (name, f"{name}/*"))


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


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias: `[B, H, W, C]` to `[B, H', W', C]`.

    Attributes:
      kernel: side of the kernel, pixels.
      stride: pixels between neighbouring outputs.
      padding: zeros on each side of the map, or "SAME", TensorFlow's rule.
      kernel_init: a name of `INITS`.
      dtype: the type in which it computes; parameters are float32.
      portable: compute by one grouped convolution, which is slow on a CPU but known to every exporter.
    """

    kernel: int = 3
    stride: int = 1
    padding: int | str = 1
    kernel_init: str = "he"
    dtype: str = "float32"
    portable: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve each channel of `x` [B, H, W, C]."""
        shape = (self.kernel, self.kernel, 1, x.shape[-1])
        kernel = self.param("kernel", INITS[self.kernel_init], shape, jnp.float32)
        if isinstance(self.padding, int):
            pads = ((self.padding, self.padding), (self.padding, self.padding))
        else:
            pads = same_pads(x.shape[1:3], self.kernel, self.stride)
        convolve = grouped_convolution if self.portable else depthwise_convolution
        x, kernel = (a.astype(self.dtype) for a in (x, kernel))
        return convolve(x, kernel, stride=self.stride, pads=pads)


class PointwiseConv(nn.Module):
    """A 1x1 convolution of stride 1, as one matrix product: `[B, H, W, C]` to `[B, H, W, features]`.

    XLA's CPU backend computes the gradients of the same convolution several times more slowly
    (`benchmarks/depthwise.py`). The parameters are those of `nn.Conv`.

    Attributes:
      features: channels of the output.
      use_bias: whether a bias is added.
      kernel_init: a name of `INITS`.
      dtype: the type in which it computes; parameters are float32.
      portable: compute by a convolution.
      bias: where the biases start.
    """

    features: int
    use_bias: bool = True
    kernel_init: str = "xavier"
    dtype: str = "float32"
    portable: bool = False
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply each pixel of `x` [B, H, W, C] by the kernel."""
        channels = x.shape[-1]
        kernel = self.param("kernel", INITS[self.kernel_init], (1, 1, channels, self.features), jnp.float32)
        x, kernel = (a.astype(self.dtype) for a in (x, kernel))
        if self.portable:
            y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        else:
            y = (x.reshape(-1, channels) @ kernel[0, 0]).reshape(*x.shape[:-1], self.features)
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.constant(self.bias), (self.features,), jnp.float32)
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class ConvBlock(nn.Module):
    """A convolution, BatchNorm if asked for, and an activation: `[B, H, W, C]` to `[B, H', W', features]`.

    Attributes:
      features: channels of the output; None for a depthwise convolution, which keeps their number.
      kernel: side of the kernel, pixels.
      stride: pixels between neighbouring outputs.
      dilation: pixels between neighbouring entries of the kernel; 1 for a depthwise convolution.
      padding: zeros on each side of the map; None for as many as keep its size at stride 1; "SAME" for TensorFlow's
        rule.
      activation: a name of `ACTIVATIONS`, or None.
      norm: None, or "batch" for BatchNorm. The convolution then has no bias: BatchNorm would subtract it again.
      norm_epsilon: added to BatchNorm's variance.
      norm_momentum: what a step leaves of BatchNorm's running statistics.
      freeze_norm: parts of the network whose BatchNorm uses its running statistics in training too, as names for
        `is_named`.
      kernel_init: a name of `INITS`.
      dtype: the type in which the block computes; parameters are float32.
      axis_name: the mapped axis of devices over which BatchNorm averages its statistics.
      portable: as in `DepthwiseConv`.
    """

    features: int | None
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    padding: int | str | None = None
    activation: str | None = "relu"
    norm: str | None = None
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.95
    freeze_norm: tuple[str, ...] = ()
    kernel_init: str = "xavier"
    dtype: str = "float32"
    axis_name: str | None = None
    portable: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Apply the block to `x` [B, H, W, C]; with `train`, BatchNorm uses the statistics of the batch."""
        padding = self.dilation * (self.kernel - 1) // 2 if self.padding is None or self.kernel == 1 else self.padding
        if self.features is None:
            x = DepthwiseConv(
                self.kernel,
                self.stride,
                padding,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                portable=self.portable,
                name="conv",
            )(x)
        elif self.kernel == self.stride == 1 and not padding:
            x = PointwiseConv(
                self.features, self.norm is None, self.kernel_init, self.dtype, self.portable, name="conv"
            )(x)
        else:
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
            frozen = is_named("/".join(self.path), self.freeze_norm)
            x = nn.BatchNorm(
                use_running_average=frozen or not train,
                momentum=self.norm_momentum,
                epsilon=self.norm_epsilon,
                axis_name=self.axis_name,
                dtype=jnp.dtype(self.dtype),
                name="norm",
            )(x)
        return ACTIVATIONS[self.activation](x) if self.activation else x


class Head(nn.Module):
    """Predict `values` numbers for each prior of a map: `[B, H, W, F]` to float32 `[B, H * W * per_cell, values]`.

    Attributes:
      per_cell: priors in each cell of the map.
      values: 4 for offsets, the number of classes for logits.
      kernel_init: a name of `INITS`.
      kernel: side of the kernel, pixels.
      bias: where the biases start.
    """

    per_cell: int
    values: int
    kernel_init: str = "xavier"
    kernel: int = 3
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Predict from the feature map `x` [B, H, W, F]."""
        conv = nn.Conv(
            self.per_cell * self.values,
            (self.kernel, self.kernel),
            padding=self.kernel // 2,
            kernel_init=INITS[self.kernel_init],
            bias_init=nn.initializers.constant(self.bias),
            name="conv",
        )
        return conv(x.astype(jnp.float32)).reshape(x.shape[0], -1, self.values)


class LightHead(nn.Module):
    """Predict as `Head`, by a depthwise 3x3 convolution with BatchNorm and ReLU6, and a 1x1 convolution.

    Source: torchvision's SSDLite.

    Attributes:
      block: `block(features, **options)` makes a convolution with BatchNorm, in float32.
      per_cell: priors in each cell of the map.
      values: 4 for offsets, the number of classes for logits.
      kernel_init: a name of `INITS`.
      portable: as in `PointwiseConv`.
      bias: where the biases start.
    """

    block: Callable[..., nn.Module]
    per_cell: int
    values: int
    kernel_init: str = "xavier"
    portable: bool = False
    bias: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Predict from the feature map `x` [B, H, W, F]."""
        depthwise = self.block(None, activation="relu6", kernel_init=self.kernel_init, name="depthwise")
        x = depthwise(x.astype(jnp.float32), train=train)
        features = self.per_cell * self.values
        conv = PointwiseConv(
            features, kernel_init=self.kernel_init, portable=self.portable, bias=self.bias, name="conv"
        )
        return conv(x).reshape(x.shape[0], -1, self.values)


def scaled(features: int, width: float) -> int:
    """Return the number of channels of a layer of `features` channels times `width`, at least 4."""
    return max(4, round(features * width))


def pool2(x: jax.Array) -> jax.Array:
    """Apply 2x2 max pooling of stride 2 to `x` [B, H, W, F]; an odd side is rounded up, as in Caffe (75 -> 38).

    On CPUs and GPUs it is two comparisons, because the gradient of a window reduction is a scatter, which is slow on
    a CPU, and moves more memory on a GPU. For TPUs, where copies of a map cost more, and in ONNX graphs it is the
    reduction; its values and gradients are the same. As in Caffe, the first of equal pixels, row by row, gets the
    whole gradient.
    """
    return jax.lax.platform_dependent(x, cpu=_compared, cuda=_compared, rocm=_compared, default=_reduced)


def _compared(x: jax.Array) -> jax.Array:
    batch, height, width, features = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    x = x.reshape(batch, (height + 1) // 2, 2, (width + 1) // 2, 2, features)
    x = maximum(x[:, :, :, :, 0], x[:, :, :, :, 1])
    return maximum(x[:, :, 0], x[:, :, 1])


def _reduced(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")


def pool5(x: jax.Array) -> jax.Array:
    """Apply 3x3 max pooling of stride 1 to `x` [B, H, W, F], which keeps its size (pool5 of SSD)."""
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
