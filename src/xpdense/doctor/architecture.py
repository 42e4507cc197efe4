"""A program's dense layers and their activations, as far as they are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..layers import Dense
from .gradients.chain import DenseLayer, chains
from .gradients.reconstruct import Reconstruction
from .program import Subject

_RECTIFIERS = ("relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu", "mish")


@dataclass(frozen=True)
class Architecture:
    """Dense layers from the input to the output.

    Attributes
    ----------
    layers : tuple of DenseLayer
        Empty if the parameters do not form a chain.
    activations : tuple of str, optional
        The activations of the hidden layers, if they are known.
    """

    layers: tuple[DenseLayer, ...]
    activations: tuple[str, ...] | None

    def rectifies(self, layer: DenseLayer) -> bool:
        """Whether the units of a layer can die; an unknown activation is taken for ReLU."""
        k = self.layers.index(layer)
        return not self.activations or k >= len(self.activations) or self.activations[k] in _RECTIFIERS

    def inactive_units(self, subject: Subject, x: np.ndarray, y: np.ndarray) -> Mapping[str, float]:
        """Return the fraction of units, by hidden weight, whose weights get nearly no gradient from up to 256 rows."""
        if "gradients" not in subject.can:
            return {}
        grads = initial_gradients(subject, x, y)
        found = {}
        for layer in self.layers[:-1]:
            size = np.abs(layer.matrix(grads)).max(axis=0)
            found[layer.weight] = float(np.mean(size <= 1e-3 * size.max() + 1e-6))
        return found


def initial_gradients(subject: Subject, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """Return the gradients on up to about 256 rows, at the parameters as they are."""
    every = max(1, len(x) // 256)
    with np.errstate(all="ignore"):
        return subject.copy().gradients(x[::every], y[::every])


def architecture_of(subject: Subject, reconstruction: Reconstruction | None = None) -> Architecture:
    """Return the layers of a network, of a reconstruction, or those that the parameters' names and shapes suggest."""
    if subject.network is not None:
        layers, activations = [], []
        for name, layer in subject.network.named_layers():
            if isinstance(layer, Dense):
                inputs, units = layer.params["weight"].shape
                bias = f"{name}.bias" if "bias" in layer.params else None
                layers.append(DenseLayer(f"{name}.weight", bias, inputs, units, False))
                activations.append(layer._activation.name)
        return Architecture(tuple(layers), tuple(activations[:-1]))
    if reconstruction is not None:
        return Architecture(reconstruction.layers, reconstruction.hidden)
    found = chains({name: value.shape for name, value in subject.params().items()})
    return Architecture(found[0] if found else (), None)
