"""Detect in very many images: results in parts, which a job that was stopped goes on with."""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ssd_jax.data import decode_image
from ssd_jax.extras import import_extra
from ssd_jax.files import only_run, read_bytes, read_json, to_json, write_bytes, write_json
from ssd_jax.inference import Detections, Detector, Result, load_detector
from ssd_jax.inference.detector import EXPORTED
from ssd_jax.inference.exported import metadata_path
from ssd_jax.loop.detect import best_scores, record
from ssd_jax.loop.image_lists import NamedFile, digest, list_images

JOB = "job.json"
FORMATS = ("jsonl", "parquet")
HASHES = {"listing": ("the same images", "others"), "sha256": ("the model that it began with", "another")}


class Row(NamedTuple):
    """What was found in one image, or why it could not be read."""

    image: str
    size: tuple[int, int]  # (height, width)
    found: Detections | None
    error: str | None


class Progress(NamedTuple):
    """What a job has done.

    Attributes:
      images: all that were listed so far, those of earlier starts too.
      new: detected in since this start.
      errors: of the new ones, those that cannot be read.
      seconds: since this start began to detect; the compilation counts.
    """

    images: int
    new: int
    errors: int
    seconds: float


def detect_many(
    workdir: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    format: Literal["jsonl", "parquet"] = "jsonl",
    part_size: int = 1000,
    score: float | Literal["auto"] = 0.4,
    step: int | str | None = None,
    tile: int | None = None,
    overlap: float = 0.2,
    batch_size: int = 8,
    report: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Detect in all images of files, folders, lists, tars and tables; write the results to `out` in parts.

    Part k has the images from k x `part_size` on, a row for each. It is written whole or not at all, and the parts
    that are there are not made again: a job that was stopped goes on when it is started again, and no image is in two
    rows.

    Args:
      workdir: of the run.
      inputs: see `list_images`.
      out: folder for the parts, and for `job.json`, which says what they are of.
      format: "jsonl" for JSON lines, "parquet" for Parquet tables.
      part_size: images in a part.
      score: the lowest score of a detection that is kept; "auto" takes the best one of each class. A job goes on with
        those it began with.
      step: a checkpoint's number, or "best"; the newest by default. A job goes on with the checkpoint it began with,
        and is refused if its parameters, or the exported file, are no longer the same.
      tile: also look at squares of so many pixels.
      overlap: of neighbouring tiles, a fraction of their side.
      batch_size: images of a batch.
      report: called after each part.

    Raises:
      FileNotFoundError: if an input does not exist or has no images.
      ValueError: for an input that cannot be read, or a job in `out` that is another one.
      OSError: for a file that cannot be written, or a file system that fails.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}")
    if isinstance(part_size, bool) or not isinstance(part_size, int) or part_size < 1:
        raise ValueError(f"part_size must be an integer of at least 1; got {part_size!r}")
    encode = _encoder(format)
    out = Path(out)
    settings = {
        "model": str(Path(workdir).resolve()),
        "inputs": [str(path) for path in inputs],
        "listing": digest(inputs),
        "format": format,
        "part_size": part_size,
        "score": score,
        "tile": tile,
        "overlap": overlap,
    }
    out.mkdir(parents=True, exist_ok=True)
    with only_run(out):
        job = _begun(out / JOB, settings | ({"step": step} if isinstance(step, int) else {}))
        exported = Path(workdir).suffix in EXPORTED
        detector = load_detector(workdir, step=step if exported else job.get("step", step), batch_size=batch_size)
        model = {"step": detector.step, "class_names": list(detector.class_names), "sha256": _hash(workdir, detector)}
        # The job of an earlier version has no hash.
        _refuse_changes(out / JOB, job, {name: value for name, value in model.items() if name in job})
        if score == "auto":  # a later evaluation may have stored others
            model["best_scores"] = job.get("best_scores") or best_scores(detector, workdir).tolist()
        least = np.array(model["best_scores"]) if score == "auto" else score
        write_json(out / JOB, settings | model)
        parts = _Parts(out, format, part_size)
        images = list_images(inputs, parts.is_missing)
        results = detector.results(images, read=_decode, tile=tile, overlap=overlap)
        return _write(parts, (_row(result, least) for result in results), encode, report)


def _decode(_: int, numbered: tuple[int, NamedFile]) -> np.ndarray:
    return decode_image(numbered[1].load())


def _row(result: Result, least: float | np.ndarray) -> tuple[int, Row]:
    """Return the number and the row of an image; a missing or damaged one is a row too."""
    number, (name, _) = result.item
    if isinstance(result.found, Detections):
        return number, Row(name, result.size, result.found.above(least), None)
    if isinstance(result.found, OSError) and not isinstance(result.found, FileNotFoundError | PermissionError):
        raise result.found  # the file system fails: the other images would be errors too
    text = result.found.strerror if isinstance(result.found, OSError) else str(result.found)
    return number, Row(name, (0, 0), None, text)


def _hash(workdir: str | Path, detector: Detector) -> str:
    """Return a hash of an exported file, with the metadata beside it, or of a checkpoint's parameters."""
    total = hashlib.sha256()
    if Path(workdir).suffix in EXPORTED:
        beside = [metadata_path(workdir)] if Path(workdir).suffix == ".stablehlo" else []
        for path in [workdir, *beside]:
            total.update(read_bytes(path))
    else:
        import jax

        for array in jax.tree.leaves(detector.variables):
            total.update(np.asarray(array).tobytes())
    return total.hexdigest()


def _begun(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the job that `path` describes, {} if there is none, and refuse another one."""
    if not path.exists():
        return {}
    job = read_json(path)
    if not isinstance(job, dict):
        raise ValueError(f"{path}: a job must be a JSON object; got {type(job).__name__}")
    _refuse_changes(path, job, settings)
    return job


def _refuse_changes(path: Path, job: dict[str, Any], settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if job.get(name) != value:
            what, got = HASHES.get(name, (f"{name} {job.get(name)!r}", repr(value)))
            raise ValueError(f"{path}: a job must go on with {what}; got {got}: choose another folder")


class _Parts:
    """The numbered files of a job.

    Attributes:
      images: that were asked for so far.
    """

    def __init__(self, folder: Path, format: str, size: int) -> None:
        self.folder, self.format, self.size, self.images = folder, format, size, 0
        names = (path.name.split(".")[0].removeprefix("part-") for path in folder.glob(f"part-*.{format}"))
        self._done = frozenset(int(name) for name in names if name.isdecimal())

    def path(self, part: int) -> Path:
        return self.folder / f"part-{part:05}.{self.format}"

    def is_missing(self, number: int) -> bool:
        self.images = number + 1
        return number // self.size not in self._done


def _write(
    parts: _Parts,
    rows: Iterator[tuple[int, Row]],
    encode: Callable[[list[Row]], bytes],
    report: Callable[[Progress], None],
) -> Progress:
    start, new, errors = time.monotonic(), 0, 0
    for part, group in groupby(rows, key=lambda row: row[0] // parts.size):
        content = [row for _, row in group]
        write_bytes(parts.path(part), encode(content))
        new, errors = new + len(content), errors + sum(row.error is not None for row in content)
        report(Progress(part * parts.size + len(content), new, errors, time.monotonic() - start))
    return Progress(parts.images, new, errors, time.monotonic() - start)


def _encoder(format: str) -> Callable[[list[Row]], bytes]:
    if format == "parquet":
        arrow, parquet = (import_extra(name, "parquet") for name in ("pyarrow", "pyarrow.parquet"))
        return lambda rows: _to_parquet(rows, arrow, parquet)
    return _to_json_lines


def _to_json_lines(rows: list[Row]) -> bytes:
    lines = (
        {"image": row.image, "error": row.error}
        if row.found is None
        else {"image": row.image} | record(row.size, row.found)
        for row in rows
    )
    return b"".join(to_json(line).encode() + b"\n" for line in lines)


def _to_parquet(rows: list[Row], arrow: Any, parquet: Any) -> bytes:
    """Encode a table whose columns are those of a JSON line; `detections` is a list of structs."""
    detection = {
        "class": arrow.string(),
        "label": arrow.int32(),
        "score": arrow.float32(),
        "box": arrow.list_(arrow.float32(), 4),
    }
    columns = {
        "image": arrow.string(),
        "width": arrow.int32(),
        "height": arrow.int32(),
        "detections": arrow.list_(arrow.struct(detection.items())),
        "error": arrow.string(),
    }
    values = [
        {
            "image": _valid(row.image),
            **({} if row.found is None else record(row.size, row.found)),
            "error": row.error and _valid(row.error),
        }
        for row in rows
    ]
    file = io.BytesIO()
    parquet.write_table(arrow.Table.from_pylist(values, arrow.schema(columns.items())), file)
    return file.getvalue()


def _valid(text: str) -> str:
    """Write the bytes of a name that are not UTF-8, which a table cannot hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
