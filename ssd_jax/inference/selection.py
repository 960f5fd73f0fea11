"""From a model's outputs to detections: a pure function, the same for evaluation, images and export."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from ssd_jax.box import VARIANCES, clip, decode, make_priors, multiclass_nms
from ssd_jax.model import SSD, preprocess

PyTree = Any


def select(
    offsets: jax.Array,
    logits: jax.Array,
    priors: jax.Array,
    *,
    score_threshold: float = 0.01,
    max_candidates: int = 400,
    iou_threshold: float = 0.45,
    max_detections: int = 200,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Turn one image's outputs `[P, 4]`, `[P, C]` into its best detections, as Caffe's DetectionOutput layer does.

    Each class keeps the `max_candidates` best priors whose softmax score exceeds `score_threshold` and suppresses
    those that overlap a better one by more than `iou_threshold`; the best `max_detections` over all classes remain.

    Returns:
      corners `[D, 4]`, scores `[D]` and labels `[D]`, best first; unused rows are zero, with label 0.
    """
    boxes = decode(offsets, priors, variances=VARIANCES)
    boxes, scores, labels = multiclass_nms(
        boxes,
        jax.nn.softmax(logits),
        score_threshold=score_threshold,
        max_candidates=max_candidates,
        iou_threshold=iou_threshold,
        max_detections=max_detections,
    )
    return clip(boxes), scores, labels


def make_detect(
    model: SSD, **options: float
) -> Callable[[PyTree, jax.Array], tuple[jax.Array, jax.Array, jax.Array]]:
    """Build `detect(variables, images uint8 [B, S, S, 3]) -> (corners [B, D, 4], scores [B, D], labels [B, D])`.

    `options` are those of `select`. The function is pure: jit it, map it over devices, or export it.
    """
    priors = make_priors(model.spec)
    select_one = partial(select, priors=priors, **options)

    def detect(variables: PyTree, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        offsets, logits = model.apply(variables, preprocess(images))
        return jax.vmap(lambda o, l: select_one(o, l))(offsets, logits)

    return detect
