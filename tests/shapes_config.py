"""Config of a short training on drawn shapes with augmentation, for tests that start other processes."""

import dataclasses

import tiny
from ml_collections import ConfigDict

from ssd_jax.augment import AugmentOptions


def get_config() -> ConfigDict:
    config = tiny.config("", steps=10, batch_size=8, log_every=5, save_every=5, eval_every=5, ema_decay=0.0).unlock()
    config.data.update(source="shapes", image_size=64, train="train:64", eval="test:11")
    config.augment = ConfigDict(dataclasses.asdict(AugmentOptions(interpolations=("linear",))))
    # A higher rate, or Adam's division, would magnify rounding from step to step.
    config.optimizer.update(kind="sgd", weight_decay=5e-4)
    config.schedule.update(kind="constant", learning_rate=1e-4)
    return config.lock()
