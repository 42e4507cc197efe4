"""One training step, top to bottom: the file to read first. The loop around it is in `training`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .backend import Array
from .comm import Comm, Solo
from .data.arrays import Rows
from .losses import Loss
from .network import Network
from .optimizers import OptimizerState


def loss_and_gradients(network: Network, loss: Loss, batch: Rows,
                       on_loss: Callable[[Array], Array] | None = None) -> Array:
    """Forward, loss, backward: the mean loss of a batch, and its gradients in `network.arena.grads`.

    Parameters
    ----------
    network : Network
    loss : Loss
    batch : Rows
        x (batch, inputs), y (batch, outputs) or (batch,), weight (batch,) or None, on the network's backend.
    on_loss : callable, optional
        Called with the loss before backward; the loss that it gives is returned in its place.

    Returns
    -------
    A scalar on the device, in memory that the next call for a batch of this size writes to.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> network = xd.DenseNetwork([xd.Dense(1, initializer="zeros")], inputs=1)
    >>> batch = Rows(np.ones((4, 1), "float32"), np.ones((4, 1), "float32"), None)
    >>> float(loss_and_gradients(network, xd.SquaredError(), batch)), network.grads["0.bias"].tolist()
    (1.0, [-2.0])
    """
    z = network.forward(batch.x, train=True)  # (batch, outputs)
    memory = network.buffer("dz", z.shape), network.buffer("loss", (), network.ops.wide)
    value, dz = loss(network.ops, z, batch.y, batch.weight, *memory)  # scalar on the device, (batch, outputs)
    if on_loss is not None:
        value = on_loss(value)
    network.backward(dz)  # overwrites arena.grads
    return value


@dataclass(frozen=True)
class TrainStep:
    """One step of gradient descent on one batch.

    Attributes
    ----------
    network : Network
    loss : Loss
    state : OptimizerState
    comm : Comm
        Sums the gradients over the processes of the training.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> network = xd.DenseNetwork([xd.Dense(1, initializer="zeros")], inputs=1)
    >>> train_step = TrainStep(network, xd.SquaredError(), xd.SGD(0.25).begin(network.arena))
    >>> batch = Rows(np.ones((4, 1), "float32"), np.ones((4, 1), "float32"), None)
    >>> [float(train_step(batch, number, rate=0.25)) for number in range(2)]
    [1.0, 0.0]
    """

    network: Network
    loss: Loss
    state: OptimizerState
    comm: Comm = field(default_factory=Solo)

    def __call__(self, batch: Rows, number: int, rate: float, on_loss: Callable[[Array], None] | None = None) -> Array:
        """Make the step of this number, from 0, by this learning rate; see `on_device` for the rest."""
        self.network.set_step(number)
        self.state.set_step(self.network.ops, number, rate)
        return self.on_device(batch, on_loss)

    def on_device(self, batch: Rows, on_loss: Callable[[Array], None] | None = None) -> Array:
        """The step itself, once its number and rate are on the device: this is what is recorded and replayed.

        Parameters
        ----------
        batch : Rows
        on_loss : callable, optional
            Called with the loss before the step changes anything.

        Returns
        -------
        The batch's mean loss with the optimizer's penalty, a scalar on the device, in memory that the next step
        writes to.
        """
        network, optimizer, rows = self.network, self.state.optimizer, int(batch.x.shape[-2])

        def with_penalty(value: Array) -> Array:
            if optimizer.reported_penalty:  # the update adds its gradient
                weights = network.arena.params[: network.arena.decay_size]
                value = network.ops.penalize(value, weights, 0.5 * optimizer.reported_penalty / rows)
            if on_loss is not None:
                on_loss(value)
            return value

        value = loss_and_gradients(network, self.loss, batch, with_penalty)
        self.comm.sum_(network.arena.grads)
        self.state.update(network.ops, rows)  # one op over the arena
        return value
