"""Which of the suspects it is: everything that is suspected is cured at once, and then each left in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from . import candidates
from .anatomy import anatomy_of
from .candidates import Candidate
from .findings import Finding
from .look import Look
from .rebuild import Inside
from .rows import overfits
from .sound import Learnt
from .structure import as_network, of_structure
from .trial import Outcome, Setting, Trials

Cured = tuple[list[Candidate], Outcome]  # what is cured, and what that leads to


class Search:
    """Experiments with a training that is ill, until it is sound.

    Parameters
    ----------
    look : Look
    trials : Trials
    sound : Learnt
        What can be reached.
    """

    def __init__(self, look: Look, trials: Trials, sound: Learnt) -> None:
        self.look, self.trials, self.sound = look, trials, sound
        self.setting, self.by_hand = look.setting, look.setting.subject.network is None
        spread = (0.4 if look.task.classes else 0.3) * (1.0 - sound.skill)  # on a hard task sound trainings differ more
        self.goal = sound.skill - 0.03 - spread

    def is_ill(self, now: Outcome, affordable: int) -> bool:
        """Whether a training, and not only its first `affordable` steps, falls short of what a sound one reaches."""
        if now.worth >= self.goal:
            return overfits(self.trials, now, self.sound) is not None
        whole = self.setting.epochs * -(-len(self.setting.x) // self.setting.batch_size)
        if whole <= self.trials.most or not now.finite:
            return True
        return self.trials.of(self.setting, folds=1, most=min(whole, affordable)).worth < self.goal

    def causes(self, now: Outcome) -> Cured:
        """Causes without which the training is sound, and what it reaches then; none where no cure helps."""
        trials, setting, margin = self.trials, self.setting, self.trials.margin()
        named = [*candidates.of_data(setting, self.look.task), *candidates.of_weights(setting, self.look.anatomy),
                 *candidates.of_hyperparameters(setting), *candidates.of_precision(setting),
                 *(one for one in self.look.doubtful if one.finding.cause == "probability_clipped")]
        chosen, best = self._together(named, now)
        if best.worth < self.goal:
            chosen, best = self._further(chosen, best)
        if best.worth < self.goal and len(chosen) < len(named):  # what does harm alone may help with another rate
            both = self._other_updates(named, trials.of(cured(setting, named)))
            chosen, best = max((chosen, best), both, key=_worth)
        if best.worth < now.worth + max(margin, min(0.2, 0.35 * (self.sound.skill - now.worth))) or any(
                b <= a for a, b in zip(now.by_fold, best.by_fold, strict=True)):
            return [], now
        for one in reversed(list(chosen)):  # the last that was found first: what does no harm is acquitted
            others = [c for c in chosen if c is not one]
            outcome = trials.of(cured(setting, others))
            if outcome.worth >= best.worth - 0.5 * margin:
                chosen, best = others, max(best, outcome, key=lambda o: o.worth)
        return chosen, trials.of(cured(setting, chosen))

    def measured(self, chosen: Sequence[Candidate], final: Outcome) -> list[Finding]:
        """The findings, worst first: the skill with each left in, next to that without any."""
        found = []
        for one in chosen:
            left_in = self.trials.of(cured(self.setting, [c for c in chosen if c is not one]))
            cause = one.finding.cause
            if cause == "precision_underflow" and not left_in.finite:
                cause = "precision_overflow"
            found.append(replace(one.finding, cause=cause, before=left_in.skill, after=final.skill))
        return sorted(found, key=lambda f: f.before or 0.0)

    def imbalance(self, now: Outcome) -> list[Finding]:
        """A rare class that is found more often where classes are drawn as often."""
        suspect = candidates.imbalance(self.setting, self.look.task)
        if suspect is None:
            return []
        balanced = cured(self.setting, [suspect])
        rarest = int(np.unique(self.look.task.truth, return_counts=True)[1].min())
        again = [Trials(self.look.task, seed, self.trials.most, self.trials.folds.max() + 1) for seed in (101, 102)]
        uneven = float(np.mean([now.skill, *(trials.of(self.setting).skill for trials in again)]))
        even = float(np.mean([trials.of(balanced).skill for trials in (self.trials, *again)]))
        if even < uneven + 0.05 + 0.25 / math.sqrt(rarest):
            return []
        return [replace(suspect.finding, before=uneven, after=even)]

    # --- one after the other -----------------------------------------------------------------------------------------

    def _together(self, named: list[Candidate], now: Outcome) -> Cured:
        """All that are named cured at once, but for those whose cure does harm."""
        chosen, best = named, self.trials.of(cured(self.setting, named)) if named else now
        for one in named:
            if best.worth >= self.goal:
                break
            others = [c for c in chosen if c is not one]
            outcome = self.trials.of(cured(self.setting, others)) if others else now
            if outcome.worth > best.worth + 0.5 * self.trials.margin():
                chosen, best = others, outcome
        return chosen, best

    def _further(self, chosen: list[Candidate], best: Outcome) -> Cured:
        """What only other updates, or other layers, may cure."""
        by_updates = self._other_updates(chosen, best)
        if by_updates[1].worth >= self.goal:
            return by_updates
        return max([by_updates, *self._other_layers(chosen)], key=_worth)

    def _other_updates(self, chosen: list[Candidate], best: Outcome) -> Cured:
        trials, margin = self.trials, self.trials.margin()
        for _ in range(2):
            options = [[*chosen, one] for one in self._updates(chosen, best)]
            tried = [(option, trials.of(cured(self.setting, option), folds=1).worth) for option in options]
            highest = max((worth for _, worth in tried), default=0.0)
            if highest < best.by_fold[0] + 0.5 * margin:
                break
            option = next(option for option, worth in tried if worth >= highest - 0.02)  # of those as good the gentlest
            outcome = trials.of(cured(self.setting, option))
            if outcome.worth < best.worth + max(margin, 0.3 * (self.sound.skill - best.worth)):
                break
            if option[-1].finding.cause == "learning_rate_too_high" and outcome.fit < best.fit + 0.5 * margin:
                break  # it learns less, and so fits the rows less closely: no fault of the steps
            chosen, best = option, outcome
            if best.worth >= self.goal:
                break
        return chosen, best

    def _updates(self, chosen: Sequence[Candidate], best: Outcome) -> list[Candidate]:
        """Other learning rates, gentlest first, other codes of the labels, a rate that lasts, a stable softmax."""
        have, found = {one.finding.cause for one in chosen}, list[Candidate]()
        if not have & {"learning_rate_too_high", "learning_rate_too_low"}:
            found += [candidates.rate(factor) for factor in candidates.FACTORS]
        if "labels_mis_encoded" not in have:
            found += [one for one in self.look.doubtful if one.finding.cause == "labels_mis_encoded"]
        if best.subject is not None and best.finite and "plateau" not in have:
            setting = cured(self.setting, chosen)
            found += candidates.held_rate(setting, setting.start(), best.subject)
        if isinstance(self.look.inside, Inside) and self.by_hand and not best.finite:
            found.append(Candidate(
                Finding("precision_overflow", "output", "Its predictions become NaN where logits are large: exp "
                        "overflows.", fix="Subtract the largest logit of each row before exp; take the loss of the "
                        "logits.", confidence=0.9), lambda s: self._twin(s) or s))
        return found

    def _other_layers(self, chosen: list[Candidate]) -> list[Cured]:
        """The same in a network of this package: the program itself, or one that computes as it does."""
        twin, found = self._twin(cured(self.setting, chosen)), list[Cured]()
        if twin is None:
            return found
        for one in of_structure(twin, anatomy_of(twin.subject, None)):
            for factor in (1.0, 0.1, 10.0):  # other layers may want another rate
                candidate = one if factor == 1.0 else _at_rate(one, factor)
                outcome = self.trials.of(cured(twin, [candidate]))
                if self.by_hand:
                    candidate = replace(candidate, cure=_after(lambda s: self._twin(s) or s, candidate.cure))
                found.append(([*chosen, candidate], outcome))
                if outcome.worth >= self.goal:
                    return found
        return found

    def _twin(self, setting: Setting) -> Setting | None:
        if setting.subject.network is not None:
            return setting
        return as_network(setting, self.look.inside) if isinstance(self.look.inside, Inside) else None


def cured(setting: Setting, chosen: Sequence[Candidate]) -> Setting:
    """The setting with these cured."""
    for one in chosen:
        assert one.cure is not None
        setting = one.cure(setting)
    return setting


def _at_rate(one: Candidate, factor: float) -> Candidate:
    """The same with another learning rate."""
    finding = replace(one.finding, fix=f"{one.finding.fix} With {factor:g} times the learning rate.",
                      change={**one.finding.change, "learning_rate_factor": factor})
    return replace(one, finding=finding, cure=_after(one.cure, candidates.rate(factor).cure))


def _worth(found: Cured) -> float:
    return found[1].worth


def _after(first: Callable[[Setting], Setting] | None,
           second: Callable[[Setting], Setting] | None) -> Callable[[Setting], Setting]:
    assert first is not None
    assert second is not None
    return lambda s: second(first(s))
