"""Cases: a program with its rows, its faults and how it is trained; and what a training of it reaches."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import t

import xpdense as xd
from xpdense.errors import XpdenseError

from . import hand, ours
from .faults import FAULTS, Fault
from .setups import KINDS, ROWS, TASKS, Array, Pair, Rows, Spec, healthy_spec, load, pairs

LOSSES = {"binary": "binary_cross_entropy", "multi": "softmax_cross_entropy", "regression": "squared_error"}
OUTPUTS = {"binary": "sigmoid", "multi": "softmax", "regression": "linear"}
WORST = -1.0
PRICE = float(t.ppf(0.999, 9) * np.sqrt(1.1))  #: standard deviations by which a case's score must be worse


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes
    ----------
    name : str
    kind : "hand" or "ours"
    pair : Pair
    seed : int
    part : "development" or "test"
    faults : tuple of str
    spec : Spec, optional
        For a healthy run: instead of the pair's.
    rows : str
        For a healthy run: what is different with its rows; a name in `setups.ROWS`.
    override : dict
        What a cure changes in the setting, once the faults are in.
    """

    name: str
    kind: str
    pair: Pair
    seed: int
    part: str
    faults: tuple[str, ...] = ()
    spec: Spec | None = None
    rows: str = ""
    override: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        return TASKS[self.pair.data]

    @property
    def causes(self) -> tuple[str, ...]:
        return tuple(FAULTS[name].cause for name in self.faults)

    def without(self, fault: str) -> Case:
        return replace(self, faults=tuple(name for name in self.faults if name != fault))


@dataclass
class Built:
    """What a user has before a training; y_test holds the classes or values as they are scored.

    Attributes
    ----------
    offset, scale : float
        What a cure that standardises y puts between predictions and scores.
    """

    case: Case
    spec: Spec
    program: Any
    x: Array
    y: Array
    x_test: Array
    y_test: Array
    classes: int
    batch_size: int
    epochs: int
    shuffle: bool
    loss: Any = None
    optimizer: Any = None
    offset: float = 0.0
    scale: float = 1.0

    def tensors(self) -> tuple[list[str], list[str]]:
        """Names of the weights and of the biases, from the first layer on."""
        names = list(self.program.params)
        weights = [n for n in names if n.startswith("W") or n.endswith("weight")]
        return weights, [n for n in names if n not in weights]

    def where(self, fault: Fault) -> set[str]:
        """The tensors of which a diagnosis must name one; empty where there are none to name."""
        weights, biases = self.tensors()
        both = list(zip(weights, biases, strict=True))
        return set({"": [], "weights": weights, "biases": biases, "first": both[0], "last": both[-1],
                    "hidden": [n for layer in both[:-1] for n in layer], "all": weights + biases}[fault.where])

    def options(self) -> dict[str, Any]:
        """What `diagnose` is told besides the program and the rows."""
        found = {"batch_size": self.batch_size, "epochs": self.epochs, "shuffle": self.shuffle}
        return found if self.loss is None else found | {"loss": self.loss, "optimizer": self.optimizer}


def optimizer_of(spec: Spec) -> xd.Optimizer:
    rate = ours.Decaying(spec.rate) if "Decaying" in spec.mistakes else spec.rate
    cls = {"sgd": xd.SGD, "momentum": xd.Momentum, "adam": xd.Adam}[spec.optimizer]
    return cls(rate, weight_decay=spec.weight_decay)


def rows_of(case: Case) -> Rows:
    """The rows with the faults that are in them."""
    rows = ROWS[case.rows](load(case.pair.data), case.pair.data, case.seed)
    for name in case.faults:
        if (change := FAULTS[name].data) is not None:
            rows = change(rows, np.random.default_rng([case.seed, list(FAULTS).index(name), 3]))
    return rows


def build(case: Case) -> Built:
    """Make the program and its rows, the same at every call."""
    rows, clean = rows_of(case), load(case.pair.data)
    spec = case.spec or healthy_spec(case.pair, case.kind)
    faults = [FAULTS[name] for name in case.faults]
    if len(rows.x) < len(clean.x):  # as many steps as with all rows
        spec = replace(spec, epochs=min(400, round(spec.epochs * len(clean.x) / len(rows.x))))
    for fault in faults:
        spec = spec if fault.spec is None else fault.spec(spec)
    spec = replace(spec, **case.override)
    outputs = rows.classes if case.task == "multi" else 1
    widths = [rows.x.shape[1], *spec.hidden, outputs]
    y = rows.y if case.task == "multi" else rows.y.astype(float)[:, None]
    for fault in faults:
        y = y if fault.labels is None else fault.labels(y, rows.classes)
    built = Built(case, spec, None, rows.x, y, rows.x_test, rows.y_test, rows.classes, spec.batch_size, spec.epochs,
                  spec.shuffle)
    if case.kind == "hand":
        built.program = hand.build(
            spec.mistakes, widths=widths, activation=spec.activation, output=OUTPUTS[case.task],
            learning_rate=spec.rate, momentum=0.9 if spec.optimizer == "momentum" else 0.0,
            weight_decay=spec.weight_decay, dropout=spec.dropout, dtype=spec.dtype or "float64", seed=case.seed)
    else:
        built.program, built.loss = ours.build(spec.mistakes, widths, spec.activation, case.seed,
                                               spec.dtype or "float32", spec.dropout, LOSSES[case.task])
        built.optimizer = optimizer_of(spec)
    weights, biases = built.tensors()
    for fault in faults:
        if fault.weights is not None:
            fault.weights([built.program.params[n] for n in weights], [built.program.params[n] for n in biases],
                          np.random.default_rng([case.seed, 5]))
    return built


# --- training ----------------------------------------------------------------------------------------------------

def batches(rows: int, batch_size: int, epochs: int, shuffle: bool, seed: int) -> Any:
    """Row numbers of every step."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(epochs):
        order = rng.permutation(rows) if shuffle else np.arange(rows)
        for start in range(0, rows, batch_size):
            yield order[start : start + batch_size]


def fit(built: Built) -> Any:
    """A trained copy of the program."""
    program = copy.deepcopy(built.program)
    if built.loss is not None:
        program.fit(built.x, built.y, loss=built.loss, optimizer=copy.deepcopy(built.optimizer),
                    batch_size=built.batch_size, epochs=built.epochs, shuffle=built.shuffle)
        return program
    for some in batches(len(built.x), built.batch_size, built.epochs, built.shuffle, built.case.seed):
        program.step(built.x[some], built.y[some])
    return program


def train(built: Built) -> tuple[float, str]:
    """The score on the test rows of a trained copy, and what went wrong if something did."""
    with np.errstate(all="ignore"):
        try:
            program = fit(built)
            predicted = np.asarray(program.predict(built.x_test), float).reshape(len(built.x_test), -1)
        except (XpdenseError, ArithmeticError, ValueError, IndexError, TypeError) as error:
            return WORST, f"{type(error).__name__}: {error}"[:200]
    if not np.all(np.isfinite(predicted)):
        return WORST, "predictions are not finite"
    return score(predicted * built.scale + built.offset, built.y_test, built.classes), ""


def score(predicted: Array, y: Array, classes: int) -> float:
    """Balanced accuracy with chance taken out, or R2: 1 is perfect, 0 what a constant gives."""
    if not classes:
        return float(max(WORST, 1 - np.sum((predicted[:, 0] - y) ** 2) / np.sum((y - y.mean()) ** 2)))
    chosen = predicted.argmax(axis=1) if predicted.shape[1] > 1 else (predicted[:, 0] > 0.5).astype(int)
    found = np.mean([np.mean(chosen[y == c] == c) for c in range(classes)])
    return float((found - 1 / classes) / (1 - 1 / classes))


@dataclass(frozen=True)
class Reference:
    """What ten healthy runs of a pair and kind reach."""

    mean: float
    sd: float

    def counts(self, reached: float, error: str) -> bool:
        """Whether a faulty run is significantly worse."""
        return bool(error) or reached < self.mean - max(0.05, PRICE * self.sd)

    def healthy(self, reached: float) -> bool:
        return reached >= self.mean - 2 * self.sd - 0.02

    def restores(self, reached: float) -> bool:
        return reached >= min(0.95 * self.mean, self.mean - 2 * self.sd)


def reference_runs(pair: Pair, kind: str) -> list[Case]:
    return [Case(f"reference {pair} {kind} {seed}", kind, pair, seed, "") for seed in range(100, 110)]


# --- which cases there are ---------------------------------------------------------------------------------------

EACH = {"development": 2, "test": 4}  #: cases of each fault and kind
DOUBLES = 0.15  #: share of the cases that have two faults


def faulty(part: str) -> list[Case]:
    """All faulty cases of a part: each fault and kind meets the pairs in turn, its seeds 0, 1, 2 in turn."""
    found, every = [], pairs(part)
    for number, fault in enumerate(FAULTS.values()):
        for turn, kind in enumerate(fault.kinds):
            fitting = [pair for pair in every if fault.fits(pair, kind)]
            for k in range(EACH[part] if fitting else 0):
                pair, seed = fitting[(k + number + turn) % len(fitting)], (k + k // len(fitting)) % 3
                if len(fitting) * 3 > k:
                    found.append(Case(f"{fault.name} {pair} {kind} {seed}", kind, pair, seed, part, (fault.name,)))
    found = list({case.name: case for case in found}.values())
    return found + doubles(part, round(len(found) * DOUBLES / (1 - DOUBLES)))


def doubles(part: str, count: int) -> list[Case]:
    """Cases of two faults of different groups, drawn by a seed; of one pair and kind."""
    rng = np.random.default_rng([11, part == "test"])
    every, names, found = pairs(part), list(FAULTS), dict[str, Case]()
    while len(found) < count:
        pair, kind, seed = every[rng.integers(len(every))], KINDS[rng.integers(2)], int(rng.integers(3))
        first, second = (FAULTS[names[k]] for k in sorted(rng.choice(len(names), 2, replace=False)))
        if compatible(first, second) and first.fits(pair, kind) and second.fits(pair, kind):
            name = f"{first.name} + {second.name} {pair} {kind} {seed}"
            found[name] = Case(name, kind, pair, seed, part, (first.name, second.name))
    return list(found.values())


def compatible(first: Fault, second: Fault) -> bool:
    """Whether both can be in one training, each to be seen."""
    hides = {"single_class", "labels_shuffled", "conflicting_duplicates", "no_nonlinearity", "precision_underflow",
             "too_few_samples", "overfit"}  # the other is of no account then
    both = {first.cause, second.cause}
    one_setting = {"depth", "init", "capacity"}
    if any("adam" in fault.name for fault in (first, second)):
        hides |= {"gradient_scale", "gradient_accumulated"}  # to Adam a factor is nothing
    return first.group != second.group and not both & hides and not {first.group, second.group} <= one_setting
