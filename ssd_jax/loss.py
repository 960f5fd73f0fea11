"""The training objective of SSD: sums and counts of one image (SSD, section 2.2, eq. 1-3; Caffe's MultiBoxLoss)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ssd_jax.box import BACKGROUND
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
    check_shape("offsets", offsets, "P", 4)
    check_shape("logits", logits, len(offsets), "C")
    check_shape("target_offsets", target_offsets, *offsets.shape)
    check_shape("target_labels", target_labels, len(offsets))
    _, offsets, logits, target_offsets = widen(jnp.asarray(offsets), logits, target_offsets, infinite_to_nan=True)
    target_labels = jnp.asarray(target_labels)
    positive = target_labels > BACKGROUND  # [P]
    error = jnp.sum(smooth_l1(offsets - target_offsets), axis=1)  # [P]
    entropy = cross_entropy(logits, target_labels)  # [P]
    chosen = positive | hard_negatives(entropy, positive, negative_ratio)
    # A prior with a prediction that is not finite always counts, so that no divergence is masked.
    loc_sum = jnp.sum(jnp.where(positive | jnp.isnan(error), error, 0))
    conf_sum = jnp.sum(jnp.where(chosen | jnp.isnan(entropy), entropy, 0))
    return loc_sum, conf_sum, jnp.sum(positive, dtype=jnp.int32)


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
