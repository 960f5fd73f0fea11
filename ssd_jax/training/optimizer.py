"""The update rules: SGD as in Caffe, or AdamW; frozen layers; layers with a learning rate of their own."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssd_jax.model.layers import is_named

PyTree = Any
# Groups of parameters. The names are part of the optimiser state in checkpoints.
TRAINED, FROZEN = "trained", "held"


def is_decayed(params: PyTree) -> PyTree:
    """Return true for each parameter with weight decay: kernels and the scale of conv4_3's L2 norm."""

    def check(path: tuple[Any, ...], _: jax.Array) -> bool:
        names = [entry.key for entry in path]
        return names[-1] == "kernel" or names[-2:] == ["conv4_3_norm", "scale"]

    return jax.tree_util.tree_map_with_path(check, params)


def is_bias(params: PyTree) -> PyTree:
    """Return true for each bias of a convolution (Caffe: `lr_mult: 2`). BatchNorm's biases are not included."""

    def check(path: tuple[Any, ...], _: jax.Array) -> bool:
        return [entry.key for entry in path[-2:]] == ["conv", "bias"]

    return jax.tree_util.tree_map_with_path(check, params)


def is_frozen(params: PyTree, frozen: tuple[str, ...]) -> PyTree:
    """Return true for each parameter of the layers that `frozen` names (see `make_optimizer`).

    Raises:
      ValueError: for a name that no layer has; the message lists the layers.
    """
    named = [_named_by(params, entry, "frozen") for entry in frozen]
    return jax.tree.map(lambda _, *hits: any(hits), params, *named)


def rate_factors(params: PyTree, rates: Mapping[str, float]) -> PyTree:
    """Return the factor on the learning rate of each parameter (see `make_optimizer`).

    Raises:
      ValueError: for a name that no layer has; the message lists the layers.
    """
    factors = jax.tree.map(lambda _: 1.0, params)
    for entry in sorted(rates, key=lambda name: (len(name), name)):  # the longest name counts
        hits = _named_by(params, entry, "rates")
        factors = jax.tree.map(lambda before, hit, own=rates[entry]: own if hit else before, factors, hits)
    return factors


def _named_by(params: PyTree, entry: str, option: str) -> PyTree:
    """Return true for each parameter whose layer `entry` names."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = ["/".join(entry.key for entry in path) for path, _ in leaves]
    hits = [is_named(name, (entry,)) for name in names]
    if not any(hits):
        layers = dict.fromkeys(name.rsplit("/", 1)[0].removesuffix("/conv").removesuffix("/norm") for name in names)
        raise ValueError(f"{option} must name layers of {', '.join(layers)}; got {entry!r}")
    return structure.unflatten(hits)


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
    rates: Mapping[str, float] | None = None,
) -> optax.GradientTransformation:
    """Make the optimiser: SGD as Caffe trains SSD, or AdamW.

    Biases (Caffe's `decay_mult: 0`) and BatchNorm have no weight decay.

    Args:
      schedule: learning rate by step.
      kind: "sgd", which adds L2 decay to the gradient; or "adamw", with decoupled decay and the betas 0.9 and 0.999.
      momentum: of "sgd", in [0, 1). AdamW has no such option and does not use it.
      weight_decay: at least 0.
      bias_multiplier: factor on the learning rate of convolution biases (Caffe's `lr_mult: 2`). Used by "sgd" alone:
        AdamW trains all parameters at one rate.
      clip_norm: scale the gradients of the layers that train down to this global norm; 0 for no clipping.
      frozen: layers that do not train: paths of parameters such as "trunk/conv1_1", "trunk" or "trunk/conv[12]_*",
        with the wildcards of a shell; a path includes all below it. Frozen layers are neither updated nor decayed,
        and gather no momentum. Their BatchNorm still normalises by the batch and updates its running statistics.
      thaw_step: the step from which the frozen layers train too, with an optimiser state that starts there; 0 for
        never.
      rates: factors above 0 on the learning rate of layers, which are named as in `frozen`: `{"trunk": 0.1}` trains
        the backbone at a tenth of the rate of the others. Where several names fit a layer, the longest counts.

    Raises:
      ValueError: for a value out of its range. The optimiser's `init` raises it for a layer of `frozen` or `rates`
        that does not exist.
    """
    numbers = {"weight_decay": weight_decay, "bias_multiplier": bias_multiplier, "clip_norm": clip_norm}
    for name, value in numbers.items():
        if not value >= 0:
            raise ValueError(f"optimizer.{name} must be at least 0; got {value}")
    if not 0 <= momentum < 1:
        raise ValueError(f"optimizer.momentum must be at least 0 and less than 1; got {momentum}")
    if kind not in ("sgd", "adamw"):
        raise ValueError(f"optimizer.kind must be sgd or adamw; got {kind!r}")
    if thaw_step < 0 or (thaw_step and not frozen):
        raise ValueError(f"optimizer.thaw_step must be at least 0, and 0 if no layer is frozen; got {thaw_step}")
    rates = rates or {}
    for name, factor in rates.items():
        if not 0 < factor < math.inf:
            raise ValueError(f"optimizer.rates.{name} must be a number above 0; got {factor}")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    # A factor on the updates of a rule is one on its rate: momentum is linear, and AdamW's decay is times the rate.
    by_layer = [scale_by_layer(rates)] if any(factor != 1 for factor in rates.values()) else []

    def rule(schedule: optax.Schedule) -> optax.GradientTransformation:
        if kind == "adamw":
            return optax.adamw(schedule, weight_decay=weight_decay, mask=is_decayed)
        # Caffe multiplies gradients by the learning rate before the momentum, v = m v + lr g, so that a decay of the
        # rate takes effect gradually.
        return optax.chain(
            optax.add_decayed_weights(weight_decay, mask=is_decayed),
            optax.scale_by_learning_rate(schedule),
            optax.masked(optax.scale(bias_multiplier), is_bias),
            optax.trace(decay=momentum),
        )

    if not frozen:
        return optax.chain(*clip, rule(schedule), *by_layer)

    def from_thaw_step(inner: optax.GradientTransformation) -> optax.GradientTransformation:
        """Return zeros before `thaw_step`, then the updates of `inner`."""
        if not thaw_step:
            return optax.set_to_zero()
        return optax.conditionally_mask(inner, lambda step, **_: jnp.asarray(step) >= thaw_step)

    def mask(params: PyTree) -> PyTree:
        return is_frozen(params, frozen)

    def group(params: PyTree) -> PyTree:
        return jax.tree.map(lambda frozen: FROZEN if frozen else TRAINED, mask(params))

    # `conditionally_mask` starts the inner state at `thaw_step`, so that its step counts from there.
    later = rule(lambda step: schedule(step + thaw_step))
    return optax.chain(
        optax.masked(from_thaw_step(optax.identity()), mask),  # clipping must not see frozen layers' gradients
        *clip,
        optax.partition({TRAINED: rule(schedule), FROZEN: from_thaw_step(later)}, group),
        *by_layer,
    )


def scale_by_layer(factors: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply the updates of each layer by its factor (see `rates` of `make_optimizer`)."""

    def scale(updates: PyTree, params: PyTree | None) -> PyTree:
        del params
        return jax.tree.map(jnp.multiply, updates, rate_factors(updates, factors))

    def check(params: PyTree) -> optax.EmptyState:
        rate_factors(params, factors)
        return optax.EmptyState()

    return optax.GradientTransformation(check, optax.stateless(scale).update)
