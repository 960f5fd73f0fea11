"""COCO's numbers: as pycocotools finds them in the files, and by hand."""

import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ssd_jax.metrics import COCOMetric
from ssd_jax.metrics.coco import NUMBERS


def truth(*annotations, images=(1,), categories=((10, "thing"),)):
    """Return ground truth; annotations are (image, category, [x, y, w, h][, crowd])."""
    return {
        "images": [{"id": i, "width": 640, "height": 480} for i in images],
        "categories": [{"id": i, "name": name} for i, name in categories],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": int(any(crowd)),
            }
            for number, (image, category, bbox, *crowd) in enumerate(annotations, start=1)
        ],
    }


def random_set(seed):
    """Return 20 images with 3 classes of ids with gaps, objects of all sizes, crowds, and detections near some."""
    random = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(100, 120):
        rows = []
        for _ in range(random.integers(0, 8)):
            x, y = random.uniform(0, 300, 2)
            w, h = 10 ** random.uniform(0.8, 2.4, 2)
            category, crowd = int(random.choice([3, 8, 20])), random.random() < 0.1
            objects.append((image, category, [float(v) for v in (x, y, w, h)], crowd))
            for _ in range(random.integers(0, 3)):
                box = np.array([x, y, x + w, y + h]) + random.normal(0, 0.08, 4) * [w, h, w, h]
                rows.append((box, random.random(), {3: 1, 20: 2, 8: 3}[category]))
        rows += [((5, 5, 90, 80), random.random(), int(random.integers(1, 4))) for _ in range(2)]
        boxes, scores, labels = zip(*rows, strict=True)
        found.append((image, np.array(boxes), np.float32(scores), np.int32(labels)))
    categories = ((3, "a"), (20, "c"), (8, "b"))
    return truth(*objects, images=range(100, 120), categories=categories), found


def metric_of(truth, found):
    metric = COCOMetric(truth)
    for row in found:
        metric.add(*row)
    return metric


def test_numbers_equal_those_of_pycocotools_on_the_files(tmp_path, capsys):
    for seed in range(3):
        data, found = random_set(seed)
        metric = metric_of(data, found)
        capsys.readouterr()
        result = metric.compute()
        assert capsys.readouterr().out == ""

        (tmp_path / "truth.json").write_text(json.dumps(data))
        metric.write(tmp_path / "results.json")
        coco = COCO(tmp_path / "truth.json")
        evaluation = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        capsys.readouterr()
        assert [result[name] for name in NUMBERS] == pytest.approx(evaluation.stats, abs=1e-12)
        assert 0.05 < result["AP"] < result["AP50"] < 1
        for category, name in ((3, "a"), (8, "b"), (20, "c")):
            evaluation.params.catIds = [category]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert result["AP_by_class"][name] == pytest.approx(evaluation.stats[0], abs=1e-12)
    assert len(list(tmp_path.iterdir())) == 2


def hard_case(random):
    """Return a case with crowds, areas unlike the boxes', equal scores, and up to 150 detections in an image."""
    images = sorted(random.permutation(500)[: random.integers(1, 7)].tolist())
    if random.random() < 0.3:
        images = [f"n{i}" for i in images]
    ids = (1 + random.permutation(90)[: random.integers(1, 5)]).tolist()
    crowds, on_grid = random.choice([0, 0.2, 1]), random.random() < 0.4
    data, found = truth(images=images, categories=[(i, f"c{i}") for i in ids]), []
    for image in images:
        n, d = random.integers(0, random.choice([2, 8])), random.integers(0, random.choice([4, 30, 150]))
        corners = random.uniform(0, 300, (n, 2)).round(-1 if on_grid else 2)
        sides = (10 ** random.uniform(0.3, 2.5, (n, 2))).round(0 if on_grid else 2)
        for box in np.concatenate([corners, sides], axis=1).tolist():
            area = float(random.choice([box[2] * box[3], box[2] * box[3] / 2, 1024, 9216, 0, 1e10]))
            number = 1 + len(data["annotations"])
            row = {"id": number, "image_id": image, "category_id": int(random.choice(ids)), "bbox": box, "area": area}
            data["annotations"].append(row | {"iscrowd": int(random.random() < crowds)})
        anywhere = random.uniform(0, 300, (d, 2))
        boxes = np.concatenate([anywhere, anywhere + 10 ** random.uniform(0, 2.5, (d, 2))], axis=1)
        if n:
            near = random.random(d) < 0.8
            seen = random.integers(0, n, int(near.sum()))
            noise = random.normal(0, 0.1, (len(seen), 4)) * np.tile(sides[seen], 2) * (not on_grid)
            boxes[near] = np.concatenate([corners[seen], corners[seen] + sides[seen]], axis=1) + noise
        scores = random.integers(0, 5, d) / 4 if random.random() < 0.3 else random.random(d).astype(np.float32)
        found.append((image, boxes, scores, random.integers(1, 1 + len(ids), d)))
    return data, [row for row in found if random.random() < 0.9] or found[:1]


def test_numbers_equal_those_of_pycocotools_in_random_cases(capsys):
    random = np.random.default_rng(0)
    inside = 0
    for _ in range(100):
        data, found = hard_case(random)
        metric = metric_of(data, found)
        coco = COCO()
        coco.dataset = {"info": {}} | data
        coco.createIndex()
        answers = coco.loadRes([dict(row) for row in metric.results]) if metric.results else COCO()
        if not metric.results:
            answers.dataset = {"images": data["images"], "categories": data["categories"], "annotations": []}
            answers.createIndex()
        evaluation = COCOeval(coco, answers, "bbox")
        evaluation.params.imgIds = [image for image, *_ in found]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        result = metric.compute()
        expected = np.where(evaluation.stats == -1, np.nan, evaluation.stats)
        np.testing.assert_allclose([result[name] for name in NUMBERS], expected, rtol=0, atol=1e-12)
        inside += np.sum((expected > 0) & (expected < 1))
    capsys.readouterr()
    assert inside > 400


def test_by_hand():
    # IoU of 10x10 and 10x6.2 inside it is 0.62: a hit at 0.5, 0.55, 0.6 of the ten thresholds.
    metric = COCOMetric(truth((1, 10, [0, 0, 10, 10])))
    metric.add(1, [[0, 0, 10, 6.2]], [0.5], [1])
    result = metric.compute()
    assert result["AP"] == pytest.approx(0.3) and result["AP50"] == pytest.approx(1) and result["AP75"] == 0
    assert result["AP_small"] == pytest.approx(0.3) and np.isnan(result["AP_large"])
    assert result["AR_1"] == pytest.approx(0.3) and result["AP_by_class"] == {"thing": pytest.approx(0.3)}
    assert metric.results == [{"image_id": 1, "category_id": 10, "bbox": [0, 0, 10, 6.2], "score": 0.5}]


def test_a_detection_over_a_crowd_does_not_count():
    found = ([[100, 100, 120, 120], [0, 0, 50, 50]], [0.9, 0.5], [1, 1])
    alone, crowd = ((1, 10, [0, 0, 50, 50]), (1, 10, [90, 90, 200, 200], True))
    for objects, expected in (((alone,), 0.5), ((alone, crowd), 1)):
        metric = COCOMetric(truth(*objects))
        metric.add(1, *found)
        assert metric.compute()["AP"] == pytest.approx(expected)


def test_labels_follow_the_list_of_categories():
    data = truth((1, 7, [0, 0, 9, 9]), categories=((7, "a"), (13, "m"), (2, "z")))
    metric = COCOMetric(data)
    metric.add(1, [[0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]], [0.9, 0.8, 0.7], [3, 1, 2])
    assert [row["category_id"] for row in metric.results] == [2, 7, 13]
    result = metric.compute()["AP_by_class"]
    assert result["a"] == pytest.approx(1) and np.isnan(result["m"]) and np.isnan(result["z"])


def test_nothing_found(tmp_path):
    metric = COCOMetric(truth((1, 10, [0, 0, 9, 9])))
    metric.add(1, np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    assert metric.compute()["AP"] == 0
    metric.write(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text()) == []


@pytest.mark.parametrize("kind", [int, np.int32, np.int64])
def test_ids_of_any_kind_of_integer_are_written(kind, tmp_path):
    data = truth((1, 10, [0, 0, 9, 9]))
    data["images"][0]["id"], data["categories"][0]["id"] = kind(1), kind(10)
    metric = COCOMetric(data)
    metric.add(kind(1), [[0, 0, 9, 9]], [0.5], kind([1]) if kind is not int else [1])
    assert metric.compute()["AP"] == pytest.approx(1)
    metric.write(tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert rows == [{"image_id": 1, "category_id": 10, "bbox": [0, 0, 9, 9], "score": 0.5}]


def test_ids_may_be_text():
    data = truth((1, 10, [0, 0, 9, 9]))
    data["images"][0]["id"] = data["annotations"][0]["image_id"] = "000001"
    metric = COCOMetric(data)
    metric.add("000001", [[0, 0, 9, 9]], [0.5], [1])
    assert metric.compute()["AP"] == pytest.approx(1)


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 4)), np.zeros((0, 4), np.float32)])
def test_an_image_without_detections_counts(nothing):
    metric = COCOMetric(truth((1, 10, [0, 0, 9, 9]), (2, 10, [0, 0, 9, 9]), images=(1, 2)))
    metric.add(1, nothing, [], [])
    metric.add(2, [[0, 0, 9, 9]], [0.5], [1])
    assert metric.compute()["AR_100"] == pytest.approx(0.5)


def test_only_images_that_were_added_are_evaluated():
    data = truth((1, 10, [0, 0, 9, 9]), (2, 10, [0, 0, 9, 9]), images=(1, 2))
    metric = COCOMetric(data)
    metric.add(1, [[0, 0, 9, 9]], [0.5], [1])
    assert metric.compute()["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    "row, message",
    [
        ((5, [[0, 0, 1, 1]], [1], [1]), "image_id must be one of the ground truth; got 5"),
        ((1.5, [[0, 0, 1, 1]], [1], [1]), "image_id must be one of the ground truth; got 1.5"),
        (([1], [[0, 0, 1, 1]], [1], [1]), r"image_id must be one of the ground truth; got \[1\]"),
        ((1, [[0, 0, 1, 1]], [1], [2]), "image 1: labels must be integers from 1 to 1, .*; got 2"),
        ((1, [[0, 0, 1, 1]], [1], [0]), "image 1: labels must be integers from 1 to 1, .*; got 0"),
        ((1, [[0, 0, 1, 1]], [1], [1.0]), "image 1: labels must be integers from 1 to 1, .*; got 1.0"),
        ((1, [[0, 0, 1, 1]], [1], np.float32([1])), "image 1: labels must be integers from 1 to 1, .*; got 1.0"),
        ((1, [[0, 0, 1, 1]], [1], [True]), "image 1: labels must be integers from 1 to 1, .*; got True"),
        ((1, [[0, 0, 1, 1]], [1, 2], [1]), r"image 1: scores must have shape \[1\], .*; got \[2\]"),
        ((1, [[0, 0, 1, 1]], [], []), r"image 1: boxes must have shape \[0, 4\], .*; got \[1, 4\]"),
        ((1, [[0, 0, np.nan, 1]], [1], [1]), r"image 1: boxes must be finite; got \[0\.0, 0\.0, nan, 1\.0\]"),
        ((1, [[0, 0, 1, 1]], [np.inf], [1]), "image 1: scores must be finite; got inf"),
    ],
)
def test_wrong_detections_are_refused_and_nothing_is_added(row, message):
    metric = COCOMetric(truth((1, 10, [0, 0, 9, 9])))
    with pytest.raises(ValueError, match=message):
        metric.add(*row)
    assert metric.results == []
    with pytest.raises(ValueError, match="at least one image; got none"):
        metric.compute()
    metric.add(1, [[0, 0, 1, 1]], [1], [1])
    with pytest.raises(ValueError, match="image_id must be new; got 1, which was added before"):
        metric.add(1, [[0, 0, 1, 1]], [1], [1])
