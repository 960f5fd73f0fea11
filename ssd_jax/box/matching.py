"""Match ground truth to priors, and make training targets of it (SSD, section 2.2; Caffe's MatchBBox)."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.box.codec import VARIANCES, encode
from ssd_jax.box.geometry import center_to_corner, iou
from ssd_jax.box.numerics import Array, Bool, Float, Int, Real, Scalar, check_shape, varying_as, widen

BACKGROUND = 0
IGNORED = -1  # the label of a prior that is neither an object nor background

# Caffe's bipartite step takes no pair whose overlap does not exceed this.
NO_OVERLAP = 1e-6
# Best priors that a ground truth considers at a time: accelerators find so few of them without a sort.
CHOICES = 8


@jax.jit
def match(
    gt_corners: Real[Array, "G 4"],
    gt_valid: Bool[Array, "G"],
    priors: Real[Array, "P 4"],
    *,
    threshold: Scalar = 0.5,
    ignore_threshold: Scalar | None = None,
) -> Int[Array, "P"]:
    """Match each prior to a ground truth or to none.

    First each ground truth gets a prior of its own, best pair first (greedy bipartite matching); then every free
    prior takes its best ground truth if their IoU is at least `threshold`. Of equal overlaps, the pair with the lower
    prior comes first, then that with the lower ground truth. Ground truth that is not valid, has no area or overlaps
    no prior gets no prior.

    Args:
      gt_corners: ground truth [G, 4].
      gt_valid: which rows of it are no padding [G].
      priors: centers [P, 4].
      threshold: smallest IoU of a match in the second step.
      ignore_threshold: a prior without a match is ignored if its largest IoU is at least this; None ignores none.

    Returns:
      Index [P] int32 of each prior's ground truth, -1 for none, -2 where the prior is ignored.
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
    # A GPU may compute the overlaps again for each use and round them in two ways: then none would equal the maximum.
    overlap = jax.lax.optimization_barrier(overlap)
    largest, best = _max_and_place(overlap, axis=0)  # [P], [P]
    none = jnp.asarray(-1, jnp.int32)
    if ignore_threshold is not None:
        none = jnp.where(largest >= jnp.maximum(ignore_threshold, NO_OVERLAP), -2, none)
    index = jnp.where(largest >= jnp.maximum(threshold, NO_OVERLAP), best, none)
    own = _bipartite(overlap)  # [G]
    return index.at[own].set(jnp.arange(len(own), dtype=jnp.int32), mode="drop")


@jax.jit
def assign(
    gt_corners: Real[Array, "G 4"],
    gt_labels: Int[Array, "G"],
    priors: Real[Array, "P 4"],
    *,
    threshold: Scalar = 0.5,
    ignore_threshold: Scalar | None = None,
    variances: Sequence[Scalar] = VARIANCES,
) -> tuple[Float[Array, "P 4"], Int[Array, "P"]]:
    """Make the training targets of one image.

    Args:
      gt_corners: ground truth [G, 4].
      gt_labels: its labels [G]; rows with label 0 are padding.
      priors: centers [P, 4].
      threshold: smallest IoU of a match, see `match`.
      ignore_threshold: smallest IoU of a prior that is ignored, see `match`.
      variances: scales of the offsets, see `encode`.

    Returns:
      Offsets [P, 4] and labels [P] int32 of the ground truth that each prior is matched to; both are 0 where it is
      matched to none, and the label is -1 (`IGNORED`) where the prior is ignored.
    """
    check_shape("gt_labels", gt_labels, len(gt_corners))
    gt_corners, gt_labels = jnp.asarray(gt_corners), jnp.asarray(gt_labels)
    if len(gt_corners) == 0:  # one row of padding, so that the gathers below have a row to take
        gt_corners, gt_labels = jnp.zeros((1, 4), priors.dtype), jnp.full(1, BACKGROUND, gt_labels.dtype)
    index = match(
        gt_corners, gt_labels > BACKGROUND, priors, threshold=threshold, ignore_threshold=ignore_threshold
    )  # [P]
    matched, row = index >= 0, jnp.maximum(index, 0)
    offsets = encode(gt_corners[row], priors, variances=variances)
    labels = jnp.where(matched, gt_labels[row], jnp.where(index == -2, IGNORED, BACKGROUND))
    return jnp.where(matched[:, None], offsets, 0), labels.astype(jnp.int32)


def _bipartite(overlap: jax.Array) -> jax.Array:
    """Give each ground truth a prior of its own, best pair first: [G] int32, P for none.

    The plain form takes one pair at a time, G times over all of `overlap` [G, P]:

        own = full(G, P)
        for _ in range(G):
            g, p = the first maximum of overlap, in the order of p, then g
            if overlap[g, p] > 0:
                own[g], overlap[g, :], overlap[:, p] = p, 0, 0

    Here all pairs that are each other's best among the free ones are taken at once: in the order above they come
    before every other pair of the two. This repeats until no such pair is left. Each ground truth considers only its
    `CHOICES` best priors, and the next ones only after others have taken all of these.
    """
    ground_truths, priors = overlap.shape
    rows = jnp.arange(ground_truths, dtype=jnp.int32)

    def take_among_best(own: jax.Array, free: jax.Array, left: jax.Array) -> tuple[jax.Array, ...]:
        """Take pairs among the best of the overlaps `left` [G, P]; the last result says whether more can follow."""
        best, candidates = jax.lax.top_k(left, min(CHOICES, priors))  # [G, K], [G, K]

        def take_mutual(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            own, free, _ = state
            alone = own == priors  # [G]
            largest, place = _max_and_place(jnp.where(alone[:, None] & free[candidates], best, 0), axis=1)  # [G], [G]
            choice = candidates[rows, place]  # [G]
            _, suitor = _max_and_place(jnp.where(alone[:, None], overlap[:, choice], 0), axis=0)  # [G]
            mutual = (suitor == rows) & (largest > 0)
            own = jnp.where(mutual, choice, own)
            free = free.at[jnp.where(mutual, choice, priors)].set(False, mode="drop")
            return own, free, jnp.any(mutual)

        own, free, _ = _repeat(take_mutual, (own, free, jnp.any(best > 0)))
        # The last of the best is the smallest, but XLA would fold a slice into top_k and then sort everything.
        return own, free, jnp.any((own == priors) & (jnp.min(best, axis=1) > 0))

    def take_among_next(state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        own, free, _ = state
        return take_among_best(own, free, jnp.where((own == priors)[:, None] & free[None, :], overlap, 0))

    own, free = varying_as(overlap, (jnp.full(ground_truths, priors, jnp.int32), jnp.ones(priors, bool)))
    return _repeat(take_among_next, take_among_best(own, free, overlap))[0]


def _repeat(step: Callable[[Any], Any], state: Any) -> Any:
    """Apply `step` to `state` for as long as the last part of the state is true."""
    return jax.lax.while_loop(lambda state: state[-1], step, state)


def _max_and_place(x: jax.Array, axis: int) -> tuple[jax.Array, jax.Array]:
    """Return the maximum along an axis and its first place, int32; on a CPU two reductions are faster than argmax."""
    largest = jnp.max(x, axis=axis, keepdims=True)
    place = jax.lax.broadcasted_iota(jnp.int32, x.shape, axis)
    first = jnp.min(jnp.where(x == largest, place, x.shape[axis]), axis=axis)
    return jnp.squeeze(largest, axis), first
