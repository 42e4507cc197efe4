"""Where the rows of a stream come from: files and iterables, read a group of rows at a time, in any order of groups.

A chunk, some rows one after the other, is a DataFrame or Columns of a table, or a tuple (x, y, weight) of arrays.
Whatever goes wrong is said with the file and the row group.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArrayTypeError, DataError, FileFormatError, ParameterError, ShapeError, XpdenseError, require
from .columns import NUMBERS, Coded, Columns, Numbers, kind_of
from .datasets import SEPARATORS, reading_csv, rows_of_csv

CHUNK = 8192  # rows that are decoded at once
GROUP = 2 * CHUNK  # rows of a group, where the file itself has none


@dataclass
class Group:
    """Rows that can be read without the others.

    Attributes
    ----------
    label : str
        For messages: the file, and which of its row groups.
    rows : int
        How many; -1 where nobody has counted them.
    place : object
        Where its source finds them.
    first : int
        The number of its first row, from 0, in what `label` counts rows of.
    """

    label: str
    rows: int
    place: Any = field(default=None, repr=False)
    first: int = 0


class Source:
    """Rows in groups.

    Attributes
    ----------
    name : str
    groups : list of Group
    columns : dict or None
        Of a table: "number", "text", "boolean" or another kind, which nothing can be learnt from, by name.
    readable_once : bool
    """

    name: str
    groups: list[Group]
    columns: dict[str, str] | None = None
    readable_once = False

    def first(self) -> Any:
        """The first chunk, of arrays; None where there is none."""
        return next(self.read(self.groups[0]), None)

    def read_as_text(self, names: Iterable[str]) -> None:
        """Keep the values of these columns as they are written, where the source has nothing but writing."""

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        """The rows of a group in their order; of a table, these columns."""
        raise NotImplementedError

    def read(self, group: Group, columns: Sequence[str] = ()) -> Iterator[Any]:
        """The same; what goes wrong, and a group that has other rows than it had, are named."""
        found = 0
        with named(group.label):
            for chunk in self.chunks(group, columns):
                found += len(chunk[0]) if isinstance(chunk, tuple) else len(chunk)
                yield chunk
            if group.rows < 0:
                group.rows = found
            if found != group.rows:
                raise DataError(f"it has {found:,} rows, and had {group.rows:,}: it changed while it was used")

    def digest(self) -> str:
        """What tells this source from others: the names and sizes of its groups, and of its columns."""
        groups = [(os.path.basename(group.label), group.rows) for group in self.groups]  # wherever the files lie
        stated = repr(groups) + repr(self.columns) + self._content()
        return f"{zlib.crc32(stated.encode()):08x}"

    def _content(self) -> str:
        return ""


@contextlib.contextmanager
def named(label: str) -> Iterator[None]:
    """Errors with the place that they come from."""
    try:
        yield
    except XpdenseError as error:
        text = str(error)
        if not text.startswith(label):
            error.args = (f"{label}: {text}",)
        raise
    except OSError as error:
        raise FileFormatError(f"{label} cannot be read: {error.strerror or error}") from error
    except (GeneratorExit, KeyboardInterrupt, MemoryError):
        raise
    except Exception as error:  # of pyarrow, pandas, or an iterable of the user's own
        kind = FileFormatError if isinstance(error, ValueError) else DataError
        raise kind(f"{label} cannot be read: {type(error).__name__}: {str(error).strip()}") from error


class Unchanged:
    """A file that must stay as it is while it is read."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._seen = self._look()

    def _look(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_size, stat.st_mtime_ns

    @property
    def size(self) -> int:
        return self._seen[0]

    def sample(self) -> int:
        """A checksum of its beginning and its end, where Parquet keeps what it says of every column."""
        with open(self.path, "rb") as raw:
            first = raw.read(2**16)
            raw.seek(max(0, self.size - 2**16))
            return zlib.crc32(raw.read(), zlib.crc32(first))

    def check(self) -> None:
        """Raise DataError where it has changed."""
        try:
            now = self._look()
        except OSError as error:
            raise DataError(f"{self.path} is gone: {error.strerror}") from error
        if now != self._seen:
            raise DataError(f"{self.path} changed while it was used ({self._seen[0]:,} bytes, now {now[0]:,}): open "
                            f"it again")


def lean_arrow() -> Any:
    """pyarrow with the system's allocator, where it is not imported yet: its own keeps tens of MB that it has freed."""
    if "pyarrow" not in sys.modules:
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    return require("pyarrow", "cli", "reading and writing Parquet files")


# --- Arrow: Parquet files, folders of them, and data sets ------------------------------------------------------

class ArrowSource(Source):
    """A pyarrow Dataset, row group by row group where its files have them; Parquet files and folders are made one."""

    def __init__(self, data: Any, name: str) -> None:
        self._arrow: Any = lean_arrow()
        arrow = require("pyarrow.dataset", "cli", "reading Parquet files")
        self.name = name
        if isinstance(data, (str, Path)):
            path = Path(data)
            files = [path]
            if path.is_dir():
                files = sorted(f for f in path.rglob("*") if f.suffix.lower() in (".parquet", ".pq") and f.is_file())
            if not files:
                raise FileFormatError(f"{path} holds no Parquet files (.parquet)")
            try:
                data = arrow.dataset([str(f) for f in files], format="parquet",
                                     partitioning=arrow.partitioning(flavor="hive") if path.is_dir() else None,
                                     partition_base_dir=str(path) if path.is_dir() else None)
            except (self._arrow.ArrowException, OSError, ValueError) as error:
                raise FileFormatError(f"{path} cannot be read as Parquet: {str(error).strip()}") from None
        self.groups, self._files = [], dict[str, Unchanged]()
        with named(name):
            self._schema = data.schema
            self.columns = {f.name: self._kind(f.type) for f in self._schema}
        if len(self.columns) < len(self._schema):
            names = list(self._schema.names)
            twice = next(n for n in names if names.count(n) > 1)
            raise FileFormatError(f"{name} has more than one column called {twice!r}: give each a name of its own")
        for number, fragment in enumerate(data.get_fragments()):
            file, divided = str(getattr(fragment, "path", "")), hasattr(fragment, "split_by_row_group")
            file = file or f"{name}, part {number}"
            with named(file):
                if os.path.isfile(file):
                    self._files[file] = Unchanged(file)
                for i, part in enumerate(fragment.split_by_row_group() if divided else [fragment]):
                    label = f"{file}, row group {i}" if divided else file
                    rows = sum(g.num_rows for g in part.row_groups) if divided else part.count_rows()
                    self.groups.append(Group(label, int(rows), (file, part)))
        self.groups = [group for group in self.groups if group.rows]
        if not self.groups:
            raise FileFormatError(f"{name} holds no rows")

    def _kind(self, kind: Any) -> str:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        if types.is_boolean(kind):
            return "boolean"
        if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
            return "number"
        text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
        return "text" if text else "empty" if types.is_null(kind) else str(kind)

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        path, fragment = group.place
        if path in self._files:
            self._files[path].check()
        start = 0
        for batch in fragment.to_batches(schema=self._schema, columns=list(columns), batch_size=CHUNK,
                                         use_threads=False, batch_readahead=1, fragment_readahead=1,
                                         memory_pool=self._arrow.system_memory_pool()):
            if batch.num_rows:
                yield Columns({name: self._values(name, batch.column(i), start)
                               for i, name in enumerate(batch.schema.names)})
                start += batch.num_rows
        if path in self._files:
            self._files[path].check()

    def _values(self, name: str, array: Any, first: int) -> Any:
        """A column of a batch: Numbers, Coded, or a Series of what is neither."""
        assert self.columns is not None
        kind, types = self.columns[name], self._arrow.types
        if kind == "text":
            array = array if types.is_dictionary(array.type) else array.dictionary_encode()
            texts = [str(text) for text in array.dictionary.to_pylist()]
            return Coded(array.indices.fill_null(-1).to_numpy().astype(np.int64, copy=False), texts)
        if kind not in ("number", "boolean"):
            return array.to_pandas()
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if types.is_boolean(array.type):
            array = array.cast("int8")
        return Numbers(array.cast("float64", safe=False).to_numpy(zero_copy_only=False), first)

    def _content(self) -> str:
        return repr(sorted((os.path.basename(path), file.size, file.sample()) for path, file in self._files.items()))


# --- CSV -------------------------------------------------------------------------------------------------------

class CsvSource(Source):
    """A CSV or TSV file. It is read once, to check its lines, count its rows and see which columns are numbers."""

    def __init__(self, path: Path) -> None:
        self._pandas = require("pandas", "cli", "reading tables")
        self.name, self._path = path.stem, path
        self._separator = SEPARATORS[path.suffix.lower()]
        with open(path, "rb") as raw:
            if raw.read(2) == b"\x1f\x8b":
                raise FileFormatError(f"{path} is a gzip file, which cannot be read from its middle: unpack it")
        self._file, self.groups, kinds = Unchanged(path), [], dict[str, str]()
        with reading_csv(path), open(path, "rb") as raw:
            counted = _Counted(raw)
            rows = rows_of_csv(path, counted, self._separator)
            header, self._coded = next(rows)
            self._header = [name or f"Unnamed: {i}" for i, name in enumerate(header)]  # as pandas calls them
            start, count, first = counted.bytes, 0, 1
            for _ in rows:
                count += 1
                if count == GROUP:
                    self._add(start, counted.bytes, count, first, kinds)
                    start, count, first = counted.bytes, 0, first + count
            if count:
                self._add(start, counted.bytes, count, first, kinds)
        kinds |= dict.fromkeys((self._header[i] for i in self._coded), "text")
        self.columns = {name: kinds.get(name, "empty") for name in self._header}
        self._dtypes = {"number": "float64", "boolean": "boolean"}

    def _add(self, start: int, end: int, rows: int, first: int, kinds: dict[str, str]) -> None:
        """A group; and what its columns look like, next to what they looked like before."""
        group = Group(f"{self._path}, rows {first:,} to {first + rows - 1:,}", rows, (start, end), first - 1)
        text = dict.fromkeys((self._header[i] for i in self._coded), "str")
        for name, values in self._frame(group, self._header, text).items():
            if not values.notna().any():
                continue
            kind = kind_of(values)
            kind = "text" if kind not in NUMBERS else "boolean" if kind == "boolean" else "number"
            before = kinds.setdefault(name, kind)
            if kind != before or name in text:
                kinds[name] = "text"
        self.groups.append(group)

    def _frame(self, group: Group, columns: Sequence[str], dtypes: dict[str, str]) -> Any:
        start, end = group.place
        with open(self._path, "rb") as raw:
            raw.seek(start)
            text = raw.read(end - start).decode("utf-8")
        return self._pandas.read_csv(io.StringIO(text), sep=self._separator, header=None, names=self._header,
                                     usecols=list(columns), dtype=dtypes, low_memory=False, index_col=False)

    def read_as_text(self, names: Iterable[str]) -> None:
        assert self.columns is not None
        self.columns |= {name: "text" for name in names if name in self.columns}

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        assert self.columns is not None
        self._file.check()
        if columns:
            frame = self._frame(group, columns, {n: self._dtypes.get(self.columns[n], "str") for n in columns})
            frame.index += group.first
            for start in range(0, len(frame), CHUNK):
                yield frame.iloc[start : start + CHUNK]
        self._file.check()

    def _content(self) -> str:
        return repr((self._file.size, self._file.sample()))


class _Counted:
    """The lines of a file as text, and how many bytes they were."""

    def __init__(self, raw: Any) -> None:
        self._raw, self.bytes = raw, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._raw:
            text = line.decode("utf-8-sig" if self.bytes == 0 else "utf-8")
            self.bytes += len(line)
            yield text


# --- arrays ----------------------------------------------------------------------------------------------------

class ArraySource(Source):
    """npy files, memory maps and arrays on the host; of a file only what is asked for is read."""

    def __init__(self, x: Any, y: Any = None) -> None:
        arrays = [_Npy(v) if isinstance(v, (str, Path)) else v for v in (x, y) if v is not None]
        for what, array in zip(("x", "y"), arrays, strict=False):
            if not hasattr(array, "dtype") or array.dtype.kind not in "biuf":
                raise ArrayTypeError(f"{what} holds no numbers (dtype {getattr(array, 'dtype', type(array).__name__)})")
        self._x, self._y = arrays[0], arrays[1] if len(arrays) > 1 else None
        if self._x.ndim != 2 or not self._x.shape[0]:
            raise ShapeError(f"x must be (rows, features), got shape {tuple(self._x.shape)}")
        if self._y is not None and (self._y.ndim not in (1, 2) or self._y.shape[0] != self._x.shape[0]):
            raise ShapeError(f"y has shape {tuple(self._y.shape)}, and x has {self._x.shape[0]:,} rows")
        self.name = Path(x).stem if isinstance(x, (str, Path)) else "array"
        label = str(x) if isinstance(x, (str, Path)) else "x"
        rows = self._x.shape[0]
        self.groups = [Group(f"{label}, rows {i:,} to {min(i + GROUP, rows) - 1:,}", min(GROUP, rows - i), i)
                       for i in range(0, rows, GROUP)]

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        row = max(1, self._x.dtype.itemsize * self._x.shape[1])
        most = max(1, min(CHUNK, 2**23 // row))  # of wide rows, fewer at once
        for start in range(group.place, group.place + group.rows, most):
            stop = min(start + most, group.place + group.rows)
            y = None if self._y is None else np.asarray(self._y[start:stop])
            yield np.asarray(self._x[start:stop]), y, None

    def _content(self) -> str:
        found = []
        for array in (self._x, self._y):
            if array is not None:  # some thousand rows stand for all
                rows = range(0, array.shape[0], max(1, array.shape[0] // 1000))
                value = 0
                for i in rows:
                    value = zlib.crc32(np.ascontiguousarray(array[i : i + 1]).data.cast("B"), value)
                found.append((tuple(array.shape), str(array.dtype), value))
        return repr(found)


class _Npy:
    """An npy file, read where it is asked for: pages of a memory map would be counted as the process's own."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = Unchanged(path)
            with open(path, "rb") as raw:
                version = np.lib.format.read_magic(raw)
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                self.shape, columns_first, self.dtype = read[version](raw)
                self._start = raw.tell()
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, SyntaxError) as error:
            raise FileFormatError(f"{path} is not an npy file: {error}") from None
        if self.dtype.hasobject:
            raise ArrayTypeError(f"{path} holds Python objects, which are never unpickled: save numbers")
        self.ndim = len(self.shape)
        if columns_first and self.ndim > 1 and self.dtype.kind in "biuf":
            raise FileFormatError(f"{path} holds its columns one after the other: save numpy.ascontiguousarray(x)")
        self._row = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=object)) if self.ndim else 0
        if self.ndim and self._file.size != self._start + self._row * self.shape[0]:
            raise FileFormatError(f"{path} is damaged: its shape {self.shape} does not fit its {self._file.size:,} "
                                  f"bytes")

    def __getitem__(self, rows: slice) -> np.ndarray:
        self._file.check()
        with open(self._path, "rb") as raw:
            raw.seek(self._start + rows.start * self._row)
            data = raw.read((rows.stop - rows.start) * self._row)
        return np.frombuffer(data, self.dtype).reshape(rows.stop - rows.start, *self.shape[1:])


class BatchSource(Source):
    """An iterable of batches (x, y) or (x, y, weight), or a function that makes one; one group, in its own order."""

    def __init__(self, batches: Iterable[Any] | Callable[[], Iterable[Any]], rows: int | None = None) -> None:
        self._make = batches if callable(batches) else lambda: batches
        self._once = self.readable_once = not callable(batches) and iter(batches) is batches
        if self._once and rows is None:
            raise ParameterError("a generator can be read once, and its rows must be counted first: pass a function "
                                 "that makes it, or say rows=")
        self.name, self.groups = "batches", [Group("the iterable", -1 if rows is None else rows)]
        self._left: Iterator[Any] | None = None  # of a generator, once its first batch has been looked at

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        batches = self._make() if self._left is None else self._left
        if self._once:
            self._left, self._make = None, _read_before
        yield from map(_batch, itertools.count(), batches)

    def first(self) -> Any:
        """The first batch, which is not lost to whoever reads next; None where there is none."""
        if not self._once:
            return next(self.read(self.groups[0]), None)
        batches = iter(self._make() if self._left is None else self._left)
        batch = next(batches, None)
        self._left = iter(()) if batch is None else itertools.chain([batch], batches)
        return None if batch is None else _batch(0, batch)


def _batch(number: int, batch: Any) -> tuple[Any, Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (1, 2, 3):
        raise DataError(f"batch {number} is no (x, y) or (x, y, weight): {type(batch).__name__}")
    x, y, weight = (*batch, None, None)[:3]
    return x, y, weight


def _read_before() -> Any:
    raise DataError("a generator can be read once, and it has been: pass a function that makes it")
