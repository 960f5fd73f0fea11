"""Run a function of JAX in float64, whatever types it asks for: the oracle for what float32 rounds."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core


def in_float64(function, *args):
    """Compute `function(*args)` with every float32 value and constant of its program as float64.

    `jax.enable_x64` alone would not do: the program itself converts to float32 here and there.
    """
    closed = jax.make_jaxpr(function)(*args)
    shape = jax.eval_shape(function, *args)
    with jax.enable_x64(True):
        leaves = [_wide(np.asarray(leaf)) for leaf in jax.tree.leaves(args)]
        outputs = jax.jit(lambda *leaves: _evaluate(closed.jaxpr, closed.consts, leaves))(*leaves)
    return jax.tree.unflatten(jax.tree.structure(shape), [np.asarray(output) for output in outputs])


def _wide(value):
    return jnp.asarray(value, jnp.float64 if value.dtype == np.float32 else value.dtype)


def _evaluate(jaxpr, consts, arguments):
    values = dict(zip(jaxpr.constvars, map(_wide, map(np.asarray, consts)), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def read(atom):
        return _wide(np.asarray(atom.val)) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        inputs, parameters = [read(atom) for atom in equation.invars], dict(equation.params)
        inner = parameters.get("jaxpr") or parameters.get("call_jaxpr")
        if equation.primitive.name == "cond":  # by platform: all branches compute the same
            inner, inputs = parameters["branches"][-1], inputs[1:]
        if isinstance(inner, core.ClosedJaxpr):
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs)
        else:
            for name in ("new_dtype", "preferred_element_type", "dtype"):
                if parameters.get(name) == np.float32:
                    parameters[name] = np.dtype(np.float64)
            outputs = equation.primitive.bind(*inputs, **parameters)
            outputs = outputs if equation.primitive.multiple_results else [outputs]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]
