"""What the settings of ssd_jax.fast_cpu save of a training step on a CPU, each alone and all together.

    python benchmarks/cpu_settings.py --config=voc_folder [--rounds 3] [--config.FIELD=VALUE ...]

Every figure is from `ssd-jax train --dry_run` in a process of its own, on drawn images. The variants take turns, so
that a busy machine slows all alike; programs are compiled in a first round, which is not counted.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile

from timing import Table, machine

from ssd_jax.fast_cpu import KEPT_MEMORY, OLDER_KERNELS, SWITCH

BY_HAND = {SWITCH: "0"}
VARIANTS = {
    "none": BY_HAND,
    "memory kept, in large pages": BY_HAND | KEPT_MEMORY,
    "older kernels": BY_HAND | {"XLA_FLAGS": f"{OLDER_KERNELS}="},
    "all, as the command sets them": {SWITCH: "1"},
}
DATA = ("--config.data.source=shapes", "--config.data.train=train:1000", "--config.data.eval=test:8")


def step_seconds(config, overrides, environment):
    command = ["ssd_jax", "train", f"--config={config}", "--workdir=none", "--dry_run", *DATA, *overrides]
    done = subprocess.run([sys.executable, "-m", *command], env=environment, capture_output=True, text=True)
    found = re.search(r"^a step takes ([\d.]+) s", done.stdout, re.MULTILINE)
    if not found:
        sys.exit(done.stderr)
    return float(found[1])


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--config", default="voc_folder")
    parser.add_argument("--rounds", type=int, default=3)
    options, overrides = parser.parse_known_args()
    clean = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", *KEPT_MEMORY)}
    clean |= {"JAX_PLATFORMS": "cpu", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    print(machine("jaxlib"), f"config {options.config}", " ".join(overrides), "", sep="\n", flush=True)
    with tempfile.TemporaryDirectory() as cache:
        clean.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        rounds = [
            {name: step_seconds(options.config, overrides, clean | added) for name, added in VARIANTS.items()}
            for _ in range(1 + options.rounds)
        ][1:]
    table = Table("settings", "seconds of a step, in each round", "of the step without any, median")
    for name in VARIANTS:
        ratios = [times[name] / times["none"] for times in rounds]
        table.row(name, ", ".join(f"{times[name]:.3f}" for times in rounds), f"{statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
