"""Detectors that run an exported file. An ONNX file needs neither JAX nor Flax; a StableHLO file needs JAX alone."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from ssd_jax.extras import import_extra
from ssd_jax.files import read_bytes, read_json
from ssd_jax.inference.detector import Detector, one_by_one
from ssd_jax.inference.select_options import SelectOptions, check_options
from ssd_jax.sides import Side, sides_of

Program = Callable[[Any], Iterable[Any]]  # uint8 [B, H, W, 3] -> corners [B, D, 4], scores [B, D], labels [B, D]


class Metadata(NamedTuple):
    """What an exported file says about itself.

    Attributes:
      class_names: of labels 1, 2, ...
      image_size: side of the input, or (height, width), pixels.
      batch_size: images that the program takes, or None for any number.
      step: of the checkpoint it was made from, if any.
      options: of `select` that were set.
      thresholds: of `Detector`, if an evaluation had stored them.
    """

    class_names: tuple[str, ...]
    image_size: Side
    batch_size: int | None
    step: int | None
    options: SelectOptions
    thresholds: dict[str, float] | None

    @classmethod
    def from_json(cls, path: Path, values: Any) -> "Metadata":
        """Check the JSON values that stand in, or beside, the file `path`."""
        given = values if isinstance(values, dict) else {}
        names, size = given.get("class_names"), given.get("image_size")
        batch, step, options = given.get("batch_size"), given.get("step"), given.get("options", {})
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: the metadata's class_names must be a list of texts; got {names!r}")
        sides = sides_of(size)
        if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"{path}: the metadata's image_size must be a positive integer or two; got {size!r}")
        if batch is not None and (not isinstance(batch, int) or batch < 1):
            raise ValueError(f"{path}: the metadata's batch_size must be a positive integer or null; got {batch!r}")
        if not isinstance(options, dict):
            raise ValueError(f"{path}: the metadata's options must be a JSON object; got {options!r}")
        try:
            check_options(options)
        except ValueError as error:
            raise ValueError(f"{path}: the metadata's options: {error}") from None
        best = given.get("thresholds")
        if best is not None and not (isinstance(best, dict) and all(map(_is_threshold, best.values()))):
            raise ValueError(f"{path}: the metadata's thresholds must be numbers from 0 to 1 by class; got {best!r}")
        best = best and {name: math.nan if value is None else float(value) for name, value in best.items()}
        side = sides[0] if sides[0] == sides[1] else sides
        return cls(tuple(names), side, batch, step, cast("SelectOptions", options), best)


def _is_threshold(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


class ExportedDetector(Detector):
    """A detector whose network and selection are an exported program: the interface is that of `Detector`.

    It has no `model` and no `variables`, and its options are those that it was exported with.
    """

    def __init__(self, path: str | Path, program: Program, metadata: Metadata, *, batch_size: int = 8) -> None:
        """Prepare to detect with `program`.

        Args:
          path: of the file.
          program: returns padded detections, as `select` does.
          metadata: of the program.
          batch_size: images of a batch; a program of a fixed batch has its own.
        """
        fixed = metadata.batch_size
        self._describe(metadata.image_size, metadata.class_names, metadata.step, fixed or batch_size)
        self._path, self._program, self._fixed = Path(path).absolute(), program, fixed
        self.options, self.thresholds = metadata.options, metadata.thresholds

    def _run(self, batch: np.ndarray) -> Iterable[Any]:
        rows = self._fixed or len(batch)
        return self._program(np.pad(batch, ((0, rows - len(batch)), (0, 0), (0, 0), (0, 0))))

    def __reduce__(self) -> tuple[Callable[..., Detector], tuple[Any, ...]]:
        """Pickle the path of the file."""
        return partial(load_exported, batch_size=self.batch_size), (self._path,)


def load_exported(path: str | Path, *, batch_size: int = 8) -> ExportedDetector:
    """Load a file of `ssd_jax.export` as a detector.

    Args:
      path: of the file.
      batch_size: of `Detector`.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is damaged.
    """
    load = load_onnx if Path(path).suffix == ".onnx" else load_stablehlo_with_metadata
    return ExportedDetector(path, *load(path), batch_size=batch_size)


def load_onnx(path: str | Path) -> tuple[Program, Metadata]:
    """Load a file of `export.to_onnx` by onnxruntime, on a GPU if the installed onnxruntime can use one.

    Returns:
      a program as that of `load_stablehlo`, and its metadata.

    Raises:
      OSError: if the file cannot be read.
      ValueError: if it is damaged or has other outputs, or onnxruntime is not installed.
    """
    runtime = import_extra("onnxruntime", "onnx")
    content = read_bytes(path)
    try:
        session = runtime.InferenceSession(content, providers=runtime.get_available_providers())
    except Exception as error:  # onnxruntime has a class for each kind, which only share this one
        raise ValueError(f"{path}: the file must be an ONNX model; got {error}") from None
    outputs = [output.name for output in session.get_outputs()]
    if outputs != ["boxes", "scores", "labels"]:
        raise ValueError(
            f"{path}: the model must return boxes, scores and labels (nms=True); got {', '.join(outputs)}"
        )
    properties = session.get_modelmeta().custom_metadata_map
    try:
        values = {name: json.loads(text) for name, text in properties.items()}
    except ValueError as error:
        raise ValueError(f"{path}: the model's metadata must be JSON; got {error}") from None
    (images,) = session.get_inputs()
    return lambda batch: session.run(None, {images.name: batch}), Metadata.from_json(Path(path), values)


def load_stablehlo(path: str | Path) -> Program:
    """Load a file of `export.to_stablehlo`. This needs JAX, but not Flax.

    Returns:
      A function from RGB uint8 [B, H, W, 3] to corners [B, D, 4] in fractions, scores [B, D] and labels [B, D], best
      first; unused rows are zero, with label 0. It is compiled for each B.

    Raises:
      OSError: if the file, or the metadata beside it, cannot be read.
      ValueError: if either is damaged.
    """
    import jax
    import jax.export

    stablehlo_metadata(path)
    return jax.jit(jax.export.deserialize(bytearray(_checked(Path(path)))).call)


def load_stablehlo_with_metadata(path: str | Path) -> tuple[Program, Metadata]:
    """Do what `load_onnx` does, for a file of `export.to_stablehlo`."""
    from ssd_jax.parallel import is_cpu

    program, metadata = load_stablehlo(path), stablehlo_metadata(path)
    if metadata.batch_size is None and is_cpu():
        return partial(one_by_one, program), metadata
    return program, metadata


def stablehlo_metadata(path: str | Path) -> Metadata:
    """Read what stands beside a StableHLO file: FILE.json."""
    beside = metadata_path(path)
    return Metadata.from_json(beside, read_json(beside))


def metadata_path(path: str | Path) -> Path:
    """Return the place of the metadata of a StableHLO file."""
    return Path(f"{path}.json")


def _checked(path: Path) -> bytes:
    """Read a program whose hash stands in the metadata: its format has no check of its own."""
    program, wanted = read_bytes(path), read_json(metadata_path(path)).get("sha256")
    found = hashlib.sha256(program).hexdigest()
    if found != wanted:
        raise ValueError(f"{path}: the file must have the sha256 that its metadata says, {wanted}; got {found}")
    return program
