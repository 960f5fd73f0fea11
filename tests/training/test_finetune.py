"""What configs/finetune.py trains, at what rate, and what it spares."""

import jax
import numpy as np
import tiny
from flax.traverse_util import flatten_dict

from configs import finetune
from ssd_jax.box import make_priors
from ssd_jax.loop.build import build_model
from ssd_jax.model import variable_shapes
from ssd_jax.training import create_state, is_frozen, rate_factors

PROMOTION = "standard"  # optax mixes integers and floats in its schedules

CONFIG = finetune.get_config()
MODEL = build_model(CONFIG, 4)


def parameters():
    return variable_shapes(MODEL)["params"]


def by_name(tree):
    return flatten_dict(tree, sep="/")


def test_the_early_stages_and_the_depthwise_kernels_of_the_backbone_are_frozen():
    frozen = by_name(is_frozen(parameters(), CONFIG.optimizer.frozen))
    for name, value in frozen.items():
        early = name.split("/")[1].split("_")[0] in ("stem", "stage1", "stage2", "stage3")
        depthwise = name.endswith("/depthwise/conv/kernel")
        assert value == (name.startswith("trunk/") and (early or depthwise)), name
    assert any(frozen.values())
    assert not all(frozen.values())


def test_what_trains_of_the_backbone_trains_more_slowly_than_the_new_layers():
    factors = by_name(rate_factors(parameters(), CONFIG.optimizer.rates.to_dict()))
    assert {value for name, value in factors.items() if name.startswith("trunk/")} == {0.25}
    assert {value for name, value in factors.items() if not name.startswith("trunk/")} == {1.0}


def test_its_priors_fit_the_maps():
    size = CONFIG.spec.image_size
    images = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    offsets, logits = jax.eval_shape(MODEL.apply, variable_shapes(MODEL), images)
    assert offsets.shape == (1, *make_priors(MODEL.spec).shape)
    assert logits.shape == (1, len(make_priors(MODEL.spec)), 4)


def test_the_statistics_of_the_backbone_stay_and_those_of_the_new_layers_follow_the_data():
    size = CONFIG.spec.image_size
    images = jax.ShapeDtypeStruct((2, size, size, 3), np.float32)
    changed = jax.make_jaxpr(lambda v, x: MODEL.apply(v, x, train=True, mutable=["batch_stats"])[1])(
        variable_shapes(MODEL), images
    )
    inputs = dict(zip(changed.jaxpr.invars, by_name(variable_shapes(MODEL)), strict=False))
    stays = {inputs[out] for out in changed.jaxpr.outvars if out in inputs}
    statistics = {name for name in by_name(variable_shapes(MODEL)) if name.startswith("batch_stats/")}
    assert stays == {name for name in statistics if name.startswith("batch_stats/trunk/")}


def test_gradients_of_frozen_stages_are_not_even_traced():
    model = MODEL.clone(spec=tiny.SPEC, num_classes=3)
    batch = tiny.first_batch(tiny.Images(), 2)

    def flops(frozen):
        optimizer = tiny.sgd(frozen=frozen)
        state = create_state.eval_shape(jax.random.key(0), model, optimizer)
        step = jax.jit(tiny.train_step(optimizer, model=model, frozen=frozen))
        return step.lower(state, batch, jax.random.key(1)).cost_analysis()["flops"]

    assert flops(CONFIG.optimizer.frozen) < 0.9 * flops(())
