"""One step of training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.box import assign
from ssd_jax.loss import multibox_loss
from ssd_jax.model import SSD
from ssd_jax.training.optimizer import is_frozen
from ssd_jax.training.state import TrainState

PyTree = Any
Batch = dict[str, jax.Array]
Sums = tuple[PyTree, jax.Array, jax.Array]  # gradients, localisation loss, confidence loss


def make_train_step(
    model: SSD,
    optimizer: optax.GradientTransformation,
    priors: jax.Array,
    augment_options: AugmentOptions,
    *,
    match_threshold: float = 0.5,
    negative_ratio: float = 3.0,
    accumulate: int = 1,
    ema_decay: float = 0.0,
    skip_nonfinite: bool = False,
    frozen: tuple[str, ...] = (),
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Build `train_step(state, batch, key) -> (state, metrics)`.

    `batch` is a share of what `batching.train_batches` yields, `key` the run's seed. Sums over the images are
    divided by the number of positives of all devices on `axis_name`, so the update does not depend on how a batch
    is spread; nor do the random keys, which are drawn from the step and each image's place in the global batch.

    Args:
      model, optimizer, priors, augment_options: what to train, and how.
      match_threshold: IoU from which a prior is matched (see `box.match`).
      negative_ratio: mined negatives per positive (see `multibox_loss`).
      accumulate: parts into which each device splits its images; it walks them one after the other and adds their
        gradients up, in the memory of one part. The update is that of the whole batch, since all parts are divided
        by all its positives; but BatchNorm normalises each part by the part's own statistics.
      ema_decay: keep `state.ema`, an average of parameters and BatchNorm statistics (see `moving_average`); 0 for
        none.
      skip_nonfinite: leave the state as it was, but for the step, when the loss or the gradient's norm is not
        finite, and count it in `state.skipped` and `metrics["skipped"]`. The learning rate counts the updates made.
      frozen: layers that the optimiser never moves (see `make_optimizer`), whose gradients need no computing: they
        are 0.
      axis_name: the mapped axis of devices.

    Raises:
      ValueError: for an option out of its range; when first called, for a share of images that `accumulate` does
        not divide, and for a state that does not fit `ema_decay`.
    """
    if accumulate < 1:
        raise ValueError(f"accumulate must be at least 1, got {accumulate}")
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must be at least 0 and less than 1, got {ema_decay}")
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

    def loss_share(
        params: PyTree,
        batch_stats: PyTree,
        normaliser: jax.Array,
        images: jax.Array,
        target_offsets: jax.Array,
        target_labels: jax.Array,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, PyTree]]:
        if frozen:
            held = is_frozen(params, frozen)
            params = jax.tree.map(lambda p, held: jax.lax.stop_gradient(p) if held else p, params, held)
        variables = {"params": params, "batch_stats": batch_stats}
        (offsets, logits), updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        loc, conf, _ = jax.vmap(partial(multibox_loss, negative_ratio=negative_ratio))(
            offsets, logits, target_offsets, target_labels
        )
        loc, conf = jnp.sum(loc) / normaliser, jnp.sum(conf) / normaliser
        return loc + conf, (loc, conf, updated.get("batch_stats", {}))

    def sums_of(
        state: TrainState, batch_stats: PyTree, normaliser: jax.Array, part: tuple[jax.Array, ...]
    ) -> tuple[Sums, PyTree]:
        gradients, (loc, conf, batch_stats) = jax.grad(loss_share, has_aux=True)(
            state.params, batch_stats, normaliser, *part
        )
        return (gradients, loc, conf), batch_stats

    def walk_parts(state: TrainState, normaliser: jax.Array, share: tuple[jax.Array, ...]) -> tuple[Sums, PyTree]:
        """Sum gradients and losses over the parts of this device's share, one part after the other."""
        images = len(share[0])
        if images % accumulate:
            raise ValueError(f"accumulate must divide the {images} images of a device, got {accumulate}")
        if accumulate == 1:
            return sums_of(state, state.batch_stats, normaliser, share)

        def add_part(carry: tuple[Sums, PyTree], part: tuple[jax.Array, ...]) -> tuple[tuple[Sums, PyTree], None]:
            sums, batch_stats = carry
            more, batch_stats = sums_of(state, batch_stats, normaliser, part)
            return (jax.tree.map(jnp.add, sums, more), batch_stats), None

        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), share)
        zeros = jax.tree.map(jnp.zeros_like, (state.params, normaliser, normaliser))
        # Inside a loop, XLA's CPU code takes some twenty times longer for the gradients of the kernels.
        unroll = jax.default_backend() == "cpu"
        return jax.lax.scan(add_part, (zeros, state.batch_stats), parts, unroll=unroll)[0]

    def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        if bool(state.ema) != bool(ema_decay):
            raise ValueError(
                f"a state is created with ema=True if ema_decay is above 0 and only then, got ema={bool(state.ema)} "
                f"and ema_decay={ema_decay}"
            )
        share = prepare(jax.random.fold_in(key, state.step), batch)
        positives = total(jnp.sum(share[2] > 0))
        normaliser = jnp.maximum(positives, 1).astype(jnp.float32)
        sums, batch_stats = walk_parts(state, normaliser, share)
        gradients, loc, conf = total(sums)

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
    """Exponential moving average: d * average + (1 - d) * latest, leaf by leaf.

    d is `decay`, but at most (1 + t) / (10 + t) at step t = 0, 1, ...: a long memory does not hold on to the start
    of the run (the warm-up of TensorFlow's `ExponentialMovingAverage(num_updates=t)`).
    """
    t = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + t) / (10 + t))
    return jax.tree.map(lambda a, b: decay * a + (1 - decay) * b, average, latest)
