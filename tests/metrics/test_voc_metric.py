"""VOC's average precision: against the devkit's loops, by hand, and on a real detector."""

import os
from collections import defaultdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from ssd_jax.metrics import COCO_IOU_THRESHOLDS, VOCMetric, find_errors, precision_at_recall, recall_at_precision

NONE = (np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))


def metric(images, class_names=("thing",), **options):
    """Return a metric of images (gt_boxes, gt_labels, gt_difficult, boxes, scores, labels)."""
    m = VOCMetric(class_names, **options)
    for i, image in enumerate(images):
        m.add(i, *image)
    return m


def thing(gt, difficult, detections):
    """Return one image with objects of class 1; detections are (score, box)."""
    boxes, scores = [d[1] for d in detections], [d[0] for d in detections]
    return (
        np.reshape(gt, (-1, 4)),
        np.ones(len(gt), int),
        difficult,
        np.reshape(boxes, (-1, 4)),
        scores,
        np.ones(len(detections), int),
    )


def ap(images, **options):
    return metric(images, **options).compute()["AP"]["thing"]


# -- an oracle: the devkit's loops, one detection and one object at a time


def loop_detections(images, label, *, threshold=0.5, inclusive=True):
    """Return (score, is true) of the detections that are not ignored, by falling score, and the number of objects."""
    one = 1 if inclusive else 0
    detections, taken, objects = [], set(), 0
    for i, (_, gt_labels, difficult, boxes, scores, labels) in enumerate(images):
        detections += [(s, i, b) for s, b, k in zip(scores, boxes, labels, strict=True) if k == label]
        objects += sum(k == label and not hard for k, hard in zip(gt_labels, difficult, strict=True))
    detections.sort(key=lambda d: -d[0])
    counted = []
    for score, i, b in detections:
        best, best_j = -np.inf, None
        for j, (g, k) in enumerate(zip(images[i][0], images[i][1], strict=True)):
            if k != label:
                continue
            w = min(b[2], g[2]) - max(b[0], g[0]) + one
            h = min(b[3], g[3]) - max(b[1], g[1]) + one
            if w > 0 and h > 0:
                union = (b[2] - b[0] + one) * (b[3] - b[1] + one) + (g[2] - g[0] + one) * (g[3] - g[1] + one) - w * h
                if w * h / union > best:
                    best, best_j = w * h / union, j
        if best >= threshold and images[i][2][best_j]:
            continue
        counted.append((score, best >= threshold and (i, best_j) not in taken))
        taken |= {(i, best_j)} if counted[-1][1] else set()
    return counted, objects


def loop_ap(images, label, *, interpolation="11point", **options):
    counted, objects = loop_detections(images, label, **options)
    tp, curve = 0, []
    for found, (_, true) in enumerate(counted, start=1):
        tp += true
        curve.append((tp / objects, tp / found))
    if interpolation == "11point":
        return sum(max((p for r, p in curve if r >= t), default=0) for t in np.arange(0, 1.1, 0.1)) / 11
    recalls = [0, *(r for r, _ in curve), 1]
    precisions = [0, *(p for _, p in curve), 0]
    for i in range(len(precisions) - 2, -1, -1):
        precisions[i] = max(precisions[i], precisions[i + 1])
    return sum((recalls[i] - recalls[i - 1]) * precisions[i] for i in range(1, len(recalls)))


def random_images(seed, images=12, classes=3):
    """Yield crowded images: with equal scores and IoUs, difficult objects, some without objects or detections."""
    random = np.random.default_rng(seed)

    def boxes(n):
        corners = random.integers(0, 12, (n, 2))
        return np.concatenate([corners, corners + random.integers(2, 12, (n, 2))], axis=1).astype(float)

    for _ in range(images):
        n, d = random.integers(0, 8), random.integers(0, 10)
        gt_boxes, gt_labels = boxes(n), random.integers(1, classes + 1, n)
        seen = random.integers(0, n, 2 * n)  # objects to detect: each about twice, some of them not at all
        yield (
            gt_boxes,
            gt_labels,
            random.random(n) < 0.3,
            np.concatenate([gt_boxes[seen] + random.integers(-1, 2, (2 * n, 4)), boxes(d)]),
            random.integers(1, 15, 2 * n + d) / 16,
            np.concatenate([gt_labels[seen], random.integers(1, classes + 1, d)]),
        )


@pytest.mark.parametrize("interpolation", ["11point", "area"])
@pytest.mark.parametrize("inclusive", [True, False])
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_average_precision_equals_the_devkits_loops(interpolation, inclusive, threshold):
    for seed in range(5):
        images = list(random_images(seed))
        m = metric(images, "abc", iou_threshold=threshold, interpolation=interpolation, inclusive=inclusive)
        result = m.compute()
        options = dict(threshold=threshold, interpolation=interpolation, inclusive=inclusive)
        expected = [loop_ap(images, label, **options) for label in (1, 2, 3)]
        assert min(expected) > 0.05
        np.testing.assert_allclose(list(result["AP"].values()), expected, rtol=1e-12)
        np.testing.assert_allclose(result["mAP"], np.mean(expected), rtol=1e-12)


def test_ap_and_recall_over_iou_thresholds_equal_the_devkits_loops():
    assert COCO_IOU_THRESHOLDS == (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    for seed in range(3):
        images = list(random_images(seed))
        m = metric(images, "abc", interpolation="area")
        result = m.compute(iou_thresholds=COCO_IOU_THRESHOLDS)
        by_iou, recalls = {}, []
        for threshold in COCO_IOU_THRESHOLDS:
            options = dict(threshold=threshold, interpolation="area")
            by_iou[threshold] = np.mean([loop_ap(images, label, **options) for label in (1, 2, 3)])
            for label in (1, 2, 3):
                counted, objects = loop_detections(images, label, threshold=threshold)
                recalls.append(sum(true for _, true in counted) / objects)
        assert result["mAP_by_iou"] == pytest.approx(by_iou, rel=1e-12)
        assert result["mAP_by_iou"][0.5] == result["mAP"] > result["mAP_by_iou"][0.95]
        assert result["mAP_over_iou"] == pytest.approx(np.mean(list(by_iou.values())), rel=1e-12)
        assert result["AR_over_iou"] == pytest.approx(np.mean(recalls), rel=1e-12)
        assert {name: result[name] for name in m.compute()} == m.compute()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_curves_equal_the_devkits_loops(threshold):
    for seed in range(5):
        images = list(random_images(seed))
        curves = metric(images, "abc").curves(iou_threshold=threshold)
        for label, name in enumerate("abc", start=1):
            counted, objects = loop_detections(images, label, threshold=threshold)
            scores = sorted({score for score, _ in counted}, reverse=True)
            at_least = [[true for score, true in counted if score >= least] for least in scores]
            np.testing.assert_array_equal(curves[name].score, scores)
            np.testing.assert_array_equal(curves[name].recall, [sum(true) / objects for true in at_least])
            np.testing.assert_array_equal(curves[name].precision, [sum(true) / len(true) for true in at_least])


# -- by hand

A, B, C, FAR = [0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [90, 90, 99, 99]  # 10 x 10 pixels each


def test_precision_and_recall_by_hand():
    """Three objects; by falling score: hit, miss, hit, miss, and the third object is not found."""
    image = thing([A, B, C], [0, 0, 0], [(0.9, A), (0.8, FAR), (0.7, B), (0.6, FAR)])
    # precision 1, 1/2, 2/3, 1/2 at recall 1/3, 1/3, 2/3, 2/3: recalls 0 .. .3 are met at 1, .4 .. .6 at 2/3
    assert ap([image]) == pytest.approx(float((4 * 1 + 3 * Fraction(2, 3)) / 11), abs=1e-15)
    assert ap([image], interpolation="area") == pytest.approx(float(Fraction(1, 3) * (1 + Fraction(2, 3))), abs=1e-15)


def test_scores_are_compared_over_all_images():
    images = [thing([A], [0], [(0.5, A)]), thing([B], [0], [(0.9, FAR), (0.4, B)])]
    # miss, hit, hit: the best precision at any recall is 2/3
    assert ap(images) == pytest.approx(2 / 3, abs=1e-15)
    assert ap(images, interpolation="area") == pytest.approx(2 / 3, abs=1e-15)


def test_a_detection_does_not_reach_into_another_image():
    images = [thing([A], [0], []), thing([], [], [(0.9, A)])]
    assert ap(images) == 0


def test_a_second_detection_of_an_object_is_a_false_positive():
    image = thing([A, B], [0, 0], [(0.9, A), (0.8, A), (0.7, B)])
    # hit, miss, hit: precision 1 up to recall 1/2, then 2/3
    assert ap([image], interpolation="area") == pytest.approx(float(Fraction(1, 2) * (1 + Fraction(2, 3))), abs=1e-15)


def test_a_taken_object_is_not_replaced_by_the_next_best():
    """The devkit looks at the largest IoU alone: the second detection overlaps both, but more the taken one."""
    left, right, between = [0, 0, 9, 9], [2, 0, 11, 9], [0, 0, 10, 9]  # IoU of between: 10/11 and 9/12
    image = thing([left, right], [0, 0], [(0.9, left), (0.8, between)])
    assert ap([image], interpolation="area", iou_threshold=0.6) == pytest.approx(1 / 2, abs=1e-15)


def test_difficult_objects_are_neither_found_nor_missed():
    difficult = thing([A, B], [1, 0], [(0.9, A), (0.8, A), (0.7, B)])
    assert ap([difficult]) == 1
    result = metric([difficult]).compute()
    assert result["n_ground_truth"] == {"thing": 1} and result["n_difficult"] == {"thing": 1}
    unseen = thing([A, B], [1, 0], [(0.7, B)])
    assert ap([unseen]) == 1


def test_a_detection_nearest_to_a_difficult_object_is_ignored_though_another_is_near():
    left, right, between = [0, 0, 9, 9], [2, 0, 11, 9], [0, 0, 10, 9]
    assert ap([thing([left, right], [1, 0], [(0.9, between)])]) == 0
    assert ap([thing([left, right], [0, 1], [(0.9, between)])]) == 1


def test_the_threshold_itself_is_enough():
    half = [0, 0, 9, 4]  # 50 of A's 100 pixels
    assert ap([thing([A], [0], [(0.9, half)])]) == 1
    assert ap([thing([A], [0], [(0.9, half)])], iou_threshold=0.5000001) == 0


def test_inclusive_corners_count_their_pixel():
    half = [0, 0, 9, 4]  # 9 x 4 = 36 of 9 x 9 = 81 when corners are edges
    assert ap([thing([A], [0], [(0.9, half)])], inclusive=False) == 0
    assert ap([thing([A], [0], [(0.9, half)])], inclusive=False, iou_threshold=36 / 81) == 1
    pixel = [3, 3, 3, 3]
    assert ap([thing([pixel], [0], [(0.9, pixel)])]) == 1
    assert ap([thing([pixel], [0], [(0.9, pixel)])], inclusive=False) == 0


def test_equal_scores_keep_their_order():
    hit_first = thing([A], [0], [(0.5, A), (0.5, FAR)])
    miss_first = thing([A], [0], [(0.5, FAR), (0.5, A)])
    assert ap([hit_first]) == 1 and ap([miss_first]) == 0.5


def test_a_box_whose_corners_are_out_of_order_overlaps_nothing():
    assert ap([thing([A], [0], [(0.9, [9, 9, 0, 0]), (0.8, A)])]) == 0.5


def test_recalls_are_compared_as_floats():
    """Ten objects, three found: 0.3 is not reached by 3 / 10, since 3 * 0.1 > 0.3 in floats."""
    objects = [[20 * i, 0, 20 * i + 9, 9] for i in range(10)]
    image = thing(objects, [0] * 10, [(0.9, box) for box in objects[:3]])
    assert ap([image]) == pytest.approx(3 / 11, abs=1e-15)
    assert ap([image], interpolation="area") == pytest.approx(0.3, abs=1e-15)


def test_curves_do_not_count_difficult_objects():
    image = thing([A, B, C], [1, 0, 0], [(0.9, A), (0.8, B), (0.7, FAR)])
    curve = metric([image]).curves()["thing"]
    np.testing.assert_array_equal(curve.score, [0.8, 0.7])
    np.testing.assert_array_equal(curve.precision, [1, 1 / 2])
    np.testing.assert_array_equal(curve.recall, [1 / 2, 1 / 2])
    assert precision_at_recall(curve, 0.5) == 1 and recall_at_precision(curve, 0.5) == 0.5


def test_a_class_without_an_object_to_find_has_no_curve():
    image = (np.array([A, B]), np.array([1, 2]), np.array([0, 1]), np.array([A]), np.array([0.9]), np.array([3]))
    m = metric([image], ("cat", "dog", "bird"))
    assert list(m.curves()) == ["cat"]
    assert m.compute(iou_thresholds=[0.5, 0.7])["AR_over_iou"] == 0


def test_images_added_after_a_result_count_in_the_next():
    m = metric([thing([A], [0], [(0.9, A)])])
    assert m.compute()["mAP"] == 1 and m.curves()["thing"].recall.tolist() == [1]
    m.add("later", *thing([A], [0], []))
    assert m.compute(interpolation="area")["mAP"] == 0.5 and m.curves()["thing"].recall.tolist() == [0.5]


# -- classes, and what is returned


def test_a_class_without_objects_is_left_out_of_the_mean():
    gt = (np.array([A, B]), np.array([1, 2]), np.array([False, True]))
    found = (np.array([A, FAR]), np.array([0.9, 0.8]), np.array([1, 3]))
    result = metric([(*gt, *found)], ("cat", "dog", "bird", "fish")).compute()
    assert result["mAP"] == result["AP"]["cat"] == 1
    assert [np.isnan(result["AP"][name]) for name in ("dog", "bird", "fish")] == [True] * 3
    assert result["n_ground_truth"] == {"cat": 1, "dog": 0, "bird": 0, "fish": 0}
    assert result["n_difficult"] == {"cat": 0, "dog": 1, "bird": 0, "fish": 0}
    assert result["n_detections"] == {"cat": 1, "dog": 0, "bird": 1, "fish": 0}
    assert result["n_images"] == 1


def test_a_class_that_is_never_detected_has_an_ap_of_zero():
    image = (np.array([A, B]), np.array([1, 2]), np.zeros(2, bool), np.array([A]), np.array([0.9]), np.array([1]))
    for interpolation in ("11point", "area"):
        result = metric([image], ("cat", "dog"), interpolation=interpolation).compute()
        assert result["AP"] == {"cat": 1, "dog": 0} and result["mAP"] == 0.5


def test_without_any_object_there_is_no_mean():
    result = metric([(*NONE, *NONE[:1], *NONE[2:], *NONE[1:2])]).compute()
    assert np.isnan(result["mAP"]) and np.isnan(result["AP"]["thing"])


def test_one_metric_gives_both_interpolations():
    images = list(random_images(0))
    m = metric(images, "abc")
    assert m.compute(interpolation="area") == metric(images, "abc", interpolation="area").compute()
    assert m.compute() != m.compute(interpolation="area")


def test_results_are_plain_numbers():
    result = metric(random_images(0), "abc").compute()
    assert type(result["mAP"]) is float and type(result["n_images"]) is int
    assert {type(x) for x in result["AP"].values()} == {float}
    for name in ("n_ground_truth", "n_difficult", "n_detections"):
        assert {type(x) for x in result[name].values()} == {int}


# -- errors


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, [A], r"image 'x': gt_boxes must have shape \[2, 4\], one row per label; got \[1, 4\]"),
        (0, [A, [0, 0, 9, np.nan]], r"image 'x': gt_boxes must be finite; got \[0.0, 0.0, 9.0, nan\]"),
        (1, [1, 3], "image 'x': gt_labels must be integers from 1 to 2, the number of classes; got 3"),
        (1, [1, 0], "got 0"),
        (1, [1.0, 2.0], "got 1.0"),
        (1, [True, True], "got True"),
        (1, [[1, 2]], r"image 'x': gt_labels must have shape \[2\], one number per label; got \[1, 2\]"),
        (2, [False], r"image 'x': gt_difficult must have shape \[2\], one number per label; got \[1\]"),
        (3, A, r"image 'x': boxes must have shape \[1, 4\], one row per label; got \[4\]"),
        (3, [[0, 0, np.inf, 9]], r"image 'x': boxes must be finite; got \[0.0, 0.0, inf, 9.0\]"),
        (4, [0.5, 0.6], r"image 'x': scores must have shape \[1\], one number per label; got \[2\]"),
        (4, [np.nan], "image 'x': scores must be finite; got nan"),
        (5, [-1], "image 'x': labels must be integers from 1 to 2, the number of classes; got -1"),
    ],
)
def test_add_checks_what_it_gets(place, value, message):
    arguments = [[A, B], [1, 2], [False, False], [A], [0.9], [1]]
    m = VOCMetric(("cat", "dog"))
    wrong = [*arguments[:place], value, *arguments[place + 1 :]]
    with pytest.raises(ValueError, match=message) as error:
        m.add("x", *wrong)
    assert "\n" not in str(error.value)
    m.add("x", *arguments)  # nothing was added by the failed call
    assert m.compute()["AP"] == {"cat": 1, "dog": 0}


def test_an_image_is_added_once():
    m = metric([thing([A], [0], [])])
    with pytest.raises(ValueError, match="image_id must be new; got 0, which was added before"):
        m.add(0, *thing([A], [0], []))
    assert m.compute()["n_images"] == 1


def test_options_are_checked():
    with pytest.raises(ValueError, match="interpolation must be one of 11point, area; got '10point'"):
        VOCMetric(("a",), interpolation="10point")
    with pytest.raises(ValueError, match="interpolation must be one of 11point, area; got 'both'"):
        metric([thing([A], [0], [])]).compute(interpolation="both")
    m = metric([thing([A], [0], [])])
    with pytest.raises(ValueError, match=r"iou_threshold must be in \(0, 1\]; got 0"):
        VOCMetric(("a",), iou_threshold=0)
    with pytest.raises(ValueError, match=r"class_names must be one or more different names; got \['a', 'a'\]"):
        VOCMetric(("a", "a"))
    with pytest.raises(ValueError, match="at least one image; got none"):
        VOCMetric(("a",)).compute()
    with pytest.raises(ValueError, match="at least one image; got none"):
        VOCMetric(("a",)).curves()
    for compute in (m.curves, m.compute):
        name, value = ("iou_threshold", 1.5) if compute == m.curves else ("iou_thresholds", [0.5, 1.5])
        with pytest.raises(ValueError, match=r"iou_threshold must be in \(0, 1\]; got 1.5"):
            compute(**{name: value})


# -- a real detector on VOC2007 test


@pytest.mark.skipif("SSD_JAX_SHARED_DATA" not in os.environ, reason="SSD_JAX_SHARED_DATA names no data folder")
def test_a_real_detector_on_voc2007():
    root = Path(os.environ["SSD_JAX_SHARED_DATA"], "voc2007")
    if not root.is_dir():
        pytest.skip(f"no VOC2007 lists in {root}")
    files = sorted(root.glob("detections/comp4_det_test_*.txt"))
    class_names = [path.stem.removeprefix("comp4_det_test_") for path in files]
    detections = defaultdict(list)
    for label, path in enumerate(files, start=1):
        for line in path.read_text().splitlines():
            name, *numbers = line.split()
            detections[name].append([*map(float, numbers), label])
    difficult = dict(line.split(maxsplit=1) for line in (root / "voc07_test_difficult.txt").read_text().splitlines())

    m = VOCMetric(class_names)
    for line in (root / "voc07_test.txt").read_text().splitlines():
        file, *numbers = line.split()
        gt = np.array(numbers, float).reshape(-1, 5)
        found = np.array(detections.pop(file.removesuffix(".jpg"), [])).reshape(-1, 6)
        hard = np.array(difficult[file].split()) == "1"
        m.add(file, gt[:, :4], gt[:, 4].astype(int) + 1, hard, found[:, 1:5], found[:, 0], found[:, 5].astype(int))
    assert not detections
    eleven, area = m.compute(), m.compute(interpolation="area")
    assert eleven["n_images"] == 4952 and sum(eleven["n_detections"].values()) == 85633
    assert sum(eleven["n_ground_truth"].values()) == 12032 and sum(eleven["n_difficult"].values()) == 2944
    assert eleven["mAP"] == pytest.approx(0.6713, abs=5e-5)
    assert area["mAP"] == pytest.approx(0.6866, abs=5e-5)
    strict = m.compute(interpolation="area", iou_thresholds=COCO_IOU_THRESHOLDS)
    assert strict["mAP_by_iou"][0.5] == area["mAP"]
    errors = find_errors(m)
    assert errors.mAP == pytest.approx(area["mAP"], rel=1e-12)
    assert sum(errors.fate != "ignored") == 12032 and len(errors.outcome) == 85633
