"""Weights and biases by their names and shapes: which belong together, and in which order a forward pass uses them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

_WORDS = r"weights?|kernels?|coefs?|thetas?|biases|bias|intercepts?|beta|w|b|k"
_TOKEN = re.compile(rf"(?<![a-z])(?:{_WORDS})(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """A dense layer: the names of its parameters, and how its weights lie.

    Attributes
    ----------
    weight : str
    bias : str, optional
    inputs, units : int
    transposed : bool
        Whether the weights have the shape (units, inputs).
    """

    weight: str
    bias: str | None
    inputs: int
    units: int
    transposed: bool

    @property
    def names(self) -> str:
        return self.weight if self.bias is None else f"{self.weight}, {self.bias}"

    def matrix(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its weights, or their gradient, as (inputs, units) in float64."""
        value = np.asarray(arrays[self.weight], np.float64)
        return value.T if self.transposed else value

    def vector(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Its bias, or that one's gradient, as (units,) in float64; zeros where it has none."""
        if self.bias is None:
            return np.zeros(self.units)
        return np.asarray(arrays[self.bias], np.float64).reshape(-1)


def chains(shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[Link, ...]]:
    """The ways in which the tensors can be a chain of dense layers, the likeliest first.

    The order is that of the names in the mapping, that of the numbers in the names, or either backwards; shapes must
    chain, as (inputs, units) or as (units, inputs), and every tensor must have its place.

    Parameters
    ----------
    shapes : mapping of names to shapes

    Returns
    -------
    list of tuples of Link
        Empty where the tensors are no such chain.

    >>> [link.names for link in chains({"b1": (4,), "W1": (3, 4), "W2": (4, 1), "b2": (1,)})[0]]
    ['W1, b1', 'W2, b2']
    >>> chains({"0.weight": (4, 3), "0.bias": (4,), "1.weight": (1, 4), "1.bias": (1,)})[0][0].transposed
    True
    """
    matrices = [name for name, shape in shapes.items() if len(shape) == 2 and not _is_bias(name, shape)]
    vectors = [name for name in shapes if name not in matrices]
    if not matrices or len(vectors) > len(matrices) or any(_size(shapes[v]) is None for v in vectors):
        return []
    found: list[tuple[Link, ...]] = []
    for order in _orders(matrices):
        for transposed in (False, True):
            chain = _chain(shapes, order, vectors, transposed)
            if chain and chain not in found:
                found.append(chain)
    return found


def _is_bias(name: str, shape: tuple[int, ...]) -> bool:
    token = _TOKEN.search(name.replace("_", " "))
    return 1 in shape and token is not None and token[0].lower()[0] in "bi"


def _size(shape: tuple[int, ...]) -> int | None:
    """The units of a bias of shape (units,), (1, units) or (units, 1)."""
    return int(np.prod(shape)) if len(shape) == 1 or (len(shape) == 2 and 1 in shape) else None


def _orders(names: list[str]) -> Iterator[list[str]]:
    by_number = sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])
    yield from (names, by_number, names[::-1], by_number[::-1])


def _key(name: str) -> str:
    """What a weight's name and its bias's have in common: the name without the word for either."""
    return _TOKEN.sub("", name.replace("_", " "), count=1).strip(" .").lower()


def _chain(shapes: Mapping[str, tuple[int, ...]], order: list[str], vectors: list[str],
           transposed: bool) -> tuple[Link, ...]:
    ends = [(shapes[name][transposed], shapes[name][not transposed]) for name in order]
    if any(a[1] != b[0] for a, b in itertools.pairwise(ends)):
        return ()
    by_key = {_key(name): name for name in vectors}
    biases = [by_key.get(_key(name)) for name in order]
    if len(vectors) == len(order) and None in biases:  # names that say nothing: by their place
        biases = list(vectors)
    if sum(b is not None for b in biases) != len(vectors):
        return ()
    if any(b is not None and _size(shapes[b]) != end[1] for b, end in zip(biases, ends, strict=True)):
        return ()
    return tuple(Link(name, bias, *end, transposed) for name, bias, end in zip(order, biases, ends, strict=True))
