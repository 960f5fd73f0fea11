"""The log of a run: a progress bar or plain lines, `metrics.jsonl`, TensorBoard."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm

from ssd_jax.files import write_text

logger = logging.getLogger("ssd_jax")


class Log:
    """Writes scalars to every place they are looked for; a context manager."""

    def __init__(self, workdir: Path, *, start_step: int, steps: int) -> None:
        """Go on at `start_step`; what an interrupted run wrote beyond it is dropped."""
        self._path = workdir / "metrics.jsonl"
        _drop_lines_after(self._path, start_step)
        self._file = self._path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None)
        self._bar = tqdm(
            total=steps, initial=start_step, unit="step", disable=not sys.stderr.isatty(), smoothing=0.05
        )

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record `values` after `step` updates."""
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Show RGB uint8 images in TensorBoard."""
        for name, image in images.items():
            self._board.add_image(name, image, step, dataformats="HWC")

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Show where the run is."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if self._bar.disable:
            self.line(f"step {step}/{self._bar.total}  {text}")
        else:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(step - self._bar.n)

    def line(self, text: str) -> None:
        """Print a line without tearing the progress bar."""
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()

    def __enter__(self) -> "Log":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close every file."""
        self._bar.close()
        self._file.close()
        self._board.close()


class Silent:
    """The log of every process but the first: the same methods, doing nothing."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Record nothing."""

    def images(self, step: int, images: dict[str, np.ndarray]) -> None:
        """Show nothing."""

    def progress(self, step: int, values: dict[str, float]) -> None:
        """Show nothing."""

    def line(self, text: str) -> None:
        """Print nothing."""

    def __enter__(self) -> "Silent":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""


def _drop_lines_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
    write_text(path, "".join(line + "\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # cut short by the interruption
        return float("inf")
