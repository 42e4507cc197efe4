"""Initializers: the distributions that the initial parameters are drawn from.

Values are drawn on the host by NumPy's Generator in float64, so that a seed gives the same values on every backend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import lookup, made, real

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


@dataclass(frozen=True)
class Initializer:
    """A distribution that the initial values of a parameter are drawn from.

    Parameters
    ----------
    name : str
        Its name in messages and saved models.
    draw : callable (rng, shape) -> float64 array of this shape
        `rng` is a numpy.random.Generator; `shape` is `(fan_in, fan_out)` for a weight matrix and `(features,)` for a
        vector.
    config : mapping
        Parameters of the distribution, such as `{"std": 0.05}`; saved with a model.

    Examples
    --------
    >>> halves = Initializer("halves", lambda rng, shape: np.full(shape, 0.5))
    >>> halves.draw(np.random.default_rng(0), (3,)).tolist()
    [0.5, 0.5, 0.5]
    """

    name: str
    draw: Draw
    config: Mapping[str, float] = field(default_factory=dict)

    def spec(self) -> str | dict[str, Any]:
        """Return the name, with the parameters if there are any, from which `as_initializer` makes it again."""
        return {"name": self.name, **self.config} if self.config else self.name

    def __reduce_ex__(self, protocol: Any) -> Any:  # the built-in ones hold functions that do not pickle
        if self.draw.__module__ == __name__:
            return as_initializer, (self.spec(),)
        return super().__reduce_ex__(protocol)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[-2], shape[-1]) if len(shape) > 1 else (shape[0], shape[0])


def _scaled(name: str, variance: Callable[[int, int], float]) -> tuple[Initializer, Initializer]:
    """Return the normal and the uniform initializer of one variance, a function of fan-in and fan-out."""

    def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        return rng.standard_normal(shape) * math.sqrt(variance(*_fans(shape)))

    def uniform(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        limit = math.sqrt(3.0 * variance(*_fans(shape)))
        return rng.uniform(-limit, limit, shape)

    return Initializer(f"{name}_normal", normal), Initializer(f"{name}_uniform", uniform)


def normal(std: float = 0.05) -> Initializer:
    """Return the initializer that draws independent normal values of mean 0 and standard deviation `std`.

    >>> normal(0.1).spec()
    {'name': 'normal', 'std': 0.1}
    """
    std = real("std", std, 0.0)
    return Initializer("normal", lambda rng, shape: rng.standard_normal(shape) * std, {"std": std})


def uniform(limit: float = 0.05) -> Initializer:
    """Return the initializer that draws independent values, uniform in [-limit, limit).

    >>> uniform(0.1).spec()
    {'name': 'uniform', 'limit': 0.1}
    """
    limit = real("limit", limit, 0.0)
    return Initializer("uniform", lambda rng, shape: rng.uniform(-limit, limit, shape), {"limit": limit})


def _orthogonal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a matrix whose rows or columns, whichever are fewer, are orthonormal (Saxe et al., arXiv:1312.6120)."""
    rows, columns = (shape[0], int(np.prod(shape[1:])))
    q, r = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diagonal(r))  # makes the distribution uniform (Mezzadri, arXiv:math-ph/0609050)
    return np.ascontiguousarray(q if rows >= columns else q.T).reshape(shape)


#: The initializers by name. Sources: Glorot and Bengio (AISTATS 2010), He et al. (arXiv:1502.01852),
#: LeCun et al. ("Efficient BackProp", 1998).
INITIALIZERS: dict[str, Initializer] = {
    i.name: i
    for i in (
        *_scaled("glorot", lambda fan_in, fan_out: 2.0 / (fan_in + fan_out)),
        *_scaled("he", lambda fan_in, fan_out: 2.0 / fan_in),
        *_scaled("lecun", lambda fan_in, fan_out: 1.0 / fan_in),
        Initializer("orthogonal", _orthogonal),
        normal(), uniform(),
        Initializer("zeros", lambda rng, shape: np.zeros(shape)),
        Initializer("ones", lambda rng, shape: np.ones(shape)),
    )
}
_WITH_PARAMETERS: dict[str, Callable[..., Initializer]] = {"normal": normal, "uniform": uniform}


def as_initializer(value: str | Mapping[str, Any] | Initializer) -> Initializer:
    """Return the Initializer of a name or of a saved configuration; an Initializer is returned as it is.

    Raises
    ------
    UnknownNameError
        The name is not registered; the message lists those that are.

    >>> as_initializer("he_normal").draw(np.random.default_rng(0), (100, 3)).shape
    (100, 3)
    """
    if isinstance(value, Initializer):
        return value
    if isinstance(value, Mapping):
        return made("initializer", _WITH_PARAMETERS, value)
    return lookup("initializer", value, INITIALIZERS)
