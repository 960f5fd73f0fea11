"""SSD321 on PASCAL VOC 2007 and 2012: SSD on ResNet-101, 77.1 mAP in the paper (arXiv:1701.06659).

Recipe: examples/ssd/ssd_pascal_resnet_321.py of chengyangfu/caffe, branch dssd.

    ssd-jax train --config=ssd321_voc --workdir=runs/ssd321_voc --config.data.root=VOCdevkit \
        --config.init_from=ResNet-101-model.caffemodel

The file has the ImageNet weights of ResNet-101's authors (docs/weights.md). The original has 4 GPUs with 8 images
each, and its BatchNorm normalises by those 8; here it normalises by the whole batch. Its README has 77.5 mAP.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_voc
from ssd_jax.box import SSD321_VOC


def get_config() -> ConfigDict:
    config = ssd300_voc.get_config().unlock()
    config.steps = 80_000
    config.spec = ConfigDict(dataclasses.asdict(SSD321_VOC))
    config.model.backbone = "resnet101"
    config.model.norm = "batch"
    config.model.extras = "residual"
    config.model.heads = "residual"
    config.model.kernel_init = "normal"
    config.schedule.boundaries = (40_000, 60_000)
    return config.lock()
