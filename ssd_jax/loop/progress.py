"""What long work shows: elapsed and remaining time, on a bar or in plain lines."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

EVERY = 30.0  # seconds between two plain lines


def duration(seconds: float) -> str:
    """Write a time as "2:05" or "1:02:05"."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def shown(items: Iterable[Any], what: str, *, total: int, enabled: bool = True) -> Iterator[Any]:
    """Iterate over `items`, and show on stderr how many are done: on a terminal a bar, otherwise a line now and then.

    Args:
      items: what to iterate over.
      what: the work, as "evaluate".
      total: the number of items.
      enabled: False to show nothing.
    """
    if not enabled or sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=what, leave=False, disable=not enabled)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - last >= EVERY:
            left = (now - start) / done * (total - done)
            print(f"{what} {done}/{total}  {duration(now - start)} elapsed, {duration(left)} left", file=sys.stderr)
            last = now
        yield item


class Clock:
    """How long a run took, and how long it will still take by the pace of its steps and evaluations."""

    def __init__(self, steps: int, eval_every: int) -> None:
        """Start the clock.

        Args:
          steps: at the end of the run.
          eval_every: steps between two evaluations; there is one at the end too; 0: never.
        """
        self._steps, self._eval_every = steps, eval_every
        self._start = time.monotonic()
        self._evaluation = 0.0  # seconds that the last one took

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def evaluated(self, seconds: float) -> None:
        """Note how long an evaluation took."""
        self._evaluation = seconds

    def left(self, step: int, seconds_per_step: float) -> float:
        """Return the seconds that the steps and evaluations after `step` will take."""
        every = self._eval_every
        evaluations = -(-self._steps // every) - step // every if every else 0
        return (self._steps - step) * seconds_per_step + evaluations * self._evaluation
