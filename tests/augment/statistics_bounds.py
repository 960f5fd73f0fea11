"""Bounds for statistics that a right result exceeds for one seed in a hundred thousand; the seeds are fixed."""

import numpy as np

Z = 4.5
"""Standard errors."""


def assert_same_distribution(a, b):
    """Two samples' Kolmogorov-Smirnov distance, where 0.5 in one may be 0.500001 in the other."""
    distance = max(_excess(np.sort(a), np.sort(b)), _excess(np.sort(b), np.sort(a)))
    assert distance < 2.47 * np.sqrt(1 / len(a) + 1 / len(b))


def assert_same_rate(a, b):
    """Two samples of yes and no."""
    pooled = (a.sum() + b.sum()) / (len(a) + len(b))
    assert abs(a.mean() - b.mean()) <= Z * np.sqrt(pooled * (1 - pooled) * (1 / len(a) + 1 / len(b)))


def _excess(a, b, rounding=1e-5):
    """How much larger a share of `a` than of `b` lies up to some value."""
    below_a = np.searchsorted(a, a, side="right") / len(a)
    return (below_a - np.searchsorted(b, a + rounding, side="right") / len(b)).max()
