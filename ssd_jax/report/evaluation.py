"""The evaluation page: why a detector errs, as one HTML file that needs no network."""

import base64
import html
import json
import string
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from ssd_jax.files import write_json, write_text
from ssd_jax.metrics import best_f1
from ssd_jax.metrics.errors import KINDS, Errors, RecallBin
from ssd_jax.report import plots
from ssd_jax.report.analysis import (
    Analysis,
    counts_by_score,
    errors_per_image,
    largest,
    missed_per_image,
    suspects,
    to_numbers,
    worst_by_loss,
)

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
ImageLoader = Callable[[int], np.ndarray]  # index of an image -> RGB uint8 [h, w, 3]


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
    """Write the page of one run, and beside it its numbers as JSON; each whole or not at all.

    Args:
      path: of the HTML file.
      analysis: of `analyse`.
      load_image: gives the images that the page shows.
      title: of the page.
      subtitle: a sentence below it.
      history: lines of `metrics.jsonl`, for the curves of the training.
      worst: how many of the images with most errors to show, and half as many of those with most missed objects and
        of those of the highest loss.
      random: how many random images to show.
      score: where the slider starts; errors of detections of this score choose the worst images.
      seed: of the random images.
    """
    images = len(analysis.record.image_ids)
    choices = {
        "worst": largest(errors_per_image(analysis.errors, images, score=score), worst),
        "missed": largest(missed_per_image(analysis.errors, images, score=score), worst // 2),
        "loss": worst_by_loss(analysis.record, worst // 2),
        "random": random_images(images, random, seed=seed),
        "suspect": suspects(analysis.errors),
    }
    runs = {title: analysis}
    legend = "Left: ground truth. Right: detections."
    texts = {"title": title, "subtitle": subtitle, "legend": legend, "worst": "images with most errors"}
    write_text(path, page_text(runs, choices, load_image, body(analysis, history), texts, score=score))
    write_json(path.with_suffix(".json"), to_numbers(analysis, score=score, worst=worst))


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
      choices: image indices by the name of the choice: "worst", "missed", "loss", "random", "suspect".
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
        "losses": [_loss(run, index) for run in runs],
    }


def _loss(run: Analysis, index: int) -> float | None:
    """Return the loss of an image, None if it is not known or not a number, which JSON does not have."""
    loss = np.nan if run.record.loss is None else float(run.record.loss[index])
    return round(loss, 3) if np.isfinite(loss) else None


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
    record, errors, at = analysis.record, analysis.errors, analysis.positions
    missed = int(np.sum(errors.fate == "missed"))
    numbers = {
        "mAP, IoU 0.5, 11 points": str(analysis.mAP),
        "mAP, IoU 0.5, area": str(analysis.mAP_area),
        "mAP, mean over IoU 0.5 to 0.95": f"{analysis.mAP_over_iou:.4f}",
        "images": f"{len(record.image_ids):,}",
        "objects": f"{sum(analysis.n_objects.values()):,}",
        "objects without a detection near them": f"{missed:,}",
    }
    if analysis.no_prior is not None:
        numbers["of these, objects that no prior overlaps by 0.5"] = f"{len(analysis.no_prior):,}"
    labels = ("background", *record.class_names)
    figures = [
        (plots.precision_recall_plot({name: (c.recall, c.precision) for name, c in analysis.curves.items()}),
         "Precision over recall at IoU 0.5."),
        (plots.bars({KIND_TEXTS[kind]: errors.costs[kind] for kind in KINDS}, label="mAP lost",
                    texts=[f"{errors.costs[kind]:.3f} ({errors.counts[kind]:,})" for kind in KINDS]),
         "What each kind of error costs: by how much mAP (area) would rise without it; in brackets how many "
         "there are. The costs do not add up."),
        (_recall_bars(analysis.sizes),
         "Recall by size: side of a square of equal area, pixels at the network's input."),
        (_recall_bars(analysis.overlaps),
         "Recall by crowding: the largest IoU with another object of the image, of any class."),
        (_recall_bars(analysis.numbers, whole=True), "Recall by the number of objects in the image."),
        (plots.grid_plot(at.n_found / np.maximum(at.n_objects, 1), _cells(at.n_found, at.n_objects),
                         label="Recall in the parts of the image"),
         "Recall by position: objects found, of those whose centre is in this part of the image."),
        (plots.grid_plot(at.n_wrong / max(1, at.n_wrong.max()), [[f"{n:,}" for n in row] for row in at.n_wrong],
                         label="Wrong detections in the parts of the image"),
         "Wrong detections by position, at a score of 0.3."),
        (plots.calibration_plot(*analysis.calibration), "Calibration: the share of detections that is correct."),
        (plots.confusion_plot(analysis.confusion, labels), "Confusion at a score of 0.3."),
    ]  # fmt: skip
    for label, names in HISTORY.items():
        lines = _history(history, names)
        if lines:
            figures.append((plots.history_plot(lines, label=label), f"The training: {label} over the steps."))
    drawn = "".join(f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in figures)
    return "\n".join(
        [
            section("Numbers", html_table(["number", "value"], list(numbers.items()), style="words")),
            section("Classes", html_table(CLASS_HEADER, _class_rows(analysis))),
            section("Where the errors are", f'<div class="figures">{drawn}</div>'),
            section("Errors of each class", html_table(
                ["class", *KIND_TEXTS.values()],
                [[name, *(f"{analysis.by_class[kind][k]:,}" for kind in KIND_TEXTS)]
                 for k, name in enumerate(record.class_names)],
            )),
            section("Confusion of classes", html_table(
                ["ground truth \\ detected as", *labels],
                [[name, *map(str, row)] for name, row in zip(labels, analysis.confusion.tolist(), strict=True)],
            )),
        ]
    )  # fmt: skip


# What the plots of the training show: {label: {field of the log: its name in the plot}}.
HISTORY = {
    "loss": {"loss": "loss", "loss_loc": "of boxes", "loss_conf": "of classes", "eval/loss": "of the evaluation"},
    "mAP": {"eval/mAP": "mAP, 11 points", "eval/mAP_area": "mAP, area", "eval/AP": "AP, IoU 0.5 to 0.95",
            "eval/F1": "F1", "eval/precision": "precision", "eval/recall": "recall"},
}  # fmt: skip
CLASS_HEADER = ("class", "objects", "AP 11 points", "AP area", "AP over IoU", "best F1", "at score")


def section(heading: str, content: str) -> str:
    """Return a section with a heading."""
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, style: str = "") -> str:
    """Return an HTML table; the first column names the rows. With the style "words", cells may have several lines."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = [
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(v)}</td>" for v in row[1:])
        + "</tr>"
        for row in rows
    ]
    table = f'<table class="{style}"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def _class_rows(analysis: Analysis) -> list[list[str]]:
    rows = []
    for name, aps in analysis.AP.items():
        f1 = best_f1(analysis.curves[name]) if name in analysis.curves else None
        scores = [f"{f1.f1:.4f}", f"{f1.score:.2f}"] if f1 else ["none", "none"]
        rows.append([name, f"{analysis.n_objects[name]:,}", *(_number(ap) for ap in aps), *scores])
    return rows


def _number(value: float) -> str:
    return "none" if np.isnan(value) else f"{value:.4f}"


def _recall_bars(bins: Sequence[RecallBin], *, whole: bool = False) -> str:
    """Plot recall in bins; `whole` for a quantity that is a whole number."""
    recalls = [0.0 if np.isnan(b.recall) else b.recall for b in bins]
    texts = [f"{b.n_found:,} of {b.n_objects:,}" for b in bins]
    names = [_range(b.smallest, b.largest - whole) for b in bins]
    return plots.bars(dict(zip(names, recalls, strict=True)), label="recall", texts=texts)


def _range(smallest: float, largest: float) -> str:
    if np.isinf(largest):
        return f"{smallest:g} and more"
    return f"{smallest:g}" if smallest == largest else f"{smallest:g} to {largest:g}"


def _cells(part: np.ndarray, whole: np.ndarray) -> list[list[str]]:
    return [[f"{a:,} of {b:,}" for a, b in zip(*row, strict=True)] for row in zip(part, whole, strict=True)]


def _pixels(corners: np.ndarray, zoom: float) -> list[float]:
    return [round(float(v) * zoom, 1) for v in corners]


def _history(
    history: Sequence[Mapping[str, float]], names: Mapping[str, str]
) -> dict[str, tuple[list[float], list[float]]]:
    """Return {name: (steps, values)} of the lines' fields that `names` names."""
    lines: dict[str, tuple[list[float], list[float]]] = {}
    for line in history:
        for field, name in names.items():
            if line.get(field) is not None:
                steps, values = lines.setdefault(name, ([], []))
                steps.append(line["step"])
                values.append(line[field])
    return lines
