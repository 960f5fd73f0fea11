"""Models by name."""

from typing import Any

from ssd_jax.box import (
    SSD300_COCO,
    SSD300_VOC,
    SSD320_COCO,
    SSD320_VOC,
    SSD321_COCO,
    SSD321_VOC,
    SSD512_COCO,
    SSD512_VOC,
    SSD513_COCO,
    SSD513_VOC,
    SSDLITE320_COCO,
    retina_spec,
)
from ssd_jax.model.ssd import SSD

OF_300 = {"voc": SSD300_VOC, "coco": SSD300_COCO}
OF_320 = {"voc": SSD320_VOC, "coco": SSD320_COCO}
OF_512 = {"voc": SSD512_VOC, "coco": SSD512_COCO}
OF_321 = {"voc": SSD321_VOC, "coco": SSD321_COCO}
OF_513 = {"voc": SSD513_VOC, "coco": SSD513_COCO}
RESIDUAL = {
    "backbone": "resnet101",
    "norm": "batch",
    "extras": "residual",
    "heads": "residual",
    "kernel_init": "normal",
}
LIGHT = {"norm": "batch", "extras": "light", "heads": "light", "kernel_init": "he", "head_init": "normal_0.03"}

# The priors by dataset, and the options of `SSD`.
MODELS: dict[str, dict[str, Any]] = {
    "ssd300": {"specs": OF_300},
    "ssd512": {"specs": OF_512},
    "ssd300_resnet50": {"specs": OF_300, "backbone": "resnet50", "norm": "batch"},
    "ssdlite320_mobilenet_v3_large": {
        "specs": {"voc": SSDLITE320_COCO, "coco": SSDLITE320_COCO},
        "backbone": "mobilenet_v3_large_reduced",
        **LIGHT,
        "kernel_init": "normal_0.03",
    },
    "ssd321": {"specs": OF_321, **RESIDUAL},
    "ssd513": {"specs": OF_513, **RESIDUAL},
    "dssd321": {"specs": OF_321, **RESIDUAL, "deconvolution": True},
    "dssd513": {"specs": OF_513, **RESIDUAL, "deconvolution": True},
    "retinanet_resnet50": {
        "specs": dict.fromkeys(("voc", "coco"), retina_spec(640)),
        "backbone": "resnet50_whole",
        "norm": "batch",
        "extras": "fpn",
        "heads": "shared",
        "kernel_init": "normal",
        "head_init": "normal",
        "scores": "sigmoid",
    },
    "ssd320_efficientnet_lite0": {"specs": OF_320, "backbone": "efficientnet_lite0", **LIGHT},
    "ssd320_efficientnet_lite1": {"specs": OF_320, "backbone": "efficientnet_lite1", **LIGHT},
    "ssd320_efficientnet_lite2": {"specs": OF_320, "backbone": "efficientnet_lite2", **LIGHT},
}


def make(name: str, num_classes: int, dataset: str = "voc", **options: Any) -> SSD:
    """Make the model of a name.

    Args:
      name: a name of `MODELS`.
      num_classes: C, background included.
      dataset: "voc" or "coco", whose priors it has. Those of COCO are smaller.
      options: fields of `SSD` to change.

    Raises:
      ValueError: for an unknown name, and as `SSD` does.
    """
    if name not in MODELS:
        raise ValueError(f"name must be one of {', '.join(MODELS)}; got {name!r}")
    fields = dict(MODELS[name])
    specs = fields.pop("specs")
    if dataset not in specs:
        raise ValueError(f"dataset must be one of {', '.join(specs)}; got {dataset!r}")
    return SSD(num_classes, **({"spec": specs[dataset]} | fields | options))
