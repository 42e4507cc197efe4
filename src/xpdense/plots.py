"""Figures of a training, made with matplotlib's object interface: no window, no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_NO_CURVE = ("learning_rate", "seconds", "rows_per_second")
_INK = "#7d838c"  # legible on white and on black
_COLOURS = ("#c2553a", "#1f8a70", "#4f7cac", "#b08a2e")
_LARGEST = 1e30  # larger values are clipped, since axes overflow
_MOST_LAYERS = 32


def plot_history(history: Mapping[str, Sequence[float]], path: str | Path | None = None) -> Any:
    """Draw the loss and metrics over the epochs, each with its validation curve in the same panel.

    Returns the Figure, and saves it at `path`, if given.

    >>> len(plot_history({"loss": [0.5, 0.2], "accuracy": [0.7, 0.9]}).axes)
    2
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


def plot_losses(losses: Mapping[str, Sequence[float]]) -> Any:
    """Draw curves of losses over the same training, leaving out values that are not finite.

    A cross marks the last value before them. Returns the Figure.

    >>> [line.get_label() for line in plot_losses({"loss": [0.5, 0.2], "other": [0.5, float("nan")]}).axes[0].lines][:2]
    ['loss', 'other (not finite)']
    """
    figure = Figure(figsize=(8.0, 3.2), layout="constrained")
    axes = figure.subplots()
    curves = {name: np.asarray(values, np.float64) for name, values in losses.items()}
    kept = {name: np.where(np.isfinite(v), np.clip(v, -_LARGEST, _LARGEST), np.nan) for name, v in curves.items()}
    for (name, values), colour in zip(kept.items(), _COLOURS * len(kept), strict=False):
        finite = np.isfinite(values)
        label = name if finite.all() and finite.size else f"{name} (not finite)" if finite.size else f"{name} (none)"
        axes.plot(values, color=colour, label=label, linewidth=1.8, marker="o", markersize=3.5)
        last = int(np.argmin(finite)) - 1 if finite.size and not finite.all() else -1
        if last >= 0:
            axes.plot([last], values[[last]], "x", color=colour, markersize=11, markeredgewidth=2.5)
    shown = np.concatenate([v[np.isfinite(v)] for v in kept.values()] or [np.zeros(0)])
    if shown.size and shown.min() > 0:
        axes.set_yscale("log")
    axes.set_xlabel("measurements of the loss, from the first step to the last")
    axes.set_ylabel("loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _quiet(axes)
    if kept:
        axes.legend(frameon=False, labelcolor=_INK)
    return figure


def plot_layers(layers: Mapping[str, Any]) -> Any:
    """Draw a histogram of each tensor's finite values, and print the share of values that are not finite.

    Returns the Figure.

    >>> [axes.get_title() for axes in plot_layers({"dense_1.w": np.arange(6.0), "dense_1.b": np.zeros(2)}).axes]
    ['dense_1.w', 'dense_1.b']
    """
    names = list(layers)[:_MOST_LAYERS]
    columns = min(4, max(1, len(names)))
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(max(2.2 * columns, 3.0), 1.75 * rows + 0.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in panels[len(names):]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        values = np.asarray(layers[name], np.float64).ravel()
        finite = np.clip(values[np.isfinite(values)], -_LARGEST, _LARGEST)
        axes.set_title(name, fontsize=9, color=_INK, parse_math=False)
        _quiet(axes)
        axes.grid(visible=False)
        axes.set_yticks([])
        axes.tick_params(labelsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(3))
        lost, words = (values.size - finite.size) / max(values.size, 1), "" if values.size else "empty"
        if finite.size and np.ptp(finite) <= 1e-9 * np.abs(finite).max() + _LARGEST**-1:
            words = f"each is {finite[0]:.4g}"
        elif finite.size:
            counts, edges = np.histogram(finite, bins=30)
            axes.stairs(counts, edges, fill=True, color=_COLOURS[2])
            axes.set_ylim(0, counts.max() * (1.3 if lost else 1.05))
        if words or not finite.size:
            axes.set_xticks([])
            axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=_INK)
        if lost > 0:
            share = "nothing finite" if lost == 1 else f"{100.0 * lost:.3g} % not finite"
            axes.text(0.5, 0.98, share, transform=axes.transAxes, ha="center", va="top", fontsize=8, color=_COLOURS[0])
    if len(layers) > len(names):
        figure.supxlabel(f"the first {len(names)} of {len(layers)} tensors", fontsize=9, color=_INK)
    return figure


def plot_rates(rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float],
               tried: Mapping[float, float], suggestion: float, path: str | Path | None = None) -> Any:
    """Draw a learning-rate range test and, beside it, the losses that short trainings reached, over the rate.

    Returns the Figure, and saves it at `path`, if given.

    >>> figure = plot_rates([0.1, 1.0], [0.5, 0.9], [0.5, 0.8], {0.1: 0.3, 0.3: 0.4}, suggestion=0.1)
    >>> [axes.get_xlabel() for axes in figure.axes]
    ['learning rate', 'learning rate']
    """
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    test, trained = figure.subplots(1, 2, subplot_kw={"xscale": "log"})
    seen = np.isfinite(losses) & (np.abs(losses) < _LARGEST)
    test.plot(np.asarray(rates)[seen], np.asarray(losses)[seen], color=_INK, alpha=0.35, linewidth=1.0, label="loss")
    test.plot(np.asarray(rates)[seen], np.asarray(smoothed)[seen], color=_COLOURS[2], linewidth=1.8, label="smoothed")
    reached = {rate: loss for rate, loss in sorted(tried.items()) if abs(loss) < _LARGEST}
    trained.plot(list(reached), list(reached.values()), "o-", color=_COLOURS[2], linewidth=1.8,
                 label="after a short training, of rows held out")
    shown = np.asarray(smoothed)[seen]
    if shown.size and np.ptp(shown) > 0:  # without the largest of the losses themselves
        test.set_ylim(shown.min() - 0.1 * np.ptp(shown), shown.max() + 0.1 * np.ptp(shown))
    for axes, title in ((test, "the rate grows with every step"), (trained, "the same rate in every step")):
        axes.axvline(suggestion, color=_COLOURS[1], linestyle="--", linewidth=1.5, label=f"suggested: {suggestion:.2g}")
        axes.set_title(title, fontsize=10, color=_INK)
        axes.set_xlabel("learning rate")
        axes.set_ylabel("loss")
        _quiet(axes)
        axes.legend(frameon=False, labelcolor=_INK, fontsize=9)
    if reached and min(reached.values()) > 0:
        trained.set_yscale("log")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _quiet(axes: Any) -> None:
    """Give axes thin grey lines and labels, legible on white and on black."""
    axes.grid(color=_INK, alpha=0.25, linewidth=0.7)
    axes.tick_params(which="both", colors=_INK)
    for name, spine in axes.spines.items():
        spine.set(color=_INK, linewidth=0.7, visible=name in ("left", "bottom"))
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
