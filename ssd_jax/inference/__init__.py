"""Detect with a trained model."""

import warnings
from collections.abc import Callable

from ssd_jax.inference.detector import Detections, Detector, load_detector
from ssd_jax.inference.drawing import draw
from ssd_jax.inference.selection import make_detect, select

__all__ = ["Detections", "Detector", "draw", "load_detector", "make_detect", "select"]


def __getattr__(name: str) -> Callable[..., Detections]:
    if name == "to_pixels":  # until 0.2
        message = "ssd_jax.inference.to_pixels is now ssd_jax.inference.Detections.from_model"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return Detections.from_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
