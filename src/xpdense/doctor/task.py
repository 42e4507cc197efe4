"""The target of a training, and the skill of predictions: 1 is perfect, 0 is a constant prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Task:
    """The true targets of all rows, however they are encoded for a program.

    Attributes
    ----------
    classes : int
        The number of classes; 0 for regression.
    truth : ndarray
        Class numbers (n,), or values (n, outputs).
    outputs : int
        The width of a prediction.
    quantile : float, optional
        The quantile of the values that is predicted; default: their mean.
    """

    classes: int
    truth: np.ndarray
    outputs: int
    quantile: float | None = None

    def skill(self, predicted: np.ndarray, rows: np.ndarray) -> float:
        """Return the skill of the predictions (len(rows), outputs) of some rows.

        For classes it is the chance-corrected balanced accuracy (recall - 1 / k) / (1 - 1 / k), with the mean recall of
        the k classes that occur; for values R2; for a quantile R2 with its loss instead of squares. It is at least -1,
        which is also the skill of predictions that are not finite.

        >>> task = Task(2, np.array([0, 1, 1]), 1)
        >>> task.skill(np.array([[0.2], [0.9], [0.4]]), np.arange(3))
        0.5
        """
        if not np.all(np.isfinite(predicted)):
            return -1.0
        truth = self.truth[rows]
        if not self.classes:
            rest, total = self._loss(predicted - truth), self._loss(self.constant(truth) - truth)
            with np.errstate(all="ignore"):
                r2 = 1.0 - rest / total
            return max(-1.0, float(np.mean(np.where(total > 0, r2, 0.0))))
        return 0.0 if len(np.unique(truth)) < 2 else balanced_skill(self.decide(predicted) == truth, truth)

    def constant(self, truth: np.ndarray) -> np.ndarray:
        """Return the best constant prediction (outputs,) of values (n, outputs)."""
        return np.asarray(truth.mean(axis=0) if self.quantile is None else np.quantile(truth, self.quantile, axis=0))

    def _loss(self, error: np.ndarray) -> np.ndarray:
        """Return the sum of squares, or of the quantile's loss, by output."""
        if self.quantile is None:
            return np.asarray(np.sum(error * error, axis=0))
        return np.asarray(np.sum(np.maximum((1.0 - self.quantile) * error, -self.quantile * error), axis=0))

    def decide(self, predicted: np.ndarray) -> np.ndarray:
        """Return the class of each row (n,) from the probabilities of all classes, or of class 1."""
        if predicted.shape[1] > 1:
            return np.asarray(np.argmax(predicted, axis=1))
        return np.asarray((predicted[:, 0] > 0.5).astype(int))

    def strata(self) -> np.ndarray:
        """Return the stratum (n,) of each row: its class, or the quarter of its first value."""
        if self.classes:
            return self.truth
        first = self.truth[:, 0]
        return np.searchsorted(np.quantile(first, [0.25, 0.5, 0.75]), first)


def balanced_skill(right: np.ndarray, truth: np.ndarray) -> float:
    """Return the chance-corrected balanced accuracy of decisions (n,) that are right or not, by class numbers (n,).

    >>> balanced_skill(np.array([True, True, False]), np.array([0, 1, 1]))
    0.5
    """
    classes = np.unique(truth)
    recall, chance = np.mean([np.mean(right[truth == c]) for c in classes]), 1.0 / len(classes)
    return float((recall - chance) / (1.0 - chance))


def task_of(y: np.ndarray, outputs: int, probabilities: bool) -> Task:
    """Infer the task from y and the number of outputs of a program.

    A column of a few different integers holds classes if there are several outputs, if it has two different values, or
    if predictions are probabilities; otherwise y holds values.

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
