"""Evaluate a model on a dataset by VOC's average precision, and by COCO's twelve numbers where it has the truth."""

import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from ssd_jax.data import Example, Source, coco_truth, decode, eval_batches
from ssd_jax.files import write_json
from ssd_jax.inference import Detections, draw, load_detector, make_detect, to_pixels
from ssd_jax.loop.build import NO_OBJECT, open_source
from ssd_jax.loop.meter import refuse_many
from ssd_jax.loop.workdir import load_config, split_name
from ssd_jax.metrics import COCOMetric, VOCMetric
from ssd_jax.metrics.coco import NUMBERS
from ssd_jax.model import SSD
from ssd_jax.parallel import gather_over_devices, is_first, objects_of_every_process, replicate, split

logger = logging.getLogger("ssd_jax")

PyTree = Any
Results = dict[str, Any]


class Evaluator:
    """Scores variables of `model` on `source`, on all devices of all processes; compiles once for all its calls.

    Each image is judged once, whatever their number, by the first process.
    """

    def __init__(self, model: SSD, source: Source, config: ConfigDict, *, samples: int = 0) -> None:
        """Prepare to evaluate as `config.eval` and `config.data` say.

        The batch is rounded up to a multiple of the devices. Of the first `samples` images the detections are kept
        for `drawings`. More than `data.max_unreadable` images that cannot be read are a `ValueError`; with
        `data.strict`, one.
        """
        self._source, self._data = source, config.data
        self._judges = is_first()
        self._truth = coco_truth(source) if self._judges else None
        self._image_size = model.spec.image_size
        self._batch_size = -(-config.eval.batch_size // jax.device_count()) * jax.device_count()
        self._samples: dict[int, Detections | None] = dict.fromkeys(range(min(samples, len(source))))
        detect = make_detect(model)
        self._detect = gather_over_devices(lambda variables, arrays: detect(variables, arrays["images"]))

    def __call__(
        self, variables: PyTree, *, coco_results: Path | None = None, stops: Callable[[], bool] = lambda: False
    ) -> Results | None:
        """Return {"mAP", "mAP_area", "AP", "AP_area", "images", "unreadable"}; APs are by class name.

        A source in COCO's format adds "coco", `COCOMetric`'s numbers, and the detections go to `coco_results`.
        Processes but the first get {}. None tells that the evaluation was left because `stops`, which is asked after
        every image, said so.
        """
        metric = VOCMetric(self._source.class_names, inclusive=self._source.inclusive)
        coco = COCOMetric(self._truth) if self._truth else None
        images, unreadable = 0, []
        for index, example, size, detections in self._detections(variables):
            if stops():
                return None
            if detections is None:
                unreadable.append(example.image_id)
                refuse_many(unreadable, self._data.max_unreadable)
                continue
            if not self._judges:
                continue
            images += 1
            if index in self._samples:
                self._samples[index] = detections
            height, width = size
            corners = example.boxes * np.asarray([width, height, width, height], np.float32)
            metric.add(index, corners, example.labels, example.difficult, *detections)
            if coco:
                coco.add(self._truth["images"][index]["id"], *detections)
        if not self._judges:
            return {}
        if coco and coco_results:
            coco.write(coco_results)
        eleven, area = (metric.compute(interpolation=kind) for kind in ("11point", "area"))
        return {
            "mAP": eleven["mAP"],
            "mAP_area": area["mAP"],
            "AP": eleven["AP"],
            "AP_area": area["AP"],
            "images": images,
            "unreadable": unreadable,
            **({"coco": coco.compute()} if coco else {}),
        }

    def drawings(self, *, score: float = 0.4) -> dict[str, np.ndarray]:
        """Draw what the last call found in the sample images, by name; RGB uint8."""
        return {
            example.image_id: draw(decode(example.image), detections.above(score), self._source.class_names)
            for index, detections in self._samples.items()
            if detections is not None
            for example in [self._source[index]]
        }

    def _detections(self, variables: PyTree) -> Iterator[tuple[int, Example, np.ndarray, Detections | None]]:
        """Yield every image's index, ground truth, size and detections, None where it cannot be read."""
        batches = eval_batches(
            self._source,
            batch_size=self._batch_size,
            image_size=self._image_size,
            strict=self._data.strict,
            threads=self._data.threads,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        total = -(-len(self._source) // self._batch_size)
        progress = tqdm(batches, total=total, desc="evaluate", leave=False, disable=None if self._judges else True)
        devices = jax.local_device_count()
        started = ((self._detect(variables, split(batch.arrays, devices)), batch.info) for batch in progress)
        for found, info in one_ahead(started):
            boxes, scores, labels = map(np.asarray, found)  # of all processes
            shares = objects_of_every_process(info)
            index, sizes, readable = (
                np.concatenate([share[name] for share in shares]) for name in ("index", "sizes", "readable")
            )
            examples = [example for share in shares for example in share["examples"]]
            for row in np.argsort(index):
                if index[row] < 0:  # padding of the last batch
                    continue
                detections = to_pixels(boxes[row], scores[row], labels[row], sizes[row])
                yield int(index[row]), examples[row], sizes[row], detections if readable[row] else None


def one_ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Take the next item before giving the last one: devices work at it while the last one is looked at."""
    items = iter(items)
    for last in items:
        for item in items:
            yield last
            last = item
        yield last


def score(results: Results) -> float:
    """By what runs choose their best checkpoint: COCO's AP where there is one, else VOC's 11-point mAP."""
    return results["coco"]["AP"] if "coco" in results else results["mAP"]


def evaluate(workdir: str | Path, *, split: str | None = None, step: int | str | None = None) -> Results:
    """Evaluate a checkpoint of a run on a split of its data; write `eval_SPLIT.json` into the workdir.

    On a COCO set, `coco_results_SPLIT.json` has the detections as COCO's server takes them.

    Args:
      workdir: where `train` wrote.
      split: as in the config's `data.train`; the default is the config's `data.eval`.
      step: which checkpoint: a number, or "best"; the newest unless given.
    """
    workdir = Path(workdir)
    config = load_config(workdir)
    split = split or config.data.eval
    detector = load_detector(workdir, step=step)
    source = open_source(config.data, split, class_names=detector.class_names)
    evaluator = Evaluator(detector.model, source, config)
    name = split_name(split)
    scores = evaluator(replicate(detector.variables), coco_results=workdir / f"coco_results_{name}.json")
    if np.isnan(scores["mAP"]):
        logger.warning(NO_OBJECT, split)
    results = {"split": split, "step": detector.step} | scores
    path = workdir / f"eval_{name}.json"
    write_json(path, results)
    return results | {"path": str(path)}


def table(results: Results) -> str:
    """Lay out the results as text, a line a class."""
    width = max(map(len, [*results["AP"], "class"]))
    lines = [f"{'class':<{width}}  AP 11-point  AP area"]
    lines += [f"{name:<{width}}  {ap:>11.4f}  {results['AP_area'][name]:>7.4f}" for name, ap in results["AP"].items()]
    lines += [f"{'mAP':<{width}}  {results['mAP']:>11.4f}  {results['mAP_area']:>7.4f}"]
    if "coco" in results:
        lines += ["", "COCO", *(f"{name:<9}  {results['coco'][name]:>7.4f}" for name in NUMBERS)]
    return "\n".join(lines)
