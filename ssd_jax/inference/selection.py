"""From a model's outputs to detections: a pure function, the same for evaluation, images and export."""

from collections.abc import Callable
from functools import partial
from typing import Unpack

import jax
from flax.typing import VariableDict

from ssd_jax.box import VARIANCES, clip, decode, make_priors, multiclass_nms
from ssd_jax.inference.select_options import SelectOptions, check_options
from ssd_jax.model import SSD, preprocess

Selected = tuple[jax.Array, jax.Array, jax.Array]  # corners [..., D, 4], scores [..., D], labels [..., D]


# From logits [P, C] to scores [P, C], of which the background's column is not used.
PROBABILITIES: dict[str, Callable[[jax.Array], jax.Array]] = {"softmax": jax.nn.softmax, "sigmoid": jax.nn.sigmoid}


def select(
    offsets: jax.Array,
    logits: jax.Array,
    priors: jax.Array,
    *,
    scores: str = "softmax",
    score_threshold: float = 0.01,
    max_candidates: int = 400,
    iou_threshold: float = 0.45,
    max_detections: int = 200,
) -> Selected:
    """Turn one image's outputs into its best detections, as Caffe's DetectionOutput layer does.

    Args:
      offsets: [P, 4] of the model.
      logits: [P, C] of the model.
      priors: centers [P, 4].
      scores: how logits become scores, as `SSD.scores`.
      score_threshold: scores must exceed it, in [0, 1].
      max_candidates: the best priors of each class that are considered.
      iou_threshold: a candidate that overlaps a better one of its class by more is suppressed, in [0, 1].
      max_detections: D, the best over all classes that remain.

    Returns:
      corners [D, 4] in fractions, scores [D] and labels [D], best first; unused rows are zero, with label 0.
    """
    boxes = decode(offsets, priors, variances=VARIANCES)
    boxes, best, labels = multiclass_nms(
        boxes,
        PROBABILITIES[scores](logits),
        score_threshold=score_threshold,
        max_candidates=max_candidates,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    return clip(boxes), best, labels


def make_detect(model: SSD, **options: Unpack[SelectOptions]) -> Callable[[VariableDict, jax.Array], Selected]:
    """Build `detect(variables, images uint8 [B, H, W, 3]) -> (corners [B, D, 4], scores [B, D], labels [B, D])`.

    The function is pure: jit it, map it over devices, or export it.

    Args:
      model: the network.
      **options: of `select`.

    Raises:
      ValueError: for an option that does not exist or has a wrong value.
    """
    check_options(options)
    select_one = partial(select, priors=make_priors(model.spec), scores=model.scores, **options)

    def detect(variables: VariableDict, images: jax.Array) -> Selected:
        offsets, logits = model.apply(variables, preprocess(images))
        return jax.vmap(lambda o, l: select_one(o, l))(offsets, logits)

    return detect
