"""A column's values as numbers, text and labels, and the checks of what a saved model says of columns."""

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
    """A column of numbers that came from elsewhere than pandas: (n,) float64, NaN where one is missing.

    Attributes
    ----------
    first : int
        The number of its first row, for messages.
    """

    values: np.ndarray
    first: int

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Numbers:
        return Numbers(self.values[rows], self.first)


@dataclass(frozen=True)
class Coded:
    """A column of text that came from elsewhere than pandas: the place (n,) of each value in `texts`, -1: missing."""

    codes: np.ndarray
    texts: list[str]

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: Any) -> Coded:
        return Coded(self.codes[rows], self.texts)


@dataclass(frozen=True)
class Columns:
    """Columns of equal length, as a data frame of such columns: by name, or some of the rows of all of them."""

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
    """A column as a pandas Series, whatever it was."""
    pandas = require("pandas", "cli", "reading tables")
    if isinstance(values, Numbers):
        return pandas.Series(values.values, index=pandas.RangeIndex(values.first, values.first + len(values)))
    if isinstance(values, Coded):
        return pandas.Series(np.array([*values.texts, None], object)[values.codes])
    return values


def kind_of(values: Series) -> str:
    pandas = require("pandas", "cli", "reading tables")
    return str(pandas.api.types.infer_dtype(values, skipna=True))


def numbers_of(name: str, values: Series) -> np.ndarray:
    """A column as float64 (n,), NaN where it is missing; a DataError where it holds text or an infinity."""
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
                raise DataError(f"column {name!r} holds {value!r} (row {values.index[i] + 1}), and numbers are needed "
                                f"there") from None
    bad = np.flatnonzero(np.isinf(numbers))
    if bad.size:
        raise NonFiniteDataError(f"column {name!r} holds {numbers[bad[0]]} (row {values.index[bad[0]] + 1}), "
                                 f"{bad.size:,} such values in all: a number is needed, or nothing")
    return numbers


def texts_of(values: Series) -> Series:
    """A column's values as text, missing ones as they are: 2 and 2.0 become "2"."""
    return values.astype(object).map(lambda value: str(plain(value)), na_action="ignore")


def coded_texts(values: Series) -> tuple[np.ndarray, list[str]]:
    """The place (n,) of each value in a list of texts, -1 where it is missing; and that list, in no special order."""
    if isinstance(values, Coded):
        return values.codes, values.texts
    pandas, values = require("pandas", "cli", "reading tables"), as_series(values)
    if isinstance(values.dtype, pandas.CategoricalDtype):
        codes, distinct = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, distinct = pandas.factorize(values.astype(object))
    return np.asarray(codes, np.int64), [str(plain(value)) for value in distinct]


def labels_of(values: Series) -> tuple[np.ndarray, list[Any]]:
    """The place (n,) of each value in the list of distinct labels, and that list."""
    pandas = require("pandas", "cli", "reading tables")
    codes, labels = pandas.factorize(values if kind_of(values) in NUMBERS else texts_of(values))
    return np.asarray(codes), [plain(label) for label in labels]


def plain(value: Any) -> Any:
    """A label as JSON can hold it: text, a whole number, a number or a boolean."""
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
    """
    >>> listed(map(str, range(20)), most=3)
    '0, 1, 2 and 17 more'
    """
    names = list(values)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of finite values (n,); 1 for the latter where they are all the same."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 1.0
    unit = math.ldexp(1.0, math.frexp(max(abs(low), abs(high)))[1] - 1)  # keeps squares in range, and rounds nothing
    scaled = values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit or 1.0


# --- saved state -----------------------------------------------------------------------------------------------

def parsed(what: str, state: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"the model's {what} is damaged: {error!r}") from error


def require_that(condition: bool) -> None:
    if not condition:
        raise ValueError("values that do not belong together")


def distinct_names(values: Any) -> list[str]:
    names = list(values)
    require_that(all(isinstance(name, str) for name in names) and len(set(names)) == len(names))
    return names
