"""SSD's shapes, sizes and options."""

import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.box import SSD300_COCO, SSD300_VOC, SSD512_COCO, SSD512_VOC, PriorSpec
from ssd_jax.model import MEAN_COLOUR, SSD, describe, from_description, preprocess

TINY = PriorSpec(
    image_size=64,
    grids=(8, 4, 2, 1),
    steps=(8.0, 16.0, 32.0, 64.0),
    sizes=(8.0, 16.0, 28.0, 40.0, 52.0),
    ratios=((2.0,), (2.0, 3.0), (2.0,), (2.0,)),
)
TINY_PRIORS = 64 * 4 + 16 * 6 + 4 * 4 + 4


def shapes_of(model):
    size = model.spec.image_size
    return jax.eval_shape(
        lambda key, x: model.init_with_output(key, x), jax.random.key(0), jnp.zeros((2, size, size, 3))
    )


def count(variables):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(variables["params"]))


def ssd512_parameters(classes):
    """Count layer by layer: weights and biases of the convolutions, and the 512 scales of the L2 norm."""
    vgg = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    layers = [(3, *c) for c in [*vgg, *[(512, 512)] * 5, (512, 1024)]] + [(1, 1024, 1024)]
    layers += [(1, 1024, 256), (3, 256, 512), (1, 512, 128), (3, 128, 256)]
    layers += [(1, 256, 128), (3, 128, 256)] * 2 + [(1, 256, 128), (4, 128, 256)]
    maps = [(512, 4), (1024, 6), (512, 6), (256, 6), (256, 6), (256, 4), (256, 4)]
    layers += [(3, channels, k * values) for channels, k in maps for values in (4, classes)]
    return 512 + sum(k * k * a * b + b for k, a, b in layers)


@pytest.mark.parametrize(
    ("spec", "classes", "priors", "parameters"),
    [
        (SSD300_VOC, 21, 8732, 26_285_486),  # torchvision's ssd300_vgg16 with 21 classes counts the same
        (SSD300_COCO, 91, 8732, 35_641_826),  # torchvision's published count
        (SSD512_VOC, 21, 24564, ssd512_parameters(21)),
        (SSD512_COCO, 81, 24564, ssd512_parameters(81)),
    ],
)
def test_outputs_and_parameter_counts(spec, classes, priors, parameters):
    (offsets, logits), variables = shapes_of(SSD(classes, spec))
    assert offsets.shape == (2, priors, 4)
    assert logits.shape == (2, priors, classes)
    assert count(variables) == parameters


def test_width_scales_every_layer_but_the_heads():
    _, variables = shapes_of(SSD(3, TINY, width=0.25))
    backbone = variables["params"]["trunk"]
    assert backbone["conv1_1"]["conv"]["kernel"].shape == (3, 3, 3, 16)
    assert backbone["fc7"]["conv"]["kernel"].shape == (1, 1, 256, 256)
    assert variables["params"]["conv6_2"]["conv"]["kernel"].shape == (3, 3, 64, 128)
    assert variables["params"]["conf1"]["conv"]["kernel"].shape == (3, 3, 256, 6 * 3)


def test_a_description_in_json_makes_the_same_model():
    model = SSD(
        7, TINY, width=0.5, norm="batch", l2_scale=8.0, kernel_init="he", head_init="normal", dtype="bfloat16"
    ).clone(extras="light", heads="light", input_scaling="half", freeze_norm=["trunk"])
    assert from_description(json.loads(json.dumps(describe(model)))) == model


def test_preprocess_subtracts_the_mean_colour():
    image = np.full((2, 2, 3), 200, np.uint8)
    np.testing.assert_array_equal(preprocess(image), np.broadcast_to(200 - np.array(MEAN_COLOUR), (2, 2, 3)))


RESIDUAL = {"norm": "batch", "heads": "residual"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "group"}, "^norm must be one of None, 'batch'; got 'group'$"),
        ({"dtype": "float16"}, "^dtype must be one of 'float32', 'bfloat16'; got 'float16'$"),
        ({"kernel_init": "zero"}, "^kernel_init must be one of 'xavier', 'he', 'normal', 'normal_0.03'; got 'zero'$"),
        ({"extras": "heavy"}, "^extras must be one of 'paper', 'light', 'residual', 'fpn'; got 'heavy'$"),
        ({"heads": "light"}, "^norm must be 'batch' with light heads; got None$"),
        ({"backbone": "efficientnet_lite0"}, "^norm must be 'batch' with backbone efficientnet_lite0; got None$"),
        ({"input_scaling": "tf"}, "^input_scaling must be one of None, 'caffe', .*; got 'tf'$"),
        ({"head_inner": 4}, "^heads must be 'residual' with head_features or head_inner; got 'paper'$"),
        (RESIDUAL | {"head_features": (4, 4)}, r"^head_features must be 4 positive numbers, .*; got \(4, 4\)$"),
        (
            RESIDUAL | {"head_features": (4, 4, 4, 0)},
            r"^head_features must be 4 positive numbers, .*; got \(4, 4, 4, 0\)$",
        ),
        (RESIDUAL | {"head_inner": -1}, "^head_inner must be at least 0; got -1$"),
        ({"width": 0.0}, r"^width must be above 0; got 0\.0$"),
        ({"num_classes": 1}, r"^num_classes must be at least 2 \(background included\); got 1$"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SSD(**({"num_classes": 3, "spec": TINY} | options))


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"images must have shape \[B, 64, 64, 3\]; got \[1, 32, 32, 3\]"):
        SSD(3, TINY).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_a_spec_whose_grids_are_not_the_maps_is_refused():
    spec = PriorSpec(64, (8, 4, 3), (8.0, 16.0, 32.0), (8.0, 16.0, 28.0, 40.0), ((2.0,),) * 3)
    with pytest.raises(ValueError, match=r"sides of the maps, \(8, 4, 2\); got \(8, 4, 3\)"):
        shapes_of(SSD(3, spec))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"anchors": 3},
            "^options of a model must be among num_classes, spec, .*, deconvolution, .*; got 'anchors'$",
        ),
        ({"axis_name": "batch"}, "got 'axis_name'$"),  # of a training step, not of a model
        ({"spec": None}, "^fields of a model's spec must be among image_size, .*; got None$"),
        ({"spec": {"image_size": 300, "scales": 3}}, "^fields of a model's spec must be among .*; got 'scales'$"),
        ({"spec": {"image_size": 300}}, "^fields of a model's spec must include grids, steps; got image_size$"),
    ],
)
def test_a_description_of_another_version_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        from_description(describe(SSD(3, TINY)) | changes)


@pytest.mark.parametrize("missing", ["num_classes", "spec"])
def test_a_description_without_a_required_option_is_refused(missing):
    description = describe(SSD(3, TINY))
    del description[missing]
    with pytest.raises(ValueError, match=f"^options of a model must include {missing}; got "):
        from_description(description)


def test_flax_tabulates_the_layers():
    table = nn.tabulate(
        SSD(21, SSD300_VOC),
        jax.random.key(0),
        compute_flops=True,
        console_kwargs={"force_terminal": False, "width": 200},
    )(jnp.zeros((1, 300, 300, 3)))
    assert "Total Parameters: 26,285,486" in table
    flops = next(int(n) for line in table.splitlines() if "VGG16" in line for n in re.findall(r"\d{9,}", line))
    assert flops == pytest.approx(57.2e9, rel=1e-3)
