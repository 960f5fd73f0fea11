"""Files written whole or not at all, and JSON."""

import json
import math
import os
from pathlib import Path
from typing import Any


def write_text(path: str | Path, text: str) -> None:
    """Write a file beside `path`, then move it there: whoever reads finds the old text or the new one."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


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
      ValueError: in one line that names the file, if it is not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: the file must be JSON; got {error}") from None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
