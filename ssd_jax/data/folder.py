"""The files below a dataset's folder, listed once, and which of them a name in an annotation means."""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from ssd_jax.data.formats import EXTENSIONS

MOST_FILES = 5_000_000  # so that the root of a disk, named by mistake, is noticed
# Words in the names of folders and files that name a split.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "trainset", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "valset", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "testset"), "test"),
}


class Folder:
    """The files below a folder. Hidden ones, whose names begin with a dot, are left out; links are followed.

    Paths are relative to the root, with "/". A name in an annotation is looked up among them, so it never leads out
    of the folder, whatever it is.

    Attributes:
      root: the folder.
      files: all files, sorted.
      images: those with an extension of an image.
      json_kinds: for `json_files`, which format a JSON file has; "" is not known yet.
    """

    def __init__(self, root: str | Path):
        """List the folder.

        Raises:
          FileNotFoundError: there is no such folder.
          ValueError: it has more than `MOST_FILES` files.
        """
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise FileNotFoundError(f"{self.root}: no such folder")
        self.files = sorted(self._walk())
        self._by_suffix: dict[str, list[str]] = {}
        for file in self.files:
            self._by_suffix.setdefault(suffix(file), []).append(file)
        self.images = self.of_kind(*EXTENSIONS)
        self.json_kinds: dict[str, str] = {}
        self._known = set(self.files)
        self._deepest = max((file.count("/") + 1 for file in self.files), default=0)  # parts of a path
        self._by_name: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        self._images_in: dict[str, list[str]] = {}
        for image in self.images:
            path = PurePosixPath(image)
            self._by_name.setdefault(path.name.lower(), []).append(image)
            self._by_stem.setdefault(path.stem.lower(), []).append(image)
            for folder in path.parents:
                self._images_in.setdefault(str(folder), []).append(image)

    def __contains__(self, file: str) -> bool:
        return file in self._known

    def path(self, file: str) -> Path:
        """Return the path of a file."""
        return self.root / file

    def of_kind(self, *suffixes: str) -> list[str]:
        """Return the files that end in one of the suffixes, which are in lower case."""
        found = [file for name in suffixes for file in self._by_suffix.get(name, ())]
        return found if len(suffixes) == 1 else sorted(found)

    def near(self, files: Sequence[str]) -> list[str]:
        """Return the other files of these extensions that lie in a folder of `files`, or have a name of them."""
        known, folders = set(files), {posixpath.dirname(file) for file in files}
        names = {posixpath.basename(file) for file in files}
        return [
            file
            for file in self.of_kind(*sorted({suffix(file) for file in files}))
            if file not in known and (posixpath.dirname(file) in folders or posixpath.basename(file) in names)
        ]

    def images_below(self, folder: str) -> list[str]:
        """Return the images in a folder and the folders below it; "." is the root."""
        return self._images_in.get(folder, [])

    def find_image(self, name: str, *, near: str, split: str = "") -> str | None:
        """Find the image that a name in an annotation means: a file name, or a path of which the end is right.

        Of several the one with the longest equal end is taken, then the one that is nearest to the annotation.

        Args:
          name: as the annotation has it, a path of any system.
          near: the annotation file.
          split: of the annotation, which breaks a tie.

        Raises:
          ValueError: several images fit as well.
        """
        parts = path_parts(name)
        candidates = self._by_name.get(parts[-1].lower(), []) if parts else []
        return self._nearest(candidates, parts, near, split)

    def find_image_of(self, file: str) -> str | None:
        """Find the image with the stem of an annotation file that is nearest to it.

        Of one stem with several extensions the first in the order of `EXTENSIONS` is taken.

        Raises:
          ValueError: several images fit as well.
        """
        path = PurePosixPath(file)
        candidates = self._by_stem.get(path.stem.lower(), [])
        if exact := [image for image in candidates if PurePosixPath(image).stem == path.stem]:
            candidates = exact
        first: dict[PurePosixPath, str] = {}
        for image in sorted(candidates, key=lambda image: EXTENSIONS.index(suffix(image))):
            first.setdefault(PurePosixPath(image).parent, image)
        return self._nearest(list(first.values()), (), file, "")

    def has_image_of(self, file: str) -> bool:
        """Tell whether an image, in any folder, has the stem of an annotation file."""
        return PurePosixPath(file).stem.lower() in self._by_stem

    def find_place(self, name: str, bases: Iterable[str]) -> str | None:
        """Find the folder of images, or the file, of which a path in a configuration names the end.

        Args:
          name: the path; its ".." at the start are dropped, and then as many parts as must be.
          bases: the folders that it may be relative to, the likeliest first.
        """
        parts = path_parts(name)
        for start in range(max(0, len(parts) - self._deepest), max(1, len(parts))):
            for base in bases:
                place = str(PurePosixPath(base, *parts[start:]))
                if place in self._images_in or place in self._known:
                    return place
        return None

    def _nearest(self, candidates: Sequence[str], parts: Sequence[str], near: str, split: str) -> str | None:
        if len(candidates) < 2:
            return candidates[0] if candidates else None
        folder = PurePosixPath(near).parent.parts

        def rank(image: str) -> tuple[int, ...]:
            path = PurePosixPath(image)
            equal_end = _equal(reversed(path.parts), reversed(parts))
            place = path.parent.parts
            return (
                equal_end,
                _equal(place, folder),
                int(bool(split) and split_word(image) == split),
                _equal(reversed(place), reversed(folder)),
            )

        ranked = sorted(candidates, key=rank, reverse=True)
        if rank(ranked[0]) == rank(ranked[1]):
            raise ValueError(
                f"{self.path(near)}: an annotation must be of one image; got two that fit as well, {ranked[0]} and "
                f"{ranked[1]}"
            )
        return ranked[0]

    def _walk(self) -> Iterable[str]:
        seen, number = {os.path.realpath(self.root)}, 0
        for folder, folders, files in os.walk(self.root, followlinks=True):
            folders[:] = sorted(name for name in folders if not _is_hidden(name))
            for name in list(folders):
                real = os.path.realpath(os.path.join(folder, name))
                if real in seen:  # a link to a folder above it, or one that is met twice
                    folders.remove(name)
                seen.add(real)
            number += len(files)
            if number > MOST_FILES:
                raise ValueError(f"{self.root}: a dataset's folder must have at most {MOST_FILES:,} files; got more")
            relative = os.path.relpath(folder, self.root)
            for name in files:
                if not _is_hidden(name):
                    yield name if relative == "." else f"{relative}/{name}".replace(os.sep, "/")


def suffix(file: str) -> str:
    """Return the extension in lower case, with its dot."""
    return posixpath.splitext(file)[1].lower()


def path_parts(name: str) -> list[str]:
    """Split a path of any system into its parts, without a drive, "." and ".."."""
    parts = re.split(r"[\\/]+", re.sub(r"^[A-Za-z]:(?=[\\/])", "", name))
    return [part for part in parts if part not in ("", ".", "..")]


def split_word(file: str, *, stem: bool = False) -> str:
    """Return the split that a path names, "train", "val" or "test"; "" if it names none.

    Args:
      file: the path; of several folders that name a split the deepest counts.
      stem: whether the file's own name is looked at first.
    """
    path = PurePosixPath(file)
    for name in ([path.stem] if stem else []) + list(reversed(path.parent.parts)):
        for word in re.split("[^a-z]+", name.lower()):
            if word in SPLIT_WORDS:
                return SPLIT_WORDS[word]
    return ""


def common_folder(files: Sequence[str]) -> str:
    """Return the deepest folder that holds all files; "." is the root."""
    return os.path.commonpath([str(PurePosixPath(file).parent) for file in files]) or "."


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _equal(first: Iterable[str], second: Iterable[str]) -> int:
    """Return how many parts at the start are equal."""
    number = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        number += 1
    return number
