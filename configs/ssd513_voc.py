"""SSD513 on PASCAL VOC 2007 and 2012: SSD on ResNet-101, 80.6 mAP in the paper (arXiv:1701.06659).

The original's script for it was not released: the schedule is that of SSD321, and the priors follow from its rule.

    ssd-jax train --config=ssd513_voc --workdir=runs/ssd513_voc --config.data.root=VOCdevkit \
        --config.init_from=ResNet-101-model.caffemodel

The file is that of configs/ssd321_voc.py.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd321_voc
from ssd_jax.box import SSD513_VOC


def get_config() -> ConfigDict:
    config = ssd321_voc.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD513_VOC))
    return config.lock()
