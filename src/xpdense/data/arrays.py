"""Arrays of features, targets and weights: checked before any work, cast once, put where the network is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..backend import Array, Backend, backend_of, host, resolve
from ..errors import (
    ArrayTypeError,
    DataError,
    NonFiniteDataError,
    ShapeError,
    boolean,
    positive_int,
    real,
)
from ..ops import Memory
from .sparse import SparseRows


def as_array(values: Any, what: str) -> tuple[Array, Backend]:
    """An array of real numbers and its backend; what is no array becomes a NumPy one.

    Raises
    ------
    ArrayTypeError
        Text, objects, complex numbers, dates, or a sparse matrix.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ArrayTypeError(f"{what} is a masked array: say what stands for a missing value, {what}.filled(value)")
    backend = backend_of(values)
    if backend is None:
        values, backend = host(values, what), resolve("numpy")
    values, xp = backend.adopted(values), backend.xp
    if backend.kind == "numpy" and values.dtype.kind not in "biuf":
        kind = {"O": "objects", "U": "text", "S": "text", "c": "complex numbers", "M": "dates"}.get(values.dtype.kind)
        raise ArrayTypeError(f"{what} holds {kind or 'no numbers'} (dtype {values.dtype}), and a network needs real "
                             f"numbers; encode categories as numbers first (`xpdense train` does that for tables)")
    if not xp.isdtype(values.dtype, ("bool", "integral", "real floating")):
        raise ArrayTypeError(f"{what} has dtype {values.dtype}, and a network needs real numbers")
    return values, backend


def finite(values: Array, backend: Backend, what: str, dtype: str | None) -> Array:
    """`values` in `dtype` (as they are where None), every one of them finite, or a NonFiniteDataError."""
    xp = backend.xp
    if dtype is None:
        cast = values
    else:
        with np.errstate(over="ignore", under="ignore"):
            cast = xp.astype(values, backend.dtype(dtype), copy=False)
    if not xp.isdtype(cast.dtype, "real floating"):
        return cast
    with np.errstate(over="ignore", invalid="ignore"):
        if math.isfinite(float(xp.sum(cast))) or bool(xp.all(xp.isfinite(cast))):  # a finite sum has finite terms
            return cast
    bad = np.argwhere(~np.isfinite(backend.to_host(cast)))[0]
    value = float(backend.to_host(values)[tuple(bad)])
    where = f"row {bad[0]}" + (f", column {bad[1]}" if len(bad) > 1 else "")
    if np.isfinite(value):
        raise NonFiniteDataError(f"{what} holds {value:g} ({where}), which overflows {dtype}: scale it"
                                 + (", or use dtype='float64'" if dtype == "float32" and value < 1e300 else ""))
    raise NonFiniteDataError(f"{what} holds {value} ({where}), {int(np.sum(~np.isfinite(backend.to_host(cast))))} "
                             f"such values in all: impute or remove them"
                             + ("; float16 ends at 65504" if "float16" in str(values.dtype) else ""))


def shaped(x: Any, inputs: int, what: str = "x") -> tuple[Array, Backend]:
    """Features as an array (n, inputs), n > 0, and its backend; the values are not looked at.

    Raises
    ------
    ShapeError, ArrayTypeError, DataError
    """
    x, backend = as_array(x, what)
    if x.ndim != 2:
        hint = "; use x.reshape(-1, 1) for one feature, x.reshape(1, -1) for one row" if x.ndim == 1 else ""
        raise ShapeError(f"{what} must be (rows, features), got shape {tuple(x.shape)}{hint}")
    if x.shape[0] == 0:
        raise DataError(f"{what} is empty: shape {tuple(x.shape)}")
    if x.shape[1] != inputs:
        raise ShapeError(f"{what} has {x.shape[1]} features, and the network takes {inputs}")
    return x, backend


def features(x: Any, network: Any, what: str = "x", target: Backend | None = None) -> Array:
    """Features as the network wants them: finite, (n, inputs), in the type of its ops, on its backend or on `target`.

    Raises
    ------
    ShapeError, ArrayTypeError, NonFiniteDataError, DataError
    """
    target = target or network.backend
    x, backend = shaped(x, network.inputs, what)
    dtype, narrow = network.dtype, network.ops.dtype
    with backend.active():
        x = finite(x, backend, what, "float16" if narrow == "float16" else dtype)
    x = moved(x, backend, target)
    return x if narrow == dtype else target.xp.astype(x, network.backend.dtype(narrow), copy=False)


def stored(array: Array, backend: Backend) -> Array:
    """A part of Rows on the network's backend, also where these stayed on the host."""
    return backend.from_host(array) if isinstance(array, np.ndarray) else array


def targets(y: Any, loss: Any, outputs: int, rows: int, dtype: str, target: Backend, what: str = "y") -> Array:
    """Targets as the loss wants them: (n, outputs) in the network's dtype, or (n,) class numbers in int64."""
    y, backend = as_array(y, what)
    xp = backend.xp
    if y.ndim == 0 or y.shape[0] != rows:
        raise ShapeError(f"{what} has {y.shape[0] if y.ndim else 'no'} rows, and x has {rows}")
    with backend.active():
        if xp.isdtype(y.dtype, "bool"):
            y = xp.astype(y, xp.int64)
        y = loss.check_target(xp, finite(y, backend, what, None), outputs)
        if not (loss.labels and y.ndim == 1):
            y = finite(y, backend, what, dtype)
        return moved(y, backend, target)


def weights(sample_weight: Any, rows: int, dtype: str, target: Backend, what: str = "sample_weight") -> Array | None:
    """Weights (n,): finite, not negative, not all zero; None stays None."""
    if sample_weight is None:
        return None
    w, backend = as_array(sample_weight, what)
    if tuple(w.shape) != (rows,):
        raise ShapeError(f"{what} must have shape ({rows},), one weight a row, got {tuple(w.shape)}")
    xp = backend.xp
    with backend.active():
        w = finite(finite(w, backend, what, dtype), backend, what, "float64")
        if bool(xp.any(w < 0)):
            raise DataError(f"{what} must not be negative, got {float(xp.min(w)):g}")
        if not bool(xp.any(w > 0)):
            raise DataError(f"{what} is zero for every row: nothing would be learnt")
        # Only their ratios matter: a power of two, which changes no digit, keeps their sum within the range.
        return moved(finite(w * 2.0 ** -math.frexp(float(xp.max(w)))[1], backend, what, dtype), backend, target)


def moved(array: Array, source: Backend, target: Backend) -> Array:
    """An array on another backend, its rows one after the other in memory; itself where it is so already."""
    return target.contiguous(array if source.name == target.name else target.from_host(source.to_host(array)))


@dataclass(frozen=True)
class Rows:
    """Features, targets and weights of the same rows, on one backend."""

    x: Array  # (n, inputs)
    y: Array  # (n, outputs) or (n,)
    weight: Array | None  # (n,)
    on_host: bool = False  # NumPy arrays of a network on a device whose memory they would fill, or sparse features

    @property
    def count(self) -> int:
        return int(self.x.shape[0])

    def take(self, ops: Any, rows: Array, memory: Memory | None = None) -> Rows:
        """A batch: some of the rows by number, on the device, in the memory given."""
        def batch(name: str, array: Array) -> Array:
            if self.on_host:
                return ops.stage(name, array, rows)
            shape, dtype = (int(rows.shape[0]), *array.shape[1:]), str(array.dtype).rpartition(".")[2]
            return ops.gather(array, rows, memory.buffer(ops, name, shape, dtype) if memory else None)

        return Rows(batch("x", self.x), batch("y", self.y), None if self.weight is None else batch("w", self.weight))

    def digest(self) -> str:
        """A checksum of features, targets and weights."""
        kinds = [(tuple(a.shape), str(a.dtype).rpartition(".")[2]) for a in (self.x, self.y)]  # on whatever backend
        value = zlib.crc32(repr(kinds).encode())
        for array in (self.x, self.y, *(() if self.weight is None else (self.weight,))):
            for start in range(0, self.count, 2**16):
                part = np.ascontiguousarray(host(array[start : min(start + 2**16, self.count), ...]))
                value = zlib.crc32(part.data.cast("B"), value)
        return f"{value:08x}"

    def split(self, ops: Any, fraction: float, seed: int) -> tuple[Rows, Rows]:
        """Rows to train on and to hold out, each where these are."""
        kept, out = split(self.count, fraction, seed)
        return self.some(ops, kept), self.some(ops, out)

    def some(self, ops: Any, rows: np.ndarray) -> Rows:
        """Some of the rows, by number, where they are."""
        if not self.on_host:
            return self.take(ops, ops.backend.from_host(rows))
        x = self.x.some(rows) if isinstance(self.x, SparseRows) else self.x[rows]
        return Rows(x, self.y[rows], None if self.weight is None else self.weight[rows], True)


def prepared(x: Any, y: Any, sample_weight: Any, network: Any, loss: Any, what: str = "") -> Rows:
    """Checked Rows for a network and a loss; `what` names the set in messages ("validation ").

    They are on the network's backend, unless they come from the host and would fill half of what is free there: then
    they stay, and go over in batches. Sparse features stay as they are.
    """
    if isinstance(x, SparseRows):
        return replace(labelled(x, y, sample_weight, network, loss, what, resolve("numpy")), on_host=True)
    place, size = network.backend, np.dtype(network.dtype).itemsize * (network.inputs + network.outputs + 1)
    array, source = as_array(x, f"{what}x")
    stay = source.kind == "numpy" and array.ndim == 2 and place.exceeds_half_free(array.shape[0] * size)
    target = source if stay else place
    x = features(array, network, f"{what}x", target)
    return labelled(x, y, sample_weight, network, loss, what, target)


def labelled(x: Array, y: Any, sample_weight: Any, network: Any, loss: Any, what: str = "",
             target: Backend | None = None) -> Rows:
    """Rows of features as they are, with checked targets and weights, on the network's backend or on `target`."""
    n, dtype, place = int(x.shape[0]), network.dtype, target or network.backend
    y = targets(y, loss, network.outputs, n, dtype, place, f"{what}y")
    weight = weights(sample_weight, n, dtype, place, f"{what}sample_weight")
    return Rows(x, y, weight, place.name != network.backend.name)


def split(rows: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold out, drawn at random from a seed.

    >>> [part.size for part in split(10, 0.2, seed=0)]
    [8, 2]
    """
    fraction = real("validation", fraction, 0.0, 1.0, open_low=True, open_high=True)
    held_out = max(1, round(fraction * rows))
    if held_out >= rows:
        raise DataError(f"{rows} row{'s' if rows > 1 else ''} cannot be split into training and validation "
                        f"by a fraction of {fraction:g}")
    order = np.random.default_rng([seed, 2]).permutation(rows)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


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


class Held(Protocol):
    """Rows to evaluate by, which come in parts."""

    def parts(self) -> Iterator[Rows]:
        """The rows, a part at a time, each valid until the next one is asked for."""

    def digest(self) -> str:
        """What tells these rows from others."""


class Feed:
    """What a training is fed with: an epoch is a sequence of windows of rows.

    Attributes
    ----------
    rows : Rows
        What the row numbers of a window refer to; memory that stays where it is.
    count, batch_size : int
        Rows of an epoch, and of a batch.
    """

    rows: Rows
    count: int
    batch_size: int

    def __len__(self) -> int:
        """Steps of an epoch."""
        return -(-self.count // self.batch_size)

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        """The windows of an epoch from step `start` on; each is valid until the next one is asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """No more windows are wanted."""

    def held(self) -> Rows | Held:
        """The same rows, to evaluate by."""
        return self.rows

    def digest(self) -> str:
        """What tells these rows from others."""
        return self.rows.digest()


class InMemory(Feed):
    """Rows that are all there: an epoch is one window."""

    def __init__(self, rows: Rows, batches: Batches) -> None:
        self.rows, self.batches, self.count, self.batch_size = rows, batches, rows.count, batches.batch_size
        self._weight = None if rows.weight is None else np.asarray(host(rows.weight), np.float64)

    def windows(self, epoch: int, start: int = 0) -> Iterator[Window]:
        order = self.batches.order(epoch)[start * self.batch_size :]
        if len(order):
            yield Window(order, None if self._weight is None else self._weight[order], start)
