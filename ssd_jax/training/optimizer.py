"""The update rules: SGD as Caffe has it, or AdamW; layers that are held still."""

from fnmatch import fnmatchcase
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
    """Mark the biases of convolutions, which Caffe trains at twice the rate; it does not so those of BatchNorm."""

    def check(path: tuple[Any, ...], _: jax.Array) -> bool:
        return [entry.key for entry in path[-2:]] == ["conv", "bias"]

    return jax.tree_util.tree_map_with_path(check, params)


def is_frozen(params: PyTree, frozen: tuple[str, ...]) -> PyTree:
    """Mark the parameters of the layers that `frozen` names (see `make_optimizer`).

    Raises:
      ValueError: for a name that no layer has, with those there are.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = ["/".join(entry.key for entry in path) for path, _ in leaves]

    def matches(name: str, entry: str) -> bool:
        return fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}/*")

    for entry in frozen:
        if not any(matches(name, entry) for name in names):
            layers = dict.fromkeys(
                name.rsplit("/", 1)[0].removesuffix("/conv").removesuffix("/norm") for name in names
            )
            raise ValueError(f"frozen must name layers of {', '.join(layers)}; got {entry!r}")
    return structure.unflatten([any(matches(name, entry) for entry in frozen) for name in names])


def make_optimizer(
    schedule: optax.Schedule,
    *,
    kind: str = "sgd",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    bias_multiplier: float = 2.0,
    clip_norm: float = 0.0,
    frozen: tuple[str, ...] = (),
    thaw_step: int = 0,
) -> optax.GradientTransformation:
    """SGD as Caffe trains SSD, or AdamW.

    Weight decay is left out for biases (Caffe's `decay_mult: 0`) and for BatchNorm.

    Args:
      schedule: learning rate by step.
      kind: "sgd", with `momentum`, L2 decay added to the gradient, and biases at `bias_multiplier` times the rate
        (Caffe's `lr_mult: 2`); or "adamw", with decoupled decay and one rate for all.
      momentum, weight_decay, bias_multiplier: as above.
      clip_norm: scale gradients down to this global norm, that of the layers that train; 0 for no clipping.
      frozen: layers that stay as they are: paths of parameters such as "trunk/conv1_1", "trunk" or
        "trunk/conv[12]_*", with the wildcards of a shell and whatever is below. They are neither updated nor decayed
        and gather no momentum. Their BatchNorm still normalises by the batch and its statistics still follow.
      thaw_step: the step from which they train too, as if the optimiser began there; 0 for never.

    Raises:
      ValueError: for a wrong `kind` or `thaw_step`; from the optimiser's `init`, for a frozen layer that is none.
    """
    if clip_norm < 0:
        raise ValueError(f"clip_norm must be at least 0, got {clip_norm}")
    if kind not in ("sgd", "adamw"):
        raise ValueError(f"optimizer kind must be sgd or adamw, got {kind!r}")
    if thaw_step < 0 or (thaw_step and not frozen):
        raise ValueError(f"thaw_step must be at least 0, and 0 where nothing is frozen, got {thaw_step}")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []

    def rule(schedule: optax.Schedule) -> optax.GradientTransformation:
        if kind == "adamw":
            return optax.adamw(schedule, weight_decay=weight_decay, mask=is_decayed)
        # Caffe's momentum buffer holds gradients times the learning rate, so that a decay of the rate takes effect
        # gradually: v = m v + lr g. Hence the rate comes before the momentum.
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=is_decayed),
            optax.scale_by_learning_rate(schedule),
            optax.masked(optax.scale(bias_multiplier), is_bias),
            optax.trace(decay=momentum),
        )

    if not frozen:
        return optax.chain(*clip, rule(schedule))

    def held(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Zero until `thaw_step`, then what `inner` makes of it."""
        if not thaw_step:
            return optax.set_to_zero()
        return optax.conditionally_mask(inner, lambda step: step >= thaw_step)

    def is_held(params: PyTree) -> PyTree:
        return is_frozen(params, frozen)

    def group(params: PyTree) -> PyTree:
        return jax.tree.map(lambda is_held: "held" if is_held else "trained", is_held(params))

    later = rule(lambda step: schedule(step + thaw_step))
    return optax.chain(
        optax.masked(held(optax.identity()), is_held),
        *clip,
        optax.partition({"trained": rule(schedule), "held": held(later)}, group),
    )
