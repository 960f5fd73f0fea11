"""SSD: a backbone, extra layers that make smaller maps, and a head on each map (paper, figure 2)."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from ssd_jax.box import PriorSpec
from ssd_jax.model.backbones.efficientnet import EfficientNetLite
from ssd_jax.model.backbones.mobilenet import MobileNetV3Large
from ssd_jax.model.backbones.resnet import ResNet50, ResNet101
from ssd_jax.model.backbones.vgg import VGG16
from ssd_jax.model.dssd import FEATURES, Deconvolution, ResidualExtra, ResidualHead, decode_maps
from ssd_jax.model.fpn import FPN, Tower
from ssd_jax.model.layers import INITS, ConvBlock, Head, L2Norm, LightHead, is_named, scaled
from ssd_jax.preprocess import INPUT_SCALINGS, MEAN_COLOUR

PyTree = Any
NORMS = (None, "batch")
# Fields of `SSD` that are no part of the network: Flax's own, and how a program computes it.
NOT_DESCRIBED = ("parent", "name", "axis_name", "portable")
DTYPES = ("float32", "bfloat16")
KINDS = ("paper", "light", "residual")  # of the extra layers and the heads
EXTRA_KINDS, HEAD_KINDS = (*KINDS, "fpn"), (*KINDS, "shared")
NEED_NORM = ("light", "residual")
# How logits become scores; and where the biases of the logits start: with sigmoids, at a probability of 0.01, so that
# the many priors without an object do not outweigh the others (RetinaNet, section 3.3).
SCORES = {"softmax": 0.0, "sigmoid": -math.log((1 - 0.01) / 0.01)}


class Extra(NamedTuple):
    """Two convolutions that make the next map: 1x1 to `narrow` channels, then kernel x kernel to `wide`."""

    narrow: int
    wide: int
    kernel: int
    stride: int
    padding: int


# One Extra for each map after the first. A backbone that gives two maps does not need the first Extra.
FIRST = Extra(256, 512, 3, 2, 1)
NEXT = Extra(128, 256, 3, 2, 1)
EXTRAS = {
    (38, 19, 10, 5, 3, 1): (FIRST, FIRST, NEXT, *(Extra(128, 256, 3, 1, 0),) * 2),
    (64, 32, 16, 8, 4, 2, 1): (FIRST, FIRST, *(NEXT,) * 3, Extra(128, 256, 4, 1, 1)),
}


def extras_for(spec: PriorSpec, backbone_maps: int) -> tuple[Extra, ...]:
    """Return the extra layers above the backbone.

    The grids of SSD300 and SSD512 get the paper's layers; on other grids each extra layer halves the map.

    Args:
      spec: the priors, whose `grids` are the sides of all maps.
      backbone_maps: how many of those maps the backbone gives.
    """
    halving = (FIRST, FIRST, *(NEXT,) * len(spec.grids))[: len(spec.grids) - 1]
    return EXTRAS.get(spec.grids, halving)[backbone_maps - 1 :]


# Channels of the maps that light extra layers make; the last is repeated.
LIGHT_EXTRAS = (512, 256, 256, 128)


class Backbone(NamedTuple):
    """A backbone, and what its published weights want.

    Attributes:
      maps: `maps(model, block, images, train)` returns a list of feature maps, the finest first; the extra layers
        continue from the last one.
      input_scaling: what it is fed, a key of `INPUT_SCALINGS`.
      needs_norm: whether it has no form without BatchNorm.
      norm_epsilon: of BatchNorm, in all layers of the model.
      norm_momentum: of BatchNorm, in all layers of the model.
    """

    maps: Callable[..., list[jax.Array]]
    input_scaling: str = "caffe"
    needs_norm: bool = False
    norm_epsilon: float = 1e-5
    norm_momentum: float = 0.95


def vgg16(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the maps of VGG16: conv4_3, L2-normalised for the heads (paper, section 3.1), and fc7."""
    conv4_3, fc7 = VGG16(block, model.width, name="trunk")(images, train=train)
    return [L2Norm(model.l2_scale, name="conv4_3_norm")(conv4_3), fc7]


def resnet50(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the one map of ResNet-50, conv4_x."""
    return ResNet50(block, model.width, name="trunk")(images, train=train)


def resnet50_whole(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the maps of ResNet-50 of strides 8, 16 and 32."""
    return ResNet50(block, model.width, whole=True, name="trunk")(images, train=train)


def resnet101(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the maps of ResNet-101 of strides 8 and 16."""
    return ResNet101(block, model.width, name="trunk")(images, train=train)


def efficientnet_lite(
    model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool
) -> list[jax.Array]:
    """Return the maps of EfficientNet-Lite of strides 8, 16 and 32, or of the last two."""
    variant = int(model.backbone[-1])
    maps = EfficientNetLite(block, variant, model.width, name="trunk")(images, train=train)
    return _from_finest(maps, model.spec)


def mobilenet_v3_large(
    model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool
) -> list[jax.Array]:
    """Return the maps of MobileNetV3-Large of strides 8, 16 and 32, or of the last two."""
    reduced = model.backbone.endswith("_reduced")
    maps = MobileNetV3Large(block, reduced, model.width, name="trunk")(images, train=train)
    return _from_finest(maps, model.spec)


def _from_finest(maps: list[jax.Array], spec: PriorSpec) -> list[jax.Array]:
    """Leave out the maps that are finer than the first of `spec`."""
    return [x for x in maps if x.shape[1] <= spec.map_sides[0][0]]


LIGHT_NORM = {"needs_norm": True, "norm_epsilon": 1e-3, "norm_momentum": 0.97}
EFFICIENTNET_LITE = Backbone(efficientnet_lite, "efficientnet", **LIGHT_NORM)

# The name "trunk" of a backbone's parameters is part of every checkpoint.
BACKBONES = {
    "vgg16": Backbone(vgg16),
    # Its own first layer shifts the pixels, and its importer scales the kernel.
    "resnet50": Backbone(resnet50, needs_norm=True),
    "resnet50_whole": Backbone(resnet50_whole, needs_norm=True),
    "resnet101": Backbone(resnet101, needs_norm=True, norm_epsilon=1e-3, norm_momentum=0.999),
    "efficientnet_lite0": EFFICIENTNET_LITE,
    "efficientnet_lite1": EFFICIENTNET_LITE,
    "efficientnet_lite2": EFFICIENTNET_LITE,
    "mobilenet_v3_large": Backbone(mobilenet_v3_large, "imagenet", **LIGHT_NORM),
    "mobilenet_v3_large_reduced": Backbone(mobilenet_v3_large, "half", **LIGHT_NORM),
}


class SSD(nn.Module):
    """SSD as a Flax module: `apply({"params": p}, images [B, H, W, 3]) -> (offsets [B, P, 4], logits [B, P, C])`.

    Images are RGB minus `MEAN_COLOUR` (see `preprocess`); offsets and logits are float32, in the order of
    `box.make_priors(spec)`. The defaults are the paper's.

    Attributes:
      num_classes: C, background included.
      spec: the priors; `spec.image_size` gives H and W, and `spec.grids` are the sides of the maps.
      backbone: a name of `BACKBONES`; all but "vgg16" (the paper) need norm="batch".
      width: factor, above 0, on the number of channels of every layer but the heads.
      norm: None (the paper), or "batch": BatchNorm after every convolution of the backbone and the extra layers,
        for training from scratch. It adds a "batch_stats" collection, updated when `train=True`.
      l2_scale: initial scale of the L2 norm of VGG16's conv4_3.
      kernel_init: how the kernels of the backbone, the extra layers and the towers of shared heads start: "xavier"
        (Caffe's, by fan-in), "he", or "normal" and "normal_0.03" (standard deviation 0.01 and 0.03). Biases start
        at 0, but see `SCORES`.
      head_init: the same for the kernels of the heads.
      dtype: "float32" or "bfloat16": the type in which the backbone, the extra layers and the towers of shared heads
        compute. Parameters and heads stay float32.
      axis_name: the mapped axis of devices over which BatchNorm averages its statistics; None for one device.
      extras: "paper"; "light": extra layers with a depthwise convolution, as in SSDLite; "residual": those of SSD321;
        "fpn": RetinaNet's feature pyramid, which replaces the backbone's maps too. "light" and "residual" need
        norm="batch".
      heads: "paper"; "light": heads with a depthwise convolution, as in SSDLite; "residual": SSD321's prediction
        modules; "shared": RetinaNet's subnets, the same for all maps, which then must have as many priors a cell.
        "light" and "residual" need norm="batch".
      head_features: channels inside the residual block of each map's prediction module; () for the paper's 256.
      head_inner: channels of a 3x3 convolution before each prediction of a prediction module; 0 for none, as in the
        paper.
      scores: how logits become scores: "softmax", for the MultiBox loss; or "sigmoid", each class by itself, for the
        focal loss. The background's column then tends to 0, and is not used.
      deconvolution: whether DSSD's deconvolution modules make the maps of the heads, which needs norm="batch".
      input_scaling: what the backbone is fed, a name of `INPUT_SCALINGS`; None for what its published weights want.
        The model converts the images itself.
      freeze_norm: parts whose BatchNorm normalises by its running statistics in training too, and does not update
        them: paths such as "trunk" or "trunk/stage[12]_*", with the wildcards of a shell.
      portable: use only operators that every exporter knows, which are slower on a CPU; the values are the same.

    Raises:
      ValueError: for an option out of its range, when the model is made; for images of another shape, and for a
        spec whose grids are not the sides of the maps, when it is applied.
    """

    num_classes: int
    spec: PriorSpec
    width: float = 1.0
    norm: str | None = None
    l2_scale: float = 20.0
    kernel_init: str = "xavier"
    head_init: str = "xavier"
    dtype: str = "float32"
    axis_name: str | None = None
    backbone: str = "vgg16"
    extras: str = "paper"
    heads: str = "paper"
    input_scaling: str | None = None
    freeze_norm: tuple[str, ...] = ()
    portable: bool = False
    deconvolution: bool = False
    head_features: tuple[int, ...] = ()
    head_inner: int = 0
    scores: str = "softmax"

    def __post_init__(self) -> None:
        """Check the options, so that a wrong one fails before any array is made."""
        self.freeze_norm = tuple(self.freeze_norm)  # a config or a JSON file has a list
        self.head_features = tuple(self.head_features)
        super().__post_init__()
        for field, value, allowed in (
            ("backbone", self.backbone, tuple(BACKBONES)),
            ("norm", self.norm, NORMS),
            ("kernel_init", self.kernel_init, tuple(INITS)),
            ("head_init", self.head_init, tuple(INITS)),
            ("dtype", self.dtype, DTYPES),
            ("extras", self.extras, EXTRA_KINDS),
            ("heads", self.heads, HEAD_KINDS),
            ("scores", self.scores, tuple(SCORES)),
            ("input_scaling", self.input_scaling, (None, *INPUT_SCALINGS)),
        ):
            if value not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        needs_norm = {
            f"backbone {self.backbone}": BACKBONES[self.backbone].needs_norm,
            f"{self.extras} extras": self.extras in NEED_NORM,
            f"{self.heads} heads": self.heads in NEED_NORM,
            "deconvolution": self.deconvolution,
        }
        for what, needed in needs_norm.items():
            if needed and self.norm != "batch":
                raise ValueError(f"norm must be 'batch' with {what}; got {self.norm!r}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included); got {self.num_classes}")
        if (self.head_features or self.head_inner) and self.heads != "residual":
            raise ValueError(f"heads must be 'residual' with head_features or head_inner; got {self.heads!r}")
        if self.head_features and (len(self.head_features) != len(self.spec.grids) or min(self.head_features) < 1):
            raise ValueError(
                f"head_features must be {len(self.spec.grids)} positive numbers, one for each map; got "
                f"{self.head_features}"
            )
        if self.head_inner < 0:
            raise ValueError(f"head_inner must be at least 0; got {self.head_inner}")
        if self.heads == "shared" and len(set(self.spec.per_cell)) > 1:
            raise ValueError(
                f"spec must have as many priors a cell on all maps with shared heads; got {self.spec.per_cell}"
            )
        if not self.width > 0:
            raise ValueError(f"width must be above 0; got {self.width}")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Predict offsets and logits for every prior.

        Args:
          images: [B, H, W, 3], RGB minus `MEAN_COLOUR`.
          train: normalise by the statistics of the batch, and update the running ones; matters to BatchNorm alone.

        Returns:
          Offsets [B, P, 4] and logits [B, P, C], float32.
        """
        height, width = self.spec.input_sides
        if images.ndim != 4 or images.shape[1:] != (height, width, 3):
            raise ValueError(f"images must have shape [B, {height}, {width}, 3]; got {list(images.shape)}")
        backbone = BACKBONES[self.backbone]
        block = partial(
            ConvBlock,
            norm=self.norm,
            norm_epsilon=backbone.norm_epsilon,
            norm_momentum=backbone.norm_momentum,
            freeze_norm=self.freeze_norm,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            axis_name=self.axis_name,
            portable=self.portable,
        )
        maps = backbone.maps(self, block, _fed(images, self.input_scaling or backbone.input_scaling), train)
        add = {
            "paper": self._paper_extras,
            "light": self._light_extras,
            "residual": self._residual_extras,
            "fpn": self._pyramid,
        }
        maps = add[self.extras](block, maps, train)
        sides = tuple(m.shape[1:3] for m in maps)
        if sides != self.spec.map_sides:
            wanted = tuple(h if h == w else (h, w) for h, w in sides)
            raise ValueError(f"spec.grids must be the sides of the maps, {wanted}; got {self.spec.grids}")
        if self.deconvolution:
            maps = decode_maps(
                lambda k: Deconvolution(block, self.width, self.dtype, name=f"deconv{k}"), maps, train=train
            )
        if self.heads == "shared":
            predicted = self._predict_all(block, maps, train)
        else:
            heads = zip(maps, self.spec.per_cell, strict=True)
            predicted = [self._predict(block, k, x, per_cell, train) for k, (x, per_cell) in enumerate(heads)]
        offsets, logits = (jnp.concatenate(parts, axis=1) for parts in zip(*predicted, strict=True))
        self._check_freeze_norm()
        return offsets, logits  # [B, P, 4], [B, P, C]

    def _paper_extras(self, block: Callable[..., nn.Module], maps: list[jax.Array], train: bool) -> list[jax.Array]:
        """Add the maps of the paper's extra layers."""
        x = maps[-1]
        for number, extra in enumerate(extras_for(self.spec, len(maps)), start=6):
            x = block(scaled(extra.narrow, self.width), kernel=1, name=f"conv{number}_1")(x, train=train)
            x = block(
                scaled(extra.wide, self.width),
                kernel=extra.kernel,
                stride=extra.stride,
                padding=extra.padding,
                name=f"conv{number}_2",
            )(x, train=train)
            maps = [*maps, x]
        return maps

    def _light_extras(self, block: Callable[..., nn.Module], maps: list[jax.Array], train: bool) -> list[jax.Array]:
        """Add maps by a 1x1 convolution to half the channels, a depthwise 3x3 of stride 2, and a 1x1 convolution."""
        block = partial(block, activation="relu6")
        x = maps[-1]
        for k in range(len(self.spec.grids) - len(maps)):
            number, features = 6 + k, LIGHT_EXTRAS[min(k, len(LIGHT_EXTRAS) - 1)]
            x = block(scaled(features // 2, self.width), kernel=1, name=f"conv{number}_1")(x, train=train)
            x = block(None, stride=2, name=f"conv{number}_2")(x, train=train)
            x = block(scaled(features, self.width), kernel=1, name=f"conv{number}_3")(x, train=train)
            maps = [*maps, x]
        return maps

    def _residual_extras(
        self, block: Callable[..., nn.Module], maps: list[jax.Array], train: bool
    ) -> list[jax.Array]:
        """Add the maps of residual blocks."""
        for number in range(6, 6 + len(self.spec.grids) - len(maps)):
            maps = [*maps, ResidualExtra(block, self.width, name=f"res{number}")(maps[-1], train=train)]
        return maps

    def _pyramid(self, block: Callable[..., nn.Module], maps: list[jax.Array], train: bool) -> list[jax.Array]:
        """Make the maps of a feature pyramid."""
        return FPN(block, len(self.spec.grids), self.width, name="fpn")(maps, train=train)

    def _predict_all(
        self, block: Callable[..., nn.Module], maps: list[jax.Array], train: bool
    ) -> list[tuple[jax.Array, ...]]:
        """Return offsets [B, n, 4] and logits [B, n, C] of the n priors of each map, by the same layers."""
        values = {"loc": (4, 0.0), "conf": (self.num_classes, SCORES[self.scores])}
        towers = [Tower(block, self.width, name=f"{name}_tower") for name in values]
        heads = [
            Head(self.spec.per_cell[0], n, self.head_init, bias=bias, name=name) for name, (n, bias) in values.items()
        ]
        return [tuple(head(tower(x, train=train)) for tower, head in zip(towers, heads, strict=True)) for x in maps]

    def _predict(
        self, block: Callable[..., nn.Module], k: int, x: jax.Array, per_cell: int, train: bool
    ) -> tuple[jax.Array, jax.Array]:
        """Return offsets [B, n, 4] and logits [B, n, C] of the n priors of map k."""
        conf_bias = SCORES[self.scores]
        if self.heads == "residual":
            head = ResidualHead(
                block,
                per_cell,
                self.num_classes,
                kernel=5 if k < 2 else 3,
                width=self.width,
                kernel_init=self.head_init,
                features=self.head_features[k] if self.head_features else FEATURES,
                inner=self.head_inner,
                conf_bias=conf_bias,
                name=f"predict{k}",
            )
            return head(x, train=train)
        values = {f"loc{k}": (4, 0.0), f"conf{k}": (self.num_classes, conf_bias)}
        if self.heads == "light":
            wide = partial(block, dtype="float32")
            light = (
                LightHead(wide, per_cell, n, self.head_init, self.portable, bias, name=name)
                for name, (n, bias) in values.items()
            )
            offsets, logits = (head(x, train=train) for head in light)
        else:
            offsets, logits = (
                Head(per_cell, n, self.head_init, bias=bias, name=name)(x) for name, (n, bias) in values.items()
            )
        return offsets, logits

    def _check_freeze_norm(self) -> None:
        """Refuse a name of `freeze_norm` that no BatchNorm has."""
        if not self.freeze_norm:
            return
        norms = {"/".join(path[:-2]) for path in flatten_dict(self.variables.get("batch_stats", {}))}
        for name in self.freeze_norm:
            if not any(is_named(norm, (name,)) for norm in norms):
                known = ", ".join(sorted(norms)) or "a model with norm 'batch'"
                raise ValueError(f"freeze_norm must name parts of {known}; got {name!r}")


def _fed(images: jax.Array, input_scaling: str) -> jax.Array:
    """Convert images [B, H, W, 3], RGB minus `MEAN_COLOUR`, to what a backbone is fed."""
    mean, deviation = INPUT_SCALINGS[input_scaling]
    shift, scale = np.subtract(MEAN_COLOUR, mean), 1 / np.asarray(deviation)
    if not shift.any() and (scale == 1).all():
        return images
    shift, scale = (np.asarray(a, np.float32).reshape(1, 1, 1, 3) for a in (shift, scale))
    return (images + shift) * scale


def describe(model: SSD) -> dict[str, Any]:
    """Return the options of `model` as JSON values, from which `from_description` makes the same model."""
    options = {name: getattr(model, name) for name in _options(SSD)}
    return options | {"spec": dataclasses.asdict(model.spec)}


def from_description(description: dict[str, Any]) -> SSD:
    """Make the model that `describe` described, or the one of a config's options.

    Args:
      description: the options of `SSD` by name, of which `num_classes` and `spec` are required; lists may stand for
        tuples. Checkpoints made before 0.1 say "trunk" for `backbone`.

    Raises:
      ValueError: for a missing option, one that is unknown, or a value out of its range.
    """
    options = dict(description)
    if "trunk" in options:
        options["backbone"] = options.pop("trunk")
    _check_names("options of a model", options, _options(SSD))
    _check_names("fields of a model's spec", options["spec"], _options(PriorSpec))
    options["spec"] = PriorSpec(**options["spec"])
    return SSD(**options)


def _options(kind: type) -> dict[str, bool]:
    """Return the names of the fields of a dataclass, but for Flax's own; true where one has no default."""
    fields = (field for field in dataclasses.fields(kind) if field.name not in NOT_DESCRIBED)
    return {field.name: field.default is dataclasses.MISSING for field in fields}


def _check_names(what: str, given: Any, allowed: dict[str, bool]) -> None:
    if not isinstance(given, dict) or not given.keys() <= allowed.keys():
        wrong = next(name for name in given if name not in allowed) if isinstance(given, dict) else given
        raise ValueError(f"{what} must be among {', '.join(allowed)}; got {wrong!r}")
    missing = [name for name, required in allowed.items() if required and name not in given]
    if missing:
        raise ValueError(f"{what} must include {', '.join(missing)}; got {', '.join(given) or 'none'}")


# Initialisation runs once: compile it without optimisation, which would take longer than running it.
compile_to_run_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def init_variables(model: SSD, key: jax.Array) -> dict[str, PyTree]:
    """Draw random variables for `model`: {"params": ...}, and "batch_stats" if it has BatchNorm.

    Not compiled: call it inside a function that `compile_to_run_once` compiles, or call `initialise`.
    """
    return dict(model.init(key, jnp.zeros((1, *model.spec.input_sides, 3))))


@partial(compile_to_run_once, static_argnames="model")
def initialise(model: SSD, key: jax.Array) -> dict[str, PyTree]:
    """Compile and run `init_variables`."""
    return init_variables(model, key)


def variable_shapes(model: SSD) -> dict[str, PyTree]:
    """Return the variables of `model` as `jax.ShapeDtypeStruct`s, without computing them."""
    return jax.eval_shape(partial(init_variables, model), jax.random.key(0))
