"""The numerics that all of box shares: one rule for dtypes, one check of shapes, maxima that keep their gradient.

`xp` is `numpy` or `jax.numpy`, whichever the arrays belong to.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

try:
    from jaxtyping import Bool, Float, Int, Real
except ImportError:

    class _Plain:
        """Stand in for jaxtyping's dtypes: `Float[Array, "n 4"]` is then just `Array`."""

        def __class_getitem__(cls, item: Any) -> Any:
            return item[0]

    Bool = Float = Int = Real = _Plain

__all__ = [
    "Array",
    "Bool",
    "Float",
    "Int",
    "Real",
    "Scalar",
    "bounded",
    "check_shape",
    "maximum",
    "minimum",
    "namespace",
    "varying_as",
    "widen",
]

if TYPE_CHECKING:  # no type says "NumPy in, NumPy out; JAX in, JAX out"
    Array = Any
    Scalar = int | float | Any
else:
    Array = jax.Array | np.ndarray | np.generic
    Scalar = int | float | Real[Array, ""]

# Coordinates saturate here, so that products of four sides stay inside float32.
LIMIT = 1e9


def namespace(*arrays: Any) -> ModuleType:
    """Return `jax.numpy` if any of the arrays is JAX's, else `numpy`."""
    return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


def widen(*arrays: Any, scalars: Any = (), infinite_to_nan: bool = False) -> tuple[Any, ...]:
    """Bring arrays and scalars to one dtype, and saturate the arrays at +-1e9.

    Integers, bfloat16 and float16 become float32; float64 stays. All become JAX's if one of them is.

    Args:
      arrays: arrays, or lists of numbers.
      scalars: numbers that are not saturated.
      infinite_to_nan: turn infinities into NaN; by default they saturate. NaN stays NaN either way.

    Returns:
      (xp, *arrays, *scalars).
    """
    xp = namespace(*arrays, *scalars)
    arrays = tuple(xp.asarray(a) for a in arrays)
    dtype = np.float64 if any(a.dtype == np.float64 for a in arrays) else np.float32

    def saturate(a: Any) -> Any:
        saturated = bounded(a, -LIMIT, LIMIT)
        return xp.where(xp.isfinite(a), saturated, a - a) if infinite_to_nan else saturated

    return xp, *(saturate(a.astype(dtype)) for a in arrays), *(xp.asarray(s).astype(dtype) for s in scalars)


def varying_as(data: jax.Array, start: Any) -> Any:
    """Return `start`, the first state of a loop whose later states depend on `data`.

    In a `jax.shard_map` the states of a loop must vary over the same axes of the mesh. So this makes `start` depend
    on `data` too, by a False that is computed from it.
    """
    never = jnp.any(data[:0])
    return jax.tree.map(lambda x: jnp.where(never, jnp.zeros_like(x), x), start)


def check_shape(name: str, array: Any, *shape: str | int) -> None:
    """Check the shape of an array.

    Args:
      name: what the error calls the array.
      array: an array, or lists of numbers.
      shape: length of each axis; a letter stands for any length, a leading `...` for any axes.

    Raises:
      ValueError: if the array has another shape.
    """
    got = np.shape(array)
    wanted = shape[1:] if shape[0] == "..." else shape
    tail = got[len(got) - len(wanted) :] if shape[0] == "..." else got
    fits = len(tail) == len(wanted) and all(isinstance(w, str) or w == n for w, n in zip(wanted, tail, strict=True))
    if not fits:
        rule = ", ".join(str(s) for s in shape)
        raise ValueError(f"{name} must have shape [{rule}]; got {list(got)}")


# Makes eager calls fast; `inline` leaves no trace of it inside other compiled functions.
_compiled = partial(jax.jit, inline=True)


def maximum(a: Any, b: Any) -> Any:
    """Return the larger of an array and an array or number, elementwise; of equal ones `a` gets the gradient."""
    return np.maximum(a, b) if namespace(a, b) is np else _larger(a, jnp.asarray(b, a.dtype))


def minimum(a: Any, b: Any) -> Any:
    """Return the smaller of an array and an array or number, elementwise; of equal ones `a` gets the gradient."""
    return np.minimum(a, b) if namespace(a, b) is np else _smaller(a, jnp.asarray(b, a.dtype))


def bounded(a: Any, low: Any, high: Any) -> Any:
    """Return the array within the bounds, elementwise; a value on a bound keeps its gradient."""
    return np.clip(a, low, high) if namespace(a, low, high) is np else _bounded(a, low, high)


@_compiled
def _bounded(a: Any, low: Any, high: Any) -> jax.Array:
    return jnp.where(a < low, low, jnp.where(a > high, high, a))


def _with_safe_gradient(extremum: Callable, wins: Callable) -> Callable:
    """Let the gradient of an extremum of two go to `a` where it wins, else to `b`.

    XLA may compute a value twice and round it in two ways. Before 0.12, jax compares each argument with the result:
    if neither is equal to it, the gradient is lost (jax-ml/jax#40564). Here the arguments are compared with each
    other. Delete this function when jax >= 0.12 is required.
    """
    function = jax.custom_jvp(lambda a, b: extremum(a, b))
    function.defjvp(lambda primals, tangents: (extremum(*primals), jnp.where(wins(*primals), *tangents)))
    return _compiled(function)


_larger = _with_safe_gradient(jnp.maximum, jnp.greater_equal)
_smaller = _with_safe_gradient(jnp.minimum, jnp.less_equal)
