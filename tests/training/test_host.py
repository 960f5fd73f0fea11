"""Nothing in a training step leaves the device: no callback and no transfer but the arguments and the results."""

import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from ssd_jax.augment import AugmentOptions
from ssd_jax.model.ssd import compile_to_run_once
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules
LEAVES_THE_DEVICE = re.compile(r"callback|\b(?:infeed|outfeed|send|recv)(?:-done)?\(|is_host_transfer=true")


def transfers(function, *arguments):
    """Return the lines of a compiled program that leave the device."""
    text = compile_to_run_once(function).lower(*arguments).compile().as_text()
    return [line for line in text.splitlines() if LEAVES_THE_DEVICE.search(line)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_step_stays_on_the_device(accumulate):
    model, optimizer = tiny.SHORT, tiny.sgd(momentum=0.9)
    settings = {"ema_decay": 0.9, "skip_nonfinite": True, "accumulate": accumulate}
    step = tiny.train_step(optimizer, model=model, options=AugmentOptions(), **settings)
    state = create_state.eval_shape(jax.random.key(0), model, optimizer, ema=True)
    assert not transfers(step, state, tiny.first_batch(tiny.Images(), 2), jax.random.key(1))


def test_a_callback_is_found():
    def printing(x):
        jax.debug.print("{}", x)
        return x + 1

    assert transfers(printing, jnp.ones(3))
