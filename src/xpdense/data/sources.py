"""Where the rows of a stream come from: groups of rows that can be read in any order, a chunk at a time.

The readers of files (`csv`, `parquet`, `npy`) are sources; `BatchSource`, for iterables, is here. A chunk holds
consecutive rows: a DataFrame or `Columns` of a table, or a tuple (x, y, weight) of arrays. Every error names the file
and the group of rows.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, FileFormatError, ParameterError, XpdenseError

CHUNK = 8192  # rows that are decoded at once
GROUP = 2 * CHUNK  # rows of a group, in files that have no groups of their own
TARGETS_ONLY = "y"  # in place of columns, for arrays: features may be left out, as an array (n, 0)


@dataclass
class Group:
    """Rows that can be read without those before them.

    Attributes
    ----------
    label : str
        The file and the group within it, for error messages.
    rows : int
        Number of rows; -1 until they have been counted.
    place : object
        Where its source finds the rows.
    first : int
        Number of its first row, from 0, within the file.

    >>> Group("t.csv, rows 1 to 9", 9).rows
    9
    """

    label: str
    rows: int
    place: Any = field(default=None, repr=False)
    first: int = 0


class Source:
    """Rows in groups; the base class of the readers.

    Attributes
    ----------
    name : str
        Name of the data set.
    groups : list of Group
    columns : dict or None
        Of a table: what each column holds, by name: "number", "text", "boolean", "empty", or the name of a type that
        is not used as a feature. None for arrays.
    readable_once : bool
        Whether a second pass is impossible.
    """

    name: str
    groups: list[Group]
    columns: dict[str, str] | None = None
    readable_once = False

    def first(self) -> Any:
        """The first chunk of the first group, or None if there are no rows."""
        return next(self.read(self.groups[0]), None)

    def read_as_text(self, names: Iterable[str]) -> None:
        """Keep the values of these columns as they are written, if the file holds nothing but text."""

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        """The rows of a group in order; of a table, these columns of them. A subclass defines it."""
        raise NotImplementedError

    def read(self, group: Group, columns: Sequence[str] = ()) -> Iterator[Any]:
        """The chunks of a group, with the group named in every error.

        Raises
        ------
        DataError
            The group has another number of rows than before.
        FileFormatError
            It cannot be read.
        """
        found = 0
        with errors_located_at(group.label):
            for chunk in self.chunks(group, columns):
                found += len(chunk[0]) if isinstance(chunk, tuple) else len(chunk)
                yield chunk
            if group.rows < 0:
                group.rows = found
            if found != group.rows:
                raise DataError(f"it has {found:,} rows, and had {group.rows:,}: it changed while it was used")

    def digest(self) -> str:
        """A checksum of the names and sizes of groups and columns, and of a sample of the content."""
        groups = [(os.path.basename(group.label), group.rows) for group in self.groups]  # the same in any folder
        stated = repr(groups) + repr(self.columns) + self._content()
        return f"{zlib.crc32(stated.encode()):08x}"

    def _content(self) -> str:
        """A sample of the content, as text."""
        return ""


@contextlib.contextmanager
def errors_located_at(label: str) -> Iterator[None]:
    """Put a file or a group of rows in front of every error; those of other libraries become errors of the package.

    >>> with errors_located_at("t.parquet"):
    ...     raise ValueError("unknown codec")
    Traceback (most recent call last):
    xpdense.errors.FileFormatError: t.parquet cannot be read: ValueError: unknown codec
    """
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
    except Exception as error:  # from pyarrow, pandas, or an iterable of the user
        kind = FileFormatError if isinstance(error, ValueError) else DataError
        raise kind(f"{label} cannot be read: {type(error).__name__}: {str(error).strip()}") from error


def suffix_of(path: str | Path) -> str:
    """The ending that tells the format of a file: in lower case, without .gz.

    >>> suffix_of("May.CSV.gz")
    '.csv'
    """
    path = Path(path)
    return Path(path.stem if path.suffix.lower() == ".gz" else path).suffix.lower()


def check_distinct(name: str | Path, columns: Sequence[str]) -> None:
    """Raise FileFormatError if two columns of a file have one name.

    >>> check_distinct("t.csv", ["a", "b"])
    """
    if len(set(columns)) < len(columns):
        twice = min(column for column in columns if columns.count(column) > 1)
        raise FileFormatError(f"{name} has more than one column called {twice!r}: give each a name of its own")


class UnchangedFile:
    """A file that must not change while it is in use."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._size_and_time = self._stat()

    def _stat(self) -> tuple[int, int]:
        stat = os.stat(self.path)
        return stat.st_size, stat.st_mtime_ns

    @property
    def size(self) -> int:
        """Its size in bytes."""
        return self._size_and_time[0]

    def sample(self) -> int:
        """A checksum of its first and last 64 KiB; the latter hold the statistics of every column in Parquet files."""
        with open(self.path, "rb") as raw:
            first = raw.read(2**16)
            raw.seek(max(0, self.size - 2**16))
            return zlib.crc32(raw.read(), zlib.crc32(first))

    def check(self) -> None:
        """Raise DataError if it has changed or is gone."""
        try:
            now = self._stat()
        except OSError as error:
            raise DataError(f"{self.path} is gone: {error.strerror}") from error
        if now != self._size_and_time:
            raise DataError(f"{self.path} changed while it was used ({self.size:,} bytes, now {now[0]:,}): open it "
                            f"again")


class BatchSource(Source):
    """An iterable of batches (x, y) or (x, y, weight), or a function that returns one; a single group.

    >>> source = BatchSource(lambda: [([[1.0], [2.0]], [0, 1])])
    >>> [x for x, y, weight in source.read(source.groups[0])]
    [[[1.0], [2.0]]]
    """

    def __init__(self, batches: Iterable[Any] | Callable[[], Iterable[Any]], rows: int | None = None) -> None:
        self._make = batches if callable(batches) else lambda: batches
        self._once = self.readable_once = not callable(batches) and iter(batches) is batches
        if self._once and rows is None:
            raise ParameterError("a generator can be read once, and its rows must be counted first: pass a function "
                                 "that makes it, or say rows=")
        self.name, self.groups = "batches", [Group("the iterable", -1 if rows is None else rows)]
        self._left: Iterator[Any] | None = None  # of a generator whose first batch has been looked at

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        batches = self._make() if self._left is None else self._left
        if self._once:
            self._left, self._make = None, _read_before
        yield from map(_batch, itertools.count(), batches)

    def first(self) -> Any:
        """The first batch, which the next reader gets as well; None if there are no batches."""
        if not self._once:
            return super().first()
        batches = iter(self._make() if self._left is None else self._left)
        batch = next(batches, None)
        self._left = iter(()) if batch is None else itertools.chain([batch], batches)
        return None if batch is None else _batch(0, batch)


def _batch(number: int, batch: Any) -> tuple[Any, Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) not in (1, 2, 3):
        raise DataError(f"batch {number} is not (x, y) or (x, y, weight), but {type(batch).__name__}")
    x, y, weight = (*batch, None, None)[:3]
    return x, y, weight


def _read_before() -> Any:
    raise DataError("a generator can be read once, and it has been: pass a function that makes it")
