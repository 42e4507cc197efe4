"""Learners that are sound: what can be reached on the same rows, next to which a training is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..data.arrays import Rows, prepared
from ..data.feeding import Batches, InMemory
from ..inference import outputs
from ..layers import Dense
from ..losses import BinaryCrossEntropy, Loss, Quantile, SoftmaxCrossEntropy, SquaredError
from ..network import Network
from ..optimizers import Adam
from ..schedules import Cosine
from ..training import Loop
from .task import Task
from .trial import Trials

STEPS = 600


def standardised(x: np.ndarray, usable: np.ndarray | None = None) -> np.ndarray:
    """Columns of mean 0 and deviation 1 by the usable rows' statistics, as x's floats; constant ones become 0.

    >>> standardised(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    x = x / np.maximum(1.0, np.abs(x).max(axis=0) / 1e30)  # so that squares do not overflow
    known = np.asarray(x if usable is None else x[usable], np.float64)
    mean, std = known.mean(axis=0), known.std(axis=0)
    still = std <= 1e-12 * np.maximum(1.0, np.abs(mean))
    found = np.where(still, 0.0, (x - mean) / np.where(still, 1.0, std))
    return found.astype(x.dtype if x.dtype.kind == "f" else np.float64)


@dataclass(frozen=True)
class Learnt:
    """What a sound learner reaches: skill on rows that it did not see, and on those that it did."""

    skill: float
    fit: float


def learn(trials: Trials, x: np.ndarray, hidden: Sequence[int] = (64,), usable: np.ndarray | None = None,
          judged: np.ndarray | None = None, share: float = 1.0, balance: bool = False, seed: int = 0) -> Learnt:
    """A network of this package, on standardised features, by Adam.

    Parameters
    ----------
    trials : Trials
        Whose folds and truth it learns.
    x : ndarray (n, features)
        Standardised.
    hidden : sequence of int
        Widths; none is a linear model.
    usable, judged : ndarray of bool (n,), optional
        Rows that it may train on, and be judged by; default: all, and those.
    share : float
        Of the training rows, for a curve over their number.
    """
    task, skills, fits = trials.task, [], []
    usable = np.ones(len(x), bool) if usable is None else usable
    judged = usable if judged is None else judged
    target, loss, n_outputs = _target(task)
    for fold in range(trials.folds.max() + 1):
        take = np.flatnonzero((trials.folds != fold) & usable)
        held = np.flatnonzero((trials.folds == fold) & judged)[:2000]
        rng = np.random.default_rng([seed, 17, fold])
        if share < 1.0:
            take = np.sort(rng.choice(take, max(4, round(share * len(take))), replace=False))
        if balance:
            of_class = [take[task.truth[take] == c] for c in np.unique(task.truth[take])]
            take = np.concatenate([rng.choice(one, -(-len(take) // len(of_class))) for one in of_class])
        layers = [*(Dense(width, "relu") for width in hidden), Dense(n_outputs)]
        network = Network(layers, x.shape[1], "numpy", seed=seed)
        batches = Batches(len(take), 32, seed)
        with np.errstate(all="ignore"):
            feed = InMemory(prepared(x[take], target[take], None, network.spec(loss)), batches)
            Loop(network, feed, loss=loss, optimizer=Adam(Cosine(5e-3), weight_decay=1e-3),
                 epochs=-(-STEPS // len(batches))).train()
            skills.append(task.skill(_read(task, network, loss, x[held]), held))
            seen = np.unique(take)[:2000]
            fits.append(task.skill(_read(task, network, loss, x[seen]), seen))
    return Learnt(float(np.mean(skills)), float(np.mean(fits)))


def _target(task: Task) -> tuple[np.ndarray, Loss, int]:
    """Targets for a sound network, its loss and its outputs."""
    if task.classes == 2:
        return task.truth.astype(np.float32), BinaryCrossEntropy(), 1
    if task.classes:
        return task.truth, SoftmaxCrossEntropy(), task.classes
    mean, std = task.truth.mean(axis=0), task.truth.std(axis=0)
    loss = SquaredError() if task.quantile is None else Quantile(task.quantile)
    return (task.truth - mean) / np.where(std > 0, std, 1.0), loss, task.truth.shape[1]


def _read(task: Task, network: Network, loss: Loss, x: np.ndarray) -> np.ndarray:
    found = outputs(network, [Rows(np.ascontiguousarray(x, np.float32), None, None)], loss.link, network.backend)
    predicted = np.asarray(found, np.float64)
    if task.classes:
        return predicted
    std = task.truth.std(axis=0)
    return np.asarray(predicted * np.where(std > 0, std, 1.0) + task.truth.mean(axis=0))


def nearest(trials: Trials, x: np.ndarray, usable: np.ndarray | None = None, most: int = 3000) -> float:
    """Skill of the five nearest neighbours on rows that they do not hold, of the first `most` rows."""
    task, skills = trials.task, []
    for fold in range(trials.folds.max() + 1):
        take = np.flatnonzero((trials.folds != fold) & (True if usable is None else usable))[:most]
        held = np.flatnonzero((trials.folds == fold) & (True if usable is None else usable))[:500]
        a, b = x[held].astype(np.float64), x[take].astype(np.float64)
        distance = np.sum(a * a, axis=1)[:, None] - 2.0 * a @ b.T + np.sum(b * b, axis=1)[None]
        near = take[np.argsort(distance, axis=1)[:, :5]]
        if not task.classes:
            skills.append(task.skill(np.stack([task.constant(task.truth[rows]) for rows in near]), held))
            continue
        votes = np.stack([(task.truth[near] == c).mean(axis=1) for c in range(task.classes)], axis=1)
        skills.append(task.skill(votes, held))
    return float(np.mean(skills))


def best_learnt(trials: Trials, x: np.ndarray, usable: np.ndarray | None) -> Learnt:
    """The best of a linear model, a network and the nearest neighbours."""
    found = [learn(trials, x, hidden, usable=usable) for hidden in ((), (64,))]
    best = max(found, key=lambda one: one.skill)
    return max(best, Learnt(nearest(trials, x, usable), best.fit), key=lambda one: one.skill)
