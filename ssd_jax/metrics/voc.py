"""Average precision as the PASCAL VOC devkit computes it, in NumPy."""

from collections.abc import Hashable, Sequence

import numpy as np


class VOCMetric:
    """Mean average precision after the VOC devkit (`VOCevaldet.m`), of boxes given in pixels.

    Per class, detections of all images are taken by falling score (ties in the order they were added). Each goes
    to the ground truth of its class and image with which its IoU is largest (the first of equals). If that IoU
    is at least `iou_threshold`, it is a true positive when the object is not taken yet, a false positive when it
    is, and ignored when the object is difficult; below the threshold it is a false positive. The devkit and
    Caffe compare with >= ; several ports with > .

    `interpolation`: "11point" (VOC2007: the mean over recalls 0, 0.1, ..., 1 of the best precision at that
    recall or a higher one) or "area" (VOC2010 on: the area under that best precision).
    `inclusive`: corners name the first and last pixel inside, so a width is x_max - x_min + 1, as in VOC.

    A class whose ground truth holds no object that is not difficult has no average precision (the devkit divides
    by 0): its AP is nan and the mean leaves it out.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        iou_threshold: float = 0.5,
        interpolation: str = "11point",
        inclusive: bool = True,
    ):
        self.class_names = tuple(class_names)
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"class_names are one or more different names; got {list(class_names)}")
        if not 0 < iou_threshold <= 1:
            raise ValueError(f"iou_threshold is in (0, 1]; got {iou_threshold}")
        self.iou_threshold, self.inclusive = iou_threshold, inclusive
        self.interpolation = _interpolation(interpolation)
        self._places: dict[Hashable, int] = {}
        self._truth: list[tuple[np.ndarray, ...]] = []  # of each image: boxes, labels, difficult
        self._found: list[tuple[np.ndarray, ...]] = []  # of each image: boxes, labels, scores

    def add(
        self,
        image_id: Hashable,
        gt_boxes: np.ndarray,
        gt_labels: np.ndarray,
        gt_difficult: np.ndarray,
        boxes: np.ndarray,
        scores: np.ndarray,
        labels: np.ndarray,
    ):
        """One image: ground truth [n, 4], [n], [n] and detections [d, 4], [d], [d]; either may be empty.

        Boxes are corners in pixels, labels count from 1. Raises `ValueError` in one line for shapes that do not
        agree, a label without a class, a number that is not finite, and an image added before; then nothing is
        added. A box whose corners are out of order overlaps nothing.
        """
        if image_id in self._places:
            raise ValueError(f"an image is added once; {image_id!r} was added before")
        where = f"image {image_id!r}"
        n, d = np.size(gt_labels), np.size(labels)
        truth = (
            _boxes(gt_boxes, n, f"{where}: gt_boxes"),
            self._labels(gt_labels, f"{where}: gt_labels"),
            _column(gt_difficult, n, f"{where}: gt_difficult").astype(bool),
        )
        found = (
            _boxes(boxes, d, f"{where}: boxes"),
            self._labels(labels, f"{where}: labels"),
            _column(scores, d, f"{where}: scores").astype(np.float64),
        )
        self._places[image_id] = len(self._places)
        self._truth.append(truth)
        self._found.append(found)

    def compute(self, *, interpolation: str | None = None) -> dict:
        """The result over all images added; `interpolation` may differ from the one chosen at first.

        "mAP" float; "AP" {class: float}; "n_ground_truth" {class: objects that are not difficult};
        "n_difficult" {class: int}; "n_detections" {class: int}; "n_images" int.
        """
        interpolate = INTERPOLATIONS[_interpolation(interpolation or self.interpolation)]
        if not self._places:
            raise ValueError("a metric is computed over at least one image; none was added")
        gt_boxes, gt_labels, difficult = (np.concatenate(column) for column in zip(*self._truth, strict=True))
        boxes, labels, scores = (np.concatenate(column) for column in zip(*self._found, strict=True))
        gt_image = np.repeat(np.arange(len(self._truth)), [len(row[1]) for row in self._truth])  # [N]
        image = np.repeat(np.arange(len(self._found)), [len(row[1]) for row in self._found])  # [D]

        result = {"mAP": np.nan, "AP": {}, "n_ground_truth": {}, "n_difficult": {}, "n_detections": {}}
        for label, name in enumerate(self.class_names, start=1):
            own = np.flatnonzero(gt_labels == label)  # [n]
            mine = np.flatnonzero(labels == label)  # [d]
            mine = mine[np.argsort(-scores[mine], kind="stable")]
            true, ignored = judge(
                boxes[mine],
                image[mine],
                gt_boxes[own],
                gt_image[own],
                difficult[own],
                iou_threshold=self.iou_threshold,
                inclusive=self.inclusive,
            )
            n_objects = int(np.sum(~difficult[own]))
            hits = np.cumsum(true[~ignored])  # [d']
            result["AP"][name] = float(interpolate(hits, n_objects)) if n_objects else np.nan
            result["n_ground_truth"][name] = n_objects
            result["n_difficult"][name] = len(own) - n_objects
            result["n_detections"][name] = len(mine)
        known = [ap for ap in result["AP"].values() if not np.isnan(ap)]
        if known:
            result["mAP"] = float(np.mean(known))
        return result | {"n_images": len(self._places)}

    def _labels(self, labels: np.ndarray, what: str) -> np.ndarray:
        labels = _column(labels, np.size(labels), what)
        classes = len(self.class_names)
        if labels.size and not (
            np.issubdtype(labels.dtype, np.integer) and labels.min() >= 1 and labels.max() <= classes
        ):
            wrong = next(x for x in labels.tolist() if not (isinstance(x, int) and 1 <= x <= classes))
            raise ValueError(f"{what} are integers from 1 to {classes}, the number of classes; got {wrong}")
        return labels.astype(np.int64)


def judge(
    boxes: np.ndarray,
    image: np.ndarray,
    gt_boxes: np.ndarray,
    gt_image: np.ndarray,
    difficult: np.ndarray,
    *,
    iou_threshold: float,
    inclusive: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Detections of one class by falling score -> (true positive [d], ignored [d]); the rest are false positives.

    boxes [d, 4] in images [d]; gt_boxes [n, 4] in images [n], which do not fall, difficult [n].
    """
    overlap, nearest = _nearest(boxes, image, gt_boxes, gt_image, extra=float(inclusive))
    near = overlap >= iou_threshold  # [d]
    ignored = near.copy()
    ignored[near] = difficult[nearest[near]]
    claims = np.flatnonzero(near & ~ignored)
    true = np.zeros(len(boxes), bool)
    true[claims[np.unique(nearest[claims], return_index=True)[1]]] = True  # the first to claim an object has it
    return true, ignored


def _nearest(
    boxes: np.ndarray, image: np.ndarray, gt_boxes: np.ndarray, gt_image: np.ndarray, *, extra: float
) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection: its largest IoU within its image [d] (-1: no object there) and with which object [d]."""
    start = np.searchsorted(gt_image, image, side="left")  # [d]
    count = np.searchsorted(gt_image, image, side="right") - start  # [d]
    first = np.cumsum(count) - count  # [d] where the pairs of a detection begin
    d = np.repeat(np.arange(len(boxes)), count)  # [pairs]
    g = np.arange(len(d)) + np.repeat(start - first, count)  # [pairs]
    iou = _pairwise_iou(boxes[d], gt_boxes[g], extra)  # [pairs]
    best = np.lexsort((-iou, d))  # [pairs] by detection, then by falling IoU, then by object

    some = count > 0  # [d]
    overlap, nearest = np.full(len(boxes), -1.0), np.full(len(boxes), -1)
    overlap[some], nearest[some] = iou[best[first[some]]], g[best[first[some]]]
    return overlap, nearest


def _pairwise_iou(a: np.ndarray, b: np.ndarray, extra: float) -> np.ndarray:
    """IoU of a[i] and b[i], [n]; `extra` is what a side has beyond the difference of its corners."""

    def area(corners: np.ndarray) -> np.ndarray:
        return np.prod(np.maximum(corners[:, 2:] - corners[:, :2] + extra, 0), axis=1)

    shared = area(np.concatenate([np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])], axis=1))  # [n]
    union = area(a) + area(b) - shared  # [n]
    return np.divide(shared, union, out=np.zeros(len(a)), where=union > 0)


def eleven_point(hits: np.ndarray, n_objects: int) -> float:
    """hits [d]: true positives among the first 1, ..., d detections. AP as in VOC2007.

    The recalls asked for are the floats 0.1 k, as in the Python evaluations behind most published figures. 0.3,
    0.6 and 0.7 come out one rounding too large, so that a recall of exactly 3/10 does not reach the first; the
    devkit's own `0:0.1:1` has this at 0.3 alone. On VOC2007 test it moves an mAP by less than 0.0001.
    """
    precision = hits / np.arange(1, len(hits) + 1)  # [d]
    recall = hits / n_objects  # [d]
    return np.mean([np.max(precision[recall >= t], initial=0) for t in 0.1 * np.arange(11)])


def area_under_curve(hits: np.ndarray, n_objects: int) -> float:
    """hits [d]: true positives among the first 1, ..., d detections. AP as in VOC2010 and later."""
    precision = hits / np.arange(1, len(hits) + 1)  # [d]
    best = np.maximum.accumulate(precision[::-1])[::-1]  # [d] at this recall or a higher one
    return np.sum(np.diff(hits, prepend=0) * best) / n_objects


INTERPOLATIONS = {"11point": eleven_point, "area": area_under_curve}


def _interpolation(name: str) -> str:
    if name not in INTERPOLATIONS:
        raise ValueError(f"interpolation is one of {', '.join(INTERPOLATIONS)}; got {name!r}")
    return name


def _column(values: np.ndarray, n: int, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"{what} has a number for each of {n} labels, shape [{n}]; got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{what} are finite; got {values[~np.isfinite(values)][0]}")
    return values


def _boxes(boxes: np.ndarray, n: int, what: str) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    if boxes.shape != (n, 4) and not boxes.size == n == 0:
        raise ValueError(f"{what} has a row for each of {n} labels, shape [{n}, 4]; got {list(boxes.shape)}")
    boxes = boxes.reshape(n, 4)
    finite = np.isfinite(boxes).all(axis=1)  # [n]
    if not finite.all():
        raise ValueError(f"{what} are finite; got {boxes[~finite][0].tolist()}")
    return boxes
