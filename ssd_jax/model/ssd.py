"""SSD: a backbone, extra layers that shrink further, and a head on each map (paper, figure 2)."""

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
    """Two convolutions that make the next map: 1x1 to `narrow` channels, then `kernel` square to `wide`."""

    narrow: int
    wide: int
    kernel: int
    stride: int
    padding: int


# Of the maps from the second on: a backbone that gives two leaves the first out.
FIRST = Extra(256, 512, 3, 2, 1)
NEXT = Extra(128, 256, 3, 2, 1)
EXTRAS = {
    (38, 19, 10, 5, 3, 1): (FIRST, FIRST, NEXT, *(Extra(128, 256, 3, 1, 0),) * 2),
    (64, 32, 16, 8, 4, 2, 1): (FIRST, FIRST, *(NEXT,) * 3, Extra(128, 256, 4, 1, 1)),
}


def extras_for(spec: PriorSpec, backbone_maps: int) -> tuple[Extra, ...]:
    """Return the extra layers above the backbone: the paper's for SSD300 and SSD512; for other grids each halves."""
    halving = (FIRST, FIRST, *(NEXT,) * len(spec.grids))[: len(spec.grids) - 1]
    return EXTRAS.get(spec.grids, halving)[backbone_maps - 1 :]


def vgg16(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """conv4_3, its pixels scaled for the heads (section 3.1), and fc7."""
    conv4_3, fc7 = VGG16(block, model.width, name="trunk")(images, train=train)
    return [L2Norm(model.l2_scale, name="conv4_3_norm")(conv4_3), fc7]


def resnet50(model: "SSD", block: Callable[..., nn.Module], images: jax.Array, train: bool) -> list[jax.Array]:
    """conv4_x."""
    return ResNet50(block, model.width, name="trunk")(images, train=train)


# Each maps images to a list of feature maps, the finest first; the extra layers go on from the last.
BACKBONES: dict[str, Callable[..., list[jax.Array]]] = {"vgg16": vgg16, "resnet50": resnet50}


class SSD(nn.Module):
    """SSD: `apply({"params": p, ...}, images [B, S, S, 3]) -> (offsets [B, P, 4], logits [B, P, C])`.

    Images are RGB minus `MEAN_COLOUR` (see `preprocess`); offsets and logits are float32, in the order of
    `box.make_priors(spec)`. The defaults are the paper's.

    Attributes:
      num_classes: C, background included.
      spec: the priors; `spec.image_size` is S and `spec.grids` the sides of the maps.
      backbone: "vgg16" (the paper), or "resnet50" (NVIDIA's SSD300), which needs norm="batch".
      width: multiplies the number of channels of every layer but the heads.
      norm: None (the paper), or "batch": BatchNorm after every trunk and extra convolution, for training from
        scratch. It adds a "batch_stats" collection, updated when `train=True`.
      l2_scale: initial scale of the L2 norm of VGG16's conv4_3.
      kernel_init, head_init: "xavier" (Caffe's, by fan-in), "he" or "normal" (deviation 0.01); biases start at 0.
      dtype: "float32" or "bfloat16", of trunk and extra layers. Parameters and heads stay float32.
      axis_name: the mapped axis of devices over which BatchNorm averages its statistics.
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
        """Check the options, so that a typo fails before any array is made."""
        super().__post_init__()
        for field, value, allowed in (
            ("backbone", self.backbone, tuple(BACKBONES)),
            ("norm", self.norm, NORMS),
            ("kernel_init", self.kernel_init, tuple(INITS)),
            ("head_init", self.head_init, tuple(INITS)),
            ("dtype", self.dtype, DTYPES),
        ):
            if value not in allowed:
                raise ValueError(f"SSD's {field} must be one of {allowed}, got {value!r}")
        if self.backbone == "resnet50" and self.norm != "batch":
            raise ValueError(f"backbone resnet50 has BatchNorm: norm must be 'batch', got {self.norm!r}")
        if self.num_classes < 2:
            raise ValueError(f"num_classes counts the background, so it is at least 2, got {self.num_classes}")
        if not self.width > 0:
            raise ValueError(f"width multiplies channel counts and must be positive, got {self.width}")

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """Detect in `images`; `train` only matters to BatchNorm."""
        size = self.spec.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images must have shape [B, {size}, {size}, 3], got {list(images.shape)}")
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
            raise ValueError(f"the spec's grids must be the sides of the maps, {grids}, got {self.spec.grids}")
        offsets, logits = [], []
        for k, (x, per_cell) in enumerate(zip(maps, self.spec.per_cell, strict=True)):
            offsets.append(Head(per_cell, 4, self.head_init, name=f"loc{k}")(x))
            logits.append(Head(per_cell, self.num_classes, self.head_init, name=f"conf{k}")(x))
        return jnp.concatenate(offsets, axis=1), jnp.concatenate(logits, axis=1)  # [B, P, 4], [B, P, C]


def describe(model: SSD) -> dict[str, Any]:
    """Return the model's options as plain JSON values, from which `from_description` makes the same model."""
    skip = {"parent", "name", "axis_name"}
    options = {f.name: getattr(model, f.name) for f in dataclasses.fields(model) if f.name not in skip}
    return options | {"spec": dataclasses.asdict(model.spec)}


def from_description(description: dict[str, Any]) -> SSD:
    """Make the model that `describe` described, or one from a config's options."""
    options = description | {"spec": PriorSpec(**deep_tuple(description["spec"]))}
    if "trunk" in options:  # the name of `backbone` in checkpoints before 0.1
        options["backbone"] = options.pop("trunk")
    return SSD(**options)


# To optimise the many draws of a model would take longer than everything else before the first step.
compile_to_run_once = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@partial(compile_to_run_once, static_argnames="model")
def initialise(model: SSD, key: jax.Array) -> dict[str, PyTree]:
    """Draw a model's variables: {"params": ...}, and "batch_stats" if it has BatchNorm."""
    return draw(model, key)


def draw(model: SSD, key: jax.Array) -> dict[str, PyTree]:
    """Do what `initialise` does, as a part of a program that `compile_to_run_once` compiles."""
    size = model.spec.image_size
    return model.init(key, jnp.zeros((1, size, size, 3)))


def variable_shapes(model: SSD) -> dict[str, PyTree]:
    """Shapes and dtypes of what `initialise` would draw."""
    return jax.eval_shape(partial(draw, model), jax.random.key(0))


def deep_tuple(value: Any) -> Any:
    """Turn lists, which JSON knows, into the tuples that make a spec hashable."""
    if isinstance(value, dict):
        return {key: deep_tuple(item) for key, item in value.items()}
    return tuple(map(deep_tuple, value)) if isinstance(value, list | tuple) else value
