"""SSD300 on PASCAL VOC 2007 and 2012, as the paper trains it from ImageNet weights (77.2 mAP in Caffe).

The full config: the others are changes to this one. Recipe: examples/ssd/ssd_pascal.py of the original.

    python train.py --config=configs/ssd300_voc.py --workdir=runs/ssd300_voc --config.data.root=VOCdevkit

Result: not measured here yet.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from ssd_jax.augment import AugmentOptions
from ssd_jax.box import SSD300_VOC
from ssd_jax.data.classes import VOC


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0
    config.steps = 120_000
    config.batch_size = 32  # over all devices
    config.log_every = 50
    config.save_every = 5_000
    config.eval_every = 10_000  # and at the end; 0 for never
    config.keep_checkpoints = 3  # the newest; the best by evaluation stays too
    config.init_from = ""  # a file of published weights (docs/weights.md), or the workdir of a run
    config.accumulate = 1  # parts of a device's share of the batch that are walked one after the other
    config.ema_decay = 0.0  # evaluate and detect with averaged weights, as 0.9998; 0 for the last ones
    config.max_skipped = 0  # steps whose loss is not finite that may be left out before the run stops

    config.data = ConfigDict()
    config.data.source = "voc_folder"
    config.data.root = ""  # holds VOC2007/ and VOC2012/, as VOC's archives unpack; docs/data.md has other layouts
    config.data.class_names = VOC  # () finds them in the annotations
    config.data.drop_other_classes = False  # objects of other classes are an error
    config.data.strict = False  # what is wrong with the data is mended or left out, and reported; True: an error
    config.data.train = "VOC2007:trainval+VOC2012:trainval"
    config.data.eval = "VOC2007:test"
    config.data.canvas_size = 512  # larger images are shrunk to fit this square before they go to the device
    config.data.max_boxes = 64
    config.data.train_difficult = True  # as in Caffe
    config.data.max_unreadable = 10  # images that may be skipped before the run stops
    config.data.cache_gb = 0.0  # gigabytes of decoded images that each process keeps, to decode them once
    config.data.threads = 4  # that read and decode

    config.spec = ConfigDict(dataclasses.asdict(SSD300_VOC))

    config.model = ConfigDict()
    config.model.backbone = "vgg16"  # or "resnet50", with norm "batch"
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
    config.optimizer.momentum = 0.9  # of sgd; adamw has none
    config.optimizer.weight_decay = 5e-4
    config.optimizer.bias_multiplier = 2.0  # of sgd: the rate of biases; adamw has one rate for all
    config.optimizer.clip_norm = 0.0
    config.optimizer.frozen = ()  # layers that do not train, as ("trunk/conv1_*", "trunk/conv2_*")
    config.optimizer.thaw_step = 0  # when they begin to; 0 for never

    config.eval = ConfigDict()
    config.eval.batch_size = 32
    config.eval.images = 4  # whose detections TensorBoard shows
    return config.lock()
