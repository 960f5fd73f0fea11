"""Detect on many machines with Ray Data: Parquet in, Parquet out.

    pip install 'ray[data]' pyarrow
    python examples/ray_detect.py --workdir=runs/demo --out=results images.parquet

The input has a column of encoded images, `image` (binary, or structs with `bytes`), and any others, which are copied.
The output has `detections` for `image`, and `error` for images that cannot be read. Ray starts `--workers` processes,
each with a detector of its own, and spreads the rows over them. On a cluster start it with `ray job submit`; the
paths must then be ones that all machines see. With GPUs say `--gpus=1`: each worker gets one.

On one machine `ssd-jax detect --format=parquet` does the same without Ray, and goes on with a job that was stopped.
"""

import argparse
import os
import time

import numpy as np
import pyarrow as pa
import ray

from ssd_jax.inference import Detections, Detector, load_detector

BLOCK = 256  # rows that are handed out together: one block would leave all but one worker idle
DETECTIONS = pa.list_(
    pa.struct(
        [("class", pa.string()), ("label", pa.int32()), ("score", pa.float32()), ("box", pa.list_(pa.float32()))]
    )
)


class Detect:
    """What every worker makes once, and then calls with batch after batch."""

    def __init__(self, detector: Detector, score: float) -> None:
        """Take a detector, which was pickled; it compiles again here."""
        self._detector, self._score = detector, score

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Replace the column of images by their detections."""
        images = [value.get("bytes") if isinstance(value, dict) else value for value in batch["image"].to_pylist()]
        answers = list(self._detector.stream((image or b"" for image in images), return_errors=True))
        found = [a.above(self._score).to_dicts() if isinstance(a, Detections) else None for a in answers]
        errors = [None if isinstance(a, Detections) else str(a).partition(": ")[2] for a in answers]
        table = batch.drop_columns(["image"])
        table = table.append_column("detections", pa.array(found, DETECTIONS))
        return table.append_column("error", pa.array(errors, pa.string()))


def main() -> None:
    """Read the flags, and detect."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inputs", nargs="+", help="Parquet files or folders of them")
    parser.add_argument("--workdir", required=True, help="of the run")
    parser.add_argument("--out", required=True, help="folder for the results, which must be empty")
    parser.add_argument("--score", type=float, default=0.4, help="the lowest of a detection; %(default)s")
    parser.add_argument("--workers", type=int, default=2, help="%(default)s")
    parser.add_argument("--cpus", type=float, default=0.5, help="reserved for each worker; %(default)s")
    parser.add_argument("--gpus", type=float, default=0, help="of each worker; %(default)s")
    parser.add_argument("--batch_size", type=int, default=64, help="rows that a worker gets together; %(default)s")
    options = parser.parse_args()
    if os.path.isdir(options.out) and os.listdir(options.out):
        parser.error(f"out must be an empty folder; got {options.out}")
    ray.init(log_to_driver=False)
    cpus = ray.cluster_resources().get("CPU", 0)
    if options.workers * options.cpus > cpus - 1:  # Ray would wait for ever
        parser.error(f"workers x cpus must leave one of {cpus:g} CPUs for reading and writing; got {options.workers}")
    detector = load_detector(options.workdir)
    detector([np.zeros((8, 8, 3), np.uint8)])  # fails here, not in every worker
    start = time.monotonic()
    (
        ray.data.read_parquet(options.inputs)
        .repartition(target_num_rows_per_block=BLOCK)
        .map_batches(
            Detect,
            batch_format="pyarrow",
            batch_size=options.batch_size,
            compute=ray.data.ActorPoolStrategy(size=options.workers),
            fn_constructor_args=(detector, options.score),
            num_cpus=options.cpus,
            num_gpus=options.gpus,
        )
        .write_parquet(options.out)
    )
    rows = ray.data.read_parquet(options.out).count()
    seconds = time.monotonic() - start
    print(f"{rows} images in {options.out}, {rows / seconds:.1f} images a second with the start of the workers")


if __name__ == "__main__":
    main()
