"""Findings of the doctor: a cause, where it is, the evidence for it, and how to fix it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Finding:
    """One fault.

    Attributes
    ----------
    cause : str
        A name such as gradient_scale.
    where : str
        The tensor, or several ones separated by commas.
    evidence : str
        What was measured, as a sentence with numbers.
    before, after : float, optional
        What an experiment measured with the fault and without it: the skill (1 is perfect, 0 is a constant
        prediction); for gradients the relative error.
    fix : str
        What to change, as a sentence.
    confidence : float
        From 0 to 1; near 1 if an experiment reproduces what the program computes.
    change : dict
        The fix in machine-readable form, unless it is in the program's source: {"learning_rate_factor": 0.1},
        {"standardise": "X"}, {"standardise": "y"}, {"redraw": [names]}, {"zero": [names]}, {"batch_size": 32},
        {"shuffle": True}, {"balance": True}, {"drop_rows": [numbers]}, {"drop_columns": [numbers]},
        {"weight_decay": 0.0}, {"dropout": 0.0}, {"dtype": "float64"}, {"hold_rate": True}, {"activation": "relu"},
        {"hidden": [widths]}, {"epochs": 10}.

    Examples
    --------
    >>> print(Finding("gradient_sign", "W1", "It is -1 times the measured one.", fix="Flip it.", confidence=0.99))
    gradient_sign at W1 (confidence 99 %): It is -1 times the measured one. Flip it.
    """

    cause: str
    where: str
    evidence: str
    before: float | None = None
    after: float | None = None
    fix: str = ""
    confidence: float = 1.0
    change: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.heading}: {self.evidence} {self.fix}".rstrip()

    @property
    def heading(self) -> str:
        """The cause, where it is, and the confidence in it."""
        return f"{self.cause} at {self.where} (confidence {100.0 * self.confidence:.0f} %)"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them: numbers that are not finite become None.

        >>> Finding("gradient_wrong", "W1", "", before=float("nan")).to_dict()["before"] is None
        True
        """
        found: dict[str, Any] = as_json(asdict(self))
        return found


def as_json(value: Any) -> Any:
    """Convert to what JSON can hold; numbers that are not finite become None.

    >>> as_json({"rows": np.array([1.0, np.inf])})
    {'rows': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): as_json(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def merged(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Merge the findings of each cause into one.

    >>> merged([Finding("gradient_sign", "W1", "One."), Finding("gradient_sign", "b1", "Two.")])[0].where
    'W1, b1'
    """
    by_cause: dict[str, list[Finding]] = {}
    for finding in findings:
        by_cause.setdefault(finding.cause, []).append(finding)
    found = []
    for first, *others in by_cause.values():
        if others:
            several = [first, *others]
            where = ", ".join(dict.fromkeys(", ".join(f.where for f in several).split(", ")))
            first = replace(first, where=where, evidence=" ".join(f"At {f.where}: {f.evidence}" for f in several))
        found.append(first)
    return tuple(found)
