"""Text files, in whatever encoding programs write them."""

import codecs
from pathlib import Path

from ssd_jax.files import read_bytes


def is_utf16(content: bytes) -> bool:
    """Tell whether a text begins with the byte order mark of UTF-16."""
    return content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))


def read_text(path: Path, most_bytes: int) -> str:
    """Decode a text file: UTF-16 by its byte order mark, as PowerShell writes it, UTF-8, or else Latin-1.

    Raises:
      FileNotFoundError: it cannot be read.
      ValueError: it is too large, or damaged UTF-16.
    """
    try:
        content = read_bytes(path, most=most_bytes)
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    try:
        if is_utf16(content):
            return content.decode("utf-16")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return content.decode("latin-1")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: the file must be text; got damaged UTF-16") from None


def read_head(path: Path, size: int) -> list[str]:
    """Return the lines in the first `size` bytes, to see what a file is; [] for what is no regular file.

    The last one is left out if it may go on, unless it is the only one.
    """
    if not path.is_file():  # a pipe would block
        return []
    with path.open("rb") as file:
        head = file.read(size)
    lines = head.decode("utf-16" if is_utf16(head) else "utf-8-sig", errors="replace").splitlines()
    return lines[:-1] if len(head) == size and len(lines) > 1 else lines


def read_lines(path: Path, most_bytes: int) -> list[str]:
    """Return the lines of a text file; see `read_text`."""
    return read_text(path, most_bytes).splitlines()
