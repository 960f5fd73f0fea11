"""SSD300 with ResNet-50 in place of VGG16, NVIDIA's network, on PASCAL VOC: the paper's recipe, NVIDIA's warm-up.

    ssd-jax train --config=ssd300_resnet50_voc --workdir=runs/resnet50_voc \
        --config.data.root=VOCdevkit --config.init_from=resnet50-0676ba61.pth

The file has torchvision's ImageNet weights (docs/weights.md). The priors are those of SSD300 on VOC.

Time and result: not measured yet.
"""

from ml_collections import ConfigDict

from configs import ssd300_voc


def get_config() -> ConfigDict:
    config = ssd300_voc.get_config().unlock()
    config.model.backbone = "resnet50"
    config.model.norm = "batch"
    config.schedule.warmup_steps = 300
    return config.lock()
