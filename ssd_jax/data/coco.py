"""A dataset described by one JSON file in COCO's format."""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_jax.box import coco_to_corner
from ssd_jax.data.box_table import BoxTable, some
from ssd_jax.data.combine import Joined, Subset, with_classes
from ssd_jax.data.example import Example, Source
from ssd_jax.data.folder import Folder, split_word
from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import DEFAULTS, ReadOptions, decoded_size, read
from ssd_jax.data.json_files import brief, finite, json_files, parse_json, whole
from ssd_jax.data.reading import Reading, files_text, is_unicode
from ssd_jax.metrics.coco import COCOAnnotation, COCOTruth

Row = Mapping[str, Any]  # an object of the JSON file, whose values can be of any type

KEYS = {
    "images": ("id", "file_name"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
OTHER_TASKS = re.compile("(person_keypoints|captions|panoptic|stuff)_")
LONGEST_SIDE = 1_000_000  # of an image, in pixels


class NoImagesError(ValueError):
    """An annotation file that has neither images nor annotations."""


class Image(NamedTuple):
    """An entry of "images"; a side of 0 is not known from the annotation file."""

    id: int | str
    file_name: str
    width: int
    height: int


class Category(NamedTuple):
    """An entry of "categories"."""

    id: int
    name: str


class COCOJson(Source):
    """The images of a COCO annotation file, in its order; their files are in the folder `images`.

    Category ids may have gaps: label k is the category with the k-th smallest id. Crowds (`iscrowd`) are not trained
    on; `truth` keeps them, and COCO's ids, for evaluation. `image_id` is the file name.

    Numbers may be written as text. A width or height that is missing or below 1 is read from the image; an area that
    is missing or below 0 is that of the box. For annotation errors see `BoxTable`.

    Attributes:
      class_names: the names of the categories; label k is `class_names[k - 1]`.
      used_class_names: the names of those categories that have an annotation.
      scored: whether all annotations have a score, as the results of a detector have.
    """

    inclusive = False

    def __init__(
        self,
        annotations: str | Path,
        images: str | Path,
        *,
        strict: bool = False,
        allow_outside: bool = False,
        options: ReadOptions = DEFAULTS,
        find: Callable[[str], str] | None = None,
        quiet: bool = False,
    ):
        """Read the annotation file, and check that every image is a file.

        Args:
          annotations: the JSON file.
          images: the folder that the file names are relative to.
          strict: refuse annotation errors, which are fixed or dropped with a warning otherwise.
          allow_outside: accept file names and links that lead out of the folder `images`.
          options: see `ReadOptions`.
          find: file name in the annotation file -> path of the image relative to the folder `images`; None: the same.
          quiet: do not warn; see `BoxTable`.

        Raises:
          FileNotFoundError: the file, the folder or an image does not exist.
          ValueError: the file breaks a rule of the format, or a file name leads out of the folder.
        """
        self.path, self.folder = Path(annotations).expanduser(), Path(images).expanduser()
        self._options = options
        data = _load(self.path, options.max_annotation_bytes)
        if not data["images"]:
            kind = ValueError if data["annotations"] else NoImagesError
            raise kind(f"{self.path}: images must be one or more; got none")
        self._images = self._parse_images(data["images"])
        self._categories = self._parse_categories(data["categories"])
        self.class_names = tuple(category.name for category in self._categories)
        self.files = [find(image.file_name) if find else image.file_name for image in self._images]
        self._check_files(allow_outside)
        self._sizes = self._read_sizes()  # [len, 2], (height, width)
        self._index(data["annotations"], strict, quiet)
        self.scored = bool(data["annotations"]) and all("score" in row for row in data["annotations"])
        self.used_class_names = tuple(self.class_names[k - 1] for k in np.unique(self._labels).tolist())

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Example:
        return dataclasses.replace(self.annotation(index), image=read(self.folder / self.files[index]))

    def annotation(self, index: int) -> Example:
        """Return an example without reading its image, which is b""."""
        index = range(len(self))[index]
        rows, image = self._table.rows(index), self._images[index]
        return Example(
            image.file_name,
            b"",
            self._table.boxes[rows],
            self._table.labels[rows],
            self._table.difficult[rows],
            file=self.files[index],
            size=(image.height, image.width) if image.height and image.width else None,
            errors=self._table.errors(index),
            options=self._options,
        )

    @property
    def owners(self) -> np.ndarray:
        """Index of the image of each box [N], crowds left out."""
        return self._owner[~self._crowd]

    def warn(self) -> None:
        """Log what was wrong with the boxes, if the file was read quietly."""
        self._table.warn()

    def truth(self) -> COCOTruth:
        """Give the ground truth in COCO's format: images in order, crowds among the boxes.

        Annotations are numbered anew, from 1: pycocotools takes an id of 0 for "not matched".
        """
        columns = zip(
            self._owner.tolist(),
            self._labels.tolist(),
            self._bbox.tolist(),
            self._area.tolist(),
            self._crowd.tolist(),
            strict=True,
        )
        return {
            "images": [
                {"id": image.id, "file_name": image.file_name, "width": width, "height": height}
                for image, (height, width) in zip(self._images, self._sizes.tolist(), strict=True)
            ],
            "categories": [{"id": category.id, "name": category.name} for category in self._categories],
            "annotations": [
                annotation(number, self._images[owner].id, self._categories[label - 1].id, bbox, area, crowd)
                for number, (owner, label, bbox, area, crowd) in enumerate(columns, start=1)
            ],
        }

    def _parse_images(self, rows: list[Row]) -> list[Image]:
        images = []
        self._numbered = all(whole(row["id"]) is not None for row in rows)
        for row in rows:
            if (number := read_id(row["id"], numbered=self._numbered)) is None:
                self._refuse("the id of an image must be a whole number or text", row["id"])
            name = self._line_of_text(row["file_name"], "file_name")
            sides = (self._side(row, side) for side in ("width", "height"))
            images.append(Image(number, name, *sides))
        self._check_different("ids of images", [image.id for image in images])
        return images

    def _parse_categories(self, rows: list[Row]) -> list[Category]:
        categories = []
        for row in rows:
            if (number := whole(row["id"])) is None:
                self._refuse("the id of a category must be a whole number", row["id"])
            categories.append(Category(number, self._line_of_text(row["name"], "the name of a category")))
        if not categories:
            raise ValueError(f"{self.path}: categories must be one or more; got none")
        self._check_different("ids of categories", [category.id for category in categories])
        self._check_different("names of categories", [category.name for category in categories])
        return sorted(categories)

    def _line_of_text(self, value: object, name: str) -> str:
        if not isinstance(value, str) or value.splitlines() != [value] or "\0" in value or not is_unicode(value):
            self._refuse(f"{name} must be one line of text", value)
        return value

    def _side(self, row: Row, name: str) -> int:
        """Return a side in pixels; 0 if the row does not give it."""
        value = row.get(name)
        if value is None:
            return 0
        number = whole(value)
        if number is None or number > LONGEST_SIDE:
            self._refuse(f"{row['file_name']}: {name} must be a whole number up to {LONGEST_SIDE:,}", value)
        return max(0, number)

    def _check_different(self, name: str, values: list[int | str]):
        if len(set(values)) < len(values):
            seen: set[int | str] = set()
            self._refuse(f"{name} must differ", next(v for v in values if v in seen or seen.add(v)), " twice")

    def _refuse(self, rule: str, value: object, more: str = ""):
        raise ValueError(f"{self.path}: {rule}; got {brief(value)}{more}")

    def _check_files(self, allow_outside: bool):
        """Check that every image is there and below the folder. A folder of images is listed only once."""
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{self.folder}: no such folder")
        listed: dict[str, tuple[bool, dict[str, bool]]] = {}
        missing, outside = [], []
        for file in self.files:
            parent, name = os.path.split(file)
            if parent not in listed:
                listed[parent] = _files_inside(self.folder, parent)
            folder_inside, files = listed[parent]
            if not files.get(name, folder_inside):
                outside.append(file)
            if name not in files:
                missing.append(file)
        if outside and not allow_outside:
            raise ValueError(
                f"{self.path}: every file_name must lead to a file below {self.folder}, unless allow_outside; "
                f"got {len(outside)} outside: {some(outside)}"
            )
        if missing:
            raise FileNotFoundError(
                f"{self.path}: every file_name must be a file in {self.folder}; {len(missing)} are not: "
                f"{some(missing)}"
            )

    def _read_sizes(self) -> np.ndarray:
        """[len, 2], (height, width): from the annotation file, else from the images themselves."""
        pairs = zip(self._images, self.files, strict=True)
        return np.array([self._size(image, file) for image, file in pairs], np.int64)

    def _size(self, image: Image, file: str) -> tuple[int, int]:
        if image.width and image.height:
            return image.height, image.width
        try:
            return decoded_size(read(self.folder / file), options=self._options)
        except UnreadableImage as error:
            raise ValueError(
                f"{self.path}: {image.file_name} must have a width and a height, or a readable file; got neither: "
                f"{error}"
            ) from None

    def _index(self, rows: list[Row], strict: bool, quiet: bool):
        """Put the annotations into arrays, those of one image together."""
        places: dict[object, int] = {image.id: i for i, image in enumerate(self._images)}
        labels: dict[object, int] = {category.id: k for k, category in enumerate(self._categories, start=1)}
        numbers = [
            (
                places.get(read_id(row["image_id"], numbered=self._numbered), -1),
                labels.get(whole(row["category_id"]), 0),
            )
            for row in rows
        ]
        for (place, label), row in zip(numbers, rows, strict=True):
            if place < 0 or label == 0:
                raise ValueError(
                    f"{self.path}: image_id and category_id of an annotation must be ids of the file; got "
                    f"{brief(row['image_id'])} and {brief(row['category_id'])} in annotation {brief(row.get('id'))}"
                )
        owner, label = np.array(numbers, np.int64).reshape(-1, 2).T  # [N], [N]
        order = np.argsort(owner, kind="stable")  # [N]
        rows = [rows[i] for i in order.tolist()]
        self._owner, self._labels = owner[order], label[order].astype(np.int32)
        self._bbox = self._numbers(rows, "bbox", "four finite numbers, x, y, width, height", (4,))  # [N, 4]
        self._crowd = np.array([self._is_crowd(row) for row in rows], bool)  # [N]
        area = self._numbers(rows, "area", "a finite number", (), missing=-1.0)  # [N]
        self._area = np.where(area < 0, np.prod(self._bbox[:, 2:], axis=1), area)  # [N]

        single = ~self._crowd
        self._table = BoxTable(
            self._owner[single],
            np.asarray(coco_to_corner(self._bbox, self._sizes[self._owner].T))[single],
            self._labels[single],
            np.zeros(single.sum(), bool),
            names=[image.file_name for image in self._images],
            where=str(self.path),
            strict=strict,
            quiet=quiet,
        )

    def _numbers(
        self, rows: list[Row], name: str, rule: str, shape: tuple[int, ...], *, missing: float | None = None
    ) -> np.ndarray:
        """Return field `name` of all rows, [N, *shape]; `missing` stands for one that is null or not there."""
        values = [missing if row.get(name) is None else row[name] for row in rows]
        numbers = finite(values, (len(rows), *shape))
        if numbers is None:
            wrong = next(row for row, value in zip(rows, values, strict=True) if finite(value, shape) is None)
            raise ValueError(
                f"{self.path}: {name} must be {rule}; got {brief(wrong[name])} in annotation {brief(wrong.get('id'))}"
            )
        return numbers

    def _is_crowd(self, row: Row) -> bool:
        value = row.get("iscrowd", 0)
        if value is None or value in (0, 1):
            return bool(value)
        number = whole(value)
        if number not in (0, 1):
            raise ValueError(
                f"{self.path}: iscrowd must be 0 or 1; got {brief(value)} in annotation {brief(row.get('id'))}"
            )
        return bool(number)


def annotation(
    number: int, image_id: int | str, category_id: int, bbox: list[float], area: float, crowd: bool
) -> COCOAnnotation:
    """Make one annotation of COCO's ground truth, with the fields that evaluation needs."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "bbox": bbox,
        "area": float(area),
        "iscrowd": int(crowd),
    }


def open_coco(
    root: str | Path,
    split: str,
    *,
    strict: bool = False,
    allow_outside: bool = False,
    options: ReadOptions = DEFAULTS,
) -> COCOJson:
    """Open a split below the folder `root`.

    Args:
      root: a folder.
      split: "train2017" for COCO's own layout, `annotations/instances_train2017.json` and `train2017/`;
        "FILE.json:FOLDER" for any other, both below `root`.
      strict: see `COCOJson`.
      allow_outside: see `COCOJson`.
      options: see `ReadOptions`.
    """
    root = Path(root).expanduser()
    file, _, folder = split.partition(":")
    if not folder:
        file, folder = f"annotations/instances_{split}.json", split
    return COCOJson(root / file, root / folder, strict=strict, allow_outside=allow_outside, options=options)


def read_coco(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all annotation files of COCO's format below a folder, wherever they and their images are.

    A file's split is the word of its name, or else of its folder: `instances_train2017.json` is of "train", and also
    of "train2017". An image may be in several files if they say the same of it. A file with scores, whose images
    are all in files without scores, has the results of a detector, and is left out.

    Raises:
      ValueError: a file breaks a rule of the format, or two files say different things of an image.
      FileNotFoundError: an image does not exist.
    """
    paths = _without_other_tasks(json_files(folder, "coco", options))
    if not paths:
        return None
    found = {path: _open_in(folder, path, strict, allow_outside, options) for path in paths}
    splits: dict[str, list[int]] = {name: [] for path, file in found.items() if not file for name in _splits_of(path)}
    labelled = {image for file in found.values() if file and not file.scored for image in file.files}
    results = [path for path, file in found.items() if file and file.scored and labelled.issuperset(file.files)]
    found = {path: file for path, file in found.items() if path not in results}
    paths, files = [path for path, file in found.items() if file], [file for file in found.values() if file]
    if not files:
        raise ValueError(f"{folder.path(next(iter(found)))}: images must be one or more; got none")
    class_names = tuple(dict.fromkeys(name for file in files for name in file.class_names))
    notes = [f"{path} left out, whose boxes have scores" for path in results]
    if empty := _supercategory(paths, files):
        class_names = tuple(name for name in class_names if name != empty)
        notes.append(f"without Roboflow's empty class {empty}")

    places: dict[str, int] = {}  # image -> its index
    owners: list[tuple[int, int]] = []  # of each image: which file, which of its images
    for k, (path, file) in enumerate(zip(paths, files, strict=True)):
        names = _splits_of(path)
        for i, image in enumerate(file.files):
            if image not in places:
                places[image] = len(owners)
                owners.append((k, i))
            else:
                _check_same(files, owners[places[image]], (k, i))
            for name in names:
                splits.setdefault(name, []).append(places[image])

    def open_images(indices: Sequence[int], names: Sequence[str], *, drop_other_classes: bool, quiet: bool) -> Source:
        used = sorted({owners[i][0] for i in indices})
        starts = dict(zip(used, np.cumsum([0, *(len(files[k]) for k in used)]).tolist(), strict=False))
        if not quiet:
            for k in used:
                files[k].warn()
        source = Joined([with_classes(files[k], tuple(names), drop_other_classes) for k in used])
        chosen = [starts[owners[i][0]] + owners[i][1] for i in indices]
        only = source.sources[0] if len(used) == 1 else source
        return only if chosen == list(range(len(only))) else Subset(only, chosen)

    counts = [np.bincount(file.owners, minlength=len(file)).tolist() for file in files]
    return Reading(
        kind="coco",
        title="COCO JSON",
        where=files_text(list(found)),
        class_names=class_names,
        images=list(places),
        boxes=[counts[k][i] for k, i in owners],
        splits=splits,
        open=open_images,
        notes=notes,
    )


def _without_other_tasks(paths: list[str]) -> list[str]:
    """Leave out the files of COCO's other tasks, where those of detection are beside them."""
    folders = {os.path.dirname(path) for path in paths if Path(path).name.startswith("instances_")}
    return [path for path in paths if os.path.dirname(path) not in folders or not OTHER_TASKS.match(Path(path).name)]


def _splits_of(path: str) -> set[str]:
    """Return the splits that the name of an annotation file names; a name without a word, as "all", names none."""
    names = {split_word(path, stem=True), Path(path).stem.removeprefix("instances_")}
    return {name for name in names if split_word(name, stem=True)}


def _open_in(folder: Folder, path: str, strict: bool, allow_outside: bool, options: ReadOptions) -> COCOJson | None:
    """Open an annotation file whose images are anywhere below the folder; None if it has no images."""

    def find(name: str) -> str:
        return folder.find_image(name, near=path, split=split_word(path, stem=True)) or name

    how = {"strict": strict, "allow_outside": allow_outside, "options": options, "quiet": True}
    try:
        return COCOJson(folder.path(path), folder.root, find=find, **how)
    except NoImagesError:
        return None


def _supercategory(paths: list[str], files: list[COCOJson]) -> str:
    """Return the class that Roboflow adds to its COCO files, the first one, which never has an object; "" if none."""
    first = {file.class_names[0] for file in files}
    used = {name for file in files for name in file.used_class_names}
    is_roboflow = all(path.endswith("_annotations.coco.json") for path in paths)
    return first.pop() if is_roboflow and len(first) == 1 and not first & used and used else ""


def _check_same(files: list[COCOJson], first: tuple[int, int], second: tuple[int, int]) -> None:
    a, b = (files[k].annotation(i) for k, i in (first, second))
    names = [
        sorted((files[k].class_names[label - 1], *box) for label, box in zip(e.labels, e.boxes.tolist(), strict=True))
        for (k, _), e in ((first, a), (second, b))
    ]
    if names[0] != names[1]:
        raise ValueError(
            f"{files[second[0]].path}: an image that is in several files must have the same objects in each; got "
            f"{b.file}, which {files[first[0]].path} has with others"
        )


def _load(path: Path, most_bytes: int) -> dict[str, list[Row]]:
    """Read the lists of the file that we need, without the outlines, which are most of it."""
    data = parse_json(path, most_bytes)
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in KEYS):
        got = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{path}: must be an object with the lists {', '.join(KEYS)}; got {brief(got)}")
    for part, keys in KEYS.items():
        for row in data[part]:
            if not isinstance(row, dict):
                raise ValueError(f"{path}: every entry of {part} must be an object; got {brief(row)}")
            if lacking := [key for key in keys if key not in row]:
                raise ValueError(
                    f"{path}: every entry of {part} must have {', '.join(keys)}; got one without {', '.join(lacking)}"
                )
            row.pop("segmentation", None)
    return {part: data[part] for part in KEYS}


def _files_inside(root: Path, folder: str) -> tuple[bool, dict[str, bool]]:
    """Tell whether `folder`, a path relative to `root`, lies below `root`, and the same of each of its entries.

    Links are followed. The files of a folder that does not exist are {}.
    """
    real_root, real_folder = os.path.realpath(root), os.path.realpath(root / folder)

    def inside(path: str) -> bool:
        return os.path.commonpath([real_root, path]) == real_root

    folder_inside = inside(real_folder)
    if not os.path.isdir(real_folder):
        return folder_inside, {}
    with os.scandir(real_folder) as entries:
        files = {e.name: inside(os.path.realpath(e.path)) if e.is_symlink() else folder_inside for e in entries}
    return folder_inside, files


def read_id(value: object, *, numbered: bool) -> int | str | None:
    """Read the id of an image; None for what is none.

    In a file all ids are numbers (`numbered`), or all are text: pycocotools sorts them.
    """
    number = whole(value)
    if numbered:
        return number
    if isinstance(value, str):
        return value or None
    return None if number is None else str(number)
