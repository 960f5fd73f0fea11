"""Detect in image files and draw what was found."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ssd_jax.data import UnreadableImage, decode
from ssd_jax.files import write_json
from ssd_jax.inference import Detections, draw, load_detector
from ssd_jax.loop.build import open_source
from ssd_jax.loop.workdir import load_config

logger = logging.getLogger("ssd_jax")

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
NamedImage = tuple[str, np.ndarray]  # a name, and RGB uint8 [h, w, 3]


def detect_images(
    workdir: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    score: float = 0.4,
    samples: int = 12,
    step: int | str | None = None,
) -> int:
    """Detect in images with a checkpoint of a run; write a drawing of each, and `detections.json`, to `out`.

    Args:
      workdir: of the run.
      inputs: image files and folders of them; with none, the first `samples` images of the evaluation split.
      out: folder for the results; made if it is missing.
      score: detections below it are left out.
      samples: see `inputs`.
      step: which checkpoint: a number, or "best"; the newest unless given.

    Returns:
      how many images were written. Files that cannot be decoded are reported and left out; if all are, nothing is
      written.
    """
    images = decoded(of_files(inputs) if inputs else held_out(Path(workdir), samples))
    detector = load_detector(workdir, step=step)
    out = Path(out)
    records, taken = [], set()
    for chunk in chunks(images, 8):
        out.mkdir(parents=True, exist_ok=True)
        for (name, image), found in zip(chunk, detector([image for _, image in chunk]), strict=True):
            found = found.above(score)
            path = out / f"{unused(Path(name).stem, taken)}.png"
            drawing = draw(image, found, detector.class_names)
            if not cv2.imwrite(str(path), cv2.cvtColor(drawing, cv2.COLOR_RGB2BGR)):
                raise OSError(f"cannot write {path}")
            records.append({"image": name, "drawing": path.name} | record(image, found, detector.class_names))
    if records:
        write_json(out / "detections.json", records)
    return len(records)


def chunks(images: Iterable[NamedImage], size: int) -> Iterator[list[NamedImage]]:
    """Take `size` images at a time, so that a folder of any length fits in memory."""
    images = iter(images)
    while chunk := list(islice(images, size)):
        yield chunk


def record(image: np.ndarray, found: Detections, class_names: Sequence[str]) -> dict[str, object]:
    """Turn detections into JSON values: corners in pixels, `[x_min, y_min, x_max, y_max]`."""
    objects = [
        {"class": class_names[label - 1], "score": round(float(s), 5), "box": [round(float(v), 2) for v in box]}
        for box, s, label in zip(*found, strict=True)
    ]
    return {"width": image.shape[1], "height": image.shape[0], "detections": objects}


def find(inputs: Sequence[str | Path]) -> list[Path]:
    """List the image files among `inputs`, in order; folders give theirs, sorted."""
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise FileNotFoundError(f"no images ({', '.join(sorted(SUFFIXES))}) in the folder {path}")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise FileNotFoundError(f"no such image or folder: {path}")
    return files


def decoded(files: Iterable[tuple[str, bytes | np.ndarray]]) -> Iterator[NamedImage]:
    """Decode images one by one, reporting those that cannot be."""
    for name, file in files:
        try:
            yield name, decode(file)
        except UnreadableImage as error:
            logger.warning("skipping %s: %s", name, error)


def of_files(inputs: Sequence[str | Path]) -> Iterator[tuple[str, bytes]]:
    """Read the image files among `inputs`."""
    return ((str(path), path.read_bytes()) for path in find(inputs))


def held_out(workdir: Path, samples: int) -> Iterator[tuple[str, bytes | np.ndarray]]:
    """Take images of the split a run is evaluated on."""
    config = load_config(workdir)
    source = open_source(config.data, config.data.eval)
    examples = (source[i] for i in range(min(samples, len(source))))
    return ((example.image_id, example.image) for example in examples)


def unused(stem: str, taken: set[str]) -> str:
    """Return `stem`, numbered if it is taken already, and take it."""
    name, number = stem, 1
    while name in taken:
        number += 1
        name = f"{stem}_{number}"
    taken.add(name)
    return name
