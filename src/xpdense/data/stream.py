"""Data that need not fit into memory: rows that are read while they are used, and again in every epoch.

An epoch reads groups of rows in an order drawn from the seed, fills windows with them, and shuffles the rows of each
(`feeding`). The encoding of columns as features is fitted in one pass, and shared by the splits of a stream.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import backend_of, host, resolve
from ..errors import (
    ArrayTypeError,
    DataError,
    FileFormatError,
    ParameterError,
    ShapeError,
    TargetError,
    boolean,
    lookup,
    positive_int,
    real,
    require,
)
from ..spec import Spec
from .arrays import Rows, as_array, features, targets, weights
from .columns import numbers_of
from .csv import SEPARATORS, CsvSource
from .datasets import TARGET_NAMES
from .feeding import StreamFeed
from .npy import ArraySource
from .parquet import SUFFIXES, ArrowSource, lean_arrow
from .prefetch import prefetched
from .preprocessing import Preprocessing
from .sources import TARGETS_ONLY, BatchSource, Group, Source, errors_located_at, suffix_of
from .table import ColumnStatistics, TableEncoder
from .target import TargetEncoder, TargetStatistics, as_task

_PART = 2**22  # bytes of features that are handed over at once

#: Rows as a window holds them: (n, numbers), (n, categories) or None, targets or None, weights or None.
_Compact = tuple[np.ndarray, np.ndarray | None, np.ndarray | None, np.ndarray | None]


def open(source: Any, target: Any = None, *, columns: Sequence[str] | None = None, weight: str | None = None,
         task: str | None = None, standardise: bool | None = None, like: Any = None, rows: int | None = None,
         window: int | None = None) -> Stream:
    """Open data whose rows are read while they are used by `fit`, `evaluate`, `predict` and the estimators.

    Opening reads no values, except those of a CSV file, which is read once to check its lines and to count them. The
    encoding of a table (means and deviations, categories, the values for missing ones) is fitted in one pass, when it
    is first needed. A training begins with a pass over the targets and weights, which checks all of them. If pyarrow
    is not imported yet, it is told to use the system's allocator, which gives memory back.

    Parameters
    ----------
    source : str, Path, pyarrow Dataset or Table, data frame, array, or iterable
        A table: a Parquet file, a folder of them, a pyarrow Dataset, a data frame, a CSV or TSV file. Arrays
        (n, features): an npy file, a memory map, an array on the host. Or batches: an iterable of (x, y) or
        (x, y, weight), or a function that returns one, since a generator can be read once only.
    target : str, or an array or npy file
        The column of a table to predict; default the one called target, y, label or class. For arrays, y.
    columns : sequence of str, optional
        The columns of a table to predict from. Default: all others.
    weight : str, optional
        The column of a table that holds the weights of its rows.
    task : "binary", "multi-class" or "regression", optional
        The task of a table. Default: the one that the values of the target suggest.
    standardise : bool, optional
        Whether the features of arrays and batches are standardised, cut off at 5 standard deviations, and NaN replaced
        by the mean, as those of tables always are. Default: False.
    like : Stream or DenseNetwork, optional
        Its encoding is taken, and none is fitted.
    rows : int, optional
        How many rows an iterable of batches has. Default: they are counted, in a pass.
    window : int, optional
        Rows that are shuffled at once. Default: as many as take 2 MiB, in which a category takes one byte, or 8,192 if
        that is more; all of them, which are then kept, if they take no more than 12 MiB.

    Returns
    -------
    Stream

    Raises
    ------
    ParameterError, UnknownNameError, DataError, FileFormatError, ArrayTypeError

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, xpdense as xd
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/x.npy", np.eye(3))
    ...     data = xd.data.open(f"{folder}/x.npy", np.arange(3.0))
    ...     net = xd.DenseNetwork([xd.Dense(4, "tanh"), xd.Dense(1)], inputs=data.inputs)
    ...     history = net.fit(data, loss="squared_error", epochs=3)
    ...     data.rows, data.inputs, net.predict(data).shape
    (3, 3, (3, 1))
    """
    if task is not None:
        task = as_task(task)
    found = _source(source, target, rows)
    if found.columns is None:
        if columns is not None or weight is not None or task is not None:
            raise ParameterError("columns, weight and task are of tables, and this source has arrays")
        standardise = False if standardise is None else boolean("standardise", standardise)
        kinds = {f"x{i}": "number" for i in range(_width(found))} if standardise else {}
        encoding = _Encoding(found, None, list(kinds), None, None, kinds)
    else:
        if standardise is not None:
            raise ParameterError("standardise is of arrays and batches; the numbers of tables always are standardised")
        encoding = _table(found, target, columns, weight, task)
    if like is not None:
        encoding.adopt(like)
    return Stream(encoding, (0.0, 1.0), 0, None if window is None else positive_int("window", window))


def _source(source: Any, target: Any, rows: int | None) -> Source:
    if rows is not None:
        positive_int("rows", rows)
    if isinstance(source, (str, Path)):
        path = Path(source)
        suffix = suffix_of(path)
        if not path.exists():
            raise FileFormatError(f"there is no file or folder {path}")
        if path.is_dir() or suffix in SUFFIXES:
            return ArrowSource(path)
        if suffix in SEPARATORS:
            return CsvSource(path)
        if suffix == ".npy":
            return ArraySource(path, target)
        raise FileFormatError(f"{path} has an unsupported file extension: .parquet files, folders of them, .csv, .tsv "
                              f"and .npy files can be opened")
    if isinstance(source, Stream):
        raise ParameterError("this is a stream already")
    if type(source).__module__.partition(".")[0] == "pyarrow" or hasattr(source, "__arrow_c_stream__"):
        arrow, dataset = lean_arrow(), require("pyarrow.dataset", "cli", "reading Arrow data")
        if not isinstance(source, dataset.Dataset):  # a table of Arrow's, or a data frame
            source = dataset.dataset(arrow.table(source))
        return ArrowSource(source)
    backend = backend_of(source)
    if (backend is not None and backend.kind != "numpy") or hasattr(source, "tocsr"):
        raise ArrayTypeError(f"a stream is read from files or the host's memory, and this is a "
                             f"{type(source).__name__}: pass it to fit as it is")
    if backend is not None:
        return ArraySource(as_array(source, "x")[0], target)
    if callable(source) or isinstance(source, Iterable):
        if target is not None:
            raise ParameterError("batches bring their targets: (x, y) or (x, y, weight)")
        return BatchSource(source, rows)
    raise ParameterError(f"source must be a path, a pyarrow Dataset, an array or an iterable of batches, got "
                         f"{type(source).__name__}")


def _width(source: Source) -> int:
    """Features of arrays, from the first of them."""
    return int(_first(source)[0].shape[1])


def _first(source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """The first row or rows of arrays: features and targets."""
    label, chunk = source.groups[0].label, source.first()
    if chunk is None:
        raise DataError(f"{label} holds no batches")
    x, y = np.asarray(host(chunk[0])), None if chunk[1] is None else np.asarray(host(chunk[1]))
    if x.ndim != 2 or not x.size:
        raise ShapeError(f"{label}: x must be (rows, features), got shape {x.shape}")
    return x, y


def _table(source: Source, target: Any, columns: Sequence[str] | None, weight: str | None,
           task: str | None) -> _Encoding:
    known = source.columns
    assert known is not None
    if target is None:
        found = [name for name in TARGET_NAMES if name in known]
        target = found[0] if len(found) == 1 else None
    elif not isinstance(target, str):
        raise ParameterError(f"target must be the name of a column, got {type(target).__name__}")
    for name in (target, weight, *(columns or ())):
        if name is not None:
            lookup("column", name, known)
    if columns is None:
        columns = [name for name in known if name not in (target, weight)]
    elif isinstance(columns, str) or len(set(columns)) != len(columns) or not columns:
        raise ParameterError(f"columns must be a list of different names, got {columns!r}")
    elif target in columns or weight in columns:
        raise ParameterError("columns must not hold the target or the weight")
    if not columns:
        raise DataError(f"{source.name} has no column to learn from besides {target!r}")
    if weight is not None and known[weight] != "number":
        raise ParameterError(f"the weight must be a column of numbers, and {weight!r} holds {known[weight]}")
    return _Encoding(source, target, list(columns), weight, task, {name: known[name] for name in columns})


@dataclass
class _Encoding:
    """The encoding of a source's columns as features and targets; shared by the splits of one stream.

    Attributes
    ----------
    names : list of str
        Columns that are encoded as features; empty if arrays are taken as they are.
    kinds : dict
        What each of them holds.
    """

    source: Source
    target: str | None
    names: list[str]
    weight: str | None
    task: str | None
    kinds: dict[str, str]
    encoder: TableEncoder | None = None
    target_encoder: TargetEncoder | None = None
    counts: dict[Any, int] | None = None  # training rows by label
    scale: tuple[float, float] = (0.0, 1.0)  # mean and standard deviation of a target that is a number

    def adopt(self, like: Any) -> None:
        """Take the encoding of another stream, or of a network."""
        if isinstance(like, Stream):
            like.learn()
            self.encoder, self.target_encoder = like.encoder, like.target_encoder
        elif isinstance(getattr(like, "preprocessing", None), Preprocessing):
            self.encoder, self.target_encoder = like.preprocessing.table, like.preprocessing.target
        else:
            raise ParameterError("like must be a stream, or a network that was trained on a table")
        encoder = self.encoder
        if encoder is not None and self.source.columns is not None:
            missing = [column.name for column in encoder.columns if column.name not in self.source.columns]
            if missing:
                raise DataError(f"{self.source.name} has no column {missing[0]!r}, which {type(like).__name__} was "
                                f"made of")
            self.names = [column.name for column in encoder.columns]
            self.source.read_as_text(encoder.text)
            if self.target_encoder is not None and self.target_encoder.column in self.source.columns:
                self.target = self.target_encoder.column
                if self.target_encoder.is_text:
                    self.source.read_as_text([self.target])

    def fit(self, split: Stream) -> None:
        """Fit the encoding in one pass: features by the rows of `split`, the labels of the target by all rows."""
        source = self.source
        kinds = {name: "number" if kind == "boolean" else kind for name, kind in self.kinds.items()}
        statistics = [ColumnStatistics(name, kinds[name]) for name in self.names]
        scale = ColumnStatistics("target", "number")
        assert split.counts
        kind = "" if self.target is None or source.columns is None else source.columns[self.target]
        kind = {"number": "floating", "text": "string"}.get(kind, kind)
        target = TargetStatistics(self.target, kind) if self.target else None
        known = TargetStatistics(self.target, kind) if self.target and split.rows < sum(g.rows for g in source.groups) \
            else target  # of the rows of `split`
        wanted = [*self.names, *([self.target] if self.target else [])]
        for group in source.groups:
            kept = split.kept(group)
            for chunk, mask in _masked(source, group, wanted, kept):
                with errors_located_at(group.label):
                    frame = self.frame(chunk)
                    if target is not None:
                        target.add(frame[self.target])
                    if mask is not None:
                        frame = frame[mask]
                    for column in statistics:
                        column.add(frame[column.name])
                    if known is not None and known is not target:
                        known.add(frame[self.target])
                    if known is not None and known.numeric:
                        scale.add(frame[self.target])
        encoder = TableEncoder.from_statistics(statistics)
        if target is not None and known is not None:
            found = target.encoder(self.task)
            if len(known.counts) == 1:
                raise TargetError(f"the {known.rows:,} training rows have one value of {self.target!r} only: there is "
                                  f"nothing to learn. Hold out fewer rows")
            self.target_encoder, self.scale = found, scale.moments()
            self.counts = {label: known.counts.get(label, 0) for label in found.classes}
        self.encoder = encoder

    def frame(self, chunk: Any) -> Any:
        """A chunk's columns as a data frame."""
        if not isinstance(chunk, tuple):
            return chunk
        pandas = require("pandas", "cli", "standardising arrays")
        return pandas.DataFrame(np.asarray(chunk[0]), columns=self.names)


def _masked(source: Source, group: Group, columns: Sequence[str],
            kept: np.ndarray | None) -> Iterator[tuple[Any, np.ndarray | None]]:
    """The chunks of a group, each with its elements of the mask `kept` (rows,)."""
    start = 0
    for chunk in source.read(group, columns):
        end = start + _count(chunk)
        yield chunk, None if kept is None else kept[start:end]
        start = end


class Stream:
    """A `Dataset` whose rows are read while they are used; `xpdense.data.open` makes one.

    Attributes
    ----------
    rows : int
        How many there are.
    inputs : int
        Features of a row.
    features : list of str
        A name for each.
    encoder : TableEncoder or None
        The encoding of columns as features.
    target_encoder : TargetEncoder or None
        The task of a table's target, and its labels or scale.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> train, held = xd.data.open(np.eye(100), np.arange(100.0)).split(0.2, seed=1)
    >>> train.rows + held.rows, held.inputs, held.features[:2]
    (100, 100, ['x0', 'x1'])
    """

    def __init__(self, encoding: _Encoding, share: tuple[float, float], seed: int, window: int | None) -> None:
        self._encoding, self._share, self._seed, self.window = encoding, share, seed, window
        self._counts: list[int] | None = None
        self._largest_weight: float | None = None

    # --- the encoding ------------------------------------------------------------------------------------------

    @property
    def source(self) -> Source:
        return self._encoding.source

    @property
    def encoder(self) -> TableEncoder | None:
        return self._encoding.encoder

    @property
    def target_encoder(self) -> TargetEncoder | None:
        return self._encoding.target_encoder

    @property
    def has_target(self) -> bool:
        """Whether the rows have a target."""
        if self._encoding.source.columns is not None:
            return self._encoding.target is not None
        return _first(self.source)[1] is not None

    def learn(self) -> Stream:
        """Fit the encoding of columns to these rows, unless there is one; the stream itself is returned."""
        encoding = self._encoding
        if encoding.names and encoding.encoder is None:
            encoding.fit(self)
        return self

    @property
    def inputs(self) -> int:
        self.learn()
        encoder = self._encoding.encoder
        return len(encoder.features) if encoder is not None else _width(self.source)

    @property
    def features(self) -> list[str]:
        self.learn()
        encoder = self._encoding.encoder
        return encoder.features if encoder is not None else [f"x{i}" for i in range(self.inputs)]

    # --- parts -------------------------------------------------------------------------------------------------

    def kept(self, group: Group) -> np.ndarray | None:
        """A mask (rows,) of the rows of a group that belong to this split; None if all do."""
        low, high = self._share
        if (low, high) == (0.0, 1.0):
            return None
        number = self.source.groups.index(group)
        drawn = np.random.default_rng([self._seed, 3, number]).random(group.rows)
        return (drawn >= low) & (drawn < high)

    @property
    def counts(self) -> list[int]:
        """Rows of this split in each group."""
        if self._counts is None:
            for group in self.source.groups:
                if group.rows < 0:  # of batches: counted in a pass
                    for _ in self.source.read(group):
                        pass
                    if not group.rows:
                        raise DataError(f"{group.label} holds no rows")
            masks = ((group, self.kept(group)) for group in self.source.groups)
            self._counts = [group.rows if mask is None else int(mask.sum()) for group, mask in masks]
        return self._counts

    @property
    def rows(self) -> int:
        return sum(self.counts)

    copies_ahead = 6  # of a batch's features, in windows and pieces

    @property
    def readable_once(self) -> bool:
        """Whether a second pass over the rows is impossible."""
        return self.source.readable_once

    def split(self, validation: float = 0.1, test: float = 0.0, seed: int = 0) -> tuple[Stream, ...]:
        """The rows to train on and to hold out, drawn row by row: (training, validation), or with `test` a third split.

        The encoding is fitted to the first of them. Fractions are met on average.

        Raises
        ------
        ParameterError, DataError
        """
        validation = real("validation", validation, 0.0, 1.0, open_high=True)
        test, seed = real("test", test, 0.0, 1.0, open_high=True), positive_int("seed", seed, 0)
        if validation + test >= 1.0:
            raise ParameterError(f"a validation of {validation:g} and a test of {test:g} leave no rows to train on")
        if self._share != (0.0, 1.0):
            raise ParameterError("this stream is a split of another one already: split the whole one")
        held, kept = 1.0 - test - validation, 1.0 - test
        shares = [(0.0, held), (held, kept), *([(kept, 1.0)] if test else [])]
        parts = tuple(Stream(self._encoding, share, seed, self.window) for share in shares)
        for what, part, share in zip(("training", "validation", "test"), parts, shares, strict=False):
            if share[1] > share[0] and not part.rows:
                raise DataError(f"{self.source.name} has {self.rows:,} rows, and none of them is left for {what}")
        return parts

    def head(self, rows: int = 10_000) -> tuple[np.ndarray, np.ndarray | None]:
        """The features (n, inputs) and targets (n,) of the first rows as arrays, to look at or to `diagnose` with."""
        xs, ys, count = list[np.ndarray](), list[np.ndarray](), 0
        self.learn()
        for chunk in self._chunks(range(len(self.counts))):
            (x, places), (y, _) = self._features(chunk[1], "float64"), self._targets(chunk[1])
            dense = np.asarray(host(x)) if places is None else np.empty((len(x), self.inputs))
            if places is not None:
                self.expand(x, places, dense)
            xs.append(dense)
            ys += [] if y is None else [np.asarray(host(y))]
            count += len(dense)
            if count >= rows:
                break
        return np.concatenate(xs)[:rows], np.concatenate(ys)[:rows] if ys else None

    def digest(self) -> str:
        """What tells these rows from others."""
        encoder, target = self._encoding.encoder, self._encoding.target_encoder
        made = repr((self._share, self._seed, self._encoding.target, self._encoding.weight, self._encoding.names,
                     encoder and encoder.to_dict(), target and target.to_dict()))
        return f"{self.source.digest()} {zlib.crc32(made.encode()):08x}"

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What a network that is trained on these rows needs to predict others; None unless they are a table with a
        target."""
        self.learn()
        if self.encoder is None or self.target_encoder is None:
            return None
        return Preprocessing(self.encoder, self.target_encoder, self.source.name)

    def targets(self) -> np.ndarray:
        """The targets (n,) as `target_encoder` encodes them: class numbers, or values in their own units."""
        encoding = self.learn()._encoding
        encoder = encoding.target_encoder
        assert encoder is not None
        chunks = self._chunks(range(len(self.counts)), features=False)
        return np.concatenate([encoder.encode(chunk[encoding.target]) for _, chunk in chunks])

    @property
    def target_counts(self) -> dict[Any, int]:
        """How many training rows have each label of the target."""
        return self.learn()._encoding.counts or {}

    @property
    def target_moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the training rows' target, where it is a number."""
        return self.learn()._encoding.scale

    def standardise_target(self) -> None:
        """Train on (value - mean) / standard deviation of a regression's target; `target_encoder` converts back."""
        self.learn()
        encoding = self._encoding
        assert encoding.target_encoder is not None
        if not encoding.target_encoder.classes:
            mean, deviation = encoding.scale
            encoding.target_encoder = replace(encoding.target_encoder, mean=mean, scale=deviation)

    # --- reading -----------------------------------------------------------------------------------------------

    def _chunks(self, groups: Iterable[int], skip: int = 0, features: bool = True) -> Iterator[Any]:
        """The chunks of these groups, with the rows of this split only, without the first `skip` rows; without
        `features`, only the columns of targets and weights, if that saves reading."""
        encoding, source, counts = self._encoding, self.source, self.counts
        wanted = [name for name in (encoding.target, encoding.weight) if name]
        if source.columns is None:
            wanted = [] if features else [TARGETS_ONLY]
        elif features:
            wanted = [*encoding.names, *wanted]
        for number in groups:
            if skip >= counts[number]:
                skip -= counts[number]
                continue
            group = source.groups[number]
            for chunk, mask in _masked(source, group, wanted, self.kept(group)):
                if mask is not None:
                    chunk = tuple(a if a is None else a[mask] for a in chunk) if isinstance(chunk, tuple) else \
                        chunk[mask]
                count = _count(chunk)
                if skip:
                    cut, skip, count = min(skip, count), skip - min(skip, count), max(0, count - skip)
                    chunk = tuple(a if a is None else a[cut:] for a in chunk) if isinstance(chunk, tuple) else \
                        chunk.iloc[cut:]
                if count:
                    yield group.label, chunk

    def _features(self, values: Any, dtype: str) -> tuple[Any, np.ndarray | None]:
        """Numbers and places of categories of a chunk's rows."""
        encoder = self._encoding.encoder
        if isinstance(values, tuple):
            return values[0] if encoder is None else encoder.compact(self._encoding.frame(values), dtype)[0], None
        assert encoder is not None
        return encoder.compact(values, dtype)

    def _targets(self, values: Any) -> tuple[Any, Any]:
        """Return the targets and weights of a chunk's rows; None for those that the source lacks."""
        if isinstance(values, tuple):
            return values[1:]
        encoding, y = self._encoding, None
        if encoding.target is not None and encoding.target_encoder is not None:
            y = encoding.target_encoder.scaled(encoding.target_encoder.encode(values[encoding.target]))
        return y, None if encoding.weight is None else numbers_of(encoding.weight, values[encoding.weight])

    def _labelled(self, values: Any, spec: Spec) -> tuple[np.ndarray, np.ndarray | None]:
        """The same, checked and as a network and a loss take them, on the host."""
        (y, weight), rows, place = self._targets(values), _count(values), resolve("numpy")
        if y is None:
            raise TargetError(_NO_TARGET)
        y = targets(y, rows, spec, place)
        if weight is not None and self._largest_weight is None:  # without a pass before this one, by its first rows
            raw = weights(weight, rows, replace(spec, loss=None), place, "weight")
            self._largest_weight = float(np.max(host(raw))) or 1.0
        return y, weights(weight, rows, spec, place, "weight", self._largest_weight)

    def check(self, spec: Spec) -> None:
        """Read the targets and weights of all rows, so that an error in any of them is raised before a training.

        A source that can be read once is not read.

        Raises
        ------
        DataError, ShapeError, ArrayTypeError, TargetError
            The file and the row group are named.
        """
        self._check(spec)
        if self.readable_once:
            return
        self.learn()
        largest, raw, place = list[float](), replace(spec, loss=None), resolve("numpy")
        for label, values in self._chunks(range(len(self.counts)), features=False):
            with errors_located_at(label):
                y, weight = self._targets(values)
                targets(y, _count(values), spec, place)
                weight = weights(weight, _count(values), raw, place, "weight")
                largest += [] if weight is None else [float(np.max(host(weight)))]
        self._largest_weight = max(largest) if largest else None
        if self._largest_weight == 0.0:
            raise DataError(f"{self.source.name}: weight is zero for every row: nothing would be learnt")

    def _compacted(self, chunk: tuple[str, Any], spec: Spec) -> _Compact:
        """The same, checked and as a network and a loss take them, on the host; without a loss only the features.

        Raises
        ------
        DataError, ShapeError, ArrayTypeError, TargetError
            What is wrong, with the file and the row group.
        """
        label, values = chunk
        with errors_located_at(label):
            x, places = self._features(values, spec.dtype)
            if self.encoder is None:
                x = features(x, spec, "x", resolve("numpy"))
            return x, places, *(self._labelled(values, spec) if spec.wants_targets else (None, None))

    def compacted(self, spec: Spec, groups: Iterable[int] | None = None, skip: int = 0) -> Iterator[_Compact]:
        """The rows of some groups, all by default, but the first `skip` of them, a chunk at a time."""
        self.learn()
        for chunk in self._chunks(range(len(self.counts)) if groups is None else groups, skip):
            yield self._compacted(chunk, spec)

    def expand(self, x: np.ndarray, places: np.ndarray | None, out: np.ndarray) -> None:
        """Numbers and places of categories -> features, out (n, inputs)."""
        if self.encoder is None or places is None:
            out[...] = x
        else:
            self.encoder.expand(x, places, out)

    def _parts(self, spec: Spec) -> Generator[Rows, None, None]:
        most = max(1, _PART // (spec.inputs * np.dtype(spec.dtype).itemsize))
        for chunk in self.compacted(spec):
            for start in range(0, len(chunk[0]), most):
                x, places, y, weight = (None if a is None else a[start : start + most] for a in chunk)
                assert x is not None
                yield self._rows((x, places, y, weight), spec)

    def _rows(self, compact: _Compact, spec: Spec) -> Rows:
        x, places, y, weight = compact
        if places is not None:
            dense = np.empty((len(x), spec.inputs), spec.dtype)
            self.expand(x, places, dense)
            x = features(dense, spec, "x", resolve("numpy"))
        return Rows(x, y, weight, on_host=True)

    def first_compact(self, spec: Spec) -> _Compact:
        """The first rows as they will come; a generator's are not lost."""
        if self.source.columns is None:
            return self._compacted((self.source.groups[0].label, self.source.first()), spec)
        return next(self.compacted(spec))

    def first(self, spec: Spec) -> Rows:
        """The same with their features, on the host."""
        return self._rows(self.first_compact(spec), spec)

    def feed(self, spec: Spec, batch_size: int, seed: int, shuffle: bool) -> StreamFeed:
        """The batches of a training, after a look at all targets and weights: see `check`."""
        self.check(spec)
        return StreamFeed(self, spec, batch_size, seed, shuffle)

    def parts(self, spec: Spec) -> Iterator[Rows]:
        """The rows in their own order, on the host, a few MB of features at a time; a thread reads ahead."""
        self._check(spec)
        return prefetched(self._parts(spec))

    def _check(self, spec: Spec) -> None:
        """Check what can be without reading the rows."""
        if self.inputs != spec.inputs:
            raise ShapeError(f"the stream has {self.inputs} features, and the network takes {spec.inputs}")
        if spec.wants_targets and not self.has_target:
            raise TargetError(_NO_TARGET)


_NO_TARGET = "there is no target: name its column in xpdense.data.open(..., target=), or give y"


def _count(chunk: Any) -> int:
    return len(chunk[0]) if isinstance(chunk, tuple) else len(chunk)
