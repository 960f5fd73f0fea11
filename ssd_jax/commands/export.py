"""ssd-jax export: write a run's detector as one file that runs without this package."""

from collections.abc import Sequence
from pathlib import Path

from ssd_jax.command import Parser, command, parse_step

EXAMPLES = (
    "export --workdir=runs/mine --out=mine.stablehlo",
    "export --workdir=runs/mine --step=best --batch_size=1 --out=mine.stablehlo",
)


def main(arguments: Sequence[str]) -> None:
    """Export as the arguments say."""
    parser = Parser("export", "Write a run's detector as one file that runs without this package.", examples=EXAMPLES)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--out", required=True, metavar="FILE", help="the file to write, NAME.stablehlo")
    parser.add_argument("--format", choices=("stablehlo",), help="the default follows from the name of the file")
    parser.add_argument("--step", help="the checkpoint: a number, or best; the default is the newest")
    parser.add_argument("--batch_size", type=int, help="a fixed number of images; the default is any number")
    options = parser.read(arguments)
    with command():
        out, step = Path(options.out), parse_step(options.step)
        wanted = options.format or out.suffix.removeprefix(".")
        if wanted != "stablehlo" or out.suffix != f".{wanted}":
            raise ValueError(f"out must be NAME.stablehlo; got {options.out!r}")

        from ssd_jax.export import to_stablehlo
        from ssd_jax.inference import load_detector

        to_stablehlo(load_detector(options.workdir, step=step), out, batch_size=options.batch_size)
        print(f"written to {out} and {out}.json")
