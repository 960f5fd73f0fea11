"""The command line: ssd-jax COMMAND, or python -m ssd_jax COMMAND."""

import importlib
import sys
from collections.abc import Sequence

# Modules with a `main(arguments)`; only that of the command is imported.
COMMANDS = {"check": "ssd_jax.report.check", "report": "ssd_jax.loop.pages"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, with the arguments that follow it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] not in COMMANDS:
        sys.exit(f"usage: ssd-jax COMMAND; COMMAND must be one of {', '.join(COMMANDS)}")
    importlib.import_module(COMMANDS[arguments[0]]).main(arguments[1:])
