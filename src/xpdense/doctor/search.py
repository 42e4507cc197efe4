"""The search for causes: all candidates are cured at once, and then each is put back alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from . import candidates
from .candidates import Candidate, candidate, cured
from .evidence import Evidence
from .findings import Finding
from .layer_candidates import as_network, layer_candidates
from .rows import overfitting
from .sound import Learnt
from .trial import Outcome, Setting, Trials

Cured = tuple[list[Candidate], Outcome]  # candidates, and the outcome of a training without them


class Search:
    """Experiments with a training that falls short of a reference.

    Parameters
    ----------
    evidence : Evidence
    trials : Trials
    reference : Learnt
        What reference models reach on the same rows.
    """

    def __init__(self, evidence: Evidence, trials: Trials, reference: Learnt) -> None:
        self.evidence, self.trials, self.reference = evidence, trials, reference
        self.setting, self.by_hand = evidence.setting, evidence.setting.subject.network is None
        # On a hard task good trainings differ more.
        spread = (0.4 if evidence.task.classes else 0.3) * (1.0 - reference.skill)
        self.goal = reference.skill - 0.03 - spread

    def falls_short(self, now: Outcome, affordable: int) -> bool:
        """Whether a training falls short of the goal, also with `affordable` steps instead of those of a trial."""
        if now.score >= self.goal:
            return overfitting(self.trials, now, self.reference) is not None
        whole = self.setting.epochs * -(-len(self.setting.x) // self.setting.batch_size)
        if whole <= self.trials.max_steps or not now.finite:
            return True
        return self.trials.run(self.setting, folds=1, max_steps=min(whole, affordable)).score < self.goal

    def causes(self, now: Outcome) -> Cured:
        """Return the causes without which the training is good, and its outcome then; no causes if no cure helps."""
        trials, setting, margin = self.trials, self.setting, self.trials.margin()
        suggested = [*candidates.data_candidates(setting, self.evidence.task),
                     *candidates.weight_candidates(setting, self.evidence.architecture),
                     *candidates.hyperparameter_candidates(setting), *candidates.precision_candidates(setting),
                     *self._doubtful("probability_clipped")]
        chosen, best = self._together(suggested, now)
        if best.score < self.goal:
            chosen, best = self._further(chosen, best)
        if best.score < self.goal and len(chosen) < len(suggested):  # a harmful cure may help with another rate
            both = self._other_updates(suggested, trials.run(cured(setting, suggested)))
            chosen, best = max((chosen, best), both, key=_score)
        if best.score < now.score + max(margin, min(0.2, 0.35 * (self.reference.skill - now.score))) or any(
                b <= a for a, b in zip(now.by_fold, best.by_fold, strict=True)):
            return [], now
        for one in reversed(list(chosen)):  # rule out what is harmless, beginning with what was found last
            others = [c for c in chosen if c is not one]
            outcome = trials.run(cured(setting, others))
            if outcome.score >= best.score - 0.5 * margin:
                chosen, best = others, max(best, outcome, key=lambda o: o.score)
        return chosen, trials.run(cured(setting, chosen))

    def measured(self, chosen: Sequence[Candidate], final: Outcome) -> list[Finding]:
        """Return the findings, worst first, with the skill if only this cause is left in, and without all of them."""
        found = []
        for one in chosen:
            left_in = self.trials.run(cured(self.setting, [c for c in chosen if c is not one]))
            cause = one.finding.cause
            if cause == "precision_underflow" and not left_in.finite:
                cause = "precision_overflow"
            found.append(replace(one.finding, cause=cause, before=left_in.skill, after=final.skill))
        return sorted(found, key=lambda f: f.before or 0.0)

    def imbalance(self, now: Outcome) -> list[Finding]:
        """Report a rare class that is recognised more often if the classes are drawn equally often."""
        found, task = candidates.imbalance(self.setting, self.evidence.task), self.evidence.task
        if found is None:
            return []
        balanced = cured(self.setting, [found])
        rarest = int(np.unique(task.truth, return_counts=True)[1].min())
        again = [Trials(task, seed, self.trials.max_steps, self.trials.folds.max() + 1) for seed in (101, 102)]
        uneven = float(np.mean([now.skill, *(trials.run(self.setting).skill for trials in again)]))
        even = float(np.mean([trials.run(balanced).skill for trials in (self.trials, *again)]))
        if even < uneven + 0.05 + 0.25 / math.sqrt(rarest):
            return []
        return [replace(found.finding, before=uneven, after=even)]

    # --- one after the other -----------------------------------------------------------------------------------------

    def _doubtful(self, cause: str) -> list[Candidate]:
        return [one for one in self.evidence.doubtful if one.finding.cause == cause]

    def _together(self, suggested: list[Candidate], now: Outcome) -> Cured:
        """Cure all candidates at once, except those whose cure is harmful."""
        chosen, best = suggested, self.trials.run(cured(self.setting, suggested)) if suggested else now
        for one in suggested:
            if best.score >= self.goal:
                break
            others = [c for c in chosen if c is not one]
            outcome = self.trials.run(cured(self.setting, others)) if others else now
            if outcome.score > best.score + 0.5 * self.trials.margin():
                chosen, best = others, outcome
        return chosen, best

    def _further(self, chosen: list[Candidate], best: Outcome) -> Cured:
        """Add cures that no signal suggests: other updates, or else other layers."""
        by_updates = self._other_updates(chosen, best)
        if by_updates[1].score >= self.goal:
            return by_updates
        return max([by_updates, *self._other_layers(chosen)], key=_score)

    def _other_updates(self, chosen: list[Candidate], best: Outcome) -> Cured:
        trials, margin = self.trials, self.trials.margin()
        for _ in range(2):
            options = [[*chosen, one] for one in self._update_candidates(chosen, best)]
            tried = [(option, trials.run(cured(self.setting, option), folds=1).score) for option in options]
            highest = max((score for _, score in tried), default=0.0)
            if highest < best.by_fold[0] + 0.5 * margin:
                break
            option = next(option for option, score in tried if score >= highest - 0.02)  # the smallest change
            outcome = trials.run(cured(self.setting, option))
            if outcome.score < best.score + max(margin, 0.3 * (self.reference.skill - best.score)):
                break
            if option[-1].finding.cause == "learning_rate_too_high" and outcome.fit < best.fit + 0.5 * margin:
                break  # it only learns less, and hence overfits less
            chosen, best = option, outcome
            if best.score >= self.goal:
                break
        return chosen, best

    def _update_candidates(self, chosen: Sequence[Candidate], best: Outcome) -> list[Candidate]:
        """Return learning rates (small changes first), label encodings, a constant rate and a stable softmax."""
        have, found = {one.finding.cause for one in chosen}, list[Candidate]()
        if not have & {"learning_rate_too_high", "learning_rate_too_low"}:
            found += [candidates.learning_rate(factor) for factor in candidates.FACTORS]
        if "labels_mis_encoded" not in have:
            found += self._doubtful("labels_mis_encoded")
        if best.subject is not None and best.finite and "plateau" not in have:
            setting = cured(self.setting, chosen)
            found += candidates.held_rate(setting, setting.start(), best.subject)
        if self.evidence.reconstruction is not None and self.by_hand and not best.finite:
            found.append(candidate(
                "precision_overflow", "output", "Predictions become NaN at large logits, where exp overflows.",
                "Subtract the largest logit of each row before exp, and compute the loss from the logits.", 0.9,
                lambda s: self._as_network(s) or s))
        return found

    def _other_layers(self, chosen: list[Candidate]) -> list[Cured]:
        """Change the layers of the network, or of the network that computes as the program does."""
        network, found = self._as_network(cured(self.setting, chosen)), list[Cured]()
        if network is None:
            return found
        for one in layer_candidates(network):
            for factor in (1.0, 0.1, 10.0):  # other layers may need another rate
                option = one if factor == 1.0 else _with_rate(one, factor)
                outcome = self.trials.run(cured(network, [option]))
                found.append(([*chosen, self._for_program(option) if self.by_hand else option], outcome))
                if outcome.score >= self.goal:
                    return found
        return found

    def _for_program(self, one: Candidate) -> Candidate:
        """Return a candidate for a network as one for the program."""
        return replace(one, cure=lambda s: cured(self._as_network(s) or s, [one]))

    def _as_network(self, setting: Setting) -> Setting | None:
        if setting.subject.network is not None:
            return setting
        net = self.evidence.reconstruction
        return None if net is None else as_network(setting, net)


def _with_rate(one: Candidate, factor: float) -> Candidate:
    """Return a candidate that also changes the learning rate."""
    finding = replace(one.finding, fix=f"{one.finding.fix} Use {factor:g} times the learning rate.",
                      change={**one.finding.change, "learning_rate_factor": factor})
    return replace(one, finding=finding, cure=lambda s: cured(s, [one, candidates.learning_rate(factor)]))


def _score(found: Cured) -> float:
    return found[1].score
