"""Bootstrap of average precision: against the metric on images that are really repeated."""

import numpy as np
import pytest

from ssd_jax.metrics import VOCMetric
from ssd_jax.metrics.bootstrap import Ranking, interval, mean_average_precision, resamples


def one_class(seed, images=7):
    """Return for each image its objects and (score, correct) of its detections, all of one class."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(images):
        objects = int(rng.integers(0, 4))
        correct = rng.permutation(
            np.r_[np.ones(rng.integers(0, objects + 1), bool), np.zeros(rng.integers(0, 4), bool)]
        )
        rows.append((objects, rng.random(len(correct)), correct))
    return rows


def ranking(rows):
    image = np.repeat(np.arange(len(rows)), [len(scores) for _, scores, _ in rows])
    scores, correct = (np.concatenate([row[k] for row in rows]) for k in (1, 2))
    order = np.argsort(-scores, kind="stable")
    return Ranking(correct[order], image[order], np.array([objects for objects, _, _ in rows]))


def by_metric(rows, weights, interpolation):
    """Return what `VOCMetric` computes where image k is added weights[k] times."""
    metric, added = VOCMetric(["thing"], interpolation=interpolation), 0
    for (objects, scores, correct), times in zip(rows, weights, strict=True):
        left = 100.0 * np.arange(objects)
        boxes = np.stack([left, 0 * left, left + 50, 0 * left + 50], axis=1)  # [n, 4]
        place = np.where(correct, np.cumsum(correct) - 1, -10) * 100.0  # [d] a wrong one is where no object is
        found = np.stack([place, 0 * place, place + 50, 0 * place + 50], axis=1)
        for _ in range(times):
            no_one = np.zeros(objects, bool)
            ones = np.ones(objects, int), np.ones(len(scores), int)
            metric.add(added, boxes, ones[0], no_one, found, scores, ones[1])
            added += 1
    return metric.compute()["mAP"]


@pytest.mark.parametrize("interpolation", ["11point", "area"])
def test_a_weighted_image_counts_as_repeated(interpolation):
    for seed in range(20):
        rows = one_class(seed)
        weights = resamples(len(rows), 5, seed=seed)
        got = ranking(rows).average_precision(weights, interpolation=interpolation)
        wanted = [by_metric(rows, row, interpolation) for row in weights.tolist()]
        np.testing.assert_allclose(got, wanted, atol=1e-12)


def test_the_mean_leaves_out_classes_without_objects():
    rankings = [
        Ranking(np.array([True, False]), np.array([0, 1]), np.array([1, 0])),
        Ranking(np.array([False]), np.array([1]), np.array([0, 0])),
    ]
    got = mean_average_precision(rankings, np.array([[1, 1], [1, 0], [0, 2]]), interpolation="area")
    assert got.tolist() == [1, 1, 0]  # in the last resample no class has an object


def test_chunks_change_nothing():
    rankings = [ranking(one_class(seed, images=9)) for seed in (1, 2)]
    weights = resamples(9, 50)
    whole, parts = (mean_average_precision(rankings, weights, chunk=chunk) for chunk in (2**24, 7))
    np.testing.assert_array_equal(whole, parts)


def test_resamples_draw_as_many_images_and_the_interval_holds_95_per_cent():
    weights = resamples(30, 400, seed=3)
    assert (weights.sum(axis=1) == 30).all() and weights.shape == (400, 30)
    np.testing.assert_array_equal(weights, resamples(30, 400, seed=3))
    low, high = interval(np.arange(1001))
    assert (low, high) == pytest.approx((25, 975))


def test_a_class_without_detections():
    got = Ranking(np.zeros(0, bool), np.zeros(0, int), np.array([2, 0])).average_precision(np.array([[1, 1], [0, 2]]))
    assert got[0] == 0 and np.isnan(got[1])
