"""Maximum and minimum are NumPy's, and their gradient goes to the argument that is returned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.box.numerics import bounded, maximum, minimum, widen

A = np.float32([1, 2, 3, np.inf, np.nan, 0, -np.inf])
B = np.float32([3, 2, 1, 1, 0, np.nan, -np.inf])


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize(("function", "reference"), [(maximum, np.maximum), (minimum, np.minimum)])
def test_values_are_numpys(function, reference, xp):
    for b in (B, 2, 0.5, np.float32(2)):
        got = function(xp.asarray(A), xp.asarray(b) if b is B else b)
        assert isinstance(got, jax.Array if xp is jnp else np.ndarray)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, reference(A, b))


def test_the_gradient_goes_to_the_argument_that_is_returned_and_to_the_first_of_equals():
    a, b = jnp.float32([1, 2, 3]), jnp.float32([3, 2, 1])
    for function, to_first in ((maximum, [0, 1, 1]), (minimum, [1, 1, 0])):
        to_a, to_b = jax.grad(lambda a, b, f=function: jnp.sum(f(a, b)), argnums=(0, 1))(a, b)
        np.testing.assert_array_equal(to_a, to_first)
        np.testing.assert_array_equal(to_b, 1 - np.array(to_first))


def test_a_number_may_be_a_bound():
    x = jnp.float32([-2, -1, 0, 1, 2])
    values, gradient = jax.vmap(jax.value_and_grad(lambda x: bounded(x, -1, 1)))(x)
    np.testing.assert_array_equal(values, np.clip(x, -1, 1))
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 0])


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
def test_infinities_saturate_or_become_nan_and_nan_stays(xp):
    x = xp.asarray(np.float32([3e38, -3e38, np.inf, -np.inf, np.nan, 1]))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(widen(x)[1], np.float32([1e9, -1e9, 1e9, -1e9, np.nan, 1]))
        spoilt = widen(x, infinite_to_nan=True)[1]
    np.testing.assert_array_equal(spoilt, np.float32([1e9, -1e9, np.nan, np.nan, np.nan, 1]))
