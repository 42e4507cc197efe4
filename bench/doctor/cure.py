"""A finding's change carried out: a case as it is after the user did what the doctor says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import xpdense as xd

from . import ours
from .cases import Built, Case, build
from .faults import FAULTS


def cured(case: Case, findings: list[dict[str, Any]]) -> Built | None:
    """The case with the cures of these findings; None where one of them has none that is right.

    A finding without a change has its cure in the source: where its cause and place are right, just that fault goes.
    """
    before, override, rest = build(case), dict[str, Any](), list[dict[str, Any]]()
    for finding in findings:
        change = dict(finding["change"])
        if not change:
            fault = matching(case, before, finding)
            if fault is None:
                return None
            case = case.without(fault)
        for key in ("activation", "hidden"):
            if key in change:
                override[key] = tuple(change.pop(key)) if key == "hidden" else change.pop(key)
        rest.append(change)
    built = build(replace(case, override=override))
    for change in rest:
        for key, value in change.items():
            CHANGES[key](built, value)
    return built


def named(finding: dict[str, Any]) -> set[str]:
    return {word.strip() for word in finding["where"].split(",")}


def matching(case: Case, built: Built, finding: dict[str, Any]) -> str | None:
    """The fault of the case that the finding names, with its place where it has one."""
    for name in case.faults:
        where = built.where(FAULTS[name])
        if FAULTS[name].cause == finding["cause"] and (not where or where & named(finding)):
            return name
    return None


# --- one function for each change ----------------------------------------------------------------------------------

def _rate(built: Built, factor: float) -> None:
    if built.optimizer is None:
        built.program.learning_rate *= factor
    else:
        built.optimizer.learning_rate = ours.Scaled(built.optimizer.learning_rate, factor)


def _standardise(built: Built, what: str) -> None:
    """By the training rows; what is not finite is left as it is."""
    if what == "y":
        built.offset, built.scale = float(np.mean(built.y)), float(np.std(built.y)) or 1.0
        built.y = (built.y - built.offset) / built.scale
        return
    finite = np.where(np.isfinite(built.x), built.x, np.nan)
    mean, scale = np.nanmean(finite, axis=0), np.nanstd(finite, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    built.x, built.x_test = (built.x - mean) / scale, (built.x_test - mean) / scale


def _redraw(built: Built, names: list[str]) -> None:
    """By He before a rectifier, else by Glorot; biases are zero."""
    rng = np.random.default_rng([built.case.seed, 9])
    weights, _ = built.tensors()
    for name in names:
        value = built.program.params[name]
        if value.ndim < 2:
            value[...] = 0.0
            continue
        inputs, units = value.shape
        rectifier = built.spec.activation in ("relu", "leaky_relu") and name != weights[-1]
        value[...] = rng.standard_normal(value.shape) * np.sqrt(2 / inputs if rectifier else 2 / (inputs + units))


def _zero(built: Built, names: list[str]) -> None:
    for name in names:
        built.program.params[name][...] = 0.0


def _balance(built: Built, _: Any) -> None:
    """Rows of rarer classes again and again, until every class has as many."""
    classes = built.y if built.y.ndim == 1 else built.y[:, 0] if built.y.shape[1] == 1 else built.y.argmax(axis=1)
    present, counts = np.unique(classes, return_counts=True)
    rng = np.random.default_rng([built.case.seed, 10])
    rows = np.concatenate([np.resize(np.flatnonzero(classes == c), counts.max()) for c in present])
    rows = rng.permutation(rows)
    built.x, built.y = built.x[rows], built.y[rows]


def _drop_rows(built: Built, rows: list[int]) -> None:
    built.x, built.y = np.delete(built.x, rows, axis=0), np.delete(built.y, rows, axis=0)


def _drop_columns(built: Built, columns: list[int]) -> None:
    """Set to zero, in which the network's first layer sees nothing."""
    built.x, built.x_test = built.x.copy(), built.x_test.copy()
    built.x[:, columns] = built.x_test[:, columns] = 0.0


def _decay(built: Built, value: float) -> None:
    target = built.program if built.optimizer is None else built.optimizer
    target.weight_decay = value


def _dropout(built: Built, value: float) -> None:
    if built.optimizer is None:
        built.program.dropout = value
    else:
        for _, layer in built.program.named_layers():
            if isinstance(layer, xd.Dropout):
                layer.rate = value


def _dtype(built: Built, dtype: str) -> None:
    program = built.program
    if built.optimizer is not None:
        made = xd.DenseNetwork(program.layers, program.inputs, dtype=dtype, seed=program.seed)
        for name, value in program.params.items():
            made.params[name][...] = value
        built.program = made
        return
    program.dtype = dtype
    for values in (program.params, program.velocity):
        for name, value in values.items():
            values[name] = value.astype(dtype)


def _hold(built: Built, _: Any) -> None:
    built.optimizer.learning_rate = xd.Constant(built.optimizer.learning_rate(0, 1000))


def _set(name: str) -> Any:
    return lambda built, value: setattr(built, name, value)


CHANGES = {
    "learning_rate_factor": _rate, "standardise": _standardise, "redraw": _redraw, "zero": _zero,
    "batch_size": _set("batch_size"), "epochs": _set("epochs"), "shuffle": _set("shuffle"), "balance": _balance,
    "drop_rows": _drop_rows, "drop_columns": _drop_columns, "weight_decay": _decay, "dropout": _dropout,
    "dtype": _dtype, "hold_rate": _hold,
}
