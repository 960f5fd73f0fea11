"""Errors by position, crowding and class: against slow loops on random cases, and by hand."""

import numpy as np
import pytest
from test_errors import A, B, loop_iou, metric_of, one_image, random_images

from ssd_jax.metrics import count_by_class, count_by_position, find_errors, recall_by_number, recall_by_overlap
from ssd_jax.metrics.errors import KINDS


def loop_positions(images, sizes, errors, rows, columns, threshold):
    """Put each object and each wrong detection into its cell, one at a time."""
    counts = np.zeros((3, rows, columns), int)

    def cell(box, size):
        x, y = (box[0] + box[2]) / 2 / size[1], (box[1] + box[3]) / 2 / size[0]
        return min(max(int(y * rows // 1), 0), rows - 1), min(max(int(x * columns // 1), 0), columns - 1)

    fates, outcomes = iter(errors.fate), iter(errors.outcome)
    for (gt_boxes, _, _, boxes, scores, _), size in zip(images, sizes, strict=True):
        for gt_box in gt_boxes:
            fate = next(fates)
            counts[0][cell(gt_box, size)] += fate != "ignored"
            counts[1][cell(gt_box, size)] += fate == "found"
        for box, score in zip(boxes, scores, strict=True):
            counts[2][cell(box, size)] += next(outcomes) not in ("true", "ignored") and score >= threshold
    return counts


def loop_bin(value, edges):
    return sum(value >= edge for edge in edges) - 1


def loop_bins(values, errors, edges):
    counts = np.zeros((len(edges) - 1, 2), int)
    for value, fate in zip(values, errors.fate, strict=True):
        if fate != "ignored" and edges[0] <= value < edges[-1]:
            counts[loop_bin(value, edges)] += [1, fate == "found"]
    return counts.tolist()


@pytest.mark.parametrize("inclusive", [False, True])
def test_counts_equal_slow_loops_in_random_cases(inclusive):
    random = np.random.default_rng(0)
    overlap_edges, number_edges = (0, 0.01, 0.1, 0.3, 0.5, np.inf), (1, 2, 4, np.inf)
    totals = [np.zeros((3, 2, 3), int), np.zeros((5, 2), int), np.zeros((3, 2), int)]
    for _ in range(100):
        images = random_images(random)
        sizes = random.integers(40, 80, (len(images), 2))
        errors = find_errors(metric_of(images, inclusive=inclusive))
        expected = loop_positions(images, sizes, errors, 2, 3, 0.4)
        counts = count_by_position(errors, sizes, rows=2, columns=3, score_threshold=0.4)
        np.testing.assert_array_equal(np.stack(counts), expected)

        overlaps, numbers = [], []
        for gt_boxes, *_ in images:
            for i, gt_box in enumerate(gt_boxes):
                others = [loop_iou(gt_box, other, int(inclusive)) for j, other in enumerate(gt_boxes) if j != i]
                overlaps.append(max(others, default=0))
                numbers.append(len(gt_boxes))
        by_overlap = loop_bins(overlaps, errors, overlap_edges)
        by_number = loop_bins(numbers, errors, number_edges)
        found = recall_by_overlap(errors, inclusive=inclusive)
        assert [[b.n_objects, b.n_found] for b in found] == by_overlap
        assert [[b.n_objects, b.n_found] for b in recall_by_number(errors, edges=number_edges)] == by_number
        totals = [
            total + np.array(more) for total, more in zip(totals, (expected, by_overlap, by_number), strict=True)
        ]

        by_class = count_by_class(errors, 3)
        for kind in KINDS:
            table, outcomes = (
                (errors.objects, errors.fate) if kind == "missed" else (errors.detections, errors.outcome)
            )
            wanted = [
                sum(o == kind and t == c for o, t in zip(outcomes, table.labels, strict=True)) for c in (1, 2, 3)
            ]
            assert by_class[kind].tolist() == wanted and sum(wanted) == errors.counts[kind]
    assert all(total.min() > 0 for total in totals)


def test_positions_by_hand():
    """In 30 x 60 pixels A is in the left third, B in the middle one; what is outside counts at the border."""
    image = one_image([(1, A), (1, B), (1, A, True)], [(1, 0.9, A), (2, 0.8, [100, 20, 120, 60]), (2, 0.1, B)])
    counts = count_by_position(find_errors(metric_of([image])), [[30, 60]])
    assert counts.n_objects.tolist() == [[1, 1, 0], [0] * 3, [0] * 3]
    assert counts.n_found.tolist() == [[1, 0, 0], [0] * 3, [0] * 3]
    assert counts.n_wrong.tolist() == [[0] * 3, [0] * 3, [0, 0, 1]]
    with pytest.raises(ValueError, match=r"^rows and columns must be at least 1; got 0 and 3$"):
        count_by_position(find_errors(metric_of([image])), [[30, 90]], rows=0)
    with pytest.raises(ValueError, match=r"image_sizes must have shape \[images, 2\], a row per image; got \[2\]"):
        count_by_position(find_errors(metric_of([image])), [30, 90])


def test_crowding_by_hand():
    """Two boxes of 100 pixels share 50 of them: an IoU of 1/3. A third box is alone in its image."""
    near = [5, 0, 15, 10]
    errors = find_errors(metric_of([one_image([(1, A), (2, near)], [(1, 0.9, A)]), one_image([(1, B)], [])]))
    bins = recall_by_overlap(errors)
    assert [(b.n_objects, b.n_found) for b in bins] == [(1, 0), (0, 0), (0, 0), (2, 1), (0, 0)]
    assert [(b.n_objects, b.n_found) for b in recall_by_number(errors)[:2]] == [(1, 0), (2, 1)]


def test_without_objects():
    errors = find_errors(metric_of([one_image([], [(1, 0.9, A)])]))
    assert not np.stack(count_by_position(errors, [[30, 90]])[:2]).any()
    assert not any(b.n_objects for b in [*recall_by_overlap(errors), *recall_by_number(errors)])
