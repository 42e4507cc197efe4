"""Reconstruction of a program: which activations and which loss give its predictions and its loss.

Random weights are written into the program, and a hypothesis is accepted only if it reproduces the predictions and
losses that the program then computes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...activations import ACTIVATIONS
from ..program import Subject
from .chain import DenseLayer, chains

USUAL = ("sigmoid", "tanh", "relu", "leaky_relu", "identity")
MIXED = 4  # up to this many hidden layers, every combination of the usual activations is tried
DRAWS = 6  # of random weights


def activate(name: str, z: np.ndarray) -> np.ndarray:
    """Apply an activation or softmax to z (rows, units); "sigmoid of sigmoid" applies one after the other."""
    outer, _, inner = name.partition(" of ")
    if inner:
        return activate(outer, activate(inner, z))
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    return np.asarray(ACTIVATIONS[name].forward(np, z))


def derivative(name: str, z: np.ndarray) -> np.ndarray:
    """Return the derivative of an activation at z (rows, units).

    >>> float(derivative("sigmoid", np.zeros((1, 1)))[0, 0])
    0.25
    """
    one = ACTIVATIONS[name]
    return np.asarray(one.derivative(np, z if one.saves == "input" else one.forward(np, z)))


def backward(name: str, z: np.ndarray, da: np.ndarray) -> np.ndarray:
    """Return the gradient of z (rows, units) from the gradient of the activation, or softmax, of z."""
    outer, _, inner = name.partition(" of ")
    if inner:
        return backward(inner, z, backward(outer, activate(inner, z), da))
    if name == "softmax":
        p = activate(name, z)
        return np.asarray(p * (da - (da * p).sum(axis=1, keepdims=True)))
    return np.asarray(da * derivative(name, z))


def _binary(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(-y * np.log(p) - (1.0 - y) * np.log(1.0 - p))


Elementwise = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: name -> the loss of each output (rows, outputs), and its derivative with respect to the prediction
LOSSES: dict[str, tuple[Elementwise, Elementwise]] = {
    "binary cross-entropy": (_binary, lambda p, y: (p - y) / (p * (1.0 - p))),
    "cross-entropy": (lambda p, y: -y * np.log(p), lambda p, y: -y / p),
    "squared error": (lambda p, y: (p - y) ** 2, lambda p, y: 2.0 * (p - y)),
    "absolute error": (lambda p, y: np.abs(p - y), lambda p, y: np.sign(p - y)),
}
#: name of a loss -> output activations that are tried with it
OUTPUTS = {"binary cross-entropy": ("sigmoid", "sigmoid of sigmoid"),
           "cross-entropy": ("softmax", "sigmoid", "softmax of softmax"),
           "squared error": ("identity", "sigmoid", "softmax", "tanh", "relu"),
           "absolute error": ("identity", "sigmoid", "softmax", "tanh", "relu")}


@dataclass(frozen=True)
class LossScale:
    """The factors in loss = factor * sum of the loss's values + weights * sum(W²) + biases * sum(b²)."""

    factor: float
    weights: float = 0.0
    biases: float = 0.0


@dataclass(frozen=True)
class Reconstruction:
    """What a program computes.

    Attributes
    ----------
    layers : tuple of DenseLayer
    hidden : tuple of str
        The activations of all layers but the last.
    output : str
        The activation of the last layer, as the loss applies it.
    loss : str
        A key of LOSSES.
    one, many : LossScale
        For a single row, and for `rows` rows.
    rows : int
    """

    layers: tuple[DenseLayer, ...]
    hidden: tuple[str, ...]
    output: str
    loss: str
    one: LossScale
    many: LossScale
    rows: int

    def forward(self, values: Mapping[str, np.ndarray], x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return z of each layer, and the inputs of each layer followed by the prediction."""
        return forward(self.layers, (*self.hidden, self.output), values, x)

    def factor(self, rows: int) -> float:
        """Return the factor of the loss for `rows` rows; for a mean it is 1/rows of a single row's factor."""
        power = np.log(self.many.factor / self.one.factor) / np.log(self.rows)
        return float(self.one.factor * rows ** round(float(power)))

    def gradients(self, values: Mapping[str, np.ndarray], x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """Return the gradients of the loss, named and shaped as the parameters."""
        z, a = self.forward(values, x)
        if (self.loss, self.output) == ("binary cross-entropy", "sigmoid"):
            dz = a[-1] - target
        elif (self.loss, self.output) == ("cross-entropy", "softmax"):
            dz = a[-1] * target.sum(axis=1, keepdims=True) - target
        else:
            dz = backward(self.output, z[-1], LOSSES[self.loss][1](a[-1], target))
        dz = dz * self.factor(len(x))
        grads = {}
        for k in range(len(self.layers) - 1, -1, -1):
            layer = self.layers[k]
            matrix = layer.matrix(values)
            grads[layer.weight] = layer.as_weight(a[k].T @ dz + 2.0 * self.many.weights * matrix)
            if layer.bias is not None:
                dbias = dz.sum(axis=0) + 2.0 * self.many.biases * layer.vector(values)
                grads[layer.bias] = dbias.reshape(values[layer.bias].shape)
            if k:
                dz = (dz @ matrix.T) * derivative(self.hidden[k - 1], z[k - 1])
        return grads


def forward(layers: Sequence[DenseLayer], activations: Sequence[str], values: Mapping[str, np.ndarray],
            x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return z of each layer, and the inputs of each layer followed by the output of the last."""
    zs, a = [], [x]
    for layer, name in zip(layers, activations, strict=True):
        zs.append(a[-1] @ layer.matrix(values) + layer.vector(values))
        a.append(activate(name, zs[-1]))
    return zs, a


def draw_parameters(rng: np.random.Generator, layers: Sequence[DenseLayer], params: Mapping[str, np.ndarray],
                    x: np.ndarray) -> dict[str, np.ndarray]:
    """Draw parameters with which few units are saturated or zero on x, named and shaped as `params`."""
    spread = np.sqrt(np.mean(x * x, axis=0)) + 1e-12
    values = {}
    for k, layer in enumerate(layers):
        matrix = rng.standard_normal((layer.inputs, layer.units)) * np.sqrt(1.5 / layer.inputs)
        matrix = matrix / spread[:, None] if k == 0 else matrix
        values[layer.weight] = layer.as_weight(matrix).astype(params[layer.weight].dtype)
        if layer.bias is not None:
            like = params[layer.bias]
            values[layer.bias] = (0.3 * rng.standard_normal(layer.units)).reshape(like.shape).astype(like.dtype)
    return values


def as_targets(y: np.ndarray, outputs: int) -> np.ndarray | None:
    """Return y as (rows, outputs), with class numbers as one-hot rows; None if y fits neither.

    >>> as_targets(np.array([0, 2]), 3).tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if y.dtype.kind not in "biuf":
        return None
    flat = y.reshape(len(y), -1).astype(np.float64)
    if flat.shape[1] == outputs:
        return flat
    if flat.shape[1] == 1 and np.all(flat == np.floor(flat)) and flat.min() >= 0 and flat.max() < outputs:
        return np.asarray(np.eye(outputs)[flat[:, 0].astype(int)])
    return None


@dataclass(frozen=True)
class _Draw:
    """Random parameters, and what the program computes with them."""

    values: dict[str, np.ndarray]
    predicted: np.ndarray | None
    loss_of_many: float
    loss_of_one: float


def reconstruct(subject: Subject, x: np.ndarray, y: np.ndarray, seed: int = 0) -> Reconstruction | str:
    """Find what a program computes, or say why it cannot be found; the program is left with other parameters.

    Parameters
    ----------
    subject : Subject
        Has params and loss; its predictions are used if it has predict.
    x : ndarray (rows, features)
    y : ndarray
        As the program takes it.
    seed : int
    """
    params, x_wide = subject.params(), np.asarray(x, np.float64)
    tolerance = 1e-7 if all(p.dtype == np.float64 for p in params.values()) else 2e-4
    reasons = ["its parameters do not form a chain of dense layers"]
    for layers in chains({name: p.shape for name, p in params.items()}):
        target = as_targets(y, layers[-1].units)
        if layers[0].inputs != x.shape[1]:
            reasons.append(f"{layers[0].weight} does not take the {x.shape[1]} features")
        elif target is None:
            reasons.append(f"y is not a target for {layers[-1].units} outputs")
        else:
            draws = _draws(subject, layers, params, x, y, seed)
            found = _explained(layers, draws, x_wide, target, tolerance)
            if not isinstance(found, str):
                return found
            reasons.append(found)
    return reasons[-1]


def _draws(subject: Subject, layers: Sequence[DenseLayer], params: Mapping[str, np.ndarray], x: np.ndarray,
           y: np.ndarray, seed: int) -> list[_Draw]:
    rng, found = np.random.default_rng([seed, 7]), []
    for _ in range(DRAWS):
        values = draw_parameters(rng, layers, params, np.asarray(x, np.float64))
        subject.write(values)
        predicted = np.asarray(subject.predict(x)) if "predict" in subject.can else None
        found.append(_Draw(values, predicted, subject.loss(x, y), subject.loss(x[:1], y[:1])))
    return found


def _combinations(layers: int) -> Iterator[tuple[str, ...]]:
    """Yield activations of the hidden layers, the most likely first."""
    yield from ((name,) * layers for name in (*USUAL, *(name for name in ACTIVATIONS if name not in USUAL)))
    if 1 < layers <= MIXED:
        yield from (names for names in itertools.product(USUAL, repeat=layers) if len(set(names)) > 1)


def _explained(layers: tuple[DenseLayer, ...], draws: list[_Draw], x: np.ndarray, target: np.ndarray,
               tolerance: float) -> Reconstruction | str:
    """Return the first combination of activations and loss that reproduces all draws."""
    reason = "no usual activations reproduce its predictions"
    for hidden in _combinations(len(layers) - 1) if len(layers) > 1 else [()]:
        last = [forward(layers, (*hidden, "identity"), d.values, x)[0][-1] for d in draws]
        predicts = draws[0].predicted is not None and draws[0].predicted.shape == last[0].shape and any(
            all(_near(activate(name, z), d.predicted, tolerance) for z, d in zip(last, draws, strict=True))
            for name in ("identity", "softmax", "sigmoid", "tanh", "relu"))
        labels = draws[0].predicted is None or all(np.all(d.predicted == np.round(d.predicted)) for d in draws
                                                   if d.predicted is not None)
        if not predicts and not labels:
            continue
        if predicts:
            reason = "its predictions are reproduced, but no known loss reproduces its loss"
        for loss, outputs in OUTPUTS.items():
            for output in outputs:
                p = [activate(output, z) for z in last]
                near = max(5.0 * tolerance, 1e-5) if predicts else tolerance  # allows for log(p + 1e-8)
                many = _loss_scale(loss, p, target, [d.loss_of_many for d in draws], layers, draws, near)
                one = _loss_scale(loss, [q[:1] for q in p], target[:1], [d.loss_of_one for d in draws], layers, draws,
                                  near)
                if many is not None and one is not None:
                    return Reconstruction(layers, hidden, output, loss, one, many, len(x))
    return reason


def _near(a: np.ndarray, b: np.ndarray | None, tolerance: float) -> bool:
    return b is not None and bool(np.max(np.abs(a - b)) <= tolerance * max(1.0, float(np.max(np.abs(b)))))


def _loss_scale(loss: str, predictions: list[np.ndarray], target: np.ndarray, losses: list[float],
                layers: Sequence[DenseLayer], draws: list[_Draw], tolerance: float) -> LossScale | None:
    """Fit the factors with which a loss gives the program's losses; with an L2 penalty only if it is needed."""
    with np.errstate(all="ignore"):
        sums = np.array([float(np.sum(LOSSES[loss][0](p, target))) for p in predictions])
    if not np.all(np.isfinite(sums)) or not np.any(sums):
        return None
    weights = np.array([sum(float(np.sum(layer.matrix(d.values) ** 2)) for layer in layers) for d in draws])
    biases = np.array([sum(float(np.sum(layer.vector(d.values) ** 2)) for layer in layers) for d in draws])
    wanted = np.array(losses)
    best, least = None, tolerance * float(np.max(np.abs(wanted)))
    for columns in ([sums], [sums, weights], [sums, weights, biases]):
        table = np.stack(columns, axis=1)
        factors = np.linalg.lstsq(table, wanted, rcond=None)[0]
        error = float(np.max(np.abs(table @ factors - wanted)))
        if factors[0] > 0 and error <= least:
            best, least = LossScale(*(float(f) for f in factors)), 0.02 * error
    return best
