"""SSD321 on COCO: SSD on ResNet-101, 28.0 AP on COCO test-dev in the paper (arXiv:1701.06659).

The original's script for it was not released: the schedule is that of SSD513, and the priors follow from its rule.

    ssd-jax train --config=ssd321_coco --workdir=runs/ssd321_coco --config.data.root=COCO \
        --config.init_from=ResNet-101-model.caffemodel

COCO is the folder that configs/ssd300_coco.py describes, the file that of configs/ssd321_voc.py.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd513_coco
from ssd_jax.box import SSD321_COCO


def get_config() -> ConfigDict:
    config = ssd513_coco.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD321_COCO))
    return config.lock()
