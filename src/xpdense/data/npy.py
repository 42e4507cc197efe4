"""Arrays: npz files, which are read whole, and npy files and arrays on the host, of which rows are read."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..backend import resolve
from ..errors import ArrayTypeError, FileFormatError, ShapeError, require
from .sources import CHUNK, GROUP, TARGETS_ONLY, Group, Source, UnchangedFile


def read_npz(path: Path, columns: Sequence[str] | None = None, target: str = "y", needs_target: bool = True) -> Any:
    """The arrays x (n, features) and y (n,) of an npz file as a pandas DataFrame.

    Parameters
    ----------
    path : Path
    columns : sequence of str, optional
        Names for the columns of x. Default: x0, x1, ...
    target : str
        A name for the column of y.
    needs_target : bool
        Whether a file without y is refused.

    Raises
    ------
    FileFormatError
        It is damaged, lacks an array, holds Python objects, or is larger than the free memory.
    ShapeError, ArrayTypeError

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/t.npz", x=np.eye(2), y=[0, 1])
    ...     list(read_npz(Path(folder, "t.npz")).columns)
    ['x0', 'x1', 'y']
    """
    pandas = require("pandas", "cli", "reading tables")
    if not zipfile.is_zipfile(path):
        raise FileFormatError(f"{path} is not an npz file: save one with numpy.savez(path, x=x, y=y)")
    try:
        _check_sizes(path)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y") if name in file.files}
            found = ", ".join(file.files) or "nothing"
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file raises errors of zipfile, zlib and NumPy
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
        if y.dtype.kind == "U" and not _is_unicode(y):
            raise FileFormatError(f"y in {path} is damaged: it contains invalid Unicode code points")
        if y.shape == (len(x), 1):
            y = y[:, 0]
        if y.shape != x.shape[:1]:
            raise ShapeError(f"y in {path} must be ({len(x)},), one value for each row of x, got shape {y.shape}")
        frame = pandas.concat([frame, pandas.Series(y, name=target)], axis=1)
    return frame


class ArraySource(Source):
    """npy files, memory maps and arrays on the host; only the rows that are asked for are read from a file.

    >>> source = ArraySource(np.eye(3), np.arange(3))
    >>> [chunk[0].shape for chunk in source.read(source.groups[0])]
    [(3, 3)]
    """

    def __init__(self, x: Any, y: Any = None) -> None:
        arrays = [_NpyFile(v) if isinstance(v, (str, Path)) else v for v in (x, y) if v is not None]
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
        most = max(1, min(CHUNK, 2**23 // row))  # fewer rows at once if they are wide
        for start in range(group.place, group.place + group.rows, most):
            stop = min(start + most, group.place + group.rows)
            y = None if self._y is None else np.asarray(self._y[start:stop])
            yield np.empty((stop - start, 0)) if TARGETS_ONLY in columns else np.asarray(self._x[start:stop]), y, None

    def _content(self) -> str:
        found = []
        for array in (self._x, self._y):
            if array is not None:
                value = 0
                for i in range(0, array.shape[0], max(1, array.shape[0] // 1000)):
                    value = zlib.crc32(np.ascontiguousarray(array[i : i + 1]).data.cast("B"), value)
                found.append((tuple(array.shape), str(array.dtype), value))
        return repr(found)


class _NpyFile:
    """An npy file as an array of which slices are read. A memory map's pages would count as memory of the process."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        try:
            self._file = UnchangedFile(path)
            with open(path, "rb") as raw:
                self.shape, columns_first, self.dtype = _header(raw)
                self._start = raw.tell()
        except OSError as error:
            raise FileFormatError(f"{path} cannot be read: {error.strerror or error}") from None
        except (ValueError, TypeError, SyntaxError) as error:
            raise FileFormatError(f"{path} is not an npy file: {error}") from None
        if self.dtype.hasobject:
            raise ArrayTypeError(f"{path} holds Python objects, which are never unpickled: save numbers")
        self.ndim = len(self.shape)
        if columns_first and self.ndim > 1 and self.dtype.kind in "biuf":
            raise FileFormatError(f"{path} holds its columns one after the other: save numpy.ascontiguousarray(x)")
        self._row = self.dtype.itemsize * math.prod(self.shape[1:]) if self.ndim else 0
        if self.ndim and self._file.size != self._start + self._row * self.shape[0]:
            raise FileFormatError(f"{path} is damaged: its shape {self.shape} does not fit its {self._file.size:,} "
                                  f"bytes")

    def __getitem__(self, rows: slice) -> np.ndarray:
        self._file.check()
        with open(self._path, "rb") as raw:
            raw.seek(self._start + rows.start * self._row)
            data = raw.read((rows.stop - rows.start) * self._row)
        return np.frombuffer(data, self.dtype).reshape(rows.stop - rows.start, *self.shape[1:])


def _header(raw: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns lie one after the other, and dtype, from the beginning of an npy file."""
    version = np.lib.format.read_magic(raw)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(raw)
    return shape, columns_first, dtype


def _check_sizes(path: Path) -> None:
    """Raise FileFormatError if an array claims to be larger than its file, or does not fit into free memory."""
    free = resolve("numpy").free()
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename in ("x.npy", "y.npy"):
                with archive.open(member) as raw:
                    shape, _, dtype = _header(raw)  # type: ignore[arg-type]
                needed = math.prod(shape) * dtype.itemsize
                if needed > member.file_size or any(n < 0 for n in shape):
                    raise FileFormatError(f"{path} is damaged: {member.filename} of shape {shape} needs {needed:,} "
                                          f"bytes, and has {member.file_size:,}")
                if free and 2 * needed > free:
                    raise FileFormatError(f"{member.filename} in {path} takes {needed:,} bytes, and {free:,} are free: "
                                          f"save it as an npy file, which xpdense.data.open reads as it is used")


def _is_unicode(values: np.ndarray) -> bool:
    """Whether a text array holds code points only, and no surrogates."""
    codes = np.frombuffer(np.ascontiguousarray(values).astype(values.dtype.newbyteorder("=")).tobytes(), np.uint32)
    return bool(np.all((codes <= 0x10FFFF) & ~((codes >= 0xD800) & (codes <= 0xDFFF))))
