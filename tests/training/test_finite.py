"""SSD in the paper's recipe stays finite: no BatchNorm, SGD at 1e-3 with momentum, biases at twice the rate.

`benchmarks/results/finite-cpu.md` has 1,000 steps of SSD300.
"""

import functools

import jax
import numpy as np
import pytest
import tiny

from ssd_jax.augment import AugmentOptions
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules
MODEL = tiny.MODEL.clone(norm=None, l2_scale=20.0, head_init="xavier")
OPTIMIZER = tiny.sgd(1e-3)  # momentum, decay and the rate of biases are the paper's
STEPS = 60


@functools.cache
def compiled():
    return jax.jit(tiny.train_step(OPTIMIZER, model=MODEL, options=AugmentOptions()))


def batches():
    """Return a batch of images, one with what makes other implementations NaN, and one without an object."""
    usual = tiny.first_batch(tiny.Images(), 4)
    hard = {name: array.copy() for name, array in usual.items()}
    hard["labels"][:] = 1
    hard["boxes"][0] = [0.5, 0.2, 0.5, 0.8]  # no width: the logarithm of its width would be infinite
    hard["boxes"][1] = [0.5, 0.5, 0.5 + 1e-7, 0.5 + 1e-7]
    hard["boxes"][2] = [0.0, 0.0, 1.0, 1.0]  # one box four times
    hard["images"][3] = 0  # one colour: no positive activation may be left
    empty = {**usual, "labels": np.zeros_like(usual["labels"])}  # nothing to divide by
    return usual, hard, empty


@pytest.mark.parametrize("gain", [1.0, 1.3], ids=["He", "growing features"])
def test_the_papers_recipe_stays_finite(gain):
    state = create_state(jax.random.key(0), MODEL, OPTIMIZER)
    trunk = jax.tree.map(lambda a: a * np.float32(gain), state.params["trunk"])  # activations grow 1.3^15 = 50 times
    state = state.replace(params=state.params | {"trunk": trunk})
    examples = batches()
    for index in range(STEPS):
        state, metrics = compiled()(state, examples[index % 3], jax.random.key(1))
        assert np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all(), f"step {index + 1}"
        if index % 3 == 2:
            assert metrics["positives"] == metrics["loss"] == 0
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(state.params))
