"""What a diagnosis holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from .findings import Finding
from .gradients import GradientReport


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with a training, worst first; prints as text, shows as HTML in a notebook.

    Attributes
    ----------
    findings : tuple of Finding
        None where nothing is wrong.
    notes : tuple of str
        What could not be examined, and why.
    skill, reference : float, optional
        What the training reaches as it is on rows that it did not see, and what a sound one reaches on the same rows in
        as many steps: 1 is perfect, 0 what a constant prediction gives. (1 - chance-corrected balanced accuracy, R2.)
    cured : float, optional
        The same with every cure in place.
    losses : mapping of str to list of float
        The program's loss over the steps: "as it is", and "cured" where there is a cure.
    layers : mapping of str to ndarray
        Values by tensor, of at most 10,000 entries each, whose distribution a report draws: parameters by their name.
    gradients : GradientReport, optional
    seconds : float
    """

    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    skill: float | None = None
    reference: float | None = None
    cured: float | None = None
    losses: Mapping[str, list[float]] = field(default_factory=dict)
    layers: Mapping[str, np.ndarray] = field(default_factory=dict)
    gradients: GradientReport | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings
