"""A detector as an ONNX model."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.export
import numpy as np

from ssd_jax.box import VARIANCES, decode, make_priors
from ssd_jax.data import warp
from ssd_jax.export.metadata import describe_export
from ssd_jax.export.onnx_graph import OPSET, OnnxGraph
from ssd_jax.export.onnx_lowering import Lowering, Value
from ssd_jax.export.onnx_selection import add_selection
from ssd_jax.export.quantize import quantize
from ssd_jax.files import to_json, write_bytes
from ssd_jax.inference import Detector
from ssd_jax.inference.inputs import Image, read_image
from ssd_jax.model import SSD, preprocess
from ssd_jax.sides import sides_of

PRECISIONS = ("fp32", "fp16", "int8")


def to_onnx(
    detector: Detector,
    path: str | Path,
    *,
    nms: bool = True,
    batch_size: int | None = None,
    precision: str = "fp32",
    calibration: Iterable[Image] = (),
) -> None:
    """Write the network, its weights and the selection of detections as an ONNX model.

    Its input `images` is RGB uint8 [B, H, W, 3]. Its outputs are those of `inference.select`: `boxes` [B, D, 4],
    `scores` [B, D], `labels` [B, D] int32. Its metadata have the names of the classes, the input size and versions.

    Args:
      detector: of a checkpoint.
      path: of the file.
      nms: whether detections are selected; otherwise the outputs are the decoded `boxes` [B, P, 4], which may reach
        beyond the image, and the probabilities `scores` [B, P, C], the first of the background.
      batch_size: B, or None for a model that takes any number of images.
      precision: "fp32"; "fp16": the backbone and the extra layers compute in float16, the rest in float32; "int8":
        the convolutions compute in 8 bits.
      calibration: images like those to detect in, for "int8": the ranges of the activations are measured on them.

    Raises:
      ValueError: for a wrong option, a detector that is itself an exported file, or if onnx is not installed; or
        for an image that cannot be decoded, which it names.
      OSError: if the file cannot be written, or an image cannot be read.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
    model = onnx_model(detector, nms=nms, batch_size=batch_size, precision=precision)
    if precision == "int8":
        images = (read_image(image, name=f"calibration image {k}") for k, image in enumerate(calibration))
        warped = (warp(image, detector.image_size) for image in images)
        model = quantize(model, (np.stack([image] * (batch_size or 1)) for image in warped))
    write_bytes(path, model.SerializeToString())


def onnx_model(detector: Detector, *, nms: bool, batch_size: int | None, precision: str) -> Any:
    """Return the `onnx.ModelProto` that `to_onnx` writes, or quantises for "int8"."""
    metadata = describe_export(detector, batch_size=batch_size)
    graph, sides = OnnxGraph(), sides_of(detector.image_size)
    # bfloat16 has a place in few runtimes: fp16 is what the model computes in bfloat16, in float16.
    model = detector.model.clone(dtype="bfloat16" if precision == "fp16" else "float32", portable=True)
    axis = "batch" if batch_size is None else batch_size
    batch = jax.export.symbolic_shape("batch")[0] if batch_size is None else batch_size
    images = Value(lambda: "images", (batch, *sides, 3), np.dtype(np.uint8))
    variables = jax.tree.map(np.asarray, jax.device_get(detector.variables))
    boxes, logits = (value.name for value in Lowering(graph)(decoded_outputs(model), variables, images))
    scores = graph.add("Softmax", logits, axis=2) if model.scores == "softmax" else graph.add("Sigmoid", logits)

    priors, classes = len(make_priors(model.spec)), model.num_classes
    described: dict[str, tuple[str, Any, tuple[int | str, ...]]]
    if nms:
        selected = add_selection(graph, boxes, scores, n_priors=priors, n_classes=classes, **detector.options)
        d = detector.options.get("max_detections", 200)
        shapes = ((axis, d, 4), (axis, d), (axis, d))
        types = (np.float32, np.float32, np.int32)
        described = dict(zip(("boxes", "scores", "labels"), zip(selected, types, shapes, strict=True), strict=True))
    else:
        described = {
            "boxes": (boxes, np.float32, (axis, priors, 4)),
            "scores": (scores, np.float32, (axis, priors, classes)),
        }
    values = metadata | {"nms": nms, "precision": precision, "opset": OPSET}
    properties = {name: to_json(value) for name, value in values.items()}
    return graph.model({"images": (np.uint8, (axis, *sides, 3))}, described, properties)


def decoded_outputs(model: SSD) -> Any:
    """Return the function from variables and images [B, H, W, 3] to corners [B, P, 4] and logits [B, P, C]."""
    priors = make_priors(model.spec)

    def outputs(variables: Any, images: jax.Array) -> tuple[Any, Any]:
        offsets, logits = model.apply(variables, preprocess(images))
        boxes = jax.vmap(lambda offsets: decode(offsets, priors, variances=VARIANCES))(offsets)
        return boxes, logits

    return outputs
