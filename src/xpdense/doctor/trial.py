"""One experiment: a copy of a program, trained as a setting says, and the skill it reaches on rows it did not see."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from .program import Subject
from .task import Task

Params = dict[str, np.ndarray]
#: What an experiment does to an update: before, after, the rows of the batch -> what the parameters become.
Update = Callable[[Params, Params, np.ndarray], Params]

LOOKS = 12  # at the loss, over a training


@dataclass(frozen=True)
class Setting:
    """How a program is trained: what an experiment changes.

    Attributes
    ----------
    subject : Subject
        At its start; each training takes a copy.
    x, y : ndarray
        As the program is given them.
    batch_size, epochs : int
    shuffle : bool
    usable : ndarray of bool (n,), optional
        Rows that may be trained on.
    balance : bool
        Whether every class is drawn as often.
    offset, scale : ndarray (outputs,), optional
        What makes predictions those of the truth.
    updates : tuple of Update
    gradients : callable, optional
        (params, x, y) -> the gradients that the program takes instead of its own.
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
        """The rows that may be trained on, bool (n,)."""
        return np.ones(len(self.x), bool) if self.usable is None else self.usable

    def start(self) -> Subject:
        """A copy of the program with what is changed in it."""
        subject = self.subject.copy()
        if self.gradients is not None:
            other = self.gradients
            subject.replace_gradients(lambda x, y: other(subject.params(), np.asarray(x), np.asarray(y)))
        return subject

    def predict(self, subject: Subject, rows: np.ndarray) -> np.ndarray:
        found = subject.predict(self.x[rows])
        if self.scale is not None and self.offset is not None:
            found = found * self.scale + self.offset
        return found


@dataclass(frozen=True)
class Outcome:
    """What a setting leads to.

    Attributes
    ----------
    skill : float
        On rows that it did not see, the mean over the folds.
    fit : float
        On those that it was trained on.
    course : list of float
        The skill on unseen rows at the looks, averaged over the folds.
    losses : list of float
        Of the first fold, at some looks; the first before any step.
    finite : bool
        Whether parameters and losses stayed finite.
    error : str
        What the program raised, if it did.
    subject : Subject
        As the first fold left it.
    steps, epochs : int
    by_fold : tuple of float
        The skill of each.
    """

    skill: float
    fit: float
    course: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    finite: bool = True
    error: str = ""
    subject: Subject | None = None
    steps: int = 0
    epochs: int = 0
    by_fold: tuple[float, ...] = ()

    @property
    def worth(self) -> float:
        """The skill by which settings are compared: no better than a constant is 0, however bad."""
        return max(0.0, self.skill)


class Trials:
    """Trainings of settings on the same folds of the rows.

    Parameters
    ----------
    task : Task
    seed : int
    most : int
        Steps of a training, at most.
    folds : int
    """

    def __init__(self, task: Task, seed: int, most: int, folds: int) -> None:
        self.task, self.seed, self.most, self.made = task, seed, most, 0
        self.folds = _folds(task.strata(), folds, seed)

    def margin(self) -> float:
        """A difference of skill that is no accident of which rows were held out."""
        held = sum(len(np.flatnonzero(self.folds == k)) for k in range(self.folds.max() + 1))
        return 0.05 + 1.2 * math.sqrt(0.25 / max(held, 1))

    def of(self, setting: Setting, folds: int | None = None, most: int | None = None) -> Outcome:
        """What the setting leads to, by the first folds or all; an error of the program ends a training and is told."""
        found = [self._fold(setting, k, most or self.most) for k in range(folds or self.folds.max() + 1)]
        self.made += len(found)
        first = found[0]
        return replace(
            first, skill=float(np.mean([f.skill for f in found])), fit=float(np.mean([f.fit for f in found])),
            course=_mean([f.course for f in found]), finite=all(f.finite for f in found),
            error=next((f.error for f in found if f.error), ""), by_fold=tuple(f.skill for f in found))

    def _fold(self, setting: Setting, fold: int, most: int) -> Outcome:
        usable = setting.mask()
        rows = np.flatnonzero((self.folds != fold) & usable)
        held = np.flatnonzero((self.folds == fold) & usable)[:2000]
        seen, glance = rows[:: max(1, len(rows) // 1000)], held[:500]
        subject, losses, course = setting.start(), list[float](), list[float]()
        rng = np.random.default_rng([self.seed, 11, fold])
        # As many steps as with all rows: of large batches by smaller ones, of small by more epochs.
        whole = -(-int(usable.sum()) // setting.batch_size)
        size = setting.batch_size if whole > 10 else -(-len(rows) // whole)
        per_epoch = -(-len(rows) // size)
        steps = max(1, min(most, setting.epochs * whole))
        if not setting.shuffle:
            steps = max(1, min(-(-steps // per_epoch), setting.epochs)) * per_epoch  # whole epochs
        looks = {round(f * steps) for f in np.linspace(0, 1, LOOKS)[:-1]}
        probe = rows[:: max(1, len(rows) // 256)]
        finite, error = True, ""
        with np.errstate(all="ignore"):
            try:
                for step, batch in enumerate(_batches(setting, self.task, rows, size, steps, rng)):
                    if step in looks:
                        losses.append(subject.loss(setting.x[probe], setting.y[probe]) if "loss" in subject.can
                                      else math.nan)
                        course.append(self.task.skill(setting.predict(subject, glance), glance))
                        if step and not _finite(subject):
                            break
                    before = subject.params() if setting.updates else None
                    subject.step(setting.x[batch], setting.y[batch])
                    if before is not None:
                        after = subject.params()
                        for update in setting.updates:
                            after = update(before, after, batch)
                        subject.write(after)
                losses.append(subject.loss(setting.x[probe], setting.y[probe]) if "loss" in subject.can else math.nan)
                skill = self.task.skill(setting.predict(subject, held), held)
                fit = self.task.skill(setting.predict(subject, seen), seen)
                finite = _finite(subject) and (math.isfinite(losses[-1]) or "loss" not in subject.can)
            except Exception as raised:  # the program's own, whatever it is: it is part of what is found
                skill = fit = -1.0
                finite, error = _finite(subject), f"{type(raised).__name__}: {raised}"
        return Outcome(skill, fit, [*course, skill], losses, finite, error, subject, steps, -(-steps // per_epoch))


def _mean(courses: list[list[float]]) -> list[float]:
    """Of the looks that all have."""
    return np.mean([c[: min(map(len, courses))] for c in courses], axis=0).tolist()  # type: ignore[no-any-return]


def _finite(subject: Subject) -> bool:
    return all(bool(np.all(np.isfinite(value))) for value in subject.params().values())


def _batches(setting: Setting, task: Task, rows: np.ndarray, size: int, steps: int,
             rng: np.random.Generator) -> Iterator[np.ndarray]:
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
    """The fold of each row (n,): each stratum is spread over all."""
    rng, found = np.random.default_rng([seed, 13]), np.zeros(len(strata), int)
    position = 0
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        found[rows] = (position + np.arange(len(rows))) % folds
        position += len(rows)
    return found


def seconds_per_step(setting: Setting) -> float:
    """Of a copy of the program, the median of a few; infinite where it cannot step."""
    subject, rows = setting.start(), np.arange(min(setting.batch_size, len(setting.x)))
    times = []
    with np.errstate(all="ignore"):
        try:
            for _ in range(5):
                start = time.perf_counter()
                subject.step(setting.x[rows], setting.y[rows])
                times.append(time.perf_counter() - start)
        except Exception:  # told by the first trial
            return math.inf
    return float(np.median(times))
