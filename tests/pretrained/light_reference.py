"""EfficientNet-Lite and torchvision's SSDLite in NumPy, channels first; parameters have the names of the files."""

import numpy as np
from reference import convolve

WIDTH = 1 / 4
LITE0 = ((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4))
LITE0 += ((3, 1, 6, 320, 1),)
# Kernel, expansion, channels, squeeze and excitation, hard-swish, stride; the last three of the reduced tail.
V3 = "3 16 16 0 0 1|3 64 24 0 0 2|3 72 24 0 0 1|5 72 40 1 0 2|5 120 40 1 0 1|5 120 40 1 0 1|3 240 80 0 1 2|"
V3 += "3 200 80 0 1 1|3 184 80 0 1 1|3 184 80 0 1 1|3 480 112 1 1 1|"
V3 += "3 672 112 1 1 1|5 672 80 1 1 2|5 480 80 1 1 1|5 480 80 1 1 1"
V3 = [[int(number) for number in row.split()] for row in V3.split("|")]
SSDLITE_EXTRAS = (512, 256, 256, 128)


def at(channels):
    return max(4, round(channels * WIDTH))


def relu6(x):
    return np.clip(x, 0, 6)


def hard_swish(x):
    return x * relu6(x + 3) / 6


class Tensors(dict):
    """Tensors by name, each drawn when it is first asked for."""

    def __init__(self, seed=0):
        self.random = np.random.default_rng(seed)

    def draw(self, name, shape, low=None, high=None):
        if name not in self:
            fan_in = np.prod(shape[1:])
            array = self.random.normal(0, np.sqrt(2 / fan_in), shape) if low is None else None
            self[name] = (self.random.uniform(low, high, shape) if array is None else array).astype(np.float32)
        return self[name].astype(np.float64)

    def norm(self, name, x):
        ranges = {"weight": (0.5, 1.5), "bias": (-0.3, 0.5), "running_mean": (-0.3, 0.3), "running_var": (0.5, 2)}
        scale, bias, mean, var = (
            self.draw(f"{name}.{leaf}", (len(x),), *ends)[:, None, None] for leaf, ends in ranges.items()
        )
        self[f"{name}.num_batches_tracked"] = np.asarray(7)
        return (x - mean) / np.sqrt(var + 1e-3) * scale + bias

    def conv(self, name, norm, x, out, kernel=1, stride=1, same=False, bias=False):
        """Convolve and normalise; `out` None is depthwise; `same` pads as TensorFlow."""
        groups = out is None
        weight = self.draw(f"{name}.weight", (len(x), 1, kernel, kernel) if groups else (out, len(x), kernel, kernel))
        before = after = kernel // 2
        if same:
            total = max((-(-x.shape[1] // stride) - 1) * stride + kernel - x.shape[1], 0)
            before, after = total // 2, total - total // 2
        x = np.pad(x, ((0, 0), (before, after), (before, after)))
        if groups:
            y = np.concatenate([convolve(x[c : c + 1], weight[c : c + 1], 0, stride=stride) for c in range(len(x))])
        else:
            y = convolve(x, weight, self.draw(f"{name}.bias", (out,), -1, 1) if bias else 0, stride=stride)
        return self.norm(norm, y) if norm else y


def efficientnet_lite0(tensors, x):
    """One image [3, S, S] as the network is fed -> the maps of strides 8, 16 and 32."""
    x = relu6(tensors.conv("_conv_stem", "_bn0", x, at(32), 3, 2, same=True))
    number, maps = 0, []
    for kernel, stage_stride, expansion, features, blocks in LITE0:
        for k in range(blocks):
            name, stride, y = f"_blocks.{number}", stage_stride if k == 0 else 1, x
            if expansion > 1:
                y = relu6(tensors.conv(f"{name}._expand_conv", f"{name}._bn0", y, expansion * len(x)))
            if stride == 2 and features in (80, 192):
                maps.append(y)
            y = relu6(tensors.conv(f"{name}._depthwise_conv", f"{name}._bn1", y, None, kernel, stride, same=True))
            y = tensors.conv(f"{name}._project_conv", f"{name}._bn2", y, at(features))
            x = x + y if y.shape == x.shape else y
            number += 1
    maps.append(relu6(tensors.conv("_conv_head", "_bn1", x, at(1280))))
    tensors.draw("_fc.weight", (10, at(1280)))
    tensors.draw("_fc.bias", (10,), 0, 1)
    return maps


def ssdlite(tensors, x, classes):
    """One image [3, 320, 320] as the network is fed -> offsets [P, 4] and logits [P, C]."""
    x = hard_swish(tensors.conv("backbone.features.0.0.0", "backbone.features.0.0.1", x, at(16), 3, 2))
    maps = []
    for number, (kernel, expanded, features, squeeze, hard, stride) in enumerate(V3, start=1):
        activation = hard_swish if hard else lambda x: np.maximum(x, 0)
        whole = f"backbone.features.0.{number}.block" if number < 13 else f"backbone.features.1.{number - 13}.block"
        parts = [f"{whole}.{place}" for place in range(4)]
        if number == 13:  # the map is taken inside this block, so the file has it in two pieces
            parts = ["backbone.features.0.13", *(f"backbone.features.1.0.{place}" for place in (1, 2, 3))]
        y, wide = x, at(expanded)
        if wide != len(x):
            name = parts.pop(0)
            y = activation(tensors.conv(f"{name}.0", f"{name}.1", y, wide))
        if number == 13:
            maps.append(y)
        name = parts.pop(0)
        y = activation(tensors.conv(f"{name}.0", f"{name}.1", y, None, kernel, stride))
        if squeeze:
            name = parts.pop(0)
            narrow = max(8, int(wide // 4 + 4) // 8 * 8)
            narrow += 8 * (narrow < 0.9 * (wide // 4))
            mean = np.mean(y, axis=(1, 2), keepdims=True)
            mean = np.maximum(tensors.conv(f"{name}.fc1", None, mean, narrow, bias=True), 0)
            y = y * relu6(tensors.conv(f"{name}.fc2", None, mean, wide, bias=True) + 3) / 6
        name = parts.pop(0)
        y = tensors.conv(f"{name}.0", f"{name}.1", y, at(features))
        x = x + y if y.shape == x.shape else y
    x = hard_swish(tensors.conv("backbone.features.1.3.0", "backbone.features.1.3.1", x, at(480)))
    maps.append(x)
    for k, features in enumerate(SSDLITE_EXTRAS):
        name = f"backbone.extra.{k}"
        x = relu6(tensors.conv(f"{name}.0.0", f"{name}.0.1", x, at(features // 2)))
        x = relu6(tensors.conv(f"{name}.1.0", f"{name}.1.1", x, None, 3, 2))
        x = relu6(tensors.conv(f"{name}.2.0", f"{name}.2.1", x, at(features)))
        maps.append(x)
    outputs = []
    for kind, values in (("regression", 4), ("classification", classes)):
        rows = []
        for k, feature in enumerate(maps):
            name = f"head.{kind}_head.module_list.{k}"
            y = relu6(tensors.conv(f"{name}.0.0", f"{name}.0.1", feature, None, 3))
            y = tensors.conv(f"{name}.1", None, y, 6 * values, bias=True)
            rows.append(y.transpose(1, 2, 0).reshape(-1, values))
        outputs.append(np.concatenate(rows))
    return outputs
