"""The ops on NumPy arrays through the kernels that were compiled for the CPU when the package was installed.

Each method hands one pass over the data to a kernel, and whatever a kernel does not know to the generic op it
overrides: leading axes, arrays that are not contiguous, and activations, losses and optimizers of a user's own. Where
there was no compiler at the installation the library is missing, and the generic ops serve.
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

_native: Any = None
with contextlib.suppress(ImportError):  # it was not compiled
    _native = importlib.import_module("xpdense._native")

available = "penalize" in getattr(_native, "kernels", ())  #: whether the compiled library is here, and not an older one


class NativeOps(Ops):
    """Ops on NumPy arrays by compiled kernels; sums over rows are in another order than NumPy's."""

    name = "native"
    ends_replays = True

    def __init__(self, backend: Backend, dtype: str) -> None:
        super().__init__(backend, dtype)
        self._wide = int(dtype == "float64")
        self._numbers: dict[str, int] = _native.kernels
        self._recorded: list[Any] | None = None
        self.captures = _use_blas()  # the products must be ours to call
        self.why_not = "" if self.captures else "SciPy, whose products a recorded step calls, is not installed"

    def _run(self, kernel: str | None, arrays: tuple[Array | None, ...], sizes: tuple[int, ...],
             scalars: tuple[float, ...] = ()) -> bool:
        """Run a kernel; False, with nothing done, where there is none or an array does not suit it."""
        number = self._numbers.get(kernel) if kernel else None
        if number is None or not _native.call(number, self._wide, arrays, sizes, scalars):
            return False
        if self._recorded is not None:
            self._recorded.append((number, self._wide, arrays, sizes, scalars))
        return True

    def _generic(self, op: str, *arguments: Any) -> Any:
        """The generic op; what is being recorded cannot be replayed then."""
        self._recorded = None
        return getattr(super(), op)(*arguments)

    # --- capture -----------------------------------------------------------------------------------------------

    def capture(self, step: Callable[[], None], tables: tuple[Array, ...]) -> Callable[[int, int], int] | None:
        """Make a step once, recording it; what makes it again, or None where something in it cannot be replayed.

        `step` works on the first row of each of `tables`. The result, called with (first, count), makes the step for
        the rows first, first + 1, ... by itself, without Python, and returns how many came to their end.
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
                "move", (source, target), (source.nbytes,)):
            self._generic("move", source, target)

    def stop_unless_finite(self, value: Array) -> None:
        """In a step that is being recorded: end the replay here where the value is not finite."""
        if self._recorded is not None:
            self._recorded.append((self._numbers["stop_unless_finite"], self._wide, (value,), (), ()))

    # --- the ops -----------------------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if self.captures and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.size and b.size:
            turned = (not a.flags.c_contiguous) + 2 * (not b.flags.c_contiguous)
            c = self.empty((a.shape[0], b.shape[1])) if out is None else out
            arrays = (a.T if turned & 1 else a, b.T if turned & 2 else b, c)
            if c.shape == (a.shape[0], b.shape[1]) and self._run("product", arrays, (*c.shape, a.shape[1], turned)):
                return c
        return self._generic("matmul", a, b, out)

    def blend(self, running: Array, batch: Array, momentum: float) -> None:
        if running.shape != batch.shape or not self._run("blend", (running, batch), (running.size,), (momentum,)):
            self._generic("blend", running, batch, momentum)

    def gather(self, x: Array, rows: Array, out: Array | None = None) -> Array:
        if x.ndim and rows.ndim == 1 and rows.dtype == np.int64:
            shape = (len(rows), *x.shape[1:])
            y = np.empty(shape, x.dtype) if out is None else out
            row = x.itemsize * math.prod(x.shape[1:])  # not its stride, which may be anything where there is one row
            if y.shape == shape and y.dtype == x.dtype and self._run("gather", (x, rows, y), (len(rows), row, len(x))):
                return y
        return self._generic("gather", x, rows, out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        y = self.empty(a.shape) if out is None else out
        if a.shape == b.shape == y.shape and self._run("add", (a, b, y), (a.size,)):
            return y
        return self._generic("add", a, b, out)

    def activate(self, activation: Any, z: Array, bias: Array | None, out: Array | None = None) -> tuple[Array, Array]:
        a = z if activation.saves == "output" else self.empty(z.shape) if out is None else out
        fits = z.ndim == 2 and a.shape == z.shape and (bias is None or bias.shape == z.shape[1:])
        if activation.builtin and activation.name == "identity" and bias is None:
            return z, z
        if fits and self._run(_kernel("activate", activation), (z, bias, a), z.shape, _constant(activation)):
            return a, a if activation.saves == "output" else z
        a, saved = self._generic("activate", activation, z, bias, out)
        return a, saved

    def activate_backward(self, activation: Any, saved: Array, da: Array, out: Array | None = None,
                          dbias: Array | None = None) -> Array:
        fits = da.ndim == 2 and saved.shape == da.shape and (dbias is None or dbias.shape == da.shape[1:])
        if activation.builtin and activation.name == "identity":
            if dbias is None or (fits and self._run("column_sums", (da, dbias), da.shape)):
                return da
        elif fits:
            dz = self.empty(da.shape) if out is None else out
            kernel = _kernel("activate_backward", activation)
            if dz.shape == da.shape and self._run(kernel, (saved, da, dz, dbias), da.shape, _constant(activation)):
                return dz
        return self._generic("activate_backward", activation, saved, da, out, dbias)

    def normalize(self, x: Array, gain: Array, bias: Array, axis: int, epsilon: float,
                  out: Array | None = None, saved: tuple[Array, Array] | None = None) -> tuple[Array, Any]:
        y = self.empty(x.shape) if out is None else out
        if x.ndim == 2 and axis in (-1, -2) and y.shape == x.shape and gain.shape == bias.shape == x.shape[1:]:
            x_hat, statistics = saved or (self.empty(x.shape), self.empty((3, x.shape[1 if axis == -2 else 0])))
            if self._run("normalize", (x, gain, bias, y, x_hat, statistics), (*x.shape, axis), (epsilon,)):
                rstd, mean, variance = (np.expand_dims(s, axis + 2 if axis == -2 else 1) for s in statistics)
                return y, (x_hat, rstd, mean, variance)
        y, kept = self._generic("normalize", x, gain, bias, axis, epsilon, out, saved)
        return y, kept

    def normalize_backward(self, saved: Any, dy: Array, gain: Array, axis: int, dgain: Array, dbias: Array,
                           out: Array | None = None) -> Array:
        dx = self.empty(dy.shape) if out is None else out
        x_hat, rstd = saved[0], saved[1]
        fits = dy.ndim == 2 and axis in (-1, -2) and dx.shape == dy.shape == x_hat.shape
        fits = fits and gain.shape == dgain.shape == dbias.shape == dy.shape[1:]
        if fits and rstd.size == dy.shape[1 if axis == -2 else 0] and self._run(
                "normalize_backward", (dy, gain, x_hat, rstd, dx, dgain, dbias), (*dy.shape, axis)):
            return dx
        return self._generic("normalize_backward", saved, dy, gain, axis, dgain, dbias, out)

    def scale_shift(self, x: Array, mean: Array, variance: Array, gain: Array, bias: Array, epsilon: float,
                    out: Array | None = None) -> Array:
        y, vectors = self.empty(x.shape) if out is None else out, (mean, variance, gain, bias)
        fits = x.ndim == 2 and y.shape == x.shape and all(v.shape == x.shape[1:] for v in vectors)
        if fits and self._run("scale_shift", (x, *vectors, y), x.shape, (epsilon,)):
            return y
        return self._generic("scale_shift", x, mean, variance, gain, bias, epsilon, out)

    def dropout(self, x: Array, rate: float, key: tuple[int, int], step: Array, out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        fits = y.shape == x.shape and isinstance(step, np.ndarray) and step.shape == (1,) and step.dtype == np.int64
        if fits and self._run("dropout", (x, y, step), (x.size,), (rate, *key)):
            return y
        return self._generic("dropout", x, rate, key, step, out)

    def loss_and_gradient(self, loss: Any, z: Array, target: Array, weight: Array | None, dz: Array | None = None,
                          value: Array | None = None) -> tuple[Array, Array]:
        kernel = vars(type(loss)).get("kernel")  # of the very class: one that extends it may be another formula
        if kernel and z.ndim == 2 and z.size and target.shape in (z.shape, z.shape[:1]):
            gradient = self.empty(z.shape) if dz is None else dz
            value = self.empty(()) if value is None else value
            numbers = int(loss.labels and target.dtype == np.int64)
            sizes = (*z.shape, numbers)
            right = target.shape == (z.shape[:1] if numbers else z.shape) and gradient.shape == z.shape
            right = right and gradient is not z and (weight is None or weight.shape == z.shape[:1])
            if right and self._run(kernel, (z, target, weight, gradient, value), sizes,
                                   ((*loss.constants(), 0.0)[0], loss.factor)):
                return value, gradient
        value, gradient = self._generic("loss_and_gradient", loss, z, target, weight, dz, value)
        return value, gradient

    def penalize(self, value: Array, weights: Array, strength: float) -> Array:
        if isinstance(value, np.ndarray) and value.ndim == 0 and weights.ndim == 1 and self._run(
                "penalize", (value, weights), (weights.size,), (strength,)):
            return value
        return self._generic("penalize", value, weights, strength)

    def update(self, optimizer: Any, params: Array, grads: Array, state: dict[str, Array], hyper: Array,
               decay_size: int, working: Array | None = None, decay: float | None = None) -> None:
        kernel = vars(type(optimizer)).get("kernel")
        slots = (*state.values(), None, None)[:2]
        fits = params.ndim == 1 and hyper.size <= 4 and all(s.shape == params.shape for s in (grads, *state.values()))
        if kernel and fits and working is None and tuple(state) == optimizer.slots:
            sizes = (params.size, params.size if optimizer.decay_all else decay_size, hyper.size)
            scalars = (optimizer.weight_decay if decay is None else decay, float(optimizer.decoupled),
                       optimizer.clip_norm or 0.0, *optimizer.constants())
            if self._run(kernel, (params, grads, *slots, hyper), sizes, scalars):
                return
        self._generic("update", optimizer, params, grads, state, hyper, decay_size, working, decay)


@functools.cache
def _use_blas() -> bool:
    """Hand SciPy's BLAS to the library; False where SciPy is not installed."""
    try:
        blas = importlib.import_module("scipy.linalg.cython_blas")
    except ImportError:
        return False
    _native.use_blas(blas.__pyx_capi__["sgemm"], blas.__pyx_capi__["dgemm"])
    return True


def _kernel(op: str, activation: Any) -> str | None:
    return f"{op} {activation.name}" if activation.builtin else None


def _constant(activation: Any) -> tuple[float, ...]:
    return tuple(activation.config.values())
