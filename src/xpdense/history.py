"""The history of a training: one number per epoch and name."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import OutputError, ParameterError, require


class History(Mapping[str, list[float]]):
    """A mapping from names to lists with one number per epoch.

    Names: "loss" (the mean over the epoch's training rows, each at its step), "validation_loss" and
    "validation_<metric>" with validation data (without, "<metric>" is of the training rows), "learning_rate" (at the
    epoch's last step), "seconds", "rows_per_second".

    Attributes
    ----------
    steps, replayed : int
        Number of optimizer steps, and how many of them were replayed from a recorded step, without Python.
    no_capture_reason : str
        Why steps were made from Python, where the reason is not only that a step must be recorded first.
    diagnosis : Diagnosis, optional
        The diagnosis of a `Doctor` among the callbacks, if the training looked wrong.

    >>> history = History()
    >>> history.append(loss=0.5, seconds=0.1)
    >>> history["loss"], len(history), history.epochs
    ([0.5], 2, 1)
    """

    def __init__(self) -> None:
        self._columns: dict[str, list[float]] = {}
        self.steps = self.replayed = 0
        self.no_capture_reason = ""
        self.diagnosis: Any = None

    def append(self, **values: float) -> None:
        """Add an epoch. A name that this epoch or an earlier one lacks has NaN there."""
        epochs = self.epochs
        for name in values:
            self._columns.setdefault(name, [math.nan] * epochs)
        for name, column in self._columns.items():
            column.append(float(values.get(name, math.nan)))

    def cut(self, epochs: int) -> None:
        """Remove all epochs but the first `epochs`."""
        for column in self._columns.values():
            del column[epochs:]

    def restore(self, columns: Mapping[str, Iterable[float]]) -> None:
        """Replace all columns by these."""
        self._columns = {name: [float(value) for value in values] for name, values in columns.items()}

    def note(self, **values: float) -> None:
        """Set numbers of the last epoch."""
        for name, value in values.items():
            self._columns.setdefault(name, [math.nan] * self.epochs)[-1] = float(value)

    @property
    def epochs(self) -> int:
        """Number of epochs."""
        return max(map(len, self._columns.values()), default=0)

    def __getitem__(self, name: str) -> list[float]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        last = ", ".join(f"{name}={values[-1]:.4g}" for name, values in self._columns.items())
        return f"History({self.epochs} epochs, {self.replayed:,} of {self.steps:,} steps replayed; last: {last})"

    def to_frame(self) -> Any:
        """Return a pandas DataFrame with a row per epoch, from 1. Needs pandas (extra "plots")."""
        pandas = require("pandas", "plots", "History.to_frame")
        frame = pandas.DataFrame(self._columns)
        frame.index = pandas.RangeIndex(1, len(frame) + 1, name="epoch")
        return frame

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV file with a column "epoch", from 1, and a column for each name."""
        try:
            with open(path, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(["epoch", *self._columns])
                writer.writerows([i, *row] for i, row in enumerate(zip(*self._columns.values(), strict=True), 1))
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw loss and metrics over the epochs with matplotlib (extra "plots"), and save the figure at `path`, if any.

        Returns the Figure.
        """
        if not self.epochs:
            raise ParameterError("the history has no epochs yet: there is nothing to draw")
        require("matplotlib", "plots", "History.plot")
        from .plots import plot_history

        try:
            return plot_history(self, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        except ValueError as error:  # a format that matplotlib cannot write; the message lists those that it can
            raise ParameterError(f"cannot write {path}: {error}") from error
