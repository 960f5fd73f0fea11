"""Compare an exported ONNX model with the detector it was made of, on real images.

    python benchmarks/export_parity.py --images=FOLDER --models ssd300 ssd512 ssd300_resnet50 --workdirs runs/mine

The detectors are those of trained runs, and networks by name. The latter have random weights, the images' own
BatchNorm statistics, and heads scaled so that scores and boxes are spread as those of a trained network are.

A detection agrees if the other program has one of the same class, with its corners within 0.01 pixel of the image and
its score within 1e-4. One that has no such partner is a tie if a score or an overlap lies within 1e-5 of where it
would be dropped: the last of the image's 200 detections, the score threshold, the overlap with a better detection of
its class.

A second table says how far the corners and scores of all priors, before the selection, are from those of the same
program in float64: where both programs are equally far, what differs between them is rounding.
"""

import argparse
import importlib
import tempfile
from pathlib import Path

import jax
import numpy as np
from float64 import in_float64
from timing import Table, machine

from ssd_jax.box import decode, iou, make_priors
from ssd_jax.data import EXTENSIONS, decode_image, warp
from ssd_jax.export import to_onnx
from ssd_jax.inference import Detections, Detector, load_detector
from ssd_jax.inference.selection import PROBABILITIES
from ssd_jax.model import initialise, preprocess
from ssd_jax.model.catalogue import make

PIXELS, SCORES, TIE = 0.01, 1e-4, 1e-5
LOGITS, OFFSETS = 2.5, 1.0  # standard deviations


def spread_variables(model, images):
    """Draw variables whose activations, scores and boxes are spread on `images` uint8 [B, S, S, 3]."""
    variables = jax.device_get(initialise(model, jax.random.key(0)))
    pixels = preprocess(images)
    if "batch_stats" in variables:
        step = jax.jit(lambda v: model.apply(v, pixels, train=True, mutable=["batch_stats"])[1]["batch_stats"])
        zeros = jax.tree.map(np.zeros_like, variables["batch_stats"])
        ones = jax.tree.map(np.ones_like, zeros)
        from_zeros, from_ones = (jax.device_get(step(variables | {"batch_stats": old})) for old in (zeros, ones))
        # A step leaves m * old + (1 - m) * the batch's.
        stats = jax.tree.map(lambda zero, one: zero / (1 - (one - zero)), from_zeros, from_ones)
        variables = variables | {"batch_stats": stats}
    outputs = jax.device_get(jax.jit(model.apply)(variables, pixels))
    counts = np.cumsum([grid**2 * n for grid, n in zip(model.spec.grids, model.spec.per_cell, strict=True)])[:-1]
    for name, output, wanted in zip(("loc", "conf"), outputs, (OFFSETS, LOGITS), strict=True):
        for k, part in enumerate(np.split(output, counts, axis=1)):
            convolution = variables["params"][f"{name}{k}"]["conv"]
            convolution["kernel"] = convolution["kernel"] * (wanted / part.std())
    return variables


def compare(found: Detections, wanted: Detections, score_threshold: float) -> tuple[int, int, int]:
    """Count the detections of both that agree, the ties, and the others."""
    agree = ties = others = 0
    for a, b in ((found, wanted), (wanted, found)):
        for box, score, label in zip(*a, strict=True):
            same = (b.labels == label) & (abs(b.scores - score) <= SCORES)
            if (abs(b.boxes[same] - box).max(axis=1, initial=0) <= PIXELS).any():
                agree += 1
            elif is_tie(a, b, box, score, label, score_threshold):
                ties += 1
            else:
                others += 1
    return agree, ties, others


def is_tie(a, b, box, score, label, score_threshold):
    if score - score_threshold <= TIE or score - a.scores.min() <= TIE:
        return True
    both = [(d.boxes[d.labels == label], d.scores[d.labels == label]) for d in (a, b)]
    overlaps = np.concatenate([iou(box[None], boxes)[0] for boxes, _ in both])
    scores = np.concatenate([scores for _, scores in both])
    return bool((abs(overlaps - 0.45)[scores >= score] <= TIE).any())


def detectors(names, workdirs, images):
    """Yield the name and the detector of each network and of each run."""
    for name in names:
        model = make(name, 21)
        few = np.stack([warp(image, model.spec.image_size) for image in images[:8]])
        yield name, Detector(model, spread_variables(model, few), [str(k) for k in range(20)])
    for workdir in workdirs:
        yield workdir, load_detector(workdir)


def agreement(name, detector, path, images, table):
    """Compare the detections of the exported file with the detector's."""
    wanted = detector(images)
    for batch in (1, 5):
        found = load_detector(path, batch_size=batch)(images)
        pairs = list(zip(found, wanted, strict=True))
        counts = np.sum([compare(a, b, 0.01) for a, b in pairs], axis=0)
        order = sum(
            np.count_nonzero((a.labels[:n] == b.labels[:n]) & (abs(a.boxes[:n] - b.boxes[:n]).max(axis=1) <= PIXELS))
            for a, b in pairs
            for n in [min(len(a.labels), len(b.labels))]
        )
        table.row(name, batch, counts.sum(), counts[0], 2 * order, counts[1], counts[2])


def rounding(name, detector, path, batch, table):
    """Compare all corners and scores with those in float64: the largest and the median difference."""
    model, priors = detector.model, np.asarray(make_priors(detector.model.spec))

    def raw(variables, batch):
        offsets, logits = model.apply(variables, preprocess(batch))
        return jax.vmap(lambda offsets: decode(offsets, priors))(offsets), PROBABILITIES[model.scores](logits)

    exact = in_float64(raw, detector.variables, batch)
    session = importlib.import_module("onnxruntime").InferenceSession(path)
    programs = {
        "JAX": jax.device_get(jax.jit(raw)(detector.variables, batch)),
        "ONNX": session.run(None, {"images": batch}),
    }
    for program, outputs in programs.items():
        corners, scores = (abs(a - b) for a, b in zip(outputs, exact, strict=True))
        corners = corners * model.spec.image_size
        figures = (f"{f(x):.1e}" for x in (corners, scores) for f in (np.max, np.median))
        table.row(name, program, *figures)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", required=True, help="a folder")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--workdirs", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    files = [path for path in sorted(Path(options.images).iterdir()) if path.suffix.lower() in EXTENSIONS]
    images = [decode_image(path.read_bytes()) for path in files[: options.count]]
    print(f"{machine('onnx', 'onnxruntime')}; {len(images)} images\n")
    with tempfile.TemporaryDirectory() as folder:
        whole, raw = Path(folder) / "whole.onnx", Path(folder) / "raw.onnx"
        for name, detector in detectors(options.models, options.workdirs, images):
            to_onnx(detector, whole)
            to_onnx(detector, raw, nms=False)
            columns = ("batch", "detections of both", "agree", "in the same order", "ties", "others")
            agreement(name, detector, whole, images, Table("model", *columns))
            few = np.stack([warp(image, detector.model.spec.image_size) for image in images[:8]])
            print()
            columns = ("corners, pixels: largest", "median", "scores: largest", "median")
            rounding(name, detector, raw, few, Table("model", "program", *columns))
            print(flush=True)


if __name__ == "__main__":
    main()
