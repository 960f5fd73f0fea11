"""COCO's twelve numbers, as pycocotools computes them."""

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import numpy as np

from ssd_jax import box
from ssd_jax.files import to_json, write_text
from ssd_jax.metrics.checks import check_boxes, check_column, check_labels

if TYPE_CHECKING:  # imported where it is used, which reading COCO files does not need
    from pycocotools.coco import COCO


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


class COCODetection(TypedDict):
    """A row of the results file that COCO's server takes: `bbox` is [x_min, y_min, width, height] in pixels."""

    image_id: int | str
    category_id: int
    bbox: list[float]
    score: float


class COCOResult(TypedDict):
    """Result of `COCOMetric.compute`: pycocotools' twelve numbers (`NUMBERS`) and AP by class.

    A number is nan where there is no object; pycocotools has -1 there.
    """

    AP: float
    AP50: float
    AP75: float
    AP_small: float
    AP_medium: float
    AP_large: float
    AR_1: float
    AR_10: float
    AR_100: float
    AR_small: float
    AR_medium: float
    AR_large: float
    AP_by_class: dict[str, float]


class COCOMetric:
    """Average precision and recall over IoU 0.5, 0.55, ..., 0.95, computed by pycocotools.

    Label k is the k-th of the ground truth's categories. As in COCO, detections over a crowd do not count as false
    positives. Only images that were added are evaluated. Boxes are rounded to hundredths of a pixel, as in the file
    that `write` makes, so that pycocotools finds the same numbers in it.

    Attributes:
      results: all detections that were added.
    """

    def __init__(self, truth: COCOTruth) -> None:
        """Prepare an empty metric for this ground truth."""
        self._truth = truth
        self._categories = truth["categories"]
        # NumPy's integers equal Python's, but JSON has no form of them.
        self._ids = {image["id"]: _plain(image["id"]) for image in truth["images"]}
        self._category_ids = [_plain(category["id"]) for category in truth["categories"]]
        self._added: dict[int | str, None] = {}
        self.results: list[COCODetection] = []

    def add(self, image_id: int | str, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> None:
        """Add the detections of one image, which may have none.

        Args:
          image_id: of the ground truth; NumPy's integers are taken too.
          boxes: [d, 4] corners in pixels.
          scores: [d].
          labels: [d] integers from 1.

        Raises:
          ValueError: for an image that is not in the ground truth or was added before, for shapes that do not agree,
            for a label without a category, and for numbers that are not finite. Then nothing is added.
        """
        if not isinstance(image_id, int | str | np.integer) or image_id not in self._ids:
            raise ValueError(f"image_id must be one of the ground truth; got {image_id!r}")
        image_id = self._ids[image_id]
        if image_id in self._added:
            raise ValueError(f"image_id must be new; got {image_id!r}, which was added before")
        where = f"image {image_id!r}"
        d = np.size(labels)
        boxes = check_boxes(boxes, d, f"{where}: boxes")
        scores = check_column(scores, d, f"{where}: scores").astype(np.float64)
        labels = check_labels(labels, len(self._category_ids), f"{where}: labels")
        self._added[image_id] = None
        xywh = np.round(box.corner_to_xywh(boxes), 2)  # [d, 4]
        self.results += [
            COCODetection(image_id=image_id, category_id=self._category_ids[label - 1], bbox=bbox, score=score)
            for label, bbox, score in zip(labels.tolist(), xywh.tolist(), scores.tolist(), strict=True)
        ]

    def compute(self) -> COCOResult:
        """Compute the twelve numbers, and AP by class, over all images that were added.

        Raises:
          ValueError: if no image was added.
        """
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        if not self._added:
            raise ValueError("a metric must have at least one image; got none")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints every step
            truth = COCO()
            truth.dataset = cast("Any", {"info": {}, **self._truth})
            truth.createIndex()
            evaluation = COCOeval(truth, _load(truth, self.results), "bbox")
            evaluation.params.imgIds = cast("Any", list(self._added))  # text will do as an id
            evaluation.params.catIds = [category["id"] for category in self._categories]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        # precision is [IoU threshold, recall, category by rising id, area range, number of detections].
        by_class = _minus_one_to_nan(evaluation.eval["precision"][:, :, :, 0, -1]).mean(axis=(0, 1))  # [C]
        by_id = dict(zip(evaluation.params.catIds, by_class.tolist(), strict=True))
        return COCOResult(
            **dict(zip(NUMBERS, _minus_one_to_nan(evaluation.stats).tolist(), strict=True)),
            AP_by_class={category["name"]: by_id[category["id"]] for category in self._categories},
        )

    def write(self, path: str | Path) -> None:
        """Write the results, whole or not at all, as JSON that pycocotools' `loadRes` and COCO's server read."""
        write_text(path, to_json(self.results))


def _load(truth: "COCO", results: list[COCODetection]) -> "COCO":
    """Return `truth.loadRes(results)`, which fails on an empty list and adds its own keys to the rows."""
    if results:
        return truth.loadRes(cast("Any", [dict(row) for row in results]))
    empty = type(truth)()
    empty.dataset = {"images": truth.dataset["images"], "categories": truth.dataset["categories"], "annotations": []}
    empty.createIndex()
    return empty


def _plain(number: int | str) -> int | str:
    return number.item() if isinstance(number, np.integer) else number


def _minus_one_to_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values == -1, np.nan, values)
