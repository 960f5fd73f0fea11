"""CSV files with a row for each box: those of TensorFlow's Object Detection API, and Open Images'."""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.folder import Folder, split_word
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.reading import Reading, annotated_reading, files_text, folder_splits
from ssd_jax.data.text_files import read_head, read_text

# What a column is -> its names, in lower case.
COLUMNS = {
    "image": ("filename", "file_name", "image", "image_name", "image_path", "file", "imageid", "image_id", "path"),
    "class": ("class", "class_name", "classname", "label", "labelname", "label_name", "category", "name"),
    "x_min": ("xmin", "x_min", "x1", "left"),
    "y_min": ("ymin", "y_min", "y1", "top"),
    "x_max": ("xmax", "x_max", "x2", "right"),
    "y_max": ("ymax", "y_max", "y2", "bottom"),
}  # fmt: skip
SIZE = {"width": ("width", "image_width", "img_width"), "height": ("height", "image_height", "img_height")}
CORNERS = ("x_min", "y_min", "x_max", "y_max")
OPEN_IMAGES = {"imageid", "labelname", "xmin"}  # columns of Open Images, whose corners are fractions


class Table(NamedTuple):
    """The boxes of one CSV file, by image."""

    sizes: dict[str, tuple[int, int] | None]  # image -> (height, width)
    objects: dict[str, list[Object]]
    fractions: bool


def read_csv(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all CSV files below a folder that have columns for an image, a class and four corners.

    Corners are pixels, or in Open Images' files fractions; a group (`IsGroupOf`) is a difficult object. A file's
    split is the word in its name: `train_labels.csv`. An image may be in several files if they have the same boxes.
    The other arguments are those of `read_coco`; file names never lead out of the folder.

    Raises:
      ValueError: a file breaks a rule of the format, or two files say different things of an image.
    """
    files = [file for file in folder.of_kind(".csv", ".tsv") if _columns(folder.path(file))]
    if not files:
        return None
    for path in map(folder.path, folder.near(files)):
        if path.is_file() and not path.stat().st_size:
            raise ValueError(f"{path}: a CSV file must begin with the names of its columns; got an empty file")
    names = _descriptions(folder, options)
    annotated: dict[str, Annotated] = {}
    splits: dict[str, list[str]] = {}
    missing: dict[str, None] = {}
    for file in files:
        path, word = folder.path(file), split_word(file, stem=True)
        if word:
            splits.setdefault(word, [])
        table = parse_csv(path, names, options)
        for name, objects in table.objects.items():
            image = _find(folder, name, file, word)
            if image is None:
                missing[name] = None
                continue
            new = Annotated(
                image, folder.path(image), image, path, table.sizes[name], objects, fractions=table.fractions
            )
            known = annotated.setdefault(image, new)
            if sorted(known.objects) != sorted(new.objects):
                raise ValueError(
                    f"{path}: an image that is in several files must have the same boxes in each; got {name}, which "
                    f"{known.annotation} has with others"
                )
            if word:
                splits[word].append(image)
    places = {image: index for index, image in enumerate(annotated)}
    found = {word: [places[image] for image in dict.fromkeys(images)] for word, images in splits.items()}
    return annotated_reading(
        "csv",
        "CSV",
        folder,
        list(annotated.values()),
        where=files_text(files),
        splits=found if any(found.values()) else folder_splits(list(annotated)),
        missing=list(missing),
        strict=strict,
        options=options,
    )


def parse_csv(path: Path, names: dict[str, str] | None = None, options: ReadOptions = DEFAULTS) -> Table:
    """Read the boxes of a CSV file.

    Args:
      path: the file.
      names: label -> class name, for labels that are codes; others stay.
      options: see `ReadOptions`.

    Raises:
      ValueError: a row breaks a rule of the format.
    """
    columns = _columns(path)
    sizes: dict[str, tuple[int, int] | None] = {}
    objects: dict[str, list[Object]] = {}
    fractions = columns.keys() >= OPEN_IMAGES
    reader = _rows(path, options)
    next(reader, None)
    for number, row in reader:
        if not any(cell.strip() for cell in row):
            continue
        cells = {name: row[k].strip() for name, k in columns.items() if k < len(row)}
        try:
            image, size, new = _box(cells, names or {})
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}") from None
        if sizes.setdefault(image, size) != size:
            raise ValueError(f"{path}: line {number}: the rows of an image must have one size; got two of {image}")
        objects.setdefault(image, []).extend(new)
    return Table(sizes, objects, fractions)


def _box(cells: dict[str, str], names: dict[str, str]) -> tuple[str, tuple[int, int] | None, list[Object]]:
    """Return image, (height, width) and the object of a row; there is none if class and corners are empty."""
    value = {kind: _cell(cells, keys) for kind, keys in COLUMNS.items()}
    if len(value["image"].splitlines()) != 1:
        raise ValueError(f"the column of the image must have a file name; got {value['image'][:40]!r}")
    sides = [_cell(cells, SIZE[side]) for side in ("height", "width")]
    numbers = [_number(text, side) if text else 0 for side, text in zip(("height", "width"), sides, strict=True)]
    size = (int(numbers[0]), int(numbers[1])) if min(numbers) >= 1 else None
    if not any(value[kind] for kind in (*CORNERS, "class")):
        return value["image"], size, []
    if len(value["class"].splitlines()) != 1:
        raise ValueError(f"the class must be one line of text; got {value['class'][:40]!r}")
    x_min, y_min, x_max, y_max = (_number(value[kind], kind) for kind in CORNERS)
    name = names.get(value["class"], value["class"])
    is_group = cells.get("isgroupof", "0") == "1"
    return value["image"], size, [Object(name, (x_min, y_min, x_max, y_max), is_group)]


def _cell(cells: dict[str, str], keys: Iterable[str]) -> str:
    return next((cells[key] for key in keys if key in cells), "")


def _number(text: str, what: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not abs(number) < 1e15:
        raise ValueError(f"{what} must be a finite number; got {text[:40]!r}")
    return number


def _rows(path: Path, options: ReadOptions) -> Iterator[tuple[int, list[str]]]:
    """Give every row with the number of its last line."""
    text = read_text(path, options.max_annotation_bytes)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.partition("\n")[0]))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"{path}: line {reader.line_num}: must be well-formed CSV; got: {error}") from None


def _delimiter(header: str) -> str:
    return max(",;\t", key=header.count)


def _columns(path: Path) -> dict[str, int]:
    """Return the place of each column by its name in lower case; {} if the file has no columns for boxes."""
    header = next(iter(read_head(path, 10_000)), "").strip()
    try:
        cells = next(csv.reader([header], delimiter=_delimiter(header)), [])
    except csv.Error:
        return {}
    columns = {cell.strip().lower(): k for k, cell in reversed(list(enumerate(cells)))}
    return columns if all(any(name in columns for name in names) for names in COLUMNS.values()) else {}


def _descriptions(folder: Folder, options: ReadOptions) -> dict[str, str]:
    """Return Open Images' class names by their codes: rows such as "/m/011k07,Tortoise"."""
    names = {}
    for file in folder.of_kind(".csv"):
        if re.search("class.?descriptions", file.lower()):
            for _, row in _rows(folder.path(file), options):
                if len(row) >= 2 and row[0].startswith("/") and row[1].strip():
                    names[row[0].strip()] = row[1].strip()
    return names


def _find(folder: Folder, name: str, near: str, split: str) -> str | None:
    """Find an image by its name, or by its name without an extension, as Open Images has it."""
    return folder.find_image(name, near=near, split=split) or folder.find_image_of(
        str(PurePosixPath(near).parent / f"{name.rpartition('/')[2]}.csv")
    )
