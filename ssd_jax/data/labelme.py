"""LabelMe's JSON: a file for each image."""

import base64
import binascii
from pathlib import Path
from typing import Any, NamedTuple

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import Folder
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.json_files import brief, finite, json_files, parse_json, whole
from ssd_jax.data.reading import Reading, annotated_reading, files_text, plural

LEAST_POINTS = {"rectangle": 2, "polygon": 3, "circle": 2, "rotated_rectangle": 4, "oriented_rectangle": 4, "mask": 2}
NO_BOX = ("point", "line", "linestrip", "points")


class LabelMeFile(NamedTuple):
    """What we use of a LabelMe file."""

    image: str
    size: tuple[int, int] | None  # (height, width)
    objects: list[Object]
    left_out: int  # shapes that have no box: points and lines
    has_data: bool  # whether the image is in the file


def read_labelme(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all LabelMe files below a folder.

    A polygon and a circle give their box; points and lines have none. The image is the file that `imagePath` names,
    or else the nearest one with the stem of the JSON file, or else the data in the JSON file. A shape whose flag
    `difficult` is set is difficult. The other arguments are those of `read_coco`; file names never lead out of the
    folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two files are of one image.
    """
    files = json_files(folder, "labelme", options)
    if not files:
        return None
    annotated: dict[str, Annotated] = {}
    missing, left_out = [], 0
    for file in files:
        path = folder.path(file)
        found = parse_labelme(path, options)
        left_out += found.left_out
        image = folder.find_image(found.image, near=file) or folder.find_image_of(file)
        if image is None and not found.has_data:
            missing.append(file)
            continue
        if image in annotated:
            raise ValueError(
                f"{path}: an image must have one annotation; got {image}, which {annotated[image].annotation} has too"
            )
        name = image or file
        load = None if image else lambda path=path: _embedded(path, options)
        annotated[name] = Annotated(name, folder.path(name), name, path, found.size, found.objects, load=load)
    return annotated_reading(
        "labelme",
        "LabelMe JSON",
        folder,
        list(annotated.values()),
        where=files_text(files),
        missing=missing,
        notes=[f"{plural(left_out, 'point')} or lines left out"] if left_out else [],
        strict=strict,
        options=options,
    )


def parse_labelme(path: Path, options: ReadOptions = DEFAULTS) -> LabelMeFile:
    """Read a LabelMe file.

    Raises:
      ValueError: it breaks a rule of the format.
    """
    data = parse_json(path, options.max_annotation_bytes)
    shapes = data.get("shapes") if isinstance(data, dict) else None
    image = data.get("imagePath") if isinstance(data, dict) else None
    if not isinstance(shapes, list) or not isinstance(image, str):
        raise ValueError(f"{path}: must be an object with a list shapes and a text imagePath; got {brief(data)}")
    sides = [whole(data.get(key)) or 0 for key in ("imageHeight", "imageWidth")]
    size = (sides[0], sides[1]) if min(sides) >= 1 else None
    found = [_object(shape, path) for shape in shapes]
    return LabelMeFile(image, size, [o for o in found if o], found.count(None), bool(data.get("imageData")))


def _object(shape: Any, path: Path) -> Object | None:
    """Return the object of a shape; None if it has no box."""
    if not isinstance(shape, dict):
        raise ValueError(f"{path}: every entry of shapes must be an object; got {brief(shape)}")
    kind = shape.get("shape_type") or "polygon"  # older files have no other
    if not isinstance(kind, str) or kind not in (*LEAST_POINTS, *NO_BOX):
        known = ", ".join([*LEAST_POINTS, *NO_BOX])
        raise ValueError(f"{path}: shape_type must be one of {known}; got {brief(kind)}")
    if kind in NO_BOX:
        return None
    name = shape.get("label")
    if not isinstance(name, str) or len(name.splitlines()) != 1 or not name.strip():
        raise ValueError(f"{path}: the label of a shape must be one line of text; got {brief(name)}")
    given = shape.get("points")
    points = finite(given, (len(given), 2)) if isinstance(given, list) else None
    if points is None or len(points) < LEAST_POINTS[kind]:
        raise ValueError(
            f"{path}: points must be {LEAST_POINTS[kind]} or more pairs of finite numbers; got {brief(given)}"
        )
    if kind == "circle":  # its middle, and a point on it
        radius = float(((points[1] - points[0]) ** 2).sum() ** 0.5)
        low, high = points[0] - radius, points[0] + radius
    else:
        low, high = points.min(axis=0), points.max(axis=0)
    flags = shape.get("flags")
    difficult = isinstance(flags, dict) and flags.get("difficult") is True
    return Object(name.strip(), (float(low[0]), float(low[1]), float(high[0]), float(high[1])), difficult)


def _embedded(path: Path, options: ReadOptions) -> bytes:
    data = parse_json(path, options.max_annotation_bytes)
    try:
        return base64.b64decode(data["imageData"])
    except (binascii.Error, TypeError, ValueError, KeyError):
        return b""
