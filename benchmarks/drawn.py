"""Train pairs of networks on drawn shapes for several seeds, and print their AP by the size of the objects.

    python benchmarks/drawn.py dssd [--seeds 0 1 2] [--steps=1000] [--drawings=DIR]
    python benchmarks/drawn.py wide

`dssd`: SSD with the extra layers and the heads of SSD321, and the same with DSSD's deconvolution modules, on a narrow
VGG16, in images of 96 pixels of which half of the shapes have less than 23. "DSSD after SSD" is DSSD trained for half
of the steps from an SSD that was trained for the other half, as in the paper. `wide`: images of 180 x 320 pixels
for a network of this input, and squeezed into one of 240 x 240, which has as many pixels; and how fast each detects,
in one process in which both take turns. The networks of a pair see the same images in the same order.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from timing import Table, best_times, machine

from configs import shapes
from ssd_jax.box import PriorSpec, corner_to_xywh, to_pixels
from ssd_jax.data import Shapes
from ssd_jax.files import write_bytes
from ssd_jax.inference import draw, load_detector, make_detect
from ssd_jax.loop.build import build_model
from ssd_jax.loop.train import train
from ssd_jax.metrics import COCOMetric, COCOTruth
from ssd_jax.metrics.coco import COCOAnnotation
from ssd_jax.model import initialise
from ssd_jax.sides import sides_of

HELD_OUT = 300
NUMBERS = ("AP", "AP50", "AP_small", "AP_medium", "AP_large", "AR_small")
RATIOS = ((2.0,), (2.0, 3.0), (2.0, 3.0), (2.0,))
SMALL = PriorSpec(96, (12, 6, 3), (8, 16, 32), (10, 16, 28, 40), RATIOS[:3])
WIDE = PriorSpec((180, 320), ((23, 40), (12, 20), (6, 10), (3, 5)), (8, 16, 32, 64), (18, 36, 64, 100, 140), RATIOS)
SQUARE = dataclasses.replace(WIDE, image_size=240, grids=(30, 15, 8, 4))
RESIDUAL = {"extras": "residual", "heads": "residual"}
IMAGES = {
    "dssd": {"image_size": 96, "sizes": (0.125, 0.42)},
    "wide": {"image_size": (180, 320), "sizes": (0.08, 0.7)},
}
# Of each network its priors, and what differs from the model of configs/shapes.py. One with several models is trained
# as each in turn, for equal parts of the steps.
DSSD = RESIDUAL | {"deconvolution": True}
PAIRS = {
    "dssd": {"SSD": (SMALL, RESIDUAL), "DSSD": (SMALL, DSSD), "DSSD after SSD": (SMALL, RESIDUAL, DSSD)},
    "wide": {"180 x 320": (WIDE, {}), "240 x 240": (SQUARE, {})},
}


def scenes_dssd(split):
    """Open "train:LENGTH" or "test:LENGTH" of `dssd`."""
    return scenes("dssd", split)


def scenes_wide(split):
    """Open the same of `wide`."""
    return scenes("wide", split)


def scenes(pair, split):
    name, _, length = split.partition(":")
    return Shapes(int(length), seed={"train": 0, "test": 1}[name], max_objects=8, **IMAGES[pair])


def config_of(pair, spec, model, seed, steps):
    """Return the config of a run."""
    config = shapes.get_config().unlock()
    config.update(seed=seed, steps=steps, save_every=steps, eval_every=0)
    config.data.update(source=f"drawn:scenes_{pair}", canvas_size=max(sides_of(IMAGES[pair]["image_size"])))
    config.log.writers, config.schedule.warmup_steps = (), steps // 10
    config.spec = ConfigDict(dataclasses.asdict(spec))
    config.model.update(model)
    return config.lock()


def run(configs, source, drawings):
    """Train one config after the other, detect in `source`, and return COCO's numbers and the processor minutes."""
    with tempfile.TemporaryDirectory() as folder:
        started, workdir = time.process_time(), ""
        for number, config in enumerate(configs):
            config.unlock().init_from, workdir = workdir, f"{folder}/{number}"
            train(config.lock(), workdir)
        minutes = (time.process_time() - started) / 60
        detector = load_detector(workdir)
    examples = [source[i] for i in range(len(source))]
    found = detector([example.image for example in examples])
    if drawings:
        import cv2

        for name, detections, example in list(zip("abcd", found, examples, strict=False)):
            image = draw(example.image, detections.above(0.4), source.class_names)
            write_bytes(f"{drawings}_{name}.png", cv2.imencode(".png", image[:, :, ::-1])[1].tobytes())
    return coco_numbers(examples, found, source.class_names), minutes


def coco_numbers(examples, found, class_names):
    """Return COCO's numbers; small objects are below 32 x 32 pixels of the image, large ones above 96 x 96."""
    truth = COCOTruth(images=[], categories=[], annotations=[])
    for i, example in enumerate(examples):
        boxes = corner_to_xywh(np.asarray(to_pixels(example.boxes, example.image.shape[:2])))
        for box, label in zip(boxes.tolist(), example.labels.tolist(), strict=True):
            number, area = len(truth["annotations"]) + 1, box[2] * box[3]
            row = {"id": number, "image_id": i, "category_id": label, "bbox": box, "area": area, "iscrowd": 0}
            truth["annotations"].append(COCOAnnotation(**row))
        truth["images"].append({"id": i})
    truth["categories"].extend({"id": k, "name": name} for k, name in enumerate(class_names, start=1))
    metric = COCOMetric(truth)
    for i, detections in enumerate(found):
        metric.add(i, detections.boxes, detections.scores, detections.labels)
    return metric.compute()


def compare_speeds(pair, repeats=20):
    """Print how many images a second each network of a pair detects in, and the ratio to the first."""
    table = Table("network", *(f"images a second, batch {batch}" for batch in (1, 8)), "of the first, batch 1, 8")
    calls = {}
    for name, (spec, *models) in PAIRS[pair].items():
        model = build_model(config_of(pair, spec, models[-1], 0, 1), 1 + len(Shapes.class_names))
        detect, variables = jax.jit(make_detect(model)), initialise(model, jax.random.key(0))
        for batch in (1, 8):
            images = np.random.default_rng(0).integers(0, 256, (batch, *spec.input_sides, 3), dtype=np.uint8)
            calls[name, batch] = lambda detect=detect, variables=variables, images=images: detect(variables, images)
    took = best_times(calls, repeats)
    first = next(iter(PAIRS[pair]))
    for name in PAIRS[pair]:
        ratios = (f"{took[first, batch] / took[name, batch]:.2f}" for batch in (1, 8))
        table.row(name, *(f"{batch / took[name, batch]:.1f}" for batch in (1, 8)), ", ".join(ratios))


def main():
    """Parse the flags and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pair", choices=PAIRS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--drawings", help="a folder for drawings of the detections in the first images")
    options = parser.parse_args()
    print(f"{machine('flax', 'optax')}\n")
    compare_speeds(options.pair)
    source = scenes(options.pair, f"test:{HELD_OUT}")
    table = Table("network", "seed", *NUMBERS, "processor minutes")
    means = {name: [] for name in PAIRS[options.pair]}
    for seed in options.seeds:
        for name, (spec, *models) in PAIRS[options.pair].items():
            steps = options.steps // len(models)
            configs = [config_of(options.pair, spec, model, seed, steps) for model in models]
            drawings = options.drawings and Path(options.drawings) / f"{name.replace(' ', '')}_{seed}"
            numbers, minutes = run(configs, source, drawings)
            means[name].append([numbers[k] for k in NUMBERS])
            table.row(name, seed, *map(written, means[name][-1]), f"{minutes:.1f}")
    for name, rows in means.items():
        table.row(name, "mean", *map(written, np.mean(rows, axis=0)), "")


def written(number):
    return "-" if np.isnan(number) else f"{number:.3f}"


if __name__ == "__main__":
    main()
