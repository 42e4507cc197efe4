"""Dense layers, found from the names and shapes of weights and biases."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_WORDS = r"weights?|kernels?|coefs?|thetas?|biases|bias|intercepts?|beta|w|b|k"
_TOKEN = re.compile(rf"(?<![a-z])(?:{_WORDS})(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class DenseLayer:
    """The names of a dense layer's parameters, and the layout of its weights.

    Attributes
    ----------
    weight : str
    bias : str, optional
    inputs, units : int
    transposed : bool
        Whether the weights have the shape (units, inputs).

    >>> layer = DenseLayer("W1", "b1", inputs=3, units=2, transposed=True)
    >>> layer.names, layer.matrix({"W1": np.zeros((2, 3))}).shape
    ('W1, b1', (3, 2))
    """

    weight: str
    bias: str | None
    inputs: int
    units: int
    transposed: bool

    @property
    def names(self) -> str:
        """The names of the parameters, separated by a comma."""
        return self.weight if self.bias is None else f"{self.weight}, {self.bias}"

    def matrix(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the weights, or their gradient, as (inputs, units) in float64."""
        value = np.asarray(arrays[self.weight], np.float64)
        return value.T if self.transposed else value

    def vector(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the bias, or its gradient, as (units,) in float64; zeros for a layer without a bias."""
        if self.bias is None:
            return np.zeros(self.units)
        return np.asarray(arrays[self.bias], np.float64).reshape(-1)

    def as_weight(self, matrix: np.ndarray) -> np.ndarray:
        """Return a matrix (inputs, units) in the layout of the weights."""
        return matrix.T if self.transposed else matrix


def chains(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[DenseLayer, ...]]:
    """Find the ways in which tensors can form a chain of dense layers, the most likely first.

    Tried are the order of the names in the mapping, the order of the numbers in the names, and both reversed. The
    shapes of consecutive weights must fit, as (inputs, units) or as (units, inputs), and every tensor must be used.

    Parameters
    ----------
    shapes : mapping of names to shapes

    Returns
    -------
    list of tuples of DenseLayer
        Empty if the tensors do not form a chain.

    >>> [layer.names for layer in chains({"b1": (4,), "W1": (3, 4), "W2": (4, 1), "b2": (1,)})[0]]
    ['W1, b1', 'W2, b2']
    >>> chains({"0.weight": (4, 3), "0.bias": (4,), "1.weight": (1, 4), "1.bias": (1,)})[0][0].transposed
    True
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and not _is_bias(name, shape)]
    vectors = [name for name in shapes if name not in matrices]
    if not matrices or len(vectors) > len(matrices) or any(_size(shapes[v]) is None for v in vectors):
        return []
    found = (_chain(shapes, order, vectors, transposed) for order in _orders(matrices) for transposed in (False, True))
    return list(dict.fromkeys(chain for chain in found if chain))


def _is_bias(name: str, shape: tuple[int, ...]) -> bool:
    token = _TOKEN.search(name.replace("_", " "))
    return 1 in shape and token is not None and token[0].lower()[0] in "bi"


def _size(shape: tuple[int, ...]) -> int | None:
    """Return the units of a bias of shape (units,), (1, units) or (units, 1)."""
    return int(np.prod(shape)) if len(shape) == 1 or (len(shape) == 2 and 1 in shape) else None


def _orders(names: list[str]) -> Iterator[list[str]]:
    by_number = sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    yield from (names, by_number, names[::-1], by_number[::-1])


def _key(name: str) -> str:
    """Remove the word for weight or bias, so that the names of a layer's weights and bias become equal."""
    return _TOKEN.sub("", name.replace("_", " "), count=1).strip(" .").lower()


def _chain(shapes: Mapping[str, tuple[int, ...]], order: list[str], vectors: list[str],
           transposed: bool) -> tuple[DenseLayer, ...]:
    sizes = [(shapes[name][transposed], shapes[name][not transposed]) for name in order]  # (inputs, units)
    if any(a[1] != b[0] for a, b in itertools.pairwise(sizes)):
        return ()
    by_key = {_key(name): name for name in vectors}
    biases = [by_key.get(_key(name)) for name in order]
    if len(vectors) == len(order) and None in biases:  # the names do not match: pair them by position
        biases = list(vectors)
    if sum(b is not None for b in biases) != len(vectors):
        return ()
    if any(b is not None and _size(shapes[b]) != size[1] for b, size in zip(biases, sizes, strict=True)):
        return ()
    return tuple(DenseLayer(name, bias, *size, transposed)
                 for name, bias, size in zip(order, biases, sizes, strict=True))
