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

from .backend import Array, backend_of, resolve
from .data.arrays import Batches, Rows, prepared
from .errors import DivergenceError, OutputError, ParameterError, positive_int, real, require
from .inference import evaluate, slices_of
from .losses import Loss, as_loss
from .network import Network
from .optimizers import Optimizer, as_optimizer
from .step import TrainStep

_KEEP = 0.9  # of the smoothed loss at each step
_HELD_OUT = 1024  # rows by which short trainings are compared, a fifth of all at most
_FEW = 50  # rows of which none are held out
_BLOCKS = 10  # of the rows held out, whose losses tell how sure a difference is
_MOST = 8  # short trainings


@dataclass(frozen=True, eq=False)
class RateTest:
    """Losses by learning rate, and the rate that they speak for.

    Attributes
    ----------
    rates, losses, smoothed : list of float
        Of each step of the range test: its rate, its batch's loss, and the exponential mean of the losses.
    suggestion : float
        The lowest rate in `tried` whose loss is the lowest, or within a standard error of it.
    steepest : float
        Where the smoothed loss falls fastest.
    diverges : float, optional
        The rate at which the test broke off, the loss being far above its lowest or not finite; None if none did.
    tried : mapping of float to float
        Rates, and the loss of the rows held out after a short training by each; infinite where it diverged.
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
        from .plots import plot_rates

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
    to it, and further while the best is the last on its side. The lowest rate is suggested whose loss on rows held out
    is within one standard error of the best's (as Breiman et al., 1984, choose a tree): of rates as good, the gentlest.
    It is a rate for about as many steps; a much longer training is better served by a test of more, or by a schedule
    that falls from it.

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
        Of the order of the rows, and of those held out: a fifth, 1,024 at most; of fewer than 50, none, and losses are
        those of the rows trained on.

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
    if not isinstance(network, Network):
        raise ParameterError(f"find_learning_rate needs a network, got {type(network).__name__}")
    if not network.size:
        raise ParameterError("no layer of the network has parameters: there is nothing to train")
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
        trainer = _Trainer(network, rows, chosen, rule, batch_size, steps, seed)
        return _tested(trainer, low, high, steps)


class _Trainer:
    """Trainings of one network, each from the same weights on the same batches."""

    def __init__(self, network: Network, rows: Rows, loss: Loss, optimizer: Optimizer, batch_size: int, steps: int,
                 seed: int) -> None:
        self.network, self.loss, self.optimizer, self.steps = network, loss, optimizer, steps
        self.start, held_out = network.arena.snapshot(), rows
        if rows.count >= _FEW:
            rows, held_out = rows.split(network.ops, min(0.2, _HELD_OUT / rows.count), seed)
        self.rows, self.batches = rows, Batches(rows.count, batch_size, seed)
        blocks = np.array_split(np.random.default_rng(seed).permutation(held_out.count), _BLOCKS)
        self.blocks = [held_out.some(network.ops, block) for block in blocks if len(block)]

    def losses(self, rate: Callable[[int], float]) -> Iterator[float]:
        """The loss of each step's batch, before the update; the step's rate is `rate(step)`."""
        network = self.network
        network.arena.restore(self.start)
        train_step = TrainStep(network, self.loss, self.optimizer.begin(network.arena))
        network.ops.begin_training()
        for step, batch in enumerate(itertools.islice(self._orders(), self.steps)):
            rows = self.rows.take(network.ops, batch)
            yield float(train_step(rows, step, rate(step)))

    def _orders(self) -> Iterator[Array]:
        """Row numbers of one batch after the other, epoch after epoch, where the rows are."""
        size = self.batches.batch_size
        for epoch in itertools.count():
            order = self.batches.order(epoch)
            flat = order if self.rows.on_host else self.network.backend.from_host(order)
            for i in range(0, len(order), size):
                yield flat[i : min(i + size, len(order))]

    def reached(self, rate: float) -> np.ndarray:
        """The loss of each block (blocks,) after a training by one rate; infinite where it diverges."""
        network, diverged = self.network, np.full(len(self.blocks), np.inf)
        if not all(map(math.isfinite, self.losses(lambda step: rate))):
            return diverged
        found = np.array([evaluate(network, slices_of(network, block), block, self.loss, ())["loss"]
                          for block in self.blocks])
        return found if np.isfinite(found).all() else diverged


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
    tried = _tried(trainer, rates[lowest], low, high)
    if not any(np.isfinite(reached).all() for reached in tried.values()):
        raise DivergenceError(f"the training diverges by each of {', '.join(f'{rate:.2g}' for rate in tried)}: test "
                              "from a lower rate on (low=).")
    return RateTest(rates, losses, smoothed, _gentlest(tried), rates[_steepest(finite, steps // 10)], diverges,
                    {rate: float(reached.mean()) for rate, reached in tried.items()})


def _steepest(smoothed: np.ndarray, window: int) -> int:
    """The step in the middle of the window over which the losses fall most; the first window is mostly noise."""
    falls = smoothed[2 * window :] - smoothed[window : -window]
    return int(np.argmin(falls)) + window + window // 2 if len(falls) else int(np.argmin(smoothed))


def _tried(trainer: _Trainer, lowest: float, low: float, high: float) -> dict[float, np.ndarray]:
    """Rates, by half a decade, and the losses that they reach: from lowest / 100 to lowest, and beyond a best end."""
    found = dict[int, np.ndarray]()
    ahead = [-4, -3, -2, -1, 0]
    while ahead and len(found) < _MOST:
        place = ahead.pop(0)
        rate = lowest * 10.0 ** (place / 2)
        if low <= rate <= high:
            found[place] = trainer.reached(rate)
        if not ahead and found:
            best = min(found, key=lambda place: float(found[place].mean()))
            ahead = [end for end in (min(found) - 1, max(found) + 1) if abs(end - best) == 1 and end != place]
    return {lowest * 10.0 ** (place / 2): losses for place, losses in sorted(found.items())}


def _gentlest(tried: Mapping[float, np.ndarray]) -> float:
    """The lowest rate whose losses are those of the best up to one standard error of the difference."""
    best = min(tried.values(), key=lambda losses: float(losses.mean()))
    excess = {rate: losses - best for rate, losses in tried.items() if np.isfinite(losses).all()}
    error = {rate: off.std(ddof=1) / math.sqrt(len(off)) if len(off) > 1 else 0.0 for rate, off in excess.items()}
    return min(rate for rate, off in excess.items() if off.mean() <= error[rate])
