"""Maximum and minimum with a gradient that survives rounding.

XLA may compute a value twice and round it in two ways. Before 0.12 jax asks which argument equals the maximum; then
neither may, and the gradient is lost (jax-ml/jax#40564). Here the arguments are compared with each other.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np


def maximum(xp, a, b):
    """`xp.maximum` of an array and an array or number; equal ones share the gradient."""
    return np.maximum(a, b) if xp is np else _maximum(a, b)


def minimum(xp, a, b):
    """`xp.minimum` of an array and an array or number; equal ones share the gradient."""
    return np.minimum(a, b) if xp is np else _minimum(a, b)


def bounded(xp, a, low, high):
    """`xp.clip` of an array."""
    return np.clip(a, low, high) if xp is np else _bounded(a, low, high)


# Compiled, they are as fast as jax.numpy's where nothing around them is; inlined, they are nothing apart where it is.
_compiled = partial(jax.jit, inline=True)


@_compiled
def _maximum(a, b):
    return _larger(a, jnp.asarray(b, a.dtype))


@_compiled
def _minimum(a, b):
    return _smaller(a, jnp.asarray(b, a.dtype))


@_compiled
def _bounded(a, low, high):
    return _minimum(_maximum(a, low), high)


@jax.custom_jvp
def _larger(a, b):
    return jnp.maximum(a, b)


@jax.custom_jvp
def _smaller(a, b):
    return jnp.minimum(a, b)


def _is_larger(a, b):
    """1 where a is larger than b, 1/2 where they are equal."""
    return jnp.where(a > b, 1, jnp.where(a >= b, 0.5, 0))


_larger.defjvps(lambda da, _, a, b: _is_larger(a, b) * da, lambda db, _, a, b: _is_larger(b, a) * db)
_smaller.defjvps(lambda da, _, a, b: _is_larger(b, a) * da, lambda db, _, a, b: _is_larger(a, b) * db)
