"""Plots trends as small multiples: a column per kind of vector, a row per measure, a line per word.

Needs matplotlib, but not pyplot, which would look for a display. Lines also differ in marker and dashes, so
that they can be distinguished without colour.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ctxbatch.analysis.layers import Measures, Trend, Trends

log = logging.getLogger("ctxbatch")

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#e69f00", "#56b4e9")  # Okabe and Ito's
_MARKERS = ("o", "s", "^", "D", "v")
_DASHES = ("-", (0, (6, 2)), (0, (6, 1.5, 1, 1.5)))
_LEGEND_ROWS = 36
_UNITS = {"log_ratio": "nats", "asinh": "no unit", "difference": "units of the model"}

_Value = Callable[[Measures], float | None]


def draw(found: Trends, path: Path) -> None:
    """Plot trends into a file; its suffix determines the format.

    Raises:
        OSError: The file cannot be written.
    """
    cosines = _cosines(found)
    n_rows = len(cosines) + 1
    figure = Figure(figsize=(3.2 + 2.9 * len(found.kinds), 0.4 + 2.7 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, len(found.kinds), sharex=True, squeeze=False)
    for column, kind in enumerate(found.kinds):
        grid[0, column].set_title(kind, fontweight="bold")
        for (first, *_), axes, value in zip(grid, grid[:, column], cosines.values(), strict=False):
            _draw_words(axes, found, kind, value)
            _draw_random(axes, found, kind)
            if axes is not first:  # cosines of all kinds on one scale
                axes.sharey(first)
                axes.tick_params(labelleft=False)
        below = grid[-1, column]
        if kind != "contextual":
            _draw_words(below, found, kind, lambda each: each.mean_norm)
            _from_zero(below)
            below.set_ylabel(f"length of the shift\n({_UNITS[kind]})")
        elif "log_ratio" in found.kinds:
            _draw_words(below, found, "log_ratio", lambda each: each.defined_share)
            below.set_ylim(0, 1)
            below.yaxis.set_major_formatter(PercentFormatter(1))
            below.set_ylabel("dimensions in which\nlog_ratio is defined")
        else:
            below.set_axis_off()
        below.set_xlabel("layer")
        below.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        below.set_xlim(found.layers[0] - 0.3, found.layers[-1] + 0.3)
    for (axes, *_), name in zip(grid, cosines, strict=False):
        axes.set_ylabel(f"{name}\n(mean cosine)")
        _from_zero(axes)
    _finish(figure, found, path)


def _cosines(found: Trends) -> dict[str, _Value]:
    """Return the mean cosines to plot, a row of panels each; the second needs stores that keep all words."""
    cosines: dict[str, _Value] = {"self-similarity": lambda each: each.self_similarity}
    if found.selection is None:
        cosines["intra-sentence similarity"] = lambda each: each.intra_sentence_similarity
    return cosines


def _finish(figure: Figure, found: Trends, path: Path) -> None:
    for axes in figure.axes:
        axes.grid(color="0.9", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    columns = -(-len(handles) // _LEGEND_ROWS)
    legend = figure.legend(handles, labels, loc="outside right upper", ncols=columns, frameon=False)
    legend.set_title(f"{Path(found.model).name}\n{found.rows:,} rows")
    with warnings.catch_warnings(record=True) as caught:
        figure.savefig(path, dpi=150)
    if any("Glyph" in str(each.message) for each in caught):
        log.warning("%s: the font of the plot cannot show some letters", path)


def _draw_words(axes: Axes, found: Trends, kind: str, value: _Value) -> None:
    for number, trend in enumerate(found.trends):
        style: dict[str, Any] = {
            "color": _COLORS[number % len(_COLORS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "linestyle": _DASHES[number % len(_DASHES)],
        }
        layers, values = _points(trend, kind, value)
        axes.plot(layers, values, label=_label(found, trend), markersize=5, linewidth=1.5, **style)


def _draw_random(axes: Axes, found: Trends, kind: str) -> None:
    if not found.baseline_rows:
        return
    layers, values = _points(found.trends[0], kind, lambda each: each.random_similarity)
    axes.plot(layers, values, label="random pairs (baseline)", color="0.45", marker=".", ls=":", linewidth=2)


def _from_zero(axes: Axes) -> None:
    """Let the scale begin at 0, or lower if a value is negative, and leave room above the highest."""
    low, high = axes.get_ylim()
    low = min(0, low)
    axes.set_ylim(low, high + 0.05 * (high - low))


def _points(trend: Trend, kind: str, value: _Value) -> tuple[list[int], list[float]]:
    points = [(each.layer, value(each)) for each in trend.measures if each.kind == kind]
    shown = [(layer, number) for layer, number in points if number is not None]
    return [layer for layer, _ in shown], [number for _, number in shown]


def _label(found: Trends, trend: Trend) -> str:
    if found.eligible_words is not None:
        return f"mean of {len(trend.words)} words"
    # matplotlib would read text between two dollar signs as a formula.
    return f"{trend.words[0]} (n = {trend.occurrences:,})".replace("$", r"\$")
