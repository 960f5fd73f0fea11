"""Evaluate a run: python eval.py --workdir=runs/shapes [--split=test]."""

from absl import app, flags

from ssd_jax.command import command, parse_step
from ssd_jax.loop.evaluate import evaluate, table

WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a run.")
SPLIT = flags.DEFINE_string("split", None, "Which split of its data; the config's data.eval unless given.")
STEP = flags.DEFINE_string("step", None, "Which checkpoint: a number, or best; the newest unless given.")
flags.mark_flag_as_required("workdir")


def main(argv: list[str]) -> None:
    """Evaluate as the flags say, and print a table."""
    with command():
        if len(argv) > 1:
            raise ValueError(f"arguments are flags, --NAME=VALUE; got {' '.join(argv[1:])}")
        results = evaluate(WORKDIR.value, split=SPLIT.value, step=parse_step(STEP.value))
    print(table(results))
    print(
        f"\nmAP@0.5 {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area) "
        f"on {results['images']} images of {results['split']}, step {results['step']}; written to {results['path']}"
    )


if __name__ == "__main__":
    app.run(main)
