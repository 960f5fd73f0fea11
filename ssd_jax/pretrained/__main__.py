"""Turn a file of published weights into a detector: `python -m ssd_jax.pretrained FILE --workdir=DIR`."""

import argparse
import os
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
    options.add_argument("--workdir", help="folder to write the detector to; without it, only describe the file")
    options.add_argument("--root", default="", help="folder of the VOC or COCO data to evaluate on")
    options.add_argument("--classes", help="names of the classes, separated by commas, or a file with one a line")
    options.add_argument("--priors", choices=sorted(NAMES), help="the dataset whose priors it was trained with")
    fed = "; ".join(f"{name}: {what}" for name, what in PIXELS.items())
    options.add_argument("--pixels", choices=sorted(PIXELS), help=f"what the network is fed, {fed}")
    options.add_argument("--partial", action="store_true", help="take the tensors that fit; the rest stays random")
    return options


def run(arguments: list[str]) -> str:
    """Import a file of weights.

    Args:
      arguments: of the command line.

    Returns:
      one line about the file and what was written.

    Raises:
      ValueError: in one line, if the file or the options do not fit.
    """
    flags = parser().parse_args(arguments)
    weights = load(flags.file, pixels=flags.pixels, priors=flags.priors, partial=flags.partial)
    line = "; ".join((f"{flags.file} is {weights.title}", *weights.notes))
    if weights.model is None or weights.dataset is None:
        if flags.workdir:
            raise ValueError(
                f"{flags.file}: a workdir must have a detector; got {weights.title}: train from it with "
                f"--config.init_from={flags.file}"
            )
        return f"{line}; train from it with --config.init_from={flags.file}"
    n_classes = weights.model.num_classes - 1
    line += f"; {weights.model.spec.image_size} pixels, {n_classes} classes, priors of {weights.dataset.upper()}"
    if not flags.workdir:
        return line
    names = class_names(flags.classes) if flags.classes else weights.class_names
    if names is None:
        raise ValueError(f"{flags.file}: the names of its {n_classes} classes must be given: --classes=NAME,NAME,...")
    write_workdir(weights, flags.workdir, names, root=flags.root)
    return f"{line}; written to {flags.workdir}"


def class_names(text: str) -> tuple[str, ...]:
    """Read names from a file with one on each line, or split them at commas.

    Raises:
      ValueError: in one line that names the file, if it is not UTF-8.
    """
    names = text.split(",")
    if os.path.isfile(text):  # which, unlike Path.is_file, takes a text that is too long for a name
        try:
            names = Path(text).read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"{text}: names of classes must be UTF-8; got {error}") from None
    return tuple(name.strip() for name in names if name.strip())


if __name__ == "__main__":
    with command():
        print(run(sys.argv[1:]))
