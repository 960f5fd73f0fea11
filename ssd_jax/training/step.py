"""One step of training. Knows the name of a mapped axis, not the devices behind it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.box import assign
from ssd_jax.loss import multibox_loss
from ssd_jax.model import SSD
from ssd_jax.training.state import TrainState

PyTree = Any
Batch = dict[str, jax.Array]


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
