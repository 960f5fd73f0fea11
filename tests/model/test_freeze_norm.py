"""BatchNorm that keeps its statistics in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict

from ssd_jax.model import initialise


@pytest.fixture(scope="module")
def variables():
    return initialise(tiny.SHORT, jax.random.key(0))


def trained(variables, **options):
    """Return the outputs and the new statistics of one pass in training."""
    images = 50 * jax.random.normal(jax.random.key(1), (4, 64, 64, 3))
    outputs, updated = tiny.SHORT.clone(**options).apply(variables, images, train=True, mutable=["batch_stats"])
    return images, outputs, flatten_dict(updated["batch_stats"], sep="/")


def test_named_parts_keep_their_statistics(variables):
    before = flatten_dict(variables["batch_stats"], sep="/")
    _, _, after = trained(variables, freeze_norm=("trunk/conv[12]", "conv6_*"))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name.rsplit("/", 2)[0] for name in changed} == {"trunk/conv3", "trunk/conv4", "trunk/fc7"}


def test_with_every_part_frozen_training_computes_what_inference_does(variables):
    images, outputs, _ = trained(variables, freeze_norm=("*",))
    for got, wanted in zip(outputs, tiny.SHORT.apply(variables, images), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    _, free, _ = trained(variables)
    assert not np.allclose(outputs[0], free[0], atol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^freeze_norm must name parts of conv6_1, conv6_2, trunk/conv1, .*; got 'backbone'"),
        ({"norm": None}, r"^freeze_norm must name parts of a model with norm 'batch'; got 'backbone'"),
    ],
)
def test_a_name_that_no_part_has_is_refused(options, message):
    model = tiny.SHORT.clone(freeze_norm=("trunk", "backbone"), **options)
    model = model if not options else model.clone(freeze_norm=("backbone",))
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
