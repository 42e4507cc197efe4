"""What estimators are given: X by scikit-learn's own validation, or, of another namespace than NumPy's, where it is."""

from __future__ import annotations

from typing import Any

import narwhals
import numpy as np
from scipy.sparse import issparse
from sklearn import get_config
from sklearn.base import is_regressor
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d, validate_data

from ..backend import Array, Backend, backend_of, host, resolve
from ..data.arrays import finite, shaped
from ..data.sparse import SparseRows
from ..errors import ArrayTypeError, ParameterError

_CHECKS: dict[str, Any] = {"accept_sparse": ["csr", "csc"], "dtype": (np.float64, np.float32)}


def device_backend(values: Any) -> Backend | None:
    """The backend of an array that is not NumPy's; None for NumPy arrays, lists, frames and sparse matrices."""
    if values is None or issparse(values) or type(values) is np.ndarray:
        return None
    backend = backend_of(values)
    return None if backend is None or backend.kind == "numpy" else backend


def checked(estimator: Any, x: Any, y: Any = "no_validation", *, reset: bool) -> tuple[Any, Any]:
    """X (n, features) as numbers, and y: NumPy or CSR arrays, or arrays of X's own namespace as they are.

    With `reset` the number and the names of the features are kept, else compared. Categorical columns, where the
    estimator has some, come one-hot encoded. y (n,) or (n, outputs), of any type that has been found to be an array's.
    """
    has_y = not (isinstance(y, str) and y == "no_validation")
    backend = device_backend(x)
    numeric = {"y_numeric": True} if has_y and is_regressor(estimator) else {}
    if reset:
        estimator._encoder = None
    categories = estimator.categorical_features if reset else estimator._encoder
    if backend is None and categories is None:
        y = to_host(y)
        both = {"multi_output": True, **numeric} if has_y else {}
        found = validate_data(estimator, x, y, reset=reset, **both, **_CHECKS)
        x, y = found if has_y else (found, y)
    else:
        if backend is None and _frame(x) is None:
            x = check_array(x, accept_sparse=_CHECKS["accept_sparse"], dtype=None, ensure_all_finite="allow-nan",
                            estimator=estimator, input_name="X")
        if backend is None or x.ndim == 2:
            validate_data(estimator, x, y, reset=reset, skip_check_array=True)
        if backend is not None:
            if categories is not None and not isinstance(categories, str):
                raise ArrayTypeError(f"categorical columns need a frame or an array on the host, and X is on "
                                     f"{backend.name}: encode them before")
            x, backend = shaped(x, int(x.shape[1]) if x.ndim == 2 else -1, "X")
            with backend.active():
                x = finite(x, backend, "X", None)
        else:
            if reset:
                estimator._encoder = CategoricalEncoder(x, categories)
            x = estimator._encoder.transform(x)
            y = to_host(y)
        if has_y and device_backend(y) is None:
            y = check_array(y, accept_sparse="csr", ensure_2d=False, dtype="numeric" if numeric else None,
                            input_name="y")
    if has_y:
        check_consistent_length(x, y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True) if device_backend(y) is None else y[:, 0]
    return x, y


class CategoricalEncoder:
    """One-hot columns of the categories of some columns of a frame or an array; the other columns follow as numbers."""

    def __init__(self, x: Any, wanted: Any) -> None:
        frame = _frame(x)
        names: list[Any] = list(range(x.shape[1])) if frame is None else list(frame.columns)
        if isinstance(wanted, str):
            kinds = (narwhals.Categorical, narwhals.Enum, narwhals.String, narwhals.Boolean, narwhals.Object)
            dtypes = () if frame is None else frame.schema.values()  # an array's columns have none of their own
            chosen = [i for i, dtype in enumerate(dtypes) if isinstance(dtype, kinds)]
        elif len(wanted) and all(isinstance(w, (bool, np.bool)) for w in wanted):
            if len(wanted) != len(names):
                raise ParameterError(f"categorical_features is a mask of {len(wanted)}, and X has {len(names)} columns")
            chosen = [int(i) for i in np.flatnonzero(wanted)]
        else:
            chosen = []
            for column in wanted:
                if not isinstance(column, str) and -len(names) <= column < len(names):
                    chosen.append(int(column) % len(names))
                elif column in names:
                    chosen.append(names.index(column))
                else:
                    raise ParameterError(f"categorical_features names {column!r}, and X has "
                                         f"{f'{len(names)} columns' if frame is None else ', '.join(map(str, names))}")
        self.chosen = sorted(set(chosen))
        self.others = [i for i in range(len(names)) if i not in self.chosen]
        if issparse(x) and self.chosen:
            raise ArrayTypeError("categorical columns need a frame or a dense array, and X is sparse")
        self.encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
        if self.chosen:
            self.encoder.fit(_columns(x, self.chosen))

    def transform(self, x: Any) -> Any:
        """Numbers (n, categories + others); a category that was not there is a row of zeros."""
        parts = [check_array(_columns(x, self.others), input_name="X", **_CHECKS)] if self.others else []
        if self.chosen:
            parts.insert(0, self.encoder.transform(_columns(x, self.chosen)))
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]


def _frame(x: Any) -> Any:
    """A data frame of any library as a narwhals DataFrame; None if x is not a data frame."""
    frame = narwhals.from_native(x, eager_only=True, pass_through=True)
    return frame if isinstance(frame, narwhals.DataFrame) else None


def _columns(x: Any, positions: list[int]) -> np.ndarray:
    """Some columns as a NumPy array, categories as what they are called."""
    frame = _frame(x)
    values: np.ndarray
    if frame is None:
        values = x[:, positions]
        return values
    part = frame[:, positions]
    named = [n for n, d in part.schema.items() if isinstance(d, (narwhals.Categorical, narwhals.Enum))]
    values = (part.with_columns(narwhals.col(named).cast(narwhals.String)) if named else part).to_numpy()
    return values


def as_rows(x: Any, dtype: str) -> Any:
    """Checked X as the data rooms take it: sparse matrices as a source of dense batches."""
    return SparseRows(x, dtype) if issparse(x) else x


def some(values: Any, numbers: np.ndarray) -> Any:
    """Rows of an array, a frame or a list by number, as what they are."""
    backend = device_backend(values)
    if backend is None:
        return _safe_indexing(values, numbers)
    with backend.active():
        return backend.xp.take(values, backend.from_host(numbers), axis=0)


def source_of(x: Any) -> Backend:
    """Where results for X belong: its own namespace and device, NumPy for all that is not an array."""
    return device_backend(x) or resolve("numpy")


def to_host(values: Any) -> Any:
    """An array of another namespace as a NumPy array; whatever else as it is."""
    return values if device_backend(values) is None else host(values)


def unique(y: Array, backend: Backend) -> tuple[np.ndarray, Array]:
    """The distinct values of y (n,), sorted, on the host, and each element's place among them, where y is."""
    with backend.active():
        found = backend.xp.unique_inverse(y)
        return backend.to_host(found.values), backend.xp.reshape(found.inverse_indices, y.shape)


def dispatching() -> bool:
    """Whether scikit-learn follows the array API at the moment."""
    return bool(get_config()["array_api_dispatch"])
