"""`find_learning_rate`: a range test, and short trainings that verify what it says."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import training
from ..backend import Array, backend_of, resolve
from ..comm import Solo
from ..data.arrays import Batches, Rows, prepared
from ..errors import DivergenceError, OutputError, ParameterError, positive_int, real, require
from ..losses import Loss, as_loss
from ..network import Network
from ..optimizers import Optimizer, as_optimizer

_KEEP = 0.9  # of the smoothed loss at each step
_PROBE = 1024  # rows by which short trainings are compared
_MOST = 8  # short trainings


@dataclass(frozen=True, eq=False)
class RateTest:
    """Losses by learning rate, and the rate that they speak for.

    Attributes
    ----------
    rates, losses, smoothed : list of float
        Of each step of the range test: its rate, its batch's loss, and the exponential mean of the losses.
    suggestion : float
        The rate in `tried` that reached the lowest loss.
    steepest : float
        Where the smoothed loss falls fastest.
    diverges : float, optional
        The rate at which the test broke off, the loss being far above its lowest or not finite; None if none did.
    tried : mapping of float to float
        Rates, and the loss of a fixed sample of rows after a short training by each; infinite where it diverged.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    steepest: float
    diverges: float | None = None
    tried: Mapping[float, float] = field(default_factory=dict)

    def __str__(self) -> str:
        reached = ", ".join(f"{loss:.4g} by {rate:.2g}" for rate, loss in sorted(self.tried.items()))
        end = f"diverges at {self.diverges:.2g}" if self.diverges is not None else "never diverges"
        return (f"learning rate {self.suggestion:.2g}: the loss falls fastest at {self.steepest:.2g} and {end}; short "
                f"trainings reach {reached}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: numbers that are not finite become None.

        >>> RateTest([0.1], [math.inf], [0.5], 0.1, 0.1).to_dict()["losses"]
        [None]
        """
        def plain(values: list[float]) -> list[float | None]:
            return [value if math.isfinite(value) else None for value in values]

        return {"suggestion": self.suggestion, "steepest": self.steepest, "diverges": self.diverges,
                "tried": {"rates": list(self.tried), "losses": plain(list(self.tried.values()))},
                "rates": self.rates, "losses": plain(self.losses), "smoothed": plain(self.smoothed)}

    def plot(self, path: str | Path | None = None) -> Any:
        """Draw loss against rate; write the picture to `path`, or return the matplotlib Figure."""
        require("matplotlib", "plots", "RateTest.plot")
        from ..plots import plot_rates

        try:
            return plot_rates(self.rates, self.losses, self.smoothed, self.tried, self.suggestion, path)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        except ValueError as error:  # a format that matplotlib does not write; it lists those that it does
            raise ParameterError(f"cannot write {path}: {error}") from error


def find_learning_rate(network: Network, x: Any, y: Any, *, loss: str | Loss, optimizer: str | Optimizer = "adam",
                       batch_size: int = 128, low: float = 1e-7, high: float = 10.0, steps: int = 200,
                       seed: int = 0) -> RateTest:
    """Find a learning rate for a network as it is; the network is not changed.

    A range test (Smith, arXiv:1506.01186): a copy is trained with a rate that grows by the same factor in each step,
    until its loss rises to four times its lowest. That tells where to look. Then copies are trained for as many steps
    each by one rate, from the same weights on the same batches: rates from a hundredth of that with the lowest loss up
    to it, and further while the best is the last on its side. The one with the lowest loss on a fixed sample of rows is
    suggested.

    Parameters
    ----------
    network : Network
    x, y : arrays, as in `DenseNetwork.fit`
    loss : str or Loss
    optimizer : str or Optimizer
        Its own learning rate, or schedule, plays no part.
    batch_size : int
    low, high : float
        Between which rates are looked for.
    steps : int
        Of the test and of each short training, at least 10.
    seed : int
        Of the order of the rows and of the sample.

    Returns
    -------
    RateTest

    Raises
    ------
    ParameterError, DataError, ArrayTypeError, BackendError
        Before any work is done.
    DivergenceError
        The loss is not finite before any step, or after training by every rate that was tried.

    Examples
    --------
    >>> import xpdense as xd
    >>> x = np.random.default_rng(0).standard_normal((200, 3)); y = x @ np.array([[1.0], [2.0], [3.0]])
    >>> net = xd.DenseNetwork([xd.Dense(1)], inputs=3)
    >>> test = find_learning_rate(net, x, y, loss="squared_error", optimizer="sgd")
    >>> 0.01 < test.suggestion <= 1.0
    True
    """
    if not isinstance(network, Network) or not network.size:
        raise ParameterError(f"find_learning_rate needs a network with parameters, got {network!r}")
    chosen, rule = as_loss(loss), copy.deepcopy(as_optimizer(optimizer))
    low, high = real("low", low, 0.0, open_low=True), real("high", high, 0.0, open_low=True)
    if low >= high:
        raise ParameterError(f"low must be below high, got {low:g} and {high:g}")
    steps, seed = positive_int("steps", steps, 10), positive_int("seed", seed, 0)
    Batches(1, batch_size, seed)  # says what is wrong with it before the data are touched
    network = copy.deepcopy(network)
    if network.follows_input:
        network.to(backend_of(x) or resolve("numpy"))
    network.check_precision()
    with network.backend.active(), np.errstate(all="ignore"):
        rows = prepared(x, y, None, network, chosen)
        trainer = _Trainer(network, rows, chosen, rule, Batches(rows.count, batch_size, seed), steps)
        return _tested(trainer, low, high, steps)


class _Trainer:
    """Trainings of one network, each from the same weights on the same batches."""

    def __init__(self, network: Network, rows: Rows, loss: Loss, optimizer: Optimizer, batches: Batches,
                 steps: int) -> None:
        self.network, self.rows, self.loss, self.optimizer = network, rows, loss, optimizer
        self.batches, self.steps = batches, steps
        self.start = network.arena.snapshot()
        order = np.random.default_rng([batches.seed, 3]).permutation(rows.count)
        self.probe = rows.some(network.ops, np.sort(order[:_PROBE]))

    def losses(self, rate: Callable[[int], float]) -> Iterator[float]:
        """The loss of each step's batch, before the update; the step's rate is `rate(step)`."""
        network = self.network
        network.arena.restore(self.start)
        state = self.optimizer.begin(network.arena)
        network.ops.begin_training()
        for step, batch in enumerate(itertools.islice(self._orders(), self.steps)):
            rows = self.rows.take(network.ops, batch)
            yield float(training.train_step(network, self.loss, state, rows, step, rate(step), Solo()))

    def _orders(self) -> Iterator[Array]:
        """Row numbers of one batch after the other, epoch after epoch, where the rows are."""
        size = self.batches.batch_size
        for epoch in itertools.count():
            order = self.batches.order(epoch)
            flat = order if self.rows.on_host else self.network.backend.from_host(order)
            for i in range(0, len(order), size):
                yield flat[i : min(i + size, len(order))]

    def reached(self, rate: float) -> float:
        """The probe's loss after a training by one rate; infinite where it diverges."""
        if not all(map(math.isfinite, self.losses(lambda step: rate))):
            return math.inf
        network = self.network
        found = training.evaluate(network, training.slices_of(network, self.probe), self.probe, self.loss, ())["loss"]
        return found if math.isfinite(found) else math.inf


def _tested(trainer: _Trainer, low: float, high: float, steps: int) -> RateTest:
    """The range test, then the short trainings."""
    rates, losses, smoothed = np.geomspace(low, high, steps).tolist(), list[float](), list[float]()
    mean, best, diverges = 0.0, math.inf, None
    for step, loss in enumerate(trainer.losses(lambda step: rates[step])):
        mean = _KEEP * mean + (1.0 - _KEEP) * loss
        losses.append(loss)
        smoothed.append(mean / (1.0 - _KEEP ** (step + 1)))
        if not math.isfinite(loss) or smoothed[-1] > best + 3.0 * max(abs(best), 0.1 * abs(losses[0])):
            diverges = rates[step]
            break
        best = min(best, smoothed[-1])
    if not math.isfinite(losses[0]):
        raise DivergenceError(f"the loss is {losses[0]} before any step: no learning rate mends that. Scale the inputs "
                              "and targets, or draw smaller weights.")
    rates = rates[: len(losses)]
    finite = np.array(smoothed[: len(losses) - (not math.isfinite(losses[-1]))])
    lowest = int(np.argmin(finite))
    falls = np.gradient(finite[: max(lowest + 1, 2)]) if len(finite) > 1 else np.zeros(1)
    tried = _tried(trainer, rates[lowest], low, high)
    if not any(map(math.isfinite, tried.values())):
        raise DivergenceError(f"the training diverges by each of {', '.join(f'{rate:.2g}' for rate in tried)}: test "
                              "from a lower rate on (low=).")
    return RateTest(rates, losses, smoothed, min(tried, key=tried.__getitem__), rates[int(np.argmin(falls))], diverges,
                    tried)


def _tried(trainer: _Trainer, lowest: float, low: float, high: float) -> dict[float, float]:
    """Rates, by half a decade, and the losses that they reach: from lowest / 100 to lowest, and beyond a best end."""
    found = dict[int, float]()
    ahead = [-4, -3, -2, -1, 0]
    while ahead and len(found) < _MOST:
        place = ahead.pop(0)
        rate = lowest * 10.0 ** (place / 2)
        found[place] = trainer.reached(rate) if low <= rate <= high else math.inf
        best = min(found, key=found.__getitem__)
        if not ahead and best in (min(found), max(found)):
            ahead = [best - 1 if best == min(found) else best + 1]
    by_rate = {lowest * 10.0 ** (place / 2): loss for place, loss in sorted(found.items())}
    return {rate: loss for rate, loss in by_rate.items() if low <= rate <= high}
