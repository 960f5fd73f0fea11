"""JSON files: which format of annotations one has, its content, and numbers that may be text."""

import json
import re
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.data.folder import Folder
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.files import read_bytes

# Format -> how the file begins, and patterns that it has: all of the first tuple, one of the second.
SIGNS: dict[str, tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]]] = {
    "coco": (
        b"{",
        (b'"images"', b'"annotations"', b'"categories"'),
        (b'"bbox"', rb'"annotations"\s*:\s*\[\s*\]'),
    ),
    "labelme": (b"{", (b'"shapes"',), (b'"imagePath"',)),
    "label_studio": (b"[", (b'"data"',), (b'"annotations"', b'"completions"')),
    "label_studio_min": (b"[", (), (b'"rectanglelabels"', b'"polygonlabels"')),
}
OTHER, DAMAGED = "other", "damaged"  # what `Folder.json_kinds` says of a file of none of these formats


def json_files(folder: Folder, kind: str, options: ReadOptions = DEFAULTS) -> list[str]:
    """Return the JSON files below a folder that have a format of `SIGNS`, judged by their texts; each is read once.

    Files that are not well-formed are among them, so that reading them is an error, if they are near the others: see
    `Folder.near`. For LabelMe, which has a file for each image, it is enough that an image has their stem.

    Raises:
      ValueError: a file is larger than `options.max_annotation_bytes`.
    """
    files, kinds = folder.of_kind(".json"), folder.json_kinds
    for file in files:
        if file not in kinds:
            kinds[file] = _kind(folder.path(file), options)
    known = [file for file in files if kinds[file] == kind]
    near = {*folder.near(known), *(file for file in files if kind == "labelme" and folder.has_image_of(file))}
    for file in near:
        kinds[file] = kinds[file] or _other_kind(folder.path(file), options)
    return sorted([*known, *(file for file in near if kinds[file] == DAMAGED)])


def parse_json(path: Path, most_bytes: int) -> Any:
    """Read a JSON file.

    Raises:
      FileNotFoundError: it cannot be read.
      ValueError: it is too large, or not well-formed.
    """
    try:
        content = read_bytes(path, most=most_bytes)
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path}: must be well-formed JSON; got: {error}") from None
    except RecursionError:
        raise ValueError(f"{path}: JSON must be nested less deeply; got more levels than Python can read") from None


def _kind(path: Path, options: ReadOptions) -> str:
    try:
        content = read_bytes(path, most=options.max_annotation_bytes)
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    content = content.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # UTF-16 too, and its marks
    for kind, (start, every, some) in SIGNS.items():
        is_kind = content.startswith(start) and all(re.search(pattern, content) for pattern in every)
        if is_kind and any(re.search(pattern, content) for pattern in some):
            return kind
    return ""


def _other_kind(path: Path, options: ReadOptions) -> str:
    try:
        parse_json(path, options.max_annotation_bytes)
    except ValueError:
        return DAMAGED
    return OTHER


def whole(value: object) -> int | None:
    """Read a whole number of at most 64 bits, which may be text or have a fraction of 0; None for anything else."""
    if isinstance(value, str):
        text = re.fullmatch(r"\s*([+-]?\d{1,18})(\.0*)?\s*", value, re.ASCII)
        return int(text[1]) if text else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if -(2**63) <= value < 2**63 and value == int(value) else None


def finite(values: object, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return float64 of `shape`; None if the values have another shape, are not numbers, or are not below 1e15."""
    try:
        numbers = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    if shape[:1] == (0,) and numbers.size == 0:
        return numbers.reshape(shape)
    return numbers if numbers.shape == shape and (np.abs(numbers) < 1e15).all() else None


_brief = reprlib.Repr()
_brief.maxstring = _brief.maxlong = _brief.maxother = 100


def brief(value: object) -> str:
    """Show a value in an error message: its `repr`, with quotes if it is text, shortened to one line."""
    return _brief.repr(value)
