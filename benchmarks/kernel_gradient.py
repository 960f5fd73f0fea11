"""Time the gradient of a convolution's kernel on a CPU: as XLA computes it, and in other forms.

    python benchmarks/kernel_gradient.py [--batch 2 4] [--repeats=5] [--forms "XLA's" taps ...]

The layers are 3 x 3 convolutions of SSD300 with VGG16. The forms:

* XLA's: what differentiation gives.
* exchanged: a forward convolution with the batch and the channels exchanged, arrays moved into that order first.
* exchanged, NCHW: the same with the channels before the rows.
* exchanged, by rows: the same over blocks of rows, whose results are summed.
* taps: nine matrix products, one of each position of the kernel.
* bfloat16: XLA's, with maps in bfloat16.

They take turns in one process. The error is that of one image, against NumPy in float64.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from timing import Table, best_times, machine

LAYERS = {  # side of the map, channels in and out
    "conv1_2": (300, 64, 64),
    "conv2_1": (150, 64, 128),
    "conv2_2": (150, 128, 128),
    "conv3_2": (75, 256, 256),
    "conv4_2": (38, 512, 512),
}
ROWS = 25  # of a block


def forward(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def of_xla(x, g):
    """The kernel [3, 3, I, O] of maps x [B, H, W, I] and gradients g [B, H, W, O]."""
    shape = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: forward(x, kernel), shape)(g)[0]


def exchanged(x, g, pads=((1, 1), (1, 1))):
    x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)  # [I, H, W, B], [H, W, B, O]
    found = jax.lax.conv_general_dilated(x, g, (1, 1), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return found.transpose(1, 2, 0, 3)


def exchanged_nchw(x, g):
    x, g = x.transpose(3, 0, 1, 2), g.transpose(3, 0, 1, 2)  # [I, B, H, W], [O, B, H, W]
    pads = ((1, 1), (1, 1))
    found = jax.lax.conv_general_dilated(x, g, (1, 1), pads, dimension_numbers=("NCHW", "OIHW", "NCHW"))
    return found.transpose(2, 3, 0, 1)


def exchanged_by_rows(x, g):
    x, height = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), g.shape[1]
    blocks = [(top, min(top + ROWS, height)) for top in range(0, height, ROWS)]
    return sum(exchanged(x[:, top : end + 2], g[:, top:end], ((0, 0), (1, 1))) for top, end in blocks)


def taps(x, g):
    (_, height, width, _), x = g.shape, jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = [
        jnp.einsum("bhwi,bhwo->io", x[:, r : r + height, c : c + width], g) for r in range(3) for c in range(3)
    ]
    return jnp.stack(products).reshape(3, 3, x.shape[-1], g.shape[-1])


def bfloat16(x, g):
    return of_xla(x.astype(jnp.bfloat16), g.astype(jnp.bfloat16)).astype(jnp.float32)


FORMS = {
    "XLA's": of_xla,
    "exchanged": exchanged,
    "exchanged, NCHW": exchanged_nchw,
    "exchanged, by rows": exchanged_by_rows,
    "taps": taps,
    "bfloat16": bfloat16,
}


def main():
    """Parse the flags and print GFLOP/s of each form, and its largest error in parts of the largest gradient."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--forms", nargs="+", default=list(FORMS))
    options = parser.parse_args()
    print(f"{machine()}\n\nGFLOP/s, and the largest error\n")
    table = Table("layer", "batch", *options.forms)
    for name, (side, inputs, outputs) in LAYERS.items():
        for batch in options.batch:
            rng = np.random.default_rng(0)
            x = jnp.asarray(rng.normal(size=(batch, side, side, inputs)), jnp.float32)
            g = jnp.asarray(rng.normal(size=(batch, side, side, outputs)), jnp.float32)
            exact = exact_gradient(np.asarray(x[:1], np.float64), np.asarray(g[:1], np.float64))
            errors = {
                form: np.abs(FORMS[form](x[:1], g[:1]) - exact).max() / np.abs(exact).max() for form in options.forms
            }
            compiled = {form: jax.jit(FORMS[form]) for form in options.forms}
            times = best_times({form: lambda f=f, x=x, g=g: f(x, g) for form, f in compiled.items()}, options.repeats)
            flop = 2 * 9 * batch * side * side * inputs * outputs
            table.row(name, batch, *(f"{flop / times[k] / 1e9:.0f} ({errors[k]:.0e})" for k in options.forms))


def exact_gradient(x, g):
    """Compute the gradient in float64 by NumPy."""
    (_, height, width, _), x = g.shape, np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [x[:, r : r + height, c : c + width] for r in range(3) for c in range(3)]
    products = [window.reshape(-1, x.shape[-1]).T @ g.reshape(-1, g.shape[-1]) for window in windows]
    return np.stack(products).reshape(3, 3, x.shape[-1], g.shape[-1])


if __name__ == "__main__":
    main()
