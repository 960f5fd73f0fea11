"""Sources by name, as configs and the command line give them."""

import importlib
import inspect
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from ssd_jax.data.auto import FOLDER_KINDS, READERS, open_folder
from ssd_jax.data.coco import open_coco
from ssd_jax.data.combine import Joined, Subset, with_classes
from ssd_jax.data.example import Source
from ssd_jax.data.image import DEFAULTS, ReadOptions
from ssd_jax.data.random_cut import random_cut
from ssd_jax.data.shapes import Shapes
from ssd_jax.data.tfds import TFDS
from ssd_jax.data.voc import VOCFolder
from ssd_jax.sides import Side

KINDS = ("auto", "voc_folder", "coco_json", "tfds", "shapes", *READERS)


def open_source(
    kind: str,
    split: str,
    *,
    root: str | Path = "",
    class_names: Sequence[str] = (),
    drop_other_classes: bool = False,
    strict: bool = False,
    allow_outside: bool = False,
    max_pixels: int = DEFAULTS.max_pixels,
    max_annotation_bytes: int = DEFAULTS.max_annotation_bytes,
    exif: Literal["auto", "turn", "ignore"] = DEFAULTS.exif,
    size_mismatch: Literal["warn", "error", "ignore"] = DEFAULTS.size_mismatch,
    image_size: Side = 96,
) -> Source:
    """Open a dataset.

    Splits can be joined and cut: "train+val", "train[:90%]", "train[100:]+val[:50]". "all[~:80%]" and "all[~80%:]"
    cut at random: see `random_order`; "all[~:80%, seed=1]" is another draw.

        kind         split                             what it is
        auto         "all", "train"                    a folder `root` of labelled images, of whatever format
        voc, ...     "all", "train"                    the same, of this format: see `READERS`
        voc_folder   "trainval"                        a split of the VOC folder `root`
                     "VOC2007:trainval+VOC2012:train"  splits of folders below `root`
        coco_json    "train2017"                       `root`/annotations/instances_train2017.json, `root`/train2017
                     "some.json:images"                a file and a folder below `root`
        tfds         "voc/2007:trainval"               prepared in `root`, or where TFDS keeps its data
        shapes       "train:1000", "test:200"          so many drawn images
        module:name  any                               what `name(split)` or `name(split, root)` of a Python module
                                                       returns

    Args:
      kind: one of the table.
      split: one of the table, or several.
      root: the folder of the data.
      class_names: the classes in the order of their labels; () takes all classes of the data. Whatever order the
        data gives them, classes correspond by name; a name that the data lacks is a class without objects. So to
        evaluate a model, open the split with the class names that the model was trained on.
      drop_other_classes: drop objects of classes that are not in `class_names`, which are an error otherwise.
      strict: refuse annotation errors.
      allow_outside: accept links and file names of a COCO file that lead out of its image folder.
      max_pixels: see `ReadOptions`.
      max_annotation_bytes: see `ReadOptions`.
      exif: see `ReadOptions`.
      size_mismatch: see `ReadOptions`.
      image_size: side of drawn images, or (height, width), in pixels.

    Returns:
      the source; see `Source`.

    Raises:
      ValueError: the arguments or the data break a rule, which the message names in one line.
      FileNotFoundError: a file or a folder does not exist.
    """
    names = tuple(class_names)
    options = ReadOptions(
        max_pixels=max_pixels, max_annotation_bytes=max_annotation_bytes, exif=exif, size_mismatch=size_mismatch
    )
    if kind == "voc_folder":
        how = {"drop_other_classes": drop_other_classes, "strict": strict, "options": options}
        return _open_voc(Path(root), split, class_names=names or None, **how)

    openers: dict[str, Callable[[str], Source]] = {
        "coco_json": lambda part: open_coco(root, part, strict=strict, allow_outside=allow_outside, options=options),
        "tfds": lambda part: _open_tfds(part, root, strict, options),
        "shapes": lambda part: _open_shapes(part, image_size),
    }
    if kind in FOLDER_KINDS:
        if not str(root):
            raise ValueError(f"root must name the folder of the data, where the dataset is {kind}; got ''")
        how = {"drop_other_classes": drop_other_classes, "strict": strict, "allow_outside": allow_outside}
        return _joined(split, lambda part: open_folder(root, part, kind, class_names=names, options=options, **how))
    if kind not in openers and ":" not in kind:
        raise ValueError(f"a dataset must be one of {', '.join(KINDS)}, or module:function; got {kind!r}")
    open_part = openers.get(kind) or _function(kind, root)
    # Each part has its own order of classes, so names are mapped before parts are joined.
    return _joined(split, lambda part: with_classes(open_part(part), names, drop_other_classes))


def _open_voc(root: Path, split: str, **how: Any) -> Source:
    """Open whole splits of one folder that follow one another as one source, in which no image comes twice."""
    groups = itertools.groupby(_parts(split), lambda part: part if "[" in part else part.rpartition(":")[0])

    def open_folder(part: str) -> VOCFolder:
        folders, _, splits = zip(*(name.rpartition(":") for name in part.split("+")), strict=True)
        return VOCFolder(root / folders[0], "+".join(splits), **how)

    return _join([_cut("+".join(parts), open_folder) for _, parts in groups])


def _open_tfds(split: str, root: str | Path, strict: bool, options: ReadOptions) -> TFDS:
    name, _, part = split.rpartition(":")  # the name may hold a version, as in voc/2007:5.0.0
    if not name:
        raise ValueError(f"a split of TFDS must be NAME:SPLIT, as in voc/2007:trainval; got {split!r}")
    return TFDS(name, part, data_dir=root or None, strict=strict, options=options)


def _open_shapes(split: str, image_size: Side) -> Shapes:
    name, _, length = split.partition(":")
    seeds = {"train": 0, "test": 1}
    if name not in seeds or not length.isdecimal():
        raise ValueError(f"a split of shapes must be train:LENGTH or test:LENGTH; got {split!r}")
    return Shapes(int(length), image_size=image_size, seed=seeds[name])


def _function(path: str, root: str | Path) -> Callable[[str], Source]:
    module, _, name = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ValueError(f"{path}: the module must be importable; got: {error}") from None
    except AttributeError:
        raise ValueError(f"{path}: the module must have the function; {module} has no {name!r}") from None

    takes_root = _takes_root(function)

    def open_part(part: str) -> Source:
        source = function(part, root) if takes_root else function(part)
        lacking = [
            name for name in ("__len__", "__getitem__", "class_names", "inclusive") if not hasattr(source, name)
        ]
        if lacking:
            raise ValueError(
                f"{path}: the function must return a source (see ssd_jax.data.Source); got an object of type "
                f"{type(source).__name__} without {', '.join(lacking)}"
            )
        return source

    return open_part


def _takes_root(function: Callable[..., Source]) -> bool:
    """Tell whether a function's second argument is the folder: `open(split, root)`."""
    try:
        inspect.signature(function).bind("split", "root")
    except (TypeError, ValueError):  # ValueError: some functions in C have no signature
        return False
    return True


def _joined(split: str, open_part: Callable[[str], Source]) -> Source:
    return _join([_cut(part, open_part) for part in _parts(split)])


def _join(sources: list[Source]) -> Source:
    return sources[0] if len(sources) == 1 else Joined(sources)


def _parts(split: str) -> list[str]:
    parts = [part.strip() for part in split.split("+")]
    if not all(parts):
        raise ValueError(f"a split must be one name, or several joined by +; got {split!r}")
    return parts


def _cut(part: str, open_part: Callable[[str], Source]) -> Source:
    """Open "name", "name[from:to]" or "name[~from:to]"."""
    found = re.fullmatch(r"([^\[\]]+)(?:\[(~?)(-?\d+%?)?:(-?\d+%?)?(?:, ?seed=(\d{1,9}))?\])?", part)
    if not found or (found[5] and not found[2]):
        raise ValueError(
            f"a part of a split must be name, name[from:to] or name[~from:to], in images or per cent; got {part!r}"
        )
    name, is_random, start, stop, seed = found.groups()
    source = open_part(name)
    if "[" not in part:
        return source
    cut = slice(_place(start, len(source)), _place(stop, len(source)))
    if max(map(abs, filter(None, (cut.start, cut.stop))), default=0) > len(source) or not range(len(source))[cut]:
        raise ValueError(f"{part!r} must be one or more of the {len(source)} images of {name!r}")
    if not is_random:
        return Subset(source, cut)
    first, last, _ = cut.indices(len(source))
    chosen = random_cut(source, first / len(source), last / len(source), seed=int(seed or 0))
    if chosen is None:
        raise ValueError(
            f"{part!r} must have one or more images; got none: of the {len(source)} images of {name!r} too many are "
            "alike (the same pixels, copies by name, frames of one series), and these stay together"
        )
    return chosen


def _place(text: str | None, length: int) -> int | None:
    if text is None:
        return None
    return round(length * int(text[:-1]) / 100) if text.endswith("%") else int(text)
