"""SSD512 on PASCAL VOC 2007 and 2012 from ImageNet weights: 79.8 mAP in Caffe (its README).

    ssd-jax train --config=ssd512_voc --workdir=runs/ssd512_voc --config.data.root=VOCdevkit \
        --config.init_from=FILE

FILE has weights of VGG16 (docs/weights.md).

Time and result: not measured yet.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_voc
from ssd_jax.box import SSD512_VOC


def get_config() -> ConfigDict:
    config = ssd300_voc.get_config().unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD512_VOC))
    return config.lock()
