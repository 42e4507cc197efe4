"""Gradient checks: the gradients that a program computes, against differences of its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend import host
from ..data.arrays import prepared
from ..errors import ParameterError, ShapeError, positive_int
from ..layers import Layer
from ..losses import Loss, as_loss
from ..network import Network


@dataclass(frozen=True)
class TensorCheck:
    """What was found of one tensor.

    Attributes
    ----------
    name : str
    relative_error : float
        Largest error of a probe, relative to the larger of its two values.
    cosine : float
        Between the two vectors of probes: 1 where they point the same way.
    norm_ratio : float
        Norm of the given gradient's probes over that of the measured ones.
    probes, kinks : int
        How many entries and directions were compared, and how many were left out because the loss has a kink there.
    tolerance : float
    """

    name: str
    relative_error: float
    cosine: float
    norm_ratio: float
    probes: int
    kinks: int
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.probes > 0 and self.relative_error <= self.tolerance


@dataclass(frozen=True)
class GradientReport:
    """The checks of all tensors; prints as a table.

    Attributes
    ----------
    tensors : tuple of TensorCheck
    """

    tensors: tuple[TensorCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every tensor's gradient is right."""
        return all(t.ok for t in self.tensors)

    def __str__(self) -> str:
        width = max(len(t.name) for t in self.tensors)
        head = f"{'tensor':{width}}  rel. error   cosine  norm ratio  probes  kinks"
        return "\n".join([head, *(
            f"{t.name:{width}}  {t.relative_error:10.2e}  {t.cosine:7.4f}  {t.norm_ratio:10.4g}  "
            f"{t.probes:6d}  {t.kinks:5d}  {'ok' if t.ok else 'WRONG'}" for t in self.tensors
        )])


def check_gradients(loss: Callable[[dict[str, np.ndarray]], float], params: Mapping[str, Any], grads: Mapping[str, Any],
                    *, tolerance: float | None = None, entries: int = 20, directions: int = 2,
                    seed: int = 0) -> GradientReport:
    """Compare gradients with differences of the loss, tensor by tensor.

    Each tensor is probed at single entries and along random directions, by the five-point formula
    (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h. Where steps of h and of h / 2 disagree, for three lengths of h, the loss
    has a kink in reach, and the probe is left out and counted.

    Parameters
    ----------
    loss : callable
        `loss(params) -> float` of a dict of NumPy arrays; must not keep or change them.
    params, grads : mapping of arrays
        Of equal names and shapes, of any namespace.
    tolerance : float, optional
        For the relative error; default 1e-5 in float64, 2e-2 in float32.
    entries, directions : int
        Probes per tensor; a smaller tensor is probed at every entry.
    seed : int

    Returns
    -------
    GradientReport

    Raises
    ------
    ShapeError, ParameterError

    >>> w = np.array([1.0, 2.0])
    >>> check_gradients(lambda p: float(p["w"] @ p["w"]), {"w": w}, {"w": 2 * w}).ok
    True
    >>> check_gradients(lambda p: float(p["w"] @ p["w"]), {"w": w}, {"w": w}).ok
    False
    """
    values = {name: np.array(host(p)) for name, p in params.items()}
    given = {name: np.array(host(g), np.float64) for name, g in grads.items()}
    if values.keys() != given.keys() or not values:
        raise ParameterError(f"params and grads must have the same names, got {sorted(values)} and {sorted(given)}")
    for name, value in values.items():
        if value.dtype.kind != "f":
            raise ParameterError(f"{name} must be an array of floats, got {value.dtype}")
        if value.shape != given[name].shape:
            raise ShapeError(f"{name} has shape {value.shape}, its gradient {given[name].shape}")
    entries, directions = positive_int("entries", entries), positive_int("directions", directions, 0)
    rng = np.random.default_rng(seed)
    checks = []
    for name, value in values.items():
        precise = value.dtype == np.float64
        limit = tolerance if tolerance is not None else 1e-5 if precise else 2e-2
        checks.append(_check_tensor(loss, values, name, given[name], _probes(rng, value, entries, directions), limit))
    return GradientReport(tuple(checks))


def _probes(rng: np.random.Generator, value: np.ndarray, entries: int, directions: int) -> list[np.ndarray]:
    """Unit vectors of the tensor's shape: single entries, then random directions."""
    chosen = np.arange(value.size) if value.size <= entries else np.sort(rng.choice(value.size, entries, replace=False))
    vectors = []
    for i in chosen:
        vector = np.zeros(value.size)
        vector[i] = 1.0
        vectors.append(vector.reshape(value.shape))
    for _ in range(directions if value.size > 1 else 0):
        vector = rng.standard_normal(value.shape)
        vectors.append(vector / np.linalg.norm(vector))
    return vectors


def _check_tensor(loss: Callable[[dict[str, np.ndarray]], float], values: dict[str, np.ndarray], name: str,
                  given: np.ndarray, probes: Sequence[np.ndarray], tolerance: float) -> TensorCheck:
    start = values[name]
    epsilon = float(np.finfo(start.dtype).eps)

    def along(vector: np.ndarray, t: float) -> float:
        return float(loss({**values, name: (start + t * vector).astype(start.dtype)}))

    def slope(vector: np.ndarray, h: float) -> float:
        far = along(vector, -2 * h) - along(vector, 2 * h)
        return (far + 8.0 * (along(vector, h) - along(vector, -h))) / (12.0 * h)

    size = max(1.0, abs(along(np.zeros_like(given), 0.0)))
    measured, expected, kinks = [], [], 0
    for vector in probes:
        widest = epsilon ** (1 / 5) * max(1e-2, float(np.max(np.abs(start * vector), initial=0.0)))
        for h in (widest, widest / 4, widest / 16):  # shorter where the loss is strongly curved, or a kink is near
            noise = 20.0 * epsilon * size / h
            wide, narrow = slope(vector, h), slope(vector, h / 2)
            if abs(wide - narrow) <= 0.1 * tolerance * max(abs(wide), abs(narrow)) + noise:
                break
        else:
            kinks += 1
            continue
        measured.append(narrow)
        expected.append(float(np.sum(given * vector)))
    n, g = np.array(measured), np.array(expected)
    if not n.size:
        return TensorCheck(name, math.nan, math.nan, math.nan, 0, kinks, tolerance)
    floor = 1e-3 * float(np.max(np.abs(n))) + 40.0 * epsilon * size / (epsilon ** (1 / 5) * 1e-2) / tolerance
    with np.errstate(all="ignore"):
        error = float(np.max(np.abs(n - g) / (np.maximum(np.abs(n), np.abs(g)) + floor)))
        norms = float(np.linalg.norm(n)), float(np.linalg.norm(g))
        cosine = float(n @ g / (norms[0] * norms[1])) if min(norms) > 0 else float(norms[0] == norms[1])
        ratio = norms[1] / norms[0] if norms[0] > 0 else 1.0 if norms[1] == 0 else math.inf
    return TensorCheck(name, error, cosine, ratio, n.size, kinks, tolerance)


def check_network(network: Network | Sequence[Layer], inputs: int | None = None, *, loss: str | Loss | None = None,
                  x: Any = None, y: Any = None, sample_weight: Any = None, rows: int = 6, backend: str = "numpy",
                  seed: int = 0, **options: Any) -> GradientReport:
    """Check the gradients of a network, its layers, activations and loss: yours among them.

    A network of the same layers is made in float64, its weights drawn by the seed, and checked in training mode on x
    and y, which are drawn at random where they are not given.

    Parameters
    ----------
    network : Network or list of Layer
    inputs : int
        Number of features, where layers are given.
    loss : str or Loss
        Default: that of the network's last training, else squared_error.
    x, y, sample_weight : arrays, optional
    rows : int
        How many random rows.
    backend : str
    seed : int
        Of weights and data.
    **options
        For check_gradients.

    >>> from xpdense import Dense
    >>> check_network([Dense(5, "tanh"), Dense(2)], inputs=3, loss="softmax_cross_entropy").ok
    True
    """
    if isinstance(network, Network):
        copy = Network(network.layers, network.inputs, backend, "float64", seed)
    elif inputs is None:
        raise ParameterError("check_network needs inputs=, the number of features, where it is given layers")
    else:
        copy = Network(network, inputs, backend, "float64", seed)
    chosen = as_loss(loss or getattr(network, "loss", None) or "squared_error")
    with copy.backend.active():
        return _check_copy(copy, chosen, x, y, sample_weight, rows, seed, options)


def _check_copy(copy: Network, chosen: Loss, x: Any, y: Any, sample_weight: Any, rows: int, seed: int,
                options: dict[str, Any]) -> GradientReport:
    rng = np.random.default_rng([seed, 3])
    x = rng.standard_normal((rows, copy.inputs)) if x is None else x
    y = chosen.sample_target(rng, len(x), copy.outputs) if y is None else y
    data = prepared(x, y, sample_weight, copy, chosen)
    start = copy.arena.to_host()
    params = {n: start[n] + 0.1 * rng.standard_normal(start[n].shape) for n in copy.params}  # no bias is exactly zero

    def value_and_gradient(values: Mapping[str, np.ndarray]) -> tuple[Any, Any]:
        for name, value in values.items():
            copy.arena.write(name, value)
        return chosen(copy.ops, copy.forward(data.x, train=True), data.y, data.weight)

    _, dz = value_and_gradient(params)
    copy.arena.grads[...] = 1.0  # backward must overwrite what is there
    copy.backward(dz)
    grads = {name: np.array(copy.backend.to_host(g)) for name, g in copy.grads.items()}
    return check_gradients(lambda values: float(value_and_gradient(values)[0]), params, grads, **options)
