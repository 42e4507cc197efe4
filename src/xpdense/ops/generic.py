"""Every numeric step of training, in array-API calls only: the specification of the fused kernels.

Every op takes `out=`: it may write there, and the caller uses only the returned array. Operands may have leading axes:
parameters (..., in, out), activations (..., batch, features). An op does not synchronise with the device. A subclass
overrides an op by the same name and signature.

On the host, arrays that are larger than a cache are processed in pieces of `piece` elements, whose temporaries stay in
the cache. On other devices there is one piece.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import Array, Backend
from ..errors import ShapeError
from .philox import random_words
from .slots import RATE


class Memory:
    """Working memory: arrays by name, which are allocated at their first use and reused.

    >>> from xpdense.backend import resolve
    >>> ops, memory = Ops(resolve("numpy"), "float32"), Memory()
    >>> memory.buffer(ops, "z", (2, 3)) is memory.buffer(ops, "z", (2, 3))
    True
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def buffer(self, ops: Ops, name: str, shape: tuple[int, ...], dtype: str | None = None) -> Array:
        """Return an array of this shape, the same at every call with the same name and shape.

        Its element type is that of the ops, unless `dtype` is given. Its values are those of the last use.
        """
        held = self._buffers.get(name)
        if held is None or held.shape != shape:
            held = self._buffers[name] = ops.empty(shape) if dtype is None else ops.backend.empty(shape, dtype)
        return held


class Ops:
    """The ops on one backend, in one element type.

    Parameters
    ----------
    backend : Backend
    dtype : str
        The type that activations and gradients are stored in, such as "float32".

    Examples
    --------
    >>> from xpdense.backend import resolve
    >>> ops = Ops(resolve("numpy"), "float32")
    >>> float(ops.matmul(ops.xp.ones((1, 2)), ops.xp.ones((2, 1)))[0, 0])
    2.0
    """

    name = "generic"
    captures = False  #: whether `capture` can record a step
    no_capture_reason = "the generic ops record no step"  #: why it cannot; "" if it can
    ends_replays = False  #: whether a replay ends at a loss that is not finite
    loss_scale: Array | None = None  #: on the device: the factor of gradients when they are stored, and its state
    piece = 1 << 16  #: number of elements that are processed at a time

    def __init__(self, backend: Backend, dtype: str) -> None:
        self.backend, self.dtype, self.xp = backend, dtype, backend.xp
        self.wide = dtype  # the type of parameters, losses and sums; another one if `dtype` is a 16-bit type
        self._matmul_takes_out = backend.matmul_takes_out
        if not backend.on_host:
            self.piece = 1 << 62

    def empty(self, shape: tuple[int, ...]) -> Array:
        """Return an uninitialised array of this element type on this device."""
        return self.backend.empty(shape, self.dtype)

    def begin_training(self) -> None:
        """Reset the state that depends on the training, such as the loss scale."""

    def assign(self, target: Array, values: tuple[float, ...]) -> None:
        """Write a few numbers to a small array (len(values),)."""
        for i, value in enumerate(values):
            target[i] = value

    def stage(self, name: str, source: np.ndarray, rows: np.ndarray) -> Array:
        """Return source[rows], a batch of an array on the host, on the device; valid until the call after the next."""
        return self.backend.from_host(source[rows])

    # --- moving and multiplying --------------------------------------------------------------------------------

    def gather(self, x: Array, rows: Array, out: Array | None = None) -> Array:
        """Return x[rows] (batch, ...) for x (n, ...) and rows int64 (batch,)."""
        return self.xp.take(x, rows, axis=0)

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Return a @ b (..., m, n) for a (..., m, k) and b (..., k, n). `out` must not overlap a or b."""
        if out is None:
            return self.xp.matmul(a, b)
        if self._matmul_takes_out:
            return self.xp.matmul(a, b, out=out)
        out[...] = self.xp.matmul(a, b)
        return out

    def transpose(self, a: Array) -> Array:
        """Return a view with the last two axes exchanged."""
        return self.xp.matrix_transpose(a)

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Return a + b for a and b of one shape. `out` may be a."""
        if out is None:
            return a + b
        if out is not a:
            out[...] = a
        out += b
        return out

    def move(self, source: Array, target: Array) -> None:
        """Copy an array into another of its shape."""
        target[...] = source

    def blend(self, running: Array, batch: Array, momentum: float) -> None:
        """Update a running mean in place: running += momentum * (batch - running); both (..., features)."""
        running += momentum * (batch - running)

    def capture(self, step: Callable[[], None], tables: tuple[Array, ...]) -> Callable[[int, int], int] | None:
        """Run a step once and record it; return a function that replays it, or None if it cannot be replayed.

        The generic ops return None. See NativeOps.
        """
        step()
        return None

    def stop_unless_finite(self, value: Array) -> None:
        """In a step that is recorded: end the replay here if the value () is not finite. Else without effect."""

    # --- activations: the activation-derivative path -----------------------------------------------------------

    def activate(self, activation: Any, z: Array, bias: Array | None, out: Array | None = None) -> tuple[Array, Array]:
        """Return a = activation(z + bias), and the array that `activate_backward` needs.

        z (..., batch, features) is overwritten; bias (..., features). Returns (a, saved), both of z's shape.
        """
        xp = self.xp
        if activation.builtin and activation.name == "identity":
            if bias is not None:
                z += bias[..., None, :]
            return z, z
        pieces = list(self._row_pieces(z))
        if len(pieces) == 1:
            if bias is not None:
                z += bias[..., None, :]
            a = activation.forward(xp, z)
            return a, a if activation.saves == "output" else z
        a = z
        if activation.saves == "input":
            a = self.empty(z.shape) if out is None else out
        for rows in pieces:
            part = z[rows]
            if bias is not None:
                part += bias[..., None, :]
            a[rows] = activation.forward(xp, part)
        return a, a if activation.saves == "output" else z

    def activate_backward(self, activation: Any, saved: Array, da: Array, out: Array | None = None,
                          dbias: Array | None = None) -> Array:
        """Return dz = da * activation'(saved), and write the column sums of dz to dbias.

        da, saved (..., batch, features); dbias (..., features). `out` may be `saved`, but not `da`. For the
        identity, dz is da itself.
        """
        xp = self.xp
        if activation.builtin and activation.name == "identity":
            if dbias is not None:
                dbias[...] = xp.sum(da, axis=-2)
            return da
        pieces = list(self._row_pieces(da))
        if len(pieces) == 1:
            dz = da * activation.derivative(xp, saved)
            if dbias is not None:
                dbias[...] = xp.sum(dz, axis=-2)
            return dz
        dz = self.empty(da.shape) if out is None else out
        if dbias is not None:
            dbias[...] = 0.0
        for rows in pieces:
            part = da[rows] * activation.derivative(xp, saved[rows])
            dz[rows] = part
            if dbias is not None:
                dbias += xp.sum(part, axis=-2)
        return dz

    # --- norms and dropout -------------------------------------------------------------------------------------

    def normalize(self, x: Array, gain: Array, bias: Array, axis: int, epsilon: float,
                  out: Array | None = None, saved: tuple[Array, Array] | None = None) -> tuple[Array, Any]:
        """Return gain * (x - mean) / sqrt(variance + epsilon) + bias, and the values that backward needs.

        Mean and variance are over the batch (axis -2) or the features (axis -1); the variance is that of the population
        (1 / n). x (..., batch, features); gain, bias (..., features). Returns (y, (x_hat, 1 / std, mean, variance)),
        the last three with length 1 on `axis`. The argument `saved` is memory for them: an array of x's shape, and an
        array (3, features) or (3, batch) of the type `wide`.
        """
        xp = self.xp
        mean = xp.mean(x, axis=axis, keepdims=True)
        x_hat = x - mean
        variance = xp.mean(x_hat * x_hat, axis=axis, keepdims=True)
        rstd = 1.0 / xp.sqrt(variance + epsilon)
        x_hat *= rstd
        return x_hat * gain[..., None, :] + bias[..., None, :], (x_hat, rstd, mean, variance)

    def normalize_backward(self, saved: Any, dy: Array, gain: Array, axis: int, dgain: Array, dbias: Array,
                           out: Array | None = None) -> Array:
        """Return dx of `normalize`, and write dgain and dbias (..., features).

        dx = (g - mean(g) - x_hat * mean(g * x_hat)) / std with g = dy * gain, means over `axis`.
        Source: Ioffe and Szegedy, arXiv:1502.03167; Ba et al., arXiv:1607.06450.
        """
        xp = self.xp
        x_hat, rstd = saved[0], saved[1]
        dgain[...] = xp.sum(dy * x_hat, axis=-2)
        dbias[...] = xp.sum(dy, axis=-2)
        g = dy * gain[..., None, :]
        projection = xp.mean(g * x_hat, axis=axis, keepdims=True)
        g -= xp.mean(g, axis=axis, keepdims=True)
        g -= x_hat * projection
        g *= rstd
        return g

    def scale_shift(self, x: Array, mean: Array, variance: Array, gain: Array, bias: Array, epsilon: float,
                    out: Array | None = None) -> Array:
        """Return gain * (x - mean) / sqrt(variance + epsilon) + bias, with given statistics, each (..., features)."""
        scale = gain / self.xp.sqrt(variance + epsilon)
        return x * scale[..., None, :] + (bias - mean * scale)[..., None, :]

    def dropout(self, x: Array, rate: float, key: tuple[int, int], step: Array, out: Array | None = None) -> Array:
        """Return x with each element set to zero with probability `rate`, and the others divided by 1 - rate.

        x (..., batch, features); step int64 (1,). Which elements are zero is a function of key, step and position, so
        that backward is the same op on the gradient, with the same key and step.
        Source: Srivastava et al., JMLR 15 (2014), in the inverted form.
        """
        xp = self.xp
        words = random_words(xp, math.prod(x.shape), step, key, self.backend.device)
        kept = xp.reshape(words >= math.ceil(rate * 2**32), x.shape)
        return x * (xp.astype(kept, x.dtype) * (1.0 / (1.0 - rate)))

    # --- losses: the loss-gradient path ------------------------------------------------------------------------

    def loss_and_gradient(self, loss: Any, z: Array, target: Array, weight: Array | None, dz: Array | None = None,
                          value: Array | None = None) -> tuple[Array, Array]:
        """Return the (weighted) mean over the batch of `loss`, times its factor, and its gradient at the logits z.

        z (..., batch, outputs); target (batch, outputs), or (batch,) class numbers; weight (batch,) or None.
        Returns (value, dz): value is an array (...) on the device. A batch whose weights are all zero has value 0 and
        gradient 0. The arguments `dz` and `value` are memory for both.
        """
        xp = self.xp
        per_row, gradient = loss.value_and_gradient(xp, z, target)  # (..., batch), (..., batch, outputs)
        if per_row.shape != z.shape[:-1] or gradient.shape != z.shape:
            raise ShapeError(f"{loss.name}: value_and_gradient must give a value for each row, {tuple(z.shape[:-1])}, "
                             f"and a gradient for each logit, {tuple(z.shape)}; it gave {tuple(per_row.shape)} and "
                             f"{tuple(gradient.shape)}")
        if weight is None:
            row_weight = loss.factor / z.shape[-2]
            return xp.sum(per_row, axis=-1) * row_weight, gradient * row_weight
        total = xp.sum(weight, axis=-1)
        row_weight = loss.factor * weight / xp.where(total > 0, total, xp.ones_like(total))  # (batch,)
        return xp.sum(per_row * row_weight, axis=-1), gradient * row_weight[..., None]

    def penalize(self, value: Array, weights: Array, strength: float) -> Array:
        """Return value + strength * sum(weights**2): a loss (...) with the L2 penalty of weights (..., size).

        `value` may be overwritten.
        """
        return value + strength * self.xp.sum(weights * weights, axis=-1)

    # --- the optimizer -----------------------------------------------------------------------------------------

    def update(self, optimizer: Any, params: Array, grads: Array, state: dict[str, Array], hyper: Array,
               decay: tuple[float, int], working: Array | None = None) -> None:
        """Update params and state in place by one step of the optimizer, with clipping and weight decay.

        params, grads and each array of state (..., size). hyper (k,): the learning rate, then the optimizer's scalars
        of this step. decay: (strength, count) of the weight decay, which applies to params[..., :count], or to all of
        params with the optimizer's `decay_all`. grads does not change. working: a copy of params in the type that the
        products read, if it is another type.
        """
        xp = self.xp
        rate = hyper[RATE]
        shrink = None
        if optimizer.clip_norm is not None:
            norm = self._norm(grads)  # (..., 1)
            shrink = xp.minimum(optimizer.clip_norm / (norm + 1e-6), xp.ones_like(norm))
        size = params.shape[-1]
        strength, count = decay
        if optimizer.decay_all:
            count = size
        for start, stop, decayed in ((0, count, strength), (count, size, 0.0)):
            for i in range(start, stop, self.piece):
                here = (..., slice(i, min(i + self.piece, stop)))
                p, g = params[here], grads[here]
                if shrink is not None:
                    g = g * shrink
                if decayed and optimizer.decoupled:
                    p *= 1.0 - rate * decayed
                elif decayed:
                    g = g + decayed * p
                optimizer.rule(xp, p, g, {name: s[here] for name, s in state.items()}, hyper)
        if working is not None:
            working[...] = params

    # --- pieces ------------------------------------------------------------------------------------------------

    def _row_pieces(self, a: Array) -> Iterator[Any]:
        """Yield the indices of blocks of rows (axis -2) of about `piece` elements."""
        batch = a.shape[-2]
        rows = max(1, self.piece * batch // max(1, math.prod(a.shape)))
        if rows >= batch:
            yield ...
            return
        for i in range(0, batch, rows):
            yield (..., slice(i, min(i + rows, batch)), slice(None))

    def _norm(self, a: Array) -> Array:
        """Return the Euclidean norms (..., 1) of a (..., size), also if the squares would overflow."""
        xp, size = self.xp, a.shape[-1]
        parts = [a[..., i : min(i + self.piece, size)] for i in range(0, size, self.piece)]
        largest = xp.max(xp.abs(parts[0]), axis=-1, keepdims=True)
        for part in parts[1:]:
            largest = xp.maximum(largest, xp.max(xp.abs(part), axis=-1, keepdims=True))
        scale = xp.where(largest > 0, largest, xp.ones_like(largest))
        total = xp.zeros_like(scale)
        for part in parts:
            total += xp.sum((part / scale) ** 2, axis=-1, keepdims=True)
        return scale * xp.sqrt(total)
