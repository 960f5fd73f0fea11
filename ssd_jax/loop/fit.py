"""Train a model: the narrative of a run."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ssd_jax.batching import Source, train_batches
from ssd_jax.box import make_priors
from ssd_jax.checkpoint import Checkpoints
from ssd_jax.loop.build import build_augmentation, build_model, build_optimizer, open_source
from ssd_jax.loop.evaluation import Evaluator
from ssd_jax.loop.interruption import Interruption
from ssd_jax.loop.log import Log
from ssd_jax.loop.workdir import save_config
from ssd_jax.model import describe, from_description
from ssd_jax.parallel import AXIS, over_devices, split
from ssd_jax.pretrained import start_from
from ssd_jax.training import create_state, make_train_step

SHOWN = ("loss", "loss_loc", "loss_conf", "images_per_second")  # in the progress bar


def train(config: ConfigDict, workdir: str | Path) -> bool:
    """Train as `config` says and leave everything in `workdir`; the same call again resumes where it stopped.

    Written there: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`.

    Returns:
      whether the run came to its end. SIGTERM or SIGINT end it after the step in progress, which is saved.

    Raises:
      ValueError: for data or a config that cannot be used, or a workdir that holds another model's checkpoint.
      FloatingPointError: when the loss is no longer finite; the newest checkpoint is from before.
    """
    workdir = Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    devices = jax.local_device_count()
    if config.batch_size % devices:
        raise ValueError(f"batch_size must be a multiple of the {devices} devices, got {config.batch_size}")

    # The data, the model that fits it, and the optimiser.
    source = open_source(config.data, config.data.train)
    eval_source = open_source(config.data, config.data.eval)
    model = build_model(config, 1 + len(source.class_names))
    optimizer, schedule = build_optimizer(config)
    augmentation = build_augmentation(config)
    key, init_key = jax.random.split(jax.random.key(config.seed))
    state = create_state(init_key, model, optimizer)
    description = {"model": describe(model), "class_names": list(source.class_names)}

    with Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints) as checkpoints:
        # Go on from the newest checkpoint, if it is of this model; a new run may start from weights.
        start, origin = checkpoints.latest() or 0, ""
        if start:
            check_same_run(checkpoints.description(start), description, workdir)
            state = checkpoints.restore(start, state)
        elif checkpoints.latest() == 0:
            raise ValueError(
                f"{workdir} holds imported weights: to train from them, pass --config.init_from={workdir} and "
                "another --workdir"
            )
        elif config.init_from:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            variables, origin = start_from(config.init_from, variables, source.class_names, width=model.width)
            state = state.replace(**variables)
        save_config(config, workdir)

        step_on_devices = over_devices(
            make_train_step(model, optimizer, make_priors(model.spec), augmentation, axis_name=AXIS)
        )
        evaluator = Evaluator(model, eval_source, batch_size=config.eval.batch_size)
        batches = train_batches(
            source,
            batch_size=config.batch_size,
            canvas_size=config.data.canvas_size,
            max_boxes=config.data.max_boxes,
            seed=config.seed,
            start_step=start,
        )
        unreadable = Unreadable(source, limit=config.data.max_unreadable)

        with Log(workdir, start_step=start, steps=config.steps) as log, Interruption() as interruption:
            log.line(
                f"{devices} {jax.local_devices()[0].device_kind} device(s), batch {config.batch_size}, "
                f"{sum(map(np.size, jax.tree.leaves(state.params))):,} parameters, {len(source)} training pictures, "
                f"{len(eval_source)} for evaluation, classes {', '.join(source.class_names)}"
                + (f"; resuming at step {start}" if start else "")
                + (f"; starting from {origin}" if origin else "")
            )
            window = Window(source, config.batch_size)
            for step in range(start + 1, config.steps + 1):
                with window.waiting_for_data():
                    batch = next(batches)
                unreadable.count(batch)
                state, metrics = step_on_devices(state, split(batch, devices), key)
                window.add(step, metrics, batch["index"])

                # Saving waits for the log's check: a state that is not finite is never saved.
                save = step % config.save_every == 0 or step == config.steps or interruption.requested
                if save or step % config.log_every == 0:
                    scalars = window.close() | {"learning_rate": float(schedule(step - 1))}
                    log.scalars(step, scalars)
                    log.progress(step, {name: scalars[name] for name in SHOWN})
                if save:
                    checkpoints.save(step, state, description)
                if interruption.requested and step < config.steps:
                    log.line(f"{interruption.requested}: stopped after step {step}, which is saved")
                    return False
                if step % config.eval_every == 0 and step < config.steps:
                    results = evaluator({"params": state.params, "batch_stats": state.batch_stats})
                    log.scalars(step, {"eval/mAP": results["mAP"], "eval/mAP_area": results["mAP_area"]})
                    log.line(f"step {step}: mAP {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area)")
                    window.restart()
    return True


class Unreadable:
    """Counts the pictures that could not be decoded; a few are skipped, more than `limit` end the run."""

    def __init__(self, source: Source, *, limit: int) -> None:
        """Start with none."""
        self._source, self._limit, self._names = source, limit, {}

    def count(self, batch: dict[str, np.ndarray]) -> None:
        """Note the unreadable pictures of a batch; `batching` has named each in the log."""
        for index in batch["index"][~batch["readable"]].tolist():
            if index in self._names:
                continue
            self._names[index] = self._source[index].image_id
            if len(self._names) > self._limit:
                raise ValueError(
                    f"data.max_unreadable allows {self._limit} unreadable pictures, met {len(self._names)}: "
                    + ", ".join(self._names.values())
                )


class Window:
    """The steps since the last line of the log: their metrics, still on the devices, and where the time went."""

    def __init__(self, source: Source, batch_size: int) -> None:
        """Start an empty window."""
        self._source, self._batch_size = source, batch_size
        self._steps: list[tuple[int, dict[str, Any], np.ndarray]] = []
        self.restart()

    def restart(self) -> None:
        """Start the clock again: what was done since was not training."""
        self._waited = 0.0
        self._timed = len(self._steps)
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time the context as waiting for the input pipeline."""
        before = time.perf_counter()
        yield
        self._waited += time.perf_counter() - before

    def add(self, step: int, metrics: dict[str, Any], index: np.ndarray) -> None:
        """Take in a step's metrics and its pictures' places in the source."""
        self._steps.append((step, metrics, index))

    def close(self) -> dict[str, float]:
        """Return the averages and start over; a loss that is not finite raises, naming its step and pictures."""
        fetched = [(step, jax.device_get(metrics), index) for step, metrics, index in self._steps]
        for step, metrics, index in fetched:
            if not np.isfinite([metrics["loss"], metrics["gradient_norm"]]).all():
                names = ", ".join(self._source[i].image_id for i in index.tolist())
                raise FloatingPointError(
                    f"loss and gradient must be finite, got loss_loc {metrics['loss_loc']}, loss_conf "
                    f"{metrics['loss_conf']}, gradient_norm {metrics['gradient_norm']} at step {step}, on {names}; "
                    "lower schedule.learning_rate, lengthen schedule.warmup_steps or set optimizer.clip_norm"
                )
        seconds = time.perf_counter() - self._since
        means = {name: float(np.mean([metrics[name] for _, metrics, _ in fetched])) for name in fetched[0][1]}
        means["images_per_second"] = (len(fetched) - self._timed) * self._batch_size / seconds
        means["data_wait"] = self._waited / seconds
        self._steps = []
        self.restart()
        return means


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


def jsonlike(value: Any) -> Any:
    """Return `value` as it looks after a trip through JSON: tuples become lists."""
    if isinstance(value, dict):
        return {key: jsonlike(item) for key, item in value.items()}
    return [jsonlike(item) for item in value] if isinstance(value, list | tuple) else value
