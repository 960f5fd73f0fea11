"""Export a detector as one file that runs without this package."""

from ssd_jax.export.onnx import to_onnx
from ssd_jax.export.stablehlo import to_stablehlo
from ssd_jax.inference.exported import load_stablehlo

__all__ = ["load_stablehlo", "to_onnx", "to_stablehlo"]
