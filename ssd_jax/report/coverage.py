"""How well priors cover the boxes of a dataset, and priors that are fitted to them."""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np

from ssd_jax.box import PriorSpec, iou, make_priors
from ssd_jax.box import center_to_corner as corners_of

BUCKETS = (0, 16, 32, 64, 128, 256, np.inf)  # sides of squares of equal area, in pixels of the network's input
SMALLEST_STEP = 1.05  # a size is at least so many times the one before


class Coverage(NamedTuple):
    """Boxes of one size bucket: how many, the mean of their best IoU with a prior, the share over the threshold."""

    smallest: float
    largest: float
    boxes: int
    mean_iou: float
    recall: float


def best_iou(corners: np.ndarray, spec: PriorSpec) -> np.ndarray:
    """Corners [N, 4], fractions -> [N], IoU with the best prior."""
    priors = corners_of(make_priors(spec))  # [P, 4]
    best = [np.max(iou(corners[i : i + 256], priors), axis=1) for i in range(0, len(corners), 256)]
    return np.concatenate([np.zeros(0, np.float32), *best])


def coverage(corners: np.ndarray, spec: PriorSpec, *, threshold: float = 0.5) -> list[Coverage]:
    """Recall of ground truth by best-prior IoU: a row for each of `BUCKETS`, and last one for all boxes together."""
    best = best_iou(corners, spec)  # [N]
    side = spec.image_size * np.sqrt(np.prod(corners[:, 2:] - corners[:, :2], axis=1))  # [N]
    ranges = [*itertools.pairwise(BUCKETS), (0, np.inf)]
    rows = []
    for low, high in ranges:
        own = best[(side >= low) & (side < high)]
        mean, recall = (float(np.mean(x)) if len(own) else np.nan for x in (own, own >= threshold))
        rows.append(Coverage(low, high, len(own), mean, recall))
    return rows


def coverage_text(rows: list[Coverage], *, threshold: float = 0.5) -> str:
    """A table of `coverage`."""
    lines = [f"{'pixels':>12}  {'boxes':>9}  mean best IoU  IoU >= {threshold}"]
    for row in rows[:-1]:
        end = "" if np.isinf(row.largest) else f"{row.largest:.0f}"
        if row.boxes:
            lines.append(
                f"{f'{row.smallest:.0f}-{end}':>12}  {row.boxes:>9,}  {row.mean_iou:13.3f}  {row.recall:8.1%}"
            )
    all_boxes = rows[-1]
    return "\n".join(
        [*lines, f"{'all':>12}  {all_boxes.boxes:>9,}  {all_boxes.mean_iou:13.3f}  {all_boxes.recall:8.1%}"]
    )


def propose(corners: np.ndarray, spec: PriorSpec, *, sample: int = 500, rounds: int = 2) -> PriorSpec:
    """Fit the sizes and ratios of `spec` to boxes [N, 4] (corners, fractions), keeping its maps and numbers of boxes.

    Clusters of the boxes' shapes in IoU distance are candidates. Each size and each map's ratios in turn become the
    candidate that most raises the mean best IoU of `sample` boxes plus their recall, or stay: a map whose cells are
    too far apart for the boxes keeps what it has. The boxes are drawn alike from each of `BUCKETS` that holds a
    twentieth of them or more, lest a frequent size have all the priors. If that leaves all boxes together a lower
    mean or recall than before, `spec` itself is returned.
    """
    if len(corners) < 100:
        raise ValueError(f"priors are fitted to at least 100 boxes; got {len(corners)}")
    maps = len(spec.grids)
    shapes = spec.image_size * (corners[:, 2:] - corners[:, :2]).astype(np.float64)  # [N, 2] pixels
    sizes = [round(float(s), 1) for s in np.sqrt(np.prod(cluster(shapes, 2 * maps), axis=1))]
    counts = sorted({len(ratios) for ratios in spec.ratios if ratios})
    ratios = {n: _aspects(shapes, n) for n in counts}
    given, every = spec, corners
    corners = corners[_evenly(np.sqrt(np.prod(shapes, axis=1)), sample)]  # [n, 4]

    maps_best = [best_iou(corners, _one_map(spec, k)) for k in range(maps)]  # each [n]
    for _ in range(rounds):
        for k in range(maps + 1):
            trials = [_with_size(spec, k, size) for size in sizes]
            spec, maps_best = _best(corners, spec, maps_best, [t for t in trials if t], (k - 1, k))
        for k in range(maps):
            if spec.ratios[k]:
                trial = dataclasses.replace(
                    spec, ratios=(*spec.ratios[:k], ratios[len(spec.ratios[k])], *spec.ratios[k + 1 :])
                )
                spec, maps_best = _best(corners, spec, maps_best, [trial], (k,))
    before, after = (coverage(every, s)[-1] for s in (given, spec))
    return given if after.recall < before.recall or after.mean_iou < before.mean_iou else spec


def _evenly(side: np.ndarray, n: int) -> np.ndarray:
    """Places in `side` [N] of n boxes or so, the same number, drawn again and again if need be, from each bucket."""
    bucket = np.digitize(side, BUCKETS)  # [N]
    known, counts = np.unique(bucket, return_counts=True)
    known = known[counts >= 0.05 * len(side)]
    random = np.random.default_rng(0)
    return np.concatenate([random.choice(np.flatnonzero(bucket == b), n // len(known)) for b in known])


def _best(
    corners: np.ndarray,
    spec: PriorSpec,
    maps_best: list[np.ndarray],
    trials: list[PriorSpec],
    changed: tuple[int, ...],
) -> tuple[PriorSpec, list[np.ndarray]]:
    """The best of `spec` and `trials`, which differ from it in the maps `changed`, and each map's best IoUs [n]."""
    found = (spec, maps_best)
    for trial in trials:
        news = maps_best.copy()
        for k in changed:
            if 0 <= k < len(news):
                news[k] = best_iou(corners, _one_map(trial, k))
        if _score(news) > _score(found[1]):
            found = (trial, news)
    return found


def _score(maps_best: list[np.ndarray]) -> float:
    best = np.max(maps_best, axis=0)  # [n]
    return float(np.mean(best) + np.mean(best >= 0.5))


def _one_map(spec: PriorSpec, k: int) -> PriorSpec:
    return dataclasses.replace(
        spec,
        grids=spec.grids[k : k + 1],
        steps=spec.steps[k : k + 1],
        sizes=spec.sizes[k : k + 2],
        ratios=spec.ratios[k : k + 1],
    )


def _with_size(spec: PriorSpec, k: int, size: float) -> PriorSpec | None:
    """`spec` with another size k; None where sizes would not rise from map to map."""
    sizes = (*spec.sizes[:k], size, *spec.sizes[k + 1 :])
    rising = all(SMALLEST_STEP * a <= b for a, b in itertools.pairwise(sizes))
    return dataclasses.replace(spec, sizes=sizes) if rising else None


def _aspects(shapes: np.ndarray, n: int) -> tuple[float, ...]:
    """n ratios, long side by short: clusters beside the square, which is there already."""
    ratio = np.sqrt(np.max(shapes, axis=1) / np.min(shapes, axis=1))  # [N]
    wide = np.stack([ratio, 1 / ratio], axis=1)  # [N, 2] of area 1: their IoU depends on the ratio alone
    return tuple(sorted(round(float(w / h), 2) for w, h in cluster(wide, 1 + n, fixed=np.ones((1, 2)))[1:]))


def cluster(shapes: np.ndarray, k: int, *, fixed: np.ndarray | None = None, rounds: int = 50) -> np.ndarray:
    """Boxes (w, h) [N, 2] about one centre -> k of them that represent all, in IoU distance (Lloyd's algorithm).

    Starts from quantiles of width x area, so it follows from the boxes alone. A representative is the geometric mean
    of its boxes; the rows of `fixed` [f, 2], if any, are the first and do not move.
    """
    held = np.zeros((0, 2)) if fixed is None else fixed
    order = np.argsort(shapes[:, 0] ** 2 * shapes[:, 1], kind="stable")
    free = k - len(held)
    centres = np.concatenate(
        [held, shapes[order[((np.arange(free) + 0.5) / free * len(shapes)).astype(int)]]]
    )  # [k, 2]
    for _ in range(rounds):
        owner = np.argmax(_shape_iou(shapes, centres), axis=1)  # [N]
        moved = centres.copy()
        for j in range(len(held), k):
            if np.any(owner == j):
                moved[j] = np.exp(np.mean(np.log(shapes[owner == j]), axis=0))
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _shape_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(w, h) [N, 2] and [k, 2] about one centre -> IoU [N, k]."""
    shared = np.prod(np.minimum(a[:, None], b[None]), axis=2)  # [N, k]
    return shared / (np.prod(a, axis=1)[:, None] + np.prod(b, axis=1)[None] - shared)
