"""Read every image of a dataset and report what is in it."""

import dataclasses
import hashlib
import io
import os
import warnings
from collections import Counter

import numpy as np
import PIL.Image

from ssd_jax.data import Example, Source, UnreadableImage
from ssd_jax.data.box_table import some
from ssd_jax.data.formats import ORIENTATION

# By Pillow's names. A phone's JPEG may hold several images (MPO).
EXTENSIONS_BY_FORMAT = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
MODES = {"1": "grayscale", "L": "grayscale", "I;16": "grayscale", "P": "palette", "CMYK": "CMYK"}
MODES |= {"LA": "alpha", "PA": "alpha", "RGBA": "alpha"}


@dataclasses.dataclass
class Report:
    """What `check` found in a dataset.

    Attributes:
      class_names: the classes.
      images: how many there are.
      boxes: how many objects there are.
      difficult: how many of them are difficult.
      empty: how many images have no object.
      most_boxes: the largest number of objects in an image.
      by_class: number of objects by class name.
      sizes: number of images by (height, width).
      findings: names of images by what was found, one for each finding.
      corners: all boxes [N, 4], fractions of their images.
      by_pixels: names of images by a digest of their pixels.
    """

    class_names: tuple[str, ...]
    images: int = 0
    boxes: int = 0
    difficult: int = 0
    empty: int = 0
    most_boxes: int = 0
    by_class: Counter[str] = dataclasses.field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = dataclasses.field(default_factory=Counter)
    findings: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    corners: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 4), np.float32))
    by_pixels: dict[bytes, list[str]] = dataclasses.field(default_factory=dict)

    def note(self, kind: str, name: str) -> None:
        """Add a finding."""
        self.findings.setdefault(kind, []).append(name)

    def also_in(self, other: "Report") -> list[str]:
        """Name the images whose pixels are also those of an image of `other`, and that image if its name differs."""
        return [
            name if name in other.by_pixels[digest] else f"{name} = {other.by_pixels[digest][0]}"
            for digest, names in self.by_pixels.items()
            if digest in other.by_pixels
            for name in names
        ]

    def to_dict(self) -> dict[str, object]:
        """Return the report as JSON's types."""
        plain = {
            name: getattr(self, name) for name in ("images", "boxes", "difficult", "empty", "most_boxes", "findings")
        }
        sizes = [{"height": h, "width": w, "images": n} for (h, w), n in self.sizes.most_common()]
        return plain | {"boxes_by_class": {name: self.by_class[name] for name in self.class_names}, "sizes": sizes}

    def text(self, names: int = 5) -> str:
        """Lay out the report as a page; of each finding at most `names` images are named."""
        lines = [
            f"images      {self.images:,}, {self.empty:,} of them without boxes",
            f"boxes       {self.boxes:,}, {self.difficult:,} of them difficult; at most {self.most_boxes} an image",
            f"classes     {len(self.class_names)}",
            *(f"  {self.by_class[name]:>9,}  {name}" for name in self.class_names),
            f"sizes       {len(self.sizes)} (width x height)",
            *(f"  {n:>9,}  {w} x {h}" for (h, w), n in self.sizes.most_common(5)),
            "findings    " + ("" if self.findings else "none"),
            *(
                f"  {len(found):>9,}  {kind}: {some(list(dict.fromkeys(found)), names)}"
                for kind, found in sorted(self.findings.items())
            ),
        ]
        return "\n".join(lines)


def check(source: Source, *, max_boxes: int = 64) -> Report:
    """Read every image of a source once and report images, boxes, sizes, classes and findings by kind.

    Findings are the annotation errors of `BoxTable`, and: unreadable; EXIF-turned; grayscale, palette, alpha, CMYK;
    16 bits; wrong extension; size disagrees with the annotation; same image as another (the same pixels, in whatever
    format); box twice; box beyond the `max_boxes` of its image, which training would drop; class without a box.

    A source that was opened with `strict` raises an error where another one has annotation errors to report.
    """
    report = Report(tuple(source.class_names))
    corners = [report.corners]
    for index in range(len(source)):
        example = source[index]
        name = example.file or example.image_id
        _count(report, example, name)
        for _ in range(len(example.boxes) - max_boxes):
            report.note(f"box beyond max_boxes = {max_boxes}", name)
        corners.append(example.boxes)
        _check_image(report, example, name)
    report.corners = np.concatenate(corners)
    for name in report.class_names:
        if not report.by_class[name]:
            report.note("class without a box", name)
    return report


def _count(report: Report, example: Example, name: str) -> None:
    report.images += 1
    report.boxes += len(example.boxes)
    report.difficult += int(np.sum(example.difficult))
    report.empty += not len(example.boxes)
    report.most_boxes = max(report.most_boxes, len(example.boxes))
    report.by_class.update(report.class_names[label - 1] for label in example.labels.tolist())
    for kind in example.errors:
        report.note(kind, name)
    rows = Counter(zip(map(tuple, example.boxes.tolist()), example.labels.tolist(), strict=True))
    for times in rows.values():
        for _ in range(times - 1):
            report.note("box twice", name)


def _check_image(report: Report, example: Example, name: str) -> None:
    try:
        pixels = example.decode()
    except UnreadableImage as error:
        report.note("unreadable", f"{name} ({error})")
        return
    size = pixels.shape[:2]
    report.sizes[size] += 1
    if example.size and example.size != size:
        report.note("size disagrees with the annotation", name)
    if isinstance(example.image, bytes):
        for kind in _file_findings(example.image, os.path.splitext(example.file)[1].lower()):
            report.note(kind, name)
    digest = hashlib.sha256(repr(size).encode() + pixels.tobytes()).digest()
    same = report.by_pixels.setdefault(digest, [])
    if same:
        report.note("same image as another", f"{name} = {same[0]}")
    same.append(name)


def _file_findings(file: bytes, extension: str) -> list[str]:
    """Say what is unusual about the file of an image that can be decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about sizes and metadata
            image = PIL.Image.open(io.BytesIO(file))
            orientation = image.getexif().get(ORIENTATION, 1)
    except Exception as error:  # whatever broken metadata makes Pillow raise: the pixels were decoded without it
        return [f"header that Pillow refuses ({type(error).__name__})"]
    findings = []
    if orientation != 1:
        findings.append("EXIF-turned")
    if image.mode in MODES:
        findings.append(MODES[image.mode])
    if image.mode == "I;16" or (image.format == "PNG" and file[24] == 16):  # Pillow turns deep colours into 8 bits
        findings.append("16 bits")
    known = EXTENSIONS_BY_FORMAT.get(image.format or "", ())
    if extension and known and extension not in known:
        findings.append(f"wrong extension (a {known[0][1:]})")
    return findings
