"""A profile of a few steps, for TensorBoard's profiler or Perfetto."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


@contextlib.contextmanager
def trace_steps(folder: Path, steps: range) -> Iterator[Callable[[int, Any], None]]:
    """Record `steps` into `folder`. Call the yielded function with every step and its state, before the step."""
    running = False

    def before_step(step: int, state: Any) -> None:
        nonlocal running
        if running != (step in steps):
            jax.block_until_ready(state)  # the steps before this one are complete
            jax.profiler.stop_trace() if running else jax.profiler.start_trace(str(folder))
            running = not running

    try:
        yield before_step
    finally:
        if running:  # the run ended first
            jax.profiler.stop_trace()
