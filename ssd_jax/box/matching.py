"""Which ground truth each prior answers for (SSD, section 2.2; Caffe's MatchBBox)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ssd_jax.box.codec import VARIANCES, encode
from ssd_jax.box.geometry import center_to_corner, iou
from ssd_jax.box.numerics import Array, Bool, Float, Int, Real, Scalar, check_shape, varying_as, widen

BACKGROUND = 0

# Caffe's bipartite step ignores overlaps that are not above this.
NO_OVERLAP = 1e-6
# Priors that a ground truth looks at together: of so few the accelerators find the best without a sort.
CHOICES = 8


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
    valid = jnp.asarray(gt_valid).astype(bool)
    overlap = jnp.where(valid[:, None] & (overlap > NO_OVERLAP), overlap, 0)
    # Computed again for each use, as a GPU may do, they could be rounded in two ways and equal no maximum.
    overlap = jax.lax.optimization_barrier(overlap)
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
    if len(gt_corners) == 0:  # a row of padding, to have one to index
        gt_corners, gt_labels = jnp.zeros((1, 4), priors.dtype), jnp.full(1, BACKGROUND, gt_labels.dtype)
    index = match(gt_corners, gt_labels > BACKGROUND, priors, threshold=threshold)  # [P]
    matched = index >= 0
    offsets = encode(gt_corners[index], priors, variances=variances)
    labels = jnp.where(matched, gt_labels[index], BACKGROUND)
    return jnp.where(matched[:, None], offsets, 0), labels.astype(jnp.int32)


def _bipartite(overlap):
    """The prior [G] that each ground truth gets for its own in greedy order; P = none.

    A pair that is each other's best among the free ones comes before every other pair of the two in greedy order: all
    such pairs are taken at once, and again among the rest, until none is left. Each ground truth looks at its few
    best priors only, and at the next few where others took all of these.
    """
    ground_truths, priors = overlap.shape
    rows = jnp.arange(ground_truths, dtype=jnp.int32)

    def settle(own, free, left):
        """Take the pairs among the best of what is left, overlaps [G, P]; is there more to be looked at?"""
        best, candidates = jax.lax.top_k(left, min(CHOICES, priors))  # [G, K], [G, K]

        def step(state):
            own, free, _ = state
            alone = own == priors  # [G]
            largest, place = _max_and_place(jnp.where(alone[:, None] & free[candidates], best, 0), axis=1)  # [G], [G]
            choice = candidates[rows, place]  # [G]
            _, suitor = _max_and_place(jnp.where(alone[:, None], overlap[:, choice], 0), axis=0)  # [G]
            mutual = (suitor == rows) & (largest > 0)
            own = jnp.where(mutual, choice, own)
            free = free.at[jnp.where(mutual, choice, priors)].set(False, mode="drop")
            return own, free, jnp.any(mutual)

        own, free, _ = _repeat(step, (own, free, jnp.any(best > 0)))
        # The least of the best is the last; but a slice would be folded into top_k, which then sorts all.
        return own, free, jnp.any((own == priors) & (jnp.min(best, axis=1) > 0))

    def again(state):
        own, free, _ = state
        return settle(own, free, jnp.where((own == priors)[:, None] & free[None, :], overlap, 0))

    nothing = jnp.full(ground_truths, priors, jnp.int32), jnp.ones(priors, bool)
    return _repeat(again, settle(*varying_as(overlap, nothing), overlap))[0]


def _repeat(step, state):
    """Take steps from state to state, for as long as its last part is true."""
    return jax.lax.while_loop(lambda state: state[-1], step, state)


def _max_and_place(x, axis):
    """Maximum along an axis and its first place, int32; two plain reductions, which on a CPU beat argmax."""
    largest = jnp.max(x, axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.min(jnp.where(x == largest, place, x.shape[axis]), axis=axis)
    return jnp.squeeze(largest, axis), first
