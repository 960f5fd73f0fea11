"""Properties of the box functions over generated cases.

SSD_JAX_PROPERTY_CASES sets how many cases each property gets; the default keeps the whole file near a minute.
Ties and thresholds are compared exactly, so the boxes of those properties lie on a lattice on which float32 is exact.
"""

import os

import box_oracles as oracles
import chex
import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import box, loss

CASES = int(os.environ.get("SSD_JAX_PROPERTY_CASES", "150"))
G, P, N, C = 5, 24, 16, 3

property_test = hypothesis.settings(
    max_examples=CASES,
    deadline=None,
    derandomize="SSD_JAX_PROPERTY_CASES" not in os.environ,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def floats(shape, low, high):
    return hnp.arrays(np.float32, shape, elements=st.floats(low, high, width=32, allow_subnormal=False))


def lattice(count, low=-8, high=24, unit=16):
    """Draw corners [count, 4] on a lattice; some are inverted, without area or equal."""
    return hnp.arrays(np.int32, (count, 4), elements=st.integers(low, high)).map(
        lambda corners: (corners / unit).astype(np.float32)
    )


def proper(count):
    """Draw corners [count, 4] with sides from 1/64 to 1."""
    return st.tuples(floats((count, 2), -0.5, 1), floats((count, 2), 1 / 64, 1)).map(
        lambda parts: np.concatenate([parts[0], parts[0] + parts[1]], axis=1)
    )


anything = floats((G, 4), -float(np.float32(3.4e38)), float(np.float32(3.4e38)))
scores = hnp.arrays(np.int32, N, elements=st.integers(0, 20)).map(lambda x: (x / 20).astype(np.float32))

# Compiled once, for all cases.
match = jax.jit(lambda corners, valid, priors: box.match(corners, valid, priors))
assign = jax.jit(lambda corners, labels, priors: box.assign(corners, labels, priors))
mine = jax.jit(lambda losses, positive, ratio: loss.hard_negatives(losses, positive, ratio))
multibox = jax.jit(loss.multibox_loss)
OPTIONS = {"iou_threshold": 0.45, "score_threshold": 0.1, "max_candidates": 12}
suppress = jax.jit(lambda corners, scores: box.non_max_suppression(corners, scores, **OPTIONS))
detect = jax.jit(lambda corners, scores: box.multiclass_nms(corners, scores, max_detections=9, **OPTIONS))
soften = jax.jit(
    lambda corners, scores: box.soft_nms(
        corners, scores, decay=box.linear_decay(0.3), score_threshold=0.1, max_candidates=12
    )
)
ROUND_TRIPS = {
    "center": (box.corner_to_center, box.center_to_corner),
    "xywh": (box.corner_to_xywh, box.xywh_to_corner),
    "yxyx": (box.corner_to_yxyx, box.yxyx_to_corner),
    "pixels": (lambda b: box.to_pixels(b, (375, 500)), lambda b: box.from_pixels(b, (375, 500))),
    "coco": (lambda b: box.corner_to_coco(b, (375, 500)), lambda b: box.coco_to_corner(b, (375, 500))),
    "horizontal flip": (box.flip_horizontal, box.flip_horizontal),
    "vertical flip": (box.flip_vertical, box.flip_vertical),
}
OVERLAPS = {
    "iou": (box.iou, box.paired_iou),
    "generalized": (box.generalized_iou, box.paired_generalized_iou),
    "distance": (box.distance_iou, box.paired_distance_iou),
    "complete": (box.complete_iou, box.paired_complete_iou),
}


@property_test
@hypothesis.given(st.sampled_from(sorted(ROUND_TRIPS)), floats((G, 4), -2, 2))
def test_conversions_come_back(name, corners):
    there, back = ROUND_TRIPS[name]
    np.testing.assert_allclose(back(there(corners)), corners, atol=2e-6)


@property_test
@hypothesis.given(proper(P), proper(P))
def test_decode_undoes_encode(corners, priors):
    centers = box.corner_to_center(priors)
    np.testing.assert_allclose(box.decode(box.encode(corners, centers), centers), corners, atol=1e-4)


@property_test
@hypothesis.given(lattice(G), lattice(N))
def test_iou_is_the_loop(a, b):
    overlap = box.iou(a, b)
    np.testing.assert_allclose(overlap, oracles.iou(a, b), rtol=1e-6)
    np.testing.assert_array_equal(overlap, box.iou(b, a).T)
    np.testing.assert_array_equal(np.diag(box.iou(a, a)), box.area(a) > 0)


@property_test
@hypothesis.given(proper(G), proper(G), st.sampled_from(["flip", "transpose", "shift", "scale", "order"]))
def test_overlaps_do_not_depend_on_the_frame(a, b, name):
    change = {
        "flip": box.flip_horizontal,
        "transpose": box.corner_to_yxyx,
        "shift": lambda corners: corners + np.float32(0.25),
        "scale": lambda corners: corners * np.float32(300),
    }
    for pairwise, _ in OVERLAPS.values():
        changed = pairwise(b, a).T if name == "order" else pairwise(change[name](a), change[name](b))
        np.testing.assert_allclose(changed, pairwise(a, b), atol=1e-4)


@property_test
@hypothesis.given(floats((G, 4), -2, 2), floats((G, 4), -2, 2))
def test_the_overlaps_are_ordered_and_bounded(a, b):
    overlap = {name: pairwise(a, b) for name, (pairwise, _) in OVERLAPS.items()}
    slack = 1e-5
    assert np.all(overlap["iou"] >= 0) and np.all(overlap["iou"] <= 1 + slack)
    assert np.all(overlap["generalized"] <= overlap["iou"] + slack)
    assert np.all(overlap["distance"] <= overlap["iou"] + slack)
    assert np.all(overlap["complete"] <= overlap["distance"] + slack)
    assert np.all(overlap["generalized"] >= -1 - slack) and np.all(overlap["distance"] >= -1 - slack)
    share = box.intersection_over_foreground(a, b)
    assert np.all(share >= overlap["iou"] - slack) and np.all(share <= 1 + slack)
    for name, (_, paired) in OVERLAPS.items():
        np.testing.assert_array_equal(paired(a, b), np.diag(overlap[name]))


@jax.jit
def everything(a, b):
    """Compute a value from every differentiable function, and its gradients."""

    def total(a, b):
        pairs = [pairwise(a, b) for pairwise, _ in OVERLAPS.values()]
        pairs += [box.intersection_over_foreground(a, b), box.encode(a, b), box.decode(a, b), box.area(a)]
        pairs += [convert(a) for pair in ROUND_TRIPS.values() for convert in pair]
        pairs += [box.assign(a, jnp.ones(G, jnp.int32), b)[0]]
        return sum(jnp.sum(jnp.tanh(x * 1e-9)) for x in pairs)

    return jax.value_and_grad(total, argnums=(0, 1))(a, b)


@property_test
@hypothesis.given(anything | lattice(G), anything | lattice(G))
def test_any_finite_input_gives_finite_values_and_gradients(a, b):
    value, slopes = everything(a, b)
    chex.assert_tree_all_finite((value, slopes))
    overlaps = [pairwise(a, b) for pairwise, _ in OVERLAPS.values()]
    chex.assert_tree_all_finite((overlaps, box.encode(a, b), box.decode(a, b)))


@property_test
@hypothesis.given(lattice(G), hnp.arrays(bool, G), lattice(P))
def test_match_is_caffes_greedy_loop(corners, valid, priors):
    index = match(corners, valid, box.corner_to_center(priors))
    np.testing.assert_array_equal(index, oracles.match(box.iou(corners, priors), valid, 0.5))


@property_test
@hypothesis.given(lattice(G), hnp.arrays(np.int32, G, elements=st.integers(0, 3)), lattice(P), st.integers(0, G))
def test_padding_and_invalid_rows_change_no_target(corners, labels, priors, place):
    centers = box.corner_to_center(priors)
    offsets, targets = assign(corners, labels, centers)
    more = assign(np.insert(corners, place, 0.5, axis=0), np.insert(labels, place, 0), centers)
    np.testing.assert_array_equal(offsets, more[0])
    np.testing.assert_array_equal(targets, more[1])


@property_test
@hypothesis.given(proper(G), proper(P), st.permutations(range(G)))
def test_the_order_of_the_ground_truth_does_not_matter(corners, priors, order):
    overlap = np.sort(box.iou(corners, priors), axis=None)
    hypothesis.assume(np.all(np.diff(overlap[overlap > 0]) > 0))
    valid = np.ones(G, bool)
    centers = box.corner_to_center(priors)
    index = np.asarray(match(corners, valid, centers))
    permuted = np.asarray(match(corners[order], valid, centers))
    np.testing.assert_array_equal(np.where(permuted < 0, -1, np.array(order)[permuted]), index)


@property_test
@hypothesis.given(
    hnp.arrays(
        np.float32, P, elements=st.integers(-4, 4).map(float) | st.floats(-2, 2, width=32, allow_subnormal=False)
    ),
    hnp.arrays(bool, P),
    st.sampled_from([0, 1, 3, 0.5]),
)
def test_mining_is_the_sort(losses, positive, ratio):
    mask = mine(losses, positive, np.float32(ratio))
    np.testing.assert_array_equal(mask, hardest_by_sorting(losses, positive, ratio))


def hardest_by_sorting(losses, positive, ratio):
    order = np.argsort(np.where(positive, np.inf, -losses), kind="stable")
    mask = np.zeros(P, bool)
    mask[order[: int(min(ratio * positive.sum(), (~positive).sum()))]] = True
    return mask


@property_test
@hypothesis.given(
    floats((2, P, 4), -3, 3),
    floats((P, C), -5, 5),
    hnp.arrays(np.int32, P, elements=st.integers(-6, C - 1).map(lambda label: max(label, 0))),
    st.permutations(range(P)),
)
def test_the_loss_does_not_depend_on_the_order_or_the_scale_of_logits(offsets, logits, labels, order):
    sums = multibox(offsets[0], logits, offsets[1], labels)
    permuted = multibox(offsets[0][order], logits[order], offsets[1][order], labels[order])
    np.testing.assert_allclose(permuted, sums, rtol=1e-4, atol=1e-4)
    shifted = multibox(offsets[0], logits + np.float32(2), offsets[1], labels)
    np.testing.assert_allclose(shifted, sums, rtol=1e-4, atol=1e-4)
    assert sums[2] == np.sum(labels > 0)


@property_test
@hypothesis.given(lattice(N), scores)
def test_non_max_suppression_is_the_loop(corners, scores):
    order, keep = suppress(corners, scores)
    expected = oracles.nms(box.iou(corners, corners), scores, **OPTIONS)
    np.testing.assert_array_equal(order[keep], expected)


@property_test
@hypothesis.given(lattice(N), st.lists(scores, min_size=C, max_size=C))
def test_multiclass_nms_is_the_loop(corners, columns):
    table = np.stack(columns, axis=1)
    boxes, best, labels = detect(corners, table)
    found = oracles.multiclass_nms(box.iou(corners, corners), table, max_detections=9, **OPTIONS)
    count = len(found)
    np.testing.assert_array_equal(labels, [label for _, _, label in found] + [0] * (9 - count))
    np.testing.assert_array_equal(best[:count], np.float32([score for _, score, _ in found]))
    np.testing.assert_array_equal(boxes[:count], corners[[place for place, _, _ in found]])


@property_test
@hypothesis.given(lattice(N), st.permutations(range(N)))
def test_soft_nms_is_the_loop(corners, ranks):
    scores = ((np.array(ranks) + 1) / N).astype(np.float32)
    order, decayed = soften(corners, scores)
    taken = oracles.soft_nms(
        box.iou(corners, corners).astype(float),
        scores.astype(float),
        decay=lambda overlap: 1 - overlap if overlap > float(np.float32(0.3)) else 1.0,
        score_threshold=0.1,
        max_candidates=12,
    )
    values = np.array([score for _, score in taken])
    hypothesis.assume(np.all(-np.diff(values) > 1e-5))
    np.testing.assert_array_equal(order[: len(taken)], [place for place, _ in taken])
    np.testing.assert_allclose(decayed[: len(taken)], np.where(values > 0.1, values, 0), atol=1e-5)


def test_by_default_there_are_two_thousand_cases_or_more():
    properties = [f for f in globals().values() if hasattr(f, "is_hypothesis_test")]
    if "SSD_JAX_PROPERTY_CASES" in os.environ:
        pytest.skip("SSD_JAX_PROPERTY_CASES asks for another number")
    assert len(properties) * CASES >= 2000
