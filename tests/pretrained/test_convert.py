"""Each conversion computes what the original computed: formulas and whole networks against NumPy."""

import itertools

import jax
import numpy as np
import pytest
import reference
from flax.traverse_util import unflatten_dict
from writers import caffemodel, pth

from ssd_jax.box import SSD300_COCO, SSD300_VOC, SSD512_VOC, decode, make_priors
from ssd_jax.data.classes import COCO_IDS
from ssd_jax.model.layers import ConvBlock
from ssd_jax.preprocess import MEAN_COLOUR, preprocess
from ssd_jax.pretrained import load
from ssd_jax.pretrained.convert import reduce_fc, select_classes, to_flax_kernel, to_our_pixels, to_whole_priors

MEAN_BGR = np.array([104.0, 117.0, 123.0])[:, None, None]
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225])[:, None, None]

# RGB of 0 to 255, [3, S, S], as each kind of network is fed.
FED = {
    "rgb": lambda x: x - MEAN_BGR[::-1],
    "bgr": lambda x: x[::-1] - MEAN_BGR,
    "imagenet": lambda x: (x / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION,
}


def make_image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def channels_first(image):
    return image.transpose(2, 0, 1).astype(np.float64)


def test_the_mean_colour_is_caffes():
    np.testing.assert_array_equal(MEAN_COLOUR, MEAN_BGR[::-1, 0, 0])


@pytest.mark.parametrize("pixels", FED)
def test_a_first_layer_sees_the_same_image(pixels):
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(5, 3, 3, 3)).astype(np.float32), random.normal(size=5).astype(np.float32)
    if pixels != "imagenet":
        weight /= 50
    image = make_image(9)
    expected = np.maximum(reference.convolve(FED[pixels](channels_first(image)), weight, bias, padding=1), 0)
    kernel, bias = to_our_pixels(to_flax_kernel(weight), bias, pixels)
    params = {"conv": {"kernel": kernel, "bias": bias}}
    got = ConvBlock(5).apply({"params": params}, preprocess(image[None]), train=False)[0].transpose(2, 0, 1)
    inner = (slice(None), slice(1, -1), slice(1, -1)) if pixels == "imagenet" else ...
    np.testing.assert_allclose(got[inner], expected[inner], atol=2e-5)
    # torchvision's zeros around the image are its own mean colour: beyond the edge, half a grey level from ours.
    np.testing.assert_allclose(got, expected, atol=0.2)


def test_a_kernel_of_torch_becomes_one_of_flax():
    weight = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    kernel = to_flax_kernel(weight)
    assert kernel.shape == (4, 5, 3, 2)
    assert kernel[2, 3, 1, 0] == weight[0, 1, 2, 3]


def test_fc6_and_fc7_are_subsampled_as_the_paper_says():
    random = np.random.default_rng(0)
    fc6, fc7 = random.normal(size=(8, 5 * 49)), random.normal(size=(8, 8))
    got6, got7 = reduce_fc(fc6, fc7)
    assert got6.shape == (2, 5, 3, 3)
    assert got7.shape == (2, 2, 1, 1)
    for o, channel, i, j in np.ndindex(got6.shape):
        assert got6[o, channel, i, j] == fc6[4 * o, channel * 49 + 3 * i * 7 + 3 * j]
    for o, i in np.ndindex(2, 2):
        assert got7[o, i, 0, 0] == fc7[4 * o, 4 * i]


@pytest.mark.parametrize("spec", [SSD300_VOC, SSD300_COCO, SSD512_VOC], ids=["300-voc", "300-coco", "512-voc"])
def test_a_head_for_clamped_priors_gives_the_same_boxes(spec):
    random = np.random.default_rng(0)
    priors = make_priors(spec)
    clamped = priors.copy()
    clamped[:, 2:] = np.minimum(clamped[:, 2:], 1)
    start = 0
    for k, (grid, per_cell) in enumerate(zip(spec.grids, spec.per_cell, strict=True)):
        x = random.normal(size=(grid**2, 3)).astype(np.float32)  # features, through a kernel of 1x1
        kernel, bias = (random.normal(size=s).astype(np.float32) for s in ((1, 1, 3, per_cell * 4), per_cell * 4))
        here = slice(start, start := start + grid**2 * per_cell)
        expected = decode((x @ kernel[0, 0] + bias).reshape(-1, 4), clamped[here])
        kernel, bias = to_whole_priors(kernel, bias, spec, k)
        got = decode((x @ kernel[0, 0] + bias).reshape(-1, 4), priors[here])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
    assert np.sum(np.any(priors != clamped, axis=1)) == {300: 20, 512: 42}[spec.image_size] - 18 * (
        spec is SSD300_COCO
    )


def test_some_classes_are_selected():
    random = np.random.default_rng(0)
    kernel, bias = random.normal(size=(3, 3, 2, 4 * 7)), random.normal(size=4 * 7)
    keep = (0, 2, 3, 6)
    some_kernel, some_bias = select_classes(kernel, bias, 7, keep)
    assert some_kernel.shape == (3, 3, 2, 16)
    for prior, (place, label) in itertools.product(range(4), enumerate(keep)):
        np.testing.assert_array_equal(some_kernel[..., prior * 4 + place], kernel[..., prior * 7 + label])
        assert some_bias[prior * 4 + place] == bias[prior * 7 + label]


# Whole networks.

ALL, SIDES, NONE = [0, 1, 2, 3], [2, 3], []  # columns of the original's priors that are cut to 0..1
NETWORKS = [
    ("ssd.pytorch 300", reference.ssd_pytorch, (6, "voc"), 21, "rgb", ALL, pth),
    ("lufficc 300 COCO", reference.lufficc, (6, "coco"), 81, "rgb", ALL, pth),
    ("lufficc 512", reference.lufficc, (7, "voc"), 21, "rgb", ALL, pth),
    ("torchvision", reference.torchvision, (6, "coco"), 91, "rgb", SIDES, pth),
    ("Caffe 300", reference.caffe, (6, "voc"), 21, "bgr", NONE, caffemodel),
    ("Caffe 512", reference.caffe, (7, "voc"), 21, "bgr", NONE, caffemodel),
    ("Caffe 512 COCO", reference.caffe, (7, "coco"), 81, "bgr", NONE, caffemodel),
]


@pytest.mark.parametrize(
    ("name", "naming", "sizes", "classes", "pixels", "clamp", "written"), NETWORKS, ids=[n[0] for n in NETWORKS]
)
def test_a_network_computes_what_the_original_does(tmp_path, name, naming, sizes, classes, pixels, clamp, written):
    maps, dataset = sizes
    names = naming(maps)
    tensors = reference.random_tensors(names, maps, classes)
    path = tmp_path / "weights"
    path.write_bytes(written(tensors))
    weights = load(path, width=reference.WIDTH)
    keep = [0, *COCO_IDS] if classes == 91 else list(range(classes))
    assert (weights.model.num_classes, weights.dataset, len(weights.notes)) == (len(keep), dataset, classes == 91)

    image = make_image({6: 300, 7: 512}[maps])
    expected, expected_logits = reference.forward(tensors, names, FED[pixels](channels_first(image)), classes)
    params = unflatten_dict(weights.params, sep="/")
    offsets, logits = jax.jit(weights.model.apply)({"params": params}, preprocess(image[None]))
    assert 0.5 < np.std(expected_logits) < 50
    np.testing.assert_allclose(logits[0], expected_logits[:, keep], atol=1e-4 * np.std(expected_logits))

    # Offsets differ only for priors with a side longer than the image's; all boxes are the same.
    sides = reference.SIZES[sizes]
    if pixels == "bgr":
        sides = tuple(map(int, sides))
    elif name == "lufficc 512":
        sides = (*sides[:-1], 537.65)
    original = reference.priors(maps, sides, clamp=clamp)
    priors = make_priors(weights.model.spec)
    np.testing.assert_allclose(priors[:, :2], original[:, :2], atol=1e-6)
    whole = np.all(np.abs(original - priors) < 1e-6, axis=1)
    assert np.sum(~whole) == {("voc", 6): 20, ("coco", 6): 2}.get((dataset, maps), 42) * bool(clamp)
    assert np.std(expected) > 0.5  # a trained head's are of this size too
    assert np.max(np.abs(expected)) < 10
    np.testing.assert_allclose(offsets[0][whole], expected[whole], atol=1e-4 * np.std(expected))
    got, wanted = decode(offsets[0], priors), decode(expected.astype(np.float32), original)
    np.testing.assert_allclose(got, wanted, atol=1e-5, rtol=1e-5)
