"""ssd-jax export: a run's detector as a file."""

import numpy as np
import pytest

from ssd_jax.cli import main
from ssd_jax.inference import load_detector

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
