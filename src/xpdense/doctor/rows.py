"""Faults of the rows themselves, found with reference models."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from . import advice
from .findings import Finding
from .sound import Learnt, learn
from .task import Task, balanced_skill
from .trial import Outcome, Trials

HIDDEN = ((), (64,))  # a linear model, and a network


@dataclass(frozen=True)
class RowChecks:
    """The rows of a training, as reference models see them.

    Attributes
    ----------
    trials : Trials
    x : ndarray (n, features)
        Standardised.
    usable : ndarray of bool (n,)
    reference : Learnt
        What the best reference model reaches.
    """

    trials: Trials
    x: np.ndarray
    usable: np.ndarray
    reference: Learnt

    @property
    def task(self) -> Task:
        """The task of the trials."""
        return self.trials.task

    def findings(self, final: Outcome) -> list[Finding]:
        """Return what is wrong with the rows.

        Parameters
        ----------
        final : Outcome
            Of a training without the causes that were found.
        """
        conflicts = self._conflicts()
        few = self._too_few()
        overfit = overfitting(self.trials, final, self.reference, few is not None)
        if few is None and conflicts is None:
            shuffled = self._shuffled()
            if shuffled is not None:
                return [shuffled]
        found = [one for one in (self._leakage(), conflicts, few) if one is not None]
        return found if overfit is None or (found and few is None) else [*found, overfit]

    def _best_skill(self, x: np.ndarray, usable: np.ndarray, judged: np.ndarray | None = None) -> float:
        return max(learn(self.trials, x, hidden, usable=usable, judged=judged).skill for hidden in HIDDEN)

    def _shuffled(self) -> Finding | None:
        """Report targets on which no reference model is better than on permuted targets."""
        reference, trials, task = self.reference, self.trials, self.task
        if reference.skill > 0.3:
            return None
        rng, permuted = np.random.default_rng(31), []
        if task.classes:
            reference = max(reference, *(learn(trials, self.x, hidden, usable=self.usable, balance=True)
                                         for hidden in HIDDEN), key=lambda one: one.skill)
        for seed in range(3):
            order = np.flatnonzero(self.usable)
            truth = task.truth.copy()
            truth[order] = truth[rng.permutation(order)]
            other = Trials(replace(task, truth=truth), trials.seed, trials.max_steps, trials.folds.max() + 1)
            permuted += [learn(other, self.x, hidden, usable=self.usable, seed=seed).skill for hidden in HIDDEN]
        if reference.skill > 0.02 + 1.5 * max(0.0, *permuted):
            return None
        return Finding(
            "labels_shuffled", "y", f"A linear model, a network and nearest neighbours reach {reference.skill:.2f} on "
            f"held-out rows; on randomly permuted targets they reach {max(permuted):.2f}.", reference.skill, None,
            "X and y may be in different order, or the features do not predict the target: compare some rows with the "
            "source.", 0.9)

    def _leakage(self) -> Finding | None:
        """Report columns that predict the target by themselves and without which it is predicted much worse."""
        truth, rows, x, skill = self.task.truth, np.flatnonzero(self.usable), self.x, self.reference.skill
        if skill < 0.9:
            return None
        alone = np.array([_column_skill(x[rows, j], truth[rows], self.task) for j in range(x.shape[1])])
        columns = np.flatnonzero(alone > 0.97)
        if not len(columns) or len(columns) == x.shape[1]:
            return None
        left = self._best_skill(np.delete(x, columns, axis=1), self.usable)
        if left > skill - max(self.trials.margin(), 0.05):
            return None
        return Finding(
            "leakage", f"column {', '.join(map(str, columns))}", "The column predicts the target by itself (skill "
            f"{alone[columns].max():.2f}); a reference model reaches {left:.2f} without it and {skill:.2f} with it.",
            skill, left, "Check whether it is known when a prediction is made; if not, leave it out.", 0.9,
            {"drop_columns": columns.tolist()})

    def _conflicts(self) -> Finding | None:
        """Report equal rows with different targets, without which a reference model is better on the other rows."""
        x, usable, task = self.x, self.usable, self.task
        place = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
        truth = task.truth if task.classes else task.truth[:, 0]
        groups = place.max() + 1
        low, high = np.full(groups, np.inf), np.full(groups, -np.inf)
        np.minimum.at(low, place[usable], truth[usable])
        np.maximum.at(high, place[usable], truth[usable])
        conflicting = ((high - low)[place] > (0 if task.classes else 0.5 * truth.std())) & usable
        fraction = float(conflicting.sum() / usable.sum())
        if fraction < 0.04:
            return None
        count = np.bincount(place[usable], minlength=groups)[place]
        evidence = f"{fraction:.0%} of the rows have a duplicate with another target"
        change = {"drop_rows": np.flatnonzero(conflicting).tolist()}
        if float((conflicting & (count <= 4)).sum() / usable.sum()) > 0.2:  # more copies occur in tables of few values
            return Finding(
                "conflicting_duplicates", "rows", f"{evidence}: no prediction can be right for both.", None, None,
                advice.DUPLICATES, 0.95, change if fraction < 0.9 else {})
        clean = usable & ~conflicting
        if clean.sum() < 20:
            return None
        before, after = (self._best_skill(x, rows, clean) for rows in (usable, clean))
        if after < before + 0.02:
            return None
        return Finding(
            "conflicting_duplicates", "rows", f"{evidence}. On the other rows a reference model reaches {before:.2f} "
            f"if it is trained on these as well, and {after:.2f} if not.", before, after, advice.DUPLICATES, 0.9,
            change)

    def _too_few(self) -> Finding | None:
        """Report so few rows that half of them give a clearly lower skill."""
        task, rows = self.task, int(self.usable.sum())
        per_class = rows / (task.classes or 4)
        if per_class > 25 or self.reference.skill > 0.97:
            return None
        half, full = (float(np.mean([
            max(learn(Trials(task, seed, self.trials.max_steps, 3), self.x, hidden, usable=self.usable, share=fraction,
                      seed=seed).skill for hidden in HIDDEN) for seed in range(3)])) for fraction in (0.5, 1.0))
        if full - half < 0.04 and per_class > 8.0:
            return None
        return Finding(
            "too_few_samples", "rows", f"There are {rows} rows, {per_class:.0f} per "
            f"{'class' if task.classes else 'quarter of the values'}; a reference model reaches {half:.2f} with half "
            f"of them and {full:.2f} with all: more rows would help.", full, None,
            "Collect more rows; until then use a smaller network, weight decay and cross-validation.", 0.8)


def _column_skill(column: np.ndarray, truth: np.ndarray, task: Task) -> float:
    """Return the skill with which neighbours in one column predict the target: balanced accuracy or R2."""
    if not np.ptp(column):
        return 0.0
    kinds = np.unique(column)
    if len(kinds) <= 50 and task.classes:  # the most frequent class of each value
        place = np.searchsorted(kinds, column)
        counts = np.zeros((len(kinds), task.classes))
        np.add.at(counts, (place, truth), 1.0)
        return balanced_skill(counts.argmax(axis=1)[place] == truth, truth)
    if task.classes:
        one = truth[np.argsort(column, kind="stable")]
        agree = [np.mean((one[1:-1] == one[:-2])[one[1:-1] == c]) for c in np.unique(truth)]
        chance = 1.0 / len(np.unique(truth))
        return float((np.nanmean(agree) - chance) / (1.0 - chance))
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(np.corrcoef(column, truth[:, 0])[0, 1] ** 2))


def overfitting(trials: Trials, final: Outcome, reference: Learnt, few: bool = False) -> Finding | None:
    """Report a training that is much better on training rows than on held-out rows.

    On held-out rows it must have been better earlier, or a reference model must be better, unless there are few rows.
    """
    margin = trials.margin()
    if final.fit - final.skill < 0.1 + margin or not final.curve:
        return None
    best = int(np.argmax(final.curve))
    reached = max(final.curve[best], reference.skill)
    if reached < final.skill + max(margin, 0.5 * reached) and not (few and final.fit - final.skill > 0.5):
        return None
    fraction = best / max(1, len(final.curve) - 1)
    early = final.curve[best] >= final.skill + 0.5 * margin and best > 0
    then = f"it was {final.curve[best]:.2f} after {fraction:.0%} of the steps" if early else \
        f"a reference model reaches {reference.skill:.2f}"
    return Finding(
        "overfit", "training", f"The skill is {final.fit:.2f} on the training rows and {final.skill:.2f} on held-out "
        f"rows, where {then}.", final.skill, reached,
        "Stop early (EarlyStopping), or use weight decay, dropout or a smaller network.", 0.85,
        {"epochs": max(1, math.ceil(fraction * final.epochs))} if early else {"weight_decay": 0.01})
