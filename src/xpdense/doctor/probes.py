"""Differences of a loss along probes of one tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

LossOf = Callable[[dict[str, np.ndarray]], float]


@dataclass(frozen=True)
class Probed:
    """What was measured of one tensor, and what its given gradient says of the same.

    Attributes
    ----------
    name : str
    value, given : ndarray
        The tensor and its gradient, of one shape.
    vectors : list of ndarray
        The probes, of the tensor's shape and of length 1: `entries` single entries, then directions.
    measured, expected : ndarray (probes,)
    entries, kinks : int
    tolerance, floor : float
        An error is |a - b| / (max(|a|, |b|) + floor).
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
        """The error of each probe, had the gradient said `expected` (probes,)."""
        n = np.abs(self.measured)
        with np.errstate(all="ignore"):
            return np.asarray(np.abs(self.measured - expected) / (np.maximum(n, np.abs(expected)) + self.floor))

    def error(self, expected: np.ndarray | None = None) -> float:
        """The largest one; NaN without probes or where the gradient is not finite."""
        return float(np.max(self.errors(self.expected if expected is None else expected))) if self.vectors else math.nan

    def fits(self, expected: np.ndarray) -> bool:
        return self.error(expected) <= self.tolerance

    def along(self, gradient: np.ndarray) -> np.ndarray:
        """What another gradient, of the tensor's shape, would say (probes,)."""
        return np.array([float(np.sum(gradient * vector)) for vector in self.vectors])


def unit_vectors(rng: np.random.Generator, value: np.ndarray, entries: int, directions: int) -> list[np.ndarray]:
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


def slope(loss: LossOf, values: dict[str, np.ndarray], name: str, vector: np.ndarray, tolerance: float,
          size: float) -> float | None:
    """The loss's derivative along a unit vector of one tensor; None at a kink.

    By the five-point formula, for three lengths of the step: one serves if it and its half agree, and if the slopes to
    both sides come together as it is halved, which at a kink they do not.

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
    for h in (widest, widest / 4, widest / 16):  # shorter where the loss is strongly curved, or a kink is near
        noise = 20.0 * epsilon * size / h
        wide, narrow = five_points(h), five_points(h / 2)
        near = 0.1 * tolerance * max(abs(wide), abs(narrow)) + noise
        if abs(wide - narrow) <= near and bend(h / 2) <= max(0.75 * bend(h), near):
            return narrow
    return None


def probe(loss: LossOf, values: dict[str, np.ndarray], name: str, given: np.ndarray, vectors: Sequence[np.ndarray],
          tolerance: float, size: float, single: bool) -> Probed:
    """One tensor's measurement; `size` is that of the loss, at least 1, and says how exact differences can be."""
    epsilon = float(np.finfo(values[name].dtype).eps)
    kept, measured, entries = [], [], 0
    for vector in vectors:
        found = slope(loss, values, name, vector, tolerance, size)
        if found is not None:
            kept.append(vector)
            measured.append(found)
            entries += int(np.count_nonzero(vector) == 1)
    n = np.array(measured)
    noise = 40.0 * epsilon * size / (epsilon ** (1 / 5) * 1e-2)
    floor = 1e-3 * float(np.max(np.abs(n), initial=0.0)) + noise / tolerance
    expected = np.array([float(np.sum(given * vector)) for vector in kept])
    return Probed(name, values[name], given, kept, n, expected, entries, len(vectors) - len(kept), tolerance, floor,
                  single)


def widened(loss: LossOf, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters in float64, if the loss then computes in float64; else as they are.

    It does where the third digit behind float32's last one still moves it, and smoothly; seen a little beside the
    parameters, for they may be at a kink themselves.
    """
    wide = {name: value.astype(np.float64) for name, value in values.items()}
    if all(v.dtype == np.float64 for v in values.values()):
        return wide
    try:
        here, *near = (float(loss({n: v * (1.001 + t) + 0.001 + t for n, v in wide.items()}))
                       for t in (0.0, 1e-7, -1e-7, 1e-9))
    except Exception:  # a loss that takes float32 alone
        return values
    moved = all(value != here and float(np.float32(value)) != value for value in near)
    smooth = abs(near[0] + near[1] - 2.0 * here) <= 1e-11 * max(1.0, abs(here))
    return wide if moved and smooth else values
