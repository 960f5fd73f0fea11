"""From a source of pictures to batches: decode, fit into a canvas, pad the boxes, share between processes.

A source is anything with `__len__` and `__getitem__(i) -> Example`. Nothing here is random but the order of
the pictures, which follows from the seed alone: batch k is the same for any number of threads, and what
process p of n reads is every n-th row of the batch that a single process would read.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import cv2
import grain
import numpy as np

logger = logging.getLogger("ssd_jax")

EPOCHS = 10**9  # more than any run takes; Grain's own "for ever" overflows in batches of one picture
GREY = 128  # what stands in for a picture that cannot be read


class UnreadableImage(ValueError):
    """A picture that cannot be decoded; the message is one line and says why."""


@dataclasses.dataclass(frozen=True)
class Example:
    """One picture as a source gives it.

    `image` is an encoded file (bytes) or RGB uint8 [h, w, 3]; `boxes` float32 [n, 4] are corners, fractions
    of the picture's sides; `labels` int32 [n] count from 1; `difficult` is bool [n].

    The rest is for reports, where the source knows it: `file` is the picture's name on disk, `size` its (height,
    width) as the annotation says, and `dirt` names what was wrong with its boxes, an entry for each.
    """

    image_id: str
    image: bytes | np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray
    file: str = ""
    size: tuple[int, int] | None = None
    dirt: tuple[str, ...] = ()

    def __post_init__(self):
        n = len(self.boxes)
        shapes = [np.shape(a) for a in (self.boxes, self.labels, self.difficult)]
        if shapes != [(n, 4), (n,), (n,)]:
            boxes, labels, difficult = shapes
            raise ValueError(
                f"an example has boxes [n, 4], labels [n] and difficult [n]; {self.image_id!r} has "
                f"{list(boxes)}, {list(labels)} and {list(difficult)}"
            )
        if n and np.min(self.labels) < 1:
            raise ValueError(f"object labels count from 1; {self.image_id!r} has {np.min(self.labels)}")


class Source(Protocol):
    """Random access to examples: all that batching asks of a data set."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Example: ...


# ---------------------------------------------------------------------------------------- one picture


def decode(image: bytes | np.ndarray) -> np.ndarray:
    """An encoded file or an array -> RGB uint8 [h, w, 3].

    Grayscale becomes three equal channels, alpha is dropped, 16 bits become 8. EXIF orientation is ignored,
    since annotations are made on the stored pixels. Raises `UnreadableImage` for what is no picture, or only
    a part of one: some decoders return the missing part of a truncated file as grey.
    """
    return _decode_array(image) if isinstance(image, np.ndarray) else _decode_file(bytes(image))


def _decode_array(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        image = image[:, :, None]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise UnreadableImage(
            f"an array picture is uint8 or uint16 [h, w], [h, w, 1], [h, w, 3] or [h, w, 4] and not empty; "
            f"got {image.dtype} {list(image.shape)}"
        )
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image[:, :, :3]


def _decode_file(file: bytes) -> np.ndarray:
    if not file:
        raise UnreadableImage("the file is empty")
    if not _reaches_its_end(file):
        raise UnreadableImage(f"the file is cut short (no end-of-image marker in its {len(file)} bytes)")
    try:
        bgr = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise UnreadableImage(f"the decoder refuses it: {error.err}") from None
    if bgr is None:
        raise UnreadableImage(f"no picture in a format that can be read (its first bytes: {file[:8]!r})")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _reaches_its_end(file: bytes) -> bool:
    """Whether a JPEG or PNG holds its end marker; other formats are the decoder's to judge."""
    if file.startswith(b"\xff\xd8"):
        return file.find(b"\xff\xd9", _first_scan(file)) >= 0
    if file.startswith(b"\x89PNG"):
        return b"IEND\xae\x42\x60\x82" in file
    return True


def _first_scan(jpeg: bytes) -> int:
    """Where the first scan starts: the thumbnail in a header has an end marker too, coded data never."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:
        fill = jpeg[at + 1] == 0xFF
        at += 1 if fill else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return at


def warp(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [h, w, 3] -> [size, size, 3], both sides stretched, linear: SSD's transform at test time."""
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def canvas(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[int, int]]:
    """uint8 [h, w, 3] -> ([size, size, 3], (h', w')): the picture at the top left, the rest zero.

    A picture larger than the canvas shrinks, keeping its proportions to a pixel; a smaller one stays as it is.
    """
    h, w = image.shape[:2]
    if max(h, w) > size:
        h, w = (max(1, round(side * size / max(h, w))) for side in image.shape[:2])
        image = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
    square = np.zeros((size, size, 3), np.uint8)
    square[:h, :w] = image
    return square, (h, w)


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


# -------------------------------------------------------------------------------------------- batches


def train_batches(
    source: Source,
    *,
    batch_size: int,
    canvas_size: int,
    max_boxes: int,
    seed: int,
    start_step: int = 0,
    train_difficult: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches, the first being that of step `start_step`.

    The order is a new permutation of the source in every epoch, and epochs run into one another. With
    B = batch_size / process_count, S = canvas_size and G = max_boxes, a batch has

        images    uint8   [B, S, S, 3]  the picture at the top left, the rest zero
        sizes     int32   [B, 2]        (h, w) of the picture inside the canvas
        boxes     float32 [B, G, 4]     corners, fractions of the picture
        labels    int32   [B, G]        0 = padding
        position  int32   [B]           row in the batch of all processes together
        index     int32   [B]           place in the source
        readable  bool    [B]           False: the picture is a grey one without boxes

    Difficult objects are trained on, as in Caffe (`train_on_diff_gt`), unless `train_difficult` is False. Of a
    picture with more than G objects the G largest are trained on. This and a picture that cannot be read are
    logged as warnings with the picture's name, once each; the caller decides how many are too many.
    """
    _check_share(source, batch_size, process_index, process_count)
    if max_boxes < 1 or start_step < 0:
        raise ValueError(f"max_boxes is at least 1 and start_step at least 0; got {max_boxes}, {start_step}")
    once = _Once()

    def load(index: int) -> dict:
        row = _read(source, index, once)
        if row is None:
            boxes, labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
            picture, size = np.full((canvas_size, canvas_size, 3), GREY, np.uint8), (canvas_size, canvas_size)
        else:
            example, image = row
            picture, size = canvas(image, canvas_size)
            chosen = train_difficult | ~example.difficult  # [n]
            boxes, labels = example.boxes[chosen], example.labels[chosen]
            if len(boxes) > max_boxes:
                once.warn(
                    f"{example.image_id}: {len(boxes)} objects, but max_boxes is {max_boxes}: "
                    f"the {len(boxes) - max_boxes} smallest are not trained on"
                )
        boxes, labels = pad_boxes(boxes, labels, max_boxes)
        return {
            "images": picture,
            "sizes": np.array(size, np.int32),
            "boxes": boxes,
            "labels": labels,
            "index": np.int32(index),
            "readable": np.bool_(row is not None),
        }

    position = np.arange(process_index, batch_size, process_count, dtype=np.int32)  # [B]

    def stack(rows: Sequence[dict]) -> dict[str, np.ndarray]:
        return _stack(rows) | {"position": position.copy()}

    order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(EPOCHS)
    return _batches(order, load, stack, batch_size, process_index, process_count, threads, start_step=start_step)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Every picture once, in order; the last batch is padded, so all have one shape in all processes.

    With B = batch_size / process_count and S = image_size, a batch has

        images    uint8 [B, S, S, 3]  warped to S x S
        sizes     int32 [B, 2]        the picture's own (h, w); 0 where there is none
        index     int32 [B]           place in the source; -1 = padding row
        readable  bool  [B]           the row holds a picture: False in padding rows, and for a file that cannot
                                      be read (index >= 0; logged once by name)
    """
    _check_share(source, batch_size, process_index, process_count)
    once = _Once()

    def load(index: int) -> dict:
        row = _read(source, index, once) if index < len(source) else None
        if row is None:
            picture, size = np.full((image_size, image_size, 3), GREY, np.uint8), (0, 0)
        else:
            _, image = row
            picture, size = warp(image, image_size), image.shape[:2]
        return {
            "images": picture,
            "sizes": np.array(size, np.int32),
            "index": np.int32(index if index < len(source) else -1),
            "readable": np.bool_(row is not None),
        }

    rows = -(-len(source) // batch_size) * batch_size
    return _batches(grain.MapDataset.range(rows), load, _stack, batch_size, process_index, process_count, threads)


def _batches(
    order: grain.MapDataset,
    load: Callable[[int], dict],
    stack: Callable[[Sequence[dict]], dict],
    batch_size: int,
    process_index: int,
    process_count: int,
    threads: int,
    *,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    batches = (
        order[process_index::process_count].map(load).batch(batch_size // process_count, batch_fn=stack)[start_step:]
    )
    # Grain would hold 500 elements ready, and an element is a whole batch here.
    return iter(batches.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads + 1)))


def _check_share(source: Source, batch_size: int, process_index: int, process_count: int):
    if not len(source):
        raise ValueError("a source has at least one picture; this one is empty")
    if batch_size < 1 or process_count < 1 or batch_size % process_count:
        raise ValueError(
            f"batch_size is a positive multiple of the number of processes; got {batch_size} for {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise ValueError(f"process_index is in [0, process_count); got {process_index} of {process_count}")


def _read(source: Source, index: int, once: "_Once") -> tuple[Example, np.ndarray] | None:
    name = f"picture {index}"
    try:
        example = source[index]
        name = example.image_id
        return example, decode(example.image)
    except UnreadableImage as error:
        once.warn(f"{name}: {error}")
        return None


def _stack(rows: Sequence[dict]) -> dict[str, np.ndarray]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


class _Once:
    """Logs a warning the first time it is given."""

    def __init__(self):
        self.said: set[str] = set()

    def warn(self, message: str):
        if message not in self.said:
            self.said.add(message)
            logger.warning("%s", message)
