"""Hooks into a training. Each gets the `Run`, which tells its position and can be told to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .data.feeding import Feed
from .errors import ParameterError, boolean, lookup, positive_int, real
from .history import History
from .losses import Loss
from .network import Network
from .optimizers import Optimizer


@dataclass
class Position:
    """Where a training stands between two steps.

    Attributes
    ----------
    epoch, step : int
        The epoch, from 0, and how many of its steps have been made.
    complete : bool
        Whether the epoch has ended, with its row of the history.
    total, total_weight : float
        The sum of weight times loss over the epoch's batches so far, and that of the weights.
    seconds : float
        The time that the epoch has taken so far.
    last_rate : float
        The learning rate of the last step.
    begun : int
        Steps that the optimizer had made before this training.

    Examples
    --------
    >>> position = Position(epoch=2, step=10, complete=True)
    >>> position.complete_epochs, Position.from_dict(position.to_dict()).epoch
    (3, 3)
    """

    epoch: int = 0
    step: int = 0
    complete: bool = False
    total: float = 0.0
    total_weight: float = 0.0
    seconds: float = 0.0
    last_rate: float = 0.0
    begun: int = 0

    @property
    def complete_epochs(self) -> int:
        """How many epochs have ended."""
        return self.epoch + self.complete

    def enter(self) -> None:
        """Enter the next epoch, where the last one has ended."""
        if self.complete:
            self.epoch, self.step, self.complete = self.epoch + 1, 0, False
            self.total = self.total_weight = self.seconds = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The position as JSON can hold it: after the end of an epoch, that of the next one's beginning."""
        after = replace(self)
        after.enter()
        return {key: getattr(after, name) for key, name in _SAVED.items()}

    @staticmethod
    def from_dict(state: Mapping[str, Any]) -> Position:
        """The position that `to_dict` gave; a KeyError, TypeError or ValueError where it is damaged."""
        position = Position()
        for key, name in _SAVED.items():
            setattr(position, name, type(getattr(position, name))(state[key]))
        return position


_SAVED = {"epoch": "epoch", "step": "step", "total": "total", "mass": "total_weight", "seconds": "seconds",
          "last_rate": "last_rate", "begun": "begun"}  # names in a checkpoint


@dataclass
class Run:
    """A training in progress, as callbacks see it.

    Attributes
    ----------
    network : DenseNetwork
    loss : Loss
    optimizer : Optimizer
    feed : Feed
        The training rows and their batches.
    history : History
    epochs : int
        How many are planned.
    has_validation : bool
    position : Position
    state_dict : callable
        Gives all that the steps to come depend on, other than the weights; see Checkpoint.
    identity : mapping
        What another training must have in common to continue this one, as JSON can hold it.
    stop : bool
        Set it to end the training after this epoch.
    interrupted : int
        The number of the signal that asks for an end as soon as the present step is made; 0 without one.
    metrics : dict
        For each metric's name in the history, whether greater is better; None where that is not known.

    Examples
    --------
    >>> import xpdense as xd
    >>> class StopAt(xd.Callback):
    ...     def on_epoch_end(self, run):
    ...         run.stop = run.history["loss"][-1] < 0.01
    """

    network: Network
    loss: Loss
    optimizer: Optimizer
    feed: Feed
    history: History
    epochs: int
    has_validation: bool
    position: Position
    state_dict: Callable[[], dict[str, Any]]
    identity: Mapping[str, Any]
    stop: bool = False
    interrupted: int = 0
    metrics: dict[str, bool | None] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The number, from 0, of the present epoch; in `on_epoch_end`, of the one that has just ended."""
        return self.position.epoch

    @property
    def step(self) -> int:
        """The number, from 0, of the step that was just made."""
        return max(0, self.next_step - 1)

    @property
    def next_step(self) -> int:
        """The number of the next step."""
        return self.position.begun + self.position.epoch * self.steps_per_epoch + self.position.step

    @property
    def steps_per_epoch(self) -> int:
        return len(self.feed)


class Callback:
    """Base class; override what you need.

    Attributes
    ----------
    keeps_optimizer_settings : bool
        Whether it never changes a setting of the optimizer other than its learning rate: a recorded step then stays
        valid from one epoch to the next.
    only_counts_steps : bool
        Whether `on_step_end` neither reads nor changes weights, so that steps may be replayed before it is called.
    comes_last : bool
        Whether its hooks come after those of other callbacks, as of one that saves what these remember.

    Examples
    --------
    >>> import xpdense as xd
    >>> class Print(xd.Callback):
    ...     def on_epoch_end(self, run):
    ...         print(run.epoch, run.history["loss"][-1])
    """

    keeps_optimizer_settings = False
    only_counts_steps = False
    comes_last = False

    def on_train_begin(self, run: Run) -> None:
        """Before the first step."""

    def on_step_end(self, run: Run) -> None:
        """After each step. It costs a Python call a step; reading a number of a GPU here waits for it."""

    def on_pause(self, run: Run) -> None:
        """After at most 32 steps, where weights, optimizer state and position are consistent."""

    def on_epoch_end(self, run: Run) -> None:
        """After each epoch; its row of the history has been written."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of the training, for a checkpoint: what JSON can hold, and NumPy arrays."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what `state_dict` gave, in a training that continues from there; `on_train_begin` came before."""

    def on_failure(self, run: Run, error: Exception) -> None:
        """Where an error ends the training, before `on_train_end`; good weights have been put back."""

    def on_train_end(self, run: Run) -> None:
        """Once, however the training ends and whatever other hooks raise: by itself, `stop`, an error or Ctrl-C."""


def monitored(run: Run, name: str | None) -> tuple[str, float]:
    """The quantity of the history that tells better from worse, and its sign: 1.0 where less is better.

    Default: the validation loss, or the loss where there is no validation.

    Raises
    ------
    ParameterError
        The history will have no such name, or it is not known which way is better.
    """
    known = ["loss", *(["validation_loss"] if run.has_validation else []), *run.metrics]
    name = name or ("validation_loss" if run.has_validation else "loss")
    lookup("quantity to monitor", name, dict.fromkeys(known))
    if name in run.metrics and run.metrics[name] is None:
        metric = name.removeprefix("validation_")
        raise ParameterError(f"it is not known whether {metric} should rise or fall: give it as "
                             f"Metric({metric!r}, 'values', function, greater_is_better=...)")
    return name, -1.0 if run.metrics.get(name, False) else 1.0


class EarlyStopping(Callback):
    """End a training that no longer improves, and put the best weights back.

    Parameters
    ----------
    monitor : str, optional
        A name of the history; default "validation_loss", or "loss" where there is no validation.
    patience : int
        Epochs without a better value before it stops.
    tolerance : float
        The smallest improvement that counts.
    restore_best : bool
        Whether the network gets the weights of its best epoch back, however the training ended.

    Attributes
    ----------
    best, best_epoch : float, int
        The best value so far, and its epoch, from 0.

    Raises
    ------
    ParameterError
        When the training begins: the history will have no such name, or it is not known which way is better.

    Examples
    --------
    >>> EarlyStopping("validation_loss", patience=5).patience
    5
    """

    keeps_optimizer_settings = True

    def __init__(self, monitor: str | None = None, *, patience: int = 10, tolerance: float = 0.0,
                 restore_best: bool = True) -> None:
        self.monitor, self.patience = monitor, positive_int("patience", patience)
        self.tolerance, self.restore_best = real("tolerance", tolerance, 0.0), boolean("restore_best", restore_best)

    def on_train_begin(self, run: Run) -> None:
        self._name, self._sign = monitored(run, self.monitor)
        self.best, self.best_epoch = math.inf * self._sign, -1
        self._weights: Any = None
        self._run, self._backend = run, run.network.backend

    def state_dict(self) -> dict[str, Any]:
        best = None if math.isinf(self.best) else self.best
        state: dict[str, Any] = {"best": best, "best_epoch": self.best_epoch}
        if self._weights is not None:
            state |= dict(zip(("params", "state"), map(self._backend.to_host, self._weights), strict=True))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        best = state["best"]
        self.best, self.best_epoch = math.inf * self._sign if best is None else float(best), int(state["best_epoch"])
        if "params" in state:
            now = self._run.network.arena.snapshot()
            if any(tuple(state[n].shape) != tuple(a.shape) for n, a in zip(("params", "state"), now, strict=True)):
                raise ValueError("the best weights have another shape than those of this network")
            self._weights = tuple(self._backend.from_host(state[name]) for name in ("params", "state"))

    def on_epoch_end(self, run: Run) -> None:
        value = run.history[self._name][-1]
        better = self._sign * value < self._sign * self.best - self.tolerance  # False for NaN
        if better or (self.best_epoch < 0 and not math.isnan(value)):
            self.best, self.best_epoch = value, run.epoch
            if self.restore_best:
                self._weights = run.network.arena.snapshot()
        elif run.epoch - self.best_epoch >= self.patience:
            run.stop = True

    def on_train_end(self, run: Run) -> None:
        if self._weights is not None:
            run.network.arena.restore(self._weights)
            self._weights = None


class ProgressBar(Callback):
    """Show a tqdm bar over the steps, with the losses of the last epoch.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> net = xd.DenseNetwork([xd.Dense(1)], inputs=1)
    >>> x = np.ones((4, 1))
    >>> history = net.fit(x, x, loss="squared_error", epochs=2, callbacks=[xd.ProgressBar()])
    """

    keeps_optimizer_settings = True
    only_counts_steps = True

    def on_train_begin(self, run: Run) -> None:
        from tqdm.auto import tqdm

        self._bar: Any = tqdm(total=run.epochs * run.steps_per_epoch, unit="step", dynamic_ncols=True, mininterval=0.2)

    def on_step_end(self, run: Run) -> None:
        self._bar.update(1)

    def on_epoch_end(self, run: Run) -> None:
        shown = {n: f"{v[-1]:.4g}" for n, v in run.history.items() if n not in ("seconds", "rows_per_second")}
        self._bar.set_postfix(epoch=f"{run.epoch + 1}/{run.epochs}", **shown, refresh=False)

    def on_train_end(self, run: Run) -> None:
        self._bar.close()


def as_callbacks(values: Any, progress: bool) -> list[Callback]:
    """The callbacks of a training, with the bar if it is asked for; those that come last at the end."""
    given: list[Callback] = list(values) if isinstance(values, (list, tuple)) else [values]
    for value in given:
        if not isinstance(value, Callback):
            hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) else ""
            raise ParameterError(f"a callback must be a Callback, got {value!r}{hint}")
    return sorted(given + ([ProgressBar()] if boolean("progress", progress) else []), key=lambda c: c.comes_last)


def call_each(hooks: Sequence[Callable[[], None]]) -> None:
    """Call each hook in turn, whatever another one raises; the first error is raised, with the others in its notes."""
    first: BaseException | None = None
    for hook in hooks:
        try:
            hook()
        except BaseException as error:  # it is raised below
            if first is None:
                first = error
            else:
                first.add_note(f"Another callback raised {error!r}.")
    if first is not None:
        raise first
