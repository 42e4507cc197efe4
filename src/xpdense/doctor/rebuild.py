"""The inside of a program, rebuilt: which activations and which loss make what it predicts of its weights.

Nothing is taken on trust: weights are drawn and written into the program, and an explanation holds only if it
reproduces what the program then says.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..activations import ACTIVATIONS
from .chain import Link, chains
from .program import Subject

USUAL = ("sigmoid", "tanh", "relu", "leaky_relu", "identity")
MIXED = 4  # hidden layers of which every mixture of the usual activations is tried
DRAWS = 6


def activate(name: str, z: np.ndarray) -> np.ndarray:
    """An activation, or softmax, of z (rows, units); "sigmoid of sigmoid" is one after the other."""
    outer, _, inner = name.partition(" of ")
    if inner:
        return activate(outer, activate(inner, z))
    if name == "softmax":
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return np.asarray(e / e.sum(axis=1, keepdims=True))
    return np.asarray(ACTIVATIONS[name].forward(np, z))


def derivative(name: str, z: np.ndarray) -> np.ndarray:
    """An activation's derivative at z (rows, units).

    >>> float(derivative("sigmoid", np.zeros((1, 1)))[0, 0])
    0.25
    """
    one = ACTIVATIONS[name]
    return np.asarray(one.derivative(np, z if one.saves == "input" else one.forward(np, z)))


def through(name: str, z: np.ndarray, da: np.ndarray) -> np.ndarray:
    """The gradient of z (rows, units) from that of the activation, or softmax, of z."""
    outer, _, inner = name.partition(" of ")
    if inner:
        return through(inner, z, through(outer, activate(inner, z), da))
    if name == "softmax":
        p = activate(name, z)
        return np.asarray(p * (da - (da * p).sum(axis=1, keepdims=True)))
    return np.asarray(da * derivative(name, z))


def _binary(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(-y * np.log(p) - (1.0 - y) * np.log(1.0 - p))


Elementwise = Callable[[np.ndarray, np.ndarray], np.ndarray]

#: name -> its value at each output (rows, outputs), and the derivative by the prediction
FORMS: dict[str, tuple[Elementwise, Elementwise]] = {
    "binary cross-entropy": (_binary, lambda p, y: (p - y) / (p * (1.0 - p))),
    "cross-entropy": (lambda p, y: -y * np.log(p), lambda p, y: -y / p),
    "squared error": (lambda p, y: (p - y) ** 2, lambda p, y: 2.0 * (p - y)),
    "absolute error": (lambda p, y: np.abs(p - y), lambda p, y: np.sign(p - y)),
}
LINKS = {"binary cross-entropy": ("sigmoid", "sigmoid of sigmoid"),
         "cross-entropy": ("softmax", "sigmoid", "softmax of softmax"),
         "squared error": ("identity", "sigmoid", "softmax", "tanh", "relu"),
         "absolute error": ("identity", "sigmoid", "softmax", "tanh", "relu")}


@dataclass(frozen=True)
class Weighing:
    """How a number of rows is weighed: loss = factor * sum of the form + weights * sum(W²) + biases * sum(b²)."""

    factor: float
    weights: float = 0.0
    biases: float = 0.0


@dataclass(frozen=True)
class Inside:
    """What a program computes.

    Attributes
    ----------
    chain : tuple of Link
    hidden : tuple of str
        The activations of all layers but the last.
    link : str
        What the loss takes of the last layer's z.
    form : str
        The loss, a key of FORMS.
    one, many : Weighing
        Of one row, and of the sample's `rows`.
    rows : int
    """

    chain: tuple[Link, ...]
    hidden: tuple[str, ...]
    link: str
    form: str
    one: Weighing
    many: Weighing
    rows: int

    def forward(self, values: Mapping[str, np.ndarray], x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """z of every layer, and the input of every layer, the prediction last."""
        return forward(self.chain, (*self.hidden, self.link), values, x)

    def factor(self, rows: int) -> float:
        """Of the form's sum over so many rows: a mean has 1/rows of that of one."""
        power = np.log(self.many.factor / self.one.factor) / np.log(self.rows)
        return float(self.one.factor * rows ** round(float(power)))

    def right(self, values: Mapping[str, np.ndarray], x: np.ndarray, target: np.ndarray) -> dict[str, np.ndarray]:
        """The gradients that belong to the loss, named and shaped as the parameters."""
        z, a = self.forward(values, x)
        if (self.form, self.link) == ("binary cross-entropy", "sigmoid"):
            dz = a[-1] - target
        elif (self.form, self.link) == ("cross-entropy", "softmax"):
            dz = a[-1] * target.sum(axis=1, keepdims=True) - target
        else:
            dz = through(self.link, z[-1], FORMS[self.form][1](a[-1], target))
        dz = dz * self.factor(len(x))
        grads = {}
        for k in range(len(self.chain) - 1, -1, -1):
            link = self.chain[k]
            matrix = link.matrix(values)
            dweight = a[k].T @ dz + 2.0 * self.many.weights * matrix
            grads[link.weight] = dweight.T if link.transposed else dweight
            if link.bias is not None:
                dbias = dz.sum(axis=0) + 2.0 * self.many.biases * link.vector(values)
                grads[link.bias] = dbias.reshape(values[link.bias].shape)
            if k:
                dz = (dz @ matrix.T) * derivative(self.hidden[k - 1], z[k - 1])
        return grads


def forward(chain: tuple[Link, ...], activations: tuple[str, ...], values: Mapping[str, np.ndarray],
            x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    zs, a = [], [x]
    for link, name in zip(chain, activations, strict=True):
        zs.append(a[-1] @ link.matrix(values) + link.vector(values))
        a.append(activate(name, zs[-1]))
    return zs, a


def draw(rng: np.random.Generator, chain: tuple[Link, ...], params: Mapping[str, np.ndarray],
         x: np.ndarray) -> dict[str, np.ndarray]:
    """Weights at which nothing is saturated and little is zero, named and shaped as the parameters."""
    spread = np.sqrt(np.mean(x * x, axis=0)) + 1e-12
    values = {}
    for k, link in enumerate(chain):
        matrix = rng.standard_normal((link.inputs, link.units)) * np.sqrt(1.5 / link.inputs)
        matrix = matrix / spread[:, None] if k == 0 else matrix
        like = params[link.weight]
        values[link.weight] = (matrix.T if link.transposed else matrix).astype(like.dtype)
        if link.bias is not None:
            like = params[link.bias]
            values[link.bias] = (0.3 * rng.standard_normal(link.units)).reshape(like.shape).astype(like.dtype)
    return values


def targets(y: np.ndarray, outputs: int) -> np.ndarray | None:
    """y as (rows, outputs): as it is, or class numbers as one-hot rows.

    >>> targets(np.array([0, 2]), 3).tolist()
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
    """Drawn weights, and what the program says at them."""

    values: dict[str, np.ndarray]
    predicted: np.ndarray | None
    loss_of_many: float
    loss_of_one: float


def look_inside(subject: Subject, x: np.ndarray, y: np.ndarray, seed: int = 0) -> Inside | str:
    """What the program computes, or why that cannot be seen; it is left with other weights.

    Parameters
    ----------
    subject : Subject
        Has params, predict, loss.
    x : ndarray (rows, features)
    y : ndarray
        As the program takes it.
    """
    params, x_wide = subject.params(), np.asarray(x, np.float64)
    tolerance = 1e-7 if all(p.dtype == np.float64 for p in params.values()) else 2e-4
    reasons = ["its parameters are not those of a chain of dense layers"]
    for chain in chains({name: p.shape for name, p in params.items()}):
        target = targets(y, chain[-1].units)
        if chain[0].inputs != x.shape[1]:
            reasons.append(f"{chain[0].weight} does not take the {x.shape[1]} features")
        elif target is None:
            reasons.append(f"y is not a target of {chain[-1].units} outputs")
        else:
            draws = _draws(subject, chain, params, x, y, seed)
            found = _explain(chain, draws, x_wide, target, tolerance)
            if not isinstance(found, str):
                return found
            reasons.append(found)
    return reasons[-1]


def _draws(subject: Subject, chain: tuple[Link, ...], params: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray,
           seed: int) -> list[_Draw]:
    rng, found = np.random.default_rng([seed, 7]), []
    for _ in range(DRAWS):
        values = draw(rng, chain, params, np.asarray(x, np.float64))
        subject.write(values)
        predicted = np.asarray(subject.predict(x)) if "predict" in subject.can else None
        found.append(_Draw(values, predicted, subject.loss(x, y), subject.loss(x[:1], y[:1])))
    return found


def _mixtures(layers: int) -> Iterator[tuple[str, ...]]:
    """Activations of the hidden layers, the likeliest first."""
    yield from ((name,) * layers for name in (*USUAL, *(name for name in ACTIVATIONS if name not in USUAL)))
    if 1 < layers <= MIXED:
        yield from (names for names in itertools.product(USUAL, repeat=layers) if len(set(names)) > 1)


def _explain(chain: tuple[Link, ...], draws: list[_Draw], x: np.ndarray, target: np.ndarray,
             tolerance: float) -> Inside | str:
    """The first mixture of activations, and loss, that reproduces all draws."""
    reason = "no usual activations make the predictions of the weights"
    for hidden in _mixtures(len(chain) - 1) if len(chain) > 1 else [()]:
        last = [forward(chain, (*hidden, "identity"), d.values, x)[0][-1] for d in draws]
        predicts = draws[0].predicted is not None and draws[0].predicted.shape == last[0].shape and any(
            all(_near(activate(name, z), d.predicted, tolerance) for z, d in zip(last, draws, strict=True))
            for name in ("identity", "softmax", "sigmoid", "tanh", "relu"))
        labels = draws[0].predicted is None or all(np.all(d.predicted == np.round(d.predicted)) for d in draws
                                                   if d.predicted is not None)
        if not predicts and not labels:
            continue
        if predicts:
            reason = "its predictions are reproduced, its loss is none that is known"
        for form, links in LINKS.items():
            for link in links:
                p = [activate(link, z) for z in last]
                near = max(5.0 * tolerance, 1e-5) if predicts else tolerance  # of log(p + 1e-8)
                many = _weighing(form, p, target, [d.loss_of_many for d in draws], chain, draws, near)
                one = _weighing(form, [q[:1] for q in p], target[:1], [d.loss_of_one for d in draws], chain, draws,
                                near)
                if many is not None and one is not None:
                    return Inside(chain, hidden, link, form, one, many, len(x))
    return reason


def _near(a: np.ndarray, b: np.ndarray | None, tolerance: float) -> bool:
    return b is not None and bool(np.max(np.abs(a - b)) <= tolerance * max(1.0, float(np.max(np.abs(b)))))


def _weighing(form: str, predictions: list[np.ndarray], target: np.ndarray, losses: list[float],
              chain: tuple[Link, ...], draws: list[_Draw], tolerance: float) -> Weighing | None:
    """The factors that make the losses of this form's sums, with an L2 penalty if it must be."""
    with np.errstate(all="ignore"):
        sums = np.array([float(np.sum(FORMS[form][0](p, target))) for p in predictions])
    if not np.all(np.isfinite(sums)) or not np.any(sums):
        return None
    weights = np.array([sum(float(np.sum(link.matrix(d.values) ** 2)) for link in chain) for d in draws])
    biases = np.array([sum(float(np.sum(link.vector(d.values) ** 2)) for link in chain) for d in draws])
    wanted = np.array(losses)
    best, least = None, tolerance * float(np.max(np.abs(wanted)))
    for columns in ([sums], [sums, weights], [sums, weights, biases]):
        table = np.stack(columns, axis=1)
        factors = np.linalg.lstsq(table, wanted, rcond=None)[0]
        off = float(np.max(np.abs(table @ factors - wanted)))
        if factors[0] > 0 and off <= least:
            best, least = Weighing(*(float(f) for f in factors)), 0.02 * off
    return best
