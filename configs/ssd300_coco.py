"""SSD300 on COCO from ImageNet weights: 25.1 AP on COCO test-dev in the paper.

Recipe: Caffe's examples/ssd/ssd_coco.py.

    ssd-jax train --config=ssd300_coco --workdir=runs/ssd300_coco --config.data.root=COCO \
        --config.init_from=FILE

COCO holds `annotations/instances_train2017.json`, `train2017/` and the same for `val2017`; FILE has weights of VGG16
(docs/weights.md).

Time and result: not measured yet.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_voc
from ssd_jax.box import SSD300_COCO


def get_config() -> ConfigDict:
    config = ssd300_voc.get_config().unlock()
    config.steps = 400_000
    config.eval_every = 40_000
    config.data.source = "coco_json"
    config.data.class_names = ()  # (): all that the annotation file names
    config.data.train = "train2017"
    config.data.eval = "val2017"
    config.data.max_boxes = 100
    config.spec = ConfigDict(dataclasses.asdict(SSD300_COCO))
    config.schedule.boundaries = (280_000, 360_000)
    return config.lock()
