"""SSD513 on COCO: SSD on ResNet-101, 31.2 AP on COCO test-dev in the paper (arXiv:1701.06659).

Recipe: examples/ssd/ssd_coco_resnet_513.py of chengyangfu/caffe, branch dssd. It has 128 and 512 channels in the
prediction modules of the first two maps, where the paper, and this config, have 256:
`--config.model.head_features="(128, 512, 256, 256, 256, 256, 256)"` is the script's network.

    ssd-jax train --config=ssd513_coco --workdir=runs/ssd513_coco --config.data.root=COCO \
        --config.init_from=ResNet-101-model.caffemodel

COCO is the folder that configs/ssd300_coco.py describes, the file that of configs/ssd321_voc.py. The original
computes a step in two microbatches of 20 images; `--config.accumulate=2` does the same.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_coco, ssd321_voc
from ssd_jax.box import SSD513_COCO


def get_config() -> ConfigDict:
    config = ssd300_coco.get_config().unlock()
    config.steps = 250_000
    config.batch_size = 40
    config.spec = ConfigDict(dataclasses.asdict(SSD513_COCO))
    config.model = ssd321_voc.get_config().model
    config.schedule.boundaries = (130_000, 210_000)
    return config.lock()
