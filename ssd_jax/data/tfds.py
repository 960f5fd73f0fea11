"""Datasets of TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.data.box_table import INVERTED, NO_SIZE
from ssd_jax.data.classes import COCO_IDS
from ssd_jax.data.coco import annotation
from ssd_jax.data.example import Example
from ssd_jax.data.headers import read_header
from ssd_jax.data.image import decode


class TFDS:
    """A split of a detection set laid out as stock `voc` and `coco` are, prepared as array_record.

    Its features are "image" and "objects" with "bbox" and "label", and perhaps "is_difficult" and "is_crowd"; crowds
    are left out. `name` is as in `tfds.builder` ("voc/2007"); `data_dir` is where it was prepared, by default where
    TFDS keeps its data. The split "trainval" stands for "train" and "validation" together where a set has no split
    of that name: so VOC calls them. Needs the extra `[tfds]`.

    Boxes of no size are left out; if `strict`, they are a `ValueError` when their image is read. TFDS itself lets
    no box outside its image in.
    """

    def __init__(self, name: str, split: str, *, data_dir: str | Path | None = None, strict: bool = False):
        try:
            import tensorflow_datasets as tfds
            from tensorflow_datasets.core.read_only_builder import builder_from_files
        except ImportError:
            raise ValueError("TFDS's datasets need its library: pip install ssd_jax[tfds]") from None

        self.name, self.split, self._strict = name, split, strict
        try:  # from files alone: the code of stock coco, which `tfds.builder` would run, needs TensorFlow
            builder = builder_from_files(name, data_dir=data_dir and str(data_dir))
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise ValueError(f"{name}: TFDS finds no prepared data: {_first_line(error)}") from None
        splits = builder.info.splits
        parts = ["train", "validation"] if split == "trainval" and split not in splits else [split]
        if not set(parts) <= set(splits):
            raise ValueError(f"{name}: no split {split!r}; the dataset has {', '.join(splits)}")
        features = builder.info.features
        if not {"image", "objects"} <= set(features):
            raise ValueError(f"{name}: a detection set has the features image and objects; this one is another kind")
        self.class_names = tuple(features["objects"].feature["label"].names)
        self.inclusive = name.split("/")[0] == "voc"  # its builder keeps the corners as they stand in the XML
        of_coco = {"image/id"} <= set(features) and {"area", "is_crowd"} <= set(features["objects"].feature)
        self._category_ids = self._ids_of_categories() if of_coco else None
        try:
            self._rows = builder.as_data_source("+".join(parts), decoders={"image": tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise ValueError(f"{name}: TFDS cannot read it without TensorFlow: {_first_line(error)}") from None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        row = self._rows[index]
        objects = row["objects"]
        corners = np.array(objects["bbox"], np.float32).reshape(-1, 4)[:, [1, 0, 3, 2]]  # [n, 4] from y, x, y, x
        n = len(corners)
        sides = corners[:, 2:] - corners[:, :2]  # [n, 2]
        whole = (sides > 0).all(axis=1)  # [n]
        name = self._id(row, index)
        if self._strict and not whole.all():
            raise ValueError(f"{self.name}, {self.split}: strict data has no boxes of no size; got one in {name}")
        kept = whole & ~self._flags(objects, "is_crowd", n)
        return Example(
            name,
            row["image"],
            corners[kept],
            1 + np.array(objects["label"], np.int32).reshape(n)[kept],
            self._flags(objects, "is_difficult", n)[kept],
            file=name,
            dirt=tuple(INVERTED if min(side) < 0 else NO_SIZE for side in sides[~whole].tolist()),
        )

    def truth(self) -> dict[str, Any] | None:
        """The ground truth in COCO's format, crowds included, of a set with COCO's features; else None.

        Reads every image's record. See `coco_truth` and, of the ids, `COCO_IDS`.
        """
        if self._category_ids is None:
            return None
        images, annotations = [], []
        for row in self._rows:
            images.append({"id": int(row["image/id"]), "file_name": _text(row["image/filename"])})
            height, width = read_header(row["image"]).size or decode(row["image"]).shape[:2]
            objects = row["objects"]
            columns = (objects[name] for name in ("bbox", "label", "area", "is_crowd"))
            for (top, left, bottom, right), label, area, crowd in zip(*columns, strict=True):
                bbox = [left * width, top * height, (right - left) * width, (bottom - top) * height]
                category = self._category_ids[int(label)]
                annotations.append(
                    annotation(
                        1 + len(annotations), images[-1]["id"], category, [float(x) for x in bbox], float(area), crowd
                    )
                )
        categories = zip(self._category_ids, self.class_names, strict=True)
        return {
            "images": images,
            "categories": [{"id": number, "name": name} for number, name in categories],
            "annotations": annotations,
        }

    def _ids_of_categories(self) -> tuple[int, ...]:
        """COCO's own for COCO, else from 1."""
        of_coco = self.name.split("/")[0] == "coco" and len(self.class_names) == len(COCO_IDS)
        return COCO_IDS if of_coco else tuple(range(1, 1 + len(self.class_names)))

    def _flags(self, objects: dict[str, Any], name: str, n: int) -> np.ndarray:
        return np.array(objects.get(name, np.zeros(n)), bool).reshape(n)

    def _id(self, row: dict[str, Any], index: int) -> str:
        return _text(row.get("image/filename", b"")) or f"{self.name}-{self.split}-{index}"


def _text(text: bytes | str) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
