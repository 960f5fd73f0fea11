"""An ONNX model whose convolutions compute with integers of 8 bits, by onnxruntime's static quantisation."""

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ssd_jax.extras import import_extra

OPERATORS = ("Conv", "MaxPool")


def quantize(model: Any, images: Iterable[np.ndarray]) -> Any:
    """Return the model with convolutions in 8 bits; the decoding and the selection stay as they are.

    Kernels have a scale for each channel, and 7 bits, so that sums do not saturate on processors without VNNI.

    Args:
      model: an `onnx.ModelProto` of `OnnxGraph`.
      images: what the ranges of the activations are measured on: uint8 [1, H, W, 3] each.

    Raises:
      ValueError: if there is no image, or onnxruntime is not installed.
    """
    onnx, quantization = import_extra("onnx", "onnx"), import_extra("onnxruntime.quantization", "onnx")
    images = list(images)
    if not images:
        raise ValueError("calibration must have at least one image for precision int8; got none")

    class Reader(quantization.CalibrationDataReader):
        """Gives the images one by one."""

        def __init__(self) -> None:
            self._feeds: Iterator[dict[str, np.ndarray]] = ({"images": image} for image in images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # it advises to fuse BatchNorm first, which the graph has done
    try:
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, before)
            quantization.quantize_static(
                before,
                after,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=OPERATORS,
                per_channel=True,
                reduce_range=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
            smaller = onnx.load(after)
    finally:
        root.setLevel(level)
    onnx.helper.set_model_props(smaller, {entry.key: entry.value for entry in model.metadata_props})
    return smaller
