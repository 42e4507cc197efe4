"""A data set that is neither arrays nor a stream: written against the protocol `xpdense.data.Dataset` alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

import xpdense as xd


class ThirdDataset:
    """Rows that are made when they are asked for, by a function of their numbers."""

    preprocessing = None

    def __init__(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None,
                 numbers: np.ndarray | None = None) -> None:
        self._arrays = x, y, weight
        self._numbers = np.arange(len(x)) if numbers is None else numbers
        self.rows, self.inputs = len(self._numbers), x.shape[1]

    def made(self, spec: Any, numbers: np.ndarray) -> xd.data.Rows:
        x, y, weight = self._arrays
        return xd.data.prepared(x[numbers], y[numbers], None if weight is None else weight[numbers], spec)

    def split(self, validation: float, *, seed: int) -> tuple[ThirdDataset, ThirdDataset]:
        order = np.random.default_rng([seed, 2]).permutation(self.rows)  # as the arrays are split
        held = round(validation * self.rows)
        return (ThirdDataset(*self._arrays, self._numbers[np.sort(order[held:])]),
                ThirdDataset(*self._arrays, self._numbers[np.sort(order[:held])]))

    def parts(self, spec: Any) -> Iterator[xd.data.Rows]:
        rows = self.made(spec, self._numbers)
        return rows.parts(spec.part_rows)

    def feed(self, spec: Any, batch_size: int, seed: int, shuffle: bool) -> ThirdFeed:
        return ThirdFeed(self, spec, xd.data.Batches(self.rows, batch_size, seed, shuffle))

    def digest(self) -> str:
        return f"{self.rows} rows of a third kind"


class ThirdFeed(xd.data.Feed):
    """Its batches, three to a window."""

    def __init__(self, data: ThirdDataset, spec: Any, batches: xd.data.Batches) -> None:
        self.data, self.spec, self.batches = data, spec, batches
        self.rows = data.made(spec, data._numbers)
        self.count, self.batch_size, self.shuffle = batches.rows, batches.batch_size, batches.shuffle

    def windows(self, epoch: int, start: int = 0) -> Iterator[xd.data.Window]:
        order, size = self.batches.order(epoch), 3 * self.batch_size
        for step in range(start, len(self), 3):
            rows = order[step * self.batch_size : step * self.batch_size + size]
            weight = None if self.rows.weight is None else np.asarray(self.rows.weight)[rows].astype(np.float64)
            yield xd.data.Window(rows, weight, step)

    def parts(self) -> Iterator[xd.data.Rows]:
        return self.data.parts(self.spec)

    def digest(self) -> str:
        return self.data.digest()
