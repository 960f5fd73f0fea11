"""Write a dataset in the layout of VOC, COCO or YOLO."""

import dataclasses
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from xml.sax.saxutils import escape

import cv2
import numpy as np
import yaml

from ssd_jax.data.box_table import some
from ssd_jax.data.combine import coco_truth
from ssd_jax.data.example import Example, Source
from ssd_jax.data.folder import suffix
from ssd_jax.data.formats import EXTENSIONS, UnreadableImage, read_header
from ssd_jax.data.image import decoded_size
from ssd_jax.data.reading import MAIN_SPLITS, plural
from ssd_jax.files import with_path

EXTENSION_OF = {"JPEG": ".jpg", "TIFF": ".tif"}  # by the name of the format; other extensions are that name


class Written(NamedTuple):
    """One image as it is written."""

    name: str  # file name, different for each image
    size: tuple[int, int]  # (height, width)
    example: Example

    def corners(self) -> np.ndarray:
        """Return the corners in pixels, float64 [n, 4]."""
        height, width = self.size
        return self.example.boxes.astype(np.float64) * (width, height, width, height)


def write_dataset(source: Source, splits: Mapping[str, Sequence[int]], folder: str | Path, layout: str) -> list[str]:
    """Write all images of a source, whole or not at all.

    Image files are copied as they are. Boxes keep their corners: those of VOC and COCO are fractions times the sides,
    as they are read; VOC's with two decimals, where they are not whole.

    Args:
      source: the images.
      splits: indices of the images of each split; {} for none. In COCO's and YOLO's layout an image is written for
        the first split that has it, in the order "train", "val", "test", and then of the names; images of no split
        are in "rest".
      folder: where to write; there must be no such folder, or an empty one.
      layout: a name of `LAYOUTS`.

    Returns:
      what the layout cannot hold, or was left out, each in a sentence.

    Raises:
      ValueError: the folder is not empty, or there is no such layout, or no image can be read, or none for VOC
        has a box.
      OSError: a file cannot be written; nothing is left then.
    """
    folder = Path(folder).absolute()
    if layout not in LAYOUTS:
        raise ValueError(f"a layout must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: the folder to write must be empty or not exist; got one that holds files")
    partial = folder.with_name(folder.name + ".partial")
    if partial.exists():
        raise ValueError(f"{partial}: must not exist; it is left of a conversion that was killed: remove it")
    if layout == "voc" and (wrong := [name for name in source.class_names if not name.isprintable()]):
        raise ValueError(f"{folder}: XML cannot hold a class name with control characters; got {wrong[0]!r}")
    unreadable: list[str] = []
    try:
        partial.mkdir(parents=True)
        images = _images(source, unreadable)
        LAYOUTS[layout](images, source, splits, partial)
        if len(unreadable) == len(source):
            raise ValueError(f"{folder}: at least one image must be readable; got none of {len(source)}")
        os.replace(partial, folder)
    except OSError as error:
        raise with_path(error, error.filename or folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    left_out = f"{plural(len(unreadable), 'image')} left out, which cannot be read: {some(unreadable)}."
    return [left_out] * bool(unreadable) + _losses(source, layout)


def _images(source: Source, unreadable: list[str]) -> Iterator[tuple[int, Written]]:
    """Give (index, image) of each image that can be read; name the others in `unreadable`."""
    stems = Counter(_stem(source, index) for index in range(len(source)))
    names: set[str] = set()
    for index in range(len(source)):
        example = source[index]
        try:
            size = decoded_size(example.image, size=example.size, options=example.options)
            ending = _extension(example)
        except UnreadableImage:
            unreadable.append(example.file or example.image_id)
            continue
        stem = _stem(source, index)
        if stems[stem] > 1:  # the same name in two folders
            stem = "_".join(PurePosixPath(example.file or example.image_id).with_suffix("").parts)
        while stem.lower() in names:
            stem += "_"
        stem = stem.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # a name that is not UTF-8
        names.add(stem.lower())
        yield index, Written(f"{stem}{ending}", size, example)


def _stem(source: Source, index: int) -> str:
    read = getattr(source, "annotation", None)
    example = source[index] if read is None else read(index)
    return PurePosixPath(example.file or example.image_id).stem


def _extension(example: Example) -> str:
    if isinstance(example.image, np.ndarray):
        return ".png"
    own = suffix(example.file)
    return own if own in EXTENSIONS else _usual_extension(example.image)


def _usual_extension(image: bytes) -> str:
    name = read_header(image).format
    return EXTENSION_OF.get(name, f".{name.lower()}")


def _save(written: Written, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image = written.example.image
    if isinstance(image, np.ndarray):
        image = cv2.imencode(".png", cv2.cvtColor(written.example.decode(), cv2.COLOR_RGB2BGR))[1].tobytes()
    (folder / written.name).write_bytes(image)


def _write_voc(
    images: Iterator[tuple[int, Written]], source: Source, splits: Mapping[str, Sequence[int]], folder: Path
) -> None:
    stems, boxes = {}, 0
    (folder / "Annotations").mkdir()
    for index, written in images:
        boxes += len(written.example.boxes)
        _save(written, folder / "JPEGImages")
        stems[index] = PurePosixPath(written.name).stem
        xml = _xml(written, source.class_names)
        (folder / "Annotations" / f"{stems[index]}.xml").write_text(xml, encoding="utf-8")
    if stems and not boxes:
        raise ValueError("images to write in VOC's layout must have a box, to name its classes; got none")
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for split, indices in (splits or {"all": range(len(source))}).items():
        if lines := [f"{stems[index]}\n" for index in indices if index in stems]:
            (lists / f"{split}.txt").write_text("".join(lines), encoding="utf-8")


def _xml(written: Written, class_names: Sequence[str]) -> str:
    height, width = written.size
    lines = [
        "<annotation>",
        f"  <filename>{escape(written.name)}</filename>",
        f"  <size><width>{width}</width><height>{height}</height><depth>3</depth></size>",
    ]
    e = written.example
    for corners, label, difficult in zip(written.corners(), e.labels.tolist(), e.difficult.tolist(), strict=True):
        tags = zip(("xmin", "ymin", "xmax", "ymax"), corners.tolist(), strict=True)
        box = "".join(f"<{tag}>{_decimal(value)}</{tag}>" for tag, value in tags)
        lines.append(
            f"  <object><name>{escape(class_names[int(label) - 1])}</name><difficult>{int(difficult)}</difficult>"
            f"<bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>", ""])


def _write_coco(
    images: Iterator[tuple[int, Written]], source: Source, splits: Mapping[str, Sequence[int]], folder: Path
) -> None:
    split_of = _split_of(splits, len(source))
    categories = [{"id": k, "name": name} for k, name in enumerate(source.class_names, start=1)]
    parts: dict[str, dict[str, list]] = {}
    for number, (index, written) in enumerate(images, start=1):
        split = split_of[index]
        _save(written, folder / split)
        part = parts.setdefault(split, {"images": [], "categories": categories, "annotations": []})
        height, width = written.size
        part["images"].append({"id": number, "file_name": written.name, "width": width, "height": height})
        for corners, label in zip(written.corners(), written.example.labels.tolist(), strict=True):
            x, y, w, h = (round(float(v), 4) for v in (*corners[:2], *(corners[2:] - corners[:2])))
            row = {"id": 1 + len(part["annotations"]), "image_id": number, "category_id": label, "bbox": [x, y, w, h]}
            part["annotations"].append(row | {"area": round(w * h, 4), "iscrowd": 0})
    (folder / "annotations").mkdir()
    for split, part in parts.items():
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(part, ensure_ascii=False), encoding="utf-8")


def _write_yolo(
    images: Iterator[tuple[int, Written]], source: Source, splits: Mapping[str, Sequence[int]], folder: Path
) -> None:
    split_of = _split_of(splits, len(source)) if splits else dict.fromkeys(range(len(source)), "")
    used: dict[str, None] = {}
    for index, written in images:
        split, e = split_of[index], written.example
        used[split] = None
        if isinstance(e.image, bytes) and decoded_size(e.image, options=e.options) != written.size:
            # Stored pixels, which EXIF says to turn, but the boxes do not: without a size nothing would tell.
            e = dataclasses.replace(e, image=e.decode())
            written = written._replace(name=f"{PurePosixPath(written.name).stem}.png", example=e)
        _save(written, folder / "images" / split)
        lines = []
        for (x0, y0, x1, y1), label in zip(e.boxes.astype(np.float64).tolist(), e.labels.tolist(), strict=True):
            lines.append(f"{label - 1} {(x0 + x1) / 2:.7f} {(y0 + y1) / 2:.7f} {x1 - x0:.7f} {y1 - y0:.7f}\n")
        labels = folder / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{PurePosixPath(written.name).stem}.txt").write_text("".join(lines), encoding="utf-8")
    keys = {split or "train": f"images/{split}".rstrip("/") for split in used if split in ("", *MAIN_SPLITS)}
    names = dict(enumerate(source.class_names))
    text = yaml.safe_dump(keys | {"names": names}, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(text, encoding="utf-8")


LAYOUTS: dict[str, Callable[..., None]] = {"voc": _write_voc, "coco": _write_coco, "yolo": _write_yolo}


def _split_of(splits: Mapping[str, Sequence[int]], images: int) -> dict[int, str]:
    """Return the one split that each image is written for."""
    order = {name: k for k, name in enumerate(MAIN_SPLITS)}
    found = dict.fromkeys(range(images), "rest" if splits else "all")
    for split in sorted(splits, key=lambda name: (order.get(name, len(order)), name), reverse=True):
        found |= dict.fromkeys(splits[split], split)
    return found


def _losses(source: Source, layout: str) -> list[str]:
    """Say what a layout cannot hold of a source."""
    read = getattr(source, "annotation", source.__getitem__)
    examples = [read(index) for index in range(len(source))]
    difficult = sum(int(e.difficult.sum()) for e in examples)
    used = {label for e in examples for label in e.labels.tolist()}
    notes = []
    if difficult and layout != "voc":
        notes.append(f"{plural(difficult, 'difficult flag')} left out: {layout.upper()} has none.")
    unused = [name for k, name in enumerate(source.class_names, start=1) if k not in used]
    if unused and layout == "voc":
        notes.append(f"{plural(len(unused), 'class')} without a box left out, which VOC cannot name: {some(unused)}.")
    truth = coco_truth(source)
    crowds = sum(row["iscrowd"] for row in truth["annotations"]) if truth else 0
    if crowds:
        notes.append(f"{plural(crowds, 'crowd')} left out.")
    if truth and layout == "coco":
        notes.append("Areas are those of the boxes: outlines are not read.")
    return notes


def _decimal(value: float) -> str:
    """Write a number with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
