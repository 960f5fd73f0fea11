"""Depthwise convolution against XLA's grouped one: values, gradients, types, and how programs are made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ssd_jax.model.depthwise import depthwise_convolution, grouped_convolution, same_pads
from ssd_jax.model.layers import ConvBlock, DepthwiseConv

CASES = [  # height, width, kernel, stride, pads
    (9, 7, 3, 1, ((1, 1), (1, 1))),
    (9, 8, 5, 1, ((2, 2), (2, 2))),
    (20, 6, 3, 1, ((0, 0), (0, 0))),  # more than one block of rows
    (10, 12, 3, 2, ((0, 1), (0, 1))),
    (11, 9, 5, 2, ((2, 2), (2, 2))),
    (2, 2, 5, 2, ((1, 2), (1, 2))),
    (17, 5, 3, 3, ((0, 0), (2, 1))),  # rows at the end that no place of the kernel meets
    (20, 20, 5, 4, ((2, 3), (2, 3))),
    (1, 1, 3, 2, ((1, 1), (1, 1))),
]


def arrays(height, width, k, stride, pads, dtype=np.float32):
    """Return images, a kernel and a gradient of the output."""
    random = np.random.default_rng(height)
    x = random.normal(size=(2, height, width, 4))
    rows, columns = ((side + sum(pad) - k) // stride + 1 for side, pad in zip((height, width), pads, strict=True))
    return [
        jnp.asarray(a, dtype)
        for a in (x, random.normal(size=(k, k, 1, 4)), random.normal(size=(2, rows, columns, 4)))
    ]


def value_and_gradients(convolve, x, kernel, gradient, **options):
    value, backward = jax.vjp(lambda x, kernel: convolve(x, kernel, **options), x, kernel)
    return value, *backward(gradient)


@pytest.mark.parametrize(("height", "width", "k", "stride", "pads"), CASES)
def test_values_and_gradients_are_those_of_a_grouped_convolution(height, width, k, stride, pads):
    with jax.enable_x64(True):
        given = arrays(height, width, k, stride, pads, np.float64)
        ours = value_and_gradients(depthwise_convolution, *given, stride=stride, pads=pads)
        theirs = value_and_gradients(grouped_convolution, *given, stride=stride, pads=pads)
    for got, wanted in zip(ours, theirs, strict=True):
        assert got.shape == wanted.shape
        assert got.dtype == jnp.float64
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_a_value_is_a_sum_over_the_kernel():
    x, kernel, _ = arrays(5, 6, 3, 2, ((0, 1), (1, 0)))
    padded = np.pad(x, ((0, 0), (0, 1), (1, 0), (0, 0)))
    got = depthwise_convolution(x, kernel, stride=2, pads=((0, 1), (1, 0)))
    for row, column in ((0, 0), (1, 2)):
        window = padded[1, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        np.testing.assert_allclose(got[1, row, column], np.sum(window * kernel[:, :, 0], axis=(0, 1)), rtol=1e-5)


def test_bfloat16_is_summed_in_float32():
    given = arrays(20, 20, 5, 1, ((2, 2), (2, 2)), jnp.bfloat16)
    ours = value_and_gradients(depthwise_convolution, *given, stride=1, pads=((2, 2), (2, 2)))
    wide = [a.astype(jnp.float32) for a in given]
    exact = value_and_gradients(grouped_convolution, *wide, stride=1, pads=((2, 2), (2, 2)))
    for got, wanted in zip(ours, exact, strict=True):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(got.astype(jnp.float32), wanted, rtol=2**-8, atol=1e-3)


def gradients(x, kernel):
    options = {"stride": 2, "pads": ((1, 1), (1, 1))}
    return jax.grad(lambda *a: jnp.sum(depthwise_convolution(*a, **options) ** 2), (0, 1))(x, kernel)


def test_vmap_and_pmap_change_nothing():
    x, kernel, _ = arrays(8, 6, 3, 2, ((1, 1), (1, 1)))
    xs = jnp.stack([x, 2 * x])
    one_by_one = [gradients(x, kernel) for x in xs]
    for together in (jax.vmap(gradients, (0, None))(xs, kernel), jax.pmap(gradients, in_axes=(0, None))(xs, kernel)):
        for k, expected in enumerate(one_by_one):
            for got, wanted in zip(together, expected, strict=True):
                np.testing.assert_allclose(got[k], wanted, rtol=1e-5, atol=1e-5)


def test_an_exported_program_is_for_all_platforms():
    x, kernel, _ = arrays(8, 6, 3, 2, ((1, 1), (1, 1)))
    program = export.export(jax.jit(gradients), platforms=("cpu", "cuda", "tpu"))(x, kernel)
    assert program.mlir_module().count("stablehlo.convolution") >= 3  # for the platforms that are not a CPU
    for got, wanted in zip(program.call(x, kernel), gradients(x, kernel), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-4)


def test_the_batch_of_an_exported_program_may_be_symbolic():
    x, kernel, _ = arrays(8, 6, 3, 2, ((1, 1), (1, 1)))
    layer = jax.jit(lambda x: DepthwiseConv(3, 2).apply({"params": {"kernel": kernel}}, x))
    program = export.export(layer)(jax.ShapeDtypeStruct((*export.symbolic_shape("b"), *x.shape[1:]), x.dtype))
    np.testing.assert_allclose(program.call(x), layer(x), rtol=1e-6)


@pytest.mark.parametrize(("side", "kernel", "stride"), [(320, 3, 2), (7, 3, 2), (80, 5, 2), (10, 5, 1), (1, 3, 2)])
def test_same_pads_are_tensorflows(side, kernel, stride):
    (low, high), columns = same_pads((side, side), kernel, stride)
    assert (low, high) == columns
    assert [(low, high)] == jax.lax.padtype_to_pads((side,), (kernel,), (stride,), "SAME")


@pytest.mark.parametrize("padding", [1, "SAME"])
def test_a_portable_layer_is_one_convolution_and_computes_the_same(padding):
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    layer, portable = (DepthwiseConv(3, 2, padding, portable=portable) for portable in (False, True))
    variables = layer.init(jax.random.key(1), x)
    np.testing.assert_allclose(layer.apply(variables, x), portable.apply(variables, x), rtol=1e-6, atol=1e-6)
    operations = [equation.primitive.name for equation in jax.make_jaxpr(portable.apply)(variables, x).eqns]
    assert operations == ["conv_general_dilated"]


def test_a_block_without_features_is_depthwise():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 6))
    block = ConvBlock(None, norm="batch", activation="relu6")
    variables = block.init(jax.random.key(1), x, train=False)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "conv": {"kernel": (3, 3, 1, 6)},
        "norm": {"scale": (6,), "bias": (6,)},
    }
    far = {"params": variables["params"] | {"norm": {"scale": jnp.full(6, 1e3), "bias": jnp.zeros(6)}}}
    y = block.apply(variables | far, x, train=False)
    assert (float(jnp.min(y)), float(jnp.max(y))) == (0.0, 6.0)
