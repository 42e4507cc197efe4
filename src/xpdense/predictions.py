"""Predictions on their way to a file, a piece at a time: CSV or Parquet, there when it is whole."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .backend import host
from .data.sources import lean_arrow
from .data.target import Target
from .errors import OutputError, require
from .files import check_writable, replaced

_ROW_GROUP = 2**14  # rows that are written at once: what a file holds of each row group stays in memory


def columns_of(prediction: np.ndarray, goal: Target | None, proba: bool = True) -> dict[str, Any]:
    """Predictions (n, outputs) as the columns of a table."""
    if goal is None:
        return {f"output_{k}": prediction[:, k] for k in range(prediction.shape[1])}
    decoded = goal.decoded(prediction) if goal.classes else goal.values(prediction)[:, 0]
    columns: dict[str, Any] = {"prediction": decoded}
    if proba and goal.classes:
        names = (f"probability_{label}" for label in goal.classes)
        columns |= dict(zip(names, goal.probabilities(prediction).T, strict=True))
    return columns


def write_predictions(out: str | Path | None, pieces: Iterable[Any], goal: Target | None, proba: bool = True) -> int:
    """Write predictions (n, outputs) that come in pieces to a file, Parquet by its ending and CSV else; the rows.

    None is standard output. A file is there when it is whole; a device or a pipe is simply written to.

    Raises
    ------
    OutputError
        It cannot be written; what was there is still there.
    """
    pandas = require("pandas", "cli", "writing tables")
    if out is None:
        return _written(pandas, _csv(sys.stdout), pieces, goal, proba)
    path = Path(out)
    check_file(path)
    with replaced(path) as temporary:
        if path.suffix.lower() in (".parquet", ".pq"):
            return _written(pandas, _parquet(temporary), pieces, goal, proba)
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            return _written(pandas, _csv(file), pieces, goal, proba)


def check_file(path: Path) -> None:
    """Raise OutputError unless a file can be made at `path`, in a folder that is there."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}: make it first")
    if not path.exists() or path.is_file():
        check_writable(path.parent)


def _written(pandas: Any, write: Any, pieces: Iterable[Any], goal: Target | None, proba: bool) -> int:
    rows = 0
    try:
        next(write)
        for piece in pieces:
            prediction = np.asarray(host(piece))
            write.send(pandas.DataFrame(columns_of(prediction, goal, proba)))
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
