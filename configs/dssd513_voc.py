"""DSSD513 on PASCAL VOC 2007 and 2012, from a trained SSD513: 81.5 mAP in the paper (arXiv:1701.06659).

The original's script for it was not released: the schedule is that of DSSD321, and the priors follow from its rule.
First SSD513 is trained, then both stages (see configs/dssd321_voc.py):

    ssd-jax train --config=ssd513_voc --workdir=runs/ssd513_voc --config.data.root=VOCdevkit \
        --config.init_from=ResNet-101-model.caffemodel
    ssd-jax train --config=dssd513_voc --workdir=runs/dssd513_voc --config.data.root=VOCdevkit \
        --config.init_from=runs/ssd513_voc
    ssd-jax train --config=dssd513_voc:stage2 --workdir=runs/dssd513_voc_stage2 --config.data.root=VOCdevkit \
        --config.init_from=runs/dssd513_voc

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import dssd321_voc
from ssd_jax.box import SSD513_VOC


def get_config(stage: str = "stage1") -> ConfigDict:
    config = dssd321_voc.get_config(stage).unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD513_VOC))
    return config.lock()
