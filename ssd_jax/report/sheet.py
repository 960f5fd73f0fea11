"""An image of training samples with their boxes, before and after augmentation."""

from collections.abc import Sequence
from functools import partial

import cv2
import jax
import numpy as np

from ssd_jax.augment import MEAN_COLOUR, AugmentOptions, augment
from ssd_jax.box import to_pixels
from ssd_jax.data import GREY, Source, train_batches, warp
from ssd_jax.inference.drawing import colour_of, draw_boxes
from ssd_jax.sides import Side

FONT, SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.4
LINE, MARGIN = 18, 6  # height of a line of the legend, and its margin, in pixels


def sheet(
    source: Source,
    *,
    augment_options: AugmentOptions,
    image_size: Side,
    canvas_size: int,
    max_boxes: int,
    train_difficult: bool = True,
    rows: int = 6,
    augmented: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """Draw a row for each of `rows` random images: first as it is, then `augmented` times as training sees it.

    The samples go through the batches and the augmentation of training, so the options are those of training.

    Args:
      source: the dataset.
      augment_options: of `augment`.
      image_size: side of the network's input, or (height, width), pixels.
      canvas_size: of `train_batches`.
      max_boxes: of `train_batches`.
      train_difficult: of `train_batches`.
      rows: number of images.
      augmented: number of samples of each.
      seed: of the choice of images and the augmentation.

    Returns:
      RGB uint8 [height, width, 3]; below the images is a legend.
    """
    batch = next(
        train_batches(
            source,
            batch_size=rows,
            canvas_size=canvas_size,
            max_boxes=max_boxes,
            train_difficult=train_difficult,
            seed=seed,
        )
    )
    inputs = [batch.arrays[name] for name in ("images", "sizes", "boxes", "labels")]
    images = np.stack([warp(image[:h, :w], image_size) for image, (h, w) in zip(inputs[0], inputs[1], strict=True)])
    columns = [(images, inputs[2], inputs[3])]
    augment_batch = jax.jit(jax.vmap(partial(augment, image_size=image_size, options=augment_options)))
    for column in range(augmented):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), column), rows)
        images, boxes, labels = map(np.asarray, augment_batch(keys, *inputs))
        pixels = np.rint(images + np.asarray(MEAN_COLOUR, np.float32)).astype(np.uint8)
        columns.append((pixels, boxes, labels))
    framed = [[_framed(*sample, source.class_names) for sample in zip(*column, strict=True)] for column in columns]
    grid = np.concatenate([np.concatenate(column) for column in framed], axis=1)
    shown = sorted({int(label) for _, _, labels in columns for label in np.unique(labels) if label})
    return np.concatenate([grid, legend([(k, source.class_names[k - 1]) for k in shown], grid.shape[1])])


def legend(classes: Sequence[tuple[int, str]], width: int) -> np.ndarray:
    """Draw what the columns of a sheet are, and the colour of each class.

    Args:
      classes: (label, name) of each.
      width: in pixels.

    Returns:
      RGB uint8 [height, width, 3].
    """
    entries = [(None, "left: the image; right of it: as training sees it"), *classes]
    lines: list[list[tuple[int, int | None, str]]] = [[]]  # of (x, label, text)
    x = MARGIN
    for label, text in entries:
        text = text.encode("ascii", "replace").decode()  # the font has no more
        length = cv2.getTextSize(text, FONT, SCALE, 1)[0][0] + (LINE if label else 0)
        if lines[-1] and x + length > width - MARGIN:
            lines.append([])
            x = MARGIN
        lines[-1].append((x, label, text))
        x += length + 2 * MARGIN
    canvas = np.full((LINE * len(lines) + MARGIN, width, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        base = LINE * (row + 1) - MARGIN // 2
        for x, label, text in line:
            if label:
                cv2.rectangle(canvas, (x, base - 10), (x + 10, base), colour_of(label), cv2.FILLED)
            start = x + LINE if label else x
            cv2.putText(canvas, text, (start, base), FONT, SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return canvas


def _framed(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> np.ndarray:
    """Draw the boxes (corners, fractions [G, 4]; label 0 is padding) with their class names, and a grey border."""
    real = labels > 0  # [G]
    corners, labels = np.asarray(to_pixels(boxes[real], image.shape[:2])), labels[real]
    names = [class_names[label - 1] for label in labels.tolist()]
    drawn = draw_boxes(image, corners, labels, names, smallest_side=min(image.shape[:2]))
    return cv2.copyMakeBorder(drawn, 2, 2, 2, 2, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
