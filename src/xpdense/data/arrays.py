"""Arrays of features, targets and weights: checked before any work, cast once, put where the network is."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backend import Array, Backend, backend_of, host, resolve
from ..errors import (
    ArrayTypeError,
    DataError,
    NonFiniteDataError,
    ParameterError,
    ShapeError,
    real,
)
from ..ops import Memory
from ..spec import Spec
from .sparse import SparseRows


def as_array(values: Any, what: str) -> tuple[Array, Backend]:
    """An array of real numbers and its backend; values that are not an array are converted by NumPy.

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


def features(x: Any, spec: Spec, what: str = "x", target: Backend | None = None) -> Array:
    """Features as a network takes them: finite, (n, inputs), in its storage type, on its backend or on `target`.

    Raises
    ------
    ShapeError, ArrayTypeError, NonFiniteDataError, DataError
    """
    target = target or spec.backend
    x, backend = shaped(x, spec.inputs, what)
    dtype, narrow = spec.dtype, spec.storage
    with backend.active():
        x = finite(x, backend, what, "float16" if narrow == "float16" else dtype)
    x = moved(x, backend, target)
    return x if narrow == dtype else target.xp.astype(x, spec.backend.dtype(narrow), copy=False)


def stored(array: Array, backend: Backend) -> Array:
    """A part of Rows on the network's backend, also where these stayed on the host."""
    return backend.from_host(array) if isinstance(array, np.ndarray) else array


def targets(y: Any, rows: int, spec: Spec, target: Backend, what: str = "y") -> Array:
    """Targets as the loss takes them: (n, outputs) in the network's dtype, or (n,) class numbers in int64; without a
    loss, what `spec.encode` returns."""
    y, loss = y if spec.encode is None else spec.encode(y), spec.loss
    if loss is None:
        return y
    y, backend = as_array(y, what)
    xp = backend.xp
    if y.ndim == 0 or y.shape[0] != rows:
        raise ShapeError(f"{what} has {y.shape[0] if y.ndim else 'no'} rows, and x has {rows}")
    with backend.active():
        if xp.isdtype(y.dtype, "bool"):
            y = xp.astype(y, xp.int64)
        y = loss.check_target(xp, finite(y, backend, what, None), spec.outputs)
        if not (loss.labels and y.ndim == 1):
            y = finite(y, backend, what, spec.dtype)
        return moved(y, backend, target)


def weights(sample_weight: Any, rows: int, spec: Spec, target: Backend, what: str = "sample_weight",
            largest: float | None = None) -> Array | None:
    """Weights (n,): finite, not negative, scaled so that the largest is below 1; None stays None.

    `largest` is the largest weight of the data set that these rows are a part of; by default they are all of it.
    Without a loss the weights stay as they are.

    Raises
    ------
    ShapeError, ArrayTypeError, NonFiniteDataError
    DataError
        One is negative, or all of the data set are zero.
    """
    if sample_weight is None:
        return None
    w, backend = as_array(sample_weight, what)
    if tuple(w.shape) != (rows,):
        raise ShapeError(f"{what} must have shape ({rows},), one weight a row, got {tuple(w.shape)}")
    xp = backend.xp
    with backend.active():
        w = finite(finite(w, backend, what, spec.dtype), backend, what, "float64")
        if bool(xp.any(w < 0)):
            raise DataError(f"{what} must not be negative, got {float(xp.min(w)):g}")
        if spec.loss is None:
            return w
        largest = float(xp.max(w)) if largest is None else largest
        if not largest:
            raise DataError(f"{what} is zero for every row: nothing would be learnt")
        # Only their ratios matter: a power of two, which changes no digit, keeps their sum within the range.
        return moved(finite(w * 2.0 ** -math.frexp(largest)[1], backend, what, spec.dtype), backend, target)


def moved(array: Array, source: Backend, target: Backend) -> Array:
    """An array on another backend, its rows one after the other in memory; itself where it is so already."""
    return target.contiguous(array if source.name == target.name else target.from_host(source.to_host(array)))


@dataclass(frozen=True)
class Rows:
    """Features, targets and weights of the same rows, on one backend."""

    x: Array  # (n, inputs)
    y: Array  # (n, outputs) or (n,); None for features alone
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
        arrays = [array for array in (self.x, self.y, self.weight) if array is not None]
        kinds = [(tuple(a.shape), str(a.dtype).rpartition(".")[2]) for a in arrays[:2]]  # on whatever backend
        value = zlib.crc32(repr(kinds).encode())
        for array in arrays:
            for start in range(0, self.count, 2**16):
                part = np.ascontiguousarray(host(array[start : min(start + 2**16, self.count), ...]))
                value = zlib.crc32(part.data.cast("B"), value)
        return f"{value:08x}"

    def some(self, rows: np.ndarray) -> Rows:
        """Some of the rows, by number, on the same backend."""
        backend = backend_of(self.y) or resolve("numpy")
        numbers = backend.from_host(rows)

        def taken(array: Any) -> Any:
            if isinstance(array, SparseRows):
                return array.some(rows)
            return None if array is None else backend.xp.take(array, numbers, axis=0)

        return Rows(taken(self.x), taken(self.y), taken(self.weight), self.on_host)

    def parts(self, most: int) -> Iterator[Rows]:
        """The rows in parts of at most that many, one after the other, with dense features."""
        if self.count <= most and not isinstance(self.x, SparseRows):
            yield self
            return
        for i in range(0, self.count, most):
            rows = slice(i, min(i + most, self.count))
            yield Rows(self.x[rows, ...], None if self.y is None else self.y[rows, ...],
                       None if self.weight is None else self.weight[rows], self.on_host)


def prepared(x: Any, y: Any, sample_weight: Any, spec: Spec, what: str = "") -> Rows:
    """Checked Rows for a network and a loss; `what` names the data set in messages ("validation ").

    They are on the network's backend, unless they come from the host and would fill half of the memory that is free
    there: then they stay, and are moved in batches. Sparse features stay sparse.
    """
    if isinstance(x, SparseRows):
        return replace(labelled(x, y, sample_weight, spec, what, resolve("numpy")), on_host=True)
    place, size = spec.backend, np.dtype(spec.dtype).itemsize * (spec.inputs + spec.outputs + 1)
    array, source = as_array(x, f"{what}x")
    stay = source.kind == "numpy" and array.ndim == 2 and place.exceeds_half_free(array.shape[0] * size)
    target = source if stay else place
    x = features(array, spec, f"{what}x", target)
    return labelled(x, y, sample_weight, spec, what, target)


def labelled(x: Array, y: Any, sample_weight: Any, spec: Spec, what: str = "", target: Backend | None = None) -> Rows:
    """Rows of features as they are, with checked targets and weights, on the network's backend or on `target`."""
    n, place = int(x.shape[0]), target or spec.backend
    if not spec.wants_targets:
        return Rows(x, None, None, place.name != spec.backend.name)
    if y is None:
        raise ParameterError(f"{what}y is missing: the features alone are not enough here")
    y = targets(y, n, spec, place, f"{what}y")
    weight = weights(sample_weight, n, spec, place, f"{what}sample_weight")
    return Rows(x, y, weight, place.name != spec.backend.name)


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
