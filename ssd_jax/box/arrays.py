"""What every function here does with its arguments: one dtype rule, one shape check, optional annotations."""

import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax.box.extrema import bounded

try:
    from jaxtyping import Bool, Float, Int, Real
except ImportError:

    class _Plain:
        """Stands in for jaxtyping's dtypes: `Float[Array, "n 4"]` is then just `Array`."""

        def __class_getitem__(cls, item):
            return item[0]

    Bool = Float = Int = Real = _Plain

__all__ = ["Array", "Bool", "Float", "Int", "Real", "Scalar", "check_shape", "varying_as", "widen"]

Array = jax.Array | np.ndarray | np.generic
Scalar = int | float | Real[Array, ""]

# Coordinates saturate here, so that products of four sides stay inside float32.
LIMIT = 1e9


def widen(*arrays, scalars=()):
    """(numpy or jax.numpy, *arrays as float32 or wider, *scalars in their dtype), arrays saturated at +-1e9.

    JAX if any of them is JAX's. Integers, bfloat16 and float16 become float32; float64 stays.
    """
    xp = jnp if any(isinstance(a, jax.Array) for a in (*arrays, *scalars)) else np
    arrays = [xp.asarray(a) for a in arrays]
    dtype = np.float64 if any(a.dtype == np.float64 for a in arrays) else np.float32
    return (
        xp,
        *(bounded(xp, a.astype(dtype), -LIMIT, LIMIT) for a in arrays),
        *(xp.asarray(s).astype(dtype) for s in scalars),
    )


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
