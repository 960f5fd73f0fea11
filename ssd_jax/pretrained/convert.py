"""From others' tensors to our parameters: the pure arithmetic, one layer at a time."""

import math
from collections.abc import Sequence

import numpy as np

from ssd_jax.box import VARIANCES, PriorSpec, make_priors
from ssd_jax.model import MEAN_COLOUR
from ssd_jax.model.backbones.resnet import IMAGENET_MEAN

# What a network's first layer is fed.
PIXELS = {
    "rgb": "RGB of 0 to 255 minus the mean colour, as here",
    "bgr": "BGR of 0 to 255 minus the mean colour, as in Caffe",
    "imagenet": "RGB of 0 to 1, minus torchvision's mean, over its deviation",
}
IMAGENET_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def kernel_from(weight: np.ndarray) -> np.ndarray:
    """Turn a kernel of torch and Caffe, `[out, in, height, width]`, into Flax's `[height, width, in, out]`."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def kernel_to(kernel: np.ndarray) -> np.ndarray:
    """Turn a kernel of Flax, `[height, width, in, out]`, into that of torch and Caffe, `[out, in, height, width]`."""
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def fed_our_pixels(kernel: np.ndarray, bias: np.ndarray | None, pixels: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert a first layer `[k, k, 3, F]`, `[F]` fed `pixels`, a key of `PIXELS`, to RGB minus `MEAN_COLOUR`.

    With "imagenet" the mean colours differ by up to 0.7, which the bias takes up: exactly, but for the image's
    outermost pixels, whose neighbours are zeros before and after. A layer without bias is ResNet's, which takes it
    up itself, exactly everywhere.
    """
    if pixels == "bgr":
        return kernel[:, :, ::-1], bias
    if pixels == "imagenet":
        kernel = kernel / np.asarray(IMAGENET_DEVIATION)[:, None]
        if bias is not None:
            bias = bias + np.sum(kernel * np.subtract(MEAN_COLOUR, IMAGENET_MEAN)[:, None], axis=(0, 1, 2))
    return kernel, bias


def reduced_fc(fc6: np.ndarray, fc7: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subsample VGG16's fc6 `[O, F * 7 * 7]` and fc7 `[O, O]` to kernels `[O/4, F, 3, 3]` and `[O/4, O/4, 1, 1]`.

    Every fourth neuron and every third row and column stay, as in the paper (section 3) and ParseNet.
    """
    fc6 = fc6.reshape(len(fc6), -1, 7, 7)
    return fc6[::4, :, ::3, ::3], fc7[::4, ::4, None, None]


def unclamped(kernel: np.ndarray, bias: np.ndarray | None, spec: PriorSpec, k: int, *, back: bool = False) -> tuple:
    """Convert a head of offsets of map `k` for priors with sides cut to the image's, to `spec`'s own.

    With `r` a prior's side over the cut side, the same box has offsets `t / r` of its centre and `t - log(r) / v` of
    its size: a change to the head's weights. `back` is the inverse.
    """
    sides = make_priors(spec)[_start(spec, k) :][: spec.per_cell[k], 2:].astype(np.float64)  # [shape, (w, h)]
    ratio = sides / np.minimum(sides, 1)
    if back:
        ratio = 1 / ratio
    scale = np.concatenate([1 / ratio, np.ones_like(ratio)], axis=1).ravel()  # [shape * 4]
    shift = np.concatenate([np.zeros_like(ratio), np.log(ratio) / VARIANCES[2]], axis=1).ravel()
    return kernel * scale, None if bias is None else bias * scale - shift


def _start(spec: PriorSpec, k: int) -> int:
    return sum(grid**2 * boxes for grid, boxes in zip(spec.grids[:k], spec.per_cell[:k], strict=True))


def only_classes(kernel: np.ndarray, bias: np.ndarray, classes: int, keep: Sequence[int]) -> tuple:
    """Keep the labels `keep` of a head of logits of `classes`, background included in both."""

    def select(array: np.ndarray) -> np.ndarray:
        chosen = array.reshape(*array.shape[:-1], -1, classes)[..., list(keep)]
        return np.ascontiguousarray(chosen.reshape(*array.shape[:-1], math.prod(chosen.shape[-2:])))

    return select(kernel), select(bias)
