"""Kinds of errors and what they cost: against slow loops on random cases, and by hand."""

import numpy as np
import pytest

from ssd_jax.box import make_priors
from ssd_jax.box.priors import PriorSpec
from ssd_jax.metrics import VOCMetric
from ssd_jax.metrics.errors import (
    KINDS,
    confusion_matrix,
    find_errors,
    missed_without_prior,
    recall_by_size,
    suspect_annotations,
)


def metric_of(images, class_names="abc", *, inclusive=False):
    """Return a metric of images (gt_boxes, gt_labels, gt_difficult, boxes, scores, labels)."""
    metric = VOCMetric(class_names, inclusive=inclusive, interpolation="area")
    for i, image in enumerate(images):
        metric.add(i, *image)
    return metric


def random_images(random, images=6, classes=3):
    """Return crowded images: detections near objects, of their class or another, and anywhere; few equal scores."""
    result = []
    for _ in range(images):
        n, d = random.integers(0, 6), random.integers(0, 5)
        corners = random.integers(0, 30, (n, 2))
        gt_boxes = np.concatenate([corners, corners + random.integers(4, 20, (n, 2))], axis=1).astype(float)
        seen = random.integers(0, n, 2 * n)
        near = gt_boxes[seen] + random.normal(0, random.choice([0.5, 2, 4]), (2 * n, 4)).round(1)
        other = random.random(2 * n) < 0.3
        labels = random.integers(1, classes + 1, n)
        near_labels = np.where(other, random.integers(1, classes + 1, 2 * n), labels[seen])
        corners = random.integers(0, 40, (d, 2))
        far = np.concatenate([corners, corners + random.integers(4, 20, (d, 2))], axis=1)
        result.append(
            (
                gt_boxes,
                labels,
                random.random(n) < 0.2,
                np.concatenate([near, far]),
                random.integers(1, 200, 2 * n + d) / 200,
                np.concatenate([near_labels, random.integers(1, classes + 1, d)]),
            )
        )
    return result


# -- an oracle: one detection and one object at a time


def loop_iou(a, b, extra):
    w = min(a[2], b[2]) - max(a[0], b[0]) + extra
    h = min(a[3], b[3]) - max(a[1], b[1]) + extra
    if w <= 0 or h <= 0:
        return 0.0
    areas = [max(c[2] - c[0] + extra, 0) * max(c[3] - c[1] + extra, 0) for c in (a, b)]
    return w * h / (sum(areas) - w * h) if min(areas) > 0 else 0.0


def loop_ap(rows, n_objects):
    """Return the area under the best precision at each recall or a higher one; rows are (score, true)."""
    rows = sorted(rows, key=lambda row: -row[0])
    hits, precisions, recalls = 0, [], []
    for k, (_, true) in enumerate(rows, start=1):
        hits += true
        precisions.append(hits / k)
        recalls.append(hits / n_objects)
    area, last = 0.0, 0.0
    for k, recall in enumerate(recalls):
        area += (recall - last) * max(precisions[k:])
        last = recall
    return area


def loop_errors(images, classes, threshold, background, extra):
    """Return the outcome of each detection, the fate of each object, and mAP before and after each repair."""
    objects = [(i, k) for i, image in enumerate(images) for k in range(len(image[1]))]
    detections = [(i, k) for i, image in enumerate(images) for k in range(len(image[5]))]
    outcome, target = {}, {}
    taken = set()
    for i, k in sorted(detections, key=lambda d: -images[d[0]][4][d[1]]):
        gt_boxes, gt_labels, difficult, boxes, _, labels = images[i]
        own, other = (-1.0, None), (-1.0, None)
        for j, (gt_box, gt_label) in enumerate(zip(gt_boxes, gt_labels, strict=True)):
            iou = loop_iou(boxes[k], gt_box, extra)
            if gt_label == labels[k]:
                own = max(own, (iou, j), key=lambda pair: pair[0])
            else:
                other = max(other, (iou, j), key=lambda pair: pair[0])
        if own[0] >= threshold and difficult[own[1]]:
            kind, object_ = "ignored", own[1]
        elif own[0] >= threshold and (i, own[1]) not in taken:
            kind, object_ = "true", own[1]
            taken.add((i, own[1]))
        elif background <= own[0] < threshold:
            kind, object_ = "localisation", own[1]
        elif other[0] >= threshold:
            kind, object_ = "classification", other[1]
        elif own[0] >= threshold:
            kind, object_ = "duplicate", own[1]
        elif other[0] >= background:
            kind, object_ = "both", other[1]
        else:
            kind, object_ = "background", None
        outcome[i, k], target[i, k] = kind, (i, object_)

    fate = {}
    for i, j in objects:
        errors = [
            (images[i][4][d[1]], -d[1], outcome[d])
            for d in detections
            if target[d] == (i, j) and outcome[d] in ("localisation", "classification")
        ]
        if images[i][2][j]:
            fate[i, j] = "ignored"
        elif (i, j) in taken:
            fate[i, j] = "found"
        else:
            fate[i, j] = max(errors)[2] if errors else "missed"

    def mean_ap(repair=None):
        repaired = set()
        rows = {label: [] for label in range(1, classes + 1)}
        counts = dict.fromkeys(rows, 0)
        known = dict.fromkeys(rows, False)
        for i, j in objects:
            label = images[i][1][j]
            known[label] |= fate[i, j] != "ignored"
            counts[label] += fate[i, j] != "ignored" and not (repair == "missed" and fate[i, j] == "missed")
        fixed = {}
        if repair in ("localisation", "classification"):
            for i, k in sorted(detections, key=lambda d: -images[d[0]][4][d[1]]):
                place = target[i, k]
                if outcome[i, k] == repair and fate[place] not in ("found", "ignored") and place not in repaired:
                    repaired.add(place)
                    fixed[i, k] = images[i][1][place[1]]
        for i, k in detections:
            score, label = images[i][4][k], images[i][5][k]
            if (i, k) in fixed:
                rows[fixed[i, k]].append((score, True))
            elif outcome[i, k] not in ("ignored", repair):
                rows[label].append((score, outcome[i, k] == "true"))
        aps = [loop_ap(rows[c], counts[c]) if counts[c] else 0.0 for c in rows if known[c]]
        return np.mean(aps) if aps else np.nan

    return (
        [outcome[d] for d in detections],
        [fate[o] for o in objects],
        {kind: mean_ap(kind) for kind in (None, *KINDS)},
    )


@pytest.mark.parametrize("inclusive", [False, True])
def test_errors_equal_a_slow_loop_in_random_cases(inclusive):
    random = np.random.default_rng(0)
    totals = dict.fromkeys(KINDS, 0)
    for case in range(100):
        images = random_images(random)
        threshold, background = (0.5, 0.1) if case % 2 else (0.7, 0.2)
        errors = find_errors(
            metric_of(images, inclusive=inclusive), iou_threshold=threshold, background_iou=background
        )
        outcome, fate, expected = loop_errors(images, 3, threshold, background, int(inclusive))
        assert errors.outcome.tolist() == outcome
        assert errors.fate.tolist() == fate
        np.testing.assert_allclose(errors.mAP, expected[None], rtol=1e-12)
        for kind in KINDS:
            count = (fate if kind == "missed" else outcome).count(kind)
            assert errors.counts[kind] == count
            totals[kind] += count
            np.testing.assert_allclose(errors.costs[kind], expected[kind] - expected[None], rtol=1e-9, atol=1e-12)
    assert min(totals.values()) > 50


def loop_confusion(images, classes, threshold, score_threshold):
    matrix = np.zeros((classes + 1, classes + 1), int)
    for gt_boxes, gt_labels, difficult, boxes, scores, labels in images:
        free = set(range(len(gt_labels)))
        for k in sorted(range(len(labels)), key=lambda k: -scores[k]):
            if scores[k] < score_threshold:
                continue
            ious = {j: loop_iou(boxes[k], gt_boxes[j], 0) for j in sorted(free)}
            best = max(ious, key=ious.get, default=None)
            if best is None or ious[best] < threshold:
                matrix[0, labels[k]] += 1
                continue
            free.discard(best)
            if not difficult[best]:
                matrix[gt_labels[best], labels[k]] += 1
        for j in free:
            matrix[gt_labels[j], 0] += not difficult[j]
    return matrix


def test_the_confusion_matrix_equals_a_slow_loop_in_random_cases():
    random = np.random.default_rng(1)
    total = np.zeros((4, 4), int)
    for _ in range(200):
        images = random_images(random)
        matrix = confusion_matrix(metric_of(images), score_threshold=0.4)
        np.testing.assert_array_equal(matrix, loop_confusion(images, 3, 0.5, 0.4))
        total += matrix
    assert np.sum(total == 0) == 1  # background taken for background is not counted


# -- by hand

A, B, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [80, 80, 90, 90]


def one_image(objects, detections):
    """Return one image; objects are (label, box[, difficult]), detections (label, score, box)."""
    return (
        np.reshape([o[1] for o in objects], (-1, 4)).astype(float),
        np.array([o[0] for o in objects], int),
        np.array([any(o[2:]) for o in objects], bool),
        np.reshape([d[2] for d in detections], (-1, 4)).astype(float),
        np.array([d[1] for d in detections]),
        np.array([d[0] for d in detections], int),
    )


@pytest.mark.parametrize(
    ("objects", "detection", "kind", "cost"),
    [
        # The other detection finds A. Of one class, with two objects, AP is 1/2 as long as B is not found.
        ([(1, A), (1, B)], (1, 0.5, [20, 0, 30, 4]), "localisation", 1 / 2),
        ([(1, A), (1, B)], (2, 0.5, B), "classification", 1 / 2),
        ([(1, A)], (1, 0.95, [0, 0, 10, 9]), "duplicate", 0),
        ([(1, A)], (1, 0.95, FAR), "background", 1 / 2),
        ([(1, A), (2, B)], (1, 0.95, [20, 0, 30, 4]), "both", 1 / 4),
    ],
)
def test_each_kind_and_its_cost(objects, detection, kind, cost):
    errors = find_errors(metric_of([one_image(objects, [(1, 0.9, A), detection])]))
    if kind == "duplicate":  # the higher score has the object, so the second detection is the duplicate
        assert errors.outcome.tolist() == ["duplicate", "true"]
    else:
        assert errors.outcome.tolist() == ["true", kind]
    assert errors.counts[kind] == 1
    assert errors.costs[kind] == pytest.approx(cost, abs=1e-12)


def test_missed_objects_cost_their_recall():
    errors = find_errors(metric_of([one_image([(1, A), (1, B)], [(1, 0.9, A)])]))
    assert errors.fate.tolist() == ["found", "missed"]
    assert errors.costs == dict.fromkeys(KINDS, 0) | {"missed": 0.5}


def test_a_repair_may_make_a_duplicate():
    # Both detections lie badly on B: the better one becomes its true positive, the other one goes.
    bad = [20, 0, 30, 4]
    errors = find_errors(metric_of([one_image([(1, A), (1, B)], [(1, 0.9, A), (1, 0.8, bad), (1, 0.7, bad)])]))
    assert errors.counts["localisation"] == 2 and errors.costs["localisation"] == pytest.approx(1 / 2)
    assert errors.fate.tolist() == ["found", "localisation"]


def test_difficult_objects_are_neither_found_nor_missed():
    image = one_image([(1, A), (1, B, True), (2, FAR, True)], [(1, 0.9, A), (1, 0.8, B)])
    errors = find_errors(metric_of([image]))
    assert errors.outcome.tolist() == ["true", "ignored"]
    assert errors.fate.tolist() == ["found", "ignored", "ignored"]
    assert errors.mAP == 1 and set(errors.counts.values()) == {0}
    np.testing.assert_array_equal(confusion_matrix(metric_of([image])), np.diag([0, 1, 0, 0]))


def test_without_objects_or_detections():
    nothing = one_image([], [])
    errors = find_errors(metric_of([nothing]))
    assert np.isnan(errors.mAP) and not any(errors.counts.values())
    assert not confusion_matrix(metric_of([nothing])).any()
    only_detections = metric_of([one_image([], [(2, 0.9, A)])])
    assert find_errors(only_detections).counts["background"] == 1
    assert confusion_matrix(only_detections)[0].tolist() == [0, 0, 1, 0]
    only_objects = metric_of([one_image([(3, A)], [])])
    assert find_errors(only_objects).counts["missed"] == 1
    assert confusion_matrix(only_objects)[:, 0].tolist() == [0, 0, 0, 1]


def test_recall_by_size_is_that_at_the_networks_input():
    # 10 x 10 pixels of 100 x 200 are 30 x 15 of 300 x 300, side 21.2; of 50 x 50 they are 60 x 60.
    images = [one_image([(1, A), (1, B), (1, FAR, True)], [(1, 0.9, A)]), one_image([(1, A)], [(1, 0.9, A)])]
    errors = find_errors(metric_of(images))
    bins = recall_by_size(errors, [[100, 200], [50, 50]], 300, edges=(0, 21, 22, 60, 61))
    assert [(b.n_objects, b.n_found) for b in bins] == [(0, 0), (2, 1), (0, 0), (1, 1)]
    assert bins[1].recall == 0.5 and np.isnan(bins[0].recall)
    with pytest.raises(ValueError, match=r"image_sizes must have shape \[images, 2\], a row per image; got \[1, 2\]"):
        recall_by_size(errors, [[100, 200]], 300)
    with pytest.raises(ValueError, match=r"edges must be two or more rising numbers; got \(0, 5, 5\)"):
        recall_by_size(errors, [[100, 200], [50, 50]], 300, edges=(0, 5, 5))


def test_missed_objects_without_a_prior_are_told_apart():
    spec = PriorSpec(image_size=100, grids=(5,), steps=(20,), sizes=(20, 20), ratios=((),))  # squares of 20
    fits, small, flat = [20, 20, 40, 40], [20, 20, 25, 25], [0, 0, 100, 20]
    errors = find_errors(metric_of([one_image([(1, fits), (1, small), (1, flat), (1, [0, 60, 5, 65], True)], [])]))
    assert missed_without_prior(errors, [[100, 100]], make_priors(spec)).tolist() == [1, 2]
    assert missed_without_prior(errors, [[100, 100]], make_priors(spec), threshold=0.1).tolist() == [1]
    found = find_errors(metric_of([one_image([(1, small)], [(1, 0.9, small)])]))
    assert missed_without_prior(found, [[100, 100]], make_priors(spec)).tolist() == []


def test_suspect_annotations():
    far = [60, 60, 70, 70]
    image = one_image(
        [(1, A), (2, B), (1, far), (1, [40, 40, 60, 60]), (1, [95, 95, 97, 97], True)],
        [
            (1, 0.9, A),  # right
            (1, 0.8, B),  # of another class than the label
            (1, 0.95, FAR),  # has no label
            (2, 0.3, [75, 0, 80, 9]),  # has none either, but is not confident
            (2, 0.1, [60, 60, 70, 64]),  # of another class, small, weak: but it touches the third object
        ],
    )
    detections, objects = suspect_annotations(find_errors(metric_of([image])))
    assert detections.tolist() == [2, 1]
    assert objects.tolist() == [3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou_threshold": 0}, r"iou_threshold must be in \(0, 1\]; got 0"),
        ({"background_iou": 0}, r"background_iou must be in \(0, iou_threshold=0\.5\]; got 0"),
        ({"background_iou": 0.6}, r"background_iou must be in \(0, iou_threshold=0\.5\]; got 0\.6"),
    ],
)
def test_wrong_options_are_refused(options, message):
    metric = metric_of([one_image([], [])])
    with pytest.raises(ValueError, match=f"^{message}$"):
        find_errors(metric, **options)
    with pytest.raises(ValueError, match="at least one image; got none"):
        find_errors(VOCMetric("abc"))
