"""Parquet files, folders of them, and other pyarrow data sets: read whole, or a row group at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FileFormatError, require
from .columns import Coded, Columns, Numbers
from .sources import CHUNK, Group, Source, UnchangedFile, check_distinct, errors_located_at

SUFFIXES = (".parquet", ".pq")


def lean_arrow() -> Any:
    """The module pyarrow, set to the system's allocator if it has not been imported: its own retains freed memory.

    >>> lean_arrow().array([1, 2]).sum().as_py()
    3
    """
    if "pyarrow" not in sys.modules:
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    return require("pyarrow", "cli", "reading and writing Parquet files")


def read_parquet(path: Path) -> Any:
    """A Parquet file, or a folder of them, as a pandas DataFrame.

    Raises
    ------
    FileFormatError
        It is damaged, holds no rows, or has two columns of one name.

    >>> import tempfile, pandas
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pandas.DataFrame({"a": [1, 2], "b": ["x", None]}).to_parquet(f"{folder}/t.parquet")
    ...     read_parquet(Path(folder, "t.parquet")).shape
    (2, 2)
    """
    try:
        source = ArrowSource(path)
        frame = source.data.to_table().to_pandas().reset_index(drop=True)
        frame.columns = list(source.columns or ())
    except FileFormatError:
        raise
    except Exception as error:  # a damaged file raises errors of Arrow, or KeyErrors of pandas
        reason = str(error).strip() or type(error).__name__
        raise FileFormatError(f"{path} cannot be read as Parquet: {reason}") from None
    return frame


class ArrowSource(Source):
    """A pyarrow Dataset, row group by row group if its files have them. Parquet files and folders are made one.

    The index of a data frame that was saved is left out.

    Attributes
    ----------
    data : pyarrow.dataset.Dataset
    """

    def __init__(self, data: Any) -> None:
        self._arrow: Any = lean_arrow()
        self.name, name, self.data = "dataset", "the data set", data
        if isinstance(data, Path):
            self.name, name, self.data = data.stem, str(data), self._opened(data)
        self.groups, self._files = [], dict[str, UnchangedFile]()
        with errors_located_at(name):
            self._schema = self.data.schema
            check_distinct(name, self._schema.names)
            index = (self._schema.pandas_metadata or {}).get("index_columns", ())
            self.columns = {f.name: self._kind(f.type) for f in self._schema if f.name not in index}
        for number, fragment in enumerate(self.data.get_fragments()):
            file, divided = str(getattr(fragment, "path", "")), hasattr(fragment, "split_by_row_group")
            file = file or f"{name}, part {number}"
            with errors_located_at(file):
                if os.path.isfile(file):
                    self._files[file] = UnchangedFile(file)
                for i, part in enumerate(fragment.split_by_row_group() if divided else [fragment]):
                    label = f"{file}, row group {i}" if divided else file
                    rows = sum(g.num_rows for g in part.row_groups) if divided else part.count_rows()
                    self.groups.append(Group(label, int(rows), (file, part)))
        self.groups = [group for group in self.groups if group.rows]
        if not self.groups or not self.columns:
            raise FileFormatError(f"{name} holds no {'columns' if self.groups else 'rows'}")

    def _opened(self, path: Path) -> Any:
        arrow = require("pyarrow.dataset", "cli", "reading Parquet files")
        files, options = [path], dict[str, Any]()
        if path.is_dir():
            files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            options = {"partitioning": arrow.partitioning(flavor="hive"), "partition_base_dir": str(path)}
        if not files:
            raise FileFormatError(f"{path} holds no Parquet files (.parquet)")
        try:
            return arrow.dataset([str(file) for file in files], format="parquet", **options)
        except (self._arrow.ArrowException, OSError, ValueError) as error:
            raise FileFormatError(f"{path} cannot be read as Parquet: {str(error).strip()}") from None

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
        """A column of a batch: Numbers, Coded, or a Series of other values."""
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
