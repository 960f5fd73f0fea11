"""Datasets of TensorFlow Datasets, read without TensorFlow."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.box import corner_to_xywh, to_pixels, yxyx_to_corner
from ssd_jax.data.box_table import INVERTED, NO_SIZE
from ssd_jax.data.classes import COCO_IDS
from ssd_jax.data.coco import annotation
from ssd_jax.data.example import Example, Source
from ssd_jax.data.image import DEFAULTS, ReadOptions, decoded_size
from ssd_jax.metrics.coco import COCOTruth


class TFDS(Source):
    """A split of a detection dataset that TensorFlow Datasets prepared as array_record.

    Its features are those of TFDS's own `voc` and `coco`: "image", and "objects" with "bbox" and "label", perhaps
    also with "is_difficult" and "is_crowd". Crowds are dropped. Boxes of no size are dropped too; TFDS itself accepts
    no box outside its image.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | Path | None = None,
        strict: bool = False,
        options: ReadOptions = DEFAULTS,
    ):
        """Open a split; this needs the extra `[tfds]`.

        Args:
          name: as for `tfds.builder`, "voc/2007".
          split: one of the dataset's; "trainval" means "train" and "validation" together where the dataset has no
            split of that name, since VOC calls them so.
          data_dir: where the dataset was prepared; None for the place where TFDS keeps its data.
          strict: refuse boxes of no size, when their image is read.
          options: see `ReadOptions`.

        Raises:
          ValueError: the dataset or the split does not exist, or is not for detection.
        """
        try:
            import tensorflow_datasets as tfds
            from tensorflow_datasets.core.read_only_builder import builder_from_files
        except ImportError:
            raise ValueError(f"{name}: TFDS must be installed: pip install ssd_jax[tfds]") from None

        self.name, self.split, self._strict, self._options = name, split, strict, options
        try:  # from files alone: the code of stock coco, which `tfds.builder` would run, needs TensorFlow
            builder: Any = builder_from_files(name, data_dir=data_dir and str(data_dir))
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise ValueError(f"{name}: must be prepared by TFDS; got: {_first_line(error)}") from None
        splits = builder.info.splits
        parts = ["train", "validation"] if split == "trainval" and split not in splits else [split]
        if not set(parts) <= set(splits):
            raise ValueError(f"{name}: a split must be one of {', '.join(splits)}; got {split!r}")
        features = builder.info.features
        if not {"image", "objects"} <= set(features):
            raise ValueError(f"{name}: features must include image and objects; got {', '.join(features)}")
        self.class_names = tuple(features["objects"].feature["label"].names)
        self.inclusive = name.split("/")[0] == "voc"  # its builder keeps the corners as they stand in the XML
        of_coco = {"image/id"} <= set(features) and {"area", "is_crowd"} <= set(features["objects"].feature)
        self._category_ids = self._ids_of_categories() if of_coco else None
        try:
            self._rows = builder.as_data_source("+".join(parts), decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise ValueError(f"{name}: must be stored as array_record; got: {_first_line(error)}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        row = self._rows[index]
        objects = row["objects"]
        corners = _corners(objects)  # [n, 4]
        n = len(corners)
        sides = np.asarray(corner_to_xywh(corners))[:, 2:]  # [n, 2]
        whole = (sides > 0).all(axis=1)  # [n]
        name = self._id(row, index)
        if self._strict and not whole.all():
            raise ValueError(f"{self.name}, {self.split}: with strict, boxes must have a size; got none in {name}")
        kept = whole & ~self._flags(objects, "is_crowd", n)
        return Example(
            name,
            row["image"],
            corners[kept],
            1 + np.array(objects["label"], np.int32).reshape(n)[kept],
            self._flags(objects, "is_difficult", n)[kept],
            file=name,
            errors=tuple(INVERTED if min(side) < 0 else NO_SIZE for side in sides[~whole].tolist()),
            options=self._options,
        )

    def truth(self) -> COCOTruth | None:
        """Give the ground truth in COCO's format, crowds included; None if the dataset lacks COCO's features.

        Reads the record of every image. The categories of COCO itself have COCO's ids, others are numbered from 1.
        """
        if self._category_ids is None:
            return None
        categories = zip(self._category_ids, self.class_names, strict=True)
        truth: COCOTruth = {
            "images": [],
            "categories": [{"id": number, "name": name} for number, name in categories],
            "annotations": [],
        }
        for row in self._rows:
            image_id, objects = int(row["image/id"]), row["objects"]
            height, width = decoded_size(row["image"], options=self._options)
            name = _text(row["image/filename"])
            truth["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
            boxes = np.asarray(corner_to_xywh(to_pixels(_corners(objects), (height, width))))  # [n, 4]
            columns = (objects[name] for name in ("label", "area", "is_crowd"))
            for bbox, label, area, crowd in zip(boxes.tolist(), *columns, strict=True):
                number, category_id = 1 + len(truth["annotations"]), self._category_ids[int(label)]
                area = area if area >= 0 else bbox[2] * bbox[3]  # below 0: not known
                truth["annotations"].append(annotation(number, image_id, category_id, bbox, area, crowd))
        return truth

    def _ids_of_categories(self) -> tuple[int, ...]:
        """Return COCO's own ids for COCO, else numbers from 1."""
        of_coco = self.name.split("/")[0] == "coco" and len(self.class_names) == len(COCO_IDS)
        return COCO_IDS if of_coco else tuple(range(1, 1 + len(self.class_names)))

    def _flags(self, objects: Mapping[str, Any], name: str, n: int) -> np.ndarray:
        return np.array(objects.get(name, np.zeros(n)), bool).reshape(n)

    def _id(self, row: Mapping[str, Any], index: int) -> str:
        return _text(row.get("image/filename", b"")) or f"{self.name}-{self.split}-{index}"


def _corners(objects: Mapping[str, Any]) -> np.ndarray:
    """Return the boxes of an image, float32 [n, 4]."""
    return np.asarray(yxyx_to_corner(np.array(objects["bbox"], np.float32).reshape(-1, 4)))


def _text(text: bytes | str) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
