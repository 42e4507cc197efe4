"""The target column: its task, its encoding as numbers, and the losses that fit it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ParameterError, TargetError, lookup, real
from ..losses import LOSSES
from .columns import NUMBERS, Series, as_series, kind_of, labels_of, listed, moments, numbers_of, parsed, require_that

_MOST_LABELS = 10_000  # distinct labels that are counted
MOST_CLASSES = 20  # distinct whole numbers that are still classes by default

#: The losses that fit each task, the default one first.
TASKS: dict[str, tuple[str, ...]] = {
    "binary": ("binary_cross_entropy", "softmax_cross_entropy"),
    "multi-class": ("softmax_cross_entropy",),
    "regression": ("squared_error", "absolute_error", "huber", "quantile", "poisson"),
}


def as_task(name: str) -> str:
    """The task of this name; UnknownNameError if it is unknown.

    >>> as_task("multiclass")
    'multi-class'
    """
    name = "multi-class" if name in ("multiclass", "multi_class") else name
    lookup("task", name, TASKS)
    return name


def as_task_loss(task: str, name: str | None) -> str:
    """The name of a loss for a task: `name`, or the task's default if `name` is None.

    Raises
    ------
    UnknownNameError, ParameterError
        There is no such loss, or it is for another task.

    >>> as_task_loss("regression", None)
    'squared_error'
    """
    if name is None:
        return TASKS[task][0]
    lookup("loss", name, LOSSES)
    if name not in TASKS[task]:
        hint = "; if the target is a quantity, say --task regression" if name in TASKS["regression"] else ""
        raise ParameterError(f"the loss {name!r} does not fit a {task} target, which takes "
                             f"{', '.join(TASKS[task])}{hint}")
    return name


@dataclass(frozen=True)
class TargetEncoder:
    """The encoding of a target column as class numbers or standardised values, and back.

    Attributes
    ----------
    column : str
    task : "binary", "multi-class" or "regression"
    classes : tuple
        Labels (text, whole numbers, numbers or booleans) in the order of the class numbers; empty for regression.
    mean, scale : float
        For regression: the network is trained on (value - mean) / scale.

    Examples
    --------
    >>> import pandas
    >>> encoder = TargetEncoder.infer("y", pandas.Series(["no", "yes", "no"]))
    >>> encoder.task, encoder.encode(pandas.Series(["yes", "no"]))
    ('binary', array([1, 0]))
    """

    column: str
    task: str
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @staticmethod
    def infer(column: str, values: Series, task: str | None = None) -> TargetEncoder:
        """The encoder for a column's values (all rows) and a task, by default the one that the values suggest.

        Text, categories and booleans are classes. Whole numbers are classes if there are two distinct ones, or at
        most 20 that occur twice on average. Other numbers are a regression.

        Raises
        ------
        TargetError
            There are rows without a target, the value is the same in all rows, or the values do not fit the task.
        """
        statistics = TargetStatistics(column, kind_of(values))
        statistics.add(values)
        return statistics.encoder(task)

    @property
    def is_text(self) -> bool:
        """Whether the labels are text."""
        return any(isinstance(label, str) for label in self.classes)

    def encode(self, values: Series) -> np.ndarray:
        """Class numbers (n,) int64, or the values (n,) float64 of a regression, in their own units.

        Raises
        ------
        TargetError
            A value is missing, or is not one of the classes.
        """
        values = as_series(values)
        missing = int(values.isna().sum())
        if missing:
            raise TargetError(f"{missing:,} of {len(values):,} rows have no target ({self.column!r} is empty there)")
        if not self.classes:
            return numbers_of(self.column, values)
        codes, labels = labels_of(values)
        numbers = {label: i for i, label in enumerate(self.classes)}
        found = [numbers.get(label, numbers.get(str(label), -1)) for label in labels]
        if -1 in found:
            raise TargetError(f"the target {self.column!r} holds {labels[found.index(-1)]!r}, which is not one of the "
                              f"model's classes: {listed(map(str, self.classes))}")
        return np.take(np.array(found, dtype=np.int64), codes)

    def standardised(self, values: np.ndarray) -> TargetEncoder:
        """A copy with the mean and the standard deviation of the values (n,) of the training rows."""
        mean, scale = moments(values)
        return replace(self, mean=mean, scale=scale)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """Encoded values (n,) as the network is trained on: standardised if they are a regression's."""
        return values if self.classes else np.divide(values - self.mean, self.scale)

    def values(self, prediction: np.ndarray) -> np.ndarray:
        """Outputs (n, 1) for a regression in the units of the target."""
        return np.asarray(prediction, np.float64) * self.scale + self.mean

    def probabilities(self, prediction: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes) from predictions (n, classes), or (n, 1) of the second of two classes."""
        p = np.asarray(prediction, np.float64)
        return np.hstack([1.0 - p, p]) if p.shape[1] == 1 else p

    def decoded(self, prediction: np.ndarray) -> list[Any]:
        """Labels, or values in the units of the target, of predictions (n, outputs)."""
        if not self.classes:
            return [float(value) for value in self.values(prediction)[:, 0]]
        best = np.argmax(prediction, axis=1) if len(prediction[0]) > 1 else (prediction[:, 0] >= 0.5).astype(int)
        return [self.classes[i] for i in best]

    def outputs(self, loss: str) -> int:
        """The number of outputs that a network with this loss needs."""
        return len(self.classes) if loss == "softmax_cross_entropy" else 1

    def to_dict(self) -> dict[str, Any]:
        """The state for JSON."""
        return {"target": self.column, "task": self.task, "classes": list(self.classes), "mean": self.mean,
                "scale": self.scale}

    @staticmethod
    def from_dict(state: Any) -> TargetEncoder:
        """Rebuild the encoder from a state; ModelFileError if it is damaged."""
        return parsed("target", state, _target)


class TargetStatistics:
    """Counts of a target's labels, updated chunk by chunk.

    Parameters
    ----------
    column : str
    kind : str
        The kind of its values, as `kind_of` returns it.

    Attributes
    ----------
    counts : dict
        Number of rows by label, for up to 10,000 labels.

    Examples
    --------
    >>> import pandas
    >>> statistics = TargetStatistics("y", "string")
    >>> statistics.add(pandas.Series(["no", "yes", "no"]))
    >>> statistics.counts, statistics.encoder().task
    ({'no': 2, 'yes': 1}, 'binary')
    """

    def __init__(self, column: str, kind: str) -> None:
        self.column, self.kind, self.numeric = column, kind, kind in NUMBERS
        self.rows = self.missing = 0
        self.counts: dict[Any, int] = {}
        self.whole, self.many = True, False

    def add(self, values: Series) -> None:
        """Count further values (n,)."""
        values = as_series(values)
        self.rows += len(values)
        self.missing += int(values.isna().sum())
        present = values.dropna()
        if self.numeric:
            numbers = numbers_of(self.column, present)
            self.whole = self.whole and bool(np.all(numbers == np.round(numbers)))
        if not self.many:
            codes, labels = labels_of(present)
            for label, count in zip(labels, np.bincount(codes, minlength=len(labels)).tolist(), strict=True):
                self.counts[label] = self.counts.get(label, 0) + count
            self.many = len(self.counts) > _MOST_LABELS

    def encoder(self, task: str | None = None) -> TargetEncoder:
        """The encoder for a task, by default the one that the values suggest. Raises as `TargetEncoder.infer` does."""
        column, labels, count = self.column, list(self.counts), len(self.counts)
        if self.missing:
            raise TargetError(f"{self.missing:,} of {self.rows:,} rows have no target ({column!r} is empty there): "
                              f"fill or remove them")
        if count == 1:
            raise TargetError(f"the target {column!r} has one value only, {labels[0]!r}: there is nothing to learn")
        if task is None:
            few = count == 2 or (count <= MOST_CLASSES and 2 * count <= self.rows)
            is_class = not self.numeric or self.kind == "boolean" or (self.whole and few)
            task = "regression" if not is_class else "binary" if count == 2 else "multi-class"
        if task == "regression":
            if not self.numeric:
                raise TargetError(f"the target {column!r} holds text such as {labels[0]!r}: a regression needs numbers")
            return TargetEncoder(column, task)
        if task == "binary" and count != 2:
            raise TargetError(f"the target {column!r} has {count:,} classes, and a binary task has 2: name another "
                              f"--task or --target")
        if self.many or count == self.rows > 2:
            what = f"there are more than {_MOST_LABELS:,} classes" if self.many else "every row is a class of its own"
            raise TargetError(f"{what} in {column!r}: name another --target"
                              + (", or --task regression" if self.numeric else ""))
        return TargetEncoder(column, task, tuple(sorted(labels, key=lambda v: (isinstance(v, str), v))))


def _target(state: Any) -> TargetEncoder:
    target = TargetEncoder(state["target"], as_task(state["task"]), tuple(state["classes"]),
                           real("mean", state["mean"]), real("scale", state["scale"], 0.0, open_low=True))
    require_that(isinstance(target.column, str) and len(set(target.classes)) == len(target.classes))
    require_that(all(isinstance(label, (str, int, float)) for label in target.classes))
    count = len(target.classes)
    require_that({"regression": count == 0, "binary": count == 2}.get(target.task, count >= 2))
    return target
