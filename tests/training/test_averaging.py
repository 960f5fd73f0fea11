"""The moving average of the weights, against a loop."""

import jax.numpy as jnp
import numpy as np
import pytest

from ssd_jax.training import moving_average


@pytest.mark.parametrize("decay", [0.05, 0.9])
def test_the_average_equals_a_loop(decay):
    values = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    expected, average = values[0].astype(np.float64), {"x": jnp.asarray(values[0])}
    for t, value in enumerate(values[1:]):
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * value
        average = moving_average(average, {"x": jnp.asarray(value)}, decay=decay, step=jnp.int32(t))
    np.testing.assert_allclose(average["x"], expected, rtol=1e-5)


def test_the_decay_is_small_at_the_start_of_a_run():
    # The start is multiplied by 1/10 at step 0, by 2/11 at step 1 and by 3/12 at step 2.
    average = jnp.float32(1.0)
    for t in range(3):
        average = moving_average(average, jnp.float32(0.0), decay=0.9999, step=jnp.int32(t))
    np.testing.assert_allclose(average, 1 / 220, rtol=1e-6)
