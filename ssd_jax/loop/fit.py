"""Train a model: the narrative of a run."""

import time
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
from ssd_jax.loop.log import Log
from ssd_jax.loop.workdir import save_config
from ssd_jax.model import describe
from ssd_jax.parallel import AXIS, over_devices, split
from ssd_jax.training import create_state, make_train_step


def train(config: ConfigDict, workdir: str | Path) -> None:
    """Train as `config` says and leave everything in `workdir`; the same call again resumes where it stopped.

    Written there: `config.json`, `checkpoints/`, `metrics.jsonl`, `tensorboard/`.

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
    key, init_key = jax.random.split(jax.random.key(config.seed))
    state = create_state(init_key, model, optimizer)
    description = {"model": describe(model), "class_names": list(source.class_names)}

    # Go on from the newest checkpoint, if it is of this model.
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.keep_checkpoints)
    start = checkpoints.latest() or 0
    if start:
        check_same_run(checkpoints.description(start), description, workdir)
        state = checkpoints.restore(start, state)
    save_config(config, workdir)

    train_step = over_devices(
        make_train_step(model, optimizer, make_priors(model.spec), build_augmentation(config), axis_name=AXIS)
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

    with Log(workdir, start_step=start, steps=config.steps) as log:
        log.line(
            f"{devices} {jax.local_devices()[0].device_kind} device(s), batch {config.batch_size}, "
            f"{sum(map(np.size, jax.tree.leaves(state.params))):,} parameters, {len(source)} training pictures, "
            f"{len(eval_source)} for evaluation, classes {', '.join(source.class_names)}"
            + (f"; resuming at step {start}" if start else "")
        )
        waiting: list[Any] = []  # metrics of steps not logged yet, still on the devices
        since = time.perf_counter()
        for step, batch in zip(range(start + 1, config.steps + 1), batches, strict=False):
            unreadable.count(batch)
            state, metrics = train_step(state, split(batch, devices), key)
            waiting.append(metrics)

            # Saving waits for the log's check: a state that is not finite is never saved.
            save = step % config.save_every == 0 or step == config.steps
            if save or step % config.log_every == 0:
                seconds = time.perf_counter() - since
                scalars = mean_scalars(waiting, first_step=step - len(waiting) + 1)
                scalars |= {
                    "learning_rate": float(schedule(step - 1)),
                    "images_per_second": len(waiting) * config.batch_size / seconds,
                }
                log.scalars(step, scalars)
                log.progress(step, {k: scalars[k] for k in ("loss", "loss_loc", "loss_conf", "images_per_second")})
                waiting, since = [], time.perf_counter()

            if save:
                checkpoints.save(step, state, description)

            if step % config.eval_every == 0 and step != config.steps:
                results = evaluator({"params": state.params, "batch_stats": state.batch_stats})
                log.scalars(step, {"eval/mAP": results["mAP"], "eval/mAP_area": results["mAP_area"]})
                log.line(f"step {step}: mAP {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area)")
                since = time.perf_counter()
    checkpoints.close()


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


def mean_scalars(metrics: list[dict[str, Any]], *, first_step: int) -> dict[str, float]:
    """Average the metrics of consecutive steps; a loss that is not finite raises, naming its step."""
    metrics = jax.device_get(metrics)
    for step, values in enumerate(metrics, start=first_step):
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss must be finite, got loc {values['loss_loc']}, conf {values['loss_conf']} at step {step}; "
                "lower schedule.learning_rate, or lengthen schedule.warmup_steps"
            )
    return {name: float(np.mean([values[name] for values in metrics])) for name in metrics[0]}


def check_same_run(saved: dict[str, Any], wanted: dict[str, Any], workdir: Path) -> None:
    """Refuse to resume from a checkpoint of another model or other classes, naming the first difference."""
    saved, wanted = (d["model"] | {"class_names": d["class_names"]} for d in (saved, jsonlike(wanted)))
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
