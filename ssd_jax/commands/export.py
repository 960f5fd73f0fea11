"""ssd-jax export: write a run's detector as one file that runs without this package."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ssd_jax.command import Parser, command, parse_step

EXAMPLES = (
    "export --workdir=runs/mine --out=mine.onnx",
    "export --workdir=runs/mine --step=best --out=mine.onnx --precision=int8",
    "export --workdir=runs/mine --out=mine.stablehlo --batch_size=1",
)
FORMATS = ("onnx", "stablehlo")


def main(arguments: Sequence[str]) -> None:
    """Export as the arguments say."""
    parser = Parser("export", "Write a run's detector as one file that runs without this package.", examples=EXAMPLES)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write: NAME.onnx or NAME.stablehlo")
    parser.add_argument("--format", choices=FORMATS, help="the default follows from the name of the file")
    parser.add_argument("--step", help="the checkpoint: a number, or best; the default is the newest")
    parser.add_argument("--batch_size", type=int, help="a fixed number of images; the default is any number")
    parser.add_argument("--nms", type=_is_true, default=True, help="ONNX: True, or False for raw boxes and scores")
    parser.add_argument("--precision", default="fp32", help="ONNX: fp32, fp16 or int8; %(default)s")
    parser.add_argument(
        "--calibration", type=int, default=100, help="images of the run's data.eval that int8 measures; %(default)s"
    )
    options = parser.read(arguments)
    with command():
        out, step = Path(options.out), parse_step(options.step)
        form = options.format or out.suffix.removeprefix(".")
        if form not in FORMATS or out.suffix != f".{form}":
            names = f"NAME.{options.format}" if options.format else "NAME.onnx or NAME.stablehlo"
            raise ValueError(f"out must be {names}; got {options.out!r}")
        if form == "stablehlo" and (options.precision != "fp32" or not options.nms):
            raise ValueError("format must be onnx for precision and nms; got stablehlo")

        from ssd_jax.export import to_onnx, to_stablehlo
        from ssd_jax.inference import load_detector
        from ssd_jax.loop.detect import held_out, readable

        detector = load_detector(options.workdir, step=step)
        if form == "stablehlo":
            to_stablehlo(detector, out, batch_size=options.batch_size)
            print(f"written to {out} and {out}.json")
            return
        examples = held_out(options.workdir, options.calibration) if options.precision == "int8" else ()
        to_onnx(
            detector,
            out,
            nms=options.nms,
            batch_size=options.batch_size,
            precision=options.precision,
            calibration=readable(examples),
        )
        print(f"written to {out}")


def _is_true(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be True or False; got {text!r}")
    return text.lower() == "true"
