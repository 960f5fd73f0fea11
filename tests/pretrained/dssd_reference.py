"""SSD321, SSD513 and their DSSDs in NumPy, channels first; parameters have the names of Caffe's layers."""

import numpy as np
from light_reference import Tensors
from reference import convolve, pool

BLOCKS = (3, 4, 23, 3)
WIDTH = 1 / 32


def at(channels):
    return max(4, round(channels * WIDTH))


def relu(x):
    return np.maximum(x, 0)


def spread(x, weight, bias, stride):
    """Deconvolve `[C, H, W]` by `[C, O, k, k]`: each pixel adds its kernel to the output, without padding."""
    _, features, kernel, _ = weight.shape
    rows, columns = ((n - 1) * stride + kernel for n in x.shape[1:])
    out = np.zeros((features, rows, columns))
    for i, j in np.ndindex(*x.shape[1:]):
        here = out[:, i * stride : i * stride + kernel, j * stride : j * stride + kernel]
        here += np.tensordot(x[:, i, j], weight, axes=1)
    return out + bias[:, None, None]


class Layers(Tensors):
    """Tensors whose convolutions take Caffe's options."""

    def block(self, name, x, out, kernel=1, stride=1, padding=0, dilation=1):
        """Convolve without bias, then BatchNorm with epsilon 0.001."""
        weight = self.draw(f"{name}.weight", (out, len(x), kernel, kernel))
        return self.norm(name + ".bn", convolve(x, weight, 0, stride=stride, padding=padding, dilation=dilation))

    def residual(self, name, x, features, *, kernel=1, stride=1, dilation=1, project=True):
        y = relu(self.block(f"{name}_branch2a", x, features, kernel, stride))
        y = relu(self.block(f"{name}_branch2b", y, features, 3, 1, dilation, dilation))
        y = self.block(f"{name}_branch2c", y, 4 * features)
        x = self.block(f"{name}_branch1", x, 4 * features, kernel, stride) if project else x
        return relu(x + y)


def ssd(layers, x, classes, *, blocks=BLOCKS, deconvolution=False, head_features=(256,) * 7, head_inner=0):
    """One image [3, S, S] -> the maps of the heads, offsets [P, 4] and logits [P, C]."""
    side = x.shape[1]
    x = relu(layers.block("conv1", x, at(64), 7, 2, 3))
    x = pool(x, size=3, stride=2)
    maps = []
    for stage, (count, features) in enumerate(zip(blocks, (64, 128, 256, 512), strict=True), start=2):
        for k in range(count):
            stride = 2 if stage in (3, 4) and k == 0 else 1
            options = {"stride": stride, "dilation": 2 if stage == 5 else 1, "project": k == 0}
            x = layers.residual(f"res{stage}_{k}", x, at(features), **options)
        if stage in (3, 5):
            maps.append(x)
    kernels = {321: (2, 2, 3, 3), 513: (2,) * 5}[side]
    for number, kernel in enumerate(kernels, start=6):
        stride = 2 if kernel == 2 else 1
        maps.append(layers.residual(f"res{number}", maps[-1], at(256), kernel=kernel, stride=stride))
    if deconvolution:
        x = maps[-1]
        for k in reversed(range(len(maps) - 1)):
            kernel = (2, *kernels)[k]
            stride = 2 if kernel == 2 else 1
            weight = layers.draw(f"up{k}.weight", (len(x), at(512), kernel, kernel))
            x = spread(x, weight, layers.draw(f"up{k}.bias", (at(512),), -1, 1), stride)
            x = layers.block(f"coarse{k}", x, at(512), 3, 1, 1)
            y = relu(layers.block(f"fine{k}_1", maps[k], at(512), 3, 1, 1))
            x = maps[k] = relu(x * layers.block(f"fine{k}_2", y, at(512), 3, 1, 1))
    outputs = [[], []]
    for k, x in enumerate(maps):
        x = layers.residual(f"predict{k}", x, at(head_features[k]))
        size = 5 if k < 2 else 3
        for rows, name, values in zip(outputs, ("loc", "conf"), (4, classes), strict=True):
            y = relu(layers.block(f"{name}{k}_inner", x, at(head_inner), 3, 1, 1)) if head_inner else x
            weight = layers.draw(f"{name}{k}.weight", (8 * values, len(y), size, size))
            y = convolve(y, weight, layers.draw(f"{name}{k}.bias", (8 * values,), -1, 1), padding=size // 2)
            rows.append(y.transpose(1, 2, 0).reshape(-1, values))
    return maps, *map(np.concatenate, outputs)
