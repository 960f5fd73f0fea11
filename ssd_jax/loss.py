"""SSD's training objective as sums and counts of one image (SSD, section 2.2, eq. 1-3; Caffe's MultiBoxLoss)."""

import jax
import jax.numpy as jnp

from ssd_jax.box import BACKGROUND
from ssd_jax.box.numerics import Array, Bool, Float, Int, Real, Scalar, check_shape, varying_as, widen


@jax.jit
def smooth_l1(x: Real[Array, "*n"]) -> Float[Array, "*n"]:
    """0.5 x^2 where |x| < 1, else |x| - 0.5, elementwise (Fast R-CNN, arXiv:1504.08083, eq. 3)."""
    _, x = widen(jnp.asarray(x), infinite_to_nan=True)
    size = jnp.abs(x)
    return jnp.where(size < 1, 0.5 * size**2, size - 0.5)


@jax.jit
def hard_negatives(loss: Real[Array, "P"], positive: Bool[Array, "P"], ratio: Scalar = 3) -> Bool[Array, "P"]:
    """Mask [P] of the min(ratio * positives, negatives) negatives of the largest loss; ties as in a stable sort."""
    check_shape("loss", loss, "P")
    check_shape("positive", positive, len(loss))
    loss, positive = jnp.asarray(loss).astype(jnp.float32), jnp.asarray(positive).astype(bool)
    positives, negatives = jnp.sum(positive, dtype=jnp.int32), jnp.sum(~positive, dtype=jnp.int32)
    count = jnp.minimum((ratio * positives.astype(jnp.float32)).astype(jnp.int32), negatives)
    rank = jnp.where(positive, 0, _sortable(jax.lax.stop_gradient(loss)))  # [P]
    rank = jax.lax.optimization_barrier(rank)  # computed again for each use, it could be rounded in two ways
    zero = varying_as(rank, jnp.uint32(0))
    threshold = _last(32, zero, lambda t: jnp.sum(rank >= t, dtype=jnp.int32) >= count)
    above = rank > threshold
    tied = ~positive & (rank == threshold)
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
    """Sums of one image, to be divided by the number of positives (at least 1) of the whole batch.

    Finite predictions saturate at +-1e9, so that sums and gradients stay finite. If any prediction is infinite or
    NaN, its sum is NaN and so is its own gradient, even where its prior is not chosen: a training loop that stops on
    a loss or a gradient's norm that is not finite then notices that the network diverged.

    Args:
      offsets: predicted offsets from the priors.
      logits: predicted class scores before the softmax; class 0 is the background.
      target_offsets: offsets of the matched ground truth, as from `box.assign`.
      target_labels: its labels, 0 where nothing is matched; one that is not in [0, C) makes the sum NaN.
      negative_ratio: negatives per positive that enter the confidence loss, hardest first.

    Returns:
      loc_sum float32, smooth L1 over the positives; conf_sum float32, softmax cross-entropy over the positives and
      the mined negatives; n_positive int32. An image without positives gives zeros, and no negatives.
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
    # A prior whose prediction is not finite counts wherever it is, so that no divergence stays unseen.
    loc_sum = jnp.sum(jnp.where(positive | jnp.isnan(error), error, 0))
    conf_sum = jnp.sum(jnp.where(chosen | jnp.isnan(entropy), entropy, 0))
    return loc_sum, conf_sum, jnp.sum(positive, dtype=jnp.int32)


@jax.custom_jvp
def cross_entropy(logits, labels):
    """-log softmax(logits)[label], [P], of logits [P, C] and labels [P]; NaN for a label that is not in [0, C)."""
    return jax.nn.logsumexp(logits, axis=1) - _chosen(logits, labels)


@cross_entropy.defjvp
def _cross_entropy_jvp(primals, tangents):
    """softmax - one-hot in one pass, where the gather's own gradient would be a scatter."""
    logits, labels = primals
    normaliser, chosen = jax.nn.logsumexp(logits, axis=1), _chosen(logits, labels)
    is_label = labels[:, None] == jnp.arange(logits.shape[1], dtype=labels.dtype)[None, :]  # [P, C]
    slope = jnp.exp(logits - normaliser[:, None]) - is_label.astype(logits.dtype)
    slope = slope + 0 * chosen[:, None]  # NaN where the label is none
    return normaliser - chosen, jnp.sum(slope * tangents[0], axis=1)


def _chosen(logits, labels):
    """The logit of each label; NaN where it has none."""
    beyond = jnp.where(labels < 0, logits.shape[1], labels)  # which would count from the end
    return jnp.take_along_axis(logits, beyond[:, None], axis=1, mode="fill", fill_value=jnp.nan)[:, 0]


def _last(bits, zero, holds):
    """The largest integer of so many bits for which `holds`, which is true from `zero` up to it and false beyond."""

    def step(i, found):
        candidate = found | (jnp.uint32(1) << (bits - 1 - i).astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, found)

    return jax.lax.fori_loop(0, bits, step, zero)


def _sortable(x):
    """float32 as uint32, above 0 and in the same order; -0 and 0 are equal."""
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), jnp.uint32)
    negative = bits >> jnp.uint32(31) == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))
