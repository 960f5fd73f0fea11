"""ssd-jax export: a run's detector as a file."""

import json
import re
import shutil

import numpy as np
import pytest
import tiny

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.cli import main
from ssd_jax.export import to_stablehlo
from ssd_jax.inference import load_detector
from ssd_jax.loop.evaluate import evaluate
from ssd_jax.loop.exported_evaluation import evaluate_exported
from ssd_jax.loop.workdir import load_config, save_config

PROMOTION = "standard"  # Flax's BatchNorm promotes


@pytest.mark.parametrize("suffix", ["stablehlo", "onnx"])
def test_the_file_of_a_run_detects_what_the_run_does(workdir, tmp_path, capsys, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")
    out = tmp_path / f"detector.{suffix}"
    main(["export", f"--workdir={workdir}", f"--out={out}", "--step=3"])
    beside = f" and {out}.json" if suffix == "stablehlo" else ""
    assert capsys.readouterr().out == f"written to {out}{beside}\n"
    images = [*np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)]
    loaded = load_detector(out)
    assert (loaded.step, loaded.class_names) == (3, ("bright", "dark"))
    for found, wanted in zip(loaded(images), load_detector(workdir, step=3)(images), strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=x.stablehlo", "--batch_size=0"], "batch_size must be a positive integer or None; got 0"),
        (["--out=x.pth"], "out must be NAME.onnx or NAME.stablehlo; got 'x.pth'"),
        (["--out=x.onnx", "--format=stablehlo"], "out must be NAME.stablehlo; got 'x.onnx'"),
        (["--out=x.stablehlo", "--nms=false"], "format must be onnx for precision and nms; got stablehlo"),
        (["--out=x.onnx", "--precision=int4"], "precision must be one of fp32, fp16, int8; got 'int4'"),
        (["--out=no/folder/x.stablehlo"], "no/folder/x.stablehlo: No such file or directory"),
        (["--out=x.stablehlo", "--step=99"], ".*99.*"),
    ],
)
def test_what_cannot_be_exported_is_one_line(workdir, tmp_path, monkeypatch, flags, message):
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=f"^error: {message}$"):
        main(["export", f"--workdir={workdir}", *flags])
    assert not list(tmp_path.iterdir())


def test_eight_bits_are_measured_on_the_evaluation_split(workdir, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")
    out = tmp_path / "detector.onnx"
    main(["export", f"--workdir={workdir}", f"--out={out}", "--precision=int8", "--calibration=3"])
    assert load_detector(out).class_names == ("bright", "dark")


def test_eight_bits_are_measured_on_the_images_that_can_be_read(workdir, tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")
    run = with_unreadable(workdir, tmp_path, "image-9", "image-11")
    out = tmp_path / "detector.onnx"
    main(["export", f"--workdir={run}", f"--out={out}", "--precision=int8", "--calibration=3"])
    assert load_detector(out).class_names == ("bright", "dark")
    errors = capsys.readouterr().err
    assert "skipping image-9: the file is empty" in errors
    assert "image-11" not in errors  # the fourth


@pytest.mark.parametrize("suffix", ["stablehlo", "onnx"])
def test_a_file_has_the_best_scores_of_its_checkpoint(workdir, data, tmp_path, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")
    run, out = shutil.copytree(workdir, tmp_path / "run"), tmp_path / f"detector.{suffix}"
    image = str(data / "JPEGImages" / "image-1.png")
    detect = ["detect", f"--workdir={out}", "--score=auto", image]
    with Checkpoints.of_run(run) as checkpoints:
        checkpoints.store_thresholds(6, {"bright": 0.25, "dark": float("nan")})
    main(["export", f"--workdir={run}", f"--out={out}"])
    assert load_detector(out).thresholds == pytest.approx({"bright": 0.25, "dark": float("nan")}, nan_ok=True)
    main([*detect, f"--out={tmp_path / 'drawings'}"])
    main([*detect, f"--out={tmp_path / 'parts'}", "--format=jsonl"])
    assert json.loads((tmp_path / "parts" / "job.json").read_text())["best_scores"] == [0.25, 0.4]
    (run / "checkpoints" / "6" / "thresholds.json").unlink()
    main(["export", f"--workdir={run}", f"--out={out}"])
    message = (
        f"score must be a number if no evaluation has stored the best scores of step 6 of {out}; got auto; evaluate "
        "first: ssd-jax eval --workdir=RUN --step=6; then export again: "
        f"ssd-jax export --workdir=RUN --step=6 --out={out}"
    )
    with pytest.raises(SystemExit, match=f"^error: {re.escape(message)}$"):
        main([*detect, f"--out={tmp_path / 'none'}"])


def with_unreadable(workdir, folder, *names):
    """Return a run like `workdir`, with a dataset of its own whose images of these names are empty."""
    root = tiny.write_voc(folder / "voc", tiny.Images(13), {"train": range(8), "val": range(8, 13)})
    for name in names:
        (root / "JPEGImages" / f"{name}.png").write_bytes(b"")
    config = load_config(workdir).unlock()
    config.data.root = str(root)
    (folder / "run").mkdir()
    save_config(config, folder / "run")
    shutil.copytree(workdir / "checkpoints", folder / "run" / "checkpoints")
    return folder / "run"


def test_an_exported_file_is_evaluated_by_the_same_metrics(workdir, tmp_path, capsys):
    out = tmp_path / "detector.stablehlo"
    main(["export", f"--workdir={workdir}", f"--out={out}"])
    exported, checkpoint = evaluate_exported(workdir, out)
    wanted = evaluate(workdir)
    for name in ("mAP", "mAP_area", "images", "split", "step", "unreadable"):
        assert exported[name] == pytest.approx(wanted[name], abs=1e-6)
    assert checkpoint["mAP"] == pytest.approx(wanted["mAP"])  # those that the workdir has
    capsys.readouterr()
    main(["eval", f"--workdir={workdir}", f"--exported={out}", "--split=train[:3]"])  # those have yet to be found
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"mAP@0\.5 .* on 3 images of train\[:3\]; the checkpoint's .*: \+0\.0000, \+0\.0000", last)


def test_an_unreadable_image_counts_in_the_evaluation_of_a_file_too(workdir, tmp_path):
    run = with_unreadable(workdir, tmp_path, "image-9")
    to_stablehlo(load_detector(workdir), tmp_path / "x.stablehlo")
    exported, checkpoint = evaluate_exported(run, tmp_path / "x.stablehlo")
    assert exported["unreadable"] == checkpoint["unreadable"] == ["image-9"]


def test_a_split_without_an_object_has_no_score_in_either(workdir, tmp_path, capsys, monkeypatch):
    """The results that the workdir has are read from JSON, which has no NaN."""
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(13), {"train": range(8), "val": [0, 4]})
    config = load_config(workdir).unlock()
    config.data.root = str(root)
    save_config(config, tmp_path)
    shutil.copytree(workdir / "checkpoints", tmp_path / "checkpoints")
    to_stablehlo(load_detector(workdir), tmp_path / "x.stablehlo")
    evaluate(tmp_path)
    main(["eval", f"--workdir={tmp_path}", f"--exported={tmp_path}/x.stablehlo"])
    out = capsys.readouterr()
    assert "mAP@0.5 nan (11-point), nan (area) on 2 images of val; the checkpoint's nan, nan: +nan, +nan" in out.out
    assert "no image of val has an object to find" in out.err
    (tmp_path / "eval_val.json").write_text("[]")
    monkeypatch.delenv("SSD_JAX_TRACEBACK", raising=False)
    message = r"eval_val\.json: results must have split, step, mAP, mAP_area; got \[\]$"
    with pytest.raises(SystemExit, match=message):
        main(["eval", f"--workdir={tmp_path}", f"--exported={tmp_path}/x.stablehlo"])


@pytest.mark.parametrize("flags", [["--step=4"], ["--report"], ["--step=best", "--report"]])
def test_flags_that_do_not_go_with_a_file_are_named(workdir, flags):
    given = " and ".join(flag.strip("-").partition("=")[0] for flag in flags)
    with pytest.raises(SystemExit, match=f"^error: exported must be given without step and report; got {given}$"):
        main(["eval", f"--workdir={workdir}", "--exported=x.onnx", *flags])


def test_a_file_of_another_run_is_refused(workdir, tmp_path):
    other = load_detector(workdir)
    other.class_names = ("cat", "dog")
    to_stablehlo(other, tmp_path / "x.stablehlo")
    with pytest.raises(
        ValueError, match=r"x\.stablehlo: class names must be those of the run, bright, dark; got cat, dog"
    ):
        evaluate_exported(workdir, tmp_path / "x.stablehlo")
