"""Detections as other programs take them."""

import json
import pickle
import sys

import numpy as np
import pytest

from ssd_jax.inference import Detections

FOUND = Detections(
    np.array([[1, 2, 11, 22], [0.123456, 0, 5, 5.5]], np.float32),
    np.array([0.75, 1 / 3], np.float32),
    np.array([2, 1], np.int32),
    ("cat", "dog"),
)
NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ("cat", "dog"))


def test_detections_are_a_tuple_of_three_arrays_that_knows_the_names():
    boxes, scores, labels = FOUND
    assert (boxes is FOUND.boxes, scores is FOUND.scores, labels is FOUND.labels) == (True, True, True)
    assert FOUND.above(0.5).class_names == FOUND.class_names == ("cat", "dog")
    assert FOUND.above(0.5).labels.tolist() == [2]
    assert len(FOUND._replace(scores=np.array([0.7, 0.6], np.float32)).above(0.7).scores) == 1  # float32's 0.7
    again = pickle.loads(pickle.dumps(FOUND))
    assert type(again) is Detections and again.class_names == ("cat", "dog")
    np.testing.assert_array_equal(again.boxes, FOUND.boxes)


def test_dicts_are_json_with_rounded_numbers():
    assert json.loads(json.dumps(FOUND.to_dicts())) == [
        {"class": "dog", "label": 2, "score": 0.75, "box": [1, 2, 11, 22]},
        {"class": "cat", "label": 1, "score": 0.33333, "box": [0.12, 0, 5, 5.5]},
    ]
    assert "class" not in Detections(*FOUND).to_dicts()[0]
    assert NOTHING.to_dicts() == []


def test_coco_rows_have_sides_and_the_category_ids_that_are_given():
    rows = json.loads(json.dumps(FOUND.to_coco(7, category_ids=(17, np.int64(18)))))
    assert [(row["image_id"], row["category_id"]) for row in rows] == [(7, 18), (7, 17)]
    assert rows[0]["bbox"] == [1, 2, 10, 20] and rows[0]["score"] == 0.75
    assert rows[1]["score"] == float(np.float32(1 / 3))  # all its digits: rounding would make ties
    assert [row["category_id"] for row in FOUND.to_coco("a.jpg")] == [2, 1]
    assert NOTHING.to_coco(1, category_ids=()) == []
    with pytest.raises(ValueError, match="category_ids must have an id of label 2; got 1 ids"):
        FOUND.to_coco(7, category_ids=(17,))


def test_supervision_gets_classes_from_zero():
    supervision = pytest.importorskip("supervision", reason="supervision is not installed: the extra [track]")
    found = FOUND.to_supervision()
    assert isinstance(found, supervision.Detections)
    np.testing.assert_array_equal(found.xyxy, FOUND.boxes)
    np.testing.assert_array_equal(found.confidence, FOUND.scores)
    assert found.class_id.tolist() == [1, 0] and found["class_name"].tolist() == ["dog", "cat"]
    assert len(NOTHING.to_supervision()) == 0


def test_a_missing_extra_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ValueError, match=r"^supervision must be installed: pip install 'ssd_jax\[track\]'$"):
        FOUND.to_supervision()
