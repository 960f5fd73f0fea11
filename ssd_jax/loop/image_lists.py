"""Many images, one after the other: files, folders, lists of files, tars, and Parquet tables."""

import bz2
import codecs
import errno
import gzip
import hashlib
import io
import logging
import lzma
import os
import re
import string
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from ssd_jax.data import EXTENSIONS
from ssd_jax.data.text_files import is_utf16
from ssd_jax.extras import import_extra
from ssd_jax.files import read_bytes

T = TypeVar("T")

logger = logging.getLogger("ssd_jax")

TARS = (".tar", ".tar.gz", ".tgz")
LISTS = (".txt",)
TABLES = (".parquet",)
# Columns of a table that may name its images, in the order in which they are looked for.
NAME_COLUMNS = ("image_id", "file_name", "filename", "path", "name", "key", "__key__", "id")

# By a pattern of the first bytes. A tar begins with the name of its first member, so that short ones would not do.
DECOMPRESSORS = {rb"\x1f\x8b\x08": gzip.open, rb"BZh.1AY&SY": bz2.open, rb"\xfd7zXZ\0": lzma.open}


class NamedFile(NamedTuple):
    """An encoded image that is read when it is needed."""

    name: str
    load: Callable[[], bytes]


Images = Iterator[tuple[int, NamedFile]]
Wanted = Callable[[int], bool]


def is_container(path: str | Path) -> bool:
    """Tell whether `path` is a list, a tar or a table of images, by its name."""
    return str(path).lower().endswith((*TARS, *LISTS, *TABLES))


def list_images(inputs: Sequence[str | Path], wanted: Wanted = lambda _: True) -> Images:
    """Yield the images of `inputs` with their number, in an order that is always the same.

    Those that are not wanted are not read.

    Args:
      inputs: image files; folders, whose files are taken sorted, with those of the folders in them; `.txt` files with
        a path on each line, in bytes of file names, or in UTF-16 with a byte order mark; `.tar`, `.tar.gz` and
        `.tgz`; `.parquet` tables with a column of encoded images.
      wanted: `wanted(number)` tells whether to yield an image.

    Raises:
      FileNotFoundError: if an input does not exist or has no images.
      ValueError: for an input that cannot be read.
    """
    number = 0
    for path in map(Path, inputs):
        for number, image in _open(path, number, wanted):  # noqa: B020 (each input goes on counting)
            if image is not None:
                yield number, image
            number += 1


def digest(inputs: Sequence[str | Path]) -> str:
    """Return a hash of what `inputs` are: the names of files, the sizes of tars and tables.

    Raises:
      FileNotFoundError: if an input does not exist or has no images.
      ValueError: for an input that cannot be read.
    """
    total = hashlib.sha256()
    for path in map(Path, inputs):
        if str(path).lower().endswith((*TARS, *TABLES)):
            next(_open(path, 0, lambda _: False))
            total.update(f"{path.stat().st_size} {path}\n".encode(errors="surrogateescape"))
        else:
            for name in _files(path):
                total.update(os.fsencode(name) + b"\n")
    return total.hexdigest()


def _open(path: Path, start: int, wanted: Wanted) -> Iterator[tuple[int, NamedFile | None]]:
    """Yield the images of one input with their number from `start` on, and None for those that are not wanted."""
    name = str(path).lower()
    if name.endswith(TARS):
        return _some(_tar_members(_require(path), start, wanted), f"the tar {path}")
    if name.endswith(TABLES):
        return _some(_table_rows(_require(path), start, wanted), f"the table {path}")
    return _each_file(path, start, wanted)


def _require(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no such image, folder, list, tar or table: {path}")
    return path


def _files(path: Path) -> Iterable[str]:
    """List the image files of one input."""
    if path.is_dir():
        yield from _some(_sorted_tree(path), f"the folder {path}")
    elif str(path).lower().endswith(LISTS):
        yield from _some(_lines(_require(path)), f"the list {path}")
    else:
        yield str(_require(path))


def _some(images: Iterator[T], where: str) -> Iterator[T]:
    """Yield `images`, and refuse to have none."""
    first = next(images, None)
    if first is None:
        raise FileNotFoundError(f"no images ({', '.join(EXTENSIONS)}) in {where}")
    yield first
    yield from images


def _sorted_tree(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.lower().endswith(EXTENSIONS):
                yield os.path.join(parent, name)


def _lines(path: Path) -> Iterator[str]:
    """Yield the paths in a list: its bytes as they are, or UTF-16 if it begins with the byte order mark of that."""
    with path.open("rb") as file:
        first = file.read(3)
        file.seek(3 if first == codecs.BOM_UTF8 else 0)
        lines = io.TextIOWrapper(file, "utf-16", newline="\n") if is_utf16(first) else map(os.fsdecode, file)
        try:
            for number, line in enumerate(lines, start=1):
                if "\0" in line:
                    raise ValueError(f"{path}: line {number} must be a path; got one with a null byte")
                if name := line.strip(string.whitespace):
                    yield name
        except UnicodeDecodeError:
            raise ValueError(f"{path}: a list must be text; got damaged UTF-16") from None


def _each_file(path: Path, start: int, wanted: Wanted) -> Iterator[tuple[int, NamedFile | None]]:
    for number, name in enumerate(_files(path), start):
        yield number, NamedFile(name, partial(read_bytes, name)) if wanted(number) else None


def _tar_members(path: Path, start: int, wanted: Wanted) -> Iterator[tuple[int, NamedFile | None]]:
    number = start
    with _uncompressed(path) as content:
        try:
            with tarfile.open(fileobj=content, mode="r:") as tar:
                for member in iter(tar.next, None):
                    tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue] (a large tar would fill the memory)
                    if not (member.isfile() and member.name.lower().endswith(EXTENSIONS)):
                        continue
                    file = tar.extractfile(member) if wanted(number) else None
                    image = file.read() if file else b""
                    yield number, NamedFile(f"{path}/{member.name}", partial(bytes, image)) if file else None
                    number += 1
                _check_end(path, content, tar.offset)
        except Exception as error:  # tarfile raises ValueError and others too for damaged numbers
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # of the file system: those of decompressors have no number
            reason = str(error) or type(error).__name__
            raise ValueError(f"{path}: must be a tar; got damage before byte {content.tell()}: {reason}") from None


def _check_end(path: Path, content: IO[bytes], end: int) -> None:
    """Refuse a tar that goes on after byte `end`, where `tarfile` found no more headers.

    It takes a damaged header for the end. A decompressor checks its checksum when the rest is read.
    """
    header = content.tell() - end  # bytes that were read of it
    if not header:
        logger.warning(
            "%s: has no end marker at byte %d; one that was cut between two members looks the same", path, end
        )
    elif header != tarfile.BLOCKSIZE or any(
        block.strip(b"\0") for block in iter(partial(content.read, 1 << 20), b"")
    ):
        raise tarfile.ReadError(f"a damaged header at byte {end}, or data after the end")


def _uncompressed(path: Path) -> IO[bytes]:
    """Open a tar; byte numbers are then those of what is in it if it is compressed."""
    with path.open("rb") as file:
        first = file.read(10)
    for magic, opened in DECOMPRESSORS.items():
        if re.match(magic, first, re.DOTALL):
            return cast("IO[bytes]", opened(path, "rb"))
    return path.open("rb")


def _table_rows(path: Path, start: int, wanted: Wanted) -> Iterator[tuple[int, NamedFile | None]]:
    parquet = import_extra("pyarrow.parquet", "parquet")
    arrow = import_extra("pyarrow", "parquet")
    try:
        with parquet.ParquetFile(path) as table:
            images, names = _columns(path, table.schema_arrow, arrow.types)
            number = start
            columns = [name for name in (images, names) if name]
            for group in range(table.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                if not any(wanted(number + row) for row in range(rows)):
                    yield from ((number + row, None) for row in range(rows))
                    number += rows
                    continue
                for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=columns):
                    for row in batch.to_pylist():
                        image = _row_image(path, number - start, row[images], row[names] if names else None)
                        yield number, image if wanted(number) else None
                        number += 1
    except arrow.ArrowException as error:
        raise ValueError(f"{path}: must be a Parquet table; got {str(error).splitlines()[0]}") from None


def _columns(path: Path, schema: Any, types: Any) -> tuple[str, str | None]:
    """Find the column of encoded images, and that of their names, if there is one."""

    def holds_bytes(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    def holds_images(kind: Any) -> bool:  # a struct with "bytes" is how Hugging Face's datasets write images
        return holds_bytes(kind) or (types.is_struct(kind) and any(f.name == "bytes" for f in kind))

    images = [field.name for field in schema if holds_images(field.type)]
    if len(images) != 1:
        raise ValueError(f"{path}: must have one column of encoded images; got {images or schema.names}")
    return images[0], next((name for name in NAME_COLUMNS if name in schema.names), None)


def _row_image(path: Path, row: int, image: Any, name: Any) -> NamedFile:
    if isinstance(image, dict):
        name = name or image.get("path")
        image = image.get("bytes")
    return NamedFile(f"{path}:{row}" if name is None else str(name), partial(bytes, image or b""))
