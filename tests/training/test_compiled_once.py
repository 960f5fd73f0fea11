"""A run compiles its step once, and the step reuses the memory of the state."""

import logging

import jax
import tiny

from ssd_jax.parallel import AXIS, over_devices, put_on_devices, shard
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules


def test_the_step_is_compiled_once_and_donates_its_state(caplog):
    model, optimizer, devices = tiny.SHORT.clone(norm=None), tiny.sgd(1e-4), jax.devices()[:2]
    batch = shard(tiny.first_batch(tiny.Images(), 8), 2)
    step = over_devices(tiny.train_step(optimizer, model=model, accumulate=4, axis_name=AXIS), devices)
    state = put_on_devices(create_state(jax.random.key(0), model, optimizer), devices)
    key = jax.random.key(1)
    compiled = []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for _ in range(3):
            caplog.clear()
            before = state
            state, metrics = step(state, batch, key)
            jax.block_until_ready(metrics)
            messages = [record.getMessage() for record in caplog.records]
            compiled.append(sum(message.startswith("Finished XLA compilation") for message in messages))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert compiled == [1, 0, 0]
