"""What an exported file says about itself."""

from typing import Any

import jax
import numpy as np

import ssd_jax
from ssd_jax.inference import Detector
from ssd_jax.inference.exported import ExportedDetector


def describe_export(detector: Detector, *, batch_size: int | None) -> dict[str, Any]:
    """Return the metadata of a file that is made of `detector`, as JSON values but for nan.

    Args:
      detector: of a checkpoint.
      batch_size: images that the program takes, or None for any number.

    Raises:
      ValueError: for a wrong batch size, or a detector that is itself an exported file.
    """
    if isinstance(detector, ExportedDetector):
        raise ValueError("detector must be that of a checkpoint; got one of an exported file")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size must be a positive integer or None; got {batch_size!r}")
    return {
        "class_names": list(detector.class_names),
        "image_size": detector.image_size,
        "batch_size": batch_size,
        "step": detector.step,
        "options": {name: np.asarray(value).item() for name, value in detector.options.items()},
        "thresholds": detector.thresholds and dict(detector.thresholds),
        "ssd_jax": ssd_jax.__version__,
        "jax": jax.__version__,
    }
