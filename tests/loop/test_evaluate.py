"""Evaluation of a run on a few small images."""

import json
import shutil
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from launch import lines
from test_coco_loop import write_coco
from test_loss import slow_multibox_loss

from ssd_jax.box import assign
from ssd_jax.checkpoint import Checkpoints
from ssd_jax.cli import main
from ssd_jax.data import Example, VOCFolder, pad_boxes, warp
from ssd_jax.inference import load_detector
from ssd_jax.loop.build import build
from ssd_jax.loop.evaluate import Evaluator, at_best_thresholds, evaluate, evaluate_checkpoint, table
from ssd_jax.loop.train import train
from ssd_jax.loop.workdir import load_config, save_config
from ssd_jax.metrics import VOCMetric, best_f1
from ssd_jax.model import preprocess
from ssd_jax.parallel import put_on_devices

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
    state = put_on_devices(run.create())
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
    assert f"F1 {results['F1']:.4f}, precision {results['precision']:.4f}" in table(results)
    assert evaluate(workdir, split="train", step=3)["images"] == 8
    cut = evaluate(workdir, split="train[:2]")
    assert (cut["images"], Path(cut["path"]).name) == (2, "eval_train_2.json")


def test_the_loss_of_an_evaluation_is_that_of_its_images_one_by_one(workdir, data):
    evaluation = evaluate_checkpoint(workdir)
    detector, source = load_detector(workdir), build(tiny.config(data)).eval_source
    total = positives = 0
    for index, found in enumerate(evaluation.record.loss):
        example = source[index]
        boxes, labels = pad_boxes(example.boxes, example.labels, 4)
        inputs = preprocess(warp(example.decode(), 64)[None])
        offsets, logits = detector.model.apply(detector.variables, inputs)
        targets = assign(boxes, labels, tiny.PRIORS)
        loc, conf, n = slow_multibox_loss(np.asarray(offsets[0]), np.asarray(logits[0]), *map(np.asarray, targets))
        assert found == pytest.approx((loc + conf) / max(1, n), rel=1e-4)
        total, positives = total + loc + conf, positives + n
    assert evaluation.results["loss"] == pytest.approx(total / positives, rel=1e-4)


def test_the_best_thresholds_are_in_the_results_and_with_the_checkpoint(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    (run / "checkpoints" / "6" / "thresholds.json").unlink()
    assert load_detector(run).thresholds is None
    evaluate(run, split="train")
    assert load_detector(run).thresholds is None  # only those of the split that the run is evaluated on
    results = evaluate(run)
    assert load_detector(run).thresholds == pytest.approx(results["thresholds"], nan_ok=True)
    metric = evaluate_checkpoint(run).record.metric
    for name, curve in metric.curves().items():
        f1, score = best_f1(curve)
        assert results["thresholds"][name] == pytest.approx(score, nan_ok=True)
        point = np.flatnonzero(curve.score == score)
        hits = curve.recall[point].sum(), curve.precision[point].sum()
        assert f1 == pytest.approx(2 * np.prod(hits) / sum(hits) if sum(hits) else 0.0)
    assert 0 <= results["precision"] <= 1 and 0 <= results["recall"] <= 1


def test_the_score_of_an_evaluation_by_hand_is_that_of_the_checkpoint(workdir, tmp_path):
    run = shutil.copytree(workdir, tmp_path / "run")
    for file in (run / "checkpoints").glob("*/score.json"):  # as in a run that made no evaluation
        file.unlink()
    evaluate(run, step=4, split="train")
    with pytest.raises(FileNotFoundError, match="no evaluated checkpoint"):
        load_detector(run, step="best")
    results = evaluate(run, step=4)
    assert load_detector(run, step="best").step == 4
    with Checkpoints.of_run(run) as checkpoints:
        assert checkpoints.score(4) == results["mAP"]


def test_numbers_at_the_best_thresholds_by_hand():
    """Of class a one of two objects is found, with one mistake above; of b nothing; c has no object."""
    metric = VOCMetric("abc")
    boxes = np.array([[0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]])
    metric.add(0, boxes, [1, 1, 2], [False] * 3, boxes[[0, 2, 2]], np.array([0.5, 0.75, 0.9]), [1, 1, 3])
    found = at_best_thresholds(metric)
    assert found["thresholds"] == pytest.approx({"a": 0.5, "b": np.nan, "c": np.nan}, nan_ok=True)
    assert (found["F1"], found["precision"], found["recall"]) == pytest.approx((0.25, 0.25, 0.25))
    empty = VOCMetric("abc")
    empty.add(0, [], [], [], [], [], [])
    assert np.isnan(at_best_thresholds(empty)["F1"])


def test_evaluation_reads_every_image_once(data, monkeypatch):
    """The batches carry the ground truth, and the images that are drawn were read for them."""
    config = tiny.config(data)
    run = build(config)
    read = Counter()

    def counted(self, index, get=VOCFolder.__getitem__):
        read[index] += 1
        return get(self, index)

    monkeypatch.setattr(VOCFolder, "__getitem__", counted)
    evaluator = Evaluator(run.model, run.eval_source, config, samples=2)
    state = put_on_devices(run.create())
    first = evaluator(state.variables)
    assert (first.finished, first.results["images"], len(evaluator.drawings())) == (True, 5, 2)
    assert read == dict.fromkeys(range(5), 1)


def test_an_evaluation_that_is_stopped_says_so_and_has_no_results(data):
    config = tiny.config(data)
    run = build(config)
    evaluation = Evaluator(run.model, run.eval_source, config)(
        put_on_devices(run.create()).variables, stops=lambda: True
    )
    assert evaluation == (False, {}, None, None, None)


def test_a_workdir_that_cannot_be_written_shows_its_numbers_first(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    blocked = tmp_path / "eval_val.json"
    blocked.unlink(missing_ok=True)
    blocked.mkdir()
    with pytest.raises(SystemExit, match=f"^error: {blocked}: Is a directory$"):
        main(["eval", f"--workdir={tmp_path}"])
    out = capsys.readouterr().out
    assert "mAP@0.5" in out and "on 5 images of val, step 6" in out and "written" not in out


class Plain:
    """Images of one colour, each one object: a white image is a cat, a black one a dog, `perfect` knows."""

    inclusive = False

    def __init__(self, names, kinds):
        self.class_names, self._kinds = names, kinds

    def __len__(self):
        return len(self._kinds)

    def __getitem__(self, index):
        kind = self._kinds[index]
        image = np.full((64, 64, 3), {"cat": 255, "dog": 0}.get(kind, 128), np.uint8)
        labels = np.array([1 + self.class_names.index(kind)] if kind else [], np.int32)
        return Example(
            f"{kind}-{index}", image, np.tile(WHOLE, (len(labels), 1)), labels, np.zeros(len(labels), bool)
        )


SPLITS = {"train": ("cat", "dog"), "val": ("dog", "cat")}
WHOLE = np.array([[0, 0, 1, 1]], np.float32)


def perfect(model):
    """Make a detector that is always right: label 1 is "cat" in training, label 2 "dog"."""

    def detect(variables, arrays):
        mean = jax.numpy.mean(arrays["images"].astype("float32"), axis=(1, 2, 3))  # [B]
        labels = jax.numpy.where(mean > 200, 1, 2)[:, None]
        boxes, losses = jax.numpy.broadcast_to(WHOLE, (len(mean), 1, 4)), jax.numpy.zeros((len(mean), 2))
        return boxes, jax.numpy.ones(labels.shape), labels, losses

    return detect


def splits_of_coco(root):
    """Write two files that number their categories in opposite orders."""
    for split, source in PLAIN.items():
        categories = [{"id": number, "name": name} for number, name in enumerate(source.class_names, start=1)]
        write_coco(root, source, {split: range(len(source))}, categories)
    return {"source": "coco_json", "root": str(root), "train": "train", "eval": "val"}


def splits_of_a_module(root):
    return {"source": "test_evaluate:plain_split", "train": "train", "eval": "val"}


def splits_of_voc_folders(root):
    """Write two folders, of which the second has no cat: its only class would have label 1."""
    for folder, kinds in {"A": ("cat", "dog"), "B": ("dog", "dog")}.items():
        tiny.write_voc(root / folder, Plain(("cat", "dog"), kinds), {"split": range(2)})
    return {"source": "voc_folder", "root": str(root), "train": "A:split", "eval": "B:split"}


PLAIN = {split: Plain(names, ("cat", "dog", "dog", "cat")) for split, names in SPLITS.items()}


def plain_split(split):
    """Open a source of one's own, by the split's name."""
    return PLAIN[split]


@pytest.mark.parametrize("splits", [splits_of_coco, splits_of_a_module, splits_of_voc_folders])
def test_a_perfect_model_is_perfect_where_the_evaluation_split_numbers_the_classes_otherwise(
    splits, tmp_path, monkeypatch
):
    monkeypatch.setattr("ssd_jax.loop.evaluate.make_detect_and_loss", perfect)
    data = {f"data.{name}": value for name, value in splits(tmp_path / "data").items()}
    train(tiny.config("", steps=3, save_every=3, eval_every=3, **data), tmp_path / "run")
    assert [line["eval/mAP"] for line in lines(tmp_path / "run") if "eval/mAP" in line] == [1.0]
    results = evaluate(tmp_path / "run")
    assert results["mAP"] == 1.0 and list(results["AP"]) == ["cat", "dog"]
    assert results.get("coco", {"AP": 1.0})["AP"] == pytest.approx(1.0)


def with_data(workdir, root, copy):
    """Make `copy` the same run, but with its data in `root`."""
    config = load_config(workdir).unlock()
    config.data.root = str(root)
    save_config(config, copy)
    shutil.copytree(workdir / "checkpoints", copy / "checkpoints")


def test_a_class_that_training_does_not_know_is_refused_before_the_first_step(workdir, tmp_path):
    source = tiny.Images(13)
    root = tiny.write_voc(tmp_path / "voc", source, {"train": range(8), "val": range(8, 13)})
    file = root / "Annotations" / "image-9.xml"
    file.write_text(file.read_text().replace("bright", "grey").replace("dark", "grey"))
    message = r"image-9\.xml: .*bright, dark.* got 'grey'"
    with pytest.raises(ValueError, match=message):
        train(tiny.config(root, **{"data.class_names": ("bright", "dark")}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with_data(workdir, root, tmp_path)
    with pytest.raises(ValueError, match=message):
        evaluate(tmp_path)


@pytest.mark.parametrize("difficult", [False, True])
def test_a_training_split_without_an_object_is_refused_before_the_first_step(difficult, tmp_path):
    train_split = [0, 4, 8, 1] if difficult else [0, 4, 8]
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(13), {"train": train_split, "val": [1]})
    file = root / "Annotations" / "image-1.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    config = tiny.config(root, **{"data.train_difficult": not difficult})
    message = f"data.train must have an object to train on; got none in the {len(train_split)} images of train"
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_evaluation_split_without_an_object_is_said_once(workdir, tmp_path, caplog):
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(13), {"train": range(8), "val": [0, 4]})
    message = "no image of val has an object to find: mAP is not a number"
    build(tiny.config(root))
    assert [record.getMessage() for record in caplog.records] == [message]
    caplog.clear()
    with_data(workdir, root, tmp_path)
    assert np.isnan(evaluate(tmp_path)["mAP"])
    assert [record.getMessage() for record in caplog.records] == [message]
    assert json.loads((tmp_path / "eval_val.json").read_text())["mAP"] is None


def test_a_few_unreadable_images_are_skipped_and_too_many_end_the_run(data, tmp_path, caplog):
    source = tiny.Images(13)
    root = tiny.write_voc(tmp_path / "voc", source, {"train": range(8), "val": range(8, 13)})
    (root / "JPEGImages" / "image-1.png").write_bytes(b"")
    train(tiny.config(root, steps=4), tmp_path / "run")
    assert sum("image-1" in record.getMessage() for record in caplog.records) == 1
    (root / "JPEGImages" / "image-2.png").write_bytes(b"\x89PNG cut short")
    with pytest.raises(ValueError, match=r"must be at most data.max_unreadable = 1; got image-1, image-2"):
        train(tiny.config(root, steps=4), tmp_path / "again")
    (root / "JPEGImages" / "image-9.png").write_bytes(b"")
    results = evaluate(tmp_path / "run")
    assert (results["images"], results["unreadable"]) == (4, ["image-9"])
    (root / "JPEGImages" / "image-10.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be at most data.max_unreadable = 1; got image-9, image-10"):
        evaluate(tmp_path / "run")


def test_a_split_without_a_readable_image_is_one_line(workdir, tmp_path):
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(13), {"train": range(8), "val": range(8, 13)})
    for index in range(8, 13):
        (root / "JPEGImages" / f"image-{index}.png").write_bytes(b"")
    with_data(workdir, root, tmp_path)
    config = load_config(tmp_path).unlock()
    config.data.max_unreadable = 10
    save_config(config, tmp_path)
    with pytest.raises(ValueError) as error:
        evaluate(tmp_path)
    names = "image-8, image-9, image-10, image-11, image-12"
    rule = "a split to evaluate on must have an image that can be read"
    assert str(error.value) == f"val: {rule}; got none of 5: {names}"
    with pytest.raises(ValueError, match=rf"^val\[:2\]: {rule}; got none of 2: image-8, image-9$"):
        evaluate(tmp_path, split="val[:2]")
