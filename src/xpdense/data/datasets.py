"""Whole tables for the command line: the data sets of scikit-learn, the xor problem, and files.

The formats are read by `csv`, `parquet` and `npy`; columns are made features in `table`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, FileFormatError, UnknownNameError, lookup, require
from .csv import SEPARATORS, read_csv
from .npy import read_npz
from .parquet import SUFFIXES, read_parquet
from .sources import suffix_of

#: The data sets of scikit-learn by name, with their loaders.
BUNDLED = {name: f"load_{name}" for name in ("breast_cancer", "diabetes", "digits", "iris", "wine")}
#: Names of columns that are the target unless another one is named.
TARGET_NAMES = ("target", "y", "label", "class")


@dataclass(frozen=True)
class Table:
    """A data set as a data frame.

    Attributes
    ----------
    name : str
        Name of the data set, or of the file without its ending.
    frame : pandas.DataFrame
        One row per example, counted from 0; the names of the columns are distinct.
    target : str or None
        The default target column; None if no column, or more than one, has a name that says so.
    whole : bool
        Whether the rows must not be split into training and test rows.

    >>> read("xor").column(None)
    'y'
    """

    name: str
    frame: Any
    target: str | None
    whole: bool = False

    def column(self, name: str | None) -> str:
        """The target column: `name`, or the default one if `name` is None.

        Raises
        ------
        DataError
            There is no such column, or no default one.
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
    """Read a data set by name, or a file, as a whole.

    Parameters
    ----------
    data : str
        "digits", "iris", "wine", "breast_cancer", "diabetes", "xor", or a path: a CSV or TSV file (also gzipped), a
        Parquet file or a folder of them, or an npz file with arrays x (n, features) and y (n,).
    text : names
        Columns of a CSV file that are text, such as the categories of a model.
    columns : sequence of str, optional
        Names for the columns of an npz file's x. Default: x0, x1, ...
    target : str
        Name for an npz file's y.
    needs_target : bool
        Whether an npz file without y is refused.

    Raises
    ------
    UnknownNameError
        There is neither a data set nor a file of this name.
    FileFormatError
        The file is damaged, or of another format than its name says; the message names the line if there is one.

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
    suffix, name = suffix_of(path), data_name(data)
    if suffix == ".npz":
        return Table(name, read_npz(path, columns, target, needs_target), target)
    if suffix in SEPARATORS:
        frame = read_csv(path, text)
    elif path.is_dir() or suffix in SUFFIXES:
        frame = read_parquet(path)
    else:
        raise FileFormatError(f"{data} has an unsupported file extension: .csv, .tsv (also with .gz), .parquet and "
                              f".npz can be read")
    found = [name for name in TARGET_NAMES if name in frame.columns]
    return Table(name, frame, found[0] if len(found) == 1 else None)


def data_name(data: str) -> str:
    """The name of a data set: that of a file without its folder and ending.

    >>> data_name("digits"), data_name("trips/may.csv.gz")
    ('digits', 'may')
    """
    if data in BUNDLED or data == "xor":
        return data
    path = Path(data)
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    return path.name[: path.name.rfind(suffix)] if suffix and path.name.rfind(suffix) else path.name or "data"


# --- splitting -------------------------------------------------------------------------------------------------

def stratified_split(rows: np.ndarray, fraction: float, classes: np.ndarray | None, seed: int,
                     what: str) -> tuple[np.ndarray, np.ndarray, bool]:
    """Split row numbers (n,) at random.

    Parameters
    ----------
    rows : array (n,)
    fraction : float
        Fraction of them to hold out.
    classes : array or None
        Class numbers of all rows, by row number. The split is stratified by them if every class has at least two rows
        and both splits have room for every class.
    seed : int
    what : str
        Name of the split that is held out, for the error.

    Returns
    -------
    Row numbers that remain (m,), row numbers held out (n - m,), and whether the split is stratified.

    Raises
    ------
    DataError
        No row would remain.

    >>> [numbers.size for numbers in stratified_split(np.arange(10), 0.2, None, 0, "test")[:2]]
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
    remaining, out = selection.train_test_split(rows, test_size=held_out, stratify=strata, random_state=seed % 2**32)
    return np.sort(remaining), np.sort(out), strata is not None
