"""Where a run's numbers and images go beside its own log: TensorBoard, Weights & Biases, MLflow, trackio.

A service's run has the name of the workdir. Its address, project and login are set where the service's own tools look
for them: WANDB_MODE, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, TRACKIO_DIR and so on. A resumed run
goes on in the service's run, whose id is in `writers.json` in the workdir.
"""

import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax.traverse_util import flatten_dict

from ssd_jax.extras import import_extra
from ssd_jax.files import read_json, write_json
from ssd_jax.loop.tensorboard import TensorBoard

logger = logging.getLogger("ssd_jax")

PROJECT = "ssd_jax"  # where the environment names none
IDS = "writers.json"


class Writer(Protocol):
    """Takes what a run records."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers by name after `step` updates; some may not be finite."""
        ...

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Record RGB uint8 images [h, w, 3] by name."""
        ...

    def close(self) -> None:
        """Write what is left, and end."""
        ...


class Origin(NamedTuple):
    """What a writer is told of the run."""

    workdir: Path
    start_step: int
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.workdir.resolve().name

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the config by their flat names, such as "data.train"."""
        return flatten_dict(dict(self.config), sep=".")

    def stored_id(self, writer: str) -> str | None:
        """Return the id of the run in a service, if an earlier start stored it."""
        path = self.workdir / IDS
        return read_json(path).get(writer) if path.is_file() else None

    def store_id(self, writer: str, run_id: str) -> None:
        """Keep the id of the run in a service for the next start."""
        path = self.workdir / IDS
        write_json(path, (read_json(path) if path.is_file() else {}) | {writer: run_id})


class _WandB:
    """Weights & Biases. Without a network: WANDB_MODE=offline, then `wandb sync`."""

    def __init__(self, origin: Origin) -> None:
        """Begin or go on with a run."""
        self._wandb = import_extra("wandb", "wandb")
        run_id = origin.stored_id("wandb") or uuid.uuid4().hex[:8]
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=origin.name,
            dir=str(origin.workdir),
            config=dict(origin.config),
            resume="allow",
            settings=self._wandb.Settings(console="off"),
        )
        origin.store_id("wandb", run_id)
        # Steps as a number of their own: a run that resumes at an earlier step may log steps again.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        pictures = {f"detections/{name}": self._wandb.Image(image) for name, image in images.items()}
        self._run.log({"step": step, **pictures})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow, at MLFLOW_TRACKING_URI; by default a database in the current folder, for `mlflow ui`."""

    def __init__(self, origin: Origin) -> None:
        """Begin or go on with a run."""
        mlflow = import_extra("mlflow", "mlflow")
        self._metric = import_extra("mlflow.entities", "mlflow").Metric
        self._client = mlflow.MlflowClient()
        run_id = origin.stored_id("mlflow")
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
        else:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self._client.get_experiment_by_name(name)
            place = experiment.experiment_id if experiment else self._client.create_experiment(name)
            run_id = self._client.create_run(place, run_name=origin.name).info.run_id
            for field, value in origin.settings.items():
                self._client.log_param(run_id, field, str(value)[:500])  # older servers refuse longer ones
            origin.store_id("mlflow", run_id)
        self._id: str = run_id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = round(1000 * time.time())
        self._client.log_batch(self._id, metrics=[self._metric(k, v, now, step) for k, v in values.items()])

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        for name, image in images.items():
            file = re.sub(r"[^\w.-]+", "_", name)
            self._client.log_image(self._id, image, artifact_file=f"detections/{step:08}/{file}.png")

    def close(self) -> None:
        self._client.set_terminated(self._id)


class _Trackio:
    """trackio: a database on this machine, in TRACKIO_DIR, for `trackio show`."""

    def __init__(self, origin: Origin) -> None:
        """Begin or go on with a run."""
        self._trackio = import_extra("trackio", "trackio")
        name = origin.stored_id("trackio") or f"{origin.name}-{uuid.uuid4().hex[:8]}"
        self._run = self._trackio.init(project=PROJECT, name=name, config=origin.settings, resume="allow")
        origin.store_id("trackio", name)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._run.log({f"detections/{k}": self._trackio.Image(image) for k, image in images.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class _Careful:
    """A writer of a service, whose errors do not end the run: the first one is logged, and nothing more is sent."""

    def __init__(self, name: str, writer: Writer) -> None:
        """Pass on to `writer`, which is called `name` in the config."""
        self._name, self._writer = name, writer
        self._works = True

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._try(lambda: self._writer.scalars(step, values))

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        self._try(lambda: self._writer.images(step, images))

    def close(self) -> None:
        self._try(self._writer.close)

    def _try(self, call: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            call()
        except Exception as error:  # a service's library may raise anything, and the run is worth more than its log
            self._works = False
            reason = (str(error) or type(error).__name__).splitlines()[0]
            logger.warning("log.writers: %s gets nothing more of this run: %s", self._name, reason)


SERVICES: dict[str, tuple[str, Callable[[Origin], Writer]]] = {
    "wandb": ("wandb", _WandB),
    "mlflow": ("mlflow", _MLflow),
    "trackio": ("trackio", _Trackio),
}
"""Name in the config: the module, which is also the extra that installs it, and the writer."""

WRITERS = ("tensorboard", *SERVICES)


def check_writers(names: Sequence[str]) -> None:
    """Refuse what cannot be written.

    Raises:
      ValueError: for a name that is none of `WRITERS`, and for a library that is not installed.
    """
    unknown = [name for name in names if name not in WRITERS]
    if unknown:
        raise ValueError(f"log.writers must be among {', '.join(WRITERS)}; got {unknown[0]!r}")
    for name in names:
        if name in SERVICES:
            import_extra(SERVICES[name][0], name)


def open_writers(names: Sequence[str], origin: Origin) -> list[Writer]:
    """Open the writers that the config names.

    Raises:
      ValueError: in one line, if a service refuses the run.
      OSError: if a file cannot be written.
    """
    writers: list[Writer] = []
    for name in names:
        try:
            writers.append(_open(name, origin))
        except BaseException:
            for writer in writers:
                writer.close()
            raise
    return writers


def _open(name: str, origin: Origin) -> Writer:
    if name == "tensorboard":
        return TensorBoard(origin.workdir / "tensorboard", origin.start_step)
    try:
        return _Careful(name, SERVICES[name][1](origin))
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"log.writers: {name} must be able to begin the run; got {reason}") from error
