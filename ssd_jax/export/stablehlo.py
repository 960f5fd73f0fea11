"""A detector as a StableHLO program, by `jax.export`."""

import hashlib
from pathlib import Path

import jax
import jax.export
import numpy as np

from ssd_jax.export.metadata import describe_export
from ssd_jax.files import write_bytes, write_json
from ssd_jax.inference import Detector, make_detect
from ssd_jax.inference.exported import metadata_path
from ssd_jax.inference.selection import Selected
from ssd_jax.sides import sides_of

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(detector: Detector, path: str | Path, *, batch_size: int | None = None) -> None:
    """Write the network, its weights and the selection of detections as one program for CPU, GPU and TPU.

    The program takes RGB uint8 [B, H, W, 3] and returns what `inference.select` does; `load_stablehlo` runs it.
    FILE.json beside it has the names of the classes, the input size, versions and the program's hash. JAX promises
    to load a program for six months: keep the checkpoint.

    Args:
      detector: of a checkpoint.
      path: of the file.
      batch_size: B, or None for a program that takes any number of images.

    Raises:
      ValueError: for a wrong batch size, or a detector that is itself an exported file.
      OSError: if a file cannot be written.
    """
    metadata = describe_export(detector, batch_size=batch_size)
    detect, variables = make_detect(detector.model, **detector.options), jax.device_get(detector.variables)

    def program(images: jax.Array) -> Selected:
        # XLA may compute with constants before the program runs, and rounds then in another way: hide them from it.
        return detect(jax.lax.optimization_barrier(variables), images)

    batch = jax.export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    images = jax.ShapeDtypeStruct((batch, *sides_of(detector.image_size), 3), np.uint8)
    content = bytes(jax.export.export(jax.jit(program), platforms=PLATFORMS)(images).serialize())
    write_bytes(path, content)
    hashed = {"platforms": PLATFORMS, "sha256": hashlib.sha256(content).hexdigest()}
    write_json(metadata_path(path), metadata | hashed)
