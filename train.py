"""Train SSD: python train.py --config=configs/shapes.py --workdir=runs/shapes [--config.steps=1000 ...].

With several processes, on one host or many, each runs the same line with --distributed, or with --coordinator,
--num_processes and its own --process_id.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ssd_jax.command import command, parse_flags, refuse_arguments
from ssd_jax.loop.dry_run import dry_run
from ssd_jax.loop.signals import EXIT_CODE
from ssd_jax.loop.train import train
from ssd_jax.parallel import is_first, join, require_devices

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or your own.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where checkpoints and logs go; the same workdir again resumes.", required=True
)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Compile and run a few steps; report the memory and time they take.")
PROFILE = flags.DEFINE_bool("profile", False, "Record a trace of a few steps into the workdir's profile/.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "One of the processes of Slurm, Open MPI or a TPU pod.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "One of several processes: HOST:PORT of the first one.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "The number of processes.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
flags.mark_flag_as_required("config")


def main(argv: list[str]) -> None:
    """Train as the flags say."""
    with command():
        refuse_arguments(argv)
        place = COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value
        if DISTRIBUTED.value or any(value is not None for value in place):
            join(*place)
        require_devices()
        if DRY_RUN.value:
            report = dry_run(CONFIG.value)
            if is_first():
                print(report)
            return
        finished = train(CONFIG.value, WORKDIR.value, profile=PROFILE.value)
    if not finished:
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
