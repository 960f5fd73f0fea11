"""The same answers computed a second, slower way: loops over Python floats and NumPy float32 scalars."""

import numpy as np


def iou(a, b):
    """Compute the IoU [n, m] of corners, pair by pair, in Python's float64."""
    return np.array([[_iou(p, q) for q in np.asarray(b).tolist()] for p in np.asarray(a).tolist()]).reshape(
        len(a), len(b)
    )


def _iou(p, q):
    width = min(p[2], q[2]) - max(p[0], q[0])
    height = min(p[3], q[3]) - max(p[1], q[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (_area(p) + _area(q) - width * height)


def _area(p):
    return max(p[2] - p[0], 0) * max(p[3] - p[1], 0)


def match(overlap, valid, threshold):
    """Match as Caffe's MatchBBox, by overlaps [G, P]: greedy over pairs, then the threshold for each free prior."""
    ground_truths, priors = overlap.shape
    index = np.full(priors, -1)
    pool = [g for g in range(ground_truths) if valid[g]]
    while pool:
        best, pair = 1e-6, None
        for p in range(priors):
            if index[p] >= 0:
                continue
            for g in pool:
                if overlap[g, p] > best:
                    best, pair = overlap[g, p], (g, p)
        if pair is None:
            break
        index[pair[1]] = pair[0]
        pool.remove(pair[0])
    for p in range(priors):
        if index[p] < 0:
            best = -1
            for g in range(ground_truths):
                if valid[g] and overlap[g, p] > 1e-6 and overlap[g, p] >= threshold and overlap[g, p] > best:
                    best, index[p] = overlap[g, p], g
    return index


def candidates(scores, score_threshold, max_candidates):
    """Return the places of the scores above the threshold, best first; Python's sort is stable."""
    above = [i for i in range(len(scores)) if scores[i] > score_threshold]
    return sorted(above, key=lambda i: -scores[i])[:max_candidates]


def nms(overlap, scores, *, iou_threshold, score_threshold, max_candidates):
    """Return the places that Caffe's ApplyNMSFast keeps, by overlaps [n, n], best first."""
    kept = []
    for i in candidates(scores, score_threshold, max_candidates):
        if all(overlap[i, j] <= iou_threshold for j in kept):
            kept.append(i)
    return kept


def multiclass_nms(overlap, scores, *, score_threshold, max_candidates, iou_threshold, max_detections):
    """Return [(place, score, label)] of Caffe's DetectionOutput, best first."""
    found = []
    for label in range(1, scores.shape[1]):
        kept = nms(
            overlap,
            scores[:, label],
            iou_threshold=iou_threshold,
            score_threshold=score_threshold,
            max_candidates=max_candidates,
        )
        found += [(place, scores[place, label], label) for place in kept]
    return sorted(found, key=lambda f: -f[1])[:max_detections]


def soft_nms(overlap, scores, *, decay, score_threshold, max_candidates):
    """Return [(place, decayed score)] in the order in which boxes are taken (arXiv:1704.04503, fig. 2)."""
    left = {i: scores[i] for i in candidates(scores, score_threshold, max_candidates)}
    taken = []
    while left:
        best = max(left, key=left.get)
        taken.append((best, left.pop(best)))
        left = {i: score * decay(overlap[best, i]) for i, score in left.items()}
    return taken
