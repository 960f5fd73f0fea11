"""Resample a window of one image by a matrix for rows and a matrix for columns, with OpenCV's five kernels.

As in `cv2.resize` of a cropped image, pixel centres lie at half pixels, only "area" smooths before shrinking, and
kernels that reach outside the window repeat its border pixels. Inside the window but outside the image everything has
the mean colour: pixels are differences from it, so that a weight of 0 gives exactly the mean.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

SLIVER = 1e-3
"""Overlaps of the window with a pixel that are smaller than this, in pixels, come from rounding and are ignored."""

Kernel = Callable[[jax.Array], jax.Array]  # the weight of a pixel at a distance in pixels


def _nearest(x: jax.Array) -> jax.Array:
    return ((x >= -0.5) & (x < 0.5)).astype(x.dtype)


def _linear(x: jax.Array) -> jax.Array:
    return jnp.maximum(1 - jnp.abs(x), 0)


def _cubic(x: jax.Array) -> jax.Array:
    """Evaluate Keys' cubic convolution with OpenCV's a = -3/4."""
    a, x = -0.75, jnp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _lanczos4(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < 4, jnp.sinc(x) * jnp.sinc(x / 4), 0.0)


KERNELS: dict[str, tuple[int, Kernel]] = {
    "linear": (2, _linear),
    "area": (2, _nearest),  # not used: `axis_weights` replaces these weights by averages
    "nearest": (2, _nearest),
    "cubic": (4, _cubic),
    "lanczos4": (8, _lanczos4),
}
"""The number of pixels that each interpolation combines, and their weight by distance."""


def axis_weights(
    start: jax.Array,
    stop: jax.Array,
    length: jax.Array,
    *,
    canvas: int,
    size: int,
    interpolations: Sequence[str],
    choice: int | jax.Array,
) -> jax.Array:
    """Make the matrix that resamples one axis.

    Args:
      start: float32 [], start of the window in pixels; the first pixel covers 0 to 1.
      stop: float32 [], its end; less than `start` on a mirrored axis.
      length: int32 [], pixels of the image along the axis; the rest of the canvas is not used.
      canvas: pixels of the canvas along the axis.
      size: pixels of the result.
      interpolations: names, see `AugmentOptions`.
      choice: int or int32 [], the index of the interpolation to use.

    Returns:
      float32 [size, canvas]; a row sums to 1 minus the weight of the mean colour around the image.
    """
    step = (stop - start) / size
    position = start + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step - 0.5  # [T] pixels, centres at integers
    pixel = jnp.arange(canvas, dtype=jnp.float32)  # [S]
    border = jnp.floor(jnp.minimum(start, stop) + SLIVER), jnp.ceil(jnp.maximum(start, stop) - SLIVER) - 1

    kernels = [KERNELS[name] for name in interpolations]
    weights = _sampled(position, pixel, border, kernels, choice)  # [T, S]
    if "area" in interpolations:
        is_area = choice == interpolations.index("area")
        weights = jnp.where(is_area, _averaged(position, pixel, jnp.abs(step)), weights)
    return jnp.where(pixel[None] < length.astype(jnp.float32), weights, 0.0)


def _sampled(
    position: jax.Array,
    pixel: jax.Array,
    border: tuple[jax.Array, jax.Array],
    kernels: Sequence[tuple[int, Kernel]],
    choice: int | jax.Array,
) -> jax.Array:
    """Compute weights [T, S] by a kernel of the distance; weights beyond the border go to the border's pixel."""
    taps = max(count for count, _ in kernels)
    near = jnp.floor(position)[:, None] + jnp.arange(1 - taps // 2, 1 + taps // 2, dtype=jnp.float32)[None]
    distance = position[:, None] - near  # [T, taps]
    weights = jnp.stack([kernel(distance) for _, kernel in kernels])[choice]
    weights = weights / weights.sum(axis=1, keepdims=True)
    near = jnp.clip(near, *border)
    parts = [jnp.where(near[:, k, None] == pixel[None], weights[:, k, None], 0.0) for k in range(taps)]
    return sum(parts[1:], start=parts[0])


def _averaged(position: jax.Array, pixel: jax.Array, step: jax.Array) -> jax.Array:
    """Compute weights [T, S] by how much of a result's pixel, `step` pixels wide, lies over each pixel."""
    overlap = (step + 1) / 2 - jnp.abs(position[:, None] - pixel[None])
    return jnp.clip(overlap, 0, jnp.minimum(step, 1)) / step


def resample(rows: jax.Array, planes: jax.Array, columns: jax.Array) -> jax.Array:
    """Multiply `rows [T, H] . planes [H, 3, W] . columns [U, W]^T`; the result is [T, U, 3].

    Precision "high" means float32 on a CPU, three bfloat16 passes on a TPU, which change levels of 0..255 by less
    than 0.01, and TensorFloat32 on a GPU, which changes them by less than 0.2. The default of a TPU, one bfloat16
    pass, would change them by a whole level.
    """
    height, channels, width = planes.shape
    out = jnp.dot(rows, planes.reshape(height, channels * width), precision="high")  # [T, 3 * W]
    out = jnp.dot(out.reshape(-1, width), columns.T, precision="high")  # [T * 3, U]
    return out.reshape(rows.shape[0], channels, columns.shape[0]).transpose(0, 2, 1)
