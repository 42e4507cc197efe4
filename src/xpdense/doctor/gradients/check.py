"""Gradient checks: the gradients that a program computes, compared with differences of its loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...backend import host
from ...data.arrays import prepared
from ...errors import ParameterError, ShapeError, positive_int
from ...layers import Layer
from ...losses import Loss, as_loss
from ...network import Network
from ...step import loss_and_gradients
from ..findings import Finding
from .classify import classify
from .probes import Probed, probe, unit_vectors, widened


@dataclass(frozen=True)
class TensorCheck:
    """The check of one tensor's gradient.

    Attributes
    ----------
    name : str
    relative_error : float
        The largest error of a probe, relative to the larger of the two values.
    cosine : float
        Between the vectors of given and measured derivatives: 1 if they have the same direction.
    norm_ratio : float
        The norm of the given derivatives over that of the measured ones.
    probes, kinks : int
        The number of entries and directions that were compared, and of those left out at kinks of the loss.
    tolerance : float
        For the relative error.
    finding : Finding, optional
        The first one that concerns this tensor.

    Examples
    --------
    >>> check = TensorCheck("w", relative_error=0.5, cosine=1.0, norm_ratio=0.5, probes=20, kinks=0, tolerance=1e-5)
    >>> check.ok
    False
    """

    name: str
    relative_error: float
    cosine: float
    norm_ratio: float
    probes: int
    kinks: int
    tolerance: float
    finding: Finding | None = None

    @property
    def ok(self) -> bool:
        """Whether the gradient was checked and is right."""
        return self.probes > 0 and self.relative_error <= self.tolerance and self.finding is None


@dataclass(frozen=True)
class GradientReport:
    """The checks of all tensors, and the findings; prints as a table followed by the findings.

    Attributes
    ----------
    tensors : tuple of TensorCheck
    findings : tuple of Finding
        One finding may concern several tensors.
    notes : tuple of str
        What could not be examined, and why.

    Examples
    --------
    >>> GradientReport((TensorCheck("w", 1e-9, 1.0, 1.0, probes=20, kinks=0, tolerance=1e-5),)).ok
    True
    """

    tensors: tuple[TensorCheck, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the gradients of all tensors are right."""
        return all(t.ok for t in self.tensors) and not self.findings

    def __str__(self) -> str:
        width = max(len(t.name) for t in self.tensors)
        head = f"{'tensor':{width}}  rel. error   cosine  norm ratio  probes  kinks"
        rows = (f"{t.name:{width}}  {t.relative_error:10.2e}  {t.cosine:7.4f}  {t.norm_ratio:10.4g}  "
                f"{t.probes:6d}  {t.kinks:5d}  {'ok' if t.ok else 'WRONG' if t.probes else 'not checked'}"
                for t in self.tensors)
        return "\n".join([head, *rows, *map(str, self.findings), *self.notes])


def check_gradients(loss: Callable[[dict[str, np.ndarray]], float], params: Mapping[str, Any], grads: Mapping[str, Any],
                    *, tolerance: float | None = None, entries: int = 20, directions: int = 2, seed: int = 0,
                    sizes: Mapping[str, int] | None = None,
                    again: Callable[[], Mapping[str, Any]] | None = None) -> GradientReport:
    """Compare gradients with differences of the loss, tensor by tensor.

    Each tensor is probed at single entries and along random directions, by the five-point formula
    (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12h. If steps of h and of h / 2 disagree for three lengths of h, the loss has
    a kink nearby, and the probe is left out and counted.

    Parameters
    ----------
    loss : callable
        `loss(params) -> float` of a dict of NumPy arrays, which it must not keep or change. Float32 parameters are
        passed as float64 if the loss then computes in float64, where differences are accurate.
    params, grads : mapping of arrays
        With equal names and shapes, of any array library.
    tolerance : float, optional
        For the relative error. Default: 1e-5 in float64; in float32 1e-3, or 2e-2 if the loss itself is float32.
    entries, directions : int
        Probes per tensor; a smaller tensor is probed at every entry.
    seed : int
        Of the choice of probes.
    sizes : mapping of names to int, optional
        Numbers that a missing or doubled factor may be, such as {"batch": 569, "features": 30, "outputs": 1}: a
        constant factor is then reported by its name. The sizes of the layers are known without it.
    again : callable, optional
        `again() -> grads` computes the gradients a second time at the same parameters. If the result differs from
        `grads`, the program keeps something from the first call.

    Returns
    -------
    GradientReport
        With a Finding for each wrong gradient, as far as differences of the loss and the other gradients can explain
        it. `explain_gradients` explains more, because it runs the program.

    Raises
    ------
    ParameterError, ShapeError
        The names, types or shapes of `params` and `grads` do not agree.

    Examples
    --------
    >>> w = np.array([1.0, 2.0])
    >>> check_gradients(lambda p: float(p["w"] @ p["w"]), {"w": w}, {"w": 2 * w}).ok
    True
    >>> report = check_gradients(lambda p: float(p["w"] @ p["w"]), {"w": w}, {"w": w})
    >>> report.ok, report.findings[0].cause
    (False, 'gradient_scale')
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
    single = {name: value.dtype != np.float64 for name, value in values.items()}
    values = widened(loss, values)
    rng, probed = np.random.default_rng(seed), {}
    size = max(1.0, abs(float(loss({**values}))))
    for name, value in values.items():
        usual = 2e-2 if value.dtype != np.float64 else 1e-3 if single[name] else 1e-5
        vectors = unit_vectors(rng, value, entries, directions)
        limit = tolerance if tolerance is not None else usual
        probed[name] = probe(loss, values, name, given[name], vectors, limit, size, single[name])
    second = None if again is None else {name: np.array(host(g), np.float64) for name, g in again().items()}
    by_tensor = classify(loss, probed, second, sizes or {}, size)
    found = tuple(dict.fromkeys(by_tensor.values()))
    return GradientReport(tuple(_check(p, by_tensor.get(name)) for name, p in probed.items()), found)


def _check(probed: Probed, finding: Finding | None) -> TensorCheck:
    n, g = probed.measured, probed.expected
    if not n.size:
        return TensorCheck(probed.name, math.nan, math.nan, math.nan, 0, probed.kinks, probed.tolerance, finding)
    with np.errstate(all="ignore"):
        norms = float(np.linalg.norm(n)), float(np.linalg.norm(g))
        cosine = float(n @ g / (norms[0] * norms[1])) if min(norms) > 0 else float(norms[0] == norms[1])
        ratio = norms[1] / norms[0] if norms[0] > 0 else 1.0 if norms[1] == 0 else math.inf
    return TensorCheck(probed.name, probed.error(), cosine, ratio, n.size, probed.kinks, probed.tolerance, finding)


def check_network(network: Network | Sequence[Layer], inputs: int | None = None, *, loss: str | Loss | None = None,
                  x: Any = None, y: Any = None, sample_weight: Any = None, rows: int = 6, backend: str = "numpy",
                  seed: int = 0, **options: Any) -> GradientReport:
    """Check the gradients of a network with its layers, activations and loss, custom ones included.

    A float64 network with the same layers and random weights is checked in training mode.

    Parameters
    ----------
    network : Network or list of Layer
    inputs : int
        Number of features; required if layers are given.
    loss : str or Loss
        Default: the loss of the network's last training, else squared_error.
    x, y, sample_weight : arrays, optional
        Default: random rows.
    rows : int
        Number of random rows.
    backend : str
    seed : int
        Of weights and data.
    **options
        Passed to check_gradients.

    Returns
    -------
    GradientReport

    Raises
    ------
    ParameterError
        Layers are given without `inputs`.

    Examples
    --------
    >>> from xpdense import Dense
    >>> check_network([Dense(5, "tanh"), Dense(2)], inputs=3, loss="softmax_cross_entropy").ok
    True
    """
    if isinstance(network, Network):
        copy = Network(network.layers, network.inputs, backend, "float64", seed)
    elif inputs is None:
        raise ParameterError("check_network needs inputs=, the number of features, if it is given layers")
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
    data = prepared(x, y, sample_weight, copy.spec(chosen))
    start = copy.arena.to_host()
    params = {n: start[n] + 0.1 * rng.standard_normal(start[n].shape) for n in copy.params}  # no bias is exactly zero

    def value(values: Mapping[str, np.ndarray]) -> float:
        for name, array in values.items():
            copy.arena.write(name, array)
        return float(chosen(copy.ops, copy.forward(data.x, train=True), data.y, data.weight)[0])

    value(params)
    copy.arena.grads[...] = 1.0  # backward must overwrite what is there
    loss_and_gradients(copy, chosen, data)
    grads = {name: np.array(copy.backend.to_host(g)) for name, g in copy.grads.items()}
    return check_gradients(value, params, grads, **options)
