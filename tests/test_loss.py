import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import loss


def slow_hard_negatives(loss, positive, ratio):
    """Sort the negatives by loss, largest first, and choose the first ratio * positives."""
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
    """Compute (loc_sum, conf_sum, n_positive) prior by prior, in Python's float64."""
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


def test_the_gradient_is_softmax_minus_one_hot_of_the_chosen_priors():
    offsets, logits, targets, labels = scene(3)
    by_offsets, by_logits = jax.jit(
        jax.grad(lambda o, z: sum(loss.multibox_loss(o, z, targets, labels)[:2]), argnums=(0, 1))
    )(offsets, logits)
    positive = labels > 0
    entropy = [slow_cross_entropy(z, l) for z, l in zip(logits.tolist(), labels.tolist(), strict=True)]
    chosen = positive | slow_hard_negatives(entropy, positive, 3)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(by_logits, chosen[:, None] * (softmax - np.eye(4)[labels]), atol=1e-6)
    np.testing.assert_allclose(by_offsets, positive[:, None] * np.clip(offsets - targets, -1, 1), atol=1e-6)


def test_the_second_derivative_exists():
    logits, label = np.float32([[1, 2, 3]]), np.array([1])
    softmax = np.exp(logits[0]) / np.exp(logits[0]).sum()
    hessian = jax.hessian(lambda z: loss.cross_entropy(z, label)[0])(logits)[0, :, 0]
    np.testing.assert_allclose(hessian, np.diag(softmax) - np.outer(softmax, softmax), atol=1e-6)


LARGE = np.float32([0, 1, -1, 100, -100, 1e9, 3e38, -3e38])


def test_any_finite_input_gives_finite_sums_and_gradients():
    rng = np.random.default_rng(0)
    offsets, targets, logits = (rng.choice(LARGE, (200, 4)) for _ in range(3))
    labels = (np.arange(200) % 10 == 0).astype(np.int32)
    value, slopes = jax.jit(
        jax.value_and_grad(lambda o, z, t: sum(loss.multibox_loss(o, z, t, labels)[:2]), argnums=(0, 1, 2))
    )(offsets, logits, targets)
    chex.assert_tree_all_finite((value, slopes))


def spoil(array, place, value):
    spoilt = array.copy()
    spoilt[place] = value
    return spoilt


# In scene(3): a matched prior, and an unmatched one whose loss is too small to be chosen.
POSITIVE_3 = np.flatnonzero(scene(3)[3])[0]
EASY_3 = np.argmax(scene(3)[1][:, 0] - scene(3)[1][:, 1:].max(axis=1) - 100 * (scene(3)[3] > 0))
ANYWHERE = {
    "everywhere": np.s_[:],
    "one class": np.s_[:, 1],
    "all of a positive": np.s_[POSITIVE_3],
    "one of a positive": np.s_[POSITIVE_3, 2],
    "background of a positive": np.s_[POSITIVE_3, 0],
    "all of an easy negative": np.s_[EASY_3],
    "one of an easy negative": np.s_[EASY_3, 1],
}


@pytest.mark.parametrize("positives", [12, 0])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("place", ANYWHERE.values(), ids=ANYWHERE)
def test_a_prediction_that_is_not_finite_shows_in_the_loss_and_in_the_norm_of_the_gradient(place, value, positives):
    offsets, logits, targets, labels = scene(3)
    labels = labels if positives else 0 * labels
    for predictions in ((spoil(offsets, place, value), logits), (offsets, spoil(logits, place, value))):
        sums, slopes = loss_and_slopes(*predictions, targets, labels)
        assert not np.isfinite(sums[0] + sums[1])
        for total, predicted, slope in zip(sums, predictions, slopes, strict=True):
            assert np.isfinite(total) == np.isfinite(predicted).all()
            assert np.isfinite(np.linalg.norm(slope)) == np.isfinite(predicted).all()


@jax.jit
def loss_and_slopes(offsets, logits, targets, labels):
    def total(offsets, logits):
        sums = loss.multibox_loss(offsets, logits, targets, labels)[:2]
        return sum(sums), sums

    slopes, sums = jax.grad(total, argnums=(0, 1), has_aux=True)(offsets, logits)
    return sums, slopes


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_smooth_l1_of_a_value_that_is_not_finite_is_not_finite(value):
    assert not np.isfinite(loss.smooth_l1(np.float32(value)))
    assert not np.isfinite(jax.grad(loss.smooth_l1)(np.float32(value)))


def test_hard_negatives_chooses_an_infinite_loss_before_any_finite_one():
    losses = np.float32([3e38, np.inf, 2e9, 1e9, 0])
    np.testing.assert_array_equal(loss.hard_negatives(losses, np.arange(5) == 4, 1), np.arange(5) == 1)


def test_hard_negatives_of_any_floats_are_ordered_as_numbers():
    losses = np.float32([0.0, -0.0, 2e-38, -2e-38, 1e9, -1e9, 1, -1, 1.0000001, 3])
    for positives in range(1, 4):
        positive = np.arange(10) >= 10 - positives
        np.testing.assert_array_equal(
            loss.hard_negatives(losses, positive, 2), slow_hard_negatives(losses, positive, 2)
        )


def test_if_there_are_too_few_negatives_all_are_chosen_once():
    positive = np.arange(10) < 7
    np.testing.assert_array_equal(loss.hard_negatives(np.zeros(10, np.float32), positive, 3), ~positive)


def test_the_number_of_negatives_is_rounded_down():
    positive = np.arange(20) < 3
    mask = loss.hard_negatives(np.arange(20, dtype=np.float32), positive, 2.5)
    np.testing.assert_array_equal(mask, np.arange(20) >= 13)


def test_bfloat16_predictions_are_summed_in_float32():
    offsets, logits, targets, labels = scene(5)
    halves = jnp.asarray(offsets, jnp.bfloat16), jnp.asarray(logits, jnp.bfloat16)
    sums = loss.multibox_loss(*halves, targets, labels)
    assert sums[0].dtype == sums[1].dtype == jnp.float32
    wide = [half.astype(jnp.float32) for half in halves]
    np.testing.assert_array_equal(sums, loss.multibox_loss(*wide, targets, labels))
    np.testing.assert_allclose(sums, loss.multibox_loss(offsets, logits, targets, labels), rtol=2e-2)


def test_a_batch_is_its_images():
    scenes = [scene(seed, positives=positives) for seed, positives in enumerate((0, 3, 60))]
    batch = [np.stack(arrays) for arrays in zip(*scenes, strict=True)]
    together = jax.jit(jax.vmap(loss.multibox_loss))(*batch)
    single = jax.jit(loss.multibox_loss)
    for i, arguments in enumerate(scenes):
        np.testing.assert_allclose([x[i] for x in together], single(*arguments), rtol=1e-6)


def test_wrong_shapes_are_named():
    offsets, logits, targets, labels = scene(0)
    with pytest.raises(ValueError, match=r"logits must have shape \[200, C\]; got \[199, 4\]"):
        loss.multibox_loss(offsets, logits[1:], targets, labels)
    with pytest.raises(ValueError, match=r"offsets must have shape \[P, 4\]; got \[1, 200, 4\]"):
        loss.multibox_loss(offsets[None], logits[None], targets[None], labels[None])
    with pytest.raises(ValueError, match=r"positive must have shape \[200\]; got \[100\]"):
        loss.hard_negatives(logits[:, 0], labels[:100] > 0, 3)
