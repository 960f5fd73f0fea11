"""An image of random training samples with their boxes, before and after augmentation."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import jax
import numpy as np

from ssd_jax.augment import MEAN_COLOUR, AugmentOptions, augment
from ssd_jax.data import GREY, train_batches, warp
from ssd_jax.inference.drawing import colour_of


def sheet(
    source: Any, *, rows: int = 6, augmented: int = 4, image_size: int = 300, canvas_size: int = 512, seed: int = 0
) -> np.ndarray:
    """RGB uint8: a row for each of `rows` random images, first as it is, then `augmented` times as trained on.

    It goes through the very batches and augmentation of training, with the paper's options.
    """
    batches = train_batches(source, batch_size=rows, canvas_size=canvas_size, max_boxes=100, seed=seed)
    batch = next(batches).arrays
    one = jax.jit(jax.vmap(partial(augment, image_size=image_size, options=AugmentOptions())))
    columns = []
    for column in range(augmented):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), column), rows)
        inputs = (batch[name] for name in ("images", "sizes", "boxes", "labels"))
        images, boxes, labels = map(np.asarray, one(keys, *inputs))
        pixels = np.rint(images + np.float32(MEAN_COLOUR)).astype(np.uint8)
        columns.append([framed(*row) for row in zip(pixels, boxes, labels, strict=True)])
    before = []
    for image, (h, w), boxes, labels in zip(
        batch["images"], batch["sizes"], batch["boxes"], batch["labels"], strict=True
    ):
        before.append(framed(warp(image[:h, :w], image_size), boxes, labels))
    return np.concatenate([np.concatenate(column) for column in [before, *columns]], axis=1)


def framed(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, w, 3] with its boxes (corners, fractions) in the colour of their class, and a grey border."""
    drawn = image.copy()
    sides = np.tile(drawn.shape[1::-1], 2)  # w, h, w, h
    for box, label in zip(boxes, labels, strict=True):
        if label:
            x0, y0, x1, y1 = np.rint(box * sides).astype(int).tolist()
            cv2.rectangle(drawn, (x0, y0), (x1 - 1, y1 - 1), colour_of(label), 1)
    return cv2.copyMakeBorder(drawn, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(GREY,) * 3)


def write_png(path: str | Path, image: np.ndarray):
    """Write RGB uint8 as PNG."""
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    Path(path).write_bytes(encoded.tobytes())
