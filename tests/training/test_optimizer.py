"""The optimiser against Caffe's loop, the schedules, and a model that learns one image by heart."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

from ssd_jax.inference import Detector
from ssd_jax.training import create_state, is_bias, is_decayed, make_optimizer, make_schedule, rate_factors

PROMOTION = "standard"  # optax mixes integers and floats in its schedules


def params_like_ssd():
    return {
        "trunk": {"conv1_1": {"conv": {"kernel": 1.0, "bias": 2.0}, "norm": {"scale": 3.0, "bias": 4.0}}},
        "conv4_3_norm": {"scale": 20.0},
        "loc0": {"conv": {"kernel": 5.0, "bias": 6.0}},
    }


def test_kernels_and_the_l2_scale_decay_and_convolution_biases_have_the_double_rate():
    decayed, bias = is_decayed(params_like_ssd()), is_bias(params_like_ssd())
    assert decayed == {
        "trunk": {"conv1_1": {"conv": {"kernel": True, "bias": False}, "norm": {"scale": False, "bias": False}}},
        "conv4_3_norm": {"scale": True},
        "loc0": {"conv": {"kernel": True, "bias": False}},
    }
    assert bias == {
        "trunk": {"conv1_1": {"conv": {"kernel": False, "bias": True}, "norm": {"scale": False, "bias": False}}},
        "conv4_3_norm": {"scale": False},
        "loc0": {"conv": {"kernel": False, "bias": True}},
    }


def test_sgd_follows_caffes_solver():
    # SGDSolver: g += decay * w; v = momentum * v + rate * lr_mult * g; w -= v. The rate falls at step 2.
    rates = [0.1, 0.1, 0.01, 0.01]
    schedule = make_schedule(learning_rate=0.1, steps=4, kind="multistep", boundaries=(2,))
    optimizer = make_optimizer(schedule, momentum=0.9, weight_decay=0.05, bias_multiplier=2.0)
    params = {"loc0": {"conv": {"kernel": jnp.array(1.0), "bias": jnp.array(1.0)}}}
    state = optimizer.init(params)
    kernel, bias, v_kernel, v_bias = 1.0, 1.0, 0.0, 0.0
    for step, rate in enumerate(rates):
        gradient = 1.0 + step
        updates, state = optimizer.update(
            jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params), state, params
        )
        params = optax.apply_updates(params, updates)
        v_kernel = 0.9 * v_kernel + rate * (gradient + 0.05 * kernel)
        v_bias = 0.9 * v_bias + rate * 2 * gradient
        kernel, bias = kernel - v_kernel, bias - v_bias
        np.testing.assert_allclose(params["loc0"]["conv"]["kernel"], kernel, rtol=1e-5)
        np.testing.assert_allclose(params["loc0"]["conv"]["bias"], bias, rtol=1e-5)


def test_clipping_bounds_the_gradients_norm():
    optimizer = make_optimizer(lambda _: 1.0, momentum=0.0, weight_decay=0.0, bias_multiplier=1.0, clip_norm=1.0)
    params = {"loc0": {"conv": {"kernel": jnp.array(0.0), "bias": jnp.array(0.0)}}}
    gradients = {"loc0": {"conv": {"kernel": jnp.array(30.0), "bias": jnp.array(40.0)}}}
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["loc0"]["conv"]["kernel"], -0.6, rtol=1e-6)
    np.testing.assert_allclose(updates["loc0"]["conv"]["bias"], -0.8, rtol=1e-6)


def test_multistep_drops_at_its_boundaries():
    schedule = make_schedule(learning_rate=1e-3, steps=120, kind="multistep", boundaries=(80, 100))
    rates = [float(schedule(s)) for s in (0, 79, 80, 99, 100, 119)]
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5], rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "multistep", "cosine"])
def test_warm_up_rises_linearly_and_does_not_move_the_boundaries(kind):
    schedule = make_schedule(learning_rate=1.0, steps=100, kind=kind, warmup_steps=4, boundaries=(50,))
    np.testing.assert_allclose([float(schedule(s)) for s in range(5)], [0.25, 0.5, 0.75, 1, 1], rtol=1e-6)
    if kind == "multistep":
        np.testing.assert_allclose([float(schedule(s)) for s in (49, 50)], [1.0, 0.1], rtol=1e-6)
    if kind == "cosine":
        np.testing.assert_allclose([float(schedule(s)) for s in (52, 100)], [0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "linear"}, "^schedule.kind must be constant, multistep or cosine; got 'linear'$"),
        ({"steps": 0}, "^steps must be at least 1; got 0$"),
        ({"learning_rate": -1.0}, r"schedule\.learning_rate must be above 0; got -1\.0"),
        ({"learning_rate": float("nan")}, r"schedule\.learning_rate must be above 0; got nan"),
        ({"warmup_steps": 100}, r"schedule\.warmup_steps .* less than steps=100; got 100"),
        ({"kind": "multistep"}, r"^schedule\.boundaries must be increasing steps for kind multistep; got \(\)$"),
        ({"kind": "multistep", "boundaries": (5, 3)}, r"increasing steps .*; got \(5, 3\)$"),
    ],
)
def test_wrong_schedules_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(**{"learning_rate": 1.0, "steps": 100} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "adam"}, "optimizer.kind must be sgd or adamw; got 'adam'"),
        ({"momentum": 1.0}, "optimizer.momentum must be at least 0 and less than 1; got 1.0"),
        ({"weight_decay": -0.1}, "optimizer.weight_decay must be at least 0; got -0.1"),
        ({"bias_multiplier": float("nan")}, "optimizer.bias_multiplier must be at least 0; got nan"),
        ({"clip_norm": -1.0}, "optimizer.clip_norm must be at least 0; got -1.0"),
        ({"rates": {"trunk": 0.0}}, "optimizer.rates.trunk must be a number above 0; got 0.0"),
        ({"rates": {"trunk": float("inf")}}, "optimizer.rates.trunk must be a number above 0; got inf"),
    ],
)
def test_wrong_optimizers_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_optimizer(lambda _: 1.0, **options)


def test_adamw_uses_neither_momentum_nor_bias_multiplier():
    # The configs inherit both from SGD's: what they are set to must not matter.
    params = {"loc0": {"conv": {"kernel": jnp.array(1.0), "bias": jnp.array(1.0)}}}
    updates = []
    for options in ({}, {"momentum": 0.1, "bias_multiplier": 7.0}):
        optimizer = make_optimizer(lambda _: 0.1, kind="adamw", weight_decay=0.0, **options)
        updates.append(optimizer.update(params, optimizer.init(params), params)[0])
    assert updates[0] == updates[1]
    assert updates[0]["loc0"]["conv"]["kernel"] == updates[0]["loc0"]["conv"]["bias"]


def rates_params():
    conv = {"conv": {"kernel": jnp.array(1.0), "bias": jnp.array(2.0)}}
    return {"trunk": {"stem": conv, "stage1": conv}, "loc0": conv}


def moved(optimizer, gradients=(1.0, -3.0, 2.0)):
    """Return by how far each parameter moves in three steps whose gradients are these, for every parameter."""
    params, state = rates_params(), None
    for gradient in gradients:
        state = state or optimizer.init(params)
        updates, state = optimizer.update(
            jax.tree.map(lambda p, g=gradient: jnp.full_like(p, g), params), state, params
        )
        params = optax.apply_updates(params, updates)
    return jax.tree.map(lambda a, b: float(a - b), params, rates_params())


@pytest.mark.parametrize("frozen", [(), ("trunk/stage1",)])
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_layer_with_a_factor_moves_as_with_an_optimizer_of_that_rate(kind, frozen):
    options = {"kind": kind, "weight_decay": 0.0, "frozen": frozen}  # with decay, each layer's path is its own
    schedule = make_schedule(learning_rate=0.1, steps=3, kind="cosine")
    got = moved(make_optimizer(schedule, **options, rates={"trunk": 0.1, "loc0": 2.0}))
    slow = moved(make_optimizer(lambda step: 0.1 * schedule(step), **options))
    fast = moved(make_optimizer(lambda step: 2.0 * schedule(step), **options))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), got["trunk"], slow["trunk"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), got["loc0"], fast["loc0"])
    assert got["loc0"]["conv"]["kernel"] != 0
    assert (got["trunk"]["stage1"]["conv"]["kernel"] == 0) == bool(frozen)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_factor_scales_the_decay_too(kind):
    # Without gradients and momentum only the decay moves a kernel: by rate * decay * kernel.
    schedule = make_schedule(learning_rate=0.1, steps=1)
    optimizer = make_optimizer(schedule, kind=kind, momentum=0.0, weight_decay=0.5, rates={"trunk": 0.1})
    got = moved(optimizer, gradients=(0.0,))
    np.testing.assert_allclose(got["trunk"]["stem"]["conv"]["kernel"], -0.1 * 0.1 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(got["loc0"]["conv"]["kernel"], -0.1 * 0.5, rtol=1e-5)


def test_the_longest_name_decides_whatever_the_order():
    params = rates_params()
    for rates in ({"trunk": 0.1, "trunk/stage*": 0.5}, {"trunk/stage*": 0.5, "trunk": 0.1}):
        factors = rate_factors(params, rates)
        assert factors["trunk"]["stem"] == {"conv": {"kernel": 0.1, "bias": 0.1}}
        assert factors["trunk"]["stage1"] == {"conv": {"kernel": 0.5, "bias": 0.5}}
        assert factors["loc0"] == {"conv": {"kernel": 1.0, "bias": 1.0}}
    whole = moved(make_optimizer(lambda _: 0.1, rates={"trunk": 0.1, "trunk/stem": 1.0}))
    assert whole["trunk"]["stem"] == whole["loc0"] != whole["trunk"]["stage1"]


def test_a_factor_of_one_leaves_the_optimizer_as_it_was_so_that_older_states_fit():
    states = [make_optimizer(lambda _: 0.1, rates=rates).init(rates_params()) for rates in (None, {"trunk": 1.0})]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_a_rate_for_a_layer_that_does_not_exist_is_refused():
    optimizer = make_optimizer(lambda _: 0.1, rates={"vgg": 0.1})
    with pytest.raises(ValueError, match=r"^rates must name layers of loc0, trunk/stage1, trunk/stem; got 'vgg'$"):
        optimizer.init(rates_params())


def test_a_model_overfits_one_image_and_the_detector_returns_its_boxes():
    source = tiny.Images()
    example = source[3]
    assert len(example.boxes) == 3
    optimizer = tiny.adamw()
    state = create_state(jax.random.key(0), tiny.MODEL, optimizer)
    batch = tiny.first_batch(OnlyOne(example), 1)
    step = jax.jit(tiny.train_step(optimizer), donate_argnums=0)
    for _ in range(200):
        state, metrics = step(state, batch, jax.random.key(1))
    assert metrics["loss"] < 0.1
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    (found,) = Detector(tiny.MODEL, variables, source.class_names, score_threshold=0.5)([example.image])
    assert sorted(found.labels) == sorted(example.labels)
    for box, label in zip(example.boxes * 64, example.labels, strict=True):
        assert np.min(np.max(np.abs(found.boxes[found.labels == label] - box), axis=1)) < 2.0  # pixels


class OnlyOne:
    def __init__(self, example):
        self.example = example

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.example
