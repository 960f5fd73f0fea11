"""SSD300 on PASCAL VOC 2007 and 2012, as the paper trains it from ImageNet weights (77.2 mAP in Caffe).

The full config: the others are changes to this one. Recipe: examples/ssd/ssd_pascal.py of the original.

    python train.py --config=configs/ssd300_voc.py --workdir=runs/ssd300_voc --config.data.root=VOCdevkit

Result: not measured here yet.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from ssd_jax.augment import AugmentOptions
from ssd_jax.box import SSD300_VOC

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 120_000
    config.batch_size = 32  # over all devices
    config.log_every = 50
    config.save_every = 5_000
    config.eval_every = 10_000
    config.keep_checkpoints = 3
    config.init_from = ""  # a file of published weights (docs/weights.md), or the workdir of a run

    config.data = ConfigDict()
    config.data.source = "voc_folder"
    config.data.root = ""  # holds VOC2007/ and VOC2012/, as VOC's archives unpack; docs/data.md has other layouts
    config.data.class_names = VOC_CLASSES  # () finds them in the annotations
    config.data.drop_other_classes = False  # objects of other classes are an error
    config.data.strict = False  # boxes of no size or outside their picture are mended and reported, not an error
    config.data.train = "VOC2007:trainval+VOC2012:trainval"
    config.data.eval = "VOC2007:test"
    config.data.canvas_size = 512  # larger pictures are shrunk to fit this square before they go to the device
    config.data.max_boxes = 64
    config.data.max_unreadable = 10  # pictures that may be skipped before the run stops

    config.spec = ConfigDict(dataclasses.asdict(SSD300_VOC))

    config.model = ConfigDict()
    config.model.trunk = "vgg16"  # or "resnet50", with norm "batch"
    config.model.width = 1.0
    config.model.norm = config_dict.placeholder(str)  # or "batch"
    config.model.l2_scale = 20.0
    config.model.kernel_init = "xavier"
    config.model.head_init = "xavier"
    config.model.dtype = "float32"  # or "bfloat16"

    config.augment = ConfigDict(dataclasses.asdict(AugmentOptions()))  # the paper's

    config.schedule = ConfigDict()
    config.schedule.kind = "multistep"
    config.schedule.learning_rate = 1e-3
    config.schedule.warmup_steps = 0
    config.schedule.boundaries = (80_000, 100_000)
    config.schedule.decay = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.kind = "sgd"
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 5e-4
    config.optimizer.bias_multiplier = 2.0
    config.optimizer.clip_norm = 0.0

    config.eval = ConfigDict()
    config.eval.batch_size = 32
    return config.lock()
