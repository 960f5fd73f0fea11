"""What a detector found in one image. Needs NumPy alone."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ssd_jax.extras import import_extra


class _Arrays(NamedTuple):
    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


class Detections(_Arrays):
    """What was found in one image, best first: a tuple of three arrays.

    Attributes:
      boxes: [n, 4] float32 corners in pixels, inside the image.
      scores: [n] float32, probabilities.
      labels: [n] int32, 1..C-1; class_names[label - 1] is the name.
      class_names: of labels 1, 2, ...; a detector fills it in.
    """

    class_names: tuple[str, ...] = ()

    def __new__(
        cls, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, class_names: Sequence[str] = ()
    ) -> "Detections":
        """Hold the three arrays, and the names, which are no part of the tuple."""
        self = super().__new__(cls, boxes, scores, labels)
        self.class_names = tuple(class_names)
        return self

    @classmethod
    def from_model(
        cls,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
        size: Sequence[int] | np.ndarray,
        class_names: Sequence[str] = (),
    ) -> "Detections":
        """Drop the padding rows of what `select` returned, and scale the corners to an image.

        Args:
          boxes: corners [D, 4], fractions.
          scores: [D].
          labels: [D], 0 in padding rows.
          size: (height, width) of the image in pixels.
          class_names: of labels 1, 2, ...
        """
        found = np.asarray(labels) > 0  # [D]
        height, width = (np.float32(side) for side in size)
        corners = np.asarray(boxes, np.float32)[found] * np.array([width, height, width, height])
        return cls(corners, np.asarray(scores)[found], np.asarray(labels)[found], class_names)

    def above(self, score: float | np.ndarray) -> "Detections":
        """Keep the detections with this score or a higher one; an array [C - 1] has a score for each class."""
        return self.only(self.reach(score))

    def reach(self, score: float | np.ndarray) -> np.ndarray:
        """Tell [n] which detections have this score or a higher one; an array [C - 1] has a score for each class."""
        least = np.asarray(score, self.scores.dtype)
        return self.scores >= (least[self.labels - 1] if least.ndim else least)

    def only(self, kept: np.ndarray) -> "Detections":
        """Keep the detections for which `kept` [n] is true."""
        return Detections(*(part[kept] for part in self), class_names=self.class_names)

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return JSON values: {"class": name, "label": 1..C-1, "score": number, "box": [x_min, y_min, x_max, y_max]}.

        Corners are in pixels, rounded to 2 decimals, and scores to 5. Without class names there is no "class".
        """
        rows = []
        for box, score, label in zip(*self, strict=True):
            name = {"class": self.class_names[label - 1]} if self.class_names else {}
            values = {"label": int(label), "score": round(float(score), 5), "box": [round(float(v), 2) for v in box]}
            rows.append(name | values)
        return rows

    def to_coco(self, image_id: int | str, *, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Return the rows of COCO's results format, as JSON values: the boxes are [x, y, width, height] in pixels.

        Args:
          image_id: of the image.
          category_ids: of labels 1, 2, ...; by default the labels themselves. COCO's own are
            `ssd_jax.data.classes.COCO_IDS`.

        Raises:
          ValueError: if a label has no id.
        """
        if category_ids is not None and len(self.labels) and max(self.labels) > len(category_ids):
            raise ValueError(f"category_ids must have an id of label {max(self.labels)}; got {len(category_ids)} ids")
        ids = self.labels if category_ids is None else [category_ids[label - 1] for label in self.labels]
        return [
            {
                "image_id": image_id,
                "category_id": int(category),
                "bbox": [float(x_min), float(y_min), float(x_max - x_min), float(y_max - y_min)],
                "score": float(score),
            }
            for (x_min, y_min, x_max, y_max), score, category in zip(self.boxes, self.scores, ids, strict=True)
        ]

    def to_supervision(self) -> Any:
        """Return `supervision.Detections` with `class_id` label - 1, and the names in `data["class_name"]`.

        Raises:
          ValueError: if supervision is not installed.
        """
        supervision = import_extra("supervision", "track")
        ids = self.labels.astype(int) - 1
        data = {"class_name": np.array([self.class_names[i] for i in ids], str)} if self.class_names else {}
        return supervision.Detections(xyxy=self.boxes, confidence=self.scores, class_id=ids, data=data)
