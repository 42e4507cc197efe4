"""Writing predictions to a CSV or Parquet file, part by part; the file appears under its name when it is complete."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import host
from ..checkpoint import check_writable, replaced
from ..errors import OutputError, require
from .parquet import SUFFIXES, lean_arrow
from .target import TargetEncoder

_ROW_GROUP = 2**14  # rows of a row group; metadata of all row groups stay in memory until the file is complete


def columns_of(prediction: np.ndarray, target: TargetEncoder | None, proba: bool = True) -> dict[str, Any]:
    """Predictions (n, outputs) as the columns of a table.

    >>> list(columns_of(np.array([[0.25]]), TargetEncoder("y", "binary", ("no", "yes"))))
    ['prediction', 'probability_no', 'probability_yes']
    """
    if target is None:
        return {f"output_{k}": prediction[:, k] for k in range(prediction.shape[1])}
    decoded = target.decoded(prediction) if target.classes else target.values(prediction)[:, 0]
    columns: dict[str, Any] = {"prediction": decoded}
    if proba and target.classes:
        names = (f"probability_{label}" for label in target.classes)
        columns |= dict(zip(names, target.probabilities(prediction).T, strict=True))
    return columns


def write_predictions(out: str | Path | None, parts: Iterable[Any], target: TargetEncoder | None,
                      proba: bool = True) -> int:
    """Write predictions to a file and return the number of rows.

    Parameters
    ----------
    out : str, Path or None
        A Parquet file if its name ends in .parquet or .pq, a CSV file otherwise; None is standard output. A file
        appears when it is complete; a device or pipe is written to directly.
    parts : iterable of arrays (n, outputs)
    target : TargetEncoder or None
        How outputs become labels or values. If it is None, the columns are the outputs.
    proba : bool
        Whether to add a column with the probability of each class.

    Raises
    ------
    OutputError
        The file cannot be written; an earlier file of that name is unchanged.

    >>> write_predictions(None, [np.array([[0.5], [1.5]])], None)
    output_0
    0.5
    1.5
    2
    """
    pandas = require("pandas", "cli", "writing tables")
    if out is None:
        return _written(pandas, _csv(sys.stdout), parts, target, proba)
    path = Path(out)
    check_file(path)
    with replaced(path) as temporary:
        if path.suffix.lower() in SUFFIXES:
            return _written(pandas, _parquet(temporary), parts, target, proba)
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            return _written(pandas, _csv(file), parts, target, proba)


def check_file(path: Path) -> None:
    """Raise OutputError unless a file can be written at `path`, in an existing folder.

    >>> check_file(Path("no/such/folder/t.csv"))
    Traceback (most recent call last):
    xpdense.errors.OutputError: there is no folder no/such/folder: make it first
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}: make it first")
    if not path.exists() or path.is_file():
        check_writable(path.parent)


def _written(pandas: Any, write: Any, parts: Iterable[Any], target: TargetEncoder | None, proba: bool) -> int:
    rows = 0
    try:
        next(write)
        for part in parts:
            prediction = np.asarray(host(part))
            write.send(pandas.DataFrame(columns_of(prediction, target, proba)))
            rows += len(prediction)
    finally:
        write.close()
    return rows


def _csv(file: Any) -> Any:
    header = True
    while True:
        frame = yield
        file.write(frame.to_csv(index=False, header=header, lineterminator="\n"))
        header = False


def _parquet(path: Path) -> Any:
    arrow = lean_arrow()
    parquet = require("pyarrow.parquet", "cli", "writing Parquet files")
    writer, waiting = None, list[Any]()

    def write() -> Any:
        table = arrow.concat_tables(waiting)
        text = [f.name for f in table.schema if not arrow.types.is_floating(f.type)]
        opened = writer or parquet.ParquetWriter(path, table.schema, use_dictionary=text)
        opened.write_table(table.cast(opened.schema))
        waiting.clear()
        return opened

    try:
        while True:
            waiting.append(arrow.Table.from_pandas((yield), preserve_index=False))
            if sum(table.num_rows for table in waiting) >= _ROW_GROUP:
                writer = write()
    finally:
        if waiting:
            writer = write()
        if writer is not None:
            writer.close()
