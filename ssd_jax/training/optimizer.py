"""The update rules: SGD as Caffe has it, or AdamW."""

from typing import Any

import jax
import optax

PyTree = Any


def is_decayed(params: PyTree) -> PyTree:
    """Mark what weight decay pulls on: kernels and conv4_3's L2-norm scale, not biases nor BatchNorm."""

    def check(path: tuple[Any, ...], _: jax.Array) -> bool:
        names = [entry.key for entry in path]
        return names[-1] == "kernel" or names[-2:] == ["conv4_3_norm", "scale"]

    return jax.tree_util.tree_map_with_path(check, params)


def is_bias(params: PyTree) -> PyTree:
    """Mark biases, which Caffe trains at twice the rate."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "bias", params)


def make_optimizer(
    schedule: optax.Schedule,
    *,
    kind: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    bias_multiplier: float = 2.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """SGD as Caffe trains SSD, or AdamW.

    Weight decay is left out for biases (Caffe's `decay_mult: 0`) and for BatchNorm.

    Args:
      schedule: learning rate by step.
      kind: "sgd", with `momentum`, L2 decay added to the gradient, and biases at `bias_multiplier` times the rate
        (Caffe's `lr_mult: 2`); or "adamw", with decoupled decay and one rate for all.
      momentum, weight_decay, bias_multiplier: as above.
      clip_norm: scale gradients down to this global norm; 0 for no clipping.
    """
    if kind not in ("sgd", "adamw"):
        raise ValueError(f"optimizer kind must be sgd or adamw, got {kind!r}")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if kind == "adamw":
        return optax.chain(*clip, optax.adamw(schedule, weight_decay=weight_decay, mask=is_decayed))

    # Caffe's momentum buffer holds gradients times the learning rate, so that a decay of the rate takes effect
    # gradually: v = m v + lr g. Hence the rate comes before the momentum.
    return optax.chain(
        *clip,
        optax.add_decayed_weights(weight_decay, mask=is_decayed),
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.scale(bias_multiplier), is_bias),
        optax.trace(decay=momentum),
    )
