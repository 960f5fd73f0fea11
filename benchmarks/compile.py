"""Compile the training step and the detector for TPUs or GPUs without one: operations, memory, traffic, a roofline.

    python benchmarks/compile.py [--config ssd300_voc] [--slice v5e:2x2 ...] [--program step detector] \
        [--images 32 128] [--set model.width=0.25 ...] [--markdown FILE]

It needs the extra `tpu-compile` or `gpu-compile`. No dataset is read: the classes are those that the config names, or
20. The report of each program is that of `ssd-jax train --compile_for=SLICE`. Nothing runs, so no time here is a
measurement, but for that of the compiler.
"""

import argparse
import os
from itertools import product
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # the chips are only described

from timing import Table, machine

from ssd_jax.command import command
from ssd_jax.config_file import read_config
from ssd_jax.loop.chips import roofline
from ssd_jax.loop.compile_for import compile_detector, compile_step
from ssd_jax.parallel import described_devices

CLASSES = 20  # of a config that names none
SIDES = (1, 2, 4, 8, 16)  # of square slices
GLOBAL_BATCH, SHARE = 256, 32
PLANS = [(side, SHARE) for side in SIDES] + [(side, GLOBAL_BATCH // side**2) for side in SIDES[1:]]  # images a chip
DECODED = 1000  # JPEGs of VOC that a core decodes in a second (results/input-cpu.md)
PROGRAMS = {"step": compile_step, "detector": compile_detector}
COLUMNS = (
    *("program", "config", "slice", "images a chip", "GFLOP an image", "GB of traffic an image", "GB by XLA's count"),
    *("GB temporary", "GB arguments", "MB all-reduced", "ms arithmetic", "ms memory", "ms interconnect"),
    *("images/s a chip, upper bound", "s to compile"),
)


def configured(name, overrides, **changes):
    """Return the config of a name with flags such as "model.width=0.25"."""
    return read_config(
        name, [f"--config.{flag}" for flag in overrides] + [f"--config.{k}={v}" for k, v in changes.items()]
    )


def compiled(program, name, topology, images, options):
    """Compile a program of the config of a name with so many images a chip."""
    batch = images * len(described_devices(topology))
    changes = {"batch_size": batch, "eval.batch_size": images, "model.dtype": options.dtype}
    config = configured(name, options.set, **changes)
    return PROGRAMS[program](config, topology, 1 + (len(config.data.class_names) or CLASSES))


def row(name, done):
    """Return the cells of a table for a `Compilation`."""
    return (
        *(done.program, name, done.topology, done.images),
        f"{done.operations / done.images / 1e9:.1f}",
        f"{done.traffic / done.images / 1e9:.3f}",
        f"{done.accessed / done.images / 1e9:.3f}" if done.accessed else "-",
        f"{done.temporary / 1e9:.2f}",
        f"{done.arguments / 1e9:.2f}",
        f"{done.reduced / 1e6:.1f}",
        *(f"{1e3 * seconds:.1f}" for seconds in done.least),
        f"{done.images_per_second:,.0f}",
        f"{done.seconds:.0f}",
    )


def scaling(topology, programs):
    """Return a table of slices from 1 to 256 chips: a fixed share of each chip, and a fixed global batch.

    `programs` holds the steps compiled for `topology` by images a chip: its chips run the same program on any slice
    of their generation, and only the time of the all-reduce differs.
    """
    table = Table(
        *("slice", "images a chip", "global batch", "ms arithmetic", "ms memory", "ms all-reduce"),
        *("all-reduce, share of the step", "images/s, upper bound", "cores that decode so many"),
    )
    kind = topology.split(":")[0]
    for side, images in PLANS:
        done, place = programs[images], f"{kind}:{side}x{side}"
        least = roofline(place, operations=done.operations, traffic=done.traffic, reduced=done.reduced)
        speed = images * side**2 / least.step
        table.row(
            *(place, images, images * side**2),
            *(f"{1e3 * seconds:.2f}" for seconds in least),
            f"{least.interconnect / least.step:.0%}",
            f"{speed:,.0f}",
            f"{speed / DECODED:,.0f}",
        )
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", nargs="+", default=["ssd300_voc"], help="names or files")
    parser.add_argument("--slice", nargs="+", default=["v5e:2x2"], help="generation and chips along each axis")
    parser.add_argument("--program", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--images", type=int, nargs="+", default=[32], help="of a chip")
    parser.add_argument("--dtype", default="bfloat16", help="of the backbone")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE", help="fields of the config")
    parser.add_argument(
        "--scaling",
        action="store_true",
        help="what a step would take on 1 to 256 chips of v5e or v6e: with 32 images a chip, and with 256 in all",
    )
    parser.add_argument("--markdown", help="also write the table and the reports to this file")
    options = parser.parse_args()
    if options.scaling:
        if len(options.slice) > 1 or options.slice[0] not in ("v5e:2x2", "v6e:2x2"):
            parser.error(f"--scaling must go with --slice v5e:2x2 or v6e:2x2; got {' '.join(options.slice)}")
        options.program, options.images = ["step"], sorted({images for _, images in PLANS})
    with command():
        rows, reports = [], []
        for name in options.config:
            programs = {}
            for topology, program, images in product(options.slice, options.program, options.images):
                done = compiled(program, name, topology, images, options)
                programs[images] = done
                rows.append(row(name, done))
                reports.append(done.report())
                print(done.report(), "", sep="\n", flush=True)
            if options.scaling:
                reports.append("\n".join(scaling(options.slice[0], programs).lines))
        table = Table(*COLUMNS)
        for cells in rows:
            table.row(*cells)
        lines = [machine("flax", "libtpu"), "", *table.lines, *(f"\n```\n{report}\n```" for report in reports)]
        if options.markdown:
            Path(options.markdown).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
