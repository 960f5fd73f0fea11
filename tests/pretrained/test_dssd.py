"""SSD and DSSD on ResNet-101 (arXiv:1701.06659): their sizes, what they compute, and a training step."""

import re

import dssd_reference as reference
import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict, unflatten_dict

from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import SSD321_VOC, make_priors
from ssd_jax.model import compile_to_run_once, make, variable_shapes
from ssd_jax.training import create_state, make_train_step

PROMOTION = "standard"  # optax's schedules promote
BRANCHES = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "downsample": "branch1"}
LEAVES = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def size(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "voc", "coco"),
    [
        ("ssd321", 116_526_320, 158_799_920),
        ("ssd513", 113_530_296, 160_228_056),
        ("dssd321", 172_380_912, 214_654_512),
        ("dssd513", 175_286_712, 221_984_472),
    ],
)
def test_parameters(name, voc, coco):
    for classes, dataset, wanted in ((21, "voc", voc), (81, "coco", coco)):
        params = variable_shapes(make(name, classes, dataset))["params"]
        assert size(params) == wanted
        assert size(params["trunk"]) == 42_500_160


def tensor_of(path, layers):
    """Return the reference's tensor for one of our parameters, in our layout."""
    *place, kind, leaf = path.split("/")
    match place:
        case ["trunk", "conv1"]:
            name = "conv1"
        case ["trunk", block, part]:
            stage, k = re.fullmatch(r"layer(\d)_(\d+)", block).groups()
            name = f"res{int(stage) + 1}_{k}_{BRANCHES[part]}"
        case [block, "block", part]:
            name = f"{block}_{BRANCHES[part]}"
        case [block, part]:
            k = block[-1]
            name = (
                f"{part[:-1]}{k}_{part[-1]}"
                if part in ("fine1", "fine2")
                else re.sub(r"^([a-z]+)", rf"\g<1>{k}", part)
            )
        case [block]:
            name = f"up{block[-1]}"
    if kind == "norm":
        return layers[f"{name}.bn.{LEAVES[leaf]}"]
    if leaf == "bias":
        return layers[f"{name}.bias"]
    weight = layers[f"{name}.weight"]
    if kind == "up":  # Flax correlates where Caffe spreads: the kernel is turned
        return weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
    return weight.transpose(2, 3, 1, 0)


@pytest.mark.parametrize("deconvolution", [False, True])
def test_the_network_computes_what_the_reference_does(deconvolution):
    model = tiny.RESIDUAL.clone(spec=SSD321_VOC, deconvolution=deconvolution)
    image = np.random.default_rng(1).normal(0, 50, (321, 321, 3)).astype(np.float32)
    layers = reference.Layers()
    _, *expected = reference.ssd(
        layers, image.transpose(2, 0, 1).astype(np.float64), 3, blocks=tiny.SHORT_101, deconvolution=deconvolution
    )
    shapes = flatten_dict(variable_shapes(model), sep="/")
    found = {path: tensor_of(path.split("/", 1)[1], layers) for path in shapes}
    assert {path: array.shape for path, array in found.items()} == {path: leaf.shape for path, leaf in shapes.items()}
    assert len(found) == sum(not name.endswith("num_batches_tracked") for name in layers)
    outputs = compile_to_run_once(model.apply)(unflatten_dict(found, sep="/"), image[None])
    for got, wanted in zip(outputs, expected, strict=True):
        assert wanted.std() > 0.1
        np.testing.assert_allclose(got[0], wanted, rtol=2e-3, atol=2e-3 * wanted.std())


@pytest.mark.parametrize("deconvolution", [False, True])
def test_a_training_step_moves_everything_that_is_not_frozen(deconvolution):
    """As in the second stage of DSSD: the backbone stays, and its BatchNorm keeps its statistics."""
    model = tiny.RESIDUAL.clone(deconvolution=deconvolution, freeze_norm=("trunk",))
    optimizer = tiny.sgd(1e-3, momentum=0.9, frozen=("trunk",))
    step = make_train_step(model, optimizer, make_priors(model.spec), NO_AUGMENTATION, frozen=("trunk",))
    state = create_state(jax.random.key(0), model, optimizer)
    batch = tiny.first_batch(tiny.Images(), 4)
    after, metrics = compile_to_run_once(step)(state, batch, jax.random.key(1))
    assert np.isfinite(metrics["loss"]) and metrics["positives"] > 0
    for collection in ("params", "batch_stats"):
        before, now = (flatten_dict(s.variables[collection], sep="/") for s in (state, after))
        still = {path for path in before if np.array_equal(before[path], now[path])}
        assert {path for path in before if path.startswith("trunk")} <= still
        # A map without a positive prior, and without a hard negative, has no gradient at its heads.
        assert not [path for path in still if "trunk" not in path and "predict" not in path]
        assert any(path.startswith("predict") for path in before.keys() - still)
