"""Detect in image files and draw what was found."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from ssd_jax.data import EXTENSIONS, UnreadableImage
from ssd_jax.files import to_json
from ssd_jax.inference import Detections, Detector, draw, load_detector
from ssd_jax.inference.detector import EXPORTED
from ssd_jax.inference.drawing import write_png
from ssd_jax.inference.inputs import read_image

logger = logging.getLogger("ssd_jax")

NamedImage = tuple[str, Callable[[], np.ndarray]]  # a name, and what returns RGB uint8 [h, w, 3]


def detect_images(
    workdir: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    score: float | Literal["auto"] = 0.4,
    samples: int = 12,
    step: int | str | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    batch_size: int = 8,
) -> int:
    """Detect in images with a checkpoint of a run; write a drawing of each, and `detections.json`, to `out`.

    Results are written as they come: what was found stays if the program ends early.

    Args:
      workdir: of the run, or an exported file.
      inputs: image files and folders of them; with none, the first `samples` images of the evaluation split.
      out: folder for the results; made with the first of them. No drawing replaces one of the inputs.
      score: the lowest score of a detection that is kept; "auto" takes for each class the one from which F1 was best
        when the checkpoint was evaluated; an exported file has them if that was before its export.
      samples: see `inputs`.
      step: a checkpoint's number, or "best"; the newest by default.
      tile: also look at squares of so many pixels, for small objects in large images.
      overlap: of neighbouring tiles, a fraction of their side.
      batch_size: images of a batch.

    Returns:
      the number of images written. An image that cannot be decoded is reported and skipped.

    Raises:
      FileNotFoundError: if an input does not exist, or a folder has no images.
      ValueError: for a workdir that cannot be used.
      OSError: for a file that cannot be read or written.
    """
    out = Path(out)
    files = find(inputs)
    images = [(str(path), partial(read_image, path)) for path in files] if inputs else held_out(workdir, samples)
    detector = load_detector(workdir, step=step, batch_size=batch_size)
    least = best_scores(detector, workdir) if score == "auto" else score
    taken = {path.stem for path in files if path.resolve() == (out / f"{path.stem}.png").resolve()}
    results = detector.results(images, read=_decode, tile=tile, overlap=overlap, keep_images=True)
    with JSONList(out / "detections.json") as records:
        for (name, _), image, found, size in results:
            if isinstance(found, UnreadableImage):
                _skip(name, found)
                continue
            if isinstance(found, Exception):
                raise found
            assert image is not None, "keep_images keeps it"
            found = found.above(least)
            path = out / f"{unused(Path(name).stem, taken)}.png"
            out.mkdir(parents=True, exist_ok=True)
            write_png(path, draw(image, found, detector.class_names))
            records.add({"image": name, "drawing": path.name} | record(size, found))
    return records.length


def _decode(_: int, image: NamedImage) -> np.ndarray:
    return image[1]()


def _skip(name: str, error: UnreadableImage) -> None:
    text = str(error)
    logger.warning("skipping %s", text if text.startswith(name) else f"{name}: {text}")


def best_scores(detector: Detector, workdir: str | Path, *, unknown: float = 0.4) -> np.ndarray:
    """Return the best score threshold of each class [C - 1]; for classes without one, with a warning, `unknown`.

    Raises:
      ValueError: if no evaluation of the detector's checkpoint stored them, before the export for an exported file.
    """
    if detector.thresholds is None:
        run = "RUN" if Path(workdir).suffix in EXPORTED else workdir
        hint = f"evaluate first: ssd-jax eval --workdir={run} --step={detector.step}"
        if run == "RUN":
            hint += f"; then export again: ssd-jax export --workdir=RUN --step={detector.step} --out={workdir}"
        raise ValueError(
            f"score must be a number if no evaluation has stored the best scores of step {detector.step} of "
            f"{workdir}; got auto; {hint}"
        )
    best = np.array([detector.thresholds.get(name, np.nan) for name in detector.class_names])  # [C - 1]
    missing = [name for name, score in zip(detector.class_names, best, strict=True) if np.isnan(score)]
    if missing:
        logger.warning("the evaluation found nothing of %s; their lowest score is %s", ", ".join(missing), unknown)
    return np.where(np.isnan(best), unknown, best)


class JSONList:
    """A file with a JSON list, which is whole after every `add`; a context manager. The first item makes the file."""

    END = b"\n]\n"

    def __init__(self, path: Path) -> None:
        """Begin a list at `path`; a file that is there is replaced by the first item."""
        self._path = path
        self._file: io.FileIO | None = None
        self.length = 0

    def add(self, item: object) -> None:
        """Write one more item.

        Raises:
          OSError: if it cannot be written; the file keeps the items before it.
        """
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        file, end = self._file, self.END
        before, text = (file.tell() - len(end), b",\n") if self.length else (0, b"[\n")
        try:
            _write(file, before, text + to_json(item, indent=2).encode() + end)
        except OSError:
            _write(file, before, end if before else b"[]\n")
            raise
        self.length += 1

    def __enter__(self) -> "JSONList":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()


def _write(file: io.FileIO, place: int, text: bytes) -> None:
    file.seek(place)
    file.truncate()
    while text:
        text = text[file.write(text) or 0 :]


def record(size: Sequence[int], found: Detections) -> dict[str, Any]:
    """Turn detections in an image of `size` (height, width) into JSON values; corners are in pixels."""
    return {"width": size[1], "height": size[0], "detections": found.to_dicts()}


def find(inputs: Sequence[str | Path]) -> list[Path]:
    """List the image files among `inputs`, in order; the files of a folder are sorted."""
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in EXTENSIONS and p.is_file())
            if not inside:
                raise FileNotFoundError(f"no images ({', '.join(EXTENSIONS)}) in the folder {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"no such image or folder: {path}")
    return files


def held_out(workdir: str | Path, samples: int) -> Iterator[NamedImage]:
    """Take the first images of the split that a run is evaluated on."""
    from ssd_jax.loop.build import open_split  # an exported file, which has no split, detects without JAX
    from ssd_jax.loop.workdir import load_config

    config = load_config(workdir)
    source = open_split(config.data, config.data.eval)
    examples = (source[i] for i in range(min(samples, len(source))))
    return ((example.image_id, example.decode) for example in examples)


def readable(images: Iterable[NamedImage]) -> Iterator[np.ndarray]:
    """Decode images; one that cannot be decoded is reported and skipped."""
    for name, decode in images:
        try:
            yield decode()
        except UnreadableImage as error:
            _skip(name, error)


def unused(stem: str, taken: set[str]) -> str:
    """Return `stem`, with a number if it is in `taken`, and add it there."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
