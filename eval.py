"""Evaluate a run: python eval.py --workdir=runs/shapes [--split=test] [--report]."""

from absl import app, flags

from ssd_jax.command import command, parse_flags, parse_step, refuse_arguments
from ssd_jax.loop.evaluate import evaluate_checkpoint, table, write_results
from ssd_jax.loop.pages import write_run_page
from ssd_jax.parallel import require_devices

WORKDIR = flags.DEFINE_string("workdir", None, "The workdir of a run.", required=True)
SPLIT = flags.DEFINE_string("split", None, "A split of the run's data; default: the config's data.eval.")
REPORT = flags.DEFINE_bool("report", False, "Write an HTML page that shows why the detector errs.")
STEP = flags.DEFINE_string("step", None, "The checkpoint: a number, or best; default: the newest.")


def main(argv: list[str]) -> None:
    """Evaluate as the flags say, and print a table."""
    with command():
        refuse_arguments(argv)
        require_devices()
        evaluation = evaluate_checkpoint(WORKDIR.value, split=SPLIT.value, step=parse_step(STEP.value))
        results = evaluation.results
        print(table(results))
        print(
            f"\nmAP@0.5 {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area) "
            f"on {results['images']} images of {results['split']}, step {results['step']}",
            flush=True,
        )
        print(f"written to {write_results(evaluation, WORKDIR.value)}")  # last: the workdir may be read-only
        if REPORT.value:
            print(f"written to {write_run_page(WORKDIR.value, split=SPLIT.value, record=evaluation.record)}")


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
