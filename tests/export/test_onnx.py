"""A detector as an ONNX model, run by onnxruntime."""

import json
import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from ssd_jax.export import to_onnx
from ssd_jax.export.onnx_graph import OnnxGraph
from ssd_jax.export.onnx_lowering import Lowering, Value
from ssd_jax.inference import Detector, load_detector
from ssd_jax.model import preprocess
from ssd_jax.model.layers import ACTIVATIONS, DepthwiseConv, L2Norm, pool2, pool5

onnx = pytest.importorskip("onnx", reason="onnx is not installed: the extra [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: the extra [onnx]")

PROMOTION = "standard"  # Flax's BatchNorm promotes
ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "deploy.md"


@pytest.fixture(scope="module")
def path(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "detector.onnx"
    to_onnx(detector, path)
    return path


def images(count, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)


def check(found, wanted):
    """Compare padded detections of a batch, whose scores have no ties."""
    assert 0 < np.count_nonzero(wanted[2]) < wanted[2].size
    for a, b, tolerance in zip(found, wanted, (1e-6, 1e-6, 0), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


@pytest.mark.parametrize("count", [1, 5])
def test_the_model_gives_what_the_detector_does_for_any_batch(detector, path, count):
    session = onnxruntime.InferenceSession(path)
    check(session.run(None, {"images": images(count)}), detector._detect(detector.variables, images(count)))


@pytest.mark.parametrize(
    "options",
    [
        {"max_candidates": 5, "max_detections": 300, "score_threshold": 0.45},  # more rows than there are candidates
        {"max_candidates": 10_000, "max_detections": 7, "iou_threshold": 0.1, "score_threshold": 0.0},
        {"max_candidates": 20, "iou_threshold": 0.0, "score_threshold": 0.4},
    ],
)
def test_the_options_of_the_selection_are_the_detectors(detector, tmp_path, options):
    strict = Detector(detector.model, detector.variables, detector.class_names, **options)
    to_onnx(strict, tmp_path / "x.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "x.onnx").run(None, {"images": images(2)})
    wanted = strict._detect(strict.variables, images(2))
    assert np.count_nonzero(wanted[2])
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_without_nms_the_outputs_are_boxes_and_probabilities_of_all_priors(detector, tmp_path):
    to_onnx(detector, tmp_path / "raw.onnx", nms=False)
    boxes, scores = onnxruntime.InferenceSession(tmp_path / "raw.onnx").run(None, {"images": images(2)})
    offsets, logits = map(np.asarray, detector.model.apply(detector.variables, preprocess(images(2))))
    exponents = np.exp(logits - np.max(logits, axis=2, keepdims=True))
    np.testing.assert_allclose(scores, exponents / exponents.sum(axis=2, keepdims=True), atol=1e-6)
    x, y, w, h = tiny.PRIORS.T
    cx, cy = x + 0.1 * offsets[..., 0] * w, y + 0.1 * offsets[..., 1] * h
    w, h = w * np.exp(0.2 * offsets[..., 2]), h * np.exp(0.2 * offsets[..., 3])
    np.testing.assert_allclose(boxes, np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1), atol=1e-5)
    with pytest.raises(ValueError, match=r"raw\.onnx: .*boxes, scores and labels \(nms=True\); got boxes, scores$"):
        load_detector(tmp_path / "raw.onnx")


def test_a_model_of_a_fixed_batch_takes_that_batch_alone(detector, path, tmp_path):
    to_onnx(detector, tmp_path / "three.onnx", batch_size=3)
    session = onnxruntime.InferenceSession(tmp_path / "three.onnx")
    assert session.get_inputs()[0].shape == [3, 64, 64, 3]
    fixed, free = load_detector(tmp_path / "three.onnx"), load_detector(path)
    for found, wanted in zip(fixed(list(images(5))), free(list(images(5))), strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)


def test_the_graph_is_of_plain_convolutions(path):
    model = onnx.load(path)
    counts = Counter(node.op_type for node in model.graph.node)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert [node.name for node in convolutions][:3] == [f"trunk/conv{k}/conv" for k in (1, 2, 3)]
    assert counts["Conv"] == 13 and counts["MaxPool"] == 4 and counts["NonMaxSuppression"] == 1
    # BatchNorm is in the kernels: between a convolution and its ReLU there is nothing.
    assert sum(node.op_type == "Relu" and node.input[0].endswith("/conv") for node in model.graph.node) == 7
    # The maps are turned once at the start and once before each head's rows.
    assert counts["Transpose"] <= 1 + 6 + 2
    assert model.opset_import[0].version == 17


def test_the_metadata_and_the_detector_say_what_a_user_needs(detector, path):
    metadata = {entry.key: json.loads(entry.value) for entry in onnx.load(path).metadata_props}
    assert metadata["class_names"] == ["bright", "dark"] and metadata["image_size"] == 64
    assert metadata["options"] == {"score_threshold": 0.5} and metadata["opset"] == 17
    loaded = pickle.loads(pickle.dumps(load_detector(path, batch_size=2)))
    assert (loaded.class_names, loaded.image_size, loaded.step) == (("bright", "dark"), 64, 7)
    sizes = ((64, 64), (90, 40), (30, 64))
    given = [np.random.default_rng(3).integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]
    for found, wanted in zip(loaded(given), detector(given), strict=True):
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)


def test_half_precision_is_near_single_precision(detector, path, tmp_path):
    to_onnx(detector, tmp_path / "half.onnx", precision="fp16", nms=False)
    to_onnx(detector, tmp_path / "single.onnx", nms=False)
    assert (tmp_path / "half.onnx").stat().st_size < (tmp_path / "single.onnx").stat().st_size
    half, single = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"images": images(2)})
        for name in ("half.onnx", "single.onnx")
    )
    for a, b in zip(half, single, strict=True):
        np.testing.assert_allclose(a, b, atol=5e-3)
        assert abs(a - b).max() > 1e-6


def test_eight_bits_are_near_single_precision(detector, path, tmp_path):
    to_onnx(detector, tmp_path / "int8.onnx", precision="int8", nms=False, calibration=images(6, seed=2))
    to_onnx(detector, tmp_path / "fp32.onnx", nms=False)
    model = onnx.load(tmp_path / "int8.onnx")
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph.node) > 10
    assert {entry.key: entry.value for entry in model.metadata_props}["precision"] == '"int8"'
    eight, single = (
        onnxruntime.InferenceSession(tmp_path / name).run(None, {"images": images(2)})[1]
        for name in ("int8.onnx", "fp32.onnx")
    )
    assert 1e-4 < abs(eight - single).mean() < 0.02
    with pytest.raises(ValueError, match=r"^calibration must have at least one image .* int8; got none$"):
        to_onnx(detector, tmp_path / "none.onnx", precision="int8")
    with pytest.raises(ValueError, match=r"^calibration image 1: the file is empty$"):
        to_onnx(detector, tmp_path / "none.onnx", precision="int8", calibration=[images(1)[0], b""])
    assert not (tmp_path / "none.onnx").exists()


def lower(function, x, constants=None):
    """Run a function of JAX as an ONNX model."""
    graph = OnnxGraph()
    axes = ("batch", *x.shape[1:])
    value = Value(lambda: "x", (jax.export.symbolic_shape("batch")[0], *x.shape[1:]), x.dtype)
    results = Lowering(graph)(function, constants or {}, value)
    outputs = {
        f"y{k}": (y.name, y.dtype, ["?" if not isinstance(n, int) else n for n in y.shape])
        for k, y in enumerate(results)
    }
    model = graph.model({"x": (x.dtype, axes)}, outputs, {})
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})


def maps(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) * 4


@pytest.mark.parametrize(
    "function",
    [
        *(lambda x, name=name: ACTIVATIONS[name](x) for name in ACTIVATIONS),
        pool2,
        pool5,
        lambda x: L2Norm().apply({"params": {"scale": jnp.linspace(1, 3, 6)}}, x),
        lambda x: x * jax.nn.sigmoid(jnp.mean(x, axis=(1, 2), keepdims=True)),
        lambda x: x - jnp.max(x, axis=(0, 2), keepdims=True),
        lambda x: jnp.where(x > 1, x, 2 * x**3),
        lambda x: jnp.where(x < 0, -1.0, jnp.where(x > 3, 5.0, x)),  # no clipping: 5 is not 3
        lambda x: jnp.concatenate([jax.lax.slice_in_dim(x, 1, 4, 2, axis=1), -x / 3], axis=1),
        lambda x: jnp.stack([jax.lax.index_in_dim(x, k, 3, keepdims=False) for k in (0, 2)], axis=1),
        lambda x: jnp.transpose(x, (0, 3, 2, 1)) + jnp.zeros((6, 7, 5))[None],
        lambda x: jnp.broadcast_to(jnp.sum(x, axis=3, keepdims=True), x.shape).reshape(x.shape[0], -1, 3),
    ],
)
def test_a_function_of_maps_computes_the_same_as_onnx(function):
    x = maps(2, 5, 7, 6)
    for found, wanted in zip(lower(lambda _, x: [function(x)], x), [function(x)], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, "SAME"), (2, 0)])
def test_a_depthwise_convolution_is_one_node(stride, padding):
    module, x = DepthwiseConv(stride=stride, padding=padding), maps(2, 8, 7, 6)
    variables = jax.device_get(module.init(jax.random.key(0), x))
    (found,) = lower(lambda variables, x: [module.apply(variables, x)], x, variables)
    np.testing.assert_allclose(found, module.apply(variables, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [
        ((2, 2), (2, 2), "VALID", (1, 1)),
        ((3, 3), (1, 1), "VALID", (1, 1)),
        ((3, 2), (2, 1), "SAME", (1, 1)),
        ((2, 3), (3, 2), "VALID", (2, 1)),  # a stride larger than the kernel leaves rows without a value
        ((3, 3), (2, 2), ((1, 3), (2, 2)), (1, 1)),
    ],
)
def test_a_transposed_convolution_is_one_node(kernel, stride, padding, dilation):
    module = nn.ConvTranspose(5, kernel, strides=stride, padding=padding, kernel_dilation=dilation)
    x = maps(2, 4, 6, 3)
    variables = jax.device_get(module.init(jax.random.key(0), x))
    variables["params"]["bias"] = np.arange(5.0, dtype=np.float32)
    scale = np.arange(1, 6, dtype=np.float32).reshape(1, 1, 1, 5)  # becomes part of the kernel
    (found,) = lower(lambda variables, x: [module.apply(variables, x) * scale], x, variables)
    np.testing.assert_allclose(found, module.apply(variables, x) * scale, rtol=1e-4, atol=1e-5)


def test_a_transposed_convolution_that_onnx_has_not_is_refused():
    x = maps(1, 4, 4, 4)
    grouped = {"lhs_dilation": (2, 2), "dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": 2}
    with pytest.raises(ValueError, match=r"^a transposed convolution must have no groups, .*; got \(\(1, 1\), "):
        lower(
            lambda c, x: [jax.lax.conv_general_dilated(x, c["kernel"], (1, 1), ((1, 1), (1, 1)), **grouped)],
            x,
            {"kernel": np.ones((2, 2, 2, 4), np.float32)},
        )


def test_dssd_gives_what_the_detector_does(dssd, tmp_path):
    to_onnx(dssd, tmp_path / "dssd.onnx")
    images = np.random.default_rng(1).integers(0, 256, (2, 65, 65, 3), dtype=np.uint8)
    check(
        onnxruntime.InferenceSession(tmp_path / "dssd.onnx").run(None, {"images": images}),
        dssd._detect(dssd.variables, images),
    )
    ops = Counter(node.op_type for node in onnx.load(tmp_path / "dssd.onnx").graph.node)
    assert ops["ConvTranspose"] == 2


def test_retinanet_gives_what_the_detector_does(retina, tmp_path):
    to_onnx(retina, tmp_path / "retina.onnx")
    given = images(2)
    check(
        onnxruntime.InferenceSession(tmp_path / "retina.onnx").run(None, {"images": given}),
        retina._detect(retina.variables, given),
    )
    graph = onnx.load(tmp_path / "retina.onnx").graph
    ops = Counter(node.op_type for node in graph.node)
    assert (ops["Sigmoid"], ops["Softmax"]) == (1, 0)
    # Five convolutions of a subnet on three maps, whose kernels the graph has once.
    kernels = Counter(node.input[1] for node in graph.node if node.op_type == "Conv")
    assert sorted(kernels.values()) == [1] * 10 + [3] * 10


def test_an_operation_without_a_lowering_is_named():
    with pytest.raises(ValueError, match=r"^an operation must be one of add, .* to be exported as ONNX; got sort$"):
        lower(lambda _, x: [jnp.sort(x, axis=1)], maps(1, 4, 4, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive integer or None; got 0"),
        ({"precision": "fp8"}, "precision must be one of fp32, fp16, int8; got 'fp8'"),
    ],
)
def test_a_wrong_option_is_refused(detector, tmp_path, options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        to_onnx(detector, tmp_path / "x.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_foreign_file_is_one_line(path, tmp_path):
    copy = tmp_path / "copy.onnx"
    with pytest.raises(FileNotFoundError, match=r"copy\.onnx"):
        load_detector(copy)
    for content in (b"", b"text", path.read_bytes()[:-100]):
        copy.write_bytes(content)
        with pytest.raises(ValueError, match=r"^\S*copy\.onnx: the file must be an ONNX model; got .*\Z"):
            load_detector(copy)
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, copy)
    with pytest.raises(ValueError, match=r"copy\.onnx: the metadata's class_names must be a list of texts; got None"):
        load_detector(copy)
    onnx.helper.set_model_props(model, {"class_names": "{"})
    onnx.save(model, copy)
    with pytest.raises(ValueError, match=r"copy\.onnx: the model's metadata must be JSON; got "):
        load_detector(copy)


def test_an_onnx_file_detects_without_importing_jax(path, tmp_path):
    image, out = tmp_path / "image.png", tmp_path / "out"
    cv2.imwrite(str(image), np.zeros((64, 64, 3), np.uint8))
    code = (
        "import sys\nfrom ssd_jax.cli import main\nfrom ssd_jax.inference import load_detector\n"
        f"assert len(load_detector({str(path)!r})([{str(image)!r}])) == 1\n"
        f"main(['detect', '--workdir={path}', '--out={out}', {str(image)!r}])\n"
        "print([name for name in ('jax', 'flax', 'orbax', 'grain', 'onnx') if name in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.stdout.splitlines()[-1:] == ["[]"], result.stderr
    assert sorted(os.listdir(out)) == ["detections.json", "image.png"]


def test_the_lines_of_the_docs_run(detector, path):
    (lines,) = re.findall(r"```python\n(import json\n\nimport cv2\nimport onnx.*?)```", DOCS.read_text(), re.DOTALL)
    image = np.random.default_rng(4).integers(0, 256, (64, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(path.with_name("photo.png")), image[:, :, ::-1])
    lines = lines.replace("photo.jpg", "photo.png").replace("score > 0.4", "score > 0.51")
    command = [sys.executable, "-c", lines]
    result = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, timeout=300)
    (found,) = detector([image])
    names = [detector.class_names[label - 1] for label in found.above(0.51).labels]
    assert names and [line.split()[0] for line in result.stdout.splitlines()] == names, result.stderr
