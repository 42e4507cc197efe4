"""What is told without training: from predictions, losses and gradients of a few rows at drawn weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..losses import AbsoluteError, Quantile
from . import candidates
from .anatomy import anatomy_of
from .candidates import Candidate
from .findings import Finding
from .gradients import GradientReport
from .outputs import Ends, doubled_link, ends, of_labels, of_output
from .program import Subject
from .rebuild import Inside, look_inside, targets
from .recognise import recognise
from .task import task_of
from .trial import Params, Setting

ROWS = 64


class Look:
    """What is seen of a program, and what is proven by that.

    Parameters
    ----------
    setting : Setting
    seed : int

    Attributes
    ----------
    setting : Setting
        With every proven cause taken away that can be.
    proven : list of Candidate
    doubtful : list of Candidate
        Codes of the labels, and clips of the loss, that may do no harm: for experiments.
    task : Task
    anatomy : Anatomy
    inside : Inside or str
        The program rebuilt, or why it could not be.
    report : GradientReport, optional
    notes : list of str
    """

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting, self.seed = setting, seed
        self.proven: list[Candidate] = []
        self.doubtful: list[Candidate] = []
        self.notes: list[str] = []
        self.report: GradientReport | None = None
        self.inside: Inside | str = "it was not looked at"
        self._prove(candidates.not_finite(setting), doubled_link(setting))
        self._prove(candidates.enormous(self.setting))
        self.anatomy = anatomy_of(self.setting.subject, None)
        found = ends(self.setting.subject, self.anatomy, self._some()[0], seed)
        self._look_at_labels(found)
        if self._is_constant():
            self._prove(Candidate(Finding("single_class", "y", "All rows have the same target: there is nothing to "
                                          "learn.", fix="Give rows of every class.", confidence=1.0), None, True))
        elif self._has_gradients():
            self._look_inside(found)
        self.anatomy = anatomy_of(self.setting.subject, self.inside)

    @property
    def curable(self) -> bool:
        """Whether an experiment can go on without what is proven."""
        return all(one.cure is not None for one in self.proven)

    def _prove(self, *found: Candidate | None) -> None:
        for one in found:
            if one is not None:
                self.proven.append(one)
                if one.cure is not None:
                    self.setting = one.cure(self.setting)

    def _some(self) -> tuple[np.ndarray, np.ndarray]:
        rows = np.random.default_rng([self.seed, 29]).permutation(np.flatnonzero(self.setting.mask()))[:ROWS]
        return self.setting.x[rows], self.setting.y[rows]

    def _look_at_labels(self, found: Ends | None) -> None:
        probabilities = found is not None and found.are_probabilities
        if found is not None:
            outputs = found.usual[0].shape[1]
        elif self.anatomy.chain:
            outputs = self.anatomy.chain[-1].units
        else:
            outputs = self.setting.subject.copy().predict(self._some()[0]).shape[1]
        self.task = task_of(self.setting.y, outputs, probabilities)
        self.task = replace(self.task, quantile=_quantile(self.setting.subject))
        codes = of_labels(self.setting, self.task, probabilities)
        self.doubtful += [one for one in codes if not one.proven]
        self._prove(*(one for one in codes if one.proven))

    def _is_constant(self) -> bool:
        truth = self.task.truth[self.setting.mask()]
        return not np.ptp(truth)

    def _has_gradients(self) -> bool:
        lacking = ", ".join(sorted({"loss", "gradients"} - self.setting.subject.can))
        if lacking:
            self.notes.append(f"The program has no {lacking}: its gradients were not examined.")
        elif self._is_random():
            self.notes.append("The program gives another loss at each call (dropout?): its gradients were not "
                              "examined.")
        else:
            return True
        return False

    def _is_random(self) -> bool:
        subject, other, (x, y) = self._quiet(), self._quiet(), self._some()
        try:
            first, second = subject.loss(x, y), subject.loss(x, y)
            if math.isfinite(first) and first != second:
                return True
            of_other = _flat(other.gradients(x, y))
            calls = [_flat(subject.gradients(x, y)) for _ in range(3)]
        except Exception:  # told by the first trial
            return False
        if not np.isfinite(calls).all():
            return False
        more, again = calls[1] - calls[0], calls[2] - calls[1]  # what is added up goes on in one direction
        sizes = float(np.linalg.norm(more) * np.linalg.norm(again))
        return not np.allclose(of_other, calls[0]) or (sizes > 0.0 and float(more @ again) < 0.9 * sizes)

    def _quiet(self) -> Subject:
        """A copy without dropout."""
        setting = self.setting
        for one in candidates.of_hyperparameters(setting, least=0.0):
            if one.finding.cause == "dropout_too_strong" and one.cure is not None:
                setting = one.cure(setting)
        return setting.subject.copy()

    def _look_inside(self, found: Ends | None) -> None:
        self.inside = self._rebuilt()
        if found is not None:
            x, y = self._some()
            self._prove(*of_output(self.setting, self.task, found, self.anatomy, self.inside, x, y))
            if isinstance(self.inside, str):
                self.inside = self._rebuilt()
        if self.curable:
            self._check_gradients()

    def _rebuilt(self) -> Inside | str:
        try:
            return look_inside(self._quiet(), *self._some(), self.seed)
        except Exception as raised:  # the program's own: rows or weights that it does not take
            return f"it raised {type(raised).__name__}: {raised}"

    def _check_gradients(self) -> None:
        try:
            self.report = recognise(self._quiet().program, *self._some(), seed=self.seed)
        except Exception as raised:  # the program's own
            self.notes.append(f"Its gradients could not be examined: {type(raised).__name__}: {raised}")
            return
        found = [Candidate(finding, None, True) for finding in self.report.findings]
        if isinstance(self.inside, Inside):
            inside = self.inside
            found = [replace(one, cure=lambda s: with_right_gradients(s, inside)) for one in found]
            if all(one.finding.cause == "probability_clipped" for one in found):  # it may do no harm
                self.doubtful += found
                found = []
        self._prove(*found)
        if not self.report.findings:
            self._prove(self._frozen())

    def _frozen(self) -> Candidate | None:
        """Parameters that a step leaves as they are though they have a gradient."""
        subject, (x, y) = self._quiet(), self._some()
        before = subject.params()
        if "step" not in subject.can or any(value.dtype.itemsize < 4 for value in before.values()):
            return None
        try:
            gradient = subject.gradients(x, y)
            subject.step(x, y)
        except Exception:  # told by the first trial
            return None
        after = subject.params()
        largest = max(float(np.abs(g).max()) for g in gradient.values())
        still = [n for n in before if n in gradient and np.abs(gradient[n]).max() > 1e-3 * largest > 0
                 and np.array_equal(before[n], after[n])]
        if not still or len(still) == len(before):
            return None
        return Candidate(Finding("parameter_frozen", ", ".join(still), "A step leaves it as it is, though it has a "
                                 "gradient.", fix="Update it in step().", confidence=0.97), None, True)


def _flat(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in values.values()])


def _quantile(subject: Subject) -> float | None:
    """What a network of this package predicts, where that is no mean."""
    chosen = getattr(subject.program, "chosen", None)
    return chosen.q if isinstance(chosen, Quantile) else 0.5 if isinstance(chosen, AbsoluteError) else None


def with_right_gradients(setting: Setting, inside: Inside) -> Setting:
    """The setting of the program with the gradients that belong to its loss."""
    def right(params: Params, x: np.ndarray, y: np.ndarray) -> Params:
        target = targets(y, inside.chain[-1].units)
        assert target is not None
        return inside.right(params, np.asarray(x, np.float64), target)
    return replace(setting, gradients=right)


def merged(findings: Sequence[Finding]) -> list[Finding]:
    """One finding of a cause, though it may lie at several places."""
    by_cause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_cause.setdefault(finding.cause, []).append(finding)
    found = []
    for several in by_cause.values():
        first = several[0]
        if len(several) > 1:
            places = dict.fromkeys(", ".join(f.where for f in several).split(", "))
            first = replace(first, where=", ".join(places),
                            evidence=" ".join(f"At {f.where}: {f.evidence}" for f in several))
        found.append(first)
    return found
