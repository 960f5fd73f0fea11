"""Train a config on a dataset of your own for several seeds, and print each seed's mAP beside what it cost.

    python benchmarks/finetune.py --root=DIR --train=trainval --eval=test [--config=finetune] [--seeds 0 1 2] \
        [--config.FIELD=VALUE ...]

DIR is a folder in VOC's layout. A run is a program of its own, so that compiling counts. Its time goes from the start
to the last checkpoint, evaluations on the way included; the time of the last evaluation is apart. Processor minutes
are those of all cores: on a machine that other programs share, they are what can be compared. Two idle cores take
half as many minutes at best.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import Table, machine

ROOT = Path(__file__).parents[1]


def main():
    """Parse the flags and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True)
    parser.add_argument("--train", default="trainval")
    parser.add_argument("--eval", default="test")
    parser.add_argument("--config", default="finetune", help="a name in configs/, or a file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options, changes = parser.parse_known_args()
    data = {"root": Path(options.root).resolve(), "train": options.train, "eval": options.eval}
    flags = [f"--config={options.config}", *(f"--config.data.{name}={value}" for name, value in data.items())]
    print(f"{machine('flax', 'optax')}\n")
    table = Table("seed", "minutes", "processor minutes", "evaluation's", "mAP 11-point", "mAP area", "AP 11-point")
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as workdir:
            trained = run("train.py", *flags, *changes, f"--config.seed={seed}", f"--workdir={workdir}")
            evaluated = run("eval.py", f"--workdir={workdir}")
            results = json.loads(next(Path(workdir).glob("eval_*.json")).read_text())
        minutes = (f"{seconds / 60:.1f}" for seconds in (*trained, evaluated[1]))
        found = {name: ap for name, ap in results["AP"].items() if ap is not None}  # a class may have no object here
        classes = ", ".join(f"{name} {ap:.3f}" for name, ap in found.items())
        table.row(seed, *minutes, f"{results['mAP']:.4f}", f"{results['mAP_area']:.4f}", classes)


def run(*arguments):
    """Run a script of the repository; return its seconds and its processor seconds."""
    started, before = time.perf_counter(), processor_seconds()
    subprocess.run([sys.executable, ROOT / arguments[0], *arguments[1:]], check=True, stdout=sys.stderr)
    return time.perf_counter() - started, processor_seconds() - before


def processor_seconds():
    """Return the processor time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
