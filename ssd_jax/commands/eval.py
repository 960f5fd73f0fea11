"""ssd-jax eval: evaluate a run."""

from collections.abc import Sequence

from ssd_jax.command import Parser, command, parse_step

EXAMPLES = (
    "eval --workdir=runs/mine",
    "eval --workdir=runs/mine --split=test --step=best --report",
    "eval --workdir=runs/mine --exported=mine.onnx",
)


def main(arguments: Sequence[str]) -> None:
    """Evaluate as the arguments say, and print a table."""
    parser = Parser("eval", "Evaluate a run, and write what was found into its workdir.", examples=EXAMPLES)
    parser.add_argument("--workdir", required=True, metavar="DIR", help="of the run")
    parser.add_argument("--split", help="a split of the run's data; the default is its config's data.eval")
    parser.add_argument("--report", action="store_true", help="write an HTML page that shows why the detector errs")
    parser.add_argument("--step", help="the checkpoint: a number, or best; the default is the newest")
    parser.add_argument("--exported", metavar="FILE", help="evaluate this exported file, and compare with the run's")
    options = parser.read(arguments)
    with command():
        step = parse_step(options.step)

        from ssd_jax.loop.evaluate import evaluate_checkpoint, headline, table, write_results
        from ssd_jax.loop.pages import write_run_page
        from ssd_jax.loop.workdir import choose_kernels_of
        from ssd_jax.parallel import require_devices

        choose_kernels_of(options.workdir)
        require_devices()
        if options.exported:
            others = [name for name in ("step", "report") if getattr(options, name)]
            if others:
                raise ValueError(f"exported must be given without step and report; got {' and '.join(others)}")

            from ssd_jax.loop.exported_evaluation import comparison, evaluate_exported

            exported, checkpoint = evaluate_exported(options.workdir, options.exported, split=options.split)
            print(f"{table(exported)}\n\n{comparison(exported, checkpoint)}")
            return
        evaluation = evaluate_checkpoint(options.workdir, split=options.split, step=step)
        results = evaluation.results
        print(table(results))
        print(f"\n{headline(results)}", flush=True)
        print(f"written to {write_results(evaluation, options.workdir)}")  # last: the workdir may be read-only
        if options.report:
            page = write_run_page(
                options.workdir, split=options.split, record=evaluation.record, source=evaluation.source
            )
            print(f"written to {page}")
