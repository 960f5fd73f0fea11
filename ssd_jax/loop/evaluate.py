"""Evaluate a model on a dataset: VOC's average precision, and COCO's twelve numbers where its format is COCO's."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssd_jax.box import make_priors, to_pixels
from ssd_jax.checkpoint import Checkpoints
from ssd_jax.data import Example, Source, coco_truth, eval_batches
from ssd_jax.data.box_table import some
from ssd_jax.files import write_json
from ssd_jax.inference import Detections, draw, load_detector, select
from ssd_jax.loop.build import NO_OBJECT, open_split
from ssd_jax.loop.meter import refuse_many
from ssd_jax.loop.progress import shown
from ssd_jax.loop.workdir import load_config, split_name
from ssd_jax.loss import OBJECTIVES
from ssd_jax.metrics import COCO_IOU_THRESHOLDS, COCOMetric, COCOTruth, VOCMetric, best_f1, precision_recall_at
from ssd_jax.metrics.coco import NUMBERS
from ssd_jax.model import SSD, preprocess
from ssd_jax.parallel import (
    gather_over_devices,
    is_cpu,
    is_first,
    objects_of_every_process,
    put_on_devices,
    shard,
    topology,
)
from ssd_jax.report.record import Record

logger = logging.getLogger("ssd_jax")

PyTree = Any
Results = dict[str, Any]


class Evaluation(NamedTuple):
    """What an evaluation found, on the first process; elsewhere, and if it was stopped, it is empty."""

    finished: bool  # False if it was stopped
    results: Results
    coco: COCOMetric | None = None  # with all detections, for a COCO dataset
    record: Record | None = None  # ground truth and detections of every image, for reports
    source: Source | None = None  # the dataset, where a checkpoint was evaluated


class Evaluator:
    """Evaluates variables of `model` on `source`, on all devices of all processes; compiles once for all calls.

    The first process computes the metrics. Every image is read once and counts once, for any number of processes.
    """

    def __init__(
        self, model: SSD, source: Source, config: ConfigDict, *, split: str | None = None, samples: int = 0
    ) -> None:
        """Prepare to evaluate as `config.eval` and `config.data` say.

        Args:
          model: of the variables to evaluate.
          source: the dataset.
          config: `eval.batch_size` is rounded up to a multiple of the devices; more than `data.max_unreadable`
            unreadable images, or any with `data.strict`, are a `ValueError`.
          split: the name of the dataset in errors; the default is `data.eval`.
          samples: the number of images, from the first on, that `drawings` shows.
        """
        self._split = split or config.data.eval
        samples = min(samples, len(source)) if is_first() else 0
        self._source, self._data = _Samples(source, samples), config.data
        self._detections: dict[int, Detections] = {}  # of the samples
        self._truth = self._source.truth() if is_first() else None
        self._spec = model.spec
        self._batch_size = -(-config.eval.batch_size // topology().devices) * topology().devices
        self._detect = gather_over_devices(make_detect_and_loss(model))

    @property
    def score_name(self) -> str:
        """The name of `score` in the log of the first process."""
        return "AP" if self._truth else "mAP"

    def __call__(self, variables: PyTree, *, stops: Callable[[], bool] = lambda: False) -> Evaluation:
        """Detect in every image and compare with the ground truth.

        Args:
          variables: of the model, on the devices as `parallel.put_on_devices` puts them.
          stops: asked after every image; the evaluation ends early where it returns True.

        Returns:
          results {"mAP", "mAP_area", "mAP_over_iou", "AP", "AP_area", "loss", "F1", "precision", "recall",
          "thresholds", "images", "unreadable"}, with APs by class name and the names of unreadable images. "loss" is
          the training's, but of whole images: per positive prior. The others are those of `at_best_thresholds`. A
          COCO dataset adds "coco", the numbers of `COCOMetric`.

        Raises:
          ValueError: if too many images are unreadable, or all of them.
        """
        metric = VOCMetric(self._source.class_names, inclusive=self._source.inclusive)
        coco = COCOMetric(self._truth) if self._truth else None
        self._detections = {}
        seen, unreadable = [], []  # (place, name, size) of each image that is read; names
        losses = []  # (sum of the losses, positives) of each image that is read
        for index, example, size, detections, loss in self._detect_all(variables):
            if stops():
                return Evaluation(finished=False, results={})
            if detections is None:
                unreadable.append(example.image_id)
                refuse_many(unreadable, self._data.max_unreadable)
                continue
            if not is_first():
                continue
            seen.append((index, example.image_id, size))
            losses.append(loss)
            if index < self._source.samples:
                self._detections[index] = detections
            corners = np.asarray(to_pixels(example.boxes, size))
            metric.add(index, corners, example.labels, example.difficult, *detections)
            if coco and self._truth:
                truth = self._truth["images"][index]  # its boxes are in pixels of the size in the annotation
                height, width = size
                scale = np.array(
                    [truth.get("width", width) / width, truth.get("height", height) / height] * 2, np.float32
                )
                coco.add(truth["id"], detections.boxes * scale, detections.scores, detections.labels)
        if len(unreadable) == len(self._source):
            raise ValueError(
                f"{self._split}: a split to evaluate on must have an image that can be read; got none of "
                f"{len(unreadable)}: {some(unreadable)}"
            )
        if not is_first():
            return Evaluation(finished=True, results={})
        eleven = metric.compute(interpolation="11point")
        area = metric.compute(interpolation="area", iou_thresholds=COCO_IOU_THRESHOLDS)
        sums, positives = np.transpose(losses)  # [N], [N]
        results = {
            "mAP": eleven["mAP"],
            "mAP_area": area["mAP"],
            "mAP_over_iou": area.get("mAP_over_iou"),
            "AP": eleven["AP"],
            "AP_area": area["AP"],
            "loss": float(np.sum(sums) / max(1, np.sum(positives))),
            **at_best_thresholds(metric),
            "images": len(seen),
            "unreadable": unreadable,
            **({"coco": coco.compute()} if coco else {}),
        }
        places, names, sizes = zip(*seen, strict=True)
        loss = sums / np.maximum(positives, 1)
        record = Record(metric, names, np.array(places), np.array(sizes), self._spec, loss)
        return Evaluation(True, results, coco, record)

    def drawings(self, *, score: float = 0.4) -> dict[str, np.ndarray]:
        """Draw what the last call found in the sample images, by name; RGB uint8."""
        examples = {index: self._source[index] for index in self._detections}
        return {
            examples[index].image_id: draw(
                examples[index].decode(), detections.above(score), self._source.class_names
            )
            for index, detections in self._detections.items()
        }

    def _detect_all(
        self, variables: PyTree
    ) -> Iterator[tuple[int, Example, np.ndarray, Detections | None, np.ndarray]]:
        """Yield every image's index, ground truth, size, detections, None where it cannot be read, and loss."""
        batches = eval_batches(
            self._source,
            batch_size=self._batch_size,
            image_size=self._spec.image_size,
            max_boxes=self._data.max_boxes,
            train_difficult=self._data.train_difficult,
            strict=self._data.strict,
            threads=self._data.threads,
            process_index=topology().process,
            process_count=topology().processes,
        )
        total = -(-len(self._source) // self._batch_size)
        progress = shown(batches, "evaluate", total=total, enabled=is_first())
        started = ((self._detect(variables, shard(batch.arrays)), batch.info) for batch in progress)
        for found, info in prefetch(started):
            boxes, scores, labels, losses = map(np.asarray, found)  # of all processes
            shares = objects_of_every_process(info)
            index, sizes, readable = (
                np.concatenate([share[name] for share in shares]) for name in ("index", "sizes", "readable")
            )
            examples = [example for share in shares for example in share["examples"]]
            for row in np.argsort(index):
                if index[row] < 0:  # padding of the last batch
                    continue
                detections = Detections.from_model(boxes[row], scores[row], labels[row], sizes[row])
                yield int(index[row]), examples[row], sizes[row], detections if readable[row] else None, losses[row]


class _Samples:
    """A source that keeps its first examples once they were read: they are drawn after every evaluation."""

    def __init__(self, source: Source, samples: int) -> None:
        self.samples, self.class_names, self.inclusive = samples, source.class_names, source.inclusive
        self._source = source
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._kept.get(index) or self._source[index]
        if index < self.samples:
            self._kept[index] = example
        return example

    def truth(self) -> COCOTruth | None:
        return coco_truth(self._source)


def make_detect_and_loss(model: SSD) -> Callable[[PyTree, Mapping[str, jax.Array]], tuple[jax.Array, ...]]:
    """Build a function of variables and a batch of `eval_batches` that detects and computes the loss in one pass.

    It returns corners [B, D, 4], scores [B, D] and labels [B, D], as `make_detect`, and [B, 2]: the sum of the losses
    of each image and its positive priors.
    """
    priors, objective = jnp.asarray(make_priors(model.spec)), OBJECTIVES[model.scores]

    def of_image(offsets: jax.Array, logits: jax.Array, boxes: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
        loc, conf, positives = objective.loss(offsets, logits, *objective.assign(boxes, labels, priors))
        return *select(offsets, logits, priors, scores=model.scores), jnp.stack(
            [loc + conf, positives.astype(loc.dtype)]
        )

    def of_batch(variables: PyTree, arrays: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        offsets, logits = model.apply(variables, preprocess(arrays["images"]))
        return jax.vmap(of_image)(jnp.asarray(offsets), jnp.asarray(logits), arrays["boxes"], arrays["labels"])

    def one_by_one(variables: PyTree, arrays: Mapping[str, jax.Array]) -> tuple[jax.Array, ...]:
        found = jax.lax.map(partial(of_batch, variables), jax.tree.map(lambda rows: rows[:, None], arrays))
        return jax.tree.map(lambda rows: rows[:, 0], found)

    return one_by_one if is_cpu() else of_batch  # the maps of one image fit into the caches of a CPU


def at_best_thresholds(metric: VOCMetric) -> Results:
    """Return the best score threshold of each class, and means over the classes of what it gives, at IoU 0.5.

    Returns:
      {"F1", "precision", "recall", "thresholds"}. A threshold is nan for a class of which nothing was found or that
      has no object. The means are over the classes that have one.
    """
    curves = metric.curves()
    best = {name: best_f1(curve) for name, curve in curves.items()}
    points = [(best[name].f1, *precision_recall_at(curve, best[name].score)) for name, curve in curves.items()]
    means = np.mean(points, axis=0).tolist() if points else [np.nan] * 3
    thresholds = {name: best[name].score if name in best else np.nan for name in metric.class_names}
    return dict(zip(("F1", "precision", "recall"), means, strict=True)) | {"thresholds": thresholds}


def prefetch(items: Iterable[Any]) -> Iterator[Any]:
    """Prefetch one item, so that the devices compute the next batch while the host processes this one."""
    items = iter(items)
    for last in items:
        for item in items:
            yield last
            last = item
        yield last


def score(results: Results) -> float:
    """Return the number by which a run chooses its best checkpoint: COCO's AP if there is one, else VOC's mAP."""
    return results["coco"]["AP"] if "coco" in results else results["mAP"]


def evaluate(workdir: str | Path, *, split: str | None = None, step: int | str | None = None) -> Results:
    """Evaluate a checkpoint of a run on a split of its data, and write the results into the workdir.

    Args:
      workdir: where `train` wrote.
      split: as in the config's `data.train`; the default is the config's `data.eval`.
      step: a checkpoint's number, or "best"; the default is the newest.

    Returns:
      the results of `Evaluator`, and "split", "step" and "path".

    Raises:
      ValueError: for data or a workdir that cannot be used.
      OSError: if the results cannot be written.
    """
    evaluation = evaluate_checkpoint(workdir, split=split, step=step)
    return evaluation.results | {"path": str(write_results(evaluation, workdir))}


def evaluate_checkpoint(
    workdir: str | Path, *, split: str | None = None, step: int | str | None = None
) -> Evaluation:
    """Do what `evaluate` does, but write nothing."""
    config = load_config(workdir)
    split = split or str(config.data.eval)
    detector = load_detector(workdir, step=step)
    source = open_split(config.data, split, class_names=detector.class_names)
    evaluation = Evaluator(detector.model, source, config, split=split)(put_on_devices(detector.variables))
    if np.isnan(evaluation.results["mAP"]):
        logger.warning(NO_OBJECT, split)
    return evaluation._replace(results={"split": split, "step": detector.step} | evaluation.results, source=source)


def write_results(evaluation: Evaluation, workdir: str | Path) -> Path:
    """Write `eval_SPLIT.json`, `eval_SPLIT.npz` for reports, and for a COCO dataset `coco_results_SPLIT.json`.

    The score and the best thresholds are stored with the checkpoint too, if the split is the config's `data.eval`.

    Returns:
      the path of the first.
    """
    name = split_name(evaluation.results["split"])
    path = Path(workdir) / f"eval_{name}.json"
    write_json(path, evaluation.results)
    if evaluation.record:
        evaluation.record.save(path.with_suffix(".npz"))
    if evaluation.coco:
        evaluation.coco.write(Path(workdir) / f"coco_results_{name}.json")
    if evaluation.results["split"] == load_config(workdir).data.eval:
        with Checkpoints.of_run(workdir) as checkpoints:
            results = evaluation.results
            checkpoints.rate(results["step"], score(results), thresholds=results["thresholds"])
    return path


def headline(results: Results) -> str:
    """Say in one line how good a checkpoint is; `results` are those of `evaluate_checkpoint`."""
    return (
        f"mAP@0.5 {results['mAP']:.4f} (11-point), {results['mAP_area']:.4f} (area) "
        f"on {results['images']} images of {results['split']}, step {results['step']}"
    )


def table(results: Results) -> str:
    """Lay out the results as text, one line for each class."""
    width = max(map(len, [*results["AP"], "class"]))
    lines = [f"{'class':<{width}}  AP 11-point  AP area  best score"]
    lines += [
        f"{name:<{width}}  {ap:>11.4f}  {results['AP_area'][name]:>7.4f}  {results['thresholds'][name]:>10.2f}"
        for name, ap in results["AP"].items()
    ]
    lines += [f"{'mAP':<{width}}  {results['mAP']:>11.4f}  {results['mAP_area']:>7.4f}", ""]
    lines += [f"AP over IoU 0.5 to 0.95 {results['mAP_over_iou']:.4f}, loss {results['loss']:.4g}"]
    lines += [
        f"at the best score of each class: F1 {results['F1']:.4f}, precision {results['precision']:.4f}, "
        f"recall {results['recall']:.4f}"
    ]
    if "coco" in results:
        lines += ["", "COCO", *(f"{name:<9}  {results['coco'][name]:>7.4f}" for name in NUMBERS)]
    return "\n".join(lines)
