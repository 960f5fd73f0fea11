"""Train as `shapes_config.py` says in a process of its own, and read what a run wrote."""

import json
import os
import subprocess
import sys
from pathlib import Path

import xla

from ssd_jax.checkpoint import Checkpoints

ROOT = Path(__file__).resolve().parents[1]


def start_training(workdir, *arguments, devices, cache, **options):
    """Start train.py with `arguments`, as `start` does."""
    script = ("train.py", "--config=tests/shapes_config.py", f"--workdir={workdir}")
    return start(*script, *arguments, devices=devices, cache=cache, **options)


def start(*arguments, devices, cache, **options):
    """Start Python with `arguments` on so many fake devices.

    `cache` is a folder for compiled programs, and `options` are those of `subprocess.Popen`.
    """
    environment = os.environ | {
        "XLA_FLAGS": xla.flags(devices),
        "NPROC": "16",  # keeps jax <= 0.11.2 from deadlocking on fake devices
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": str(ROOT / "tests"),
    }
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, **options)


def lines(workdir):
    """Return the rows of a run's log."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def parameters(workdir, step):
    """Return the variables that inference would use."""
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        return checkpoints.restore_variables(step)
