"""From a config to the objects it names."""

from typing import Any

import optax
from ml_collections import ConfigDict

from ssd_jax import datasets
from ssd_jax.augment import AugmentOptions
from ssd_jax.batching import Source
from ssd_jax.datasets import KINDS
from ssd_jax.model import SSD, from_description
from ssd_jax.model.ssd import deep_tuple
from ssd_jax.training import make_optimizer, make_schedule

OPTIONS = ("root", "class_names", "drop_other_classes", "strict", "image_size")  # of datasets.open_source
FOLDERS = {"voc_folder": "VOC folder", "coco_json": "folder of COCO's layout"}


def open_source(data: ConfigDict, split: str) -> Source:
    """Open the data set that the config's `data` names."""
    if data.source not in KINDS and ":" not in data.source:
        raise ValueError(f"data.source must be one of {sorted(KINDS)}, or module:function, got {data.source!r}")
    if data.source in FOLDERS and not data.root:
        raise ValueError(f"data.root must name a {FOLDERS[data.source]}: pass --config.data.root=DIR")
    options = {name: data[name] for name in OPTIONS if name in data}
    return datasets.open_source(data.source, split, **options)


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
