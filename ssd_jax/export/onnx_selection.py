"""`inference.select` as nodes of an ONNX graph, for a batch of images."""

import numpy as np

from ssd_jax.export.onnx_graph import OnnxGraph


def add_selection(
    graph: OnnxGraph,
    boxes: str,
    probabilities: str,
    *,
    n_priors: int,
    n_classes: int,
    score_threshold: float = 0.01,
    max_candidates: int = 400,
    iou_threshold: float = 0.45,
    max_detections: int = 200,
) -> tuple[str, str, str]:
    """Add the selection of the best detections: candidates of each class, NMS in each class, the best of all.

    ONNX's NonMaxSuppression sees the candidates of one class of one image as an image of one class. So it decides
    between as few boxes as `select` does, and equal scores keep the same order.

    Args:
      graph: to add to.
      boxes: corners [B, P, 4].
      probabilities: [B, P, C], the first of the background.
      n_priors: P.
      n_classes: C.
      score_threshold: as in `select`.
      max_candidates: as in `select`.
      iou_threshold: as in `select`.
      max_detections: as in `select`.

    Returns:
      corners [B, D, 4], scores [B, D] and labels [B, D] int32 as `select` returns them.
    """
    add, classes, zero = graph.add, n_classes - 1, np.zeros((), np.float32)
    k = min(max_candidates, n_priors)  # candidates of a class
    d = min(max_detections, classes * k)

    objects = add("Slice", probabilities, _integers(1), _integers(n_classes), _integers(2))
    scores, order = add("TopK", add("Transpose", objects, perm=(0, 2, 1)), _integers(k), outputs=2)  # [B, C - 1, K]
    candidates = _gather_rows(graph, boxes, add("Reshape", order, _integers(0, classes * k)))  # [B, (C - 1) K, 4]

    flat = add("Reshape", scores, _integers(-1, k))  # [B (C - 1), K]
    chosen = add(
        "NonMaxSuppression",
        add("Reshape", candidates, _integers(-1, k, 4)),
        add("Unsqueeze", flat, _integers(1)),
        _integers(k),
        np.array([iou_threshold], np.float32),
        np.array([score_threshold], np.float32),
    )  # [n, 3]: row of `flat`, 0, column of `flat`
    places = add("Gather", chosen, _integers(0, 2), axis=1)  # [n, 2]
    none = add("ConstantOfShape", add("Shape", flat))  # zeros: a chosen score is above the threshold, and so above 0
    kept = add("ScatterND", none, places, add("GatherND", flat, places))  # [B (C - 1), K]

    of_image = add("Reshape", kept, _integers(-1, classes * k))
    best, place = add("TopK", of_image, _integers(d), outputs=2)  # [B, D]
    found = add("Greater", best, zero)
    corners = add("Clip", _gather_rows(graph, candidates, place), zero, np.ones((), np.float32))
    corners = add("Where", add("Unsqueeze", found, _integers(2)), corners, zero)
    labels = add("Add", add("Div", place, np.array(k)), np.array(1))
    labels = add("Cast", add("Where", found, labels, np.array(0)), to=graph.type_number(np.int32))
    if d == max_detections:
        return corners, best, labels
    missing = max_detections - d
    corners = add("Pad", corners, _integers(0, 0, 0, 0, missing, 0))
    return corners, *(add("Pad", array, _integers(0, 0, 0, missing)) for array in (best, labels))


def _gather_rows(graph: OnnxGraph, arrays: str, places: str) -> str:
    """Take the rows [B, n] of arrays [B, m, 4]."""
    return graph.add("GatherND", arrays, graph.add("Unsqueeze", places, _integers(2)), batch_dims=1)


def _integers(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)
