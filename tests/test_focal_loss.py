"""RetinaNet's loss: the figures of its paper (arXiv:1708.02002), and a loop over Python's floats."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_loss import LARGE, scene, slow_smooth_l1

from ssd_jax import loss


def slow_focal_loss(logits, label, alpha=0.25, gamma=2.0):
    """Sum over the classes of one prior, by the definition, in Python's float64."""
    total = 0.0
    for column, logit in enumerate(logits):
        probability = 1 / (1 + math.exp(-logit))
        yes = column == label and column > 0
        p, a = (probability, alpha) if yes else (1 - probability, 1 - alpha)
        total += -a * (1 - p) ** gamma * math.log(p)
    return 0.0 if label == -1 else total


def slow_retina_loss(offsets, logits, target_offsets, labels, **options):
    positive = [p for p, label in enumerate(labels) if label > 0]
    loc = sum(
        slow_smooth_l1(x - t)
        for p in positive
        for x, t in zip(offsets[p].tolist(), target_offsets[p].tolist(), strict=True)
    )
    return loc, sum(map(lambda z, l: slow_focal_loss(z, l, **options), logits.tolist(), labels)), len(positive)


def logit(p):
    return math.log(p / (1 - p))


@pytest.mark.parametrize("options", [{}, {"alpha": 0.5, "gamma": 0.0}, {"alpha": 0.75, "gamma": 0.5}])
@pytest.mark.parametrize("positives", [0, 12, 200])
def test_the_loss_is_the_loop(positives, options):
    offsets, logits, targets, labels = scene(positives, positives=positives)
    labels[::7] = -1
    got = loss.retina_loss(offsets, logits, targets, labels, **options)
    assert [g.dtype for g in got] == [jnp.float32, jnp.float32, jnp.int32]
    np.testing.assert_allclose(got, slow_retina_loss(offsets, logits, targets, labels, **options), rtol=1e-5)


def test_without_gamma_it_is_the_balanced_cross_entropy():
    logits = np.random.default_rng(0).normal(0, 3, (50, 3)).astype(np.float32)
    labels = np.arange(50, dtype=np.int32) % 3
    truth = (np.arange(3) == labels[:, None]) & (np.arange(3) > 0)
    entropy = np.where(truth, 0.3 * np.logaddexp(0, -logits), 0.7 * np.logaddexp(0, logits))
    np.testing.assert_allclose(loss.focal_loss(logits, labels, alpha=0.3, gamma=0.0), entropy.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("right", [True, False])
def test_easy_examples_count_less_by_the_papers_factors(right):
    """Section 3.2: with gamma 2, p = 0.9 costs 100 times less, p = 0.968 1000 times; p <= 0.5 at most 4 times."""

    def factor(p):
        logits, label = np.float32([[-50, logit(p) if right else -logit(p)]]), np.array([int(right)])
        entropy, focal = (loss.focal_loss(logits, label, gamma=gamma)[0] for gamma in (0.0, 2.0))
        return float(entropy / focal)

    assert factor(0.9) == pytest.approx(100, rel=1e-4)
    assert factor(0.968) == pytest.approx(1000, rel=0.05)
    assert [1 < factor(p) <= 4 + 1e-4 for p in (0.01, 0.3, 0.5)] == [True] * 3


def test_at_the_prior_probability_the_background_is_cheap():
    """Section 3.3: started at p = 0.01, a prior without an object costs 1.0e-4 * -log(0.99) * 0.75 for each class."""
    logits = np.full((1000, 80), logit(0.01), np.float32)
    started = float(jnp.sum(loss.focal_loss(logits, np.zeros(1000, np.int32))))
    assert started == pytest.approx(1000 * 80 * 0.75 * 0.01**2 * -math.log(0.99), rel=1e-4)
    unbiased = float(jnp.sum(loss.focal_loss(0 * logits, np.zeros(1000, np.int32))))
    assert unbiased / started > 10_000


def test_an_ignored_prior_costs_nothing_and_gets_no_gradient():
    offsets, logits, targets, labels = scene(1)
    labels[:50] = -1
    slopes = jax.grad(lambda o, z: sum(loss.retina_loss(o, z, targets, labels)[:2]), argnums=(0, 1))(offsets, logits)
    for slope in slopes:
        assert not np.any(np.asarray(slope)[:50])
        assert np.any(np.asarray(slope)[50:])


def test_the_gradient_is_that_of_the_loop():
    logits, step = np.random.default_rng(0).normal(0, 2, 4), 1e-5
    for label in (-1, 0, 2):
        slope = jax.grad(lambda z, label=label: loss.focal_loss(z[None], np.array([label]))[0])(np.float32(logits))
        ends = [[slow_focal_loss(logits + sign * step * np.eye(4)[k], label) for sign in (1, -1)] for k in range(4)]
        np.testing.assert_allclose(slope, [(up - down) / (2 * step) for up, down in ends], rtol=1e-3, atol=1e-6)


def test_any_finite_input_gives_finite_sums_and_gradients():
    rng = np.random.default_rng(0)
    offsets, targets, logits = (rng.choice(LARGE, (200, 4)) for _ in range(3))
    labels = rng.integers(-1, 4, 200).astype(np.int32)
    for gamma in (0.0, 0.5, 2.0):
        total = lambda o, z, gamma=gamma: sum(loss.retina_loss(o, z, targets, labels, gamma=gamma)[:2])  # noqa: E731
        value, slopes = jax.value_and_grad(total, argnums=(0, 1))(offsets, logits)
        assert np.isfinite(value) and all(np.isfinite(slope).all() for slope in slopes)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("label", [-1, 0, 1])
def test_a_prediction_that_is_not_finite_is_noticed_at_any_prior(value, label):
    offsets, logits, targets, labels = scene(2)
    labels[3], logits[3, 1] = label, value
    assert np.isnan(loss.retina_loss(offsets, logits, targets, labels)[1])
    offsets[3, 0], logits[3, 1] = value, 0
    assert np.isnan(loss.retina_loss(offsets, logits, targets, labels)[0])


@pytest.mark.parametrize("label", [-2, 4])
def test_a_label_without_a_class_is_noticed(label):
    assert np.isnan(loss.focal_loss(np.zeros((1, 4), np.float32), np.array([label]))[0])


def test_a_batch_is_its_images():
    scenes = [scene(seed, positives=positives) for seed, positives in enumerate((0, 3, 60))]
    together = jax.jit(jax.vmap(loss.retina_loss))(*(np.stack(arrays) for arrays in zip(*scenes, strict=True)))
    for i, arguments in enumerate(scenes):
        np.testing.assert_allclose([x[i] for x in together], loss.retina_loss(*arguments), rtol=1e-5)


def test_wrong_shapes_are_named():
    offsets, logits, targets, labels = scene(0)
    with pytest.raises(ValueError, match=r"logits must have shape \[200, C\]; got \[199, 4\]"):
        loss.retina_loss(offsets, logits[1:], targets, labels)
    with pytest.raises(ValueError, match=r"labels must have shape \[200\]; got \[199\]"):
        loss.focal_loss(logits, labels[1:])
