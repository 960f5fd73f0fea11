"""Detect with a trained model."""

import warnings
from typing import TYPE_CHECKING, Any

from ssd_jax.lazy import lazy

if TYPE_CHECKING:
    from ssd_jax.inference.detections import Detections
    from ssd_jax.inference.detector import Detector, Result, load_detector
    from ssd_jax.inference.drawing import draw
    from ssd_jax.inference.selection import make_detect, select

__all__ = ["Detections", "Detector", "Result", "draw", "load_detector", "make_detect", "select"]

_import_name = lazy(
    __name__,
    {
        "detections": "Detections",
        "detector": "Detector Result load_detector",
        "drawing": "draw",
        "selection": "make_detect select",
    },
)


def __getattr__(name: str) -> Any:
    if name == "to_pixels":  # until 0.2
        message = "ssd_jax.inference.to_pixels is now ssd_jax.inference.Detections.from_model"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return _import_name("Detections").from_model
    return _import_name(name)
