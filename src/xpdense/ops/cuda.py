"""The ops on CuPy arrays, by kernels (see cuda_kernels.py) and, for products, by cuBLAS.

The generic op computes what a kernel does not support: leading axes, arrays that are not contiguous, and user-defined
formulas. No op synchronises with the device, or allocates if `out` is given. Sums are in a fixed order, so the same
input gives the same bits.
"""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from ..backend import Array, Backend
from ..errors import ParameterError
from . import cublas
from . import cuda_kernels as kernels
from .generic import Ops
from .slots import HYPER, LOSS_SCALE, LOSS_SCALING

_FIRST_SCALE = 2.0**15  # the initial loss scale in float16; halved in each step in which it is too large
_GROWTH = 2000  # steps without an overflow after which it is doubled
_MOST = 2**31  # elements of an array whose indices are 32-bit numbers


def _cupy() -> Any:
    return import_module("cupy")


class CudaOps(Ops):
    """Ops on a CUDA device through CuPy.

    Parameters
    ----------
    precision : "full", "tf32", "float16" or "bfloat16"
        "tf32" multiplies float32 with ten bits of mantissa. With a 16-bit type, activations, gradients and the weights
        that products read are stored in it; parameters, optimizer state and all arithmetic stay in `dtype`. In float16
        the loss is scaled up before backward, and a step that overflows is skipped.

    Raises
    ------
    BackendError
        bfloat16 is requested and ml_dtypes is not installed.
    """

    name = "cuda"

    def __init__(self, backend: Backend, dtype: str, precision: str = "full") -> None:
        super().__init__(backend, precision if precision in ("float16", "bfloat16") else dtype)
        self.wide, self._cp = dtype, _cupy()
        self._storage, self._wide = backend.dtype(self.dtype), backend.dtype(dtype)
        self._scratch = _Scratch()
        self.loss_scale = backend.zeros((len(LOSS_SCALING),), dtype) if precision == "float16" else None
        self._spoiled = False  # whether an op ran that cannot be captured in a graph
        self._held: list[Any] | None = None  # the arguments of the graph that is being captured, which it needs alive
        self._tables: tuple[Array, ...] = ()
        try:
            self._products: cublas.Products | None = cublas.Products(self._cp, self.dtype, precision == "tf32")
        except (ImportError, OSError, RuntimeError) as error:  # of CuPy's search for the library
            self._products, self.no_capture_reason = None, f"cuBLAS cannot be called: {error}"
        self.captures = self._products is not None
        self.begin_training()

    def _run(self, kernel: Any, *arguments: Any) -> None:
        if self._held is not None:
            self._held.append(arguments)
        kernel(*arguments)

    def _launch(self, kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        self._run(kernel, grid, block, arguments)

    def _raw(self, file: str, function: str, defines: tuple[tuple[str, Any], ...]) -> Any:
        return kernels.raw(self._cp, file, function, self.dtype, self.wide, defines)

    def _generic(self, op: str, *arguments: Any) -> Any:
        self._spoiled = True
        return getattr(super(), op)(*arguments)

    def _memory(self, name: str, shape: tuple[int, ...], dtype: str) -> Array:
        """Return working memory of a kernel, which is zero at first and the same at each call."""
        held = self._scratch.held.get((name, shape))
        if held is None:
            held = self._scratch.held[name, shape] = self.backend.zeros(shape, dtype)
        return held

    def _fit(self, *arrays: Array | None) -> bool:
        """Whether kernels take these arrays of the stored type; None stands for an array that is not given."""
        return all(a is None or (a.dtype == self._storage and a.flags.c_contiguous and a.size < _MOST) for a in arrays)

    # --- capture -----------------------------------------------------------------------------------------------

    def capture(self, step: Callable[[], None], tables: tuple[Array, ...]) -> Callable[[int, int], int] | None:
        """Run a step once, then capture it as a CUDA graph; see NativeOps.capture.

        `step` reads and writes the first row of each of `tables` by `move` alone. In the graph a row number on the
        device selects the row; the last kernel of the graph increases it.
        """
        row, stream = self.backend.zeros((1,), "int64"), self._cp.cuda.Stream(non_blocking=True)
        self._tables, self._row, self._spoiled = tables, row, False
        try:
            step()  # of row 0: compiles the kernels and allocates all memory of the step
            self._run(kernels.increase(self._cp), row)
        finally:
            self._tables = ()
        if self._spoiled:
            return None
        self._tables, self._held = tables, []
        try:
            with stream:
                stream.begin_capture()
                try:
                    step()
                    self._run(kernels.increase(self._cp), row)
                finally:
                    graph = stream.end_capture()
        except Exception as error:  # any error of the capture; the step itself was run
            self.captures, self.no_capture_reason = False, f"a CUDA graph of the step could not be captured: {error}"
            warnings.warn(f"{self.no_capture_reason}; steps are made from Python", RuntimeWarning, stacklevel=2)
            return None
        finally:
            held, self._held, self._tables = self._held, None, ()
        if self._spoiled:
            return None

        def run(first: int, count: int, held: Any = held) -> int:
            self.assign(row, (first,))
            for _ in range(count):
                graph.launch()
            return count

        return run

    def begin_training(self) -> None:
        if self.loss_scale is not None:
            self.assign(self.loss_scale, tuple(_FIRST_SCALE * (name == "loss_scale") for name in LOSS_SCALING))

    def move(self, source: Array, target: Array) -> None:
        for table in self._tables:
            if source.data.ptr == table.data.ptr:
                return self._run(kernels.from_row(self._cp), table, self._row, target.size, target)
            if target.data.ptr == table.data.ptr:
                return self._run(kernels.to_row(self._cp), source, self._row, source.size, table)
        return self._run(kernels.copy(self._cp), source, target)

    def assign(self, target: Array, values: tuple[float, ...]) -> None:
        if len(values) > 4:
            self._generic("assign", target, values)
        else:
            self._run(kernels.assign(self._cp), *values, *[0.0] * (4 - len(values)), target)

    def stage(self, name: str, source: np.ndarray, rows: np.ndarray) -> Array:
        key = ("feed", name, len(rows), source.shape[1:], source.dtype)
        if key not in self._scratch.held:
            self._scratch.held[key] = _Feed(self._cp, (len(rows), *source.shape[1:]), source.dtype)
        return self._scratch.held[key].next(source, rows)

    # --- moving and multiplying --------------------------------------------------------------------------------

    def gather(self, x: Array, rows: Array, out: Array | None = None) -> Array:
        shape = (*rows.shape, *x.shape[1:])
        y = self._cp.empty(shape, x.dtype) if out is None else out
        size = math.prod(x.shape[1:])
        if rows.ndim == 1 and x.flags.c_contiguous and rows.dtype == np.int64 and y.shape == shape and \
                y.dtype == x.dtype and max(y.size, size) < _MOST:
            self._run(kernels.gather(self._cp), x, rows, x.shape[0], size, y)
            return y
        return self._generic("gather", x, rows, out)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        if self._products and a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.size and b.size:
            shape = a.shape[0], b.shape[1]
            transpose_a, transpose_b = not a.flags.c_contiguous, not b.flags.c_contiguous
            c = self.empty(shape) if out is None else out
            if c.shape == shape and self._fit(a.T if transpose_a else a, b.T if transpose_b else b, c):
                self._run(self._products, a, b, c, transpose_a, transpose_b)
                return c
        return self._generic("matmul", a, b, out)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        y = self.empty(a.shape) if out is None else out
        if a.shape == b.shape == y.shape and self._fit(a, b, y):
            self._run(kernels.add(self._cp), a, b, y)
            return y
        return self._generic("add", a, b, out)

    def blend(self, running: Array, batch: Array, momentum: float) -> None:
        if running.shape == batch.shape and running.dtype == batch.dtype == self._wide:
            self._run(kernels.blend(self._cp), batch, momentum, running)
        else:
            self._generic("blend", running, batch, momentum)

    # --- activations -------------------------------------------------------------------------------------------

    def activate(self, activation: Any, z: Array, bias: Array | None, out: Array | None = None) -> tuple[Array, Array]:
        if activation.builtin and activation.name == "identity" and bias is None:
            return z, z
        a = z if activation.saves == "output" else self.empty(z.shape) if out is None else out
        fits = activation.builtin and a.shape == z.shape and z.ndim and self._fit(z, a, bias)
        if fits and (bias is None or (z.ndim == 2 and bias.shape == z.shape[1:])):
            kernel = kernels.activate(self._cp, *_name_and_parameter(activation), activation.saves, bias is not None)
            self._run(kernel, *(() if bias is None else (bias, z.shape[1])), *((z,) if a is z else (z, a)))
            return a, a if activation.saves == "output" else z
        a, saved = self._generic("activate", activation, z, bias, out)
        return a, saved

    def activate_backward(self, activation: Any, saved: Array, da: Array, out: Array | None = None,
                          dbias: Array | None = None) -> Array:
        identity = activation.builtin and activation.name == "identity"
        if identity and dbias is None:
            return da
        dz = da if identity else self.empty(da.shape) if out is None else out
        fits = activation.builtin and saved.shape == da.shape == dz.shape and self._fit(saved, da, dz, dbias)
        if fits and dbias is None:
            self._run(kernels.activate_backward(self._cp, *_name_and_parameter(activation)), saved, da, dz)
            return dz
        if fits and da.size and da.ndim == 2 and dbias is not None and dbias.shape == da.shape[1:]:
            rows, cols = da.shape
            across, high = -(-cols // 32), 8
            down = max(1, min(64, rows // (8 * high), 512 // across))
            defines = () if identity else (("ACT", f"act_{activation.name}"), ("K", _parameter(activation)))
            kernel = self._raw("columns.cu", "column_sums", defines)
            self._launch(kernel, (across, down), (32, high), saved, da, dz, dbias,
                         self._memory("columns", (down, cols), self.wide),
                         self._memory("columns' counters", (across,), "uint32"), np.int64(rows), np.int64(cols))
            return dz
        return self._generic("activate_backward", activation, saved, da, out, dbias)

    # --- norms and dropout -------------------------------------------------------------------------------------

    def normalize(self, x: Array, gain: Array, bias: Array, axis: int, epsilon: float, out: Array | None = None,
                  saved: tuple[Array, Array] | None = None) -> tuple[Array, Any]:
        y = self.empty(x.shape) if out is None else out
        if x.ndim == 2 and x.size and axis in (-1, -2) and y.shape == x.shape and self._fit(x, gain, bias, y) and \
                gain.shape == bias.shape == x.shape[1:]:
            count = x.shape[1 if axis == -2 else 0]
            x_hat, statistics = saved or (self.empty(x.shape), self.backend.empty((3, count), self.wide))
            which, grid, block = _spread(x.shape, axis)
            kernel = self._raw("norms.cu", f"normalize_{which}", (("EPSILON", epsilon),))
            self._launch(kernel, grid, block, x, gain, bias, y, x_hat, statistics, *map(np.int64, x.shape))
            shape = (1, count) if axis == -2 else (count, 1)
            return y, (x_hat, *(statistics[i].reshape(shape) for i in range(3)))
        y, kept = self._generic("normalize", x, gain, bias, axis, epsilon, out, saved)
        return y, kept

    def normalize_backward(self, saved: Any, dy: Array, gain: Array, axis: int, dgain: Array, dbias: Array,
                           out: Array | None = None) -> Array:
        dx, x_hat, rstd = self.empty(dy.shape) if out is None else out, saved[0], saved[1]
        fits = dy.ndim == 2 and dy.size and axis in (-1, -2) and dx.shape == dy.shape == x_hat.shape
        fits = fits and self._fit(dy, gain, x_hat, dx, dgain, dbias) and rstd.dtype == self._wide
        if fits and gain.shape == dgain.shape == dbias.shape == dy.shape[1:]:
            raw = functools.partial(self._raw, "norms.cu", defines=(("EPSILON", 0.0),))
            sizes = tuple(map(np.int64, dy.shape))
            if axis == -1:
                _, grid, block = _spread(dy.shape, -1)
                self._launch(raw("normalize_rows_backward"), grid, block, dy, gain, x_hat, rstd, dx, *sizes)
            _, grid, block = _spread(dy.shape, -2)
            self._launch(raw("normalize_columns_backward"), grid, block, dy, gain, x_hat, rstd, dx, dgain, dbias,
                         *sizes, np.int64(axis == -2))
            return dx
        return self._generic("normalize_backward", saved, dy, gain, axis, dgain, dbias, out)

    def scale_shift(self, x: Array, mean: Array, variance: Array, gain: Array, bias: Array, epsilon: float,
                    out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        vectors = (mean, variance, gain, bias)
        if x.ndim == 2 and y.shape == x.shape and self._fit(x, gain, bias, y) and \
                mean.dtype == variance.dtype == self._wide and all(v.shape == x.shape[1:] for v in vectors):
            self._run(kernels.scale_shift(self._cp), x, *vectors, x.shape[1], epsilon, y)
            return y
        return self._generic("scale_shift", x, mean, variance, gain, bias, epsilon, out)

    def dropout(self, x: Array, rate: float, key: tuple[int, int], step: Array, out: Array | None = None) -> Array:
        y = self.empty(x.shape) if out is None else out
        if y.shape == x.shape and self._fit(x, y) and step.shape == (1,):
            limit = math.ceil(rate * 2**32)
            self._run(kernels.dropout(self._cp), x, step, *key, limit, 1.0 / (1.0 - rate), y)
            return y
        return self._generic("dropout", x, rate, key, step, out)

    # --- losses ------------------------------------------------------------------------------------------------

    def loss_and_gradient(self, loss: Any, z: Array, target: Array, weight: Array | None, dz: Array | None = None,
                          value: Array | None = None) -> tuple[Array, Array]:
        kernel = vars(type(loss)).get("kernel")  # not inherited: a subclass may have another formula
        if kernel and z.ndim == 2 and z.size:
            (rows, cols), labels = z.shape, loss.labels and target.ndim == 1
            gradient = self.empty(z.shape) if dz is None else dz
            value = self.backend.empty((), self.wide) if value is None else value
            fits = target.dtype == (np.int64 if labels else self._wide) and target.flags.c_contiguous
            fits = fits and target.shape == (z.shape[:1] if labels else z.shape) and gradient.shape == z.shape
            fits = fits and (weight is None or (weight.shape == z.shape[:1] and weight.dtype == self._wide
                                                and weight.flags.c_contiguous))
            if fits and gradient is not z and self._fit(z, gradient):
                defines = [("K", *(loss.constants() or (0.0,)))]
                defines += [("LABELS", 1)] * labels + [("WEIGHTED", 1)] * (weight is not None)
                defines += [("SCALED", 1)] * (self.loss_scale is not None)
                defines += [("FACTOR", loss.factor)] * (loss.factor != 1.0)
                if kernel.startswith("loss "):
                    defines.append(("LOSS", kernel.replace("loss ", "loss_")))
                warps = 8
                blocks = min(-(-rows // warps), 512)
                self._launch(
                    self._raw("losses.cu", "loss", tuple(defines)), (blocks,),
                    (32 * warps,), z, target, value if weight is None else weight, gradient, value,
                    self._memory("loss", (blocks,), "float64"), self._memory("loss's counter", (1,), "uint32"),
                    value if self.loss_scale is None else self.loss_scale, np.int64(rows), np.int64(cols))
                return value, gradient
        self._spoiled = True
        value, gradient = super().loss_and_gradient(loss, z.astype(self._wide, copy=False), target, weight)
        if self.loss_scale is not None:
            gradient = gradient * self.loss_scale[LOSS_SCALE]
        return value, gradient.astype(self._storage, copy=False)

    def penalize(self, value: Array, weights: Array, strength: float) -> Array:
        if value.ndim == 0 and weights.ndim == 1 and value.dtype == weights.dtype == self._wide:
            blocks = min(max(1, -(-weights.size // 2048)), 256)
            self._launch(self._raw("penalty.cu", "penalize", ()), (blocks,), (256,), weights, value,
                         self._memory("penalty", (blocks,), "float64"),
                         self._memory("penalty's counter", (1,), "uint32"), np.int64(weights.size),
                         np.float64(strength))
            return value
        return self._generic("penalize", value, weights, strength)

    # --- the optimizer -----------------------------------------------------------------------------------------

    def update(self, optimizer: Any, params: Array, grads: Array, state: dict[str, Array], hyper: Array,
               decay: tuple[float, int], working: Array | None = None) -> None:
        kernel = vars(type(optimizer)).get("kernel")
        fits = params.ndim == 1 and hyper.size <= len(HYPER) and self._fit(grads, working)
        fits = fits and tuple(state) == optimizer.slots
        fits = fits and all(s.shape == params.shape and s.dtype == self._wide and s.flags.c_contiguous
                            for s in (params, *state.values()))
        if kernel and fits and grads.shape == params.shape:
            factor = self._factor(optimizer.clip_norm, grads)
            made = kernels.update(self._cp, kernel.removeprefix("update "), len(state), hyper.size, optimizer.decoupled,
                                  factor is not None, self.loss_scale is not None, working is not None)
            self._run(made, grads, hyper, *(() if factor is None else (factor,)),
                      params.size if optimizer.decay_all else decay[1], decay[0],
                      *optimizer.constants(), params, *state.values(),
                      *(() if working is None else (working,)))
            return
        if self.loss_scale is not None:
            raise ParameterError(f"precision='float16' takes the built-in optimizers, which skip a step that "
                                 f"overflows; {type(optimizer).__name__} is not one: use 'bfloat16'")
        self._generic("update", optimizer, params, grads.astype(self._wide, copy=False), state, hyper, decay,
                      working)

    def _factor(self, clip_norm: float | None, grads: Array) -> Array | None:
        """Return the factor of every gradient, (1,) on the device; None if it is 1."""
        if (clip_norm is None and self.loss_scale is None) or not grads.size:
            return None
        defines = [("CLIPPED", 1)] * (clip_norm is not None)
        defines += [("SCALED", 1), ("GROWTH", _GROWTH)] * (self.loss_scale is not None)
        blocks, factor = min(-(-grads.size // 2048), 256), self._memory("factor", (1,), self.wide)
        self._launch(self._raw("clip.cu", "clip", tuple(defines)), (blocks,), (256,), grads,
                     self._memory("clip", (2, blocks), "float64"), self._memory("clip's counter", (1,), "uint32"),
                     factor if self.loss_scale is None else self.loss_scale, factor, np.int64(grads.size),
                     np.float64(clip_norm or 0.0))
        return factor


# --- batches from the host -------------------------------------------------------------------------------------

class _Scratch(threading.local):
    """The working memory of kernels, one for each thread: several threads may predict with one network at once."""

    def __init__(self) -> None:
        self.held: dict[Any, Any] = {}


class _Feed:
    """Batches of one host array, copied while the device computes, by two pinned buffers and a stream."""

    def __init__(self, cupy: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self._cupy, self._slot = cupy, 0
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._pinned = [_pinned(shape, dtype) for _ in range(2)]
        self._device = [cupy.empty(shape, dtype) for _ in range(2)]
        self._copied = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        self._used = [cupy.cuda.Event(disable_timing=True) for _ in range(2)]
        for event in self._used:  # earlier work may still use memory that the pool reuses
            event.record(cupy.cuda.get_current_stream())

    def next(self, source: np.ndarray, rows: np.ndarray) -> Array:
        """Return the rows on the device, valid for all work that is submitted before the call after the next."""
        last, self._slot = self._slot, 1 - self._slot
        slot, compute = self._slot, self._cupy.cuda.get_current_stream()
        self._used[last].record(compute)  # the step on the previous batch has been submitted
        self._copied[slot].synchronize()  # two batches ago: the pinned buffer is free
        np.take(source, rows, axis=0, out=self._pinned[slot], mode="clip")
        self._stream.wait_event(self._used[slot])
        self._device[slot].set(self._pinned[slot], stream=self._stream)
        self._copied[slot].record(self._stream)
        compute.wait_event(self._copied[slot])
        return self._device[slot]


def _pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    array: np.ndarray = import_module("cupyx").empty_pinned(shape, dtype)
    return array


def _spread(shape: tuple[int, int], axis: int) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return name, grid and block of the norms' kernels over the features (axis -1) or the batch (axis -2)."""
    if axis == -1:
        return "rows", (min(-(-shape[0] // 8), 1024),), (256,)
    return "columns", (-(-shape[1] // 32),), (32, 16)


def _name_and_parameter(activation: Any) -> tuple[str, str]:
    return activation.name, _parameter(activation)


def _parameter(activation: Any) -> str:
    return repr(float(next(iter(activation.config.values()), 0.0)))
