"""The ops on NumPy arrays, by kernels that are compiled for the CPU when the package is installed.

Each method is one pass over the data by a kernel. The generic op that it overrides computes what a kernel does not
support: leading axes, arrays that are not contiguous, and user-defined activations, losses and optimizers. Without a
compiler at the installation there is no library, and the generic ops are used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array, Backend
from .generic import Ops
from .slots import HYPER, VERSION
from .slots import kernels as bound

_native: Any = None
with contextlib.suppress(ImportError):  # it was not compiled
    _native = importlib.import_module("xpdense._native")

#: Whether there is a compiled library, of the current version.
available = getattr(_native, "slots", 0) == VERSION


class NativeOps(Ops):
    """Ops on NumPy arrays by compiled kernels; sums over rows are in another order than NumPy's.

    >>> from xpdense.ops import backends
    >>> [row.ops in ("native", "generic") for row in backends() if row.name == "numpy"]
    [True]
    """

    name = "native"
    ends_replays = True

    def __init__(self, backend: Backend, dtype: str) -> None:
        super().__init__(backend, dtype)
        self._wide = int(dtype == "float64")
        self._numbers: dict[str, int] = _native.kernels
        self._recorded: list[Any] | None = None
        self.captures = _use_blas()  # a recorded step calls the products without Python
        if self.captures:
            self.no_capture_reason = ""
        else:
            self.no_capture_reason = "SciPy, whose products a recorded step calls, is not installed"

    def _run(self, kernel: str, arguments: Any) -> bool:
        """Run a kernel on (arrays, sizes, scalars); return False, with no effect, if it does not take them."""
        number = self._numbers.get(kernel)
        if number is None:
            return False
        arrays, sizes, scalars = arguments
        if not _native.call(number, self._wide, arrays, sizes, scalars):
            return False
        if self._recorded is not None:
            self._recorded.append((number, self._wide, arrays, sizes, scalars))
        return True

    def _generic(self, op: str, *arguments: Any) -> Any:
        """Run the generic op; a step that is being recorded can then not be replayed."""
        self._recorded = None
        return getattr(super(), op)(*arguments)

    # --- capture -----------------------------------------------------------------------------------------------

    def capture(self, step: Callable[[], None], tables: tuple[Array, ...]) -> Callable[[int, int], int] | None:
        """Run a step once and record it; return a function that replays it, or None if it cannot be replayed.

        `step` uses the first row of each of `tables`. The function takes (first, count), runs the recorded step for the
        rows first, first + 1, ..., without Python, and returns how many steps it completed.
        """
        self._recorded = []
        try:
            step()
        finally:
            recorded, self._recorded = self._recorded, None
        if recorded is None:
            return None
        run: Callable[[int, int], int] = _native.Program(recorded, tables).run
        return run

    def move(self, source: Array, target: Array) -> None:
        if source.shape != target.shape or source.dtype != target.dtype or not self._run(
                "move", bound.move(source=source, target=target, bytes=source.nbytes)):
            self._generic("move", source, target)

    def stop_unless_finite(self, value: Array) -> None:
        """In a step that is recorded: end the replay here if the value () is not finite."""
        if self._recorded is not None:
            self._recorded.append(
                (self._numbers["stop_unless_finite"], self._wide, *bound.stop_unless_finite(value=value)))

    # --- the ops -----------------------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if self.captures and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.size and b.size:
            (m, k), n = a.shape, b.shape[1]
            transpose_a, transpose_b = not a.flags.c_contiguous, not b.flags.c_contiguous
            c = self.empty((m, n)) if out is None else out
            if c.shape == (m, n) and self._run("product", bound.product(
                    a=a.T if transpose_a else a, b=b.T if transpose_b else b, out=c, m=m, n=n, k=k,
                    transpose_a=transpose_a, transpose_b=transpose_b)):
                return c
        return self._generic("matmul", a, b, out)

    def blend(self, running: Array, batch: Array, momentum: float) -> None:
        if running.shape != batch.shape or not self._run("blend", bound.blend(
                running=running, batch=batch, size=running.size, momentum=momentum)):
            self._generic("blend", running, batch, momentum)

    def gather(self, x: Array, rows: Array, out: Array | None = None) -> Array:
        if x.ndim and rows.ndim == 1 and rows.dtype == np.int64:
            batch, x_rows, row = len(rows), len(x), x.shape[1:]
            shape = (batch, *row)
            y = np.empty(shape, x.dtype) if out is None else out
            row_bytes = x.itemsize * math.prod(row)  # not its stride, which may be anything where there is one row
            if y.shape == shape and y.dtype == x.dtype and self._run("gather", bound.gather(
                    x=x, rows=rows, out=y, batch=batch, row_bytes=row_bytes, x_rows=x_rows)):
                return y
        return self._generic("gather", x, rows, out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        y = self.empty(a.shape) if out is None else out
        if a.shape == b.shape == y.shape and self._run("add", bound.add(a=a, b=b, out=y, size=a.size)):
            return y
        return self._generic("add", a, b, out)

    def activate(self, activation: Any, z: Array, bias: Array | None, out: Array | None = None) -> tuple[Array, Array]:
        shape, name = z.shape, activation.name if activation.builtin else None
        if name == "identity" and bias is None:
            return z, z
        a = z if activation.saves == "output" else self.empty(shape) if out is None else out
        if name and len(shape) == 2 and a.shape == shape and (bias is None or bias.shape == shape[1:]):
            rows, cols = shape
            if self._run(f"activate {name}", bound.activate(
                    z=z, bias=bias, out=a, rows=rows, cols=cols, parameter=_parameter(activation))):
                return a, a if activation.saves == "output" else z
        a, saved = self._generic("activate", activation, z, bias, out)
        return a, saved

    def activate_backward(self, activation: Any, saved: Array, da: Array, out: Array | None = None,
                          dbias: Array | None = None) -> Array:
        shape, name = da.shape, activation.name if activation.builtin else None
        if name == "identity" and dbias is None:
            return da
        if name and len(shape) == 2 and saved.shape == shape and (dbias is None or dbias.shape == shape[1:]):
            rows, cols = shape
            if name == "identity":
                if self._run("column_sums", bound.column_sums(x=da, out=dbias, rows=rows, cols=cols)):
                    return da
            else:
                dz = self.empty(shape) if out is None else out
                if dz.shape == shape and self._run(f"activate_backward {name}", bound.activate_backward(
                        saved=saved, da=da, dz=dz, dbias=dbias, rows=rows, cols=cols,
                        parameter=_parameter(activation))):
                    return dz
        return self._generic("activate_backward", activation, saved, da, out, dbias)

    def normalize(self, x: Array, gain: Array, bias: Array, axis: int, epsilon: float,
                  out: Array | None = None, saved: tuple[Array, Array] | None = None) -> tuple[Array, Any]:
        y, shape = self.empty(x.shape) if out is None else out, x.shape
        if x.ndim == 2 and axis in (-1, -2) and y.shape == shape and gain.shape == bias.shape == shape[1:]:
            rows, cols = shape
            x_hat, statistics = saved or (self.empty(shape), self.empty((3, cols if axis == -2 else rows)))
            if self._run("normalize", bound.normalize(
                    x=x, gain=gain, bias=bias, y=y, x_hat=x_hat, statistics=statistics, rows=rows, cols=cols,
                    axis=axis, epsilon=epsilon)):
                rstd, mean, variance = (np.expand_dims(s, axis + 2 if axis == -2 else 1) for s in statistics)
                return y, (x_hat, rstd, mean, variance)
        y, kept = self._generic("normalize", x, gain, bias, axis, epsilon, out, saved)
        return y, kept

    def normalize_backward(self, saved: Any, dy: Array, gain: Array, axis: int, dgain: Array, dbias: Array,
                           out: Array | None = None) -> Array:
        dx, shape = self.empty(dy.shape) if out is None else out, dy.shape
        x_hat, rstd = saved[0], saved[1]
        fits = dy.ndim == 2 and axis in (-1, -2) and dx.shape == shape == x_hat.shape
        if fits and gain.shape == dgain.shape == dbias.shape == shape[1:]:
            rows, cols = shape
            if rstd.size == (cols if axis == -2 else rows) and self._run(
                    "normalize_backward", bound.normalize_backward(
                        dy=dy, gain=gain, x_hat=x_hat, rstd=rstd, dx=dx, dgain=dgain, dbias=dbias, rows=rows,
                        cols=cols, axis=axis)):
                return dx
        return self._generic("normalize_backward", saved, dy, gain, axis, dgain, dbias, out)

    def scale_shift(self, x: Array, mean: Array, variance: Array, gain: Array, bias: Array, epsilon: float,
                    out: Array | None = None) -> Array:
        y, shape = self.empty(x.shape) if out is None else out, x.shape
        if x.ndim == 2 and y.shape == shape and all(v.shape == shape[1:] for v in (mean, variance, gain, bias)):
            rows, cols = shape
            if self._run("scale_shift", bound.scale_shift(
                    x=x, mean=mean, variance=variance, gain=gain, bias=bias, y=y, rows=rows, cols=cols,
                    epsilon=epsilon)):
                return y
        return self._generic("scale_shift", x, mean, variance, gain, bias, epsilon, out)

    def dropout(self, x: Array, rate: float, key: tuple[int, int], step: Array, out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        fits = y.shape == x.shape and isinstance(step, np.ndarray) and step.shape == (1,) and step.dtype == np.int64
        if fits and self._run("dropout", bound.dropout(
                x=x, y=y, step=step, size=x.size, rate=rate, key0=key[0], key1=key[1])):
            return y
        return self._generic("dropout", x, rate, key, step, out)

    def loss_and_gradient(self, loss: Any, z: Array, target: Array, weight: Array | None, dz: Array | None = None,
                          value: Array | None = None) -> tuple[Array, Array]:
        kernel = vars(type(loss)).get("kernel")  # not inherited: a subclass may have another formula
        shape = z.shape
        if kernel and len(shape) == 2 and z.size:
            rows, cols = shape
            gradient = self.empty(shape) if dz is None else dz
            value = self.empty(()) if value is None else value
            labels = loss.labels and target.dtype == np.int64
            fits = target.shape == (shape[:1] if labels else shape) and gradient.shape == shape
            fits = fits and gradient is not z and (weight is None or weight.shape == shape[:1])
            if fits and self._run(kernel, bound.loss(
                    z=z, target=target, weight=weight, dz=gradient, value=value, rows=rows, cols=cols,
                    labels=labels, parameter=(*loss.constants(), 0.0)[0], factor=loss.factor)):
                return value, gradient
        value, gradient = self._generic("loss_and_gradient", loss, z, target, weight, dz, value)
        return value, gradient

    def penalize(self, value: Array, weights: Array, strength: float) -> Array:
        if isinstance(value, np.ndarray) and value.ndim == 0 and weights.ndim == 1 and self._run(
                "penalize", bound.penalize(value=value, weights=weights, size=weights.size, strength=strength)):
            return value
        return self._generic("penalize", value, weights, strength)

    def update(self, optimizer: Any, params: Array, grads: Array, state: dict[str, Array], hyper: Array,
               decay: tuple[float, int], working: Array | None = None) -> None:
        kernel = vars(type(optimizer)).get("kernel")
        shape, hyper_size, buffers = params.shape, hyper.size, tuple(state.values())
        fits = len(shape) == 1 and hyper_size <= len(HYPER) and working is None and tuple(state) == optimizer.slots
        if kernel and fits and all(s.shape == shape for s in (grads, *buffers)):
            (size,), (state_0, state_1) = shape, (*buffers, None, None)[:2]
            arrays, sizes, scalars = bound.update(
                params=params, grads=grads, state_0=state_0, state_1=state_1, hyper=hyper, size=size,
                decay_size=size if optimizer.decay_all else decay[1], hyper_size=hyper_size,
                weight_decay=decay[0], decoupled=optimizer.decoupled,
                clip_norm=optimizer.clip_norm or 0.0)
            if self._run(kernel, (arrays, sizes, scalars + optimizer.constants())):
                return
        self._generic("update", optimizer, params, grads, state, hyper, decay, working)


@functools.cache
def _use_blas() -> bool:
    """Pass SciPy's BLAS to the library; return False if SciPy is not installed."""
    try:
        blas = importlib.import_module("scipy.linalg.cython_blas")
    except ImportError:
        return False
    _native.use_blas(blas.__pyx_capi__["sgemm"], blas.__pyx_capi__["dgemm"])
    return True


def _parameter(activation: Any) -> float:
    return next(iter(activation.config.values()), 0.0)
