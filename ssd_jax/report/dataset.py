"""Walk a dataset and report what is in it."""

import dataclasses
import hashlib
import os
from collections import Counter
from typing import Any

import numpy as np

from ssd_jax.data import Example, UnreadableImage, decode
from ssd_jax.data.box_table import some
from ssd_jax.data.headers import read_header

SAME = {".jpeg": ".jpg", ".tiff": ".tif"}


@dataclasses.dataclass
class Report:
    """What `check` found; `dirt` is {kind: names, one for each finding}; `shapes` [N, 4] all corners."""

    class_names: tuple[str, ...]
    images: int = 0
    boxes: int = 0
    difficult: int = 0
    empty: int = 0  # images without boxes
    most_boxes: int = 0
    by_class: Counter = dataclasses.field(default_factory=Counter)
    sizes: Counter = dataclasses.field(default_factory=Counter)  # (height, width) of decoded images
    dirt: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    shapes: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4), np.float32))

    def note(self, kind: str, name: str):
        """Add a finding."""
        self.dirt.setdefault(kind, []).append(name)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        plain = {
            name: getattr(self, name) for name in ("images", "boxes", "difficult", "empty", "most_boxes", "dirt")
        }
        sizes = [{"height": h, "width": w, "images": n} for (h, w), n in self.sizes.most_common()]
        return plain | {"boxes_by_class": {name: self.by_class[name] for name in self.class_names}, "sizes": sizes}

    def text(self, names: int = 5) -> str:
        """A page; `names` images are named of each kind of dirt."""
        lines = [
            f"images      {self.images:,}, {self.empty:,} of them without boxes",
            f"boxes       {self.boxes:,}, {self.difficult:,} of them difficult; at most {self.most_boxes} an image",
            f"classes     {len(self.class_names)}",
            *(f"  {self.by_class[name]:>9,}  {name}" for name in self.class_names),
            f"sizes       {len(self.sizes)} (width x height)",
            *(f"  {n:>9,}  {w} x {h}" for (h, w), n in self.sizes.most_common(5)),
            "dirt        " + ("" if self.dirt else "none"),
            *(
                f"  {len(found):>9,}  {kind}: {some(list(dict.fromkeys(found)), names)}"
                for kind, found in sorted(self.dirt.items())
            ),
        ]
        return "\n".join(lines)


def check(source: Any, *, max_boxes: int = 64) -> Report:
    """Read every image of a source once and report images, boxes, sizes, classes and dirt by kind.

    Kinds: what the source mended (see `BoxTable`), and: unreadable; EXIF-turned; grayscale, palette, alpha, CMYK;
    16 bits; wrong extension; size disagrees with the annotation; same file as another; box twice; box beyond the
    `max_boxes` of its image, which training would leave out; class without a box. A source that is opened as
    `strict` does not get here.
    """
    report = Report(tuple(source.class_names))
    first: dict[bytes, str] = {}
    corners = [report.shapes]
    for index in range(len(source)):
        example = source[index]
        name = example.file or example.image_id
        _count(report, example, name)
        for _ in range(len(example.boxes) - max_boxes):
            report.note(f"box beyond max_boxes = {max_boxes}", name)
        corners.append(example.boxes)
        if isinstance(example.image, bytes):
            _check_file(report, example, name, first)
        try:
            size = decode(example.image).shape[:2]
        except UnreadableImage as error:
            report.note("unreadable", f"{name} ({error})")
            continue
        report.sizes[size] += 1
        if example.size and example.size != size:
            report.note("size disagrees with the annotation", name)
    report.shapes = np.concatenate(corners)
    for name in report.class_names:
        if not report.by_class[name]:
            report.note("class without a box", name)
    return report


def _count(report: Report, example: Example, name: str):
    report.images += 1
    report.boxes += len(example.boxes)
    report.difficult += int(np.sum(example.difficult))
    report.empty += not len(example.boxes)
    report.most_boxes = max(report.most_boxes, len(example.boxes))
    report.by_class.update(report.class_names[label - 1] for label in example.labels.tolist())
    for kind in example.dirt:
        report.note(kind, name)
    rows = Counter(zip(map(tuple, example.boxes.tolist()), example.labels.tolist(), strict=True))
    for times in rows.values():
        for _ in range(times - 1):
            report.note("box twice", name)


def _check_file(report: Report, example: Example, name: str, first: dict[bytes, str]):
    header = read_header(example.image)
    if header.orientation != 1:
        report.note("EXIF-turned", name)
    if header.colour != "colour":
        report.note(header.colour, name)
    if header.bits > 8:
        report.note(f"{header.bits} bits", name)
    extension = os.path.splitext(example.file)[1].lower()
    if extension and header.extension and SAME.get(extension, extension) != header.extension:
        report.note(f"wrong extension (a {header.extension[1:]})", name)
    digest = hashlib.sha256(example.image).digest()
    if example.image and digest in first:
        report.note("same file as another", f"{name} = {first[digest]}")
    first.setdefault(digest, name)
