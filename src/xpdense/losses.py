"""Losses at the logits: value and gradient of each in one function, stable for any finite logit.

The loss of a row is the mean over its outputs (for softmax: of the row); the loss of a batch is the mean over its
rows, weighted where weights are given. `link` turns logits into what the network predicts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .activations import clip, sigmoid
from .backend import Array
from .errors import ParameterError, ShapeError, TargetError, lookup, made, real


class Loss:
    """A loss of logits z and targets; subclass it and write `value_and_gradient`.

    Parameters
    ----------
    factor : float
        What the mean over the batch, and its gradient, are multiplied by.

    Examples
    --------
    A user's own loss, log cosh:

    >>> import xpdense as xd
    >>> class LogCosh(xd.Loss):
    ...     name = "log_cosh"
    ...     def value_and_gradient(self, xp, z, target):        # (batch, outputs) each
    ...         e = z - target
    ...         return xp.mean(xp.log(xp.cosh(e)), axis=-1), xp.tanh(e) / z.shape[-1]
    >>> xd.check_network([xd.Dense(2)], inputs=3, loss=LogCosh()).ok
    True
    """

    name = "loss"
    labels = False  #: whether a target may be (batch,) class numbers
    kernel: str | None = None  #: the compiled kernel of this very formula
    factor = 1.0

    def __init__(self, *, factor: float = 1.0) -> None:
        if factor != 1.0:
            self.factor = real("factor", factor, 0.0, open_low=True)

    def __init_subclass__(cls) -> None:  # a user's loss that names itself nothing is not taken for the one it extends
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        """Loss of each row (..., batch) and its gradient dL/dz (..., batch, outputs), a new array.

        z (..., batch, outputs); target (batch, outputs).
        """
        raise NotImplementedError

    def link(self, xp: Any, z: Array) -> Array:
        """The prediction that belongs to logits z: probabilities, a rate, or z itself."""
        return z

    def check_target(self, xp: Any, y: Array, outputs: int) -> Array:
        """The targets of a data set as this loss wants them, (n, outputs), or a TargetError before any work."""
        if y.ndim == 1 and outputs == 1:
            y = y[:, None]
        if y.ndim != 2 or y.shape[1] != outputs:
            raise ShapeError(
                f"{self.name} needs targets of shape (n, {outputs}) for a network of {outputs} outputs, "
                f"got {tuple(y.shape)}"
            )
        return y

    def sample_target(self, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
        """Random targets that this loss accepts, for gradient checks."""
        return rng.standard_normal((rows, outputs))

    def constants(self) -> tuple[float, ...]:
        """The kernel's parameters."""
        return ()

    def config(self) -> dict[str, Any]:
        """Name and parameters, from which `as_loss` makes it again."""
        return {"name": self.name, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}

    def __call__(self, ops: Any, z: Array, target: Array, weight: Array | None = None,
                 dz: Array | None = None, value: Array | None = None) -> tuple[Array, Array]:
        """Mean loss (a scalar on the device) and its gradient at z: see `Ops.loss_and_gradient`."""
        if target.shape != z.shape[-2:] and not (self.labels and target.shape == z.shape[-2:-1]):
            raise ShapeError(f"{self.name}: targets of shape {tuple(target.shape)} do not match logits of shape "
                             f"{tuple(z.shape)}; a target must not be broadcast")
        if weight is not None and weight.shape != z.shape[-2:-1]:
            raise ShapeError(f"{self.name}: the weight has shape {tuple(weight.shape)}, and the batch has "
                             f"{z.shape[-2]} rows: one weight a row")
        value, dz = ops.loss_and_gradient(self, z, target, weight, dz, value)
        return value, dz

    def __repr__(self) -> str:
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.config().items() if k != "name")
        return f"{type(self).__name__}({arguments})"


class BinaryCrossEntropy(Loss):
    """-(t log p + (1 - t) log(1 - p)) with p = sigmoid(z); one column for two classes, more for multi-label.

    log p is never formed: the value is max(z, 0) - z t + log1p(exp(-|z|)), the gradient p - t.
    """

    name = "binary_cross_entropy"
    kernel = "loss binary_cross_entropy"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        value = xp.maximum(z, 0.0) - z * target + xp.log1p(xp.exp(-xp.abs(z)))
        return xp.mean(value, axis=-1), (sigmoid(xp, z) - target) / z.shape[-1]

    def link(self, xp: Any, z: Array) -> Array:
        return sigmoid(xp, z)

    def check_target(self, xp: Any, y: Array, outputs: int) -> Array:
        y = super().check_target(xp, y, outputs)
        bad = (y < 0) | (y > 1)
        if bool(xp.any(bad)):
            raise TargetError(f"binary_cross_entropy needs targets from 0 to 1, got {float(y[bad][0]):g}; "
                              f"code the two classes as 0 and 1")
        return y

    def sample_target(self, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
        return rng.uniform(size=(rows, outputs))


class SoftmaxCrossEntropy(Loss):
    """-sum_k t_k log p_k with p = softmax(z); targets are class numbers (n,), one-hot or soft (n, classes).

    label_smoothing s replaces t by (1 - s) t + s / classes (Szegedy et al., arXiv:1512.00567).
    Value: logsumexp(z) sum(t) - sum(t z), with the largest logit taken out; gradient p sum(t) - t.
    """

    name = "softmax_cross_entropy"
    kernel = "softmax_cross_entropy"
    labels = True

    def __init__(self, label_smoothing: float = 0.0, *, factor: float = 1.0) -> None:
        super().__init__(factor=factor)
        self.label_smoothing = real("label_smoothing", label_smoothing, 0.0, 1.0, open_high=True)

    def constants(self) -> tuple[float, ...]:
        return (self.label_smoothing,)

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        classes = z.shape[-1]
        if target.ndim == 1:  # class numbers
            numbers = xp.arange(classes, dtype=target.dtype, device=getattr(target, "device", None))
            target = xp.astype(target[..., None] == numbers, z.dtype)  # one-hot
        if self.label_smoothing:
            target = target * (1.0 - self.label_smoothing) + self.label_smoothing / classes
        shifted = z - xp.max(z, axis=-1, keepdims=True)
        e = xp.exp(shifted)
        sum_e = xp.sum(e, axis=-1, keepdims=True)
        sum_t = xp.sum(target, axis=-1, keepdims=True)
        value = xp.log(sum_e)[..., 0] * sum_t[..., 0] - xp.sum(target * shifted, axis=-1)
        return value, e * (sum_t / sum_e) - target

    def link(self, xp: Any, z: Array) -> Array:
        e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)

    def check_target(self, xp: Any, y: Array, outputs: int) -> Array:
        if outputs == 1:
            raise ShapeError("softmax_cross_entropy needs a network with one output per class; softmax of one output "
                             "is always 1. For two classes use 2 outputs, or binary_cross_entropy with 1")
        if y.ndim == 2 and y.shape[1] == outputs:
            if bool(xp.any(y < 0)):
                raise TargetError(f"{self.name} needs targets that are not negative, got {float(xp.min(y)):g}")
            if bool(xp.any(xp.max(y, axis=-1) <= 0)):
                raise TargetError("softmax_cross_entropy needs a class in every row of the targets; one has only zeros")
            return y
        if y.ndim != 1:
            raise ShapeError(f"softmax_cross_entropy needs class numbers of shape (n,) or targets of shape "
                             f"(n, {outputs}), got {tuple(y.shape)}"
                             + ("; pass y[:, 0]" if y.ndim == 2 and y.shape[1] == 1 else ""))
        if xp.isdtype(y.dtype, "integral"):
            y = xp.astype(y, xp.int64)  # of a small type, it could not be compared with a large number of outputs
        outside = (y < 0) | (y >= outputs)
        if bool(xp.any(outside)):
            raise TargetError(f"class numbers must lie in 0..{outputs - 1} for a network of {outputs} outputs, "
                              f"got {float(y[outside][0]):g}")
        numbers = xp.astype(y, xp.int64)
        whole = xp.astype(numbers, y.dtype) == y
        if not bool(xp.all(whole)):
            raise TargetError(f"class numbers must be whole, got {float(y[~whole][0]):g}")
        return numbers

    def sample_target(self, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
        return rng.integers(0, outputs, rows)


class SquaredError(Loss):
    """(z - t)**2, without a factor 1/2."""

    name = "squared_error"
    kernel = "loss squared_error"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = z - target
        return xp.mean(e * e, axis=-1), e * (2.0 / z.shape[-1])


class AbsoluteError(Loss):
    """|z - t|; the gradient at z = t is 0."""

    name = "absolute_error"
    kernel = "loss absolute_error"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = z - target
        return xp.mean(xp.abs(e), axis=-1), xp.sign(e) * (1.0 / z.shape[-1])


class Huber(Loss):
    """e**2 / 2 for |e| <= delta, else delta (|e| - delta / 2), with e = z - t (Huber 1964)."""

    name = "huber"
    kernel = "loss huber"

    def __init__(self, delta: float = 1.0, *, factor: float = 1.0) -> None:
        super().__init__(factor=factor)
        self.delta = real("delta", delta, 0.0, open_low=True)

    def constants(self) -> tuple[float, ...]:
        return (self.delta,)

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = z - target
        near = clip(xp, e, -self.delta, self.delta)
        return xp.mean(near * (e - 0.5 * near), axis=-1), near * (1.0 / z.shape[-1])


class Poisson(Loss):
    """exp(z) - t z: Poisson regression with rate exp(z), up to the constant log t!.

    Beyond z = 88 in float32 (709 in float64) the true loss leaves the range of the type: it is then infinite.
    """

    name = "poisson"
    kernel = "loss poisson"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        rate = xp.exp(z)
        return xp.mean(rate - target * z, axis=-1), (rate - target) * (1.0 / z.shape[-1])

    def link(self, xp: Any, z: Array) -> Array:
        return xp.exp(z)

    def check_target(self, xp: Any, y: Array, outputs: int) -> Array:
        y = super().check_target(xp, y, outputs)
        if bool(xp.any(y < 0)):
            raise TargetError(f"poisson needs targets that are not negative, got {float(xp.min(y)):g}")
        return y

    def sample_target(self, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
        return rng.poisson(2.0, (rows, outputs))


class Quantile(Loss):
    """max(q e, (q - 1) e) with e = t - z: z becomes the conditional q-quantile (Koenker and Bassett 1978)."""

    name = "quantile"
    kernel = "loss quantile"

    def __init__(self, q: float = 0.5, *, factor: float = 1.0) -> None:
        super().__init__(factor=factor)
        self.q = real("q", q, 0.0, 1.0, open_low=True, open_high=True)

    def constants(self) -> tuple[float, ...]:
        return (self.q,)

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = target - z
        below, above = xp.astype(e > 0, z.dtype), xp.astype(e < 0, z.dtype)  # z is below, above the target
        return xp.mean(xp.maximum(self.q * e, (self.q - 1.0) * e), axis=-1), \
            ((1.0 - self.q) * above - self.q * below) * (1.0 / z.shape[-1])


#: Every loss by name.
LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError, AbsoluteError, Huber, Poisson, Quantile)
}


def as_loss(value: str | Mapping[str, Any] | Loss) -> Loss:
    """A Loss from its name, from a saved configuration, or from itself.

    >>> as_loss("huber")
    Huber(delta=1.0)
    """
    if isinstance(value, Loss):
        return value
    if isinstance(value, Mapping):
        return made("loss", LOSSES, value)
    if isinstance(value, type) and issubclass(value, Loss):
        raise ParameterError(f"pass an instance of the loss: {value.__name__}()")
    return lookup("loss", value, LOSSES)()
