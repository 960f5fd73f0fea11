"""The networks of other projects in NumPy, channels first, with parameters by the names those projects give them."""

import numpy as np

STAGES = (2, 2, 3, 3, 3)
WIDTH = 1 / 16  # of every layer, so that 300 and 512 pixels cost little
PER_CELL = {6: (4, 6, 6, 6, 4, 4), 7: (4, 6, 6, 6, 6, 4, 4)}
# Narrow, wide, kernel, stride, padding of the extra layers.
EXTRAS = {
    6: [(256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)],
    7: [(256, 512, 3, 2, 1), *[(128, 256, 3, 2, 1)] * 3, (128, 256, 4, 1, 1)],
}


def convolve(x, weight, bias, *, stride=1, padding=0, dilation=1):
    """`[C, H, W]`, `[O, C, k, k]` -> `[O, H', W']`: a sum over the kernel's places; `bias` is `[O]`, or a number."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    reach = dilation * (weight.shape[-1] - 1)
    rows, columns = (n - reach for n in x.shape[1:])
    out = 0
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            part = x[:, i * dilation : i * dilation + rows : stride, j * dilation : j * dilation + columns : stride]
            out = out + np.tensordot(weight[:, :, i, j], part, axes=1)
    return out + np.reshape(bias, (-1, 1, 1))


def pool(x, *, size, stride, padding=0):
    """Max pooling that rounds up, as Caffe's."""
    rows, columns = (-(-(n + 2 * padding - size) // stride) + 1 for n in x.shape[1:])
    more = (rows - 1) * stride + size - x.shape[1] - padding
    x = np.pad(x, ((0, 0), (padding, more), (padding, more)), constant_values=-np.inf)
    parts = [
        x[:, i : i + (rows - 1) * stride + 1 : stride, j : j + (columns - 1) * stride + 1 : stride]
        for i in range(size)
        for j in range(size)
    ]
    return np.max(parts, axis=0)


def places():
    """Count the places of VGG16's convolutions in a list of convolutions, ReLUs and pools."""
    names, place = {}, 0
    for stage, layers in enumerate(STAGES, start=1):
        for layer in range(1, layers + 1):
            names[f"conv{stage}_{layer}"] = place
            place += 2
        place += 1
    return names | {"fc6": place, "fc7": place + 2}


# Sides of the squares, pixels.
SIZES = {
    (6, "voc"): (30, 60, 111, 162, 213, 264, 315),
    (6, "coco"): (21, 45, 99, 153, 207, 261, 315),
    (7, "voc"): (35.84, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6),
    (7, "coco"): (20.48, 51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72),
}
GRIDS = {6: (38, 19, 10, 5, 3, 1), 7: (64, 32, 16, 8, 4, 2, 1)}
STEPS = {6: (8, 16, 32, 64, 100, 300), 7: (8, 16, 32, 64, 128, 256, 512)}


def priors(maps, sizes, *, clamp):
    """Centers `[P, 4]` as the PyTorch projects compute them, cell by cell; the columns `clamp` are cut to 0..1."""
    image = {6: 300, 7: 512}[maps]
    rows = []
    for k, (grid, step, boxes) in enumerate(zip(GRIDS[maps], STEPS[maps], PER_CELL[maps], strict=True)):
        for i, j in np.ndindex(grid, grid):
            cx, cy = (j + 0.5) * step / image, (i + 0.5) * step / image
            small, large = sizes[k] / image, np.sqrt(sizes[k] * sizes[k + 1]) / image
            rows += [(cx, cy, small, small), (cx, cy, large, large)]
            for ratio in (2, 3)[: boxes // 2 - 1]:
                wide, narrow = small * np.sqrt(ratio), small / np.sqrt(ratio)
                rows += [(cx, cy, wide, narrow), (cx, cy, narrow, wide)]
    rows = np.array(rows)
    rows[:, clamp] = np.clip(rows[:, clamp], 0, 1)
    return rows.astype(np.float32)


def extra_names(maps):
    return [(f"extra{n}_1", f"extra{n}_2") for n in range(len(EXTRAS[maps]))]


def ssd_pytorch(maps):
    names = {layer: f"vgg.{place}" for layer, place in places().items()}
    names |= {layer: f"extras.{i}" for i, layer in enumerate(sum(extra_names(maps), ()))}
    names |= {f"loc{k}": f"loc.{k}" for k in range(maps)} | {f"conf{k}": f"conf.{k}" for k in range(maps)}
    return names | {"norm": "L2Norm"}


def lufficc(maps):
    names = {layer: f"backbone.vgg.{place}" for layer, place in places().items()}
    names |= {layer: f"backbone.extras.{i}" for i, layer in enumerate(sum(extra_names(maps), ()))}
    names |= {f"loc{k}": f"box_head.predictor.reg_headers.{k}" for k in range(maps)}
    names |= {f"conf{k}": f"box_head.predictor.cls_headers.{k}" for k in range(maps)}
    return names | {"norm": "backbone.l2_norm"}


def torchvision(maps=6):
    names = {
        layer: f"backbone.features.{place}" if place < 23 else f"backbone.extra.0.{place - 23}"
        for layer, place in places().items()
    }
    names |= {"fc6": "backbone.extra.0.7.1", "fc7": "backbone.extra.0.7.3", "norm": "backbone.scale_weight"}
    for n, (narrow, wide) in enumerate(extra_names(maps), start=1):
        names |= {narrow: f"backbone.extra.{n}.0", wide: f"backbone.extra.{n}.2"}
    names |= {f"loc{k}": f"head.regression_head.module_list.{k}" for k in range(maps)}
    return names | {f"conf{k}": f"head.classification_head.module_list.{k}" for k in range(maps)}


def caffe(maps):
    names = {layer: layer for layer in places()} | {"norm": "conv4_3_norm"}
    sources = ["conv4_3_norm", "fc7"]
    for n, (narrow, wide) in enumerate(extra_names(maps), start=6):
        names |= {narrow: f"conv{n}_1", wide: f"conv{n}_2"}
        sources.append(f"conv{n}_2")
    names |= {f"loc{k}": f"{source}_mbox_loc" for k, source in enumerate(sources)}
    return names | {f"conf{k}": f"{source}_mbox_conf" for k, source in enumerate(sources)}


def scale_name(names):
    """torchvision's scale is a tensor of its own, the others' the weight of a layer."""
    return names["norm"] if names["norm"].endswith("weight") else names["norm"] + ".weight"


def shapes(maps, classes):
    """`[out, in, k, k]` of each layer, by our short names."""
    found, channels = {}, 3

    def add(name, features, kernel):
        nonlocal channels
        found[name] = (features, channels, kernel, kernel)
        channels = features

    for stage, layers in enumerate(STAGES, start=1):
        for layer in range(1, layers + 1):
            add(f"conv{stage}_{layer}", int(min(32 << stage, 512) * WIDTH), 3)
    add("fc6", int(1024 * WIDTH), 3)
    add("fc7", int(1024 * WIDTH), 1)
    sources = [int(512 * WIDTH), int(1024 * WIDTH)]
    for (narrow, wide), (few, many, kernel, _, _) in zip(extra_names(maps), EXTRAS[maps], strict=True):
        add(narrow, int(few * WIDTH), 1)
        add(wide, int(many * WIDTH), kernel)
        sources.append(int(many * WIDTH))
    for k, (source, per_cell) in enumerate(zip(sources, PER_CELL[maps], strict=True)):
        found |= {f"loc{k}": (per_cell * 4, source, 3, 3), f"conf{k}": (per_cell * classes, source, 3, 3)}
    return found


def random_tensors(names, maps, classes, *, seed=0):
    """Draw weights that keep numbers of the size of 1 from pixels of the size of 100."""
    random = np.random.default_rng(seed)
    tensors = {}
    for layer, shape in shapes(maps, classes).items():
        gain = 0.01 if layer == "conv1_1" else 0.3 if layer.startswith("loc") else 1.0
        scale = gain * np.sqrt(2 / np.prod(shape[1:]))
        tensors[names[layer] + ".weight"] = random.normal(0, scale, shape).astype(np.float32)
        tensors[names[layer] + ".bias"] = random.normal(0, 0.1, shape[0]).astype(np.float32)
    tensors[scale_name(names)] = random.uniform(5, 20, int(512 * WIDTH)).astype(np.float32)
    return tensors


def forward(tensors, names, x, classes):
    """One image `[3, S, S]` as the network is fed -> offsets `[P, 4]` and logits `[P, C]`."""
    tensors = {name: a.astype(np.float64) for name, a in tensors.items()}

    def layer(name, x, **options):
        return convolve(x, tensors[names[name] + ".weight"], tensors[names[name] + ".bias"], **options)

    def relu(x):
        return np.maximum(x, 0)

    maps = []
    for stage, layers in enumerate(STAGES, start=1):
        for k in range(1, layers + 1):
            x = relu(layer(f"conv{stage}_{k}", x, padding=1))
        if stage == 4:
            scale = tensors[scale_name(names)][:, None, None]
            maps.append(x / np.sqrt(np.sum(x**2, axis=0) + 1e-10) * scale)
        x = pool(x, size=2, stride=2) if stage < 5 else pool(x, size=3, stride=1, padding=1)
    x = relu(layer("fc6", x, padding=6, dilation=6))
    x = relu(layer("fc7", x))
    maps.append(x)
    count = sum(name.startswith("conf") for name in names)
    for (narrow, wide), (_, _, _, stride, padding) in zip(extra_names(count), EXTRAS[count], strict=True):
        x = relu(layer(wide, relu(layer(narrow, x)), stride=stride, padding=padding))
        maps.append(x)
    offsets, logits = (
        np.concatenate([layer(f"{head}{k}", x, padding=1).transpose(1, 2, 0).ravel() for k, x in enumerate(maps)])
        for head in ("loc", "conf")
    )
    return offsets.reshape(-1, 4), logits.reshape(-1, classes)


RESNET_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 1))  # channels, blocks, stride in an SSD
WHOLE_RESNET = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))


def resnet_convolutions(stages=RESNET_STAGES):
    """Convolution, its BatchNorm and its `[out, in, k, k]`, by torchvision's names."""
    channels = int(64 * WIDTH)
    yield "conv1", "bn1", (channels, 3, 7, 7)
    for stage, (features, blocks, _) in enumerate(stages, start=1):
        narrow = int(features * WIDTH)
        for block in range(blocks):
            name = f"layer{stage}.{block}"
            yield f"{name}.conv1", f"{name}.bn1", (narrow, channels, 1, 1)
            yield f"{name}.conv2", f"{name}.bn2", (narrow, narrow, 3, 3)
            yield f"{name}.conv3", f"{name}.bn3", (4 * narrow, narrow, 1, 1)
            if block == 0:
                yield f"{name}.downsample.0", f"{name}.downsample.1", (4 * narrow, channels, 1, 1)
            channels = 4 * narrow


def resnet_tensors(*, seed=0, stages=RESNET_STAGES):
    """Draw a ResNet-50 with what SSD has no use for: counters of batches, a last stage and a classifier."""
    random = np.random.default_rng(seed)
    tensors = {}
    for conv, norm, shape in resnet_convolutions(stages):
        tensors[f"{conv}.weight"] = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        tensors[f"{norm}.weight"] = random.uniform(0.5, 1.5, shape[0])
        tensors[f"{norm}.bias"] = random.normal(0, 0.2, shape[0])
        tensors[f"{norm}.running_mean"] = random.normal(0, 0.2, shape[0])
        tensors[f"{norm}.running_var"] = random.uniform(0.5, 2, shape[0])
    tensors = {name: array.astype(np.float32) for name, array in tensors.items()}
    counters = {f"{norm}.num_batches_tracked": np.asarray(7) for _, norm, _ in resnet_convolutions(stages)}
    unused = {"layer4.0.conv1.weight": np.ones((2, 2, 1, 1), np.float32), "fc.bias": np.ones(3, np.float32)}
    return unused | tensors | counters


def resnet_forward(tensors, x, stages=RESNET_STAGES):
    """One image `[3, S, S]` as the network is fed -> the last map; of an SSD `[1024 * WIDTH, S / 8, S / 8]`."""
    tensors = {name: a.astype(np.float64) for name, a in tensors.items()}

    def layer(conv, norm, x, **options):
        scale, bias, mean, var = (
            tensors[f"{norm}.{leaf}"][:, None, None] for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (convolve(x, tensors[f"{conv}.weight"], 0, **options) - mean) / np.sqrt(var + 1e-5) * scale + bias

    x = np.maximum(layer("conv1", "bn1", x, stride=2, padding=3), 0)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    rows = 2 * ((x.shape[1] - 1) // 2) + 1  # rounded down, unlike Caffe's
    x = np.max([padded[:, i : i + rows : 2, j : j + rows : 2] for i in range(3) for j in range(3)], axis=0)
    for stage, (_, blocks, stride) in enumerate(stages, start=1):
        for block in range(blocks):
            name, step = f"layer{stage}.{block}", stride if block == 0 else 1
            y = np.maximum(layer(f"{name}.conv1", f"{name}.bn1", x), 0)
            y = np.maximum(layer(f"{name}.conv2", f"{name}.bn2", y, stride=step, padding=1), 0)
            y = layer(f"{name}.conv3", f"{name}.bn3", y)
            if block == 0:
                x = layer(f"{name}.downsample.0", f"{name}.downsample.1", x, stride=step)
            x = np.maximum(x + y, 0)
    return x
