"""Datasets that the library `datasets` saved on disk: the extra [datasets]."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import SPLIT_WORDS, Folder
from ssd_jax.data.image import DEFAULTS, ReadOptions, read
from ssd_jax.data.json_files import brief, finite, whole
from ssd_jax.data.reading import Reading, annotated_reading, join_readings
from ssd_jax.extras import import_extra

IMAGE, OBJECTS = ("image", "img"), ("objects", "object", "annotations")
BOX, CLASS = ("bbox", "bboxes", "boxes", "box"), ("category", "categories", "label", "labels", "category_id")


def read_hugging_face(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all datasets below a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    They must have a column "image" and a column "objects" with "bbox" (x, y, width, height in pixels, as object
    detection has it on the Hub) and "category" (a class label, its number or a name). The other arguments are those
    of `read_coco`.

    Raises:
      ValueError: a dataset has other columns, or a row breaks a rule, or the library is not installed.
    """
    places = [os.path.dirname(file) or "." for file in folder.files if os.path.basename(file) == "state.json"]
    places = [place for place in places if str(Path(place, "dataset_info.json")) in folder]
    if not places:
        return None
    readings = [_read_place(folder, place, strict, options) for place in places]
    return join_readings(readings)


def _read_place(folder: Folder, place: str, strict: bool, options: ReadOptions) -> Reading:
    datasets = import_extra("datasets", "datasets")
    path = folder.path(place)
    try:
        with _quietly(datasets):
            data = datasets.load_from_disk(str(path), keep_in_memory=False)
    except Exception as error:  # pyarrow and datasets raise whatever the damage leads to
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{path}: must be a dataset that save_to_disk wrote; got: {reason}") from None
    image, objects = _column(data.features, IMAGE, path), _column(data.features, OBJECTS, path)
    fields = data.features[objects]
    fields = getattr(fields, "feature", fields)  # a list of objects, which datasets turns into an object of lists
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: {objects} must have the fields bbox and category; got {brief(fields)}")
    box, kind = _column(fields, BOX, path), _column(fields, CLASS, path)
    names = _class_names(fields[kind])
    data = data.cast_column(image, datasets.Image(decode=False))
    boxes_only = data.select_columns([objects])
    annotated = []
    for index in range(len(data)):
        name = f"{place}/{index}" if place != "." else str(index)
        row = boxes_only[index][objects]
        row = {key: [o[key] for o in row] for key in (box, kind)} if isinstance(row, list) else row
        found = _objects(row[box] or [], row[kind] or [], names, f"{path}, row {index}")
        load = _loader(data, index, image, folder, place)
        annotated.append(Annotated(name, path, name, path, None, found, load=load))
    word = next((SPLIT_WORDS[part] for part in reversed(Path(place).parts) if part in SPLIT_WORDS), "")
    return annotated_reading(
        "hugging_face",
        "Hugging Face dataset",
        folder,
        annotated,
        where=place,
        class_names=names or None,
        splits={word: list(range(len(annotated)))} if word else {},
        strict=strict,
        options=options,
    )


def _column(features: Any, names: tuple[str, ...], path: Path) -> str:
    found = next((name for name in names if name in features), None)
    if found is None:
        raise ValueError(f"{path}: a dataset must have a column {' or '.join(names)}; got {', '.join(features)}")
    return found


def _class_names(feature: Any) -> list[str]:
    """Return the names of a list of class labels; [] if the feature has none."""
    while not hasattr(feature, "names") and hasattr(feature, "feature"):
        feature = feature.feature
    return list(getattr(feature, "names", None) or [])


def _objects(boxes: list[Any], kinds: list[Any], names: list[str], where: str) -> list[Object]:
    corners = finite(boxes, (len(boxes), 4)) if boxes else None
    if len(boxes) != len(kinds) or (boxes and corners is None):
        raise ValueError(f"{where}: bbox must be four finite numbers for each category; got {brief(boxes)}")
    objects = []
    for (x, y, width, height), kind in zip([] if corners is None else corners.tolist(), kinds, strict=True):
        number = whole(kind)
        if names and number is not None and 0 <= number < len(names):
            name = names[number]
        elif not names and ((isinstance(kind, str) and len(kind.splitlines()) == 1) or number is not None):
            name = str(kind).strip()
        else:
            raise ValueError(f"{where}: category must be a class; got {brief(kind)}")
        objects.append(Object(name, (x, y, x + width, y + height)))
    return objects


def _loader(data: Any, index: int, column: str, folder: Folder, place: str) -> Callable[[], bytes]:
    """Return a function that gives the image of a row: its bytes, or the file below the folder that it names."""

    def load() -> bytes:
        value = data[index][column]
        if value.get("bytes") is not None:
            return value["bytes"]
        file = folder.find_image(value.get("path") or "", near=f"{place}/state.json")
        return read(folder.path(file)) if file else b""

    return load


@contextlib.contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """Show no bar while a dataset is opened."""
    was = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bar()
    try:
        yield
    finally:
        if was:
            datasets.enable_progress_bar()
