"""Recovery of each layer's dz from the gradients of single rows.

The gradient of a layer's weights on one row is the outer product of the layer's inputs and dz: with the inputs known,
dz can be computed, and with it how each layer made its dz from that of the next layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..program import Subject


class Gradients:
    """A program's gradients at given parameters, independent of what its calls leave behind.

    Attributes
    ----------
    accumulated : set of str
        Tensors for which a second call gives the sum of both; the difference between two calls is taken instead.
    unsteady : set of str
        Tensors for which it gives another result.
    moved : set of str
        Parameters that computing the gradients changes.
    """

    def __init__(self, subject: Subject, values: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray,
                 tolerance: float) -> None:
        self.subject, self.values, self.accumulated = subject, values, set[str]()
        first, second, third = (self._call(x, y) for _ in range(3))
        after = subject.params()
        self.moved = {name for name, value in values.items() if not np.array_equal(after[name], value)}
        self.unsteady = set[str]()
        for name, g in first.items():
            scale = max(float(np.max(np.abs(third[name]), initial=0.0)), 1e-300)
            steps = second[name] - g, third[name] - second[name]
            if np.max(np.abs(steps[0]), initial=0.0) <= tolerance * scale:
                continue
            steady = np.max(np.abs(steps[1] - steps[0]), initial=0.0) <= tolerance * scale
            (self.accumulated if steady else self.unsteady).add(name)

    def _call(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        self.subject.write(self.values)
        return self.subject.gradients(x, y)

    def __call__(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        found = self._call(x, y)
        if not self.accumulated:
            return found
        more = self._call(x, y)
        return {name: more[name] - g if name in self.accumulated else g for name, g in found.items()}


@dataclass(frozen=True)
class Recovered:
    """A layer's dz, as the program computes it.

    Attributes
    ----------
    dz : ndarray (rows, units), optional
        None if nothing explains the gradients of the weights.
    how : str
        What the gradients are if they are not inputs ⊗ dz; empty if they are.
    penalty : float
        The multiple of the weights that is added to them.
    transposed : bool
        Whether they are laid out as (units, inputs), against the weights.
    left : ndarray (rows, inputs)
        What dz is multiplied with.
    """

    dz: np.ndarray | None
    how: str
    penalty: float
    transposed: bool
    left: np.ndarray


def recover_dz(weights: np.ndarray, matrix: np.ndarray, inputs: np.ndarray, others: Mapping[str, np.ndarray],
               tolerance: float) -> Recovered:
    """Recover dz of a layer.

    Parameters
    ----------
    weights : ndarray (rows, inputs, units)
        The gradients of the weights, each of a single row.
    matrix : ndarray (inputs, units)
        The weights.
    inputs : ndarray (rows, inputs)
    others : mapping of descriptions to arrays (rows, inputs)
        What the program may use instead of the inputs.
    tolerance : float

    >>> a, dz = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0, 5.0]])
    >>> recover_dz(a[:, :, None] * dz[:, None, :], np.ones((2, 3)), a, {}, 1e-6).dz.tolist()
    [[3.0, 4.0, 5.0]]
    """
    for transposed, g in _layouts(weights):
        for how, left in {"": inputs, **others}.items():
            if how and transposed:
                continue
            for penalty in (0.0, _penalty(g, matrix, left)):
                dz = _factor(g - penalty * matrix, left, tolerance)
                if dz is not None:
                    return Recovered(dz, "they are transposed" if transposed else how, penalty, transposed, left)
    return Recovered(None, "", 0.0, False, inputs)


def _layouts(weights: np.ndarray) -> Iterator[tuple[bool, np.ndarray]]:
    """Yield the gradients as they are, and read as (units, inputs)."""
    rows, inputs, units = weights.shape
    yield False, weights
    if min(inputs, units) > 1:
        yield True, weights.transpose(0, 2, 1) if inputs == units else \
            weights.reshape(rows, units, inputs).transpose(0, 2, 1)


def _factor(g: np.ndarray, left: np.ndarray, tolerance: float) -> np.ndarray | None:
    """Return dz (rows, units) of g = left ⊗ dz, or None if g is no such product."""
    square = np.sum(left * left, axis=1)
    dz = np.einsum("ri,riu->ru", left, g) / np.maximum(square, 1e-300)[:, None]
    error = np.max(np.abs(g - left[:, :, None] * dz[:, None, :]))
    return dz if error <= tolerance * np.max(np.abs(g)) else None


def _penalty(g: np.ndarray, matrix: np.ndarray, left: np.ndarray) -> float:
    """Return the multiple of the weights without which g is most nearly left ⊗ dz."""
    unit = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-300)

    def orthogonal(t: np.ndarray) -> np.ndarray:
        return np.asarray(t - unit[:, :, None] * np.einsum("ri,riu->ru", unit, t)[:, None, :])

    across = orthogonal(np.broadcast_to(matrix, g.shape))
    size = float(np.sum(across * across))
    return float(np.sum(across * orthogonal(g)) / size) if size > 1e-12 else 0.0
