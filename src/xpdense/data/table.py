"""A table's columns made features: what is learnt from the training rows, and its use.

Numeric columns (booleans among them) are standardised and cut off at 5 standard deviations; a missing value becomes
the mean. Text columns are one-hot encoded: the 100 most frequent categories, and one more for missing values where
the training rows had some; a category that was not seen is all zeros. Columns that hold one value each time (an
identifier), none at all, or dates, are left out, and the encoder says so. The state is JSON: no code is ever loaded.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
    distinct_names,
    kind_of,
    listed,
    moments,
    numbers_of,
    parsed,
    require_that,
    texts_of,
)

CUT_OFF = 5.0  # standard deviations; a pixel that is nearly always off must not shout when it is on
MOST_CATEGORIES = 100

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

    @staticmethod
    def fit(name: str, values: Series) -> Number:
        numbers = numbers_of(name, values)
        return Number(name, *moments(numbers[~np.isnan(numbers)]))

    def write(self, values: Series, out: np.ndarray) -> None:
        """values (n,) -> out (n, 1)."""
        with np.errstate(over="ignore"):
            standardised = (numbers_of(self.name, values) - self.mean) / self.scale
        out[:, 0] = np.clip(np.nan_to_num(standardised, nan=0.0), -CUT_OFF, CUT_OFF)


@dataclass(frozen=True)
class Category:
    """A column of text: a feature of 0 or 1 for each category, and one for missing values if `missing`."""

    name: str
    categories: tuple[str, ...]
    missing: bool

    @property
    def features(self) -> list[str]:
        return [f"{self.name}={c}" for c in self.categories] + ([f"{self.name} missing"] if self.missing else [])

    @staticmethod
    def fit(name: str, values: Series) -> Category:
        counts = texts_of(values).value_counts()
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CATEGORIES]
        return Category(name, tuple(sorted(category for category, _ in frequent)), bool(values.isna().any()))

    def write(self, values: Series, out: np.ndarray) -> None:
        """values (n,) -> out (n, categories [+ 1])."""
        pandas = require("pandas", "cli", "reading tables")
        known_texts = pandas.Index(list(self.categories), dtype=object)
        codes = known_texts.get_indexer(texts_of(values).to_numpy(dtype=object))  # (n,), -1 where it is none of them
        out[...] = 0.0
        known = np.flatnonzero(codes >= 0)
        out[known, codes[known]] = 1.0
        if self.missing:
            out[:, -1] = values.isna().to_numpy()


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
        columns: list[Column] = []
        notes = []
        for name in frame.columns:
            values = frame[name]
            reason = _useless(values)
            if reason:
                notes.append(f"column {name!r} is left out: {reason}")
            elif kind_of(values) in NUMBERS:
                columns.append(Number.fit(name, values))
            else:
                columns.append(Category.fit(name, values))
                notes += _remarks(name, values)
        if not columns:
            raise DataError("no column is left to learn from" + "".join(f"; {note}" for note in notes))
        return TableEncoder(tuple(columns), tuple(frame.columns), tuple(notes))

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
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        if missing:
            raise DataError(f"the data have no column {listed(map(repr, missing))}, which the model was trained on; "
                            f"they have: {listed(map(str, frame.columns))}")
        widths = [len(column.features) for column in self.columns]
        out = np.empty((len(frame), sum(widths)), dtype=dtype)
        for column, width, end in zip(self.columns, widths, np.cumsum(widths), strict=True):
            column.write(frame[column.name], out[:, end - width : end])
        return out

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


def _useless(values: Series) -> str:
    """Why nothing can be learnt from a column; empty where something can."""
    kind = kind_of(values)
    present = values.count()
    if kind == "empty" or not present:
        return "it holds no value"
    if kind not in NUMBERS + TEXT:
        return f"it holds {kind.removesuffix('64')} values; make numbers or text of them"
    if kind in TEXT and present > 1 and texts_of(values).nunique() == present:
        return "every value is different, as in an identifier"
    return ""


def _remarks(name: str, values: Series) -> list[str]:
    pandas = require("pandas", "cli", "reading tables")
    distinct = texts_of(values).drop_duplicates().dropna()
    notes = []
    if len(distinct) > MOST_CATEGORIES:
        notes.append(f"column {name!r} has {len(distinct):,} categories: the {MOST_CATEGORIES} most frequent are kept")
    numeric = pandas.to_numeric(distinct, errors="coerce").notna()
    if len(distinct) > 2 and numeric.mean() > 0.5 and not numeric.all():
        notes.append(f"column {name!r} holds numbers, but also text such as {distinct[~numeric].iloc[0]!r}: "
                     f"each value is read as a category")
    return notes
