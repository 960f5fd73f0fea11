"""Kill a run again and again, start it again each time, and compare its end with that of a run left alone.

python tests/kills.py --kills=20 [--signal=SIGTERM]
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop import EXIT_CODE

ROOT = Path(__file__).resolve().parents[1]
STEPS_A_KILL = 40


def command(workdir, steps):
    settings = {"steps": steps, "save_every": 5, "log_every": 5, "eval_every": 0, "batch_size": 2}
    settings |= {"schedule.warmup_steps": 10, "model.width": 1 / 16}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return [sys.executable, "train.py", "--config=configs/shapes.py", f"--workdir={workdir}", *flags]


def start(workdir, steps):
    # Unoptimised code compiles faster, and the run left alone compiles for all.
    environment = os.environ | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        command(workdir, steps),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_it_logs(process, log):
    """Wait until the run writes to its log, or ends."""
    before = log.stat().st_size if log.exists() else 0
    while process.poll() is None and (log.stat().st_size if log.exists() else 0) <= before:
        time.sleep(0.01)


def finish(process):
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}:\n{errors}")


def interrupted_run(workdir, *, signals, steps, seed):
    """Run to the end through `signals` at random moments; return how many hit a running process."""
    moments = random.Random(seed)
    hits = 0
    for number in signals:
        process = start(workdir, steps)
        until_it_logs(process, workdir / "metrics.jsonl")
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(number)
        process.communicate()
        hits += process.returncode in (-number, EXIT_CODE)
    finish(start(workdir, steps))
    return hits


def final_state(workdir, steps):
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        assert checkpoints.latest() == steps
        return checkpoints.restore_variables(steps)


def compare(signals, *, seed=0):
    """Return how many of the signals hit, and whether both ends are equal bit by bit."""
    steps = STEPS_A_KILL * (len(signals) + 1)
    with tempfile.TemporaryDirectory() as folder:
        straight, interrupted = Path(folder) / "straight", Path(folder) / "interrupted"
        finish(start(straight, steps))
        hits = interrupted_run(interrupted, signals=signals, steps=steps, seed=seed)
        ends = [jax.tree.leaves(final_state(workdir, steps)) for workdir in (straight, interrupted)]
    return hits, all(np.array_equal(a, b) for a, b in zip(*ends, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", default="SIGKILL", choices=("SIGKILL", "SIGTERM", "SIGINT"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    hits, equal = compare([signal.Signals[arguments.signal]] * arguments.kills, seed=arguments.seed)
    print(f"{hits} of {arguments.kills} {arguments.signal} hit a running process; the parameters are", end=" ")
    print("bit-equal to those of the straight run" if equal else "NOT those of the straight run")
    sys.exit(not equal)


if __name__ == "__main__":
    main()
