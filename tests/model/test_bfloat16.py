"""A bfloat16 backbone: which values stay float32, and that a trained model predicts the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from ssd_jax.box import decode, paired_iou
from ssd_jax.model import preprocess
from ssd_jax.training import create_state

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


@pytest.fixture(scope="module")
def trained():
    """Return the variables of the tests' model after 40 steps, when its scores reach from 0 to 1."""
    optimizer = tiny.adamw(5e-3)
    state = create_state(jax.random.key(0), tiny.MODEL, optimizer)
    step = jax.jit(tiny.train_step(optimizer), donate_argnums=0)
    batch = tiny.first_batch(tiny.Images(16), 16)
    for _ in range(40):
        state, _ = step(state, batch, jax.random.key(1))
    return {"params": state.params, "batch_stats": state.batch_stats}


@pytest.mark.parametrize(
    ("backbone", "model", "kinds"),
    [
        ("vgg16", tiny.MODEL, ("paper", "paper")),
        ("resnet50", tiny.MODEL, ("paper", "paper")),
        ("efficientnet_lite0", tiny.MODEL, ("light", "light")),
        ("mobilenet_v3_large", tiny.MODEL, ("light", "light")),
        ("mobilenet_v3_large_reduced", tiny.MODEL, ("light", "light")),
        ("resnet50_whole", tiny.RETINA, ("fpn", "shared")),
    ],
)
def test_backbone_and_extra_layers_are_bfloat16_and_parameters_and_heads_float32(backbone, model, kinds):
    model = model.clone(dtype="bfloat16", backbone=backbone, extras=kinds[0], heads=kinds[1])

    def run(key, images):
        variables = model.init(key, images)
        return variables, *model.apply(variables, images, capture_intermediates=True, mutable="intermediates")

    variables, outputs, seen = jax.eval_shape(run, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, outputs))} == {jnp.dtype("float32")}
    layers = flatten_dict(seen["intermediates"], sep="/")
    for name, value in layers.items():
        head = name.startswith(("loc", "conf", "__call__")) and "_tower/" not in name
        assert {leaf.dtype for leaf in jax.tree.leaves(value)} == {jnp.dtype("float32" if head else "bfloat16")}, name
    assert sum(name.startswith("trunk/") for name in layers) > 15


def test_a_trained_model_predicts_the_same(trained):
    source = tiny.Images(32)  # the model was trained on half of them
    images = preprocess(np.stack([source[i].image for i in range(32)]))

    def predictions(dtype):
        offsets, logits = jax.jit(tiny.MODEL.clone(dtype=dtype).apply)(trained, images)
        boxes = jax.vmap(lambda offsets: decode(offsets, tiny.PRIORS))(offsets)
        return np.asarray(boxes), np.asarray(jax.nn.softmax(logits))[:, :, 1:]

    (boxes, scores), (boxes16, scores16) = predictions("float32"), predictions("bfloat16")
    # bfloat16 keeps 8 bits. Through 20 layers it moves outputs by about a hundredth of their spread: logits of +-8 by
    # 0.1, scores by at most a quarter of that.
    assert np.max(np.abs(scores16 - scores)) < 0.04
    found = np.max(np.maximum(scores, scores16), axis=-1) > 0.3
    assert np.min(paired_iou(boxes[found], boxes16[found])) > 0.95
    assert np.sum(found) > 50
