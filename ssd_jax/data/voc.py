"""A folder laid out as PASCAL VOC: `Annotations/*.xml`, `JPEGImages/*.jpg`, `ImageSets/Main/<split>.txt`."""

import logging
import math
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ssd_jax.data.annotated import Annotated, AnnotatedImages, Object
from ssd_jax.data.box_table import some
from ssd_jax.data.folder import Folder
from ssd_jax.data.formats import EXTENSIONS
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.reading import Reading, annotated_reading, files_text, plural
from ssd_jax.data.text_files import read_lines
from ssd_jax.data.xml_files import read_xml, root_tag, with_damaged

logger = logging.getLogger("ssd_jax")


class Annotation(NamedTuple):
    """One XML file; a side below 1 is not known from the file."""

    width: int
    height: int
    objects: list[Object]
    file_name: str = ""

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), if the file gives both."""
        return (self.height, self.width) if self.width > 0 and self.height > 0 else None


class VOCFolder(AnnotatedImages):
    """The images of one split, or of several joined by "+" ("train+val"), in the order of the split's file.

    Corners become fractions as in Caffe (`ReadXMLToAnnotatedDatum`): xml / width, without subtracting VOC's
    1-pixel origin. A width or height that the XML lacks, or that is below 1, is read from the image.

    A line of a split's file is a file name without its extension. It may be followed by VOC's flag for a class, as in
    `dog_train.txt`: 1 and 0 (difficult) list the image, -1 does not.

    All XML is parsed when the folder is opened. An image is read when it is asked for. For annotation errors see
    `BoxTable`.
    """

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
        self.root, self.split = Path(root).expanduser(), split
        _check_layout(self.root)
        images = _images(self.root)
        self.image_ids = _split_ids(self.root, split, images, options)
        paths = [_image_of(self.root, image_id, split, images) for image_id in self.image_ids]

        folder = self.root / "Annotations"
        # A file that begins with a dot is none of the dataset, unless the split lists it.
        found = [] if class_names is not None else [path.stem for path in sorted(folder.glob("[!.]*.xml"))]
        parsed = {name: parse(folder / f"{name}.xml", options) for name in dict.fromkeys([*found, *self.image_ids])}
        if class_names is None:
            class_names = sorted({o.name for a in parsed.values() for o in a.objects})
            if not class_names:
                raise ValueError(f"{folder}: the annotations must have an object, to find the classes; got none")
        super().__init__(
            [
                Annotated(name, path, path.name, folder / f"{name}.xml", parsed[name].size, parsed[name].objects)
                for name, path in zip(self.image_ids, paths, strict=True)
            ],
            class_names,
            where=f"{self.root}, split {self.split}",
            inclusive=True,
            drop_other_classes=drop_other_classes,
            strict=strict,
            options=options,
        )


def parse(path: Path, options: ReadOptions = DEFAULTS) -> Annotation:
    """Parse one XML file of a VOC folder.

    Raises:
      FileNotFoundError: the file cannot be read.
      ValueError: it is no XML, or breaks a rule of VOC's.
    """
    root = read_xml(path, options.max_annotation_bytes)
    objects = [_parse_object(element, path) for element in root.iterfind("object")]
    if not objects and root.tag != "annotation":
        raise ValueError(f"{path}: the root must be <annotation>; got <{root.tag}>")
    width, height = (int(_number(root, f"size/{side}", path, default=0)) for side in ("width", "height"))
    return Annotation(width, height, objects, root.findtext("filename", "").strip())


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
    parts = {part.strip(): _read_split(root, part.strip(), images, options) for part in split.split("+")}
    for part, listed in parts.items():
        if not listed:
            path = root / "ImageSets" / "Main" / f"{part}.txt"
            raise ValueError(f"{path}: a split must list at least one image; this one is empty, or all flags are -1")
    ids = [image_id for part in split.split("+") for image_id in parts[part.strip()]]
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
    lines = read_lines(path, options.max_annotation_bytes)
    ids = [_listed(line.strip(), images) for line in lines if line.strip()]
    return [image_id for image_id in ids if image_id]


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


def read_voc(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all XML files of VOC's format below a folder, wherever they and their images are.

    An annotation is of the nearest image with its stem, or else of the image that its <filename> names. The splits
    are those of `ImageSets/Main`, where there is such a folder, or else those that folders name. The other arguments
    are those of `read_coco`; file names never lead out of the folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two annotations are of one image.
      FileNotFoundError: a split lists an image that does not exist.
    """
    files = [file for file in folder.of_kind(".xml") if root_tag(folder.path(file)) == "annotation"]
    files = with_damaged(folder, files)
    if not files:
        return None
    annotated, missing, owner = [], [], {}
    for file in files:
        path = folder.path(file)
        annotation = parse(path, options)
        image = folder.find_image_of(file)
        if image is None and annotation.file_name:
            image = folder.find_image(annotation.file_name, near=file)
        if image is None:
            missing.append(file)
            continue
        if image in owner:
            raise ValueError(f"{path}: an image must have one annotation; got {image}, which {owner[image]} has too")
        owner[image] = file
        annotated.append(Annotated(image, folder.path(image), image, path, annotation.size, annotation.objects))
    places = {owner[a.file]: index for index, a in enumerate(annotated)}
    splits = _listed_splits(folder, places, options)
    if len(splits.get("all", ())) == len(annotated):
        del splits["all"]  # the name for all images in any case
    without = len(folder.images) - len(annotated)
    return annotated_reading(
        "voc",
        "VOC XML",
        folder,
        annotated,
        where=files_text(files),
        splits=splits if any(splits.values()) else None,
        missing=missing,
        inclusive=True,
        notes=[f"{plural(without, 'image')} without annotation left out"] if without else [],
        strict=strict,
        options=options,
    )


def _listed_splits(folder: Folder, places: dict[str, int], options: ReadOptions) -> dict[str, list[int]]:
    """Return the splits of all folders in VOC's layout, also those of no image.

    `places` has the index of each annotation's image.
    """
    splits: dict[str, list[int]] = {}
    for file in folder.of_kind(".txt"):
        found = re.fullmatch(r"(?:(.*)/)?ImageSets/Main/([^/]+)\.txt", file)
        if not found:
            continue
        top, split = found[1] or ".", found[2]
        root = folder.root / top
        if not (root / "JPEGImages").is_dir() or not (root / "Annotations").is_dir():
            continue
        images = _images(root)
        prefix = "" if top == "." else f"{top}/"
        for name in dict.fromkeys(_read_split(root, split, images, options)):
            index = places.get(f"{prefix}Annotations/{name}.xml")
            if index is None:
                raise FileNotFoundError(
                    f"{folder.path(file)}: every name in a split must be of an image and its annotation; got {name!r}"
                )
            splits.setdefault(split, []).append(index)
        splits.setdefault(split, [])
    return splits
