"""scikit-learn's own checks of an estimator: all of them, on three backends, and none is expected to fail."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import xpdense as xd
from xpdense.backend import resolve
from xpdense.errors import BackendError


def here(backend: str) -> bool:
    try:
        resolve(backend)
    except BackendError:
        return False
    return True


ESTIMATORS = [
    cls(**({} if backend == "auto" else {"backend": backend}))
    for cls in (xd.MLPClassifier, xd.MLPRegressor)
    for backend in ("auto", "torch", "array_api_strict")
    if backend == "auto" or here(backend)
]


def keywords(check: Any) -> dict[str, Any]:
    """The keyword arguments of a check, which is a partial of a partial."""
    return {**keywords(check.func), **check.keywords} if isinstance(check, functools.partial) else {}


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_check(estimator, check):
    if keywords(check).get("array_namespace") == "cupy" and not here("cupy"):
        pytest.skip("CuPy is here and finds no device")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # checks fit for a few epochs
        check(estimator)
