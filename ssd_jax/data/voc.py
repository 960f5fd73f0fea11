"""A folder laid out as PASCAL VOC: `Annotations/*.xml`, `JPEGImages/*.jpg`, `ImageSets/Main/<split>.txt`."""

import logging
import math
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_jax.data.box_table import BoxTable, some
from ssd_jax.data.combine import check_class_names
from ssd_jax.data.example import Example, Source
from ssd_jax.data.formats import EXTENSIONS, UnreadableImage
from ssd_jax.data.image import DEFAULTS, ReadOptions, decoded_size, read

logger = logging.getLogger("ssd_jax")


class Object(NamedTuple):
    """One `<object>`: its class, its corners in pixels as they stand in the file, its difficult flag."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class Annotation(NamedTuple):
    """One XML file; a side of 0 stands for one that the file does not tell."""

    width: int
    height: int
    objects: list[Object]


class VOCFolder(Source):
    """The images of one split, or of several joined by "+" ("train+val"), in the order of the split's file.

    Corners become fractions as in Caffe (`ReadXMLToAnnotatedDatum`): xml / width, without subtracting VOC's
    1-pixel origin. Where the XML lacks width or height, or says 0, they are read from the image.

    `class_names` are those given, or else all that occur in the folder's annotations, sorted, so that every
    split of a folder numbers them alike. An object of a class that is not given is an error, or left out if
    `drop_other_classes`. All XML is parsed here, an image's bytes are read when asked for.

    Dirty boxes: see `BoxTable`. `FileNotFoundError` for a missing folder, split, annotation or image and
    `ValueError` for a wrong annotation say in one line which file and what rule.
    """

    inclusive = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        class_names: Sequence[str] | None = None,
        drop_other_classes: bool = False,
        strict: bool = False,
        options: ReadOptions = DEFAULTS,
    ):
        self.root, self.split, self._options = Path(root).expanduser(), split, options
        _check_layout(self.root)
        self.image_ids = _split_ids(self.root, split)
        images = _images(self.root)
        self._paths = [_image_of(self.root, image_id, split, images) for image_id in self.image_ids]

        folder = self.root / "Annotations"
        if class_names is None:
            parsed = {path.stem: parse(path) for path in sorted(folder.glob("[!.]*.xml"))}
            annotations = [parsed[image_id] for image_id in self.image_ids]
            self.class_names = tuple(sorted({o.name for a in parsed.values() for o in a.objects}))
            if not self.class_names:
                raise ValueError(f"{folder}: classes are found in annotations, but none has an object")
        else:
            annotations = [parse(folder / f"{image_id}.xml") for image_id in self.image_ids]
            self.class_names = tuple(class_names)
            check_class_names(self.class_names)
            if drop_other_classes:
                annotations = [self._own(annotation) for annotation in annotations]
            _check_classes(self.class_names, zip(self.image_ids, annotations, strict=True), folder)
        self._declared = [(a.height, a.width) if a.width > 0 and a.height > 0 else None for a in annotations]
        self._table = self._number_boxes(annotations, strict)

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        rows = self._table.rows(index)
        return Example(
            self.image_ids[index],
            read(self._paths[index]),
            self._table.boxes[rows],
            self._table.labels[rows],
            self._table.difficult[rows],
            file=self._paths[index].name,
            size=self._declared[index],
            dirt=self._table.dirt(index),
            options=self._options,
        )

    def _own(self, annotation: Annotation) -> Annotation:
        """Only the objects of our classes."""
        return annotation._replace(objects=[o for o in annotation.objects if o.name in self.class_names])

    def _number_boxes(self, annotations: list[Annotation], strict: bool) -> BoxTable:
        label = {name: k for k, name in enumerate(self.class_names, start=1)}
        owner = np.repeat(np.arange(len(self)), [len(a.objects) for a in annotations])  # [N]
        objects = [o for a in annotations for o in a.objects]
        sizes = [self._size(a, path) for a, path in zip(annotations, self._paths, strict=True)]
        sides = np.tile(np.array(sizes, np.float64), 2)  # [len, 4]
        return BoxTable(
            owner,
            np.array([o.corners for o in objects], np.float64).reshape(-1, 4) / sides[owner],
            np.array([label[o.name] for o in objects], np.int32),
            np.array([o.difficult for o in objects], bool),
            names=self.image_ids,
            where=f"{self.root}, split {self.split}",
            strict=strict,
        )

    def _size(self, annotation: Annotation, image: Path) -> tuple[int, int]:
        """Return (width, height): of the annotation, else of the image."""
        if annotation.width > 0 and annotation.height > 0:
            return annotation.width, annotation.height
        try:
            height, width = decoded_size(read(image), options=self._options)
        except UnreadableImage as error:
            raise ValueError(f"{image}: its XML lacks the image's size, and {error}") from None
        return width, height


def parse(path: Path) -> Annotation:
    """One XML file of a VOC folder."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two for a declared encoding
        raise ValueError(f"{path}: the file must be well-formed XML; got {error}") from None
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    width, height = (int(_number(root, f"size/{side}", path, default=0)) for side in ("width", "height"))
    return Annotation(width, height, [_parse_object(element, path) for element in root.iterfind("object")])


def _parse_object(element: ElementTree.Element, path: Path) -> Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError(f"{path}: every <object> has a <name>; one has none")
    corners = tuple(_number(element, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax"))
    return Object(name, corners, bool(_number(element, "difficult", path, default=0)))


def _number(element: ElementTree.Element, tag: str, path: Path, *, default: float | None = None) -> float:
    text = element.findtext(tag, "").strip()
    if not text and default is not None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}: <{tag}> is a finite number; got {text!r}")
    return number


def _check_layout(root: Path):
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    missing = [name for name in ("Annotations", "JPEGImages", "ImageSets/Main") if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root}: a VOC folder holds Annotations, JPEGImages and ImageSets/Main; "
            f"this one lacks {' and '.join(missing)}"
        )


def _split_ids(root: Path, split: str) -> list[str]:
    ids = [image_id for part in split.split("+") for image_id in _read_split(root, part.strip())]
    unique = list(dict.fromkeys(ids))
    if len(unique) < len(ids):
        twice = [image_id for image_id, times in Counter(ids).items() if times > 1]
        logger.warning("%s, split %s: images listed more than once are taken once: %s", root, split, some(twice))
    return unique


def _read_split(root: Path, split: str) -> list[str]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.is_file():
        found = sorted(p.stem for p in folder.glob("*.txt"))
        raise FileNotFoundError(f"{path}: no such split; found {some(found) if found else 'none'}")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise ValueError(f"{path}: a split lists at least one image; this file is empty")
    return ids


def _images(root: Path) -> dict[str, Path]:
    """Stem -> image; of one stem with several extensions the first in `EXTENSIONS`' order."""
    found = [path for path in (root / "JPEGImages").iterdir() if path.suffix.lower() in EXTENSIONS]
    return {p.stem: p for p in sorted(found, key=lambda p: EXTENSIONS.index(p.suffix.lower()), reverse=True)}


def _image_of(root: Path, image_id: str, split: str, images: dict[str, Path]) -> Path:
    annotation = root / "Annotations" / f"{image_id}.xml"
    if image_id in images and annotation.is_file():
        return images[image_id]
    if image_id in images:
        raise FileNotFoundError(f"{images[image_id]}: an image has an annotation; there is no {annotation}")
    if annotation.is_file():
        raise FileNotFoundError(
            f"{annotation}: an annotation has an image; there is no {image_id}{'/'.join(EXTENSIONS)} in "
            f"{root / 'JPEGImages'}"
        )
    raise FileNotFoundError(f"{root}: split {split} lists {image_id!r}, which has neither annotation nor image")


def _check_classes(class_names: tuple[str, ...], annotations: Iterable[tuple[str, Annotation]], folder: Path):
    for image_id, annotation in annotations:
        for o in annotation.objects:
            if o.name not in class_names:
                raise ValueError(
                    f"{folder / image_id}.xml: every object's class is one of {', '.join(class_names)}, unless "
                    f"drop_other_classes; got {o.name!r}"
                )
