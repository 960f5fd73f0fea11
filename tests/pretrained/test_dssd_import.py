"""SSD321, SSD513, DSSD321 and DSSD513 of Caffe become models that compute the same."""

import functools
import re

import dssd_reference as reference
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from test_dssd import tensor_of
from writers import caffemodel

import ssd_jax.pretrained.__main__ as command
from ssd_jax.model import compile_to_run_once, make, preprocess, variable_shapes
from ssd_jax.pretrained import load, start_from

PROMOTION = "standard"  # Flax's BatchNorm promotes
MEAN_BGR = np.array([104.0, 117.0, 123.0])[:, None, None]
CLASSES = {"voc": 21, "coco": 81}
SCRIPT = {"head_features": (128, 512, *(256,) * 5)}  # ssd_coco_resnet_513.py
NETWORKS = {  # input, number of classes, and the options of the reference
    "SSD321": (321, "voc", {}),
    "DSSD321": (321, "voc", {"deconvolution": True}),
    "SSD513": (513, "voc", {}),
    "SSD513 of the script": (513, "coco", SCRIPT),
    "DSSD513": (513, "voc", {"deconvolution": True}),
    "DSSD513 of the script": (513, "coco", {"deconvolution": True, "head_inner": 512}),
}


def caffe_name(name, last, deconvolution, head_features):
    """Return what the released scripts call a layer of the reference."""
    sources = ("res3b3_relu", "res5c_relu", *(f"res{number}_relu" for number in range(6, 5 + last)))
    numbers = (3, *range(5, 4 + last))
    if match := re.fullmatch(r"res(\d)_(\d+)_(.*)", name):
        stage, k, branch = match.groups()
        letters = "abc" if stage in "25" else ("a", *(f"b{k}" for k in range(1, 23)))
        return f"res{stage}{letters[int(k)]}_{branch}"
    if match := re.fullmatch(r"(up|coarse|fine)(\d)_?(\d?)", name):
        kind, k, number = match[1], int(match[2]), match[3]
        deconvolved = f"deconv_{numbers[k]}"
        return {"up": deconvolved, "coarse": f"{deconvolved}_pre", "fine": f"{sources[k]}_pre{number}"}[kind]
    if match := re.fullmatch(r"(predict|loc|conf)(\d)(.*)", name):
        kind, k, rest = match[1], int(match[2]), match[3]
        combined = deconvolution and k < last
        source = f"combined_{numbers[k]}_EltwisePROD_relu" if combined else sources[k]
        block = f"res{source}_inter{head_features[k]}"
        if kind == "predict":
            return block + rest
        return f"{block}_mbox_{kind}{'new' * deconvolution}{rest.replace('_inner', '_inter')}"
    return name


def norm_names(name):
    """Return Caffe's names of the BatchNorm and the Scale of a convolution."""
    if name == "conv1":
        return "bn_conv1", "scale_conv1"
    if "_branch" in name:
        return f"bn{name.removeprefix('res')}", f"scale{name.removeprefix('res')}"
    return f"{name}_bn", f"{name}_scale"


def file_of(layers, name_of):
    """Return the blobs of a caffemodel with the tensors of the reference; statistics are sums, as in Caffe."""
    blobs = {}
    for key in layers:
        name, leaf = key.rsplit(".", 1)
        if not name.endswith(".bn"):
            blobs[f"{name_of(name)}.{leaf}"] = layers[key]
        elif leaf == "running_mean":
            norm, scale = norm_names(name_of(name.removesuffix(".bn")))
            weight = np.float32(1 + len(blobs) % 7)
            blobs[f"{norm}.weight"] = layers[key] * weight
            blobs[f"{norm}.bias"] = layers[f"{name}.running_var"] * weight
            blobs[f"{norm}.2"] = np.array([weight])
            blobs[f"{scale}.weight"], blobs[f"{scale}.bias"] = layers[f"{name}.weight"], layers[f"{name}.bias"]
    return blobs


@functools.cache
def network(kind):
    """Return the reference's tensors, its outputs for an image, and the image."""
    side, dataset, options = NETWORKS[kind]
    image = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    layers = reference.Layers()
    bgr = image[:, :, ::-1].transpose(2, 0, 1) - MEAN_BGR
    _, *outputs = reference.ssd(layers, bgr, CLASSES[dataset], **options)
    return layers, outputs, image


def blobs_of(kind):
    side, _, options = NETWORKS[kind]
    names = {
        "last": {321: 5, 513: 6}[side],
        "deconvolution": options.get("deconvolution", False),
        "head_features": options.get("head_features", (256,) * 7),
    }
    return file_of(network(kind)[0], functools.partial(caffe_name, **names))


def written(folder, blobs):
    path = folder / "weights.caffemodel"
    path.write_bytes(caffemodel(blobs))
    return path


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_tensor_becomes_the_parameter_of_its_layer(kind, tmp_path):
    side, dataset, options = NETWORKS[kind]
    layers, _, _ = network(kind)
    weights = load(written(tmp_path, blobs_of(kind)), width=reference.WIDTH)
    name = kind.split()[0].lower()
    assert weights.title == f"{'a D' if name[0] == 'd' else 'an '}SSD{side} of Caffe" and not weights.notes
    given = {field: value for field, value in options.items() if field != "deconvolution"}
    assert weights.model == make(name, CLASSES[dataset], dataset, width=reference.WIDTH, **given)
    assert weights.dataset == dataset and len(weights.class_names) == CLASSES[dataset] - 1
    found = weights.params | weights.batch_stats
    shapes = variable_shapes(weights.model).values()
    assert found.keys() == {path for tree in shapes for path in flatten_dict(tree, sep="/")}
    for path, array in found.items():
        wanted = tensor_of(path, layers)
        wanted = wanted[:, :, ::-1] if path == "trunk/conv1/conv/kernel" else wanted
        np.testing.assert_allclose(array, wanted, rtol=1e-6, err_msg=path)


def test_the_model_computes_what_the_original_does(tmp_path):
    _, expected, image = network("DSSD321")
    weights = load(written(tmp_path, blobs_of("DSSD321")), width=reference.WIDTH)
    variables = {name: unflatten_dict(getattr(weights, name), sep="/") for name in ("params", "batch_stats")}
    outputs = compile_to_run_once(weights.model.apply)(variables, preprocess(image[None]))
    for got, wanted in zip(outputs, expected, strict=True):
        assert wanted.std() > 0.1
        np.testing.assert_allclose(got[0], wanted, rtol=2e-3, atol=2e-3 * wanted.std())


def test_a_dssd_starts_from_the_file_of_an_ssd(tmp_path):
    path = written(tmp_path, blobs_of("SSD321"))
    shapes = variable_shapes(make("dssd321", 21, width=reference.WIDTH))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    after, line = start_from(path, variables, ("a",) * 20, width=reference.WIDTH)
    assert line.endswith(
        "(an SSD321 of Caffe): all of it is taken but the heads, because the model deconvolves its maps"
    )
    new = {name for name, array in flatten_dict(after["params"], sep="/").items() if not np.any(array)}
    assert {name.split("/")[0] for name in new} == {f"deconv{k}" for k in range(5)} | {
        f"predict{k}" for k in range(6)
    }


@pytest.fixture(scope="module")
def resnet101():
    """The blobs of the classifier."""
    kept = {
        name: array
        for name, array in blobs_of("SSD321").items()
        if name.startswith(("conv1", "bn_conv1", "scale_conv1"))
        or re.match(r"(res|bn|scale)[2-5][abc]\d*_branch", name)
    }
    return kept | {"fc1000.weight": np.ones((1000, 64), np.float32), "fc1000.bias": np.ones(1000, np.float32)}


def test_a_training_starts_from_the_classifier(resnet101, tmp_path, monkeypatch):
    path = written(tmp_path, resnet101)
    weights = load(path, width=reference.WIDTH)
    assert weights.model is None and weights.title == "the ResNet-101 of Caffe"
    shapes = variable_shapes(make("ssd321", 21, width=reference.WIDTH))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    after, line = start_from(path, variables, ("a",) * 20, width=reference.WIDTH)
    assert line == f"{path} (the ResNet-101 of Caffe): the backbone is taken"
    taken = {name for name, array in flatten_dict(after["params"], sep="/").items() if np.any(array)}
    assert taken == {name for name in flatten_dict(shapes["params"], sep="/") if name.startswith("trunk/")}
    monkeypatch.setattr(command, "load", functools.partial(load, width=reference.WIDTH))
    assert command.run([str(path)]).startswith(f"{path} is the ResNet-101 of Caffe; train from it with ")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("bn3b2_branch2b.2", None, r"bn3b2_branch2b\.2 must have shape \[1\]; got no such tensor"),
        ("bn3b2_branch2b.2", np.zeros(1), r"bn3b2_branch2b\.2, the weight of statistics, must be above 0; got 0\.0"),
        ("scale4b22_branch2c.bias", np.zeros(3), r"scale4b22_branch2c\.bias must have shape \[32\]; got \[3\]"),
        ("res4b23_branch2a.weight", np.zeros((8, 32, 1, 1)), r"every tensor must be one of .* got res4b23_branch2a"),
        ("res5c_branch2c.weight", np.full((64, 16, 1, 1), np.nan), r"must be finite; got values that are not"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(resnet101, name, array, message, tmp_path):
    blobs = resnet101 | {name: array}
    path = written(tmp_path, {name: array for name, array in blobs.items() if array is not None})
    with pytest.raises(ValueError, match=rf"weights\.caffemodel: as the ResNet-101 of Caffe, .*{message}") as caught:
        load(path, width=reference.WIDTH)
    assert "\n" not in str(caught.value)
