"""Depthwise convolution: each channel has a kernel of its own.

XLA's CPU backend computes a grouped convolution many times more slowly than the same sum written with shifted slices
(`benchmarks/depthwise.py`). On other platforms the grouped convolution is right. The platform for which a program is
lowered decides; the values are the same but for rounding.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.box.numerics import varying_as

Pads = tuple[tuple[int, int], tuple[int, int]]

# Rows of the output over which one step of the kernel's gradient sums. So the slices stay in a core's cache.
ROWS = 8


def same_pads(sides: tuple[int, ...], kernel: int, stride: int) -> Pads:
    """Return the zeros before and after each axis of TensorFlow's "SAME": ceil(side / stride) outputs.

    Where their number is odd, one zero more stands after the map than before it.
    """
    totals = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides]
    rows, columns = ((total // 2, total - total // 2) for total in totals)
    return rows, columns


def depthwise_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """Convolve each channel of `x` with its own kernel.

    It has a gradient of its own, and therefore no forward-mode derivative (`jax.jvp`); `grouped_convolution` has.

    Args:
      x: [B, H, W, C].
      kernel: [k, k, 1, C], of the same type.
      stride: pixels between neighbouring outputs.
      pads: zeros before and after the rows and the columns.

    Returns:
      [B, H', W', C].
    """
    return _convolution(x, kernel, stride, pads)


def grouped_convolution(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """Compute `depthwise_convolution` by XLA's grouped convolution, on every platform."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=partial(_shifted, stride=stride, pads=pads),
        default=partial(grouped_convolution, stride=stride, pads=pads),
    )


def _forward(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _convolution(x, kernel, stride, pads), (x, kernel)


def _backward(
    stride: int, pads: Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    options = {"stride": stride, "pads": pads}

    def grouped(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.vjp(partial(grouped_convolution, **options), x, kernel)[1](gradient)

    return jax.lax.platform_dependent(*saved, gradient, cpu=partial(_shifted_gradients, **options), default=grouped)


_convolution.defvjp(_forward, _backward)


def _wide(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute in float32 or wider, and return the type of the arguments."""

    def compute(*arrays: jax.Array, **options: Any) -> Any:
        dtype = arrays[0].dtype
        wide = dtype if dtype == jnp.float64 else jnp.float32
        results = function(*(a.astype(wide) for a in arrays), **options)
        return jax.tree.map(lambda a: a.astype(dtype), results)

    return compute


@_wide
def _shifted(x: jax.Array, kernel: jax.Array, *, stride: int, pads: Pads) -> jax.Array:
    """Sum x[s r + i, s c + j] * kernel[i, j] over the places (i, j) of the kernel."""
    k = len(kernel)
    x = _pad(x, pads)
    sides = ((x.shape[1] - k) // stride + 1, (x.shape[2] - k) // stride + 1)
    terms = (_slice(x, (i, j), sides, stride) * kernel[i, j][None, None] for i in range(k) for j in range(k))
    return functools.reduce(jnp.add, terms)


@_wide
def _shifted_gradients(
    x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int, pads: Pads
) -> tuple[jax.Array, jax.Array]:
    k = len(kernel)
    return _input_gradient(gradient, kernel, x.shape[1:3], stride, pads), _kernel_gradient(
        x, gradient, k, stride, pads
    )


def _input_gradient(
    gradient: jax.Array, kernel: jax.Array, sides: tuple[int, ...], stride: int, pads: Pads
) -> jax.Array:
    """Sum gradient[q - a, r - b] * kernel[p + s a, t + s b] over (a, b), at row s q + p and column s r + t.

    Each phase (p, t) of the stride is a sum of its own; the phases are then interleaved.
    """
    k = len(kernel)
    reach = (k - 1) // stride
    rows, columns = cells = [-(-(side + low) // stride) for side, (low, _) in zip(sides, pads, strict=True)]
    behind = [max(0, n - have) for n, have in zip(cells, gradient.shape[1:3], strict=True)]
    padded = _pad(gradient, ((reach, behind[0]), (reach, behind[1])))

    def phase(p: int, t: int) -> jax.Array:
        terms = [
            _slice(padded, (reach - a, reach - b), (rows, columns), 1) * kernel[i, j][None, None]
            for a, i in enumerate(range(p, k, stride))
            for b, j in enumerate(range(t, k, stride))
        ]
        return functools.reduce(
            jnp.add, terms, jnp.zeros((len(gradient), rows, columns, gradient.shape[3]), gradient.dtype)
        )

    phases = [jnp.stack([phase(p, t) for t in range(stride)], axis=3) for p in range(stride)]
    whole = jnp.stack(phases, axis=2).reshape(len(gradient), rows * stride, columns * stride, -1)
    (top, _), (left, _) = pads
    return whole[:, top : top + sides[0], left : left + sides[1]]


def _kernel_gradient(x: jax.Array, gradient: jax.Array, k: int, stride: int, pads: Pads) -> jax.Array:
    """Sum x[s r + i, s c + j] * gradient[r, c] over images, rows and columns, for each place (i, j) of the kernel.

    A loop goes over the images and over blocks of `ROWS` rows, and adds up.
    """
    images, height, width, channels = gradient.shape
    rows = min(ROWS, height)
    blocks = -(-height // rows)
    needed = (blocks * rows - 1) * stride + k
    x = _pad(x, pads)
    x = _pad(x, ((0, max(0, needed - x.shape[1])), (0, 0)))
    gradient = _pad(gradient, ((0, blocks * rows - height), (0, 0)))

    def add_block(total: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
        image, row = index // blocks, index % blocks * rows
        here = jax.lax.dynamic_slice(
            x, (image, row * stride, 0, 0), (1, (rows - 1) * stride + k, x.shape[2], channels)
        )
        weights = jax.lax.dynamic_slice(gradient, (image, row, 0, 0), (1, rows, width, channels))
        sums = [
            jnp.sum(_slice(here, (i, j), (rows, width), stride) * weights, axis=(0, 1, 2))
            for i in range(k)
            for j in range(k)
        ]
        return total + jnp.stack(sums), None

    zeros = jnp.zeros((k * k, channels), x.dtype)
    total, _ = jax.lax.scan(add_block, varying_as(x, zeros), jnp.arange(images * blocks))
    return total.reshape(k, k, 1, channels)


def _pad(x: jax.Array, pads: Pads) -> jax.Array:
    return jnp.pad(x, ((0, 0), *pads, (0, 0)))


def _slice(x: jax.Array, start: tuple[int, int], sides: tuple[int, int], stride: int) -> jax.Array:
    """Return `sides` pixels of `x` [B, H, W, C], from `start` on in steps of `stride`."""
    rows, columns = (slice(i, i + (n - 1) * stride + 1, stride) for i, n in zip(start, sides, strict=True))
    return x[:, rows, columns]
