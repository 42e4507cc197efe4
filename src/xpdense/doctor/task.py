"""What is to be predicted, and how well it is: a skill of 1 where all is right, of 0 for a constant prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Task:
    """The truth about all rows, in whatever code a program is given it.

    Attributes
    ----------
    classes : int
        How many; 0 where values are to be predicted.
    truth : ndarray
        Class numbers (n,), or values (n, outputs).
    outputs : int
        What a prediction has.
    quantile : float, optional
        The quantile of values that is to be predicted; by default it is their mean.
    """

    classes: int
    truth: np.ndarray
    outputs: int
    quantile: float | None = None

    def skill(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        """Of predictions (len(rows), outputs) for some rows: balanced accuracy, chance taken out, or R2; for a quantile
        the same with its own loss in place of squares.

        Balanced, that is the mean over the classes of the share that is found: (mean - 1 / k) / (1 - 1 / k). At least
        -1, which is also that of predictions that are not finite.
        """
        if not np.all(np.isfinite(predicted)):
            return -1.0
        truth = self.truth[rows]
        if not self.classes:
            rest, total = self._misses(predicted - truth), self._misses(self.constant(truth) - truth)
            with np.errstate(all="ignore"):
                r2 = 1.0 - rest / total
            return max(-1.0, float(np.mean(np.where(total > 0, r2, 0.0))))
        chosen = self.decide(predicted)
        present = np.unique(truth)
        if len(present) < 2:
            return 0.0
        found = np.mean([np.mean(chosen[truth == c] == c) for c in present])
        return float((found - 1.0 / len(present)) / (1.0 - 1.0 / len(present)))

    def constant(self, truth: np.ndarray) -> np.ndarray:
        """The best constant prediction (outputs,) of values (n, outputs)."""
        return np.asarray(truth.mean(axis=0) if self.quantile is None else np.quantile(truth, self.quantile, axis=0))

    def _misses(self, error: np.ndarray) -> np.ndarray:
        """The sum of squares, or of the quantile's own loss, by output."""
        if self.quantile is None:
            return np.asarray(np.sum(error * error, axis=0))
        return np.asarray(np.sum(np.maximum((1.0 - self.quantile) * error, -self.quantile * error), axis=0))

    def decide(self, predicted: np.ndarray) -> np.ndarray:
        """The class of each row (n,), of its probabilities, or of that of class 1."""
        if predicted.shape[1] > 1:
            return np.asarray(np.argmax(predicted, axis=1))
        return np.asarray((predicted[:, 0] > 0.5).astype(int))

    def strata(self) -> np.ndarray:
        """A class for each row by which folds are drawn: of values, their quarter."""
        if self.classes:
            return self.truth
        first = self.truth[:, 0]
        return np.searchsorted(np.quantile(first, [0.25, 0.5, 0.75]), first)


def task_of(y: np.ndarray, outputs: int, probabilities: bool) -> Task:
    """What y says is to be predicted by a program of so many outputs.

    Whole numbers of few kinds are classes where there are several outputs, or where there are two kinds of them, or
    where the prediction is a probability; else y holds values.

    >>> task_of(np.array([0.0, 1.0, 1.0]), 1, False).classes, task_of(np.array([0.1, 1.5, 2.0]), 1, False).classes
    (2, 0)
    >>> task_of(np.array([[0, 1], [1, 0]]), 2, True).truth.tolist()
    [1, 0]
    """
    flat = np.asarray(y).reshape(len(y), -1)
    values = flat[:, 0]
    kinds: np.ndarray = np.unique(values)
    if flat.shape[1] == 1:
        whole = bool(np.all(kinds == np.floor(kinds)))
        few = len(kinds) <= max(outputs, 2)
        if whole and outputs > 1 and (few or kinds[-1] - kinds[0] <= outputs):
            if kinds[0] >= 0 and kinds[-1] < outputs:
                return Task(outputs, values.astype(int), outputs)
            return Task(outputs, np.searchsorted(kinds, values), outputs)
        if outputs == 1 and len(kinds) <= 2:
            return Task(2, np.searchsorted(kinds, values) if len(kinds) == 2 else (values > 0.5).astype(int), 1)
        if outputs == 1 and whole and probabilities and len(kinds) <= 20:
            return Task(len(kinds), np.searchsorted(kinds, values), 1)
        return Task(0, np.repeat(flat.astype(np.float64), outputs, axis=1) if outputs > 1 else
                    flat.astype(np.float64), outputs)
    if len(np.unique(flat)) == 2 and flat.shape[1] == outputs:
        high = flat.max()
        highs = np.sum(flat == high, axis=1)
        if np.all(highs == 1):
            return Task(outputs, np.argmax(flat, axis=1), outputs)
        if np.all(highs == outputs - 1):
            return Task(outputs, np.argmin(flat, axis=1), outputs)
    return Task(0, flat.astype(np.float64), flat.shape[1])
