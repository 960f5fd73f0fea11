"""SSD: a backbone, extra layers that make smaller maps, and a head on each map (paper, figure 2)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ssd_jax.box import PriorSpec
from ssd_jax.model.backbones.resnet import ResNet50
from ssd_jax.model.backbones.vgg import VGG16
from ssd_jax.model.layers import INITS, ConvBlock, Head, L2Norm, scaled

PyTree = Any
NORMS = (None, "batch")
DTYPES = ("float32", "bfloat16")


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


def vgg16(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the maps of VGG16: conv4_3, L2-normalised for the heads (paper, section 3.1), and fc7."""
    conv4_3, fc7 = VGG16(block, model.width, name="trunk")(images, train=train)
    return [L2Norm(model.l2_scale, name="conv4_3_norm")(conv4_3), fc7]


def resnet50(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """Return the one map of ResNet-50, conv4_x."""
    return ResNet50(block, model.width, name="trunk")(images, train=train)


# Each function returns a list of feature maps, the finest first; the extra layers continue from the last one.
# The name "trunk" of a backbone's parameters is part of every checkpoint.
BACKBONES: dict[str, Callable[..., list[jax.Array]]] = {"vgg16": vgg16, "resnet50": resnet50}


class SSD(nn.Module):
    """SSD as a Flax module: `apply({"params": p}, images [B, S, S, 3]) -> (offsets [B, P, 4], logits [B, P, C])`.

    Images are RGB minus `MEAN_COLOUR` (see `preprocess`); offsets and logits are float32, in the order of
    `box.make_priors(spec)`. The defaults are the paper's.

    Attributes:
      num_classes: C, background included.
      spec: the priors; `spec.image_size` is S and `spec.grids` are the sides of the maps.
      backbone: "vgg16" (the paper), or "resnet50" (NVIDIA's SSD300), which needs norm="batch".
      width: factor, above 0, on the number of channels of every layer but the heads.
      norm: None (the paper), or "batch": BatchNorm after every convolution of the backbone and the extra layers,
        for training from scratch. It adds a "batch_stats" collection, updated when `train=True`.
      l2_scale: initial scale of the L2 norm of VGG16's conv4_3.
      kernel_init: how the kernels of the backbone and the extra layers start: "xavier" (Caffe's, by fan-in), "he"
        or "normal" (standard deviation 0.01). Biases start at 0.
      head_init: the same for the kernels of the heads.
      dtype: "float32" or "bfloat16": the type in which the backbone and the extra layers compute. Parameters and
        heads stay float32.
      axis_name: the mapped axis of devices over which BatchNorm averages its statistics; None for one device.

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

    def __post_init__(self) -> None:
        """Check the options, so that a wrong one fails before any array is made."""
        super().__post_init__()
        for field, value, allowed in (
            ("backbone", self.backbone, tuple(BACKBONES)),
            ("norm", self.norm, NORMS),
            ("kernel_init", self.kernel_init, tuple(INITS)),
            ("head_init", self.head_init, tuple(INITS)),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in allowed:
                raise ValueError(f"{field} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
        if self.backbone == "resnet50" and self.norm != "batch":
            raise ValueError(f"norm must be 'batch' with backbone resnet50; got {self.norm!r}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2 (background included); got {self.num_classes}")
        if not self.width > 0:
            raise ValueError(f"width must be above 0; got {self.width}")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Predict offsets and logits for every prior.

        Args:
          images: [B, S, S, 3], RGB minus `MEAN_COLOUR`.
          train: normalise by the statistics of the batch, and update the running ones; matters to BatchNorm alone.

        Returns:
          Offsets [B, P, 4] and logits [B, P, C], float32.
        """
        size = self.spec.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must have shape [B, {size}, {size}, 3]; got {list(images.shape)}")
        block = partial(
            ConvBlock, norm=self.norm, kernel_init=self.kernel_init, dtype=self.dtype, axis_name=self.axis_name
        )
        maps = BACKBONES[self.backbone](self, block, images, train)
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
            maps.append(x)

        grids = tuple(m.shape[1] for m in maps)
        if grids != tuple(self.spec.grids):
            raise ValueError(f"spec.grids must be the sides of the maps, {grids}; got {tuple(self.spec.grids)}")
        offsets, logits = [], []
        for k, (x, per_cell) in enumerate(zip(maps, self.spec.per_cell, strict=True)):
            offsets.append(Head(per_cell, 4, self.head_init, name=f"loc{k}")(x))
            logits.append(Head(per_cell, self.num_classes, self.head_init, name=f"conf{k}")(x))
        return jnp.concatenate(offsets, axis=1), jnp.concatenate(logits, axis=1)  # [B, P, 4], [B, P, C]


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
    fields = (field for field in dataclasses.fields(kind) if field.name not in ("parent", "name", "axis_name"))
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
    size = model.spec.image_size
    return dict(model.init(key, jnp.zeros((1, size, size, 3))))


@partial(compile_to_run_once, static_argnames="model")
def initialise(model: SSD, key: jax.Array) -> dict[str, PyTree]:
    """Compile and run `init_variables`."""
    return init_variables(model, key)


def variable_shapes(model: SSD) -> dict[str, PyTree]:
    """Return the variables of `model` as `jax.ShapeDtypeStruct`s, without computing them."""
    return jax.eval_shape(partial(init_variables, model), jax.random.key(0))
