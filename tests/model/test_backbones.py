"""Every backbone and every named model: shapes, forward pass, gradient, description, export."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from jax import export

from ssd_jax.box import PriorSpec, make_priors
from ssd_jax.model import MODELS, SSD, compile_to_run_once, describe, from_description, make, variable_shapes
from ssd_jax.model.ssd import BACKBONES

LISTED = [name for name in BACKBONES if not name.startswith("short")]  # those are of the tests
# Maps of strides 8, 16, 32 and of two extra layers.
SPEC = PriorSpec(96, (12, 6, 3, 2, 1), (8, 16, 32, 48, 96), (10, 20, 34, 50, 66, 82), ((2.0,),) * 5)
PRIORS = len(make_priors(SPEC))
ONE_OF_A_FAMILY = [
    "efficientnet_lite0",
    "mobilenet_v3_large_reduced",
]  # other tests train VGG16 and ResNet-50


def small(backbone, **options):
    """Return a narrow model of 96 pixels; but ResNet-50 and VGG16 have another number of maps of their own."""
    kind = "paper" if backbone in ("vgg16", "resnet50") else "light"
    options = {"norm": "batch", "extras": kind, "heads": kind} | options
    return SSD(3, SPEC, width=1 / 8, backbone=backbone, kernel_init="he", **options)


def parameters(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def loss_and_state(model, variables, params, images):
    outputs, updated = model.apply(variables | {"params": params}, images, train=True, mutable=["batch_stats"])
    return sum(jnp.mean(jnp.square(x)) for x in outputs), (outputs, updated["batch_stats"])


@pytest.mark.parametrize("backbone", LISTED)
def test_the_outputs_and_gradients_have_their_shapes(backbone):
    model, images = small(backbone), jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32)
    variables = variable_shapes(model)
    gradients, (outputs, _) = jax.eval_shape(
        lambda v, x: jax.grad(partial(loss_and_state, model, v), has_aux=True)(v["params"], x), variables, images
    )
    assert [x.shape for x in outputs] == [(2, PRIORS, 4), (2, PRIORS, 3)]
    assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, variables["params"])


@pytest.mark.parametrize("backbone", ONE_OF_A_FAMILY)
def test_every_parameter_gets_a_finite_gradient_and_every_statistic_moves(backbone):
    model = small(backbone)
    images = 60 * jax.random.normal(jax.random.key(0), (2, 96, 96, 3))

    @compile_to_run_once
    def train(key):
        variables = model.init(key, images)
        gradients, (outputs, after) = jax.grad(partial(loss_and_state, model, variables), has_aux=True)(
            variables["params"], images
        )
        return outputs, gradients, variables["batch_stats"], after

    (_, logits), gradients, before, after = train(jax.random.key(1))
    assert np.isfinite(logits).all()
    assert np.std(logits) > 1e-3
    for name, gradient in flatten_dict(gradients, sep="/").items():
        assert np.isfinite(gradient).all(), name
        assert np.any(gradient != 0), name
    before, after = (flatten_dict(tree, sep="/") for tree in (before, after))
    for name, statistic in after.items():
        assert not np.array_equal(statistic, before[name]), name


@pytest.mark.parametrize("backbone", LISTED)
def test_a_network_is_exported_for_all_platforms_and_any_batch(backbone):
    model = small(backbone)
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("b"), 96, 96, 3), jnp.float32)
    program = export.export(jax.jit(model.apply), platforms=("cpu", "cuda", "tpu"))(variable_shapes(model), images)
    assert [str(x.shape) for x in program.out_avals] == [f"(b, {PRIORS}, 4)", f"(b, {PRIORS}, 3)"]


@pytest.mark.parametrize("backbone", ONE_OF_A_FAMILY)
def test_an_exported_and_a_portable_network_compute_the_same(backbone):
    model = small(backbone)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), variable_shapes(model))
    images = 60 * jax.random.normal(jax.random.key(0), (2, 96, 96, 3))
    program = export.export(jax.jit(model.apply))(variables, images)
    portable = model.clone(portable=True).apply
    assert "platform_index" not in str(jax.make_jaxpr(portable)(variables, images))
    expected = compile_to_run_once(model.apply)(variables, images)
    assert np.std(expected[0]) > 1e-3
    for run in (program.call, portable):
        for got, wanted in zip(compile_to_run_once(run)(variables, images), expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_named_model_has_the_priors_of_its_maps(name):
    for dataset in ("voc", "coco"):
        model = make(name, 21, dataset)
        size = model.spec.image_size
        offsets, logits = jax.eval_shape(model.apply, variable_shapes(model), jnp.zeros((1, size, size, 3)))
        assert offsets.shape == (1, len(make_priors(model.spec)), 4)
        assert logits.shape == (1, len(make_priors(model.spec)), 21)
        assert from_description(json.loads(json.dumps(describe(model)))) == model


@pytest.mark.parametrize(
    ("options", "backbone", "whole"),
    [
        # torchvision publishes 3,440,060, and has 5,198,540 where ImageNet's weights are asked for.
        ({}, 1_620_512, 3_440_060),
        ({"backbone": "mobilenet_v3_large"}, 2_971_952, 5_198_540),
    ],
)
def test_parameters_of_ssdlite(options, backbone, whole):
    params = variable_shapes(make("ssdlite320_mobilenet_v3_large", 91, "coco", **options))["params"]
    assert (parameters(params["trunk"]), parameters(params)) == (backbone, whole)


@pytest.mark.parametrize(
    ("variant", "classifier"),
    [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072)],  # published, with a classifier of 1280 * 1000 + 1000
)
def test_parameters_of_efficientnet_lite(variant, classifier):
    params = variable_shapes(make(f"ssd320_efficientnet_lite{variant}", 21))["params"]
    assert parameters(params["trunk"]) == classifier - 1_281_000


@pytest.mark.parametrize(
    ("backbone", "scaling", "pixel", "fed"),
    [
        ("efficientnet_lite0", None, 255, (255 - 127) / 128),
        ("mobilenet_v3_large", None, 0, (0 - 116.28) / 57.12),
        ("mobilenet_v3_large_reduced", None, 0, -1),
        ("mobilenet_v3_large", "half", 255, 1),
    ],
)
def test_a_backbone_is_fed_what_its_weights_want(backbone, scaling, pixel, fed):
    model = small(backbone, input_scaling=scaling)
    image = jnp.full((1, 96, 96, 3), pixel) - jnp.array([123.0, 117.0, 104.0]).reshape(1, 1, 1, 3)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    centre = variables["params"]["trunk"]["stem"]["conv"]["kernel"].at[1, 1, 1].set(1.0)  # green's
    variables["params"]["trunk"]["stem"]["conv"]["kernel"] = centre
    _, seen = model.apply(variables, image, capture_intermediates=True, mutable="intermediates")
    stem = seen["intermediates"]["trunk"]["stem"]["conv"]["__call__"][0]
    np.testing.assert_allclose(stem, np.full(stem.shape, fed), rtol=1e-5, atol=1e-5)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"^name must be one of ssd300, ssd512, .*; got 'yolo'$"):
        make("yolo", 21)
    with pytest.raises(ValueError, match=r"^dataset must be one of voc, coco; got 'bccd'$"):
        make("ssd300", 21, "bccd")


def test_options_change_a_named_model():
    model = make("ssd320_efficientnet_lite0", 4, width=0.5, freeze_norm=("trunk",), spec=tiny.SPEC)
    assert (model.width, model.freeze_norm, model.spec) == (0.5, ("trunk",), tiny.SPEC)
