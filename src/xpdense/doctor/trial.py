"""Experiments: a copy of a program is trained under a setting, and its skill measured on held-out rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from .program import Subject
from .task import Task

Params = dict[str, np.ndarray]
#: Changes an update: (parameters before, after, the rows of the batch) -> the parameters to continue with.
Update = Callable[[Params, Params, np.ndarray], Params]

EVALUATIONS = 12  # over a training


@dataclass(frozen=True)
class Setting:
    """A program and how it is trained, which experiments change.

    Attributes
    ----------
    subject : Subject
        Before the training; each training uses a copy.
    x, y : ndarray
        As the program takes them.
    batch_size, epochs : int
    shuffle : bool
    usable : ndarray of bool (n,), optional
        Rows that may be used.
    balance : bool
        Whether all classes are drawn equally often.
    offset, scale : ndarray (outputs,), optional
        Applied to predictions: prediction * scale + offset.
    updates : tuple of Update
    gradients : callable, optional
        (params, x, y) -> gradients that replace those of the program.
    """

    subject: Subject
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    epochs: int
    shuffle: bool
    usable: np.ndarray | None = None
    balance: bool = False
    offset: np.ndarray | None = None
    scale: np.ndarray | None = None
    updates: tuple[Update, ...] = ()
    gradients: Callable[[Params, np.ndarray, np.ndarray], Params] | None = None

    def mask(self) -> np.ndarray:
        """Return the rows that may be used, bool (n,)."""
        return np.ones(len(self.x), bool) if self.usable is None else self.usable

    def start(self) -> Subject:
        """Return a copy of the program with the gradients of this setting."""
        subject = self.subject.copy()
        if self.gradients is not None:
            other = self.gradients
            subject.replace_gradients(lambda x, y: other(subject.params(), np.asarray(x), np.asarray(y)))
        return subject

    def predict(self, subject: Subject, rows: np.ndarray) -> np.ndarray:
        """Return predictions (len(rows), outputs) on the scale of the task."""
        found = subject.predict(self.x[rows])
        if self.scale is not None and self.offset is not None:
            found = found * self.scale + self.offset
        return found


@dataclass(frozen=True)
class Outcome:
    """The result of training under a setting.

    Attributes
    ----------
    skill : float
        On held-out rows, averaged over the folds.
    fit : float
        The skill on training rows.
    curve : list of float
        The skill on held-out rows at each evaluation, averaged over the folds.
    losses : list of float
        Of the first fold at each evaluation; the first is before any step.
    finite : bool
        Whether parameters and losses stayed finite.
    error : str
        The exception that the program raised, or empty.
    subject : Subject
        The trained copy of the first fold.
    steps, epochs : int
    by_fold : tuple of float
        The skill of each fold.
    """

    skill: float
    fit: float
    curve: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    finite: bool = True
    error: str = ""
    subject: Subject | None = None
    steps: int = 0
    epochs: int = 0
    by_fold: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """The skill by which settings are compared: 0 for everything worse than a constant prediction."""
        return max(0.0, self.skill)


class Trials:
    """Trainings under different settings on the same folds of the rows.

    Parameters
    ----------
    task : Task
    seed : int
    max_steps : int
        Of a training.
    folds : int
    """

    def __init__(self, task: Task, seed: int, max_steps: int, folds: int) -> None:
        self.task, self.seed, self.max_steps = task, seed, max_steps
        self.folds = _folds(task.strata(), folds, seed)

    def margin(self) -> float:
        """Return a difference of skill that the choice of held-out rows does not explain."""
        return 0.05 + 1.2 * math.sqrt(0.25 / max(len(self.folds), 1))

    def run(self, setting: Setting, folds: int | None = None, max_steps: int | None = None) -> Outcome:
        """Train with each of the first folds, or all, held out; Outcome.error keeps an exception of the program."""
        found = [self._fold(setting, k, max_steps or self.max_steps) for k in range(folds or self.folds.max() + 1)]
        return replace(
            found[0], skill=float(np.mean([f.skill for f in found])), fit=float(np.mean([f.fit for f in found])),
            curve=_mean([f.curve for f in found]), finite=all(f.finite for f in found),
            error=next((f.error for f in found if f.error), ""), by_fold=tuple(f.skill for f in found))

    def _fold(self, setting: Setting, fold: int, max_steps: int) -> Outcome:
        usable = setting.mask()
        rows = np.flatnonzero((self.folds != fold) & usable)
        held = np.flatnonzero((self.folds == fold) & usable)[:2000]
        seen, few = rows[:: max(1, len(rows) // 1000)], held[:500]
        subject, losses, curve = setting.start(), list[float](), list[float]()
        rng = np.random.default_rng([self.seed, 11, fold])
        # As many steps as with all rows: large batches become smaller, small ones get more epochs.
        whole = -(-int(usable.sum()) // setting.batch_size)
        size = setting.batch_size if whole > 10 else -(-len(rows) // whole)
        per_epoch = -(-len(rows) // size)
        steps = max(1, min(max_steps, setting.epochs * whole))
        if not setting.shuffle:
            steps = max(1, min(-(-steps // per_epoch), setting.epochs)) * per_epoch  # whole epochs
        evaluations = {round(f * steps) for f in np.linspace(0, 1, EVALUATIONS)[:-1]}
        probe = rows[:: max(1, len(rows) // 256)]

        def loss() -> float:
            return subject.loss(setting.x[probe], setting.y[probe]) if "loss" in subject.can else math.nan

        finite, error = True, ""
        with np.errstate(all="ignore"):
            try:
                for step, batch in enumerate(_batches(setting, self.task, rows, size, steps, rng)):
                    if step in evaluations:
                        losses.append(loss())
                        curve.append(self.task.skill(setting.predict(subject, few), few))
                        if step and not _finite(subject):
                            break
                    before = subject.params() if setting.updates else None
                    subject.step(setting.x[batch], setting.y[batch])
                    if before is not None:
                        after = subject.params()
                        for update in setting.updates:
                            after = update(before, after, batch)
                        subject.write(after)
                losses.append(loss())
                skill = self.task.skill(setting.predict(subject, held), held)
                fit = self.task.skill(setting.predict(subject, seen), seen)
                finite = _finite(subject) and (math.isfinite(losses[-1]) or "loss" not in subject.can)
            except Exception as raised:  # any exception of the program is part of the outcome
                skill = fit = -1.0
                finite, error = _finite(subject), f"{type(raised).__name__}: {raised}"
        return Outcome(skill, fit, [*curve, skill], losses, finite, error, subject, steps, -(-steps // per_epoch))


def _mean(curves: list[list[float]]) -> list[float]:
    """Average over the evaluations that all curves have."""
    return np.mean([c[: min(map(len, curves))] for c in curves], axis=0).tolist()  # type: ignore[no-any-return]


def _finite(subject: Subject) -> bool:
    return all(bool(np.all(np.isfinite(value))) for value in subject.params().values())


def _batches(setting: Setting, task: Task, rows: np.ndarray, size: int, steps: int,
             rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield the row numbers of each step."""
    made = 0
    while made < steps:
        order = rows
        if setting.balance and task.classes:
            of_class = [rows[task.truth[rows] == c] for c in np.unique(task.truth[rows])]
            order = np.concatenate([rng.choice(one, -(-len(rows) // len(of_class))) for one in of_class])
        if setting.shuffle:
            order = rng.permutation(order)
        for i in range(0, len(order), size):
            if made == steps:
                return
            made += 1
            yield order[i : i + size]


def _folds(strata: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Return the fold of each row (n,); each stratum is spread over all folds."""
    rng, found = np.random.default_rng([seed, 13]), np.zeros(len(strata), int)
    position = 0
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        found[rows] = (position + np.arange(len(rows))) % folds
        position += len(rows)
    return found


def seconds_per_step(setting: Setting) -> float:
    """Return the median time of a step, measured on a copy; infinity if a step raises."""
    subject, rows = setting.start(), np.arange(min(setting.batch_size, len(setting.x)))
    times = []
    with np.errstate(all="ignore"):
        try:
            for _ in range(5):
                start = time.perf_counter()
                subject.step(setting.x[rows], setting.y[rows])
                times.append(time.perf_counter() - start)
        except Exception:  # the first trial reports it
            return math.inf
    return float(np.median(times))
