"""DATA, as the command line takes it, made a table: a set that scikit-learn bundles, the xor problem, or a file.

Reading only; what becomes of the columns is in `table`.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import resolve
from ..errors import ArrayTypeError, DataError, FileFormatError, ShapeError, UnknownNameError, lookup, require

#: The sets that come with scikit-learn, by name, each with its loader.
BUNDLED = {name: f"load_{name}" for name in ("breast_cancer", "diabetes", "digits", "iris", "wine")}
#: The columns that are taken for the target of a file when none is named.
TARGET_NAMES = ("target", "y", "label", "class")

SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes
    ----------
    name : str
        Of the set, or of the file without its ending.
    frame : pandas.DataFrame
        A row per example, counted from 0; every column has a name of its own.
    target : str or None
        The column that is the target unless another is named; None where that is not clear.
    whole : bool
        Whether it is one problem that must not be split into training and test rows.
    """

    name: str
    frame: Any
    target: str | None
    whole: bool = False

    def column(self, name: str | None) -> str:
        """The target's column: `name` if it is there, and the table's own where `name` is None.

        Raises
        ------
        DataError
            There is no such column, or none was named and the table does not tell.
        """
        known = [str(column) for column in self.frame.columns]
        if name is not None:
            lookup("column", name, dict.fromkeys(known))
            return name
        if self.target is None:
            found = [name for name in TARGET_NAMES if name in known]
            problem = f"{' and '.join(found)} may be the target" if found else \
                f"no column is called {', '.join(TARGET_NAMES)}, as a target would be"
            raise DataError(f"{problem}: name one (--target). {self.name} has the columns {', '.join(known)}")
        return self.target


def read(data: str, *, text: Collection[str] = (), columns: Sequence[str] | None = None, target: str = "y",
         needs_target: bool = True) -> Table:
    """The table that DATA names.

    Parameters
    ----------
    data : str
        "digits", "iris", "wine", "breast_cancer", "diabetes", "xor", or the path of a file: CSV or TSV (also
        gzipped), Parquet, or npz with arrays x (n, features) and y (n,).
    text : names
        Columns of a CSV file whose values are kept as they are written, such as the categories of a model.
    columns : sequence of str, optional
        Names for the columns of an npz file's x, which has none. Default: x0, x1, ...
    target : str
        A name for its y.
    needs_target : bool
        Whether an npz file without y is an error.

    Raises
    ------
    UnknownNameError
        It is neither a set nor a file.
    FileFormatError
        The file cannot be read as what its name says; the message names the line where there is one.

    >>> read("xor").frame.shape
    (4, 3)
    """
    pandas = require("pandas", "cli", "reading tables")
    path = Path(data)
    if data == "xor":
        frame = pandas.DataFrame({"x0": [0, 0, 1, 1], "x1": [0, 1, 0, 1], "y": [0, 1, 1, 0]})
        return Table("xor", frame, "y", whole=True)
    if data in BUNDLED:
        load = getattr(require("sklearn.datasets", "cli", f"the data set {data!r}"), BUNDLED[data])
        return Table(data, load(as_frame=True).frame, "target")
    if not path.exists():
        raise UnknownNameError("data set or file", data, [*BUNDLED, "xor"])
    if path.is_dir():
        raise FileFormatError(f"{data} is a folder: name a file")
    suffix, name = path.suffix.lower(), named(data)
    if suffix == ".gz":
        suffix = Path(path.stem).suffix.lower()
    if suffix == ".npz":
        return Table(name, _npz(path, pandas, columns, target, needs_target), target)
    if suffix in SEPARATORS:
        frame = _csv(path, pandas, SEPARATORS[suffix], text)
    elif suffix in (".parquet", ".pq"):
        frame = _parquet(path, pandas)
    else:
        raise FileFormatError(f"{data} has an ending that says nothing: .csv, .tsv (also with .gz), .parquet and .npz "
                              f"can be read")
    found = [name for name in TARGET_NAMES if name in frame.columns]
    return Table(name, frame, found[0] if len(found) == 1 else None)


def named(data: str) -> str:
    """What a set or a file is called.

    >>> named("digits"), named("trips/may.csv.gz")
    ('digits', 'may')
    """
    if data in BUNDLED or data == "xor":
        return data
    path = Path(data)
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    return path.name[: path.name.rfind(suffix)] if suffix and path.name.rfind(suffix) else path.name or "data"


# --- files -----------------------------------------------------------------------------------------------------

def _csv(path: Path, pandas: Any, separator: str, text: Collection[str]) -> Any:
    with reading_csv(path):
        with _opened(path) as file:
            rows = rows_of_csv(path, file, separator)
            header, coded = next(rows)
            for _ in rows:
                pass
        codes = {header[i] for i in coded}
        with _opened(path) as file:
            return pandas.read_csv(file, sep=separator, dtype={n: "str" for n in header if n in text or n in codes},
                                   low_memory=False, index_col=False)


@contextmanager
def reading_csv(path: Path) -> Iterator[None]:
    """Whatever goes wrong in a CSV file, as a FileFormatError that names it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise FileFormatError(f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x}): save it as UTF-8, or "
                              f"give it the ending of what it is") from None
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
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        with io.TextIOWrapper(gzip.GzipFile(fileobj=raw) if packed else raw, encoding="utf-8-sig", newline="") as text:
            yield text


def rows_of_csv(path: Path, text: Iterable[str], separator: str) -> Iterator[tuple[list[str], set[int]]]:
    """The header and the numbers of the columns of codes such as 007, which are text; then the same, for every row.

    The codes are known at the end. Every line has as many fields as the header, or a FileFormatError says which one
    has not.
    """
    lines = csv.reader(text, delimiter=separator)
    rows = (row for row in lines if len(row) > 1 or "".join(row).strip())  # pandas skips blank lines too
    header = next(rows, None)
    if header is None:
        raise FileFormatError(f"{path} is empty")
    if "\0" in "".join(header):
        raise FileFormatError(f"{path} is not text: its first line holds zero bytes")
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise FileFormatError(f"{path} has one column, {header[0]!r}: separate columns by commas (.csv) or tabs "
                              f"(.tsv)")
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise FileFormatError(f"{path} has more than one column called {twice[0]!r}: give each a name of its own")
    count, coded = 0, set[int]()
    yield header, coded
    for row in rows:
        count += 1
        coded.update(i for i, field in enumerate(row) if field[:1] == "0" and field[1:].isdigit())
        if len(row) != len(header):
            raise FileFormatError(f"line {lines.line_num} of {path} has {len(row)} fields, and the header has "
                                  f"{len(header)}")
        yield header, coded
    if not count:
        raise FileFormatError(f"{path} has a header and no rows")


def _parquet(path: Path, pandas: Any) -> Any:
    require("pyarrow", "cli", "reading Parquet files")
    try:
        frame = pandas.read_parquet(path, engine="pyarrow").reset_index(drop=True)
    except Exception as error:  # a damaged file ends in any of them: in Arrow's, and in pandas' KeyErrors
        reason = str(error).strip() or type(error).__name__
        raise FileFormatError(f"{path} cannot be read as Parquet: {reason}") from None
    frame.columns = [str(name) for name in frame.columns]
    if not frame.columns.is_unique:
        name = frame.columns[frame.columns.duplicated()][0]
        raise FileFormatError(f"{path} has more than one column called {name!r}: give each a name of its own")
    if not frame.size:
        raise FileFormatError(f"{path} holds {frame.shape[0]} rows and {frame.shape[1]} columns: nothing")
    return frame


def _npz(path: Path, pandas: Any, columns: Sequence[str] | None, target: str, needs_target: bool) -> Any:
    if not zipfile.is_zipfile(path):
        raise FileFormatError(f"{path} is not an npz file: save one with numpy.savez(path, x=x, y=y)")
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y") if name in file.files}
            found = ", ".join(file.files) or "nothing"
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file ends in any of them: in zipfile's, zlib's and NumPy's
        objects = "Object arrays" in str(error)
        reason = "x or y holds Python objects, which are never unpickled: save numbers" if objects else error
        raise FileFormatError(f"{path} cannot be read: {reason}") from None
    for name in ("x", "y") if needs_target else ("x",):
        if name not in arrays:
            raise FileFormatError(f"{path} has no array {name!r}, only: {found}. Save it with numpy.savez(path, x=x, "
                                  f"y=y)")
    x, y = arrays["x"], arrays.get("y")
    if x.dtype.kind not in "biuf":
        raise ArrayTypeError(f"x in {path} has dtype {x.dtype}, and features are numbers")
    if x.ndim != 2 or not x.size:
        raise ShapeError(f"x in {path} must be (rows, features), got shape {x.shape}"
                         + (f"; save x.reshape({len(x)}, -1)" if x.size and x.ndim else ""))
    if columns is not None and len(columns) != x.shape[1]:
        raise ShapeError(f"x in {path} has {x.shape[1]} columns, and the model was trained on {len(columns)}")
    frame = pandas.DataFrame(x, columns=list(columns) if columns else [f"x{i}" for i in range(x.shape[1])])
    if y is not None:
        if y.dtype.kind not in "biufU":
            raise ArrayTypeError(f"y in {path} has dtype {y.dtype}, and a target is numbers or text")
        if y.dtype.kind == "U" and not _is_text(y):
            raise FileFormatError(f"y in {path} is damaged: it holds characters that there are none of")
        if y.shape == (len(x), 1):
            y = y[:, 0]
        if y.shape != x.shape[:1]:
            raise ShapeError(f"y in {path} must be ({len(x)},), one value for each row of x, got shape {y.shape}")
        frame = pandas.concat([frame, pandas.Series(y, name=target)], axis=1)
    return frame


def _is_text(values: np.ndarray) -> bool:
    """Whether every element of a text array is a character, and no half of a pair of them."""
    codes = np.frombuffer(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("=")).tobytes(), np.uint32)
    return bool(np.all((codes <= 0x10FFFF) & ~((codes >= 0xD800) & (codes <= 0xDFFF))))


def _check_sizes(path: Path) -> None:
    """Raise FileFormatError where an array says that it is larger than its file, or than what memory is free."""
    free = resolve("numpy").free()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename in ("x.npy", "y.npy"):
                with archive.open(member) as raw:
                    version = np.lib.format.read_magic(raw)
                    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else \
                        np.lib.format.read_array_header_2_0
                    shape, _, dtype = header(raw)
                needed = math.prod(shape) * dtype.itemsize
                if needed > member.file_size or any(n < 0 for n in shape):
                    raise FileFormatError(f"{path} is damaged: {member.filename} of shape {shape} needs {needed:,} "
                                          f"bytes, and has {member.file_size:,}")
                if free and 2 * needed > free:
                    raise FileFormatError(f"{member.filename} in {path} takes {needed:,} bytes, and {free:,} are free: "
                                          f"save it as an npy file, which xpdense.data.open reads as it is used")


# --- rows to hold out ------------------------------------------------------------------------------------------

def split(rows: np.ndarray, fraction: float, classes: np.ndarray | None, seed: int,
          what: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Divide row numbers (n,) at random: those kept (m,), those held out (n - m,), and whether it is stratified.

    `classes` are the class numbers of all rows, by row number, or None; the split is stratified by them where each
    class has two rows or more and both parts have room for every class. `what` names the part held out.

    Raises
    ------
    DataError
        One of the parts would be empty.

    >>> [part.size for part in split(np.arange(10), 0.2, None, 0, "test")[:2]]
    [8, 2]
    """
    selection = require("sklearn.model_selection", "cli", "splitting rows")
    held_out = math.ceil(fraction * len(rows))  # as scikit-learn does
    if held_out >= len(rows):
        raise DataError(f"{len(rows)} row{'' if len(rows) == 1 else 's'} cannot be split: a fraction of {fraction:g} "
                        f"held out for {what} leaves none to train on. Hold out less, or nothing (--test 0 "
                        f"--validation 0)")
    strata = None
    if classes is not None:
        counts = np.unique_counts(classes[rows]).counts
        if counts.min() >= 2 and len(counts) <= min(held_out, len(rows) - held_out):
            strata = classes[rows]
    kept, out = selection.train_test_split(rows, test_size=held_out, stratify=strata, random_state=seed % 2**32)
    return np.sort(kept), np.sort(out), strata is not None
