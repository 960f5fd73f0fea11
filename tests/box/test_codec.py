import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax import box

PRIORS = box.make_priors(box.linear_spec(64, (4, 2, 1)))


def corners(seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-0.2, 0.9, (len(PRIORS), 2))
    return np.concatenate([low, low + rng.uniform(0.01, 1, low.shape)], axis=1).astype(np.float32)


def test_encode_by_hand():
    priors = np.float32([[0.5, 0.5, 0.2, 0.4]])
    moved = box.center_to_corner(np.float32([[0.6, 0.3, 0.2 * np.e, 0.4 / np.e]]))
    np.testing.assert_allclose(box.encode(moved, priors), [[5, -5, 5, -5]], rtol=1e-5)
    np.testing.assert_allclose(box.encode(moved, priors, variances=(1, 1, 1, 1)), [[0.5, -0.5, 1, -1]], rtol=1e-5)


def test_a_prior_is_at_offset_zero():
    np.testing.assert_allclose(box.decode(np.zeros_like(PRIORS), PRIORS), box.center_to_corner(PRIORS), atol=1e-7)


@pytest.mark.parametrize("variances", [box.VARIANCES, (1, 1, 1, 1)])
def test_decode_undoes_encode(variances):
    back = jax.jit(lambda c: box.decode(box.encode(c, PRIORS, variances=variances), PRIORS, variances=variances))(
        corners()
    )
    np.testing.assert_allclose(back, corners(), atol=1e-5)


def test_the_codec_takes_numpy_and_jax():
    host = box.encode(corners(), PRIORS)
    device = jax.jit(box.encode)(corners(), PRIORS)
    assert type(host) is np.ndarray
    np.testing.assert_allclose(host, device, rtol=1e-4, atol=1e-5)
    assert type(box.decode(host, PRIORS)) is np.ndarray
    np.testing.assert_allclose(box.decode(host, PRIORS), jax.jit(box.decode)(host, PRIORS), rtol=1e-5, atol=1e-6)


def test_a_bfloat16_offset_decodes_in_float32():
    offsets = jnp.asarray(box.encode(corners(), PRIORS), jnp.bfloat16)
    boxes = box.decode(offsets, PRIORS)
    assert boxes.dtype == jnp.float32
    np.testing.assert_array_equal(boxes, box.decode(offsets.astype(jnp.float32), PRIORS))


ANY = np.float32(
    [[0, 0, 0, 0], [0.5, 0.5, 0.2, 0.2], [1, 1, 1, 1], [3e38, 3e38, -3e38, 3e38], [-3e38, -3e38, 3e38, 3e38]]
)


@pytest.mark.parametrize("function", [box.encode, box.decode], ids=["encode", "decode"])
def test_the_codec_and_its_gradient_are_finite_for_any_input(function):
    first, second = np.repeat(ANY, len(ANY), axis=0), np.tile(ANY, (len(ANY), 1))
    value, slopes = jax.jit(jax.value_and_grad(lambda x, p: jnp.sum(function(x, p)), argnums=(0, 1)))(first, second)
    chex.assert_tree_all_finite((value, slopes, function(first, second)))


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"corners must have shape \[P, 4\]; got \[1, \d+, 4\]"):
        box.encode(corners()[None], PRIORS)
    with pytest.raises(ValueError, match=r"priors must have shape \[3, 4\]; got \[2, 4\]"):
        box.decode(np.zeros((3, 4), np.float32), PRIORS[:2])
