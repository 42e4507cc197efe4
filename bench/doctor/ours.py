"""The same mistakes in parts of one's own for a `DenseNetwork`: layers, activations, losses, schedules."""

from __future__ import annotations

from typing import Any

import numpy as np

import xpdense as xd
from xpdense.activations import ACTIVATIONS, Activation


class FrozenDense(xd.Dense):
    """No gradient is written."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        for g in self.grads.values():
            g[...] = 0.0
        return dx


class AccumulatedDense(xd.Dense):
    """Gradients are added to those of the steps before."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        before = {name: ops.xp.asarray(g, copy=True) for name, g in self.grads.items()}
        dx = super().backward(ops, dy, tape)
        for name, g in self.grads.items():
            g += before[name]
        return dx


class TransposedDense(xd.Dense):
    """The weights' gradient read in the wrong order."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        g = self.grads["weight"]
        g[...] = ops.xp.reshape(ops.xp.asarray(g.T, copy=True), g.shape)
        return dx


class SignDense(xd.Dense):
    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        self.grads["weight"][...] = -self.grads["weight"]
        return dx


class BiasDense(xd.Dense):
    """Summed for the bias is what comes before the activation, not its gradient."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        self.grads["bias"][...] = ops.xp.sum(tape.x @ self.params["weight"] + self.params["bias"], axis=0)
        return dx


class OutputBiasDense(xd.Dense):
    """Summed for the bias is what the layer puts out, not its gradient."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        z = tape.x @ self.params["weight"] + self.params["bias"]
        self.grads["bias"][...] = ops.xp.sum(self._activation.forward(ops.xp, z), axis=0)
        return dx


class MeanDense(xd.Dense):
    """Inputs and incoming gradients are averaged over the batch before they are multiplied."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        self.grads["weight"][...] = ops.xp.mean(tape.x, axis=0)[:, None] * self.grads["bias"][None, :]
        return dx


class FrozenWeights(xd.Dense):
    """Biases alone learn."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        dx = super().backward(ops, dy, tape)
        self.grads["weight"][...] = 0.0
        return dx


class GradientDense(xd.Dense):
    """The activation's derivative is taken of the incoming gradient."""

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        act, xp = self._activation, ops.xp
        dz = dy * act.derivative(xp, act.forward(xp, dy) if act.saves == "output" else dy)
        self.grads["weight"][...] = tape.x.T @ dz
        self.grads["bias"][...] = xp.sum(dz, axis=0)
        return dz @ self.params["weight"].T


def without_derivative(name: str) -> Activation:
    """An activation whose author left the derivative out."""
    known = ACTIVATIONS[name]
    return Activation(f"my_{name}", forward=known.forward, derivative=lambda xp, a: xp.ones_like(a),
                      initializer=known.initializer)


class Mistaken(xd.Loss):
    """A loss around another, whose gradient a subclass changes."""

    def __init__(self, inner: xd.Loss) -> None:
        super().__init__()
        self._inner = inner
        self.labels = inner.labels

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        value, gradient = self._inner.value_and_gradient(xp, z, target)
        return value, self.change(xp, z, gradient)

    def change(self, xp: Any, z: Any, gradient: Any) -> Any:
        return gradient

    def link(self, xp: Any, z: Any) -> Any:
        return self._inner.link(xp, z)

    def check_target(self, xp: Any, y: Any, outputs: int) -> Any:
        return self._inner.check_target(xp, y, outputs)


class WrongSign(Mistaken):
    def change(self, xp: Any, z: Any, gradient: Any) -> Any:
        return -gradient


class SumForMean(Mistaken):
    def change(self, xp: Any, z: Any, gradient: Any) -> Any:
        return gradient * z.shape[-2]


class DividedTwice(Mistaken):
    def change(self, xp: Any, z: Any, gradient: Any) -> Any:
        return gradient / z.shape[-2]


class LossDerivative(Mistaken):
    """The derivative of the link once too often, squared; of a squared error, its square."""

    def change(self, xp: Any, z: Any, gradient: Any) -> Any:
        if self._inner.name == "squared_error":
            return gradient * xp.abs(gradient) ** 3
        p = self.link(xp, z)
        return gradient * (p * (1.0 - p)) ** 2


class DoubleSoftmax(Mistaken):
    """The softmax of probabilities."""

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        p = self.link(xp, z)
        value, g = self._inner.value_and_gradient(xp, p, target)
        return value, p * (g - xp.sum(g * p, axis=-1, keepdims=True))


class DoubleSigmoid(Mistaken):
    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        p = self.link(xp, z)
        value, g = self._inner.value_and_gradient(xp, p, target)
        return value, g * p * (1.0 - p)


class Clipped(Mistaken):
    """Probabilities cut off far from 0 and 1, where no gradient comes through."""

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        p = self.link(xp, z)
        if self._inner.labels and target.ndim == 1:
            target = xp.astype(target[..., None] == xp.arange(z.shape[-1]), z.dtype)
        q = xp.clip(p, 0.45, 0.55)
        value = -xp.sum(target * xp.log(q), axis=-1)
        if not self._inner.labels:
            value = value - xp.sum((1.0 - target) * xp.log(1.0 - q), axis=-1)
        return value, (p - target) * xp.astype((p > 0.45) & (p < 0.55), z.dtype)

    def link(self, xp: Any, z: Any) -> Any:
        return xp.clip(self._inner.link(xp, z), 0.45, 0.55)


class SoftmaxOverRows(Mistaken):
    def link(self, xp: Any, z: Any) -> Any:
        e = xp.exp(z - xp.max(z, axis=-2, keepdims=True))
        return e / xp.sum(e, axis=-2, keepdims=True)

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        target = xp.astype(target[..., None] == xp.arange(z.shape[-1]), z.dtype) if target.ndim == 1 else target
        p = self.link(xp, z)
        return -xp.sum(target * xp.log(p + 1e-30), axis=-1), p - target


class SoftmaxOfOne(Mistaken):
    """Softmax of a single unit is 1."""

    def link(self, xp: Any, z: Any) -> Any:
        return xp.ones_like(z)

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        p = self.link(xp, z)
        return xp.sum((p - target) ** 2, axis=-1), p - target


class Broadcast(Mistaken):
    """(n, 1) minus (n,) is (n, n)."""

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        t = xp.reshape(target, (-1,))
        if self._inner.name == "squared_error":
            error = z - t
            return xp.mean(error * error, axis=-1), 2.0 * xp.mean(error, axis=-1, keepdims=True)
        p = self.link(xp, z)
        value = -xp.mean(t * xp.log(p + 1e-30) + (1.0 - t) * xp.log(1.0 - p + 1e-30), axis=-1)
        return value, xp.mean(p - t, axis=-1, keepdims=True)


LOSSES = {cls.__name__: cls for cls in (WrongSign, SumForMean, DividedTwice, LossDerivative, DoubleSoftmax,
                                        DoubleSigmoid, Clipped, SoftmaxOverRows, SoftmaxOfOne, Broadcast)}
#: Mistakes of layers: the class, and of which layers: the first, the hidden ones, the last, or all.
LAYERS = {
    "Frozen": (FrozenDense, "first"), "FrozenWeights": (FrozenWeights, "all"), "Accumulated": (AccumulatedDense, "all"),
    "Transposed": (TransposedDense, "all"), "WrongSignOfOne": (SignDense, "last"),
    "BiasOfValues": (BiasDense, "all"), "BiasOfOutputs": (OutputBiasDense, "hidden"),
    "MeanTooEarly": (MeanDense, "all"), "DerivativeOfGradient": (GradientDense, "hidden"),
}
#: Mistakes of the last layer's activation.
OUTPUTS = {"ReluOutput": "relu", "SigmoidOutput": "sigmoid", "TanhOutput": "tanh"}


def chosen(name: str, k: int, layers: int) -> bool:
    """Whether a mistake is in layer k of so many."""
    which = LAYERS[name][1]
    return {"first": k == 0, "last": k == layers - 1, "hidden": k < layers - 1, "all": True}[which]


def build(mistakes: tuple[str, ...], widths: list[int], activation: str, seed: int, dtype: str, dropout: float,
          loss: str) -> tuple[xd.DenseNetwork, xd.Loss]:
    """A network and its loss with these mistakes in them."""
    layers: list[xd.Layer] = []
    count = len(widths) - 1
    for k, units in enumerate(widths[1:]):
        cls: type[xd.Dense] = xd.Dense
        for name in mistakes:
            if name in LAYERS and chosen(name, k, count):
                cls = LAYERS[name][0]
        last = k == count - 1
        wanted: str | Activation = "identity" if last else activation
        if not last and "DerivativeMissing" in mistakes:
            wanted = without_derivative(activation)
        if last:
            wanted = next((OUTPUTS[name] for name in mistakes if name in OUTPUTS), wanted)
        layers.append(cls(units, wanted))
        if dropout and not last:
            layers.append(xd.Dropout(dropout))
    made = {"binary_cross_entropy": xd.BinaryCrossEntropy, "softmax_cross_entropy": xd.SoftmaxCrossEntropy,
            "squared_error": xd.SquaredError}[loss]()
    for name in mistakes:
        if name in LOSSES:
            made = LOSSES[name](made)
    return xd.DenseNetwork(layers, widths[0], dtype=dtype, seed=seed), made


class Decaying(xd.Schedule):
    """A rate that falls at every step, meant for every epoch."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: int, total: int) -> float:
        return self.rate * 0.8**step


class Scaled(xd.Schedule):
    """A schedule times a factor."""

    def __init__(self, inner: xd.Schedule, factor: float) -> None:
        self.inner, self.factor = inner, factor

    def __call__(self, step: int, total: int) -> float:
        return float(np.float64(self.inner(step, total)) * self.factor)
