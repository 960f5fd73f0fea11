import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import loss


def slow_hard_negatives(loss, positive, ratio):
    """Sort the negatives by loss, largest first, and take the first ratio * positives."""
    negatives = [p for p in range(len(loss)) if not positive[p]]
    chosen = sorted(negatives, key=lambda p: -loss[p])[: int(ratio * sum(positive))]
    mask = np.zeros(len(loss), bool)
    mask[chosen] = True
    return mask


def slow_smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def slow_cross_entropy(logits, label):
    largest = max(logits)
    return largest + math.log(sum(math.exp(x - largest) for x in logits)) - logits[label]


def slow_multibox_loss(offsets, logits, target_offsets, target_labels, ratio=3):
    """(loc_sum, conf_sum, n_positive) prior by prior, in Python's float64."""
    positive = [label > 0 for label in target_labels]
    entropy = [
        slow_cross_entropy(row, label) for row, label in zip(logits.tolist(), target_labels.tolist(), strict=True)
    ]
    mined = slow_hard_negatives(entropy, positive, ratio)
    loc = sum(
        slow_smooth_l1(x - t)
        for p in range(len(positive))
        if positive[p]
        for x, t in zip(offsets[p].tolist(), target_offsets[p].tolist(), strict=True)
    )
    conf = sum(entropy[p] for p in range(len(positive)) if positive[p] or mined[p])
    return loc, conf, sum(positive)


def scene(seed, priors=200, classes=4, positives=12):
    rng = np.random.default_rng(seed)
    labels = np.zeros(priors, np.int32)
    labels[rng.choice(priors, positives, replace=False)] = rng.integers(1, classes, positives)
    offsets, targets = rng.normal(0, 1.5, (2, priors, 4)).astype(np.float32)
    logits = rng.normal(0, 2, (priors, classes)).round(1).astype(np.float32)
    return offsets, logits, targets, labels


def test_smooth_l1_in_hand_computed_fractions():
    x = np.float32([-2, -1, -0.5, 0, 0.25, 1, 3])
    np.testing.assert_array_equal(loss.smooth_l1(x), np.float32([3 / 2, 1 / 2, 1 / 8, 0, 1 / 32, 1 / 2, 5 / 2]))
    slope = jax.vmap(jax.grad(loss.smooth_l1))(x)
    np.testing.assert_array_equal(slope, np.float32([-1, -1, -1 / 2, 0, 1 / 4, 1, 1]))


@pytest.mark.parametrize("positives", [0, 1, 12, 49, 50, 51, 200])
def test_multibox_loss_is_the_loop(positives):
    arguments = scene(positives, positives=positives)
    got = jax.jit(loss.multibox_loss)(*arguments)
    assert [g.dtype for g in got] == [jnp.float32, jnp.float32, jnp.int32]
    np.testing.assert_allclose(got, slow_multibox_loss(*arguments), rtol=1e-5)


def test_hard_negatives_is_the_sort_with_ties():
    rng = np.random.default_rng(0)
    mine = jax.jit(loss.hard_negatives, static_argnums=2)
    for positives in (0, 1, 5, 30, 99):
        losses = rng.normal(0, 1, 100).round(1).astype(np.float32)
        positive = np.arange(100) % 100 < positives
        np.testing.assert_array_equal(mine(losses, positive, 3), slow_hard_negatives(losses, positive, 3))


def test_an_image_without_positives_gives_nothing():
    offsets, logits, targets, labels = scene(0)
    np.testing.assert_array_equal(loss.multibox_loss(offsets, logits, targets, 0 * labels), (0, 0, 0))
