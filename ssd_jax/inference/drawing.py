"""Images with labelled boxes."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ssd_jax.inference.detections import Detections

# Easily told apart on photographs, RGB; classes beyond the last colour start over.
COLOURS = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180),
    (0, 128, 128), (240, 50, 230), (128, 128, 0), (170, 110, 40), (128, 0, 0),
)  # fmt: skip


def colour_of(label: int) -> tuple[int, int, int]:
    """Return the RGB colour of a class, whose labels count from 1."""
    return COLOURS[(label - 1) % len(COLOURS)]


def draw(
    image: np.ndarray,
    detections: Detections,
    class_names: Sequence[str],
    *,
    smallest_side: int = 400,
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """Draw detections with class names and scores on a copy of an image, the best on top.

    Args:
      image: RGB uint8 [h, w, 3].
      detections: of the image.
      class_names: of labels 1, 2, ...
      smallest_side: of `draw_boxes`.
      numbers: of the objects [n], for the texts; those below 0 are not drawn.

    Returns:
      RGB uint8, larger than a small image.
    """
    boxes, scores, labels = (part[::-1] for part in detections)
    texts = [f"{class_names[label - 1]} {score:.2f}" for score, label in zip(scores, labels, strict=True)]
    if numbers is not None:
        texts = [f"#{n} {text}" if n >= 0 else text for n, text in zip(numbers[::-1], texts, strict=True)]
    return draw_boxes(image, boxes, labels, texts, smallest_side=smallest_side)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, texts: Sequence[str], *, smallest_side: int = 400
) -> np.ndarray:
    """Draw boxes with texts on a copy of an image, the last on top.

    Args:
      image: RGB uint8 [h, w, 3].
      boxes: corners in pixels [n, 4].
      labels: from 1 [n]; they choose the colours.
      texts: n of them, for the upper left corners of the boxes.
      smallest_side: an image whose shorter side has fewer pixels is enlarged to it, so that the text can be read,
        but its longer side to four times as much at most.

    Returns:
      RGB uint8.
    """
    height, width = image.shape[:2]
    zoom = max(1.0, min(smallest_side / min(height, width), 4 * smallest_side / max(height, width)))
    canvas = cv2.resize(image, (round(width * zoom), round(height * zoom)), interpolation=cv2.INTER_LINEAR)
    scale = max(canvas.shape[:2]) / 1000
    thickness, font = max(1, round(2 * scale)), max(0.4, 0.7 * scale)
    for box, label, text in zip(boxes, labels, texts, strict=True):
        text = text.encode("ascii", "replace").decode()  # the font has no more; some characters crash OpenCV
        colour = colour_of(label)
        x0, y0, x1, y1 = (round(float(v) * zoom) for v in box)
        cv2.rectangle(canvas, (x0, y0), (x1, y1), colour, thickness)
        (w, h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, font, 1)
        top = max(y0, h + below)  # a label above a box at the upper edge would be cut off
        cv2.rectangle(canvas, (x0, top - h - below), (x0 + w, top), colour, cv2.FILLED)
        origin = (x0, top - below // 2)
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, font, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def write_png(path: str | Path, image: np.ndarray) -> None:
    """Write an RGB uint8 image as PNG.

    OpenCV only encodes it: its functions for files fail for names that are not UTF-8, without saying why.
    """
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    Path(path).write_bytes(encoded.tobytes())
