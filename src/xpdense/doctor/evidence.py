"""Evidence that needs no training: predictions, losses and gradients of a few rows with random parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..losses import AbsoluteError, Quantile
from .architecture import Architecture, architecture_of
from .candidates import Candidate, Cure, candidate, cured, hyperparameter_candidates, nonfinite, overflowing
from .gradients.check import GradientReport
from .gradients.explain import explain
from .gradients.reconstruct import Reconstruction, as_targets, reconstruct
from .outputs import label_candidate, output_candidate, output_range, second_activation
from .program import Subject
from .task import Task, task_of
from .trial import Params, Setting

ROWS = 64


@dataclass(frozen=True)
class Evidence:
    """What is known of a program before any training.

    Attributes
    ----------
    setting : Setting
        Without the proven causes that can be removed.
    task : Task
    architecture : Architecture
    reconstruction : Reconstruction, optional
        What the program computes, if it is known.
    proven : tuple of Candidate
    doubtful : tuple of Candidate
        Label encodings and clips of the loss that may be harmless, for experiments to test.
    report : GradientReport, optional
    notes : tuple of str
        What could not be examined, and why.
    """

    setting: Setting
    task: Task
    architecture: Architecture
    reconstruction: Reconstruction | None
    proven: tuple[Candidate, ...]
    doubtful: tuple[Candidate, ...]
    report: GradientReport | None
    notes: tuple[str, ...]

    @property
    def curable(self) -> bool:
        """Whether all proven causes can be removed, so that experiments can go on without them."""
        return all(one.cure is not None for one in self.proven)


def examine(setting: Setting, seed: int) -> Evidence:
    """Examine a program without training it."""
    proven, doubtful, notes = list[Candidate](), list[Candidate](), list[str]()

    def without(*found: Candidate | None) -> Setting:
        """Record what is proven, and return the setting without it."""
        new = [one for one in found if one is not None]
        proven.extend(new)
        return cured(setting, new)

    setting = without(nonfinite(setting), second_activation(setting))
    setting = without(overflowing(setting))
    layers = architecture_of(setting.subject).layers
    outputs = output_range(setting.subject, layers, _some_rows(setting, seed)[0], seed)
    probabilities = outputs is not None and outputs.are_probabilities
    width = outputs.usual[0].shape[1] if outputs is not None else layers[-1].units if layers else \
        setting.subject.copy().predict(_some_rows(setting, seed)[0]).shape[1]
    task = replace(task_of(setting.y, width, probabilities), quantile=_quantile(setting.subject))
    labels = label_candidate(setting, task, probabilities)
    if labels is not None and not labels.proven:
        doubtful.append(labels)
    else:
        setting = without(labels)
    net: Reconstruction | str | None = None
    report: GradientReport | None = None
    if not np.ptp(task.truth[setting.mask()]):
        setting = without(candidate("single_class", "y", "All rows have the same target: there is nothing to learn.",
                                    "Give rows of every class.", 1.0, None, proven=True))
    elif _has_gradients(setting, seed, notes):
        net = _reconstructed(setting, seed)
        if outputs is not None:
            where = layers[-1].names if layers else "output"
            wrong = output_candidate(setting, task, outputs, where, net, *_some_rows(setting, seed))
            setting = without(wrong)
            if wrong is not None and wrong.cure is not None and not isinstance(net, Reconstruction):
                net = _reconstructed(setting, seed)
        if all(one.cure is not None for one in proven):
            report = _explained(setting, seed, net, notes)
    net = net if isinstance(net, Reconstruction) else None
    if report is not None:
        cure = None if net is None else _right_gradients(net)
        found = [Candidate(finding, cure, True) for finding in report.findings]
        if net is not None and all(one.finding.cause == "probability_clipped" for one in found):
            doubtful += found  # the clip may be harmless
        else:
            setting = without(*found)
        if not found:
            setting = without(_frozen(setting, seed))
    return Evidence(setting, task, architecture_of(setting.subject, net), net, tuple(proven), tuple(doubtful), report,
                    tuple(notes))


def _some_rows(setting: Setting, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng([seed, 29]).permutation(np.flatnonzero(setting.mask()))[:ROWS]
    return setting.x[rows], setting.y[rows]


def _quantile(subject: Subject) -> float | None:
    """Return the quantile that a network of this package predicts, unless it predicts the mean."""
    loss = getattr(subject.program, "chosen", None)
    return loss.q if isinstance(loss, Quantile) else 0.5 if isinstance(loss, AbsoluteError) else None


def _has_gradients(setting: Setting, seed: int, notes: list[str]) -> bool:
    """Whether the gradients can be examined; if not, a note says why."""
    lacking = ", ".join(sorted({"loss", "gradients"} - setting.subject.can))
    if lacking:
        notes.append(f"The program has no {lacking}: its gradients were not examined.")
    elif _is_random(setting, seed):
        notes.append("The program gives another loss or gradient at each call (dropout?): its gradients were not "
                     "examined.")
    else:
        return True
    return False


def _is_random(setting: Setting, seed: int) -> bool:
    subject, other, (x, y) = _without_dropout(setting), _without_dropout(setting), _some_rows(setting, seed)
    try:
        first, second = subject.loss(x, y), subject.loss(x, y)
        if math.isfinite(first) and first != second:
            return True
        of_other = _flat(other.gradients(x, y))
        calls = [_flat(subject.gradients(x, y)) for _ in range(3)]
    except Exception:  # the first trial reports it
        return False
    if not np.isfinite(calls).all():
        return False
    more, again = calls[1] - calls[0], calls[2] - calls[1]  # accumulated gradients grow in one direction
    sizes = float(np.linalg.norm(more) * np.linalg.norm(again))
    return not np.allclose(of_other, calls[0]) or (sizes > 0.0 and float(more @ again) < 0.9 * sizes)


def _flat(values: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in values.values()])


def _without_dropout(setting: Setting) -> Subject:
    """Return a copy of the program without dropout."""
    found = hyperparameter_candidates(setting, least=0.0)
    return cured(setting, [one for one in found if one.finding.cause == "dropout_too_strong"]).subject.copy()


def _reconstructed(setting: Setting, seed: int) -> Reconstruction | str | None:
    """Return what `reconstruct` finds, or None if the program raises with random parameters."""
    try:
        return reconstruct(_without_dropout(setting), *_some_rows(setting, seed), seed)
    except Exception:  # any exception of the program
        return None


def _explained(setting: Setting, seed: int, net: Reconstruction | str | None,
               notes: list[str]) -> GradientReport | None:
    try:
        return explain(_without_dropout(setting), *_some_rows(setting, seed), reconstruction=net, seed=seed)
    except Exception as raised:  # any exception of the program
        notes.append(f"Its gradients could not be examined: {type(raised).__name__}: {raised}")
        return None


def _right_gradients(net: Reconstruction) -> Cure:
    """Return a cure that replaces the program's gradients by those of its reconstruction."""
    def gradients(params: Params, x: np.ndarray, y: np.ndarray) -> Params:
        target = as_targets(y, net.layers[-1].units)
        assert target is not None
        return net.gradients(params, np.asarray(x, np.float64), target)
    return lambda s: replace(s, gradients=gradients)


def _frozen(setting: Setting, seed: int) -> Candidate | None:
    """Return a candidate for parameters that a step does not change although they have a gradient."""
    subject, (x, y) = _without_dropout(setting), _some_rows(setting, seed)
    before = subject.params()
    if "step" not in subject.can or any(value.dtype.itemsize < 4 for value in before.values()):
        return None
    try:
        gradient = subject.gradients(x, y)
        subject.step(x, y)
    except Exception:  # the first trial reports it
        return None
    after = subject.params()
    largest = max(float(np.abs(g).max()) for g in gradient.values())
    still = [n for n in before if n in gradient and np.abs(gradient[n]).max() > 1e-3 * largest > 0
             and np.array_equal(before[n], after[n])]
    if not still or len(still) == len(before):
        return None
    return candidate("parameter_frozen", ", ".join(still), "A step does not change it, although it has a gradient.",
                     "Update it in step().", 0.97, None, proven=True)
