"""Your own images in VOC's layout, from scratch at a quarter of the width: for a first result without a GPU.

    python train.py --config=configs/voc_folder.py --workdir=runs/mine --config.data.root=DIR \
        --config.data.train=train+val --config.data.eval=test

DIR holds `Annotations/*.xml`, `JPEGImages/` and `ImageSets/Main/<split>.txt`. With a GPU, use the full width:
`--config.model.width=1.0 --config.model.dtype=bfloat16 --config.batch_size=32`.

Result: on the BCCD blood cells (train+val, test) mAP@0.5 0.871 and 0.869 (11-point), 0.901 and 0.900 (area) with two
seeds, in 18 min 17 s and 19 min 4 s on two cores without a GPU, with a smaller least prior and larger crops; the
command and the figures by class are in benchmarks/results/training-cpu.md.
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

    config.data.class_names = ()  # those found in the annotations
    config.data.train = "train"
    config.data.eval = "val"
    config.data.max_boxes = 32

    # From scratch a VGG learns only with normalisation, and needs AdamW's rate for each weight.
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
