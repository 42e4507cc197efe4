"""What a program's backward pass holds inside, read from the gradients of single rows.

Of one row the gradient of a layer's weights is the outer product of the layer's input and of dz: known the one, the
other can be read off, and with it how each layer made its dz of the next one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from .chain import Link
from .program import Subject


class Gradients:
    """A program's gradients at given parameters, whatever its calls leave behind.

    Attributes
    ----------
    accumulated : set of str
        Tensors of which a second call gives the sum of both; what one call adds is taken.
    unsteady : set of str
        Those of which it gives something else again.
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
class Reading:
    """A layer's dz, as the program has it.

    Attributes
    ----------
    dz : ndarray (rows, units), optional
        None where nothing explains the gradients of the weights.
    how : str
        Empty where they are inputs ⊗ dz; else words for what they are.
    penalty : float
        The multiple of the weights that is added to them.
    shape : str
        "transposed" or "reshaped" where that is what is wrong.
    left : ndarray (rows, inputs)
        What dz is multiplied with.
    """

    dz: np.ndarray | None
    how: str
    penalty: float
    shape: str
    left: np.ndarray


def read(weights: np.ndarray, matrix: np.ndarray, inputs: np.ndarray, others: Mapping[str, np.ndarray],
         tolerance: float) -> Reading:
    """dz of a layer.

    Parameters
    ----------
    weights : ndarray (rows, inputs, units)
        The gradient of the weights of each row alone.
    matrix : ndarray (inputs, units)
        The weights.
    inputs : ndarray (rows, inputs)
    others : mapping of words to arrays (rows, inputs)
        What the program may use in place of the inputs.

    >>> a, dz = np.array([[1.0, 2.0]]), np.array([[3.0, 4.0, 5.0]])
    >>> read(a[:, :, None] * dz[:, None, :], np.ones((2, 3)), a, {}, 1e-6).dz.tolist()
    [[3.0, 4.0, 5.0]]
    """
    for shape, g in _shapes(weights):
        for how, left in {"": inputs, **others}.items():
            if how and shape:
                continue
            for rate in (0.0, _penalty(g, matrix, left)):
                dz = _factor(g - rate * matrix, left, tolerance)
                if dz is not None:
                    return Reading(dz, how or (f"they are {shape}" if shape else ""), rate, shape, left)
    return Reading(None, "", 0.0, "", inputs)


def _shapes(weights: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    rows, inputs, units = weights.shape
    yield "", weights
    if min(inputs, units) > 1:
        yield "transposed", weights.transpose(0, 2, 1) if inputs == units else \
            weights.reshape(rows, units, inputs).transpose(0, 2, 1)


def _factor(g: np.ndarray, left: np.ndarray, tolerance: float) -> np.ndarray | None:
    """dz (rows, units) of g = left ⊗ dz, if g is that."""
    square = np.sum(left * left, axis=1)
    dz = np.einsum("ri,riu->ru", left, g) / np.maximum(square, 1e-300)[:, None]
    off = np.max(np.abs(g - left[:, :, None] * dz[:, None, :]))
    return dz if off <= tolerance * np.max(np.abs(g)) else None


def _penalty(g: np.ndarray, matrix: np.ndarray, left: np.ndarray) -> float:
    """The multiple of the weights without which g is the likeliest to be left ⊗ dz."""
    unit = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), 1e-300)

    def beside(t: np.ndarray) -> np.ndarray:
        return np.asarray(t - unit[:, :, None] * np.einsum("ri,riu->ru", unit, t)[:, None, :])

    across = beside(np.broadcast_to(matrix, g.shape))
    size = float(np.sum(across * across))
    return float(np.sum(across * beside(g)) / size) if size > 1e-12 else 0.0


def rows_of(link: Link, found: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of single rows, of a layer's weights (rows, inputs, units) and of its bias (rows, units)."""
    return np.stack([link.matrix(g) for g in found]), np.stack([link.vector(g) for g in found])
