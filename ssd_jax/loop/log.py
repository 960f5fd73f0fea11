"""The log of a run: a progress bar or plain lines, `metrics.jsonl`, and the writers that the config names."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ssd_jax.files import append_text, to_json, write_text
from ssd_jax.loop.progress import duration
from ssd_jax.loop.writers import Origin, Writer, open_writers

logger = logging.getLogger("ssd_jax")


class Log:
    """Writes scalars to every place where people look for them; a context manager.

    An error of the disk is raised at once, as an OSError that names the file.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        start_step: int,
        steps: int,
        enabled: bool = True,
        writers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Continue the log at `start_step`, and drop what an interrupted run wrote after it.

        Args:
          workdir: of the run.
          start_step: the number of updates before this start.
          steps: the number of updates at the end of the run.
          enabled: False for a log that writes nothing: only the first of several processes writes.
          writers: as in the config's `log.writers`.
          config: of the run, for the services among the writers.
        """
        self._enabled, self._path = enabled, workdir / "metrics.jsonl"
        self._bar = tqdm(
            total=steps,
            initial=start_step,
            unit="step",
            disable=not enabled or not sys.stderr.isatty(),
            mininterval=0,
            miniters=1,
            bar_format="{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed} elapsed{postfix}]",
        )
        self._writers: list[Writer] = []
        if enabled:
            _drop_lines_after(self._path, start_step)
            self._writers = open_writers(writers, Origin(workdir, start_step, config or {}))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record `values` after `step` updates; `metrics.jsonl` has null for what is not a finite number."""
        if self._enabled:
            append_text(self._path, to_json({"step": step} | values) + "\n")
            for writer in self._writers:
                writer.scalars(step, values)

    def images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Pass RGB uint8 images `[h, w, 3]` to the writers."""
        for writer in self._writers:
            writer.images(step, images)

    def progress(self, step: int, values: dict[str, float], *, elapsed: float, left: float | None = None) -> None:
        """Show the step, `values`, and the seconds elapsed and left, on the terminal."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        remaining = "" if left is None else f", {duration(left)} left"
        if self._bar.disable:
            self.line(f"step {step}/{self._bar.total}  {text}  {duration(elapsed)} elapsed{remaining}")
        else:
            self._bar.set_postfix_str(f"{remaining[2:]}  {text}".strip(), refresh=False)
            self._bar.update(step - self._bar.n)

    def line(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if self._enabled:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        """Close every file."""
        self._bar.close()
        for writer in self._writers:
            writer.close()


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """Read the rows of `metrics.jsonl`, without what is no row; none if the run has no log, as imported weights."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    return [row for line in lines if (row := _row_of(line)) is not None]


def _drop_lines_after(path: Path, step: int) -> None:
    """Remove the rows of later steps, and with a warning those that are no rows of a log."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    rows = [_row_of(line) for line in lines]
    # The last line may be cut short by the interruption.
    strange = [number for number, row in enumerate(rows[:-1], start=1) if row is None]
    if strange:
        logger.warning(
            '%s: a line must be a JSON object with a "step"; got others, now dropped, at line %s',
            path,
            ", ".join(map(str, strange[:10])),
        )
    kept = [line for line, row in zip(lines, rows, strict=True) if row is not None and row["step"] <= step]
    kept_text = "".join(line + "\n" for line in kept)
    if kept_text != text:  # also if only the end of the last line is missing
        write_text(path, kept_text)


def _row_of(line: str) -> dict[str, Any] | None:
    """Return the row of the log that a line holds, or None if it holds none."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int | float) else None
