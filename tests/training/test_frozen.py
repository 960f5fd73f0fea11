"""Frozen layers: for the whole run, or until a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from flax.traverse_util import flatten_dict

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.training import create_state, is_frozen, make_optimizer

PROMOTION = "standard"  # optax mixes integers and floats in its schedules

RATES = np.array([0.1, 0.1, 0.05, 0.05, 0.02])


def schedule(step):
    return jnp.asarray(RATES, jnp.float32)[step]


def layers():
    conv = {"conv": {"kernel": jnp.array(1.0), "bias": jnp.array(2.0)}}
    return {"trunk": {"conv1_1": conv, "conv1_2": conv}, "loc0": conv}


def run(optimizer, params, steps=range(5)):
    """Return the parameters after each step; the gradient of every parameter is step + 1."""
    state, history = optimizer.init(params), []
    for step in steps:
        gradients = jax.tree.map(lambda p, s=step: jnp.full_like(p, 1.0 + s), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        history.append(params)
    return history


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_frozen_layers_stay_and_the_others_train_as_without_frozen_layers(kind):
    expected = run(make_optimizer(schedule, kind=kind, weight_decay=0.05), layers())
    got = run(make_optimizer(schedule, kind=kind, weight_decay=0.05, frozen=("trunk",)), layers())
    for g, e in zip(got, expected, strict=True):
        assert g["trunk"] == layers()["trunk"]
        assert g["loc0"] == e["loc0"]


def test_thawed_layers_follow_caffes_solver_from_that_step_on():
    options = {"momentum": 0.9, "weight_decay": 0.05, "bias_multiplier": 2.0}
    got = run(make_optimizer(schedule, frozen=("trunk",), thaw_step=2, **options), layers())
    kernel, bias, v_kernel, v_bias = 1.0, 2.0, 0.0, 0.0
    for step, rate in enumerate(RATES):
        if step >= 2:
            v_kernel = 0.9 * v_kernel + rate * (1 + step + 0.05 * kernel)
            v_bias = 0.9 * v_bias + rate * 2 * (1 + step)
            kernel, bias = kernel - v_kernel, bias - v_bias
        for layer in got[step]["trunk"].values():
            np.testing.assert_allclose(layer["conv"]["kernel"], kernel, rtol=1e-5)
            np.testing.assert_allclose(layer["conv"]["bias"], bias, rtol=1e-5)


def test_thawed_layers_start_with_a_new_adam_state():
    # If Adam counted the steps before, it would take its moments as settled and make far too large first updates.
    got = run(make_optimizer(schedule, kind="adamw", frozen=("trunk/conv1_1",), thaw_step=2), layers())
    fresh = make_optimizer(lambda step: schedule(step + 2), kind="adamw")
    expected = run(fresh, layers(), steps=range(2, 5))
    for g, e in zip(got[2:], expected, strict=True):
        assert g["trunk"]["conv1_1"] == e["trunk"]["conv1_1"]
    whole = run(make_optimizer(schedule, kind="adamw"), layers())
    assert got[-1]["trunk"]["conv1_2"] == whole[-1]["trunk"]["conv1_2"]


def test_clipping_uses_the_norm_of_the_layers_that_train():
    options = {"momentum": 0.0, "weight_decay": 0.0, "bias_multiplier": 1.0, "clip_norm": 1.0}
    got = run(make_optimizer(lambda _: 1.0, frozen=("trunk",), thaw_step=1, **options), layers(), steps=range(2))
    # Two equal gradients train at first, then six: each parameter moves by 1 / sqrt(2), then by 1 / sqrt(6).
    np.testing.assert_allclose(got[0]["loc0"]["conv"]["bias"], 2 - 1 / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(got[1]["loc0"]["conv"]["bias"], 2 - 1 / np.sqrt(2) - 1 / np.sqrt(6), rtol=1e-6)
    np.testing.assert_allclose(got[1]["trunk"]["conv1_1"]["conv"]["bias"], 2 - 1 / np.sqrt(6), rtol=1e-6)


@pytest.mark.parametrize(
    ("frozen", "layers_marked"),
    [
        (("trunk/conv1_1",), {"trunk/conv1_1"}),
        (("trunk/conv1_*", "loc?"), {"trunk/conv1_1", "trunk/conv1_2", "loc0"}),
        (("trunk",), {"trunk/conv1_1", "trunk/conv1_2"}),
        (("loc0/conv/kernel", "trunk/conv[345]_*", "trunk/conv1_[2-9]"), None),
    ],
)
def test_a_name_means_the_layer_and_all_below_it(frozen, layers_marked):
    if layers_marked is None:
        with pytest.raises(ValueError, match=r"got 'trunk/conv\[345\]_\*'"):
            is_frozen(layers(), frozen)
        return
    marked = {
        name.rsplit("/", 2)[0] for name, value in flatten_dict(is_frozen(layers(), frozen), sep="/").items() if value
    }
    assert marked == layers_marked


def test_a_name_without_a_layer_is_refused_with_a_list_of_layers():
    optimizer = make_optimizer(schedule, frozen=("vgg/conv1_1",))
    with pytest.raises(ValueError, match=r"layers of loc0, trunk/conv1_1, trunk/conv1_2; got 'vgg/conv1_1'"):
        optimizer.init(layers())
    with pytest.raises(ValueError, match=r"^optimizer\.thaw_step must be .* 0 if no layer is frozen; got 5$"):
        make_optimizer(schedule, thaw_step=5)
    with pytest.raises(ValueError, match=r"^optimizer\.thaw_step must be at least 0, .*; got -1$"):
        make_optimizer(schedule, frozen=("trunk",), thaw_step=-1)


def test_the_optimizer_state_of_a_frozen_backbone_survives_a_checkpoint(tmp_path):
    optimizer = tiny.sgd(frozen=("trunk",), thaw_step=1)
    state = create_state(jax.random.key(0), tiny.SHORT, optimizer, ema=True)

    @jax.jit
    def step(state):
        updates, opt_state = optimizer.update(state.params, state.opt_state, state.params)
        return state.replace(params=optax.apply_updates(state.params, updates), opt_state=opt_state)

    first = step(state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, first, {})
    with Checkpoints(tmp_path) as checkpoints:
        restored = checkpoints.restore(1, state)
    second, resumed = step(first), step(restored)
    for a, b in zip(jax.tree.leaves(resumed), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [s.params["trunk"]["conv1"]["conv"]["kernel"] for s in (state, first, second)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert (kernels[1] != kernels[2]).all()


def test_gradients_of_frozen_layers_are_not_computed():
    names = ("trunk/conv1", "trunk/conv2")
    optimizer = tiny.sgd(frozen=names)
    state = create_state(jax.random.key(0), tiny.SHORT, optimizer)
    batch = tiny.first_batch(tiny.Images(), 4)
    steps = [jax.jit(tiny.train_step(optimizer, model=tiny.SHORT, frozen=frozen)) for frozen in ((), names)]
    (computed, metrics), (spared, fewer) = (step(state, batch, jax.random.key(1)) for step in steps)
    for a, b in zip(jax.tree.leaves(computed), jax.tree.leaves(spared), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    assert fewer["gradient_norm"] < metrics["gradient_norm"]
    flops = [step.lower(state, batch, jax.random.key(1)).compile().cost_analysis()["flops"] for step in steps]
    assert flops[1] < 0.9 * flops[0]
