import box_oracles as oracles
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import box


def scene(seed, count=120, classes=5):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.7, (count, 2))
    corners = np.concatenate([low, low + rng.uniform(0.05, 0.4, (count, 2))], axis=1).astype(np.float32)
    logits = rng.normal(0, 2, (count, classes))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return corners, np.round(scores, 2).astype(np.float32)  # rounded, so that there are ties


def test_multiclass_nms_is_caffes_loop():
    options = {"score_threshold": 0.05, "max_candidates": 40, "iou_threshold": 0.45, "max_detections": 30}
    select = jax.jit(lambda c, s: box.multiclass_nms(c, s, **options))
    for seed in range(4):
        corners, scores = scene(seed)
        found = oracles.multiclass_nms(box.iou(corners, corners), scores, **options)
        boxes, best, labels = select(corners, scores)
        np.testing.assert_array_equal(labels, [f[2] for f in found])
        np.testing.assert_array_equal(best, np.float32([f[1] for f in found]))
        np.testing.assert_array_equal(boxes, corners[[f[0] for f in found]])


OPTIONS = {"iou_threshold": 0.45, "score_threshold": 0.05, "max_candidates": 230}
one_class = jax.jit(lambda c, s: box.non_max_suppression(c, s, **OPTIONS))


@pytest.mark.parametrize("seed", range(3))
def test_non_max_suppression_is_the_loop_over_more_than_one_block(seed):
    corners, scores = scene(seed, count=300, classes=2)
    order, keep = one_class(corners, scores[:, 1])
    assert order.shape == keep.shape == (230,) and order.dtype == jnp.int32 and keep.dtype == bool
    expected = oracles.nms(box.iou(corners, corners), scores[:, 1], **OPTIONS)
    np.testing.assert_array_equal(order[keep], expected)
    assert np.sum(scores[:, 1] > 0.05) > 100


def test_the_longest_chain_is_decided():
    # Each box overlaps only its neighbours, so every other box stays: it takes as many rounds as there are boxes.
    low = np.arange(250, dtype=np.float32)
    corners = np.stack([low, 0 * low, low + 2, 0 * low + 1], axis=1)
    scores = np.linspace(1, 0.5, 250, dtype=np.float32)
    order, keep = box.non_max_suppression(corners, scores, iou_threshold=0.3, score_threshold=0.0, max_candidates=250)
    np.testing.assert_array_equal(order[keep], np.arange(0, 250, 2))


def test_thresholds_are_exclusive_as_in_caffe():
    corners = np.float32([[0, 0, 2, 1], [1, 0, 3, 1], [5, 5, 6, 6]])  # IoU of the first two: 1/3
    scores = np.float32([0.9, 0.8, 0.5])
    for iou_threshold, score_threshold, kept in (
        (float(np.float32(1 / 3)), 0.1, [0, 1, 2]),
        (0.333, 0.1, [0, 2]),
        (0.333, 0.5, [0]),
    ):
        order, keep = box.non_max_suppression(
            corners, scores, iou_threshold=iou_threshold, score_threshold=score_threshold, max_candidates=3
        )
        np.testing.assert_array_equal(order[keep], kept)


def test_equal_scores_are_taken_in_order():
    corners = np.repeat(np.float32([[0, 0, 1, 1]]), 5, axis=0)
    order, keep = box.non_max_suppression(
        corners, np.full(5, 0.5, np.float32), iou_threshold=0.45, score_threshold=0.01, max_candidates=3
    )
    np.testing.assert_array_equal(order, [0, 1, 2])
    np.testing.assert_array_equal(keep, [True, False, False])


def test_missing_detections_are_zeros():
    corners, scores = scene(0, count=20, classes=3)
    boxes, best, labels = box.multiclass_nms(corners, scores * (np.arange(20) < 2)[:, None], max_detections=9)
    found = np.sum(labels > 0)
    assert 0 < found <= 4
    assert labels.dtype == jnp.int32 and boxes.shape == (9, 4)
    for rows in (boxes, best, labels):
        np.testing.assert_array_equal(rows[found:], 0)


@pytest.mark.parametrize(("count", "classes"), [(0, 3), (5, 1), (1, 2)])
def test_few_boxes_or_no_classes(count, classes):
    corners, scores = scene(0, count=count, classes=classes)
    boxes, best, labels = box.multiclass_nms(corners, scores, max_detections=4)
    assert boxes.shape == (4, 4) and best.shape == labels.shape == (4,)
    np.testing.assert_array_equal(labels > 0, best > 0)
    assert np.sum(labels > 0) == min(count, classes - 1)
    order, keep = box.non_max_suppression(corners, scores[:, 0], **OPTIONS)
    assert order.shape == keep.shape == (count,)


def test_a_score_that_is_not_a_number_is_no_candidate():
    corners, scores = scene(0, count=20, classes=3)
    broken = np.where(np.arange(20)[:, None] < 5, np.nan, scores)
    sound = np.where(np.arange(20)[:, None] < 5, 0, scores)
    chex.assert_trees_all_equal(box.multiclass_nms(corners, broken), box.multiclass_nms(corners, sound))


def test_detections_are_differentiable_and_finite():
    corners, scores = scene(1)
    corners[:3] = [[0, 0, 0, 0], [0.5, 0.5, 0.1, 0.1], [-3e38, -3e38, 3e38, 3e38]]
    select = jax.jit(
        jax.value_and_grad(lambda c, s: sum(jnp.sum(x) for x in box.multiclass_nms(c, s)[:2]), argnums=(0, 1))
    )
    value, (by_corners, by_scores) = select(corners, scores)
    chex.assert_tree_all_finite((value, by_corners, by_scores))
    found = np.sum(np.asarray(box.multiclass_nms(corners, scores)[2]) > 0)
    assert np.sum(np.asarray(by_scores)) == found > 0


DECAYS = {
    "gaussian": (box.gaussian_decay(0.5), lambda overlap: np.exp(-(overlap**2) / 0.5)),
    "linear": (box.linear_decay(0.3), lambda overlap: 1 - overlap if overlap > 0.3 else 1.0),
}


@pytest.mark.parametrize("name", DECAYS)
def test_soft_nms_is_the_loop(name):
    decay, slow_decay = DECAYS[name]
    options = {"score_threshold": 0.05, "max_candidates": 60}
    corners, scores = scene(5, classes=2)
    scores = scores[:, 1] + np.linspace(0, 1e-3, 120, dtype=np.float32)  # without ties
    order, decayed = jax.jit(lambda c, s: box.soft_nms(c, s, decay=decay, **options))(corners, scores)
    expected = oracles.soft_nms(box.iou(corners, corners).astype(float), scores, decay=slow_decay, **options)
    count = len(expected)
    np.testing.assert_array_equal(order[:count], [place for place, _ in expected])
    expected = np.array([score for _, score in expected])
    np.testing.assert_allclose(decayed[:count], np.where(expected > 0.05, expected, 0), rtol=1e-4)
    np.testing.assert_array_equal(decayed[count:], 0)


def test_soft_nms_with_a_hard_decay_is_non_max_suppression():
    corners, scores = scene(6, classes=2)
    options = {"score_threshold": 0.05, "max_candidates": 60}
    order, decayed = box.soft_nms(
        corners, scores[:, 1], decay=lambda overlap: (overlap <= 0.45).astype(jnp.float32), **options
    )
    hard_order, keep = box.non_max_suppression(corners, scores[:, 1], iou_threshold=0.45, **options)
    np.testing.assert_array_equal(order[decayed > 0], hard_order[keep])


def test_soft_nms_takes_no_box_below_the_threshold_even_if_it_equals_another():
    corners = np.repeat(np.float32([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]), [1, 2, 1], axis=0)
    scores = np.float32([0.9, 0.0, 0.8, 0.5])
    order, decayed = box.soft_nms(corners, scores, decay=box.linear_decay(0.3))
    np.testing.assert_array_equal(order[:3], [0, 3, 2])
    np.testing.assert_array_equal(decayed, np.float32([0.9, 0.5, 0, 0]))


def test_soft_nms_of_nothing():
    order, decayed = box.soft_nms(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    assert order.shape == decayed.shape == (0,)


def test_a_batch_is_its_images():
    scenes = [scene(seed) for seed in range(3)]
    corners, scores = (np.stack(x) for x in zip(*scenes, strict=True))
    batch = jax.jit(jax.vmap(box.multiclass_nms))(corners, scores)
    single = jax.jit(box.multiclass_nms)
    for i in range(3):
        chex.assert_trees_all_equal([x[i] for x in batch], list(single(corners[i], scores[i])))


def test_wrong_shapes_are_named():
    corners, scores = scene(0)
    with pytest.raises(ValueError, match=r"scores must have shape \[120\]; got \[120, 5\]"):
        box.non_max_suppression(corners, scores, **OPTIONS)
    with pytest.raises(ValueError, match=r"boxes must have shape \[P, 4\]; got \[1, 120, 4\]"):
        box.multiclass_nms(corners[None], scores[None])
    with pytest.raises(ValueError, match=r"scores must have shape \[120, C\]; got \[119, 5\]"):
        box.multiclass_nms(corners, scores[1:])
