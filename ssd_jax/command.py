"""What every command line shares: flags, errors of one line, and an output whose reader may go away."""

import contextlib
import linecache
import logging
import os
import re
import select
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import absl.logging
from absl import flags
from ml_collections import ConfigDict


def parse_flags(argv: list[str]) -> list[str]:
    """Parse flags, for `app.run`. A wrong flag, or a mistake in the config, ends the program with one line.

    The line of a mistake in the config's file is shown. SSD_JAX_TRACEBACK=1 shows the whole traceback.
    """
    path = _config_path(argv)
    if path is not None and not Path(path).is_file():
        sys.exit(f"error: no such config: {path}")
    try:
        arguments = flags.FLAGS(argv)
        if path is not None:
            _check_config(path)
    except Exception as error:  # a config is a program, which may raise anything
        if os.environ.get("SSD_JAX_TRACEBACK"):
            raise
        text = _what_is_wrong(argv, path, error)
        if text is None:
            raise
        sys.exit(f"error: {_one_line(text)}")
    return arguments


def parse_step(text: str | None) -> int | str | None:
    """Read which checkpoint is meant: a number, "best", or None for the newest."""
    if text is None or text == "best":
        return text
    if not text.isdecimal():
        raise ValueError(f"step must be a number or best; got {text!r}")
    return int(text)


def refuse_arguments(argv: list[str]) -> None:
    """Raise `ValueError` for an argument that is no flag, where a script takes none."""
    if len(argv) > 1:
        raise ValueError(f"arguments must be flags, --NAME=VALUE; got {' '.join(argv[1:])}")


@contextlib.contextmanager
def command(level: int = logging.WARNING) -> Iterator[None]:
    """Run the body of a script: log our messages from `level` on, and end with one line for an error of the user's.

    These are ValueError, OSError and FloatingPointError; SSD_JAX_TRACEBACK=1 shows where they arose. What the body
    prints may have no reader: see `Output`.
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    logger = logging.getLogger("ssd_jax")
    before = logger.level, logger.propagate
    with Output(sys.stdout) as stdout, Output(sys.stderr) as stderr:
        handler = logging.StreamHandler(stderr)
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
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


def _config_path(argv: list[str]) -> str | None:
    """Return the file that --config names, without the argument after its colon; None if there is no such flag."""
    text = "\n".join(argv[1:])
    found = re.search(r"^--?config[=\n]([^:\n]+)", text, re.MULTILINE)
    return found[1] if found else None


def _check_config(path: str) -> None:
    config = flags.FLAGS["config"].value
    if not isinstance(config, ConfigDict):
        getattr(config, "lock", None)  # raises the OSError of get_config, which ml_collections keeps for later
        raise ValueError(f"{path}: get_config() must return a ConfigDict; got {type(config).__name__}")


def _what_is_wrong(argv: list[str], path: str | None, error: Exception) -> str | None:
    """Say in a line what is wrong with the flags or the config; None for a fault of neither."""
    if path is not None:
        mistake = _mistake_in(path, error)
        if mistake:
            return mistake
        if "has no attribute 'get_config'" in str(error):
            return f"{path}: a config must define get_config(); got a file without it"
        if isinstance(error, AttributeError | KeyError | IndexError):
            return _wrong_field(argv, error)
    return str(error) if isinstance(error, flags.Error | ValueError) else None


def _mistake_in(path: str, error: BaseException | None) -> str | None:
    """Show the line of the file `path` that raised `error`, or one of the errors that led to it."""
    while error is not None:
        if isinstance(error, SyntaxError) and _same_file(error.filename, path):
            return f"{path}, line {error.lineno}: {(error.text or '').strip()}: {error.msg}"
        frames = traceback.walk_tb(error.__traceback__)
        lines = [line for frame, line in frames if _same_file(frame.f_code.co_filename, path)]
        if lines:
            line = linecache.getline(path, lines[-1]).strip()
            text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            message = re.sub(r"\s*Other fields present: .*", "", text)  # ml_collections lists every field
            return f"{path}, line {lines[-1]}: {line}: {type(error).__name__}: {message}"
        error = error.__cause__ or error.__context__
    return None


def _same_file(name: str | None, path: str) -> bool:
    return name is not None and os.path.realpath(name) == os.path.realpath(path)


def _wrong_field(argv: list[str], error: Exception) -> str | None:
    """Name the flag whose field the config lacks; ml_collections says which field, in one of several ways."""
    text = str(error)
    name = re.search(r"lookup: ([\w.]+)", text) or re.search(r"(\w+)", text)
    if name is None:
        return None
    part = r"\[" if isinstance(error, IndexError) else rf"(^|\.){re.escape(name[1])}(\.|$)"
    fields = {flag: re.match(r"--?config\.([^=]+)", flag) for flag in argv[1:]}
    wrong = [flag for flag, field in fields.items() if field and re.search(part, field[1])]
    if not wrong:
        return None
    meant = re.search(r'Did you mean "(\w+)"', text)
    hint = f"; did you mean {meant[1]!r}?" if meant else ""
    return f"a --config. flag must name a field of the config; got {wrong[0]}{hint}"


def _without_number(error: Exception) -> str:
    """Say what the operating system refused without the number of its error: "DIR: Permission denied"."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _one_line(text: str) -> str:
    return " ".join(text.split("\n")).strip()
