"""ssd-jax train: train a detector."""

import argparse
import math
import os
import re
import sys
import time
from collections.abc import Sequence

from ssd_jax.command import Parser, command
from ssd_jax.config_file import read_config

EXAMPLES = (
    "train IMAGES --workdir=runs/mine --minutes=30",
    "train --config=ssd300_voc --workdir=runs/voc --config.data.root=VOCdevkit --config.batch_size=16",
)
MINUTES = 12.0


def main(arguments: Sequence[str]) -> None:
    """Train as the arguments say."""
    since = time.monotonic()
    parser = Parser(
        "train",
        "Train a detector on a folder of labelled images, or as a config says. The same line again resumes a run "
        "that was stopped.",
        examples=EXAMPLES,
        fields="the config",
    )
    parser.add_argument(
        "images",
        nargs="?",
        metavar="IMAGES",
        help="a folder of images with their annotations, in any usual layout: it is split, trained on for --minutes, "
        "evaluated, and some detections are drawn",
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where checkpoints and logs go")
    parser.add_argument(
        "--config",
        metavar="NAME_OR_FILE",
        help="one of the configs below, or a file; the default for IMAGES is finetune, or voc_folder without the "
        "extra [efficientnet]",
    )
    parser.add_argument(
        "--minutes",
        type=_minutes,
        help="choose the number of steps so that training, evaluation and drawing end in time, compilation included; "
        f"the default is {MINUTES:g} for IMAGES, unless --config.steps is given; a resumed run keeps its steps",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="report the time and memory of a few steps; write none"
    )
    parser.add_argument(
        "--compile_for",
        metavar="SLICE",
        help="compile the step and the detector for chips that this machine need not have, such as v5e:4x4 or "
        "h100:8; report their memory, traffic and largest instructions, and write none (extra [tpu-compile] or "
        "[gpu-compile])",
    )
    parser.add_argument("--profile", action="store_true", help="record a trace of a few steps into DIR/profile")
    several = parser.add_argument_group(
        "several processes", "Each of them, on one host or many, runs the same line but for --process_id."
    )
    several.add_argument("--distributed", action="store_true", help="one of those of Slurm, Open MPI or a TPU pod")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    several.add_argument("--num_processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process_id", type=int, metavar="I", help="the number of this process, from 0")
    options = parser.read(arguments)
    if not options.images and not options.config:
        parser.error("IMAGES or --config must be given; got neither")
    if options.compile_for and (options.dry_run or options.minutes):
        parser.error("--compile_for must be given without --dry_run and --minutes; got several")
    place = options.coordinator, options.num_processes, options.process_id
    distributed = options.distributed or any(value is not None for value in place)
    if distributed and (options.images or options.minutes):
        parser.error("IMAGES and --minutes must be given to one process; got several")
    steps_are_given = _without_steps(options.overrides) != options.overrides
    if steps_are_given and options.minutes:
        parser.error("--minutes or --config.steps must be given; got both")
    minutes = options.minutes or (MINUTES if options.images and not steps_are_given else None)

    if options.compile_for:
        os.environ["JAX_PLATFORMS"] = "cpu"  # nothing runs on a device

    with command():
        if options.images:
            from ssd_jax.loop.own_images import folder_config

            config = folder_config(options.images, options.config, options.overrides)
        else:
            config = read_config(options.config, options.overrides)

        from ssd_jax.loop.dry_run import dry_run
        from ssd_jax.loop.fields import complete
        from ssd_jax.loop.signals import EXIT_CODE
        from ssd_jax.loop.train import train
        from ssd_jax.loop.workdir import choose_kernels_for
        from ssd_jax.parallel import is_first, join, require_devices

        config = complete(config)
        choose_kernels_for(config)
        if distributed:
            join(*place)
        require_devices()
        if options.compile_for:
            from ssd_jax.loop.compile_for import compile_run

            print(compile_run(config, options.compile_for))
            return
        if options.dry_run:
            report = dry_run(config)
            if is_first():
                print(report)
            return
        if minutes:
            from ssd_jax.loop.own_images import fit_to_minutes

            config = fit_to_minutes(config, options.workdir, minutes, since=since, overrides=options.overrides)
        finished = train(config, options.workdir, profile=options.profile)
        if finished and (options.images or minutes):
            from ssd_jax.loop.own_images import show_results

            chosen = [options.images] if options.images else []
            chosen += [f"--config={options.config}"] if options.config else []
            show_results(options.workdir, chosen + _without_steps(options.overrides))
    if not finished:
        sys.exit(EXIT_CODE)


def _without_steps(overrides: Sequence[str]) -> list[str]:
    """Leave out `--config.steps=N`, whose value may be an argument of its own."""
    kept: list[str] = []
    rest = list(overrides)
    while rest:
        flag = [rest.pop(0)]
        if rest and not rest[0].startswith("-"):
            flag.append(rest.pop(0))
        if not re.match(r"--?config\.steps(=|$)", flag[0]):
            kept += flag
    return kept


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0; got {text!r}")
    return minutes
