"""Batches for training and for evaluation: Grain's pipeline."""

import logging
from collections.abc import Callable, Iterator

import grain
import numpy as np

from ssd_jax.data.cache import Cache, Row
from ssd_jax.data.example import Example, Source
from ssd_jax.data.image import GREY, UnreadableImage, decode, shrink, warp

logger = logging.getLogger("ssd_jax")

EPOCHS = 10**9  # more than any run takes; Grain's own "for ever" overflows in batches of one image
Batch = dict[str, np.ndarray]
NAMED = 10  # images with too many objects that are named; all are counted


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
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Endless shuffled batches, the first being that of step `start_step`.

    The order is a new permutation of the source in every epoch, and epochs run into one another. With
    B = batch_size / process_count, S = canvas_size and G = max_boxes, a batch has

        images    uint8   [B, S, S, 3]  the image at the top left, the rest zero
        sizes     int32   [B, 2]        (h, w) of the image inside the canvas
        boxes     float32 [B, G, 4]     corners, fractions of the image
        labels    int32   [B, G]        0 = padding
        left_out  int32   [B]           objects beyond G, which are not in `boxes`
        position  int32   [B]           row in the batch of all processes together
        index     int32   [B]           place in the source
        readable  bool    [B]           False: the image is a grey one without boxes

    Difficult objects are trained on, as in Caffe (`train_on_diff_gt`), unless `train_difficult` is False. Of a
    image with more than G objects the G largest are trained on; the first ten such images are named in
    warnings, and one more gives the total when as many images were read as the source has. An image that cannot
    be read is named in a warning, once; the caller decides how many are too many. With `strict`, either is a
    `ValueError`.

    Up to `cache_gb` gigabytes of decoded images, shrunk to the canvas but without its margin, and their boxes are
    kept in memory, in every process, so that later epochs neither read nor decode them.
    """
    _check_share(source, batch_size, process_index, process_count)
    if max_boxes < 1 or start_step < 0:
        raise ValueError(f"max_boxes is at least 1 and start_step at least 0; got {max_boxes}, {start_step}")
    read = _Reader(source, strict=strict)

    def load(index: int) -> Row:
        row = read(index)
        if row is None:
            image = np.full((canvas_size, canvas_size, 3), GREY, np.uint8)
            boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
        else:
            example, image = row
            image = np.ascontiguousarray(shrink(image, canvas_size))  # no view that keeps a larger array alive
            chosen = train_difficult | ~example.difficult  # [n]
            boxes, labels = example.boxes[chosen], example.labels[chosen]
        padded_boxes, padded_labels = pad_boxes(boxes, labels, max_boxes)
        return {
            "images": image,
            "sizes": np.array(image.shape[:2], np.int32),
            "boxes": padded_boxes,
            "labels": padded_labels,
            "left_out": np.int32(max(0, len(boxes) - max_boxes)),
            "index": np.int32(index),
            "readable": np.bool_(row is not None),
        }

    load = Cache(load, gb=cache_gb, length=len(source)) if cache_gb else load
    position = np.arange(process_index, batch_size, process_count, dtype=np.int32)  # [B]

    def load_batch(indices: np.ndarray) -> Batch:
        return _load_batch(load, indices, canvas_size) | {"position": position.copy()}

    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(EPOCHS)
    batches = _batches(order, load_batch, batch_size, process_index, process_count, threads, start_step=start_step)
    return _counting(batches, source, batch_size=batch_size, max_boxes=max_boxes, strict=strict)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    strict: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[Batch]:
    """Every image once, in order; the last batch is padded, so all have one shape in all processes.

    With B = batch_size / process_count and S = image_size, a batch has

        images    uint8 [B, S, S, 3]  warped to S x S
        sizes     int32 [B, 2]        the image's own (h, w); 0 where there is none
        index     int32 [B]           place in the source; -1 = padding row
        readable  bool  [B]           the row holds an image: False in padding rows, and for a file that cannot
                                      be read (index >= 0; logged once by name; a `ValueError` if `strict`)
    """
    _check_share(source, batch_size, process_index, process_count)
    read = _Reader(source, strict=strict)

    def load(index: int) -> Row:
        row = read(index) if index < len(source) else None
        if row is None:
            image, size = np.full((image_size, image_size, 3), GREY, np.uint8), (0, 0)
        else:
            image, size = warp(row[1], image_size), row[1].shape[:2]
        return {
            "images": image,
            "sizes": np.array(size, np.int32),
            "index": np.int32(index if index < len(source) else -1),
            "readable": np.bool_(row is not None),
        }

    def load_batch(indices: np.ndarray) -> Batch:
        return _load_batch(load, indices, image_size)

    rows = -(-len(source) // batch_size) * batch_size
    return _batches(grain.MapDataset.range(rows), load_batch, batch_size, process_index, process_count, threads)


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
        raise ValueError("a source has at least one image; this one is empty")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is a positive multiple of the number of processes; got {batch_size} for {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is in [0, process_count); got {process_index} of {process_count}")


class _Reader:
    """Examples and their decoded images; None for one that cannot be read, with one warning, or an error."""

    def __init__(self, source: Source, *, strict: bool):
        self._source, self._strict, self._named = source, strict, set()

    def __call__(self, index: int) -> tuple[Example, np.ndarray] | None:
        name = f"image {index}"
        try:
            example = self._source[index]
            name = example.image_id
            return example, decode(example.image)
        except UnreadableImage as error:
            if self._strict:
                raise ValueError(f"strict data has no image that cannot be read; {name}: {error}") from None
            if index not in self._named:
                self._named.add(index)
                logger.warning("%s: %s", name, error)
            return None


def _load_batch(load: Callable[[int], Row], indices: np.ndarray, size: int) -> Batch:
    """Rows in arrays. Each image, of its own size, goes to the top left of its canvas while the cache is warm."""
    images = np.empty((len(indices), size, size, 3), np.uint8)  # [B, S, S, 3]
    rows = []
    for canvas, index in zip(images, indices.tolist(), strict=True):
        row = load(index)
        h, w, _ = row["images"].shape
        canvas[:h, :w] = row["images"]
        canvas[:h, w:] = canvas[h:] = 0
        rows.append({name: array for name, array in row.items() if name != "images"})
    return {"images": images} | {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _counting(
    batches: Iterator[Batch], source: Source, *, batch_size: int, max_boxes: int, strict: bool
) -> Iterator[Batch]:
    """Hand on the batches; tell of the objects that they leave out."""
    left_out: dict[int, int] = {}  # by image
    unread, read = len(source), 0  # by all processes; by this one
    for batch in batches:
        for index, n in zip(batch["index"].tolist(), batch["left_out"].tolist(), strict=True):
            if not n or index in left_out:
                continue
            left_out[index] = n
            what = f"{source[index].image_id}: {n + max_boxes} objects, but max_boxes is {max_boxes}"
            if strict:
                raise ValueError(f"strict data leaves no object out; {what}")
            if len(left_out) <= NAMED:
                logger.warning("%s: the %d smallest are not trained on", what, n)
        read += len(batch["index"])
        before, unread = unread, unread - batch_size
        if left_out and before > 0 >= unread:
            logger.warning(
                "max_boxes = %d leaves out %d objects of %d images, among the first %d that this process read",
                max_boxes,
                sum(left_out.values()),
                len(left_out),
                min(read, len(source)),
            )
        yield batch


def pad_boxes(boxes: np.ndarray, labels: np.ndarray, max_boxes: int) -> tuple[np.ndarray, np.ndarray]:
    """[n, 4], [n] -> float32 [G, 4], int32 [G], G = max_boxes; padding is zero, whose label is background.

    Of more than G boxes the G largest stay, in their order; the caller says so.
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
