"""DSSD513 on COCO, from a trained SSD513: 33.2 AP on COCO test-dev in the paper (arXiv:1701.06659).

Recipe: examples/ssd/ssd_coco_resnet_deconv_513.py of chengyangfu/caffe, branch dssd, which is the first stage alone.
It has a convolution of 512 channels before each prediction, which the paper, and this config, have not:
`--config.model.head_inner=512` is the script's network. First SSD513 is trained, then DSSD513 (see
configs/dssd321_voc.py):

    ssd-jax train --config=ssd513_coco --workdir=runs/ssd513_coco --config.data.root=COCO \
        --config.init_from=ResNet-101-model.caffemodel
    ssd-jax train --config=dssd513_coco --workdir=runs/dssd513_coco --config.data.root=COCO \
        --config.init_from=runs/ssd513_coco

COCO is the folder that configs/ssd300_coco.py describes. `--config=dssd513_coco:stage2` is the second stage of VOC's.

Time and result: not run here.
"""

from ml_collections import ConfigDict

from configs import dssd321_voc, ssd513_coco


def get_config(stage: str = "stage1") -> ConfigDict:
    config = ssd513_coco.get_config().unlock()
    config.steps = 150_000
    config.batch_size = 32
    config.schedule.boundaries = (80_000, 130_000)
    config.model.deconvolution = True
    config.model.freeze_norm = dssd321_voc.ENCODER
    config.optimizer.frozen = dssd321_voc.ENCODER
    return dssd321_voc.to_stage(config, stage)
