"""Bootstrap intervals of average precision: how much a score would move with other images of the same kind."""

import dataclasses
from collections.abc import Sequence

import numpy as np

POINTS = 0.1 * np.arange(11)  # the recalls of the 11-point interpolation, as floats: see `eleven_point`


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The counted detections of one class, best score first.

    Attributes:
      correct: bool [d]; False is a false positive. Ignored detections are not in it.
      image: int [d], the index of each detection's image in 0..N-1.
      objects: int [N], the objects of the class in each image that are not difficult.
    """

    correct: np.ndarray
    image: np.ndarray
    objects: np.ndarray

    def average_precision(self, weights: np.ndarray, *, interpolation: str = "11point") -> np.ndarray:
        """Return AP for each row of `weights`.

        Args:
          weights: [R, N], how often each image is in each resample; ones give the AP of the images as they are.
          interpolation: "11point" (VOC2007) or "area" (VOC2010 on), as in `VOCMetric`.

        Returns:
          float64 [R]; nan where a resample has no object of the class.
        """
        weights = np.asarray(weights, np.float32)
        objects = weights @ self.objects.astype(np.float32)  # [R]
        counted = weights[:, self.image]  # [R, d]
        found = np.cumsum(counted * self.correct, axis=1, dtype=np.float64)  # [R, d] correct up to each detection
        precision = found / np.maximum(np.cumsum(counted, axis=1, dtype=np.float64), 1)  # [R, d]
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]  # [R, d] at this recall or more
        with np.errstate(invalid="ignore", divide="ignore"):
            if interpolation == "area":
                steps = np.diff(found, axis=1, prepend=0)  # [R, d]
                return np.where(objects > 0, np.sum(steps * best, axis=1) / objects, np.nan)
            recall = found / objects[:, None]  # [R, d]
        total = np.zeros(len(weights))
        rows = np.arange(len(weights))
        for point in POINTS:
            first = np.sum(recall < point, axis=1)  # [R] the first detection with at least this recall
            reached = first < recall.shape[1]
            total += np.where(reached, best[rows, np.minimum(first, recall.shape[1] - 1)], 0) if best.size else 0
        return np.where(objects > 0, total / len(POINTS), np.nan)


def resamples(images: int, count: int = 1000, *, seed: int = 0) -> np.ndarray:
    """Draw `count` resamples of N images with replacement: int [count, N], how often each image is in each."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=count)


def mean_average_precision(
    rankings: Sequence[Ranking], weights: np.ndarray, *, interpolation: str = "11point", chunk: int = 2**24
) -> np.ndarray:
    """Return the mean over the classes for each resample, [R]; a class without an object is not in the mean.

    Args:
      rankings: one for each class.
      weights: [R, N] as `resamples` draws them.
      interpolation: as in `VOCMetric`.
      chunk: numbers that an array of the computation may hold.
    """
    per_class = []
    for ranking in rankings:
        rows = max(1, chunk // max(1, len(ranking.correct)))
        parts = [weights[i : i + rows] for i in range(0, len(weights), rows)]
        per_class.append(np.concatenate([ranking.average_precision(w, interpolation=interpolation) for w in parts]))
    values = np.stack(per_class)  # [C - 1, R]
    known = ~np.isnan(values)
    return np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled scores `values` [R]: (low, high)."""
    outside = 100 * (1 - level) / 2
    low, high = np.nanpercentile(values, [outside, 100 - outside])
    return float(low), float(high)
