"""The functions work in other programs: sharded, in 64 bits, with strict promotion, with masks of numbers."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from ssd_jax import box, loss

PRIORS = box.make_priors(box.linear_spec(64, (8, 4)))
CORNERS = box.center_to_corner(PRIORS)
RNG = np.random.default_rng(0)
BATCH = 4
STARTS = RNG.uniform(0, 0.6, (BATCH, 5, 2))
GROUND_TRUTH = np.concatenate([STARTS, STARTS + RNG.uniform(0.1, 0.4, (BATCH, 5, 2))], axis=2).astype(np.float32)
LABELS = np.array([[1, 2, 3, 0, 0], [2, 2, 0, 0, 0], [0] * 5, [3, 1, 2, 3, 1]], np.int32)
OFFSETS = RNG.normal(size=(BATCH, len(PRIORS), 4)).astype(np.float32)
LOGITS = RNG.normal(size=(BATCH, len(PRIORS), 4)).astype(np.float32)


def assign(corners, labels, offsets, logits):
    return box.assign(corners, labels, PRIORS)


def multibox_loss(corners, labels, offsets, logits):
    targets = box.assign(corners, labels, PRIORS)
    return jax.grad(lambda *predictions: sum(loss.multibox_loss(*predictions, *targets)[:2]), (0, 1))(offsets, logits)


def multiclass_nms(corners, labels, offsets, logits):
    return box.multiclass_nms(CORNERS, jax.nn.softmax(logits), max_candidates=60, max_detections=10)


def non_max_suppression(corners, labels, offsets, logits):
    options = {"iou_threshold": 0.4, "score_threshold": 0.1, "max_candidates": 60}
    return box.non_max_suppression(CORNERS, logits[:, 1], **options)


def soft_nms(corners, labels, offsets, logits):
    return box.soft_nms(CORNERS, logits[:, 1], max_candidates=60)


FUNCTIONS = pytest.mark.parametrize(
    "function", [assign, multibox_loss, multiclass_nms, non_max_suppression, soft_nms], ids=lambda f: f.__name__
)
ARGUMENTS = GROUND_TRUTH, LABELS, OFFSETS, LOGITS


def assert_same(results, wanted):
    chex.assert_trees_all_close(results, wanted, rtol=1e-6, atol=1e-6, strict=True)


@FUNCTIONS
def test_a_shard_map_is_the_batch(function):
    batched = jax.vmap(function)
    devices = PartitionSpec("devices")
    sharded = functools.partial(jax.shard_map, mesh=Mesh(jax.devices()[:2], ("devices",)), out_specs=devices)
    results = jax.jit(sharded(batched, in_specs=(devices,) * 4))(*ARGUMENTS)
    assert_same(results, batched(*ARGUMENTS))


@FUNCTIONS
def test_64_bits_and_strict_promotion_change_nothing_for_float32(function):
    wanted = jax.vmap(function)(*ARGUMENTS)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        results = jax.vmap(function)(*map(jnp.asarray, ARGUMENTS))
    assert_same(results, wanted)


def test_no_ground_truth_is_float32_too():
    with jax.enable_x64(True):
        offsets, labels = box.assign(jnp.zeros((0, 4), jnp.float32), jnp.zeros(0, jnp.int32), PRIORS)
    assert (offsets.dtype, labels.dtype) == (np.float32, np.int32)
    assert not np.any(offsets) and not np.any(labels)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float32])
def test_a_mask_may_be_of_numbers(dtype):
    mask = LABELS[0].astype(dtype) * 85  # 0 and 85 and more, as in the masks of image files
    np.testing.assert_array_equal(
        box.match(GROUND_TRUTH[0], mask, PRIORS), box.match(GROUND_TRUTH[0], mask > 0, PRIORS)
    )
    positive = (np.arange(len(PRIORS)) % 7 == 0).astype(dtype) * 2
    wanted = loss.hard_negatives(LOGITS[0, :, 0], positive > 0)
    np.testing.assert_array_equal(loss.hard_negatives(LOGITS[0, :, 0], positive), wanted)
    assert np.any(wanted)


def test_sizes_and_variances_may_be_traced_while_boxes_are_not():
    corners = CORNERS[:3]
    size, variances = jnp.array([200, 400]), jnp.array([0.1, 0.1, 0.2, 0.2])
    np.testing.assert_allclose(
        jax.jit(lambda size: box.to_pixels(corners, size))(size), box.to_pixels(corners, (200, 400))
    )
    offsets = jax.jit(lambda variances: box.encode(corners, PRIORS[:3], variances=variances))(variances)
    np.testing.assert_allclose(offsets, box.encode(corners, PRIORS[:3]), rtol=1e-6)
    back = jax.jit(lambda variances: box.decode(OFFSETS[0], PRIORS, variances=variances))(variances)
    np.testing.assert_allclose(back, box.decode(OFFSETS[0], PRIORS), rtol=1e-5)
    assert box.encode(corners, PRIORS[:3], variances=np.array([0.1, 0.1, 0.2, 0.2])).dtype == np.float32


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_makes_the_loss_and_its_gradient_nan(label):
    labels = np.zeros(len(PRIORS), np.int32)
    labels[3] = label
    value, slope = jax.vmap(jax.value_and_grad(lambda row, label: loss.cross_entropy(row[None], label[None])[0]))(
        LOGITS[0], labels
    )
    spoilt = np.arange(len(PRIORS)) == 3
    np.testing.assert_array_equal(np.isnan(value), spoilt)
    np.testing.assert_array_equal(np.isnan(slope), np.tile(spoilt[:, None], (1, 4)))
