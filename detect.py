"""Detect and draw: python detect.py --workdir=runs/shapes --out=DIR [--score=0.4] [IMAGE_OR_FOLDER ...]."""

from absl import app, flags

from ssd_jax.command import command, parse_flags, parse_step
from ssd_jax.loop.detect import detect_images
from ssd_jax.parallel import require_devices

WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a run.", required=True)
OUT = flags.DEFINE_string("out", None, "Folder for the drawings and detections.json.", required=True)
STEP = flags.DEFINE_string("step", None, "The checkpoint: a number, or best; default: the newest.")
SCORE = flags.DEFINE_float("score", 0.4, "The lowest score of a detection that is kept.", 0.0, 1.0)


def main(argv: list[str]) -> None:
    """Detect in the images named, or in some of the run's evaluation split."""
    with command():
        require_devices()
        count = detect_images(WORKDIR.value, argv[1:], OUT.value, score=SCORE.value, step=parse_step(STEP.value))
        if not count:
            raise ValueError("at least one image must be readable; got none")
        print(f"{count} images with their detections, and detections.json, in {OUT.value}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
