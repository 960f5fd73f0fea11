import box_oracles as oracles
import jax
import jax.numpy as jnp
import numpy as np

from ssd_jax import box

PRIORS = box.make_priors(box.PriorSpec(64, (8, 4, 1), (8, 16, 64), (10, 22, 40, 60), ((2.0,), (2.0,), (2.0,))))


def pictures(seed, count=24, slots=6):
    """Ground truth [count, slots, 4] with labels, from crowded to empty."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.1, 0.8, (count, slots, 2))
    corners = np.concatenate([low, low + rng.uniform(0.02, 0.6, (count, slots, 2))], axis=-1)
    corners[1::3, 1:] = corners[1::3, :1] + rng.normal(0, 0.01, (len(corners[1::3]), slots - 1, 4))  # heaps
    labels = rng.integers(0, 4, (count, slots))
    labels[2] = 0
    return corners.astype(np.float32), labels.astype(np.int32)


def test_match_is_caffes_greedy_loop():
    corners, labels = pictures(0)
    matched = jax.jit(jax.vmap(lambda c, v: box.match(c, v, PRIORS)))(corners, labels > 0)
    assert matched.dtype == jnp.int32
    for c, l, index in zip(corners, labels, matched, strict=True):
        overlap = box.iou(c, box.center_to_corner(PRIORS))
        np.testing.assert_array_equal(index, oracles.match(overlap, l > 0, 0.5))


def test_assign_gathers_what_match_matched():
    corners, labels = pictures(1)
    offsets, targets = jax.vmap(lambda c, l: box.assign(c, l, PRIORS))(corners, labels)
    assert offsets.dtype == jnp.float32 and targets.dtype == jnp.int32
    for c, l, o, t in zip(corners, labels, offsets, targets, strict=True):
        index = np.asarray(box.match(c, l > 0, PRIORS))
        np.testing.assert_array_equal(t, np.where(index < 0, 0, l[index]))
        back = box.decode(np.asarray(o), PRIORS)
        np.testing.assert_allclose(back[index >= 0], c[index[index >= 0]], atol=1e-5)
        assert not np.any(np.asarray(o)[index < 0])
