"""`Doctor`: a callback that looks for signs of trouble in a training, and has `diagnose` examine it where there are."""

from __future__ import annotations

import copy
import math

import numpy as np

from ..backend import host
from ..callbacks import Callback, Run
from ..data.arrays import Rows
from ..errors import DivergenceError, DoctorWarning, warn_user
from ..history import History
from ..losses import SoftmaxCrossEntropy
from .diagnose import diagnose
from .diagnosis import Diagnosis

ROWS = 10_000  # of the training rows, on which the training is examined
_FEW = 512  # rows by which a constant prediction is judged


class Doctor(Callback):
    """Say why a training fails.

    Where the loss rises, does not fall or becomes NaN, or where parameters do not move, `diagnose` examines the
    training on up to 10,000 of its rows, from its initial weights. What it finds is in a DoctorWarning or in the
    error, and in `history.diagnosis`. A training that goes well is the same to the bit as without a doctor; it costs
    a copy of the weights, and a look at the history and the weights at its end.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np, xpdense as xd
    >>> x = np.random.default_rng(0).standard_normal((200, 3)); y = x.sum(axis=1)
    >>> net = xd.DenseNetwork([xd.Dense(8, "relu"), xd.Dense(1)], inputs=3)
    >>> history = net.fit(x, y, loss="squared_error", optimizer=xd.Adam(0.02), epochs=20, callbacks=[xd.Doctor()])
    >>> history.diagnosis is None
    True
    """

    keeps_optimizer_settings = True

    def on_train_begin(self, run: Run) -> None:
        self._start, self._optimizer = run.network.arena.to_host(), copy.deepcopy(run.optimizer)
        self._failed = False

    def on_failure(self, run: Run, error: Exception) -> None:
        self._failed = True
        if not isinstance(error, DivergenceError):
            return
        try:
            found = error.diagnosis = self.examine(run)
        except Exception as raised:  # whatever it is, the error of the training is the one to raise
            error.add_note(f"The doctor could not examine the training: {type(raised).__name__}: {raised}")
            return
        causes = "; ".join(f"{finding.cause} at {finding.where}: {finding.fix}" for finding in found.findings[:3])
        error.advice = "The doctor found no cause." if found.ok else f"The doctor found {causes}"

    def on_train_end(self, run: Run) -> None:
        if self._failed or not (run.stop or run.position.complete_epochs == run.epochs):
            return  # it failed, or was interrupted
        signals = self.signals(run)
        if not signals:
            return
        try:
            found = run.history.diagnosis = self.examine(run)
        except Exception as raised:  # whatever it is, the training has ended, and its network is the user's
            warn_user(f"{signals[0]}. The doctor could not examine the training: {type(raised).__name__}: {raised}",
                      DoctorWarning)
            return
        if not found.ok:
            warn_user(f"{signals[0]}. {found}", DoctorWarning)

    def signals(self, run: Run) -> list[str]:
        """What looks wrong in the losses and in the weights; empty for a training that goes well."""
        history: History = run.history
        losses, found = history["loss"], list[str]()
        constant = _constant_loss(run)
        if not math.isfinite(losses[-1]):
            found.append(f"the loss is {losses[-1]}")
        elif losses[-1] > 0.98 * constant > 0.0:
            found.append(f"the loss is {losses[-1]:.4g}, and that of a constant prediction {constant:.4g}")
        elif losses[-1] > 1.5 * min(losses):
            found.append(f"the loss rises: it was {min(losses):.4g} and is {losses[-1]:.4g}")
        validation = history.get("validation_loss", [])
        if validation and validation[-1] > 1.5 * min(validation) and losses[-1] < losses[0]:
            found.append(f"the validation loss rises from {min(validation):.4g} to {validation[-1]:.4g} as the "
                         f"training loss falls")
        now = run.network.arena.to_host()
        still = [name for name in run.network.params if np.array_equal(now[name], self._start[name])]
        if still:
            found.append(f"{', '.join(still)} did not move")
        return found

    def examine(self, run: Run) -> Diagnosis:
        """The diagnosis of the same training, from its start."""
        rows, network = _sample(run, max(1, -(-run.feed.count // ROWS))), copy.deepcopy(run.network)
        for name, value in self._start.items():
            network.arena.write(name, value)
        return diagnose(network, np.concatenate([host(part.x) for part in rows]),
                        np.concatenate([host(part.y) for part in rows]), loss=run.loss, optimizer=self._optimizer,
                        batch_size=run.feed.batch_size, epochs=run.epochs, shuffle=run.feed.shuffle)


def _sample(run: Run, every: int) -> list[Rows]:
    """The training rows number 0, `every`, 2 * `every`, ..., in parts."""
    start, found = 0, list[Rows]()
    for part in run.feed.parts():
        rows = slice(-start % every, None, every)
        found.append(Rows(part.x[rows, ...], part.y[rows, ...], None))
        start += part.count
    return found


def _constant_loss(run: Run) -> float:
    """The loss of the best constant prediction for some 500 rows; NaN for a loss of which it is not known."""
    k, loss = run.network.outputs, run.loss
    y = np.concatenate([np.asarray(host(part.y), np.float64) for part in _sample(run, max(1, run.feed.count // _FEW))])
    if isinstance(loss, SoftmaxCrossEntropy):
        p = (np.bincount(y.astype(int), minlength=k) if y.ndim == 1 else y.sum(axis=0)) / len(y)
        p = p * (1.0 - loss.label_smoothing) + loss.label_smoothing / k
        value = -np.sum(p * np.log(p + 1e-300))
    elif loss.name == "binary_cross_entropy":
        p = y.mean(axis=0)
        value = -np.mean(p * np.log(p + 1e-300) + (1.0 - p) * np.log(1.0 - p + 1e-300))
    elif loss.name == "squared_error":
        value = np.mean(y.var(axis=0))
    elif loss.name == "absolute_error":
        value = np.mean(np.abs(y - np.median(y, axis=0)))
    else:
        return math.nan
    return float(value * loss.factor)
