"""The layers against numbers computed by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.model.layers import INITS, ConvBlock, Head, L2Norm, PointwiseConv, pool2, pool5


def test_l2_norm_is_a_unit_vector_times_the_scale():
    x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    y = L2Norm(initial_scale=20.0).apply({"params": {"scale": jnp.array([20.0, 10.0])}}, x)
    np.testing.assert_allclose(y, [[20 * 3 / 5, 10 * 4 / 5], [0, 0]], rtol=1e-6)


def test_l2_norm_starts_at_its_scale():
    params = L2Norm(initial_scale=8.0).init(jax.random.key(0), jnp.ones((1, 2, 2, 3)))["params"]
    np.testing.assert_array_equal(params["scale"], [8.0, 8.0, 8.0])


def test_l2_norm_has_a_finite_gradient_at_an_all_zero_pixel():
    norm = L2Norm()
    gradient = jax.grad(lambda x: jnp.sum(norm.apply({"params": {"scale": jnp.full(3, 20.0)}}, x)))(jnp.zeros((2, 3)))
    assert np.isfinite(gradient).all()


def test_l2_norm_sums_squares_in_float32():
    x = jnp.full((1, 512), 100.0, jnp.bfloat16)  # the sum of squares, 5.12e6, is far beyond bfloat16's resolution
    y = L2Norm().apply({"params": {"scale": jnp.full(512, 20.0)}}, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), np.full((1, 512), 20 / np.sqrt(512)), rtol=2**-8)


@pytest.mark.parametrize(("side", "pooled"), [(300, 150), (75, 38), (19, 10), (1, 1)])
def test_pool2_rounds_odd_sides_up(side, pooled):
    assert pool2(jnp.zeros((1, side, side, 2))).shape == (1, pooled, pooled, 2)


def test_pool2_takes_the_largest_of_each_window_and_of_a_partial_window_at_the_edge():
    x = jnp.arange(-9.0, 0).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(pool2(x)[0, :, :, 0], [[-5, -4], [-2, -1]])


@pytest.mark.parametrize("shape", [(2, 8, 6, 3), (1, 7, 5, 2)])
def test_pool2_and_its_gradient_are_those_of_a_window_reduction(shape):
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), shape))  # has ties, where the first of a window gets all

    def reduction(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")

    np.testing.assert_array_equal(pool2(x), reduction(x))
    gradient, expected = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (pool2, reduction))
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("pool", [pool2, pool5])
def test_a_relu_after_the_pooling_is_one_before_it(pool):
    x = jnp.round(2 * jax.random.normal(jax.random.key(0), (2, 7, 6, 8))) / 2 - 0.5  # ties, zeros, negative windows
    before, after = (lambda x: pool(nn.relu(x))), (lambda x: nn.relu(pool(x)))
    np.testing.assert_array_equal(after(x), before(x))
    gradient, expected = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(x) for f in (after, before))
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("place", range(4))
def test_pool2_hides_no_nan(place):
    assert np.isnan(pool2(jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1))).all()


def test_pool5_keeps_the_size_and_reaches_one_pixel():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    np.testing.assert_array_equal(pool5(x)[0, :, :, 0], np.pad(np.ones((3, 3)), 1))


def test_xavier_is_caffes_by_fan_in():
    # Caffe's filler: U(-a, a), a = sqrt(3 / fan_in). For conv9_2's localisation head, fan_in 256 * 9: a = 0.0361.
    kernel = INITS["xavier"](jax.random.key(0), (3, 3, 256, 16), jnp.float32)
    assert 0.0360 < np.max(kernel) <= np.sqrt(3 / (256 * 9)) < 0.0362
    assert -0.0362 < -np.sqrt(3 / (256 * 9)) <= np.min(kernel) < -0.0360


def test_a_block_with_batch_norm_has_no_bias_and_updates_its_statistics_only_in_training():
    block = ConvBlock(4, norm="batch")
    x = 5 + jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    variables = block.init(jax.random.key(0), x, train=False)
    assert set(variables["params"]["conv"]) == {"kernel"}
    _, updated = block.apply(variables, x, train=True, mutable=["batch_stats"])
    assert not np.allclose(updated["batch_stats"]["norm"]["mean"], variables["batch_stats"]["norm"]["mean"])
    _, same = block.apply(variables, x, train=False, mutable=["batch_stats"])
    np.testing.assert_array_equal(same["batch_stats"]["norm"]["mean"], variables["batch_stats"]["norm"]["mean"])


def test_the_order_of_a_heads_outputs_is_the_order_of_the_priors():
    # A feature in one cell must appear at the priors of that cell: row before column, cell before shape.
    (row, column), k, per_cell = (5, 2), 2, 4
    feature = jnp.zeros((1, 8, 8, 7)).at[0, row, column, 0].set(1.0)
    kernel = jnp.zeros((3, 3, 7, per_cell * 4)).at[1, 1, 0, 4 * k : 4 * k + 4].set(jnp.arange(1.0, 5))
    params = {"conv": {"kernel": kernel, "bias": jnp.zeros(per_cell * 4)}}
    expected = np.zeros((64 * per_cell, 4))
    expected[(row * 8 + column) * per_cell + k] = [1, 2, 3, 4]
    np.testing.assert_array_equal(Head(per_cell, 4).apply({"params": params}, feature)[0], expected)


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("use_bias", [False, True])
def test_a_pointwise_convolution_is_one_of_flax(portable, use_bias):
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    ours, flax = PointwiseConv(6, use_bias, portable=portable), nn.Conv(6, (1, 1), use_bias=use_bias)
    variables = ours.init(jax.random.key(1), x)
    variables = jax.tree.map(lambda a: a + jnp.arange(6.0).reshape((1,) * (a.ndim - 1) + (-1,)), variables)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, flax.init(jax.random.key(1), x))

    def value_and_gradients(layer):
        value, backward = jax.vjp(layer.apply, variables, x)
        return value, *jax.tree.leaves(backward(jnp.cos(value)))

    for got, wanted in zip(value_and_gradients(ours), value_and_gradients(flax), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
