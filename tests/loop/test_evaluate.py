"""Evaluation of a run on a few small images."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from launch import lines

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.inference import load_detector
from ssd_jax.loop.build import build
from ssd_jax.loop.evaluate import Evaluator, evaluate, table
from ssd_jax.loop.train import train
from ssd_jax.parallel import replicate

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


def test_the_best_checkpoint_is_the_one_that_evaluated_best(workdir):
    scores = {line["step"]: line["eval/mAP"] for line in lines(workdir) if "eval/mAP" in line}
    best = max(scores, key=scores.get)
    assert load_detector(workdir, step="best").step == best
    assert evaluate(workdir, step="best")["step"] == best


def test_averaged_weights_are_evaluated_saved_and_detected_with(workdir, data):
    with Checkpoints.of_run(workdir) as checkpoints:
        state = checkpoints.restore(6, build(tiny.config(data)).shapes)
        loaded = checkpoints.restore_variables(6)
    for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(state.ema["params"]["loc0"]["conv"]["kernel"], state.params["loc0"]["conv"]["kernel"])
    assert evaluate(workdir)["mAP"] == pytest.approx(lines(workdir)[-1]["eval/mAP"], abs=1e-6)
    with pytest.raises(ValueError, match="ema"):
        train(tiny.config(data, steps=7, ema_decay=0.0), workdir)


def test_evaluation_compiles_once(workdir, data, caplog):
    config = tiny.config(data)
    run = build(config)
    evaluator = Evaluator(run.model, run.eval_source, config, samples=3)
    state = replicate(run.create())
    compiled = []
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for _ in range(2):
            caplog.clear()
            evaluator(state.variables)
            messages = [record.getMessage() for record in caplog.records]
            compiled.append(sum(message.startswith("Finished XLA compilation") for message in messages))
    assert compiled == [1, 0]
    drawings = evaluator.drawings(score=0.0)
    assert list(drawings) == ["image-8", "image-9", "image-10"]
    assert all(drawing.dtype == np.uint8 for drawing in drawings.values())


def test_evaluation_counts_every_image_once_and_writes_what_it_says(workdir):
    results = evaluate(workdir)
    assert (results["images"], results["step"], results["split"]) == (5, 6, "val")
    assert set(results["AP"]) == {"bright", "dark"}
    written = json.loads((workdir / "eval_val.json").read_text())
    assert written["AP"] == pytest.approx(results["AP"], nan_ok=True)
    assert "bright" in table(results) and "mAP" in table(results)
    assert evaluate(workdir, split="train", step=3)["images"] == 8
    cut = evaluate(workdir, split="train[:2]")
    assert (cut["images"], Path(cut["path"]).name) == (2, "eval_train_2.json")


def test_evaluating_other_classes_is_refused(workdir, data, tmp_path):
    config = json.loads((workdir / "config.json").read_text())
    config["data"]["class_names"] = ["bright", "dark", "other"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "checkpoints").symlink_to(workdir / "checkpoints")
    with pytest.raises(
        ValueError, match=r"classes must be those the model was trained on, \('bright', 'dark'\), got"
    ):
        evaluate(tmp_path)


def test_a_few_unreadable_images_are_skipped_and_too_many_end_the_run(data, tmp_path, caplog):
    source = tiny.Images(13)
    root = tiny.write_voc(tmp_path / "voc", source, {"train": range(8), "val": range(8, 13)})
    (root / "JPEGImages" / "image-1.png").write_bytes(b"")
    train(tiny.config(root, steps=4), tmp_path / "run")
    assert sum("image-1" in record.getMessage() for record in caplog.records) == 1
    (root / "JPEGImages" / "image-2.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(ValueError, match=r"max_unreadable allows 1 unreadable images, met image-1, image-2"):
        train(tiny.config(root, steps=4), tmp_path / "again")
    (root / "JPEGImages" / "image-9.png").write_bytes(b"")
    results = evaluate(tmp_path / "run")
    assert (results["images"], results["unreadable"]) == (4, ["image-9"])
    (root / "JPEGImages" / "image-10.png").write_bytes(b"")
    with pytest.raises(ValueError, match="max_unreadable allows 1 unreadable images, met image-9, image-10"):
        evaluate(tmp_path / "run")
