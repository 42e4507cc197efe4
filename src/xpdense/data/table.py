"""A table's columns made features, and its target made numbers: what is learnt from the training rows, and its use.

Numeric columns (booleans among them) are standardised and cut off at 5 standard deviations; a missing value becomes
the mean. Text columns are one-hot encoded: the 100 most frequent categories, and one more for missing values where
the training rows had some; a category that was not seen is all zeros. Columns that hold one value each time (an
identifier), none at all, or dates, are left out, and the encoder says so. The state is JSON: no code is ever loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np

from ..errors import (
    DataError,
    ModelFileError,
    NonFiniteDataError,
    ParameterError,
    TargetError,
    lookup,
    real,
    require,
)
from ..losses import LOSSES

T = TypeVar("T")
Series = Any  #: a pandas Series

CUT_OFF = 5.0  # standard deviations; a pixel that is nearly always off must not shout when it is on
MOST_CATEGORIES = 100
MOST_CLASSES = 20  # distinct whole numbers that are still taken for classes

#: The losses that fit each task, the default one first.
TASKS: dict[str, tuple[str, ...]] = {
    "binary": ("binary_cross_entropy", "softmax_cross_entropy"),
    "multi-class": ("softmax_cross_entropy",),
    "regression": ("squared_error", "absolute_error", "huber", "quantile", "poisson"),
}

_NUMBERS = ("boolean", "integer", "floating", "decimal", "mixed-integer-float")  # as pandas' infer_dtype calls them
_TEXT = ("string", "categorical", "mixed-integer")


def as_task(name: str) -> str:
    """The task of a name, or an UnknownNameError.

    >>> as_task("multiclass")
    'multi-class'
    """
    name = "multi-class" if name in ("multiclass", "multi_class") else name
    lookup("task", name, TASKS)
    return name


def as_task_loss(task: str, name: str | None) -> str:
    """The name of a loss that fits the task; its default where `name` is None.

    Raises
    ------
    UnknownNameError, ParameterError
        There is no such loss, or it is for another task.
    """
    if name is None:
        return TASKS[task][0]
    lookup("loss", name, LOSSES)
    if name not in TASKS[task]:
        hint = "; if the target is a quantity, say --task regression" if name in TASKS["regression"] else ""
        raise ParameterError(f"the loss {name!r} does not fit a {task} target, which takes "
                             f"{', '.join(TASKS[task])}{hint}")
    return name


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
        numbers = _numbers(name, values)
        return Number(name, *_moments(numbers[~np.isnan(numbers)]))

    def write(self, values: Series, out: np.ndarray) -> None:
        """values (n,) -> out (n, 1)."""
        with np.errstate(over="ignore"):
            standardised = (_numbers(self.name, values) - self.mean) / self.scale
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
        counts = _texts(values).value_counts()
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_CATEGORIES]
        return Category(name, tuple(sorted(category for category, _ in frequent)), bool(values.isna().any()))

    def write(self, values: Series, out: np.ndarray) -> None:
        """values (n,) -> out (n, categories [+ 1])."""
        pandas = require("pandas", "cli", "reading tables")
        known_texts = pandas.Index(list(self.categories), dtype=object)
        codes = known_texts.get_indexer(_texts(values).to_numpy(dtype=object))  # (n,), -1 where it is none of them
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
            elif _kind(values) in _NUMBERS:
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
            raise DataError(f"the data have no column {_listed(map(repr, missing))}, which the model was trained on; "
                            f"they have: {_listed(map(str, frame.columns))}")
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
        return _parsed("table", state, _encoder)


def _encoder(state: Any) -> TableEncoder:
    columns: list[Column] = []
    for entry in state["columns"]:
        fields = {key: value for key, value in entry.items() if key != "kind"}
        column = _COLUMNS[entry["kind"]](**fields)
        if isinstance(column, Number):
            real("mean", column.mean)
            real("scale", column.scale, 0.0, open_low=True)
        else:
            column = replace(column, categories=tuple(_names(column.categories)))
            _require(isinstance(column.missing, bool))
        columns.append(column)
    inputs = _names(state["inputs"])
    names = _names([column.name for column in columns])
    _require(bool(names) and set(names) <= set(inputs))
    return TableEncoder(tuple(columns), tuple(inputs))


def _useless(values: Series) -> str:
    """Why nothing can be learnt from a column; empty where something can."""
    kind = _kind(values)
    present = values.count()
    if kind == "empty" or not present:
        return "it holds no value"
    if kind not in _NUMBERS + _TEXT:
        return f"it holds {kind.removesuffix('64')} values; make numbers or text of them"
    if kind in _TEXT and present > 1 and _texts(values).nunique() == present:
        return "every value is different, as in an identifier"
    return ""


def _remarks(name: str, values: Series) -> list[str]:
    pandas = require("pandas", "cli", "reading tables")
    distinct = _texts(values).drop_duplicates().dropna()
    notes = []
    if len(distinct) > MOST_CATEGORIES:
        notes.append(f"column {name!r} has {len(distinct):,} categories: the {MOST_CATEGORIES} most frequent are kept")
    numeric = pandas.to_numeric(distinct, errors="coerce").notna()
    if len(distinct) > 2 and numeric.mean() > 0.5 and not numeric.all():
        notes.append(f"column {name!r} holds numbers, but also text such as {distinct[~numeric].iloc[0]!r}: "
                     f"each value is read as a category")
    return notes


# --- the target ------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Target:
    """A column to predict: its task, and its way into numbers and back.

    Attributes
    ----------
    column : str
    task : "binary", "multi-class" or "regression"
    classes : tuple
        Labels (text, whole numbers, numbers or booleans) in the order of the class numbers; empty for regression.
    mean, scale : float
        Of a regression: the network is trained on (value - mean) / scale.
    """

    column: str
    task: str
    classes: tuple[Any, ...] = ()
    mean: float = 0.0
    scale: float = 1.0

    @staticmethod
    def infer(column: str, values: Series, task: str | None = None) -> Target:
        """The target that a column's values (all rows) make, for the task named, or for the one they look like.

        Text, categories and booleans are classes. Whole numbers are, if there are two of them, or at most 20, each
        of them twice on average. Other numbers are a regression.

        Raises
        ------
        TargetError
            Rows without a target, one value only, or values that do not fit the task.
        """
        missing = int(values.isna().sum())
        if missing:
            raise TargetError(f"{missing:,} of {len(values):,} rows have no target ({column!r} is empty there): "
                              f"fill or remove them")
        kind = _kind(values)
        numbers = _numbers(column, values) if kind in _NUMBERS else None
        _, labels = _labels(values)
        count = len(labels)
        if count == 1:
            raise TargetError(f"the target {column!r} has one value only, {labels[0]!r}: there is nothing to learn")
        if task is None:
            few = count == 2 or (count <= MOST_CLASSES and 2 * count <= len(values))
            whole = numbers is not None and bool(np.all(numbers == np.round(numbers)))
            is_class = numbers is None or kind == "boolean" or (whole and few)
            task = "regression" if not is_class else "binary" if count == 2 else "multi-class"
        if task == "regression":
            if numbers is None:
                raise TargetError(f"the target {column!r} holds text such as {labels[0]!r}: a regression needs numbers")
            return Target(column, task)
        if task == "binary" and count != 2:
            raise TargetError(f"the target {column!r} has {count:,} classes, and a binary task has 2: name another "
                              f"--task or --target")
        if count == len(values) > 2:
            raise TargetError(f"every row has a class of its own in {column!r}: name another --target"
                              + ("" if numbers is None else ", or --task regression"))
        return Target(column, task, tuple(sorted(labels, key=lambda v: (isinstance(v, str), v))))

    def encode(self, values: Series) -> np.ndarray:
        """Class numbers (n,) int64, or the values (n,) float64 of a regression, in their own units.

        Raises
        ------
        TargetError
            A value is missing, or is none of the classes.
        """
        missing = int(values.isna().sum())
        if missing:
            raise TargetError(f"{missing:,} of {len(values):,} rows have no target ({self.column!r} is empty there)")
        if not self.classes:
            return _numbers(self.column, values)
        codes, labels = _labels(values)
        numbers = {label: i for i, label in enumerate(self.classes)}
        found = [numbers.get(label, numbers.get(str(label), -1)) for label in labels]
        if -1 in found:
            raise TargetError(f"the target {self.column!r} holds {labels[found.index(-1)]!r}, which is none of the "
                              f"model's classes: {_listed(map(str, self.classes))}")
        return np.take(np.array(found, dtype=np.int64), codes)

    def standardised(self, values: np.ndarray) -> Target:
        """The same, with mean and scale of the values (n,) of the training rows."""
        mean, scale = _moments(values)
        return replace(self, mean=mean, scale=scale)

    def scaled(self, values: np.ndarray) -> np.ndarray:
        """What the network is trained on, from what `encode` gave (n,)."""
        return values if self.classes else np.divide(values - self.mean, self.scale)

    def values(self, prediction: np.ndarray) -> np.ndarray:
        """A regression's predictions (n, 1) in the target's own units."""
        return np.asarray(prediction, np.float64) * self.scale + self.mean

    def probabilities(self, prediction: np.ndarray) -> np.ndarray:
        """Probabilities (n, classes) from predictions (n, classes), or (n, 1) of the second of two classes."""
        p = np.asarray(prediction, np.float64)
        return np.hstack([1.0 - p, p]) if p.shape[1] == 1 else p

    def decoded(self, prediction: np.ndarray) -> list[Any]:
        """Labels, or values in their own units, from predictions (n, outputs)."""
        if not self.classes:
            return [float(value) for value in self.values(prediction)[:, 0]]
        best = np.argmax(prediction, axis=1) if len(prediction[0]) > 1 else (prediction[:, 0] >= 0.5).astype(int)
        return [self.classes[i] for i in best]

    def outputs(self, loss: str) -> int:
        """How many outputs the network needs."""
        return len(self.classes) if loss == "softmax_cross_entropy" else 1

    def to_dict(self) -> dict[str, Any]:
        """Its state, as JSON can hold it."""
        return {"target": self.column, "task": self.task, "classes": list(self.classes), "mean": self.mean,
                "scale": self.scale}

    @staticmethod
    def from_dict(state: Any) -> Target:
        """The target of a state, or a ModelFileError where it is damaged."""
        return _parsed("target", state, _target)


def _target(state: Any) -> Target:
    target = Target(state["target"], as_task(state["task"]), tuple(state["classes"]), real("mean", state["mean"]),
                    real("scale", state["scale"], 0.0, open_low=True))
    _require(isinstance(target.column, str) and len(set(target.classes)) == len(target.classes))
    _require(all(isinstance(label, (str, int, float)) for label in target.classes))
    count = len(target.classes)
    _require({"regression": count == 0, "binary": count == 2}.get(target.task, count >= 2))
    return target


# --- values ----------------------------------------------------------------------------------------------------

def _kind(values: Series) -> str:
    pandas = require("pandas", "cli", "reading tables")
    return str(pandas.api.types.infer_dtype(values, skipna=True))


def _numbers(name: str, values: Series) -> np.ndarray:
    """A column as float64 (n,), NaN where it is missing; a DataError where it holds text or an infinity."""
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


def _texts(values: Series) -> Series:
    """A column's values as text, missing ones as they are: 2 and 2.0 become "2"."""
    return values.astype(object).map(lambda value: str(_plain(value)), na_action="ignore")


def _labels(values: Series) -> tuple[np.ndarray, list[Any]]:
    """The place (n,) of each value in the list of distinct labels, and that list."""
    pandas = require("pandas", "cli", "reading tables")
    codes, labels = pandas.factorize(values if _kind(values) in _NUMBERS else _texts(values))
    return np.asarray(codes), [_plain(label) for label in labels]


def _plain(value: Any) -> Any:
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


def _listed(values: Iterable[str], most: int = 12) -> str:
    """
    >>> _listed(map(str, range(20)), most=3)
    '0, 1, 2 and 17 more'
    """
    names = list(values)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of finite values (n,); 1 for the latter where they are all the same."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low, 1.0
    unit = math.ldexp(1.0, math.frexp(max(abs(low), abs(high)))[1] - 1)  # keeps squares in range, and rounds nothing
    scaled = values / unit
    return float(scaled.mean()) * unit, float(scaled.std()) * unit or 1.0


# --- saved state -----------------------------------------------------------------------------------------------

def _parsed(what: str, state: Any, parse: Callable[[Any], T]) -> T:
    try:
        return parse(state)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFileError(f"the model's {what} is damaged: {error!r}") from error


def _require(condition: bool) -> None:
    if not condition:
        raise ValueError("values that do not belong together")


def _names(values: Any) -> list[str]:
    names = list(values)
    _require(all(isinstance(name, str) for name in names) and len(set(names)) == len(names))
    return names
