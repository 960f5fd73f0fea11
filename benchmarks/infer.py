"""Measure images a second from files to boxes, and the milliseconds of each part, of a detector and its exports.

    python benchmarks/infer.py --images=FOLDER --models ssd300 ssdlite320_mobilenet_v3_large --batch 1 8 32

Programs: JAX (the checkpoint's detector), the exported StableHLO, ONNX in onnxruntime, in float32 and 8 bits, and
torchvision's model of that name, where torch and torchvision are installed. They take turns, so that a busy machine
slows all alike; each figure is the best of `--repeat` rounds. Weights are random, with heads scaled so that scores
are spread as those of a trained network are (see export_parity.py); torchvision's heads are scaled alike.
"""

import argparse
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
from export_parity import LOGITS, spread_variables
from timing import Table, best_times, machine

from ssd_jax.data import EXTENSIONS, decode_image, warp
from ssd_jax.export import to_onnx, to_stablehlo
from ssd_jax.inference import Detector, load_detector
from ssd_jax.model import preprocess
from ssd_jax.model.catalogue import make

TORCHVISION = {"ssd300": "ssd300_vgg16", "ssdlite320_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large"}


class Torchvision:
    """A model of torchvision: from files to boxes, and its backbone and heads alone."""

    def __init__(self, name, files, size):
        import torch  # pyright: ignore[reportMissingImports]
        import torchvision  # pyright: ignore[reportMissingImports]

        self.torch, self.tensor = torch, torchvision.transforms.functional.pil_to_tensor
        arguments = {"weights": None, "weights_backbone": None, "num_classes": 21, "score_thresh": 0.01}
        torch.manual_seed(0)
        self.model = getattr(torchvision.models.detection, TORCHVISION[name])(**arguments).eval()
        self.model.nms_thresh, self.model.topk_candidates, self.model.detections_per_img = 0.45, 400, 200
        with torch.inference_mode():
            images = torch.stack([self._image(file, size) for file in files])
            head = self.model.head.classification_head
            spread = head(list(self.model.backbone(images - 0.45).values())).std()
            for block in head.module_list:
                last = [module for module in block.modules() if isinstance(module, torch.nn.Conv2d)][-1]
                last.weight.mul_(LOGITS / spread)

    def _image(self, file, size=None):
        image = self.tensor(PIL.Image.open(file).convert("RGB")).float() / 255
        if size is None:
            return image
        return self.torch.nn.functional.interpolate(image[None], (size, size), mode="bilinear")[0]

    def detect(self, files):
        with self.torch.inference_mode():
            return [found["boxes"].numpy() for found in self.model([self._image(file) for file in files])]

    def network(self, batch):
        pixels = self.torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255 - 0.45
        with self.torch.inference_mode():
            outputs = self.model.head(list(self.model.backbone(pixels).values()))
        return outputs["cls_logits"].numpy()


def in_batches(detect, files, batch):
    return [detect(files[start : start + batch]) for start in range(0, len(files), batch)]


def measure(name, options, files, folder):
    model = make(name, 21)
    size = model.spec.image_size
    images = [decode_image(file.read_bytes()) for file in files]
    few = np.stack([warp(image, size) for image in images[:4]])
    variables = spread_variables(model, few)
    names = [f"class {k}" for k in range(20)]
    detector = Detector(model, variables, names)
    to_stablehlo(detector, folder / "model.stablehlo")
    to_onnx(detector, folder / "model.onnx")
    to_onnx(detector, folder / "int8.onnx", precision="int8", calibration=images[:16])
    to_onnx(detector, folder / "raw.onnx", nms=False)
    raw = importlib.import_module("onnxruntime").InferenceSession(folder / "raw.onnx")
    forward = jax.jit(lambda variables, batch: model.apply(variables, preprocess(batch)))
    torchvision = name in TORCHVISION and importlib.util.find_spec("torchvision")
    theirs = Torchvision(name, files[:4], size) if torchvision else None

    decode = best_times({"decode": lambda: [decode_image(file.read_bytes()) for file in files]}, options.repeat)
    resize = best_times({"resize": lambda: [warp(image, size) for image in images]}, options.repeat)
    print(
        f"\n{name}: decode {1000 * decode['decode'] / len(files):.2f}, "
        f"resize {1000 * resize['resize'] / len(files):.2f} ms an image\n"
    )
    columns = ("batch", "program", "images a second, files to boxes", "/ torchvision's")
    table = Table(*columns, "network, ms an image", "network and selection, ms an image")
    for batch in options.batch:
        few = [files[k % len(files)] for k in range(max(batch, options.least))]
        pixels = np.stack([warp(images[k % len(images)], size) for k in range(batch)])
        detectors = {
            "JAX": Detector(model, variables, names, batch_size=batch),
            "StableHLO": load_detector(folder / "model.stablehlo", batch_size=batch),
            "ONNX": load_detector(folder / "model.onnx", batch_size=batch),
            "ONNX, int8": load_detector(folder / "int8.onnx", batch_size=batch),
        }
        networks: dict[str, Any] = {
            "JAX": lambda pixels=pixels: forward(variables, pixels),
            "ONNX": lambda pixels=pixels: raw.run(None, {"images": pixels}),
        }
        runs: dict[str, Any] = {program: lambda d=d, few=few: d(few) for program, d in detectors.items()}
        wholes = {program: lambda d=d, pixels=pixels: d._run(pixels) for program, d in detectors.items()}
        if theirs:
            runs["torchvision"] = lambda few=few, batch=batch: in_batches(theirs.detect, few, batch)
            networks["torchvision"] = lambda pixels=pixels: theirs.network(pixels)
        seconds = {name: took / len(few) for name, took in best_times(runs, options.repeat).items()}
        network = {name: 1000 * took / batch for name, took in best_times(networks, options.repeat).items()}
        whole = {name: 1000 * took / batch for name, took in best_times(wholes, options.repeat).items()}
        for program, took in seconds.items():
            ratio = f"{seconds['torchvision'] / took:.2f}" if theirs else "-"
            parts = (f"{part[program]:.1f}" if program in part else "-" for part in (network, whole))
            table.row(batch, program, f"{1 / took:.2f}", ratio, *parts)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", required=True, help="a folder")
    parser.add_argument("--models", nargs="+", default=["ssd300"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--count", type=int, default=32, help="files to take")
    parser.add_argument(
        "--least", type=int, default=4, help="images in a measurement, at least; several batches overlap"
    )
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    files = [path for path in sorted(Path(options.images).iterdir()) if path.suffix.lower() in EXTENSIONS]
    print(machine("onnxruntime", "torch", "torchvision"), f"; XLA_FLAGS={os.environ.get('XLA_FLAGS', '')}", sep="")
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            measure(name, options, files[: options.count], Path(folder))


if __name__ == "__main__":
    main()
