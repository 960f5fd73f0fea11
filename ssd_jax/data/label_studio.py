"""Label Studio's JSON export: one file for all images, full or minimal."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import Folder
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.json_files import brief, finite, json_files, parse_json
from ssd_jax.data.reading import Reading, annotated_reading, files_text, plural

SHAPES = ("rectanglelabels", "polygonlabels", "ellipselabels")
NO_BOX = ("brushlabels", "keypointlabels", "choices", "textarea", "relation")
UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before the name of an uploaded file


class Task(NamedTuple):
    """What we use of a task that somebody has labelled."""

    image: str
    objects: list[Object]  # corners are fractions
    left_out: int  # results that have no box


def read_label_studio(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all JSON exports of Label Studio below a folder, the full one and the minimal one.

    Of several annotations of a task the one that is marked as ground truth counts, or else the last; cancelled ones
    and predictions do not. A task without an annotation is left out. Polygons, ellipses and turned rectangles give
    the box around them. The other arguments are those of `read_coco`; file names never lead out of the folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two tasks are of one image.
    """
    files = [f for kind in ("label_studio", "label_studio_min") for f in json_files(folder, kind, options)]
    if not files:
        return None
    annotated: dict[str, Annotated] = {}
    missing, left_out = [], 0
    for file in files:
        path = folder.path(file)
        for task in parse_label_studio(path, options):
            left_out += task.left_out
            image = _find(folder, task.image, file)
            if image is None:
                missing.append(task.image)
                continue
            if image in annotated:
                raise ValueError(f"{path}: an image must be in one task; got {image} twice")
            annotated[image] = Annotated(image, folder.path(image), image, path, None, task.objects, fractions=True)
    return annotated_reading(
        "label_studio",
        "Label Studio JSON",
        folder,
        list(annotated.values()),
        where=files_text(files),
        missing=missing,
        notes=[f"{plural(left_out, 'result')} without a box left out"] if left_out else [],
        strict=strict,
        options=options,
    )


def parse_label_studio(path: Path, options: ReadOptions = DEFAULTS) -> list[Task]:
    """Read the labelled tasks of an export.

    Raises:
      ValueError: it breaks a rule of the format.
    """
    data = parse_json(path, options.max_annotation_bytes)
    if not isinstance(data, list):
        raise ValueError(f"{path}: must be a list of tasks; got {brief(data)}")
    tasks = []
    for row in data:
        if not isinstance(row, dict):
            raise ValueError(f"{path}: every task must be an object; got {brief(row)}")
        if "data" in row:
            results = _results(row, path)
            image = _image(row["data"], path)
        else:
            lists = [value for key, value in row.items() if isinstance(value, list) and key != "image"]
            results = [result for values in lists for result in values]
            image = _image(row, path)
        if results is None:
            continue
        objects, left_out = [], 0
        for result in results:
            found = list(_objects(result, path))
            objects += found
            left_out += not found
        tasks.append(Task(image, objects, left_out))
    return tasks


def _results(row: dict[str, Any], path: Path) -> list[Any] | None:
    """Return the results of the annotation that counts; None if nobody has labelled the task."""
    annotations = row.get("annotations", row.get("completions")) or []
    if not isinstance(annotations, list) or not all(isinstance(a, dict) for a in annotations):
        raise ValueError(f"{path}: annotations must be a list of objects; got {brief(annotations)}")
    valid = [a for a in annotations if not a.get("was_cancelled")]
    if not valid:
        return None
    results = max(enumerate(valid), key=lambda pair: (pair[1].get("ground_truth") is True, pair[0]))[1].get("result")
    if not isinstance(results, list):
        raise ValueError(f"{path}: result must be a list; got {brief(results)}")
    return results


def _image(data: Any, path: Path) -> str:
    """Return the name of a task's image: the value under "image", or else the first one that looks like a path."""
    values = data if isinstance(data, dict) else {}
    texts = [values.get("image"), values.get("img"), *values.values()]
    name = next((text for text in texts if isinstance(text, str) and re.search(r"\.\w{3,4}($|\?|&)", text)), None)
    if name is None or len(name.splitlines()) != 1:
        raise ValueError(f"{path}: the data of a task must name an image; got {brief(data)}")
    local = re.search(r"[?&]d=([^&]*)", name)  # /data/local-files/?d=folder/x.jpg
    return unquote(local[1] if local else name.partition("?")[0])


def _objects(result: Any, path: Path) -> Iterator[Object]:
    """Give an object for each label of a result; none if it has no box."""
    if not isinstance(result, dict):
        raise ValueError(f"{path}: every result must be an object; got {brief(result)}")
    value = result.get("value", result)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: the value of a result must be an object; got {brief(value)}")
    shape = next((shape for shape in SHAPES if shape in value), None)
    if shape is None:
        return
    labels = value[shape]
    if not isinstance(labels, list) or not all(isinstance(n, str) and len(n.splitlines()) == 1 for n in labels):
        raise ValueError(f"{path}: {shape} must be a list of class names; got {brief(labels)}")
    x_min, y_min, x_max, y_max = (corner / 100 for corner in _corners(value, shape, result, path))
    for name in labels:
        yield Object(name.strip(), (x_min, y_min, x_max, y_max))


def _corners(value: dict[str, Any], shape: str, result: dict[str, Any], path: Path) -> tuple[float, ...]:
    """Return the box around a shape, in per cent of the image's sides."""
    if shape == "polygonlabels":
        given = value.get("points")
        points = finite(given, (len(given), 2)) if isinstance(given, list) and given else None
        if points is None:
            raise ValueError(f"{path}: points must be pairs of finite numbers; got {brief(given)}")
        return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist())
    keys = ("x", "y", "radiusX", "radiusY") if shape == "ellipselabels" else ("x", "y", "width", "height")
    given = [value.get(key) for key in keys]
    numbers = finite(given, (4,)) if None not in given else None
    if numbers is None:
        raise ValueError(f"{path}: {', '.join(keys)} must be finite numbers; got {brief(given)}")
    x, y, width, height = numbers.tolist()
    if shape == "ellipselabels":
        return x - width, y - height, x + width, y + height
    angle = finite(value.get("rotation") or 0, ())
    if angle is None:
        raise ValueError(f"{path}: rotation must be a finite number; got {brief(value.get('rotation'))}")
    if not angle:
        return x, y, x + width, y + height
    # A rectangle is turned about its upper left corner, in pixels.
    sides = finite([result.get("original_width"), result.get("original_height")], (2,))
    if sides is None or not (sides > 0).all():
        raise ValueError(
            f"{path}: a turned rectangle must have original_width and original_height; got {brief(result)}"
        )
    aspect = float(sides[1] / sides[0])
    cos, sin = math.cos(math.radians(float(angle))), math.sin(math.radians(float(angle)))
    xs = [x + w * cos - h * aspect * sin for w in (0, width) for h in (0, height)]
    ys = [y + w / aspect * sin + h * cos for w in (0, width) for h in (0, height)]
    return min(xs), min(ys), max(xs), max(ys)


def _find(folder: Folder, name: str, near: str) -> str | None:
    """Find an image by its name, or without what Label Studio put before it."""
    found = folder.find_image(name, near=near)
    if found is None:
        parent, slash, last = name.rpartition("/")
        found = folder.find_image(parent + slash + UPLOADED.sub("", last, count=1), near=near)
    return found
