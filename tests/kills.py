"""Kill a run again and again, start it again each time, and compare its end with that of a run left alone.

python tests/kills.py --kills=20 [--signal=SIGTERM]
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import tiny
from launch import start_training

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.signals import EXIT_CODE

STEPS_A_KILL = 15  # of which a killed run makes some twelve at most


# Settings of a network with depthwise convolutions.
LIGHT = tuple(f"--config.model.{option}" for option in ("backbone=short_light", "extras=light", "heads=light"))
# RetinaNet's pyramid and heads, which want as many priors a cell on all maps.
RETINA = (
    *(f"--config.model.{name}={value}" for name, value in tiny.PYRAMID.items()),
    "--config.spec.ratios=((2.0,), (2.0,), (2.0,))",
)


def start(workdir, steps, cache, settings):
    fixed = [f"--config.steps={steps}", "--config.log_every=1", "--config.eval_every=0"]
    return start_training(workdir, *fixed, *settings, devices=4, cache=cache)


def until_it_logged(process, log, lines):
    """Wait until the run has written so many lines to its log, or ends."""
    size = None
    while lines > 0 and process.poll() is None:
        before, size = size, log.stat().st_size if log.exists() else 0
        lines -= before is not None and size > before
        time.sleep(0.01)


def finish(process):
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the run ended with {process.returncode}:\n{errors}")


def interrupted_run(workdir, *, signals, steps, seed, cache, settings):
    """Run to the end through `signals` at random moments; return how many hit a running process."""
    moments = random.Random(seed)
    hits = 0
    for number in signals:
        process = start(workdir, steps, cache, settings)
        until_it_logged(process, workdir / "metrics.jsonl", moments.randint(1, 12))
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(number)
        process.communicate()
        hits += process.returncode in (-number, EXIT_CODE)
    finish(start(workdir, steps, cache, settings))
    return hits


def final_state(workdir, steps):
    with Checkpoints(workdir / "checkpoints", create=False) as checkpoints:
        assert checkpoints.latest() == steps
        return checkpoints.restore_variables(steps)


def compare(signals, *, seed=0, cache=None, settings=()):
    """Return how many of the signals hit, and whether both ends are equal bit by bit.

    `cache` is a folder for compiled programs, by default one that goes at the end. `settings` change the config.
    """
    steps = STEPS_A_KILL * (len(signals) + 1)
    with tempfile.TemporaryDirectory() as folder:
        straight, interrupted = Path(folder) / "straight", Path(folder) / "interrupted"
        cache = cache or Path(folder) / "xla"
        finish(start(straight, steps, cache, settings))
        hits = interrupted_run(interrupted, signals=signals, steps=steps, seed=seed, cache=cache, settings=settings)
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
