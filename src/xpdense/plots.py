"""Pictures of a training, through matplotlib's object interface: no window, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_NO_CURVE = ("learning_rate", "seconds", "rows_per_second")


def plot_history(history: Mapping[str, Sequence[float]], path: str | Path | None = None) -> Any:
    """Loss and metrics over the epochs, each with its validation curve in the same panel.

    Returns the Figure; writes it to `path` where one is given.
    """
    names = [n for n in history if n not in _NO_CURVE]
    panels = list(dict.fromkeys(n.removeprefix("validation_") for n in names))
    figure = Figure(figsize=(5.5 * len(panels), 3.6), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name, label, style in ((panel, "training", "C0-"), (f"validation_{panel}", "validation", "C1--")):
            if name in history:
                values = history[name]
                marker = "o" if len(values) == 1 else ""
                axes.plot(range(1, len(values) + 1), values, style, label=label, linewidth=1.8, marker=marker)
        if panel == "loss" and min(v for n in names if n.removeprefix("validation_") == "loss" for v in history[n]) > 0:
            axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_ylabel(panel.replace("_", " "))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
