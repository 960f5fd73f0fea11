"""What a detector found in one image. Needs NumPy alone."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Detections(NamedTuple):
    """What was found in one image, best first."""

    boxes: np.ndarray  # [n, 4] float32 corners in pixels, inside the image
    scores: np.ndarray  # [n] float32, softmax probabilities
    labels: np.ndarray  # [n] int32, 1..C-1; class_names[label - 1] is the name

    @classmethod
    def from_model(
        cls, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, size: Sequence[int] | np.ndarray
    ) -> "Detections":
        """Drop the padding rows of what `select` returned, and scale the corners to an image.

        Args:
          boxes: corners [D, 4], fractions.
          scores: [D].
          labels: [D], 0 in padding rows.
          size: (height, width) of the image in pixels.
        """
        found = np.asarray(labels) > 0  # [D]
        height, width = (np.float32(side) for side in size)
        corners = np.asarray(boxes, np.float32)[found] * np.array([width, height, width, height])
        return cls(corners, np.asarray(scores)[found], np.asarray(labels)[found])

    def above(self, score: float) -> "Detections":
        """Keep the detections with this score or a higher one."""
        return Detections(*(part[self.scores >= score] for part in self))
