"""The network that an estimator's parameters describe, with initial weights as scikit-learn draws them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ..activations import Activation, as_activation
from ..data.arrays import Rows
from ..data.dataset import Dataset
from ..data.feeding import Feed
from ..errors import ParameterError
from ..layers import BatchNorm, Dense, Dropout, Layer, LayerNorm, Residual
from ..losses import Loss
from ..network import Network, named_layers
from ..optimizers import Optimizer
from ..spec import Spec

NORMS = {"batch": BatchNorm, "layer": LayerNorm}
_SCIKIT = ("identity", "sigmoid", "tanh", "relu")  # for these initial weights are drawn as scikit-learn does


class Training(NamedTuple):
    """A training about to begin: a network with its initial weights, its rows on the host, and how it is made."""

    network: Network
    x: np.ndarray
    y: np.ndarray
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    epochs: int
    shuffle: bool


@dataclass(frozen=True)
class FitCall:
    """The arguments of one call of `fit` or `partial_fit`.

    Attributes
    ----------
    X, y, sample_weight :
        The training data: arrays, or a data set alone.
    validation : tuple or None
        The same of the validation data.
    first : bool
        Whether a new network is made.
    incremental : bool
        Whether this is one call of `partial_fit`.
    classes : array or None
        All classes, as `partial_fit` takes them.
    doctor : bool
        Whether a `Doctor` watches.
    """

    X: Any
    y: Any
    sample_weight: Any
    validation: tuple[Any, ...] | None = None
    first: bool = True
    incremental: bool = False
    classes: Any = None
    doctor: bool = False

    @property
    def given(self) -> tuple[Any, ...]:
        """What scikit-learn's callbacks are told of."""
        return self.X, self.y, self.sample_weight


@dataclass(frozen=True)
class FitPlan:
    """What one call of `fit` trains on, and how: the same for arrays and for data sets.

    Attributes
    ----------
    feed : Feed
        The training rows.
    rows : Rows
        Those of them by which a divergence is judged: all, or of rows that are read while they are used the first.
    penalty : float
        The L2 penalty on the sum of a batch's losses.
    report, report_validation : callable
        Convert the loss that is minimised to the one that is reported, for the training and the validation rows.
    validation : Dataset or None
    spec : Spec or None
        That by which the validation rows are prepared.
    score : callable or None
        Gives the score of the network as it is, on the validation rows.
    """

    feed: Feed
    rows: Rows
    penalty: float
    report: Callable[[float], float]
    report_validation: Callable[[float], float] = float
    validation: Dataset | None = None
    spec: Spec | None = None
    score: Callable[[], float] | None = None


def hidden_layers(sizes: Any) -> list[Any]:
    """`hidden_layer_sizes` as a list; a ValueError where a size is not positive."""
    found: list[Any] = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
    for size in found:
        if not isinstance(size, Layer) and (isinstance(size, bool) or not isinstance(size, Integral)):
            raise ParameterError(f"hidden_layer_sizes must hold whole numbers or layers, got {size!r}")
    if any(not isinstance(n, Layer) and n <= 0 for n in found):
        raise ValueError(f"hidden_layer_sizes must be > 0, got {found}.")
    return found


def described_layers(estimator: Any, hidden: list[Any], inputs: int) -> tuple[list[Layer], list[float]]:
    """The layers, and for each Dense among them the factor of scikit-learn's initial weights; 0: it has its own."""
    single = isinstance(estimator.activation, (str, Activation))
    activations = [estimator.activation] * len(hidden) if single else list(estimator.activation)
    if len(activations) != len(hidden):
        raise ParameterError(f"activation must be one, or one for each of the {len(hidden)} hidden layers, "
                             f"got {len(activations)}")
    layers: list[Layer] = []
    factors: list[float] = []
    width, factor = inputs, 2.0 if single and estimator.activation in ("logistic", "sigmoid") else 6.0
    for units, activation in zip(hidden, activations, strict=True):
        if isinstance(units, Layer):
            layers.append(units)
            factors += [0.0 for _, layer in named_layers([units]) if isinstance(layer, Dense)]
            width = units.outputs(width)
            continue
        activation = as_activation("sigmoid" if activation == "logistic" else activation)
        scikit = activation.builtin and activation.name in _SCIKIT
        factor = 2.0 if scikit and activation.name == "sigmoid" else 6.0
        factors.append(factor if scikit else 0.0)
        block: list[Layer] = [Dense(int(units), activation, initializer="zeros" if scikit else None)]
        if estimator.normalization is not None:
            block.append(NORMS[estimator.normalization]())
        if estimator.dropout:
            block.append(Dropout(estimator.dropout))
        layers += [Residual(block)] if estimator.residual and width == units else block
        width = int(units)
    layers.append(Dense(estimator.n_outputs_, initializer="zeros"))
    return layers, [*factors, factor]


def dense_layers(network: Network) -> list[str]:
    """The names of the dense layers, in forward order."""
    return [name for name, layer in network.named_layers() if isinstance(layer, Dense)]


def draw(network: Network, factors: list[float], random: np.random.RandomState) -> None:
    """Weights and biases of each Dense, uniform within sqrt(factor / (fan_in + fan_out)) (Glorot and Bengio 2010)."""
    with network.backend.active():
        for name, factor in zip(dense_layers(network), factors, strict=True):
            shape = network.arena.declared[f"{name}.weight"].shape
            bound = math.sqrt(factor / sum(shape))
            for key, size in (("weight", shape), ("bias", shape[1:])) if factor else ():
                if f"{name}.{key}" in network.arena.declared:
                    network.arena.write(f"{name}.{key}", random.uniform(-bound, bound, size))
        network.arena.refresh()
