"""Hooks into a training. Each gets the `Run`, which says where it is and can be told to stop."""

from __future__ import annotations

import math
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
    """

    network: Network
    history: History
    epochs: int
    steps_per_epoch: int
    has_validation: bool
    epoch: int = 0
    step: int = 0
    stop: bool = False
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

    def on_epoch_end(self, run: Run) -> None:
        """After each epoch, its row of the history written."""

    def on_train_end(self, run: Run) -> None:
        """Once, however the training ends: by itself, by `stop`, by an error or by Ctrl-C."""


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
        known = ["loss", *(["validation_loss"] if run.has_validation else []), *run.metrics]
        self._name = self.monitor or ("validation_loss" if run.has_validation else "loss")
        lookup("quantity to monitor", self._name, dict.fromkeys(known))
        if self._name in run.metrics and run.metrics[self._name] is None:
            name = self._name.removeprefix("validation_")
            raise ParameterError(f"EarlyStopping does not know whether {name} should rise or fall: give it as "
                                 f"Metric({name!r}, 'values', function, greater_is_better=...)")
        self._sign = -1.0 if run.metrics.get(self._name, False) else 1.0
        self.best, self.best_epoch = math.inf * self._sign, -1
        self._weights: Any = None

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
