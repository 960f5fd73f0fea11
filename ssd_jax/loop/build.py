"""Make the objects that a config describes."""

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from ssd_jax import data as data_room
from ssd_jax.augment import AugmentOptions
from ssd_jax.box import make_priors
from ssd_jax.data import Batch, FolderDescription, ReadOptions, Source, UnreadableImage, train_batches
from ssd_jax.data.auto import FOLDER_KINDS
from ssd_jax.loop.fields import complete
from ssd_jax.model import SSD, describe, from_description
from ssd_jax.parallel import AXIS, Device, device_kind, is_cpu, over_devices, shard, topology
from ssd_jax.pretrained import start_from
from ssd_jax.training import TrainState, create_state, make_optimizer, make_schedule, make_train_step

logger = logging.getLogger("ssd_jax")

OPTIONS = tuple(inspect.signature(data_room.open_source).parameters)[2:]  # those that a config's data may set
NO_OBJECT = "no image of %s has an object to find: mAP is not a number"
FOLDERS = {"auto": "folder of labelled images", "voc_folder": "VOC folder", "coco_json": "folder of COCO's layout"}


@dataclasses.dataclass(frozen=True)
class Training:
    """What a config describes but for its data."""

    config: ConfigDict
    model: SSD
    schedule: optax.Schedule
    shapes: TrainState  # shapes and dtypes of the state
    create: Callable[[], TrainState]  # draws the first state
    key: jax.Array  # of everything random in a step
    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]  # (state, split batch, key), over all devices


@dataclasses.dataclass(frozen=True)
class Run(Training):
    """What a config describes, before the first step."""

    source: Source
    eval_source: Source

    @property
    def description(self) -> dict[str, Any]:
        """Return what a checkpoint stores beside the state, so that it can be loaded without the config."""
        return {"model": describe(self.model), "class_names": list(self.source.class_names)}

    def summary(self) -> str:
        """Describe the run in one line: devices, batch, model and data."""
        here = topology()
        parameters = sum(array.size for array in jax.tree.leaves(self.shapes.params))
        return (
            f"{here.devices} device(s) of kind {device_kind()} in {here.processes} process(es), "
            f"batch {self.config.batch_size}, {parameters:,} parameters, "
            f"{len(self.source)} training images, {len(self.eval_source)} for evaluation, "
            f"classes {', '.join(self.source.class_names)}{found_in_folder(self.config.data)}"
        )

    def first_state(self) -> tuple[TrainState, str]:
        """Return the state of a new run, and a clause about the weights that it starts from."""
        state = self.create()
        if not self.config.init_from:
            return state, ""
        variables, origin = start_from(
            self.config.init_from,
            state.variables,
            self.source.class_names,
            width=self.model.width,
            backbone=self.model.backbone,
        )
        return state.starting_from(variables), f"; starting from {origin}"

    def batches(self, start_step: int = 0) -> Iterator[Batch]:
        """Iterate over this process's share of every batch, from `start_step` on."""
        data, here = self.config.data, topology()
        return train_batches(
            self.source,
            batch_size=self.config.batch_size,
            canvas_size=data.canvas_size,
            max_boxes=data.max_boxes,
            train_difficult=data.train_difficult,
            seed=self.config.seed,
            start_step=start_step,
            strict=data.strict,
            cache_gb=data.cache_gb,
            reduced_decoding=data.reduced_decoding,
            threads=data.threads,
            process_index=here.process,
            process_count=here.processes,
        )

    def advance(self, state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make one training step on a batch of `batches`. The state that is passed in must not be used again."""
        return self.step(state, shard(batch.arrays), self.key)


def found_in_folder(data: ConfigDict) -> str:
    """Return a clause about what is in a folder of labelled images; "" for other sources."""
    return f"; data: {describe_data(data).text}" if data.source in FOLDER_KINDS else ""


def describe_data(data: ConfigDict) -> FolderDescription:
    """Do `describe_folder` for the folder of a config's section `data`, as its fields say.

    Args:
      data: `source` is one of `data.auto.FOLDER_KINDS`. Fields that it lacks have the defaults of `describe_folder`.

    Raises:
      ValueError: for data that cannot be used.
      FileNotFoundError: if a file or folder is missing.
    """
    how = {name: data[name] for name in ("strict", "allow_outside") if name in data}
    return data_room.describe_folder(data.root, data.source, **how, options=ReadOptions.among(data.to_dict()))


def build(config: ConfigDict) -> Run:
    """Open the data, and make the model for its classes and the training step.

    Raises:
      ValueError: for data or a config that cannot be used.
      FileNotFoundError: if a file or folder of the data is missing.
    """
    config = complete(config)
    check_batch_size(config, topology().devices)
    update_rule(config)  # a wrong option fails before the data is read
    source = open_split(config.data, config.data.train)
    if not has_object(source, difficult=config.data.train_difficult):
        raise ValueError(
            f"data.train must have an object to train on; got none in the {len(source)} images of {config.data.train}"
        )
    # The classes by name, in the order of the labels in training: the files of two splits may number them otherwise.
    eval_source = open_split(config.data, config.data.eval, class_names=source.class_names)
    if not has_object(eval_source):
        logger.warning(NO_OBJECT, config.data.eval)
    if config.batch_size > len(source):
        logger.warning("batch_size = %d: some of the %d images come twice in a batch", config.batch_size, len(source))
    training = build_training(config, 1 + len(source.class_names))
    return Run(**vars(training), source=source, eval_source=eval_source)


def build_training(config: ConfigDict, num_classes: int, devices: Sequence[Device] | None = None) -> Training:
    """Make the model and the training step.

    Args:
      config: as `fields.complete` returns it.
      num_classes: C, background included.
      devices: where the step will run; by default on all devices.

    Raises:
      ValueError: for a config that cannot be used.
    """
    schedule, optimizer = update_rule(config)
    model = build_model(config, num_classes)
    key, init_key = jax.random.split(jax.random.key(config.seed))
    step = make_train_step(
        model,
        optimizer,
        make_priors(model.spec),
        AugmentOptions(**config.augment.to_dict()),
        accumulate=config.accumulate,
        unroll=is_cpu(devices),
        ema_decay=config.ema_decay,
        skip_nonfinite=config.max_skipped > 0,
        frozen=() if config.optimizer.thaw_step else tuple(config.optimizer.frozen),
        axis_name=AXIS,
    )
    drawn = {"key": init_key, "model": model, "optimizer": optimizer, "ema": config.ema_decay > 0}
    return Training(
        config,
        model,
        schedule,
        shapes=create_state.eval_shape(**drawn),
        create=functools.partial(create_state, **drawn),
        key=key,
        step=over_devices(step, devices),
    )


def update_rule(config: ConfigDict) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Make the schedule of the learning rate and the optimizer."""
    schedule = make_schedule(steps=config.steps, **config.schedule.to_dict())
    return schedule, make_optimizer(schedule, **config.optimizer.to_dict())


def check_batch_size(config: ConfigDict, devices: int) -> None:
    """Refuse a batch that the devices cannot share evenly."""
    if config.batch_size < 1 or config.batch_size % devices:
        raise ValueError(f"batch_size must be a positive multiple of the {devices} devices; got {config.batch_size}")


def open_split(data: ConfigDict, split: str, *, class_names: Sequence[str] = ()) -> Source:
    """Open a split of the dataset that the config's `data` names.

    Args:
      data: the config's section.
      split: as in `data.train`.
      class_names: the classes in the order of their labels; those of the config if there are none.

    Raises:
      ValueError: for data that cannot be used, which includes objects of other classes.
      FileNotFoundError: if a file or folder is missing.
    """
    if data.source in FOLDERS and not data.root:
        raise ValueError(f"data.root must name a {FOLDERS[data.source]}: pass --config.data.root=DIR")
    options = {name: data[name] for name in OPTIONS if name in data}
    if class_names:
        options["class_names"] = class_names
    return data_room.open_source(data.source, split, **options)


def has_object(source: Source, *, difficult: bool = False) -> bool:
    """Tell whether any image has an object; with `difficult`, one marked as difficult will do.

    This reads images up to the first that has one.
    """
    for index in range(len(source)):
        try:
            example = source[index]
        except UnreadableImage:  # the pipeline of batches reports and counts these
            continue
        if np.any(difficult | ~example.difficult):
            return True
    return False


def build_model(config: ConfigDict, num_classes: int) -> SSD:
    """Make the model; `num_classes` counts the background."""
    return from_description(config.model.to_dict() | {"num_classes": num_classes, "spec": config.spec.to_dict()})
