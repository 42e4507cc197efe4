"""scikit-learn's solvers by this package's optimizers: the same rates, the same steps; and L-BFGS on the flat arena."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from ..backend import host
from ..data.arrays import Rows, stored
from ..errors import ParameterError
from ..layers import BatchNorm, Dropout
from ..losses import Loss
from ..network import Network
from ..optimizers import SGD, Adam, Momentum, Nesterov, Optimizer, OptimizerState, as_optimizer
from ..schedules import Schedule
from ..step import loss_and_gradients


@dataclass
class Rate(Schedule):
    """A learning rate that is set from outside, between epochs."""

    value: float

    def __call__(self, step: int, total: int) -> float:
        return self.value


@dataclass
class Continued(Schedule):
    """A schedule that continues where earlier runs left it: `begun` steps made already, of `total` planned."""

    inner: Schedule
    begun: int
    total: int

    def __call__(self, step: int, total: int) -> float:
        return self.inner(self.begun + step, max(self.total, self.begun + total))

    def observe(self, loss: float) -> None:
        self.inner.observe(loss)


class ScikitAdam(Adam):
    """Adam with epsilon added before the bias correction, as scikit-learn has it (end of section 2 of the paper)."""

    kernel = "update adam"

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        return super().scalars(rate, step)[0], self.epsilon / math.sqrt(1.0 - self.beta2)


def make_optimizer(estimator: Any, penalty: float, share: float) -> Optimizer:
    """The optimizer that an estimator's parameters describe, with an L2 penalty on the sum of a batch's losses.

    `share` is how many times the reported loss is minimised; the penalty is reported as often.
    """
    rule = _rule(estimator)
    rule.penalty, rule.reported_penalty = penalty, penalty * share
    return rule


def _rule(estimator: Any) -> Optimizer:
    solver, schedule = estimator.solver, estimator.learning_rate
    if isinstance(solver, Optimizer):
        rule = copy.deepcopy(as_optimizer(solver))
        if estimator.clip_norm is not None:
            rule.clip_norm = estimator.clip_norm
        return rule
    rate: Schedule = copy.deepcopy(schedule) if isinstance(schedule, Schedule) else Rate(estimator.learning_rate_init)
    common: dict[str, Any] = {"learning_rate": rate, "clip_norm": estimator.clip_norm}
    if solver == "adam":
        return ScikitAdam(beta1=estimator.beta_1, beta2=estimator.beta_2, epsilon=estimator.epsilon, **common)
    if solver == "sgd":
        if estimator.momentum == 0:
            return SGD(**common)
        return (Nesterov if estimator.nesterovs_momentum else Momentum)(momentum=estimator.momentum, **common)
    return as_optimizer(solver, **common)


def set_rate(state: OptimizerState, value: float) -> None:
    """Change the rate of a `Rate`. scikit-learn's velocity holds the rate of the time: it is rescaled to the same."""
    rate = state.optimizer.learning_rate
    if not isinstance(rate, Rate) or rate.value == value:
        return
    if isinstance(state.optimizer, Momentum):  # Nesterov is one
        state.buffers["velocity"] *= rate.value / value
    rate.value = value


def minimize_lbfgs(network: Network, loss: Loss, parts: Callable[[], Iterable[Rows]], penalty: float, *, tol: float,
                   max_iter: int, max_fun: int, after: Callable[[float], bool]) -> OptimizeResult:
    """L-BFGS-B (Byrd et al. 1995, through SciPy) on the whole arena; `after(loss)` follows each iteration.

    The loss of all rows, those of `parts()`, and its gradient are summed over parts of bounded size. `after` may say to
    stop.
    """
    for _, layer in network.named_layers():
        if isinstance(layer, (Dropout, BatchNorm)):
            raise ParameterError(f"solver='lbfgs' needs a loss that depends on the weights alone, and "
                                 f"{type(layer).__name__} makes it another at each call: take solver='adam'")
    arena, backend, decaying = network.arena, network.backend, network.arena.decay_size
    count, total_weight, seen = 0, 0.0, math.nan
    for rows in parts():
        count, total_weight = count + rows.count, total_weight + _weight_of(rows)
    strength = penalty / count

    def value_and_gradient(w: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal seen
        arena.params[...] = backend.from_host(w.astype(network.dtype))
        arena.refresh()
        value, gradient = 0.0, np.zeros(w.size)
        for part in (part for rows in parts() for part in rows.parts(network.part_rows)):
            part_weight = _weight_of(part)
            some = None if part.weight is None else stored(part.weight, backend)
            batch = Rows(stored(part.x, backend), stored(part.y, backend), some)
            value += float(loss_and_gradients(network, loss, batch)) * part_weight / total_weight
            gradient += np.asarray(backend.to_host(arena.grads), np.float64) * (part_weight / total_weight)
        gradient[:decaying] += strength * w[:decaying]
        seen = value + 0.5 * strength * float(w[:decaying] @ w[:decaying])
        return seen, gradient

    def callback(intermediate_result: OptimizeResult) -> None:
        arena.params[...] = backend.from_host(np.asarray(intermediate_result.x, network.dtype))
        if after(float(intermediate_result.fun)):
            raise StopIteration

    start = np.array(backend.to_host(arena.params), np.float64)
    try:
        result = minimize(value_and_gradient, start, method="L-BFGS-B", jac=True, callback=callback,
                          options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol})
    finally:
        network.forget()
    arena.params[...] = backend.from_host(result.x.astype(network.dtype))
    arena.refresh()
    return result


def _weight_of(rows: Rows) -> float:
    return float(rows.count) if rows.weight is None else float(np.asarray(host(rows.weight), np.float64).sum())
