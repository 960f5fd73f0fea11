"""Text files with a line for each image: its name, then five numbers for each box."""

import math
import os
import re
from pathlib import Path

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import Folder, split_word
from ssd_jax.data.formats import EXTENSIONS
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.reading import Reading, annotated_reading, files_text
from ssd_jax.data.text_files import read_head, read_lines
from ssd_jax.data.yolo import MOST_CLASSES, names_file

LINE = re.compile(
    r"(?P<name>\S(?:.*?\S)?(?:" + "|".join(map(re.escape, EXTENSIONS)) + r"))(?P<boxes>(?:[\s,]+[-+.\deE]+)*)\s*",
    re.IGNORECASE,
)
CHECKED_LINES = 20  # a file whose first lines are all of this format is read


def read_box_list(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all text files below a folder whose lines are an image and its boxes, as for keras-yolo3.

    A box is x_min, y_min, x_max, y_max in pixels and a class number from 0, with spaces or commas between them. Class
    names are in a file such as `classes.txt`, if there is one. A file's split is the word in its name. The other
    arguments are those of `read_coco`; file names never lead out of the folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two files have the same image.
    """
    files = [file for file in folder.of_kind(".txt") if _is_box_list(folder.path(file))]
    if not files:
        return None
    names, where = names_file(folder, {os.path.dirname(file) for file in files})
    annotated: dict[str, Annotated] = {}
    splits: dict[str, list[int]] = {}
    missing = []
    for file in files:
        path, word = folder.path(file), split_word(file, stem=True)
        for number, line in enumerate(read_lines(path, options.max_annotation_bytes), start=1):
            if not line.strip():
                continue
            try:
                name, objects = _parse_line(line, names)
            except ValueError as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
            image = folder.find_image(name, near=file, split=word)
            if image is None:
                missing.append(name)
                continue
            if image in annotated:
                raise ValueError(f"{path}: line {number}: an image must be in one line; got {name} twice")
            if word:
                splits.setdefault(word, []).append(len(annotated))
            annotated[image] = Annotated(image, folder.path(image), image, path, None, objects)
    numbers = [int(o.name) for a in annotated.values() for o in a.objects] if names is None else []
    class_names = map(str, range(max(numbers, default=-1) + 1)) if names is None else names.values()
    return annotated_reading(
        "box_list",
        "lists of boxes",
        folder,
        list(annotated.values()),
        where=files_text(files),
        class_names=list(class_names),
        splits=splits,
        missing=missing,
        named=names is not None,
        notes=[f"class names in {where}"] if where else [],
        strict=strict,
        options=options,
    )


def _is_box_list(path: Path) -> bool:
    lines = [line for line in read_head(path, 100_000) if line.strip()][:CHECKED_LINES]
    return any(map(_boxes_in, lines)) and all(_boxes_in(line) is not None for line in lines)


def _boxes_in(line: str) -> list[str] | None:
    """Return the numbers of a line, five for each box; None if it is not of this format."""
    found = LINE.fullmatch(line)
    numbers = re.split(r"[\s,]+", found["boxes"].strip(" ,\t")) if found and found["boxes"].strip() else []
    return numbers if found and len(numbers) % 5 == 0 else None


def _parse_line(line: str, names: dict[int, str] | None) -> tuple[str, list[Object]]:
    found, texts = LINE.fullmatch(line), _boxes_in(line)
    if found is None or texts is None:
        raise ValueError(f"must be an image and five numbers for each box; got {line[:60]!r}")
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        numbers = [math.nan]
    objects = []
    for k in range(0, len(numbers), 5):
        *corners, kind = numbers[k : k + 5]
        if not all(abs(number) < 1e15 for number in (*corners, kind)):
            raise ValueError(f"corners must be finite numbers; got {line[:60]!r}")
        known = names is None or kind in names
        if not known or kind != int(kind) or not 0 <= kind < MOST_CLASSES:
            raise ValueError(f"a class must be one of the numbers of the classes, from 0; got {kind:g}")
        x_min, y_min, x_max, y_max = corners
        objects.append(Object(str(int(kind)) if names is None else names[int(kind)], (x_min, y_min, x_max, y_max)))
    return found["name"], objects
