"""Derivatives of a loss along probes of one tensor, by differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LossOf = Callable[[dict[str, np.ndarray]], float]


@dataclass(frozen=True)
class Probed:
    """Derivatives of the loss that were measured along probes of a tensor, and those that its gradient predicts.

    Attributes
    ----------
    name : str
    value, given : ndarray
        The tensor and its gradient, of one shape.
    vectors : list of ndarray
        The probes, of the tensor's shape and of length 1: `entries` single entries, then directions.
    measured, expected : ndarray (probes,)
        By differences of the loss, and by the gradient.
    entries, kinks : int
        Probes of single entries, and probes that were left out because the loss has a kink there.
    tolerance, floor : float
        The relative error is |a - b| / (max(|a|, |b|) + floor).
    single : bool
        Whether the gradient was computed in less than float64.
    """

    name: str
    value: np.ndarray
    given: np.ndarray
    vectors: list[np.ndarray]
    measured: np.ndarray
    expected: np.ndarray
    entries: int
    kinks: int
    tolerance: float
    floor: float
    single: bool

    def errors(self, expected: np.ndarray) -> np.ndarray:
        """Return the relative error of each probe for other expected derivatives (probes,)."""
        n = np.abs(self.measured)
        with np.errstate(all="ignore"):
            return np.asarray(np.abs(self.measured - expected) / (np.maximum(n, np.abs(expected)) + self.floor))

    def error(self, expected: np.ndarray | None = None) -> float:
        """Return the largest relative error; NaN without probes or if the gradient is not finite."""
        return float(np.max(self.errors(self.expected if expected is None else expected))) if self.vectors else math.nan

    def fits(self, expected: np.ndarray) -> bool:
        """Whether other expected derivatives (probes,) agree with the measured ones."""
        return self.error(expected) <= self.tolerance

    def along(self, gradient: np.ndarray) -> np.ndarray:
        """Return the derivatives (probes,) that another gradient, of the tensor's shape, predicts."""
        return np.array([float(np.sum(gradient * vector)) for vector in self.vectors])


def unit_vectors(rng: np.random.Generator, value: np.ndarray, entries: int, directions: int) -> list[np.ndarray]:
    """Return unit vectors of the tensor's shape: single entries, then random directions."""
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


def slope(loss: LossOf, values: dict[str, np.ndarray], name: str, vector: np.ndarray, tolerance: float,
          size: float) -> float | None:
    """Measure the loss's derivative along a unit vector of one tensor; return None at a kink.

    The five-point formula is tried with three step lengths. A step is accepted if it and its half give the same
    derivative, and if the one-sided slopes converge as the step is halved, which they do not at a kink.

    >>> round(slope(lambda p: float(p["w"] @ p["w"]), {"w": np.array([3.0])}, "w", np.array([1.0]), 1e-5, 1.0), 6)
    6.0
    """
    start, seen = values[name], dict[float, float]()
    epsilon = float(np.finfo(start.dtype).eps)

    def along(t: float) -> float:
        if t not in seen:
            seen[t] = float(loss({**values, name: (start + t * vector).astype(start.dtype)}))
        return seen[t]

    def five_points(h: float) -> float:
        return (along(-2 * h) - along(2 * h) + 8.0 * (along(h) - along(-h))) / (12.0 * h)

    def bend(h: float) -> float:
        return abs(along(h) + along(-h) - 2.0 * along(0.0)) / h

    widest = epsilon ** (1 / 5) * max(1e-2, float(np.max(np.abs(start * vector), initial=0.0)))
    for h in (widest, widest / 4, widest / 16):  # shorter steps for a strongly curved loss or a kink nearby
        noise = 20.0 * epsilon * size / h
        wide, narrow = five_points(h), five_points(h / 2)
        near = 0.1 * tolerance * max(abs(wide), abs(narrow)) + noise
        if abs(wide - narrow) <= near and bend(h / 2) <= max(0.75 * bend(h), near):
            return narrow
    return None


def probe(loss: LossOf, values: dict[str, np.ndarray], name: str, given: np.ndarray, vectors: Sequence[np.ndarray],
          tolerance: float, size: float, single: bool) -> Probed:
    """Measure the loss along the probes of one tensor.

    Parameters
    ----------
    loss : callable
    values : dict of ndarray
        All parameters.
    name : str
        The tensor.
    given : ndarray
        Its gradient.
    vectors : sequence of ndarray
    tolerance : float
    size : float
        The size of the loss, at least 1, which limits the accuracy of differences.
    single : bool
        Whether the gradient was computed in less than float64.
    """
    epsilon = float(np.finfo(values[name].dtype).eps)
    slopes = [slope(loss, values, name, vector, tolerance, size) for vector in vectors]
    smooth = [vector for vector, found in zip(vectors, slopes, strict=True) if found is not None]
    n = np.array([found for found in slopes if found is not None])
    noise = 40.0 * epsilon * size / (epsilon ** (1 / 5) * 1e-2)
    floor = 1e-3 * float(np.max(np.abs(n), initial=0.0)) + noise / tolerance
    expected = np.array([float(np.sum(given * vector)) for vector in smooth])
    entries = sum(int(np.count_nonzero(vector) == 1) for vector in smooth)
    return Probed(name, values[name], given, smooth, n, expected, entries, len(vectors) - len(smooth), tolerance, floor,
                  single)


def widened(loss: LossOf, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the parameters in float64 if the loss then computes in float64, else as they are.

    The loss does so if a change in the third digit beyond float32's precision still changes it smoothly. It is
    evaluated slightly beside the parameters, which may themselves be at a kink.
    """
    wide = {name: value.astype(np.float64) for name, value in values.items()}
    if all(v.dtype == np.float64 for v in values.values()):
        return wide
    try:
        here, *near = (float(loss({n: v * (1.001 + t) + 0.001 + t for n, v in wide.items()}))
                       for t in (0.0, 1e-7, -1e-7, 1e-9))
    except Exception:  # the loss accepts float32 only
        return values
    moved = all(value != here and float(np.float32(value)) != value for value in near)
    smooth = abs(near[0] + near[1] - 2.0 * here) <= 1e-11 * max(1.0, abs(here))
    return wide if moved and smooth else values
