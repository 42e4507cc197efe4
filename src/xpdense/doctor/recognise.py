"""Which fault makes a program's wrong gradients: every candidate is computed, and one that gives the same is convicted.

The program is run with drawn weights, at which nothing is saturated, on single rows and on a small batch: faults are in
the code, not in the values. Its forward pass is rebuilt (`rebuild`), the dz of each of its layers is read from the
gradients of single rows (`reading`), and from the output backwards each is compared with what the right way, and each
wrong one (`suspects`), makes of the program's own dz of the layer after. So one fault does not hide another.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import ParameterError
from .experiment import Experiment, cost
from .findings import Finding
from .gradients import GradientReport, check_gradients
from .program import Subject
from .rebuild import FORMS, Inside, look_inside, targets

ROWS = (23, 19, 29, 17, 31)  # a number of rows that is no width of the network


def recognise(program: Any, X: Any, y: Any, report: GradientReport | None = None, *, seed: int = 0) -> GradientReport:
    """Name the faults behind a program's wrong gradients.

    Parameters
    ----------
    program : object
        With `params` (a dict of the live arrays), `predict(X)`, `loss(X, y)` and `gradients(X, y)`: a chain of dense
        layers. Experiments are done to a copy.
    X : array (rows, features)
    y : array
        As the program takes it.
    report : GradientReport, optional
        Of `check_gradients` at the program's parameters; made here where it is not given.
    seed : int

    Returns
    -------
    GradientReport
        The same with findings that an experiment convicted, where there is one, and in `notes` why not where the
        program cannot be seen into. Faults that do not show at the present parameters are among them.

    Examples
    --------
    >>> class Forgetful:  # the derivative of squared error by a sigmoid's z, without the sigmoid's own
    ...     def __init__(self):
    ...         self.params = {"W1": np.array([[0.3], [-0.2]]), "b1": np.zeros(1)}
    ...     def predict(self, X):
    ...         return 1.0 / (1.0 + np.exp(-(X @ self.params["W1"] + self.params["b1"])))
    ...     def loss(self, X, y):
    ...         return float(np.mean((self.predict(X) - y) ** 2))
    ...     def gradients(self, X, y):
    ...         dz = 2.0 * (self.predict(X) - y) / len(X)
    ...         return {"W1": X.T @ dz, "b1": dz.sum(0)}
    >>> X = np.random.default_rng(0).standard_normal((40, 2))
    >>> report = recognise(Forgetful(), X, (X[:, :1] > 0).astype(float))
    >>> [(f.cause, f.where) for f in report.findings]
    [('activation_derivative_missing', 'W1, b1')]
    """
    subject = Subject(program).copy()
    lacking = {"params", "loss", "gradients"} - subject.can
    if lacking:
        raise ParameterError(f"recognise needs a program with {', '.join(sorted(lacking))}")
    x, labels = np.asarray(X), np.asarray(y)
    with np.errstate(all="ignore"):
        present = subject.params()
        report = report or _checked(subject, present, x, labels)
        some, some_labels = _sample(x, labels, {n for value in present.values() for n in value.shape}, seed)
        inside = look_inside(subject, some, some_labels, seed)
        if isinstance(inside, str):
            return replace(report, notes=(*report.notes, f"The program cannot be seen into: {inside}."))
        experiment = Experiment(subject, inside, present, some, some_labels, seed)
        experiment.run()
        at_hand = _at_hand(subject, inside, present, x, labels)
        return _merged(report, experiment, at_hand)


def _checked(subject: Subject, present: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> GradientReport:
    subject.write(present)
    grads = subject.gradients(x, y)

    def loss(values: dict[str, np.ndarray]) -> float:
        subject.write(values)
        return subject.loss(x, y)

    return check_gradients(loss, present, grads, entries=8, sizes={"batch": len(x)})


def _sample(x: np.ndarray, y: np.ndarray, widths: set[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many rows as no layer is wide, taken from all over the data; of fewer, others are made near them."""
    number = next(n for n in itertools.chain(ROWS, itertools.count(37)) if n not in widths)
    chosen = np.linspace(0, len(x) - 1, number).astype(int)
    some = np.asarray(x[chosen], np.float64)
    if len(x) < number:
        size = np.sqrt(np.mean(some * some, axis=0)) + 1e-3
        some = some + 0.3 * size * np.random.default_rng([seed, 5]).standard_normal(some.shape)
    return some.astype(x.dtype if x.dtype.kind == "f" else np.float64), y[chosen]


# --- at the parameters as they are ---------------------------------------------------------------------------------

@dataclass(frozen=True)
class AtHand:
    """At the present parameters: the error of each gradient against the rebuilt network's, and both losses."""

    errors: dict[str, float]
    loss: float
    unclipped: float


def _at_hand(subject: Subject, inside: Inside, present: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> AtHand:
    subject.write(present)
    target = targets(y, inside.chain[-1].units)
    assert target is not None
    wide = np.asarray(x, np.float64)
    right, given = inside.right(present, wide, target), subject.gradients(x, y)
    errors = {name: float(np.max(np.abs(given[name] - g))) / max(float(np.max(np.abs(g))), 1e-12)
              for name, g in right.items()}
    subject.write(present)
    z, a = inside.forward(present, wide)
    of_logits = "entropy" in inside.form and (inside.form.startswith("binary") or inside.link == "softmax")
    sums = cost(inside.form, z[-1], target) if of_logits else FORMS[inside.form][0](a[-1], target)
    return AtHand(errors, subject.loss(x, y), inside.factor(len(x)) * float(np.sum(sums)))


def _merged(report: GradientReport, experiment: Experiment, at_hand: AtHand) -> GradientReport:
    """The report with what was convicted; what it says of a tensor stays where nothing was."""
    errors = {t.name: t.relative_error for t in report.tensors}
    convicted = [replace(one.finding, before=max((errors[n] for n in one.names if n in errors), default=None))
                 for one in experiment.found]
    own = _of_tensors(report, experiment, convicted)
    tensors, found = [], list(convicted)
    for check in report.tensors:
        finding = own.get(check.name)
        if finding is None and check.finding is not None:
            finding = _of_clip(check.finding, at_hand, check.name, experiment.tolerance)
            found += [finding] if finding is not None and finding not in found else []
        elif finding is not None and finding.cause == "probability_clipped" and _right_now(report, check.name):
            finding = None  # it is right at these parameters
        tensors.append(replace(check, finding=finding))
    return replace(report, tensors=tuple(tensors), findings=tuple(found))


def _of_tensors(report: GradientReport, experiment: Experiment, convicted: list[Finding]) -> dict[str, Finding]:
    """The first finding of each tensor: its own, or else that of the nearest layer after it from which it inherits."""
    own: dict[str, Finding] = {}
    for finding, found in zip(convicted, experiment.found, strict=True):
        for name in found.names:
            own.setdefault(name, finding)
    above: Finding | None = None
    for link in reversed(experiment.inside.chain):
        for finding, found in zip(convicted, experiment.found, strict=True):
            if found.passes_on and link.weight in found.names:
                above = finding
        for one in (link.weight, link.bias):
            if one is not None and above is not None and not _right_now(report, one):
                own.setdefault(one, above)
    return own


def _right_now(report: GradientReport, name: str) -> bool:
    return any(t.name == name and t.probes > 0 and t.relative_error <= t.tolerance for t in report.tensors)


def _of_clip(finding: Finding, at_hand: AtHand, name: str, tolerance: float) -> Finding | None:
    """What remains of a finding of differences, where the gradient is the rebuilt network's: the loss is clipped."""
    worst = max(at_hand.errors.get(one, 0.0) for one in finding.where.split(", "))
    if max(worst, at_hand.errors[name]) > 10.0 * tolerance or finding.cause == "gradient_accumulated":
        return finding
    gap = at_hand.unclipped - at_hand.loss
    if abs(gap) <= 1e-6 * abs(at_hand.unclipped):
        return None  # a kink that the probes did not see
    return replace(finding, cause="probability_clipped", evidence=f"It is the gradient of the unclipped loss, to "
                   f"{worst:.0e}; the loss that is reported is {at_hand.loss:.6g}, unclipped it is "
                   f"{at_hand.unclipped:.6g}.", fix="Take the loss of the logits (logaddexp, log-sum-exp); then "
                   "nothing needs a clip.", confidence=0.97)
