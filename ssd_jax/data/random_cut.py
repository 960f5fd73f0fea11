"""Random cuts of a dataset that keep near-duplicates together and the shares of the classes."""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath

import numpy as np

from ssd_jax.data.combine import Subset
from ssd_jax.data.example import Example, Source
from ssd_jax.data.formats import UnreadableImage
from ssd_jax.data.image import decode_image

logger = logging.getLogger("ssd_jax")

# What Roboflow and scripts of augmentation add to the name of the original: x_jpg.rf.0123ab, x_flip, x_aug_3, x (1).
COPY = re.compile(
    r"(?:_(?:jpe?g|png|bmp|webp))?\.rf\.[0-9a-z]+$"
    r"|[ _.-]+(?:copy|aug(?:mented)?|[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:ate|ated)?|bright(?:ness)?|dark(?:er)?"
    r"|blur(?:red)?|noise|noisy|crop(?:ped)?|scaled?|shear(?:ed)?|gamma|hue|gr[ae]y)(?:[ _.-]?\d+)?$"
    r"|\s*\(\d+\)$|~\d+$",
    re.IGNORECASE,
)
NUMBERED = re.compile(r"(.*?)(\d+)$")
MOST_OF_A_CLASS = 0.5  # a numbered series with a larger part of the images, or of those of a class, is taken apart
SERIES_PART = 20  # into parts of consecutive numbers, of at most one of so many parts of all images

_digests: dict[bytes, bytes] = {}  # digest of a file -> digest of its pixels


def random_order(source: Source, *, seed: int = 0) -> tuple[list[int], list[int]]:
    """Order the images of a source at random, so that every stretch has about the same share of each class.

    Images with the same pixels, copies by their names ("x.rf.0123", "x_flip") and series of numbered frames stay
    next to each other, as a group. A series that has more than half of all images, or of the images of a class, is
    taken for a numbering of the dataset, and becomes groups of consecutive numbers.

    The order depends on the names, the classes, the pixels and the seed alone, so it is the same on every machine.

    Args:
      source: the images, which are all read and decoded once.
      seed: a whole number.

    Returns:
      (indices of the images, ends of the groups in this order).
    """
    names, classes, digests = _look_at(source)
    groups = _groups(names, classes, digests)
    key = {group: _key(seed, min(names[i] for i in group)) for group in groups}
    order: list[int] = []
    ends: list[int] = []
    for group in sorted(groups, key=_places(groups, classes, key).__getitem__):
        order += sorted(group, key=lambda i: (names[i], i))
        ends.append(len(order))
    return order, ends


def random_cut(source: Source, start: float, stop: float, *, seed: int = 0) -> Subset | None:
    """Take a stretch of the `random_order` of a source, from one end of a group to another.

    Cuts at the same place fit together: [0, x] and [x, 1] have all images, and none in common.

    Args:
      source: the images.
      start: where the stretch begins, a share of the images from 0 to 1; the end of a group that is nearest is taken.
      stop: where it ends.
      seed: of the order.

    Returns:
      the stretch, in the order of the source; None if it is empty.
    """
    order, ends = random_order(source, seed=seed)
    first, last = (_nearest_end(ends, share * len(order), inner=0 < share < 1) for share in (start, stop))
    chosen = sorted(order[first:last])
    return Subset(source, chosen) if chosen else None


def _nearest_end(ends: Sequence[int], place: float, *, inner: bool) -> int:
    """Return the end of a group, or 0, that is nearest; `inner`: not 0 or the last one, so that no part is empty."""
    places = [0, *ends]
    if inner and len(places) > 2:
        places = places[1:-1]
    return min(places, key=lambda end: (abs(end - place), end))


def _look_at(source: Source) -> tuple[list[str], list[frozenset[int]], list[bytes]]:
    """Return the name, the set of labels and the digest of the pixels of every image."""

    def one(index: int) -> tuple[str, frozenset[int], bytes]:
        example = source[index]
        return example.file or example.image_id, frozenset(example.labels.tolist()), pixel_digest(example)

    with ThreadPoolExecutor() as threads:
        names, classes, digests = zip(*threads.map(one, range(len(source))), strict=True)
    return list(names), list(classes), list(digests)


def pixel_digest(example: Example) -> bytes:
    """Return a digest of an image's pixels, whatever its file's format; of the file, if it cannot be decoded."""
    file = example.image if isinstance(example.image, bytes) else None
    known = None if file is None else hashlib.sha256(file).digest()
    if known not in _digests or known is None:
        try:
            pixels = decode_image(example.image, options=example.options)
            digest = hashlib.sha256(repr(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).digest()
        except UnreadableImage:
            digest = known or b""
        if known is None:
            return digest
        _digests[known] = digest
    return _digests[known]


def _groups(
    names: Sequence[str], classes: Sequence[frozenset[int]], digests: Sequence[bytes]
) -> list[tuple[int, ...]]:
    """Return groups of indices that must stay together: a partition."""
    series: dict[tuple[str, str], dict[int, list[int]]] = {}
    links: list[Sequence[int]] = []
    copies: dict[str, list[int]] = {}
    pixels: dict[bytes, list[int]] = {}
    for index, (name, digest) in enumerate(zip(names, digests, strict=True)):
        folder, base = str(PurePosixPath(name).parent), original(name)
        # Copies may be in another folder than the original: train/a.jpg, augmented/a_flip.jpg.
        copies.setdefault(base, []).append(index)
        pixels.setdefault(digest, []).append(index)
        if found := NUMBERED.fullmatch(base):
            series.setdefault((folder, found[1]), {}).setdefault(int(found[2]), []).append(index)
    links += [*copies.values(), *pixels.values()]
    of_class = Counter(label for labels in classes for label in labels)
    for numbered in series.values():
        own = [index for indices in numbered.values() for index in indices]
        of_series = Counter(label for index in own for label in classes[index])
        parts = len(own) > MOST_OF_A_CLASS * len(names) or any(
            n > MOST_OF_A_CLASS * of_class[label] for label, n in of_series.items()
        )
        ordered = [numbered[number] for number in sorted(numbered)]
        step = max(1, len(names) // SERIES_PART) if parts else len(ordered)
        links += [[i for indices in ordered[k : k + step] for i in indices] for k in range(0, len(ordered), step)]
    return _joined_groups(len(names), links)


def original(name: str) -> str:
    """Return the name of the image that one was made of: the stem without what copies add to it."""
    stem = PurePosixPath(name).stem
    while (shorter := COPY.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem.lower()


def _joined_groups(n: int, links: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Return the connected parts of a graph of n nodes; each of `links` connects its nodes."""
    parent = list(range(n))

    def find(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for link in links:
        for other in link[1:]:
            a, b = find(link[0]), find(other)
            parent[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for node in range(n):
        groups.setdefault(find(node), []).append(node)
    return [tuple(group) for group in groups.values()]


def _places(
    groups: Sequence[tuple[int, ...]], classes: Sequence[frozenset[int]], key: dict[tuple[int, ...], bytes]
) -> dict[tuple[int, ...], tuple[float, bytes]]:
    """Return where each group comes in the order: from 0 to 1, and its key for equal places.

    The groups whose rarest class is the same are spread evenly over the order, in the order of their keys.
    """
    of_class = Counter(label for labels in classes for label in labels)
    strata: dict[int, list[tuple[int, ...]]] = {}
    for group in groups:
        labels = {label for index in group for label in classes[index]}
        strata.setdefault(min(labels, key=lambda label: (of_class[label], label), default=0), []).append(group)
    places = {}
    for own in strata.values():
        total, before = sum(map(len, own)), 0
        for group in sorted(own, key=key.__getitem__):
            places[group] = ((before + len(group) / 2) / total, key[group])
            before += len(group)
    return places


def _key(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{name}".encode(errors="surrogateescape")).digest()
