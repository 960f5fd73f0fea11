"""One step of training: augmentation, matching, loss, gradients and update."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.loss import OBJECTIVES
from ssd_jax.model import SSD
from ssd_jax.training.optimizer import is_frozen
from ssd_jax.training.state import TrainState

PyTree = Any
Batch = dict[str, jax.Array]


class Targets(NamedTuple):
    """Images as the model takes them, and what it should predict for each prior."""

    images: jax.Array  # [B, S, S, 3]
    offsets: jax.Array  # [B, P, 4]
    labels: jax.Array  # [B, P], 0 for background, -1 where a prior is ignored


class Sums(NamedTuple):
    """Gradients and losses, summed over images and divided by the positives of the whole batch."""

    gradients: PyTree
    loc: jax.Array  # []
    conf: jax.Array  # []


def make_train_step(
    model: SSD,
    optimizer: optax.GradientTransformation,
    priors: jax.Array | np.ndarray,
    augment_options: AugmentOptions,
    *,
    accumulate: int = 1,
    unroll: bool = False,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
    frozen: tuple[str, ...] = (),
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Build `train_step(state, batch, key) -> (state, metrics)`.

    `batch` is one device's share of a batch of `data.train_batches`; `key` is the seed of the run. Sums over the
    images are divided by the number of positives on all devices of `axis_name`, and each image's random key comes
    from the step and the image's place in the global batch. So the update does not depend on the number of devices.

    Args:
      model: what to train; `model.scores` chooses the objective, an entry of `loss.OBJECTIVES`.
      optimizer: made by `make_optimizer`.
      priors: [P, 4], as `box.make_priors(model.spec)`.
      augment_options: how to augment the images.
      accumulate: gradient accumulation steps. Each device computes the gradients of so many microbatches one after
        the other and adds them up, in the memory of one microbatch. The update is that of the whole batch, because
        every microbatch is divided by the positives of the whole batch; but BatchNorm normalises each microbatch by
        its own statistics.
      unroll: unroll the loop over the microbatches. Needed on a CPU, where XLA computes the gradients of kernels
        about twenty times more slowly inside a loop; elsewhere it only takes longer to compile.
      ema_decay: decay of the moving average `state.ema` (see `moving_average`), in [0, 1); 0 for no average.
      skip_nonfinite: make no update when the loss or the gradient's norm is not finite: only `state.step` and
        `state.skipped` change, and the optimiser's own step, which sets the learning rate, does not. The count is in
        `metrics["skipped"]`.
      frozen: layers that the optimiser never updates (see `make_optimizer`). Their gradients are not computed: they
        are 0.
      axis_name: the mapped axis of devices; None for one device.

    Raises:
      ValueError: for an option out of its range. The step raises it when first called, for a batch that `accumulate`
        does not divide and for a state that does not fit `ema_decay`.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1; got {accumulate}")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must be at least 0 and less than 1; got {ema_decay}")
    model = model.clone(axis_name=axis_name)
    objective = OBJECTIVES[model.scores]

    def sum_over_devices(tree: PyTree) -> PyTree:
        return tree if axis_name is None else jax.lax.psum(tree, axis_name)

    def prepare(key: jax.Array, batch: Batch) -> Targets:
        """Augment the images and match their boxes to the priors."""
        keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(batch["position"])
        images, boxes, labels = jax.vmap(
            lambda key, image, size, boxes, labels: augment(
                key, image, size, boxes, labels, image_size=model.spec.image_size, options=augment_options
            )
        )(keys, batch["images"], batch["sizes"], batch["boxes"], batch["labels"])
        return Targets(images, *jax.vmap(lambda b, l: objective.assign(b, l, priors))(boxes, labels))

    def loss_fn(
        params: PyTree, batch_stats: PyTree, normaliser: jax.Array, targets: Targets
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        if frozen:
            mask = is_frozen(params, frozen)
            params = jax.tree.map(lambda p, frozen: jax.lax.stop_gradient(p) if frozen else p, params, mask)
        variables = {"params": params, "batch_stats": batch_stats}
        (offsets, logits), updated = model.apply(variables, targets.images, train=True, mutable=["batch_stats"])
        loc, conf, _ = jax.vmap(objective.loss)(offsets, logits, targets.offsets, targets.labels)
        loc, conf = jnp.sum(loc) / normaliser, jnp.sum(conf) / normaliser
        return loc + conf, (loc, conf, updated.get("batch_stats", {}))

    def gradients_of(
        state: TrainState, batch_stats: PyTree, normaliser: jax.Array, targets: Targets
    ) -> tuple[Sums, PyTree]:
        gradients, (loc, conf, batch_stats) = jax.grad(loss_fn, has_aux=True)(
            state.params, batch_stats, normaliser, targets
        )
        return Sums(gradients, loc, conf), batch_stats

    def accumulate_gradients(state: TrainState, normaliser: jax.Array, targets: Targets) -> tuple[Sums, PyTree]:
        """Add up gradients and losses over the microbatches of this device."""
        images = len(targets.images)
        if images % accumulate:
            raise ValueError(f"accumulate must divide the {images} images of a device; got {accumulate}")
        if accumulate == 1:
            return gradients_of(state, state.batch_stats, normaliser, targets)

        def add_microbatch(carry: tuple[Sums, PyTree], microbatch: Targets) -> tuple[tuple[Sums, PyTree], None]:
            sums, batch_stats = carry
            more, batch_stats = gradients_of(state, batch_stats, normaliser, microbatch)
            return (jax.tree.map(jnp.add, sums, more), batch_stats), None

        microbatches = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), targets)
        zeros = jax.tree.map(jnp.zeros_like, Sums(state.params, normaliser, normaliser))
        return jax.lax.scan(add_microbatch, (zeros, state.batch_stats), microbatches, unroll=unroll)[0]

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        if bool(state.ema) != bool(ema_decay):
            raise ValueError(
                f"state.ema must exist if and only if ema_decay is above 0; got ema={bool(state.ema)} and "
                f"ema_decay={ema_decay}"
            )
        targets = prepare(jax.random.fold_in(key, state.step), batch)
        positives = sum_over_devices(jnp.sum(targets.labels > 0))
        normaliser = jnp.maximum(positives, 1).astype(jnp.float32)
        sums, batch_stats = accumulate_gradients(state, normaliser, targets)
        gradients, loc, conf = sum_over_devices(sums)

        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        after = state.replace(
            params=optax.apply_updates(state.params, updates), batch_stats=batch_stats, opt_state=opt_state
        )
        if ema_decay:
            after = after.replace(ema=moving_average(state.ema, after.variables, decay=ema_decay, step=state.step))
        metrics = {
            "loss": loc + conf,
            "loss_loc": loc,
            "loss_conf": conf,
            "positives": positives,
            "gradient_norm": optax.tree.norm(gradients),
        }
        if skip_nonfinite:
            finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
            after = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, state)
            after = after.replace(skipped=state.skipped + (1 - finite.astype(jnp.int32)))
            metrics["skipped"] = after.skipped
        return after.replace(step=state.step + 1), metrics

    return train_step


def moving_average(average: PyTree, latest: PyTree, *, decay: float, step: jax.Array) -> PyTree:
    """Update an exponential moving average: d * average + (1 - d) * latest, leaf by leaf.

    d is the smaller of `decay` and (1 + t) / (10 + t), so that the average soon forgets the random start of the run.
    TensorFlow's `ExponentialMovingAverage(num_updates=t)` does the same.

    Args:
      average: the average so far.
      latest: the newest values, of the same structure.
      decay: in (0, 1).
      step: [], t = 0, 1, ...
    """
    t = step.astype(jnp.float32)
    d = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, b: d * a + (1 - d) * b, average, latest)
