"""Losses at the logits: value and gradient of each in one function, stable for any finite logit.

The loss of a row is the mean over its outputs; softmax cross-entropy has one value a row. The loss of a batch is the
mean over its rows, weighted by the sample weights if there are any. `link` maps logits to predictions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .activations import clip, sigmoid
from .backend import Array
from .errors import ParameterError, ShapeError, TargetError, lookup, made, real


class Loss:
    """Base class of the losses; subclass it and write `value_and_gradient`.

    Parameters
    ----------
    factor : float
        A positive factor of the mean over the batch and of its gradient.

    Attributes
    ----------
    name : str
        Its name in messages and saved models.
    labels : bool
        Whether a target may be (batch,) class numbers.

    Examples
    --------
    A user-defined loss, log cosh:

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
    labels = False
    kernel: str | None = None  #: the kernel of this formula; a subclass does not inherit it
    factor = 1.0

    def __init__(self, *, factor: float = 1.0) -> None:
        if factor != 1.0:
            self.factor = real("factor", factor, 0.0, open_low=True)

    def __init_subclass__(cls) -> None:  # a user's loss without a name is not taken for its base class
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        """Return the loss of each row and its gradient at the logits.

        Parameters
        ----------
        z : array (..., batch, outputs)
        target : array (batch, outputs), or int64 (batch,) class numbers if the loss takes them

        Returns
        -------
        value : array (..., batch)
        gradient : new array (..., batch, outputs)
        """
        raise NotImplementedError

    def link(self, xp: Any, z: Array) -> Array:
        """Return the predictions of logits z: probabilities, rates, or z itself."""
        return z

    def check_target(self, xp: Any, y: Array, outputs: int) -> Array:
        """Return the targets of a data set in the form that the loss takes, (n, outputs) or (n,) class numbers.

        Raises
        ------
        ShapeError
            The shape does not fit the number of outputs.
        TargetError
            A value is outside the domain of the loss.
        """
        if y.ndim == 1 and outputs == 1:
            y = y[:, None]
        if y.ndim != 2 or y.shape[1] != outputs:
            raise ShapeError(
                f"{self.name} needs targets of shape (n, {outputs}) for a network of {outputs} outputs, "
                f"got {tuple(y.shape)}"
            )
        return y

    def sample_target(self, rng: np.random.Generator, rows: int, outputs: int) -> np.ndarray:
        """Return random targets in the domain of the loss, for gradient checks."""
        return rng.standard_normal((rows, outputs))

    def constants(self) -> tuple[float, ...]:
        """Return the parameter of the formula, which its kernel takes; empty if it has none."""
        return ()

    def config(self) -> dict[str, Any]:
        """Return name and parameters, from which `as_loss` makes the loss again."""
        return {"name": self.name, **{k: v for k, v in vars(self).items() if not k.startswith("_")}}

    def __call__(self, ops: Any, z: Array, target: Array, weight: Array | None = None,
                 dz: Array | None = None, value: Array | None = None) -> tuple[Array, Array]:
        """Return the mean loss, an array () on the device, and its gradient at z: see `Ops.loss_and_gradient`.

        Raises
        ------
        ShapeError
            The target or the weight does not have one entry for each row.
        """
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
    """Binary cross-entropy, -(t log p + (1 - t) log(1 - p)) with p = sigmoid(z) and 0 <= t <= 1.

    Two classes need one output; with more outputs each is a class of its own (multi-label). log p is never formed: the
    value is max(z, 0) - z t + log1p(exp(-|z|)), the gradient p - t.

    >>> import numpy as np
    >>> value, dz = BinaryCrossEntropy().value_and_gradient(np, np.array([[0.0]]), np.array([[1.0]]))
    >>> value.round(4).tolist(), dz.tolist()
    ([0.6931], [[-0.5]])
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
    """Softmax cross-entropy, -sum_k t_k log p_k with p = softmax(z).

    Targets are class numbers (n,), or one-hot or soft targets (n, classes). The value is logsumexp(z) sum(t) -
    sum(t z), computed after the largest logit is subtracted; the gradient is p sum(t) - t.

    Parameters
    ----------
    label_smoothing : float in [0, 1)
        s replaces t by (1 - s) t + s / classes (Szegedy et al., arXiv:1512.00567).

    Examples
    --------
    >>> import numpy as np
    >>> value, dz = SoftmaxCrossEntropy().value_and_gradient(np, np.zeros((1, 2)), np.array([0]))
    >>> value.round(4).tolist(), dz.tolist()
    ([0.6931], [[-0.5, 0.5]])
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
    """Squared error, (z - t)**2, without a factor 1/2.

    >>> import numpy as np
    >>> value, dz = SquaredError().value_and_gradient(np, np.array([[3.0, 1.0]]), np.ones((1, 2)))
    >>> value.tolist(), dz.tolist()
    ([2.0], [[2.0, 0.0]])
    """

    name = "squared_error"
    kernel = "loss squared_error"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = z - target
        return xp.mean(e * e, axis=-1), e * (2.0 / z.shape[-1])


class AbsoluteError(Loss):
    """Absolute error, |z - t|; the gradient at z = t is 0.

    >>> import numpy as np
    >>> value, dz = AbsoluteError().value_and_gradient(np, np.array([[3.0, 1.0]]), np.ones((1, 2)))
    >>> value.tolist(), dz.tolist()
    ([1.0], [[0.5, 0.0]])
    """

    name = "absolute_error"
    kernel = "loss absolute_error"

    def value_and_gradient(self, xp: Any, z: Array, target: Array) -> tuple[Array, Array]:
        e = z - target
        return xp.mean(xp.abs(e), axis=-1), xp.sign(e) * (1.0 / z.shape[-1])


class Huber(Loss):
    """Huber loss, e**2 / 2 for |e| <= delta, else delta (|e| - delta / 2), with e = z - t (Huber 1964).

    >>> import numpy as np
    >>> value, dz = Huber(delta=1.0).value_and_gradient(np, np.array([[4.0]]), np.array([[1.0]]))
    >>> value.tolist(), dz.tolist()
    ([2.5], [[1.0]])
    """

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
    """Loss of Poisson regression with rate exp(z): exp(z) - t z, up to the constant log t!.

    For z > 88 in float32 (z > 709 in float64) the loss is outside the range of the type, and is infinite.

    >>> import numpy as np
    >>> value, dz = Poisson().value_and_gradient(np, np.array([[0.0]]), np.array([[3.0]]))
    >>> value.tolist(), dz.tolist()
    ([1.0], [[-2.0]])
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
    """Quantile loss, max(q e, (q - 1) e) with e = t - z; its minimum is at the q-quantile (Koenker and Bassett 1978).

    >>> import numpy as np
    >>> value, dz = Quantile(q=0.9).value_and_gradient(np, np.array([[1.0]]), np.array([[3.0]]))
    >>> value.tolist(), dz.tolist()
    ([1.8], [[-0.9]])
    """

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


#: The losses by name.
LOSSES: dict[str, type[Loss]] = {
    cls.name: cls
    for cls in (BinaryCrossEntropy, SoftmaxCrossEntropy, SquaredError, AbsoluteError, Huber, Poisson, Quantile)
}


def as_loss(value: str | Mapping[str, Any] | Loss) -> Loss:
    """Return the Loss of a name or of a saved configuration; a Loss is returned as it is.

    Raises
    ------
    UnknownNameError
        The name is not registered; the message lists those that are.

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
