"""ResNet-50 as a backbone: its layers, the extra layers above it, and a training step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from configs import ssd300_resnet50_voc
from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import SSD300_COCO, SSD300_VOC, SSD512_VOC
from ssd_jax.loop.build import build_model
from ssd_jax.loop.train import check_same_model
from ssd_jax.model import SSD, describe, from_description, variable_shapes
from ssd_jax.model.ssd import BACKBONES
from ssd_jax.training import create_state, make_train_step

PROMOTION = "standard"  # optax's schedules promote


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def ssd300_parameters(classes):
    """Count layer by layer: convolutions without bias, two numbers per channel of BatchNorm, and the heads."""
    layers, channels = [(7, 3, 64)], 64
    for features, blocks in ((64, 3), (128, 4), (256, 6)):
        for k in range(blocks):
            layers += [(1, channels, features), (3, features, features), (1, features, 4 * features)]
            layers += [(1, channels, 4 * features)] if k == 0 else []
            channels = 4 * features
    sources = [1024]
    for narrow, wide in ((256, 512), (256, 512), (128, 256), (128, 256), (128, 256)):
        layers += [(1, sources[-1], narrow), (3, narrow, wide)]
        sources.append(wide)
    heads = zip(sources, (4, 6, 6, 6, 4, 4), strict=True)
    return sum(k * k * a * b + 2 * b for k, a, b in layers) + sum(
        (9 * a + 1) * per_cell * (4 + classes) for a, per_cell in heads
    )


@pytest.mark.parametrize(("classes", "spec"), [(21, SSD300_VOC), (81, SSD300_COCO)])
def test_parameters(classes, spec):
    params = variable_shapes(SSD(classes, spec, backbone="resnet50", norm="batch"))["params"]
    assert size(params) == ssd300_parameters(classes)
    # torchvision's resnet50 has 25,557,032 parameters, of which 14,964,736 in layer4 and 2,049,000 in fc.
    assert size(params["trunk"]) == 25_557_032 - 14_964_736 - 2_049_000


def test_maps_of_ssd300_are_the_backbones_one_and_five_more():
    model = SSD(21, SSD300_VOC, backbone="resnet50", norm="batch")

    def outputs(variables, images):
        return model.apply(variables, images, capture_intermediates=True, mutable="intermediates")[1]["intermediates"]

    seen = jax.eval_shape(outputs, variable_shapes(model), jnp.zeros((1, 300, 300, 3)))
    shapes = {
        name.removesuffix("/__call__"): output[0].shape[1:]
        for name, output in flatten_dict(seen, sep="/").items()
        if name.endswith(("conv/__call__", "norm/__call__"))
    }
    assert shapes["trunk/conv1/conv"] == (150, 150, 64)
    assert shapes["trunk/layer1_0/conv1/conv"] == (75, 75, 64)
    assert shapes["trunk/layer2_3/conv3/norm"] == (38, 38, 512)
    maps = ["trunk/layer3_5/conv3/norm", *(f"conv{n}_2/norm" for n in range(6, 11))]
    sides, channels = (38, 19, 10, 5, 3, 1), (1024, 512, 512, 256, 256, 256)
    assert [shapes[name] for name in maps] == [(s, s, c) for s, c in zip(sides, channels, strict=True)]
    assert not any("conv4_3_norm" in name for name in shapes)


def test_the_config_is_of_it():
    wanted = SSD(21, SSD300_VOC, backbone="resnet50", norm="batch")
    assert build_model(ssd300_resnet50_voc.get_config(), 21) == wanted


def test_ssd512s_grids():
    model = SSD(21, SSD512_VOC, backbone="resnet50", norm="batch", width=1 / 16)
    offsets, logits = jax.eval_shape(model.init_with_output, jax.random.key(0), jnp.zeros((1, 512, 512, 3)))[0]
    assert (offsets.shape, logits.shape) == ((1, 24564, 4), (1, 24564, 21))


def test_a_training_step_moves_the_whole_backbone_and_the_extra_layers():
    model = tiny.MODEL.clone(backbone="resnet50")
    optimizer = tiny.sgd(1e-3, weight_decay=0.0)
    state = create_state(jax.random.key(0), model, optimizer)
    step = jax.jit(make_train_step(model, optimizer, tiny.PRIORS, NO_AUGMENTATION))
    after, metrics = step(state, tiny.first_batch(tiny.Images(), 4), jax.random.key(1))
    assert np.isfinite(metrics["loss"])
    assert metrics["positives"] > 0
    for before, moved in ((state.params, after.params), (state.batch_stats, after.batch_stats)):
        before, moved = (flatten_dict(tree, sep="/") for tree in (before, moved))
        for name, array in before.items():
            assert np.isfinite(moved[name]).all(), name
            # No object is large enough for the priors of some maps, whose localisation heads get no gradient.
            assert not np.array_equal(array, moved[name]) or name.startswith("loc"), name


def test_it_needs_batch_norm(monkeypatch):
    monkeypatch.delitem(BACKBONES, "short")  # of the tests
    with pytest.raises(ValueError, match=r"norm must be 'batch' with backbone resnet50; got None"):
        SSD(3, tiny.SPEC, backbone="resnet50")
    with pytest.raises(ValueError, match=r"backbone must be one of 'vgg16', 'resnet50', .*; got 'vgg19'"):
        SSD(3, tiny.SPEC, backbone="vgg19")


def test_a_description_names_the_backbone():
    model = SSD(3, tiny.SPEC, backbone="resnet50", norm="batch")
    assert from_description(json.loads(json.dumps(describe(model)))) == model


def test_an_old_description_may_say_trunk():
    model = SSD(3, tiny.SPEC, backbone="resnet50", norm="batch")
    description = json.loads(json.dumps(describe(model)))
    description["trunk"] = description.pop("backbone")
    assert from_description(description) == model


def test_a_run_of_the_time_before_resnet50_is_one_of_vgg16():
    saved = json.loads(json.dumps({"model": describe(tiny.MODEL), "class_names": ["a", "b"]}))
    del saved["model"]["backbone"]
    assert from_description(saved["model"]) == tiny.MODEL
    check_same_model(saved, {"model": describe(tiny.MODEL), "class_names": ["a", "b"]})
    with pytest.raises(ValueError, match="this config's model, with backbone resnet50; got vgg16"):
        check_same_model(saved, {"model": describe(tiny.MODEL.clone(backbone="resnet50")), "class_names": ["a", "b"]})
