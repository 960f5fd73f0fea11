"""What a step does beyond gradient descent: average, accumulate gradients, skip updates that are not finite.

One compiled step does all three, because compiling takes most of the time.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax.model import preprocess
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax mixes integers and floats in its schedules

OPTIMIZER = tiny.sgd(weight_decay=0.0)
BATCH = tiny.first_batch(tiny.Images(), 4)
KEY = jax.random.key(1)
DECAY = 0.15


@pytest.fixture(scope="module")
def state():
    return create_state(jax.random.key(0), tiny.SHORT, OPTIMIZER, ema=True)


@pytest.fixture(scope="module")
def plain():
    return jax.jit(tiny.train_step(OPTIMIZER, model=tiny.SHORT, accumulate=2, ema_decay=DECAY))


@pytest.fixture(scope="module")
def skipping():
    return jax.jit(tiny.train_step(OPTIMIZER, model=tiny.SHORT, accumulate=2, ema_decay=DECAY, skip_nonfinite=True))


def pairs(a, b):
    return zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)


def test_parameters_and_statistics_are_averaged(state, plain):
    expected = jax.device_get(state.variables)
    for d in (0.1, DECAY, DECAY):  # 2/11 is more than DECAY
        state, _ = plain(state, BATCH, KEY)
        expected = jax.tree.map(lambda e, v, d=d: d * e + (1 - d) * v, expected, jax.device_get(state.variables))
    assert state.ema["batch_stats"]
    for got, wanted in pairs(state.ema, expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-7)


def test_a_batch_without_objects_has_no_loss_and_moves_nothing(state, plain):
    after, metrics = plain(state, BATCH | {"labels": np.zeros_like(BATCH["labels"])}, KEY)
    assert metrics["loss"] == 0
    assert metrics["positives"] == 0
    for before_leaf, after_leaf in pairs(state.params, after.params):
        np.testing.assert_array_equal(before_leaf, after_leaf)


def test_batchnorm_uses_the_statistics_of_each_microbatch_in_turn(state, plain):
    @jax.jit
    def statistics_after(batch_stats, images):
        variables = {"params": state.params, "batch_stats": batch_stats}
        _, updated = tiny.SHORT.apply(variables, preprocess(images), train=True, mutable=["batch_stats"])
        return updated["batch_stats"]

    expected = state.batch_stats
    for images in (BATCH["images"][:2], BATCH["images"][2:]):
        expected = statistics_after(expected, images)
    after, _ = plain(state, BATCH, KEY)
    for got, wanted in pairs(after.batch_stats, expected):
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=1e-4)


def test_a_finite_update_is_made_with_or_without_skipping(state, plain, skipping):
    expected, expected_metrics = plain(state, BATCH, KEY)
    got, metrics = skipping(state, BATCH, KEY)
    assert metrics.pop("skipped") == 0
    assert metrics.keys() == expected_metrics.keys()
    for a, b in pairs((got, metrics), (expected, expected_metrics)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def nan_in_the_backbone(params):
    params["trunk"]["conv1"]["conv"]["kernel"] *= jnp.nan


def overflowing_gradient(params):
    """Scale features up and heads down: the outputs stay, but a gradient's square is beyond float32."""
    params["conv4_3_norm"]["scale"] *= 1e20
    for head in ("loc0", "conf0"):
        params[head]["conv"]["kernel"] *= 1e-20


def infinite_logits(params):
    """Let the first map's head predict +inf for every class, so that their differences are not numbers."""
    params["conf0"]["conv"]["bias"] += jnp.inf


def infinite_offsets(params):
    params["loc0"]["conv"]["bias"] -= jnp.inf


@pytest.mark.parametrize(
    ("damage", "finite_loss"),
    [(nan_in_the_backbone, False), (infinite_logits, False), (infinite_offsets, False), (overflowing_gradient, True)],
)
def test_an_update_that_is_not_finite_moves_nothing_but_the_counters(state, skipping, damage, finite_loss):
    params = jax.tree.map(jnp.copy, state.params)
    damage(params)
    damaged = state.replace(params=params, step=jnp.int32(7))
    after, metrics = skipping(damaged, BATCH, KEY)
    assert np.isfinite(metrics["loss"]) == finite_loss
    assert not np.isfinite(metrics["gradient_norm"])
    assert metrics["skipped"] == 1
    assert after.step == 8
    assert after.skipped == 1
    for a, b in pairs(after.replace(step=damaged.step, skipped=damaged.skipped), damaged):
        np.testing.assert_array_equal(a, b)


def test_without_skipping_the_weights_become_nan(state, plain):
    params = jax.tree.map(jnp.copy, state.params)
    nan_in_the_backbone(params)
    after, metrics = plain(state.replace(params=params), BATCH, KEY)
    assert "skipped" not in metrics
    assert np.isnan(metrics["loss"])
    assert np.isnan(after.params["conf0"]["conv"]["kernel"]).all()


@pytest.mark.parametrize("ema", [True, False])
def test_a_run_and_its_average_start_from_the_given_weights(ema):
    state = create_state(jax.random.key(0), tiny.SHORT, OPTIMIZER, ema=ema)
    weights = jax.tree.map(lambda x: np.asarray(x) + 1, state.variables)
    state = state.starting_from(weights)
    for tree in (state.variables, state.ema) if ema else (state.variables,):
        for got, wanted in pairs(tree, weights):
            np.testing.assert_array_equal(got, wanted)
    assert bool(state.ema) == ema


@pytest.mark.parametrize(("ema", "decay"), [(False, 0.5), (True, 0.0)])
def test_a_state_that_does_not_fit_is_refused(state, ema, decay):
    state = state if ema else state.replace(ema={})
    with pytest.raises(
        ValueError,
        match=f"above 0; got ema={ema} and ema_decay={decay}$",
    ):
        tiny.train_step(OPTIMIZER, model=tiny.SHORT, ema_decay=decay)(state, {}, KEY)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match=f"ema_decay must be at least 0 and less than 1; got {decay}"):
        tiny.train_step(OPTIMIZER, model=tiny.SHORT, ema_decay=decay)
