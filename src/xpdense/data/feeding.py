"""The batches of a training, from rows in memory and from rows that are read while they are used.

The window of a stream holds rows as they are read: numbers, and for each column of categories the number of the
category. Its rows are shuffled, and a thread that reads ahead makes them features in memory of the device, a piece at a
time; batches are taken from there. Two windows and three pieces exist at any time, also where one epoch follows
another. Few rows are read once, and are one window.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..backend import host
from ..errors import DataError, boolean, positive_int
from ..spec import Spec
from .arrays import Rows, stored
from .prefetch import prefetched
from .sources import CHUNK

_WINDOW = 2 * 2**20  # bytes of a window, but at least _ROWS rows in at most 16 times as many
_ROWS = 8192
_WHOLE = 12 * 2**20  # bytes of rows that are read once and kept
_PIECE = 2**20  # bytes of features in a piece
_SLOTS = 3  # pieces: one that is trained on, one that waits, one that is being filled

_ENDED: Any = object()


class Batches:
    """Row numbers in batches: the same order for the same seed and epoch, the last smaller batch included.

    >>> batches = Batches(10, 4, seed=0)
    >>> len(batches), sorted(batches.order(0).tolist())
    (3, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """

    def __init__(self, rows: int, batch_size: int, seed: int, shuffle: bool = True) -> None:
        self.rows, self.batch_size = rows, min(positive_int("batch_size", batch_size), rows)
        self.seed, self.shuffle = seed, boolean("shuffle", shuffle)

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The rows of an epoch, int64 (rows,): its batches one after the other."""
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng([self.seed, 1, epoch]).permutation(self.rows)


@dataclass(frozen=True)
class Window:
    """Some of an epoch's batches, one after the other.

    Attributes
    ----------
    order : int64 array (n,)
        Numbers of rows in the feed's `rows`: batches of its size, only the epoch's last one smaller.
    weight : float64 array (n,) or None
        Of those rows.
    first : int
        The step within the epoch that its first batch makes.
    """

    order: np.ndarray
    weight: np.ndarray | None
    first: int


class Feed:
    """The batches of a training: an epoch is a sequence of windows of rows.

    Attributes
    ----------
    rows : Rows
        What the row numbers of a window refer to; memory that stays where it is.
    count, batch_size : int
        Rows of an epoch, and of a batch.
    shuffle : bool
        Whether each epoch has an order of its own.
    once : bool
        Whether the rows can be read for one epoch only.
    """

    rows: Rows
    count: int
    batch_size: int
    shuffle: bool
    once = False

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch_size)

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        """The windows of an epoch from step `start` on; each is valid until the next one is asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """End the reading ahead; no more windows are needed."""

    def parts(self) -> Iterator[Rows]:
        """The same rows in bounded parts, in their own order, to evaluate by."""
        raise NotImplementedError

    def digest(self) -> str:
        """A checksum that tells these rows from others."""
        raise NotImplementedError


class InMemory(Feed):
    """Rows in memory: an epoch is one window."""

    def __init__(self, rows: Rows, batches: Batches) -> None:
        self.rows, self.batches, self.count, self.batch_size = rows, batches, rows.count, batches.batch_size
        self.shuffle = batches.shuffle
        self._weight = None if rows.weight is None else np.asarray(host(rows.weight), np.float64)

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        order = self.batches.order(epoch)[start * self.batch_size :]
        if len(order):
            yield Window(order, None if self._weight is None else self._weight[order], start)

    def parts(self) -> Iterator[Rows]:
        return iter([self.rows])

    def digest(self) -> str:
        return self.rows.digest()


@dataclass(frozen=True)
class _Piece:
    """Rows that are ready in a slot of a feed's memory, and where in the training they come."""

    epoch: int
    step: int  # the first, within the epoch
    slot: int
    count: int
    weight: np.ndarray | None


class StreamFeed(Feed):
    """Pieces of a stream's windows, made by a thread in memory of the device: slots of one buffer, used in turn."""

    def __init__(self, stream: Any, spec: Spec, batch_size: int, seed: int, shuffle: bool) -> None:
        self.stream, self._spec = stream, spec
        self.count, self._seed = stream.rows, seed
        self.batch_size = min(positive_int("batch_size", batch_size), self.count)
        self.shuffle = boolean("shuffle", shuffle)
        first = stream.first_compact(spec)  # says what is wrong before anything is done
        item = np.dtype(spec.storage if spec.storage != "bfloat16" else "float16").itemsize
        row = sum(array[:1].nbytes for array in first if array is not None)
        self._whole = stream.window is None and self.count * row <= _WHOLE
        self.once = stream.readable_once and not self._whole
        shuffled = max(_WINDOW // row, min(_ROWS, 16 * _WINDOW // row))
        self._window = self._batches(stream.window or (self.count if self._whole else shuffled))
        self._piece = min(self._batches(_PIECE // (spec.inputs * item)), self._window)
        self._columns = [None if a is None else (a.shape[1:], a.dtype) for a in first]
        self._pieces: Generator[_Piece, None, None] | None = None
        self._next = -1, -1  # the epoch and step whose piece comes next

    @cached_property
    def rows(self) -> Rows:  # type: ignore[override]  # an attribute that is made late
        """Memory for the pieces, made when it is first needed: rows to evaluate by need none."""
        backend, slots = self._spec.backend, _SLOTS * self._piece
        y, weight = (None if column is None else backend.zeros((slots, *column[0]), str(column[1]))
                     for column in self._columns[2:])
        return Rows(backend.zeros((slots, self._spec.inputs), self._spec.storage), y, weight)

    @cached_property
    def _pools(self) -> list[tuple[np.ndarray | None, ...]]:
        return [tuple(None if column is None else np.zeros((self._window, *column[0]), column[1])
                      for column in self._columns) for _ in range(1 if self._whole else 2)]

    def _batches(self, rows: int) -> int:
        """That many rows as a whole number of batches, at least one and at most those of an epoch."""
        return min(max(1, -(-rows // self.batch_size)), len(self)) * self.batch_size

    def parts(self) -> Iterator[Rows]:
        parts: Iterator[Rows] = self.stream.parts(self._spec)
        return parts

    def digest(self) -> str:
        return f"{self.stream.digest()} {self._window}"

    def close(self) -> None:
        if self._pieces is not None:
            self._pieces.close()
            self._pieces, self._next = None, (-1, -1)

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        if start >= len(self):
            return
        if self._next != (epoch, start):
            self.close()
            self._pieces = prefetched(self._made(epoch, start))
        assert self._pieces is not None
        self._next, step = (-1, -1), start
        while step < len(self):
            piece = next(self._pieces, None)
            if piece is None:
                raise DataError("a generator can be read once, and it has been: pass a function that makes it")
            yield Window(np.arange(piece.count) + piece.slot * self._piece, piece.weight, piece.step)
            step = piece.step - (-piece.count // self.batch_size)
        self._next = epoch + 1, 0

    def _made(self, epoch: int, start: int) -> Generator[_Piece, None, None]:
        """Pieces from a step on, through this epoch and the next ones. As rows of one window are made into a piece, as
        many are read into the next."""
        number, within = divmod(start * self.batch_size, self._window)
        slot, pool, reading, filled = 0, 0, self._read(epoch, number), None
        while True:
            while filled is None:
                filled = next(reading, _ENDED)
            if filled is _ENDED:
                return
            (epoch, number, count), filled = filled, None
            order = np.arange(count)
            if self.shuffle:
                order = np.random.default_rng([self._seed, 4, epoch, number]).permutation(count)
            for at in range(within, count, self._piece):
                rows, read = order[at : at + self._piece], 0
                yield self._put(pool, rows, slot, epoch, (number * self._window + at) // self.batch_size)
                slot = (slot + 1) % _SLOTS
                while filled is None and read < len(rows):
                    filled, read = next(reading, _ENDED), read + CHUNK
            pool, within = (pool + 1) % len(self._pools), 0

    def _read(self, epoch: int, number: int) -> Generator[tuple[int, int, int] | None, None, None]:
        """Read windows, each into the next pool: None after each chunk, and (epoch, number, rows) when one is full."""
        pool, size = 0, self._window
        while True:
            groups = np.arange(len(self.stream.counts))
            if self.shuffle and not self._whole:
                groups = np.random.default_rng([self._seed, 1, epoch]).permutation(len(groups))
            made = number * size
            at = 0
            for chunk in self.stream.compacted(self._spec, groups.tolist(), made):
                start, rows = 0, len(chunk[0])
                while start < rows:
                    n = min(size - at, rows - start)
                    for waiting, values in zip(self._pools[pool], chunk, strict=True):
                        if waiting is not None and values is not None:
                            waiting[at : at + n] = values[start : start + n]
                    at, start, made = at + n, start + n, made + n
                    if at == size or made == self.count:
                        yield epoch, number, at
                        pool, number, at = (pool + 1) % len(self._pools), number + 1, 0
                yield None
            if made != self.count:
                raise DataError(f"{self.stream.source.name} gave {made:,} rows in an epoch, and has {self.count:,}")
            while self._whole:
                epoch += 1
                yield epoch, 0, self.count
            if self.stream.readable_once:
                return
            epoch, number = epoch + 1, 0

    def _put(self, pool: int, order: np.ndarray, slot: int, epoch: int, step: int) -> _Piece:
        """Make features of some of a pool's rows, in a slot on the device."""
        x, places, y, weight = (None if a is None else np.take(a, order, axis=0) for a in self._pools[pool])
        assert x is not None
        assert y is not None
        backend, place = self._spec.backend, slice(slot * self._piece, slot * self._piece + len(order))
        with backend.active(), backend.copying() as copied:
            if backend.on_host and backend.kind == "numpy":
                self.stream.expand(x, places, self.rows.x[place, ...])
            else:
                dense = x if places is None else np.empty((len(order), self._spec.inputs), self._spec.dtype)
                if places is not None:
                    self.stream.expand(x, places, dense)
                narrow = self.rows.x.dtype
                self.rows.x[place, ...] = backend.xp.astype(backend.from_host(dense), narrow, copy=False)
            self.rows.y[place, ...] = stored(y, backend)
            if weight is not None and self.rows.weight is not None:
                self.rows.weight[place] = stored(weight, backend)
            copied()
        return _Piece(epoch, step, slot, len(order), None if weight is None else weight.astype(np.float64))
