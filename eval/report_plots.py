"""Small plots of a report, one axes each: readable at 360 px, colour-blind safe, light and dark."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from heph_vl import page

# Of Okabe and Ito, some lightened: told apart by the colour-blind, seen on black and on white.
COLOURS = ("#2f87c8", "#d55e00", "#009e73", "#cc79a7", "#a08000")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
FAINT = "#8a919b"
Interval = Sequence[float] | None


def colour(number: int) -> str:
    """Of the model of this number."""
    return COLOURS[number % len(COLOURS)]


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    x: str,
    y: str,
    *,
    caption: str = "",
) -> str:
    """Lines over the same axes, the horizontal one in whole numbers.

    Args:
        lines: x and y by name.
        x: Label of the axis, with its unit.
        y: Likewise.
        caption: Under the plot.

    Returns:
        A figure.
    """
    figure, axes = _axes(x, y)
    few = max((len(across) for across, _ in lines.values()), default=0) <= 30
    for i, (name, (across, up)) in enumerate(lines.items()):
        style = {"color": colour(i), "linestyle": STYLES[i % len(STYLES)], "linewidth": 1.4}
        axes.plot(across, up, label=name, marker="o" if few else None, markersize=2.5, **style)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(axes, lines)
    return page.plot(figure, caption, alt=caption or f"{y} by {x}")


def precision_recall(
    lines: Mapping[str, Mapping[str, Sequence[float]]], prevalence: float, caption: str
) -> str:
    """Precision over recall as steps, the area under which is the average precision.

    Args:
        lines: `recall` and `precision` by model, from the highest threshold on.
        prevalence: Share of the class: the precision of any constant or random answer.
        caption: Under the plot.

    Returns:
        A figure.
    """
    figure, axes = _axes("recall", "precision")
    for i, (name, points) in enumerate(lines.items()):
        recall, precision = ([*points[k]] for k in ("recall", "precision"))
        axes.step(
            [0.0, *recall], [precision[0], *precision], where="pre", color=colour(i), label=name,
            linestyle=STYLES[i % len(STYLES)], linewidth=1.4,
        )  # fmt: skip
    axes.axhline(prevalence, color=FAINT, linewidth=1, linestyle=":")
    axes.text(0.01, prevalence, f"prevalence {prevalence:.2f}", fontsize=7.5, color=page.INK,
              verticalalignment="bottom")  # fmt: skip
    axes.set(xlim=(0, 1.01), ylim=(0, 1.04))
    _legend(axes, lines)
    return page.plot(figure, caption, alt=f"Precision-recall curve, {caption}")


def reliability(lines: Mapping[str, Sequence[Mapping[str, float]]], x: str, y: str,
                caption: str) -> str:  # fmt: skip
    """How often what is said with a probability is true; the diagonal is calibrated.

    Args:
        lines: `probability`, `share` and `images` of each bin, by model.
        x: Label of the axis.
        y: Likewise.
        caption: Under the plot.

    Returns:
        A figure; a dot's area grows with the images of its bin.
    """
    figure, axes = _axes(x, y)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    for i, (name, bins) in enumerate(lines.items()):
        across, up = [b["probability"] for b in bins], [b["share"] for b in bins]
        area = np.array([b["images"] for b in bins], float)
        style = {"color": colour(i), "linestyle": STYLES[i % len(STYLES)], "linewidth": 1.0}
        axes.plot(across, up, label=name, **style)
        axes.scatter(across, up, s=6 + 40 * area / area.max(), color=colour(i), zorder=3)
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    _legend(axes, lines)
    return page.plot(figure, caption, alt=f"Reliability diagram, {caption}")


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]], caption: str) -> str:
    """Counts with the share of each row as colour.

    Args:
        classes: Of rows and columns.
        counts: Rows by truth.
        caption: Under the plot.

    Returns:
        A figure.
    """
    table = np.array(counts, float)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    side = 1.5 + 0.32 * len(classes)
    figure, axes = _axes("told", "truth", size=(side + 0.3, side))
    axes.set(xlim=(-0.5, len(classes) - 0.5), ylim=(len(classes) - 0.5, -0.5), aspect="equal")
    for row, column in np.ndindex(share.shape):
        # Opaque over the page's own paper, light or dark: the number stays readable on both.
        axes.add_patch(_square(column, row, alpha=0.75 * share[row, column], facecolor=COLOURS[0]))
        axes.text(
            column, row, f"{int(table[row, column])}", ha="center", va="center", fontsize=8,
            color=page.INK, fontweight="bold" if row == column else "normal",
        )  # fmt: skip
    names = [name.replace("_", " ") for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.grid(False)
    return page.plot(figure, caption, alt=f"Confusion matrix, {caption}")


def bars(
    rows: Sequence[str],
    models: Mapping[str, Sequence[tuple[float | None, Interval]]],
    ticks: Mapping[str, Sequence[float | None]],
    x: str,
    caption: str,
) -> str:
    """Horizontal bars with intervals, and baselines as marks across them.

    Args:
        rows: From top to bottom.
        models: Value and interval of each row, by model.
        ticks: Value of each row, by baseline.
        x: Label of the axis.
        caption: Under the plot.

    Returns:
        A figure.
    """
    height = 0.9 + len(rows) * (0.2 + 0.2 * len(models))
    figure, axes = _axes(x, "", size=(5.0, height))
    thick = 0.8 / len(models)
    for i, (name, values) in enumerate(models.items()):
        for j, (value, interval) in enumerate(values):
            if value is None:
                continue
            y = j - 0.4 + (i + 0.5) * thick
            label = name if j == 0 else None
            axes.barh(y, value, thick * 0.85, color=colour(i), alpha=0.75, label=label)
            if interval is not None:
                axes.plot(interval, [y, y], color=page.INK, linewidth=1.2)
    marks = "|", "x", "D"
    for k, (name, numbers) in enumerate(ticks.items()):
        found = [(v, j) for j, v in enumerate(numbers) if v is not None]
        if found:
            across, up = zip(*found, strict=True)
            axes.scatter(across, up, marker=marks[k % 3], s=(90, 26, 16)[k % 3], color=page.INK,
                         linewidth=1.3, label=name, zorder=4)  # fmt: skip
    axes.set_yticks(range(len(rows)), rows)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.grid(False, axis="y")
    _legend(axes, [*models, *ticks], least=1)
    return page.plot(figure, caption, alt=caption)


def _square(x: float, y: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, linewidth=0, **style)


def _axes(x: str, y: str, size: tuple[float, float] = (3.6, 2.7)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x, fontsize=9, color=page.INK)
    axes.set_ylabel(y, fontsize=9, color=page.INK)
    axes.tick_params(labelsize=8, labelcolor=page.INK, color=FAINT)
    for name, spine in axes.spines.items():
        spine.set(color=FAINT, visible=name in ("left", "bottom"))
    axes.grid(color=FAINT, linewidth=0.4, alpha=0.4)
    axes.set_axisbelow(True)
    return figure, axes


def _legend(axes: Any, names: Any, least: int = 2) -> None:
    """Above the axes, where it hides nothing; none for a single line."""
    if len(names) >= least:
        drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        shown = [name for name in names if name in drawn]
        axes.figure.legend(
            [drawn[name] for name in shown], shown, loc="outside upper left", ncols=2, fontsize=8,
            frameon=False, labelcolor=page.INK,
        )  # fmt: skip
