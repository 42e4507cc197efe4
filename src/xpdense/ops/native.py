"""The ops on NumPy arrays through the kernels that were compiled for the CPU when the package was installed.

Each method hands one pass over the data to a kernel, and whatever a kernel does not know to the generic op it
overrides: leading axes, arrays that are not contiguous, and activations, losses and optimizers of a user's own. Where
there was no compiler at the installation the library is missing, and the generic ops serve.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np

from ..backend import Array, Backend
from .generic import Ops

_native: Any = None
with contextlib.suppress(ImportError):  # it was not compiled
    _native = importlib.import_module("xpdense._native")

available = _native is not None  #: whether the compiled library is here


class NativeOps(Ops):
    """Ops on NumPy arrays by compiled kernels; sums over rows are in another order than NumPy's."""

    name = "native"

    def __init__(self, backend: Backend, dtype: str) -> None:
        super().__init__(backend, dtype)
        self._wide = int(dtype == "float64")
        self._numbers: dict[str, int] = _native.kernels

    def _run(self, kernel: str | None, arrays: tuple[Array | None, ...], sizes: tuple[int, ...],
             scalars: tuple[float, ...] = ()) -> bool:
        """Run a kernel; False, with nothing done, where there is none or an array does not suit it."""
        number = self._numbers.get(kernel) if kernel else None
        return number is not None and bool(_native.call(number, self._wide, arrays, sizes, scalars))

    def gather(self, x: Array, rows: Array, out: Array | None = None) -> Array:
        shape = (len(rows), *x.shape[1:])
        y = np.empty(shape, x.dtype) if out is None else out
        if self._run("gather", (x, rows, y), (len(rows), x.strides[0] if x.ndim else 0, len(x))):
            return y
        return super().gather(x, rows, out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        y = self.empty(a.shape) if out is None else out
        if a.shape == b.shape == y.shape and self._run("add", (a, b, y), (a.size,)):
            return y
        return super().add(a, b, out)

    def activate(self, activation: Any, z: Array, bias: Array | None, out: Array | None = None) -> tuple[Array, Array]:
        a = z if activation.saves == "output" else self.empty(z.shape) if out is None else out
        fits = z.ndim == 2 and a.shape == z.shape and (bias is None or bias.shape == z.shape[1:])
        if activation.builtin and activation.name == "identity" and bias is None:
            return z, z
        if fits and self._run(_kernel("activate", activation), (z, bias, a), z.shape, _constant(activation)):
            return a, a if activation.saves == "output" else z
        return super().activate(activation, z, bias, out)

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
        return super().activate_backward(activation, saved, da, out, dbias)

    def normalize(self, x: Array, gain: Array, bias: Array, axis: int, epsilon: float,
                  out: Array | None = None) -> tuple[Array, Any]:
        y = self.empty(x.shape) if out is None else out
        if x.ndim == 2 and y.shape == x.shape and gain.shape == bias.shape == x.shape[1:]:
            x_hat, statistics = self.empty(x.shape), self.empty((3, x.shape[1 if axis == -2 else 0]))
            if self._run("normalize", (x, gain, bias, y, x_hat, statistics), (*x.shape, axis), (epsilon,)):
                rstd, mean, variance = (np.expand_dims(s, axis + 2 if axis == -2 else 1) for s in statistics)
                return y, (x_hat, rstd, mean, variance)
        return super().normalize(x, gain, bias, axis, epsilon, out)

    def normalize_backward(self, saved: Any, dy: Array, gain: Array, axis: int, dgain: Array, dbias: Array,
                           out: Array | None = None) -> Array:
        dx = self.empty(dy.shape) if out is None else out
        if (dy.ndim == 2 and dx.shape == dy.shape == saved[0].shape and gain.shape == dgain.shape == dbias.shape
                and self._run("normalize_backward", (dy, gain, saved[0], saved[1], dx, dgain, dbias),
                              (*dy.shape, axis))):
            return dx
        return super().normalize_backward(saved, dy, gain, axis, dgain, dbias, out)

    def scale_shift(self, x: Array, mean: Array, variance: Array, gain: Array, bias: Array, epsilon: float,
                    out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        if x.ndim == 2 and y.shape == x.shape and self._run(
                "scale_shift", (x, mean, variance, gain, bias, y), x.shape, (epsilon,)):
            return y
        return super().scale_shift(x, mean, variance, gain, bias, epsilon, out)

    def dropout(self, x: Array, rate: float, key: tuple[int, int], step: Array, out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        if y.shape == x.shape and self._run("dropout", (x, y, step), (x.size,), (rate, *key)):
            return y
        return super().dropout(x, rate, key, step, out)

    def loss_and_gradient(self, loss: Any, z: Array, target: Array, weight: Array | None,
                          dz: Array | None = None) -> tuple[Array, Array]:
        kernel = _of_its_own(loss, "kernel", "value_and_gradient")
        if kernel and z.ndim == 2 and target.shape in (z.shape, z.shape[:1]):
            gradient, value = self.empty(z.shape) if dz is None else dz, self.empty(())
            numbers = int(loss.labels and target.dtype == np.int64)
            sizes = (*z.shape, numbers)
            right = target.shape == (z.shape[:1] if numbers else z.shape) and gradient.shape == z.shape
            if right and self._run(kernel, (z, target, weight, gradient, value), sizes, loss.constants()):
                return value, gradient
        return super().loss_and_gradient(loss, z, target, weight, dz)

    def update(self, optimizer: Any, params: Array, grads: Array, state: dict[str, Array], hyper: Array,
               decay_size: int) -> None:
        kernel = _of_its_own(optimizer, "kernel", "rule")
        if kernel and params.ndim == 1:
            slots = (*state.values(), None, None)[:2]
            sizes = (params.size, params.size if optimizer.decay_all else decay_size, hyper.size)
            scalars = (optimizer.weight_decay, float(optimizer.decoupled), optimizer.clip_norm or 0.0,
                       *optimizer.constants())
            if self._run(kernel, (params, grads, *slots, hyper), sizes, scalars):
                return
        super().update(optimizer, params, grads, state, hyper, decay_size)


def _kernel(op: str, activation: Any) -> str | None:
    return f"{op} {activation.name}" if activation.builtin else None


def _constant(activation: Any) -> tuple[float, ...]:
    return tuple(activation.config.values())


def _of_its_own(thing: Any, name: str, formula: str) -> str | None:
    """The kernel that a class names, unless a class that extends it has another formula."""
    for cls in type(thing).__mro__:
        if formula in vars(cls):
            kernel: str | None = vars(cls).get(name)
            return kernel
    return None
