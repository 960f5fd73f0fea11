"""Any folder of labelled images: which format it has, and what is in it."""

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ssd_jax.data.box_list import read_box_list
from ssd_jax.data.box_table import some
from ssd_jax.data.coco import read_coco
from ssd_jax.data.csv_boxes import read_csv
from ssd_jax.data.cvat import read_cvat
from ssd_jax.data.example import Source
from ssd_jax.data.folder import Folder, suffix
from ssd_jax.data.hugging_face import read_hugging_face
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.label_studio import read_label_studio
from ssd_jax.data.labelme import read_labelme
from ssd_jax.data.random_cut import random_cut
from ssd_jax.data.reading import MAIN_SPLITS, Reading, difference, join_readings
from ssd_jax.data.voc import read_voc
from ssd_jax.data.yolo import read_yolo

logger = logging.getLogger("ssd_jax")

# Name in data.source -> reader. Of two formats that say the same, the first one is taken: it can hold more.
READERS: dict[str, Callable[..., Reading | None]] = {
    "voc": read_voc,
    "coco": read_coco,
    "cvat": read_cvat,
    "labelme": read_labelme,
    "label_studio": read_label_studio,
    "csv": read_csv,
    "yolo": read_yolo,
    "box_list": read_box_list,
    "hugging_face": read_hugging_face,
}
FOLDER_KINDS = ("auto", *READERS)  # of `data.source`: folders of labelled images
SETTLED = 2.0  # seconds since the last change of a file after which its time of change can be trusted
_last: dict[str, Any] = {}  # the last reading, and what it is of
# What the names mean in a folder that names no splits: parts of `random_order`.
DEFAULT_SPLITS = {"train": (0.0, 0.8), "val": (0.8, 0.9), "test": (0.9, 1.0)}


class FolderDescription(NamedTuple):
    """What `describe_folder` found.

    Attributes:
      text: one line: the folder, its format, images, boxes, classes and splits.
      class_names: the classes in the order of their labels.
      train: a split to train on.
      eval: a split to evaluate on, which has no image of `train`.
      splits: number of images by split, as the data names them.
      images: how many there are.
      boxes: how many objects there are.
    """

    text: str
    class_names: tuple[str, ...]
    train: str
    eval: str
    splits: dict[str, int]
    images: int
    boxes: int


def describe_folder(
    root: str | Path,
    kind: str = "auto",
    *,
    strict: bool = False,
    allow_outside: bool = False,
    options: ReadOptions = DEFAULTS,
) -> FolderDescription:
    """Look at a folder of labelled images, and suggest what to train and to evaluate on.

    Args:
      root: the folder.
      kind: "auto", or a name of `READERS`.
      strict: refuse annotation errors.
      allow_outside: see `COCOJson`.
      options: see `ReadOptions`.

    Raises:
      ValueError: the folder has no format that is known, or two that differ, or a file breaks a rule of its format.
      FileNotFoundError: the folder, or an image, does not exist.
    """
    reading = read_folder(root, kind, strict=strict, allow_outside=allow_outside, options=options)
    train, evaluation = _suggestion(reading)
    return FolderDescription(
        text=f"{root}: {reading.counts()}",
        class_names=reading.class_names,
        train=train,
        eval=evaluation,
        splits={name: len(indices) for name, indices in reading.splits.items()},
        images=len(reading.images),
        boxes=sum(reading.boxes),
    )


def read_folder(
    root: str | Path,
    kind: str = "auto",
    *,
    strict: bool = False,
    allow_outside: bool = False,
    options: ReadOptions = DEFAULTS,
) -> Reading:
    """Read all annotations below a folder; see `describe_folder`.

    The last reading is kept, for the next split, as long as no file changes.
    """
    folder = Folder(root)
    asked = (folder.root, kind, strict, allow_outside, options)
    state, newest = _state(folder)
    if _last.get("key") == (asked, state):
        return _last["reading"]
    started = time.time()
    reading = _read(folder, kind, {"strict": strict, "allow_outside": allow_outside, "options": options})
    _last.clear()
    if newest < started - SETTLED:  # a file that is changed again within the clock's resolution looks the same
        _last.update(key=(asked, state), reading=reading)
    return reading


def _state(folder: Folder) -> tuple[object, float]:
    """Return what changes when a file does, and when the last one changed, in seconds of the clock."""
    images = set(folder.images)
    status = [_status(folder.path(file)) for file in folder.files if file not in images]
    newest = max((max(s.st_mtime, s.st_ctime) for s in status), default=0.0)
    return (tuple(folder.files), tuple((s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in status)), newest


def _status(path: Path) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError:  # a link to nothing
        return os.lstat(path)


def _read(folder: Folder, kind: str, how: dict[str, Any]) -> Reading:
    readers = READERS if kind == "auto" else {kind: READERS[kind]}
    readings = [reading for read in readers.values() if (reading := read(folder, **how))]
    if not readings:
        raise ValueError(f"{folder.root}: {_nothing_found(folder, kind)}")
    if len(readings) == 1:
        return readings[0]
    images = [image for reading in readings for image in reading.images]
    if len(set(images)) == len(images):
        return join_readings(readings)
    return _only(folder, readings)


def open_folder(
    root: str | Path,
    split: str,
    kind: str = "auto",
    *,
    class_names: Sequence[str] = (),
    drop_other_classes: bool = False,
    strict: bool = False,
    allow_outside: bool = False,
    options: ReadOptions = DEFAULTS,
) -> Source:
    """Open a split of a folder of labelled images.

    Args:
      root: the folder.
      split: "all", or a split that the data names. Where it names none: "train", "val" and "test", random 80, 10 and
        10 % of the images; see `random_order`.
      kind: "auto", or a name of `READERS`.
      class_names: the classes in the order of their labels; () takes all classes of the data. Where the data only
        numbers its classes, these are their names, in the order of the numbers.
      drop_other_classes: drop objects of other classes, which are an error otherwise.
      strict: refuse annotation errors.
      allow_outside: see `COCOJson`.
      options: see `ReadOptions`.

    Raises:
      ValueError: see `describe_folder`; or there is no such split, or an object has another class.
      FileNotFoundError: the folder, or an image, does not exist.
    """
    reading = read_folder(root, kind, strict=strict, allow_outside=allow_outside, options=options)
    logger.info("%s: %s", root, reading.counts())
    for warning in reading.warnings:
        logger.warning("%s", warning)
    names = tuple(class_names) or reading.class_names
    by_number = bool(class_names) and not reading.named and not set(class_names) & set(reading.class_names)
    if by_number and len(names) < len(reading.class_names):
        raise ValueError(
            f"{root}: the data numbers its classes from 0 to {len(reading.class_names) - 1}, so class_names must be "
            f"{len(reading.class_names)} or more; got {len(names)}"
        )
    numbers = tuple(map(str, range(len(names)))) if by_number else names
    is_random = split in DEFAULT_SPLITS and not any(reading.splits.values())
    indices = range(len(reading.images)) if split == "all" or is_random else reading.splits.get(split)
    if indices is not None and not len(indices):
        raise ValueError(f"{root}: the split {split!r} must have images; got none")
    if indices is None:
        found = ", ".join(["all", *sorted(reading.splits)])
        raise ValueError(f"{root}: a split must be one of {found}, or a part of one, as all[~:80%]; got {split!r}")
    source = reading.open(indices, numbers, drop_other_classes=drop_other_classes, quiet=False)
    if by_number:
        source.class_names = names
    if not is_random:
        return source
    part = random_cut(source, *DEFAULT_SPLITS[split])
    if part is None:
        raise ValueError(
            f"{root}: the {len(source)} images are too few for the split {split!r}; name a larger part, as all[~50%:]"
        )
    return part


def _only(folder: Folder, readings: Sequence[Reading]) -> Reading:
    """Return the first reading, if all others say the same.

    Raises:
      ValueError: another one says something else.
    """
    first, *others = readings
    for other in others:
        if what := difference(first, other):
            raise ValueError(
                f"{folder.root}: a folder must have one meaning; got two: {first.counts()}, or {other.counts()}: "
                f"{what}; choose with data.source={first.kind} or data.source={other.kind} (--from of convert), "
                "or name the folder of one"
            )
        first.notes.append(f"{other.title} in {other.where} says the same")
        if not first.splits and other.splits:
            places = {image: index for index, image in enumerate(first.images)}
            named = {name: [other.images[i] for i in indices] for name, indices in other.splits.items()}
            first.splits = {name: [places[i] for i in images if i in places] for name, images in named.items()}
    return first


def _suggestion(reading: Reading) -> tuple[str, str]:
    named = [name for name in MAIN_SPLITS if reading.splits.get(name)]
    whole = named[0] if len(named) == 1 else "all"
    if "train" in named and len(named) > 1:
        return "train", named[1]
    return f"{whole}[~:80%]", f"{whole}[~80%:]"


def _nothing_found(folder: Folder, kind: str) -> str:
    titles = ", ".join(READERS) if kind == "auto" else kind
    if not folder.images:
        return f"the folder must hold images and annotations; got {len(folder.files)} files, none of them an image"
    others = sorted({suffix(file) or "without an extension" for file in set(folder.files) - set(folder.images)})
    found = f"{len(folder.images):,} images and " + (f"files {some(others)}" if others else "no other file")
    return f"the annotations must be of a format that is known ({titles}); got {found}"
