"""A network written by hand with NumPy alone, and the mistakes that people make in one.

Each mistake is a class that overrides one small method; `build` mixes any of them into `HandNetwork`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray
Params = dict[str, Array]


class HandNetwork:
    """Dense layers, trained by plain gradient descent.

    Parameters
    ----------
    widths : list of int
        Features, hidden units, outputs.
    activation : "relu", "tanh", "sigmoid", "leaky_relu", "softplus" or "identity"
    output : "sigmoid", "softmax" or "linear"
        With binary cross-entropy, cross-entropy and squared error.
    """

    def __init__(self, widths: list[int], activation: str, output: str, learning_rate: float = 0.1,
                 momentum: float = 0.0, weight_decay: float = 0.0, dropout: float = 0.0, dtype: str = "float64",
                 seed: int = 0) -> None:
        self.widths, self.activation, self.output = widths, activation, output
        self.learning_rate, self.momentum = learning_rate, momentum
        self.weight_decay, self.dropout, self.dtype = weight_decay, dropout, dtype
        self.layers = len(widths) - 1
        self.random = np.random.default_rng(seed)
        self.params: Params = {}
        for k in range(1, self.layers + 1):
            self.params[f"W{k}"] = self.draw(widths[k - 1], widths[k], k).astype(dtype)
            self.params[f"b{k}"] = np.zeros(widths[k], dtype)
        self.velocity = {name: np.zeros_like(value) for name, value in self.params.items()}

    def draw(self, inputs: int, units: int, k: int) -> Array:
        """He's for rectifiers, Glorot's for the others."""
        rectifier = self.activation in ("relu", "leaky_relu") and k < self.layers
        return self.random.standard_normal((inputs, units)) * np.sqrt(2 / inputs if rectifier else 2 / (inputs + units))

    # --- forward ---------------------------------------------------------------------------------------------------

    def activate(self, z: Array) -> Array:
        if self.activation == "relu":
            return np.maximum(z, 0)
        if self.activation == "leaky_relu":
            return np.where(z > 0, z, z * 0.01).astype(z.dtype)
        if self.activation == "tanh":
            return np.tanh(z)
        if self.activation == "sigmoid":
            return 1 / (1 + np.exp(-z))
        if self.activation == "softplus":
            return np.logaddexp(0, z)
        return z

    def derivative(self, z: Array, a: Array) -> Array:
        if self.activation == "relu":
            return (z > 0).astype(z.dtype)
        if self.activation == "leaky_relu":
            return np.where(z > 0, 1.0, 0.01).astype(z.dtype)
        if self.activation == "tanh":
            return 1 - a * a
        if self.activation == "sigmoid":
            return a * (1 - a)
        if self.activation == "softplus":
            return 1 / (1 + np.exp(-z))
        return np.ones_like(z)

    def softmax(self, z: Array) -> Array:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def link(self, z: Array) -> Array:
        if self.output == "softmax":
            return self.softmax(z)
        if self.output == "sigmoid":
            return 1 / (1 + np.exp(-z))
        return z

    def forward(self, X: Array, train: bool = False) -> Array:
        """Outputs (n, outputs); what backward needs is kept."""
        a = np.asarray(X, self.dtype)
        self.inputs, self.z, self.masks = [], [], []
        for k in range(1, self.layers + 1):
            self.inputs.append(a)
            z = a @ self.params[f"W{k}"] + self.params[f"b{k}"]
            self.z.append(z)
            if k == self.layers:
                return self.link(z)
            a = self.activate(z)
            mask = np.ones_like(a)
            if train and self.dropout:
                mask = (self.random.random(a.shape) >= self.dropout).astype(a.dtype) / (1 - self.dropout)
            self.masks.append(mask)
            a = a * mask
        return a

    def predict(self, X: Array) -> Array:
        return self.forward(X)

    def targets(self, y: Array) -> Array:
        """One-hot for softmax, else (n, outputs)."""
        y = np.asarray(y)
        if self.output == "softmax" and y.ndim == 1:
            return np.eye(self.widths[-1], dtype=self.dtype)[y]
        return y.astype(self.dtype).reshape(len(y), -1)

    # --- loss and gradients ----------------------------------------------------------------------------------------

    def loss_of(self, p: Array, t: Array) -> float:
        if self.output == "softmax":
            return float(-np.mean(np.sum(t * np.log(p + 1e-300), axis=1)))
        if self.output == "sigmoid":
            return float(-np.mean(t * np.log(p + 1e-300) + (1 - t) * np.log(1 - p + 1e-300)))
        return float(np.mean((p - t) ** 2))

    def delta(self, p: Array, t: Array) -> Array:
        """dL/dz of the last layer."""
        if self.output == "linear":
            return 2 * (p - t) / p.size
        return (p - t) / len(p)

    def loss(self, X: Array, y: Array) -> float:
        return self.loss_of(self.forward(X), self.targets(y))

    def gradients(self, X: Array, y: Array) -> Params:
        p = self.forward(X, train=True)
        dz = self.delta(p, self.targets(y))
        grads: Params = {}
        for k in range(self.layers, 0, -1):
            grads[f"W{k}"] = self.weight_gradient(k, self.inputs[k - 1], dz)
            grads[f"b{k}"] = self.bias_gradient(k, dz)
            if k > 1:
                da = self.back(k, dz) * self.masks[k - 2]
                dz = self.through(k - 1, da)
        return grads

    def weight_gradient(self, k: int, a: Array, dz: Array) -> Array:
        return a.T @ dz

    def bias_gradient(self, k: int, dz: Array) -> Array:
        return dz.sum(axis=0)

    def back(self, k: int, dz: Array) -> Array:
        """Of the input of layer k."""
        return dz @ self.params[f"W{k}"].T

    def through(self, k: int, da: Array) -> Array:
        """Back through the activation of layer k."""
        return da * self.derivative(self.z[k - 1], self.inputs[k])

    def step(self, X: Array, y: Array) -> None:
        for name, g in self.gradients(X, y).items():
            if self.weight_decay and name.startswith("W"):
                g = g + self.weight_decay * self.params[name]
            self.velocity[name] = self.momentum * self.velocity[name] + g
            update = self.learning_rate * self.velocity[name].astype(np.float64)
            self.params[name] -= update.astype(self.dtype)


# --- mistakes --------------------------------------------------------------------------------------------------------

class ReluOutput(HandNetwork):
    def link(self, z: Array) -> Array:
        return np.maximum(z, 0)

    def delta(self, p: Array, t: Array) -> Array:
        return 2 * (p - t) / p.size * (p > 0)


class SigmoidOutput(HandNetwork):
    def link(self, z: Array) -> Array:
        return 1 / (1 + np.exp(-z))

    def delta(self, p: Array, t: Array) -> Array:
        return 2 * (p - t) / p.size * p * (1 - p)


class TanhOutput(HandNetwork):
    """tanh where a probability is wanted, its logarithm kept finite."""

    def link(self, z: Array) -> Array:
        return np.tanh(z)

    def loss_of(self, p: Array, t: Array) -> float:
        p = np.clip(p, 1e-7, 1 - 1e-7)
        if self.output == "softmax":
            return float(-np.mean(np.sum(t * np.log(p), axis=1)))
        return float(-np.mean(t * np.log(p) + (1 - t) * np.log(1 - p)))

    def delta(self, p: Array, t: Array) -> Array:
        inside = (p > 1e-7) & (p < 1 - 1e-7)
        q = np.clip(p, 1e-7, 1 - 1e-7)
        d = -t / q if self.output == "softmax" else (q - t) / (q * (1 - q))
        return d * inside * (1 - p * p) / len(p)


class DoubleSoftmax(HandNetwork):
    """The loss takes the softmax of probabilities."""

    def loss_of(self, p: Array, t: Array) -> float:
        return super().loss_of(self.softmax(p), t)

    def delta(self, p: Array, t: Array) -> Array:
        g = (self.softmax(p) - t) / len(p)
        return p * (g - np.sum(g * p, axis=1, keepdims=True))


class DoubleSigmoid(HandNetwork):
    def loss_of(self, p: Array, t: Array) -> float:
        return super().loss_of(1 / (1 + np.exp(-p)), t)

    def delta(self, p: Array, t: Array) -> Array:
        return (1 / (1 + np.exp(-p)) - t) / len(p) * p * (1 - p)


class SoftmaxOverRows(HandNetwork):
    def softmax(self, z: Array) -> Array:
        e = np.exp(z - z.max(axis=0))
        return e / e.sum(axis=0)


class SoftmaxOfOne(HandNetwork):
    """Softmax of a single unit is 1."""

    def link(self, z: Array) -> Array:
        return self.softmax(z)


class Clipped(HandNetwork):
    """Probabilities cut off far from 0 and 1, where no gradient comes through."""

    def link(self, z: Array) -> Array:
        return np.clip(super().link(z), 0.45, 0.55)

    def delta(self, p: Array, t: Array) -> Array:
        return (p - t) / len(p) * ((p > 0.45) & (p < 0.55))


class Broadcast(HandNetwork):
    """(n, 1) minus (n,) is (n, n)."""

    def loss_of(self, p: Array, t: Array) -> float:
        t = t.ravel()
        if self.output == "sigmoid":
            return float(-np.mean(t * np.log(p + 1e-300) + (1 - t) * np.log(1 - p + 1e-300)))
        return float(np.mean((p - t) ** 2))

    def delta(self, p: Array, t: Array) -> Array:
        error = p - t.ravel()
        return error.mean(axis=1, keepdims=True) * (2 if self.output == "linear" else 1) / len(p)


class Transposed(HandNetwork):
    """The weights' gradients read in the wrong order."""

    def weight_gradient(self, k: int, a: Array, dz: Array) -> Array:
        g = super().weight_gradient(k, a, dz)
        return (dz.T @ a).reshape(g.shape)


class MeanTooEarly(HandNetwork):
    """Inputs and incoming gradients are averaged over the batch before they are multiplied."""

    def weight_gradient(self, k: int, a: Array, dz: Array) -> Array:
        return np.outer(a.mean(axis=0), dz.sum(axis=0))


class LossDerivative(HandNetwork):
    """The last activation's derivative once too often, squared: it is in p - t already."""

    def delta(self, p: Array, t: Array) -> Array:
        if self.output == "linear":
            return np.sign(p - t) * (p - t) ** 4 / len(p)
        return (p - t) * (p * (1 - p)) ** 2 / len(p)


class WrongSign(HandNetwork):
    def delta(self, p: Array, t: Array) -> Array:
        return -super().delta(p, t)


class WrongSignOfOne(HandNetwork):
    def weight_gradient(self, k: int, a: Array, dz: Array) -> Array:
        g = super().weight_gradient(k, a, dz)
        return -g if k == self.layers else g


class SumForMean(HandNetwork):
    def delta(self, p: Array, t: Array) -> Array:
        return super().delta(p, t) * len(p)


class DividedTwice(HandNetwork):
    def delta(self, p: Array, t: Array) -> Array:
        return super().delta(p, t) / len(p)


class DerivativeMissing(HandNetwork):
    def through(self, k: int, da: Array) -> Array:
        return da


class DerivativeOfGradient(HandNetwork):
    def through(self, k: int, da: Array) -> Array:
        return da * self.derivative(da, self.activate(da))


class BiasOfValues(HandNetwork):
    """Summed is what comes before the activation, not its gradient."""

    def bias_gradient(self, k: int, dz: Array) -> Array:
        return self.z[k - 1].sum(axis=0)


class BiasOfOutputs(HandNetwork):
    """Summed is what the hidden layers put out, not their gradient."""

    def bias_gradient(self, k: int, dz: Array) -> Array:
        return self.inputs[k].sum(axis=0) if k < self.layers else super().bias_gradient(k, dz)


class Accumulated(HandNetwork):
    """Gradients are added to those of the steps before."""

    def gradients(self, X: Array, y: Array) -> Params:
        new = super().gradients(X, y)
        old = getattr(self, "total", dict.fromkeys(new, 0.0))
        self.total = {name: old[name] + g for name, g in new.items()}
        return dict(self.total)


class Frozen(HandNetwork):
    """The first layer's weights and biases are left out."""

    def gradients(self, X: Array, y: Array) -> Params:
        grads = super().gradients(X, y)
        return grads | {name: np.zeros_like(grads[name]) for name in ("W1", "b1")}


class FrozenWeights(HandNetwork):
    """Biases alone learn."""

    def weight_gradient(self, k: int, a: Array, dz: Array) -> Array:
        return np.zeros_like(self.params[f"W{k}"])


class NaiveExp(HandNetwork):
    """Exponentials without the largest taken out first."""

    def softmax(self, z: Array) -> Array:
        e = np.exp(z)
        return e / e.sum(axis=1, keepdims=True)

    def link(self, z: Array) -> Array:
        return self.softmax(z) if self.output == "softmax" else np.exp(z) / (1 + np.exp(z))


class TinyUnits(HandNetwork):
    """The loss in units a hundred million times too large, and the learning rate with it."""

    def loss_of(self, p: Array, t: Array) -> float:
        return super().loss_of(p, t) * 1e-8

    def delta(self, p: Array, t: Array) -> Array:
        return (super().delta(p, t).astype(np.float64) * 1e-8).astype(self.dtype)


class Decaying(HandNetwork):
    """The learning rate falls at every step, meant for every epoch."""

    def step(self, X: Array, y: Array) -> None:
        super().step(X, y)
        self.learning_rate *= 0.8


def build(mistakes: tuple[str, ...], **arguments: Any) -> HandNetwork:
    """A network with these mistakes in it; a later one changes what an earlier one computes."""
    bases = tuple(globals()[name] for name in reversed(mistakes))
    cls = type("Network", (*bases, HandNetwork) if bases else (HandNetwork,), {})
    network: HandNetwork = cls(**arguments)
    return network
