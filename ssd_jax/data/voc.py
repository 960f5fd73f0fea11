"""A folder laid out as PASCAL VOC: `Annotations/*.xml`, `JPEGImages/*.jpg`, `ImageSets/Main/<split>.txt`."""

import codecs
import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_jax.data.box_table import BoxTable, some
from ssd_jax.data.combine import check_class_names
from ssd_jax.data.example import Example, Source
from ssd_jax.data.formats import EXTENSIONS, UnreadableImage
from ssd_jax.data.image import DEFAULTS, ReadOptions, decoded_size, read
from ssd_jax.files import read_bytes

logger = logging.getLogger("ssd_jax")

# What is written under names of encodings that Python does not know, or takes for smaller ones. Every text is cp1252.
ENCODINGS = {"gb2312": ("gb18030", "utf-8"), "gbk": ("gb18030", "utf-8"), "ansi": ("utf-8", "cp1252")}
INCORRECT_ENCODING = 19  # expat's error for UTF-8 that is declared as UTF-16, as some .NET programs write it


class Object(NamedTuple):
    """One `<object>`: its class, its corners in pixels as the file gives them, its difficult flag."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool


class Annotation(NamedTuple):
    """One XML file; a side below 1 is not known from the file."""

    width: int
    height: int
    objects: list[Object]


class VOCFolder(Source):
    """The images of one split, or of several joined by "+" ("train+val"), in the order of the split's file.

    Corners become fractions as in Caffe (`ReadXMLToAnnotatedDatum`): xml / width, without subtracting VOC's
    1-pixel origin. A width or height that the XML lacks, or that is below 1, is read from the image.

    A line of a split's file is a file name without its extension. It may be followed by VOC's flag for a class, as in
    `dog_train.txt`: 1 and 0 (difficult) list the image, -1 does not.

    All XML is parsed when the folder is opened. An image is read when it is asked for. For annotation errors see
    `BoxTable`.
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
        """Parse the annotations of a split, and check that every image is a file.

        Args:
          root: the folder.
          split: names of files in `ImageSets/Main`, without ".txt", joined by "+".
          class_names: the classes in the order of their labels; None takes the sorted names of all annotations in
            the folder, so that all its splits have the same labels.
          drop_other_classes: drop objects of classes that are not in `class_names`, which are an error otherwise.
          strict: refuse annotation errors, which are fixed or dropped with a warning otherwise.
          options: see `ReadOptions`.

        Raises:
          FileNotFoundError: the folder, the split, an annotation or an image does not exist.
          ValueError: a file breaks a rule of the format.
        """
        self.root, self.split, self._options = Path(root).expanduser(), split, options
        _check_layout(self.root)
        images = _images(self.root)
        self.image_ids = _split_ids(self.root, split, images, options)
        self._paths = [_image_of(self.root, image_id, split, images) for image_id in self.image_ids]

        folder = self.root / "Annotations"
        # A file that begins with a dot is none of the dataset, unless the split lists it.
        found = [] if class_names is not None else [path.stem for path in sorted(folder.glob("[!.]*.xml"))]
        parsed = {name: parse(folder / f"{name}.xml", options) for name in dict.fromkeys([*found, *self.image_ids])}
        annotations = [parsed[image_id] for image_id in self.image_ids]
        if class_names is None:
            self.class_names = tuple(sorted({o.name for a in parsed.values() for o in a.objects}))
            if not self.class_names:
                raise ValueError(f"{folder}: the annotations must have an object, to find the classes; got none")
        else:
            self.class_names = tuple(class_names)
            check_class_names(self.class_names)
            if drop_other_classes:
                annotations = [self._without_other_classes(annotation) for annotation in annotations]
            self._check_classes(annotations)
        self._declared = [(a.height, a.width) if a.width > 0 and a.height > 0 else None for a in annotations]
        self._check_pixels(annotations, strict)
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
            errors=self._table.errors(index),
            options=self._options,
        )

    def _without_other_classes(self, annotation: Annotation) -> Annotation:
        return annotation._replace(objects=[o for o in annotation.objects if o.name in self.class_names])

    def _check_classes(self, annotations: list[Annotation]) -> None:
        for image_id, annotation in zip(self.image_ids, annotations, strict=True):
            for o in annotation.objects:
                if o.name not in self.class_names:
                    raise ValueError(
                        f"{self.root / 'Annotations' / image_id}.xml: the class of every object must be one of "
                        f"{', '.join(self.class_names)}, unless drop_other_classes; got {o.name!r}"
                    )

    def _check_pixels(self, annotations: list[Annotation], strict: bool) -> None:
        """Warn of corners that look like fractions: VOC's are pixels."""
        names = [
            image_id
            for image_id, annotation in zip(self.image_ids, annotations, strict=True)
            for o in annotation.objects
            if all(0 <= corner <= 1 for corner in o.corners)
        ]
        if names:
            message = (
                f"{self._where()}: corners must be pixels, which those of {len(names)} boxes are not if they are "
                f"fractions: all are within 0..1, in {some(list(dict.fromkeys(names)))}"
            )
            if strict:
                raise ValueError(message)
            logger.warning(message)

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
            where=self._where(),
            strict=strict,
        )

    def _size(self, annotation: Annotation, image: Path) -> tuple[int, int]:
        """Return (width, height): of the annotation, else of the image."""
        if annotation.width > 0 and annotation.height > 0:
            return annotation.width, annotation.height
        try:
            height, width = decoded_size(read(image), options=self._options)
        except UnreadableImage as error:
            raise ValueError(f"{image}: must be readable, since its XML has no size; got {error}") from None
        return width, height

    def _where(self) -> str:
        return f"{self.root}, split {self.split}"


def parse(path: Path, options: ReadOptions = DEFAULTS) -> Annotation:
    """Parse one XML file of a VOC folder.

    Raises:
      FileNotFoundError: the file cannot be read.
      ValueError: it is no XML, or breaks a rule of VOC's.
    """
    try:
        root = _parse_xml(read_bytes(path, most=options.max_annotation_bytes), path)
    except OSError as error:
        raise FileNotFoundError(f"{path}: {error.strerror}") from None
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # without its namespace
    objects = [_parse_object(element, path) for element in root.iterfind("object")]
    if not objects and root.tag != "annotation":
        raise ValueError(f"{path}: the root must be <annotation>; got <{root.tag}>")
    width, height = (int(_number(root, f"size/{side}", path, default=0)) for side in ("width", "height"))
    return Annotation(width, height, objects)


def _parse_xml(content: bytes, path: Path) -> ElementTree.Element:
    encodings = ()
    try:
        return ElementTree.fromstring(content)
    except ElementTree.ParseError as error:
        if error.code != INCORRECT_ENCODING:
            raise ValueError(f"{path}: the file must be well-formed XML; got {error}") from None
        encodings = ("utf-8",)
    except (LookupError, ValueError):  # expat knows few encodings, and none with several bytes for a letter but UTF
        pass
    declared = re.search(rb"""encoding\s*=\s*["']([\w.:-]*)""", content[:200])
    name = declared[1].decode() if declared else ""
    for encoding in encodings or ENCODINGS.get(name.lower(), (name, "utf-8")):
        try:
            return ElementTree.fromstring(content.decode(encoding))
        except ElementTree.ParseError as error:
            raise ValueError(f"{path}: the file must be well-formed XML; got {error}") from None
        except (LookupError, ValueError):
            continue
    raise ValueError(f"{path}: the file must be in the encoding that it declares; got {name!r}")


def _parse_object(element: ElementTree.Element, path: Path) -> Object:
    name = element.findtext("name", "").strip()
    if len(name.splitlines()) != 1:
        raise ValueError(f"{path}: the <name> of every <object> must be one line of text; got {name!r}")
    x_min, y_min, x_max, y_max = (
        _number(element, f"bndbox/{corner}", path) for corner in ("xmin", "ymin", "xmax", "ymax")
    )
    return Object(name, (x_min, y_min, x_max, y_max), bool(_number(element, "difficult", path, default=0)))


def _number(element: ElementTree.Element, tags: str, path: Path, *, default: float | None = None) -> float:
    text = element.findtext(tags, "").strip()
    if not text and default is not None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}: <{tags}> must be a finite number; got {text[:40]!r}")
    return number


def _check_layout(root: Path) -> None:
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder")
    missing = [name for name in ("Annotations", "JPEGImages", "ImageSets/Main") if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(
            f"{root}: a VOC folder must hold Annotations, JPEGImages and ImageSets/Main; "
            f"this one lacks {' and '.join(missing)}"
        )


def _split_ids(root: Path, split: str, images: dict[str, Path], options: ReadOptions) -> list[str]:
    ids = [image_id for part in split.split("+") for image_id in _read_split(root, part.strip(), images, options)]
    unique = list(dict.fromkeys(ids))
    if len(unique) < len(ids):
        twice = [image_id for image_id, times in Counter(ids).items() if times > 1]
        logger.warning("%s, split %s: images listed more than once are taken once: %s", root, split, some(twice))
    return unique


def _read_split(root: Path, split: str, images: dict[str, Path], options: ReadOptions) -> list[str]:
    folder = root / "ImageSets" / "Main"
    path = folder / f"{split}.txt"
    if not path.exists():
        found = sorted(p.stem for p in folder.glob("*.txt"))
        raise FileNotFoundError(f"{path}: no such split; found {some(found) if found else 'none'}")
    text = _split_text(read_bytes(path, most=options.max_annotation_bytes), path)
    ids = [_listed(line.strip(), images) for line in text.splitlines() if line.strip()]
    if not ids:
        raise ValueError(f"{path}: a split must list at least one image; this file is empty")
    listed = [image_id for image_id in ids if image_id]
    if not listed:
        raise ValueError(f"{path}: a split must list at least one image; all of its flags are -1")
    return listed


def _split_text(content: bytes, path: Path) -> str:
    """Decode a split's file: UTF-16 by its byte order mark, as PowerShell writes it, UTF-8, or else Latin-1."""
    try:
        if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return content.decode("utf-16")
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            return content.decode("latin-1")
    except UnicodeDecodeError:
        raise ValueError(f"{path}: a split's file must be text; got damaged UTF-16") from None


def _listed(line: str, images: dict[str, Path]) -> str:
    """Return the name in a line of a split's file, "" if VOC's flag for a class says that it is not listed."""
    flagged = re.fullmatch(r"(.*\S)\s+(-1|0|1)", line)
    if line in images or not flagged:  # a name may end like a flag: "image 1"
        return line
    return "" if flagged[2] == "-1" else flagged[1]


def _images(root: Path) -> dict[str, Path]:
    """Stem -> image; of one stem with several extensions the first in the order of `EXTENSIONS`."""
    found = [path for path in (root / "JPEGImages").iterdir() if path.suffix.lower() in EXTENSIONS]
    return {p.stem: p for p in sorted(found, key=lambda p: EXTENSIONS.index(p.suffix.lower()), reverse=True)}


def _image_of(root: Path, image_id: str, split: str, images: dict[str, Path]) -> Path:
    annotation = root / "Annotations" / f"{image_id}.xml"
    if image_id in images and annotation.is_file():
        return images[image_id]
    if image_id in images:
        raise FileNotFoundError(f"{images[image_id]}: an image must have an annotation; there is no {annotation}")
    if annotation.is_file():
        raise FileNotFoundError(
            f"{annotation}: an annotation must have an image; there is no {image_id}{'/'.join(EXTENSIONS)} in "
            f"{root / 'JPEGImages'}"
        )
    raise FileNotFoundError(f"{root}: split {split} lists {image_id!r}, which has neither annotation nor image")
