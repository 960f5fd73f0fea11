"""YOLO's layout: a text file of boxes for each image, and `data.yaml` with the class names and the splits."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import yaml

from ssd_jax.data.annotated import Annotated, Object
from ssd_jax.data.box_table import FURTHEST
from ssd_jax.data.folder import Folder, path_parts, suffix
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.json_files import brief, whole
from ssd_jax.data.reading import Reading, annotated_reading, join_readings, plural
from ssd_jax.data.text_files import read_head, read_lines, read_text

SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
NAMES_FILES = ("classes.txt", "obj.names", "classes.names", "_darknet.labels", "predefined_classes.txt")
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
LABEL_FOLDERS = ("labels", "label", "annotations", "annots", "txt")
NO_LABELS = {*NAMES_FILES, "train.txt", "val.txt", "valid.txt", "test.txt", "labels.txt", "readme.txt"}
MOST_CONFIG_BYTES = 10_000_000
MOST_CLASSES = 100_000


class Config(NamedTuple):
    """What we use of a `data.yaml`."""

    names: dict[int, str]  # class number -> name
    base: str  # what the paths are relative to, as the file has it
    entries: dict[str, list[str]]  # split -> folders and lists of images
    keypoints: bool  # whether the labels have key points behind the box


def read_yolo(
    folder: Folder, *, strict: bool = False, allow_outside: bool = False, options: ReadOptions = DEFAULTS
) -> Reading | None:
    """Read all labels of YOLO's format below a folder: by each `data.yaml`, or else where they are beside images.

    The labels of `images/a/b.jpg` are in `labels/a/b.txt`, or beside the image, or in a folder of another usual name
    for `images` and `labels`. An image without that file is background. A polygon gives its box. A `data.yaml` of
    which no image has labels still names the classes. The other arguments are those of `read_coco`; paths in files
    never lead out of the folder: of a path that does not exist here, the longest end that does is taken.

    Raises:
      ValueError: a file breaks a rule of the format.
      FileNotFoundError: a listed image, or a folder of images, does not exist.
    """
    configs = [file for file in folder.of_kind(".yaml", ".yml") if _is_config(folder.path(file))]
    readings = [_by_config(folder, file, strict, options) for file in configs]
    found = [reading for reading in readings if reading]
    if not found:
        return _by_labels(folder, configs, strict, options)
    first, *others = found
    if len({tuple(sorted(reading.images)) for reading in found}) == 1:
        for other in others:
            if other.class_names != first.class_names:
                raise ValueError(
                    f"{folder.root}: two files of the same images must have the same names; got {first.where} and "
                    f"{other.where}"
                )
        return first
    images = [image for reading in found for image in reading.images]
    if len(set(images)) < len(images):
        raise ValueError(
            f"{folder.root}: of one image there must be one data.yaml; got "
            f"{' and '.join(reading.where for reading in found)}: give the folder of one of them"
        )
    return join_readings(found)


def parse_config(path: Path) -> Config:
    """Read a `data.yaml`.

    Raises:
      ValueError: it is not well-formed, or breaks a rule of the format.
    """
    try:
        data = yaml.safe_load(read_text(path, MOST_CONFIG_BYTES))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: must be well-formed YAML; got: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(data, dict):
        raise ValueError(f"{path}: must be a mapping with names, train and val; got {brief(data)}")
    names = _names(data.get("names"), path)
    count = data.get("nc")
    if count is not None and whole(count) != len(names):
        raise ValueError(f"{path}: nc must be the number of names, {len(names)}; got {brief(count)}")
    base = data.get("path") or ""
    if not isinstance(base, str):
        raise ValueError(f"{path}: path must be text; got {brief(base)}")
    entries = {}
    for key, split in SPLIT_KEYS.items():
        value = data.get(key)
        values = [value] if isinstance(value, str) else value or []
        if not isinstance(values, list) or not all(isinstance(v, str) and v for v in values):
            raise ValueError(f"{path}: {key} must be a path, or a list of paths; got {brief(value)}")
        if values and split not in entries:
            entries[split] = values
    return Config(names, base, entries, keypoints="kpt_shape" in data)


def parse_labels(
    path: Path, names: dict[int, str] | None, options: ReadOptions, *, keypoints: bool = False
) -> list[Object]:
    """Read the boxes of one image.

    A line is a class number with x, y, width and height of the box, x and y of its middle, or with the corners of a
    polygon, of three or more; all of them fractions of the image's sides.

    Args:
      path: the file.
      names: of the classes; None: their numbers are their names.
      options: see `ReadOptions`.
      keypoints: whether key points follow the box.

    Raises:
      ValueError: a line breaks a rule of the format.
    """
    objects = []
    for number, line in enumerate(read_lines(path, options.max_annotation_bytes), start=1):
        words = line.split()
        if words:
            try:
                objects.append(_object(words, names, keypoints))
            except ValueError as error:
                raise ValueError(f"{path}: line {number}: {error}") from None
    return objects


def label_file(image: str) -> str:
    """Return where YOLO's programs look for the labels of an image."""
    path = PurePosixPath(image)
    parts = list(path.parts)
    places = [k for k, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return str(PurePosixPath(*parts).with_suffix(".txt"))


def _object(words: list[str], names: dict[int, str] | None, keypoints: bool) -> Object:
    kind = whole(words[0])
    if kind is None or not 0 <= kind < MOST_CLASSES or (names is not None and kind not in names):
        known = (
            f"a whole number from 0 to {MOST_CLASSES - 1}"
            if names is None
            else f"a number of a class, {_range(names)}"
        )
        raise ValueError(f"a line must begin with {known}; got {words[0][:40]!r}")
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        raise ValueError(f"a line must be numbers; got {brief(' '.join(words[1:]))}") from None
    wrong = [word for word, number in zip(words[1:], numbers, strict=True) if not abs(number) <= FURTHEST]
    if wrong and not keypoints:
        raise ValueError(f"coordinates must be fractions of the image's sides, from 0 to 1; got {wrong[0][:40]!r}")
    if len(numbers) == 4 or (keypoints and len(numbers) > 4):
        x, y, width, height = numbers[:4]
        if not all(abs(n) <= FURTHEST for n in numbers[:4]):
            raise ValueError(
                f"coordinates must be fractions of the image's sides, from 0 to 1; got {wrong[0][:40]!r}"
            )
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    elif len(numbers) >= 6 and len(numbers) % 2 == 0:
        xs, ys = numbers[::2], numbers[1::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    else:
        raise ValueError(
            f"a class number must be followed by 4 numbers, a box, or by 6, 8 or more, a polygon; got {len(numbers)}"
        )
    return Object(str(kind) if names is None else names[kind], corners)


def _range(names: dict[int, str]) -> str:
    return (
        f"0 to {len(names) - 1}" if sorted(names) == list(range(len(names))) else ", ".join(map(str, sorted(names)))
    )


def _names(value: Any, path: Path) -> dict[int, str]:
    pairs = (
        list(enumerate(value)) if isinstance(value, list) else list(value.items()) if isinstance(value, dict) else []
    )
    names = {}
    for key, name in pairs:
        number = whole(key)
        if number is None or number < 0:
            raise ValueError(f"{path}: the keys of names must be whole numbers from 0; got {brief(key)}")
        if isinstance(name, int | float) and not isinstance(name, bool):
            name = str(name)  # a class "7" without quotes
        if not isinstance(name, str) or len(name.splitlines()) != 1 or not name.strip():
            raise ValueError(f"{path}: each of names must be one line of text; got {brief(name)}")
        names[number] = name.strip()
    if not names or len(set(names.values())) < len(pairs):
        raise ValueError(f"{path}: names must be one or more different class names; got {brief(value)}")
    return dict(sorted(names.items()))


def _is_config(path: Path) -> bool:
    """Tell whether a YAML file is for YOLO, perhaps with names alone: other programs have such files too."""
    try:
        text = read_text(path, MOST_CONFIG_BYTES)
    except (OSError, ValueError):
        return False
    keys = {key.strip("\"'") for key in re.findall(r"^(?:\{\s*)?([\"']?\w+[\"']?)\s*:", text, re.MULTILINE)}
    return "names" in keys and bool(keys & SPLIT_KEYS.keys() or keys <= {"names", "nc", "path"})


def _by_config(folder: Folder, file: str, strict: bool, options: ReadOptions) -> Reading | None:
    """Read what a `data.yaml` describes; None if there is no label file for any of its images."""
    path = folder.path(file)
    config = parse_config(path)
    here = os.path.dirname(file) or "."
    bases = list(dict.fromkeys([str(PurePosixPath(here, *_below(config.base, here))), here, "."]))
    places: dict[str, int] = {}
    splits, missing, notes, lost = {}, [], [], []
    for split, entries in config.entries.items():
        for entry in entries:
            place = folder.find_place(entry, bases)
            images = None if place is None else _listed(folder, place, missing, options)
            if images is None:
                lost.append((split, entry))
                continue
            indices = splits.setdefault(split, {})
            indices |= dict.fromkeys(places.setdefault(image, len(places)) for image in images)  # some come twice
    found = _labels_of(folder, list(places))
    labels = [found.get(image) for image in places]
    if not found:
        return None
    for split, entry in lost:
        if split != "test" or strict:
            raise FileNotFoundError(
                f"{path}: {split} must be a folder of images, or a list of images, below {folder.root}; got {entry!r}"
            )
        notes.append(f"{split} of {file} is not there")
    without = labels.count(None)
    lost_images = {path_parts(name)[-1].rpartition(".")[0] for name in missing}
    alone = _labels_alone(folder, {os.path.dirname(label) for label in found.values()}, found.values())
    missing += [file for file in alone if PurePosixPath(file).stem not in lost_images]
    return annotated_reading(
        "yolo",
        "YOLO labels",
        folder,
        [
            _annotated(folder, image, label, config.names, options, keypoints=config.keypoints)
            for image, label in zip(places, labels, strict=True)
        ],
        where=file,
        class_names=list(config.names.values()),
        splits={split: list(indices) for split, indices in splits.items()},
        missing=missing,
        notes=[*notes, *([f"{plural(without, 'image')} without a label file are background"] if without else [])],
        strict=strict,
        options=options,
    )


def _below(base: str, here: str) -> Sequence[str]:
    """Return the parts of the YAML file's `path`, if it is relative."""
    return (
        ()
        if re.match(r"[\\/~]|[A-Za-z]:", base)
        else [part for part in re.split(r"[\\/]", base) if part not in ("", ".", "..")]
    )


def _listed(folder: Folder, place: str, missing: list[str], options: ReadOptions) -> list[str] | None:
    """Return the images of a folder, or those that a text file lists; None if it is neither."""
    if images := folder.images_below(place):
        return images
    if suffix(place) != ".txt":
        return None
    found = []
    for line in read_lines(folder.path(place), options.max_annotation_bytes):
        if name := line.strip():
            image = folder.find_image(name, near=place)
            (found if image else missing).append(image or name)
    return found


def _labels_of(folder: Folder, images: Sequence[str]) -> dict[str, str]:
    """Return the label file of each image that has one.

    It is where YOLO's programs look, or in a folder of another usual name of which a file looks like labels.
    """
    labels = {}
    for image in images:
        if places := [file for file in _usual_places(image) if file in folder]:
            labels[image] = places[0]
    others = [(image, file) for image in images if image not in labels for file in _possible_labels(image)]
    others = [(image, file) for image, file in others if file in folder]
    folders = {os.path.dirname(file) for _, file in others if _looks_like_labels(folder.path(file))}
    for image, file in others:
        if os.path.dirname(file) in folders:
            labels.setdefault(image, file)
    return labels


def _labels_alone(folder: Folder, folders: set[str], labels: Iterable[str]) -> list[str]:
    """Return the files in `folders` that look like labels of no image, leaving out `labels`, which have one."""
    used = set(labels)
    texts = [file for file in folder.of_kind(".txt") if os.path.dirname(file) in folders and file not in used]
    texts = [file for file in texts if _looks_like_labels(folder.path(file))]
    of_images = {file for image in folder.images for file in _possible_labels(image)} if texts else set()
    return [file for file in texts if file not in of_images]


def _annotated(
    folder: Folder,
    image: str,
    label: str | None,
    names: dict[int, str] | None,
    options: ReadOptions,
    *,
    keypoints: bool = False,
) -> Annotated:
    objects = parse_labels(folder.path(label), names, options, keypoints=keypoints) if label else []
    return Annotated(image, folder.path(image), image, folder.path(label or image), None, objects, fractions=True)


def _by_labels(folder: Folder, configs: Sequence[str], strict: bool, options: ReadOptions) -> Reading | None:
    """Read labels without a `data.yaml`: text files in `labels` for images in `images`, or beside their images.

    A folder has labels if the first line of one of its files is of YOLO's format. Then all of its files that have an
    image are read, and all images of the folders of these images. `configs` may name the classes.
    """
    images = {file: image for image in folder.images for file in _possible_labels(image) if file in folder}
    texts = {file: image for file, image in images.items() if PurePosixPath(file).name.lower() not in NO_LABELS}
    folders = {os.path.dirname(file) for file in texts if _looks_like_labels(folder.path(file))}
    labels = {image: file for file, image in texts.items() if os.path.dirname(file) in folders}
    if not labels:
        return None
    image_folders = {os.path.dirname(image) for image in labels}
    chosen = [image for image in folder.images if os.path.dirname(image) in image_folders]
    names, where_names = names_file(folder, folders)
    notes = []
    if names is None and configs:
        where_names = min(configs, key=lambda file: (file.count("/"), file))
        config = parse_config(folder.path(where_names))
        names = config.names
        if strict and config.entries:
            raise ValueError(f"{folder.path(where_names)}: with strict, its images must have labels; got none")
        notes += [f"{split} of {where_names} has no images with labels" for split in config.entries]
    annotated = [_annotated(folder, image, labels.get(image), names, options) for image in chosen]
    if names is None:
        numbers = max((int(o.name) for a in annotated for o in a.objects), default=-1) + 1
        class_names = [str(k) for k in range(numbers)]
    else:
        class_names = list(names.values())
    in_labels = {
        d for d in map(os.path.dirname, folder.of_kind(".txt")) if {*d.lower().split("/")} & {*LABEL_FOLDERS}
    }
    without = len(chosen) - len(labels)
    notes += [f"class names in {where_names}"] if where_names else []
    notes += [f"{plural(without, 'image')} without a label file are background"] if without else []
    return annotated_reading(
        "yolo",
        "YOLO labels",
        folder,
        annotated,
        where=" and ".join("*.txt" if place in ("", ".") else f"{place}/*.txt" for place in sorted(folders)),
        class_names=class_names,
        missing=_labels_alone(folder, folders | in_labels, labels.values()),
        named=names is not None,
        notes=notes,
        strict=strict,
        options=options,
    )


def _usual_places(image: str) -> tuple[str, str]:
    """Return where YOLO's programs look for the labels of an image, and the place beside it."""
    return label_file(image), str(PurePosixPath(image).with_suffix(".txt"))


def _possible_labels(image: str) -> Iterator[str]:
    """Give the places where the labels of an image may be: the usual ones, then in `label` for `image` and so on."""
    yield from dict.fromkeys(_usual_places(image))
    path = PurePosixPath(image)
    for k, part in enumerate(path.parts[:-1]):
        if part.lower() in IMAGE_FOLDERS:
            for name in LABEL_FOLDERS:
                yield str(PurePosixPath(*path.parts[:k], name, *path.parts[k + 1 :]).with_suffix(".txt"))


def _looks_like_labels(path: Path) -> bool:
    """Tell whether the first line with words is a class number and coordinates from 0 to 1."""
    words = next((line.split() for line in read_head(path, 4000) if line.strip()), [""])
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError:
        return False
    kind = whole(words[0])
    return kind is not None and kind >= 0 and len(numbers) >= 4 and all(-0.5 <= number <= 1.5 for number in numbers)


def names_file(folder: Folder, folders: set[str]) -> tuple[dict[int, str] | None, str]:
    """Return the class names of the file of names that is nearest to the labels, and that file; None if none is."""
    found = [
        file for file in folder.files if PurePosixPath(file).name.lower() in NAMES_FILES or suffix(file) == ".names"
    ]
    if not found:
        return None, ""
    near = [file for file in found if os.path.dirname(file) in folders]
    file = min(near or found, key=lambda file: (file.count("/"), file))
    lines = [line.strip() for line in read_lines(folder.path(file), MOST_CONFIG_BYTES)]
    while lines and not lines[-1]:
        lines.pop()
    return _names(lines, folder.path(file)), file
