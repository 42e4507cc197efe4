"""Real data, architectures and settings that train well: what the faults are put into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from sklearn import datasets
from sklearn.model_selection import train_test_split

from ..estimators import keel

Array = np.ndarray

#: "binary", "multi" or "regression" by data set, of each part.
SETS = {
    "development": {"banana": "binary", "vehicle": "multi", "diabetes": "regression"},
    "test": {"ring": "binary", "digits": "multi", "cancer": "regression"},
}
ARCHITECTURES = {
    "development": {"shallow": ((32,), "relu"), "narrowing": ((32, 16), "relu")},
    "test": {"deep": ((24, 24, 24), "tanh"), "sigmoid": ((24, 24), "sigmoid")},
}
TASKS = SETS["development"] | SETS["test"]
KINDS = ("hand", "ours")
MOST_ROWS = 2000
STEPS = {"banana": 1000, "ring": 600}  #: of a training, about; else 450
SLOWER = {"banana": 0.5, "ring": 0.5, "diabetes": 0.4}  #: what the learning rates are multiplied by


@dataclass(frozen=True)
class Pair:
    """A data set with an architecture."""

    data: str
    architecture: str

    def __str__(self) -> str:
        return f"{self.data}/{self.architecture}"


def pairs(part: str) -> list[Pair]:
    return [Pair(data, architecture) for architecture in ARCHITECTURES[part] for data in SETS[part]]


@dataclass(frozen=True)
class Rows:
    """Training and test rows: features (n, features); classes (n,) or values (n,)."""

    x: Array
    y: Array
    x_test: Array
    y_test: Array
    classes: int  #: 0 where values are to be predicted

    def taking(self, rows: Array) -> Rows:
        """With these training rows alone."""
        return replace(self, x=self.x[rows], y=self.y[rows])


@lru_cache
def raw(name: str) -> Rows:
    """A data set, split once and for all, its features as published."""
    if name == "diabetes":
        x, y = datasets.load_diabetes(return_X_y=True, scaled=False)
    elif name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
    elif name == "cancer":  # the worst concave points of a tumour's nuclei, from the means of ten measures
        every = datasets.load_breast_cancer().data
        x, y = every[:, :10], every[:, 27]
    else:
        x, y = keel(name)
    task = TASKS[name]
    chosen = np.random.default_rng(7).permutation(len(x))[:MOST_ROWS]
    x, y = np.asarray(x, float)[chosen], np.asarray(y)[chosen]
    labels = None if task == "regression" else y
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.3, random_state=0, stratify=labels)
    return Rows(x, y, x_test, y_test, 0 if labels is None else len(np.unique(labels)))


def load(name: str) -> Rows:
    """Features, and the values to predict, standardised by the training rows."""
    rows = raw(name)
    mean, scale = rows.x.mean(axis=0), rows.x.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    rows = replace(rows, x=(rows.x - mean) / scale, x_test=(rows.x_test - mean) / scale)
    if not rows.classes:
        centre, spread = rows.y.mean(), rows.y.std()
        rows = replace(rows, y=(rows.y - centre) / spread, y_test=(rows.y_test - centre) / spread)
    return rows


def _raw(rows: Rows, data: str, seed: int) -> Rows:
    """Features as published, where they are of moderate size."""
    published = raw(data)
    return replace(rows, x=published.x, x_test=published.x_test)


def _noise(rows: Rows, data: str, seed: int) -> Rows:
    """Labels of one row in twenty are another's."""
    rng, y = np.random.default_rng([seed, 21]), rows.y.copy()
    some = rng.choice(len(y), len(y) // 20, replace=False)
    y[some] = y[rng.permutation(some)]
    return replace(rows, y=y)


def _imbalance(rows: Rows, data: str, seed: int) -> Rows:
    """Of one class, half the rows."""
    rng = np.random.default_rng([seed, 22])
    return rows.taking((rows.y != rng.integers(rows.classes)) | (rng.random(len(rows.y)) < 0.5))


def _shifted(rows: Rows, data: str, seed: int) -> Rows:
    return replace(rows, x=rows.x * 1.5 + 0.5, x_test=rows.x_test * 1.5 + 0.5)


def _constant(rows: Rows, data: str, seed: int) -> Rows:
    return replace(rows, x=np.column_stack([rows.x, np.ones(len(rows.x))]),
                   x_test=np.column_stack([rows.x_test, np.ones(len(rows.x_test))]))


#: What may be different with the rows of a healthy run, given the name of their data set and the run's seed.
ROWS: dict[str, Callable[[Rows, str, int], Rows]] = {
    "": lambda rows, data, seed: rows, "raw": _raw, "noise": _noise, "imbalance": _imbalance, "shifted": _shifted,
    "constant": _constant,
}


@dataclass(frozen=True)
class Spec:
    """How a network is made and trained.

    Attributes
    ----------
    optimizer : "sgd", "momentum" or "adam"
    mistakes : tuple of str
        Names of classes of `hand`, and of the tables of `ours`.
    """

    hidden: tuple[int, ...]
    activation: str
    optimizer: str = "sgd"
    rate: float = 0.1
    batch_size: int = 32
    epochs: int = 10
    shuffle: bool = True
    weight_decay: float = 0.0
    dropout: float = 0.0
    dtype: str = ""
    mistakes: tuple[str, ...] = ()


def rate_of(data: str, activation: str, optimizer: str) -> float:
    """A learning rate that trains well from batches of 32."""
    if optimizer == "adam":
        return 0.01
    if TASKS[data] == "regression":
        rate = {"sigmoid": 0.15, "tanh": 0.05}.get(activation, 0.05)
    else:
        rate = {"sigmoid": 1.5, "tanh": 0.2}.get(activation, 0.3)
    rate *= SLOWER.get(data, 1.0)
    return rate / 5 if optimizer == "momentum" else rate


def epochs_for(rows: int, batch_size: int = 32, steps: int = 450) -> int:
    return max(1, round(steps / -(-rows // batch_size)))


def healthy_spec(pair: Pair, kind: str) -> Spec:
    """The standard setting of a pair: plain gradient descent by hand, with momentum in a network of ours."""
    hidden, activation = {**ARCHITECTURES["development"], **ARCHITECTURES["test"]}[pair.architecture]
    optimizer = "momentum" if kind == "ours" or activation == "sigmoid" else "sgd"
    return Spec(hidden, activation, optimizer, rate_of(pair.data, activation, optimizer),
                epochs=epochs_for(len(raw(pair.data).x), steps=STEPS.get(pair.data, 450)))
