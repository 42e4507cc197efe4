"""Estimators on data that are read while they are trained on: what `fit` does with a Stream, and its predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_random_state

from ..backend import Array, host, resolve
from ..data.arrays import Rows, stored
from ..data.stream import Stream
from ..data.windows import StreamFeed, StreamHeld
from ..errors import ParameterError, ShapeError, TargetError
from ..inference import bounded, logits
from .build import hidden_layers


def begin(estimator: Any, X: Stream, y: Any, sample_weight: Any, validation: tuple[Any, ...] | None,
          first: bool) -> tuple[StreamFeed, StreamHeld | None, Rows, Callable[[], float] | None]:
    """Everything is checked, and a new network made where there is none: what is trained on, the validation rows, the
    first rows, and what gives the score.

    Raises
    ------
    ParameterError, TargetError, ShapeError, DataError
    """
    self, hidden = estimator, hidden_layers(estimator.hidden_layer_sizes)
    refused = {"y": y is not None, "sample_weight": sample_weight is not None,
               "solver='lbfgs'": self.solver == "lbfgs", "scoring": self.scoring not in (None, "loss"),
               "class_weight": getattr(self, "class_weight", None) is not None,
               "categorical_features": self.categorical_features is not None}
    wrong = [name for name, given in refused.items() if given]
    if wrong:
        raise ParameterError(f"a Stream, which brings its own targets, weights and categories, does not go with "
                             f"{wrong[0]}")
    held: Stream | None = None
    random = check_random_state(self.random_state)
    if validation is not None:
        held = validation[0]
        if not isinstance(held, Stream) or validation[1] is not None or validation[2] is not None:
            raise ParameterError("X_val must be a Stream where X is one, without y_val and sample_weight_val")
    elif self.early_stopping:
        X, held = X.split(self.validation_fraction, seed=int(random.randint(2**31 - 1)))
    if not X.has_target:
        raise TargetError("the stream has no target: name its column in xpdense.data.open(..., target=)")
    inputs, target = X.inputs, _targets(self, X, first)
    if first:
        self.n_features_in_, self._encoder, self._table = inputs, None, X.encoder
        dtype = "float64" if self.dtype == "float64" else "float32"
        self._begin(hidden, np.empty((0, inputs), dtype), resolve("numpy"), random)
    elif inputs != self.n_features_in_:
        raise ShapeError(f"X has {inputs} features, but {type(self).__name__} is expecting {self.n_features_in_}")
    self._loss = loss = self._make_loss()
    batch_size = min(200, X.rows) if self.batch_size == "auto" else int(self.batch_size)
    network = self._network
    with network.backend.active():
        feed = X.mapped(target).feed(network, loss, batch_size, int(random.randint(2**31 - 1)), self.shuffle)
        some = X.mapped(target).first(network, loss)
        sample = Rows(some.x, some.y, some.weight, on_host=True)
        rows = None if held is None else held.mapped(target).held(network, loss)
    if rows is None:
        return feed, None, sample, None
    if self.scoring == "loss":
        return feed, rows, sample, lambda: -self.history_["validation_loss"][-1]
    return feed, rows, sample, lambda: _score(self, rows)


def _targets(estimator: Any, X: Stream, first: bool) -> Callable[[Any], Any]:
    """Sets what `fit` learns of the targets; the way from the stream's to those that the loss takes."""
    if not is_classifier(estimator):
        if X.goal is not None and X.goal.classes and any(isinstance(label, str) for label in X.goal.classes):
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


def _score(estimator: Any, held: StreamHeld) -> float:
    """The estimator's own score on validation rows."""
    network = estimator._network
    xp, kept, z = network.ops.xp, list[Rows](), list[Array]()

    def slices() -> Iterator[Array]:
        for part in bounded(network, held.parts()):
            kept.append(part)
            yield stored(part.x, network.backend)

    with network.backend.active(), np.errstate(all="ignore"):
        for piece in logits(network, slices()):
            z.append(xp.asarray(piece, copy=True))
        y = stored(np.concatenate([part.y for part in kept]), network.backend)
        weight = None if kept[0].weight is None else stored(np.concatenate([p.weight for p in kept]), network.backend)
        return float(estimator._score_rows(xp, xp.concat(z, axis=0), Rows(y, y, weight)))


def slices_for(estimator: Any, X: Stream) -> Iterator[Array]:
    """The features of a stream's rows, a part at a time, where the network is."""
    network = estimator._network
    if X.inputs != estimator.n_features_in_:
        raise ShapeError(f"X has {X.inputs} features, but {type(estimator).__name__} is expecting "
                         f"{estimator.n_features_in_} features as input")
    return (stored(part.x, network.backend) for part in bounded(network, X.held(network, None).parts()))
