"""Sources made of other sources: several joined, some of the images, some of the classes."""

import bisect
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from ssd_jax.data.example import Example, Source
from ssd_jax.metrics.coco import COCOAnnotation, COCOTruth


class Examples(Source):
    """A sequence of `Example`s as a source: a list, or anything else with a length and items."""

    def __init__(self, examples: Sequence[Example], class_names: Sequence[str], *, inclusive: bool = False):
        """Take the examples; label k is `class_names[k - 1]`, and for `inclusive` see `Source`."""
        self.examples, self.class_names, self.inclusive = examples, tuple(class_names), inclusive
        check_class_names(self.class_names)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        example = self.examples[range(len(self))[index]]
        largest, classes = np.max(example.labels, initial=0), len(self.class_names)
        if largest > classes:
            raise ValueError(
                f"{example.image_id}: labels must be from 1 to {classes}, the number of classes; got {largest}"
            )
        return example


class Joined(Source):
    """Several sources of the same classes, one after the other."""

    def __init__(self, sources: Sequence[Source]):
        """Join one or more sources.

        Raises:
          ValueError: the sources differ in `class_names` or `inclusive`, or there is none.
        """
        self.sources = tuple(sources)
        if not self.sources:
            raise ValueError("sources to join must be one or more; got none")
        first = self.sources[0]
        self.class_names, self.inclusive = tuple(first.class_names), first.inclusive
        for source in self.sources[1:]:
            if tuple(source.class_names) != self.class_names:
                raise ValueError(
                    "sources to join must have the same classes in the same order (pass class_names to open_source); "
                    f"got {', '.join(self.class_names)} and {', '.join(source.class_names)}"
                )
            if source.inclusive != self.inclusive:
                raise ValueError(
                    "sources to join must all be inclusive (corners name the last pixel inside, as in VOC) or none; "
                    "got both: Examples takes inclusive=True"
                )
        self._ends = list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        which = bisect.bisect_right(self._ends, index)
        return self.sources[which][index - self._ends[which] + len(self.sources[which])]

    def truth(self) -> COCOTruth | None:
        """Give COCO's ground truth of all images; None if one of the sources has none.

        Images and annotations are numbered anew, from 1, since each source has its own ids. Categories keep the ids
        that the first source gives them.
        """
        truths = [coco_truth(source) for source in self.sources]
        known = [truth for truth in truths if truth is not None]
        if len(known) < len(truths):
            return None
        joined: COCOTruth = {"images": [], "categories": known[0]["categories"], "annotations": []}
        for truth in known:
            _append(joined, truth, range(len(truth["images"])))
        return joined


class Subset(Source):
    """Some images of a source: a slice of it, or their indices."""

    def __init__(self, source: Source, images: slice | Sequence[int]):
        """Choose one or more images.

        Raises:
          ValueError: no image is chosen.
        """
        self.source, self.class_names, self.inclusive = source, tuple(source.class_names), source.inclusive
        every = range(len(source))
        self._indices = list(every[images]) if isinstance(images, slice) else [every[i] for i in images]
        if not self._indices:
            raise ValueError(f"a subset must have at least one image; got {images} of {len(source)}")

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self._indices[index]]

    def truth(self) -> COCOTruth | None:
        """Give COCO's ground truth of these images; numbered anew, from 1, if an image is among them twice."""
        truth = coco_truth(self.source)
        if truth is None:
            return None
        if len(set(self._indices)) < len(self._indices):
            chosen: COCOTruth = {"images": [], "categories": truth["categories"], "annotations": []}
            _append(chosen, truth, self._indices)
            return chosen
        images = [truth["images"][i] for i in self._indices]
        known = {image["id"] for image in images}
        annotations = [row for row in truth["annotations"] if row["image_id"] in known]
        return {"images": images, "categories": truth["categories"], "annotations": annotations}


class OnlyClasses(Source):
    """Some classes of a source, numbered in the order given; images without an object of them have no boxes."""

    def __init__(self, source: Source, class_names: Sequence[str], *, allow_missing: bool = False):
        """Choose classes by name.

        Args:
          source: where the images come from.
          class_names: the new classes; label k is `class_names[k - 1]`.
          allow_missing: accept names that the source does not have: no object has these classes.

        Raises:
          ValueError: a name is given twice, or (without `allow_missing`) the source does not have it.
        """
        self.source, self.class_names, self.inclusive = source, tuple(class_names), source.inclusive
        check_class_names(self.class_names)
        for name in self.class_names:
            if name not in source.class_names and not allow_missing:
                raise ValueError(f"a class must be one of {', '.join(source.class_names)}; got {name!r}")
        new = {name: label for label, name in enumerate(self.class_names, start=1)}
        self._new = np.array([0, *(new.get(name, 0) for name in source.class_names)], np.int32)  # by old label

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        labels = self._new[example.labels]  # [n], 0: not one of the classes
        kept = labels > 0  # [n]
        return dataclasses.replace(
            example, boxes=example.boxes[kept], labels=labels[kept], difficult=example.difficult[kept]
        )

    def truth(self) -> COCOTruth | None:
        """Give COCO's ground truth of these classes; a class that the source does not have gets an unused id."""
        truth = coco_truth(self.source)
        if truth is None:
            return None
        ids = {category["name"]: category["id"] for category in truth["categories"]}
        unused = itertools.count(1 + max(ids.values()))
        known = {ids[name] for name in self.class_names if name in ids}
        return {
            "images": truth["images"],
            "categories": [
                {"id": ids[name] if name in ids else next(unused), "name": name} for name in self.class_names
            ],
            "annotations": [row for row in truth["annotations"] if row["category_id"] in known],
        }


def coco_truth(source: Source) -> COCOTruth | None:
    """Give the ground truth in COCO's format of a source that comes from COCO, for `metrics.COCOMetric`; else None.

    "images" are in the source's order, "categories" in that of its labels; crowds are among the annotations. A
    source of your own that has no method `truth` does not come from COCO.
    """
    return source.truth() if hasattr(source, "truth") else None


def with_classes(source: Source, class_names: tuple[str, ...], drop_other_classes: bool) -> Source:
    """Give the classes the numbers that they have in `class_names`, by name; () changes nothing.

    Raises:
      ValueError: the source has other classes, and not `drop_other_classes`.
    """
    if not class_names or class_names == tuple(source.class_names):
        return source
    used = getattr(source, "used_class_names", source.class_names)  # only a COCO file knows which have objects
    others = [name for name in used if name not in class_names]
    if others and not drop_other_classes:
        raise ValueError(
            f"the classes of a dataset must be among class_names, {', '.join(class_names)}, unless "
            f"drop_other_classes; got {', '.join(others)}"
        )
    return OnlyClasses(source, class_names, allow_missing=True)


def check_class_names(class_names: Sequence[str]) -> None:
    """Raise `ValueError` unless there are one or more different names."""
    if not class_names or len(set(class_names)) < len(class_names):
        raise ValueError(f"class_names must be one or more different names; got {', '.join(class_names) or 'none'}")


def _append(joined: COCOTruth, truth: COCOTruth, indices: Sequence[int]) -> None:
    """Add the images `indices` of `truth` and their annotations to `joined`, with the next ids.

    The categories of both are in the order of the labels, so they correspond by position.
    """
    categories = zip(truth["categories"], joined["categories"], strict=True)
    category_ids = {old["id"]: new["id"] for old, new in categories}
    of_image: dict[int | str, list[COCOAnnotation]] = {}
    for row in truth["annotations"]:
        of_image.setdefault(row["image_id"], []).append(row)
    for index in indices:
        image = truth["images"][index]
        image_id = 1 + len(joined["images"])
        joined["images"].append({**image, "id": image_id})
        for row in of_image.get(image["id"], []):
            number, category_id = 1 + len(joined["annotations"]), category_ids[row["category_id"]]
            joined["annotations"].append({**row, "id": number, "image_id": image_id, "category_id": category_id})
