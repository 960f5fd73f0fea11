import box_oracles as oracles
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import box

PRIORS = box.make_priors(box.PriorSpec(64, (8, 4, 1), (8, 16, 64), (10, 22, 40, 60), ((2.0,), (2.0,), (2.0,))))


def images(seed, count=24, slots=6):
    """Make ground truth [count, slots, 4] and labels, from crowded to empty."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.1, 0.8, (count, slots, 2))
    corners = np.concatenate([low, low + rng.uniform(0.02, 0.6, (count, slots, 2))], axis=-1)
    corners[1::3, 1:] = corners[1::3, :1] + rng.normal(0, 0.01, (len(corners[1::3]), slots - 1, 4))  # alike
    labels = rng.integers(0, 4, (count, slots))
    labels[2] = 0
    return corners.astype(np.float32), labels.astype(np.int32)


def test_match_is_caffes_greedy_loop():
    corners, labels = images(0)
    matched = jax.jit(jax.vmap(lambda c, v: box.match(c, v, PRIORS)))(corners, labels > 0)
    assert matched.dtype == jnp.int32
    for c, l, index in zip(corners, labels, matched, strict=True):
        overlap = box.iou(c, box.center_to_corner(PRIORS))
        np.testing.assert_array_equal(index, oracles.match(overlap, l > 0, 0.5))


def test_assign_gathers_what_match_matched():
    corners, labels = images(1)
    offsets, targets = jax.vmap(lambda c, l: box.assign(c, l, PRIORS))(corners, labels)
    assert offsets.dtype == jnp.float32 and targets.dtype == jnp.int32
    for c, l, o, t in zip(corners, labels, offsets, targets, strict=True):
        index = np.asarray(box.match(c, l > 0, PRIORS))
        np.testing.assert_array_equal(t, np.where(index < 0, 0, l[index]))
        back = box.decode(np.asarray(o), PRIORS)
        np.testing.assert_allclose(back[index >= 0], c[index[index >= 0]], atol=1e-5)
        assert not np.any(np.asarray(o)[index < 0])


def by_hand():
    """Return three priors of side 4 at x = 0, 2, 8 in an image of side 16, and a function for ground truth."""
    priors = np.float32([[2, 2, 4, 4], [4, 2, 4, 4], [10, 2, 4, 4]]) / 16
    return priors, lambda *boxes: np.float32(boxes) / 16


def test_each_ground_truth_gets_a_prior_of_its_own_before_any_threshold():
    priors, gt = by_hand()
    # IoU with priors 0 and 1: the first (16/16, 8/24), the second (12/20, 12/20). Prior 1 is left to the second.
    truth = gt([0, 0, 4, 4], [1, 0, 5, 4])
    np.testing.assert_array_equal(box.match(truth, np.array([True, True]), priors), [0, 1, -1])
    # Without the first, the second takes the lower of two equal priors as its own, and the other by the threshold.
    np.testing.assert_array_equal(box.match(truth, np.array([False, True]), priors), [1, 1, -1])


def test_a_small_overlap_is_matched_once_and_no_overlap_is_never_matched():
    priors, gt = by_hand()
    truth = gt([11, 0, 16, 4], [13, 9, 16, 16])  # IoU with prior 2 is 4/32; the other touches no prior
    np.testing.assert_array_equal(box.match(truth, np.array([True, True]), priors), [-1, -1, 0])


def test_the_threshold_is_inclusive():
    priors, gt = by_hand()
    truth = gt([0, 0, 4, 4])  # IoU with prior 1 is 8/24
    valid = np.array([True])
    np.testing.assert_array_equal(box.match(truth, valid, priors, threshold=1 / 3), [0, 0, -1])
    np.testing.assert_array_equal(box.match(truth, valid, priors, threshold=0.334), [0, -1, -1])


def test_priors_between_the_thresholds_are_ignored():
    corners, labels = images(5)
    thresholds = {"threshold": 0.5, "ignore_threshold": 0.4}
    ignored = 0
    for c, l in zip(corners, labels, strict=True):
        plain, index = box.match(c, l > 0, PRIORS), box.match(c, l > 0, PRIORS, **thresholds)
        overlap = np.where((l > 0)[:, None], box.iou(c, box.center_to_corner(PRIORS)), 0)
        near = (np.asarray(plain) == -1) & (overlap.max(axis=0) >= 0.4)
        np.testing.assert_array_equal(index, np.where(near, -2, plain))
        (offsets, wanted), (found, targets) = box.assign(c, l, PRIORS), box.assign(c, l, PRIORS, **thresholds)
        np.testing.assert_array_equal(targets, np.where(near, box.IGNORED, wanted))
        np.testing.assert_array_equal(found, offsets)
        ignored += near.sum()
    assert ignored > 50


def test_the_ignored_band_is_inclusive_and_a_prior_of_its_own_is_never_ignored():
    priors, gt = by_hand()
    truth, valid = gt([0, 0, 4, 4]), np.array([True])  # IoU with prior 1 is 8/24
    np.testing.assert_array_equal(box.match(truth, valid, priors, ignore_threshold=1 / 3), [0, -2, -1])
    np.testing.assert_array_equal(box.match(truth, valid, priors, ignore_threshold=0.334), [0, -1, -1])
    np.testing.assert_array_equal(box.match(truth, valid, priors, threshold=1 / 3, ignore_threshold=0.1), [0, 0, -1])
    few = gt([3, 0, 4, 1])  # IoU with priors 0 and 1 is 1/16 each: the first is its own
    np.testing.assert_array_equal(box.match(few, valid, priors, ignore_threshold=0.01), [0, -2, -1])
    # Without any overlap nothing is ignored, whatever the threshold.
    np.testing.assert_array_equal(box.match(truth, valid, priors[2:], ignore_threshold=0.0), [-1])


def test_each_of_many_identical_boxes_gets_a_prior_of_its_own():
    heap = np.repeat(np.float32([[0.3, 0.3, 0.6, 0.6]]), 6, axis=0)
    index = np.asarray(box.match(heap, np.ones(6, bool), PRIORS))
    assert set(index[index >= 0]) == set(range(6))
    overlap = box.iou(heap, box.center_to_corner(PRIORS))
    np.testing.assert_array_equal(index, oracles.match(overlap, np.ones(6, bool), 0.5))


DEGENERATE = np.float32(
    [
        [0.5, 0.5, 0.5, 0.5],
        [0.2, 0.2, 0.2, 0.6],
        [0.7, 0.7, 0.2, 0.2],
        [0, 0, 0, 0],
        [-3, -3, -2, -2],
        [-3e38, 3e38, 3e38, -3e38],
    ]
)


def test_degenerate_ground_truth_is_matched_to_nothing_and_gives_no_nan():
    offsets, labels = jax.jit(lambda c, l: box.assign(c, l, PRIORS))(DEGENERATE, np.ones(6, np.int32))
    np.testing.assert_array_equal(labels, 0)
    np.testing.assert_array_equal(offsets, 0)


def test_the_gradient_of_the_targets_is_finite():
    truth = np.concatenate([DEGENERATE[:4], np.float32([[0.3, 0.3, 0.6, 0.6], [-3e38, -3e38, 3e38, 3e38]])])
    labels = np.ones(6, np.int32)
    slope = jax.jit(jax.grad(lambda c: jnp.sum(box.assign(c, labels, PRIORS)[0])))(truth)
    assert np.all(np.isfinite(slope))
    assert np.any(slope[4] != 0)


def test_padding_changes_nothing():
    corners, labels = images(3)
    assign = jax.jit(jax.vmap(lambda c, l: box.assign(c, l, PRIORS)))
    padded = jax.jit(jax.vmap(lambda c, l: box.assign(jnp.pad(c, ((0, 5), (0, 0))), jnp.pad(l, (0, 5)), PRIORS)))
    chex.assert_trees_all_equal(assign(corners, labels), padded(corners, labels))


def test_no_ground_truth_slots_or_no_priors():
    offsets, labels = box.assign(np.zeros((0, 4), np.float32), np.zeros(0, np.int32), PRIORS)
    np.testing.assert_array_equal(offsets, np.zeros((len(PRIORS), 4)))
    np.testing.assert_array_equal(labels, np.zeros(len(PRIORS)))
    assert box.match(DEGENERATE, np.ones(6, bool), PRIORS[:0]).shape == (0,)


def test_bfloat16_ground_truth_is_matched_as_its_float32():
    corners, labels = images(4)
    half = jnp.asarray(corners[0], jnp.bfloat16)
    plain = box.match(half.astype(jnp.float32), labels[0] > 0, PRIORS)
    np.testing.assert_array_equal(box.match(half, labels[0] > 0, PRIORS), plain)


def test_a_forgotten_vmap_is_named():
    corners, labels = images(0)
    with pytest.raises(ValueError, match=r"gt_corners must have shape \[G, 4\]; got \[24, 6, 4\]"):
        box.match(corners, labels > 0, PRIORS)
    with pytest.raises(ValueError, match=r"gt_valid must have shape \[6\]; got \[5\]"):
        box.match(corners[0], labels[0, :5] > 0, PRIORS)
    with pytest.raises(ValueError, match=r"gt_labels must have shape \[6\]; got \[24, 6\]"):
        box.assign(corners[0], labels, PRIORS)
