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
    return TrainState(
        step=jnp.asarray(seed),
        params=params,
        batch_stats=stats,
        opt_state=optimizer.init(params),
        skipped=jnp.zeros((), jnp.int32),
    )


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


@pytest.mark.parametrize("method", ["save", "wait_until_finished", "close"])
def test_a_full_disk_is_one_line_and_leaves_what_is_there(saved, method, monkeypatch):
    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

    ours = {"save": lambda: saved.save(4, state_of(4), DESCRIPTION), "close": saved.close}.get(method, saved.wait)
    with monkeypatch.context() as patched:
        patched.setattr(saved._manager, method, fail)
        with pytest.raises(
            OSError, match=r"^cannot save a checkpoint in .*, those .*: RESOURCE_EXHAUSTED: .* device$"
        ):
            ours()
    assert_equal(saved.restore(3, state_of(0)), state_of(3))


def test_at_least_one_checkpoint_is_kept(tmp_path):
    with pytest.raises(ValueError, match="keep_checkpoints must be at least 1, got 0"):
        Checkpoints(tmp_path, keep=0)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoints: there is no folder .*nowhere"):
        Checkpoints(tmp_path / "nowhere", create=False)


def test_the_best_stays_beside_the_newest_and_is_known_when_opened_again(tmp_path):
    scores = {1: 0.2, 2: 0.9, 3: 0.5, 4: None, 5: 0.9, 6: 0.1, 7: float("nan"), 8: None}
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.best() is None
        for step, score in scores.items():
            checkpoints.save(step, state_of(step), DESCRIPTION)
            if score is not None:
                checkpoints.rate(step, score)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert (checkpoints.latest(), checkpoints.best()) == (8, 5)  # 5 is newer than 2, which is as good
        assert (checkpoints.score(5), checkpoints.score(8)) == (0.9, None)
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == [5, 7, 8]
        assert_equal(checkpoints.restore(5, state_of(0)), state_of(5))
        assert checkpoints.description(5) == DESCRIPTION
        checkpoints.rate(8, 0.95)
        checkpoints.save(9, state_of(9), DESCRIPTION)
        checkpoints.wait()
        assert checkpoints.best() == 8
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == [8, 9]


def test_a_step_is_found_by_number_or_as_newest_or_best(saved):
    assert (saved.find(), saved.find(2)) == (3, 2)
    with pytest.raises(FileNotFoundError, match=r"no step 9 in .*, which has 2, 3$"):
        saved.find(9)
    with pytest.raises(FileNotFoundError, match=r"no evaluated checkpoint in .*, which has 2, 3$"):
        saved.find("best")


def test_averaged_variables_are_what_inference_gets(tmp_path):
    averaged = {"params": state_of(8).params, "batch_stats": state_of(8).batch_stats}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state_of(1).replace(ema=averaged), DESCRIPTION)
        checkpoints.wait()
        assert_equal(checkpoints.restore_variables(1), averaged)
