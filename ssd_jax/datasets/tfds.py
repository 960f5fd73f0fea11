"""Data sets of TensorFlow Datasets, read without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.batching import Example
from ssd_jax.datasets.boxes import INVERTED, NO_SIZE


class TFDS:
    """A split of a detection set laid out as stock `voc` and `coco` are, prepared as array_record.

    Its features are "image" and "objects" with "bbox" and "label", and perhaps "is_difficult" and "is_crowd"; crowds
    are left out. `name` is as in `tfds.builder` ("voc/2007"); `data_dir` is where it was prepared, by default where
    TFDS keeps its data. Needs the extra `[tfds]`.

    Boxes of no size are left out; if `strict`, they are a `ValueError` when their picture is read. TFDS itself lets
    no box outside its picture in.
    """

    def __init__(self, name: str, split: str, *, data_dir: str | Path | None = None, strict: bool = False):
        try:
            import tensorflow_datasets as tfds
        except ImportError:
            raise ValueError("TFDS's data sets need its library: pip install ssd_jax[tfds]") from None

        self.name, self.split, self._strict = name, split, strict
        try:
            builder = tfds.builder(name, data_dir=data_dir and str(data_dir))
            splits = builder.info.splits
        except (tfds.core.DatasetNotFoundError, ValueError) as error:
            raise ValueError(f"{name}: TFDS cannot open it: {_first_line(error)}") from None
        if split not in splits:
            known = f"has {', '.join(splits)}" if splits else f"is not prepared in {builder.data_dir}"
            raise ValueError(f"{name}: no split {split!r}; the data set {known}")
        features = builder.info.features
        if not {"image", "objects"} <= set(features):
            raise ValueError(f"{name}: a detection set has the features image and objects; this one is another kind")
        self.class_names = tuple(features["objects"].feature["label"].names)
        self.inclusive = name.split("/")[0] == "voc"  # its builder keeps the corners as they stand in the XML
        try:
            self._rows = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
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

    def _flags(self, objects: dict[str, Any], name: str, n: int) -> np.ndarray:
        return np.array(objects.get(name, np.zeros(n)), bool).reshape(n)

    def _id(self, row: dict[str, Any], index: int) -> str:
        name = row.get("image/filename", b"")
        return (name.decode() if isinstance(name, bytes) else str(name)) or f"{self.name}-{self.split}-{index}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
