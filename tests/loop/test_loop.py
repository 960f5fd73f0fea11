"""A run from start to end on a few small images: train, resume, evaluate, detect; and what users get wrong."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import numpy as np
import pytest
import tiny

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.data import VOCFolder
from ssd_jax.inference import load_detector, to_pixels
from ssd_jax.loop.build import build
from ssd_jax.loop.detect import detect_images
from ssd_jax.loop.dry_run import dry_run
from ssd_jax.loop.evaluate import Evaluator, evaluate, table
from ssd_jax.loop.log import Log
from ssd_jax.loop.meter import Meter
from ssd_jax.loop.profile import Trace
from ssd_jax.loop.train import train
from ssd_jax.parallel import replicate

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "voc"
    return tiny.write_voc(root, tiny.Images(13), {"train": range(8), "val": range(8, 13)})


@pytest.fixture(scope="module")
def workdir(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny.config(data), workdir)
    return workdir


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def parameters(workdir, step):
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore_variables(step)


def test_a_run_leaves_its_config_log_and_checkpoints(workdir):
    assert json.loads((workdir / "config.json").read_text())["steps"] == 6
    steps = [line["step"] for line in lines(workdir)]
    assert steps == [2, 3, 4, 4, 6, 6]  # each two, at each save, and evaluations at 4 and at the end
    training = [line for line in lines(workdir) if "loss" in line]
    assert {
        "loss",
        "loss_loc",
        "loss_conf",
        "positives_per_image",
        "gradient_norm",
        "learning_rate",
        "images_per_second",
    } <= set(training[0])
    assert [line["step"] for line in lines(workdir) if "eval/mAP" in line] == [4, 6]
    assert {p.name for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()} == {"3", "4", "6"}
    assert list((workdir / "tensorboard").iterdir())


@pytest.fixture
def stopped(workdir, tmp_path):
    """The run as if stopped after step 3: the later checkpoints are gone, and the log has lines from beyond it."""
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    for step in ("4", "6"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    return tmp_path


def test_resuming_is_the_straight_run(workdir, stopped, data, tmp_path, capsys):
    train(tiny.config(data), tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [2, 3, 4, 4, 6, 6]
    resumed = [line for line in capsys.readouterr().out.splitlines() if "; resuming at" in line]
    assert len(resumed) == 1 and resumed[0].endswith("; resuming at step 3")
    for a, b in zip(jax.tree.leaves(parameters(workdir, 6)), jax.tree.leaves(parameters(tmp_path, 6)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_finished_run_has_nothing_left_to_do(workdir, data, capsys):
    before = [(workdir / name).read_text() for name in ("metrics.jsonl", "config.json")]
    for steps in (6, 5):
        train(tiny.config(data, steps=steps, eval_every=0), workdir)
        assert f"; nothing to train, since it is at step 6 of {steps}" in capsys.readouterr().out
    assert [(workdir / name).read_text() for name in ("metrics.jsonl", "config.json")] == before


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


def test_a_longer_run_goes_on_and_names_what_changed_and_is_profiled_if_asked(workdir, data, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    config = tiny.config(data, eval_every=0, save_every=100, steps=13)  # of which the last five are traced
    train(config, tmp_path, profile=True)
    told = "; resuming at step 6 with another eval_every 0 (was 4), save_every 100 (was 3), steps 13 (was 6)"
    assert told in capsys.readouterr().out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_rehearsal_tells_memory_and_time_and_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dry_run(tiny.config(data), steps=2)
    assert re.search(r"^the first step, which compiles, took [\d.]+ s$", text, re.MULTILINE)
    assert re.search(
        r"^memory of a device: [\d.]+ GB for state and batch, [\d.]+ GB while a step", text, re.MULTILINE
    )
    assert re.search(r"^a step takes [\d.]+ s, [\d.]+ images a second", text, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_sees_that_reading_is_slow(data, monkeypatch):
    def slow(self, index, read=VOCFolder.__getitem__):
        time.sleep(0.2)
        return read(self, index)

    monkeypatch.setattr(VOCFolder, "__getitem__", slow)
    text = dry_run(tiny.config(data, **{"data.threads": 1}), steps=2)  # 4 images a batch
    assert float(re.search(r"^a batch takes ([\d.]+) s to read", text, re.MULTILINE)[1]) > 0.6


def test_a_trace_of_a_few_steps_is_recorded_when_asked_for(tmp_path):
    with Trace(tmp_path / "none", count=0) as trace:
        for _ in range(3):
            trace.before_step(np.zeros(2))
    assert not (tmp_path / "none").exists()
    for steps in (2, 9):  # a run may end before the recording does
        with Trace(tmp_path / f"{steps}", skip=1, count=3) as trace:
            for _ in range(steps):
                trace.before_step(jax.numpy.zeros(2))
        assert list((tmp_path / f"{steps}").rglob("*.xplane.pb"))


def test_an_evaluation_in_progress_is_left_at_a_signal_and_made_again(stopped, data, monkeypatch):
    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return to_pixels(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr("ssd_jax.loop.evaluate.to_pixels", signalled)
        assert not train(tiny.config(data, steps=4), stopped)
    assert [line["step"] for line in lines(stopped)] == [2, 3, 4]
    assert train(tiny.config(data, steps=4), stopped)
    assert [line["step"] for line in lines(stopped)] == [2, 3, 4, 4]
    assert "eval/mAP" in lines(stopped)[-1]
    assert (stopped / "checkpoints" / "4" / "score.json").exists()


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


def test_detection_draws_files_folders_and_held_out_images(workdir, data, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        cv2.imwrite(str(folder / name), tiny.Images(size=100)[3].image)
    (folder / "broken.jpg").write_bytes(b"no image")
    out = tmp_path / "out"
    assert detect_images(workdir, [folder, folder / "a.png"], out, score=0.01) == 3
    records = json.loads((out / "detections.json").read_text())
    assert [record["drawing"] for record in records] == ["a.png", "b.png", "a_2.png"]
    assert (records[0]["width"], records[0]["height"]) == (100, 100)
    assert records[0]["detections"] == records[2]["detections"]
    for found in records[0]["detections"]:
        assert found["class"] in ("bright", "dark") and found["score"] >= 0.01
        assert 0 <= found["box"][0] <= found["box"][2] <= 100
    assert all(cv2.imread(str(out / record["drawing"])) is not None for record in records)
    assert detect_images(workdir, [], tmp_path / "held", samples=2) == 2
    assert detect_images(workdir, [folder / "broken.jpg"], tmp_path / "none") == 0
    assert not (tmp_path / "none").exists()


def test_a_detector_needs_nothing_but_the_checkpoint(workdir):
    for place in (workdir, workdir / "checkpoints"):
        detector = load_detector(place)
        assert detector.class_names == ("bright", "dark")
        assert detector.model == tiny.SHORT.clone(l2_scale=10.0)
        assert len(detector([tiny.Images()[1].image])) == 1


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_workdir_of_another_model_is_refused(workdir, data):
    with pytest.raises(ValueError, match=r"holds a checkpoint of another model: l2_scale is 10.0 in it, 9.0 in this"):
        train(tiny.config(data, **{"model.l2_scale": 9.0}), workdir)


def test_another_optimiser_is_refused(workdir, data):
    with pytest.raises(ValueError, match="is a checkpoint of another model or optimiser: opt_state"):
        train(tiny.config(data, **{"optimizer.kind": "sgd"}), workdir)


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


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step_and_images():
    meter = Meter(tiny.Images(), batch_size=2)
    for step, loss in ((7, 1.0), (8, np.inf)):
        metrics = {"loss": loss, "loss_loc": loss, "loss_conf": 1.0, "gradient_norm": 2.0}
        meter.add(step, metrics, {"index": np.array([step - 4, step - 3]), "left_out": np.zeros(2, int)})
    with pytest.raises(FloatingPointError, match=r"got loss_loc inf, .* at step 8, on image-4, image-5; lower"):
        meter.close()


def test_a_few_steps_that_are_not_finite_may_be_left_out():
    meter = Meter(tiny.Images(), batch_size=2, max_skipped=2)

    def add(step, loss, skipped):
        metrics = {"loss": loss, "loss_loc": loss, "loss_conf": 1.0, "gradient_norm": 2.0, "positives": 6}
        meter.add(step, metrics | {"skipped": skipped}, {"index": np.array([1, 2]), "left_out": np.array([0, 3])})

    for step, (loss, skipped) in enumerate(((1.0, 0), (np.nan, 1), (3.0, 1)), start=1):
        add(step, loss, skipped)
    means = meter.close()
    assert (means["loss"], means["skipped_steps"], means["positives_per_image"]) == (2.0, 1, 3.0)
    assert means["objects_left_out"] == 9
    add(4, np.inf, 2)
    means = meter.close()
    assert (means["skipped_steps"], means["objects_left_out"]) == (2, 3)
    add(5, np.inf, 3)
    with pytest.raises(FloatingPointError, match=r"at step 5, on image-1, image-2; max_skipped allows 2 such steps"):
        meter.close()


def test_a_run_that_diverges_saves_nothing_that_is_not_finite(data, tmp_path):
    diverging = {"schedule.learning_rate": 1e30, "optimizer.kind": "sgd", "save_every": 2, "log_every": 6}
    with pytest.raises(FloatingPointError, match="must be finite"):
        train(tiny.config(data, **diverging), tmp_path)
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        assert checkpoints.latest() is None


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_the_run_with_a_saved_step_and_the_same_call_goes_on(
    name, workdir, data, tmp_path, monkeypatch
):
    def add_and_signal(self, step, *rest, add=Meter.add):
        add(self, step, *rest)
        if step == 4:
            signal.raise_signal(signal.Signals[name])

    before = signal.getsignal(signal.Signals[name])
    with monkeypatch.context() as patched:
        patched.setattr(Meter, "add", add_and_signal)
        assert not train(tiny.config(data), tmp_path)
    assert signal.getsignal(signal.Signals[name]) is before
    assert max(line["step"] for line in lines(tmp_path)) == 4
    assert train(tiny.config(data), tmp_path)
    for a, b in zip(jax.tree.leaves(parameters(workdir, 6)), jax.tree.leaves(parameters(tmp_path, 6)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.root": ""}, "data.root must name a VOC folder: pass --config.data.root=DIR"),
        ({"data.source": "folder"}, r"a dataset is one of .*, or module:function; got 'folder'"),
        ({"batch_size": 6}, "batch_size must be a positive multiple of the 4 devices, got 6"),
        ({"augment.crop_trials": 0}, "crop_trials must be at least 1"),
    ],
)
def test_wrong_configs_are_refused_before_anything_is_trained(data, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(tiny.config(data, **changes), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("split", ["test", "test:many", "dev:10"])
def test_a_wrong_split_of_shapes_is_refused(tmp_path, split):
    config = tiny.config("", **{"data.source": "shapes", "data.train": split})
    with pytest.raises(ValueError, match=f"train:LENGTH or test:LENGTH, got '{split}'"):
        train(config, tmp_path)


def test_images_that_are_not_there_are_refused(workdir, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such image or folder: .*gone.jpg"):
        detect_images(workdir, [tmp_path / "gone.jpg"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no images .* in the folder"):
        detect_images(workdir, [tmp_path], tmp_path / "out")


def test_the_log_of_an_interrupted_run_is_cut_where_it_resumes(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 5, "loss": 2.0}\n{"step": 6, "lo')
    with Log(tmp_path, start_step=2, steps=10) as log:
        log.scalars(3, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--workdir=x"], "Flag --config must have a value other than None"),
        (["eval.py", "--workdir=nowhere"], "error: nowhere is not the workdir of a run: it has no config.json\n"),
        (
            ["train.py", "--config=configs/voc_folder.py", "--workdir={tmp}", "--config.data.root=nowhere"],
            "error: ",
        ),
        (
            ["train.py", "--config=configs/shapes.py", "--workdir={tmp}", "--config.data.rot=x"],
            "error: the config has no field 'rot', got --config.data.rot=x; is it 'root'?\n",
        ),
        (
            ["train.py", "--config=configs/shapes.py", "--workdir={tmp}", "--config.optimizer.lrr=1"],
            "error: the config has no field 'lrr', got --config.optimizer.lrr=1\n",
        ),
    ],
)
def test_scripts_say_what_is_wrong(arguments, message, tmp_path):
    done = run(*(a.format(tmp=tmp_path) for a in arguments))
    assert done.returncode != 0
    assert message in done.stderr
    if message.startswith("error"):
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().count("\n") == 0
