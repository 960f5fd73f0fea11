"""Evaluate an exported file by the metrics of its run, and compare it with the checkpoint."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ssd_jax.data import Example
from ssd_jax.data.json_files import brief
from ssd_jax.files import read_json
from ssd_jax.inference import Detections, Detector, load_detector
from ssd_jax.loop.build import NO_OBJECT, open_split
from ssd_jax.loop.evaluate import Evaluator, Results, evaluate_checkpoint
from ssd_jax.loop.progress import shown
from ssd_jax.loop.workdir import load_config, split_name

logger = logging.getLogger("ssd_jax")

NAMES = ("mAP", "mAP_area")


def evaluate_exported(workdir: str | Path, path: str | Path, *, split: str | None = None) -> tuple[Results, Results]:
    """Evaluate a file that `ssd_jax.export` made of a run.

    Args:
      workdir: of the run.
      path: of the file.
      split: as in the config's `data.train`; the default is the config's `data.eval`.

    Returns:
      the results of `Evaluator`, without a loss, of the file and of the checkpoint that it was made of. The latter
      are those that the workdir has, if the checkpoint was evaluated on this split last; otherwise it is evaluated.

    Raises:
      ValueError: for a file, data or a workdir that cannot be used.
      OSError: for a file that cannot be read.
    """
    config, exported = load_config(workdir), load_detector(path)
    split, step = split or str(config.data.eval), exported.step
    detector = load_detector(workdir, step=step)
    if exported.class_names != detector.class_names:
        names = ", ".join(detector.class_names)
        raise ValueError(
            f"{path}: class names must be those of the run, {names}; got {', '.join(exported.class_names)}"
        )
    source = open_split(config.data, split, class_names=detector.class_names)
    results = ExportedEvaluator(detector.model, source, config, split=split)(exported).results
    if np.isnan(results["mAP"]):
        logger.warning(NO_OBJECT, split)
    return {"split": split, "step": step} | results, _of_checkpoint(workdir, split, detector.step)


class ExportedEvaluator(Evaluator):
    """An `Evaluator` whose calls take an exported detector instead of variables, in one process."""

    def _detect_all(
        self, variables: Detector
    ) -> Iterator[tuple[int, Example, np.ndarray, Detections | None, np.ndarray]]:
        examples = (self._source[index] for index in range(len(self._source)))
        results = variables.results(examples, read=lambda _, example: example.decode())
        progress = shown(results, "evaluate", total=len(self._source))
        for index, (example, _, found, size) in enumerate(progress):
            unread = isinstance(found, Exception)
            yield index, example, np.array(size), None if unread else found, np.full(2, np.nan)


def _of_checkpoint(workdir: str | Path, split: str, step: int | None) -> Results:
    path = Path(workdir) / f"eval_{split_name(split)}.json"
    if path.exists():
        results = read_json(path)
        if not isinstance(results, dict) or not {"split", "step", *NAMES} <= results.keys():
            raise ValueError(f"{path}: results must have split, step, {', '.join(NAMES)}; got {brief(results)}")
        if (results["split"], results["step"]) == (split, step):
            return results | {name: np.nan for name in NAMES if results[name] is None}  # JSON has no NaN
    return evaluate_checkpoint(workdir, split=split, step=step).results


def comparison(exported: Results, checkpoint: Results) -> str:
    """Say in one line what the export costs."""
    kinds = dict(zip(NAMES, ("11-point", "area"), strict=True))
    of_file = ", ".join(f"{exported[name]:.4f} ({kind})" for name, kind in kinds.items())
    of_run = ", ".join(f"{checkpoint[name]:.4f}" for name in NAMES)
    change = ", ".join(f"{exported[name] - checkpoint[name]:+.4f}" for name in NAMES)
    where = f"{exported['images']} images of {exported['split']}"
    return f"mAP@0.5 {of_file} on {where}; the checkpoint's {of_run}: {change}"
