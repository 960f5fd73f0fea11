"""What the boxes and images of a dataset ask of its training, in plain sentences."""

import numpy as np

from ssd_jax.box import PriorSpec, area
from ssd_jax.data.box_table import some
from ssd_jax.report.coverage import best_iou
from ssd_jax.report.dataset import Report

SMALL = 16  # side of a box in pixels of the network's input
IOU = 0.5  # from which a prior is trained on a box, beside each box's best prior
FEW_IMAGES, FEW_BOXES = 200, 20
LARGE = 3  # how many times larger than the network's input images may be


def advice(report: Report, spec: PriorSpec, *, max_boxes: int) -> list[str]:
    """Say what to change before training, each in one sentence with its number; [] if nothing is remarkable.

    Args:
      report: of the training data.
      spec: the priors of the training.
      max_boxes: of the training.
    """
    sentences = [*_about_boxes(report, spec), *_about_classes(report), *_about_images(report, round(spec.mean_side))]
    if report.most_boxes > max_boxes:
        sentences.append(
            f"An image has {report.most_boxes} boxes, and training takes {max_boxes}: raise data.max_boxes, "
            f"--config.data.max_boxes={report.most_boxes}."
        )
    return sentences


def _about_boxes(report: Report, spec: PriorSpec) -> list[str]:
    if not len(report.corners):
        return ["No image has a box: there is nothing to learn."]
    sentences = []
    side = spec.mean_side * np.sqrt(area(report.corners))  # [N]
    small = float(np.mean(side < SMALL))
    uncovered = float(np.mean(best_iou(report.corners, spec) < IOU))
    if small >= 0.1:
        sentences.append(
            f"{_percent(small)} of the boxes are under {SMALL} pixels at this input of {spec.mean_side:.0f}: use a "
            "larger input or smaller priors."
        )
    if uncovered >= 0.1:
        least, most = np.percentile(side, (5, 95))
        sentences.append(
            f"{_percent(uncovered)} of the boxes have no prior with an IoU of {IOU} or more: set the sizes of the "
            f"priors (spec.sizes) to those of the boxes, most of which are {least:.0f} to {most:.0f} pixels at this "
            "input."
        )
    return sentences


def _about_classes(report: Report) -> list[str]:
    few = [f"{name} ({report.by_class[name]})" for name in report.class_names if report.by_class[name] < FEW_BOXES]
    if not few or not report.boxes:
        return []
    return [
        f"{len(few)} of the {len(report.class_names)} classes have fewer than {FEW_BOXES} boxes, too few to learn "
        f"from: {some(few, 5)}; label more, or leave them out (data.class_names with data.drop_other_classes)."
    ]


def _about_images(report: Report, image_size: int) -> list[str]:
    sentences = []
    if report.images < FEW_IMAGES:
        sentences.append(
            f"{report.images} images are few: start from pretrained weights (--config=finetune), and expect that "
            "more images help more than a longer training."
        )
    if report.empty > report.images / 2:
        sentences.append(
            f"{_percent(report.empty / report.images)} of the images have no box: as background they are useful, but "
            "if they are only not labelled yet, they teach the detector to find nothing."
        )
    unreadable = len(report.findings.get("unreadable", ()))
    if unreadable:
        sentences.append(f"{unreadable:,} of the images cannot be read: replace or remove them.")
    longest = [max(size) for size, n in report.sizes.items() for _ in range(n)]
    median = float(np.median(longest)) if longest else 0
    if median > LARGE * image_size:
        sentences.append(
            f"The images are large, mostly {median:.0f} pixels, and are shrunk to {image_size}: objects that are "
            "small in them are lost, so cut them into tiles, or use a larger input."
        )
    return sentences


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
