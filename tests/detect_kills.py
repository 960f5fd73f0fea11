"""Kill a job of detection again and again, start it again each time, and count the rows of each image.

python tests/detect_kills.py --images=2000 --kills=10
"""

import argparse
import collections
import json
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import tiny
from launch import start

from ssd_jax.inference.drawing import write_png
from ssd_jax.loop.train import train

PROGRAM = "import tiny, sys; from ssd_jax.cli import main; main(sys.argv[1:])"  # tiny knows the backbone


def start_job(workdir, images, out, part_size, cache):
    flags = [f"--workdir={workdir}", f"--out={out}", "--format=jsonl", f"--part_size={part_size}", "--score=0"]
    return start("-c", PROGRAM, "detect", *flags, images, devices=1, cache=cache)


def until_parts(process, out, count):
    """Wait until so many parts are there, or the process ends."""
    while process.poll() is None and len(list(out.glob("part-*.jsonl"))) < count:
        time.sleep(0.005)


def interrupted(workdir, *, images, part_size, signals, cache, seed=0):
    """Return how many of the signals hit a running job, and what is wrong with its result: nothing, one hopes."""
    moments = random.Random(seed)
    parts = -(-images // part_size)
    hits = 0
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "images", Path(folder) / "out"
        source.mkdir()
        for number in range(images):
            write_png(source / f"{number:06}.png", tiny.Images()[number % 8].image)
        for turn, number in enumerate(signals):
            process = start_job(workdir, source, out, part_size, cache)
            most = max(1, parts * (turn + 1) // (len(signals) + 1))
            until_parts(process, out, moments.randint(min(most, len(list(out.glob("part*"))) + 1), most))
            time.sleep(moments.uniform(0, 0.05))
            process.send_signal(number)
            process.communicate()
            hits += process.returncode == -number
        process = start_job(workdir, source, out, part_size, cache)
        _, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"the job ended with {process.returncode}:\n{errors}")
        rows = [json.loads(line) for part in sorted(out.glob("part-*")) for line in part.read_text().splitlines()]
        counts = collections.Counter(row["image"] for row in rows)
        problems = [f"{name}: {counts[str(name)]} rows" for name in source.iterdir() if counts[str(name)] != 1]
        problems += [f"left behind: {path}" for path in out.glob("*.partial")]
        problems += [f"no detections: {row}" for row in rows if not row.get("detections")]
    return hits, problems


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--part_size", type=int, default=50)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--signal", default="SIGKILL", choices=("SIGKILL", "SIGTERM", "SIGINT"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = tiny.write_voc(Path(folder) / "voc", tiny.Images(13), {"train": range(8), "val": range(8, 13)})
        train(tiny.config(data), Path(folder) / "run")
        hits, problems = interrupted(
            Path(folder) / "run",
            images=options.images,
            part_size=options.part_size,
            signals=[signal.Signals[options.signal]] * options.kills,
            cache=Path(folder) / "xla",
            seed=options.seed,
        )
    print(f"{hits} of {options.kills} {options.signal} hit a running job of {options.images} images;", end=" ")
    print("\n".join(problems) if problems else "each image is in the result once")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
