"""A window of one picture, resampled by a matrix for its rows and one for its columns, with OpenCV's five kernels.

Pixel centres lie at half pixels, nothing is smoothed before shrinking except by "area", and taps outside the window
repeat its border pixels, as `cv2.resize` on a cropped picture has it. What lies inside the window but outside the
picture counts as the mean colour: pixels are taken as differences from it, so a weight of 0 is exact.
"""

import jax
import jax.numpy as jnp

SLIVER = 1e-3
"""A window that enters a pixel by less than this part of it, in pixels, does not use it: such is rounding's doing."""


def axis_weights(start, stop, length, *, canvas, size, interpolations, choice):
    """The matrix that resamples one axis.

    Args:
        start: float32 [], where the window begins, in pixels; the first pixel covers 0 to 1.
        stop: float32 [], where it ends; below `start` for a mirrored axis.
        length: int32 [], pixels of the picture along the axis; the rest of the canvas is never used.
        canvas: pixels of the canvas along the axis.
        size: pixels of the result.
        interpolations: tuple of names, see `AugmentOptions`.
        choice: int32 [], which of them.

    Returns:
        float32 [size, canvas]; a row sums to 1, less what it takes of the mean colour around the picture.
    """
    step = (stop - start) / size
    position = start + (jnp.arange(size, dtype=jnp.float32) + 0.5) * step - 0.5  # [T] in pixels, centres at integers
    first = jnp.floor(jnp.minimum(start, stop) + SLIVER)
    last = jnp.ceil(jnp.maximum(start, stop) - SLIVER) - 1
    pixel = jnp.arange(canvas, dtype=jnp.float32)  # [S]

    def interpolated(taps, kernel):
        nearest = jnp.floor(position)
        offsets = [float(k) for k in range(1 - taps // 2, 1 + taps // 2)]
        weights = [kernel(position - nearest - k) for k in offsets]  # taps of [T]
        total = sum(weights)
        at = [jnp.clip(nearest + k, first, last) for k in offsets]
        return sum(
            jnp.where(a[:, None] == pixel[None], (w / total)[:, None], 0.0) for a, w in zip(at, weights, strict=True)
        )

    def averaged():
        half = (jnp.abs(step) + 1) / 2
        overlap = half - jnp.abs(position[:, None] - pixel[None])  # [T, S] pixels
        return jnp.clip(overlap, 0, jnp.minimum(jnp.abs(step), 1)) / jnp.abs(step)

    matrices = {
        "linear": lambda: interpolated(2, _linear),
        "area": averaged,
        "nearest": lambda: interpolated(2, _nearest),
        "cubic": lambda: interpolated(4, _cubic),
        "lanczos4": lambda: interpolated(8, _lanczos4),
    }
    weights = jax.lax.switch(choice, [matrices[name] for name in interpolations])
    return jnp.where(pixel[None] < length.astype(jnp.float32), weights, 0.0)


def resample(rows, planes, columns):
    """`rows [T, H] . planes [H, 3, W] . columns [U, W]^T`, as [T, U, 3].

    Precision "high" is float32 on CPU, three bfloat16 passes on TPU, and TensorFloat32 on GPU, which changes levels
    of 0..255 by less than 0.1. A TPU's default, one bfloat16 pass, would change them by a whole level.
    """
    height, channels, width = planes.shape
    out = jnp.dot(rows, planes.reshape(height, channels * width), precision="high")  # [T, 3 * W]
    out = jnp.dot(out.reshape(-1, width), columns.T, precision="high")  # [T * 3, U]
    return out.reshape(rows.shape[0], channels, columns.shape[0]).transpose(0, 2, 1)


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
