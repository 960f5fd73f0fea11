"""RetinaNet: its size, what its pyramid and its subnets compute, and that it learns."""

import re
from functools import partial

import jax
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from ssd_jax.box import PriorSpec, make_priors, retina_spec
from ssd_jax.inference.selection import make_detect
from ssd_jax.model import describe, from_description, initialise, make, preprocess, variable_shapes
from ssd_jax.model.fpn import enlarged
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


def test_parameters():
    """Count 34,014,999 for 91 classes, as torchvision does, which counts no scales and shifts of frozen BatchNorm."""
    params = flatten_dict(variable_shapes(make("retinanet_resnet50", 91, "coco"))["params"], sep="/")
    assert sum(leaf.size for name, leaf in params.items() if "/norm/" not in name) == 34_014_999
    assert sum(leaf.size for name, leaf in params.items() if name.startswith("trunk/")) == 25_557_032 - 2_049_000


def convolve(x, layer, stride=1):
    """[H, W, F] by the definition: each output is a product of the kernel and the window around it."""
    kernel, bias = np.asarray(layer["kernel"], np.float64), np.asarray(layer["bias"])
    side = kernel.shape[0]
    padded = np.pad(x, ((side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    rows, columns = (range(0, n, stride) for n in x.shape[:2])
    windows = [[padded[i : i + side, j : j + side] for j in columns] for i in rows]
    return np.einsum("ijklf,klfo->ijo", np.array(windows), kernel) + bias


def relu(x):
    return np.maximum(x, 0)


def test_the_network_above_the_backbone_computes_what_the_definition_says():
    random = np.random.default_rng(0)
    model = tiny.RETINA.clone(spec=retina_spec((56, 96), maps=4))  # maps of 7x12, 4x6, 2x3 and 1x2
    variables = jax.tree.map(np.array, initialise(model, jax.random.key(0)))
    layers = variables["params"]
    for name, array in flatten_dict(layers, sep="/").items():
        if name.endswith("bias") and not name.startswith("trunk"):
            array += random.normal(size=array.shape).astype(np.float32)
    images = random.normal(0, 50, (2, 56, 96, 3)).astype(np.float32)
    apply = jax.jit(partial(model.apply, capture_intermediates=True, mutable="intermediates"))
    (offsets, logits), seen = apply(variables, images)
    (fine, coarse) = seen["intermediates"]["trunk"]["__call__"][0]
    fine = seen["intermediates"]["conv4_3_norm"]["__call__"][0]

    for row in range(2):
        maps = pyramid([np.asarray(fine[row]), np.asarray(coarse[row])], layers["fpn"])
        assert [x.shape[:2] for x in maps] == [(7, 12), (4, 6), (2, 3), (1, 2)]
        for name, values, found in (("loc", 4, offsets), ("conf", 3, logits)):
            expected = [subnet(x, layers[f"{name}_tower"], layers[name]).reshape(-1, values) for x in maps]
            expected = np.concatenate(expected)
            assert len(expected) == len(make_priors(model.spec)) and np.std(expected) > 1
            np.testing.assert_allclose(found[row], expected, atol=1e-5 * np.std(expected), rtol=1e-5)


def pyramid(maps, layers):
    lateral = [convolve(x, layers[f"lateral{k}"]["conv"]) for k, x in enumerate(maps)]
    rows, columns = lateral[0].shape[:2]
    lateral[0] = lateral[0] + lateral[1][np.arange(rows)[:, None] // 2, np.arange(columns)[None] // 2]
    maps = [convolve(x, layers[f"output{k}"]["conv"]) for k, x in enumerate(lateral)]
    maps.append(convolve(maps[1], layers["output2"]["conv"], stride=2))
    return [*maps, convolve(relu(maps[2]), layers["output3"]["conv"], stride=2)]


def subnet(x, tower, head):
    for k in range(4):
        x = relu(convolve(x, tower[f"conv{k}"]["conv"]))
    return convolve(x, head["conv"])


def test_enlarging_is_the_nearest_neighbour():
    x = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    for rows, columns in ((6, 4), (5, 3), (6, 3)):
        nearest = x[:, np.arange(rows) * 3 // rows][:, :, np.arange(columns) * 2 // columns]
        np.testing.assert_array_equal(enlarged(x, (rows, columns)), nearest)


@pytest.mark.parametrize("heads", ["paper", "light", "residual", "shared"])
def test_training_starts_at_the_prior_probability(heads):
    one_map = PriorSpec(64, (8,), (8,), (8, 16), ((2.0,),))
    model = tiny.RETINA.clone(backbone="short_light", heads=heads, spec=one_map)
    params = flatten_dict(initialise(model, jax.random.key(0))["params"], sep="/")
    biases = {name: array for name, array in params.items() if name.endswith("conv/bias")}
    (conf,) = (array for name, array in biases.items() if re.search(r"\bconf\d?/conv", name))
    (loc,) = (array for name, array in biases.items() if re.search(r"\bloc\d?/conv", name))
    np.testing.assert_allclose(jax.nn.sigmoid(conf), np.full(4 * 3, 0.01), rtol=1e-5)
    np.testing.assert_array_equal(loc, np.zeros(4 * 4))


def test_scores_are_sigmoids_each_class_by_itself():
    """Detections are those of a loop that takes the best priors of a class and suppresses nothing."""
    model, variables = tiny.RETINA, initialise(tiny.RETINA, jax.random.key(0))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    apply = jax.jit(model.apply)
    variables["params"]["conf"]["conv"]["kernel"] /= np.std(apply(variables, preprocess(images))[1])
    detect = make_detect(model, iou_threshold=1.0, score_threshold=0.0, max_detections=50)
    _, scores, labels = jax.jit(detect)(variables, images)
    _, logits = apply(variables, preprocess(images))
    assert np.std(logits) > 0.9
    for row in range(2):
        every = 1 / (1 + np.exp(-np.asarray(logits[row, :, 1:], np.float64)))  # [P, C - 1]
        order = np.argsort(-every, axis=None)[:50]
        np.testing.assert_allclose(scores[row], every.ravel()[order], rtol=1e-5)
        np.testing.assert_array_equal(labels[row], order % 2 + 1)


def test_it_learns_the_tests_images():
    model, optimizer = tiny.RETINA, tiny.adamw(3e-3)
    state = create_state(jax.random.key(0), model, optimizer)
    step = jax.jit(tiny.train_step(optimizer, model=model), donate_argnums=0)
    batch = tiny.first_batch(tiny.Images(8), 8)
    losses = []
    for _ in range(70):
        state, metrics = step(state, batch, jax.random.key(1))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.1 * losses[0]
    _, _, labels = jax.jit(make_detect(model, score_threshold=0.3))(state.variables, batch["images"])
    for row in range(8):
        wanted = sorted(label for label in batch["labels"][row].tolist() if label)
        assert sorted(label for label in labels[row].tolist() if label) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": "tanh"}, "scores must be one of 'softmax', 'sigmoid'; got 'tanh'"),
        ({"extras": "bifpn"}, "extras must be one of 'paper', 'light', 'residual', 'fpn'; got 'bifpn'"),
        ({"heads": "fpn"}, "heads must be one of 'paper', 'light', 'residual', 'shared'; got 'fpn'"),
        (
            {"spec": tiny.SPEC},
            r"spec must have as many priors a cell on all maps with shared heads; got \(4, 6, 4\)",
        ),
    ],
)
def test_a_wrong_option_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        tiny.RETINA.clone(**changes)


def test_a_description_without_scores_is_of_a_softmax():
    description = describe(tiny.SHORT)
    del description["scores"]
    assert from_description(description) == tiny.SHORT
