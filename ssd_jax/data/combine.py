"""Sources made of other sources: several joined, some of the images, some of the classes."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from ssd_jax.data.example import Example


class Examples:
    """A sequence of one's own: anything with a length whose items are `Example`s."""

    def __init__(self, examples: Sequence[Example], class_names: Sequence[str], *, inclusive: bool = False):
        """Label k is `class_names[k - 1]`; for `inclusive` see `ssd_jax.data`."""
        self.examples, self.class_names, self.inclusive = examples, tuple(class_names), inclusive
        check_class_names(self.class_names)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        example = self.examples[range(len(self))[index]]
        largest, classes = np.max(example.labels, initial=0), len(self.class_names)
        if largest > classes:
            raise ValueError(
                f"{example.image_id}: labels are from 1 to {classes}, the number of classes; got {largest}"
            )
        return example


class Joined:
    """Several sources of the same classes, one after the other."""

    def __init__(self, sources: Sequence[Any]):
        self.sources = tuple(sources)
        if not self.sources:
            raise ValueError("one or more sources are joined; got none")
        first = self.sources[0]
        self.class_names, self.inclusive = tuple(first.class_names), first.inclusive
        for source in self.sources[1:]:
            if tuple(source.class_names) != self.class_names:
                raise ValueError(
                    "sources that are joined have the same classes in the same order (name them where they are "
                    f"opened); got {', '.join(self.class_names)} and {', '.join(source.class_names)}"
                )
            if source.inclusive != self.inclusive:
                raise ValueError(
                    "sources that are joined are all inclusive (corners name the last pixel inside, as in VOC) or "
                    "none is; got both: Examples takes inclusive=True"
                )
        self._ends = list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        which = bisect.bisect_right(self._ends, index)
        return self.sources[which][index - self._ends[which] + len(self.sources[which])]


class Subset:
    """Some images of a source: a slice of it, or their places."""

    def __init__(self, source: Any, images: slice | Sequence[int]):
        self.source, self.class_names, self.inclusive = source, tuple(source.class_names), source.inclusive
        every = range(len(source))
        self._places = every[images] if isinstance(images, slice) else [every[i] for i in images]
        if not self._places:
            raise ValueError(f"a subset has at least one image; got {images} of {len(source)}")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:
        return self.source[self._places[index]]

    def truth(self) -> dict[str, Any] | None:
        """Give COCO's ground truth of these images: see `coco_truth`."""
        truth = coco_truth(self.source)
        if truth is None:
            return None
        images = [truth["images"][i] for i in self._places]
        known = {image["id"] for image in images}
        return truth | {
            "images": images,
            "annotations": [row for row in truth["annotations"] if row["image_id"] in known],
        }


class OnlyClasses:
    """Some classes of a source, numbered in the order given; images that have none of them stay, without boxes."""

    def __init__(self, source: Any, class_names: Sequence[str]):
        self.source, self.class_names, self.inclusive = source, tuple(class_names), source.inclusive
        check_class_names(self.class_names)
        for name in self.class_names:
            if name not in source.class_names:
                raise ValueError(f"a class is one of {', '.join(source.class_names)}; got {name!r}")
        new = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._new = np.array(
            [0, *(new.get(name, 0) for name in source.class_names)], np.int32
        )  # by old label; 0: none

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        labels = self._new[example.labels]  # [n]
        kept = labels > 0  # [n]
        return dataclasses.replace(
            example, boxes=example.boxes[kept], labels=labels[kept], difficult=example.difficult[kept]
        )

    def truth(self) -> dict[str, Any] | None:
        """Give COCO's ground truth of these classes: see `coco_truth`."""
        truth = coco_truth(self.source)
        if truth is None:
            return None
        by_name = {category["name"]: category for category in truth["categories"]}
        categories = [by_name[name] for name in self.class_names]
        known = {category["id"] for category in categories}
        return truth | {
            "categories": categories,
            "annotations": [row for row in truth["annotations"] if row["category_id"] in known],
        }


def coco_truth(source: Any) -> dict[str, Any] | None:
    """The ground truth in COCO's format of a source that comes from it, for `metrics.COCOMetric`; else None.

    "images" are in the source's order, "categories" in that of its labels; crowds are among the annotations.
    """
    return source.truth() if hasattr(source, "truth") else None


def check_class_names(class_names: Sequence[str]):
    """Raise unless there are one or more different names."""
    if not class_names or len(set(class_names)) < len(class_names):
        raise ValueError(f"class_names are one or more different names; got {', '.join(class_names) or 'none'}")
