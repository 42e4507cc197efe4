"""What scikit-learn's estimators do after each epoch: note loss and score, judge progress, change the rate, stop."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import Array, host
from ..callbacks import Callback, Run
from ..data.arrays import Rows, stored
from ..errors import DivergenceError
from ..inference import evaluate
from ..losses import Loss
from ..network import Network
from ..optimizers import OptimizerState
from .solvers import Rate, set_rate

_JUDGED = 4096  # rows by which a training is judged to have diverged


class Progress(Callback):
    """Keeps an estimator's fitted attributes after every epoch, by scikit-learn's rules.

    Parameters
    ----------
    estimator : the estimator that is trained
    state : OptimizerState
    samples : int
        Rows of an epoch.
    score : callable or None
        Gives the score of the network as it is, on validation data.
    tasks : FitTasks
        The callbacks of scikit-learn.
    report, report_validation : callable
        Convert the loss that is minimised to the one that is reported.
    at_end : callable
        Called at the end of the last epoch; it may raise an error.
    """

    keeps_optimizer_settings = True

    def __init__(self, estimator: Any, state: OptimizerState, samples: int, score: Any, tasks: FitTasks,
                 report: Callable[[float], float], report_validation: Callable[[float], float],
                 at_end: Callable[[], None]) -> None:
        self.report_validation, self.at_end = report_validation, at_end
        self.estimator, self.state, self.samples, self.score = estimator, state, samples, score
        self.tasks, self.report = tasks, report
        self.best_weights: Any = None
        self.converged = False
        estimator.n_iter_ = 0
        if estimator.early_stopping and estimator.best_validation_score_ is None:
            estimator.best_validation_score_, estimator.best_loss_ = -np.inf, None
            estimator.validation_scores_ = estimator.validation_scores_ or []
        elif not estimator.early_stopping and estimator.best_loss_ is None:
            estimator.best_loss_, estimator.best_validation_score_ = np.inf, None

    def on_train_begin(self, run: Run) -> None:
        self.run = run
        if self.estimator.early_stopping and self.estimator.best_validation_score_ > -np.inf:
            self.best_weights = run.network.arena.snapshot()  # those of the last fit, which this one goes on from
        self.tasks.begin()

    def on_epoch_end(self, run: Run) -> None:
        est = self.estimator
        est.t_ += self.samples
        if run.has_validation:
            run.history.note(validation_loss=self.report_validation(run.history["validation_loss"][-1]))
        note_loss(est, self.report(run.history["loss"][-1]))
        score = None if self.score is None else self.score()
        if score is not None:
            note_score(est, score)
            if est.verbose:
                print(f"Validation score: {score:f}")
        if est.early_stopping:
            assert score is not None
            self._judge_score(score)
        else:
            self._judge_loss()
        if est.solver == "sgd" and est.learning_rate == "invscaling":
            set_rate(self.state, est.learning_rate_init / (est.t_ + 1) ** est.power_t)
        if est._no_improvement_count > est.n_iter_no_change:
            self._no_progress(run)
        if self.tasks.end(run.network):
            run.stop = True
        if run.stop or run.epoch + 1 == run.epochs:
            self.at_end()
        else:
            self.tasks.begin()

    def on_train_end(self, run: Run) -> None:
        self.restore_best()

    def restore_best(self) -> None:
        """Put back the weights with the best score, where scores decide."""
        if self.estimator.early_stopping and self.best_weights is not None:
            self.run.network.arena.restore(self.best_weights)

    def last_loss(self, start: Array) -> float:
        """The last epoch's loss without its penalty, which is at most that of the larger of two sets of weights.

        0 where scores decide which weights are kept. `start` (size,): the weights before the first epoch.
        """
        est, arena = self.estimator, self.run.network.arena
        if est.early_stopping:
            return 0.0
        xp, rule = arena.backend.xp, self.state.optimizer
        most = max(float(xp.sum(w[: arena.decay_size] ** 2)) for w in (start, arena.params))
        return float(est.loss_ - 0.5 * rule.penalty * most * self.run.steps_per_epoch / self.samples)

    def _judge_score(self, score: float) -> None:
        est = self.estimator
        est._no_improvement_count = est._no_improvement_count + 1 if score < est.best_validation_score_ + est.tol else 0
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            self.best_weights = self.run.network.arena.snapshot(self.best_weights)

    def _judge_loss(self) -> None:
        est = self.estimator
        est._no_improvement_count = est._no_improvement_count + 1 if est.loss_ > est.best_loss_ - est.tol else 0
        est.best_loss_ = min(est.loss_, est.best_loss_)

    def _no_progress(self, run: Run) -> None:
        """Neither loss nor score got better for long enough: end the training, or go on at a fifth of the rate."""
        est, rate = self.estimator, self.state.optimizer.learning_rate
        what = "Validation score" if est.early_stopping else "Training loss"
        message = (f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs.")
        adaptive = est.solver == "sgd" and est.learning_rate == "adaptive"
        if adaptive and isinstance(rate, Rate) and rate.value > 1e-6:
            set_rate(self.state, rate.value / 5.0)
            est._no_improvement_count = 0
            message += f" Setting learning rate to {rate.value:f}"
        else:
            run.stop = self.converged = True
            message += " Learning rate too small. Stopping." if adaptive else " Stopping."
        if est.verbose:
            print(message)


def note_loss(estimator: Any, loss: float) -> None:
    """Write down the loss of the epoch that has just ended."""
    estimator.n_iter_ += 1
    estimator.loss_ = loss
    estimator.loss_curve_.append(loss)
    estimator.history_.note(loss=loss)
    if estimator.verbose:
        print(f"Iteration {estimator.n_iter_}, loss = {loss:.8f}")


def note_score(estimator: Any, score: float) -> None:
    """Write down the validation score of the epoch that has just ended."""
    if estimator.validation_scores_ is None:
        estimator.validation_scores_ = []
    estimator.validation_scores_.append(score)
    estimator.history_.note(validation_score=score)


class FitTasks:
    """Tell scikit-learn's callbacks (from 1.9) of the fit and of each epoch, if the estimator has any."""

    def __init__(self, estimator: Any, given: tuple[Any, ...], epochs: int) -> None:
        self.estimator = estimator
        self.context: Any = None
        self.inner: Any = None
        if not hasattr(estimator, "_skl_callbacks"):
            return
        x, y, sample_weight = given
        self.data = {"X": x, "y": y, "metadata": None if sample_weight is None else {"sample_weight": sample_weight}}
        self.context = estimator._init_callback_context(max_subtasks=epochs)
        self.context.call_on_fit_task_begin(estimator=estimator, **self.data)

    def begin(self) -> None:
        """An epoch begins."""
        if self.context is not None:
            self.inner = self.context.subcontext(task_name="epoch")
            self.inner.call_on_fit_task_begin(estimator=self.estimator, **self.data)

    def end(self, network: Any) -> bool:
        """An epoch has ended; whether a callback asks the training to end."""
        if self.inner is None:
            return False
        inner, self.inner = self.inner, None
        return bool(inner.call_on_fit_task_end(
            estimator=self.estimator, **self.data,
            reconstruction_attributes=lambda: {"_network": copy.deepcopy(network), "_state": None}))

    def finish(self) -> None:
        """The fit has ended."""
        if self.inner is not None:
            self.inner.call_on_fit_task_end(estimator=self.estimator)
        if self.context is not None:
            self.context.call_on_fit_task_end(estimator=self.estimator, **self.data, reconstruction_attributes=dict)


def accuracy(xp: Any, found: Any, truth: Any, weight: Any) -> float:
    """The (weighted) share of rows (n,) or (n, labels) that are right in every label."""
    right = found == truth
    right = xp.all(right, axis=-1) if right.ndim == 2 else right
    right = xp.astype(right, xp.float64)
    if weight is None:
        return float(xp.mean(right))
    weight = xp.astype(weight, xp.float64)
    return float(xp.sum(right * weight) / xp.sum(weight))


def r2(xp: Any, found: Any, truth: Any, weight: Any) -> float:
    """The (weighted) coefficient of determination, its mean over the outputs; found and truth (n, outputs).

    1 - residuals / variance; where the truth is constant, 1 if it is met and else 0.
    """
    found, truth = xp.astype(found, xp.float64), xp.astype(truth, xp.float64)
    share = xp.ones_like(truth) if weight is None else xp.astype(weight, xp.float64)[:, None]
    mean = xp.sum(share * truth, axis=0) / xp.sum(share, axis=0)
    residuals, variance = xp.sum(share * (truth - found) ** 2, axis=0), xp.sum(share * (truth - mean) ** 2, axis=0)
    constant = xp.astype(residuals == 0, xp.float64)
    safe = xp.where(variance > 0, variance, xp.ones_like(variance))
    value = float(xp.mean(xp.where(variance > 0, 1.0 - residuals / safe, constant)))
    return value if np.isfinite(value) else float("nan")


def check_progress(network: Network, rows: Rows, loss: Loss, last: float, report: Callable[[float], float],
                   start: tuple[Array, Array], tol: float) -> None:
    """Raise DivergenceError where a training has made the loss far worse: ten times the larger of two others.

    These are the loss of the untrained network, whose weights are `start`, and that of outputs of zero; compared are
    the loss of the weights that are kept, and `last`, that of the last epoch; none has a penalty in it. `report` makes
    the estimator's loss of the package's; what is less than `tol` is no difference.
    """
    every = -(-rows.count // _JUDGED)
    if every > 1:
        rows = rows.some(np.arange(0, rows.count, every))

    def mean_loss() -> float:
        return abs(report(evaluate(network, [rows], loss, ())["loss"]))

    arena, y = network.arena, stored(rows.y, network.backend)
    weight = None if rows.weight is None else stored(rows.weight, network.backend)
    with np.errstate(all="ignore"):
        zeros = network.backend.zeros((rows.count, network.outputs), network.dtype)
        untrained = zero = abs(report(float(loss(network.ops, zeros, y, weight)[0])))
        reached = np.maximum(mean_loss(), last)
        if not reached <= 10.0 * zero + tol:
            trained = arena.snapshot()
            arena.restore(start)
            untrained = mean_loss()
            arena.restore(trained)
    if not reached <= 10.0 * max(zero, untrained) + tol:
        xp = network.backend.xp
        largest = float(xp.max(xp.abs(arena.params)))
        feature = max(float(xp.max(xp.abs(stored(part.x, network.backend)))) for part in rows.parts(network.part_rows))
        target = float(np.max(np.abs(host(rows.y))))
        raise DivergenceError(
            f"the training diverged: its loss is {reached:.3g}, that of the untrained network was {untrained:.3g}, and "
            f"outputs of zero give {zero:.3g}. Largest weight {largest:.3g}, feature {feature:.3g}, target "
            f"{target:.3g}. A lower learning_rate_init, scaled features and targets, or clip_norm=1.0 are the usual "
            f"cures.")
