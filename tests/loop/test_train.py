"""A training from start to end on a few small images, resumed and stopped; and what users get wrong."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from launch import lines, parameters

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.data import VOCFolder
from ssd_jax.files import only_run
from ssd_jax.inference import Detections, load_detector
from ssd_jax.loop.build import found_in_folder
from ssd_jax.loop.dry_run import dry_run
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.log import Log
from ssd_jax.loop.meter import Meter
from ssd_jax.loop.profile import trace_steps
from ssd_jax.loop.train import train

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote
ROOT = Path(__file__).resolve().parents[2]


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


def test_a_longer_run_goes_on_and_names_what_changed_and_is_profiled_if_asked(workdir, data, tmp_path, capsys):
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    config = tiny.config(data, eval_every=0, save_every=100, steps=13)  # of which the last five are traced
    train(config, tmp_path, profile=True)
    told = "; resuming at step 6 with another eval_every 0 (was 4), save_every 100 (was 3), steps 13 (was 6)"
    out = capsys.readouterr().out
    assert told in out and "\ncompiling the training step, about a minute\n" in out
    assert re.search(r"^step 8/13  loss .*  \d+:\d\d elapsed, \d+:\d\d left$", out, re.MULTILINE)
    best = r"trained 7 steps in \d+:\d\d; the best evaluation is \d\.\d{4}, at step \d; checkpoints in "
    assert re.fullmatch(best + re.escape(f"{tmp_path}/checkpoints"), out.splitlines()[-1])
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_dry_run_reports_memory_and_time_and_writes_nothing(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dry_run(tiny.config(data), steps=2)
    assert re.search(r"^the first step, which compiles, took [\d.]+ s$", text, re.MULTILINE)
    assert re.search(
        r"^memory of a device: [\d.]+ GB for state and batch, [\d.]+ GB while a step", text, re.MULTILINE
    )
    assert re.search(r"^a step takes [\d.]+ s, [\d.]+ images a second", text, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


def test_the_summary_of_a_run_says_what_auto_found(data):
    assert found_in_folder(tiny.config(data).data) == ""
    text = found_in_folder(tiny.config(data, **{"data.source": "auto"}).data)
    assert text.startswith(f"; data: {data}: VOC XML in Annotations/*.xml: ") and "splits train " in text


def test_a_dry_run_reports_that_reading_is_slow(data, monkeypatch):
    def slow(self, index, read=VOCFolder.__getitem__):
        time.sleep(0.2)
        return read(self, index)

    monkeypatch.setattr(VOCFolder, "__getitem__", slow)
    text = dry_run(tiny.config(data, **{"data.threads": 1}), steps=2)  # 4 images a batch
    assert float(re.search(r"^a batch takes ([\d.]+) s to read", text, re.MULTILINE)[1]) > 0.6


def test_a_trace_of_a_few_steps_is_recorded_when_asked_for(tmp_path):
    def run(folder, steps, traced):
        with trace_steps(folder, traced) as before_step:
            for step in range(1, steps + 1):
                before_step(step, jax.numpy.zeros(2))
        return list(folder.rglob("*.xplane.pb"))

    assert not run(tmp_path / "none", 3, range(0))
    assert not run(tmp_path / "later", 3, range(4, 7))
    assert len(run(tmp_path / "whole", 9, range(2, 5))) == 1
    assert len(run(tmp_path / "cut", 2, range(2, 5))) == 1  # a run may end before the recording does


def test_an_evaluation_in_progress_is_left_at_a_signal_and_made_again(stopped, data, monkeypatch):
    def signalled(*arguments, make=Detections.from_model):
        signal.raise_signal(signal.SIGTERM)
        return make(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Detections, "from_model", signalled)
        assert not train(tiny.config(data, steps=4), stopped)
    assert [line["step"] for line in lines(stopped)] == [2, 3, 4]
    assert train(tiny.config(data, steps=4), stopped)
    assert [line["step"] for line in lines(stopped)] == [2, 3, 4, 4]
    assert "eval/mAP" in lines(stopped)[-1]
    assert (stopped / "checkpoints" / "4" / "score.json").exists()


def test_a_resumed_run_logs_an_evaluation_that_was_made_by_hand_meanwhile(stopped, data):
    """Early stopping counts the evaluations in the log."""
    train(tiny.config(data, steps=4, eval_every=0), stopped)
    assert evaluate(stopped)["step"] == 4
    assert (stopped / "checkpoints" / "4" / "score.json").exists()
    assert not any("eval/mAP" in line for line in lines(stopped))
    assert train(tiny.config(data, steps=4), stopped)
    assert [line["step"] for line in lines(stopped) if "eval/mAP" in line] == [4]
    before = lines(stopped)
    assert train(tiny.config(data, steps=4), stopped)
    assert lines(stopped) == before


# ------------------------------------------------------------------------------------------ what goes wrong


def test_a_workdir_of_another_model_is_refused(workdir, data):
    with pytest.raises(ValueError, match=r"/checkpoints/6: the checkpoint must be .* with l2_scale 9.0; got 10.0; "):
        train(tiny.config(data, **{"model.l2_scale": 9.0}), workdir)


def test_another_optimiser_is_refused(workdir, data):
    with pytest.raises(ValueError, match="is a checkpoint of another model or optimiser: opt_state"):
        train(tiny.config(data, **{"optimizer.kind": "sgd"}), workdir)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_step_and_images():
    meter = Meter(tiny.Images(), batch_size=2)
    for step, loss in ((7, 1.0), (8, np.inf)):
        metrics = {"loss": loss, "loss_loc": loss, "loss_conf": 1.0, "gradient_norm": 2.0}
        meter.add(step, metrics, {"index": np.array([step - 4, step - 3]), "dropped_boxes": np.zeros(2, int)})
    with pytest.raises(FloatingPointError, match=r"got loss_loc inf, .* at step 8, on image-4, image-5; lower"):
        meter.close()


def test_a_few_steps_that_are_not_finite_may_be_left_out():
    meter = Meter(tiny.Images(), batch_size=2, max_skipped=2)

    def add(step, loss, skipped):
        metrics = {"loss": loss, "loss_loc": loss, "loss_conf": 1.0, "gradient_norm": 2.0, "positives": 6}
        info = {"index": np.array([1, 2]), "dropped_boxes": np.array([0, 3])}
        meter.add(step, metrics | {"skipped": skipped}, info)

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
        ({"data.source": "folder"}, r"a dataset must be one of .*, or module:function; got 'folder'"),
        ({"batch_size": 6}, "batch_size must be a positive multiple of the 4 devices; got 6"),
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
    with pytest.raises(ValueError, match=f"train:LENGTH or test:LENGTH; got '{split}'"):
        train(config, tmp_path)


def test_the_log_of_an_interrupted_run_is_cut_where_it_resumes(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}\n{"step": 5, "loss": 2.0}\n{"step": 6, "lo')
    with Log(tmp_path, start_step=2, steps=10) as log:
        log.scalars(3, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]


def test_the_log_continues_on_a_new_line_if_only_the_end_of_the_last_one_is_missing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0}')
    with Log(tmp_path, start_step=2, steps=10) as log:
        log.scalars(3, {"loss": 1.0})
    assert [line["step"] for line in lines(tmp_path)] == [1, 3]


@pytest.mark.parametrize(
    "row", ["3", "null", "[]", '"text"', "{}", '{"step": "7"}', '{"step": null}', "", "{", "\xff"]
)
def test_a_row_of_the_log_that_is_none_is_dropped_and_named(row, tmp_path, caplog):
    (tmp_path / "metrics.jsonl").write_bytes(f'{{"step": 1}}\n{row}\n{{"step": 2}}\n'.encode("latin-1"))
    with Log(tmp_path, start_step=2, steps=10):
        pass
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    assert f'{tmp_path / "metrics.jsonl"}: a line must be a JSON object with a "step"; got others' in caplog.text
    assert caplog.text.strip().endswith("at line 2")


def test_the_log_has_null_for_what_is_not_a_number(tmp_path):
    with Log(tmp_path, start_step=0, steps=10) as log:
        log.scalars(1, {"a": float("nan"), "b": float("inf"), "c": 1.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "a": null, "b": null, "c": 1.5}\n'


def test_tensorboard_shows_what_was_logged(tmp_path):
    with Log(tmp_path, start_step=4, steps=10) as log:
        log.scalars(5, {"loss": 1.5})
        log.images(5, {"image-1": np.full((8, 8, 3), 7, np.uint8)})
        (file,) = (tmp_path / "tensorboard").iterdir()
        data = file.read_bytes()  # complete without being closed
    assert all(part in data for part in (b"brain.Event:2", b"loss", b"image-1", b"PNG"))


def test_a_log_that_is_not_enabled_writes_nothing(tmp_path, capsys):
    with Log(tmp_path, start_step=0, steps=10, enabled=False) as log:
        log.scalars(1, {"loss": 1.0})
        log.images(1, {"a": np.zeros((8, 8, 3), np.uint8)})
        log.progress(1, {"loss": 1.0}, elapsed=1.0, left=2.0)
        log.line("text")
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


# --------------------------------------------------------------------------- damaged checkpoints, two runs at once


def damage(workdir, step):
    """Flip bits in the files of a checkpoint that hold its arrays."""
    for file in (workdir / "checkpoints" / str(step) / "state").rglob("*"):
        if file.is_file() and file.name != "_METADATA":
            data = bytearray(file.read_bytes())
            for place in range(1000, len(data), 1000):
                data[place] ^= 16
            file.write_bytes(data)


@pytest.fixture
def finished(workdir, tmp_path):
    return shutil.copytree(workdir, tmp_path / "finished")


def test_a_damaged_newest_checkpoint_is_named_and_the_newest_whole_one_resumed(workdir, finished, data, capsys):
    damage(finished, 6)
    (finished / "checkpoints" / "9").mkdir()
    with pytest.raises(ValueError, match=r"/checkpoints/6: a checkpoint must be whole; got [^\n]+$"):
        load_detector(finished)
    assert load_detector(finished, step=4).step == 4
    assert train(tiny.config(data), finished)
    first, *notes = capsys.readouterr().out.splitlines()
    assert first.endswith("; resuming at step 4")
    place = re.escape(str(finished / "checkpoints"))
    assert re.fullmatch(f"{place}/6: a checkpoint must be whole; got .*; renamed to 6.damaged", notes[0])
    assert re.fullmatch(f"{place}/9: a checkpoint must be whole; got .*; renamed to 9.damaged", notes[1])
    assert [line["step"] for line in lines(finished)] == [2, 3, 4, 4, 6, 6]
    for a, b in zip(jax.tree.leaves(parameters(workdir, 6)), jax.tree.leaves(parameters(finished, 6)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_workdir_without_a_whole_checkpoint_is_refused(finished, data):
    for step in (3, 4, 6):
        (finished / "checkpoints" / str(step) / "state" / "_METADATA").unlink()
    with pytest.raises(ValueError, match=r"/6: a checkpoint must be whole; got .*; no other checkpoint is whole"):
        train(tiny.config(data), finished)
    assert (finished / "checkpoints" / "6").is_dir()


def test_an_option_of_a_later_version_is_one_line_that_names_the_checkpoint(finished, data):
    file = finished / "checkpoints" / "6" / "description" / "metadata"
    description = json.loads(file.read_text())
    description["model"]["attention"] = True
    file.write_text(json.dumps(description))
    for use in (lambda: train(tiny.config(data), finished), lambda: load_detector(finished)):
        with pytest.raises(ValueError, match=r"/checkpoints/6: [^\n]*attention[^\n]*$"):
            use()


def test_a_second_run_in_a_workdir_is_refused(workdir, data, tmp_path):
    before = (workdir / "metrics.jsonl").read_text()
    with only_run(workdir), pytest.raises(ValueError, match="only one run may use a workdir at a time; got process "):
        train(tiny.config(data, steps=7), workdir)
    assert (workdir / "metrics.jsonl").read_text() == before
    assert train(tiny.config(data), workdir)  # the lock is gone


def test_a_killed_run_leaves_no_lock(tmp_path):
    locking = f"with only_run(Path({str(tmp_path)!r})):\n    print('locked', flush=True)\n    input()"
    code = f"from ssd_jax.files import *\n{locking}"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, text=True, **pipes) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(ValueError, match=f"got process {process.pid} on "), only_run(tmp_path):
            pass
        process.kill()
    with only_run(tmp_path):
        pass


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run", ""])
def test_a_workdir_that_is_no_folder_is_refused_before_anything_is_made(address, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"a workdir must be a folder of the file system; got '{address}'"):
        train(tiny.config(data), address)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_is_reported_when_its_save_is_complete_and_signals_are_still_noted(data, tmp_path, monkeypatch):
    def add_and_signal(self, step, *rest, add=Meter.add):
        add(self, step, *rest)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)

    def line(self, text, line=Log.line):
        if "which is saved" in text:
            with Checkpoints(tmp_path / "checkpoints", create=False) as checkpoints:
                reported.append((text, checkpoints.latest(), signal.getsignal(signal.SIGINT) is before))
        line(self, text)

    reported, before = [], signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(Meter, "add", add_and_signal)
    monkeypatch.setattr(Log, "line", line)
    assert not train(tiny.config(data), tmp_path)
    assert reported == [("SIGTERM: stopped after step 4, which is saved", 4, False)]


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.py", "--workdir=x"], "error: IMAGES or --config must be given; got neither; "),
        (["eval.py", "--workdir=nowhere"], "error: nowhere is not the workdir of a run: it has no config.json\n"),
        (
            ["train.py", "--config=configs/voc_folder.py", "--workdir={tmp}", "--config.data.root=nowhere"],
            "error: ",
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
