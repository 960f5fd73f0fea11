"""Images through a network batch by batch: they are decoded, detected in and used at the same time."""

import os
import queue
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np

from ssd_jax.data.image import warp
from ssd_jax.inference.tiles import Window
from ssd_jax.sides import Side, sides_of

Run = Callable[[np.ndarray], Iterable[Any]]

# Threads that decode. OpenCV and libjpeg release Python's lock.
WORKERS = min(4, os.cpu_count() or 1)


@dataclass
class Seen:
    """An image on its way through a stream.

    Attributes:
      item: as it was given.
      image: RGB uint8 [h, w, 3]; None where it is not kept, or could not be read.
      size: its (height, width).
      error: why it could not be read.
      windows: the parts of it that the network sees.
      found: (corners [D, 4] in fractions of the window, scores [D], labels [D]) of each window.
    """

    item: Any
    image: np.ndarray | None = None
    size: tuple[int, int] = (0, 0)
    error: Exception | None = None
    windows: list[Window] = field(default_factory=list)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)


@dataclass
class Rows:
    """Rows for the network, and the images that they belong to.

    Attributes:
      pixels: uint8 [B, H, W, 3].
      filled: rows of `pixels` that are used.
      seen: images in order, each as often as it has rows here; one that has no rows at all stands here once.
    """

    pixels: np.ndarray
    filled: int = 0
    seen: list[Seen] = field(default_factory=list)


def run_stream(
    run: Run,
    items: Iterable[Any],
    *,
    read: Callable[[int, Any], np.ndarray],
    split: Callable[[int, int], list[Window]] | None = None,
    size: Side,
    batch_size: int,
    prefetch: int,
    keep_images: bool,
) -> Iterator[Seen]:
    """Yield every item in its order, once the network has seen it.

    A thread reads `items` and decodes at most `prefetch` batches ahead. The device works on one batch while the
    caller uses the results of the one before it. No result waits for the next item.

    Args:
      run: `run(uint8 [B, H, W, 3])` starts the network and returns corners [R, D, 4], scores [R, D] and labels
        [R, D], R >= B, which may still be computed.
      items: what `read` takes; the thread iterates it.
      read: `read(index, item)` returns RGB uint8 [h, w, 3], or raises the error that the item is yielded with.
      split: `split(height, width)` returns the windows to look at; by default the whole image.
      size: (H, W), or one number for both.
      batch_size: rows of a batch.
      prefetch: batches that are decoded ahead, at least 1.
      keep_images: whether to keep the images for the caller.

    Raises:
      Exception: what the iterator of `items` or `run` raises, after everything before it was yielded.
    """
    batches: queue.Queue[Rows | BaseException | None] = queue.Queue(prefetch)
    stop = threading.Event()

    def put(batch: Rows | BaseException | None) -> None:
        while not stop.is_set():
            try:
                return batches.put(batch, timeout=0.1)
            except queue.Full:
                continue

    def produce() -> None:
        try:
            with ThreadPoolExecutor(WORKERS, "decode") as pool:
                seen = _read_all(items, read, split, size, batch_size, keep_images, pool, stop)
                for batch in _batches(seen, size, batch_size):
                    put(batch)
        except BaseException as error:  # the iterator of `items` may raise anything; the caller gets it
            put(error)
        else:
            put(None)

    threading.Thread(target=produce, name="stream", daemon=True).start()
    try:
        yield from _run_all(run, batches)
    finally:
        stop.set()


def _read_all(
    items: Iterable[Any],
    read: Callable[[int, Any], np.ndarray],
    split: Callable[[int, int], list[Window]] | None,
    size: Side,
    batch_size: int,
    keep_images: bool,
    pool: ThreadPoolExecutor,
    stop: threading.Event,
) -> Iterator[tuple[Seen, Iterator[np.ndarray]]]:
    """Yield each item with its rows for the network, uint8 [H, W, 3]."""

    def prepare(index: int, item: Any) -> tuple[Seen, Iterator[np.ndarray]]:
        seen = Seen(item)
        try:
            image = read(index, item)
        except (ValueError, TypeError, OSError) as error:
            seen.error = error
            return seen, iter(())
        seen.size = height, width = image.shape[:2]
        seen.image = image if keep_images else None
        if split is None:
            seen.windows = [(0, 0, width, height)]
            return seen, iter([warp(image, size)])  # here, in the pool's thread
        seen.windows = split(height, width)  # as many rows as would fill the memory: made one by one
        return seen, (warp(image[y0:y1, x0:x1], size) for x0, y0, x1, y1 in seen.windows)

    # A batch at a time is decoded at once, but only one image that is split: it may be large.
    numbered = enumerate(items)
    while not stop.is_set():
        pending = []
        failure = None
        try:
            for index, item in islice(numbered, 1 if split else batch_size):
                if stop.is_set():
                    return
                # An array is looked at before the next one is asked for, since it may be the same memory.
                at_once = isinstance(item, np.ndarray)
                pending.append(prepare(index, item) if at_once else pool.submit(prepare, index, item))
        except BaseException as error:
            failure = error
        for prepared in pending:
            yield prepared if isinstance(prepared, tuple) else prepared.result()
        if failure is not None:
            raise failure
        if not pending:
            return


def _batches(prepared: Iterable[tuple[Seen, Iterator[np.ndarray]]], size: Side, batch_size: int) -> Iterator[Rows]:
    """Fill batches with rows; what was collected when an error comes is yielded before it is raised."""

    def empty() -> Rows:
        return Rows(np.zeros((batch_size, *sides_of(size), 3), np.uint8))

    batch, failure = empty(), None
    try:
        for seen, rows in prepared:
            if not seen.windows:
                batch.seen.append(seen)
            for row in rows:
                batch.pixels[batch.filled] = row
                batch.filled += 1
                batch.seen.append(seen)
                if batch.filled == batch_size:
                    yield batch
                    batch = empty()
    except BaseException as error:
        failure = error
    if batch.seen:
        yield batch
    if failure is not None:
        raise failure


def _run_all(run: Run, batches: "queue.Queue[Rows | BaseException | None]") -> Iterator[Seen]:
    """Keep the device busy with one batch while the results of the one before it are yielded."""
    running: deque[tuple[Rows, Future[Iterable[Any]] | None]] = deque()
    network = ThreadPoolExecutor(1, "network")  # a program that returns when it has ended runs there meanwhile
    try:
        while True:
            try:
                batch = batches.get(block=not running)
            except queue.Empty:  # nothing to start: results do not wait for it
                yield from _finish(*running.popleft())
                continue
            if batch is None or isinstance(batch, BaseException):
                yield from chain.from_iterable(_finish(*started) for started in running)
                if batch is not None:
                    raise batch
                return
            running.append((batch, network.submit(run, batch.pixels[: batch.filled]) if batch.filled else None))
            if len(running) > 1:
                yield from _finish(*running.popleft())
    finally:
        if not sys.is_finalizing():  # Python has ended the threads already
            network.shutdown(wait=False, cancel_futures=True)


def _finish(batch: Rows, results: "Future[Iterable[Any]] | None") -> Iterator[Seen]:
    """Hand each row's results to its image, and yield the images whose last row this was."""
    rows = zip(*map(np.asarray, results.result()), strict=True) if results is not None else iter(())
    for seen in batch.seen:
        if seen.windows:
            boxes, scores, labels = next(rows)
            seen.found.append((boxes, scores, labels))
        if len(seen.found) == len(seen.windows):
            yield seen
