"""Gradient accumulation must train as the whole batch at once does."""

import jax
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

from ssd_jax.parallel import AXIS, over_devices, put_on_devices, shard
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules

MODEL = tiny.SHORT.clone(norm=None)
BATCH = tiny.first_batch(tiny.Images(), 8)


def train(devices, accumulate):
    """Return the parameters before and after two steps, as one vector, and the metrics of the last."""
    optimizer = tiny.sgd(1e-4)
    state = create_state(jax.random.key(0), MODEL, optimizer)
    before = np.asarray(ravel_pytree(state.params)[0])
    step = tiny.train_step(optimizer, model=MODEL, accumulate=accumulate, axis_name=AXIS)
    step = over_devices(step, jax.devices()[:devices])
    state = put_on_devices(state, jax.devices()[:devices])
    for _ in range(2):
        state, metrics = step(state, shard(BATCH, devices), jax.random.key(1))
    return before, np.asarray(ravel_pytree(state.params)[0]), metrics


def test_microbatches_add_up_to_the_batch():
    counts = (BATCH["labels"] > 0).sum(axis=1)
    assert len(set(counts)) > 2 and 0 in counts  # microbatches differ in their positives
    before, expected, expected_metrics = train(devices=1, accumulate=1)
    _, got, metrics = train(devices=2, accumulate=4)
    for name, value in expected_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    # Compare the moves: with each microbatch divided by its own positives they would differ by more than 0.1.
    assert np.linalg.norm(got - expected) < 1e-3 * np.linalg.norm(expected - before)


def test_microbatches_of_different_size_are_refused():
    optimizer = tiny.sgd()
    state = create_state(jax.random.key(0), MODEL, optimizer)
    step = tiny.train_step(optimizer, model=MODEL, accumulate=3)
    with pytest.raises(ValueError, match="accumulate must divide the 8 images of a device; got 3"):
        jax.eval_shape(step, state, BATCH, jax.random.key(1))
    with pytest.raises(ValueError, match="accumulate must be at least 1; got 0"):
        tiny.train_step(optimizer, accumulate=0)
