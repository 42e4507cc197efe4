"""Metrics by name, computed on the host by scikit-learn's functions (extra "sklearn")."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
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
        What of the prediction it is computed from.
    function : str or callable
        A name in `sklearn.metrics`, or `function(target, prediction) -> float` of the user's own, which gets NumPy
        arrays, the target (n,) class numbers or (n, outputs), the prediction (n, outputs), and no weights.
    greater_is_better : bool or None
        None where it is not known, as for a bare function.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> bias = xd.Metric("bias", "values", lambda target, prediction: np.mean(prediction - target), False)
    """

    name: str
    takes: str
    function: str | Callable[..., float]
    greater_is_better: bool | None

    def __post_init__(self) -> None:
        if self.takes not in ("labels", "probabilities", "values"):
            raise ParameterError(f"takes must be 'labels', 'probabilities' or 'values', got {self.takes!r}")

    def __call__(self, loss: Loss, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
        """The metric's value.

        target (n,) class numbers or (n, outputs); prediction (n, outputs), as `DenseNetwork.predict` gives it;
        weight (n,) or None.
        """
        if not isinstance(self.function, str):
            return float(self.function(target, prediction))
        arguments: dict[str, Any] = {"sample_weight": weight}
        classes = prediction.shape[1]
        prediction = np.asarray(prediction, np.float64)
        if self.takes == "values":
            truth, estimate = target, prediction
        else:
            truth, estimate = _classes(loss, target), prediction
            if self.takes == "labels":
                estimate = _classes(loss, prediction)
            elif truth.ndim == 1 and classes == 1:
                estimate = prediction[:, 0]
            if self.function == "f1_score":
                two = truth.ndim == 1 and classes <= 2
                arguments |= {"average": "binary" if two else "macro", "zero_division": 0.0}
            if self.function == "roc_auc_score" and classes == 2 and truth.ndim == 1:
                estimate = prediction[:, 1]
            elif self.function == "roc_auc_score" and truth.ndim == 1 and classes > 2:
                arguments |= {"multi_class": "ovr", "labels": np.arange(classes)}
            if self.function == "log_loss":
                if truth.ndim == 2:  # several labels: the mean over them
                    columns = range(classes)
                    return float(np.mean([self(loss, target[:, k], prediction[:, [k]], weight) for k in columns]))
                if truth.ndim == 1 and classes == 1:
                    arguments |= {"labels": [0, 1]}
                elif truth.ndim == 1:
                    arguments |= {"labels": np.arange(classes)}
                    estimate = estimate / estimate.sum(axis=1, keepdims=True)  # to the rounding of float64
        function = getattr(require("sklearn.metrics", "sklearn", f"the metric {self.name!r}"), self.function)
        undefined = require("sklearn.exceptions", "sklearn", "a metric").UndefinedMetricWarning
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "y_pred contains classes not in y_true")
                warnings.simplefilter("error", undefined)
                return float(function(truth, estimate, **arguments))
        except (ValueError, undefined) as error:
            raise TargetError(f"{self.name} cannot be computed of these targets: {error}") from error

    def check(self, loss: Loss, target: np.ndarray, outputs: int) -> None:
        """Raise TargetError where scikit-learn's function cannot be computed of these targets, whatever is predicted.

        target (n,) or (n, outputs).
        """
        if isinstance(self.function, str):
            self(loss, target, np.full((len(target), outputs), 1.0 / max(2, outputs)), None)


def _classes(loss: Loss, values: np.ndarray) -> np.ndarray:
    """Class numbers (n,) from probabilities or one-hot targets; 0 or 1 by column (n, k) where there are several."""
    if values.ndim == 1:
        return values
    if isinstance(loss, SoftmaxCrossEntropy):
        return np.asarray(np.argmax(values, axis=1))
    labels: np.ndarray = (values >= 0.5).astype(np.int64)
    return labels[:, 0] if values.shape[1] == 1 else labels


_TAKEN = ("loss", "learning_rate", "seconds", "rows_per_second")  # names that the history gives itself

#: Every metric by name.
METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        Metric("accuracy", "labels", "accuracy_score", True),
        Metric("balanced_accuracy", "labels", "balanced_accuracy_score", True),
        Metric("f1", "labels", "f1_score", True),
        Metric("roc_auc", "probabilities", "roc_auc_score", True),
        Metric("log_loss", "probabilities", "log_loss", False),
        Metric("r2", "values", "r2_score", True),
        Metric("rmse", "values", "root_mean_squared_error", False),
        Metric("mae", "values", "mean_absolute_error", False),
    )
}


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
