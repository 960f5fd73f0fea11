"""From a config to the objects it names."""

from collections.abc import Callable
from typing import Any

import optax
from ml_collections import ConfigDict

from ssd_jax.augment import AugmentOptions
from ssd_jax.batching import Source
from ssd_jax.datasets import Shapes, VOCFolder
from ssd_jax.model import SSD, from_description
from ssd_jax.model.ssd import deep_tuple
from ssd_jax.training import make_optimizer, make_schedule


def open_voc(data: ConfigDict, split: str) -> Source:
    """Open a split of a VOC folder."""
    if not data.root:
        raise ValueError("data.root must name a VOC folder: pass --config.data.root=DIR")
    return VOCFolder(data.root, split, class_names=tuple(data.class_names) or None)


def open_shapes(data: ConfigDict, split: str) -> Source:
    """Open drawn shapes: the split is a name for its seed, its length follows a colon, as in "train:10000"."""
    name, _, length = split.partition(":")
    seeds = {"train": 0, "test": 1}
    if name not in seeds or not length.isdigit():
        raise ValueError(f"a split of shapes is train:LENGTH or test:LENGTH, got {split!r}")
    return Shapes(int(length), image_size=data.image_size, seed=seeds[name])


SOURCES: dict[str, Callable[[ConfigDict, str], Source]] = {"voc_folder": open_voc, "shapes": open_shapes}


def open_source(data: ConfigDict, split: str) -> Source:
    """Open the data set that the config's `data` names."""
    if data.source not in SOURCES:
        raise ValueError(f"data.source must be one of {sorted(SOURCES)}, got {data.source!r}")
    return SOURCES[data.source](data, split)


def build_model(config: ConfigDict, num_classes: int) -> SSD:
    """Make the model; `num_classes` counts the background."""
    return from_description(plain(config.model) | {"num_classes": num_classes, "spec": plain(config.spec)})


def build_optimizer(config: ConfigDict) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Make the optimiser, and the learning rate by step for the log."""
    schedule = make_schedule(steps=config.steps, **plain(config.schedule))
    return make_optimizer(schedule, **plain(config.optimizer)), schedule


def build_augmentation(config: ConfigDict) -> AugmentOptions:
    """Make the augmentation's options."""
    return AugmentOptions(**plain(config.augment))


def plain(section: ConfigDict) -> dict[str, Any]:
    """Turn a section of a config into keyword arguments."""
    return deep_tuple(section.to_dict())
