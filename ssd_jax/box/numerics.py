"""The numerics that all of box shares: one dtype rule, one shape check, maxima whose gradient survives rounding."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

try:
    from jaxtyping import Bool, Float, Int, Real
except ImportError:

    class _Plain:
        """Stands in for jaxtyping's dtypes: `Float[Array, "n 4"]` is then just `Array`."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = Real = _Plain

__all__ = [
    *("Array", "Bool", "Float", "Int", "Real", "Scalar"),
    *("bounded", "check_shape", "maximum", "minimum", "varying_as", "widen"),
]

Array = jax.Array | np.ndarray | np.generic
Scalar = int | float | Real[Array, ""]

# Coordinates saturate here, so that products of four sides stay inside float32.
LIMIT = 1e9


def widen(*arrays, scalars=(), keep_infinite=False):
    """(numpy or jax.numpy, *arrays as float32 or wider, *scalars in their dtype), arrays saturated at +-1e9.

    JAX if any of them is JAX's. Integers, bfloat16 and float16 become float32; float64 stays. With `keep_infinite`
    only finite values saturate.
    """
    xp = jnp if any(isinstance(a, jax.Array) for a in (*arrays, *scalars)) else np
    arrays = [xp.asarray(a) for a in arrays]
    dtype = np.float64 if any(a.dtype == np.float64 for a in arrays) else np.float32

    def saturate(a):
        saturated = bounded(xp, a, -LIMIT, LIMIT)
        return xp.where(xp.isfinite(a), saturated, a) if keep_infinite else saturated

    return xp, *(saturate(a.astype(dtype)) for a in arrays), *(xp.asarray(s).astype(dtype) for s in scalars)


def varying_as(data, start):
    """`start`, for a loop that turns it into what depends on `data`.

    In a `jax.shard_map` the two must vary over the same axes of the mesh: here by a False that comes from `data`.
    """
    never = jnp.any(data[:0])
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), start)


def check_shape(name, array, *shape):
    """ValueError unless `array` has this shape; a letter is any length, a leading `...` any axes."""
    got = np.shape(array)
    wanted = shape[1:] if shape[0] == "..." else shape
    tail = got[len(got) - len(wanted) :] if shape[0] == "..." else got
    fits = len(tail) == len(wanted) and all(isinstance(w, str) or w == n for w, n in zip(wanted, tail, strict=True))
    if not fits:
        rule = ", ".join(str(s) for s in shape)
        raise ValueError(f"{name} must have shape [{rule}]; got {list(got)}")


# Maximum and minimum with a gradient that survives rounding: XLA may compute a value twice and round it in two ways.
# Before 0.12 jax asks which argument equals the maximum; then neither may, and the gradient is lost
# (jax-ml/jax#40564). Here the arguments are compared with each other. Delete when jax >= 0.12 is required.


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
