"""What every command line shares: flags, errors of one line, and an output whose reader may go away."""

import argparse
import contextlib
import difflib
import logging
import os
import re
import select
import signal
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

import absl.logging

from ssd_jax.config_file import FULL, config_names, describe_fields

COMMON_FIELDS = (
    *("steps", "batch_size", "seed", "log_every", "save_every", "eval_every", "init_from", "ema_decay"),
    *("data.source", "data.root", "data.train", "data.eval", "data.class_names", "data.canvas_size"),
    *("model.backbone", "model.width", "model.dtype"),
    *("schedule.kind", "schedule.learning_rate", "schedule.warmup_steps", "optimizer.kind", "eval.batch_size"),
)
"""The fields of a config that the help of every command shows."""


class Parser(argparse.ArgumentParser):
    """Parses what follows the name of a command.

    Its help ends with examples, the names of the configs, and their common fields with the defaults. A wrong flag
    ends the program with one line and code 2.
    """

    def __init__(self, name: str, description: str, *, examples: Sequence[str], fields: str = "") -> None:
        """Make a parser without flags.

        Args:
          name: of the command.
          description: what it does.
          examples: command lines, without "ssd-jax".
          fields: says whose fields `--config.FIELD=VALUE` changes; "" for a command that takes no such flag.
        """
        super().__init__(
            prog=f"ssd-jax {name}",
            description=textwrap.fill(description, 100),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._examples, self._fields = examples, fields

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse arguments; `overrides` of the result has the flags `--config.FIELD=VALUE`, for `config_file`."""
        rest, overrides = _split_overrides(arguments)
        if overrides and not self._fields:
            self.error(f"unrecognized arguments: {' '.join(overrides)}")
        unknown = [flag for flag in rest if re.match("--.", flag) and not self._knows(flag)]
        if unknown:  # argparse would first miss the flag that was meant
            close = difflib.get_close_matches(unknown[0].partition("=")[0], self._option_string_actions)
            self.error(
                f"unrecognized arguments: {' '.join(unknown)}" + (f"; did you mean {close[0]}?" if close else "")
            )
        options = self.parse_intermixed_args(rest)
        options.overrides = overrides
        return options

    def format_help(self) -> str:
        """Return the help."""
        lines = [super().format_help(), "examples:", *(f"  ssd-jax {example}" for example in self._examples), ""]
        lines += textwrap.wrap(f"configs: {', '.join(config_names())}; or a file of your own.", 100)
        changes = f"--config.FIELD=VALUE changes {self._fields}. " if self._fields else ""
        lines += ["", f"{changes}Common fields, with the values of {FULL}:"]
        rows = describe_fields(COMMON_FIELDS)
        width, length = (max(len(row[column]) for row in rows) for column in (0, 1))
        lines += [f"  {name:<{width}}  {value:<{length}}  {text}".rstrip() for name, value, text in rows]
        return "\n".join(lines) + "\n"

    def error(self, message: str) -> NoReturn:
        """End the program with one line."""
        self.exit(2, f"error: {' '.join(message.split())}; {self.prog} --help lists the flags\n")

    def _knows(self, flag: str) -> bool:
        return flag.partition("=")[0] in self._option_string_actions


def _split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the other arguments, and the flags that change a config; their value may be an argument of its own."""
    rest: list[str] = []
    overrides: list[str] = []
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if not re.match(r"--?(no)?config\.", argument):
            rest.append(argument)
            continue
        overrides.append(argument)
        if "=" not in argument and arguments and not arguments[0].startswith("-"):
            overrides.append(arguments.pop(0))
    return rest, overrides


def parse_step(text: str | None) -> int | str | None:
    """Read which checkpoint is meant: a number, "best", or None for the newest."""
    if text is None or text == "best":
        return text
    if not text.isdecimal():
        raise ValueError(f"step must be a number or best; got {text!r}")
    return int(text)


@contextlib.contextmanager
def command(level: int = logging.WARNING) -> Iterator[None]:
    """Run the body of a script: log our messages from `level` on, and end with one line for an error of the user's.

    These are ValueError, OSError and FloatingPointError; SSD_JAX_TRACEBACK=1 shows where they arose. A message is
    logged once, however often the body opens a dataset. What the body prints may have no reader: see `Output`.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    logger = logging.getLogger("ssd_jax")
    before = logger.level, logger.propagate
    with Output(sys.stdout) as stdout, Output(sys.stderr) as stderr:
        handler = logging.StreamHandler(stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
        handler.addFilter(_Once())
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
        try:
            with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
                yield
        except (ValueError, OSError, FloatingPointError) as error:
            if os.environ.get("SSD_JAX_TRACEBACK"):
                raise
            sys.exit(f"error: {_one_line(_without_number(error))}")
        except KeyboardInterrupt:  # a training takes it over: see `loop.signals`
            sys.exit(128 + signal.SIGINT)
        finally:
            logger.removeHandler(handler)
            logger.level, logger.propagate = before


class Output:
    """A text stream that never ends a run: a context manager around `sys.stdout` or `sys.stderr`.

    Text is dropped when the stream is closed, or its reader is gone, as `head -1` is after a line. Characters that
    the stream's encoding lacks are written as escapes.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """Write to `stream`; Python makes it None where the program was started with it closed."""
        self._is_closed = stream is None
        self._stream: TextIO = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115 (see __exit__)

    def write(self, text: str) -> int:
        """Write `text`."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self._stream.write(text.encode("ascii", "backslashreplace").decode())
        except BrokenPipeError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            self._drop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        if self._is_closed:
            self._stream.close()
        elif self._reader_is_gone():
            self._drop()  # Python writes sys.exit's message there itself; if that fails, it ends with code 120

    def _reader_is_gone(self) -> bool:
        try:
            poll = select.poll()
            poll.register(self._stream.fileno(), 0)
        except (OSError, ValueError):  # a stream without a file
            return False
        return any(event & select.POLLERR for _, event in poll.poll(0))

    def _drop(self) -> None:
        """Point the stream's file at the null device, where the buffer can be flushed, also when Python ends."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stream.fileno())
        os.close(null)


class _Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self._seen
        self._seen.add(text)
        return is_new


def _without_number(error: Exception) -> str:
    """Say what the operating system refused without the number of its error: "DIR: Permission denied"."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
