"""Time depthwise and 1x1 convolutions against XLA's own: forward, and both gradients.

    python benchmarks/depthwise.py [--repeats=5] [--batch=8]

The layers are those of EfficientNet-Lite0 at 320 pixels. Each row runs its variants in turn in one process, so that a
busy machine slows all of them, and prints the least time of ours and the ratio of XLA's to it.
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
from timing import Table, best_times, machine

from ssd_jax.model.depthwise import depthwise_convolution, grouped_convolution, same_pads
from ssd_jax.model.layers import PointwiseConv

# Side of the map, channels, kernel and stride of depthwise convolutions.
LAYERS = (
    (160, 32, 3, 1),
    (160, 96, 3, 2),
    (80, 144, 3, 1),
    (80, 144, 5, 2),
    (40, 240, 5, 1),
    (40, 240, 3, 2),
    (20, 480, 3, 1),
    (20, 672, 5, 1),
    (20, 672, 5, 2),
    (10, 1152, 5, 1),
)
# Side of the map, channels in and out of 1x1 convolutions.
POINTWISE = (
    (80, 24, 144),
    (80, 144, 24),
    (40, 40, 240),
    (20, 80, 480),
    (20, 112, 672),
    (10, 192, 1152),
    (10, 320, 1280),
)


def depthwise(side, k, stride):
    """Return ours and XLA's."""
    options = {"stride": stride, "pads": same_pads((side, side), k, stride)}
    return partial(depthwise_convolution, **options), partial(grouped_convolution, **options)


def pointwise(features):
    """Return ours and XLA's."""

    def convolve(x, kernel, portable):
        layer = PointwiseConv(features, use_bias=False, portable=portable)
        return layer.apply({"params": {"kernel": kernel}}, x)

    return partial(convolve, portable=False), partial(convolve, portable=True)


def variants(ours, theirs, x_shape, kernel_shape):
    """Return the calls to time, compiled, by name."""
    x = jax.random.normal(jax.random.key(0), x_shape)
    kernel = jax.random.normal(jax.random.key(1), kernel_shape)
    calls = {}
    for name, forward in (("ours", ours), ("XLA", theirs)):

        def gradients(x, kernel, gradient, forward=forward):
            return jax.vjp(forward, x, kernel)[1](gradient)

        gradient = jnp.ones_like(forward(x, kernel))
        calls[f"{name} forward"] = compiled(forward, x, kernel)
        calls[f"{name} gradients"] = compiled(gradients, x, kernel, gradient)
    return calls


def compiled(function, *arrays):
    program = jax.jit(function).lower(*arrays).compile()
    return lambda: program(*arrays)


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--repeats", type=int, default=5)
    flags.add_argument("--batch", type=int, default=8)
    flags = flags.parse_args()
    print(machine("jaxlib"))
    table = Table("layer", "forward, ms", "XLA / ours", "gradients, ms", "XLA / ours")
    rows = {
        f"{side}x{side}x{channels}, {k}x{k}, stride {stride}": (
            *depthwise(side, k, stride),
            (flags.batch, side, side, channels),
            (k, k, 1, channels),
        )
        for side, channels, k, stride in LAYERS
    } | {
        f"{side}x{side}, 1x1, {narrow} to {wide}": (
            *pointwise(wide),
            (flags.batch, side, side, narrow),
            (1, 1, narrow, wide),
        )
        for side, narrow, wide in POINTWISE
    }
    for name, layer in rows.items():
        times = best_times(variants(*layer), flags.repeats)
        cells = []
        for what in ("forward", "gradients"):
            ours, theirs = times[f"ours {what}"], times[f"XLA {what}"]
            cells += [f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}"]
        table.row(name, *cells)


if __name__ == "__main__":
    main()
