"""Train SSD300 for 1,000 steps in the paper's recipe, and say whether every loss and gradient is finite.

    python benchmarks/finite.py [--start he imagenet] [--steps 1000] [--width 0.0625] [--dtype float32]

No BatchNorm, SGD at 1e-3 with momentum 0.9, weight decay 5e-4, biases at twice the rate, the paper's augmentation,
the whole step under jit. The images are drawn, and every tenth batch has no object. "he" draws the kernels of the
backbone and the extra layers as He et al. do; "imagenet" makes those of the backbone 1.2 times as large and draws its
biases, so that its features are as large as those of ImageNet's VGG16, whose input is not scaled either.
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

CLASSES, BATCH, LOG = 21, 2, 100


def first_state(start, model, optimizer):
    state = create_state(jax.random.key(0), model, optimizer)
    if start == "he":
        return state
    random = np.random.default_rng(0)

    def as_imagenet(path, array):
        if path[-1].key == "kernel":
            return 1.2 * array
        return jnp.asarray(random.normal(0, 0.5, array.shape), array.dtype)

    trunk = jax.tree_util.tree_map_with_path(as_imagenet, state.params["trunk"])
    return state.replace(params=state.params | {"trunk": trunk})


def run(start, options):
    """Return losses, gradient norms and positives of all steps [steps, 3], and whether the parameters are finite."""
    spec = box.SSD300_VOC
    model = SSD(CLASSES, spec, width=options.width, kernel_init="he", dtype=options.dtype)
    optimizer = make_optimizer(make_schedule(learning_rate=1e-3, steps=120_000))
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
        if index % LOG == 0:
            print(start, index + 1, seen[-1], flush=True)
    return np.array(seen), all(np.isfinite(array).all() for array in jax.tree.leaves(state.params))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", nargs="+", choices=("he", "imagenet"), default=["he", "imagenet"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--width", type=float, default=1 / 16)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    print(machine("flax", "optax"))
    rows = []
    for start in options.start:
        seen, finite = run(start, options)
        loss, norm, positives = seen.T
        rows.append(
            (
                *(start, options.dtype, options.width, len(seen)),
                f"{np.isfinite(seen).all() and finite}",
                *(f"{loss[0]:.1f}", f"{loss[:100].mean():.1f}", f"{loss[-100:].mean():.2f}", f"{norm.max():.0f}"),
                int((positives == 0).sum()),
            )
        )
    table = Table(
        *("start", "type", "width", "steps", "all finite", "first loss", "mean of the first 100"),
        *("mean of the last 100", "largest gradient norm", "steps without a positive"),
    )
    for row in rows:
        table.row(*row)


if __name__ == "__main__":
    main()
