"""ssd-jax train: train a detector."""

import sys
from collections.abc import Sequence

from ssd_jax.command import Parser, command
from ssd_jax.config_file import read_config

EXAMPLES = (
    "train --config=shapes --workdir=runs/shapes",
    "train --config=ssd300_voc --workdir=runs/voc --config.data.root=VOCdevkit --config.batch_size=16",
)


def main(arguments: Sequence[str]) -> None:
    """Train as the arguments say."""
    parser = Parser(
        "train",
        "Train a detector. The same line again resumes a run that was stopped. With several processes, on one host "
        "or many, each runs the same line with --distributed, or with --coordinator, --num_processes and its own "
        "--process_id.",
        examples=EXAMPLES,
        fields="the config",
    )
    parser.add_argument("--config", required=True, metavar="NAME_OR_FILE", help="one of the configs below, or a file")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="where checkpoints and logs go")
    parser.add_argument(
        "--dry_run", action="store_true", help="report the time and memory of a few steps; write none"
    )
    parser.add_argument("--profile", action="store_true", help="record a trace of a few steps into DIR/profile")
    parser.add_argument(
        "--distributed", action="store_true", help="one of the processes of Slurm, Open MPI or a TPU pod"
    )
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="of the first of several processes")
    parser.add_argument("--num_processes", type=int, metavar="N", help="the number of processes")
    parser.add_argument("--process_id", type=int, metavar="I", help="the number of this process, from 0")
    options = parser.read(arguments)
    with command():
        config = read_config(options.config, options.overrides)

        from ssd_jax.loop.dry_run import dry_run
        from ssd_jax.loop.signals import EXIT_CODE
        from ssd_jax.loop.train import train
        from ssd_jax.parallel import is_first, join, require_devices

        place = options.coordinator, options.num_processes, options.process_id
        if options.distributed or any(value is not None for value in place):
            join(*place)
        require_devices()
        if options.dry_run:
            report = dry_run(config)
            if is_first():
                print(report)
            return
        finished = train(config, options.workdir, profile=options.profile)
    if not finished:
        sys.exit(EXIT_CODE)
