"""No gradient asks whether two computed numbers are equal: XLA may round them in two ways, and then it is lost."""

import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from ssd_jax import box
from ssd_jax.loss import multibox_loss
from ssd_jax.model import variable_shapes

BOXES = jax.ShapeDtypeStruct((7, 4), jnp.float32)
OVERLAPS = ("iou", "generalized_iou", "distance_iou", "complete_iou", "intersection_over_foreground")
OF_TWO = (*OVERLAPS, *(f"paired_{name}" for name in OVERLAPS), "encode", "decode")


def comparisons_for_equality(function, *arguments):
    """Return what the gradient of a function's sum compares for equality."""
    gradient = jax.grad(lambda *arguments: sum(jnp.sum(x) for x in jax.tree.leaves(function(*arguments))))
    return re.findall(r"compare\s+EQ,.*FLOAT.*", jax.jit(gradient).lower(*arguments).as_text())


@pytest.mark.parametrize("name", OF_TWO)
def test_of_two_sets_of_boxes(name):
    assert not comparisons_for_equality(getattr(box, name), BOXES, BOXES)


def test_of_areas_and_clipped_boxes():
    assert not comparisons_for_equality(lambda boxes: box.area(box.clip(boxes)), BOXES)


def test_of_the_loss():
    def loss(offsets, logits):
        return multibox_loss(offsets, logits, jnp.zeros((7, 4)), jnp.ones(7, jnp.int32))[:2]

    assert not comparisons_for_equality(loss, BOXES, jax.ShapeDtypeStruct((7, 3), jnp.float32))


def test_of_the_network():
    model = tiny.MODEL.clone(norm=None)  # Flax's BatchNorm does compare: its variance is a maximum

    def outputs(params, images):
        return model.apply({"params": params}, images, train=True)

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    assert not comparisons_for_equality(outputs, variable_shapes(model)["params"], images)


def test_the_test_would_notice():
    assert comparisons_for_equality(lambda a, b: jnp.where(jnp.maximum(a, b) == a, 2 * a, b), BOXES, BOXES)
