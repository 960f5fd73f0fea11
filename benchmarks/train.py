"""Training steps: images a second, share of what matrix products reach, parts of a step, torchvision's step.

    python benchmarks/train.py [--size 300 512] [--batch 32 64 128] [--dtype bfloat16] [--input] [--markdown FILE]

A step is all that `train.py` runs on one device: augmentation, matching, forward, loss, backward, update.
torchvision's, where torch and torchvision are installed, is that of its ssd300_vgg16 on images that are augmented
already: on a GPU under autocast to the same type, channels last, network compiled; on a CPU eager, channels last.
Both run in turn in one process, and the best of `--repeats` rounds counts. MFU is 6 operations for a multiplication
of the convolutions, over the rate of one large matrix product of the same type in the same run. A batch that does not
fit is reported as such. Defaults are for the GPU, if there is one, else for a few minutes on two cores.
"""

import argparse
import gc
import os
import sys
from pathlib import Path

# Else JAX takes three quarters of a GPU's memory, and PyTorch has too little for the same batch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.55")

import augment as augment_benchmark
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import Table, best_times, machine, seconds

from ssd_jax import box
from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.data import train_batches
from ssd_jax.loss import multibox_loss
from ssd_jax.model import SSD
from ssd_jax.model.summary import summarize
from ssd_jax.training import create_state, make_optimizer, make_schedule, make_train_step

CLASSES, CANVAS, IMAGE, SLOTS = 21, 512, (375, 500), 20
SPECS = {300: box.SSD300_VOC, 512: box.SSD512_VOC}
RATE = 1e-6  # nothing is to be learned here, and nothing to become infinite
PARTS = ("augment", "match", "forward", "loss", "backward", "update")


def ceiling(dtype):
    """Operations a second of a chain of large matrix products."""
    n, count = (8192, 20) if on_gpu() else (2048, 2)
    x, w = jax.random.normal(jax.random.key(0), (2, n, n), jnp.dtype(dtype))
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, x: x @ w / n**0.5, x))
    return 2 * count * n**3 / best_times({"": lambda: chain(x)}, 5)[""]


def on_gpu():
    return jax.devices()[0].platform == "gpu"


class Ours:
    """A model, a batch on the device, and the compiled step."""

    def __init__(self, size, batch_size, dtype, width):
        self.model = SSD(CLASSES, SPECS[size], dtype=dtype, width=width)
        self.priors = jnp.asarray(box.make_priors(SPECS[size]))
        self.optimizer = make_optimizer(make_schedule(learning_rate=RATE, steps=1000))
        self.key = jax.random.key(0)
        self.batch = jax.device_put(batch_of(batch_size))
        step = make_train_step(self.model, self.optimizer, self.priors, AugmentOptions())
        self.state = create_state(self.key, self.model, self.optimizer)
        self.compiled = jax.jit(step, donate_argnums=0).lower(self.state, self.batch, self.key).compile()
        self.gigabytes = self.compiled.memory_analysis().temp_size_in_bytes / 1e9
        self.operations = 6 * batch_size * sum(layer.macs for layer in summarize(self.model))

    def step(self, batch):
        self.state, metrics = self.compiled(self.state, batch, self.key)
        return metrics

    def steps(self, count):
        for _ in range(count):
            metrics = self.step(self.batch)
        return metrics

    def from_files(self, batch_size, count, repeats):
        """Seconds of a step that is fed by the input pipeline."""
        from input import Images, drawn

        batches = train_batches(
            Images(drawn(64)),
            batch_size=batch_size,
            canvas_size=CANVAS,
            max_boxes=SLOTS,
            seed=0,
            threads=os.cpu_count(),
        )

        def run():
            for _ in range(count):
                batch = next(batches)
                metrics = self.step({name: batch[name] for name in self.batch})
            return metrics

        return best_times({"": run}, repeats)[""] / count

    def parts(self, repeats):
        """Seconds of each of `PARTS`, compiled by itself."""
        model, priors = self.model, self.priors
        params = self.state.params

        def augment_all(batch):
            keys = jax.random.split(self.key, len(batch["images"]))
            return jax.vmap(
                lambda key, *x: augment(key, *x, image_size=model.spec.image_size, options=AugmentOptions())
            )(keys, batch["images"], batch["sizes"], batch["boxes"], batch["labels"])

        def match_all(boxes, labels):
            return jax.vmap(lambda b, l: box.assign(b, l, priors))(boxes, labels)

        def forward(params, images):
            return model.apply({"params": params}, images, train=True)

        def loss(outputs, targets):
            loc, conf, positives = jax.vmap(multibox_loss)(*outputs, *targets)
            return jnp.sum(loc + conf) / jnp.sum(positives)

        def update(gradients, state, params):
            updates, state = self.optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        through = jax.jit(jax.grad(lambda params, images, targets: loss(forward(params, images), targets)))
        augment_all, match_all, forward = jax.jit(augment_all), jax.jit(match_all), jax.jit(forward)
        slope, update = jax.jit(jax.grad(loss)), jax.jit(update)
        images, boxes, labels = augment_all(self.batch)
        targets, outputs = match_all(boxes, labels), forward(params, images)
        gradients = through(params, images, targets)
        found = best_times(
            {
                "augment": lambda: augment_all(self.batch),
                "match": lambda: match_all(boxes, labels),
                "forward": lambda: forward(params, images),
                "loss": lambda: slope(outputs, targets),
                "backward": lambda: through(params, images, targets),
                "update": lambda: update(gradients, self.state.opt_state, params),
            },
            repeats,
        )
        return found | {"backward": found["backward"] - found["forward"] - found["loss"]}


def batch_of(size):
    images, sizes, boxes, labels = augment_benchmark.images(size, CANVAS, IMAGE, slots=SLOTS)
    position = np.arange(size, dtype=np.int32)
    return {"images": images, "sizes": sizes, "boxes": boxes, "labels": labels, "position": position}


# torchvision.


def import_torchvision():
    """torchvision, or None; its compiled operators are declared where they do not load, since training needs none."""
    try:
        import torch
    except ImportError:
        return None
    try:
        import torchvision
    except ImportError:
        return None
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("_cuda_version() -> int")
        import_torchvision.library = library  # which forgets its definitions when it is deleted
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision
    return torchvision


class Theirs:
    """torchvision's SSD300, a batch on the device, and how the network runs."""

    def __init__(self, torchvision, batch_size, dtype):
        import torch

        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        self.how = "compiled" if self.device == "cuda" else "eager"
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # TF32, as XLA
        self.autocast = torch.autocast(self.device, torch.bfloat16, enabled=dtype == "bfloat16")
        model = torchvision.models.detection.ssd300_vgg16(weights=None, weights_backbone=None, num_classes=CLASSES)
        self.model = model.to(self.device, memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=5e-4)
        rng = np.random.default_rng(0)
        images = rng.uniform(size=(batch_size, 3, 300, 300)).astype(np.float32)
        self.images = list(torch.from_numpy(images).to(self.device))
        _, _, boxes, labels = augment_benchmark.images(batch_size, 1, (1, 1), slots=SLOTS)
        self.targets = [
            {
                "boxes": torch.from_numpy(300 * b[l > 0]).to(self.device),
                "labels": torch.from_numpy(l[l > 0]).long().to(self.device),
            }
            for b, l in zip(boxes, labels, strict=True)
        ]
        if self.how == "compiled":
            eager = self.model.backbone, self.model.head
            try:
                self.model.backbone, self.model.head = map(torch.compile, eager)
                self.steps(1)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # whatever the compiler stumbles over: the step is still worth measuring
                print(f"torch.compile failed, eager: {error}".splitlines()[0], file=sys.stderr)
                self.how, (self.model.backbone, self.model.head) = "eager", eager

    def steps(self, count):
        for _ in range(count):
            with self.autocast:
                loss = sum(self.model(self.images, self.targets).values())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()


# The grid.


def unless_too_large(make):
    """What `make` returns, or None where the device's memory does not hold it."""
    try:
        return make()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
    gc.collect()
    return None


def release_memory():
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def cell(table, split, size, batch_size, dtype, peak, torchvision, options):
    """Measure one size, batch and type: a row in each table."""
    name = f"SSD{size}", dtype, batch_size
    count = 10 if on_gpu() else 1
    ours = unless_too_large(lambda: Ours(size, batch_size, dtype, options.width))
    fits = ours and unless_too_large(lambda: seconds(lambda: ours.steps(1)))
    if not fits:
        table.row(*name, *["out of memory"], *["-"] * 6)
        return
    theirs = None
    if torchvision and size == 300:
        theirs = unless_too_large(lambda: Theirs(torchvision, batch_size, dtype))
        theirs = theirs if theirs and unless_too_large(lambda: seconds(lambda: theirs.steps(1))) else None
    variants = {"ours": lambda: ours.steps(count)} | ({"theirs": lambda: theirs.steps(count)} if theirs else {})
    took = {name: t / count for name, t in best_times(variants, options.repeats).items()}
    rates = {name: batch_size / t for name, t in took.items()}
    del variants, theirs
    release_memory()
    from_files = options.input and unless_too_large(lambda: ours.from_files(batch_size, count, options.repeats))
    table.row(
        *name,
        f"{rates['ours']:.2f}",
        f"{took['ours'] * 1e3:.1f}",
        f"{ours.operations / took['ours'] / peak:.1%}",
        f"{ours.gigabytes:.1f}",
        f"{rates['theirs']:.2f}" if "theirs" in rates else "-",
        f"{rates['ours'] / rates['theirs']:.2f}" if "theirs" in rates else "-",
        f"{batch_size / from_files:.2f}" if from_files else "-",
    )
    parts = not options.no_parts and unless_too_large(lambda: ours.parts(options.repeats))
    if parts:
        ms = [1e3 * parts[part] for part in PARTS]
        split.append((*name, *[f"{t:.1f}" for t in ms], f"{1e3 * took['ours'] - sum(ms):.1f}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", choices=SPECS, default=[300])
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128] if on_gpu() else [2])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"] if on_gpu() else ["float32"])
    parser.add_argument("--width", type=float, default=1.0, help="of our model; other than 1 is not torchvision's")
    parser.add_argument("--repeats", type=int, default=5 if on_gpu() else 3)
    parser.add_argument("--input", action="store_true", help="measure with the input pipeline too")
    parser.add_argument("--no-torch", action="store_true", help="leave torchvision out")
    parser.add_argument(
        "--no-parts", action="store_true", help="leave out the parts, which take as long to compile again"
    )
    parser.add_argument("--markdown", help="also write the tables to this file")
    options = parser.parse_args()
    torchvision = None if options.no_torch or options.width != 1 else import_torchvision()

    lines = [machine("flax", "optax", *(("torch", "torchvision") if torchvision else ()))]
    peaks = {dtype: ceiling(dtype) for dtype in options.dtype}
    lines += [f"Matrix products in {dtype}: {peak / 1e12:.2f} TFLOP/s" for dtype, peak in peaks.items()]
    print(*lines, "", sep="\n", flush=True)
    table = Table(
        *("model", "type", "batch", "images a second", "ms a step", "MFU", "GB while it runs"),
        *("torchvision, images a second", "ours / torchvision", "images a second from files"),
    )
    split = []
    for size in options.size:
        for dtype in options.dtype:
            for batch_size in options.batch:
                cell(table, split, size, batch_size, dtype, peaks[dtype], torchvision, options)
                release_memory()
    lines += ["", *table.lines]
    if split:
        note = "ms of each part of a step, compiled by itself; backward is what it adds to forward and loss"
        print("", note, "", sep="\n")
        parts = Table("model", "type", "batch", *PARTS, "step less parts")
        for row in split:
            parts.row(*row)
        lines += ["", note, "", *parts.lines]
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
