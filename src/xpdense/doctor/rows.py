"""What is wrong with the rows themselves, told by what sound learners make of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .findings import Finding
from .sound import Learnt, learn
from .task import Task
from .trial import Outcome, Setting, Trials


def of_rows(trials: Trials, setting: Setting, task: Task, x: np.ndarray, final: Outcome,
            sound: Learnt) -> list[Finding]:
    """Findings about the rows of a training that is otherwise sound.

    Parameters
    ----------
    x : ndarray (n, features)
        Standardised.
    final : Outcome
        Of the setting with everything cured that was found.
    """
    usable = setting.mask()
    conflicts = _conflicts(trials, task, x, usable)
    few = _too_few(trials, task, x, usable, sound)
    overfit = overfits(trials, final, sound, few is not None)
    if few is None and conflicts is None:
        shuffled = _shuffled(trials, task, x, usable, sound)
        if shuffled is not None:
            return [shuffled]
    found = [one for one in (_leakage(trials, task, x, usable, sound), conflicts, few) if one is not None]
    return found if overfit is None or (found and few is None) else [*found, overfit]


def _shuffled(trials: Trials, task: Task, x: np.ndarray, usable: np.ndarray, sound: Learnt) -> Finding | None:
    """Targets that nothing foretells: no learner is better on them than on targets dealt out at random."""
    if sound.skill > 0.3:
        return None
    rng, dealt = np.random.default_rng(31), []
    if task.classes:
        sound = max(sound, *(learn(trials, x, hidden, usable=usable, balance=True) for hidden in ((), (64,))),
                    key=lambda one: one.skill)
    for seed in range(3):
        order = np.flatnonzero(usable)
        truth = task.truth.copy()
        truth[order] = truth[rng.permutation(order)]
        other = Trials(replace(task, truth=truth), trials.seed, trials.most, trials.folds.max() + 1)
        dealt += [learn(other, x, hidden, usable=usable, seed=seed).skill for hidden in ((), (64,))]
    if sound.skill > 0.02 + 1.5 * max(0.0, *dealt):
        return None
    return Finding(
        "labels_shuffled", "y", f"A linear model, a network and the nearest neighbours reach {sound.skill:.2f} on "
        f"rows that they did not see; on targets dealt out at random they reach {max(dealt):.2f}.", sound.skill, None,
        "Rows of X and y are not in the same order, or the features say nothing of the target: compare some rows "
        "with the source.", 0.9)


def _leakage(trials: Trials, task: Task, x: np.ndarray, usable: np.ndarray, sound: Learnt) -> Finding | None:
    """Columns that tell the target alone, and without which it is told far worse."""
    truth, rows = task.truth, np.flatnonzero(usable)
    if sound.skill < 0.9:
        return None
    alone = np.array([_told_by(x[rows, j], truth[rows], task) for j in range(x.shape[1])])
    columns = np.flatnonzero(alone > 0.97)
    if not len(columns) or len(columns) == x.shape[1]:
        return None
    without = np.delete(x, columns, axis=1)
    left = max(learn(trials, without, hidden, usable=usable).skill for hidden in ((), (64,)))
    if left > sound.skill - max(trials.margin(), 0.05):
        return None
    names = ", ".join(map(str, columns))
    return Finding(
        "leakage", f"column {names}", f"Alone it tells the target (skill {alone[columns].max():.2f}); without it a "
        f"sound learner reaches {left:.2f}, with it {sound.skill:.2f}.", sound.skill, left,
        "Ask whether it is known when a prediction is made; if not, leave it out.", 0.9,
        {"drop_columns": columns.tolist()})


def _told_by(column: np.ndarray, truth: np.ndarray, task: Task) -> float:
    """How well the neighbours in one column tell the target: balanced accuracy or R2, chance taken out."""
    if not np.ptp(column):
        return 0.0
    kinds = np.unique(column)
    if len(kinds) <= 50:  # a mean, or the commonest class, for each value
        place = np.searchsorted(kinds, column)
        if task.classes:
            counts = np.zeros((len(kinds), task.classes))
            np.add.at(counts, (place, truth), 1.0)
            guess = counts.argmax(axis=1)[place]
            found = np.mean([np.mean(guess[truth == c] == c) for c in np.unique(truth)])
            chance = 1.0 / len(np.unique(truth))
            return float((found - chance) / (1.0 - chance))
    order = np.argsort(column, kind="stable")
    if task.classes:
        one = truth[order]
        agree = [np.mean((one[1:-1] == one[:-2])[one[1:-1] == c]) for c in np.unique(truth)]
        chance = 1.0 / len(np.unique(truth))
        return float((np.nanmean(agree) - chance) / (1.0 - chance))
    with np.errstate(all="ignore"):
        return float(np.nan_to_num(np.corrcoef(column, truth[:, 0])[0, 1] ** 2))


def _conflicts(trials: Trials, task: Task, x: np.ndarray, usable: np.ndarray) -> Finding | None:
    """Equal rows with unequal targets, without which a sound learner does better on the rest."""
    place = np.unique(x, axis=0, return_inverse=True)[1].reshape(-1)
    truth = task.truth if task.classes else task.truth[:, 0]
    spread = np.zeros(place.max() + 1)
    low, high = np.full(len(spread), np.inf), np.full(len(spread), -np.inf)
    np.minimum.at(low, place[usable], truth[usable])
    np.maximum.at(high, place[usable], truth[usable])
    spread = high - low
    conflicting = (spread[place] > (0 if task.classes else 0.5 * truth.std())) & usable
    share = float(conflicting.sum() / usable.sum())
    if share < 0.04:
        return None
    twins = np.bincount(place[usable], minlength=len(spread))[place]
    small = float((conflicting & (twins <= 4)).sum() / usable.sum())  # not those of a table of a few values
    if small > 0.2:
        return Finding(
            "conflicting_duplicates", "rows", f"{share:.0%} of the rows have a twin with the same features and another "
            "target: nothing can be right on both.", None, None,
            "Leave them out, or find out which target is right.", 0.95,
            {"drop_rows": np.flatnonzero(conflicting).tolist()} if share < 0.9 else {})
    if (usable & ~conflicting).sum() < 20:
        return None
    clean = usable & ~conflicting
    before, after = (max(learn(trials, x, hidden, usable=rows, judged=clean).skill for hidden in ((), (64,)))
                     for rows in (usable, clean))
    if after < before + 0.02:
        return None
    return Finding(
        "conflicting_duplicates", "rows", f"{share:.0%} of the rows have a twin with the same features and another "
        f"target. On the others a sound learner reaches {before:.2f} with them in its training, {after:.2f} without.",
        before, after, "Leave them out, or find out which target is right.", 0.9,
        {"drop_rows": np.flatnonzero(conflicting).tolist()})


def _too_few(trials: Trials, task: Task, x: np.ndarray, usable: np.ndarray, sound: Learnt) -> Finding | None:
    """Rows so few that half of them give clearly less: more would give more."""
    rows = int(usable.sum())
    per_class = rows / (task.classes or 4)
    if per_class > 25 or sound.skill > 0.97:
        return None
    curve = {share: float(np.mean([max(learn(Trials(task, seed, trials.most, 3), x, hidden, usable=usable, share=share,
                                             seed=seed).skill for hidden in ((), (64,))) for seed in range(3)]))
             for share in (0.5, 1.0)}
    if curve[1.0] - curve[0.5] < 0.04 and per_class > 8.0:
        return None
    return Finding(
        "too_few_samples", "rows", f"There are {rows} rows, {per_class:.0f} for each "
        f"{'class' if task.classes else 'quarter of the values'}; from half of them a sound learner reaches "
        f"{curve[0.5]:.2f}, from all {curve[1.0]:.2f}: the curve still rises.", curve[1.0], None, "Gather more rows; "
        "until then a smaller network, weight decay and cross-validation.", 0.8)


def overfits(trials: Trials, final: Outcome, sound: Learnt, few: bool = False) -> Finding | None:
    """A training that fits its own rows at the cost of others: its best was before its end, or a sound one is better.

    Of few rows it is told by the distance between both alone.
    """
    margin = trials.margin()
    if final.fit - final.skill < 0.1 + margin or not final.course:
        return None
    best = int(np.argmax(final.course))
    reached = max(final.course[best], sound.skill)
    if reached < final.skill + max(margin, 0.5 * reached) and not (few and final.fit - final.skill > 0.5):
        return None
    share = best / max(1, len(final.course) - 1)
    early = final.course[best] >= final.skill + 0.5 * margin and best > 0
    there = f"it was at {final.course[best]:.2f} after {share:.0%} of the steps" if early else \
        f"a sound learner reaches {sound.skill:.2f}"
    return Finding(
        "overfit", "training", f"It reaches {final.fit:.2f} on the rows that it trained on and {final.skill:.2f} on "
        f"others, where {there}.", final.skill, reached,
        "Stop early (EarlyStopping), take weight decay or dropout, or a smaller network.", 0.85,
        {"epochs": max(1, math.ceil(share * final.epochs))} if early else {"weight_decay": 0.01})
