"""A table's columns made features: what is learnt from the training rows, and its use.

Numeric columns (booleans among them) are standardised and cut off at 5 standard deviations; a missing value becomes
the mean. Text columns are one-hot encoded: the 100 most frequent categories, and one more for missing values where
the training rows had some; a category that was not seen is all zeros. Columns that hold one value each time (an
identifier), none at all, or dates, are left out, and the encoder says so. The state is JSON: no code is ever loaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import (
    DataError,
    real,
    require,
)
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

CUT_OFF = 5.0  # standard deviations; a pixel that is nearly always off must not shout when it is on
MOST_CATEGORIES = 100
_MOST_COUNTED = 100_000  # different texts of a column

# --- columns ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Number:
    """A numeric column: (value - mean) / scale, 0 where it is missing."""

    name: str
    mean: float
    scale: float

    @property
    def features(self) -> list[str]:
        return [self.name]

    def standardised(self, values: Series) -> np.ndarray:
        """values (n,) -> (n,), cut off; 0 where one is missing."""
        with np.errstate(over="ignore"):
            standardised = (numbers_of(self.name, values) - self.mean) / self.scale
        out: np.ndarray = np.clip(np.nan_to_num(standardised, nan=0.0), -CUT_OFF, CUT_OFF)
        return out


@dataclass(frozen=True)
class Category:
    """A column of text: a feature of 0 or 1 for each category, and one for missing values if `missing`."""

    name: str
    categories: tuple[str, ...]
    missing: bool

    @property
    def features(self) -> list[str]:
        return [f"{self.name}={c}" for c in self.categories] + ([f"{self.name} missing"] if self.missing else [])

    def places(self, values: Series) -> np.ndarray:
        """values (n,) -> (n,), which of the column's features is 1; -1: none, of a category that is not known."""
        codes, texts = coded_texts(values)
        known = {category: i for i, category in enumerate(self.categories)}
        missing = len(self.categories) if self.missing else -1
        table: np.ndarray = np.array([*(known.get(text, -1) for text in texts), missing], np.int8)
        return np.asarray(table[codes])  # the last one for -1


Column = Number | Category
_COLUMNS: dict[str, type[Column]] = {"number": Number, "category": Category}


@dataclass(frozen=True)
class TableEncoder:
    """Columns -> features, as the training rows have taught it.

    Attributes
    ----------
    columns : tuple of Number and Category
        What the features are made of, in order.
    inputs : tuple of str
        Names of all columns it was shown, also of those it leaves out.
    notes : tuple of str
        What a user should know about columns that were left out or cut; not saved.

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
        """Learn from a pandas DataFrame of features, training rows only.

        Raises
        ------
        NonFiniteDataError
            A numeric column holds an infinity.
        DataError
            No column is left to learn from.
        """
        lessons = []
        for name in frame.columns:
            kind = kind_of(frame[name])
            lessons.append(Lesson(name, "number" if kind in NUMBERS else "text" if kind in TEXT else kind))
            lessons[-1].add(frame[name])
        return TableEncoder.of(lessons)

    @staticmethod
    def of(lessons: Sequence[Lesson]) -> TableEncoder:
        """What the columns have taught. Raises as `fit` does."""
        learnt = [lesson.learnt() for lesson in lessons]
        columns = tuple(column for column, _ in learnt if column is not None)
        notes = tuple(note for _, found in learnt for note in found)
        if not columns:
            raise DataError("no column is left to learn from" + "".join(f"; {note}" for note in notes))
        return TableEncoder(columns, tuple(lesson.name for lesson in lessons), notes)

    @property
    def features(self) -> list[str]:
        """A name for each feature."""
        return [feature for column in self.columns for feature in column.features]

    @property
    def text(self) -> list[str]:
        """The columns whose values are text."""
        return [column.name for column in self.columns if isinstance(column, Category)]

    def transform(self, frame: Any, dtype: str = "float64") -> np.ndarray:
        """The features (n, features) of a DataFrame's rows; columns that it does not know are not looked at.

        Raises
        ------
        DataError
            A column is missing, or holds text where the training rows had numbers.
        NonFiniteDataError
            A numeric column holds an infinity.
        """
        numbers, places = self.compact(frame, dtype)
        out = np.empty((len(frame), len(self.features)), dtype=dtype)
        self.expand(numbers, places, out)
        return out

    def compact(self, frame: Any, dtype: str) -> tuple[np.ndarray, np.ndarray]:
        """The same in few bytes: the features that are numbers (n, numbers), and of each column of categories which of
        its features is 1 (n, categories) int8. Raises as `transform` does."""
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
        """What `compact` gave -> the features, out (n, features), one row after the other in memory."""
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
        """Where among the features the numbers are, and where those of each column of categories begin."""
        at, starts, width = list[int](), list[int](), 0
        for column in self.columns:
            (at if isinstance(column, Number) else starts).append(width)
            width += len(column.features)
        return np.array(at, np.int64), starts

    def to_dict(self) -> dict[str, Any]:
        """Its state, as JSON can hold it."""
        kinds = {cls: kind for kind, cls in _COLUMNS.items()}
        columns = [{"kind": kinds[type(column)], **asdict(column)} for column in self.columns]
        for column in columns:
            column |= {"categories": list(column["categories"])} if "categories" in column else {}
        return {"inputs": list(self.inputs), "columns": columns}

    @staticmethod
    def from_dict(state: Any) -> TableEncoder:
        """The encoder of a state, or a ModelFileError where it is damaged."""
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


# --- learning --------------------------------------------------------------------------------------------------

class Lesson:
    """What the values of one column teach, a chunk of them at a time, in memory that does not grow with them.

    Mean and standard deviation are merged chunk by chunk (Chan, Golub and LeVeque, 1979). Categories are counted
    exactly up to 100,000 different ones; from there on the rarer half is forgotten whenever there are as many, so that
    the counts of the frequent ones, which are kept, are those of most of their rows.

    Parameters
    ----------
    name : str
    kind : "number", "text", or another, of which nothing can be learnt
    """

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.present = self.missing = 0
        self.counts: dict[str, int] = {}
        self._forgotten = 0
        self._low, self._high, self._mean, self._deviation = math.inf, -math.inf, 0.0, 1.0

    def add(self, values: Series) -> None:
        """Look at some values (n,) more; a NonFiniteDataError where a number is infinite."""
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
                kept = sorted(self.counts.items(), key=_by_frequency)[: _MOST_COUNTED // 2]
                self._forgotten += len(self.counts) - len(kept)
                self.counts = dict(kept)
        else:
            self.present += int(values.count())

    def _merge(self, numbers: np.ndarray) -> None:
        n, m = self.present, len(numbers)
        mean, deviation = moments(numbers)
        low, high = float(numbers.min()), float(numbers.max())
        if low == high:
            deviation = 0.0
        if n:
            step, share = mean - self._mean, m / (n + m)
            spread = (math.sqrt(1.0 - share) * self._deviation, math.sqrt(share) * deviation,
                      math.sqrt(share * (1.0 - share)) * step)
            mean, deviation = self._mean + share * step, math.hypot(*spread)  # squares of nothing that is large
        self.present, self._mean, self._deviation = n + m, mean, deviation
        self._low, self._high = min(self._low, low), max(self._high, high)

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation; 1 for the latter where all numbers are the same."""
        if self._low == self._high:
            return self._low, 1.0
        return self._mean, self._deviation or 1.0

    def learnt(self) -> tuple[Column | None, list[str]]:
        """The column, or None where nothing can be learnt from it; and remarks."""
        reason = ""
        if self.kind == "empty" or not self.present:
            reason = "it holds no value"
        elif self.kind not in ("number", "text"):
            reason = f"it holds {self.kind.removesuffix('64')} values; make numbers or text of them"
        elif self.kind == "text" and self.present > 1 and len(self.counts) + self._forgotten == self.present:
            reason = "every value is different, as in an identifier"
        if reason:
            return None, [f"column {self.name!r} is left out: {reason}"]
        if self.kind == "number":
            return Number(self.name, *self.moments()), []
        frequent = sorted(self.counts.items(), key=_by_frequency)[:MOST_CATEGORIES]
        return Category(self.name, tuple(sorted(text for text, _ in frequent)), self.missing > 0), self._remarks()

    def _remarks(self) -> list[str]:
        pandas = require("pandas", "cli", "reading tables")
        notes, distinct = [], pandas.Series(list(self.counts), dtype=object)
        if len(distinct) > MOST_CATEGORIES or self._forgotten:
            more = "more than " if self._forgotten else ""
            notes.append(f"column {self.name!r} has {more}{len(distinct):,} categories: the {MOST_CATEGORIES} most "
                         f"frequent are kept")
        numeric = pandas.to_numeric(distinct, errors="coerce").notna()
        if len(distinct) > 2 and numeric.mean() > 0.5 and not numeric.all():
            notes.append(f"column {self.name!r} holds numbers, but also text such as {distinct[~numeric].iloc[0]!r}: "
                         f"each value is read as a category")
        return notes


def _by_frequency(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]
