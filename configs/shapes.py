"""A small SSD on drawn shapes, trained from scratch in minutes on two CPU cores: what `make demo` runs.

It reproduces nothing: it shows that everything works.

    ssd-jax train --config=shapes --workdir=runs/demo

Time: `make demo` took 5 min 24 s with the installation, on two busy cores (jax 0.10.2, Python 3.11).

Result: mAP@0.5 0.874 (11-point), 0.924 (area) on 400 held-out images. It differs a little from machine to machine.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import voc_folder
from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import PriorSpec

SPEC = PriorSpec(
    image_size=96,
    grids=(12, 6, 3, 2, 1),
    steps=(8.0, 16.0, 32.0, 48.0, 96.0),
    sizes=(14.0, 24.0, 40.0, 52.0, 60.0, 68.0),
    ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0,), (2.0,)),
)


def get_config() -> ConfigDict:
    config = voc_folder.get_config().unlock()
    config.steps = 3_000
    config.batch_size = 8
    config.log_every = 100
    config.save_every = 1_000
    config.eval_every = 1_500

    config.data.source = "shapes"
    config.data.image_size = 96
    config.data.train = "train:100000"
    config.data.eval = "test:400"
    config.data.canvas_size = 96
    config.data.max_boxes = 8

    config.spec = ConfigDict(dataclasses.asdict(SPEC))

    config.model.width = 0.125
    config.model.l2_scale = 8.0
    config.schedule.learning_rate = 5e-3
    config.schedule.warmup_steps = 150

    # A run sees no image more than once, so only mirroring is left of the augmentation.
    config.augment = ConfigDict(dataclasses.asdict(dataclasses.replace(NO_AUGMENTATION, mirror_probability=0.5)))
    return config.lock()
