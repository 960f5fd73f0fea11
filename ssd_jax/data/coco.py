"""A dataset described by one JSON file in COCO's format."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.data.box_table import BoxTable, some
from ssd_jax.data.example import Example
from ssd_jax.data.image import UnreadableImage, decode, read


class COCOJson:
    """The images of a COCO annotation file, in its order; their files are in the folder `images`.

    Category ids may have gaps: label k is the k-th category by rising id. Crowds (`iscrowd`) are not trained on;
    `truth()` keeps them, and COCO's ids, for evaluation. Corners are [x, y, x + w, y + h] by the file's width and
    height; where it lacks them they are read from the image. `image_id` is the file name.

    Dirty boxes: see `BoxTable`. `FileNotFoundError` for missing files and `ValueError` for a wrong annotation say
    in one line what rule was broken and by what.
    """

    inclusive = False

    def __init__(self, annotations: str | Path, images: str | Path, *, strict: bool = False):
        self.path, self.folder = Path(annotations).expanduser(), Path(images).expanduser()
        data = _load(self.path)
        self._images = data["images"]
        self._categories = sorted(data["categories"], key=lambda category: category["id"])
        self.class_names = tuple(category["name"] for category in self._categories)
        if not self.class_names or len(set(self.class_names)) < len(self.class_names):
            raise ValueError(f"{self.path}: categories have different names; got {list(self.class_names)}")
        self._check_images()
        self._index(data["annotations"], strict)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        rows, image = self._table.rows(index), self._images[index]
        return Example(
            image["file_name"],
            read(self.folder / image["file_name"]),
            self._table.boxes[rows],
            self._table.labels[rows],
            self._table.difficult[rows],
            file=image["file_name"],
            size=(image["height"], image["width"]) if image.get("width") and image.get("height") else None,
            dirt=self._table.dirt(index),
        )

    def truth(self) -> dict[str, Any]:
        """The ground truth in COCO's format, as `COCOMetric` takes it: images in order, crowds among the boxes.

        Annotations are numbered anew, from 1: pycocotools takes an id of 0 for "not matched".
        """
        columns = zip(self._owner, self._labels, self._bbox, self._area, self._crowd, strict=True)
        return {
            "images": self._images,
            "categories": self._categories,
            "annotations": [
                annotation(
                    number, self._images[owner]["id"], self._categories[label - 1]["id"], bbox.tolist(), area, crowd
                )
                for number, (owner, label, bbox, area, crowd) in enumerate(columns, start=1)
            ],
        }

    def _check_images(self):
        if not self._images:
            raise ValueError(f"{self.path}: a dataset has at least one image; this file has none")
        if len({image["id"] for image in self._images}) < len(self._images):
            raise ValueError(f"{self.path}: the ids of images are different; two are the same")
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder")
        there: dict[str, set[str]] = {}
        missing = []
        for image in self._images:
            parent, name = os.path.split(image["file_name"])
            if parent not in there:
                there[parent] = set(os.listdir(self.folder / parent)) if (self.folder / parent).is_dir() else set()
            if name not in there[parent]:
                missing.append(image["file_name"])
        if missing:
            raise FileNotFoundError(
                f"{self.path}: every image is a file in {self.folder}; {len(missing)} are not: {some(missing)}"
            )

    def _index(self, annotations: list[dict], strict: bool):
        """Annotations in arrays, those of one image together."""
        place = {image["id"]: i for i, image in enumerate(self._images)}
        label = {category["id"]: k for k, category in enumerate(self._categories, start=1)}
        for row in annotations:
            if row["image_id"] not in place or row["category_id"] not in label:
                raise ValueError(
                    f"{self.path}: an annotation's image and category are in the file; annotation {row.get('id')} "
                    f"has image {row['image_id']} and category {row['category_id']}"
                )
        annotations = sorted(annotations, key=lambda row: place[row["image_id"]])
        self._owner = np.array([place[row["image_id"]] for row in annotations], np.int64)  # [N]
        self._labels = np.array([label[row["category_id"]] for row in annotations], np.int32)  # [N]
        self._bbox = self._numbers(annotations)  # [N, 4]
        self._crowd = np.array([bool(row.get("iscrowd", 0)) for row in annotations], bool)  # [N]
        areas = zip(annotations, np.prod(self._bbox[:, 2:], axis=1).tolist(), strict=True)
        self._area = np.array([row.get("area", area) for row, area in areas], np.float64)  # [N]

        sides = np.array([self._sides(image) * 2 for image in self._images], np.float64)  # [len, 4]
        corners = np.concatenate([self._bbox[:, :2], self._bbox[:, :2] + self._bbox[:, 2:]], axis=1)  # [N, 4]
        single = ~self._crowd
        self._table = BoxTable(
            self._owner[single],
            (corners / sides[self._owner])[single],
            self._labels[single],
            np.zeros(single.sum(), bool),
            names=[image["file_name"] for image in self._images],
            where=str(self.path),
            strict=strict,
        )

    def _numbers(self, annotations: list[dict]) -> np.ndarray:
        try:
            bbox = np.array([row["bbox"] for row in annotations], np.float64)
        except (ValueError, TypeError):
            bbox = np.zeros(0)
        wanted = (len(annotations), 4)
        if annotations and (bbox.shape != wanted or not np.isfinite(bbox).all()):
            wrong = next(row for row in annotations if not _is_box(row["bbox"]))
            raise ValueError(
                f"{self.path}: a bbox is four finite numbers, x, y, width, height; annotation {wrong.get('id')} has "
                f"{wrong['bbox']}"
            )
        return bbox.reshape(wanted)

    def _sides(self, image: dict) -> tuple[int, int]:
        """(width, height)."""
        if image.get("width") and image.get("height"):
            return image["width"], image["height"]
        try:
            height, width, _ = decode(read(self.folder / image["file_name"])).shape
        except UnreadableImage as error:
            raise ValueError(
                f"{self.path}: {image['file_name']} has neither width nor height, and its file: {error}"
            ) from None
        return width, height


def annotation(
    number: int, image_id: int, category_id: int, bbox: list[float], area: float, crowd: bool
) -> dict[str, Any]:
    """One of COCO's annotations, of those parts that evaluation needs."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": float(area),
        "iscrowd": int(crowd),
    }


def open_coco(root: str | Path, split: str, *, strict: bool = False) -> COCOJson:
    """Open a split below `root`.

    "train2017" stands for COCO's own layout, `annotations/instances_train2017.json` and `train2017/`; any other is
    written "FILE.json:FOLDER".
    """
    root = Path(root).expanduser()
    file, _, folder = split.partition(":")
    if folder:
        return COCOJson(root / file, root / folder, strict=strict)
    return COCOJson(root / "annotations" / f"instances_{split}.json", root / split, strict=strict)


KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def _load(path: Path) -> dict[str, list[dict]]:
    """The parts of the file that we need, without the outlines, which are most of it."""
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: not well-formed JSON: {error}") from None
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in KEYS):
        raise ValueError(f"{path}: COCO's format is an object with the lists {', '.join(KEYS)}")
    for part, keys in KEYS.items():
        for row in data[part]:
            lacking = [key for key in keys if key not in row]
            if lacking:
                raise ValueError(f"{path}: every one of {part} has {', '.join(keys)}; one lacks {', '.join(lacking)}")
            row.pop("segmentation", None)
    return data


def _is_box(bbox: Any) -> bool:
    try:
        return np.shape(bbox) == (4,) and bool(np.isfinite(np.array(bbox, np.float64)).all())
    except (ValueError, TypeError):
        return False
