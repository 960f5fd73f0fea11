"""Your own images in VOC's layout, from scratch at a quarter of the width: a first result without a GPU.

It reproduces nothing: images, classes and splits are yours.

    ssd-jax train --config=voc_folder --workdir=runs/mine --config.data.root=DIR \
        --config.data.train=train+val --config.data.eval=test

DIR holds `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/<split>.txt`. With a GPU, use the full width:
`--config.model.width=1.0 --config.model.dtype=bfloat16 --config.batch_size=32`.

Time and result, on the BCCD blood cells (train+val, test) with a smaller least prior and larger crops: mAP@0.5 0.871
and 0.869 (11-point), 0.901 and 0.900 (area) with two seeds, in 18 min 17 s and 19 min 4 s on two cores without a
GPU. The command and the figures by class are in benchmarks/results/training-cpu.md.
"""

from ml_collections import ConfigDict

from configs import ssd300_voc


def get_config() -> ConfigDict:
    config = ssd300_voc.get_config().unlock()
    config.steps = 1_200
    config.batch_size = 4
    config.log_every = 20
    config.save_every = 300
    config.eval_every = 600

    config.data.class_names = ()  # (): all that the annotations name
    config.data.train = "train"
    config.data.eval = "val"
    config.data.max_boxes = 32

    # Trained from scratch, VGG16 learns only with normalisation, and with AdamW.
    config.model.width = 0.25
    config.model.norm = "batch"
    config.model.l2_scale = 10.0
    config.model.kernel_init = "he"
    config.model.head_init = "normal"
    config.optimizer.kind = "adamw"
    config.optimizer.weight_decay = 1e-2
    config.schedule.kind = "cosine"
    config.schedule.learning_rate = 2e-3
    config.schedule.warmup_steps = 60

    config.augment.expand_ratio = 1.6
    config.augment.hue_probability = 0.0
    config.augment.interpolations = ("linear",)
    return config.lock()
