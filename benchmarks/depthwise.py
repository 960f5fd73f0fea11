"""Time depthwise convolutions against XLA's grouped convolution: forward, and both gradients.

    python benchmarks/depthwise.py [--repeats=5] [--batch=8]

The layers are those of EfficientNet-Lite0 at 320 pixels. Each row runs its variants in turn in one process, so that a
busy machine slows all of them, and prints the least time of ours and the ratio of XLA's to it.
"""

import argparse

import jax
import jax.numpy as jnp
from timing import Table, best_times, machine

from ssd_jax.model.depthwise import depthwise_convolution, grouped_convolution, same_pads

# Side of the map, channels, kernel and stride.
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


def variants(side, channels, k, stride, batch):
    """Return the calls to time, compiled, by name."""
    x = jax.random.normal(jax.random.key(0), (batch, side, side, channels))
    kernel = jax.random.normal(jax.random.key(1), (k, k, 1, channels))
    options = {"stride": stride, "pads": same_pads((side, side), k, stride)}
    calls = {}
    for name, convolve in (("ours", depthwise_convolution), ("XLA", grouped_convolution)):

        def forward(x, kernel, convolve=convolve):
            return convolve(x, kernel, **options)

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
    for side, channels, k, stride in LAYERS:
        times = best_times(variants(side, channels, k, stride, flags.batch), flags.repeats)
        cells = []
        for what in ("forward", "gradients"):
            ours, theirs = times[f"ours {what}"], times[f"XLA {what}"]
            cells += [f"{1e3 * ours:.1f}", f"{theirs / ours:.1f}"]
        table.row(f"{side}x{side}x{channels}, {k}x{k}, stride {stride}", *cells)


if __name__ == "__main__":
    main()
