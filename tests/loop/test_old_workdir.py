"""A workdir that version 0.0 wrote, of a run stopped after step 7: `model.trunk` in its config, no checksums."""

import shutil
from pathlib import Path

import jax
import numpy as np
import shapes_config
import tiny
from launch import lines, parameters

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.inference import load_detector
from ssd_jax.loop.train import train

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
OLD = Path(__file__).parent / "workdir_0_0"


def test_it_resumes(tmp_path, capsys):
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    config = shapes_config.get_config().unlock()
    config.model.backbone = "vgg16"
    config.schedule.learning_rate = 1e-3
    config.update(steps=8, eval_every=0)
    assert train(config.lock(), tmp_path)
    first = capsys.readouterr().out.splitlines()[0]
    assert first.endswith("; resuming at step 7 with another eval_every 0 (was 5), steps 8 (was 10)"), first
    assert [line["step"] for line in lines(tmp_path)] == [5, 5, 7, 8]
    before, after = (jax.tree.leaves(parameters(tmp_path, step)["params"]) for step in (7, 8))
    moved = [np.abs(a - b).max() for a, b in zip(after, before, strict=True)]
    assert 0 < max(moved) < 0.1
    with Checkpoints.of_run(tmp_path) as checkpoints:
        assert checkpoints.steps() == [7, 8]
        assert (tmp_path / "checkpoints" / "8" / "checksums").is_dir()


def test_a_detector_opens_it():
    detector = load_detector(OLD)
    assert detector.class_names == ("circle", "cross", "square", "star", "triangle")
    assert (detector.step, detector.model.backbone) == (7, "vgg16")
    assert len(detector([tiny.Images()[1].image])) == 1
