"""Compare runs on the same images: differences with paired bootstrap intervals."""

import dataclasses
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ssd_jax.files import write_text
from ssd_jax.metrics.bootstrap import interval, mean_average_precision, resamples
from ssd_jax.report.analysis import Analysis, Interval, errors_per_image, rankings
from ssd_jax.report.evaluation import ImageLoader, html_table, page_text, random_images, section


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How run B differs from run A on the same images.

    Attributes:
      mAP: B's mAP (IoU 0.5, area) minus A's, with the paired interval.
      AP: the same by class; nan for a class without objects.
      images: image indices on which the number of errors differs most, the largest difference first.
      fewer_errors: int [N], errors of A minus errors of B in each image.
    """

    mAP: Interval
    AP: dict[str, Interval]
    images: list[int]
    fewer_errors: np.ndarray

    def sentence(self, a: str, b: str) -> str:
        """Say in one sentence which of the runs named `a` and `b` is better, and how sure that is."""
        points, low, high = (100 * value for value in self.mAP)
        if low <= 0 <= high:
            return f"{b} and {a} cannot be told apart: {points:+.1f} mAP, 95 % interval {low:.1f} to {high:.1f}"
        better, worse = (b, a) if points > 0 else (a, b)
        low, high = sorted((abs(low), abs(high)))
        return f"{better} is better than {worse} by {abs(points):.1f} mAP, 95 % interval {low:.1f} to {high:.1f}"


def compare(
    a: Analysis, b: Analysis, *, replicates: int = 1000, seed: int = 0, score: float = 0.4, most: int = 20
) -> Comparison:
    """Compare two runs; both are resampled with the same images, so that what they share cancels.

    Args:
      a: of the first run.
      b: of the second run.
      replicates: resamples of the bootstrap.
      seed: of the bootstrap.
      score: errors of detections of at least this score are counted in each image.
      most: how many images to name.

    Raises:
      ValueError: unless both runs were evaluated on the same images with the same classes.
    """
    if a.record.image_ids != b.record.image_ids or a.record.class_names != b.record.class_names:
        names = " of other names" if _count(a) == _count(b) else ""
        raise ValueError(
            f"runs must be evaluated on the same images and classes; got {_count(a)} and {_count(b)}{names}"
        )
    images = len(a.record.image_ids)
    weights = resamples(images, replicates, seed=seed)
    ones = np.ones((1, images))
    both = [rankings(run.record, run.errors) for run in (a, b)]

    def difference(classes: Sequence[int]) -> Interval:
        of_a, of_b = ([run[k] for k in classes] for run in both)

        def minus(w: np.ndarray) -> np.ndarray:
            first, second = (mean_average_precision(run, w, interpolation="area") for run in (of_a, of_b))
            return second - first

        return Interval(float(minus(ones)[0]), *interval(minus(weights)))

    fewer = np.subtract(*(errors_per_image(run.errors, images, score=score) for run in (a, b)))
    order = np.argsort(-np.abs(fewer), kind="stable")[:most]
    return Comparison(
        mAP=difference(range(len(both[0]))),
        AP={name: difference([k]) for k, name in enumerate(a.record.class_names) if a.n_objects[name]},
        images=[index for index in order.tolist() if fewer[index]],
        fewer_errors=fewer,
    )


def _count(run: Analysis) -> str:
    return f"{len(run.record.image_ids):,} images of {len(run.record.class_names)} classes"


def write_comparison(
    path: Path, runs: Mapping[str, Analysis], load_image: ImageLoader, *, score: float = 0.4, seed: int = 0
) -> list[str]:
    """Write a page that compares runs with the first of them, side by side on the same images.

    Args:
      path: of the HTML file.
      runs: two or more, by name.
      load_image: gives the images that the page shows.
      score: where the slider starts.
      seed: of the bootstrap and of the random images.

    Returns:
      A sentence for each run after the first.

    Raises:
      ValueError: unless all runs were evaluated on the same images with the same classes.
    """
    (first, base), *others = runs.items()
    compared = {name: compare(base, run, score=score, seed=seed) for name, run in others}
    sentences = [comparison.sentence(first, name) for name, comparison in compared.items()]
    header = ["number", *runs]
    numbers = [
        ["mAP, IoU 0.5, 11 points", *(str(run.mAP) for run in runs.values())],
        ["mAP, IoU 0.5, area", *(str(run.mAP_area) for run in runs.values())],
        ["mAP, mean over IoU 0.5 to 0.95", *(f"{run.mAP_over_iou:.4f}" for run in runs.values())],
        *([f"mAP lost by {kind} errors", *(f"{run.errors.costs[kind]:.4f}" for run in runs.values())]
          for kind in base.errors.costs),
    ]  # fmt: skip
    classes = [
        [name, *(f"{run.AP[name][1]:.4f}" for run in runs.values()),
         *(f"{c.AP[name].value:+.4f} ({c.AP[name].low:+.4f} to {c.AP[name].high:+.4f})" for c in compared.values())]
        for name in base.record.class_names if base.n_objects[name]
    ]  # fmt: skip
    sections = section("Which run is better", "".join(f"<p>{html.escape(text)}.</p>" for text in sentences))
    sections += section("Numbers", html_table(header, numbers, style="words"))
    sections += section(
        "Classes, AP by area", html_table(["class", *runs, *(f"{n} minus {first}" for n in compared)], classes)
    )
    images = len(base.record.image_ids)
    choices = {
        "worst": list(dict.fromkeys(index for comparison in compared.values() for index in comparison.images)),
        "random": random_images(images, 20, seed=seed),
    }
    texts = {
        "title": " and ".join(runs),
        "subtitle": f"{images:,} images",
        "legend": "From the left: ground truth, then " + ", ".join(runs) + ".",
        "worst": "images on which the runs differ most",
    }
    write_text(path, page_text(runs, choices, load_image, sections, texts, score=score))
    return sentences
