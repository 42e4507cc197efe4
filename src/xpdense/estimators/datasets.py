"""Data sets as estimators need them: with their targets as labels or values, before a network exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import host, resolve
from ..data.dataset import Dataset, first_rows
from ..spec import Spec


@dataclass(frozen=True)
class Survey:
    """The targets and weights of a data set, as far as they decide which network is made for it.

    Attributes
    ----------
    y : array (n,) or (n, outputs)
        Targets of the first rows.
    labels : array (k,) or None
        The distinct targets, sorted; None unless they were asked for.
    total_weight : float or None
        The sum over all rows; None without weights, or if the rows can be read once only.
    """

    y: np.ndarray
    labels: np.ndarray | None
    total_weight: float | None


def survey(data: Dataset, with_labels: bool) -> Survey:
    """Look at the targets and weights of a data set, in one pass or, if the first rows say enough, without one.

    Raises
    ------
    TargetError, DataError

    Examples
    --------
    >>> from xpdense.data import ArrayDataset
    >>> survey(ArrayDataset(np.eye(3), np.array(["b", "a", "b"])), with_labels=True).labels
    array(['a', 'b'], dtype='<U1')
    """
    spec, known = _as_given(data), known_labels(data)
    first = first_rows(data, spec)
    labels = np.unique(known) if with_labels and known is not None else None
    unknown = with_labels and known is None and first.y.size == len(first.y)
    weighted = first.weight is not None and not getattr(data, "readable_once", False)
    total, found = 0.0, list[np.ndarray]()
    for part in data.parts(spec) if unknown or weighted else ():
        total += 0.0 if part.weight is None else float(part.weight.sum())
        found = [np.unique(np.concatenate([*found, np.unique(part.y)]))] if unknown else []
    return Survey(first.y, found[0] if found else labels, total if weighted else None)


def known_labels(data: Dataset) -> np.ndarray | None:
    """The labels of the class numbers that a data set gives as targets; None if these are not class numbers.

    >>> import pandas, xpdense as xd
    >>> known_labels(xd.data.open(pandas.DataFrame({"a": [1.0, 2.0, 3.0], "y": ["no", "yes", "no"]})))
    array(['no', 'yes'], dtype='<U3')
    """
    preprocessing = data.preprocessing
    return np.array(preprocessing.target.classes) if preprocessing and preprocessing.target.classes else None


def targets_of(data: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
    """The targets of all rows, as labels or values (n,) or (n, outputs), and their weights (n,).

    >>> from xpdense.data import ArrayDataset
    >>> targets_of(ArrayDataset(np.eye(2), np.array([3, 5]), np.array([1.0, 2.0])))
    (array([3, 5]), array([1., 2.]))
    """
    y, weights = list[np.ndarray](), list[np.ndarray]()
    for part in data.parts(_as_given(data)):
        y.append(part.y)
        weights += [] if part.weight is None else [part.weight]
    return np.concatenate(y), np.concatenate(weights) if weights else None


def _as_given(data: Dataset) -> Spec:
    """A spec by which rows come with their targets and weights as they were given, on the host."""
    labels = known_labels(data)
    decode: Callable[[Any], Any] = host if labels is None else lambda y: labels[host(y)]
    return Spec(data.inputs, 1, "float64", "float64", resolve("numpy"), 2**13, None, decode)
