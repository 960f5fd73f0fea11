"""Detect with a trained model."""

from ssd_jax.inference.detector import Detections, Detector, load_detector, to_pixels
from ssd_jax.inference.drawing import draw
from ssd_jax.inference.selection import make_detect, select

__all__ = ["Detections", "Detector", "draw", "load_detector", "make_detect", "select", "to_pixels"]
