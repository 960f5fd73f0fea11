"""Your own images, from ImageNet weights: a light detector in minutes without a GPU.

It reproduces nothing: images, classes and splits are yours.

    pip install ssd_jax[efficientnet]
    ssd-jax train --config=finetune --workdir=runs/mine --config.data.root=DIR \
        --config.data.train=trainval --config.data.eval=test

The network is SSD on EfficientNet-Lite0 with light extra layers and heads, 320 x 320 pixels. The weights come from
the package of the extra `efficientnet`.

Time and result, on the BCCD blood cells (trainval, test): mAP@0.5 0.876, 0.871 and 0.879 (three seeds, 11-point) in
7.5 minutes on two idle cores without a GPU. On a set of fruit (240 images, 60 for the test), 400 steps: 0.834, 0.840
and 0.887 in 4.2 minutes.
The commands and further figures are in benchmarks/results/finetune-cpu.md.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import voc_folder
from ssd_jax.box import PriorSpec

# Each map's priors are twice as large as those of the map before, so that the largest objects are found in the
# backbone's last map and one extra layer, and not in a chain of new layers that must be learnt from nothing.
SPEC = PriorSpec(
    image_size=320,
    grids=(40, 20, 10, 5),
    steps=(8, 16, 32, 64),
    sizes=(22, 50, 105, 190, 300),
    ratios=((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0, 3.0)),
)


def get_config() -> ConfigDict:
    config = voc_folder.get_config().unlock()
    config.steps = 800
    config.batch_size = 8
    config.log_every = 20
    config.save_every = 200
    config.eval_every = 800
    config.init_from = "efficientnet_lite0"

    config.data.source = "auto"  # any folder of labelled images
    config.data.canvas_size = 384
    config.data.cache_gb = 1.0
    config.spec = ConfigDict(dataclasses.asdict(SPEC))

    config.model.backbone = "efficientnet_lite0"
    config.model.width = 1.0
    config.model.extras = "light"
    config.model.heads = "light"
    config.model.freeze_norm = ("trunk",)  # a batch of 8 gives poorer statistics than ImageNet did

    # Early layers serve any images, and their gradients are the dearest: they stay as they are, and so do all
    # depthwise kernels of the backbone.
    config.optimizer.frozen = ("trunk/stem", "trunk/stage[1-3]_*", "trunk/*/depthwise/conv")
    config.optimizer.rates.trunk = 0.25
    config.optimizer.clip_norm = 10.0
    config.schedule.learning_rate = 2e-3
    config.schedule.warmup_steps = 80

    config.augment.crop_scale = (0.5, 1.0)
    return config.lock()
