"""Early stopping: the count against a slow loop, and runs that end by it, also when they were interrupted."""

import shutil

import jax
import numpy as np
import pytest
import tiny
from launch import lines, parameters

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.evaluate import Evaluator
from ssd_jax.loop.patience import Patience
from ssd_jax.loop.train import train

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


def loop_is_over(stop_after, scores):
    """Go through the evaluations one by one."""
    best, waited = None, 0
    for score in scores:
        if score is not None and not np.isnan(score) and (best is None or score > best):
            best, waited = score, 0
        elif best is not None:
            waited += 1
    return stop_after > 0 and waited >= stop_after


def test_patience_ends_as_in_a_slow_loop():
    random = np.random.default_rng(0)
    ends = 0
    for _ in range(1000):
        stop_after, scores = int(random.integers(0, 5)), random.choice([0.1, 0.2, 0.3, np.nan], random.integers(0, 9))
        values = [None if np.isnan(score) and random.random() < 0.5 else float(score) for score in scores]
        expected = loop_is_over(stop_after, values)
        cut = int(random.integers(0, 1 + len(values)))  # where the run was resumed
        patience = Patience(stop_after, dict(enumerate(values[:cut])))
        for step in range(max(0, cut - 1), len(values)):  # the last evaluation may be made again
            patience.add(step, values[step])
        assert patience.is_over == expected
        ends += expected
    assert 200 < ends < 800


def test_patience_says_why_it_ends():
    patience = Patience(2, {10: 0.5, 20: 0.25, 30: 0.5})
    assert (patience.best, patience.waited, patience.is_over) == (30, 2, True)
    assert patience.reason("mAP") == (
        "mAP has not risen in 2 evaluations (stop_after); the best, 0.5000, is that of step 30: "
        "use it with --step=best"
    )
    with pytest.raises(ValueError, match=r"^stop_after must be at least 0; got -1$"):
        Patience(-1, {})


def test_the_best_step_is_that_of_the_checkpoints(workdir, tmp_path):
    """`--step=best` must give what the message names, also among equals."""
    run = shutil.copytree(workdir, tmp_path / "run")
    random = np.random.default_rng(0)
    with Checkpoints.of_run(run) as checkpoints:
        steps = checkpoints.steps()
        assert len(steps) > 1
        for scores in random.choice([0.1, 0.2, np.nan], (20, len(steps))).tolist():
            for step, score in zip(steps, scores, strict=True):
                checkpoints.rate(step, score)
            assert Patience(1, dict(zip(steps, scores, strict=True))).best == checkpoints.best()


@pytest.fixture
def worse(monkeypatch):
    """Let every evaluation after that of step 2 be worse than the one before."""
    steps = []

    def evaluate(self, variables, *, stops=lambda: False, call=Evaluator.__call__):
        evaluation = call(self, variables, stops=stops)
        results = evaluation.results | {"mAP": 0.5 / (1 + len(steps))}
        steps.append(len(steps))
        return evaluation._replace(results=results)

    monkeypatch.setattr(Evaluator, "__call__", evaluate)


def test_a_run_ends_when_its_score_has_stopped_to_rise_and_so_does_a_resumed_one(worse, data, tmp_path, capsys):
    config = tiny.config(data, steps=20, save_every=20, eval_every=2, stop_after=2)
    reason = "mAP has not risen in 2 evaluations (stop_after); the best, 0.5000, is that of step 2: use it with"
    assert train(config, tmp_path / "straight")
    out = capsys.readouterr().out
    assert out.splitlines()[-2].startswith(f"stopped after step 6 of 20: {reason}")
    assert [line["step"] for line in lines(tmp_path / "straight") if "eval/mAP" in line] == [2, 4, 6]

    before = shutil.copytree(tmp_path / "straight", tmp_path / "killed")
    for step in (before / "checkpoints").iterdir():
        if step.name == "6":
            shutil.rmtree(step)
    assert train(config, before)  # from step 4 with the count of one evaluation
    out = capsys.readouterr().out
    assert "; resuming at step 4" in out and f"stopped after step 6 of 20: {reason.split(';')[0]}" in out
    for a, b in zip(
        jax.tree.leaves(parameters(tmp_path / "straight", 6)), jax.tree.leaves(parameters(before, 6)), strict=True
    ):
        np.testing.assert_array_equal(a, b)

    assert train(config, before)  # again: nothing is trained
    out = capsys.readouterr().out
    assert f"stopped after step 6 of 20: {reason.split(';')[0]}" in out
    assert [line["step"] for line in lines(before)][-1] == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stop_after": -1}, "stop_after must be at least 0; got -1"),
        ({"stop_after": 1, "eval_every": 0}, "eval_every must be above 0 for a run with stop_after; got 0"),
    ],
)
def test_a_wrong_patience_is_refused_before_anything_is_written(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        train(tiny.config(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
