"""Hooks into a training. Each gets the `Run`, which says where it is and can be told to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .errors import ParameterError, boolean, lookup, positive_int, real
from .history import History
from .network import Network


@dataclass
class Run:
    """A training in progress.

    Attributes
    ----------
    network : DenseNetwork
    history : History
    epochs, steps_per_epoch : int
        What is planned.
    epoch, step : int
        Numbers, from 0, of the epoch and the step that were just made.
    has_validation : bool
    stop : bool
        Set it to end the training after this epoch.
    interrupted : int
        The number of the signal that asks for an end as soon as the step under way is made; 0: none has.
    state_dict : callable
        Gives where the training stands, between two steps: see Checkpoint.
    """

    network: Network
    history: History
    epochs: int
    steps_per_epoch: int
    has_validation: bool
    epoch: int = 0
    step: int = 0
    stop: bool = False
    interrupted: int = 0
    state_dict: Callable[[], dict[str, Any]] = dict
    metrics: dict[str, bool | None] = field(default_factory=dict)  # name -> whether greater is better, if known


class Callback:
    """Base class; override what you need.

    Attributes
    ----------
    leaves_settings : bool
        Whether it never changes a setting of the optimizer other than its learning rate: a recorded step then stays
        good from one epoch to the next.

    Examples
    --------
    >>> import xpdense as xd
    >>> class Print(xd.Callback):
    ...     def on_epoch_end(self, run):
    ...         print(run.epoch, run.history["loss"][-1])
    """

    leaves_settings = False

    def on_train_begin(self, run: Run) -> None:
        """Before the first step."""

    def on_step_end(self, run: Run) -> None:
        """After each step. It costs a Python call a step; reading a number of a GPU here waits for it."""

    def on_pause(self, run: Run) -> None:
        """Where Python comes back from recorded steps, after at most 32 of them: weights and state belong together."""

    def on_epoch_end(self, run: Run) -> None:
        """After each epoch, its row of the history written."""

    def state_dict(self) -> dict[str, Any]:
        """What it remembers of the training under way, for a checkpoint: what JSON can hold, and NumPy arrays."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Remember what `state_dict` gave, in a training that goes on from there; `on_train_begin` came before."""

    def on_train_end(self, run: Run) -> None:
        """Once, however the training ends: by itself, by `stop`, by an error or by Ctrl-C."""


def monitored(run: Run, name: str | None) -> tuple[str, float]:
    """The quantity of the history that tells better from worse, and its sign: 1.0 where less is better.

    Default: the validation loss, or the loss where there is no validation.

    Raises
    ------
    ParameterError
        The history will have no such name, or nobody knows which way is better.
    """
    known = ["loss", *(["validation_loss"] if run.has_validation else []), *run.metrics]
    name = name or ("validation_loss" if run.has_validation else "loss")
    lookup("quantity to monitor", name, dict.fromkeys(known))
    if name in run.metrics and run.metrics[name] is None:
        metric = name.removeprefix("validation_")
        raise ParameterError(f"nobody knows whether {metric} should rise or fall: give it as "
                             f"Metric({metric!r}, 'values', function, greater_is_better=...)")
    return name, -1.0 if run.metrics.get(name, False) else 1.0


class EarlyStopping(Callback):
    """Ends a training that no longer gets better, and puts the best weights back.

    Parameters
    ----------
    monitor : str, optional
        A name of the history; default "validation_loss", or "loss" where there is no validation.
    patience : int
        Epochs without a better value before it stops.
    tolerance : float
        A value counts as better when it is so by more than this.
    restore_best : bool
        Whether the network gets the weights of its best epoch back, however the training ended.

    Attributes
    ----------
    best, best_epoch : float, int
        The best value so far, and its epoch, from 0.

    Raises
    ------
    ParameterError
        When the training begins: the history will have no such name, or nobody knows which way is better.

    Examples
    --------
    >>> EarlyStopping("validation_loss", patience=5).patience
    5
    """

    leaves_settings = True

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
                raise ValueError("the best weights are not those of this network")
            self._weights = tuple(self._backend.from_host(state[name]) for name in ("params", "state"))

    def on_epoch_end(self, run: Run) -> None:
        value = run.history[self._name][-1]
        better = self._sign * value < self._sign * self.best - self.tolerance  # never so of NaN
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
    """A tqdm bar over the steps, with the last epoch's losses."""

    leaves_settings = True

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
    """The callbacks of a training, the bar with them if asked for."""
    given: list[Callback] = list(values) if isinstance(values, (list, tuple)) else [values]
    for value in given:
        if not isinstance(value, Callback):
            hint = f"; did you mean {value.__name__}()?" if isinstance(value, type) else ""
            raise ParameterError(f"a callback must be a Callback, got {value!r}{hint}")
    return given + ([ProgressBar()] if boolean("progress", progress) else [])
