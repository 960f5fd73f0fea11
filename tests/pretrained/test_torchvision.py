"""Parity with torchvision on random weights: its SSDs and their backbones. Needs torch and torchvision."""

import copy
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from ssd_jax.box import SSD300_COCO, SSDLITE320_COCO, center_to_corner, decode, make_priors, retina_spec
from ssd_jax.data.classes import COCO_IDS
from ssd_jax.loss import focal_loss
from ssd_jax.model import SSD, MobileNetV3Large, ResNet50, make, preprocess, variable_shapes
from ssd_jax.model.layers import ConvBlock
from ssd_jax.pretrained import convert, load
from ssd_jax.pretrained.layouts import OF_BACKBONES

torch = pytest.importorskip("torch", reason="torch is not installed")


def declare_operators():
    """Declare torchvision's compiled operators that its Python code mentions."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("_cuda_version() -> int")
    return library


try:
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")
except RuntimeError:  # "operator torchvision::nms does not exist": those it was compiled with do not load here
    LIBRARY = declare_operators()  # which forgets them when it is deleted
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    import torchvision

CLASSES = 91
KEEP = [0, *COCO_IDS]  # labels that the import keeps


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.copy_(torch.rand_like(parameter) * (20 if name.endswith("scale_weight") else 0.1))
            if "regression_head" in name:
                parameter.mul_(0.25)  # to offsets of a trained head's size: a deviation of 1, and 7 at most
    return model


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (2, 300, 300, 3), dtype=np.uint8)


def run_original(model, images):
    """Offsets, logits, and boxes in pixels as decoded before clipping, in float64.

    Logits reach 35 here: in float32 torch's rounding alone is as large as the difference that the test allows.
    """
    from torchvision.models.detection.image_list import ImageList

    model = copy.deepcopy(model).double()
    # torchvision's mean is 0.48235, 0.45882, 0.40784 of 255: ours to a thousandth of a grey level.
    fed = torch.from_numpy(np.asarray(preprocess(images), np.float64).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        features = list(model.backbone(fed).values())
        outputs = model.head(features)
        priors = model.anchor_generator(ImageList(fed, [(300, 300)] * len(fed)), features)
        boxes = [model.box_coder.decode_single(o, p) for o, p in zip(outputs["bbox_regression"], priors, strict=True)]
    return outputs["bbox_regression"].numpy(), outputs["cls_logits"].numpy()[..., KEEP], torch.stack(boxes).numpy()


def run_ours(params, images):
    model = SSD(len(KEEP), SSD300_COCO)
    offsets, logits = jax.jit(model.apply)({"params": params}, preprocess(images))
    boxes = jax.vmap(lambda o: decode(o, jnp.asarray(make_priors(SSD300_COCO))))(offsets)
    return np.asarray(offsets), np.asarray(logits), 300 * np.asarray(boxes)


def assert_parity(original, ours):
    (offsets, logits, boxes), (our_offsets, our_logits, our_boxes) = original, ours
    np.testing.assert_allclose(our_logits, logits, atol=1e-4, rtol=0)
    # The tall and wide priors of the last map are larger than the image: torchvision cuts them, and the offsets
    # of those two differ, for the same boxes.
    whole = np.all(make_priors(SSD300_COCO)[:, 2:] <= 1, axis=1)
    assert np.sum(~whole) == 2
    np.testing.assert_allclose(our_offsets[:, whole], offsets[:, whole], atol=1e-4, rtol=0)
    assert np.std(offsets) > 0.5
    assert np.max(np.abs(offsets[..., 2:])) < 20  # torchvision allows sides of 62 = e^(0.2 * 20.7) times the prior's
    np.testing.assert_allclose(our_boxes, boxes, atol=0.01, rtol=0)


def test_imported_from_torchvision(original, images, tmp_path):
    path = tmp_path / "ssd300_vgg16.pth"
    torch.save(original.state_dict(), path)
    weights = load(path)
    assert weights.model == SSD(len(KEEP), SSD300_COCO)
    heads = sum(a.size for name, a in weights.params.items() if name.startswith("conf"))
    assert sum(a.size for a in weights.params.values()) - heads + heads // len(KEEP) * CLASSES == 35_641_826
    assert_parity(run_original(original, images), run_ours(unflatten_dict(weights.params, sep="/"), images))


@pytest.mark.parametrize("side", [300, 64])
def test_resnet50s_stages(tmp_path, side):
    torch.manual_seed(0)
    original = torchvision.models.resnet50(weights=None).eval()
    with torch.no_grad():
        for norm in original.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
    path = tmp_path / "resnet50.pth"
    torch.save(original.state_dict(), path)
    weights = load(path)
    assert sum(a.size for a in weights.params.values()) == 8_543_296
    first = original.layer3[0]
    first.conv2.stride = first.downsample[0].stride = (1, 1)  # as in an SSD

    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    fed = torch.from_numpy(((image / 255 - mean) / deviation).transpose(2, 0, 1)[None].astype(np.float32))
    expected = {}
    with torch.no_grad():
        x = original.maxpool(original.relu(original.bn1(original.conv1(fed))))
        for stage in (1, 2, 3):
            x = getattr(original, f"layer{stage}")(x)
            expected[stage] = x[0].numpy().transpose(1, 2, 0)

    backbone = ResNet50(partial(ConvBlock, norm="batch"))
    variables = {
        "params": unflatten_dict(weights.params, sep="/")["trunk"],
        "batch_stats": unflatten_dict(weights.batch_stats, sep="/")["trunk"],
    }
    apply = jax.jit(partial(backbone.apply, train=False, capture_intermediates=True, mutable="intermediates"))
    (last,), seen = apply(variables, preprocess(image[None]))
    for stage, block in ((1, "layer1_2"), (2, "layer2_3"), (3, "layer3_5")):
        got = seen["intermediates"][block]["__call__"][0][0]
        np.testing.assert_allclose(got, expected[stage], atol=1e-4 * np.std(expected[stage]))
    np.testing.assert_array_equal(last[0], got)


def with_random_norms(model):
    """Give the BatchNorms of a network scales and statistics at random, so that nothing is left at its start."""
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                for tensor in (norm.weight, norm.running_mean, norm.running_var):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
                norm.bias.copy_(torch.randn_like(norm.bias) * 0.3)
    return model


def variables_of(weights):
    return {
        "params": unflatten_dict(weights.params, sep="/"),
        "batch_stats": unflatten_dict(weights.batch_stats, sep="/"),
    }


@pytest.mark.parametrize("reduced", [True, False])
def test_ssdlite(reduced, tmp_path, monkeypatch):
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    if not reduced:  # the whole tail, as where ImageNet's weights are asked for
        monkeypatch.setattr(
            torchvision.models.detection.ssdlite,
            "mobilenet_v3_large",
            lambda norm_layer, **_: torchvision.models.mobilenet_v3_large(norm_layer=norm_layer),
        )
    ssdlite = torchvision.models.detection.ssdlite320_mobilenet_v3_large
    original = ssdlite(weights=None, weights_backbone=None, num_classes=CLASSES)
    original = with_random_norms(original.eval())
    path = tmp_path / "ssdlite.pth"
    torch.save(original.state_dict(), path)
    weights = load(path)
    wanted = make("ssdlite320_mobilenet_v3_large", len(KEEP), "coco")
    assert weights.model.spec == wanted.spec
    heads = sum(a.size for name, a in weights.params.items() if name.startswith("conf") and "/depthwise/" not in name)
    whole = sum(a.size for a in weights.params.values()) - heads + heads // len(KEEP) * CLASSES
    assert whole == sum(p.numel() for p in original.parameters()) == (3_440_060 if reduced else 5_198_540)

    images = np.random.default_rng(0).integers(0, 256, (2, 320, 320, 3), dtype=np.uint8)
    original = original.double()
    fed = torch.from_numpy((images.astype(np.float64) / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = list(original.backbone(fed).values())
        outputs = original.head(features)
        priors = original.anchor_generator(ImageList(fed, [(320, 320)] * len(fed)), features)
        boxes = [
            original.box_coder.decode_single(o, p).numpy()
            for o, p in zip(outputs["bbox_regression"], priors, strict=True)
        ]
    ours = make_priors(SSDLITE320_COCO)
    corners = priors[0].numpy() / 320
    assert corners.shape == (3234, 4)
    np.testing.assert_allclose(ours[:, 2:], corners[:, 2:] - corners[:, :2], atol=1e-6)
    np.testing.assert_allclose(ours[:, :2], (corners[:, 2:] + corners[:, :2]) / 2, atol=1e-6)

    offsets, logits = map(np.asarray, jax.jit(weights.model.apply)(variables_of(weights), preprocess(images)))
    for got, expected in (
        (offsets, outputs["bbox_regression"].numpy()),
        (logits, outputs["cls_logits"].numpy()[..., KEEP]),
    ):
        assert np.std(expected) > 1e-2
        np.testing.assert_allclose(got, expected, atol=2e-5 * np.std(expected) + 1e-5, rtol=1e-4)
    decoded = jax.vmap(lambda o: decode(o, jnp.asarray(ours)))(offsets)
    np.testing.assert_allclose(320 * np.asarray(decoded), np.stack(boxes), atol=0.01)


def retinanets(original):
    """Return the variables of our RetinaNet that torchvision's has."""
    tensors = {name: tensor.numpy() for name, tensor in original.state_dict().items()}
    layout = OF_BACKBONES["resnet50_whole"]
    names = {leaf: f"backbone.body.{name}" for leaf, name in layout.leaves.items()}
    layers = {f"fpn/lateral{k}": f"backbone.fpn.inner_blocks.{k}.0" for k in range(3)}
    layers |= {f"fpn/output{k}": f"backbone.fpn.layer_blocks.{k}.0" for k in range(3)}
    layers |= {f"fpn/output{k}": f"backbone.fpn.extra_blocks.p{k + 3}" for k in (3, 4)}
    for ours, theirs, last in (("loc", "regression", "bbox_reg"), ("conf", "classification", "cls_logits")):
        layers |= {f"{ours}_tower/conv{k}": f"head.{theirs}_head.conv.{k}.0" for k in range(4)}
        layers[ours] = f"head.{theirs}_head.{last}"
    for layer, name in layers.items():
        names |= {f"{layer}/conv/kernel": f"{name}.weight", f"{layer}/conv/bias": f"{name}.bias"}
    assert set(names.values()) == {name for name in tensors if not name.endswith(".num_batches_tracked")}
    found = {"params": {}, "batch_stats": {}}
    for leaf, name in names.items():
        array = convert.to_flax_kernel(tensors[name]) if tensors[name].ndim == 4 else tensors[name]
        if leaf == "trunk/conv1/conv/kernel":
            array, _ = convert.to_our_pixels(array, None, "imagenet")
        found["batch_stats" if leaf.endswith(("/mean", "/var")) else "params"][leaf] = array
    return {name: unflatten_dict(tree, sep="/") for name, tree in found.items()}


def test_retinanet():
    """Anchors, offsets and logits at full width, in float64 there and float32 here."""
    from torchvision.models.detection.image_list import ImageList

    torch.manual_seed(0)
    original = torchvision.models.detection.retinanet_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES
    )
    original = with_random_norms(original.eval())
    with torch.no_grad():
        for name, parameter in original.named_parameters():
            if ".bn" in name or "downsample.1" in name:
                continue
            if parameter.ndim == 1:
                parameter.copy_(torch.randn_like(parameter) * 0.1)
            elif "head." in name:  # drawn with a deviation of 0.01, they would let little through
                parameter.mul_(2 if "conv." in name else 1)
    height, width = 128, 256  # torchvision divides the sides by the cells: strides are powers of 2 for these
    model = make("retinanet_resnet50", CLASSES, "coco", spec=retina_spec((height, width)))
    variables = retinanets(original)
    shapes = variable_shapes(model)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    bn = sum(p.numel() for name, p in original.named_parameters() if ".bn" in name or "downsample.1" in name)
    assert sum(p.numel() for p in original.parameters()) - bn == 34_014_999

    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    fed = torch.from_numpy((images / 255 - mean) / deviation).permute(0, 3, 1, 2)
    original = original.double()
    with torch.no_grad():
        features = list(original.backbone(fed).values())
        outputs = original.head(features)
        anchors = original.anchor_generator(ImageList(fed, [(height, width)] * 2), features)[0].numpy()
    priors = make_priors(model.spec)
    corners = np.asarray(center_to_corner(priors)) * (width, height, width, height)
    np.testing.assert_allclose(corners, anchors, atol=1e-3)

    offsets, logits = jax.jit(model.apply)(variables, preprocess(images))
    for got, name in ((offsets, "bbox_regression"), (logits, "cls_logits")):
        expected = outputs[name].numpy()
        assert np.std(expected) > 1e-2
        np.testing.assert_allclose(got, expected, atol=1e-4 * np.std(expected), rtol=1e-4)
    # Their boxes are coded without variances.
    boxes = original.box_coder.decode_single(outputs["bbox_regression"][0], torch.from_numpy(anchors)).numpy()
    ours = decode(np.asarray(offsets[0]), priors, variances=(1, 1, 1, 1)) * (width, height, width, height)
    np.testing.assert_allclose(ours, boxes, atol=0.05)

    # The loss of the logits, whose labels are the matched ones; its sum is torchvision's.
    labels = np.random.default_rng(1).integers(0, 91, len(priors)).astype(np.int32)
    truth = np.where(labels[:, None] == np.arange(CLASSES), labels[:, None] > 0, 0)
    wanted = torchvision.ops.sigmoid_focal_loss(
        outputs["cls_logits"][0], torch.from_numpy(truth.astype(np.float64)), reduction="none"
    ).numpy()
    np.testing.assert_allclose(focal_loss(np.asarray(logits[0]), labels), wanted.sum(axis=1), rtol=1e-3)


def test_mobilenet_v3_large(tmp_path):
    torch.manual_seed(0)
    original = with_random_norms(torchvision.models.mobilenet_v3_large(weights=None).eval())
    path = tmp_path / "mobilenet.pth"
    torch.save(original.state_dict(), path)
    weights = load(path)
    assert (weights.title, weights.model, weights.notes) == ("torchvision's MobileNetV3-Large", None, ())
    images = np.random.default_rng(0).normal(size=(1, 96, 80, 3)).astype(np.float32)
    with torch.no_grad():
        expected = original.double().features(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
    net = MobileNetV3Large(partial(ConvBlock, norm="batch", norm_epsilon=1e-3))
    variables = {name: tree["trunk"] for name, tree in variables_of(weights).items()}
    *_, got = jax.jit(partial(net.apply, train=False))(variables, images)
    np.testing.assert_allclose(np.asarray(got).transpose(0, 3, 1, 2), expected, atol=1e-4 * np.std(expected))
