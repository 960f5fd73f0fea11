"""Published weights as parameters of our model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from ssd_jax.box import PriorSpec
from ssd_jax.data.classes import COCO_IDS, NAMES
from ssd_jax.model import SSD, variable_shapes
from ssd_jax.pretrained import convert
from ssd_jax.pretrained.installed import published
from ssd_jax.pretrained.layouts import LAYOUTS, OF_BACKBONES, Layout, Tensors
from ssd_jax.pretrained.tensors import read_tensors

FC = ("trunk/fc6", "trunk/fc7")
STATISTICS = ("/norm/mean", "/norm/var")
COCO_LABELS = 91  # of torchvision's detectors, background included


@dataclasses.dataclass(frozen=True)
class Weights:
    """The content of a file of weights, with our names and conventions.

    Attributes:
      title: the kind of file, such as "an SSD of Caffe".
      params: parameters by name, such as "trunk/conv1_1/conv/kernel"; of the backbone alone for a backbone.
      batch_stats: statistics of BatchNorm by name, such as "trunk/conv1/norm/mean".
      model: the network; None for a backbone.
      dataset: "voc" or "coco", the dataset whose priors it has; None for a backbone.
      class_names: of labels 1, 2, ...; None if they are not known.
      notes: what was changed or is missing, one line each.
    """

    title: str
    params: Tensors
    batch_stats: Tensors = dataclasses.field(default_factory=dict)
    model: SSD | None = None
    dataset: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


def load(
    path: str | Path,
    *,
    pixels: str | None = None,
    priors: str | None = None,
    unknown_priors: str | None = None,
    partial: bool = False,
    width: float = 1.0,
    backbone: str = "",
) -> Weights:
    """Read a file of published weights; the names of its tensors tell which network it is.

    Args:
      path: a `.pth`, `.safetensors` or `.caffemodel`, or a name of `installed.PACKAGES`.
      pixels: what its first layer is fed, a key of `convert.PIXELS`. By default, what is usual for its kind.
      priors: "voc" or "coco", the dataset whose priors it was trained with. By default, the number of classes tells.
      unknown_priors: "voc" or "coco", to assume where the number of classes tells neither; None for an error.
      partial: take the tensors that fit. Otherwise one that is missing, misshapen or unknown is an error.
      width: of the network, as `SSD.width`.
      backbone: of the network to train, as `SSD.backbone`: "resnet50_whole" takes all of a file of ResNet-50, of
        which "resnet50" needs a part. Other names change nothing.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, for a file that does not fit; it names the tensor, its shape and the one expected.
    """
    path = published(path)
    tensors = read_tensors(path)
    layout = _layout(path, tensors)
    if backbone in OF_BACKBONES and OF_BACKBONES[backbone].title == layout.title:
        layout = OF_BACKBONES[backbone]
    notes: list[str] = []
    if not layout.maps and FC[0] in layout.layers:
        tensors, layout = _with_reduced_fc(tensors, layout, notes)
    pixels = pixels or layout.pixels
    if pixels not in convert.PIXELS:
        raise ValueError(f"pixels must be one of {', '.join(convert.PIXELS)}; got {pixels!r}")
    if (pixels == "own") != (layout.pixels == "own"):
        raise ValueError(f"{path}: pixels of {layout.title} must be {layout.pixels}; got {pixels}")

    dataset = _dataset(path, tensors, layout, priors, unknown_priors) if layout.maps else None
    spec = layout.specs[dataset or "voc"]
    n_classes = _count_classes(path, tensors, layout) if layout.maps else 2
    norm = "batch" if layout.batch_norms else None
    model = SSD(n_classes, spec, width=width, norm=norm, backbone=layout.backbone, **layout.options)
    params = to_params(_fitting(path, tensors, layout, model, partial, notes), layout, spec, pixels)
    batch_stats = {name: params.pop(name) for name in list(params) if name.endswith(STATISTICS)}
    if layout.maps and n_classes == COCO_LABELS:
        model = model.clone(num_classes=1 + len(COCO_IDS))
        params |= _coco_classes(params, layout)
        notes.append("of 91 labels, the ten that are no class of COCO are removed")
    names = NAMES.get(dataset or "")
    known = names is not None and len(names) == model.num_classes - 1
    return Weights(
        layout.title,
        params,
        batch_stats,
        model if layout.maps else None,
        dataset,
        names if known else None,
        tuple(notes),
    )


def to_params(tensors: Tensors, layout: Layout, spec: PriorSpec, pixels: str) -> Tensors:
    """Convert tensors of a file to our parameters and statistics; those that the file lacks are missing.

    Args:
      tensors: by the names of the file.
      layout: of the file.
      spec: the priors, without the cut that `layout.clamped` tells of.
      pixels: what the first layer is fed, a key of `convert.PIXELS`.

    Returns:
      float32 arrays by our names.
    """
    tensors = _with_statistics(tensors, layout)
    params = {leaf: tensors[name] for leaf, name in layout.leaves.items() if name in tensors}
    transposed = {f"{layer}/kernel" for layer in layout.deconvolutions}
    for name, array in params.items():
        if array.ndim == 4:
            turn = convert.to_flax_deconvolution if name in transposed else convert.to_flax_kernel
            params[name] = turn(array)
    _change(params, layout.first, lambda kernel, bias: convert.to_our_pixels(kernel, bias, pixels))
    if layout.clamped:
        for k in range(layout.maps):
            _change(
                params,
                layout.head("loc", k),
                lambda kernel, bias, k=k: convert.to_whole_priors(kernel, bias, spec, k),
            )
    return {name: np.ascontiguousarray(array, np.float32) for name, array in params.items()}


def _with_statistics(tensors: Tensors, layout: Layout) -> Tensors:
    """Divide statistics that are sums by their weight; leave out those whose weight is missing."""
    weights = layout.weights
    return {
        name: array / tensors[weights[name]] if name in weights else array
        for name, array in tensors.items()
        if name not in weights or weights[name] in tensors
    }


def _change(params: Tensors, layer: str, change: Callable[..., tuple[np.ndarray, np.ndarray | None]]) -> None:
    """Replace a layer's kernel and bias by `change(kernel, bias)`, if the kernel is there."""
    kernel, bias = f"{layer}/conv/kernel", f"{layer}/conv/bias"
    if kernel in params:
        changed = zip((kernel, bias), change(params[kernel], params.get(bias)), strict=True)
        params.update({name: array for name, array in changed if array is not None})


def _coco_classes(params: Tensors, layout: Layout) -> Tensors:
    """Return the class heads without the labels that are no class of COCO."""
    heads: Tensors = {}
    for k in range(layout.maps):
        kernel, bias = (f"{layout.head('conf', k)}/conv/{leaf}" for leaf in ("kernel", "bias"))
        if kernel in params and bias in params:
            kept = convert.select_classes(params[kernel], params[bias], COCO_LABELS, (0, *COCO_IDS))
            heads.update(zip((kernel, bias), kept, strict=True))
    return heads


def _layout(path: str | Path, tensors: Tensors) -> Layout:
    layout = next((layout for told_by, layout in LAYOUTS if told_by(tensors)), None)
    if layout is None:
        known = ", ".join(layout.title for _, layout in LAYOUTS)
        some = ", ".join(list(tensors)[:4])
        raise ValueError(f"{path}: the network must be one of {known}; got one with the tensors {some}, ...")
    return layout


def _with_reduced_fc(tensors: Tensors, layout: Layout, notes: list[str]) -> tuple[Tensors, Layout]:
    """Turn whole fc6 and fc7 into the paper's convolutions; note it if there are none.

    torchvision publishes the features of ssd.pytorch's VGG16 with its own names, and with a classifier of values that
    are not finite. That file is fed our pixels.
    """
    fc6, fc7 = (layout.layers[layer] for layer in FC)
    names = [f"{name}.{part}" for name in (fc6, fc7) for part in ("weight", "bias")]
    found = [name for name in names if name in tensors and np.isfinite(tensors[name]).all()]
    if not found:
        layers = {layer: name for layer, name in layout.layers.items() if layer not in FC}
        notes.append("it has no fc6 and fc7: they keep their initial values")
        pixels = "rgb" if layout.pixels == "imagenet" else layout.pixels
        unused = (*layout.unused, f"{fc6}.", f"{fc7}.")
        return tensors, dataclasses.replace(layout, layers=layers, pixels=pixels, unused=unused)
    weight6, weight7 = (tensors.get(f"{name}.weight", np.zeros(())).squeeze() for name in (fc6, fc7))
    whole = weight6.ndim == 2 and weight6.shape[1] % 49 == 0 and weight7.ndim == 2
    if not whole or any(name not in tensors for name in names):
        return tensors, layout
    weight6, weight7 = convert.reduce_fc(weight6, weight7)
    biases = {f"{name}.bias": tensors[f"{name}.bias"].squeeze()[::4] for name in (fc6, fc7)}
    notes.append("fc6 and fc7 are subsampled to 3x3 and 1x1 convolutions")
    return tensors | biases | {f"{fc6}.weight": weight6, f"{fc7}.weight": weight7}, layout


def _count_classes(path: str | Path, tensors: Tensors, layout: Layout) -> int:
    """Return the number of classes, background included, by the bias of the first class head."""
    name = f"{layout.layers[layout.head('conf', 0)]}.bias"
    if name not in tensors:
        raise ValueError(f"{path}: {layout.title} must have a tensor {name}; got none")
    size, per_cell = tensors[name].size, layout.specs["voc"].per_cell[0]
    if size % per_cell or size < 2 * per_cell:
        raise ValueError(
            f"{path}: {name} of {layout.title} must have {per_cell} numbers for each of at least two classes; got "
            f"shape {list(tensors[name].shape)}"
        )
    return size // per_cell


def _dataset(path: str | Path, tensors: Tensors, layout: Layout, priors: str | None, unknown: str | None) -> str:
    """Return the name of the dataset whose priors the file has."""
    if priors is not None and priors not in NAMES:
        raise ValueError(f"priors must be one of {', '.join(NAMES)}; got {priors!r}")
    n_classes = _count_classes(path, tensors, layout)
    dataset = priors or dict(layout.datasets).get(n_classes, unknown)
    if dataset is None:
        raise ValueError(
            f"{path}: {layout.title} must have the 21 classes of VOC or the 81 of COCO, or be imported with "
            f"--priors=voc or --priors=coco, whose priors it was trained with; got {n_classes} classes"
        )
    return dataset


def _fitting(
    path: str | Path, tensors: Tensors, layout: Layout, model: SSD, partial: bool, notes: list[str]
) -> Tensors:
    """Compare names and shapes with those of the model; return the tensors that fit."""
    wanted = _wanted_shapes(layout, model)
    wrong, fitting, weights = [], {}, set(layout.weights.values())
    for name, shape in wanted.items():
        array = tensors.get(name)
        if array is not None and len(shape) == 1:
            array = _without_leading_ones(array)
        if array is None:
            wrong.append(f"{name} must have shape {list(shape)}; got no such tensor")
        elif array.shape != shape:
            wrong.append(f"{name} must have shape {list(shape)}; got {list(array.shape)}")
        elif not np.isfinite(array).all():
            wrong.append(f"{name} of shape {list(shape)} must be finite; got values that are not")
        elif name in weights and array.min() <= 0:
            wrong.append(f"{name}, the weight of statistics, must be above 0; got {array.min()}")
        else:
            fitting[name] = array.astype(np.float32)
    for name, array in tensors.items():
        if name not in wanted and not (name.startswith(layout.unused) or name.endswith(layout.unused)):
            wrong.append(f"every tensor must be one of the network's; got {name} of shape {list(array.shape)}")
    if wrong and not partial:
        more = f"; {len(wrong) - 1} more do not fit" if wrong[1:] else ""
        raise ValueError(f"{path}: as {layout.title}, {wrong[0]}{more}")
    if not fitting:
        raise ValueError(f"{path}: as {layout.title}, some tensor must fit; got none: {wrong[0]}")
    notes += [f"skipped: {line}" for line in wrong]
    return fitting


def _wanted_shapes(layout: Layout, model: SSD) -> dict[str, tuple[int, ...]]:
    """Return the shapes that the tensors of a file must have, by the file's names."""
    leaves: dict[str, Any] = {}
    for tree in variable_shapes(model).values():
        leaves |= flatten_dict(tree, sep="/")
    wanted = {}
    transposed = {f"{layer}/kernel" for layer in layout.deconvolutions}
    for leaf, name in layout.leaves.items():
        shape = leaves[leaf].shape
        if len(shape) == 4:
            channels = shape[2:] if leaf in transposed else (shape[3], shape[2])
            shape = (*channels, *shape[:2])
        wanted[name] = shape
    return wanted | {name: (1,) for name in layout.weights.values()}


def _without_leading_ones(array: np.ndarray) -> np.ndarray:
    """Return a bias [1, 1, 1, N], as Caffe used to write it, as [N]."""
    first = next((axis for axis, n in enumerate(array.shape) if n != 1), array.ndim - 1)
    return array.reshape(array.shape[first:])
