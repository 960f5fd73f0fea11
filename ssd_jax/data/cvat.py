"""CVAT's XML: one file for all images."""

import math
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import SPLIT_WORDS, Folder
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.json_files import finite
from ssd_jax.data.reading import Reading, annotated_reading, files_text, folder_splits, plural
from ssd_jax.data.xml_files import read_xml, root_tag, with_damaged

NO_BOX = ("polyline", "points", "cuboid", "tag", "skeleton")


class CVATImage(NamedTuple):
    """What we use of an <image>."""

    name: str
    subset: str
    size: tuple[int, int] | None  # (height, width)
    objects: list[Object]
    left_out: int  # shapes that have no box


def read_cvat(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all XML files of CVAT's format for images below a folder.

    Boxes (turned ones by the box around them), polygons, ellipses and masks give their box; other shapes have none.
    The classes are the labels of the task, or else those that are used. The other arguments are those of `read_coco`;
    file names never lead out of the folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two files have one image.
    """
    files = with_damaged(folder, [file for file in folder.of_kind(".xml") if _is_cvat(folder.path(file))])
    if not files:
        return None
    annotated: dict[str, Annotated] = {}
    classes: dict[str, None] = {}
    splits: dict[str, list[int]] = {}
    missing, left_out = [], 0
    for file in files:
        path = folder.path(file)
        root = read_xml(path, options.max_annotation_bytes)
        classes |= dict.fromkeys(_task_labels(root))
        for found in parse_cvat(root, path):
            left_out += found.left_out
            image = folder.find_image(found.name, near=file)
            if image is None:
                missing.append(found.name)
                continue
            if image in annotated:
                raise ValueError(f"{path}: an image must have one annotation; got {image} twice")
            if split := SPLIT_WORDS.get(found.subset.lower(), ""):
                splits.setdefault(split, []).append(len(annotated))
            annotated[image] = Annotated(image, folder.path(image), image, path, found.size, found.objects)
    used = {o.name for a in annotated.values() for o in a.objects}
    return annotated_reading(
        "cvat",
        "CVAT XML",
        folder,
        list(annotated.values()),
        where=files_text(files),
        class_names=[*classes, *sorted(used - classes.keys())],
        splits=splits or folder_splits(list(annotated)),
        missing=missing,
        notes=[f"{plural(left_out, 'shape')} without a box left out"] if left_out else [],
        strict=strict,
        options=options,
    )


def parse_cvat(root: Element, path: Path) -> list[CVATImage]:
    """Read the images of a CVAT file.

    Args:
      root: its root element.
      path: the file, for messages.

    Raises:
      ValueError: it breaks a rule of the format.
    """
    if root.tag != "annotations":
        raise ValueError(f"{path}: the root must be <annotations>; got <{root.tag}>")
    if root.find("track") is not None:
        raise ValueError(f"{path}: must be exported as 'CVAT for images'; got <track>, which is 'CVAT for video'")
    images = []
    for element in root.iterfind("image"):
        name = element.get("name", "").strip()
        if len(name.splitlines()) != 1:
            raise ValueError(f"{path}: the name of an <image> must be one line of text; got {name[:40]!r}")
        sides = [_numbers(element, [side], path, default=0)[0] for side in ("height", "width")]
        size = (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
        shapes = [shape for shape in element if shape.tag in SHAPES]
        left_out = sum(shape.tag in NO_BOX for shape in element)
        objects = [_object(shape, path) for shape in shapes]
        images.append(CVATImage(name, element.get("subset", "").strip(), size, objects, left_out))
    return images


def _is_cvat(path: Path) -> bool:
    if root_tag(path) != "annotations":
        return False
    with path.open("rb") as file:
        head = file.read(100_000).replace(b"\0", b"")
    return any(sign in head for sign in (b"<image", b"<track", b"<meta"))


def _task_labels(root: Element) -> list[str]:
    names = [(element.findtext("name") or "").strip() for element in root.iterfind("meta//labels/label")]
    return [name for name in names if len(name.splitlines()) == 1]


def _object(shape: Element, path: Path) -> Object:
    name = shape.get("label", "").strip()
    if len(name.splitlines()) != 1:
        raise ValueError(f"{path}: the label of a <{shape.tag}> must be one line of text; got {name[:40]!r}")
    difficult = any(
        attribute.get("name", "").lower() == "difficult" and (attribute.text or "").strip().lower() in ("true", "1")
        for attribute in shape.iterfind("attribute")
    )
    return Object(name, SHAPES[shape.tag](shape, path), difficult)


def _box(shape: Element, path: Path) -> tuple[float, float, float, float]:
    x_min, y_min, x_max, y_max = _numbers(shape, ["xtl", "ytl", "xbr", "ybr"], path)
    (angle,) = _numbers(shape, ["rotation"], path, default=0)
    if not angle:
        return x_min, y_min, x_max, y_max
    cos, sin = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    x, y, w, h = (x_min + x_max) / 2, (y_min + y_max) / 2, (x_max - x_min) / 2, (y_max - y_min) / 2
    half_w, half_h = w * cos + h * sin, w * sin + h * cos
    return x - half_w, y - half_h, x + half_w, y + half_h


def _polygon(shape: Element, path: Path) -> tuple[float, float, float, float]:
    text = shape.get("points", "")
    pairs = [pair.split(",") for pair in text.split(";")]
    points = finite(pairs, (len(pairs), 2)) if all(len(pair) == 2 for pair in pairs) else None
    if points is None:
        raise ValueError(f"{path}: points must be pairs of finite numbers, x,y;x,y; got {text[:40]!r}")
    (x_min, y_min), (x_max, y_max) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
    return x_min, y_min, x_max, y_max


def _ellipse(shape: Element, path: Path) -> tuple[float, float, float, float]:
    x, y, half_w, half_h = _numbers(shape, ["cx", "cy", "rx", "ry"], path)
    return x - half_w, y - half_h, x + half_w, y + half_h


def _mask(shape: Element, path: Path) -> tuple[float, float, float, float]:
    x, y, width, height = _numbers(shape, ["left", "top", "width", "height"], path)
    return x, y, x + width, y + height


SHAPES = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}


def _numbers(element: Element, names: list[str], path: Path, *, default: float | None = None) -> list[float]:
    numbers = []
    for name in names:
        text = element.get(name, "").strip()
        try:
            number = float(text) if text or default is None else default
        except ValueError:
            number = math.nan
        if not abs(number) < 1e15:
            raise ValueError(f"{path}: {name} of a <{element.tag}> must be a finite number; got {text[:40]!r}")
        numbers.append(number)
    return numbers
