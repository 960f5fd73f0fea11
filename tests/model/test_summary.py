"""The summary counts what there is, and says so on the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssd_jax.box import SSD300_COCO, SSD300_VOC
from ssd_jax.model import SSD
from ssd_jax.model.summary import summarize

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("classes", "spec", "parameters", "gmacs"),
    [(21, SSD300_VOC, 26_285_486, 31.4), (91, SSD300_COCO, 35_641_826, 34.9)],  # as torchvision counts its own
)
def test_parameters_and_gmacs(classes, spec, parameters, gmacs):
    layers = summarize(SSD(classes, spec))
    assert sum(layer.parameters for layer in layers) == parameters
    assert round(sum(layer.macs for layer in layers) / 1e9, 1) == gmacs


def test_layers_by_hand():
    layers = {layer.name: layer for layer in summarize(SSD(21, SSD300_VOC))}
    assert len(layers) == 15 + 1 + 8 + 12
    assert next(iter(layers)) == "trunk/conv1_1/conv"
    assert layers["trunk/conv1_1/conv"][1:] == ((300, 300, 64), 27 * 64 + 64, 300 * 300 * 27 * 64)
    assert layers["trunk/fc6/conv"].shape == (19, 19, 1024)
    assert layers["conv4_3_norm"][1:] == ((38, 38, 512), 512, 0)
    assert layers["conf1/conv"][1:] == ((19, 19, 126), 9 * 1024 * 126 + 126, 361 * 9 * 1024 * 126)


def run(*flags):
    command = [sys.executable, "-m", "ssd_jax.model", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_the_command():
    result = run("--config=configs/ssd300_voc.py")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["trunk/conv1_1/conv", "300x300x64", "1,792", "0.1555"]
    assert lines[-1].split()[:2] == ["all", "26,285,486"]
    assert "say how many with --classes" in run("--config=configs/voc_folder.py").stderr
