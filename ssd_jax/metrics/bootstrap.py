"""Bootstrap intervals of average precision: how much a score would move with other images of the same kind."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

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
        return self.average_precisions(weights, (interpolation,))[0]

    def average_precisions(self, weights: np.ndarray, interpolations: Sequence[str]) -> np.ndarray:
        """Return what `average_precision` does, for several interpolations at once: [interpolations, R].

        The best precision at a recall or a higher one is that after a true positive. So all that counts of the false
        positives is how many stand before each of the T true positives.
        """
        images = np.transpose(np.asarray(weights, np.float32))  # [N, R]
        objects = self.objects.astype(np.float32) @ images  # [R]
        place = np.flatnonzero(self.correct)  # [T]
        wrong = np.flatnonzero(~self.correct)
        gap = np.searchsorted(place, wrong)  # the true positive that a false one stands before
        wrong, gap = wrong[gap < len(place)], gap[gap < len(place)]
        ones = np.ones(len(wrong), np.float32)
        gaps = csr_array((ones, (gap, self.image[wrong])), shape=(len(place), len(self.objects)))
        steps = images[self.image[place]].astype(np.float64)  # [T, R] how often each true positive counts
        found = np.cumsum(steps, axis=0)  # [T, R]
        counted = found + np.cumsum(gaps @ images, axis=0, dtype=np.float64)  # [T, R]
        precision = found / np.maximum(counted, 1)
        best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]  # [T, R] at this recall or more
        with np.errstate(invalid="ignore", divide="ignore"):
            scores = [
                _area(steps, best) / objects if name == "area" else _11point(found / objects, best)
                for name in interpolations
            ]
        return np.where(objects > 0, np.stack(scores), np.nan)


# Both add up one row after the other, so that a resample's number does not depend on those beside it.


def _area(steps: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return the sum of the best precision at each true positive, both [T, R]: [R]."""
    return np.cumsum(steps * best, axis=0)[-1:].sum(axis=0)


def _11point(recall: np.ndarray, best: np.ndarray) -> np.ndarray:
    """Return the mean, over 11 recalls, of the best precision from there on, both [T, R]: [R]."""
    best = np.concatenate([best, np.zeros((1, best.shape[1]))])  # 0 at recalls that are not reached
    first = [np.sum(recall < point, axis=0)[None] for point in POINTS]  # [1, R] the first with at least this recall
    reached = np.concatenate([np.take_along_axis(best, row, axis=0) for row in first])  # [11, R]
    return np.cumsum(reached, axis=0)[-1] / len(POINTS)


def resamples(images: int, count: int = 1000, *, seed: int = 0) -> np.ndarray:
    """Draw `count` resamples of N images with replacement: int [count, N], how often each image is in each."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=count)


def mean_average_precision(
    rankings: Sequence[Ranking], weights: np.ndarray, *, interpolation: str = "11point", chunk: int = 2**17
) -> np.ndarray:
    """Return the mean over the classes for each resample, [R]; a class without an object is not in the mean.

    Args:
      rankings: one for each class.
      weights: [R, N] as `resamples` draws them.
      interpolation: as in `VOCMetric`.
      chunk: numbers that an array of the computation may hold; small ones stay in the cache of a CPU.
    """
    return mean_average_precisions(rankings, weights, (interpolation,), chunk=chunk)[0]


def mean_average_precisions(
    rankings: Sequence[Ranking], weights: np.ndarray, interpolations: Sequence[str], *, chunk: int = 2**17
) -> np.ndarray:
    """Return what `mean_average_precision` does, for several interpolations at once: [interpolations, R]."""
    total, known = np.zeros((2, len(interpolations), len(weights)))
    for ranking in rankings:
        rows = max(1, chunk // max(1, int(np.sum(ranking.correct))))
        parts = [weights[i : i + rows] for i in range(0, len(weights), rows)]
        values = np.concatenate([ranking.average_precisions(part, interpolations) for part in parts], axis=1)
        total += np.nan_to_num(values)
        known += ~np.isnan(values)
    return total / np.maximum(known, 1)


def interval(values: np.ndarray, *, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of resampled scores `values` [R]: (low, high)."""
    outside = 100 * (1 - level) / 2
    low, high = np.nanpercentile(values, [outside, 100 - outside])
    return float(low), float(high)
