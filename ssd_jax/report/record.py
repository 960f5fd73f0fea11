"""What an evaluation saw: the ground truth and the detections of every image, in one file."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np

from ssd_jax.box import PriorSpec
from ssd_jax.files import write_bytes
from ssd_jax.metrics import VOCMetric

COLUMNS = {
    "image_ids": ("U", 1), "places": ("i", 1), "sizes": ("i", 2), "spec": ("U", 0),
    "class_names": ("U", 1), "inclusive": ("b", 0),
    "gt_boxes": ("f", 2), "gt_labels": ("i", 1), "gt_difficult": ("b", 1), "gt_image": ("i", 1),
    "boxes": ("f", 2), "scores": ("f", 1), "labels": ("i", 1), "image": ("i", 1),
    "loss": ("f", 1),
}  # fmt: skip
OPTIONAL = ("loss",)  # files of older versions lack it


@dataclasses.dataclass(frozen=True)
class Record:
    """Ground truth and detections of a split.

    Attributes:
      metric: with all images added, boxes in pixels.
      image_ids: [N] names, in the order in which the images were added.
      places: int [N], the images' places in their source; unreadable images have none.
      sizes: int [N, 2], (height, width) in pixels.
      spec: the priors of the detector, if it is known.
      loss: float [N], the MultiBox loss of each image divided by its positive priors, if it is known.
    """

    metric: VOCMetric
    image_ids: tuple[str, ...]
    places: np.ndarray
    sizes: np.ndarray
    spec: PriorSpec | None = None
    loss: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Check that the parts belong together."""
        n = len(self.image_ids)
        if np.shape(self.sizes) != (n, 2) or np.shape(self.places) != (n,):
            shapes = [list(np.shape(array)) for array in (self.sizes, self.places)]
            raise ValueError(f"sizes and places must have shapes [{n}, 2] and [{n}]; got {shapes[0]} and {shapes[1]}")
        if self.loss is not None and np.shape(self.loss) != (n,):
            raise ValueError(f"loss must have shape [{n}]; got {list(np.shape(self.loss))}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of labels 1, 2, ..."""
        return self.metric.class_names

    def save(self, path: Path) -> None:
        """Write the record as a NumPy archive, whole or not at all."""
        objects, detections = self.metric.tables()
        columns = {
            "image_ids": np.array(self.image_ids, str),
            "places": np.asarray(self.places, np.int32),
            "sizes": np.asarray(self.sizes, np.int32),
            "spec": np.array(json.dumps(dataclasses.asdict(self.spec)) if self.spec else ""),
            "class_names": np.array(self.class_names, str),
            "inclusive": np.array(self.metric.inclusive),
            "gt_boxes": objects.boxes.astype(np.float32),
            "gt_labels": objects.labels.astype(np.int32),
            "gt_difficult": objects.difficult,
            "gt_image": objects.image.astype(np.int32),
            "boxes": detections.boxes.astype(np.float32),
            "scores": detections.scores.astype(np.float32),
            "labels": detections.labels.astype(np.int32),
            "image": detections.image.astype(np.int32),
        }
        if self.loss is not None:
            columns["loss"] = np.asarray(self.loss, np.float32)
        stream = io.BytesIO()
        np.savez_compressed(stream, **columns)
        write_bytes(path, stream.getvalue())


def load_record(path: Path) -> Record:
    """Read what `Record.save` wrote.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, if the file is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in COLUMNS if name in archive or name not in OPTIONAL}
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile, zlib, NumPy and the file system have errors of many types
        raise ValueError(f"{path}: a record must be an archive of {', '.join(COLUMNS)}; got {error!r}") from None
    for name in columns:
        kind, rank = COLUMNS[name]
        if columns[name].dtype.kind != kind or columns[name].ndim != rank:
            raise ValueError(f"{path}: {name} must have kind {kind} and rank {rank}; got {columns[name].dtype}")
    metric = VOCMetric(columns["class_names"].tolist(), inclusive=bool(columns["inclusive"]))
    images = np.arange(1, len(columns["image_ids"]))
    of_truth, of_found = ("gt_boxes", "gt_labels", "gt_difficult"), ("boxes", "scores", "labels")
    rows = [
        np.split(columns[name], np.searchsorted(columns[place], images))
        for place, names in (("gt_image", of_truth), ("image", of_found))
        for name in names
    ]
    for index, row in enumerate(zip(*rows, strict=True)):
        metric.add(index, *row)
    try:
        spec = PriorSpec(**json.loads(str(columns["spec"]))) if str(columns["spec"]) else None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: spec must be the fields of a PriorSpec; got {error}") from None
    names = tuple(columns["image_ids"].tolist())
    return Record(metric, names, columns["places"], columns["sizes"], spec, columns.get("loss"))
