"""A profile of a few steps, for TensorBoard's profiler or Perfetto."""

from pathlib import Path
from typing import Any

import jax


class Trace:
    """Records the `count` steps after the first `skip` of this start into `folder`; a context manager."""

    def __init__(self, folder: Path, *, skip: int = 5, count: int = 5) -> None:
        """Prepare; `count` 0 records nothing. The first steps compile, and are not what one wants to look at."""
        self.folder, self._first, self._count = folder, skip, count
        self._seen, self._running = 0, False

    def before_step(self, state: Any) -> None:
        """Begin or end recording where it is time to."""
        if self._count and self._seen == self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self.folder))
            self._running = True
        elif self._seen == self._first + self._count:
            self._stop(state)
        self._seen += 1

    def _stop(self, state: Any = ()) -> None:
        if self._running:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self._running = False

    def __enter__(self) -> "Trace":
        """Nothing to prepare."""
        return self

    def __exit__(self, *_: object) -> None:
        """Keep what a run that ended early recorded."""
        self._stop()
