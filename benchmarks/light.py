"""Time SSDLite320 on MobileNetV3-Large against torchvision's: forward, and whole training steps.

    python benchmarks/light.py [--repeats=5] [--models=NAME,NAME]

Needs torch and torchvision. All variants run in turn in one process, so that a busy machine slows all of them. The
training step is the loss of a batch with its matching, gradients, BatchNorm's statistics and an update of SGD;
images are at hand, and there is no augmentation.
"""

import argparse
import sys

import jax
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
from timing import Table, best_times, machine

from ssd_jax.augment import NO_AUGMENTATION
from ssd_jax.box import make_priors
from ssd_jax.model import make
from ssd_jax.training import create_state, make_optimizer, make_schedule, make_train_step

SIDE, CLASSES, BATCHES = 320, 21, (1, 8)
BOXES = np.array([[0.1, 0.1, 0.5, 0.6], [0.4, 0.3, 0.9, 0.8], [0.6, 0.6, 0.8, 0.9]], np.float32)
LABELS = np.array([1, 2, 3], np.int32)


def torchvisions():
    """Return torchvision's network."""
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except RuntimeError:  # its compiled operators do not load: declare those that its Python code mentions
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvisions.library = library
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        import torchvision  # pyright: ignore[reportMissingImports]
    detection = torchvision.models.detection
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=CLASSES)


def torch_calls():
    """Return torchvision's calls by name."""
    network, learner = torchvisions().eval(), torchvisions().train()
    optimizer = torch.optim.SGD(learner.parameters(), lr=1e-3, momentum=0.9, weight_decay=4e-5)
    images = {batch: torch.rand(batch, 3, SIDE, SIDE) for batch in BATCHES}
    targets = {"boxes": torch.from_numpy(BOXES * SIDE), "labels": torch.from_numpy(LABELS.astype(np.int64))}

    def forward(batch):
        with torch.no_grad():
            features = list(network.backbone(images[batch]).values())
            return network.head(features)["cls_logits"].numpy()

    def step():
        losses = learner(list(images[BATCHES[-1]]), [targets] * BATCHES[-1])
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return {f"forward, {batch}": lambda batch=batch: forward(batch) for batch in BATCHES} | {"training": step}


def our_calls(name):
    """Return the calls of a named model."""
    model = make(name, CLASSES, "coco")
    optimizer = make_optimizer(make_schedule(learning_rate=1e-3, steps=1000), weight_decay=4e-5)
    state = create_state(jax.random.key(0), model, optimizer)
    images = {batch: jax.random.normal(jax.random.key(1), (batch, SIDE, SIDE, 3)) for batch in BATCHES}
    programs = {b: jax.jit(model.apply).lower(state.variables, x).compile() for b, x in images.items()}
    size = BATCHES[-1]
    batch = {
        "images": np.random.default_rng(0).integers(0, 256, (size, SIDE, SIDE, 3), dtype=np.uint8),
        "sizes": np.full((size, 2), SIDE, np.int32),
        "boxes": np.stack([BOXES] * size),
        "labels": np.stack([LABELS] * size),
        "position": np.arange(size, dtype=np.int32),
    }
    step = make_train_step(model, optimizer, make_priors(model.spec), NO_AUGMENTATION)
    learn = jax.jit(step).lower(state, batch, jax.random.key(2)).compile()
    calls = {f"forward, {b}": lambda b=b: programs[b](state.variables, images[b]) for b in BATCHES}
    return calls | {"training": lambda: learn(state, batch, jax.random.key(2))}


def main():
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--repeats", type=int, default=5)
    flags.add_argument("--models", default="ssdlite320_mobilenet_v3_large,ssd320_efficientnet_lite0")
    flags = flags.parse_args()
    torch.set_num_threads(len(__import__("os").sched_getaffinity(0)))
    print(machine("jaxlib", "torch", "torchvision"))
    names = flags.models.split(",")
    calls = {("torchvision", what): call for what, call in torch_calls().items()}
    for name in names:
        calls |= {(name, what): call for what, call in our_calls(name).items()}
    times = best_times(calls, flags.repeats)
    table = Table("what, batch", "torchvision, images a second", *(f"{name} / torchvision" for name in names))
    for what, batch in (("forward, 1", 1), (f"forward, {BATCHES[-1]}", BATCHES[-1]), ("training", BATCHES[-1])):
        theirs = times["torchvision", what]
        ratios = (f"{theirs / times[name, what]:.2f}" for name in names)
        table.row(what if batch == 1 or "," in what else f"{what}, {batch}", f"{batch / theirs:.1f}", *ratios)


if __name__ == "__main__":
    main()
