"""What the tests of the estimators share: small data, and quiet where a fit is meant to be short."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import xpdense as xd
from xpdense.backend import host

_RNG = np.random.default_rng(12)
X = _RNG.standard_normal((60, 4))
_SIGNAL = X @ _RNG.standard_normal((4, 3)) + 0.3 * _RNG.standard_normal((60, 3))
TWO = (_SIGNAL[:, 0] > 0).astype(int)
THREE = _SIGNAL.argmax(axis=1)
LABELS = (_SIGNAL > 0).astype(int)
VALUES = _SIGNAL[:, 0] ** 2 - 1.0
OUTPUTS = np.tanh(_SIGNAL[:, :2])
COUNTS = _RNG.poisson(np.exp(0.3 * _SIGNAL[:, 0]))
DATA = {"binary": TWO, "multiclass": THREE, "multilabel": LABELS, "regression": VALUES, "outputs": OUTPUTS}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A fit of a few epochs has not converged, which is no news here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def classifier(**parameters: Any) -> xd.MLPClassifier:
    return xd.MLPClassifier(**{"hidden_layer_sizes": (6,), "max_iter": 5, "batch_size": 20, "random_state": 0,
                               **parameters})


def regressor(**parameters: Any) -> xd.MLPRegressor:
    return xd.MLPRegressor(**{"hidden_layer_sizes": (6,), "max_iter": 5, "batch_size": 20, "random_state": 0,
                              **parameters})


def maker(kind: str) -> Any:
    """What makes the estimator for a kind of DATA."""
    return regressor if kind in ("regression", "outputs") else classifier


def flat(model: Any) -> np.ndarray:
    """All weights and biases of a model, one after the other."""
    return np.concatenate([host(values).ravel() for values in [*model.coefs_, *model.intercepts_]])
