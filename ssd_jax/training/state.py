"""The state of a run: what one step hands to the next."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from ssd_jax.model import SSD, compile_to_run_once, init_variables

PyTree = Any


class TrainState(struct.PyTreeNode):
    """What one step hands to the next; its shapes are the same on any number of devices.

    Attributes:
      step: [], int32: steps made so far, skipped ones included.
      params: parameters of the model.
      batch_stats: running statistics of BatchNorm; empty without BatchNorm.
      opt_state: state of the optimiser.
      skipped: [], int32: steps whose update was not finite and therefore not made.
      ema: moving averages {"params", "batch_stats"}; empty when off.
    """

    step: jax.Array
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    skipped: jax.Array
    ema: PyTree = struct.field(default_factory=dict)

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables to apply the model with."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def starting_from(self, variables: dict[str, PyTree]) -> "TrainState":
        """Replace the variables by {"params", "batch_stats"}, and start the average from them if there is one."""
        # The average is a copy: the step donates the state, and a buffer can be donated only once.
        return self.replace(**variables, ema=jax.tree.map(jnp.copy, variables) if self.ema else {})


@partial(compile_to_run_once, static_argnames=("model", "optimizer", "ema"))
def create_state(
    key: jax.Array, model: SSD, optimizer: optax.GradientTransformation, *, ema: bool = False
) -> TrainState:
    """Create the state of a new run.

    Args:
      key: for the random parameters.
      model: what to train.
      optimizer: made by `make_optimizer`.
      ema: whether to keep a moving average of parameters and BatchNorm statistics.
    """
    variables = init_variables(model, key)
    variables = {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        skipped=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, variables) if ema else {},
    )
