"""Who is suspected, and what would cure: signals nominate a cause here, experiments convict it elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..layers import Dropout
from ..network import Network
from ..schedules import Constant, Schedule
from .anatomy import Anatomy
from .findings import Finding
from .program import NetworkProgram, Subject
from .sound import standardised
from .task import Task
from .trial import Params, Setting


@dataclass(frozen=True)
class Candidate:
    """A cause that a signal names, and the one change that would take it away.

    Attributes
    ----------
    finding : Finding
        Without what an experiment measures.
    cure : callable, optional
        A setting -> the setting without the cause; None where that is in the program's source.
    proven : bool
        Whether the signal is a proof already.
    """

    finding: Finding
    cure: Callable[[Setting], Setting] | None
    proven: bool = False


# --- data ----------------------------------------------------------------------------------------------------------

def of_data(setting: Setting, task: Task) -> list[Candidate]:
    """Suspects in the features, the targets and the order of the rows; values that are not finite are out already."""
    found = [_constant(setting), _unscaled(setting), _unscaled_target(setting, task), imbalance(setting, task),
             _order(setting, task), _small_batch(setting)]
    return [one for one in found if one is not None]


def not_finite(setting: Setting) -> Candidate | None:
    """NaN or infinity among the features or targets; out go the rows, or the columns where most rows are hit."""
    bad = ~np.isfinite(np.asarray(setting.x, np.float64))
    target = ~np.all(np.isfinite(np.asarray(setting.y, np.float64).reshape(len(setting.y), -1)), axis=1)
    rows, columns = np.flatnonzero(bad.any(axis=1) | target), np.flatnonzero(bad.any(axis=0))
    if not len(rows):
        return None
    what = f"{int(bad.sum()) + int(target.sum())} values of {len(rows)} of {len(bad)} rows are NaN or infinite"
    where = ", ".join([*(["column " + _list(columns)] if len(columns) else []), *(["y"] if target.any() else [])])
    if len(rows) > len(bad) // 2 and not target.any():
        change: dict[str, Any] = {"drop_columns": columns.tolist()}
        fix = "Leave the columns out, or fill what is missing by the column's median."

        def cure(s: Setting) -> Setting:
            return replace(s, x=np.where(np.isin(np.arange(s.x.shape[1]), columns), 0.0, s.x).astype(s.x.dtype))
    else:
        change = {"drop_rows": rows.tolist()}
        fix = "Leave the rows out, or fill what is missing by the column's median."

        def cure(s: Setting) -> Setting:
            usable = np.ones(len(s.x), bool) if s.usable is None else s.usable.copy()
            usable[rows] = False
            y = np.array(s.y)
            if target.any():
                y[target] = y[~target][0]
            return replace(s, x=np.where(bad, 0.0, s.x).astype(s.x.dtype), y=y, usable=usable)
    return Candidate(Finding("nonfinite_input", where, f"{what}.", fix=fix, confidence=1.0, change=change), cure, True)


def enormous(setting: Setting) -> Candidate | None:
    """Features whose products overflow, whatever is done with them."""
    columns = np.flatnonzero(np.abs(setting.x).max(axis=0) > 1e30)
    if not len(columns):
        return None
    largest = float(np.abs(setting.x).max())
    return Candidate(
        Finding("features_unscaled", f"column {_list(columns)}",
                f"It reaches {largest:.3g}: products with it overflow.",
                fix="Standardise the features with the training rows' means and deviations.", confidence=1.0,
                change={"standardise": "X"}), lambda s: replace(s, x=standardised(s.x, s.usable)), True)


def _known(setting: Setting) -> np.ndarray:
    return np.asarray(setting.x[setting.mask()], np.float64)


def _constant(setting: Setting) -> Candidate | None:
    x = _known(setting)
    still = np.ptp(x, axis=0) == 0
    large = np.flatnonzero(still & (np.abs(x[0]) > 10.0))
    if not len(large) or len(large) == x.shape[1]:
        return None
    value = float(np.max(np.abs(x[0][large])))
    evidence = (f"It is {value:.4g} in every row: the first layer takes it for a bias whose gradient is {value:.4g} "
                "times as large.")

    def cure(s: Setting) -> Setting:
        keep = ~np.isin(np.arange(s.x.shape[1]), large)
        return replace(s, x=(s.x * keep).astype(s.x.dtype))
    return Candidate(Finding("constant_feature", f"column {_list(large)}", evidence, fix="Leave the column out.",
                             confidence=0.9, change={"drop_columns": large.tolist()}), cure)


def _unscaled(setting: Setting) -> Candidate | None:
    x = _known(setting)
    moving = np.ptp(x, axis=0) > 0
    if not moving.any():
        return None
    size, std = np.sqrt(np.mean(x * x, axis=0))[moving], x.std(axis=0)[moving]
    numbers = np.flatnonzero(moving)
    odd = (size > 3.0) | (size < 0.3) | (size > 5.0 * std)
    if not odd.any():
        return None
    worst = int(np.argmax(np.abs(np.log(size)) + np.log(size / std)))
    evidence = (f"{int(odd.sum())} of {x.shape[1]} columns are far from mean 0 and deviation 1: column "
                f"{numbers[worst]} has mean {x[:, numbers[worst]].mean():.4g} and deviation {std[worst]:.4g}.")
    return Candidate(
        Finding("features_unscaled", f"column {_list(numbers[odd])}", evidence,
                fix="Standardise the features with the training rows' means and deviations.", confidence=0.9,
                change={"standardise": "X"}),
        lambda s: replace(s, x=standardised(s.x, s.usable)))


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
    return Candidate(
        Finding("target_unscaled", "y", f"Its mean is {mean[0]:.4g} and its deviation {std[0]:.4g}, where a network "
                "begins near 0 and its updates have the size of the error.",
                fix="Standardise the target, and scale predictions back.", confidence=0.9,
                change={"standardise": "y"}), cure)


def imbalance(setting: Setting, task: Task) -> Candidate | None:
    """A class of few rows."""
    if not task.classes:
        return None
    counts = np.bincount(task.truth, minlength=task.classes)
    counts = counts[counts > 0]
    if len(counts) < 2 or counts.min() * len(counts) > 0.4 * counts.sum():
        return None
    return Candidate(
        Finding("class_imbalance", "y", f"The rarest class has {counts.min()} of {counts.sum()} rows, the commonest "
                f"{counts.max()}.", fix="Weigh the classes (class_weight='balanced'), or draw each as often.",
                confidence=0.85, change={"balance": True}),
        lambda s: replace(s, balance=True))


def _order(setting: Setting, task: Task) -> Candidate | None:
    if setting.shuffle:
        return None
    strata = task.strata()
    same = float(np.mean(strata[1:] == strata[:-1]))
    share = np.bincount(strata) / len(strata)
    expected = float(np.sum(share * share))
    if same < expected + 0.5 * (1.0 - expected):
        return None
    return Candidate(
        Finding("not_shuffled", "order of the rows", f"Neighbouring rows have the same class in {same:.0%} of all "
                f"cases, by chance they would in {expected:.0%}: a batch does not stand for the data.",
                fix="Draw the order of the rows anew in each epoch.", confidence=0.95, change={"shuffle": True}),
        lambda s: replace(s, shuffle=True))


def _small_batch(setting: Setting) -> Candidate | None:
    if setting.batch_size > 4 or len(setting.x) < 100:
        return None
    return Candidate(
        Finding("batch_too_small", "batch", f"A step is made from {setting.batch_size} "
                f"row{'s' if setting.batch_size > 1 else ''}: its gradient is mostly noise.",
                fix="Take batches of 32 rows.", confidence=0.85, change={"batch_size": 32}),
        lambda s: replace(s, batch_size=32))


# --- the start -----------------------------------------------------------------------------------------------------

def of_weights(setting: Setting, anatomy: Anatomy) -> list[Candidate]:
    """Suspects among the initial weights and biases, layer by layer."""
    params, found = setting.subject.params(), list[Candidate]()
    scales = {link.weight: float(np.sqrt(np.mean(link.matrix(params) ** 2) * link.inputs)) for link in anatomy.chain}
    hidden = anatomy.chain[:-1]
    most = 4.0 if len(hidden) < 5 else 8.0  # in a deep network less is too much already, but of all layers together
    same = [link.weight for link in anatomy.chain if link.units > 1 and np.ptp(link.vector(params)) == 0 and np.all(
        np.ptp(link.matrix(params), axis=1) <= 1e-9 * np.abs(link.matrix(params)).max())]
    large = [w for w, s in scales.items() if s > most and w not in same]
    small = [w for w, s in scales.items() if 0.0 < s < 0.15 and w not in same]
    shifted = [link.weight for link in hidden if link.weight not in [*large, *small, *same]
               and abs(link.matrix(params).mean()) > 0.6 * link.matrix(params).std()]
    for cause, names, text in (
        ("init_too_large", large, "times that of weights that keep the size of what they are given"),
        ("init_too_small", small, "times that of weights that keep the size of what they are given"),
    ):
        if names:
            ratios = ", ".join(f"{scales[n]:.3g}" for n in names)
            found.append(Candidate(
                Finding(cause, ", ".join(names), f"The size of the weights is {ratios} {text}.",
                        fix="Draw weights with a deviation of sqrt(2 / inputs) before ReLU, sqrt(1 / inputs) before "
                        "others.", confidence=0.95, change={"redraw": names}), _redraw(anatomy, names)))
    if not large and not small and len(hidden) > 2:
        gains = [scales[link.weight] / (2.0 if anatomy.rectifies(link) else 1.0) ** 0.5 for link in hidden]
        total, names = float(np.prod(gains)), [link.weight for link in hidden]
        if total > 20.0 or total < 0.05:
            found.append(Candidate(
                Finding("gradient_exploding" if total > 1 else "gradient_vanishing", ", ".join(names),
                        f"From layer to layer signals, and gradients on their way back, change their size by "
                        f"{', '.join(f'{g:.2g}' for g in gains)}: {total:.3g} times in all.",
                        fix="Draw weights with a deviation of sqrt(2 / inputs) before ReLU, sqrt(1 / inputs) before "
                        "others; or normalise between layers.", confidence=0.9, change={"redraw": names}),
                _redraw(anatomy, names)))
    if any(link.weight in same for link in hidden):  # the last layer alone may well begin at zero
        found.append(Candidate(
            Finding("init_symmetric", ", ".join(same), "All units of the layer have the same weights: they get the "
                    "same gradients, and stay one unit.", fix="Draw the weights at random.", confidence=0.97,
                    change={"redraw": same}), _redraw(anatomy, same)))
    units = anatomy.stuck(setting.subject, setting.x[setting.mask()], setting.y[setting.mask()])
    offsets = [link for link in hidden if link.bias is not None and np.abs(link.vector(params)).mean() > 1.5]
    if offsets:
        names = [link.bias for link in offsets if link.bias is not None]
        sizes = ", ".join(f"{link.vector(params).mean():.3g}" for link in offsets)
        found.append(_stuck_units(anatomy, offsets, units, f"Biases begin at {sizes} on average", names,
                                  {"zero": names}, _zero(names), "Begin with biases of zero."))
    if shifted:
        links = [link for link in hidden if link.weight in shifted]
        found.append(_stuck_units(anatomy, links, units, "All weights lie to one side of zero", shifted,
                                  {"redraw": shifted}, _redraw(anatomy, shifted), "Draw weights of mean zero."))
    return found


def _stuck_units(anatomy: Anatomy, links: list[Any], units: Mapping[str, float], what: str, names: list[str],
                 change: dict[str, Any], cure: Callable[[Setting], Setting], fix: str) -> Candidate:
    dead = anatomy.rectifies(links[0])
    cause = "dead_relu" if dead else "saturated_units"
    share = max((units.get(link.weight, 0.0) for link in links), default=0.0)
    state = "give no gradient for any row" if dead else "are at a flat end of their activation"
    return Candidate(Finding(cause, ", ".join(names), f"{what}: {share:.0%} of the units {state}.", fix=fix,
                             confidence=0.9, change=change), cure)


def _redraw(anatomy: Anatomy, names: list[str]) -> Callable[[Setting], Setting]:
    def cure(s: Setting) -> Setting:
        rng, values = np.random.default_rng(19), dict[str, np.ndarray]()
        params = s.subject.params()
        for link in anatomy.chain:
            if link.weight in names:
                gain = 2.0 if anatomy.rectifies(link) else 1.0
                matrix = rng.standard_normal((link.inputs, link.units)) * np.sqrt(gain / link.inputs)
                like = params[link.weight]
                values[link.weight] = (matrix.T if link.transposed else matrix).astype(like.dtype)
                if link.bias is not None and np.abs(params[link.bias]).max() > 1.0:
                    values[link.bias] = np.zeros_like(params[link.bias])
        return written(s, values)
    return cure


def _zero(names: list[str]) -> Callable[[Setting], Setting]:
    return lambda s: written(s, {name: np.zeros_like(s.subject.params()[name]) for name in names})


def written(setting: Setting, values: Params) -> Setting:
    """The setting of a program that begins with other values in some of its parameters."""
    subject = setting.subject.copy()
    subject.write(values)
    return replace(setting, subject=subject)


# --- its own numbers -----------------------------------------------------------------------------------------------

_NUMBERS = {"dropout_too_strong": re.compile(r"drop(?!_?(last|columns|rows))", re.IGNORECASE),
            "weight_decay_too_strong": re.compile(r"decay|(^|_)(l2|lambda|lmbda|wd|alpha|reg)", re.IGNORECASE)}


def of_hyperparameters(setting: Setting, least: float = 0.3) -> list[Candidate]:
    """Dropout above `least` and weight decay: of layers and optimizer, or attributes of a program that are named so."""
    program = setting.subject.program
    return _of_network(program, least) if isinstance(program, NetworkProgram) else _of_attributes(program, least)


def _of_network(program: NetworkProgram, least: float) -> list[Candidate]:
    found, rule = [], program.optimizer
    layers = [(name, layer) for name, layer in program.network.named_layers()
              if isinstance(layer, Dropout) and layer.rate > least]
    if layers:
        def without(s: Setting) -> Setting:
            network = with_layers(s.subject.program.network, lambda layer: Dropout(0.0) if isinstance(layer, Dropout)
                                  else layer)
            return in_network(s, network=network)
        rates = ", ".join(f"{layer.rate:g}" for _, layer in layers)
        found.append(Candidate(
            Finding("dropout_too_strong", ", ".join(name for name, _ in layers), f"It takes away {rates} of the "
                    "units in each step.", fix="Take a rate of 0.2, or none.", confidence=0.9,
                    change={"dropout": 0.0}), without))
    decay = rule.weight_decay + rule.penalty
    if decay > 1e-4:
        def undecayed(s: Setting) -> Setting:
            other = s.subject.copy().program.optimizer
            other.weight_decay = other.penalty = other.reported_penalty = 0.0
            return in_network(s, optimizer=other)
        found.append(Candidate(
            Finding("weight_decay_too_strong", "optimizer", f"Weights are drawn to zero with a strength of {decay:g}.",
                    fix="Take a tenth or a hundredth of it, or none.", confidence=0.9, change={"weight_decay": 0.0}),
            undecayed))
    return found


def _of_attributes(program: Any, least: float) -> list[Candidate]:
    found = []
    for name, value in _attributes(program).items():
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not value > 0:
            continue
        for cause, words in _NUMBERS.items():
            if words.search(name) and (cause != "dropout_too_strong" or least < value < 1):
                def cure(s: Setting, name: str = name) -> Setting:
                    subject = s.subject.copy()
                    setattr(subject.program, name, 0.0)
                    return replace(s, subject=subject)
                key = "dropout" if cause == "dropout_too_strong" else "weight_decay"
                found.append(Candidate(
                    Finding(cause, name, f"It is {float(value):g}.", fix=f"Take a far smaller {name}, or 0.",
                            confidence=0.9, change={key: 0.0}), cure))
    return found


def _attributes(program: Any) -> dict[str, Any]:
    """Those of the object and of its classes, by name; properties are not asked."""
    found: dict[str, Any] = {}
    for cls in reversed(type(program).__mro__):
        found |= vars(cls)
    return dict(sorted((found | getattr(program, "__dict__", {})).items()))


def with_layers(network: Network, change: Callable[[Any], Any], keep: bool = True) -> Network:
    """A network of other layers at the top level, with the same parameters where they have the same shapes."""
    other = Network([change(layer) for layer in network.layers], network.inputs, network.backend.name, network.dtype,
                    network.seed, network.precision, network.ops_wanted)
    values = network.arena.to_host()
    for name, parameter in other.arena.declared.items():
        if keep and name in values and values[name].shape == parameter.shape:
            other.arena.write(name, values[name])
    other.arena.refresh()
    return other


def in_network(setting: Setting, **changed: Any) -> Setting:
    """The setting of a program of this package with another network=, or optimizer=."""
    old = setting.subject.program
    made = NetworkProgram(changed.get("network", old.network), old.chosen, changed.get("optimizer", old.optimizer),
                          old.total)
    return replace(setting, subject=Subject(made))


# --- precision -----------------------------------------------------------------------------------------------------

def of_precision(setting: Setting) -> list[Candidate]:
    """Parameters of 16 bits."""
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
    return [Candidate(Finding("precision_underflow", ", ".join(half), "It is computed in 16 bits: numbers below 6e-8 "
                              "are zero, above 65504 infinite.", fix="Compute in float32 or float64.", confidence=0.9,
                              change={"dtype": "float64"}), cure)]


# --- the updates ---------------------------------------------------------------------------------------------------

FACTORS = (0.1, 0.01, 10.0, 100.0, 0.001, 1000.0, 1e-4, 1e4)


def rate(factor: float) -> Candidate:
    """Another learning rate, whatever the rule: the change that a step makes is scaled."""
    def update(before: Params, after: Params, batch: np.ndarray) -> Params:
        return {n: before[n] + (factor * (after[n] - before[n])).astype(before[n].dtype, copy=False) for n in before}
    def cure(s: Setting) -> Setting:
        program = s.subject.program
        if not isinstance(program, NetworkProgram):
            return replace(s, updates=(*s.updates, update))
        rule = s.subject.copy().program.optimizer
        rule.learning_rate = _Times(rule.learning_rate, factor)
        return in_network(s, optimizer=rule)

    high = factor < 1.0
    return Candidate(
        Finding("learning_rate_too_high" if high else "learning_rate_too_low", "learning rate",
                f"With {factor:g} times the change in each step it learns.",
                fix=f"Take {factor:g} times the learning rate.", confidence=0.9,
                change={"learning_rate_factor": factor}), cure)


class _Times(Schedule):
    """A schedule, times a factor."""

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self.schedule, self.factor = schedule, factor

    def __call__(self, step: int, total: int) -> float:
        return self.factor * self.schedule(step, total)


def held_rate(setting: Setting, start: Subject, trained: Subject) -> list[Candidate]:
    """Steps that become ever smaller than the gradient: a schedule that comes to rest too soon."""
    program = setting.subject.program
    if isinstance(program, NetworkProgram):
        schedule = program.optimizer.learning_rate
        first, later = float(schedule(0, program.total)), float(schedule(program.total // 5, program.total))
        if not later < 0.05 * first:
            return []

        def cure(s: Setting) -> Setting:
            rule = s.subject.copy().program.optimizer
            rule.learning_rate = Constant(first)
            return in_network(s, optimizer=rule)
        ratio = later / first
    else:
        sizes = []
        rows = np.arange(min(setting.batch_size, len(setting.x)))
        for subject in (start.copy(), trained.copy()):
            before = subject.params()
            gradient = setting.gradients(before, setting.x[rows], setting.y[rows]) if setting.gradients \
                else subject.gradients(setting.x[rows], setting.y[rows])
            subject.step(setting.x[rows], setting.y[rows])
            sizes.append(_norm(subject.params(), before) / max(_norm(gradient), 1e-300))
        if not sizes[1] < 0.05 * sizes[0] or not np.isfinite(sizes).all():
            return []
        ratio, wanted = sizes[1] / sizes[0], sizes[0]

        def cure(s: Setting) -> Setting:
            lasting = s.start()

            def update(before: Params, after: Params, batch: np.ndarray) -> Params:
                lasting.write(before)
                gradient = lasting.gradients(s.x[batch], s.y[batch])
                return {n: before[n] - (wanted * gradient[n]).astype(before[n].dtype) for n in before}
            return replace(s, updates=(*s.updates, update))
    return [Candidate(
        Finding("plateau", "learning rate", f"The loss comes to rest because the steps do: they fall to {ratio:.2g} of "
                "their size, next to the gradient.", fix="Hold the learning rate for longer, or let it fall to no less "
                "than a tenth by the end.", confidence=0.85,
                change={"hold_rate": True} if isinstance(program, NetworkProgram) else {}), cure)]


def _norm(values: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray] | None = None) -> float:
    return float(np.sqrt(sum(np.sum((v - (other[n] if other else 0.0)) ** 2.0) for n, v in values.items())))


def _list(numbers: np.ndarray) -> str:
    """The first five, and how many more."""
    more = f" and {len(numbers) - 5} more" if len(numbers) > 5 else ""
    return ", ".join(str(n) for n in numbers[:5]) + more
