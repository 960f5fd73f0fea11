"""Which ground truth each prior answers for (SSD, section 2.2; Caffe's MatchBBox)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssd_jax.box.arrays import Array, Bool, Float, Int, Real, Scalar, check_shape, widen
from ssd_jax.box.codec import VARIANCES, encode
from ssd_jax.box.geometry import center_to_corner, iou

BACKGROUND = 0

# Caffe's bipartite step ignores overlaps that are not above this.
NO_OVERLAP = 1e-6


@jax.jit
def match(
    gt_corners: Real[Array, "G 4"],
    gt_valid: Bool[Array, "G"],
    priors: Real[Array, "P 4"],
    *,
    threshold: Scalar = 0.5,
) -> Int[Array, "P"]:
    """Index [P] int32 of the ground truth that each prior (centers) is matched to; -1 = none.

    First each ground truth gets a prior of its own, best pair first (greedy bipartite matching); then every free
    prior takes its best ground truth if their IoU is at least `threshold`. Ties go to the lower prior, then to the
    lower ground truth. Ground truth that is not valid, has no area or overlaps no prior is matched to none.
    """
    check_shape("gt_corners", gt_corners, "G", 4)
    check_shape("gt_valid", gt_valid, len(gt_corners))
    check_shape("priors", priors, "P", 4)
    _, gt_corners, priors = widen(jnp.asarray(gt_corners), priors)
    if 0 in (len(gt_corners), len(priors)):
        return jnp.full(len(priors), -1, jnp.int32)
    overlap = jax.lax.stop_gradient(iou(gt_corners, center_to_corner(priors)))  # [G, P]
    overlap = jnp.where(jnp.asarray(gt_valid)[:, None] & (overlap > NO_OVERLAP), overlap, 0)
    largest, best = _max_and_place(overlap, axis=0)  # [P], [P]
    index = jnp.where(largest >= jnp.maximum(threshold, NO_OVERLAP), best, -1)
    own = _bipartite(overlap)  # [G]
    return index.at[own].set(jnp.arange(len(own), dtype=jnp.int32), mode="drop")


@jax.jit
def assign(
    gt_corners: Real[Array, "G 4"],
    gt_labels: Int[Array, "G"],
    priors: Real[Array, "P 4"],
    *,
    threshold: Scalar = 0.5,
    variances: Sequence[Scalar] = VARIANCES,
) -> tuple[Float[Array, "P 4"], Int[Array, "P"]]:
    """Targets of one image: offsets [P, 4] and labels [P] int32 of the ground truth matched to each prior.

    Rows with label 0 are padding. A prior without a match has label 0 and offsets 0.
    """
    check_shape("gt_labels", gt_labels, len(gt_corners))
    gt_corners, gt_labels = jnp.asarray(gt_corners), jnp.asarray(gt_labels)
    index = match(gt_corners, gt_labels > BACKGROUND, priors, threshold=threshold)  # [P]
    if len(gt_corners) == 0:
        return jnp.zeros((len(index), 4)), jnp.full(len(index), BACKGROUND, jnp.int32)
    matched = index >= 0
    offsets = encode(gt_corners[index], priors, variances=variances)
    labels = jnp.where(matched, gt_labels[index], BACKGROUND)
    return jnp.where(matched[:, None], offsets, 0), labels.astype(jnp.int32)


def _bipartite(overlap):
    """The prior [G] that each ground truth gets for its own in greedy order; P = none.

    The others can take at most G - 1 priors, so each ground truth's best G are all it may need. A pair that is each
    other's best among the free ones comes before every other pair of the two in greedy order: all such pairs are
    taken at once, and again among the rest, until none is left.
    """
    ground_truths, priors = overlap.shape
    best, candidates = jax.lax.top_k(overlap, min(ground_truths, priors))  # [G, K], [G, K]

    def step(state):
        own, free, _ = state
        alone = own == priors  # [G]
        largest, place = _max_and_place(jnp.where(alone[:, None] & free[candidates], best, 0), axis=1)  # [G], [G]
        choice = candidates[jnp.arange(ground_truths), place]  # [G]
        _, suitor = _max_and_place(jnp.where(alone[:, None], overlap[:, choice], 0), axis=0)  # [G]
        mutual = (suitor == jnp.arange(ground_truths)) & (largest > 0)
        own = jnp.where(mutual, choice, own)
        free = free.at[jnp.where(mutual, choice, priors)].set(False, mode="drop")
        return own, free, jnp.any(mutual)

    start = jnp.full(ground_truths, priors), jnp.ones(priors, bool), True
    return jax.lax.while_loop(lambda state: state[2], step, start)[0]


def _max_and_place(x, axis):
    """Maximum along an axis and its first place, int32; two plain reductions, which on a CPU beat argmax."""
    largest = jnp.max(x, axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.min(jnp.where(x == largest, place, x.shape[axis]), axis=axis)
    return jnp.squeeze(largest, axis), first
