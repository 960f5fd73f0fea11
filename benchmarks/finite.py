"""Train SSD300 for 1,000 steps in the paper's recipe, and say whether every loss and gradient is finite.

    python benchmarks/finite.py [--start he imagenet large] [--steps 1000] [--clip_norm 10]

No BatchNorm, SGD at 1e-3 with momentum 0.9, weight decay 5e-4, biases at twice the rate, the paper's augmentation,
the whole step under jit. The images are drawn, and every tenth batch has no object. "he" draws the kernels of the
backbone and the extra layers as He et al. do. "imagenet" draws biases too, and makes the last kernels of the backbone
smaller, so that features shrink from hundreds at conv4_3 to ones at fc7, as in VGG16. "large" makes all kernels of
the backbone 1.2 times as large as "he", with larger biases: weights from which this rate must diverge.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from timing import Table, machine

from ssd_jax import box
from ssd_jax.augment import AugmentOptions
from ssd_jax.data import Shapes, train_batches
from ssd_jax.model import SSD
from ssd_jax.training import create_state, make_optimizer, make_schedule, make_train_step

STARTS = ("he", "imagenet", "large")
CLASSES, BATCH = 21, 2
BIASES = {"imagenet": 0.1, "large": 0.5}  # standard deviations
SMALLER = {"conv5_1": 0.5, "conv5_2": 0.5, "conv5_3": 0.5, "fc6": 0.4, "fc7": 0.6}  # factors of "imagenet"


def first_state(start, model, optimizer):
    state = create_state(jax.random.key(0), model, optimizer)
    random = np.random.default_rng(0)

    def changed(path, array):
        if path[-1].key == "bias":
            return jnp.asarray(random.normal(0, BIASES[start], array.shape), array.dtype)
        return array * (SMALLER.get(path[0].key, 1.0) if start == "imagenet" else 1.2)

    if start == "he":
        return state
    return state.replace(
        params=state.params | {"trunk": jax.tree_util.tree_map_with_path(changed, state.params["trunk"])}
    )


def run(start, options):
    """Return losses, gradient norms and positives of all steps [steps, 3], and whether the parameters are finite."""
    spec = box.SSD300_VOC
    model = SSD(CLASSES, spec, width=options.width, kernel_init="he", dtype=options.dtype)
    schedule = make_schedule(learning_rate=1e-3, steps=120_000)
    optimizer = make_optimizer(schedule, clip_norm=options.clip_norm)
    step = make_train_step(model, optimizer, box.make_priors(spec), AugmentOptions())
    step = jax.jit(step, donate_argnums=0)
    state = first_state(start, model, optimizer)
    source = Shapes(10_000, image_size=300, seed=0)
    batches = train_batches(source, batch_size=BATCH, canvas_size=300, max_boxes=8, seed=0)
    seen = []
    for index in range(options.steps):
        batch = next(batches).arrays
        if index % 10 == 9:
            batch["labels"] = np.zeros_like(batch["labels"])
        state, metrics = step(state, batch, jax.random.key(1))
        seen.append([float(metrics[name]) for name in ("loss", "gradient_norm", "positives")])
        if index % options.log == 0:
            print(start, index + 1, seen[-1], flush=True)
    return np.array(seen), all(np.isfinite(array).all() for array in jax.tree.leaves(state.params))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=float, default=1 / 16)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--clip_norm", type=float, default=0.0)
    parser.add_argument("--log", type=int, default=100, help="steps between lines")
    options = parser.parse_args()
    print(machine("flax", "optax"))
    table = Table(
        *("start", "type", "width", "steps", "all finite", "first loss", "mean of the first 100"),
        *("mean of the last 100", "largest gradient norm", "first step that is not finite"),
    )
    for start in options.start:
        seen, finite = run(start, options)
        loss, norm, _ = seen.T
        table.row(
            *(start, options.dtype, options.width, len(seen)),
            f"{np.isfinite(seen).all() and finite}",
            *(f"{loss[0]:.1f}", f"{loss[:100].mean():.1f}", f"{loss[-100:].mean():.2f}", f"{norm.max():.0f}"),
            next((index + 1 for index, row in enumerate(seen) if not np.isfinite(row).all()), "-"),
        )


if __name__ == "__main__":
    main()
