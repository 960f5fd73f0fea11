"""SSD512 on COCO, from ImageNet weights (28.8 AP on COCO test-dev in the paper).

    python train.py --config=configs/ssd512_coco.py --workdir=runs/ssd512_coco --config.data.root=COCO

Its script was not released: the schedule is SSD300's.

Result: not measured here yet.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_coco
from ssd_jax.box import SSD512_COCO


def get_config() -> ConfigDict:
    config = ssd300_coco.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD512_COCO))
    return config.lock()
