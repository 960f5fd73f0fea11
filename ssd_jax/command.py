"""What everything run from a command line shares: flags, and errors of one line."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import absl.logging
from absl import app


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags for `app.run`; a config or a field of it that does not exist ends the program with one line."""
    for argument in argv[1:]:
        config = re.match(r"--?config=([^:]+)", argument)
        if config and not Path(config[1]).is_file():
            sys.exit(f"error: no such config: {config[1]}")
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError) as error:
        name = re.search(r"\w+", str(error))[0]  # ml_collections says it quoted, with or without a suggestion
        meant = re.search(r'Did you mean "(\w+)"', str(error))
        given = ", ".join(flag for flag in argv[1:] if flag.startswith("--config.") and name in flag)
        sys.exit(
            f"error: the config has no field {name!r}, got {given}" + (f"; is it {meant[1]!r}?" if meant else "")
        )


def parse_step(text: str | None) -> int | str | None:
    """Read which checkpoint is meant: a number, "best", or None for the newest."""
    if text is None or text == "best":
        return text
    if not text.isdigit():
        raise ValueError(f"step is a number or best, got {text!r}")
    return int(text)


@contextlib.contextmanager
def command(level: int = logging.WARNING) -> Iterator[None]:
    """Run a script's body: we log from `level` on, libraries warn, and what the user can mend ends it with one line.

    SSD_JAX_TRACEBACK=1 shows where an error arose.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("ssd_jax")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SSD_JAX_TRACEBACK"):
            raise
        sys.exit(f"error: {_told(error)}")
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


def _told(error: Exception) -> str:
    """Say what the operating system refused without its number: "DIR: Permission denied"."""
    system = isinstance(error, OSError) and error.strerror and error.filename
    return f"{error.filename}: {error.strerror}" if system else str(error)
