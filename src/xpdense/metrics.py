"""Metrics by name, computed on the host by scikit-learn's functions (extra "sklearn"), of rows that come in parts.

Memory: the label metrics keep the distinct pairs of target and prediction with their weights, and the means and r2 a
few sums, however many rows there are. `roc_auc`, a user's function and any other function of scikit-learn keep a
target and a prediction for each row, because their value is not a sum over rows.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from .backend import host
from .errors import ParameterError, TargetError, lookup, require
from .losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy


@dataclass(frozen=True)
class Metric:
    """A function of targets and predictions.

    Attributes
    ----------
    name : str
    takes : "labels", "probabilities" or "values"
        The form in which the function receives targets and predictions: class numbers; class numbers and class
        probabilities; both as they are.
    function : str or callable
        A name in `sklearn.metrics`, or a user's `function(target, prediction) -> float`, which receives NumPy arrays,
        the target (n,) class numbers or (n, outputs), the prediction (n, outputs), and no weights.
    greater_is_better : bool or None
        None where it is not known, as for a bare function.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> bias = xd.Metric("bias", "values", lambda target, prediction: np.mean(prediction - target), False)
    >>> bias(xd.SquaredError(), np.zeros((2, 1)), np.array([[1.0], [2.0]]), None)
    1.5
    """

    name: str
    takes: str
    function: str | Callable[..., float]
    greater_is_better: bool | None

    def __post_init__(self) -> None:
        if self.takes not in ("labels", "probabilities", "values"):
            raise ParameterError(f"takes must be 'labels', 'probabilities' or 'values', got {self.takes!r}")

    def __call__(self, loss: Loss, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        """The metric's value for these rows.

        target (n,) class numbers or (n, outputs); prediction (n, outputs), as `DenseNetwork.predict` returns it;
        weight (n,) or None.
        """
        accumulator = self.accumulator(loss)
        accumulator.add(target, prediction, weight)
        return accumulator.value()

    def accumulator(self, loss: Loss) -> Accumulator:
        """An empty accumulator: `add` rows part by part, then ask for the `value` of all of them.

        >>> from .losses import SquaredError
        >>> rows = METRICS["mae"].accumulator(SquaredError())
        >>> for target in (0.0, 1.0, 5.0):
        ...     rows.add(np.full((4, 1), target), np.zeros((4, 1)), None)
        >>> rows.value()
        2.0
        """
        for takes, function, _, kind, adapter in _TABLE.values():
            if (takes, function) == (self.takes, self.function):
                return kind(self, loss, adapter)
        return Accumulator(self, loss)

    def check(self, loss: Loss, target: np.ndarray, outputs: int) -> None:
        """Raise TargetError where scikit-learn's function is not defined for these targets, whatever is predicted.

        target (n,) or (n, outputs).
        """
        if isinstance(self.function, str):
            self(loss, target, np.full((len(target), outputs), 1.0 / max(2, outputs)), None)


# --- calls of scikit-learn's functions, each with what it needs of (truth, estimate, weight) and the network's outputs

def _plain(function: Any, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int) -> Any:
    return function(truth, estimate, sample_weight=weight)


def _by_output(function: Any, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int) -> Any:
    return function(truth, estimate, sample_weight=weight, multioutput="raw_values")


def _f1(function: Any, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int) -> Any:
    average = "binary" if truth.ndim == 1 and outputs <= 2 else "macro"
    return function(truth, estimate, sample_weight=weight, average=average, zero_division=0.0)


def _roc_auc(function: Any, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int) -> Any:
    if truth.ndim == 1 and outputs > 2:
        return function(truth, estimate, sample_weight=weight, multi_class="ovr", labels=np.arange(outputs))
    return function(truth, estimate[:, 1] if truth.ndim == 1 and outputs == 2 else estimate, sample_weight=weight)


def _log_loss(function: Any, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int) -> Any:
    if truth.ndim == 1 and outputs > 1:  # divided by the sum, which is 1 to float32's rounding only
        estimate = estimate / estimate.sum(axis=1, keepdims=True)
        return function(truth, estimate, sample_weight=weight, labels=np.arange(outputs))
    weight = None if weight is None else np.repeat(weight, outputs)  # the mean over rows and labels
    return function(truth.ravel(), estimate.ravel(), sample_weight=weight, labels=[0, 1])


# --- rows in parts ---------------------------------------------------------------------------------------------

@dataclass
class Accumulator:
    """The value of a metric for rows that come in parts.

    This class keeps every row; each class derived from it keeps sums that suffice for its metrics.

    >>> rows = METRICS["accuracy"].accumulator(BinaryCrossEntropy())
    >>> rows.add(np.array([0, 1]), np.array([[0.2], [0.7]]), None)
    >>> rows.add(np.array([1, 1]), np.array([[0.4], [0.9]]), None)
    >>> rows.value()
    0.75
    """

    metric: Metric
    loss: Loss
    adapter: Callable[..., Any] = _plain
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = field(default_factory=list)

    def add(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        """Count a part: target (n,) or (n, outputs), prediction (n, outputs), weight (n,) or None in every part."""
        self.parts.append((np.array(target), np.array(prediction), None if weight is None else np.array(weight)))

    def value(self) -> float:
        """The metric's value for all rows so far; TargetError where it is not defined for them."""
        targets, predictions, weights = zip(*self.parts, strict=True)
        target, prediction = np.concatenate(targets), np.concatenate(predictions)
        if not isinstance(self.metric.function, str):
            return float(self.metric.function(target, prediction))
        weight = None if weights[0] is None else np.concatenate(weights)
        truth, estimate, _ = self.inputs(target, prediction, weight)
        return float(np.mean(self.score(truth, estimate, weight, prediction.shape[1])))

    def inputs(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> tuple[Any, Any, Any]:
        """Return a part in the form that the metric takes; predictions and weights (1 for None) as float64."""
        prediction = np.asarray(prediction, np.float64)
        weight = np.ones(len(target)) if weight is None else np.asarray(weight, np.float64)
        if self.metric.takes == "values":
            return target, prediction, weight
        truth = _classes(self.loss, target)
        if self.metric.takes == "labels":
            return truth, _classes(self.loss, prediction), weight
        return truth, prediction[:, 0] if truth.ndim == prediction.shape[1] == 1 else prediction, weight

    def score(self, truth: np.ndarray, estimate: np.ndarray, weight: np.ndarray | None, outputs: int,
              function: str = "") -> Any:
        """Return what scikit-learn computes of these inputs; raise TargetError where it is not defined for them."""
        if weight is not None and not weight.any():
            raise self.undefined("all weights are zero")
        module = require("sklearn.metrics", "sklearn", f"the metric {self.metric.name!r}")
        undefined = require("sklearn.exceptions", "sklearn", "a metric").UndefinedMetricWarning
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
                warnings.filterwarnings("ignore", "The number of unique classes")  # 1.7, of distinct pairs
                warnings.simplefilter("error", undefined)
                call = getattr(module, function or str(self.metric.function))
                return self.adapter(call, truth, estimate, weight, outputs)
        except (ValueError, undefined) as error:
            raise self.undefined(error) from error

    def undefined(self, reason: object) -> TargetError:
        return TargetError(f"{self.metric.name} cannot be computed of these targets: {reason}")


@dataclass
class _Pairs(Accumulator):
    """Keep the distinct pairs of target and predicted labels, each with the sum of its weights."""

    weights: defaultdict[tuple[float, ...], float] = field(default_factory=lambda: defaultdict(float))

    def add(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        truth, estimate, w = self.inputs(target, prediction, weight)
        pairs = np.column_stack([truth, estimate])  # (n, 2) or (n, 2 * labels)
        self.border, self.outputs = pairs.shape[1] - estimate[0].size, prediction.shape[1]
        order = np.lexsort(pairs.T)
        pairs, w = pairs[order], w[order]
        starts = np.flatnonzero(np.append(True, np.any(pairs[1:] != pairs[:-1], axis=1)))
        for pair, total in zip(pairs[starts].tolist(), np.add.reduceat(w, starts).tolist(), strict=True):
            self.weights[tuple(pair)] += total

    def value(self) -> float:
        sides = np.split(np.array(list(self.weights)), [self.border], axis=1)
        truth, estimate = (side[:, 0] if side.shape[1] == 1 else side for side in sides)
        return float(self.score(truth, estimate, np.array(list(self.weights.values())), self.outputs))


_KEPT = 2**20  # rows that the metrics of values keep before they go over to sums


@dataclass
class _Sums(Accumulator):
    """Keep rows up to a number of them, for which the value is scikit-learn's to the bit; of more, sums."""

    kept: int = 0
    merged: bool = False

    def add(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        super().add(target, prediction, weight)
        self.kept += len(target)
        if self.kept > _KEPT:
            self._merge()

    def _merge(self) -> None:
        for part in self.parts:
            self.merge(*part)
        self.parts, self.kept, self.merged = [], 0, True

    def merge(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        """Add a part to the sums."""
        raise NotImplementedError

    def of_sums(self) -> float:
        """The value of the rows in the sums."""
        raise NotImplementedError

    def value(self) -> float:
        if not self.merged:
            return super().value()
        self._merge()
        return self.of_sums()


@dataclass
class _Mean(_Sums):
    """Keep the weighted sum of the parts' means, of each output; rmse is the root of a mean of squares (power 2)."""

    power: float = 1.0
    total: Any = 0.0
    total_weight: float = 0.0

    def merge(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        truth, estimate, w = self.inputs(target, prediction, weight)
        if w.any():
            self.total += w.sum() * self.score(truth, estimate, w, prediction.shape[1]) ** self.power
            self.total_weight += w.sum()

    def of_sums(self) -> float:
        if not self.total_weight:
            raise self.undefined("all weights are zero")
        return float(np.mean((self.total / self.total_weight) ** (1.0 / self.power)))


@dataclass
class _R2(_Sums):
    """Keep the squared errors and the first two moments of the targets, of each output.

    Moments of parts are merged as in T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating formulae and a pairwise
    algorithm for computing sample variances", 1979. They are taken about the first target, which makes them exact to
    rounding whatever offset all targets share.
    """

    rows: int = 0
    origin: Any = None  # (outputs,)
    total_weight: float = 0.0
    mean: Any = 0.0  # (outputs,), of the targets less the origin
    spread: Any = 0.0  # (outputs,), sum of squared distances from the mean
    error: Any = 0.0  # (outputs,), sum of squared errors

    def merge(self, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> None:
        self.rows += len(target)
        y, estimate, w = self.inputs(target.reshape(len(target), -1).astype(np.float64), prediction, weight)
        if w.any():
            self.error += w.sum() * self.score(y, estimate, w, estimate.shape[1], "mean_squared_error")
            self.origin = y[0] if self.origin is None else self.origin
            mean = np.average(y - self.origin, axis=0, weights=w)
            self.total_weight += w.sum()
            step, share = mean - self.mean, w.sum() / self.total_weight
            self.spread += w @ (y - self.origin - mean) ** 2 + w.sum() * (1.0 - share) * step**2
            self.mean += share * step

    def of_sums(self) -> float:
        if self.rows < 2 or not self.total_weight:
            raise self.undefined("it needs two rows, and a weight above zero")
        with np.errstate(divide="ignore", invalid="ignore"):  # for constant targets 1 if predicted exactly, else 0
            return float(np.mean(np.where(self.spread > 0, 1.0 - self.error / self.spread, self.error == 0)))


_TABLE: dict[str, tuple[str, str, bool, Callable[..., Accumulator], Callable[..., Any]]] = {
    "accuracy": ("labels", "accuracy_score", True, _Pairs, _plain),
    "balanced_accuracy": ("labels", "balanced_accuracy_score", True, _Pairs, _plain),
    "f1": ("labels", "f1_score", True, _Pairs, _f1),
    "roc_auc": ("probabilities", "roc_auc_score", True, Accumulator, _roc_auc),
    "log_loss": ("probabilities", "log_loss", False, _Mean, _log_loss),
    "r2": ("values", "r2_score", True, _R2, _by_output),
    "rmse": ("values", "root_mean_squared_error", False, partial(_Mean, power=2.0), _by_output),
    "mae": ("values", "mean_absolute_error", False, _Mean, _by_output),
}
#: Every metric by name.
METRICS: dict[str, Metric] = {name: Metric(name, *row[:3]) for name, row in _TABLE.items()}


def _classes(loss: Loss, values: np.ndarray) -> np.ndarray:
    """Class numbers (n,) from probabilities or one-hot targets; 0 or 1 by column (n, k) where there are several."""
    if values.ndim == 1:
        return values
    if isinstance(loss, SoftmaxCrossEntropy):
        return np.asarray(np.argmax(values, axis=1))
    labels: np.ndarray = (values >= 0.5).astype(np.int64)
    return labels[:, 0] if values.shape[1] == 1 else labels


_TAKEN = ("loss", "learning_rate", "seconds", "rows_per_second")  # names that the history gives itself


def as_metrics(values: Sequence[str | Callable[..., float] | Metric], loss: Loss) -> list[Metric]:
    """Metrics from names, from `function(target, prediction) -> float`, or from themselves.

    Raises
    ------
    UnknownNameError, ParameterError
        A name is not known, or needs class probabilities that this loss does not give.
    MissingDependencyError
        scikit-learn is not installed.

    >>> from .losses import SquaredError
    >>> [m.name for m in as_metrics(["r2"], SquaredError())]
    ['r2']
    """
    if values is None or isinstance(values, (str, Metric)) or callable(values):
        raise ParameterError(f"metrics must be a list, such as ['accuracy'], got {values!r}")
    found: list[Metric] = []
    for value in values:
        if isinstance(value, str):
            metric = lookup("metric", value, METRICS)
        elif isinstance(value, Metric):
            metric = value
        elif callable(value):
            metric = Metric(getattr(value, "__name__", "metric"), "values", value, None)
        else:
            raise ParameterError(f"a metric must be a name or a function (target, prediction) -> float, got {value!r}")
        if metric.takes != "values" and not isinstance(loss, (BinaryCrossEntropy, SoftmaxCrossEntropy)):
            raise ParameterError(f"the metric {metric.name!r} needs classes, and {loss.name} has none: "
                                 f"use r2, rmse or mae")
        if isinstance(metric.function, str):
            module = require("sklearn.metrics", "sklearn", f"the metric {metric.name!r}")
            if not hasattr(module, metric.function):
                raise ParameterError(f"sklearn.metrics has no {metric.function!r}")
        if metric.name in _TAKEN:
            raise ParameterError(f"{metric.name!r} is a column of the history: give the metric another name")
        if metric.name in [other.name for other in found]:
            raise ParameterError(f"the metric {metric.name!r} is asked for twice; metrics need names of their own")
        found.append(metric)
    return found


def check_metrics(metrics: Sequence[Metric], loss: Loss, outputs: int, parts: Callable[[], Iterable[Any]]) -> None:
    """Raise TargetError where a metric cannot be computed for the targets of the Rows that `parts()` gives.

    They are read only where a metric depends on them.
    """
    if any(isinstance(metric.function, str) for metric in metrics):
        target = np.concatenate([host(part.y) for part in parts()])
        for metric in metrics:
            metric.check(loss, target, outputs)
