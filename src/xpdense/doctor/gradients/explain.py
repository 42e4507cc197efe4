"""Explanation of wrong gradients by the known fault that gives the same gradients.

The program is run with random weights, with which few units are saturated, on single rows and on a small batch, because
a fault in the code does not depend on the values of the weights. Its forward pass is reconstructed (`reconstruct`), the
dz of each layer is recovered from the gradients of single rows (`recover`), and each is compared, from the output
backwards, with what the right formula and the wrong ones (`formulas`) make of the program's own dz of the next layer.
Hence one fault does not hide another.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...errors import ParameterError
from .. import advice
from ..findings import Finding
from ..program import Subject
from .check import GradientReport, check_gradients
from .matching import Matcher, cross_entropy
from .reconstruct import LOSSES, Reconstruction, as_targets, reconstruct

ROWS = (23, 19, 29, 17, 31)  # the first that equals no width of the network is the size of the batch


def explain_gradients(program: Any, X: Any, y: Any, report: GradientReport | None = None, *,
                      seed: int = 0) -> GradientReport:
    """Name the faults behind a program's wrong gradients.

    Parameters
    ----------
    program : object
        A chain of dense layers with `params` (a dict of the live arrays), `predict(X)`, `loss(X, y)` and
        `gradients(X, y)`. Experiments are done on a copy.
    X : array (rows, features)
    y : array
        As the program takes it.
    report : GradientReport, optional
        From `check_gradients` at the program's parameters; computed if it is not given.
    seed : int

    Returns
    -------
    GradientReport
        The report with the findings that an experiment confirmed, which include faults without effect at the present
        parameters. If the program could not be reconstructed, `notes` says why.

    Raises
    ------
    ParameterError
        The program lacks one of these members.

    Examples
    --------
    >>> class Mine:  # the gradient of squared error, without the derivative of the sigmoid
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
    >>> report = explain_gradients(Mine(), X, (X[:, :1] > 0).astype(float))
    >>> [(f.cause, f.where) for f in report.findings]
    [('activation_derivative_missing', 'W1, b1')]
    """
    subject = Subject(program).copy()
    lacking = {"params", "loss", "gradients"} - subject.can
    if lacking:
        raise ParameterError(f"explain_gradients needs a program with {', '.join(sorted(lacking))}")
    return explain(subject, np.asarray(X), np.asarray(y), report, seed=seed)


def explain(subject: Subject, x: np.ndarray, y: np.ndarray, report: GradientReport | None = None,
            reconstruction: Reconstruction | str | None = None, seed: int = 0) -> GradientReport:
    """Do the work of `explain_gradients`; the subject is left with other parameters.

    Parameters
    ----------
    reconstruction : Reconstruction or str, optional
        What `reconstruct` returned for the subject; computed if it is not given.
    """
    with np.errstate(all="ignore"):
        present = subject.params()
        report = report or _checked(subject, present, x, y)
        rows, labels = _small_batch(x, y, {n for value in present.values() for n in value.shape}, seed)
        found = reconstruct(subject, rows, labels, seed) if reconstruction is None else reconstruction
        if isinstance(found, str):
            return replace(report, notes=(*report.notes, f"The program could not be reconstructed: {found}."))
        matcher = Matcher(subject, found, present, rows, labels, seed)
        matcher.run()
        return _combined(report, matcher, _compared(subject, found, present, x, y))


def _checked(subject: Subject, present: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> GradientReport:
    subject.write(present)
    grads = subject.gradients(x, y)

    def loss(values: dict[str, np.ndarray]) -> float:
        subject.write(values)
        return subject.loss(x, y)

    return check_gradients(loss, present, grads, entries=8, sizes={"batch": len(x)})


def _small_batch(x: np.ndarray, y: np.ndarray, widths: set[int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Take evenly spaced rows, in a number that equals no layer width; if x has fewer, repeated rows get noise."""
    number = next(n for n in itertools.chain(ROWS, itertools.count(37)) if n not in widths)
    chosen = np.linspace(0, len(x) - 1, number).astype(int)
    some = np.asarray(x[chosen], np.float64)
    if len(x) < number:
        size = np.sqrt(np.mean(some * some, axis=0)) + 1e-3
        some = some + 0.3 * size * np.random.default_rng([seed, 5]).standard_normal(some.shape)
    return some.astype(x.dtype if x.dtype.kind == "f" else np.float64), y[chosen]


# --- the present parameters ----------------------------------------------------------------------------------------

class _Compared(NamedTuple):
    """The program against its reconstruction at the present parameters: gradient errors, and both losses."""

    errors: dict[str, float]
    loss: float
    unclipped: float


def _compared(subject: Subject, net: Reconstruction, present: dict[str, np.ndarray], x: np.ndarray,
              y: np.ndarray) -> _Compared:
    subject.write(present)
    target = as_targets(y, net.layers[-1].units)
    assert target is not None
    wide = np.asarray(x, np.float64)
    right, given = net.gradients(present, wide, target), subject.gradients(x, y)
    errors = {name: float(np.max(np.abs(given[name] - g))) / max(float(np.max(np.abs(g))), 1e-12)
              for name, g in right.items()}
    subject.write(present)
    z, a = net.forward(present, wide)
    of_logits = "entropy" in net.loss and (net.loss.startswith("binary") or net.output == "softmax")
    values = cross_entropy(net.loss, z[-1], target) if of_logits else LOSSES[net.loss][0](a[-1], target)
    return _Compared(errors, subject.loss(x, y), net.factor(len(x)) * float(np.sum(values)))


def _combined(report: GradientReport, matcher: Matcher, compared: _Compared) -> GradientReport:
    """Add the findings of the matcher; a tensor without one keeps its finding from the report."""
    errors = {t.name: t.relative_error for t in report.tensors}
    confirmed = [replace(one.finding, before=max((errors[n] for n in one.names if n in errors), default=None))
                 for one in matcher.found]
    by_tensor = _by_tensor(report, matcher, confirmed)
    tensors, found = [], list(confirmed)
    for check in report.tensors:
        finding = by_tensor.get(check.name)
        if finding is None and check.finding is not None:
            finding = _clipped(check.finding, compared, check.name, matcher.tolerance)
            found += [finding] if finding is not None and finding not in found else []
        elif finding is not None and finding.cause == "probability_clipped" and _is_right(report, check.name):
            finding = None  # the clip has no effect at these parameters
        tensors.append(replace(check, finding=finding))
    return replace(report, tensors=tuple(tensors), findings=tuple(found))


def _by_tensor(report: GradientReport, matcher: Matcher, confirmed: list[Finding]) -> dict[str, Finding]:
    """Return each tensor's first finding: its own, or that of the nearest later layer whose error it inherits."""
    own: dict[str, Finding] = {}
    for finding, found in zip(confirmed, matcher.found, strict=True):
        for name in found.names:
            own.setdefault(name, finding)
    above: Finding | None = None
    for layer in reversed(matcher.reconstruction.layers):
        for finding, found in zip(confirmed, matcher.found, strict=True):
            if found.passes_on and layer.weight in found.names:
                above = finding
        for tensor in (layer.weight, layer.bias):
            if tensor is not None and above is not None and not _is_right(report, tensor):
                own.setdefault(tensor, above)
    return own


def _is_right(report: GradientReport, name: str) -> bool:
    return any(t.name == name and t.probes > 0 and t.relative_error <= t.tolerance for t in report.tensors)


def _clipped(finding: Finding, compared: _Compared, name: str, tolerance: float) -> Finding | None:
    """Replace a finding if the gradient equals that of the reconstruction: then the loss is clipped."""
    worst = max(compared.errors.get(one, 0.0) for one in finding.where.split(", "))
    if max(worst, compared.errors[name]) > 10.0 * tolerance or finding.cause == "gradient_accumulated":
        return finding
    if abs(compared.unclipped - compared.loss) <= 1e-6 * abs(compared.unclipped):
        return None  # a kink that the probes missed
    return replace(finding, cause="probability_clipped", evidence=f"The gradient is that of the unclipped loss, to "
                   f"{worst:.0e}; the reported loss is {compared.loss:.6g}, and unclipped it is "
                   f"{compared.unclipped:.6g}.", fix=advice.CLIPPED, confidence=0.97)
