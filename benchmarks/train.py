"""Time training steps: images per second, model FLOP utilisation (MFU), phases of a step, and torchvision's step.

    python benchmarks/train.py [--model ssd300 ssd512] [--batch 32 64 128] [--dtype bfloat16] [--input]
        [--markdown FILE]

A step is all that `train.py` runs on one device: augmentation, matching, forward, loss, backward, update. With
`--frozen` these parts and their statistics stay as they are. On a CPU the peak memory of the process is printed at
the end; it is that of one network if one is timed.
If torch and torchvision are installed, the step of torchvision's ssd300_vgg16 is timed too, on images that are
augmented already: on a GPU under autocast to the same type, channels last, with a compiled network; on a CPU eager,
channels last. The two take turns in one process, and the fastest of `--repeats` rounds counts. MFU is three times
the operations of the forward pass, as XLA counts them, over the rate of large matrix products of the same type in
the same run. A batch that does not fit into memory is reported as such. The defaults suit a GPU if there is one, else
two cores for a few minutes.
"""

import argparse
import functools
import gc
import math
import os
import resource
import sys
import time
from pathlib import Path

# By default JAX takes three quarters of a GPU's memory, which leaves PyTorch too little for the same batch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.55")

import augment as augment_benchmark
import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import Table, best_times, machine

from ssd_jax import box
from ssd_jax.augment import AugmentOptions, augment
from ssd_jax.data import train_batches
from ssd_jax.loss import OBJECTIVES
from ssd_jax.model import MODELS, make
from ssd_jax.training import create_state, make_optimizer, make_schedule, make_train_step

CLASSES, CANVAS, IMAGE, SLOTS = 21, 512, (375, 500), 20
RATE = 1e-6  # small, so that no weight becomes infinite
PHASES = ("augment", "match", "forward", "loss", "backward", "update")


def peak_rate(dtype):
    """Return the operations per second of a chain of large matrix products."""
    n, count = (8192, 20) if on_gpu() else (2048, 2)
    x, w = jax.random.normal(jax.random.key(0), (2, n, n), jnp.dtype(dtype))
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, count, lambda _, x: x @ w / n**0.5, x))
    return 2 * count * n**3 / best_times({"": lambda: chain(x)}, 5)[""]


def on_gpu():
    return jax.devices()[0].platform == "gpu"


class JaxStep:
    """A model of ssd_jax, a batch on the device, and the compiled step."""

    def __init__(self, name, batch_size, dtype, width, frozen):
        self.model = make(name, CLASSES, dtype=dtype, width=width, freeze_norm=frozen)
        self.priors = jnp.asarray(box.make_priors(self.model.spec))
        self.optimizer = make_optimizer(make_schedule(learning_rate=RATE, steps=1000), frozen=frozen)
        self.key = jax.random.key(0)
        self.batch = jax.device_put(batch_of(batch_size))
        step = make_train_step(self.model, self.optimizer, self.priors, AugmentOptions(), frozen=frozen)
        self.state = create_state(self.key, self.model, self.optimizer)
        self.compiled = jax.jit(step, donate_argnums=0).lower(self.state, self.batch, self.key).compile()
        memory = self.compiled.memory_analysis()
        self.gigabytes = memory.temp_size_in_bytes / 1e9 if memory else math.nan
        images = jax.ShapeDtypeStruct((batch_size, *self.model.spec.input_sides, 3), jnp.float32)
        forward = jax.jit(self.model.apply).lower(self.state.variables, images).cost_analysis()
        # The backward pass has two matrix products for each one of the forward pass.
        self.operations = 3 * forward["flops"] if forward else math.nan

    def step(self, batch):
        self.state, metrics = self.compiled(self.state, batch, self.key)
        return metrics

    def steps(self, count):
        for _ in range(count):
            metrics = self.step(self.batch)
        return metrics

    def from_files(self, batch_size, count, repeats):
        """Return the seconds of a step whose batches come from the input pipeline."""
        from input import Images, drawn

        batches = train_batches(
            Images(drawn(64)),
            batch_size=batch_size,
            canvas_size=CANVAS,
            max_boxes=SLOTS,
            seed=0,
            threads=os.cpu_count() or 1,
        )

        def run():
            for _ in range(count):
                metrics = self.step(next(batches).arrays)
            return metrics

        return best_times({"": run}, repeats)[""] / count

    def phases(self, repeats):
        """Return the seconds of each of `PHASES`, each compiled by itself."""
        model, priors = self.model, self.priors
        params, objective = self.state.params, OBJECTIVES[self.model.scores]

        def augment_all(batch):
            keys = jax.random.split(self.key, len(batch["images"]))
            return jax.vmap(
                lambda key, *x: augment(key, *x, image_size=model.spec.image_size, options=AugmentOptions())
            )(keys, batch["images"], batch["sizes"], batch["boxes"], batch["labels"])

        def match_all(boxes, labels):
            return jax.vmap(lambda b, l: objective.assign(b, l, priors))(boxes, labels)

        def forward(params, images):
            variables = {"params": params, "batch_stats": self.state.batch_stats}
            return model.apply(variables, images, train=True, mutable=["batch_stats"])[0]

        def loss(outputs, targets):
            loc, conf, positives = jax.vmap(objective.loss)(*outputs, *targets)
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
    """Import torchvision, or return None; operators that do not load are declared, because training needs none."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("_cuda_version() -> int")
        import_torchvision.library = library  # definitions are lost when the library object is deleted
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # pyright: ignore[reportMissingImports]
    return torchvision


class TorchvisionStep:
    """torchvision's SSD300, a batch on the device, and whether the network is compiled or eager."""

    def __init__(self, torchvision, batch_size, dtype):
        import torch  # pyright: ignore[reportMissingImports]

        self.torch, self.device = torch, "cuda" if torch.cuda.is_available() else "cpu"
        self.mode = "compiled" if self.device == "cuda" else "eager"
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
        if self.mode == "compiled":
            eager = self.model.backbone, self.model.head
            try:
                self.model.backbone, self.model.head = map(torch.compile, eager)
                self.steps(1)
            except torch.cuda.OutOfMemoryError:
                raise
            except Exception as error:  # a failure of the compiler of any kind: measure the eager step
                print(f"torch.compile failed, eager: {error}".splitlines()[0], file=sys.stderr)
                self.mode, (self.model.backbone, self.model.head) = "eager", eager

    def steps(self, count):
        for _ in range(count):
            with self.autocast:
                losses = self.model(self.images, self.targets)
                loss = losses["bbox_regression"] + losses["classification"]
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        if self.device == "cuda":
            self.torch.cuda.synchronize()


# The grid.


def unless_too_large(make):
    """Return `make()`, or None if it does not fit into the device's memory."""
    try:
        return make()
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
            raise
    gc.collect()
    return None


def first_step(make):
    """Return `make()` after its first step, which compiles it, or None if it does not fit."""

    def run():
        timed = make()
        jax.block_until_ready(timed.steps(1))
        return timed

    return unless_too_large(run)


def processor_seconds(run):
    """Return the seconds that all cores together spend on a call, which depend less on other work than its time."""
    start = time.process_time()
    jax.block_until_ready(run())
    return time.process_time() - start


def release_memory():
    gc.collect()
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()


def cell(table, rows, model, batch_size, dtype, peak, torchvision, options):
    """Measure one model, batch and type, and add a row to each table."""
    name = model, dtype, batch_size
    count = 10 if on_gpu() else 1
    step = first_step(lambda: JaxStep(model, batch_size, dtype, options.width, options.frozen))
    if step is None:
        table.row(*name, *["out of memory"], *["-"] * 7)
        return
    other = None
    if torchvision and model == "ssd300":
        other = first_step(lambda: TorchvisionStep(torchvision, batch_size, dtype))
    variants = {"ssd_jax": functools.partial(step.steps, count)}
    if other:
        variants["torchvision"] = functools.partial(other.steps, count)
    took = {name: t / count for name, t in best_times(variants, options.repeats).items()}
    rates = {name: batch_size / t for name, t in took.items()}
    del variants, other
    release_memory()
    from_files = options.input and unless_too_large(lambda: step.from_files(batch_size, count, options.repeats))
    table.row(
        *name,
        f"{rates['ssd_jax']:.2f}",
        f"{took['ssd_jax'] * 1e3:.1f}",
        "-" if on_gpu() else f"{processor_seconds(lambda: step.steps(count)) / count:.1f}",
        f"{step.operations / took['ssd_jax'] / peak:.1%}",
        f"{step.gigabytes:.1f}",
        f"{rates['torchvision']:.2f}" if "torchvision" in rates else "-",
        f"{rates['ssd_jax'] / rates['torchvision']:.2f}" if "torchvision" in rates else "-",
        f"{batch_size / from_files:.2f}" if from_files else "-",
    )
    phases = not options.no_phases and unless_too_large(lambda: step.phases(options.repeats))
    if phases:
        ms = [1e3 * phases[phase] for phase in PHASES]
        rows.append((*name, *[f"{t:.1f}" for t in ms], f"{1e3 * took['ssd_jax'] - sum(ms):.1f}"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=["ssd300"], metavar="NAME")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 64, 128] if on_gpu() else [2])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"] if on_gpu() else ["float32"])
    parser.add_argument("--width", type=float, default=1.0, help="of our model; torchvision is timed at 1 alone")
    parser.add_argument("--frozen", nargs="+", default=[], help="parts that do not train, such as trunk 'res*'")
    parser.add_argument("--repeats", type=int, default=5 if on_gpu() else 3)
    parser.add_argument("--input", action="store_true", help="measure with the input pipeline too")
    parser.add_argument("--no-torch", action="store_true", help="do not time torchvision")
    parser.add_argument(
        "--no-phases", action="store_true", help="skip the phases, which take as long again to compile"
    )
    parser.add_argument("--markdown", help="also write the tables to this file")
    options = parser.parse_args()
    options.frozen = tuple(options.frozen)
    torchvision = None if options.no_torch or options.frozen or options.width != 1 else import_torchvision()

    lines = [machine("flax", "optax", *(("torch", "torchvision") if torchvision else ()))]
    peaks = {dtype: peak_rate(dtype) for dtype in options.dtype}
    lines += [f"Matrix products in {dtype}: {peak / 1e12:.2f} TFLOP/s" for dtype, peak in peaks.items()]
    print(*lines, "", sep="\n", flush=True)
    table = Table(
        *("model", "type", "batch", "images/s", "ms per step", "processor s", "MFU", "GB while it runs"),
        *("torchvision, images/s", "ssd_jax / torchvision", "images/s from files"),
    )
    rows = []
    for model in options.model:
        for dtype in options.dtype:
            for batch_size in options.batch:
                cell(table, rows, model, batch_size, dtype, peaks[dtype], torchvision, options)
                release_memory()
    lines += ["", *table.lines]
    if rows:
        note = "ms of each phase of a step, compiled by itself; backward is without forward and loss"
        print("", note, "", sep="\n")
        phases = Table("model", "type", "batch", *PHASES, "step less phases")
        for row in rows:
            phases.row(*row)
        lines += ["", note, "", *phases.lines]
    if not on_gpu():
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        lines += ["", f"Peak memory of the process: {peak:.1f} GB"]
        print("", lines[-1], sep="\n")
    if options.markdown:
        Path(options.markdown).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
