"""COCO's twelve numbers, as pycocotools computes them."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from ssd_jax.files import write_text


class COCOImage(TypedDict):
    """An image of COCO's ground truth; sizes are in pixels."""

    id: int | str
    file_name: NotRequired[str]
    width: NotRequired[int]
    height: NotRequired[int]


class COCOCategory(TypedDict):
    """A class of COCO's ground truth."""

    id: int
    name: str


class COCOAnnotation(TypedDict):
    """An object of COCO's ground truth: `bbox` is [x_min, y_min, width, height] in pixels, `iscrowd` 0 or 1."""

    id: int
    image_id: int | str
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class COCOTruth(TypedDict):
    """Ground truth in COCO's format."""

    images: list[COCOImage]
    categories: list[COCOCategory]
    annotations: list[COCOAnnotation]


# In the order of pycocotools' `COCOeval.stats`.
NUMBERS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large"),
)


class COCOMetric:
    """Average precision and recall over IoU 0.5, 0.55, ..., 0.95, by pycocotools itself.

    `truth` is the ground truth in COCO's format: {"images": [{"id", ...}], "categories": [{"id", "name"}],
    "annotations": [{"id", "image_id", "category_id", "bbox", "area", "iscrowd"}]}. Label k stands for the k-th of
    the categories. Detections over a crowd are not counted against the detector, as COCO says.

    Only images that were added are judged. Results are kept as COCO's server takes them, boxes rounded to
    hundredths of a pixel, and judged as they are written.
    """

    def __init__(self, truth: COCOTruth):
        self._truth = truth
        self._categories = truth["categories"]
        self._known = {image["id"] for image in truth["images"]}
        self._added: dict[int, None] = {}
        self.results: list[dict[str, Any]] = []

    def add(self, image_id: int, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray):
        """Detections of one image: corners in pixels [d, 4], scores [d], labels [d] from 1; d may be 0.

        Raises `ValueError` for an image that is not of the ground truth or was added before, a label without a
        category, and numbers that are not finite; then nothing is added.
        """
        if image_id not in self._known:
            raise ValueError(f"an image is one of the ground truth's; got {image_id!r}")
        if image_id in self._added:
            raise ValueError(f"an image is added once; {image_id!r} was added before")
        boxes, scores, labels = np.asarray(boxes, np.float64), np.asarray(scores, np.float64), np.asarray(labels)
        d = labels.size
        if (boxes.shape, scores.shape, labels.shape) != ((d, 4), (d,), (d,)):
            raise ValueError(
                f"image {image_id}: detections are boxes [d, 4], scores [d] and labels [d]; got "
                f"{list(boxes.shape)}, {list(scores.shape)} and {list(labels.shape)}"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError(f"image {image_id}: boxes and scores are finite; got one that is not")
        classes = len(self._categories)
        if d and not (labels.min() >= 1 and labels.max() <= classes):
            raise ValueError(
                f"image {image_id}: labels are from 1 to {classes}, the number of categories; got "
                f"{labels.min()} to {labels.max()}"
            )
        self._added[image_id] = None
        xywh = np.round(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1), 2)  # [d, 4]
        self.results += [
            {"image_id": image_id, "category_id": self._categories[label - 1]["id"], "bbox": box, "score": score}
            for label, box, score in zip(labels.tolist(), xywh.tolist(), scores.tolist(), strict=True)
        ]

    def compute(self) -> dict[str, Any]:
        """The twelve numbers by name (`NUMBERS`), and "AP_by_class" {name: AP}; nan where there is no object.

        pycocotools writes -1 for nan.
        """
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._added:
            raise ValueError("a metric is computed over at least one image; none was added")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
            truth = COCO()
            truth.dataset = {"info": {}, **self._truth}
            truth.createIndex()
            evaluation = COCOeval(truth, _load(truth, self.results), "bbox")
            evaluation.params.imgIds = list(self._added)
            evaluation.params.catIds = [category["id"] for category in self._categories]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # precision is [IoU threshold, recall, category by rising id, area range, number of detections].
        by_class = _no_minus_one(evaluation.eval["precision"][:, :, :, 0, -1]).mean(axis=(0, 1))  # [C]
        by_id = dict(zip(evaluation.params.catIds, by_class.tolist(), strict=True))
        return {
            **dict(zip(NUMBERS, _no_minus_one(evaluation.stats).tolist(), strict=True)),
            "AP_by_class": {category["name"]: by_id[category["id"]] for category in self._categories},
        }

    def write(self, path: str | Path):
        """Write the results as JSON that pycocotools' `loadRes` and COCO's server take; whole or not at all."""
        write_text(path, json.dumps(self.results))


def _load(truth, results: list[dict]):
    """`truth.loadRes(results)`, which fails on an empty list, and writes its own keys into the rows."""
    if results:
        return truth.loadRes([dict(row) for row in results])
    empty = type(truth)()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _no_minus_one(values: np.ndarray) -> np.ndarray:
    return np.where(values == -1, np.nan, values)
