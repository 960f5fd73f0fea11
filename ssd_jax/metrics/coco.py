"""COCO's twelve numbers: those of pycocotools, computed by hotcoco in a hundredth of the time."""

import contextlib
import io
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from ssd_jax import box
from ssd_jax.files import to_json, write_text
from ssd_jax.metrics.checks import check_boxes, check_column, check_labels


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
    """Average precision and recall over IoU 0.5, 0.55, ..., 0.95, equal to those of pycocotools.

    Label k is the k-th of the ground truth's categories. As in COCO, detections over a crowd do not count as false
    positives. Only images that were added are evaluated. Boxes are rounded to hundredths of a pixel, as in the file
    that `write` makes, so that pycocotools finds the same numbers in it.
    """

    def __init__(self, truth: COCOTruth) -> None:
        """Prepare an empty metric for this ground truth."""
        self._truth = truth
        # NumPy's integers equal Python's, but JSON has no form of them.
        self._ids = {image["id"]: _plain(image["id"]) for image in truth["images"]}
        self._category_ids = [int(category["id"]) for category in truth["categories"]]
        self._added: dict[int | str, np.ndarray] = {}  # of each image [d, 6]: xywh, score, label

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
        xywh = np.round(box.corner_to_xywh(boxes), 2)  # [d, 4]
        self._added[image_id] = np.column_stack([xywh, scores, labels])

    @property
    def results(self) -> list[COCODetection]:
        """All detections that were added, as COCO's server takes them."""
        return [
            COCODetection(image_id=image_id, category_id=self._category_ids[int(label) - 1], bbox=bbox, score=score)
            for image_id, rows in self._added.items()
            for *bbox, score, label in rows.tolist()
        ]

    def compute(self) -> COCOResult:
        """Compute the twelve numbers, and AP by class, over all images that were added.

        Raises:
          ValueError: if no image was added.
        """
        from hotcoco import COCO, COCOeval

        if not self._added:
            raise ValueError("a metric must have at least one image; got none")
        # Images and categories are numbered from 1 in the order of their ids, in which pycocotools takes them: of
        # equal scores, the first image's counts first.
        images = {image_id: k for k, image_id in enumerate(sorted(self._ids.values()), start=1)}
        categories = {category_id: k for k, category_id in enumerate(sorted(self._category_ids), start=1)}
        objects = [row for row in self._truth["annotations"] if row["image_id"] in images]
        truth = COCO.from_arrays(
            [{"id": k} for k in images.values()],
            [{"id": k, "name": str(k)} for k in categories.values()],
            np.array([images[row["image_id"]] for row in objects], np.int64),
            np.array([categories[row["category_id"]] for row in objects], np.int64),
            np.array([row["bbox"] for row in objects], np.float64).reshape(-1, 4),
            area=np.array([row["area"] for row in objects], np.float64),
            iscrowd=np.array([row["iscrowd"] for row in objects], bool),
        )
        numbers = np.array([categories[category_id] for category_id in self._category_ids])  # of labels 1, 2, ...
        found = [
            np.column_stack([np.full(len(rows), images[image_id]), rows[:, :5], numbers[rows[:, 5].astype(int) - 1]])
            for image_id, rows in self._added.items()
        ]
        evaluation = COCOeval(truth, truth.load_res(np.concatenate(found)), "bbox")
        evaluation.params.img_ids = sorted(images[image_id] for image_id in self._added)
        evaluation.params.cat_ids = list(categories.values())
        with contextlib.redirect_stdout(io.StringIO()):  # the summary is printed too
            evaluation.run()
        # precision is [IoU threshold, recall, category, area range, number of detections].
        assert evaluation.eval is not None  # after `run`; a type checker needs it
        precision = np.asarray(evaluation.eval["precision"])[:, :, :, 0, -1]
        by_class = _minus_one_to_nan(precision).mean(axis=(0, 1))  # [C]
        names = {int(category["id"]): category["name"] for category in self._truth["categories"]}
        return COCOResult(
            **dict(zip(NUMBERS, _minus_one_to_nan(np.asarray(evaluation.stats)).tolist(), strict=True)),
            AP_by_class={names[i]: float(by_class[categories[i] - 1]) for i in self._category_ids},
        )

    def write(self, path: str | Path) -> None:
        """Write the results, whole or not at all, as JSON that pycocotools' `loadRes` and COCO's server read."""
        write_text(path, to_json(self.results))


def _plain(number: int | str) -> int | str:
    return number.item() if isinstance(number, np.integer) else number


def _minus_one_to_nan(values: np.ndarray) -> np.ndarray:
    return np.where(values == -1, np.nan, values)
