"""Batches for training and for evaluation: Grain's pipeline."""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import grain
import numpy as np

from ssd_jax.data.cache import Cache, Row
from ssd_jax.data.example import Example, Source
from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import GREY, decoded_size, shrink, warp
from ssd_jax.sides import Side, sides_of

logger = logging.getLogger("ssd_jax")

EPOCHS = 10**9  # more than any run has; Grain's own endless repetition overflows with batches of one image
NAMED = 10  # number of images to name in warnings of one kind
SIZES_DIFFER = "the size in the annotation is not the image's: %d of the %d images that this process read"
NO_OBJECTS = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, bool)  # boxes, labels, difficult


class Batch(NamedTuple):
    """One process's share of a batch: arrays for the devices, and information for the host."""

    arrays: dict[str, np.ndarray]
    info: dict[str, Any]


def train_batches(
    source: Source,
    *,
    batch_size: int,
    canvas_size: int,
    max_boxes: int,
    seed: int,
    start_step: int = 0,
    train_difficult: bool = True,
    strict: bool = False,
    cache_gb: float = 0.0,
    reduced_decoding: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Iterate endlessly over shuffled batches, from that of step `start_step` on.

    Every epoch has a new order. A batch may hold the end of an epoch and the start of the next. With
    B = batch_size / process_count, S = canvas_size and G = max_boxes, a batch has the arrays

        images    uint8   [B, S, S, 3]  the image at the top left, the rest zero
        sizes     int32   [B, 2]        (h, w) of the image inside the canvas
        boxes     float32 [B, G, 4]     corners, fractions of the image
        labels    int32   [B, G]        0 = padding
        position  int32   [B]           row in the batch of all processes together

    and the info

        index          int32 [B]  place in the source
        readable       bool  [B]  False: the image cannot be decoded, and is replaced by a grey one without boxes
        size_differs   bool  [B]  the size in the annotation is not the image's
        dropped_boxes  int32 [B]  number of objects beyond G, which are not in `boxes`

    Warnings name each unreadable image, and the first ten images with dropped boxes or of another size. After an
    epoch, one more warning counts them.

    Args:
      source: the dataset.
      batch_size: number of images in the batches of all processes together.
      canvas_size: larger images are shrunk to this size.
      max_boxes: largest number of objects of an image; of more, the largest are kept.
      seed: decides the order.
      start_step: number of batches to skip.
      train_difficult: keep difficult objects, as Caffe does (`train_on_diff_gt`).
      strict: raise `ValueError` where there would be a warning.
      cache_gb: gigabytes of decoded and shrunk images to keep in memory, in every process, for later epochs.
      reduced_decoding: decode a JPEG whose longer side is at least twice `canvas_size` at a half, a quarter or an
        eighth of its size: see `decode_image`. It is faster; pixels differ by about half a level (RMS).
      process_index: which process this is, from 0.
      process_count: number of processes.
      threads: threads that read and decode; 0 does it when a batch is asked for.

    Raises:
      ValueError: an argument breaks a rule; with `strict`, also the data.
    """
    _check_share(source, batch_size, process_index, process_count)
    _check_least(1, max_boxes=max_boxes, canvas_size=canvas_size)
    _check_least(0, start_step=start_step, threads=threads)
    read = _Reader(source, strict=strict, at_least=canvas_size if reduced_decoding else None)

    def load(index: int) -> Row:
        example, image, size_differs = read(index)
        readable = image is not None
        if image is not None:
            image = np.ascontiguousarray(shrink(image, canvas_size))  # a view would keep the larger array in memory
        else:
            image = np.full((canvas_size, canvas_size, 3), GREY, np.uint8)
        chosen = readable & (train_difficult | ~example.difficult)  # [n]
        boxes, labels = example.boxes[chosen], example.labels[chosen]
        padded_boxes, padded_labels = pad_boxes(boxes, labels, max_boxes)
        return {
            "images": image,
            "sizes": np.array(image.shape[:2], np.int32),
            "boxes": padded_boxes,
            "labels": padded_labels,
            "index": np.int32(index),
            "readable": np.bool_(readable),
            "size_differs": np.bool_(size_differs),
            "dropped_boxes": np.int32(max(0, len(boxes) - max_boxes)),
        }

    load = Cache(load, gb=cache_gb, length=len(source)) if cache_gb else load
    position = np.arange(process_index, batch_size, process_count, dtype=np.int32)  # [B]

    def load_batch(indices: np.ndarray) -> Batch:
        images, rows = _load_rows(load, indices, sides_of(canvas_size))
        arrays = {"images": images} | _stack(rows, ("sizes", "boxes", "labels")) | {"position": position.copy()}
        return Batch(arrays, _stack(rows, ("index", "readable", "size_differs", "dropped_boxes")))

    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(EPOCHS)
    batches = _batches(order, load_batch, batch_size, process_index, process_count, threads, start_step=start_step)
    return _counting(batches, source, batch_size=batch_size, max_boxes=max_boxes, strict=strict)


def train_batch_shapes(*, batch_size: int, canvas_size: int, max_boxes: int) -> dict[str, np.ndarray]:
    """Return arrays of the shapes and types of `train_batches`, for one process: zeros that take no memory.

    Raises:
      ValueError: an argument is below 1.
    """
    _check_least(1, batch_size=batch_size, canvas_size=canvas_size, max_boxes=max_boxes)
    shapes = {
        "images": (np.uint8, (canvas_size, canvas_size, 3)),
        "sizes": (np.int32, (2,)),
        "boxes": (np.float32, (max_boxes, 4)),
        "labels": (np.int32, (max_boxes,)),
        "position": (np.int32, ()),
    }
    return {
        name: np.broadcast_to(np.zeros((), dtype), (batch_size, *shape)) for name, (dtype, shape) in shapes.items()
    }


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: Side,
    max_boxes: int = 0,
    train_difficult: bool = True,
    strict: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Iterate once over all images, in order. The last batch is padded, so that all batches have the same shape.

    With B = batch_size / process_count, (H, W) the sides of `image_size` and G = max_boxes, a batch has the arrays

        images    uint8 [B, H, W, 3]  warped to H x W
        boxes     float32 [B, G, 4]   corners, fractions; only with max_boxes
        labels    int32 [B, G]        0 in padding rows; only with max_boxes

    and the info

        index         int32 [B]     place in the source; -1 in padding rows
        sizes         int32 [B, 2]  (h, w) of the image in the file; 0 if it is unreadable, and in padding rows
        readable      bool  [B]     False: the image cannot be decoded, or this is a padding row
        size_differs  bool  [B]     the size in the annotation is not the image's
        examples      list of B     the ground truth: `Example`s without their images; None in padding rows

    Warnings name each unreadable image, and the first ten of another size; a last one counts these.

    Args:
      source: the dataset.
      batch_size: number of images in the batches of all processes together.
      image_size: side of the network's input, or (height, width), pixels.
      max_boxes: G, so that a loss can be computed. Of more objects, the G largest are kept. 0: no ground truth.
      train_difficult: keep difficult objects in `boxes`.
      strict: raise `ValueError` where there would be a warning.
      process_index: which process this is, from 0.
      process_count: number of processes.
      threads: see `train_batches`.

    Raises:
      ValueError: an argument breaks a rule; with `strict`, also the data.
    """
    _check_share(source, batch_size, process_index, process_count)
    _check_least(1, image_size=min(sides_of(image_size)))
    _check_least(0, max_boxes=max_boxes, threads=threads)
    read = _Reader(source, strict=strict)

    def load(index: int) -> Row:
        example, image, size_differs = read(index) if index < len(source) else (None, None, False)
        grey = np.full((*sides_of(image_size), 3), GREY, np.uint8)
        boxes, labels, difficult = (example.boxes, example.labels, example.difficult) if example else NO_OBJECTS
        chosen = train_difficult | ~difficult  # [n]
        boxes, labels = pad_boxes(boxes[chosen], labels[chosen], max_boxes)
        return {
            "images": grey if image is None else warp(image, image_size),
            "boxes": boxes,
            "labels": labels,
            "sizes": np.array((0, 0) if image is None else image.shape[:2], np.int32),
            "index": np.int32(-1 if example is None else index),
            "readable": np.bool_(image is not None),
            "size_differs": np.bool_(size_differs),
            "examples": example,
        }

    def load_batch(indices: np.ndarray) -> Batch:
        images, rows = _load_rows(load, indices, sides_of(image_size))
        info = _stack(rows, ("index", "sizes", "readable", "size_differs"))
        arrays = {"images": images} | (_stack(rows, ("boxes", "labels")) if max_boxes else {})
        return Batch(arrays, info | {"examples": [row["examples"] for row in rows]})

    rows = -(-len(source) // batch_size) * batch_size
    batches = _batches(grain.MapDataset.range(rows), load_batch, batch_size, process_index, process_count, threads)
    return _counting_sizes(batches)


def _batches(
    order: grain.MapDataset,
    load_batch: Callable[[np.ndarray], Batch],
    batch_size: int,
    process_index: int,
    process_count: int,
    threads: int,
    *,
    start_step: int = 0,
) -> Iterator[Batch]:
    batches = order[process_index::process_count].batch(batch_size // process_count)[start_step:].map(load_batch)
    # Grain would hold 500 elements ready, and an element is a whole batch here.
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)))


def _check_share(source: Source, batch_size: int, process_index: int, process_count: int):
    if not len(source):
        raise ValueError("a source must have at least one image; this one is empty")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size must be a positive multiple of the number of processes; got {batch_size} for {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index must be in [0, process_count); got {process_index} of {process_count}")


def _check_least(least: int, **values: int):
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}; got {value}")


class _Reader:
    """Read an example, decode its image, and tell whether its annotation gives another size than the image has.

    An unreadable image is None, with one warning, or with `strict` a `ValueError`. The example is returned without
    its encoded image, so that the file does not stay in memory.
    """

    def __init__(self, source: Source, *, strict: bool, at_least: int | None = None):
        self._source, self._strict, self._at_least = source, strict, at_least
        self._unreadable: set[int] = set()
        self._differing: set[int] = set()

    def __call__(self, index: int) -> tuple[Example, np.ndarray | None, bool]:
        name = f"image {index}"
        example, image, size_differs = Example(name, b"", *NO_OBJECTS), None, False
        try:
            example = self._source[index]
            name = example.image_id
            if self._strict and example.errors:
                raise ValueError(f"{name}: with strict, there must be no {example.errors[0]}")
            image = example.decode(at_least=self._at_least)
            size_differs = self._size_differs(index, example)
        except UnreadableImage as error:
            if self._strict:
                raise ValueError(f"{name}: with strict, every image must be readable; got: {error}") from None
            if index not in self._unreadable:
                self._unreadable.add(index)
                logger.warning("%s: %s", name, error)
        return dataclasses.replace(example, image=b""), image, size_differs

    def _size_differs(self, index: int, example: Example) -> bool:
        """Compare the size in the annotation with the image's, and warn, if that matters."""
        if not example.size or example.options.size_mismatch == "ignore":
            return False
        size = decoded_size(example.image, size=example.size, options=example.options)
        if tuple(example.size) == size:
            return False
        sizes = [f"{width} x {height}" for height, width in (size, example.size)]
        message = f"{example.image_id}: the size in the annotation must be the image's, {sizes[0]}; got {sizes[1]}"
        if self._strict or example.options.size_mismatch == "error":
            raise ValueError(message)
        if len(self._differing) < NAMED and index not in self._differing:
            self._differing.add(index)
            logger.warning(message)
        return True


def _load_rows(
    load: Callable[[int], Row], indices: np.ndarray, sides: tuple[int, int]
) -> tuple[np.ndarray, list[Row]]:
    """Load rows. Each image is copied to the top left of its canvas at once, while the CPU's cache holds it."""
    images = np.empty((len(indices), *sides, 3), np.uint8)  # [B, H, W, 3]
    rows = []
    for canvas, index in zip(images, indices.tolist(), strict=True):
        row = load(index)
        h, w, _ = row["images"].shape
        canvas[:h, :w] = row["images"]
        canvas[:h, w:] = canvas[h:] = 0
        rows.append({name: value for name, value in row.items() if name != "images"})
    return images, rows


def _stack(rows: list[Row], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in names}


def _counting(
    batches: Iterator[Batch], source: Source, *, batch_size: int, max_boxes: int, strict: bool
) -> Iterator[Batch]:
    """Pass the batches on, and warn of dropped boxes and of images of another size than annotated."""
    dropped: dict[int, int] = {}  # number of boxes, by image
    differing: set[int] = set()
    unread, read = len(source), 0  # by all processes; by this one
    for batch in batches:
        for index, n in zip(batch.info["index"].tolist(), batch.info["dropped_boxes"].tolist(), strict=True):
            if not n or index in dropped:
                continue
            dropped[index] = n
            if not strict and len(dropped) > NAMED:
                continue
            name, count = source[index].image_id, n + max_boxes
            if strict:
                raise ValueError(f"{name}: with strict, objects must be at most max_boxes, {max_boxes}; got {count}")
            logger.warning("%s: of %d objects, the %d smallest are dropped (max_boxes)", name, count, n)
        differing |= set(batch.info["index"][batch.info["size_differs"]].tolist())
        read += len(batch.info["index"])
        before, unread = unread, unread - batch_size
        if dropped and before > 0 >= unread:
            logger.warning(
                "max_boxes = %d: %d objects of %d images were dropped, among the first %d that this process read",
                max_boxes,
                sum(dropped.values()),
                len(dropped),
                min(read, len(source)),
            )
        if differing and before > 0 >= unread:
            logger.warning(SIZES_DIFFER, len(differing), min(read, len(source)))
        yield batch


def _counting_sizes(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Pass the batches of an evaluation on; at the end, warn of images of another size than annotated."""
    differing = images = 0
    for batch in batches:
        differing += int(batch.info["size_differs"].sum())
        images += int((batch.info["index"] >= 0).sum())
        yield batch
    if differing:
        logger.warning(SIZES_DIFFER, differing, images)


def pad_boxes(boxes: np.ndarray, labels: np.ndarray, max_boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad boxes [n, 4] and labels [n] with zeros to float32 [G, 4] and int32 [G], G = max_boxes.

    Of more than G boxes, the G largest are kept, in their order.
    """
    if len(boxes) > max_boxes:
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)  # [n]
        largest = np.sort(np.argsort(-areas, kind="stable")[:max_boxes])  # [G]
        boxes, labels = boxes[largest], labels[largest]
    padded_boxes = np.zeros((max_boxes, 4), np.float32)
    padded_labels = np.zeros(max_boxes, np.int32)
    padded_boxes[: len(boxes)] = boxes
    padded_labels[: len(labels)] = labels
    return padded_boxes, padded_labels
