"""Predictions on their way to a file, a piece at a time: CSV or Parquet, there when it is whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .backend import host
from .checkpoint import replaced
from .data.target import Target
from .errors import OutputError, ParameterError, require


def columns_of(prediction: np.ndarray, goal: Target | None, proba: bool = True) -> dict[str, Any]:
    """Predictions (n, outputs) as the columns of a table."""
    if goal is None:
        return {f"output_{k}": prediction[:, k] for k in range(prediction.shape[1])}
    columns: dict[str, Any] = {"prediction": goal.decoded(prediction)}
    if proba and goal.classes:
        names = (f"probability_{label}" for label in goal.classes)
        columns |= dict(zip(names, goal.probabilities(prediction).T, strict=True))
    return columns


def write_predictions(out: str | Path, pieces: Iterable[Any], goal: Target | None, proba: bool = True) -> int:
    """Write predictions (n, outputs) that come in pieces to a .csv or .parquet file; how many rows there were.

    Raises
    ------
    ParameterError
        The ending is neither.
    OutputError
        It cannot be written; what was there is still there.
    """
    path, rows = Path(out), 0
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet", ".pq"):
        raise ParameterError(f"out must end in .csv or .parquet, got {str(out)!r}")
    if path.is_dir():
        raise OutputError(f"{path} is a folder: name a file")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}: make it first")
    pandas = require("pandas", "cli", "writing tables")
    with replaced(path) as temporary:
        write = _csv(temporary) if suffix == ".csv" else _parquet(temporary)
        try:
            next(write)
            for piece in pieces:
                prediction = np.asarray(host(piece))
                write.send(pandas.DataFrame(columns_of(prediction, goal, proba)))
                rows += len(prediction)
        finally:
            write.close()
    return rows


def _csv(path: Path) -> Any:
    with open(path, "w", encoding="utf-8", newline="") as file:
        header = True
        while True:
            frame = yield
            frame.to_csv(file, index=False, header=header, lineterminator="\n")
            header = False


def _parquet(path: Path) -> Any:
    arrow = require("pyarrow", "cli", "writing Parquet files")
    parquet = require("pyarrow.parquet", "cli", "writing Parquet files")
    writer: Any = None
    try:
        while True:
            frame = yield
            table = arrow.Table.from_pandas(frame, preserve_index=False)
            writer = writer or parquet.ParquetWriter(path, table.schema)
            writer.write_table(table.cast(writer.schema))
    finally:
        if writer is not None:
            writer.close()
