"""Train SSD: python train.py --config=configs/shapes.py --workdir=runs/shapes [--config.steps=1000 ...]."""

import sys

from absl import app, flags
from ml_collections import config_flags

from ssd_jax.command import command, parse_flags
from ssd_jax.loop import EXIT_CODE, train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, or one of your own.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints and logs go; the same one again resumes.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    """Train as the flags say."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
    with command():
        finished = train(CONFIG.value, WORKDIR.value)
    if not finished:
        sys.exit(EXIT_CODE)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
