"""No result depends on the equality of two floats, because XLA may compute a value twice and round it in two ways."""

import re

import jax
import jax.numpy as jnp
import pytest
import tiny

from ssd_jax import box
from ssd_jax.augment.photometric import adjust_hsv
from ssd_jax.loss import hard_negatives, multibox_loss
from ssd_jax.model import variable_shapes

BOXES = jax.ShapeDtypeStruct((7, 4), jnp.float32)
OVERLAPS = ("iou", "generalized_iou", "distance_iou", "complete_iou", "intersection_over_foreground")
OF_TWO = (*OVERLAPS, *(f"paired_{name}" for name in OVERLAPS), "encode", "decode")


def comparisons_for_equality(function, *arguments):
    """Return the lines of a function's program that compare floats for equality."""
    return re.findall(r"compare\s+EQ,.*FLOAT.*", jax.jit(function).lower(*arguments).as_text())


def in_gradient(function, *arguments):
    """Return the lines that compare floats for equality in the gradient of a function's sum by its arguments."""
    every = tuple(range(len(arguments)))
    gradient = jax.grad(lambda *arguments: sum(jnp.sum(x) for x in jax.tree.leaves(function(*arguments))), every)
    return comparisons_for_equality(gradient, *arguments)


@pytest.mark.parametrize("name", OF_TWO)
def test_the_gradient_of_two_sets_of_boxes(name):
    assert not in_gradient(getattr(box, name), BOXES, BOXES)


def test_the_gradient_of_areas_and_clipped_boxes():
    assert not in_gradient(lambda boxes: box.area(box.clip(boxes)), BOXES)


def test_the_gradient_of_the_loss():
    def loss(offsets, logits):
        return multibox_loss(offsets, logits, jnp.zeros((7, 4)), jnp.ones(7, jnp.int32))[:2]

    assert not in_gradient(loss, BOXES, jax.ShapeDtypeStruct((7, 3), jnp.float32))


def test_the_gradient_of_the_network():
    model = tiny.MODEL.clone(norm=None)  # the variance in BatchNorm of Flax is a maximum, which compares

    def outputs(params, images):
        return model.apply({"params": params}, images, train=True)

    images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
    assert not in_gradient(outputs, variable_shapes(model)["params"], images)


def test_hues():
    assert not comparisons_for_equality(lambda rgb: adjust_hsv(tuple(rgb), 1.5, 10.0), jnp.ones((3, 8, 8)))


def test_matching_and_mining_compare_values_that_are_computed_once():
    for function, arguments in (
        (lambda boxes, priors: box.match(boxes, jnp.ones(7, bool), priors), (BOXES, BOXES)),
        (lambda loss: hard_negatives(loss, loss > 1), (jax.ShapeDtypeStruct((7,), jnp.float32),)),
    ):
        assert "optimization_barrier" in jax.jit(function).lower(*arguments).as_text()


def test_a_comparison_for_equality_is_found():
    assert in_gradient(lambda a, b: jnp.where(jnp.maximum(a, b) == a, 2 * a, b), BOXES, BOXES)
