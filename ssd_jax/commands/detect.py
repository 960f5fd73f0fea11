"""ssd-jax detect: detect in image files, and draw what is found."""

import argparse
from collections.abc import Sequence
from typing import Literal

from ssd_jax.command import Parser, command, parse_step

EXAMPLES = (
    "detect --workdir=runs/mine --out=drawings photo.jpg folder/",
    "detect --workdir=runs/mine --out=drawings --score=0.2 --step=best",
)


def main(arguments: Sequence[str]) -> None:
    """Detect in the images named, or in some of the run's evaluation split."""
    parser = Parser("detect", "Detect in images with a run, and draw what is found.", examples=EXAMPLES)
    parser.add_argument(
        "images", nargs="*", metavar="IMAGE_OR_FOLDER", help="the default is some of the run's evaluation split"
    )
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the drawings and detections.json")
    parser.add_argument("--step", help="the checkpoint: a number, or best; the default is the newest")
    parser.add_argument(
        "--score",
        type=_score,
        default=0.4,
        metavar="SCORE",
        help="keep detections from this score on; %(default)s; auto: the best one of each class",
    )
    options = parser.read(arguments)
    with command():
        step = parse_step(options.step)

        from ssd_jax.loop.detect import detect_images
        from ssd_jax.parallel import require_devices

        require_devices()
        count = detect_images(options.workdir, options.images, options.out, score=options.score, step=step)
        if not count:
            raise ValueError("at least one image must be readable; got none")
        print(f"{count} images with their detections, and detections.json, in {options.out}")


def _score(text: str) -> float | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, or auto; got {text!r}")
    return value
