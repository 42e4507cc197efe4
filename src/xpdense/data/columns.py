"""The values of a column as numbers, text and labels, and the checks of saved encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ..errors import DataError, ModelFileError, NonFiniteDataError, require

T = TypeVar("T")
Series = Any  #: a pandas Series

NUMBERS = ("boolean", "integer", "floating", "decimal", "mixed-integer-float")  # as pandas' infer_dtype calls them
TEXT = ("string", "categorical", "mixed-integer")


@dataclass(frozen=True)
class Numbers:
    """A numeric column that does not come from pandas.

    Attributes
    ----------
    values : array (n,) float64
        Missing values are NaN.
    first : int
        Number of the first row, for error messages.

    >>> Numbers(np.array([1.0, 2.0]), first=0)[1:].values
    array([2.])
    """

    values: np.ndarray
    first: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Numbers:
        return Numbers(self.values[rows], self.first)


@dataclass(frozen=True)
class Coded:
    """A text column that does not come from pandas.

    Attributes
    ----------
    codes : array (n,)
        Position of each value in `texts`; -1 if it is missing.
    texts : list of str

    >>> list(as_series(Coded(np.array([1, 0, -1]), ["a", "b"])).dropna())
    ['b', 'a']
    """

    codes: np.ndarray
    texts: list[str]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Coded:
        return Coded(self.codes[rows], self.texts)


@dataclass(frozen=True)
class Columns:
    """Columns of equal length by name; indexing works as in a data frame.

    >>> columns = Columns({"age": Numbers(np.array([20.0, 30.0]), first=0)})
    >>> len(columns), len(columns.iloc[1:]), len(columns["age"])
    (2, 1, 2)
    """

    values: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        return list(self.values)

    @property
    def iloc(self) -> Columns:
        return self

    def __len__(self) -> int:
        return len(next(iter(self.values.values()), ()))

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.values[key]
        return Columns({name: values[key] for name, values in self.values.items()})


def as_series(values: Any) -> Series:
    """A column as a pandas Series.

    >>> list(as_series(Numbers(np.array([1.0]), first=7)).index)
    [7]
    """
    pandas = require("pandas", "cli", "reading tables")
    if isinstance(values, Numbers):
        return pandas.Series(values.values, index=pandas.RangeIndex(values.first, values.first + len(values)))
    if isinstance(values, Coded):
        return pandas.Series(np.array([*values.texts, None], object)[values.codes])
    return values


def kind_of(values: Series) -> str:
    """The kind of the present values, as pandas' `infer_dtype` returns it.

    >>> kind_of(["a", None])
    'string'
    """
    pandas = require("pandas", "cli", "reading tables")
    return str(pandas.api.types.infer_dtype(values, skipna=True))


def numbers_of(name: str, values: Series) -> np.ndarray:
    """A column as float64 (n,); missing values are NaN.

    Raises
    ------
    DataError
        It holds text.
    NonFiniteDataError
        It holds an infinity.

    >>> numbers_of("age", Numbers(np.array([20.0, np.nan]), first=0))
    array([20., nan])
    """
    if isinstance(values, Coded):
        values = as_series(values)
    if isinstance(values, Numbers):
        if not np.isinf(values.values).any():
            return values.values
        values = as_series(values)
    if values.dtype.kind in "biuf":
        numbers = np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
    else:
        numbers = np.full(len(values), np.nan)
        for i, (value, missing) in enumerate(zip(values, values.isna(), strict=True)):
            try:
                numbers[i] = np.nan if missing else float(value)
            except (TypeError, ValueError):
                raise DataError(f"column {name!r} holds {value!r} (row {values.index[i] + 1}), and must hold "
                                f"numbers") from None
    bad = np.flatnonzero(np.isinf(numbers))
    if bad.size:
        raise NonFiniteDataError(f"column {name!r} holds {numbers[bad[0]]} (row {values.index[bad[0]] + 1}), "
                                 f"{bad.size:,} such values in all: it must hold finite numbers or missing values")
    return numbers


def texts_of(values: Series) -> Series:
    """A column's values as text; 2 and 2.0 become "2", missing values remain missing.

    >>> import pandas
    >>> list(texts_of(pandas.Series([2.0, None, 0.5])).dropna())
    ['2', '0.5']
    """
    return values.astype(object).map(lambda value: str(plain(value)), na_action="ignore")


def coded_texts(values: Series) -> tuple[np.ndarray, list[str]]:
    """The position (n,) of each value in a list of distinct texts, -1 if it is missing; and that list, unsorted.

    >>> import pandas
    >>> coded_texts(pandas.Series(["b", None, "a"]))
    (array([ 0, -1,  1]), ['b', 'a'])
    """
    if isinstance(values, Coded):
        return values.codes, values.texts
    pandas, values = require("pandas", "cli", "reading tables"), as_series(values)
    if isinstance(values.dtype, pandas.CategoricalDtype):
        codes, distinct = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, distinct = pandas.factorize(values.astype(object))
    return np.asarray(codes, np.int64), [str(plain(value)) for value in distinct]


def labels_of(values: Series) -> tuple[np.ndarray, list[Any]]:
    """The position (n,) of each value in the list of distinct labels, and that list.

    >>> import pandas
    >>> labels_of(pandas.Series([2.0, 1.0, 2.0]))
    (array([0, 1, 0]), [2, 1])
    """
    pandas = require("pandas", "cli", "reading tables")
    codes, labels = pandas.factorize(values if kind_of(values) in NUMBERS else texts_of(values))
    return np.asarray(codes), [plain(label) for label in labels]


def plain(value: Any) -> Any:
    """A label as text, int, float or bool, which JSON can hold.

    >>> plain(np.float64(2.0)), plain(np.bool(True)), plain("2")
    (2, True, '2')
    """
    if isinstance(value, (bool, np.bool)):
        return bool(value)
    try:
        number = float(value) if not isinstance(value, str) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        return str(value)
    return int(value) if number.is_integer() else number


def listed(values: Iterable[str], most: int = 12) -> str:
    """The first values of a list, for a message.

    >>> listed(map(str, range(20)), most=3)
    '0, 1, 2 and 17 more'
    """
    names = list(values)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of finite values (n,); the latter is 1 if all values are equal.

    >>> moments(np.array([1.0, 3.0])), moments(np.array([7.0, 7.0]))
    ((2.0, 1.0), (7.0, 1.0))
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 1.0
    unit = math.ldexp(1.0, math.frexp(max(abs(low), abs(high)))[1] - 1)  # keeps squares in range, and rounds nothing
    scaled = values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit or 1.0


# --- saved state -----------------------------------------------------------------------------------------------

def parsed(what: str, state: Any, parse: Callable[[Any], T]) -> T:
    """`parse(state)`, with a ModelFileError that names `what` if the state is damaged.

    >>> parsed("table", {}, lambda state: state["columns"])
    Traceback (most recent call last):
    xpdense.errors.ModelFileError: the model's table is damaged: KeyError('columns')
    """
    try:
        return parse(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"the model's {what} is damaged: {error!r}") from error


def require_that(condition: bool) -> None:
    """Raise ValueError unless the condition holds.

    >>> require_that(1 + 1 == 2)
    """
    if not condition:
        raise ValueError("inconsistent values")


def distinct_names(values: Any) -> list[str]:
    """The values as a list; ValueError unless they are distinct texts.

    >>> distinct_names(("a", "b"))
    ['a', 'b']
    """
    names = list(values)
    require_that(all(isinstance(name, str) for name in names) and len(set(names)) == len(names))
    return names
