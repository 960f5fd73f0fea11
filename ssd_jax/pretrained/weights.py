"""Published weights as parameters of our model."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from ssd_jax.box import SSD300_COCO, SSD300_VOC, PriorSpec
from ssd_jax.data.classes import COCO_IDS, NAMES
from ssd_jax.model import SSD, variable_shapes
from ssd_jax.pretrained import convert
from ssd_jax.pretrained.files import read_tensors
from ssd_jax.pretrained.layouts import LAYOUTS, Layout

PyTree = Any
Tensors = dict[str, np.ndarray]
FC = ("trunk/fc6", "trunk/fc7")
STATISTICS = ("/norm/mean", "/norm/var")


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a file holds, in our terms.

    Attributes:
      title: what kind of file it is.
      params: parameters by name, such as "trunk/conv1_1/conv/kernel"; those of the backbone alone for a backbone.
      batch_stats: statistics of BatchNorm by name, such as "trunk/conv1/norm/mean".
      model: the network they are of; None for a backbone.
      dataset: "voc" or "coco": whose priors it has; None for a backbone.
      class_names: of labels 1, 2, ...; None if not known.
      notes: what is not as in the file, or not in it, a line each.
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
    every_label: bool = False,
    width: float = 1.0,
) -> Weights:
    """Read a file of published weights; its tensors' names tell which network it is.

    Args:
      path: a `.pth`, `.safetensors` or `.caffemodel`.
      pixels: what its first layer is fed, a key of `convert.PIXELS`; the usual of its kind unless given.
      priors: "voc" or "coco", whose priors it was trained on; by its number of classes unless given.
      unknown_priors: "voc" or "coco", whose to assume where the number of classes tells neither, instead of an error.
      partial: take what fits; otherwise a tensor that is missing, misshapen or unknown is an error.
      every_label: keep the ten labels of torchvision's 91 that COCO has no class for.
      width: of the network, as `SSD.width`.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: in one line, for one that does not fit, naming the tensor, its shape and the one expected.
    """
    tensors = read_tensors(path)
    layout = next((layout for telltale, layout in LAYOUTS if telltale in tensors), None)
    if layout is None:
        raise ValueError(
            f"{path} is of none of the networks known here ({', '.join(layout.title for _, layout in LAYOUTS)}): "
            f"its tensors are {', '.join(list(tensors)[:4])}, ..."
        )
    notes: list[str] = []
    if not layout.maps and FC[0] in layout.layers:
        tensors, layout = _with_reduced_fc(tensors, layout, notes)
    pixels = pixels or layout.pixels
    if pixels not in convert.PIXELS:
        raise ValueError(f"pixels must be one of {', '.join(convert.PIXELS)}, got {pixels!r}")

    dataset = _dataset(path, tensors, layout, priors, unknown_priors) if layout.maps else None
    spec = layout.specs[dataset or "voc"]
    classes = _classes(path, tensors, layout) if layout.maps else 2
    norm = "batch" if layout.batch_norms else None
    model = SSD(classes, spec, width=width, norm=norm, backbone=layout.backbone)
    theirs = _fitting(path, tensors, layout, _shapes(model), partial, notes)
    params = from_theirs(theirs, layout, spec, pixels)
    batch_stats = {name: params.pop(name) for name in list(params) if name.endswith(STATISTICS)}

    names = NAMES.get(dataset)
    if layout.maps and model.num_classes == 91 and not every_label:
        model = model.clone(num_classes=81)
        keep = (0, *COCO_IDS)
        for k in range(layout.maps):
            leaves = [f"conf{k}/conv/{leaf}" for leaf in ("kernel", "bias")]
            if all(leaf in params for leaf in leaves):
                params.update(
                    zip(leaves, convert.only_classes(*(params[leaf] for leaf in leaves), 91, keep), strict=True)
                )
        notes.append("of 91 labels, the ten that COCO has no class for are left out")
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


def from_theirs(theirs: Tensors, layout: Layout, spec: PriorSpec, pixels: str) -> Tensors:
    """Turn tensors of `layout` into our parameters and statistics; those that are missing stay so."""
    params = {ours: theirs[name] for ours, name in layout.leaves.items() if name in theirs}
    params = {name: convert.kernel_from(a) if a.ndim == 4 else a for name, a in params.items()}
    _change(params, layout.first, lambda kernel, bias: convert.fed_our_pixels(kernel, bias, pixels))
    if layout.clamped:
        for k in range(layout.maps):
            _change(params, f"loc{k}", lambda kernel, bias, k=k: convert.unclamped(kernel, bias, spec, k))
    return {name: np.ascontiguousarray(array, np.float32) for name, array in params.items()}


def to_theirs(params: Tensors, layout: Layout, spec: PriorSpec) -> Tensors:
    """Turn our parameters into tensors of `layout`: the inverse of `from_theirs`, for layouts fed "rgb" or "bgr"."""
    params = dict(params)
    _change(params, layout.first, lambda kernel, bias: convert.fed_our_pixels(kernel, bias, layout.pixels))
    if layout.clamped:
        for k in range(layout.maps):
            _change(params, f"loc{k}", lambda kernel, bias, k=k: convert.unclamped(kernel, bias, spec, k, back=True))
    theirs = {name: params[ours] for ours, name in layout.leaves.items()}
    theirs = {name: convert.kernel_to(a) if a.ndim == 4 else a for name, a in theirs.items()}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in theirs.items()}


def export_torchvision(variables: PyTree, model: SSD) -> Tensors:
    """Return the state dict of torchvision's ssd300_vgg16 that computes what `model` does with `variables`."""
    layout = dict(LAYOUTS)["backbone.scale_weight"]
    wanted = dataclasses.replace(SSD300_COCO, truncate=model.spec.truncate)
    if model.spec != wanted or model.norm is not None:
        raise ValueError(f"torchvision's SSD has the priors of SSD300 on COCO and no normalisation, got {model}")
    params = {name: np.asarray(a) for name, a in flatten_dict(variables["params"], sep="/").items()}
    return to_theirs(params, layout, model.spec)


def _change(params: Tensors, layer: str, change: Callable[..., tuple]) -> None:
    kernel, bias = f"{layer}/conv/kernel", f"{layer}/conv/bias"
    if kernel in params:
        changed = zip((kernel, bias), change(params[kernel], params.get(bias)), strict=True)
        params.update({name: array for name, array in changed if array is not None})


def _with_reduced_fc(tensors: Tensors, layout: Layout, notes: list[str]) -> tuple[Tensors, Layout]:
    """Turn whole fc6 and fc7 into the paper's convolutions; note it if there are none.

    torchvision publishes the features of ssd.pytorch's VGG16 in the shape of its own, with a classifier that is not
    finite; those are fed our pixels.
    """
    fc6, fc7 = (layout.layers[layer] for layer in FC)
    names = [f"{name}.{part}" for name in (fc6, fc7) for part in ("weight", "bias")]
    found = [name for name in names if name in tensors and np.isfinite(tensors[name]).all()]
    if not found:
        layers = {ours: name for ours, name in layout.layers.items() if ours not in FC}
        notes.append("fc6 and fc7 are not in it and keep their initial values")
        unused = (*layout.unused, f"{fc6}.", f"{fc7}.")
        return tensors, dataclasses.replace(layout, layers=layers, pixels=_without_fc(layout), unused=unused)
    weight6, weight7 = (tensors.get(f"{name}.weight", np.zeros(())).squeeze() for name in (fc6, fc7))
    whole = weight6.ndim == 2 and weight6.shape[1] % 49 == 0 and weight7.ndim == 2
    if not whole or any(name not in tensors for name in names):
        return tensors, layout
    weight6, weight7 = convert.reduced_fc(weight6, weight7)
    biases = {f"{name}.bias": tensors[f"{name}.bias"].squeeze()[::4] for name in (fc6, fc7)}
    notes.append("fc6 and fc7 are subsampled to 3x3 and 1x1 convolutions")
    return tensors | biases | {f"{fc6}.weight": weight6, f"{fc7}.weight": weight7}, layout


def _without_fc(layout: Layout) -> str:
    return "rgb" if layout.pixels == "imagenet" else layout.pixels


def _classes(path: str | Path, tensors: Tensors, layout: Layout) -> int:
    name = f"{layout.layers['conf0']}.bias"
    if name not in tensors:
        raise ValueError(f"{path}, {layout.title}, is incomplete: it has no {name}")
    size, per_cell = tensors[name].size, SSD300_VOC.per_cell[0]
    if size % per_cell or size < 2 * per_cell:
        raise ValueError(
            f"{path}, {layout.title}: {name} has shape {list(tensors[name].shape)}, expected {per_cell} for each of "
            "at least two classes"
        )
    return size // per_cell


def _dataset(path: str | Path, tensors: Tensors, layout: Layout, priors: str | None, unknown: str | None) -> str:
    if priors is not None and priors not in NAMES:
        raise ValueError(f"priors must be one of {', '.join(NAMES)}, got {priors!r}")
    classes = _classes(path, tensors, layout)
    dataset = priors or dict(layout.datasets).get(classes, unknown)
    if dataset is None:
        raise ValueError(
            f"{path}, {layout.title}, has {classes} classes, and VOC 21, COCO 81: say whose priors it was trained "
            "with, --priors=voc or --priors=coco"
        )
    return dataset


def _shapes(model: SSD) -> dict[str, tuple[int, ...]]:
    """Shapes of parameters and of statistics, whose names differ."""
    trees = variable_shapes(model).values()
    return {name: leaf.shape for tree in trees for name, leaf in flatten_dict(tree, sep="/").items()}


def _fitting(
    path: str | Path,
    tensors: Tensors,
    layout: Layout,
    shapes: dict[str, tuple[int, ...]],
    partial: bool,
    notes: list[str],
) -> Tensors:
    """Check names and shapes against those of our model; return the tensors that fit."""
    wanted = {}
    for ours, name in layout.leaves.items():
        shape = shapes[ours]
        wanted[name] = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
    wrong, theirs = [], {}
    for name, shape in wanted.items():
        array = tensors.get(name)
        if array is not None and len(shape) == 1:  # Caffe used to give biases four axes
            array = array.reshape(
                array.shape[next((i for i, n in enumerate(array.shape) if n != 1), array.ndim - 1) :]
            )
        if array is None:
            wrong.append(f"it has no {name}, expected shape {list(shape)}")
        elif array.shape != shape:
            wrong.append(f"{name} has shape {list(array.shape)}, expected {list(shape)}")
        elif not np.isfinite(array).all():
            wrong.append(f"{name} of shape {list(shape)} has values that are not finite")
        else:
            theirs[name] = array.astype(np.float32)
    for name, array in tensors.items():
        if name not in wanted and not (name.startswith(layout.unused) or name.endswith(layout.unused)):
            wrong.append(f"it has a tensor {name} of shape {list(array.shape)}, expected none of this name")
    if wrong and not partial:
        more = f"; and {len(wrong) - 1} more that do not fit" if wrong[1:] else ""
        raise ValueError(f"{path}, {layout.title}: {wrong[0]}{more}")
    if not theirs:
        raise ValueError(f"{path}, {layout.title}: nothing in it fits: {wrong[0]}")
    notes += [f"left out: {line}" for line in wrong]
    return theirs
