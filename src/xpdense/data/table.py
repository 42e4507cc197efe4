"""The encoding of a table's columns as features, from statistics of the training rows.

Numeric columns (booleans among them) are standardised and clipped at 5 standard deviations; a missing value becomes
the mean. Text columns are one-hot encoded: a feature for each of the 100 most frequent categories, and one for missing
values if the training rows have any; an unknown category is all zeros. Columns of dates, columns without values, and
text columns whose values are all distinct (identifiers) are left out, with a note.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import DataError, real, require
from .columns import (
    NUMBERS,
    TEXT,
    Series,
    coded_texts,
    distinct_names,
    kind_of,
    listed,
    moments,
    numbers_of,
    parsed,
    require_that,
)

CUT_OFF = 5.0  # standard deviations at which numbers are clipped, so that rare features do not dominate
MOST_CATEGORIES = 100
_MOST_COUNTED = 100_000  # distinct texts of a column

# --- columns ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Number:
    """A numeric column, encoded as (value - mean) / scale.

    >>> Number("age", 30.0, 10.0).features
    ['age']
    """

    name: str
    mean: float
    scale: float

    @property
    def features(self) -> list[str]:
        return [self.name]

    def standardised(self, values: Series) -> np.ndarray:
        """values (n,) -> (n,), clipped; a missing value becomes 0."""
        with np.errstate(over="ignore"):
            standardised = (numbers_of(self.name, values) - self.mean) / self.scale
        out: np.ndarray = np.clip(np.nan_to_num(standardised, nan=0.0), -CUT_OFF, CUT_OFF)
        return out


@dataclass(frozen=True)
class Category:
    """A text column, one-hot encoded: a feature for each category, and one for missing values if `missing`.

    >>> Category("city", ("Oslo", "Rome"), missing=True).features
    ['city=Oslo', 'city=Rome', 'city missing']
    """

    name: str
    categories: tuple[str, ...]
    missing: bool

    @property
    def features(self) -> list[str]:
        return [f"{self.name}={c}" for c in self.categories] + ([f"{self.name} missing"] if self.missing else [])

    def places(self, values: Series) -> np.ndarray:
        """values (n,) -> (n,) int8, the position of the feature that is 1; -1 for an unknown category."""
        codes, texts = coded_texts(values)
        known = {category: i for i, category in enumerate(self.categories)}
        missing = len(self.categories) if self.missing else -1
        table: np.ndarray = np.array([*(known.get(text, -1) for text in texts), missing], np.int8)
        return np.asarray(table[codes])  # the last one for -1


Column = Number | Category
_COLUMNS: dict[str, type[Column]] = {"number": Number, "category": Category}


@dataclass(frozen=True)
class TableEncoder:
    """The encoding of columns as features, fitted to training rows.

    Attributes
    ----------
    columns : tuple of Number and Category
        The encoded columns, in the order of their features.
    inputs : tuple of str
        Names of all columns it was fitted to, including those that are left out.
    notes : tuple of str
        Remarks for the user about columns that are left out or have too many categories; not saved.

    Examples
    --------
    >>> import pandas
    >>> table = pandas.DataFrame({"age": [20.0, 30.0, None, 40.0], "city": ["Rome", "Oslo", "Rome", None]})
    >>> encoder = TableEncoder.fit(table)
    >>> encoder.features
    ['age', 'city=Oslo', 'city=Rome', 'city missing']
    >>> encoder.transform(table).round(2)[:2]
    array([[-1.22,  0.  ,  1.  ,  0.  ],
           [ 0.  ,  1.  ,  0.  ,  0.  ]])
    """

    columns: tuple[Column, ...]
    inputs: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @staticmethod
    def fit(frame: Any) -> TableEncoder:
        """An encoder for the columns of a pandas DataFrame, which holds training rows only.

        Raises
        ------
        NonFiniteDataError
            A numeric column holds an infinity.
        DataError
            Every column is left out.
        """
        statistics = []
        for name in frame.columns:
            kind = kind_of(frame[name])
            statistics.append(ColumnStatistics(name, "number" if kind in NUMBERS else "text" if kind in TEXT else kind))
            statistics[-1].add(frame[name])
        return TableEncoder.from_statistics(statistics)

    @staticmethod
    def from_statistics(statistics: Sequence[ColumnStatistics]) -> TableEncoder:
        """An encoder for the columns with these statistics; DataError if every column is left out."""
        encoded = [column.encoder() for column in statistics]
        columns = tuple(column for column, _ in encoded if column is not None)
        notes = tuple(note for _, found in encoded for note in found)
        if not columns:
            raise DataError("no column is left to learn from" + "".join(f"; {note}" for note in notes))
        return TableEncoder(columns, tuple(column.name for column in statistics), notes)

    @property
    def features(self) -> list[str]:
        """Names of the features."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def text(self) -> list[str]:
        """The columns whose values are text."""
        return [column.name for column in self.columns if isinstance(column, Category)]

    def transform(self, frame: Any, dtype: str = "float64") -> np.ndarray:
        """The features (n, features) of a DataFrame's rows; unknown columns are ignored.

        Raises
        ------
        DataError
            A column is missing, or a numeric one holds text.
        NonFiniteDataError
            A numeric column holds an infinity.
        """
        numbers, places = self.compact(frame, dtype)
        out = np.empty((len(frame), len(self.features)), dtype=dtype)
        self.expand(numbers, places, out)
        return out

    def compact(self, frame: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The features in compact form: numeric features (n, numbers), and the positions of `Category.places`
        (n, categories) int8. Raises as `transform` does."""
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        if missing:
            raise DataError(f"the data have no column {listed(map(repr, missing))}, which the model was trained on; "
                            f"they have: {listed(map(str, frame.columns))}")
        numbers = [column for column in self.columns if isinstance(column, Number)]
        categories = [column for column in self.columns if isinstance(column, Category)]
        values, places = np.empty((len(frame), len(numbers)), dtype), np.empty((len(frame), len(categories)), np.int8)
        for i, number in enumerate(numbers):
            values[:, i] = number.standardised(frame[number.name])
        for i, category in enumerate(categories):
            places[:, i] = category.places(frame[category.name])
        return values, places

    def expand(self, numbers: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
        """Write the features of a compact form to out (n, features), which is C-contiguous."""
        at, starts = self._layout
        if len(at) == out.shape[1]:
            out[...] = numbers
            return
        out[...] = 0.0
        out[:, at] = numbers
        flat, rows = out.reshape(-1), np.arange(0, out.size, out.shape[1])
        for i, start in enumerate(starts):
            place = places[:, i]
            if place.min(initial=0) < 0:
                known = np.flatnonzero(place >= 0)
                flat[rows[known] + start + place[known]] = 1.0
            else:
                flat[rows + start + place] = 1.0  # in int64, of which rows is

    @cached_property
    def _layout(self) -> tuple[np.ndarray, list[int]]:
        """The positions of the numeric features, and of the first feature of each text column."""
        at, starts, width = list[int](), list[int](), 0
        for column in self.columns:
            (at if isinstance(column, Number) else starts).append(width)
            width += len(column.features)
        return np.array(at, np.int64), starts

    def to_dict(self) -> dict[str, Any]:
        """The state for JSON."""
        kinds = {cls: kind for kind, cls in _COLUMNS.items()}
        columns = [{"kind": kinds[type(column)], **asdict(column)} for column in self.columns]
        for column in columns:
            column |= {"categories": list(column["categories"])} if "categories" in column else {}
        return {"inputs": list(self.inputs), "columns": columns}

    @staticmethod
    def from_dict(state: Any) -> TableEncoder:
        """Rebuild the encoder from a state; ModelFileError if it is damaged."""
        return parsed("table", state, _encoder)


def _encoder(state: Any) -> TableEncoder:
    columns: list[Column] = []
    for entry in state["columns"]:
        fields = {key: value for key, value in entry.items() if key != "kind"}
        column = _COLUMNS[entry["kind"]](**fields)
        if isinstance(column, Number):
            real("mean", column.mean)
            real("scale", column.scale, 0.0, open_low=True)
        else:
            column = replace(column, categories=tuple(distinct_names(column.categories)))
            require_that(isinstance(column.missing, bool))
        columns.append(column)
    inputs = distinct_names(state["inputs"])
    names = distinct_names([column.name for column in columns])
    require_that(bool(names) and set(names) <= set(inputs))
    return TableEncoder(tuple(columns), tuple(inputs))


# --- statistics ------------------------------------------------------------------------------------------------

class ColumnStatistics:
    """Statistics of one column, updated chunk by chunk in bounded memory.

    Mean and standard deviation are merged by the formulas of Chan, Golub and LeVeque (1979). Categories are counted
    exactly up to 100,000 distinct ones; beyond that, the rarer half is dropped whenever there are as many, and counts
    of frequent categories remain nearly exact.

    Parameters
    ----------
    name : str
    kind : str
        "number", "text", or the name of another type, whose columns are left out.

    Examples
    --------
    >>> import pandas
    >>> statistics = ColumnStatistics("age", "number")
    >>> statistics.add(pandas.Series([20.0, 30.0]))
    >>> statistics.add(pandas.Series([40.0, None]))
    >>> statistics.present, statistics.missing, statistics.moments()[0]
    (3, 1, 30.0)
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.present = self.missing = 0
        self.counts: dict[str, int] = {}
        self._dropped = 0
        self._low, self._high, self._mean, self._deviation = math.inf, -math.inf, 0.0, 1.0

    def add(self, values: Series) -> None:
        """Include further values (n,); NonFiniteDataError if a number is infinite."""
        if self.kind == "number":
            numbers = numbers_of(self.name, values)
            numbers = numbers[~np.isnan(numbers)]
            self.missing += len(values) - len(numbers)
            if len(numbers):
                self._merge(numbers)
        elif self.kind == "text":
            codes, texts = coded_texts(values)
            count = np.bincount(codes + 1, minlength=len(texts) + 1)
            self.missing += int(count[0])
            self.present += len(codes) - int(count[0])
            for text, n in zip(texts, count[1:].tolist(), strict=True):
                if n:
                    self.counts[text] = self.counts.get(text, 0) + n
            if len(self.counts) > _MOST_COUNTED:
                frequent = sorted(self.counts.items(), key=_by_frequency)[: _MOST_COUNTED // 2]
                self._dropped += len(self.counts) - len(frequent)
                self.counts = dict(frequent)
        else:
            self.present += int(values.count())

    def _merge(self, numbers: np.ndarray) -> None:
        n, m = self.present, len(numbers)
        mean, deviation = moments(numbers)
        low, high = float(numbers.min()), float(numbers.max())
        if low == high:
            deviation = 0.0
        if n:
            step, fraction = mean - self._mean, m / (n + m)
            spread = (math.sqrt(1.0 - fraction) * self._deviation, math.sqrt(fraction) * deviation,
                      math.sqrt(fraction * (1.0 - fraction)) * step)
            mean, deviation = self._mean + fraction * step, math.hypot(*spread)  # hypot does not overflow
        self.present, self._mean, self._deviation = n + m, mean, deviation
        self._low, self._high = min(self._low, low), max(self._high, high)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation; the latter is 1 if all numbers are equal."""
        if self._low == self._high:
            return self._low, 1.0
        return self._mean, self._deviation or 1.0

    def encoder(self) -> tuple[Column | None, list[str]]:
        """The encoder of the column, None if the column is left out; and notes for the user."""
        reason = ""
        if self.kind == "empty" or not self.present:
            reason = "it holds no value"
        elif self.kind not in ("number", "text"):
            reason = f"it holds {self.kind.removesuffix('64')} values; convert them to numbers or text"
        elif self.kind == "text" and self.present > 1 and len(self.counts) + self._dropped == self.present:
            reason = "every value is different, as in an identifier"
        if reason:
            return None, [f"column {self.name!r} is left out: {reason}"]
        if self.kind == "number":
            return Number(self.name, *self.moments()), []
        frequent = sorted(self.counts.items(), key=_by_frequency)[:MOST_CATEGORIES]
        return Category(self.name, tuple(sorted(text for text, _ in frequent)), self.missing > 0), self._notes()

    def _notes(self) -> list[str]:
        pandas = require("pandas", "cli", "reading tables")
        notes, distinct = [], pandas.Series(list(self.counts), dtype=object)
        if len(distinct) > MOST_CATEGORIES or self._dropped:
            more = "more than " if self._dropped else ""
            notes.append(f"column {self.name!r} has {more}{len(distinct):,} categories: the {MOST_CATEGORIES} most "
                         f"frequent are kept")
        numeric = pandas.to_numeric(distinct, errors="coerce").notna()
        if len(distinct) > 2 and numeric.mean() > 0.5 and not numeric.all():
            notes.append(f"column {self.name!r} holds numbers, but also text such as {distinct[~numeric].iloc[0]!r}: "
                         f"each value is read as a category")
        return notes


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
