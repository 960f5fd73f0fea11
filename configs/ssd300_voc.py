"""SSD300 on PASCAL VOC 2007 and 2012 from ImageNet weights: 77.2 mAP in Caffe (its README).

This is the full config; the others are changes to it. Recipe: Caffe's examples/ssd/ssd_pascal.py.

    ssd-jax train --config=ssd300_voc --workdir=runs/ssd300_voc --config.data.root=VOCdevkit \
        --config.init_from=FILE

FILE has weights of VGG16 (docs/weights.md).

Time and result: not measured yet.
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
    config.eval_every = 10_000  # and at the end; 0: never
    config.stop_after = 0  # evaluations without a better score (AP of COCO, else mAP) that end the run; 0: none
    config.keep_checkpoints = 3  # the newest ones; the one that evaluated best is kept as well
    config.init_from = ""  # a file of published weights (docs/weights.md), or the workdir of a run
    config.accumulate = 1  # gradient accumulation steps: microbatches of each device, one after the other
    config.ema_decay = 0.0  # of the averaged weights that evaluation and detection use, as 0.9998; 0: no averages
    config.max_skipped = 0  # steps with a loss or gradient that is not finite to skip before the run stops

    config.data = ConfigDict()
    config.data.source = "voc_folder"
    config.data.root = ""  # holds VOC2007/ and VOC2012/, as VOC's archives unpack; docs/data.md has other layouts
    config.data.class_names = VOC  # (): all that the annotations name
    config.data.drop_other_classes = False  # False: an object of another class is an error
    config.data.strict = False  # annotation errors are fixed or dropped, and reported; True: one ends the run
    config.data.max_pixels = 100_000_000  # images with more are unreadable
    config.data.max_annotation_bytes = 2_000_000_000  # annotation files with more are an error
    config.data.exif = "auto"  # turn images by EXIF if the annotation's size agrees; "turn" or "ignore" in any case
    config.data.size_mismatch = "warn"  # or "error" or "ignore": the size in an annotation is not the image's
    config.data.allow_outside = False  # file names of a COCO file may lead out of its image folder
    config.data.train = "VOC2007:trainval+VOC2012:trainval"
    config.data.eval = "VOC2007:test"
    config.data.canvas_size = 512  # pixels; larger images are shrunk to fit this square before they go to the device
    config.data.max_boxes = 64  # objects of an image to train on; the largest ones
    config.data.train_difficult = True  # also train on objects that are marked as difficult, as Caffe does
    config.data.max_unreadable = 10  # unreadable images to skip before the run stops
    config.data.cache_gb = 0.0  # gigabytes of decoded images that each process keeps in memory
    config.data.reduced_decoding = False  # True: decode JPEGs that are much larger than the canvas at a lower scale
    config.data.threads = 4  # read and decode images

    config.spec = ConfigDict(dataclasses.asdict(SSD300_VOC))

    config.model = ConfigDict()
    config.model.backbone = "vgg16"  # or one of docs/models.md, with norm "batch"
    config.model.extras = "paper"  # or "light": depthwise convolutions, or "residual", with norm "batch"; or "fpn"
    config.model.deconvolution = False  # True: DSSD's modules
    config.model.heads = "paper"  # or "light", "residual", "shared"
    config.model.head_features = ()  # of residual heads: channels inside the block of each map; (): 256
    config.model.head_inner = 0  # of residual heads: channels of a 3x3 convolution before each prediction; 0: none
    config.model.scores = "softmax"  # or "sigmoid", with the focal loss
    config.model.width = 1.0  # multiplies the channels of every layer
    config.model.norm = config_dict.placeholder(str)  # none, or "batch"
    config.model.l2_scale = 20.0  # initial scale of conv4_3's L2 norm
    config.model.kernel_init = "xavier"  # or "he", "normal"
    config.model.head_init = "xavier"
    config.model.freeze_norm = ()  # parts whose BatchNorm statistics do not change, such as ("trunk",)
    config.model.dtype = "float32"  # or "bfloat16"

    config.augment = ConfigDict(dataclasses.asdict(AugmentOptions()))  # the paper's

    config.schedule = ConfigDict()
    config.schedule.kind = "multistep"  # or "constant", "cosine"
    config.schedule.learning_rate = 1e-3
    config.schedule.warmup_steps = 0
    config.schedule.boundaries = (80_000, 100_000)  # steps at which the rate is multiplied by decay
    config.schedule.decay = 0.1

    config.optimizer = ConfigDict()
    config.optimizer.kind = "sgd"  # or "adamw"
    config.optimizer.momentum = 0.9  # of sgd; adamw has none
    config.optimizer.weight_decay = 5e-4
    config.optimizer.bias_multiplier = 2.0  # of sgd: the rate of biases; adamw has one rate for all
    config.optimizer.clip_norm = 0.0  # the largest norm of the gradient; 0: any
    config.optimizer.frozen = ()  # layers that do not train, such as ("trunk/conv1_*", "trunk/conv2_*")
    config.optimizer.thaw_step = 0  # the step from which they train; 0: never
    config.optimizer.rates = ConfigDict({"trunk": 1.0})  # factors on the learning rate of layers, here the backbone

    config.log = ConfigDict()
    config.log.writers = ("tensorboard",)  # also "wandb", "mlflow", "trackio", with the extra of that name

    config.eval = ConfigDict()
    config.eval.batch_size = 32
    config.eval.images = 4  # whose detections `log.writers` show after an evaluation
    return config.lock()
