"""Train a model: the narrative of a run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.build import Run, build
from ssd_jax.loop.evaluate import Evaluator, score
from ssd_jax.loop.log import Log, Silent
from ssd_jax.loop.meter import Meter, Unreadable
from ssd_jax.loop.profile import Trace
from ssd_jax.loop.signals import Interruption
from ssd_jax.loop.workdir import changes, jsonlike, save_config
from ssd_jax.model import describe, from_description
from ssd_jax.parallel import is_first, of_every_process, replicate
from ssd_jax.training import TrainState

SHOWN = ("loss", "loss_loc", "loss_conf", "images_per_second")  # in the progress bar


def train(config: ConfigDict, workdir: str | Path, *, profile: bool = False) -> bool:
    """Train as `config` says and leave everything in `workdir`; the same call again resumes where it stopped.

    Written there: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`; with `profile` also `profile/`, a
    trace of a few steps. Of several processes (see `parallel.join`) each calls this, with a workdir that all see; the
    first one writes.

    Returns:
      whether the run came to its end. SIGTERM or SIGINT end it after the step in progress, or with several processes
      at the next line of the log, and what was done is saved.

    Raises:
      ValueError: for data or a config that cannot be used, or a workdir that holds another model's checkpoint.
      FloatingPointError: when the loss is no longer finite; the newest checkpoint is from before.
    """
    run = build(config)
    config = run.config  # complete
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    writes = is_first()
    evaluator = Evaluator(run.model, run.eval_source, config, samples=config.eval.images)
    with Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as checkpoints:
        start, state, origin = current_state(run, checkpoints, workdir)
        state = replicate(state)
        if writes and start < config.steps:
            save_config(config, workdir)
        batches = run.batches(start)
        unreadable = Unreadable(run.source, limit=config.data.max_unreadable)
        log = Log(workdir, start_step=start, steps=config.steps) if writes else Silent()
        count = 5 if profile and writes else 0
        trace = Trace(workdir / "profile", skip=max(0, min(5, config.steps - start - count)), count=count)

        def evaluates(step: int) -> bool:
            return due(step, config.eval_every) or (step == config.steps and config.eval_every > 0)

        def evaluate(step: int) -> bool:
            evaluation = evaluator(
                state.ema or state.variables, stops=lambda: alone and interruption.requested is not None
            )
            results = evaluation.results
            if results:
                told = {name: results[name] for name in ("mAP", "mAP_area")}
                if "coco" in results:
                    told |= {name: results["coco"][name] for name in ("AP", "AP50")}
                log.scalars(step, {f"eval/{name}": value for name, value in told.items()})
                log.images(step, evaluator.drawings())
                log.line(f"step {step}: mAP {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area)")
                checkpoints.rate(step, score(results))
            return evaluation.finished

        finished, alone = True, jax.process_count() == 1
        with log, trace, Interruption() as interruption:
            log.line(f"{run.summary()}; config in {workdir / 'config.json'}{origin}")
            if of_every_process(evaluates(start) and checkpoints.score(start) is None).any():
                finished = evaluate(start)  # an interruption came before its end
            meter = Meter(run.source, config.batch_size, max_skipped=config.max_skipped)
            for step in range(start + 1, config.steps + 1):
                trace.before_step(state)
                with meter.waiting_for_data():
                    batch = next(batches)
                unreadable.add(batch.info)
                state, metrics = run.advance(state, batch)
                meter.add(step, metrics, batch.info)
                if step == start + 1:  # which was compiled: no time of a step
                    jax.block_until_ready(metrics)
                    meter.restart()

                saves = due(step, config.save_every) or step == config.steps or evaluates(step)
                logs = saves or due(step, config.log_every)
                stops = interruption.requested is not None
                if not alone:  # all must stop at the same step, so they ask each other now and then
                    stops = logs and bool(of_every_process(stops).any())

                # Saving waits for the log's checks: a state that is not finite is never saved.
                if logs or stops:
                    unreadable.check()
                    scalars = meter.close()
                    updates = step - scalars.get("skipped_steps", 0)
                    scalars["learning_rate"] = float(run.schedule(updates - 1))
                    log.scalars(step, scalars)
                    log.progress(step, {name: scalars[name] for name in SHOWN if name in scalars})
                if writes and (saves or stops):
                    checkpoints.save(step, state, run.description)
                if evaluates(step) and not stops:
                    stops = not evaluate(step)
                    meter.restart()
                if stops and (step < config.steps or evaluates(step)):
                    log.line(f"{interruption.requested or 'a signal'}: stopped after step {step}, which is saved")
                    finished = False
                    break
    of_every_process(0)  # none leaves before the first one has written everything
    return finished


def due(step: int, every: int) -> bool:
    """Tell whether it is time for what happens every so many steps; never, for `every` 0 or at the start."""
    return bool(step and every) and step % every == 0


def current_state(run: Run, checkpoints: Checkpoints, workdir: Path) -> tuple[int, TrainState, str]:
    """Go on from the newest checkpoint, if it is of this model, or begin.

    Returns:
      the step, the state, and what is to be said of it.
    """
    start = checkpoints.latest()
    if len(np.unique(of_every_process(-1 if start is None else start))) > 1:
        raise ValueError(f"workdir must be a folder that all processes see, got {workdir} with other checkpoints")
    if start:
        check_same_run(checkpoints.description(start), run.description, workdir)
        if start >= run.config.steps:
            origin = f"; nothing to train, since it is at step {start} of {run.config.steps}"
        else:
            changed = changes(run.config, workdir)
            origin = f"; resuming at step {start}" + (f" with another {', '.join(changed)}" if changed else "")
        return start, checkpoints.restore(start, run.shapes), origin
    if start == 0:
        raise ValueError(
            f"{workdir} holds imported weights: to train from them, pass --config.init_from={workdir} and "
            "another --workdir"
        )
    return 0, *run.first_state()


def check_same_run(saved: dict[str, Any], wanted: dict[str, Any], workdir: Path) -> None:
    """Refuse to resume from a checkpoint of another model or other classes, naming the first difference."""
    saved = saved | {"model": describe(from_description(saved["model"]))}  # options it does not know have defaults
    saved, wanted = (jsonlike(d["model"] | {"class_names": d["class_names"]}) for d in (saved, wanted))
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{workdir} holds a checkpoint of another model: {name} is {saved.get(name)} in it, "
                f"{wanted.get(name)} in this config; choose another --workdir"
            )
