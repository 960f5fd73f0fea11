"""Regular files, files that are written whole or not at all, JSON, and folders that one run at a time may write."""

import contextlib
import errno
import fcntl
import json
import logging
import math
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

logger = logging.getLogger("ssd_jax")

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)
"""What some network file systems answer to a lock."""


def read_bytes(path: str | Path, *, most: int | None = None) -> bytes:
    """Read a regular file, of at most `most` bytes.

    Raises:
      OSError: it cannot be read.
      ValueError: it is larger, or no regular file: a pipe may block for ever, a device may never end.
    """
    path = Path(path)
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path}: must be a regular file; got {kinds.get(stat.S_IFMT(status.st_mode), 'a device')}")
    if most is not None and status.st_size > most:
        raise ValueError(f"{path}: must have at most {most:,} bytes; got {status.st_size:,}")
    return path.read_bytes()


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file beside `path`, then move it there: a reader finds the old content or the new one.

    Raises:
      OSError: if the file cannot be written, as on a full disk. `path` then stays as it was.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a crash of the system after the move must not leave an empty file
        os.replace(partial, path)
    except OSError as error:
        raise with_path(error, path) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8, as `write_bytes` does."""
    write_bytes(path, text.encode())


def append_text(path: str | Path, text: str) -> None:
    """Append to a file.

    Raises:
      OSError: if it cannot be written; a part of `text` may then stand at its end.
    """
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise with_path(error, path) from error


def with_path(error: OSError, path: str | Path) -> OSError:
    """Return the same error for `path`: that of a failed write names no file."""
    return OSError(error.errno, error.strerror, str(path))


def local_folder(path: str | Path) -> Path:
    """Return `path` as a `Path`.

    Raises:
      ValueError: if it is empty, or the address of a bucket, which would become a folder with a strange name.
    """
    if not str(path) or re.match(r"[A-Za-z][\w+.-]+:/", str(path)):  # a drive of Windows has one letter
        raise ValueError(f"a workdir must be a folder of the file system; got {str(path)!r}")
    return Path(path)


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Context manager that locks a folder for this process; a killed process leaves no lock behind.

    Raises:
      ValueError: if another process holds the lock.
    """
    path = folder / ".lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
        except BlockingIOError:
            holder = os.pread(file, 1000, 0).decode(errors="replace")
            raise ValueError(f"{folder}: only one run may use a workdir at a time; got {holder}") from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise with_path(error, path) from error
            logger.warning("%s: cannot be locked (%s): start no second run in this workdir", path, error.strerror)
        yield
    finally:
        os.close(file)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` whole or not at all, as JSON that every reader takes: see `to_json`."""
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON. What is not a finite number becomes null: JSON has no NaN."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def read_json(path: str | Path) -> Any:
    """Read a file of JSON.

    Raises:
      OSError: if it cannot be read.
      ValueError: in one line that names the file, if it is not JSON, or no regular file.
    """
    content = read_bytes(path)
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the file must be JSON; got {error}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
