"""DSSD321 on COCO, from a trained SSD321: 28.0 AP on COCO test-dev in the paper (arXiv:1701.06659).

The original's script for it was not released: the schedule is that of DSSD513, and the priors follow from its rule.
First SSD321 is trained, then DSSD321 (see configs/dssd321_voc.py):

    ssd-jax train --config=ssd321_coco --workdir=runs/ssd321_coco --config.data.root=COCO \
        --config.init_from=ResNet-101-model.caffemodel
    ssd-jax train --config=dssd321_coco --workdir=runs/dssd321_coco --config.data.root=COCO \
        --config.init_from=runs/ssd321_coco

COCO is the folder that configs/ssd300_coco.py describes. `--config=dssd321_coco:stage2` is the second stage of VOC's.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import dssd513_coco
from ssd_jax.box import SSD321_COCO


def get_config(stage: str = "stage1") -> ConfigDict:
    config = dssd513_coco.get_config(stage).unlock()
    config.spec = ConfigDict(dataclasses.asdict(SSD321_COCO))
    return config.lock()
