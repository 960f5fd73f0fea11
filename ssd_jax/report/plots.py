"""Plots of the evaluation page: SVG text, drawn by Matplotlib, that takes the page's colour of text."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # replaced by the page's colour of text
# Okabe and Ito's colours, which people who are colour blind can tell apart; the black is left out for dark pages.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#f0e442")


def precision_recall_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Plot precision over recall, a line for each class: {name: (recall [n], precision [n])}."""
    figure, axes = _figure(height=3.4 + 0.16 * -(-len(curves) // 3))
    for k, (name, (recall, precision)) in enumerate(curves.items()):
        style = ("-", "--", ":")[k // len(COLOURS) % 3]
        axes.plot(recall, precision, style, color=COLOURS[k % len(COLOURS)], label=name, linewidth=1.3)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    figure.legend(fontsize=7, frameon=False, labelcolor=INK, loc="outside lower center", ncols=3)
    return _svg(figure, f"Precision over recall of {len(curves)} classes")


def bars(values: Mapping[str, float], *, label: str, texts: Sequence[str] | None = None) -> str:
    """Plot one horizontal bar for each name, the first at the top; `texts` stand at the ends of the bars."""
    figure, axes = _figure(height=0.9 + 0.32 * len(values))
    places = np.arange(len(values))
    drawn = axes.barh(places, list(values.values()), color=COLOURS[0], height=0.65)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.bar_label(drawn, labels=texts or [f"{v:.3f}" for v in values.values()], padding=3, fontsize=8, color=INK)
    axes.margins(x=0.15)
    axes.set_xlabel(label)
    return _svg(figure, label + ": " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))


def confusion_plot(counts: np.ndarray, names: Sequence[str]) -> str:
    """Plot a confusion matrix [n, n]: rows are ground truth, columns are detections, coloured by the row's shares."""
    figure, axes = _figure(height=3.6 + 0.12 * len(names), width=4.2 + 0.12 * len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set(xlabel="detected as", ylabel="ground truth")
    if len(names) <= 12:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=7, color=colour)
    return _svg(figure, "Confusion matrix; the table below has the numbers")


def grid_plot(shares: np.ndarray, texts: list[list[str]], *, label: str) -> str:
    """Plot a grid of cells [rows, columns] that are coloured by a share in [0, 1], with a text in each."""
    figure, axes = _figure(width=4.2, height=3.0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=9, color=colour)
    rows = "; ".join(", ".join(row) for row in texts)
    return _svg(figure, f"{label}, from the top left: {rows}")


def calibration_plot(score: np.ndarray, precision: np.ndarray, counts: np.ndarray) -> str:
    """Plot the precision of detections over their score, by bins; points grow with the bins' counts."""
    figure, axes = _figure()
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    filled = counts > 0
    size = 20 + 180 * counts[filled] / max(1, counts.max())
    axes.scatter(score[filled], precision[filled], s=size, color=COLOURS[0], alpha=0.8, clip_on=False)
    axes.set(xlabel="score", ylabel="share that is correct", xlim=(0, 1), ylim=(0, 1.02))
    return _svg(figure, "Share of correct detections over their score; on the diagonal scores are probabilities")


def history_plot(lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, label: str) -> str:
    """Plot values over the steps of the training: {name: (steps, values)}."""
    figure, axes = _figure()
    for k, (name, (steps, values)) in enumerate(lines.items()):
        marker = "o" if len(steps) < 12 else None
        axes.plot(steps, values, color=COLOURS[k % len(COLOURS)], label=name, linewidth=1.3, marker=marker, ms=3)
    axes.set(xlabel="step", ylabel=label)
    axes.legend(fontsize=8, frameon=False, labelcolor=INK)
    return _svg(figure, f"{label} over the steps of the training")


def _figure(*, width: float = 5.0, height: float = 3.4) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=8)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for side, spine in axes.spines.items():
        spine.set_color(INK)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _svg(figure: "Figure", description: str) -> str:
    """Return the figure as an SVG element with a description for screen readers."""
    import html

    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ssd_jax", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)
