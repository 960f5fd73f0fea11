"""One step of training: optimiser, state and update. Knows the name of a mapped axis, not the devices behind it."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.box import assign
from ssd_jax.loss import multibox_loss
from ssd_jax.model import SSD

PyTree = Any
Batch = dict[str, jax.Array]


class TrainState(flax.struct.PyTreeNode):
    """All that a run carries from step to step; its shapes are the same on any number of devices."""

    step: jax.Array  # [], int32: updates made so far
    params: PyTree
    batch_stats: PyTree  # empty without BatchNorm
    opt_state: PyTree


def create_state(key: jax.Array, model: SSD, optimizer: optax.GradientTransformation) -> TrainState:
    """Initialise parameters, BatchNorm statistics and optimiser."""
    size = model.spec.image_size
    # Run once: to optimise its many random draws would take longer than everything else before the first step.
    init = jax.jit(model.init, compiler_options={"xla_backend_optimization_level": 0})
    variables = init(key, jnp.zeros((1, size, size, 3)))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )


def make_schedule(
    *,
    learning_rate: float,
    steps: int,
    kind: str = "constant",
    warmup_steps: int = 0,
    boundaries: tuple[int, ...] = (),
    decay: float = 0.1,
) -> optax.Schedule:
    """Learning rate by step: a linear warm-up from 0, then `kind`.

    Args:
      learning_rate: the rate after warm-up.
      steps: updates in the whole run.
      kind: "constant"; "multistep", times `decay` at each of `boundaries` (Caffe's policy); or "cosine", to 0 at
        `steps`.
      warmup_steps: length of the warm-up; 0 for none (the paper).
      boundaries, decay: for "multistep", counted from the start of the run.
    """
    if kind not in ("constant", "multistep", "cosine"):
        raise ValueError(f"schedule kind must be constant, multistep or cosine, got {kind!r}")
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps must be at least 0 and less than steps={steps}, got {warmup_steps}")
    if kind == "multistep" and (not boundaries or list(boundaries) != sorted(set(boundaries))):
        raise ValueError(f"a multistep schedule needs increasing boundaries, got {tuple(boundaries)}")
    if kind == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps)
    elif kind == "multistep":
        after = optax.piecewise_constant_schedule(learning_rate, {b - warmup_steps: decay for b in boundaries})
    else:
        after = optax.constant_schedule(learning_rate)
    if not warmup_steps:
        return after
    # Step 0 already moves: a first rate of exactly zero would waste it.
    warmup = optax.linear_schedule(learning_rate / warmup_steps, learning_rate, warmup_steps - 1)
    return optax.join_schedules([warmup, after], [warmup_steps])


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


def make_train_step(
    model: SSD,
    optimizer: optax.GradientTransformation,
    priors: jax.Array,
    augment_options: AugmentOptions,
    *,
    match_threshold: float = 0.5,
    negative_ratio: float = 3.0,
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Build `train_step(state, batch, key) -> (state, metrics)`.

    `batch` is a share of what `batching.train_batches` yields, `key` the run's seed. Sums over the images are
    divided by the number of positives of all devices on `axis_name`, so the update does not depend on how a batch
    is spread; nor do the random keys, which are drawn from the step and each image's place in the global batch.
    """
    model = model.clone(axis_name=axis_name)

    def total(tree: PyTree) -> PyTree:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def prepare(key: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array, jax.Array]:
        keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["position"])
        images, boxes, labels = jax.vmap(
            lambda key, image, size, boxes, labels: augment(
                key, image, size, boxes, labels, image_size=model.spec.image_size, options=augment_options
            )
        )(keys, batch["images"], batch["sizes"], batch["boxes"], batch["labels"])
        offsets, targets = jax.vmap(lambda b, l: assign(b, l, priors, threshold=match_threshold))(boxes, labels)
        return images, offsets, targets  # [B, S, S, 3], [B, P, 4], [B, P]

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        images, target_offsets, target_labels = prepare(jax.random.fold_in(key, state.step), batch)
        positives = total(jnp.sum(target_labels > 0))
        normaliser = jnp.maximum(positives, 1).astype(jnp.float32)

        def loss_share(params: PyTree) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
            (offsets, logits), updated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            loc, conf, _ = jax.vmap(lambda o, l, to, tl: multibox_loss(o, l, to, tl, negative_ratio=negative_ratio))(
                offsets, logits, target_offsets, target_labels
            )
            loc, conf = jnp.sum(loc) / normaliser, jnp.sum(conf) / normaliser
            return loc + conf, (loc, conf, updated.get("batch_stats", {}))

        gradients, (loc, conf, batch_stats) = jax.grad(loss_share, has_aux=True)(state.params)
        gradients, loc, conf = total((gradients, loc, conf))
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        metrics = {
            "loss": loc + conf,
            "loss_loc": loc,
            "loss_conf": conf,
            "positives": positives,
            "gradient_norm": optax.tree.norm(gradients),
        }
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return state, metrics

    return train_step
