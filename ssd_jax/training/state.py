"""What a run carries from step to step."""

from functools import partial
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from ssd_jax.model import SSD, compile_to_run_once, draw

PyTree = Any


class TrainState(flax.struct.PyTreeNode):
    """All that a run carries from step to step; its shapes are the same on any number of devices."""

    step: jax.Array  # [], int32: steps made so far, skipped ones included
    params: PyTree
    batch_stats: PyTree  # empty without BatchNorm
    opt_state: PyTree
    skipped: jax.Array  # [], int32: steps whose update was left out
    ema: PyTree = flax.struct.field(default_factory=dict)  # averaged {"params", "batch_stats"}; empty when off

    @property
    def variables(self) -> dict[str, PyTree]:
        """What the model is applied with."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def starting_from(self, variables: dict[str, PyTree]) -> "TrainState":
        """Take over {"params", "batch_stats"}, and begin the average there if there is one."""
        # Copied, since the step donates the state, and a buffer can be donated only once.
        return self.replace(**variables, ema=jax.tree.map(jnp.copy, variables) if self.ema else {})


@partial(compile_to_run_once, static_argnames=("model", "optimizer", "ema"))
def create_state(
    key: jax.Array, model: SSD, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Initialise parameters, BatchNorm statistics and optimiser, and with `ema` their average."""
    variables = draw(model, key)
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        skipped=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )
