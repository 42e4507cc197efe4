"""Schedules: learning rates as functions of the step.

A schedule is called with the number of steps made so far (from 0) and the number of steps of the whole training, and
returns the learning rate of the next step. Fractions, such as `warmup`, are fractions of the whole training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import ParameterError, positive_int, real


class Schedule:
    """Base class of the schedules; subclass it and write `__call__(step, total)`.

    Examples
    --------
    >>> class Linear(Schedule):
    ...     "Falls linearly from `rate` to 0."
    ...     def __init__(self, rate): self.rate = rate
    ...     def __call__(self, step, total): return self.rate * (1 - step / total)
    >>> Linear(0.1)(50, 100)
    0.05

    Attributes
    ----------
    needs_total : bool
        Whether the learning rate of a step depends on `total`. A training with such a schedule can be resumed only
        with the number of epochs that it was started with.
    """

    needs_total = True

    def __call__(self, step: int, total: int) -> float:
        """Return the learning rate of step `step`, counted from 0, of `total`."""
        raise NotImplementedError

    def observe(self, loss: float) -> None:
        """Receive the validation loss after each epoch, or the training loss if there is no validation."""

    def reset(self) -> None:
        """Forget all observations; called at the start of a training."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the schedule in the current training, for a checkpoint; values are those of JSON."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""


def _rate(value: object) -> float:
    return real("learning_rate", value, 0.0, open_low=True)


@dataclass
class Constant(Schedule):
    """A constant learning rate.

    >>> Constant(0.1)(5, 10)
    0.1
    """

    needs_total = False
    learning_rate: float

    def __post_init__(self) -> None:
        self.learning_rate = _rate(self.learning_rate)

    def __call__(self, step: int, total: int) -> float:
        return self.learning_rate


@dataclass
class Step(Schedule):
    """A learning rate that is multiplied by `factor` after every `every` steps.

    >>> Step(1.0, every=10, factor=0.1)(25, 100)
    0.01...
    """

    needs_total = False
    learning_rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        self.learning_rate, self.every = _rate(self.learning_rate), positive_int("every", self.every)
        self.factor = real("factor", self.factor, 0.0, open_low=True)

    def __call__(self, step: int, total: int) -> float:
        return float(self.learning_rate * self.factor ** (step // self.every))


@dataclass
class Exponential(Schedule):
    """An exponentially decaying learning rate, `learning_rate * decay ** step`.

    >>> Exponential(1.0, decay=0.5)(3, 10)
    0.125
    """

    needs_total = False
    learning_rate: float
    decay: float

    def __post_init__(self) -> None:
        self.learning_rate = _rate(self.learning_rate)
        self.decay = real("decay", self.decay, 0.0, open_low=True)

    def __call__(self, step: int, total: int) -> float:
        return float(self.learning_rate * self.decay**step)


@dataclass
class InverseScaling(Schedule):
    """The learning rate `learning_rate / (step + 1) ** power`, as scikit-learn's "invscaling".

    >>> InverseScaling(1.0)(3, 10)
    0.5
    """

    needs_total = False
    learning_rate: float
    power: float = 0.5

    def __post_init__(self) -> None:
        self.learning_rate, self.power = _rate(self.learning_rate), real("power", self.power, 0.0)

    def __call__(self, step: int, total: int) -> float:
        return float(self.learning_rate / (step + 1) ** self.power)


@dataclass
class Cosine(Schedule):
    """A linear rise over the fraction `warmup`, then half a cosine down to `final * learning_rate`.

    Source: Loshchilov and Hutter, arXiv:1608.03983, without restarts.

    >>> schedule = Cosine(1.0, warmup=0.1)
    >>> schedule(4, 100), schedule(10, 100), round(schedule(55, 100), 6)
    (0.5, 1.0, 0.5)
    """

    learning_rate: float
    warmup: float = 0.05
    final: float = 0.0

    def __post_init__(self) -> None:
        self.learning_rate = _rate(self.learning_rate)
        self.warmup = real("warmup", self.warmup, 0.0, 1.0, open_high=True)
        self.final = real("final", self.final, 0.0, 1.0)

    def __call__(self, step: int, total: int) -> float:
        rising = round(self.warmup * total)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        progress = min(1.0, (step - rising) / max(1, total - rising))
        return self.learning_rate * (self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * progress)))


@dataclass
class OneCycle(Schedule):
    """Half a cosine up to `learning_rate` over the fraction `rise`, then half a cosine down.

    The first learning rate is `learning_rate / start`, the last `learning_rate / (start * end)`.
    Source: Smith and Topin, arXiv:1708.07120, in PyTorch's two-phase form.

    >>> OneCycle(1.0, rise=0.3)(29, 100)
    1.0
    """

    learning_rate: float
    rise: float = 0.3
    start: float = 25.0
    end: float = 1e4

    def __post_init__(self) -> None:
        self.learning_rate = _rate(self.learning_rate)
        self.rise = real("rise", self.rise, 0.0, 1.0, open_low=True, open_high=True)
        self.start, self.end = real("start", self.start, 1.0), real("end", self.end, 1.0)

    def __call__(self, step: int, total: int) -> float:
        peak = self.rise * total - 1.0
        low, high = self.learning_rate / self.start, self.learning_rate
        if step <= peak:
            begin, end, progress = low, high, step / peak if peak > 0 else 1.0
        else:
            begin, end, progress = high, low / self.end, min(1.0, (step - peak) / max(1.0, total - 1.0 - peak))
        return end + 0.5 * (begin - end) * (1.0 + math.cos(math.pi * progress))


@dataclass
class ReduceOnPlateau(Schedule):
    """A learning rate that is multiplied by `factor` when the loss has not fallen by `tolerance` for `patience` epochs.

    The schedule observes the validation loss after each epoch, or the training loss if there is no validation. It is
    reset at the start of each training. The learning rate does not fall below `minimum`.

    >>> schedule = ReduceOnPlateau(1.0, factor=0.5, patience=1)
    >>> for loss in (1.0, 1.0, 1.0): schedule.observe(loss)
    >>> schedule(0, 1)
    0.5
    """

    needs_total = False
    learning_rate: float
    factor: float = 0.1
    patience: int = 5
    tolerance: float = 1e-4
    minimum: float = 0.0
    current: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.learning_rate = _rate(self.learning_rate)
        self.factor = real("factor", self.factor, 0.0, 1.0, open_low=True, open_high=True)
        self.patience = positive_int("patience", self.patience, 0)
        self.tolerance = real("tolerance", self.tolerance, 0.0)
        self.minimum = real("minimum", self.minimum, 0.0, self.learning_rate)
        self.reset()

    def reset(self) -> None:
        self.current, self._best, self._waited = self.learning_rate, math.inf, 0

    def state_dict(self) -> dict[str, Any]:
        best = None if math.isinf(self._best) else self._best
        return {"current": self.current, "best": best, "waited": self._waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        best = state["best"]
        self.current, self._best = float(state["current"]), math.inf if best is None else float(best)
        self._waited = int(state["waited"])

    def __call__(self, step: int, total: int) -> float:
        return self.current

    def observe(self, loss: float) -> None:
        if loss < self._best - self.tolerance:
            self._best, self._waited = loss, 0
            return
        self._waited += 1
        if self._waited > self.patience:
            self.current, self._waited = max(self.current * self.factor, self.minimum), 0


def as_schedule(value: float | Schedule) -> Schedule:
    """Return the constant Schedule of a number; a Schedule is returned as it is.

    Raises
    ------
    ParameterError
        The number is not a positive finite one, or the value is a function.

    >>> as_schedule(0.1)
    Constant(learning_rate=0.1)
    """
    if isinstance(value, Schedule):
        return value
    if callable(value):
        raise ParameterError("a learning rate must be a number or a Schedule; subclass xpdense.Schedule")
    return Constant(_rate(value))
