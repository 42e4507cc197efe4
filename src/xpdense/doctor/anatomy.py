"""A program's layers, as far as they can be told: their tensors, and their activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..layers import Dense
from ..network import Network
from .chain import Link, chains
from .program import Subject
from .rebuild import Inside

_RECTIFIERS = ("relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "mish")


@dataclass(frozen=True)
class Anatomy:
    """Dense layers from the input to the output.

    Attributes
    ----------
    chain : tuple of Link
        Empty where the parameters are no chain.
    activations : tuple of str, optional
        Of every hidden layer, where they are known.
    """

    chain: tuple[Link, ...]
    activations: tuple[str, ...] | None

    def activation(self, link: Link) -> str | None:
        """Of a layer; None for the last, and where it is not known."""
        place = self.chain.index(link)
        return self.activations[place] if self.activations and place < len(self.activations) else None

    def rectifies(self, link: Link) -> bool:
        """Whether a layer's units can be dead; taken to be so where it is not known."""
        return (self.activation(link) or "relu") in _RECTIFIERS

    def stuck(self, subject: Subject, x: np.ndarray, y: np.ndarray) -> Mapping[str, float]:
        """The share of each hidden layer's units whose weights get next to no gradient from up to 256 rows."""
        if "gradients" not in subject.can:
            return {}
        every = max(1, len(x) // 256)
        with np.errstate(all="ignore"):
            grads = subject.copy().gradients(x[::every], y[::every])
        found = {}
        for link in self.chain[:-1]:
            size = np.abs(link.matrix(grads)).max(axis=0)
            found[link.weight] = float(np.mean(size <= 1e-3 * max(size.max(), np.abs(link.matrix(grads)).max()) + 1e-6))
        return found


def anatomy_of(subject: Subject, inside: Inside | str | None) -> Anatomy:
    """By a network's layers; else by what was found inside a program, or by its tensors' names and shapes alone."""
    network = subject.network
    if network is not None:
        return _of_network(network)
    if isinstance(inside, Inside):
        return Anatomy(inside.chain, inside.hidden)
    found = chains({name: value.shape for name, value in subject.params().items()})
    return Anatomy(found[0] if found else (), None)


def _of_network(network: Network) -> Anatomy:
    links, activations = [], []
    for name, layer in network.named_layers():
        if isinstance(layer, Dense):
            bias = f"{name}.bias" if "bias" in layer.params else None
            shape = layer.params["weight"].shape
            links.append(Link(f"{name}.weight", bias, shape[0], shape[1], False))
            activations.append(layer._activation.name)
    return Anatomy(tuple(links), tuple(activations[:-1]))
