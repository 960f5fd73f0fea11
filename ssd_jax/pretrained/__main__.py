"""Turn a file of published weights into a detector: `python -m ssd_jax.pretrained FILE --workdir=DIR`."""

import argparse
import sys
from pathlib import Path

from ssd_jax.command import command
from ssd_jax.data.classes import NAMES
from ssd_jax.pretrained.convert import PIXELS
from ssd_jax.pretrained.start import write_workdir
from ssd_jax.pretrained.weights import load


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    options = argparse.ArgumentParser("python -m ssd_jax.pretrained", description=__doc__)
    options.add_argument("file", metavar="FILE", help="a .pth, .safetensors or .caffemodel")
    options.add_argument("--workdir", help="where to put the detector; without it, say what the file is")
    options.add_argument("--root", default="", help="folder of the VOC or COCO data to evaluate on")
    options.add_argument("--classes", help="names of the classes, joined by commas, or a file with one a line")
    options.add_argument("--priors", choices=sorted(NAMES), help="the dataset whose priors it was trained with")
    fed = "; ".join(f"{name}: {what}" for name, what in PIXELS.items())
    options.add_argument("--pixels", choices=sorted(PIXELS), help=f"what the network is fed, {fed}")
    options.add_argument("--partial", action="store_true", help="take what fits, and leave the rest at random")
    return options


def run(arguments: list[str]) -> str:
    """Import as the command line says; return what was done, in one line."""
    flags = parser().parse_args(arguments)
    weights = load(flags.file, pixels=flags.pixels, priors=flags.priors, partial=flags.partial)
    said = "; ".join((f"{flags.file} is {weights.title}", *weights.notes))
    if weights.model is None:
        if flags.workdir:
            raise ValueError(
                f"{said}: a backbone detects nothing; train from it with --config.init_from={flags.file}"
            )
        return f"{said}; train from it with --config.init_from={flags.file}"
    objects = weights.model.num_classes - 1
    said += f"; {weights.model.spec.image_size} pixels, {objects} classes, priors of {weights.dataset.upper()}"
    if not flags.workdir:
        return said
    names = class_names(flags.classes) if flags.classes else weights.class_names
    if names is None:
        raise ValueError(f"{said}: their names are not in it, pass --classes=NAME,NAME,...")
    write_workdir(weights, flags.workdir, names, root=flags.root)
    return f"{said}; written to {flags.workdir}"


def class_names(text: str) -> tuple[str, ...]:
    """Read names from a file, one a line, or split them at commas."""
    names = Path(text).read_text().splitlines() if Path(text).is_file() else text.split(",")
    return tuple(name.strip() for name in names if name.strip())


if __name__ == "__main__":
    with command():
        print(run(sys.argv[1:]))
