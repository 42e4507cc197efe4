"""Candidates: causes that a signal suggests, each with the change that removes it; experiments test them elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..layers import Dropout
from ..network import Network
from ..schedules import Constant, Schedule
from . import advice
from .architecture import Architecture
from .findings import Finding
from .gradients.chain import DenseLayer
from .program import NetworkProgram, Subject
from .sound import standardised
from .task import Task
from .trial import Params, Setting

Cure = Callable[[Setting], Setting]


@dataclass(frozen=True)
class Candidate:
    """A possible cause, and the change that removes it.

    Attributes
    ----------
    finding : Finding
        Without the numbers that an experiment measures.
    cure : callable, optional
        (setting) -> the setting without the cause; None if the cause is in the program's source.
    proven : bool
        Whether the signal is a proof.
    """

    finding: Finding
    cure: Cure | None
    proven: bool = False


def candidate(cause: str, where: str, evidence: str, fix: str, confidence: float, cure: Cure | None,
              change: dict[str, Any] | None = None, proven: bool = False) -> Candidate:
    """Return a candidate with a finding of these fields."""
    return Candidate(Finding(cause, where, evidence, None, None, fix, confidence, change or {}), cure, proven)


def cured(setting: Setting, chosen: Iterable[Candidate]) -> Setting:
    """Return the setting without the causes of these candidates, as far as they can be removed."""
    for one in chosen:
        if one.cure is not None:
            setting = one.cure(setting)
    return setting


# --- data ----------------------------------------------------------------------------------------------------------

def data_candidates(setting: Setting, task: Task) -> list[Candidate]:
    """Return candidates among the features, the targets and the order of the rows; all values must be finite."""
    found = [_constant(setting), _unscaled(setting), _unscaled_target(setting, task), imbalance(setting, task),
             _order(setting, task), _small_batch(setting)]
    return [one for one in found if one is not None]


def nonfinite(setting: Setting) -> Candidate | None:
    """Return a candidate for NaN or infinity; its cure drops the rows, or the columns if most rows are affected."""
    bad = ~np.isfinite(np.asarray(setting.x, np.float64))
    target = ~np.all(np.isfinite(np.asarray(setting.y, np.float64).reshape(len(setting.y), -1)), axis=1)
    rows, columns = np.flatnonzero(bad.any(axis=1) | target), np.flatnonzero(bad.any(axis=0))
    if not len(rows):
        return None
    by_column = len(rows) > len(bad) // 2 and not target.any()

    def drop_rows(s: Setting) -> Setting:
        usable = s.mask().copy()
        usable[rows] = False
        y = np.array(s.y)
        if target.any():
            y[target] = y[~target][0]
        return replace(s, x=np.where(bad, 0.0, s.x).astype(s.x.dtype), y=y, usable=usable)
    return candidate(
        "nonfinite_input", ", ".join(["column " + _listed(columns)] * (len(columns) > 0) + ["y"] * bool(target.any())),
        f"{len(rows)} of {len(bad)} rows have NaN or infinite values, {int(bad.sum()) + int(target.sum())} in all.",
        f"Leave the {'columns' if by_column else 'rows'} out, or fill missing values with the column's median.", 1.0,
        _without_columns(columns) if by_column else drop_rows,
        {"drop_columns": columns.tolist()} if by_column else {"drop_rows": rows.tolist()}, proven=True)


def overflowing(setting: Setting) -> Candidate | None:
    """Return a candidate for features so large that every product with them overflows."""
    columns = np.flatnonzero(np.abs(setting.x).max(axis=0) > 1e30)
    if not len(columns):
        return None
    return candidate("features_unscaled", f"column {_listed(columns)}", f"Values reach {np.abs(setting.x).max():.3g}: "
                     "products with them overflow.", advice.STANDARDISE, 1.0, _standardise, {"standardise": "X"}, True)


def _standardise(s: Setting) -> Setting:
    return replace(s, x=standardised(s.x, s.usable))


def _without_columns(columns: np.ndarray) -> Cure:
    """Return a cure that sets columns to 0."""
    return lambda s: replace(s, x=np.where(np.isin(np.arange(s.x.shape[1]), columns), 0.0, s.x).astype(s.x.dtype))


def _usable(setting: Setting) -> np.ndarray:
    return np.asarray(setting.x[setting.mask()], np.float64)


def _constant(setting: Setting) -> Candidate | None:
    x = _usable(setting)
    large = np.flatnonzero((np.ptp(x, axis=0) == 0) & (np.abs(x[0]) > 10.0))
    if not len(large) or len(large) == x.shape[1]:
        return None
    value = float(np.max(np.abs(x[0][large])))
    return candidate("constant_feature", f"column {_listed(large)}", f"The value is {value:.4g} in every row: the "
                     f"column acts as a bias whose gradient is {value:.4g} times as large.", "Leave the column out.",
                     0.9, _without_columns(large), {"drop_columns": large.tolist()})


def _unscaled(setting: Setting) -> Candidate | None:
    x = _usable(setting)
    varying = np.ptp(x, axis=0) > 0
    if not varying.any():
        return None
    size, std = np.sqrt(np.mean(x * x, axis=0))[varying], x.std(axis=0)[varying]
    numbers = np.flatnonzero(varying)
    odd = (size > 3.0) | (size < 0.3) | (size > 5.0 * std)
    if not odd.any():
        return None
    worst = int(np.argmax(np.abs(np.log(size)) + np.log(size / std)))
    return candidate("features_unscaled", f"column {_listed(numbers[odd])}", f"{int(odd.sum())} of {x.shape[1]} "
                     f"columns are far from mean 0 and standard deviation 1: column {numbers[worst]} has mean "
                     f"{x[:, numbers[worst]].mean():.4g} and standard deviation {std[worst]:.4g}.", advice.STANDARDISE,
                     0.9, _standardise, {"standardise": "X"})


def _unscaled_target(setting: Setting, task: Task) -> Candidate | None:
    if task.classes:
        return None
    mean, std = task.truth.mean(axis=0), task.truth.std(axis=0)
    if np.all(std <= 3.0) and np.all(std >= 0.3) and np.all(np.abs(mean) <= 3.0 * np.maximum(std, 1.0)):
        return None
    scale = np.where(std > 0, std, 1.0)

    def cure(s: Setting) -> Setting:
        y = np.asarray(s.y, np.float64).reshape(len(s.y), -1)
        kind = s.y.dtype if s.y.dtype.kind == "f" else np.float64
        return replace(s, y=((y - mean) / scale).reshape(s.y.shape).astype(kind), offset=mean, scale=scale)
    return candidate("target_unscaled", "y", f"Its mean is {mean[0]:.4g} and its standard deviation {std[0]:.4g}, "
                     "while initial predictions are near 0 and updates are proportional to the error.",
                     "Standardise the target, and scale predictions back.", 0.9, cure, {"standardise": "y"})


def imbalance(setting: Setting, task: Task) -> Candidate | None:
    """Return a candidate for a rare class."""
    if not task.classes:
        return None
    counts = np.bincount(task.truth, minlength=task.classes)
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.min() * len(counts) > 0.4 * counts.sum():
        return None
    return candidate("class_imbalance", "y", f"The rarest class has {counts.min()} of {counts.sum()} rows, the most "
                     f"frequent {counts.max()}.", "Weight the classes (class_weight='balanced'), or draw them equally "
                     "often.", 0.85, lambda s: replace(s, balance=True), {"balance": True})


def _order(setting: Setting, task: Task) -> Candidate | None:
    if setting.shuffle:
        return None
    strata = task.strata()
    same = float(np.mean(strata[1:] == strata[:-1]))
    frequencies = np.bincount(strata) / len(strata)
    expected = float(np.sum(frequencies * frequencies))
    if same < expected + 0.5 * (1.0 - expected):
        return None
    return candidate("not_shuffled", "order of the rows", f"{same:.0%} of neighbouring rows have the same class, and "
                     f"in random order {expected:.0%}: a batch is not representative of the data.",
                     "Shuffle the rows in each epoch.", 0.95, lambda s: replace(s, shuffle=True), {"shuffle": True})


def _small_batch(setting: Setting) -> Candidate | None:
    size = setting.batch_size
    if size > 4 or len(setting.x) < 100:
        return None
    return candidate("batch_too_small", "batch", f"A batch has {size} row{'s' if size > 1 else ''}: its gradient is "
                     "mostly noise.", "Use batches of 32 rows.", 0.85, lambda s: replace(s, batch_size=32),
                     {"batch_size": 32})


# --- initial weights -----------------------------------------------------------------------------------------------

def weight_candidates(setting: Setting, architecture: Architecture) -> list[Candidate]:
    """Return candidates among the initial weights and biases."""
    params, found = setting.subject.params(), list[Candidate]()
    layers, hidden = architecture.layers, architecture.layers[:-1]
    scales = {layer.weight: float(np.sqrt(np.mean(layer.matrix(params) ** 2) * layer.inputs)) for layer in layers}
    largest = 4.0 if len(hidden) < 5 else 8.0  # in a deep network the product over the layers is tested instead
    same = [layer.weight for layer in layers if layer.units > 1 and np.ptp(layer.vector(params)) == 0 and np.all(
        np.ptp(layer.matrix(params), axis=1) <= 1e-9 * np.abs(layer.matrix(params)).max())]
    large = [w for w, s in scales.items() if s > largest and w not in same]
    small = [w for w, s in scales.items() if 0.0 < s < 0.15 and w not in same]
    shifted = [layer for layer in hidden if layer.weight not in [*large, *small, *same]
               and abs(layer.matrix(params).mean()) > 0.6 * layer.matrix(params).std()]
    for cause, names in (("init_too_large", large), ("init_too_small", small)):
        if names:
            ratios = ", ".join(f"{scales[n]:.3g}" for n in names)
            found.append(candidate(cause, ", ".join(names), f"The weights are {ratios} times the size that preserves "
                                   "the size of the signal.", advice.INITIALIZE, 0.95, _redraw(architecture, names),
                                   {"redraw": names}))
    if not large and not small and len(hidden) > 2:
        gains = [scales[layer.weight] / (2.0 if architecture.rectifies(layer) else 1.0) ** 0.5 for layer in hidden]
        total, names = float(np.prod(gains)), [layer.weight for layer in hidden]
        if total > 20.0 or total < 0.05:
            found.append(candidate(
                "gradient_exploding" if total > 1 else "gradient_vanishing", ", ".join(names), "The layers change the "
                "size of signals, and of gradients on the way back, by "
                f"{', '.join(f'{g:.2g}' for g in gains)}: {total:.3g} times in all.",
                f"{advice.INITIALIZE} Or normalise between layers.", 0.9, _redraw(architecture, names),
                {"redraw": names}))
    if any(layer.weight in same for layer in hidden):  # the last layer alone may well start at zero
        found.append(candidate("init_symmetric", ", ".join(same), "All units of the layer have the same weights: they "
                               "get the same gradients and stay equal.", "Draw the weights at random.", 0.97,
                               _redraw(architecture, same), {"redraw": same}))
    inactive = architecture.inactive_units(setting.subject, setting.x[setting.mask()], setting.y[setting.mask()])

    def inactive_units(at: list[DenseLayer], where: list[str], what: str, fix: str, key: str, cure: Cure) -> Candidate:
        dead = architecture.rectifies(at[0])
        fraction = max((inactive.get(layer.weight, 0.0) for layer in at), default=0.0)
        state = "give no gradient for any row" if dead else "are saturated"
        return candidate("dead_relu" if dead else "saturated_units", ", ".join(where),
                         f"{what}: {fraction:.0%} of the units {state}.", fix, 0.9, cure, {key: where})
    offsets = [layer for layer in hidden if layer.bias is not None and np.abs(layer.vector(params)).mean() > 1.5]
    if offsets:
        names = [layer.bias for layer in offsets if layer.bias is not None]
        means = ", ".join(f"{layer.vector(params).mean():.3g}" for layer in offsets)
        found.append(inactive_units(offsets, names, f"The mean of the initial biases is {means}",
                                    "Start with biases of zero.", "zero", _zero(names)))
    if shifted:
        names = [layer.weight for layer in shifted]
        found.append(inactive_units(shifted, names, "Most weights have the same sign", "Draw weights of mean zero.",
                                    "redraw", _redraw(architecture, names)))
    return found


def _redraw(architecture: Architecture, names: list[str]) -> Cure:
    def cure(s: Setting) -> Setting:
        rng, values = np.random.default_rng(19), dict[str, np.ndarray]()
        params = s.subject.params()
        for layer in architecture.layers:
            if layer.weight in names:
                gain = 2.0 if architecture.rectifies(layer) else 1.0
                matrix = rng.standard_normal((layer.inputs, layer.units)) * np.sqrt(gain / layer.inputs)
                values[layer.weight] = layer.as_weight(matrix).astype(params[layer.weight].dtype)
                if layer.bias is not None and np.abs(params[layer.bias]).max() > 1.0:
                    values[layer.bias] = np.zeros_like(params[layer.bias])
        return _with_params(s, values)
    return cure


def _zero(names: list[str]) -> Cure:
    return lambda s: _with_params(s, {name: np.zeros_like(s.subject.params()[name]) for name in names})


def _with_params(setting: Setting, values: Params) -> Setting:
    """Return the setting with other initial values of some parameters."""
    subject = setting.subject.copy()
    subject.write(values)
    return replace(setting, subject=subject)


# --- hyperparameters -----------------------------------------------------------------------------------------------

_ATTRIBUTES = {"dropout": re.compile(r"drop(?!_?(last|columns|rows))", re.IGNORECASE),
               "weight_decay": re.compile(r"decay|(^|_)(l2|lambda|lmbda|wd|alpha|reg)", re.IGNORECASE)}


def hyperparameter_candidates(setting: Setting, least: float = 0.3) -> list[Candidate]:
    """Return candidates for dropout above `least` and for weight decay.

    For a network of this package they are properties of its layers and optimizer, for another program attributes with
    such names.
    """
    program = setting.subject.program
    return _of_network(program, least) if isinstance(program, NetworkProgram) else _of_attributes(program, least)


def _of_network(program: NetworkProgram, least: float) -> list[Candidate]:
    found = []
    layers = [(name, layer) for name, layer in program.network.named_layers()
              if isinstance(layer, Dropout) and layer.rate > least]
    if layers:
        rates = ", ".join(f"{layer.rate:g}" for _, layer in layers)
        found.append(candidate(
            "dropout_too_strong", ", ".join(name for name, _ in layers), f"The layer drops {rates} of the units in "
            "each step.", "Use a rate of 0.2, or remove the layer.", 0.9, lambda s: with_layers(
                s, lambda layer: Dropout(0.0) if isinstance(layer, Dropout) else layer), {"dropout": 0.0}))
    decay = program.optimizer.weight_decay + program.optimizer.penalty
    if decay > 1e-4:
        found.append(candidate(
            "weight_decay_too_strong", "optimizer", f"Weight decay and L2 penalty together are {decay:g}.",
            "Use a tenth or a hundredth of it, or 0.", 0.9, lambda s: _with_optimizer(
                s, weight_decay=0.0, penalty=0.0, reported_penalty=0.0), {"weight_decay": 0.0}))
    return found


def _of_attributes(program: Any, least: float) -> list[Candidate]:
    found = []
    for name, value in _attributes(program).items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not value > 0:
            continue
        for key, words in _ATTRIBUTES.items():
            if words.search(name) and (key != "dropout" or least < value < 1):
                def cure(s: Setting, name: str = name) -> Setting:
                    subject = s.subject.copy()
                    setattr(subject.program, name, 0.0)
                    return replace(s, subject=subject)
                found.append(candidate(f"{key}_too_strong", name, f"Its value is {float(value):g}.",
                                       f"Use a much smaller {name}, or 0.", 0.9, cure, {key: 0.0}))
    return found


def _attributes(program: Any) -> dict[str, Any]:
    """Return the attributes of the object and its classes by name, without evaluating properties."""
    found: dict[str, Any] = {}
    for cls in reversed(type(program).__mro__):
        found |= vars(cls)
    return dict(sorted((found | getattr(program, "__dict__", {})).items()))


def with_layers(setting: Setting, change: Callable[[Any], Any], keep: bool = True) -> Setting:
    """Return the setting of a network of this package with changed layers.

    With `keep`, parameters of unchanged shape keep their values.
    """
    network = setting.subject.program.network
    other = Network([change(layer) for layer in network.layers], network.inputs, network.backend.name, network.dtype,
                    network.seed, network.precision, network.ops_wanted)
    values = network.arena.to_host()
    for name, parameter in other.arena.declared.items():
        if keep and name in values and values[name].shape == parameter.shape:
            other.arena.write(name, values[name])
    other.arena.refresh()
    old = setting.subject.program
    return replace(setting, subject=Subject(NetworkProgram(other, old.chosen, old.optimizer, old.total)))


def _with_optimizer(setting: Setting, **attributes: Any) -> Setting:
    """Return the setting of a network of this package with changed attributes of its optimizer."""
    old, optimizer = setting.subject.program, setting.subject.copy().program.optimizer
    for name, value in attributes.items():
        setattr(optimizer, name, value)
    return replace(setting, subject=Subject(NetworkProgram(old.network, old.chosen, optimizer, old.total)))


# --- precision -----------------------------------------------------------------------------------------------------

def precision_candidates(setting: Setting) -> list[Candidate]:
    """Return a candidate for parameters of 16 bits."""
    params = setting.subject.params()
    half = [name for name, value in params.items() if value.dtype.itemsize < 4]
    if not half or setting.subject.network is not None:
        return []

    def cure(s: Setting) -> Setting:
        subject = s.subject.copy()
        for name in half:
            subject.program.params[name] = np.asarray(subject.program.params[name], np.float64)
        for name, value in vars(subject.program).items():
            if isinstance(value, (type, np.dtype, str)) and value in (np.float16, np.dtype("float16"), "float16"):
                setattr(subject.program, name, type(value)("float64") if not isinstance(value, type) else np.float64)
        x = s.x.astype(np.float64) if s.x.dtype.itemsize < 4 else s.x
        return replace(s, subject=subject, x=x)
    return [candidate("precision_underflow", ", ".join(half), "It is computed in 16 bits: numbers below 6e-8 become "
                      "zero, above 65504 infinite.", "Compute in float32 or float64.", 0.9, cure, {"dtype": "float64"})]


# --- updates -------------------------------------------------------------------------------------------------------

FACTORS = (0.1, 0.01, 10.0, 100.0, 0.001, 1000.0, 1e-4, 1e4)


def learning_rate(factor: float) -> Candidate:
    """Return a candidate for another learning rate, by scaled updates if the program is no network of this package."""
    def update(before: Params, after: Params, batch: np.ndarray) -> Params:
        return {n: before[n] + (factor * (after[n] - before[n])).astype(before[n].dtype, copy=False) for n in before}

    def cure(s: Setting) -> Setting:
        program = s.subject.program
        if not isinstance(program, NetworkProgram):
            return replace(s, updates=(*s.updates, update))
        return _with_optimizer(s, learning_rate=_Scaled(program.optimizer.learning_rate, factor))
    return candidate("learning_rate_too_high" if factor < 1.0 else "learning_rate_too_low", "learning rate",
                     f"It learns with updates of {factor:g} times the size.", f"Use {factor:g} times the "
                     "learning rate.", 0.9, cure, {"learning_rate_factor": factor})


class _Scaled(Schedule):
    """A schedule times a factor."""

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: int, total: int) -> float:
        return self.factor * self.schedule(step, total)


def held_rate(setting: Setting, start: Subject, trained: Subject) -> list[Candidate]:
    """Return a candidate for updates that shrink relative to the gradient, as with a schedule that falls too early."""
    program = setting.subject.program
    if isinstance(program, NetworkProgram):
        schedule = program.optimizer.learning_rate
        first, later = float(schedule(0, program.total)), float(schedule(program.total // 5, program.total))

        def cure(s: Setting) -> Setting:
            return _with_optimizer(s, learning_rate=Constant(first))
    else:
        first, later = (_relative_update(setting, subject.copy()) for subject in (start, trained))

        def cure(s: Setting) -> Setting:
            constant = s.start()

            def update(before: Params, after: Params, batch: np.ndarray) -> Params:
                constant.write(before)
                gradient = constant.gradients(s.x[batch], s.y[batch])
                return {n: before[n] - (first * gradient[n]).astype(before[n].dtype) for n in before}
            return replace(s, updates=(*s.updates, update))
    if not later < 0.05 * first or not np.isfinite([first, later]).all():
        return []
    return [candidate("plateau", "learning rate", "The loss stops falling because the updates shrink: relative to the "
                      f"gradient they fall to {later / first:.2g} of their initial size.", "Keep the learning rate for "
                      "longer, or let it fall to no less than a tenth.", 0.85, cure,
                      {"hold_rate": True} if isinstance(program, NetworkProgram) else None)]


def _relative_update(setting: Setting, subject: Subject) -> float:
    """Return the norm of an update on the first batch over that of the gradient."""
    rows, before = np.arange(min(setting.batch_size, len(setting.x))), subject.params()
    x, y = setting.x[rows], setting.y[rows]  # copies
    gradient = setting.gradients(before, x, y) if setting.gradients else subject.gradients(x, y)
    subject.step(x, y)
    return _norm(subject.params(), before) / max(_norm(gradient), 1e-300)


def _norm(values: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray] | None = None) -> float:
    return float(np.sqrt(sum(np.sum((v - (other[n] if other else 0.0)) ** 2.0) for n, v in values.items())))


def _listed(numbers: np.ndarray) -> str:
    """Return the first five numbers, and how many more there are."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(str(n) for n in numbers[:5]) + more
