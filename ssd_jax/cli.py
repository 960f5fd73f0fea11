"""The command line: python -m ssd_jax COMMAND."""

import sys
from collections.abc import Sequence

from ssd_jax.report import check

COMMANDS = {"check": check.main}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the arguments that follow it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(f"usage: python -m ssd_jax COMMAND; COMMAND must be one of {', '.join(COMMANDS)}")
    COMMANDS[arguments[0]](arguments[1:])
