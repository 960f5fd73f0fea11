"""Precision and recall by score threshold: against a slow loop, and by hand."""

import numpy as np
import pytest

from ssd_jax.metrics import (
    Curve,
    average_recall,
    best_f1,
    precision_at_recall,
    precision_recall,
    precision_recall_at,
    recall_at_precision,
)


def test_dogs():
    """Of 12 dogs a detector finds 8 boxes, of which 5 are right: precision 5/8, recall 5/12."""
    true = np.array([True, True, False, True, False, True, True, False])
    curve = precision_recall(np.linspace(0.9, 0.2, 8), true, 12)
    assert curve.precision[-1] == 0.625
    assert round(curve.recall[-1], 4) == 0.4167
    assert precision_at_recall(curve, 5 / 12) == 5 / 7  # without the last detection, which is wrong
    assert recall_at_precision(curve, 0.75) == 3 / 12  # at the fourth detection
    assert recall_at_precision(curve, 1) == 2 / 12
    assert best_f1(curve) == (2 * (5 / 7) * (5 / 12) / (5 / 7 + 5 / 12), pytest.approx(0.3))


# -- an oracle: for every threshold, count the detections that reach it, one at a time


def loop_curve(scores, true, n_objects):
    points = []
    for threshold in sorted(set(scores), reverse=True):
        found = hits = 0
        for score, hit in zip(scores, true, strict=True):
            if score >= threshold:
                found += 1
                hits += hit
        points.append((hits / n_objects, hits / found, threshold))
    return points


def loop_best(points, which, least, wanted):
    best = 0.0
    for point in points:
        if point[which] >= least and point[wanted] > best:
            best = point[wanted]
    return best


def loop_at(scores, true, n_objects, threshold):
    """Return precision and recall of the detections that score at least `threshold`."""
    kept = [hit for score, hit in zip(scores, true, strict=True) if score >= threshold]
    return (sum(kept) / len(kept), sum(kept) / n_objects) if kept else (0.0, 0.0)


def loop_f1(points):
    best, threshold = 0.0, None
    for recall, precision, score in points:
        f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        if f1 > best:
            best, threshold = f1, score
    return best, threshold


def random_case(random):
    """Return up to 30 detections with many equal scores, some of them true, and how many objects there are."""
    d = random.integers(0, 31)
    scores = random.integers(1, random.integers(2, 40), d) / 40
    true = random.random(d) < random.random()
    return scores, true, max(1, int(np.sum(true)) + int(random.integers(0, 6)))


def test_curves_equal_a_slow_loop_in_2000_random_cases():
    random = np.random.default_rng(0)
    disagreements = sizes = 0
    for _ in range(2000):
        scores, true, n_objects = random_case(random)
        points = loop_curve(scores.tolist(), true.tolist(), n_objects)
        curve = precision_recall(scores, true, n_objects)
        recall, precision = random.choice([0.0, 0.1, 0.25, 0.5, 1.0, random.random()], 2)
        if points and random.random() < 0.5:  # a threshold that a point of the curve reaches exactly
            recall, precision = points[random.integers(len(points))][:2]
        f1, threshold = best_f1(curve)
        expected_f1, expected_threshold = loop_f1(points)
        disagreements += not (
            np.array_equal(np.stack(curve, axis=1), np.reshape(points, (-1, 3)))
            and precision_at_recall(curve, recall) == loop_best(points, 0, recall, 1)
            and recall_at_precision(curve, precision) == loop_best(points, 1, precision, 0)
            and precision_recall_at(curve, precision) == loop_at(scores, true, n_objects, precision)
            and abs(f1 - expected_f1) < 1e-12
            and (threshold == expected_threshold or (expected_threshold is None and np.isnan(threshold)))
        )
        sizes += len(points)
    assert disagreements == 0
    assert sizes > 10_000


# -- by hand


def test_equal_scores_are_one_threshold():
    curve = precision_recall([0.5, 0.5, 0.9, 0.5], [True, False, True, False], 4)
    np.testing.assert_array_equal(curve.score, [0.9, 0.5])
    np.testing.assert_array_equal(curve.recall, [1 / 4, 2 / 4])
    np.testing.assert_array_equal(curve.precision, [1, 2 / 4])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_order_of_detections_does_not_matter(dtype):
    random = np.random.default_rng(1)
    scores, true = random.integers(1, 20, 50).astype(dtype) / dtype(32), random.random(50) < 0.5
    expected, order = precision_recall(scores, true, 40), random.permutation(50)
    for a, b in zip(precision_recall(scores[order], true[order], 40), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_precision_is_that_at_the_recall_or_a_higher_one():
    curve = Curve(np.array([0.25, 0.5, 0.75]), np.array([1.0, 0.5, 0.6]), np.array([0.9, 0.8, 0.7]))
    assert [precision_at_recall(curve, r) for r in (0, 0.25, 0.3, 0.5, 0.75, 0.8)] == [1, 1, 0.6, 0.6, 0.6, 0]
    assert [recall_at_precision(curve, p) for p in (0, 0.6, 0.7, 1)] == [0.75, 0.75, 0.25, 0.25]


def test_the_best_f1_is_at_the_highest_threshold_that_reaches_it():
    # Points with precision and recall swapped have equal F1.
    curve = Curve(np.array([0.25, 0.5, 1.0]), np.array([0.2, 1.0, 0.5]), np.array([0.9, 0.8, 0.7]))
    assert best_f1(curve) == (2 / 3, 0.8)


def test_average_recall_is_the_mean_over_iou_thresholds_of_the_last_recall():
    curves = [precision_recall([0.9, 0.8], true, 4) for true in ([True, True], [True, False], [False, False])]
    assert average_recall([*curves, precision_recall([], [], 4)]) == (2 / 4 + 1 / 4) / 4


def test_without_detections_nothing_is_found():
    curve = precision_recall([], [], 3)
    assert [len(column) for column in curve] == [0, 0, 0]
    assert precision_at_recall(curve, 0) == recall_at_precision(curve, 0) == 0
    assert best_f1(curve).f1 == 0 and np.isnan(best_f1(curve).score)


def test_without_a_true_detection_there_is_no_best_threshold():
    f1, score = best_f1(precision_recall([0.9, 0.3], [False, False], 3))
    assert f1 == 0 and np.isnan(score)


def test_without_objects_recall_is_not_a_number():
    curve = precision_recall([0.9, 0.3], [False, False], 0)
    assert np.isnan(curve.recall).all() and not curve.precision.any()
    for value in (precision_at_recall(curve, 0), recall_at_precision(curve, 0), *best_f1(curve)):
        assert np.isnan(value)
    for score in (0.3, 1):
        precision, recall = precision_recall_at(curve, score)
        assert precision == 0 and np.isnan(recall)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.5], [True, False], 3), r"scores and true must have one shape \[d\]; got \[1\] and \[2\]"),
        (([[0.5]], [[True]], 3), r"scores and true must have one shape \[d\]; got \[1, 1\] and \[1, 1\]"),
        (([0.5], [1], 3), "true must be bool; got int64"),
        (([0.5, np.nan], [True, False], 3), "scores must be finite; got nan"),
        (([np.inf], [True], 3), "scores must be finite; got inf"),
        (([0.5, 0.4], [True, True], 1), "n_objects must be at least the 2 true detections; got 1"),
        (([], [], -1), "n_objects must be at least the 0 true detections; got -1"),
    ],
)
def test_wrong_detections_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        precision_recall(*arguments)


@pytest.mark.parametrize("value", [-0.1, 1.1, np.nan])
def test_a_share_out_of_range_is_refused(value):
    curve = precision_recall([0.5], [True], 1)
    with pytest.raises(ValueError, match=rf"^recall must be in \[0, 1\]; got {value}$"):
        precision_at_recall(curve, value)
    with pytest.raises(ValueError, match=rf"^precision must be in \[0, 1\]; got {value}$"):
        recall_at_precision(curve, value)
    with pytest.raises(ValueError, match=r"^curves must be one or more; got none$"):
        average_recall([])
