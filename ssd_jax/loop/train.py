"""Train a model: the narrative of a run."""

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ssd_jax.checkpoint import IMPORTED, Checkpoints, DamagedCheckpoint
from ssd_jax.files import local_folder, only_run
from ssd_jax.loop.build import Run, build
from ssd_jax.loop.evaluate import Evaluator, score
from ssd_jax.loop.log import Log, read_log
from ssd_jax.loop.meter import Meter, Unreadable
from ssd_jax.loop.patience import Patience
from ssd_jax.loop.profile import trace_steps
from ssd_jax.loop.progress import Clock, duration
from ssd_jax.loop.signals import Interruption
from ssd_jax.loop.workdir import changes, jsonlike, save_config
from ssd_jax.loop.writers import check_writers
from ssd_jax.model import describe, from_description
from ssd_jax.parallel import is_first, of_every_process, put_on_devices, topology
from ssd_jax.training import TrainState

SHOWN = ("loss", "loss_loc", "loss_conf", "images_per_second")  # in the progress bar
TRACED = 5  # steps in a profile


class Start(NamedTuple):
    """Where a run begins."""

    step: int  # updates already done
    state: TrainState
    origin: str  # a clause for the first line of the log
    notes: list[str]  # further lines of the log, each about a checkpoint that cannot be read


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> bool:
    """Train as `config` says and write everything into `workdir`; the same call again resumes where it stopped.

    It writes `config.json`, `checkpoints/`, `metrics.jsonl` and what `config.log.writers` names, and with `profile`
    also `profile/`, a trace of a few steps. Each of several processes (see `parallel.join`) calls this with a workdir
    that all of them see; the first one writes.

    Returns:
      whether the run came to its end, which with `config.stop_after` may be before the last step. SIGTERM or SIGINT
      stop it after the step in progress, or with several processes at the next line of the log. That step is then
      saved.

    Raises:
      ValueError: for data or a config that cannot be used, a workdir that holds a checkpoint of another model, or one
        that another run is using.
      FloatingPointError: when the loss is no longer finite; the newest checkpoint is from before.
      OSError: when a file cannot be written, as on a full disk; the checkpoints that are complete stay whole.
    """
    # ------------------------------------------------------------------------------------------- data, model, step
    # Nothing is written before the config proved usable.
    workdir = local_folder(workdir)
    run = build(config)
    config, first, alone = run.config, is_first(), topology().processes == 1
    evaluator = Evaluator(run.model, run.eval_source, config, samples=config.eval.images)

    if first:
        check_writers(config.log.writers)

    def evaluates(step: int) -> bool:
        return due(step, config.eval_every) or (step == config.steps and config.eval_every > 0)

    # Signals are only noted until everything is saved: see the end.
    workdir.mkdir(parents=True, exist_ok=True)
    with (
        only_run(workdir) if first else contextlib.nullcontext(),
        Interruption() as interruption,
        Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as checkpoints,
    ):
        # ---------------------------------------------------------------------------------------- new or resumed?
        start = find_start(run, checkpoints, workdir)
        state = put_on_devices(start.state)
        batches = run.batches(start.step)  # resuming needs the step alone: everything random follows from it
        if first and start.step < config.steps:
            save_config(config, workdir)

        # ------------------------------------------------------------------------------------------- instruments
        meter = Meter(run.source, config.batch_size, max_skipped=config.max_skipped)
        unreadable = Unreadable(run.source, limit=config.data.max_unreadable)
        # The first steps compile, and are not what one wants to see in a profile.
        traced = max(start.step + 1, min(start.step + 1 + TRACED, config.steps + 1 - TRACED))
        log = Log(
            workdir,
            start_step=start.step,
            steps=config.steps,
            enabled=first,
            writers=config.log.writers,
            config=config.to_dict(),
        )
        # The log has the scores of all evaluations up to this step, so that a resumed run counts as a straight one.
        patience = Patience(config.stop_after, logged_scores(workdir, evaluator.score_name) if first else {})
        clock = Clock(config.steps, config.eval_every)
        trace = trace_steps(workdir / "profile", range(traced, traced + TRACED) if profile and first else range(0))

        def evaluate(step: int, state: TrainState) -> bool:
            """Evaluate and log; return False if a signal stopped the evaluation."""
            before = clock.elapsed
            evaluation = evaluator(
                state.ema or state.variables, stops=lambda: alone and interruption.requested is not None
            )
            if evaluation.results:  # of the first process
                log_evaluation(log, step, evaluation.results)
                log.images(step, evaluator.drawings())
                results = evaluation.results
                checkpoints.rate(step, score(results), thresholds=results["thresholds"])
                patience.add(step, score(results))
            clock.evaluated(clock.elapsed - before)
            return evaluation.finished

        def is_over() -> bool:
            """Return whether the first process, which knows the scores, says that the run has stopped to improve."""
            return bool(config.stop_after and of_every_process(patience.is_over).any())

        with log, trace as before_step:
            log.line(f"{run.summary()}; config in {workdir / 'config.json'}{start.origin}")
            for note in start.notes:
                log.line(note)

            # ------------------------------------------------------------------------------------------- training
            step, finished = start.step, True
            lacks = first and (checkpoints.score(step) is None or step not in patience.scores)
            if of_every_process(evaluates(step) and lacks).any():
                finished = evaluate(step, state)  # which a signal stopped last time; `eval` writes no log
            over = is_over()
            while finished and not over and step < config.steps:
                step += 1
                before_step(step, state)
                with meter.waiting_for_data():
                    batch = next(batches)
                unreadable.add(batch.info)
                if step == start.step + 1:
                    log.line("compiling the training step, about a minute")
                state, metrics = run.advance(state, batch)
                meter.add(step, metrics, batch.info)
                if step == start.step + 1:  # the first step compiles: its time is not that of a step
                    jax.block_until_ready(metrics)
                    meter.restart()

                # What is due after this step? All processes must stop at the same step: they agree when they log.
                saves = due(step, config.save_every) or step == config.steps or evaluates(step)
                logs = saves or due(step, config.log_every)
                stops = interruption.requested is not None
                if not alone:
                    stops = logs and bool(of_every_process(stops).any())

                # Log. This raises where the loss is not finite, so that such a state is never saved.
                if logs or stops:
                    checkpoints.check()
                    unreadable.check()
                    scalars = meter.close()
                    updates = step - scalars.get("skipped_steps", 0)
                    scalars["learning_rate"] = float(np.asarray(run.schedule(updates - 1)))
                    log.scalars(step, scalars)
                    pace = scalars.get("images_per_second")
                    log.progress(
                        step,
                        {name: scalars[name] for name in SHOWN if name in scalars},
                        elapsed=clock.elapsed,
                        left=clock.left(step, config.batch_size / pace) if pace else None,
                    )

                # Save, in the background.
                if first and (saves or stops):
                    checkpoints.save(step, state, run.description)

                # Evaluate. A signal stops an evaluation, which the next start then repeats.
                if evaluates(step) and not stops:
                    stops = not evaluate(step, state)
                    over = is_over()
                    meter.restart()

                finished = not stops or (step == config.steps and not evaluates(step))

            # ------------------------------------------------------------------------------------------- the end
            # The last save must be complete before anything says so, and before a second signal can end the process.
            checkpoints.wait()
            if not finished:
                log.line(f"{interruption.requested or 'a signal'}: stopped after step {step}, which is saved")
            elif over and step < config.steps:
                log.line(f"stopped after step {step} of {config.steps}: {patience.reason(evaluator.score_name)}")
            if finished and step > start.step:
                log.line(summary(step - start.step, clock.elapsed, checkpoints, workdir))
            of_every_process(0)  # no process leaves before the first one has written everything
    return finished


def due(step: int, every: int) -> bool:
    """Return whether `step` is a multiple of `every`; never at step 0, nor if `every` is 0."""
    return bool(step and every) and step % every == 0


def logged_scores(workdir: Path, name: str) -> dict[int, float | None]:
    """Return the score of each evaluation in the log, by step; None for one that is not a number."""
    return {row["step"]: row[f"eval/{name}"] for row in read_log(workdir) if f"eval/{name}" in row}


def summary(steps: int, seconds: float, checkpoints: Checkpoints, workdir: Path) -> str:
    """Say in one line what a run that came to its end has done since it was started."""
    best = checkpoints.best()
    rated = "" if best is None else f"; the best evaluation is {checkpoints.score(best):.4f}, at step {best}"
    return f"trained {steps} steps in {duration(seconds)}{rated}; checkpoints in {workdir / 'checkpoints'}"


def log_evaluation(log: Log, step: int, results: dict[str, Any]) -> None:
    """Log the numbers by which a run is followed."""
    values = {name: results[name] for name in ("loss", "mAP", "mAP_area", "F1", "precision", "recall")}
    values |= {"AP": results["mAP_over_iou"], "AP50": results["mAP_area"]}
    if "coco" in results:
        values |= {name: results["coco"][name] for name in ("AP", "AP50")}
    log.scalars(step, {f"eval/{name}": value for name, value in values.items()})
    log.line(
        f"step {step}: mAP {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area), "
        f"loss {results['loss']:.4g} on the evaluation split"
    )


def find_start(run: Run, checkpoints: Checkpoints, workdir: Path) -> Start:
    """Find the state to start from.

    1. The newest checkpoint of the workdir that can be read, if it is of this model and optimizer. Folders of newer
       steps, which are damaged, are renamed so that the run can save these steps again.
    2. Without any checkpoint: the weights of `config.init_from`.
    3. Without these: weights drawn from `config.seed`.

    All processes read the same checkpoint.

    Raises:
      ValueError: if the newest checkpoint is of another model, all are damaged, the workdir holds imported weights,
        or the processes see different checkpoints.
    """
    damage: dict[int, str] = {}
    start = None
    for step in reversed(checkpoints.steps()):
        if step == IMPORTED:
            raise ValueError(
                f"{workdir} holds imported weights: to train from them, pass --config.init_from={workdir} and "
                "another --workdir"
            )
        try:
            start = resumed(run, checkpoints, workdir, step)
            break
        except DamagedCheckpoint as error:
            damage[step] = str(error)
    if damage and start is None:
        raise ValueError(f"{next(iter(damage.values()))}; no other checkpoint is whole: choose another --workdir")
    if len(np.unique(of_every_process(start.step if start else -1))) > 1:
        raise ValueError(f"workdir must be a folder that all processes see; got {workdir} with different checkpoints")

    if start is None:
        start = Start(0, *run.first_state(), notes=[])
    if is_first():
        for step, path in checkpoints.set_aside(keep=range(1, start.step + 1)).items():
            reason = damage.get(step, f"{path.with_name(str(step))}: a checkpoint must be whole; got a part of one")
            start.notes.append(f"{reason}; renamed to {path.name}")
    return start


def resumed(run: Run, checkpoints: Checkpoints, workdir: Path, step: int) -> Start:
    """Restore the checkpoint of `step`, and name what the config changes."""
    with checkpoints.naming(step):
        check_same_model(checkpoints.description(step), run.description)
    state = checkpoints.restore(step, run.shapes)
    if step >= run.config.steps:
        return Start(step, state, f"; nothing to train, since it is at step {step} of {run.config.steps}", notes=[])
    changed = changes(run.config, workdir)
    origin = f"; resuming at step {step}" + (f" with another {', '.join(changed)}" if changed else "")
    return Start(step, state, origin, notes=[])


def check_same_model(saved: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to resume from a checkpoint of another model or other classes, naming the first difference.

    Args:
      saved: the description in the checkpoint. Older versions had fewer options, which have their defaults.
      wanted: the description of the model that the config makes.
    """
    saved = saved | {"model": describe(from_description(saved["model"]))}
    saved, wanted = (jsonlike(d["model"] | {"class_names": d["class_names"]}) for d in (saved, wanted))
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"the checkpoint must be of this config's model, with {name} {wanted.get(name)}; "
                f"got {saved.get(name)}; choose another --workdir"
            )
