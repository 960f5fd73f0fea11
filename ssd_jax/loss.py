"""Training objectives: sums and counts of one image.

SSD's is from its section 2.2, eq. 1-3, and Caffe's MultiBoxLoss; RetinaNet's from arXiv:1708.02002, section 3.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ssd_jax.box import BACKGROUND, IGNORED, assign
from ssd_jax.box.numerics import Array, Bool, Float, Int, Real, Scalar, check_shape, varying_as, widen


@jax.jit
def smooth_l1(x: Real[Array, "*n"]) -> Float[Array, "*n"]:
    """Compute 0.5 x^2 where |x| < 1, else |x| - 0.5, elementwise (Fast R-CNN, arXiv:1504.08083, eq. 3).

    A value that is not finite gives NaN.
    """
    _, x = widen(jnp.asarray(x), infinite_to_nan=True)
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5)


@jax.jit
def hard_negatives(loss: Real[Array, "P"], positive: Bool[Array, "P"], ratio: Scalar = 3) -> Bool[Array, "P"]:
    """Choose the negatives of the largest loss: `ratio` for each positive, or all if there are fewer.

    Of equal losses the first are chosen. The plain form sorts twice:

        rank = argsort(argsort(where(positive, inf, -loss)))
        return (rank < ratio * sum(positive)) & ~positive

    A search for the smallest chosen loss, bit by bit, finds the same; on a CPU it takes a thirtieth of the time.

    Args:
      loss: the confidence loss of each prior [P].
      positive: which priors are matched [P].
      ratio: negatives per positive; the count is rounded down.

    Returns:
      Mask [P] of the chosen negatives.
    """
    check_shape("loss", loss, "P")
    check_shape("positive", positive, len(loss))
    loss, positive = jnp.asarray(loss).astype(jnp.float32), jnp.asarray(positive).astype(bool)
    positives, negatives = jnp.sum(positive, dtype=jnp.int32), jnp.sum(~positive, dtype=jnp.int32)
    count = jnp.minimum((ratio * positives.astype(jnp.float32)).astype(jnp.int32), negatives)
    rank = jnp.where(positive, 0, _sortable(jax.lax.stop_gradient(loss)))  # [P]
    rank = jax.lax.optimization_barrier(rank)  # computed again for each use, it could be rounded in two ways
    zero = varying_as(rank, jnp.uint32(0))
    threshold = _last(32, zero, lambda t: jnp.sum(rank >= t, dtype=jnp.int32) >= count)  # the smallest chosen rank
    above = rank > threshold
    tied = ~positive & (rank == threshold)  # of these the first ones are chosen
    place = jnp.arange(len(loss), dtype=jnp.uint32)
    missing = count - jnp.sum(above, dtype=jnp.int32)
    end = _last(len(loss).bit_length(), zero, lambda t: jnp.sum(tied & (place < t), dtype=jnp.int32) <= missing)
    return above | (tied & (place < end))


@jax.jit
def multibox_loss(
    offsets: Real[Array, "P 4"],
    logits: Real[Array, "P C"],
    target_offsets: Real[Array, "P 4"],
    target_labels: Int[Array, "P"],
    *,
    negative_ratio: Scalar = 3,
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """Compute the sums of one image's losses; divide them by the positives of the whole batch, at least 1.

    Finite predictions saturate at +-1e9, so that sums and gradients stay finite. If a prediction is infinite or NaN,
    its sum is NaN and so is its gradient, even where its prior is not chosen: a training loop that stops on a loss or
    a norm of the gradient that is not finite then notices that the network diverged.

    Args:
      offsets: predicted offsets from the priors [P, 4].
      logits: predicted class scores [P, C] before the softmax.
      target_offsets: offsets of the matched ground truth [P, 4], as from `box.assign`.
      target_labels: its labels [P], 0 where a prior has no match; a label that is not in [0, C) makes conf_sum NaN.
      negative_ratio: negatives per positive that count in the confidence loss, those of the largest loss first.

    Returns:
      loc_sum float32, smooth L1 over the positives; conf_sum float32, softmax cross-entropy over the positives and
      the chosen negatives; n_positive int32. All are 0 for an image without positives.
    """
    offsets, logits, target_offsets, target_labels = _checked(offsets, logits, target_offsets, target_labels)
    positive = target_labels > BACKGROUND  # [P]
    error = jnp.sum(smooth_l1(offsets - target_offsets), axis=1)  # [P]
    entropy = cross_entropy(logits, target_labels)  # [P]
    chosen = positive | hard_negatives(entropy, positive, negative_ratio)
    return _sum_of(error, positive), _sum_of(entropy, chosen), jnp.sum(positive, dtype=jnp.int32)


@jax.jit
def focal_loss(
    logits: Real[Array, "P C"], labels: Int[Array, "P"], *, alpha: Scalar = 0.25, gamma: Scalar = 2.0
) -> Float[Array, "P"]:
    """Sum the focal loss -a (1 - p)^gamma log(p) over the classes of each prior (arXiv:1708.02002, eq. 5).

    Each class is a question of its own, with the probability sigmoid(logit); p is the probability of the right
    answer, and a is `alpha` where it is yes, 1 - `alpha` where it is no. The right answer of the background's column
    is always no, as in torchvision, so that its score vanishes.

    Args:
      logits: [P, C].
      labels: [P] in [0, C), or -1 (`IGNORED`), which costs nothing; any other label gives NaN.
      alpha: weight of the right class, in [0, 1].
      gamma: at least 0; how much less easy answers count. 0 gives the cross-entropy, balanced by alpha.

    Returns:
      [P].
    """
    check_shape("logits", logits, "P", "C")
    check_shape("labels", labels, len(logits))
    _, logits, alpha, gamma = widen(jnp.asarray(logits), scalars=(alpha, gamma), infinite_to_nan=True)
    labels = jnp.asarray(labels)
    column = jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]
    is_label = (labels[:, None] == column) & (column > BACKGROUND)  # [P, C]
    right = jnp.where(is_label, logits, -logits)  # log(p / (1 - p)); so 1 - p = exp(-softplus(right))
    weight = jnp.where(is_label, alpha, 1 - alpha)
    loss = weight * jnp.exp(-gamma * jax.nn.softplus(right)) * jax.nn.softplus(-right)
    loss = jnp.sum(loss, axis=1)
    known = (labels >= IGNORED) & (labels < logits.shape[1])
    return jnp.where(known, jnp.where((labels == IGNORED) & ~jnp.isnan(loss), 0, loss), jnp.nan)


@jax.jit
def retina_loss(
    offsets: Real[Array, "P 4"],
    logits: Real[Array, "P C"],
    target_offsets: Real[Array, "P 4"],
    target_labels: Int[Array, "P"],
    *,
    alpha: Scalar = 0.25,
    gamma: Scalar = 2.0,
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, ""]]:
    """Compute the sums of RetinaNet's losses for one image, in the way of `multibox_loss`.

    Args:
      offsets: as in `multibox_loss`.
      logits: predicted class scores [P, C] before the sigmoid.
      target_offsets: as in `multibox_loss`.
      target_labels: as in `focal_loss`.
      alpha: as in `focal_loss`.
      gamma: as in `focal_loss`.

    Returns:
      loc_sum float32, smooth L1 over the positives; conf_sum float32, the focal loss over all priors that are not
      ignored; n_positive int32.
    """
    offsets, logits, target_offsets, target_labels = _checked(offsets, logits, target_offsets, target_labels)
    positive = target_labels > BACKGROUND  # [P]
    error = jnp.sum(smooth_l1(offsets - target_offsets), axis=1)  # [P]
    focal = focal_loss(logits, target_labels, alpha=alpha, gamma=gamma)  # [P]
    return _sum_of(error, positive), jnp.sum(focal), jnp.sum(positive, dtype=jnp.int32)


@dataclasses.dataclass(frozen=True)
class Objective:
    """How a network is trained: `assign` makes its targets, `loss` compares its predictions with them."""

    assign: Callable[..., tuple[jax.Array, jax.Array]]
    loss: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


# By how a network's logits become scores. RetinaNet ignores priors whose IoU is between 0.4 and 0.5.
OBJECTIVES = {
    "softmax": Objective(assign, multibox_loss),
    "sigmoid": Objective(partial(assign, ignore_threshold=0.4), retina_loss),
}


def _checked(offsets: Any, logits: Any, target_offsets: Any, target_labels: Any) -> tuple[jax.Array, ...]:
    """Check the shapes of predictions and targets, and return them in float32; what is infinite becomes NaN."""
    check_shape("offsets", offsets, "P", 4)
    check_shape("logits", logits, len(offsets), "C")
    check_shape("target_offsets", target_offsets, *offsets.shape)
    check_shape("target_labels", target_labels, len(offsets))
    _, *floats = widen(jnp.asarray(offsets), logits, target_offsets, infinite_to_nan=True)
    return *floats, jnp.asarray(target_labels)


def _sum_of(values: jax.Array, chosen: jax.Array) -> jax.Array:
    """Sum the chosen values [P]. One that is not a number always counts, so that no divergence is masked."""
    return jnp.sum(jnp.where(chosen | jnp.isnan(values), values, 0))


@jax.custom_jvp
def cross_entropy(logits: Float[Array, "P C"], labels: Int[Array, "P"]) -> Float[Array, "P"]:
    """Compute -log softmax(logits)[label] [P] of logits [P, C]; NaN for a label that is not in [0, C)."""
    return jax.nn.logsumexp(logits, axis=1) - _chosen(logits, labels)


@cross_entropy.defjvp
def _cross_entropy_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """Use softmax - one-hot as the gradient: one pass, where the gradient of the gather would be a scatter."""
    logits, labels = primals
    normaliser, chosen = jax.nn.logsumexp(logits, axis=1), _chosen(logits, labels)
    is_label = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]  # [P, C]
    slope = jnp.exp(logits - normaliser[:, None]) - is_label.astype(logits.dtype)
    slope = slope + 0 * chosen[:, None]  # NaN for a label that is not in [0, C)
    return normaliser - chosen, jnp.sum(slope * tangents[0], axis=1)


def _chosen(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Take the logit of each label; NaN for a label that is not in [0, C)."""
    labels = jnp.where(labels < 0, logits.shape[1], labels)  # a negative index would count from the end
    return jnp.take_along_axis(logits, labels[:, None], axis=1, mode="fill", fill_value=jnp.nan)[:, 0]


def _last(bits: int, zero: jax.Array, holds: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Search the largest integer of `bits` bits for which `holds`, bit by bit from the highest.

    `holds` must be true up to that integer and false above it. `zero` is a uint32 0, see `varying_as`.
    """

    def set_bit(i: jax.Array, found: jax.Array) -> jax.Array:
        candidate = found | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, bits, set_bit, zero)


def _sortable(x: jax.Array) -> jax.Array:
    """Map float32 to uint32 above 0 in the same order; -0 and 0 become equal."""
    sign = jnp.uint32(1 << 31)
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    bits = jnp.where(bits == sign, 0, bits)  # -0 to 0
    return jnp.where(bits >= sign, ~bits, bits | sign)
