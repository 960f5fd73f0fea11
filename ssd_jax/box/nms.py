"""Non-maximum suppression with static shapes (Caffe's DetectionOutput; Soft-NMS, arXiv:1704.04503)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssd_jax.box.geometry import broadcast_iou, iou, upright
from ssd_jax.box.numerics import Array, Bool, Float, Int, Real, Scalar, check_shape, varying_as, widen

# Boxes that suppression decides on at a time. The work ends with the block of the last candidate above the score
# threshold, and only overlaps [K, BLOCK], not [K, K], are in memory at once.
BLOCK = 50

Decay = Callable[[jax.Array], jax.Array]  # a factor for the score, from the IoU with the box that is taken


@functools.partial(jax.jit, static_argnames=("max_candidates",))
def non_max_suppression(
    corners: Real[Array, "n 4"],
    scores: Real[Array, "n"],
    *,
    iou_threshold: Scalar,
    score_threshold: Scalar,
    max_candidates: int,
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """Suppress boxes of one class that overlap a better one.

    The candidates are the best `max_candidates` boxes whose score exceeds `score_threshold`; equal scores stay in
    their order. A candidate is dropped if its IoU with a better one that stays exceeds `iou_threshold`.

    Args:
      corners: boxes [n, 4].
      scores: their scores [n].
      iou_threshold: largest IoU of two boxes that both stay.
      score_threshold: scores up to this one are no candidates.
      max_candidates: number of candidates at most.

    Returns:
      order [k] int32, the candidates' places in `corners`, best first, k = min(max_candidates, n);
      keep [k] bool, which of them stay.
    """
    check_shape("corners", corners, "n", 4)
    check_shape("scores", scores, len(corners))
    _, corners, scores = widen(jnp.asarray(corners), scores)
    scores, order = _candidates(scores, score_threshold, max_candidates)
    return order, _greedy(corners[order], scores > -jnp.inf, iou_threshold)


@functools.partial(jax.jit, static_argnames=("max_candidates", "max_detections"))
def multiclass_nms(
    boxes: Real[Array, "P 4"],
    scores: Real[Array, "P C"],
    *,
    score_threshold: Scalar = 0.01,
    max_candidates: int = 400,
    iou_threshold: Scalar = 0.45,
    max_detections: int = 200,
) -> tuple[Float[Array, "D 4"], Float[Array, "D"], Int[Array, "D"]]:
    """Make the detections of one image: non-maximum suppression in each class, then the best of all classes.

    The defaults are those of Caffe's SSD (ssd_pascal.py).

    Args:
      boxes: corners [P, 4].
      scores: probabilities [P, C]; column 0 is the background and is not used.
      score_threshold: scores up to this one are no candidates.
      max_candidates: number of candidates of a class at most.
      iou_threshold: largest IoU of two boxes of a class that both stay.
      max_detections: D, the number of rows of the results.

    Returns:
      corners [D, 4], scores [D] and labels [D] int32, best first, D = max_detections; missing rows are 0.
    """
    check_shape("boxes", boxes, "P", 4)
    check_shape("scores", scores, len(boxes), "C")
    _, boxes, scores = widen(jnp.asarray(boxes), scores)

    def of_class(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores, order = _candidates(scores, score_threshold, max_candidates)
        keep = _greedy(boxes[order], scores > -jnp.inf, iou_threshold)
        return jnp.where(keep, scores, -jnp.inf), order

    scores, order = jax.vmap(of_class, in_axes=1)(scores[:, 1:])  # [C - 1, K]
    classes, candidates = scores.shape
    count = min(max_detections, classes * candidates)
    best, place = jax.lax.top_k(scores.ravel(), count)
    exists = best > -jnp.inf
    padding = (0, max_detections - count)
    return (
        jnp.pad(jnp.where(exists[:, None], boxes[order.ravel()[place]], 0), (padding, (0, 0))),
        jnp.pad(jnp.where(exists, best, 0), padding),
        jnp.pad(jnp.where(exists, 1 + place // max(candidates, 1), 0), padding).astype(jnp.int32),
    )


def gaussian_decay(sigma: Scalar = 0.5) -> Decay:
    """Return the decay exp(-iou^2 / sigma) for `soft_nms`."""
    return lambda overlap: jnp.exp(-(overlap**2) / sigma)


def linear_decay(iou_threshold: Scalar = 0.3) -> Decay:
    """Return a decay for `soft_nms`: 1 - iou where the IoU exceeds the threshold, else 1."""
    return lambda overlap: jnp.where(overlap > iou_threshold, 1 - overlap, 1)


@functools.partial(jax.jit, static_argnames=("decay", "max_candidates"))
def soft_nms(
    corners: Real[Array, "n 4"],
    scores: Real[Array, "n"],
    *,
    decay: Decay | None = None,
    score_threshold: Scalar = 0.001,
    max_candidates: int = 400,
) -> tuple[Int[Array, "k"], Float[Array, "k"]]:
    """Lower the scores of boxes of one class that overlap a better one: Soft-NMS (arXiv:1704.04503, fig. 2).

    The best box is taken and the scores of the others are multiplied by `decay(IoU with it)`, until none is left.

    Args:
      corners: boxes [n, 4].
      scores: their scores [n].
      decay: the factor of a score for an IoU; by default `gaussian_decay(0.5)`. Each function object is compiled
        anew, so make it once.
      score_threshold: boxes whose score does not exceed this are not considered.
      max_candidates: number of boxes considered at most, best first.

    Returns:
      order [k] int32, places in `corners` in the order in which boxes are taken, k = min(max_candidates, n);
      scores [k] after the decay, descending, 0 where they do not exceed `score_threshold`. If fewer than k boxes are
      considered, the last scores are 0 and the last places have no meaning.
    """
    check_shape("corners", corners, "n", 4)
    check_shape("scores", scores, len(corners))
    _, corners, scores = widen(jnp.asarray(corners), scores)
    scores, order = _candidates(scores, score_threshold, max_candidates)
    if len(order) == 0:
        return order, scores
    factor = (decay or gaussian_decay())(iou(corners[order], corners[order]))  # [K, K]

    def take(state, _):
        scores, left = state
        best = jnp.argmax(jnp.where(left, scores, -jnp.inf))
        taken = best, jnp.where(left[best], scores[best], 0)
        return (scores * factor[best], left.at[best].set(False)), taken

    left = scores > -jnp.inf
    _, (taken, scores) = jax.lax.scan(take, (jnp.where(left, scores, 0), left), length=len(order))
    return order[taken], jnp.where(scores > score_threshold, scores, 0)


def _candidates(scores: jax.Array, score_threshold: Scalar, max_candidates: int) -> tuple[jax.Array, jax.Array]:
    """Return the best scores [K], -inf where they do not exceed the threshold, and their places [K]."""
    scores = jnp.where(scores > score_threshold, scores, -jnp.inf)
    best, order = jax.lax.top_k(scores, min(max_candidates, len(scores)))
    return best, order


def _greedy(corners: jax.Array, valid: jax.Array, iou_threshold: Scalar) -> jax.Array:
    """Say which boxes [K] greedy suppression keeps; they are sorted, best first, and the valid ones come first.

    The plain form visits one box after the other:

        keep = valid
        for i in range(K):
            keep &= ~(keep[i] & (iou[i] > iou_threshold) & (arange(K) > i))

    Here a block of boxes is decided at a time.
    """
    corners, valid = jax.lax.stop_gradient(corners), jax.lax.stop_gradient(valid)
    count = len(corners)
    if count == 0:
        return valid
    block = min(BLOCK, count)
    padding = (0, -count % block)
    sides = jnp.pad(jnp.stack(upright(corners)), ((0, 0), padding))  # [4, K]
    valid = jnp.pad(valid, padding)

    def step(state):
        keep, start = state
        here = jax.lax.dynamic_slice_in_dim(sides, start, block, axis=1)  # [4, T]
        overlaps = broadcast_iou(sides[:, :, None], here[:, None, :]) > iou_threshold  # [K, T]
        free = jax.lax.dynamic_slice_in_dim(valid, start, block) & ~jnp.any(overlaps & keep[:, None], axis=0)
        overlaps = broadcast_iou(here[:, :, None], here[:, None, :]) > iou_threshold  # [T, T]
        keep = jax.lax.dynamic_update_slice_in_dim(keep, _fixed_point(overlaps, free), start, 0)
        return keep, start + block

    start = varying_as(sides, (jnp.zeros(len(valid), bool), jnp.int32(0)))
    keep, _ = jax.lax.while_loop(lambda state: state[1] < jnp.sum(valid, dtype=jnp.int32), step, start)
    return keep[:count]


def _fixed_point(overlaps: jax.Array, free: jax.Array) -> jax.Array:
    """Solve for keep [T]: a box is kept if it is free and no better box that is kept overlaps it.

    Boxes are sorted, best first, so that there is one solution. Each round decides at least one more box, in their
    order; in practice a few rounds decide all.
    """
    better = jnp.triu(jnp.ones_like(overlaps), 1)

    def step(state):
        keep, _ = state
        again = free & ~jnp.any(overlaps & better & keep[:, None], axis=0)
        return again, jnp.any(again != keep)

    return jax.lax.while_loop(lambda state: state[1], step, (free, varying_as(overlaps, jnp.asarray(True))))[0]
