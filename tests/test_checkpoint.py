"""What is saved comes back, whole or in part, and nothing else is taken for a checkpoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.training import TrainState

DESCRIPTION = {"model": {"width": 0.5}, "class_names": ["a", "b"]}


def state_of(seed, *, kernel=(3, 4), optimizer=None):
    random = np.random.default_rng(seed)
    params = {
        "loc0": {"conv": {"kernel": jnp.asarray(random.normal(size=kernel), jnp.float32), "bias": jnp.zeros(4)}}
    }
    optimizer = optimizer or tiny.sgd()
    stats = {"mean": jnp.asarray(random.normal(size=2), jnp.float32)}
    return TrainState(step=jnp.asarray(seed), params=params, batch_stats=stats, opt_state=optimizer.init(params))


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, state_of(step), DESCRIPTION)
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        np.testing.assert_array_equal(x, y)


def test_the_newest_are_kept_and_come_back_exactly(saved):
    assert saved.latest() == 3
    assert_equal(saved.restore(3, state_of(0)), state_of(3))
    assert_equal(saved.restore(2, state_of(0)), state_of(2))
    assert saved.description(3) == DESCRIPTION
    assert not (saved.directory / "1").exists()


def test_variables_come_without_the_optimiser(saved):
    variables = saved.restore_variables(3)
    assert_equal(variables, {"params": state_of(3).params, "batch_stats": state_of(3).batch_stats})


def test_a_step_already_there_is_left_as_it_is(saved):
    saved.save(3, state_of(7), DESCRIPTION)
    saved.wait()
    assert_equal(saved.restore(3, state_of(0)), state_of(3))


def test_a_save_cut_short_is_not_a_checkpoint(saved):
    (saved.directory / "4.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    again = Checkpoints(saved.directory)
    assert again.latest() == 3
    again.close()


def test_another_shape_is_one_line_that_names_it(saved):
    with pytest.raises(ValueError) as error:
        saved.restore(3, state_of(0, kernel=(3, 5)))
    assert "another model or optimiser" in str(error.value)
    assert "loc0/conv/kernel has shape (3, 4) in it and shape (3, 5) in this run" in str(error.value)
    assert "\n" not in str(error.value)


def test_another_optimiser_is_one_line(saved):
    with pytest.raises(ValueError, match=r"opt_state/\S+ has nothing in it and shape \(\) in this run"):
        saved.restore(3, state_of(0, optimizer=tiny.adamw()))


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoints: there is no folder .*nowhere"):
        Checkpoints(tmp_path / "nowhere", create=False)
