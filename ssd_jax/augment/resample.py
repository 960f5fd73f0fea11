"""A window of one image, resampled by a matrix for its rows and one for its columns, with OpenCV's five kernels.

Pixel centres lie at half pixels, nothing is smoothed before shrinking except by "area", and taps outside the window
repeat its border pixels, as `cv2.resize` on a cropped image has it. What lies inside the window but outside the
image counts as the mean colour: pixels are taken as differences from it, so a weight of 0 is exact.
"""

import jax.numpy as jnp

SLIVER = 1e-3
"""A window that enters a pixel by less than this part of it, in pixels, does not use it: such is rounding's doing."""


def _nearest(x):
    return ((x >= -0.5) & (x < 0.5)).astype(x.dtype)


def _linear(x):
    return jnp.maximum(1 - jnp.abs(x), 0)


def _cubic(x):
    """Keys' cubic convolution with OpenCV's a = -3/4."""
    a, x = -0.75, jnp.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0.0))


def _lanczos4(x):
    return jnp.where(jnp.abs(x) < 4, jnp.sinc(x) * jnp.sinc(x / 4), 0.0)


KERNELS = {
    "linear": (2, _linear),
    "area": (2, _nearest),  # a placeholder: "area" integrates, see `axis_weights`
    "nearest": (2, _nearest),
    "cubic": (4, _cubic),
    "lanczos4": (8, _lanczos4),
}
"""Each interpolation's number of taps, and a tap's weight by its distance in pixels."""


def axis_weights(start, stop, length, *, canvas, size, interpolations, choice):
    """The matrix that resamples one axis.

    Args:
        start: float32 [], where the window begins, in pixels; the first pixel covers 0 to 1.
        stop: float32 [], where it ends; below `start` for a mirrored axis.
        length: int32 [], pixels of the image along the axis; the rest of the canvas is never used.
        canvas: pixels of the canvas along the axis.
        size: pixels of the result.
        interpolations: tuple of names, see `AugmentOptions`.
        choice: int or int32 [], which of them.

    Returns:
        float32 [size, canvas]; a row sums to 1, less what it takes of the mean colour around the image.
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


def _sampled(position, pixel, border, kernels, choice):
    """Weights [T, S] by a kernel's value at each tap's distance; taps beyond the border count for the pixel there."""
    taps = max(count for count, _ in kernels)
    near = jnp.floor(position)[:, None] + jnp.arange(1 - taps // 2, 1 + taps // 2, dtype=jnp.float32)[None]
    distance = position[:, None] - near  # [T, taps]
    weights = jnp.stack([kernel(distance) for _, kernel in kernels])[choice]
    weights = weights / weights.sum(axis=1, keepdims=True)
    near = jnp.clip(near, *border)
    return sum(jnp.where(near[:, k, None] == pixel[None], weights[:, k, None], 0.0) for k in range(taps))


def _averaged(position, pixel, step):
    """Weights [T, S] by how much of a result's pixel, `step` wide, lies over each pixel."""
    overlap = (step + 1) / 2 - jnp.abs(position[:, None] - pixel[None])
    return jnp.clip(overlap, 0, jnp.minimum(step, 1)) / step


def resample(rows, planes, columns):
    """`rows [T, H] . planes [H, 3, W] . columns [U, W]^T`, as [T, U, 3].

    Precision "high" is float32 on CPU, three bfloat16 passes on TPU, and TensorFloat32 on GPU, which changes levels
    of 0..255 by less than 0.1. A TPU's default, one bfloat16 pass, would change them by a whole level.
    """
    height, channels, width = planes.shape
    out = jnp.dot(rows, planes.reshape(height, channels * width), precision="high")  # [T, 3 * W]
    out = jnp.dot(out.reshape(-1, width), columns.T, precision="high")  # [T * 3, U]
    return out.reshape(rows.shape[0], channels, columns.shape[0]).transpose(0, 2, 1)
