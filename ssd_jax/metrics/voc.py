"""Average precision as the PASCAL VOC devkit computes it, in NumPy."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from ssd_jax import box
from ssd_jax.metrics.checks import check_boxes, check_column, check_labels
from ssd_jax.metrics.curves import Curve, precision_recall

# 0.5, 0.55, ..., 0.95, as COCO averages over.
COCO_IOU_THRESHOLDS = tuple(np.round(np.arange(0.5, 1, 0.05), 2).tolist())


class VOCResult(TypedDict):
    """Result of `VOCMetric.compute`; the last four only with `iou_thresholds`.

    Attributes:
      mAP: mean of the classes' AP, nan if no class has one.
      AP: average precision by class; nan for a class without an object that is not difficult.
      n_ground_truth: objects that are not difficult, by class.
      n_difficult: difficult objects, by class.
      n_detections: detections, by class.
      n_images: images added.
      mAP_by_iou: mAP by IoU threshold.
      AP_over_iou: mean over the IoU thresholds of each class's AP.
      mAP_over_iou: mean of `mAP_by_iou`.
      AR_over_iou: recall of all detections, averaged over IoU thresholds and classes.
    """

    mAP: float
    AP: dict[str, float]
    n_ground_truth: dict[str, int]
    n_difficult: dict[str, int]
    n_detections: dict[str, int]
    n_images: int
    mAP_by_iou: NotRequired[dict[float, float]]
    AP_over_iou: NotRequired[dict[str, float]]
    mAP_over_iou: NotRequired[float]
    AR_over_iou: NotRequired[float]


class ObjectTable(NamedTuple):
    """The ground truth of all images, in the order in which it was added.

    Attributes:
      image: [n] number of the image, non-decreasing: 0 is the first that was added.
      boxes: [n, 4] corners in pixels.
      labels: [n].
      difficult: [n] bool.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    difficult: np.ndarray


class DetectionTable(NamedTuple):
    """The detections of all images, in the order in which they were added.

    Attributes:
      image: [d] number of the image, non-decreasing: 0 is the first that was added.
      boxes: [d, 4] corners in pixels.
      labels: [d].
      scores: [d].
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


class Overlaps(NamedTuple):
    """Detections of one class by falling score, each with the object that it overlaps most.

    Attributes:
      scores: [d].
      iou: [d] the largest IoU with an object of the class in the same image; -1 if there is none.
      nearest: [d] index of that object in `difficult`; -1 if there is none.
      difficult: [n] bool, of each object of the class.
    """

    scores: np.ndarray
    iou: np.ndarray
    nearest: np.ndarray
    difficult: np.ndarray

    @property
    def n_objects(self) -> int:
        """Number of objects that are not difficult."""
        return int(np.sum(~self.difficult))


class VOCMetric:
    """Mean average precision by the rules of the VOC devkit (`VOCevaldet.m`), of boxes in pixels.

    For each class, the detections of all images are taken by falling score; equal scores keep the order in which
    they were added. Each detection is assigned to the ground truth of its class and image with which its IoU is
    largest (the first of equals). If that IoU is at least `iou_threshold`, the detection is a true positive when the
    object is not taken yet and a false positive when it is; when the object is difficult, the detection is ignored.
    Below the threshold it is a false positive. The devkit and Caffe compare with >=, several ports with >.

    A class whose ground truth has no object that is not difficult has no average precision (the devkit divides by
    0): its AP is nan, and the mean does not include it.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        iou_threshold: float = 0.5,
        interpolation: str = "11point",
        inclusive: bool = True,
    ) -> None:
        """Prepare an empty metric.

        Args:
          class_names: names of labels 1, 2, ...
          iou_threshold: in (0, 1].
          interpolation: "11point" (VOC2007: the mean, over the recalls 0, 0.1, ..., 1, of the best precision at that
            recall or a higher one) or "area" (VOC2010 and later: the area under that best precision).
          inclusive: corners are the first and the last pixel inside the box, as in VOC, so that its width is
            x_max - x_min + 1.

        Raises:
          ValueError: for a value out of its range.
        """
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names must be one or more different names; got {list(class_names)}")
        self.iou_threshold, self.inclusive = _iou_threshold(iou_threshold), inclusive
        self.interpolation = _interpolation(interpolation)
        self._image_ids: dict[Hashable, None] = {}
        self._truth: list[tuple[np.ndarray, ...]] = []  # of each image: boxes, labels, difficult
        self._found: list[tuple[np.ndarray, ...]] = []  # of each image: boxes, labels, scores
        self._overlaps: dict[str, Overlaps] = {}  # computed once, after the last image was added

    def add(
        self,
        image_id: Hashable,
        gt_boxes: np.ndarray,
        gt_labels: np.ndarray,
        gt_difficult: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        """Add the ground truth and the detections of one image; either may be empty.

        A box whose corners are out of order overlaps nothing.

        Args:
          image_id: any name, once.
          gt_boxes: [n, 4] corners in pixels.
          gt_labels: [n] integers from 1.
          gt_difficult: [n] bool.
          boxes: [d, 4] corners in pixels.
          scores: [d].
          labels: [d] integers from 1.

        Raises:
          ValueError: for shapes that do not agree, a label without a class, a number that is not finite, and an image
            that was added before. Then nothing is added.
        """
        if image_id in self._image_ids:
            raise ValueError(f"image_id must be new; got {image_id!r}, which was added before")
        where = f"image {image_id!r}"
        n, d, classes = np.size(gt_labels), np.size(labels), len(self.class_names)
        truth = (
            check_boxes(gt_boxes, n, f"{where}: gt_boxes"),
            check_labels(gt_labels, classes, f"{where}: gt_labels"),
            check_column(gt_difficult, n, f"{where}: gt_difficult").astype(bool),
        )
        found = (
            check_boxes(boxes, d, f"{where}: boxes"),
            check_labels(labels, classes, f"{where}: labels"),
            check_column(scores, d, f"{where}: scores").astype(np.float64),
        )
        self._image_ids[image_id] = None
        self._truth.append(truth)
        self._found.append(found)
        self._overlaps = {}

    def compute(self, *, interpolation: str | None = None, iou_thresholds: Sequence[float] = ()) -> VOCResult:
        """Compute average precision over all images that were added.

        Args:
          interpolation: instead of the metric's own.
          iou_thresholds: compute mAP and recall at these thresholds too, as COCO does with `COCO_IOU_THRESHOLDS`.
            Detections are assigned to objects by VOC's rules, so the numbers are near COCO's but not the same:
            `COCOMetric` has those.

        Raises:
          ValueError: for a value out of its range, and if no image was added.
        """
        interpolate = INTERPOLATIONS[_interpolation(interpolation or self.interpolation)]
        overlaps = self._overlaps_by_class()

        def scores(iou_threshold: float) -> tuple[dict[str, float], dict[str, float]]:
            """Return average precision, and recall of all detections, by class."""
            aps, recalls = {}, {}
            for name, of_class in overlaps.items():
                true, ignored = match_detections(of_class, iou_threshold)
                hits, n = np.cumsum(true[~ignored]), of_class.n_objects  # [d']
                aps[name] = interpolate(hits, n) if n else np.nan
                recalls[name] = np.max(hits, initial=0) / n if n else np.nan
            return aps, recalls

        aps, _ = scores(self.iou_threshold)
        result = VOCResult(
            mAP=_mean(aps.values()),
            AP=aps,
            n_ground_truth={name: of_class.n_objects for name, of_class in overlaps.items()},
            n_difficult={name: int(np.sum(of_class.difficult)) for name, of_class in overlaps.items()},
            n_detections={name: len(of_class.scores) for name, of_class in overlaps.items()},
            n_images=len(self._image_ids),
        )
        if iou_thresholds:
            by_iou = {threshold: scores(_iou_threshold(threshold)) for threshold in iou_thresholds}
            result["mAP_by_iou"] = {threshold: _mean(aps_at.values()) for threshold, (aps_at, _) in by_iou.items()}
            result["AP_over_iou"] = {
                name: float(np.mean([aps_at[name] for aps_at, _ in by_iou.values()])) for name in overlaps
            }
            result["mAP_over_iou"] = float(np.mean(list(result["mAP_by_iou"].values())))
            result["AR_over_iou"] = _mean(_mean(recalls.values()) for _, recalls in by_iou.values())
        return result

    def curves(self, *, iou_threshold: float | None = None) -> dict[str, Curve]:
        """Return precision and recall over the score of each class that has an object to find.

        Difficult objects are not to be found, and detections of them are ignored, as in `compute`.

        Args:
          iou_threshold: instead of the metric's own.

        Raises:
          ValueError: for a threshold out of its range, and if no image was added.
        """
        iou_threshold = self.iou_threshold if iou_threshold is None else _iou_threshold(iou_threshold)
        result = {}
        for name, of_class in self._overlaps_by_class().items():
            if of_class.n_objects:
                true, ignored = match_detections(of_class, iou_threshold)
                result[name] = precision_recall(of_class.scores[~ignored], true[~ignored], of_class.n_objects)
        return result

    def _overlaps_by_class(self) -> dict[str, Overlaps]:
        if not self._overlaps:
            self._overlaps = dict(zip(self.class_names, self._find_overlaps(), strict=True))
        return self._overlaps

    def tables(self) -> tuple[ObjectTable, DetectionTable]:
        """Return the ground truth and the detections of all images.

        Raises:
          ValueError: if no image was added.
        """
        if not self._image_ids:
            raise ValueError("a metric must have at least one image; got none")

        def table(rows: list[tuple[np.ndarray, ...]]) -> list[np.ndarray]:
            image = np.repeat(np.arange(len(rows)), [len(row[1]) for row in rows])
            return [image, *(np.concatenate(column) for column in zip(*rows, strict=True))]

        return ObjectTable(*table(self._truth)), DetectionTable(*table(self._found))

    def _find_overlaps(self) -> Iterator[Overlaps]:
        """Yield the overlaps of each class."""
        truth, found = self.tables()
        for label in range(1, 1 + len(self.class_names)):
            objects = np.flatnonzero(truth.labels == label)  # [n]
            own = np.flatnonzero(found.labels == label)  # [d]
            own = own[np.argsort(-found.scores[own], kind="stable")]
            d, g = pairs(found.image[own], truth.image[objects])
            iou = pairs_iou(found.boxes[own][d], truth.boxes[objects][g], inclusive=self.inclusive)
            yield Overlaps(found.scores[own], *best_of_pairs(d, g, iou, len(own)), truth.difficult[objects])


def match_detections(overlaps: Overlaps, iou_threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Tell the detections of one class that are true positives [d] and those that are ignored [d]; both bool.

    The first detection, by falling score, that reaches an object is its true positive. Detections of difficult
    objects are ignored; all others are false positives.
    """
    near = overlaps.iou >= iou_threshold  # [d]
    ignored = near.copy()
    ignored[near] = overlaps.difficult[overlaps.nearest[near]]
    claims = np.flatnonzero(near & ~ignored)
    true = np.zeros(len(near), bool)
    true[claims[np.unique(overlaps.nearest[claims], return_index=True)[1]]] = True  # the first claim of each object
    return true, ignored


def pairs(image: np.ndarray, gt_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of all pairs of a detection [pairs] and an object [pairs] of the same image.

    Args:
      image: [d] image of each detection.
      gt_image: [n] image of each object, non-decreasing.
    """
    start = np.searchsorted(gt_image, image, side="left")  # [d]
    count = np.searchsorted(gt_image, image, side="right") - start  # [d]
    first = np.cumsum(count) - count  # [d] index of a detection's first pair
    d = np.repeat(np.arange(len(image)), count)
    return d, np.arange(len(d)) + np.repeat(start - first, count)


def pairs_iou(boxes: np.ndarray, gt_boxes: np.ndarray, *, inclusive: bool) -> np.ndarray:
    """Return the IoU [n] of boxes [n, 4] and gt_boxes [n, 4], row by row; `inclusive` as in `VOCMetric`."""
    edge = np.array([0, 0, 1, 1]) * inclusive  # from the last pixel inside to the edge of the box
    return np.asarray(box.paired_iou(boxes + edge, gt_boxes + edge))


def best_of_pairs(d: np.ndarray, g: np.ndarray, iou: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return each detection's largest IoU [n] and its object [n], the first of equals; -1 and -1 without a pair.

    Args:
      d: [pairs] detections, below n.
      g: [pairs] objects.
      iou: [pairs].
      n: how many detections there are.
    """
    order = np.lexsort((g, -iou, d))  # by detection, then by falling IoU, then by object
    detection, first = np.unique(d[order], return_index=True)
    best_iou, best_object = np.full(n, -1.0), np.full(n, -1)
    best_iou[detection], best_object[detection] = iou[order[first]], g[order[first]]
    return best_iou, best_object


def eleven_point(hits: np.ndarray, n_objects: int) -> float:
    """Return AP as in VOC2007, in [0, 1].

    The recalls are the floats 0.1 k, as in the Python evaluations behind most published figures. Rounding makes 0.3,
    0.6 and 0.7 a little too large, so that a recall of exactly 3/10 does not reach the first of them; in the devkit's
    own `0:0.1:1` only 0.3 is too large. On VOC2007 test the difference is below 0.0001 mAP.

    Args:
      hits: [d] true positives among the first 1, ..., d detections.
      n_objects: at least 1.
    """
    precision = hits / np.arange(1, len(hits) + 1)  # [d]
    recall = hits / n_objects  # [d]
    return float(np.mean([np.max(precision[recall >= t], initial=0) for t in 0.1 * np.arange(11)]))


def area_under_curve(hits: np.ndarray, n_objects: int) -> float:
    """Return AP as in VOC2010 and later, in [0, 1].

    Args:
      hits: [d] true positives among the first 1, ..., d detections.
      n_objects: at least 1.
    """
    precision = hits / np.arange(1, len(hits) + 1)  # [d]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # [d] at this recall or a higher one
    return float(np.sum(np.diff(hits, prepend=0) * best) / n_objects)


INTERPOLATIONS = {"11point": eleven_point, "area": area_under_curve}


def _mean(values: Iterable[float]) -> float:
    """Return the mean of those values that are not nan; nan if there is none."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


def _interpolation(name: str) -> str:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}; got {name!r}")
    return name


def _iou_threshold(value: float) -> float:
    if not 0 < value <= 1:
        raise ValueError(f"iou_threshold must be in (0, 1]; got {value}")
    return value
