"""Copies of good weights, restoring them, and the report of a training that failed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .backend import Array
from .data.arrays import Rows
from .errors import LayerExtremes, NonFiniteLossError
from .network import Network
from .optimizers import OptimizerState

_STEPS = 128  # between two copies on the CPU, where each loss is checked as it is made


@dataclass
class Copy:
    """Weights and optimizer state before a step, and the gradients where a report needs them.

    Attributes
    ----------
    step : int
    arena : tuple of array
        Parameters and running statistics.
    state : dict of array, or None
        Buffers of the optimizer; None stands for those with which it begins.
    grads : array or None
    """

    step: int
    arena: tuple[Array, Array]
    state: dict[str, Array] | None
    grads: Array | None


class Rollback:
    """Copies of the weights and of the optimizer's state: two at most, in memory that is used again.

    Attributes
    ----------
    start : Copy
        The last copy that was taken.
    good : Copy
        The last copy with whose weights a loss was computed that was finite.

    Examples
    --------
    >>> import xpdense as xd
    >>> network = xd.DenseNetwork([xd.Dense(1, initializer="zeros")], inputs=1)
    >>> copies = Rollback(network, xd.SGD(0.1).begin(network.arena), step=0)
    >>> network.params["0.bias"][...] = float("nan")
    >>> copies.restore(copies.good)
    >>> network.params["0.bias"].tolist()
    [0.0]
    """

    def __init__(self, network: Network, state: OptimizerState, step: int) -> None:
        self.network, self.state = network, state
        self._copies: list[Copy] = []
        self.good = self.start = self._copy(step)

    def before(self, step: int) -> None:
        """Take a copy before a step where one is due: before each burst on a device; else when the last is old."""
        age = step - self.start.step
        if age >= _STEPS or (age > 0 and not self.network.backend.on_host):
            self.start = self._copy(step)

    def confirm(self) -> None:
        """The loss of a step at or after `start` is finite: the weights of `start` are good."""
        self.good = self.start

    def restore(self, copy: Copy) -> None:
        """Put the weights and the optimizer's state of a copy back."""
        self.network.arena.restore(copy.arena)
        self.state.restore(copy.state)
        self.state.steps = copy.step
        if copy.grads is not None:
            self.network.arena.grads[...] = copy.grads

    def fail(self, loss: float, batch: Rows, step: int, epoch: int) -> NonFiniteLossError:
        """The report on a batch whose loss is not finite; good weights are put back."""
        layers, layer = explain(self.network, batch.x)
        self.restore(self.good)
        return NonFiniteLossError(
            step, epoch, loss, layer, self.good.step, largest_weight=_largest(row.weights for row in layers),
            largest_gradient=_largest(row.gradients for row in layers), largest_input=layers[0].inputs, layers=layers)

    def _copy(self, step: int) -> Copy:
        network = self.network
        free = next((c for c in self._copies if c is not self.good), None) if len(self._copies) > 1 else None
        if free is None:
            grads = None
            if not network.backend.on_host:  # for the report, which comes after the burst has been made again
                grads = network.backend.xp.zeros_like(network.arena.grads)
            free = Copy(step, network.arena.snapshot(), self.state.snapshot() if step else None, grads)
            self._copies.append(free)
        else:
            free.step = step
            network.arena.snapshot(free.arena)
            free.state = self.state.snapshot(free.state)
        if free.grads is not None:
            free.grads[...] = network.arena.grads
        return free


def explain(network: Network, x: Array) -> tuple[list[LayerExtremes], str]:
    """The largest absolute values around each layer for a batch, and the first layer whose output is not finite.

    Parameters
    ----------
    network : Network
    x : array (batch, inputs)
    """
    rows, culprit = [], "the loss"
    for position, (name, x_in, y) in enumerate(network.trace(x)):
        inside = [layer for key, layer in network.named_layers() if key.partition(".")[0] == str(position)]
        found = {
            "inputs": [x_in], "outputs": [y], "weights": [p for layer in inside for p in layer.params.values()],
            "gradients": [g for layer in inside for g in layer.grads.values()],
        }
        flat = {what: [network.backend.to_host(a).ravel() for a in arrays] for what, arrays in found.items()}
        largest = {what: _largest(np.concatenate([*arrays, [0.0]])) for what, arrays in flat.items()}
        broken = tuple(what for what, arrays in flat.items() if not all(np.isfinite(a).all() for a in arrays))
        rows.append(LayerExtremes(name, **largest, not_finite=broken))
        if culprit == "the loss" and "outputs" in broken:
            culprit = name
    return rows, culprit


def _largest(values: Iterable[float] | np.ndarray) -> float:
    """The largest absolute value, without NaNs."""
    return float(np.nanmax(np.abs(np.fromiter(values, np.float64))))
