"""SSD512 on COCO from ImageNet weights: 28.8 AP on COCO test-dev in the paper.

Caffe's script for it was not released: the schedule is that of SSD300.

    ssd-jax train --config=ssd512_coco --workdir=runs/ssd512_coco --config.data.root=COCO \
        --config.init_from=FILE

COCO is the folder that configs/ssd300_coco.py describes; FILE has weights of VGG16 (docs/weights.md).

Time and result: not measured yet.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_coco
from ssd_jax.box import SSD512_COCO


def get_config() -> ConfigDict:
    config = ssd300_coco.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD512_COCO))
    return config.lock()
