"""Maximum and minimum are NumPy's, and their gradient goes to the argument that won."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.box.numerics import bounded, maximum, minimum

A = np.float32([1, 2, 3, np.inf, np.nan, 0, -np.inf])
B = np.float32([3, 2, 1, 1, 0, np.nan, -np.inf])


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_values_are_numpys(name):
    function = {"maximum": maximum, "minimum": minimum}[name]
    for xp in (np, jnp):
        np.testing.assert_array_equal(function(xp, xp.asarray(A), xp.asarray(B)), getattr(np, name)(A, B))
        np.testing.assert_array_equal(function(xp, xp.asarray(A), 2), getattr(np, name)(A, 2))


def test_the_gradient_goes_to_the_winner_and_equals_share_it():
    a, b = jnp.float32([1, 2, 3]), jnp.float32([3, 2, 1])
    for function, share in ((maximum, [0, 0.5, 1]), (minimum, [1, 0.5, 0])):
        gradients = jax.grad(lambda a, b, f=function: jnp.sum(f(jnp, a, b)), argnums=(0, 1))(a, b)
        np.testing.assert_array_equal(gradients, [share, share[::-1]])


def test_a_number_may_be_a_bound():
    x = jnp.float32([-2, -1, 0, 1, 2])
    values, gradient = jax.vmap(jax.value_and_grad(lambda x: bounded(jnp, x, -1, 1)))(x)
    np.testing.assert_array_equal(values, np.clip(x, -1, 1))
    np.testing.assert_array_equal(gradient, [0, 0.5, 1, 0.5, 0])
