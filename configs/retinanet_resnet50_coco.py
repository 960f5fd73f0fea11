"""RetinaNet with ResNet-50 on COCO from ImageNet weights, 640 x 640 pixels: the paper's recipe.

Published: 34.3 AP on COCO test-dev with a shorter side of 600 pixels, 35.7 with 800 (arXiv:1708.02002, table 1e);
34.3 on val2017 at 640 x 640 (TensorFlow's Object Detection API); 36.4 on val2017 with 800 (torchvision). The layers
and the anchors are torchvision's. Images are squeezed into a square here, and priors are matched as in SSD, which
gives each object one prior at least; the offsets have SSD's variances, as in TensorFlow's.

    ssd-jax train --config=retinanet_resnet50_coco --workdir=runs/retinanet --config.data.root=COCO \
        --config.init_from=resnet50-0676ba61.pth

COCO is the folder that configs/ssd300_coco.py describes; the file has torchvision's ImageNet weights
(docs/weights.md). The batch of 16 images is that of eight GPUs.

Time and result: not run here.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import ssd300_coco
from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import retina_spec


def get_config() -> ConfigDict:
    config = ssd300_coco.get_config().unlock()
    config.steps = 90_000
    config.batch_size = 16
    config.eval_every = 15_000
    config.data.canvas_size = 640

    config.spec = ConfigDict(dataclasses.asdict(retina_spec(640)))

    config.model.backbone = "resnet50_whole"
    config.model.norm = "batch"
    config.model.extras = "fpn"
    config.model.heads = "shared"
    config.model.scores = "sigmoid"
    config.model.kernel_init = "normal"
    config.model.head_init = "normal"
    config.model.freeze_norm = ("trunk",)

    config.augment = ConfigDict(dataclasses.asdict(dataclasses.replace(NO_AUGMENTATION, mirror_probability=0.5)))

    config.schedule.learning_rate = 1e-2
    config.schedule.warmup_steps = 500
    config.schedule.boundaries = (60_000, 80_000)

    config.optimizer.weight_decay = 1e-4
    config.optimizer.bias_multiplier = 1.0
    config.optimizer.frozen = ("trunk/conv1", "trunk/layer1_*", "trunk/*/norm")
    return config.lock()
