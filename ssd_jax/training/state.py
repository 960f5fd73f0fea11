"""What a run carries from step to step."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from ssd_jax.model import SSD

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """All that a run carries from step to step; its shapes are the same on any number of devices."""

    step: jax.Array  # [], int32: updates made so far
    params: PyTree
    batch_stats: PyTree  # empty without BatchNorm
    opt_state: PyTree


def create_state(key: jax.Array, model: SSD, optimizer: optax.GradientTransformation) -> TrainState:
    """Initialise parameters, BatchNorm statistics and optimiser."""
    size = model.spec.image_size
    # Run once: to optimise its many random draws would take longer than everything else before the first step.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = init(key, jnp.zeros((1, size, size, 3)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
