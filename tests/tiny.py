"""A model and data small enough to train in a test."""

import dataclasses
from collections.abc import Callable

import cv2
import flax.linen as nn
import numpy as np
from ml_collections import ConfigDict

from configs import voc_folder
from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import PriorSpec, make_priors, retina_spec
from ssd_jax.data import Example, train_batches
from ssd_jax.model import SSD, L2Norm, ResNet101
from ssd_jax.model.backbones.inverted import InvertedResidual
from ssd_jax.model.layers import pool2, scaled
from ssd_jax.model.ssd import BACKBONES, Backbone
from ssd_jax.training import make_optimizer, make_schedule, make_train_step

SPEC = PriorSpec(
    image_size=64,
    grids=(8, 4, 2),  # no map of 1x1: BatchNorm over one image would leave nothing of it
    steps=(8.0, 16.0, 32.0),
    sizes=(8.0, 16.0, 28.0, 40.0),
    ratios=((2.0,), (2.0, 3.0), (2.0,)),
)


class Short(nn.Module):
    """VGG16's two maps from one convolution a stage: a training step compiles in two thirds of the time."""

    block: Callable[..., nn.Module]
    width: float

    @nn.compact
    def __call__(self, x, *, train):
        for stage, features in enumerate((64, 128, 256, 512), start=1):
            fine = self.block(scaled(features, self.width), name=f"conv{stage}")(x, train=train)
            x = pool2(fine)
        return fine, self.block(scaled(1024, self.width), name="fc7")(x, train=train)


def short(model, block, images, train):
    fine, coarse = Short(block, model.width, name="trunk")(images, train=train)
    return [L2Norm(model.l2_scale, name="conv4_3_norm")(fine), coarse]


class ShortLight(nn.Module):
    """Three of MobileNetV3's blocks: depthwise convolutions, squeeze and excitation, every activation."""

    block: Callable[..., nn.Module]
    width: float

    @nn.compact
    def __call__(self, x, *, train):
        x = self.block(scaled(64, self.width), stride=2, activation="hard_swish", name="stem")(x, train=train)
        expanded, features = scaled(384, self.width), scaled(128, self.width)
        for name, options in {
            "block1": {"kernel": 3, "stride": 2, "activation": "relu"},
            "block2": {"kernel": 5, "stride": 2, "activation": "hard_swish", "squeeze": True},
            "block3": {"kernel": 3},
        }.items():
            x, _ = InvertedResidual(self.block, expanded, features, **options, name=name)(x, train=train)
        return [x]


def short_light(model, block, images, train):
    return ShortLight(block, model.width, name="trunk")(images, train=train)


SHORT_101 = (1, 1, 1, 2)  # blocks of each stage


def short_resnet101(model, block, images, train):
    return ResNet101(block, model.width, SHORT_101, name="trunk")(images, train=train)


BACKBONES["short"] = Backbone(short)
BACKBONES["short_light"] = Backbone(short_light, "half", needs_norm=True, norm_epsilon=1e-3)
# Statistics with a short memory, which few steps fill.
BACKBONES["short_resnet101"] = BACKBONES["resnet101"]._replace(maps=short_resnet101, norm_momentum=0.1)
# MODEL is the paper's network, for what it computes and learns; SHORT is for what a run does with any network.
MODEL = SSD(3, SPEC, width=1 / 16, norm="batch", l2_scale=8.0, kernel_init="he", head_init="normal")
SHORT = MODEL.clone(backbone="short")
LIGHT = MODEL.clone(backbone="short_light", extras="light", heads="light")
# SSD321 and DSSD321 with less of everything.
SPEC_65 = PriorSpec(65, (8, 4, 2), (8, 16, 32), (8, 16, 28, 40), ((1.6, 2.0, 3.0),) * 3)
RESIDUAL = SSD(
    3,
    SPEC_65,
    width=1 / 32,
    norm="batch",
    backbone="short_resnet101",
    extras="residual",
    heads="residual",
    kernel_init="he",
)
DSSD = RESIDUAL.clone(deconvolution=True)
PYRAMID = {"backbone": "short", "extras": "fpn", "heads": "shared", "scores": "sigmoid"}
RETINA = MODEL.clone(**PYRAMID, spec=retina_spec(64, smallest=12, maps=3))
PRIORS = make_priors(SPEC)


class Images:
    """Noise with bright squares (label 1) and dark ones (label 2); image i has i % 4 of them, so some have none."""

    class_names = ("bright", "dark")
    inclusive = False

    def __init__(self, length=8, size=64):
        self.length, self.size = length, size

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        image = random.integers(100, 150, (self.size, self.size, 3), dtype=np.uint8)
        n = index % 4
        labels = random.integers(1, 3, n).astype(np.int32)
        corners = np.zeros((n, 4), np.float32)
        for k, label in enumerate(labels):
            side = int(random.integers(12, 24))
            x, y = random.integers(0, self.size - side, 2)
            image[y : y + side, x : x + side] = 255 if label == 1 else 0
            corners[k] = np.array([x, y, x + side, y + side]) / self.size
        return Example(f"image-{index}", image, corners, labels, np.zeros(n, bool))


def first_batch(source, batch_size):
    return next(iter(train_batches(source, batch_size=batch_size, canvas_size=64, max_boxes=4, seed=0))).arrays


def train_step(optimizer, *, model=MODEL, options=NO_AUGMENTATION, **settings):
    return make_train_step(model, optimizer, make_priors(model.spec), options, **settings)


def sgd(learning_rate=1e-2, **options):
    return make_optimizer(make_schedule(learning_rate=learning_rate, steps=1000), **options)


def adamw(learning_rate=3e-3):
    schedule = make_schedule(learning_rate=learning_rate, steps=1000)
    return make_optimizer(schedule, kind="adamw", weight_decay=1e-2)


def write_voc(root, source, splits):
    """Write images of `source` as a folder in VOC's layout; `splits` maps names to indices."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for index in range(len(source)):
        example = source[index]
        height, width = example.image.shape[:2]
        cv2.imwrite(str(root / "JPEGImages" / f"{example.image_id}.png"), example.image[:, :, ::-1])
        objects = "".join(
            f"<object><name>{source.class_names[label - 1]}</name><difficult>0</difficult><bndbox>"
            + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
            + "</bndbox></object>"
            for box, label in zip(example.boxes * (width, height, width, height), example.labels, strict=True)
        )
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (root / "Annotations" / f"{example.image_id}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
    for split, indices in splits.items():
        names = "".join(f"{source[i].image_id}\n" for i in indices)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    return root


def config(root, **changes):
    """Return a config that trains `SHORT` on a VOC folder."""
    config = voc_folder.get_config().unlock()
    config.update(steps=6, batch_size=4, log_every=2, save_every=3, eval_every=4)
    config.data.update(root=str(root), train="train", eval="val", canvas_size=64, max_boxes=4, max_unreadable=1)
    config.spec = ConfigDict(dataclasses.asdict(SPEC))
    config.model.update(width=SHORT.width, backbone=SHORT.backbone)
    config.ema_decay = 0.5  # a short memory, which six steps show
    config.schedule.update(kind="constant", warmup_steps=2)  # the same program for any number of steps
    config.eval.batch_size = 4
    config.update_from_flattened_dict(changes)
    return config.lock()
