"""Estimators on data that are read while they are trained on: what `fit` does with a Stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_random_state

from ..backend import host, resolve
from ..data.dataset import is_dataset
from ..data.feeding import Feed
from ..errors import ParameterError, ShapeError, TargetError
from .build import FitPlan, hidden_layers


def plan(estimator: Any, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, ...] | None,
         first: bool) -> tuple[FitPlan, Feed]:
    """Check everything, and make a new network where `first` says so: what is trained on, and its batches.

    Raises
    ------
    ParameterError, TargetError, ShapeError, DataError
    """
    hidden = hidden_layers(estimator.hidden_layer_sizes)
    refused = {"y": y is not None, "sample_weight": sample_weight is not None,
               "solver='lbfgs'": estimator.solver == "lbfgs", "scoring": estimator.scoring not in (None, "loss"),
               "class_weight": getattr(estimator, "class_weight", None) is not None,
               "categorical_features": estimator.categorical_features is not None}
    wrong = [name for name, given in refused.items() if given]
    if wrong:
        raise ParameterError(f"a Stream, which brings its own targets, weights and categories, does not go with "
                             f"{wrong[0]}")
    held: Any = None
    random = check_random_state(estimator.random_state)
    if validation is not None:
        held = validation[0]
        if not is_dataset(held) or validation[1] is not None or validation[2] is not None:
            raise ParameterError("X_val must be a Stream where X is one, without y_val and sample_weight_val")
    elif estimator.early_stopping:
        X, held = X.split(estimator.validation_fraction, seed=int(random.randint(2**31 - 1)))
    if not X.has_target:
        raise TargetError("the stream has no target: name its column in xpdense.data.open(..., target=)")
    inputs, target = X.inputs, _targets(estimator, X, first)
    if first:
        estimator.n_features_in_, estimator._encoder, estimator._table = inputs, None, X.encoder
        dtype = "float64" if estimator.dtype == "float64" else "float32"
        estimator._begin(hidden, np.empty((0, inputs), dtype), resolve("numpy"), random)
    elif inputs != estimator.n_features_in_:
        raise ShapeError(f"X has {inputs} features, but {type(estimator).__name__} is expecting "
                         f"{estimator.n_features_in_}")
    estimator._loss = estimator._make_loss()
    batch_size = min(200, X.rows) if estimator.batch_size == "auto" else int(estimator.batch_size)
    network = estimator._network
    spec = network.spec(estimator._loss)
    with network.backend.active():
        feed = X.mapped(target).feed(spec, batch_size, int(random.randint(2**31 - 1)), estimator.shuffle)
        rows = X.mapped(target).first(spec)
    score: Callable[[], float] | None = None
    if held is not None:
        held = held.mapped(target)
        score = (lambda: -estimator.history_["validation_loss"][-1]) if estimator.scoring == "loss" else \
            (lambda: estimator._own_score(held, spec))
    return FitPlan(spec, rows, held, score, (X, y, None), estimator.alpha), feed


def _targets(estimator: Any, X: Any, first: bool) -> Callable[[Any], Any]:
    """Sets what `fit` learns of the targets; the way from the stream's to those that the loss takes."""
    if not is_classifier(estimator):
        if X.goal is not None and X.goal.is_text:
            raise TargetError(f"the target {X.goal.column!r} holds text, and a regressor needs numbers")
        if first:
            estimator._encode(np.zeros(1) if X.goal is not None else X.first_target(), True, False, None)
        if X.goal is not None and X.goal.classes:  # whole numbers that look like classes
            values = np.array(X.goal.classes, np.float64)
            return lambda y: values[y]
        return lambda y: y
    if X.goal is not None and not X.goal.classes:
        raise TargetError(f"the target {X.goal.column!r} looks like a quantity: open the stream with "
                          f"task='multi-class' if its values are classes")
    given = None if X.goal is None else np.array(X.goal.classes)
    labels = X.labels() if given is None else np.unique(given)
    place = None if given is None else np.searchsorted(labels, given)  # of the stream's class numbers
    estimator._encode(labels, first, False, None)

    def target(y: Any) -> Any:
        codes = np.searchsorted(labels, host(y)) if place is None else place[y]
        if estimator.out_activation_ == "softmax":
            return codes
        return estimator._smooth(codes.astype(np.float64)[:, None])

    return target
