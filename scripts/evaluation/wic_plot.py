"""The plot of wic: ROC AUC against layer, and the shifts against contextual. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_LOOK = {  # marker, line, a colour of those that the colour-blind can tell apart
    "contextual": ("o", "-", "#000000"),
    "log_ratio": ("v", ":", "#d55e00"),
    "asinh": ("s", "--", "#0072b2"),
    "difference": ("D", "-.", "#009e73"),
}


def plot(path: Path, facts: Mapping[str, Any]) -> None:
    """Draw AUC against layer, and what the shifts are above contextual, with their intervals."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    _draw(left, facts["layers"], tuple(_LOOK), ("auc", "interval"))
    _draw(right, facts["layers"], tuple(_LOOK)[1:], ("more", "more_interval"))
    left.axhline(facts["static"]["auc"], color="0.5", linewidth=1)
    right.axhline(0, color=_LOOK["contextual"][2], linewidth=1.5)
    for axes, name, height in ((left, "static", facts["static"]["auc"]), (right, "contextual", 0)):
        axes.text(1.01, height, name, transform=axes.get_yaxis_transform(), va="center", fontsize=9)
        axes.set(xlabel="layer", xticks=list(facts["layers"]))
        axes.margins(x=0.08)
        axes.grid(axis="y", color="0.9")
    left.set(title="Same sense or not, told by cosine", ylabel="ROC AUC")
    right.set(title="The shift against contextual, paired", ylabel="difference of ROC AUC at the same layer")
    name = Path(facts["model"]).name
    figure.suptitle(f"{facts['pairs']:,} word-in-context pairs, {name}, intervals of 95 %")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, handlelength=4
    )
    figure.savefig(path, dpi=150)


def _draw(
    axes: Axes,
    layers: Mapping[int, Any],
    kinds: Sequence[str],
    names: tuple[str, str],
) -> None:
    for number, kind in enumerate(kinds):
        beside = (number - (len(kinds) - 1) / 2) * 0.1  # so that bars can be told apart
        values = np.array([found[kind][names[0]] for found in layers.values()])
        low, high = np.array([found[kind][names[1]] for found in layers.values()]).T
        marker, line, color = _LOOK[kind]
        axes.errorbar(
            np.array(list(layers)) + beside,
            values,
            np.maximum(0, [values - low, high - values]),
            marker=marker,
            linestyle=line,
            color=color,
            elinewidth=1,
            capsize=2.5,
            label=kind,
        )
