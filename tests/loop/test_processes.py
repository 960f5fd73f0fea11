"""Several processes, here on one machine, must train as one does."""

import json
import re
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import shapes_config
import tiny
from jax.flatten_util import ravel_pytree
from launch import ROOT, start_training

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.signals import EXIT_CODE
from ssd_jax.loop.train import train
from ssd_jax.parallel import join, of_every_process

PROMOTION = "standard"  # optax's schedules and Flax's BatchNorm promote


def start(workdir, *arguments):
    """Start two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}", "--num_processes=2"]
    options = {"devices": 2, "cache": jax.config.jax_compilation_cache_dir}
    return [start_training(workdir, *arguments, *place, f"--process_id={i}", **options) for i in range(2)]


def finish(processes):
    """Wait for the processes; return their exit codes, outputs and errors."""
    outputs = [process.communicate(timeout=300) for process in processes]
    return [process.returncode for process in processes], *zip(*outputs, strict=True)


def parameters(workdir, step):
    with Checkpoints.of_run(workdir) as checkpoints:
        return np.asarray(ravel_pytree(checkpoints.restore_variables(checkpoints.find(step))["params"])[0])


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_stop_together_at_a_signal_to_one_and_go_on_as_one_process_does(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    processes = start(two, "--config.steps=100000")
    while not (two / "metrics.jsonl").exists() or not lines(two):
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    codes, outputs, errors = finish(processes)
    assert codes == [EXIT_CODE, EXIT_CODE], errors
    with Checkpoints.of_run(two) as checkpoints:
        stopped = checkpoints.find()
    assert f"a signal: stopped after step {stopped}, which is saved" in outputs[0]
    assert "step" not in outputs[1]  # the first process speaks for all

    last = stopped + 10  # of which the last five are traced
    codes, outputs, errors = finish(start(two, f"--config.steps={last}", "--profile"))
    assert codes == [0, 0], errors
    assert len(list((two / "profile").rglob("*.xplane.pb"))) == 1
    assert "4 device(s) of kind cpu in 2 process(es), batch 8" in outputs[0]
    assert f"; resuming at step {stopped}" in outputs[0]

    config = shapes_config.get_config()
    config.steps = last
    assert train(config, one)
    moved = parameters(one, last) - parameters(one, stopped)
    assert np.linalg.norm(parameters(two, last) - parameters(one, last)) < 1e-3 * np.linalg.norm(moved)
    for line, wanted in zip(lines(two), lines(one), strict=True):
        for name in wanted.keys() - {"images_per_second", "data_wait"}:
            assert line[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name


def test_an_error_of_one_ends_both_soon(tmp_path):
    root = tiny.write_voc(tmp_path / "voc", tiny.Images(16), {"train": range(16), "val": range(2)})
    (root / "JPEGImages" / "image-3.png").write_bytes(b"")
    data = {"source": "voc_folder", "root": root, "train": "train", "eval": "val"}
    data["class_names"] = "('bright','dark','a','b','c')"  # as many as the shapes have, for the same program
    settings = [f"--config.data.{name}={value}" for name, value in data.items()]
    codes, _, errors = finish(start(tmp_path / "run", *settings, "--config.data.max_unreadable=0"))
    assert codes == [1, 1]
    for error in errors:
        assert "error: unreadable images must be at most data.max_unreadable = 0; got image-3" in error


def test_one_of_them_prints_the_dry_run(tmp_path):
    codes, outputs, errors = finish(start(tmp_path / "run", "--dry_run"))
    assert codes == [0, 0], errors
    assert ["nothing was written" in output for output in outputs] == [True, False]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("127.0.0.1:1234", None, None), "must be given together; got no num_processes and no process_id"),
        (("host0", 2, 0), "coordinator must be HOST:PORT; got 'host0'"),
        (("host0:1234", 2, 2), r"process_id must be in \[0, num_processes\); got 2 of 2"),
    ],
)
def test_a_place_among_processes_makes_sense(place, message):
    with pytest.raises(ValueError, match=message):
        join(*place)


def test_an_environment_without_a_cluster_is_one_line(tmp_path):
    command = [sys.executable, "train.py", "--config=configs/shapes.py", f"--workdir={tmp_path}", "--distributed"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert re.fullmatch(r"error: the environment does not say how many processes there are \(.*\n", result.stderr)


def test_one_process_is_all_of_them():
    assert of_every_process(7).tolist() == [7]
    assert of_every_process(np.array([7, 8])).tolist() == [[7, 8]]
