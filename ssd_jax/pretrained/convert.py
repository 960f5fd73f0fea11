"""Convert tensors of other projects to our parameters: the pure arithmetic, one layer at a time."""

import math
from collections.abc import Sequence

import numpy as np

from ssd_jax.box import VARIANCES, PriorSpec, make_priors
from ssd_jax.model.backbones.resnet import IMAGENET_MEAN
from ssd_jax.preprocess import MEAN_COLOUR

# What a network's first layer is fed.
PIXELS = {
    "rgb": "RGB of 0 to 255 minus the mean colour, as here",
    "bgr": "BGR of 0 to 255 minus the mean colour, as in Caffe",
    "imagenet": "RGB of 0 to 1, minus torchvision's mean, over its deviation",
    "own": "as `model.input_scaling` says: for networks that scale the pixels themselves",
}
IMAGENET_DEVIATION = (0.229 * 255, 0.224 * 255, 0.225 * 255)


def to_flax_kernel(weight: np.ndarray) -> np.ndarray:
    """Turn a kernel of torch and Caffe, `[out, in, height, width]`, into Flax's `[height, width, in, out]`."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))


def to_flax_deconvolution(weight: np.ndarray) -> np.ndarray:
    """Turn a kernel of Caffe's Deconvolution, `[in, out, height, width]`, into one of Flax's ConvTranspose.

    Caffe adds the kernel to the output at each pixel, where Flax correlates with it: it is turned by 180 degrees.

    Returns:
      [height, width, in, out].
    """
    return np.ascontiguousarray(weight[:, :, ::-1, ::-1].transpose(2, 3, 0, 1))


def to_our_pixels(kernel: np.ndarray, bias: np.ndarray | None, pixels: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert a first layer that is fed `pixels` to one that is fed RGB minus `MEAN_COLOUR`.

    With "imagenet" the mean colours differ by up to 0.7 grey levels, which go into the bias. That is exact but for
    the outermost pixels of the image, whose neighbours beyond the edge are zeros before and after. A layer without
    bias is ResNet's: our ResNet subtracts the difference itself, which is exact everywhere.

    Args:
      kernel: [k, k, 3, F].
      bias: [F], or None.
      pixels: a key of `PIXELS`.

    Returns:
      kernel and bias of the same shapes.
    """
    if pixels == "bgr":
        return kernel[:, :, ::-1], bias
    if pixels == "imagenet":
        kernel = kernel / np.asarray(IMAGENET_DEVIATION)[:, None]
        if bias is not None:
            bias = bias + np.sum(kernel * np.subtract(MEAN_COLOUR, IMAGENET_MEAN)[:, None], axis=(0, 1, 2))
    return kernel, bias


def reduce_fc(fc6: np.ndarray, fc7: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subsample VGG16's fully connected layers to convolutions.

    Every fourth neuron and every third row and column stay, as in the paper (section 3) and in ParseNet.

    Args:
      fc6: [O, F * 7 * 7].
      fc7: [O, O].

    Returns:
      kernels [O / 4, F, 3, 3] and [O / 4, O / 4, 1, 1], in the order of torch and Caffe.
    """
    fc6 = fc6.reshape(len(fc6), -1, 7, 7)
    return fc6[::4, :, ::3, ::3], fc7[::4, ::4, None, None]


def to_whole_priors(
    kernel: np.ndarray, bias: np.ndarray | None, spec: PriorSpec, k: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Convert a head of offsets from priors whose sides are cut to the image's to those of `spec`.

    With `r` a prior's side over the cut side and `v` a variance, the same box has offsets `t / r` of its centre and
    `t - log(r) / v` of its size. Both are changes to the weights of the head.

    Args:
      kernel: [h, w, in, shapes * 4].
      bias: [shapes * 4], or None.
      spec: the priors.
      k: index of the head's feature map.

    Returns:
      kernel and bias of the same shapes.
    """
    before = zip(spec.map_sides[:k], spec.per_cell[:k], strict=True)
    start = sum(rows * columns * boxes for (rows, columns), boxes in before)
    sides = make_priors(spec)[start:][: spec.per_cell[k], 2:].astype(np.float64)  # [shapes, (w, h)]
    ratio = sides / np.minimum(sides, 1)
    scale = np.concatenate([1 / ratio, np.ones_like(ratio)], axis=1).ravel()  # [shapes * 4]
    shift = np.concatenate([np.zeros_like(ratio), np.log(ratio) / VARIANCES[2]], axis=1).ravel()
    return kernel * scale, None if bias is None else bias * scale - shift


def select_classes(
    kernel: np.ndarray, bias: np.ndarray, n_classes: int, keep: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Keep some labels of a head of logits.

    Args:
      kernel: [h, w, in, shapes * n_classes].
      bias: [shapes * n_classes].
      n_classes: with background.
      keep: the labels to keep, in order, with background.

    Returns:
      kernel [h, w, in, shapes * K] and bias [shapes * K], for K labels.
    """

    def select(array: np.ndarray) -> np.ndarray:
        kept = array.reshape(*array.shape[:-1], -1, n_classes)[..., list(keep)]
        return np.ascontiguousarray(kept.reshape(*array.shape[:-1], math.prod(kept.shape[-2:])))

    return select(kernel), select(bias)
