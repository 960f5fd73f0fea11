"""Images with annotations that were read before: what most formats come down to."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ssd_jax.data.box_table import BoxTable, some
from ssd_jax.data.combine import check_class_names
from ssd_jax.data.example import Example, Source
from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import DEFAULTS, ReadOptions, decoded_size, read

logger = logging.getLogger("ssd_jax")


class Object(NamedTuple):
    """One object: its class, its corners as the annotation gives them, its difficult flag."""

    name: str
    corners: tuple[float, float, float, float]
    difficult: bool = False


class Annotated(NamedTuple):
    """The annotation of one image."""

    image_id: str
    path: Path  # of the image
    file: str  # of the image, for reports
    annotation: Path  # which file says so
    size: tuple[int, int] | None  # (height, width) that the annotation gives, if it does
    objects: Sequence[Object]
    fractions: bool = False  # whether corners are fractions of the image's sides, and not pixels
    load: Callable[[], bytes] | None = None  # gives the image, where it is not the file `path`

    def read(self) -> bytes:
        """Read the image; b"" where that fails, with a warning."""
        return read(self.path) if self.load is None else self.load()


class AnnotatedImages(Source):
    """Images and the annotations of each. An image is read when it is asked for.

    Corners in pixels become fractions as in Caffe (`ReadXMLToAnnotatedDatum`): corner / side, and nothing subtracted.
    A size that the annotation lacks is read from the image. For annotation errors see `BoxTable`.
    """

    def __init__(
        self,
        annotated: Sequence[Annotated],
        class_names: Sequence[str],
        *,
        where: str,
        inclusive: bool = False,
        drop_other_classes: bool = False,
        strict: bool = False,
        options: ReadOptions = DEFAULTS,
        quiet: bool = False,
    ):
        """Label the objects, and put the boxes into arrays.

        Args:
          annotated: the images, in order.
          class_names: the classes in the order of their labels.
          where: the dataset, for messages.
          inclusive: see `Source`.
          drop_other_classes: drop objects of other classes, which are an error otherwise.
          strict: refuse annotation errors, which are fixed or dropped with a warning otherwise.
          options: see `ReadOptions`.
          quiet: do not warn.

        Raises:
          ValueError: an object has another class, or there is an annotation error and `strict`.
        """
        self.class_names, self.inclusive = tuple(class_names), inclusive
        check_class_names(self.class_names)
        self.where, self._options = where, options
        known = set(self.class_names)
        if drop_other_classes:
            annotated = [a._replace(objects=[o for o in a.objects if o.name in known]) for a in annotated]
        self._annotated = annotated
        self._check_classes(known)
        if not quiet:
            self._check_pixels(strict)
        self._table = self._number_boxes(strict, quiet)

    def __len__(self) -> int:
        return len(self._annotated)

    def __getitem__(self, index: int) -> Example:
        return dataclasses.replace(self.annotation(index), image=self._annotated[index].read())

    def annotation(self, index: int) -> Example:
        """Return an example without reading its image, which is b""."""
        index = range(len(self))[index]
        rows, a = self._table.rows(index), self._annotated[index]
        return Example(
            a.image_id,
            b"",
            self._table.boxes[rows],
            self._table.labels[rows],
            self._table.difficult[rows],
            file=a.file,
            size=a.size,
            errors=self._table.errors(index),
            options=self._options,
        )

    def _check_classes(self, known: set[str]) -> None:
        for a in self._annotated:
            for o in a.objects:
                if o.name not in known:
                    raise ValueError(
                        f"{a.annotation}: the class of every object must be one of {', '.join(self.class_names)}, "
                        f"unless drop_other_classes; got {o.name!r}"
                    )

    def _check_pixels(self, strict: bool) -> None:
        """Warn of corners in pixels that look like fractions."""
        names = [
            a.image_id
            for a in self._annotated
            if not a.fractions
            for o in a.objects
            if all(0 <= corner <= 1 for corner in o.corners)
        ]
        if names:
            message = (
                f"{self.where}: corners must be pixels, which those of {len(names)} boxes are not if they are "
                f"fractions: all are within 0..1, in {some(list(dict.fromkeys(names)))}"
            )
            if strict:
                raise ValueError(message)
            logger.warning(message)

    def _number_boxes(self, strict: bool, quiet: bool) -> BoxTable:
        label = {name: k for k, name in enumerate(self.class_names, start=1)}
        owner = np.repeat(np.arange(len(self)), [len(a.objects) for a in self._annotated])  # [N]
        objects = [o for a in self._annotated for o in a.objects]
        sides = np.tile(np.array([_scale(a, self._options) for a in self._annotated], np.float64), 2)  # [len, 4]
        return BoxTable(
            owner,
            np.array([o.corners for o in objects], np.float64).reshape(-1, 4) / sides[owner],
            np.array([label[o.name] for o in objects], np.int32),
            np.array([o.difficult for o in objects], bool),
            names=[a.image_id for a in self._annotated],
            where=self.where,
            strict=strict,
            quiet=quiet,
        )


def _scale(annotated: Annotated, options: ReadOptions) -> tuple[int, int]:
    """Return the (width, height) that corners are divided by: of the annotation, else of the image."""
    if annotated.fractions or not annotated.objects:
        return 1, 1
    if annotated.size:
        height, width = annotated.size
        return width, height
    try:
        height, width = decoded_size(annotated.read(), options=options)
    except UnreadableImage as error:
        raise ValueError(
            f"{annotated.path}: must be readable, since its annotation has no size; got {error}"
        ) from None
    return width, height
