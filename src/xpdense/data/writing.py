"""Writing predictions to a CSV or Parquet file, part by part; the file appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
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
    pandas, rows = require("pandas", "cli", "writing tables"), 0

    def frames() -> Iterator[Any]:
        nonlocal rows
        for part in parts:
            prediction = np.asarray(host(part))
            rows += len(prediction)
            yield pandas.DataFrame(columns_of(prediction, target, proba))

    if out is None:
        _write_csv(sys.stdout, frames())
        return rows
    path = Path(out)
    check_file(path)
    with replaced(path) as temporary:
        if path.suffix.lower() in SUFFIXES:
            _write_parquet(temporary, frames())
        else:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                _write_csv(file, frames())
    return rows


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


def _write_csv(file: Any, frames: Iterable[Any]) -> None:
    for number, frame in enumerate(frames):
        file.write(frame.to_csv(index=False, header=number == 0, lineterminator="\n"))


def _write_parquet(path: Path, frames: Iterator[Any]) -> None:
    arrow = lean_arrow()
    parquet = require("pyarrow.parquet", "cli", "writing Parquet files")
    tables = (arrow.Table.from_pandas(frame, preserve_index=False) for frame in frames)
    with contextlib.ExitStack() as stack:
        writer = None
        for first in tables:
            group, rows = [first], first.num_rows
            while rows < _ROW_GROUP and (table := next(tables, None)) is not None:
                group.append(table)
                rows += table.num_rows
            whole = arrow.concat_tables(group)
            if writer is None:
                text = [field.name for field in whole.schema if not arrow.types.is_floating(field.type)]
                writer = stack.enter_context(parquet.ParquetWriter(path, whole.schema, use_dictionary=text))
            writer.write_table(whole.cast(writer.schema))
