"""DSSD321 on PASCAL VOC 2007 and 2012, from a trained SSD321: 78.6 mAP in the paper (arXiv:1701.06659).

Recipe: examples/ssd/ssd_pascal_resnet_deconv_321.py and ssd_pascal_resnet_deconv_ft_321.py of chengyangfu/caffe,
branch dssd. First SSD321 is trained. The first stage trains the deconvolution modules and the heads; the backbone and
the extra layers, with their statistics, stay those of the SSD:

    ssd-jax train --config=ssd321_voc --workdir=runs/ssd321_voc --config.data.root=VOCdevkit \
        --config.init_from=ResNet-101-model.caffemodel
    ssd-jax train --config=dssd321_voc --workdir=runs/dssd321_voc --config.data.root=VOCdevkit \
        --config.init_from=runs/ssd321_voc

The second stage trains all layers but BatchNorm's, at a tenth of the rate. In the paper it gains at 513 pixels alone:

    ssd-jax train --config=dssd321_voc:stage2 --workdir=runs/dssd321_voc_stage2 --config.data.root=VOCdevkit \
        --config.init_from=runs/dssd321_voc

The original computes a step of the first stage in two microbatches of 16 images, as `--config.accumulate=2` does.

Time and result: not run here.
"""

from ml_collections import ConfigDict

from configs import ssd321_voc

ENCODER = ("trunk", "res*")  # the backbone and the extra layers


def get_config(stage: str = "stage1") -> ConfigDict:
    config = ssd321_voc.get_config().unlock()
    config.model.deconvolution = True
    config.steps = 30_000
    config.schedule.boundaries = (20_000,)
    config.model.freeze_norm = ENCODER
    config.optimizer.frozen = ENCODER
    return to_stage(config, stage)


def to_stage(config: ConfigDict, stage: str) -> ConfigDict:
    """Return the config of the first stage as it is, or changed to the second one."""
    if stage not in ("stage1", "stage2"):
        raise ValueError(f"what follows the config's name must be stage1 or stage2; got {stage!r}")
    if stage == "stage2":
        config = config.unlock()
        config.steps = 40_000
        config.schedule.boundaries = (20_000,)
        config.schedule.learning_rate = 1e-4
        config.model.freeze_norm = ("*",)
        config.optimizer.frozen = ("*/norm",)
    return config.lock()
