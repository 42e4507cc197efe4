"""Watching a fit: signals from its history nominate, and only then `diagnose` examines it, from its initial weights."""

from __future__ import annotations

import copy
import math
import warnings

import numpy as np

from ..backend import host
from ..data.arrays import Batches, Rows
from ..errors import DivergenceError, DoctorWarning
from ..history import History
from ..losses import Loss, SoftmaxCrossEntropy
from ..network import Network
from ..optimizers import Optimizer
from .diagnose import diagnose
from .diagnosis import Diagnosis

ROWS = 10_000  # of the training, by which it is examined


class Watch:
    """One fit under way.

    It costs a copy of the weights before the training, and a look at history and weights after it.

    Parameters
    ----------
    network : Network
        Before the training.
    rows : Rows
    loss : Loss
    optimizer : Optimizer
    batches : Batches
    epochs : int
    """

    def __init__(self, network: Network, rows: Rows, loss: Loss, optimizer: Optimizer, batches: Batches,
                 epochs: int) -> None:
        self.network, self.rows, self.loss, self.optimizer = network, rows, loss, copy.deepcopy(optimizer)
        self.batches, self.epochs, self.start = batches, epochs, network.arena.to_host()

    def signals(self, history: History) -> list[str]:
        """What looks wrong in the losses, and in the weights; nothing in a training that goes well."""
        losses, found = history["loss"], list[str]()
        constant = self._constant()
        if not math.isfinite(losses[-1]):
            found.append(f"the loss is {losses[-1]}")
        elif losses[-1] > 0.98 * constant > 0.0:
            found.append(f"the loss is {losses[-1]:.4g}, and that of a constant prediction {constant:.4g}")
        elif losses[-1] > 1.5 * min(losses):
            found.append(f"the loss rises: it was {min(losses):.4g} and is {losses[-1]:.4g}")
        held = history.get("validation_loss", [])
        if held and held[-1] > 1.5 * min(held) and losses[-1] < losses[0]:
            found.append(f"the validation loss rises from {min(held):.4g} to {held[-1]:.4g} as the training loss falls")
        now = self.network.arena.to_host()
        still = [name for name in self.network.params if np.array_equal(now[name], self.start[name])]
        if still:
            found.append(f"{', '.join(still)} did not move")
        return found

    def _constant(self) -> float:
        """The loss of the best constant prediction of some 500 rows; NaN where it is not known."""
        every = max(1, self.rows.count // 512)
        y, k = np.asarray(host(self.rows.y[::every, ...]), np.float64), self.network.outputs
        if isinstance(self.loss, SoftmaxCrossEntropy):
            share = (np.bincount(y.astype(int), minlength=k) if y.ndim == 1 else y.sum(axis=0)) / len(y)
            share = share * (1.0 - self.loss.label_smoothing) + self.loss.label_smoothing / k
            value = -np.sum(share * np.log(share + 1e-300))
        elif self.loss.name == "binary_cross_entropy":
            share = y.mean(axis=0)
            value = -np.mean(share * np.log(share + 1e-300) + (1.0 - share) * np.log(1.0 - share + 1e-300))
        elif self.loss.name == "squared_error":
            value = np.mean(y.var(axis=0))
        elif self.loss.name == "absolute_error":
            value = np.mean(np.abs(y - np.median(y, axis=0)))
        else:
            return math.nan
        return float(value * self.loss.factor)

    def examine(self) -> Diagnosis:
        """The diagnosis of the same training, from its start, on up to 10,000 of its rows."""
        every = max(1, -(-self.rows.count // ROWS))
        x, y = self.rows.x[::every, ...] if every > 1 else self.rows.x[:, ...], self.rows.y[::every, ...]
        network = copy.deepcopy(self.network)
        for name, value in self.start.items():
            network.arena.write(name, value)
        return diagnose(network, np.asarray(host(x)), np.asarray(host(y)), loss=self.loss, optimizer=self.optimizer,
                        batch_size=self.batches.batch_size, epochs=self.epochs, shuffle=self.batches.shuffle)

    def after(self, history: History, stacklevel: int = 3) -> None:
        """Examine a training that has ended, where something looks wrong; warn the caller of what is found."""
        signals = self.signals(history)
        if not signals:
            return
        try:
            history.diagnosis = self.examine()
        except Exception as raised:  # whatever it is, the training has ended, and its network is the user's
            warnings.warn(f"{signals[0]}. The doctor could not examine the training: {type(raised).__name__}: {raised}",
                          DoctorWarning, stacklevel)
            return
        if not history.diagnosis.ok:
            warnings.warn(f"{signals[0]}. {history.diagnosis}", DoctorWarning, stacklevel)

    def explain(self, error: DivergenceError) -> None:
        """Examine a training that has failed; the error says what is found."""
        try:
            error.diagnosis = self.examine()
        except Exception as raised:  # whatever it is, the training's own error is the one to raise
            error.add_note(f"The doctor could not examine the training: {type(raised).__name__}: {raised}")
