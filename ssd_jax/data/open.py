"""Sources by name, as configs and the command line give them."""

import importlib
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssd_jax.data.coco import open_coco
from ssd_jax.data.combine import Joined, OnlyClasses, Subset
from ssd_jax.data.shapes import Shapes
from ssd_jax.data.tfds import TFDS
from ssd_jax.data.voc import VOCFolder

KINDS = ("voc_folder", "coco_json", "tfds", "shapes")


def open_source(
    kind: str,
    split: str,
    *,
    root: str | Path = "",
    class_names: Sequence[str] = (),
    drop_other_classes: bool = False,
    strict: bool = False,
    image_size: int = 96,
) -> Any:
    """Open a dataset.

    Splits may be joined and cut: "train+val", "train[:90%]", "train[100:]+val[:50]".

        kind         split                             what
        voc_folder   "trainval"                        that of the VOC folder `root`
                     "VOC2007:trainval+VOC2012:train"  of folders below `root`
        coco_json    "train2017"                       `root`/annotations/instances_train2017.json, `root`/train2017
                     "some.json:images"              a file and a folder below `root`
        tfds         "voc/2007:trainval"               prepared in `root`, or where TFDS keeps its data
        shapes       "train:1000", "test:200"          drawn, so many; `image_size` pixels
        module:name  any                               `name(split)` of a Python module returns a source

    `class_names` are the classes in the order of their labels; empty stands for all that the data names (of shapes,
    always). Objects of other classes are an error, or left out if `drop_other_classes`. With `strict`, dirty boxes
    are an error.

    Raises `ValueError` or `FileNotFoundError`, in one line, for what cannot be opened.
    """
    class_names = tuple(class_names)
    if kind == "voc_folder":
        return _open_voc(Path(root), split, class_names or None, drop_other_classes, strict)
    if kind == "coco_json":
        source = _joined(split, lambda part: open_coco(root, part, strict=strict))
    elif kind == "tfds":
        source = _joined(split, lambda part: _open_tfds(part, root, strict))
    elif kind == "shapes":
        return _joined(split, lambda part: _open_shapes(part, image_size))
    elif ":" in kind:
        source = _joined(split, _function(kind))
    else:
        raise ValueError(f"a dataset is one of {', '.join(KINDS)}, or module:function; got {kind!r}")
    return _of_classes(source, class_names, drop_other_classes)


def _open_voc(root: Path, split: str, class_names: tuple[str, ...] | None, drop_other_classes: bool, strict: bool):
    """Whole splits of one folder that follow one another are one source, in which no image comes twice."""
    groups = itertools.groupby(_parts(split), lambda part: part if "[" in part else part.rpartition(":")[0])

    def open_folder(part: str) -> VOCFolder:
        folders, _, splits = zip(*(name.rpartition(":") for name in part.split("+")), strict=True)
        return VOCFolder(
            root / folders[0],
            "+".join(splits),
            class_names=class_names,
            drop_other_classes=drop_other_classes,
            strict=strict,
        )

    return _join([_cut("+".join(parts), open_folder) for _, parts in groups])


def _open_tfds(split: str, root: str | Path, strict: bool) -> TFDS:
    name, _, part = split.rpartition(":")  # the name may hold a version, as in voc/2007:5.0.0
    if not name:
        raise ValueError(f"a split of TFDS is NAME:SPLIT, as in voc/2007:trainval; got {split!r}")
    return TFDS(name, part, data_dir=root or None, strict=strict)


def _open_shapes(split: str, image_size: int) -> Shapes:
    name, _, length = split.partition(":")
    seeds = {"train": 0, "test": 1}
    if name not in seeds or not length.isdigit():
        raise ValueError(f"a split of shapes is train:LENGTH or test:LENGTH, got {split!r}")
    return Shapes(int(length), image_size=image_size, seed=seeds[name])


def _function(path: str) -> Callable[[str], Any]:
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"data of one's own is module:function; cannot import {module}: {error}") from None
    except AttributeError:
        raise ValueError(f"data of one's own is module:function; {module} has no {name!r}") from None


def _of_classes(source: Any, class_names: tuple[str, ...], drop_other_classes: bool) -> Any:
    if not class_names or class_names == tuple(source.class_names):
        return source
    others = [name for name in source.class_names if name not in class_names]
    if others and not drop_other_classes:
        raise ValueError(
            f"the data's classes are among class_names, {', '.join(class_names)}, unless other classes are dropped; "
            f"got {', '.join(others)}"
        )
    return OnlyClasses(source, class_names)


def _joined(split: str, open_part: Callable[[str], Any]) -> Any:
    return _join([_cut(part, open_part) for part in _parts(split)])


def _join(sources: list[Any]) -> Any:
    return sources[0] if len(sources) == 1 else Joined(sources)


def _parts(split: str) -> list[str]:
    parts = [part.strip() for part in split.split("+")]
    if not all(parts):
        raise ValueError(f"a split is one name, or several joined by +; got {split!r}")
    return parts


def _cut(part: str, open_part: Callable[[str], Any]) -> Any:
    """Open "name" or "name[from:to]"."""
    found = re.fullmatch(r"([^\[\]]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", part)
    if not found:
        raise ValueError(f"a part of a split is written name[from:to], in images or per cent; got {part!r}")
    name, start, stop = found.groups()
    source = open_part(name)
    if "[" not in part:
        return source
    cut = slice(_place(start, len(source)), _place(stop, len(source)))
    if max(map(abs, filter(None, (cut.start, cut.stop))), default=0) > len(source) or not range(len(source))[cut]:
        raise ValueError(f"{part!r} must be one or more of the {len(source)} images of {name!r}")
    return Subset(source, cut)


def _place(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    return round(length * int(text[:-1]) / 100) if text.endswith("%") else int(text)
