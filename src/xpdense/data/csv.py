"""CSV and TSV files: every line is checked, then pandas parses the whole file, or a group of its rows at a time."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, require
from .columns import NUMBERS, kind_of
from .sources import CHUNK, GROUP, Group, Source, UnchangedFile, check_distinct, suffix_of

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_csv(path: Path, text: Collection[str] = ()) -> Any:
    """A CSV or TSV file, which may be gzipped, as a pandas DataFrame.

    Columns of codes such as 007 are text, as are those named in `text`.

    Raises
    ------
    FileFormatError
        It is damaged or not a table; the message names the line if there is one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "t.csv")
    ...     _ = path.write_text("a,code\\n1,007\\n2,012\\n")
    ...     [list(column) for _, column in read_csv(path).items()]
    [[1, 2], ['007', '012']]
    """
    with _csv_errors(path):
        with _opened(path) as file:
            rows = CheckedRows(path, file)
            for _ in rows:
                pass
        with _opened(path) as file:
            return _parsed(file, rows, dict.fromkeys(rows.codes | set(text), "str"), header=0)


class CsvSource(Source):
    """A CSV or TSV file. One pass checks its lines, counts its rows and determines what its columns hold."""

    def __init__(self, path: Path) -> None:
        self.name, self._path = path.stem, path
        with _csv_errors(path), open(path, "rb") as raw:
            if raw.peek(2)[:2] == b"\x1f\x8b":
                raise FileFormatError(f"{path} is a gzip file, which cannot be read from its middle: unpack it")
            self._file, self.groups, kinds = UnchangedFile(path), [], dict[str, str]()
            self._rows = CheckedRows(path, codecs.iterdecode(raw, "utf-8-sig"))
            start, first, count = raw.tell(), 0, 0
            for count in self._rows:
                if count == first + GROUP:
                    self._add(first, GROUP, (start, raw.tell()), kinds)
                    start, first = raw.tell(), count
            if count > first:
                self._add(first, count - first, (start, raw.tell()), kinds)
        kinds |= dict.fromkeys(self._rows.codes, "text")
        self.columns = {name: kinds.get(name, "empty") for name in self._rows.names}

    def _add(self, first: int, rows: int, span: tuple[int, int], kinds: dict[str, str]) -> None:
        """Add the group of these rows and bytes, and update the kinds of the columns by what they hold in it."""
        group = Group(f"{self._path}, rows {first + 1:,} to {first + rows:,}", rows, span, first)
        for name, values in self._frame(group, self._rows.names, dict.fromkeys(self._rows.codes, "str")).items():
            if values.notna().any():
                kind = kind_of(values)
                kind = "text" if kind not in NUMBERS else "boolean" if kind == "boolean" else "number"
                kinds[name] = kind if kinds.get(name, kind) == kind else "text"
        self.groups.append(group)

    def _frame(self, group: Group, columns: Sequence[str], dtypes: dict[str, str]) -> Any:
        start, end = group.place
        with open(self._path, "rb") as raw:
            raw.seek(start)
            text = raw.read(end - start).decode("utf-8")
        return _parsed(io.StringIO(text), self._rows, dtypes, header=None, usecols=list(columns))

    def read_as_text(self, names: Iterable[str]) -> None:
        assert self.columns is not None
        self.columns |= {name: "text" for name in names if name in self.columns}

    def chunks(self, group: Group, columns: Sequence[str]) -> Iterator[Any]:
        assert self.columns is not None
        self._file.check()
        if columns:
            dtypes = {"number": "float64", "boolean": "boolean"}
            frame = self._frame(group, columns, {name: dtypes.get(self.columns[name], "str") for name in columns})
            frame.index += group.first
            for start in range(0, len(frame), CHUNK):
                yield frame.iloc[start : start + CHUNK]
        self._file.check()

    def _content(self) -> str:
        return repr((self._file.size, self._file.sample()))


class CheckedRows:
    """The rows of a CSV file, checked one by one; iterating gives the number of rows so far, from 1.

    Attributes
    ----------
    names : list of str
        Names of the columns; an empty one becomes "Unnamed: 2", as in pandas.
    codes : set of str
        Columns with codes such as 007, in the rows so far.

    Raises
    ------
    FileFormatError
        There is no header or no row, or a line has more or fewer fields than the header; the message names it.

    >>> rows = CheckedRows(Path("t.csv"), ["a,b\\n", "1,007\\n", "2,8\\n"])
    >>> list(rows), rows.names, rows.codes
    ([1, 2], ['a', 'b'], {'b'})
    """

    def __init__(self, path: Path, lines: Iterable[str]) -> None:
        self.path, self.separator = path, SEPARATORS[suffix_of(path)]
        self._reader = csv.reader(lines, delimiter=self.separator)
        header = next(self._filled(), None)
        if header is None:
            raise FileFormatError(f"{path} is empty")
        if "\0" in "".join(header):
            raise FileFormatError(f"{path} is not text: its first line holds zero bytes")
        if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
            raise FileFormatError(f"{path} has one column, {header[0]!r}: separate columns by commas (.csv) or tabs "
                                  f"(.tsv)")
        self.names = [name or f"Unnamed: {i}" for i, name in enumerate(header)]
        check_distinct(path, self.names)
        self.codes: set[str] = set()

    def _filled(self) -> Iterator[list[str]]:
        """The rows that are not blank, which pandas skips too."""
        return (row for row in self._reader if len(row) > 1 or "".join(row).strip())

    def __iter__(self) -> Iterator[int]:
        count = 0
        for count, row in enumerate(self._filled(), 1):
            if len(row) != len(self.names):
                raise FileFormatError(f"line {self._reader.line_num} of {self.path} has {len(row)} fields, and the "
                                      f"header has {len(self.names)}")
            for name, field in zip(self.names, row, strict=True):
                if field[:1] == "0" and field[1:].isdigit():
                    self.codes.add(name)
            yield count
        if not count:
            raise FileFormatError(f"{self.path} has a header and no rows")


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """Turn every error into a FileFormatError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x}): save it as UTF-8, or "
                              f"give it the ending of its format") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise FileFormatError(f"{path} is a damaged gzip file: {error}") from None
    except OSError as error:
        raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from None
    except FileFormatError:
        raise
    except (csv.Error, ValueError, OverflowError) as error:  # pandas' ParserError is a ValueError
        raise FileFormatError(f"{path} cannot be read as a table: {str(error).strip()}") from None


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """The text of a file, unpacked if it is gzipped, whatever its name is."""
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, encoding="utf-8-sig", newline="") as text:
            yield text


def _parsed(file: Any, rows: CheckedRows, dtypes: dict[str, str], **options: Any) -> Any:
    pandas = require("pandas", "cli", "reading tables")
    return pandas.read_csv(file, sep=rows.separator, names=rows.names, dtype=dtypes, low_memory=False,
                           index_col=False, **options)
