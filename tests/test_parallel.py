"""N devices must train as one does."""

import functools

import jax
import numpy as np
import pytest
import tiny
from jax.flatten_util import ravel_pytree

from ssd_jax.augment import AugmentOptions
from ssd_jax.box import PriorSpec, make_priors
from ssd_jax.data import Shapes, train_batches
from ssd_jax.parallel import AXIS, over_devices, shard
from ssd_jax.training import create_state, make_train_step

PROMOTION = "standard"  # optax mixes integers and floats in its schedules

STEPS = 10
# DSSD's modules on two maps.
TWO_MAPS = PriorSpec(64, (8, 4), (8.0, 16.0), (8.0, 16.0, 28.0), ((2.0,), (2.0, 3.0)))
DSSD = tiny.SHORT.clone(spec=TWO_MAPS, heads="residual", deconvolution=True)
SHAPES = Shapes(64, image_size=64, seed=0)


def train(devices, norm, model=tiny.SHORT):
    """Return all variables before and after a few steps on a number of devices, as one vector, and the losses."""
    model = model.clone(norm=norm, num_classes=1 + len(SHAPES.class_names))
    optimizer = tiny.sgd(1e-4)
    state = create_state(jax.random.key(0), model, optimizer)
    before = ravel_pytree((state.params, state.batch_stats))[0]
    batches = train_batches(SHAPES, batch_size=8, canvas_size=64, max_boxes=8, seed=0)
    options = AugmentOptions(interpolations=("linear",))
    step = over_devices(
        make_train_step(model, optimizer, make_priors(model.spec), options, axis_name=AXIS), jax.devices()[:devices]
    )
    losses = []
    for _ in range(STEPS):
        state, metrics = step(state, shard(next(batches).arrays, devices), jax.random.key(1))
        losses.append(float(metrics["loss"]))
    after = ravel_pytree((state.params, state.batch_stats))[0]
    return np.asarray(before), np.asarray(after), losses


@pytest.fixture(scope="module")
def on_one_device():
    return functools.cache(functools.partial(train, 1))


@pytest.mark.parametrize(
    ("devices", "norm", "model"),
    [
        (2, None, tiny.SHORT),
        (4, None, tiny.SHORT),
        (4, "batch", tiny.SHORT),
        (4, "batch", tiny.LIGHT),
        (4, "batch", DSSD),
        (4, None, tiny.RETINA),
    ],
    ids=["2", "4", "4, BatchNorm", "4, light", "4, DSSD", "4, RetinaNet"],
)
def test_training_is_that_of_one_device(devices, norm, model, on_one_device):
    before, expected, expected_losses = on_one_device(norm, model)
    _, got, losses = train(devices, norm, model)
    assert np.isfinite(losses).all()
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    # Parameters hardly move in ten steps: what counts is how far the moves themselves differ. Rounding parameters
    # to float32 makes some 1e-4 of that; a sum over devices taken twice, or a mean for a sum, would make over 0.5.
    assert np.linalg.norm(got - expected) < 1e-3 * np.linalg.norm(expected - before)


def test_the_images_have_unevenly_many_objects_and_some_have_none():
    counts = [len(example.labels) for example in map(SHAPES.__getitem__, range(len(SHAPES)))]
    assert len(set(counts)) > 2 and 0 in counts


def test_an_uneven_batch_is_refused():
    with pytest.raises(ValueError, match=r"divide evenly over 4 devices; got sizes 6"):
        shard({"images": np.zeros((6, 2))}, 4)
