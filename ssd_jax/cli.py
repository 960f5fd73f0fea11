"""The command line: ssd-jax COMMAND, or python -m ssd_jax COMMAND."""

import importlib
import os
import sys
from collections.abc import Sequence

from ssd_jax import __version__
from ssd_jax.config_file import config_names
from ssd_jax.fast_cpu import restart_faster

# A module with a `main(arguments)`, and what it does. Only the module of the command that is run is imported.
COMMANDS = {
    "train": ("ssd_jax.commands.train", "train a detector"),
    "eval": ("ssd_jax.commands.eval", "evaluate a run"),
    "detect": ("ssd_jax.commands.detect", "detect in images and videos, and draw what is found"),
    "export": ("ssd_jax.commands.export", "write a detector as one file that runs elsewhere"),
    "convert": ("ssd_jax.commands.convert", "write a dataset in another layout"),
    "check": ("ssd_jax.report.check", "report what is in a dataset, and what is wrong with it"),
    "report": ("ssd_jax.loop.pages", "write the evaluation page of one or more runs"),
}
HELP = """usage: ssd-jax COMMAND [...]

{commands}

examples:
  ssd-jax train --config=shapes --workdir=runs/shapes
  ssd-jax detect --workdir=runs/shapes --out=drawings photo.jpg

configs: {configs}
ssd-jax COMMAND --help describes a command."""


def program(*first: str) -> None:
    """Run what this program's command line says, after the words `first`: `ssd-jax` and the scripts call this."""
    if not {"-h", "--help"} & {*sys.argv[1:]}:
        restart_faster()
    main([*first, *sys.argv[1:]])


def main(arguments: Sequence[str]) -> None:
    """Run the command that the first argument names, with the arguments that follow it."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        commands = "\n".join(f"  {name:<8} {text}" for name, (_, text) in COMMANDS.items())
        print(HELP.format(commands=commands, configs=", ".join(config_names())))
        return
    if arguments[0] == "--version":
        print(f"ssd-jax {__version__}")
        return
    if arguments[0] not in COMMANDS:
        sys.exit(f"error: COMMAND must be one of {', '.join(COMMANDS)}; got {arguments[0]!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # a config may name a module of the user's, as in data.source=my_module:open
    module, _ = COMMANDS[arguments[0]]
    importlib.import_module(module).main([*arguments[1:]])
