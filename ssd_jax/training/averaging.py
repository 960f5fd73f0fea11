"""An average of the weights along a run, which often detects better than the last of them."""

from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def moving_average(average: PyTree, latest: PyTree, *, decay: float, step: jax.Array) -> PyTree:
    """Exponential moving average: d * average + (1 - d) * latest, leaf by leaf.

    d is `decay`, but at most (1 + t) / (10 + t) at step t = 0, 1, ...: a long memory does not hold on to the start
    of the run (the warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=t)`).
    """
    t = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, latest)
