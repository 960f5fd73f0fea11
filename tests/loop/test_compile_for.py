"""Programs for TPUs that this machine does not have: figures by hand, errors of one line."""

import importlib.util
import sys

import jax
import pytest
import tiny

from ssd_jax.commands import train
from ssd_jax.config_file import read_config
from ssd_jax.loop import compile_for
from ssd_jax.loop.chips import CHIPS, all_reduce_seconds, roofline
from ssd_jax.loop.compile_for import Compilation
from ssd_jax.loop.hlo import Cost

PROMOTION = "standard"  # optax mixes integers and floats in its schedules
has_libtpu = importlib.util.find_spec("libtpu") is not None
COSTS = [
    Cost("f", "fusion", "transpose(jvp(SSD))/conv", "model/layers.py:1", 3_000_000_000, 0, 1),
    Cost("r", "all-reduce", "psum", "training/step.py:2", 70_000_000, 70_000_000, 1),
    Cost("s", "all-reduce-start", "psum", "training/step.py:2", 30_000_000, 30_000_000, 1, overlaps=True),
    Cost("c", "copy", "", "", 50, 50, 1),
]
STEP = Compilation("step", "v5e:2x2", 4, 32, 1.0, 197e12, 5e9, 4_000_000_000, 2_000_000_000, 6_000_000_000, COSTS)


@pytest.mark.parametrize(
    ("topology", "seconds"),
    [
        ("v5e:1x1", 0),
        ("v5e:2x2", 2 * 3 / 4 * 1e9 / 100e9),  # one port of two on each axis: half of 200 GB/s
        ("v5e:16x16", 2 * 255 / 256 * 1e9 / 200e9),  # rings
        ("h100:8", 2 * 7 / 8 * 1e9 / 450e9),
        ("v5p:2x2x1", 2 * 3 / 4 * 1e9 / 200e9),  # two ports of six: a third of 600 GB/s
    ],
)
def test_an_all_reduce_sends_almost_twice_its_bytes_over_the_ports_in_use(topology, seconds):
    assert all_reduce_seconds(topology, 1e9) == pytest.approx(seconds)


def test_a_step_takes_the_longer_of_arithmetic_and_traffic_and_then_its_collectives():
    least = roofline("v5e:2x2", operations=197e12, traffic=2 * 819e9, reduced=1e9)
    assert least == pytest.approx((1, 2, 0.015))
    assert least.step == pytest.approx(2.015)
    assert least.bound == "memory"


def test_the_chips_are_those_that_a_slice_may_name():
    assert {"v4", "v5e", "v5p", "v6e", "h100"} == CHIPS.keys()


def test_a_report_adds_up():
    assert STEP.traffic == 3_100_000_050
    assert STEP.groups() == {"model, backward: conv": 3_000_000_000, "collectives": 100_000_000, "no line: copy": 50}
    assert STEP.images_per_second == pytest.approx(32 / (1 + 2 * 3 / 4 * 1e8 / 100e9))
    report = STEP.report()
    assert "197,000 GFLOP a chip, 6156.2 an image" in report
    assert "3.1 GB a chip, 0.0969 GB an image; with what stays on the chip 4 GB, which XLA counts as 5 GB" in report
    assert "2 GB of arguments and 6 GB while it runs, 50% of the chip's 16 GB" in report
    assert "collectives: 2 all-reduce of 100.0 MB, 30.0 MB in 1 beside the backward pass" in report
    assert "an upper bound by the maker's figures, not a measurement" in report
    assert "3.000 GB  fusion f: transpose(jvp(SSD))/conv (model/layers.py:1)" in report


@pytest.fixture
def config_file(tmp_path):
    tiny.write_voc(tmp_path / "data", tiny.Images(), {"train": range(6), "val": range(6, 8)})
    path = tmp_path / "config.py"
    path.write_text(f"import tiny\n\ndef get_config():\n    return tiny.config({str(tmp_path / 'data')!r})\n")
    return path


def test_the_step_and_the_detector_of_a_run_are_compiled_for_the_devices(config_file, monkeypatch):
    monkeypatch.setattr(compile_for, "described_devices", lambda topology: jax.devices("cpu")[:2])
    config = read_config(str(config_file), ["--config.batch_size=6", "--config.eval.batch_size=4"])
    step, detector = compile_for.compile_run(config, "v5e:2x1").split("\n\ndetector")
    assert step.startswith("step for v5e:2x1, 3 images a chip: ")
    assert " all-reduce of " in step
    assert "training: add" in step
    assert detector.startswith(" for v5e:2x1, 4 images a chip: ")
    assert "collectives: none" in detector
    assert "model, backward" not in detector


def error_of(config_file, topology):
    with pytest.raises(SystemExit) as raised:
        train.main(
            [f"--config={config_file}", f"--workdir={config_file.parent / 'run'}", f"--compile_for={topology}"]
        )
    return str(raised.value)


@pytest.mark.parametrize("topology", ["v5e", "v3:2x2", "h100:9", "v5e:2x"])
def test_what_is_no_slice_is_refused_in_one_line(config_file, topology, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    error = error_of(config_file, topology)
    assert "\n" not in error
    assert "compile_for must be a generation of TPU and the chips along each axis" in error
    assert f"got {topology!r}" in error


@pytest.mark.parametrize(
    ("topology", "library", "extra"),
    [("v5e:2x2", "libtpu", "tpu-compile"), ("h100:8", "jax_cuda12_plugin", "gpu-compile")],
)
def test_without_the_extra_it_is_named(config_file, topology, library, extra, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    error = error_of(config_file, topology)
    assert "\n" not in error
    assert f"{library} must be installed: pip install 'ssd_jax[{extra}]'" in error


@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: pip install ssd_jax[tpu-compile]")
def test_a_slice_that_does_not_exist_is_refused_in_one_line(config_file, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    error = error_of(config_file, "v5e:3x5")
    assert "\n" not in error
    assert "got 'v5e:3x5'" in error
