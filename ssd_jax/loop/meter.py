"""What a run measures between two lines of the log, and the images that it cannot read."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from ssd_jax.data import Source
from ssd_jax.parallel import of_every_process, peak_memory


class Meter:
    """The steps since the last line of the log: their metrics, still on the devices, and where the time went."""

    def __init__(self, source: Source, batch_size: int, *, max_skipped: int = 0) -> None:
        """Start to measure.

        Args:
          source: the dataset, for the names of images.
          batch_size: the images of a batch, of all processes.
          max_skipped: how many updates of the run may be skipped because the loss is not finite.

        Raises:
          ValueError: if `max_skipped` is negative.
        """
        if max_skipped < 0:
            raise ValueError(f"max_skipped must be at least 0; got {max_skipped}")
        self._source, self._batch_size = source, batch_size
        self._max_skipped = max_skipped
        self._steps: list[tuple[int, dict[str, Any], np.ndarray]] = []
        self._dropped_boxes = 0
        self.restart()

    def restart(self) -> None:
        """Restart the timer, so that time not spent on training is not counted."""
        self._waited = 0.0
        self._timed = len(self._steps)
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time the context as waiting for the input pipeline."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    def add(self, step: int, metrics: dict[str, Any], info: dict[str, Any]) -> None:
        """Record the metrics of one step, and the `info` of its batch."""
        self._steps.append((step, metrics, info["index"]))
        self._dropped_boxes += int(info["dropped_boxes"].sum())

    def close(self) -> dict[str, float]:
        """Return the averages over the steps since the last call. All processes must call this at the same step.

        Raises:
          FloatingPointError: if the loss or gradient of a step is not finite, and the update is not one of the
            `max_skipped` that may be skipped. It names the step and its images.
        """
        fetched = [(step, jax.device_get(metrics), index) for step, metrics, index in self._steps]
        finite = [metrics for step, metrics, index in fetched if self._is_finite(step, metrics, index)]
        seconds = time.perf_counter() - self._since
        means = {name: float(np.mean([m[name] for m in finite])) for name in finite[0]} if finite else {}
        if means:
            means["positives_per_image"] = means.pop("positives") / self._batch_size
        if self._max_skipped:
            means.pop("skipped", None)
            means["skipped_steps"] = int(fetched[-1][1]["skipped"])
        if len(fetched) > self._timed:
            means["images_per_second"] = (len(fetched) - self._timed) * self._batch_size / seconds
            means["data_wait"] = self._waited / seconds
        means["objects_left_out"] = int(of_every_process(self._dropped_boxes).sum())  # by max_boxes
        memory = peak_memory()
        if memory is not None:
            means["device_memory_gb"] = memory / 1e9
        self._steps, self._dropped_boxes = [], 0
        self.restart()
        return means

    def _is_finite(self, step: int, metrics: dict[str, Any], index: np.ndarray) -> bool:
        if np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all():
            return True
        if self._max_skipped and metrics["skipped"] <= self._max_skipped:
            return False
        names = ", ".join(self._source[i].image_id for i in of_every_process(index).reshape(-1).tolist())
        limit = f"; max_skipped allows {self._max_skipped} such steps" if self._max_skipped else ""
        raise FloatingPointError(
            f"loss and gradient must be finite; got loss_loc {metrics['loss_loc']}, loss_conf "
            f"{metrics['loss_conf']}, gradient_norm {metrics['gradient_norm']} at step {step}, on {names}{limit}; "
            "lower schedule.learning_rate, lengthen schedule.warmup_steps or set optimizer.clip_norm"
        )


def refuse_many(names: Sequence[str], limit: int) -> None:
    """Raise `ValueError` if more than `limit` images cannot be decoded; the log has the reason for each."""
    if len(names) > limit:
        raise ValueError(
            f"unreadable images must be at most data.max_unreadable = {limit}; got {', '.join(names[: limit + 1])}"
        )


class Unreadable:
    """The images that a training could not read so far."""

    def __init__(self, source: Source, *, limit: int) -> None:
        """Start with none; `limit` is how many all processes together may find."""
        self._source, self._limit = source, limit
        self._found: set[int] = set()

    def add(self, info: dict[str, Any]) -> None:
        """Note the unreadable images of a batch."""
        self._found.update(info["index"][~info["readable"]].tolist())

    def check(self) -> None:
        """Raise `ValueError` if all processes together found too many. All processes must call this."""
        some = sorted(self._found)[: self._limit + 1]
        mine = np.pad(some, (0, self._limit + 1 - len(some)), constant_values=-1).astype(int)  # of equal length
        found = np.unique(of_every_process(mine))
        refuse_many([self._source[index].image_id for index in found[found >= 0].tolist()], self._limit)
