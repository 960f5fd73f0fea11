"""Expand, crop and mirror against a slow reference of Caffe's sampler, by distribution."""

from dataclasses import replace
from functools import cache

import caffe_augment as caffe
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from statistics_bounds import Z, assert_same_distribution, assert_same_rate

from ssd_jax.augment import AugmentOptions
from ssd_jax.augment.crop import (
    choose,
    compose,
    crop_candidates,
    move_boxes,
    random_windows,
    sample_crop,
    sample_expansion,
    through_window,
)

OPTIONS = AugmentOptions()
OBJECTS = {
    "one_large": [[0.1, 0.2, 0.8, 0.9]],
    "one_small": [[0.45, 0.5, 0.6, 0.68]],
    "several": [[0.0, 0.0, 0.3, 0.3], [0.2, 0.5, 0.9, 0.7], [0.6, 0.1, 0.7, 0.25]],
}


def padded(boxes):
    """Boxes [4, 4], the rest padding that covers everything, and which are valid."""
    rows = np.tile(np.array([[0.0, 0.0, 1.0, 1.0]], np.float32), (4, 1))
    rows[: len(boxes)] = np.reshape(boxes, (-1, 4))
    return rows, np.arange(4) < len(boxes)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def measures(windows):
    """Left, top, width, height, area and aspect of windows [n, 4]."""
    left, top, right, bottom = windows.T
    width, height = right - left, bottom - top
    return {
        "left": left,
        "top": top,
        "width": width,
        "height": height,
        "area": width * height,
        "aspect": width / height,
    }


@cache
def our_candidates(name, trials):
    boxes, valid = padded(OBJECTS[name])
    options = replace(OPTIONS, crop_trials=trials)
    f = jax.jit(jax.vmap(lambda key: crop_candidates(key, boxes, valid, options=options)))
    return [np.asarray(x) for x in f(keys(4000))]


@cache
def caffes_candidates(name, trials, count):
    rng = np.random.default_rng(1)
    return [caffe.crop_candidates(rng, OBJECTS[name], trials=trials) for _ in range(count)]


def test_windows_have_caffes_sizes_aspects_and_places():
    rng = np.random.default_rng(0)
    theirs = measures(np.array([caffe.random_window(rng) for _ in range(20000)]))
    windows = np.asarray(random_windows(jax.random.key(0), (100, 300), options=OPTIONS))
    assert windows.shape == (100, 300, 4)
    assert windows.min() >= 0
    assert windows.max() <= 1 + 1e-6
    ours = measures(windows.reshape(-1, 4))
    for name, values in theirs.items():
        assert_same_distribution(ours[name], values)
    assert ours["area"].min() >= 0.3**2 - 1e-6
    assert ours["aspect"].min() >= 0.5 - 1e-5
    assert ours["aspect"].max() <= 2 + 1e-5


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize(("trials", "count"), [(1, 4000), (50, 400)])
def test_samplers_succeed_as_often_as_caffes(name, trials, count):
    _, success = our_candidates(name, trials)
    theirs = np.array([[w is not None for w in found] for found in caffes_candidates(name, trials, count)])
    for sampler in range(len(caffe.MIN_IOUS)):
        assert_same_rate(success[:, sampler], theirs[:, sampler])
    assert success[:, 5].all()  # an IoU of 0 with any object always holds


@pytest.mark.parametrize("name", OBJECTS)
def test_successful_windows_are_distributed_as_caffes(name):
    windows, success = our_candidates(name, 50)
    theirs = caffes_candidates(name, 50, 400)
    compared = 0
    for sampler in range(len(caffe.MIN_IOUS)):
        expected = np.array([found[sampler] for found in theirs if found[sampler] is not None])
        if len(expected) < 40:
            continue
        compared += 1
        ours = measures(windows[success[:, sampler], sampler])
        for measure, values in measures(expected).items():
            assert_same_distribution(ours[measure], values)
    assert compared >= 2


@pytest.mark.parametrize("name", OBJECTS)
def test_successful_windows_overlap_some_object_enough(name):
    windows, success = our_candidates(name, 50)
    for sampler, wanted in enumerate(caffe.MIN_IOUS):
        for window in windows[success[:, sampler], sampler][:200]:
            assert max(caffe.iou(window, box) for box in OBJECTS[name]) >= wanted - 1e-5


@pytest.mark.parametrize("name", OBJECTS)
def test_crops_are_distributed_as_caffes(name):
    boxes, valid = padded(OBJECTS[name])
    ours = np.asarray(jax.jit(jax.vmap(lambda k: sample_crop(k, boxes, valid, options=OPTIONS)))(keys(4000, 2)))
    rng = np.random.default_rng(3)
    theirs = np.array([caffe.sample_crop(rng, OBJECTS[name]) for _ in range(500)])
    whole = np.array([0, 0, 1, 1])
    assert_same_rate((ours == whole).all(axis=1), (theirs == whole).all(axis=1))
    for measure, values in measures(theirs).items():
        assert_same_distribution(measures(ours)[measure], values)


def test_each_successful_sampler_is_chosen_with_the_same_chance():
    among = jnp.array([True, False, True, True, False, False, True])
    chosen = np.asarray(jax.jit(jax.vmap(lambda k: choose(k, among)))(keys(4000)))
    counts = np.bincount(chosen, minlength=7)
    assert not counts[~np.asarray(among)].any()
    assert np.abs(counts[np.asarray(among)] / 4000 - 0.25).max() < Z * np.sqrt(0.25 * 0.75 / 4000)


def test_no_object_means_no_successful_sampler():
    boxes, _ = padded([])
    _, success = crop_candidates(jax.random.key(0), boxes, np.zeros(4, bool), options=OPTIONS)
    assert not success.any()
    for none in (boxes, boxes[:0]):
        window = sample_crop(jax.random.key(0), none, np.zeros(len(none), bool), options=OPTIONS)
        np.testing.assert_array_equal(window, [0, 0, 1, 1])


def test_expansions_are_distributed_as_caffes():
    ours = np.asarray(jax.jit(jax.vmap(lambda k: sample_expansion(k, options=OPTIONS)))(keys(4000)))
    rng = np.random.default_rng(0)
    image, corners = np.zeros((300, 200, 3), np.uint8), np.array([[0.0, 0.0, 1.0, 1.0]])
    where = np.array([caffe.expand(rng, image, corners)[1][0] for _ in range(1000)])  # the image in its canvas
    expanded = (ours != [0, 0, 1, 1]).any(axis=1)
    assert_same_rate(expanded, (where != [0, 0, 1, 1]).any(axis=1))
    size = ours[:, 2:] - ours[:, :2]
    np.testing.assert_allclose(size[:, 0], size[:, 1], atol=1e-6)
    assert_same_distribution(size[:, 0], 1 / (where[:, 3] - where[:, 1]))
    placed = -ours / size[:, :1]  # the image's top left, as fractions of the canvas, where the canvas is larger
    for axis in (0, 1):
        assert_same_distribution(placed[expanded, axis], where[(where != [0, 0, 1, 1]).any(axis=1), axis])
    assert ours[:, :2].max() <= 0
    assert ours[:, 2:].min() >= 1 - 1e-6


def test_windows_compose_by_hand():
    outer = jnp.array([-1.0, -0.5, 3.0, 1.5])  # 4 wide, 2 high
    inner = jnp.array([0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(compose(outer, inner), [0.0, 0.5, 2.0, 1.5])
    boxes = jnp.array([[0.5, 0.75, 1.0, 1.0], [0.0, 0.5, 2.0, 1.5]])
    expected = [[1 / 4, 1 / 4, 1 / 2, 1 / 2], [0, 0, 1, 1]]
    np.testing.assert_allclose(through_window(boxes, compose(outer, inner)), expected)
    np.testing.assert_allclose(through_window(through_window(boxes, outer), inner), expected)


def test_boxes_move_by_hand():
    """The window shows the right half of the image's upper half, and mirrors it."""
    boxes = np.array(
        [
            [0.6, 0.1, 0.7, 0.2],  # inside
            [0.4, 0.2, 0.7, 0.7],  # centre (0.55, 0.45) inside: clipped
            [0.1, 0.1, 0.8, 0.2],  # centre (0.45, 0.15) outside
            [0.4, 0.1, 0.6, 0.2],  # centre on the border: kept, as in Caffe
            [0.6, 0.1, 0.7, 0.2],  # padding
            [0.7, 0.1, 0.7, 0.2],  # no area
        ],
        np.float32,
    )
    labels = np.array([1, 2, 3, 4, 0, 5], np.int32)
    moved, kept = move_boxes(boxes, labels, jnp.array([1.0, 0.0, 0.5, 0.5]))
    np.testing.assert_array_equal(kept, [1, 2, 0, 4, 0, 0])
    expected = [[0.6, 0.2, 0.8, 0.4], [0.6, 0.4, 1, 1], [0] * 4, [0.8, 0.2, 1, 0.4], [0] * 4, [0] * 4]
    np.testing.assert_allclose(moved, expected, atol=1e-6)
