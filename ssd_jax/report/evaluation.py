"""The evaluation page: why a detector errs, as one HTML file that needs no network."""

import base64
import dataclasses
import html
import json
import string
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ssd_jax import box
from ssd_jax.files import write_text
from ssd_jax.metrics import COCO_IOU_THRESHOLDS, Curve, best_f1
from ssd_jax.metrics.bootstrap import Ranking, interval, mean_average_precision, resamples
from ssd_jax.metrics.errors import (
    KINDS,
    Errors,
    SizeBin,
    confusion_matrix,
    find_errors,
    missed_without_prior,
    recall_by_size,
    suspect_annotations,
)
from ssd_jax.report import plots
from ssd_jax.report.record import Record

KIND_TEXTS = {
    "classification": "wrong class",
    "localisation": "poor box",
    "both": "wrong class and poor box",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed object",
}
LEAST_SCORE = 0.05  # detections of a lower score are not drawn
THUMBNAIL = 320  # pixels of an image's longer side
CALIBRATION_BINS = 10
ImageLoader = Callable[[int], np.ndarray]  # index of an image -> RGB uint8 [h, w, 3]


class Interval(NamedTuple):
    """A number with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it as text, in the unit of the number."""
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f})"


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What the page shows of one record.

    Attributes:
      record: what was analysed.
      errors: TIDE's kinds at IoU 0.5.
      mAP: at IoU 0.5 by 11 points, with its interval.
      mAP_area: at IoU 0.5 by area, with its interval.
      mAP_over_iou: mean over IoU 0.5, 0.55, ..., 0.95.
      AP: by class: (11 points, area, mean over IoU); nan for a class without objects.
      n_objects: by class: objects that are not difficult.
      curves: by class, those with objects.
      confusion: [C, C], row the true label, column the detected one; label 0 is background.
      sizes: recall by size at the network's input.
      calibration: (mean score, precision, count), each [bins]: nan where a bin is empty.
      no_prior: missed objects that no prior overlaps by 0.5; None if the priors are not known.
    """

    record: Record
    errors: Errors
    mAP: Interval
    mAP_area: Interval
    mAP_over_iou: float
    AP: Mapping[str, tuple[float, float, float]]
    n_objects: Mapping[str, int]
    curves: Mapping[str, Curve]
    confusion: np.ndarray
    sizes: Sequence[SizeBin]
    calibration: tuple[np.ndarray, np.ndarray, np.ndarray]
    no_prior: np.ndarray | None


def analyse(record: Record, *, replicates: int = 1000, seed: int = 0) -> Analysis:
    """Compute all numbers of the page.

    Args:
      record: of `loop.evaluate.Evaluator` or `load_record`; if it has no priors, sizes are those at an input of 300
        pixels.
      replicates: resamples of the bootstrap.
      seed: of the bootstrap.
    """
    metric = record.metric
    errors = find_errors(metric)
    eleven = metric.compute(interpolation="11point")
    area = metric.compute(interpolation="area", iou_thresholds=COCO_IOU_THRESHOLDS)
    assert "mAP_over_iou" in area and "AP_over_iou" in area  # as the thresholds were given; a type checker needs it
    weights = resamples(len(record.image_ids), replicates, seed=seed)
    ranked = rankings(record, errors)
    intervals = {
        kind: Interval(value, *interval(mean_average_precision(ranked, weights, interpolation=kind)))
        for kind, value in (("11point", eleven["mAP"]), ("area", area["mAP"]))
    }
    spec = record.spec
    size = spec.image_size if spec else 300
    return Analysis(
        record,
        errors,
        mAP=intervals["11point"],
        mAP_area=intervals["area"],
        mAP_over_iou=area["mAP_over_iou"],
        AP={name: (ap, area["AP"][name], area["AP_over_iou"][name]) for name, ap in eleven["AP"].items()},
        n_objects=eleven["n_ground_truth"],
        curves=metric.curves(),
        confusion=confusion_matrix(metric),
        sizes=recall_by_size(errors, record.sizes, size),
        calibration=calibrate(errors),
        no_prior=missed_without_prior(errors, record.sizes, np.asarray(box.make_priors(spec))) if spec else None,
    )


def rankings(record: Record, errors: Errors) -> list[Ranking]:
    """Return what the bootstrap needs of each class: its counted detections by falling score."""
    objects, detections = errors.objects, errors.detections
    images = len(record.image_ids)
    result = []
    for label in range(1, 1 + len(record.class_names)):
        own = np.flatnonzero((detections.labels == label) & (errors.outcome != "ignored"))
        own = own[np.argsort(-detections.scores[own], kind="stable")]
        counted = objects.image[(objects.labels == label) & ~objects.difficult]
        result.append(
            Ranking(errors.outcome[own] == "true", detections.image[own], np.bincount(counted, minlength=images))
        )
    return result


def calibrate(errors: Errors) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean score, precision and count of the detections in bins of equal width of the score, each [bins]."""
    counted = errors.outcome != "ignored"
    scores, true = errors.detections.scores[counted], errors.outcome[counted] == "true"
    bins = np.minimum((scores * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    count, total, correct = (
        np.bincount(bins, weights=w, minlength=CALIBRATION_BINS) for w in (np.ones(len(scores)), scores, true)
    )
    with np.errstate(invalid="ignore"):
        return total / count, correct / count, count.astype(int)


def counts_by_score(errors: Errors, n_classes: int) -> list[dict[str, int | list[int]]]:
    """Return for each class its objects, and the correct and wrong detections that score at least t / 100 [101]."""
    result = []
    thresholds = np.arange(101) / 100
    for label in range(1, 1 + n_classes):
        own = errors.detections.labels == label
        counts: dict[str, int | list[int]] = {
            "objects": int(np.sum((errors.objects.labels == label) & ~errors.objects.difficult))
        }
        true, ignored = errors.outcome == "true", errors.outcome == "ignored"
        for name, chosen in (("correct", own & true), ("wrong", own & ~true & ~ignored)):
            scores = np.sort(errors.detections.scores[chosen])
            counts[name] = (len(scores) - np.searchsorted(scores, thresholds, side="left")).tolist()
        result.append(counts)
    return result


def errors_per_image(errors: Errors, images: int, *, score: float) -> np.ndarray:
    """Return how many wrong detections of at least `score`, and missed objects, each image has: int [N]."""
    seen = errors.detections.scores >= score
    wrong = seen & (errors.outcome != "true") & (errors.outcome != "ignored")
    found = np.zeros(len(errors.objects.labels), bool)
    found[errors.target[seen & (errors.outcome == "true")]] = True
    missed = ~found & ~errors.objects.difficult
    return np.bincount(errors.detections.image[wrong], minlength=images) + np.bincount(
        errors.objects.image[missed], minlength=images
    )


def write_page(
    path: Path,
    analysis: Analysis,
    load_image: ImageLoader,
    *,
    title: str,
    subtitle: str = "",
    history: Sequence[Mapping[str, float]] = (),
    worst: int = 40,
    random: int = 20,
    score: float = 0.4,
    seed: int = 0,
) -> None:
    """Write the page of one run, whole or not at all.

    Args:
      path: of the HTML file.
      analysis: of `analyse`.
      load_image: gives the images that the page shows.
      title: of the page.
      subtitle: a sentence below it.
      history: lines of `metrics.jsonl`, for the curves of the training.
      worst: how many of the images with most errors to show.
      random: how many random images to show.
      score: where the slider starts; errors of detections of this score choose the worst images.
      seed: of the random images.
    """
    images = len(analysis.record.image_ids)
    ranked = np.argsort(-errors_per_image(analysis.errors, images, score=score), kind="stable")[:worst].tolist()
    choices = {
        "worst": ranked,
        "random": random_images(images, random, seed=seed),
        "suspect": _suspects(analysis.errors),
    }
    runs = {title: analysis}
    legend = "Left: ground truth. Right: detections."
    texts = {"title": title, "subtitle": subtitle, "legend": legend, "worst": "images with most errors"}
    write_text(path, page_text(runs, choices, load_image, body(analysis, history), texts, score=score))


def page_text(
    runs: Mapping[str, Analysis],
    choices: Mapping[str, Sequence[int]],
    load_image: ImageLoader,
    sections: str,
    texts: Mapping[str, str],
    *,
    score: float,
) -> str:
    """Return the page of one or more runs on the same images.

    Args:
      runs: by name.
      choices: image indices by the name of the choice: "worst", "random", "suspect".
      load_image: gives the images.
      sections: HTML above the images.
      texts: plain text for the places `title`, `subtitle`, `legend` and `worst` of the page.
      score: where the slider starts.
    """
    first = next(iter(runs.values()))
    shown = dict.fromkeys(index for chosen in choices.values() for index in chosen)
    data = {
        "class_names": list(first.record.class_names),
        "kinds": KIND_TEXTS,
        "runs": [
            {"name": name, "counts": counts_by_score(run.errors, len(first.record.class_names))}
            for name, run in runs.items()
        ],
        "images": [
            image_entry(list(runs.values()), index, load_image(index))
            | {name: index in chosen for name, chosen in choices.items()}
            for index in shown
        ],
    }
    template = resources.files("ssd_jax.report").joinpath("page.html").read_text(encoding="utf-8")
    return string.Template(template).substitute(
        {name: html.escape(text) for name, text in texts.items()},
        body=sections,
        threshold=round(100 * score),
        data=json.dumps(data, separators=(",", ":")).replace("</", "<\\/"),
    )


def random_images(images: int, count: int, *, seed: int) -> list[int]:
    """Draw `count` different image indices, or all if there are fewer."""
    return np.random.default_rng(seed).permutation(images)[:count].tolist()


def image_entry(runs: Sequence[Analysis], index: int, image: np.ndarray) -> dict[str, object]:
    """Return what the page needs to draw an image: a small JPEG, ground truth and detections in its pixels."""
    record = runs[0].record
    height, width = record.sizes[index].tolist()
    zoom = min(1.0, THUMBNAIL / max(height, width))
    size = max(1, round(width * zoom)), max(1, round(height * zoom))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()
    objects = runs[0].errors.objects
    truths = np.flatnonzero(objects.image == index).tolist()
    finders = [_finders(run.errors, index) for run in runs]
    return {
        "id": record.image_ids[index],
        "width": size[0],
        "height": size[1],
        "jpeg": "data:image/jpeg;base64," + base64.b64encode(jpeg).decode(),
        "truths": [
            [
                *_pixels(objects.boxes[g], zoom),
                int(objects.labels[g]),
                int(objects.difficult[g]),
                [round(finder.get(g, -1.0), 4) for finder in finders],
            ]
            for g in truths
        ],
        "detections": [_drawn_detections(run.errors, index, zoom) for run in runs],
    }


def _finders(errors: Errors, index: int) -> dict[int, float]:
    """Return the score of the detection that finds each object of an image."""
    found = np.flatnonzero((errors.detections.image == index) & (errors.outcome == "true")).tolist()
    return {int(errors.target[d]): float(errors.detections.scores[d]) for d in found}


def _drawn_detections(errors: Errors, index: int, zoom: float) -> list[list[float | str]]:
    """Return the detections of an image, best first: corners, label, score, and the kind of error or ""."""
    table = errors.detections
    found = np.flatnonzero((table.image == index) & (table.scores >= LEAST_SCORE))
    found = found[np.argsort(-table.scores[found], kind="stable")].tolist()
    return [
        [
            *_pixels(table.boxes[d], zoom),
            int(table.labels[d]),
            round(float(table.scores[d]), 4),
            "" if errors.outcome[d] == "true" else str(errors.outcome[d]),
        ]
        for d in found
    ]


def body(analysis: Analysis, history: Sequence[Mapping[str, float]]) -> str:
    """Return the sections of the page above the images."""
    record, errors = analysis.record, analysis.errors
    missed = int(np.sum(errors.fate == "missed"))
    numbers = {
        "mAP, IoU 0.5, 11 points": str(analysis.mAP),
        "mAP, IoU 0.5, area": str(analysis.mAP_area),
        "mAP, mean over IoU 0.5 to 0.95": f"{analysis.mAP_over_iou:.4f}",
        "images": f"{len(record.image_ids):,}",
        "objects": f"{sum(analysis.n_objects.values()):,}",
        "objects that nothing near finds": f"{missed:,}",
    }
    if analysis.no_prior is not None:
        numbers["of them, objects that no prior overlaps by 0.5"] = f"{len(analysis.no_prior):,}"
    labels = ("background", *record.class_names)
    figures = [
        (plots.precision_recall_plot({name: (c.recall, c.precision) for name, c in analysis.curves.items()}),
         "Precision over recall at IoU 0.5."),
        (plots.bars({kind: errors.costs[kind] for kind in KINDS}, label="mAP lost",
                    texts=[f"{errors.costs[kind]:.3f} ({errors.counts[kind]:,})" for kind in KINDS]),
         "What each kind of error costs: by how much mAP (area) would rise without it; in brackets how many "
         "there are. The costs do not add up."),
        (plots.bars({_range(b): 0.0 if np.isnan(b.recall) else b.recall for b in analysis.sizes}, label="recall",
                    texts=[f"{b.n_found:,} of {b.n_objects:,}" for b in analysis.sizes]),
         "Recall by size: side of a square of equal area, pixels at the network's input."),
        (plots.calibration_plot(*analysis.calibration), "Calibration: the share of detections that is correct."),
        (plots.confusion_plot(analysis.confusion, labels), "Confusion at a score of 0.3."),
    ]  # fmt: skip
    for prefix, label in (("loss", "loss"), ("eval/", "mAP")):
        lines = _history(history, prefix)
        if lines:
            figures.append((plots.history_plot(lines, label=label), f"The training: {label} over the steps."))
    drawn = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in figures)
    return "\n".join(
        [
            section("Numbers", html_table(["number", "value"], list(numbers.items()))),
            section("Classes", html_table(CLASS_HEADER, _class_rows(analysis))),
            section("Where the errors are", f'<div class="figures">{drawn}</div>'),
            section("Confusion of classes", html_table(
                ["ground truth \\ detected as", *labels],
                [[name, *map(str, row)] for name, row in zip(labels, analysis.confusion.tolist(), strict=True)],
            )),
        ]
    )  # fmt: skip


CLASS_HEADER = ("class", "objects", "AP 11 points", "AP area", "AP over IoU", "best F1", "at score")


def section(heading: str, content: str) -> str:
    """Return a section with a heading."""
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; the first column names the rows."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = [
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(v)}</td>" for v in row[1:])
        + "</tr>"
        for row in rows
    ]
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _class_rows(analysis: Analysis) -> list[list[str]]:
    rows = []
    for name, aps in analysis.AP.items():
        f1 = best_f1(analysis.curves[name]) if name in analysis.curves else None
        scores = [f"{f1.f1:.4f}", f"{f1.score:.2f}"] if f1 else ["none", "none"]
        rows.append([name, f"{analysis.n_objects[name]:,}", *(_number(ap) for ap in aps), *scores])
    return rows


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.4f}"


def _range(size: SizeBin) -> str:
    return f"{size.smallest:.0f} and more" if np.isinf(size.largest) else f"{size.smallest:.0f} to {size.largest:.0f}"


def _pixels(corners: np.ndarray, zoom: float) -> list[float]:
    return [round(float(v) * zoom, 1) for v in corners]


def _suspects(errors: Errors, most: int = 20) -> list[int]:
    """Return the images of likely annotation errors, the most likely first."""
    detections, objects = suspect_annotations(errors)
    images = [*errors.detections.image[detections].tolist(), *errors.objects.image[objects].tolist()]
    return list(dict.fromkeys(images))[:most]


def _history(history: Sequence[Mapping[str, float]], prefix: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return {name: (steps, values)} of the lines' fields that start with `prefix`."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for line in history:
        for name, value in line.items():
            if name.startswith(prefix) and value is not None:
                steps, values = lines.setdefault(name.removeprefix("eval/"), ([], []))
                steps.append(line["step"])
                values.append(value)
    return lines
