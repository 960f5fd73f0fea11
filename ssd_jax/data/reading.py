"""What one format makes of a folder: its images, classes and splits, and a source of some of them."""

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ssd_jax.data.annotated import Annotated, AnnotatedImages
from ssd_jax.data.box_table import some
from ssd_jax.data.combine import Joined
from ssd_jax.data.example import Example, Source
from ssd_jax.data.folder import Folder, common_folder, split_word
from ssd_jax.data.image import DEFAULTS, ReadOptions

logger = logging.getLogger("ssd_jax")

MAIN_SPLITS = ("train", "val", "test")
TOLERANCE = 0.01  # of a side: corners of two formats that differ by less are the same


Opener = Callable[..., Source]
"""Makes a source of some images of a reading: (indices, class_names, *, drop_other_classes, quiet) -> source."""


@dataclasses.dataclass
class Reading:
    """What one format makes of a folder.

    Attributes:
      kind: the name of the format in `data.source`.
      title: the name of the format in messages.
      where: the annotation files, in a few words.
      class_names: the classes in the order of their labels.
      images: paths of the images, relative to the folder, in order.
      boxes: number of objects of each image.
      splits: indices of the images of each split that the data names; a split may have none.
      open: makes a source.
      named: whether the data names its classes; else they are numbers as text, from "0".
      notes: what else to say about it, each a clause.
      warnings: messages to log when the data is opened.
    """

    kind: str
    title: str
    where: str
    class_names: tuple[str, ...]
    images: list[str]
    boxes: list[int]
    splits: dict[str, list[int]]
    open: Opener
    named: bool = True
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def counts(self) -> str:
        """Say what the folder holds: format, images, boxes, classes, splits."""
        classes = len(self.class_names)
        names = f" ({some(self.class_names, 5)})" if self.named else ", which are numbers"
        parts = [
            f"{self.title} in {self.where}: {plural(len(self.images), 'image')}, {plural(sum(self.boxes), 'box')} of "
            f"{plural(classes, 'class')}{names}"
        ]
        order = {name: k for k, name in enumerate(MAIN_SPLITS)}
        names = sorted(self.splits, key=lambda name: (order.get(name, len(order)), name))
        if names:
            parts.append("splits " + some([f"{name} {len(self.splits[name]):,}" for name in names], 5))
            if empty := [name for name in names if not self.splits[name]]:
                parts.append(f"no images in {some(empty, 5)}")
        else:
            parts.append("no splits")
        return "; ".join([*parts, *self.notes])

    def annotations(self) -> Iterable[Example]:
        """Give the examples without their images."""
        source = self.open(range(len(self.images)), self.class_names, drop_other_classes=False, quiet=True)
        return (annotation_of(source, index) for index in range(len(source)))


def annotation_of(source: Source, index: int) -> Example:
    """Return an example, without its image where the source can do without reading it."""
    read = getattr(source, "annotation", None)
    return source[index] if read is None else read(index)


def plural(number: int, word: str) -> str:
    """Count: "1 box", "2 boxes"."""
    ending = "" if number == 1 else "es" if word.endswith(("x", "s")) else "s"
    return f"{number:,} {word}{ending}"


def files_text(files: Sequence[str]) -> str:
    """Name annotation files shortly: one by its name, several by their folder and how they end."""
    if len(files) == 1:
        return files[0]
    folder, endings = common_folder(files), sorted({file.rpartition(".")[2] for file in files})
    pattern = f"*.{'|'.join(endings)}"
    return pattern if folder == "." else f"{folder}/{pattern}"


def folder_splits(files: Sequence[str]) -> dict[str, list[int]]:
    """Return the splits that folders name: indices of the files by "train", "val" and "test".

    A single word that only some of the folders have may mean anything, as a class train does: then there is no split.
    """
    splits: dict[str, list[int]] = {}
    for index, file in enumerate(files):
        if word := split_word(file):
            splits.setdefault(word, []).append(index)
    found = sum(map(len, splits.values()))
    return splits if len(splits) > 1 or found == len(files) else {}


def annotated_reading(
    kind: str,
    title: str,
    folder: Folder,
    annotated: Sequence[Annotated],
    *,
    where: str,
    class_names: Sequence[str] | None = None,
    splits: dict[str, list[int]] | None = None,
    missing: Sequence[str] = (),
    inclusive: bool = False,
    named: bool = True,
    notes: Sequence[str] = (),
    strict: bool = False,
    options: ReadOptions = DEFAULTS,
) -> Reading:
    """Make a reading of annotated images, whose `file` is their path relative to the folder.

    Args:
      kind: see `Reading`.
      title: see `Reading`.
      folder: what was read.
      annotated: the images.
      where: see `Reading`.
      class_names: see `Reading`; None: those of the objects, sorted.
      splits: see `Reading`; None: those that the images' folders name.
      missing: images that have an annotation, but no file.
      inclusive: see `Source`.
      named: see `Reading`.
      notes: see `Reading`.
      strict: whether missing images are an error.
      options: see `ReadOptions`.

    Raises:
      FileNotFoundError: no image has a file, or one has none and `strict`.
      ValueError: there are no classes.
    """
    place = f"{folder.root}, {where}"
    if class_names is None:
        class_names = sorted({o.name for a in annotated for o in a.objects})
    warnings = []
    if missing:
        found = f"{len(missing):,} of {len(missing) + len(annotated):,} have none: {some(missing)}"
        if strict or not annotated:
            raise FileNotFoundError(f"{place}: every annotation must have an image; {found}")
        warnings.append(f"{place}: annotations without an image were left out: {found}")
        notes = [*notes, f"{plural(len(missing), 'annotation')} without an image left out"]
    if wrong := [name for name in class_names if not is_unicode(name)]:
        raise ValueError(f"{place}: a class name must be text that UTF-8 can hold; got {wrong[0]!r}")
    if not class_names:
        raise ValueError(f"{place}: the annotations must have an object, to find the classes; got none")

    def open_images(
        indices: Sequence[int], names: Sequence[str], *, drop_other_classes: bool, quiet: bool
    ) -> AnnotatedImages:
        return AnnotatedImages(
            [annotated[i] for i in indices],
            names,
            where=place,
            inclusive=inclusive,
            drop_other_classes=drop_other_classes,
            strict=strict,
            options=options,
            quiet=quiet,
        )

    return Reading(
        kind=kind,
        title=title,
        where=where,
        class_names=tuple(class_names),
        images=[a.file for a in annotated],
        boxes=[len(a.objects) for a in annotated],
        splits=folder_splits([a.file for a in annotated]) if splits is None else splits,
        open=open_images,
        named=named,
        notes=list(notes),
        warnings=warnings,
    )


def join_readings(readings: Sequence[Reading]) -> Reading:
    """Join readings that have no image in common: the images one after the other, the classes by name.

    Where all readings have the same classes in the same order, it stays; else the names are sorted.
    """
    if len(readings) == 1:
        return readings[0]
    class_names = readings[0].class_names
    if any(reading.class_names != class_names for reading in readings):
        class_names = tuple(sorted({name for reading in readings for name in reading.class_names}))
    starts = np.cumsum([0, *(len(reading.images) for reading in readings)]).tolist()
    splits: dict[str, list[int]] = {}
    for start, reading in zip(starts, readings, strict=False):
        for name, indices in reading.splits.items():
            splits.setdefault(name, []).extend(start + i for i in indices)

    def open_images(indices: Sequence[int], names: Sequence[str], *, drop_other_classes: bool, quiet: bool) -> Source:
        # Images of one reading that follow one another are opened together.
        sources, run = [], []
        owners = np.searchsorted(starts, np.asarray(indices), side="right") - 1  # [n]
        for index, owner in zip(indices, owners.tolist(), strict=True):
            if not run or run[-1][0] != owner:
                run.append((owner, []))
            run[-1][1].append(index - starts[owner])
        for owner, own in run:
            how = {"drop_other_classes": drop_other_classes, "quiet": quiet}
            sources.append(readings[owner].open(own, names, **how))
        if len({source.inclusive for source in sources}) > 1:
            for source in sources:
                source.inclusive = False
        return sources[0] if len(sources) == 1 else Joined(sources)

    kinds = list(dict.fromkeys(reading.kind for reading in readings))
    return Reading(
        kind=kinds[0] if len(kinds) == 1 else "auto",
        title=" and ".join(dict.fromkeys(reading.title for reading in readings)),
        where=some([reading.where for reading in readings], 4),
        class_names=class_names,
        images=[image for reading in readings for image in reading.images],
        boxes=[n for reading in readings for n in reading.boxes],
        splits=splits,
        open=open_images,
        named=all(reading.named for reading in readings),
        notes=[note for reading in readings for note in reading.notes],
        warnings=[warning for reading in readings for warning in reading.warnings],
    )


def difference(first: Reading, second: Reading) -> str:
    """Say where two readings of one folder differ; "" if they say the same of the images that both have.

    An image that only one of them has must have no objects there: some formats leave such images out.
    """
    a, b = ({image: e for image, e in zip(r.images, r.annotations(), strict=True)} for r in (first, second))
    for image in sorted(a.keys() | b.keys()):
        if image not in a or image not in b:
            owner = second if image not in a else first
            if len((b if image not in a else a)[image].boxes):
                return f"only {owner.title} has objects in {image}"
            continue
        if not _same_objects(a[image], b[image], first, second):
            return (
                f"the objects of {image} differ: {len(a[image].boxes)} in {first.title}, "
                f"{len(b[image].boxes)} in {second.title}"
            )
    return ""


def _same_objects(a: Example, b: Example, first: Reading, second: Reading) -> bool:
    if len(a.boxes) != len(b.boxes):
        return False
    by_name = first.named and second.named
    left = list(range(len(b.boxes)))
    for box, label in zip(a.boxes, a.labels.tolist(), strict=True):
        for k in left:
            same = not by_name or first.class_names[label - 1] == second.class_names[b.labels[k] - 1]
            if same and np.abs(box - b.boxes[k]).max() <= TOLERANCE:
                left.remove(k)
                break
        else:
            return False
    return True


def is_unicode(text: str) -> bool:
    """Tell whether a text has no halves of characters, which JSON may hold, but no output can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
