"""The result of a diagnosis, as text, as JSON and as an HTML page."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import installed
from ..errors import OutputError, require
from . import report
from .findings import Finding, as_json
from .gradients.check import GradientReport

WIDTH = 100  # of printed lines


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The faults of a training, worst first; prints as text, and shows as HTML in a notebook.

    Attributes
    ----------
    findings : tuple of Finding
        Empty if no fault was found.
    notes : tuple of str
        What could not be examined, and why.
    skill, reference : float, optional
        The skill of the training as it is on held-out rows, and that of a reference model on the same rows with as many
        steps: 1 is perfect, 0 is a constant prediction (chance-corrected balanced accuracy, or R2).
    cured : float, optional
        The skill with all fixes applied.
    losses : mapping of str to list of float
        The program's loss over the steps: "as it is", and "cured" if there are fixes.
    layers : mapping of str to ndarray
        Up to 10,000 values of each parameter, by name; a report draws their distributions.
    gradients : GradientReport, optional
    seconds : float
        The duration of the diagnosis.

    Examples
    --------
    >>> cause = Finding("learning_rate_too_high", "optimizer", "The loss rose from 0.7 to 31.", before=0.02, after=0.95,
    ...                 fix="Divide it by 10.", confidence=0.9)
    >>> print(Diagnosis((cause,), skill=0.02, cured=0.95, reference=0.96))
    1 finding. Skill: 0.02 as it is, 0.95 with every fix, 0.96 of a reference model (1 is perfect, 0 is
    a constant prediction).
    <BLANKLINE>
    1. learning_rate_too_high at optimizer (confidence 90 %)
       The loss rose from 0.7 to 31.
       Experiment: skill 0.02 with it; 0.95 without it.
       Fix: Divide it by 10.
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
        """Whether no fault was found."""
        return not self.findings

    @property
    def headline(self) -> str:
        """The number of findings, and the skills, in one line."""
        count = len(self.findings)
        first = f"{count or 'No'} finding{'s' if count != 1 else ''}."
        skills = ", ".join(f"{value:.2f} {words}" for words, value in self.skills().items())
        return f"{first} Skill: {skills} (1 is perfect, 0 is a constant prediction)." if skills else first

    def skills(self) -> dict[str, float]:
        """Return the skills that are known, by what they describe."""
        found = {"as it is": self.skill, "with every fix": self.cured, "of a reference model": self.reference}
        return {words: value for words, value in found.items() if value is not None}

    def experiment(self, finding: Finding) -> str:
        """Describe what was measured with a cause and without it, in one sentence; empty if nothing was measured."""
        of_gradient = self.gradients is not None and finding in self.gradients.findings
        what, form = ("relative error", ".2g") if of_gradient else ("skill", ".2f")
        measured = "; ".join(f"{value:{form}} {words}" for words, value in
                             (("with it", finding.before), ("without it", finding.after)) if value is not None)
        return f"{what} {measured}." if measured else ""

    def __str__(self) -> str:
        blocks = [textwrap.fill(self.headline, WIDTH)]
        for number, finding in enumerate(self.findings, 1):
            head = f"{number}. "
            indent = " " * len(head)
            experiment = self.experiment(finding)
            lines = [f"{head}{finding.heading}", finding.evidence, f"Experiment: {experiment}" if experiment else "",
                     f"Fix: {finding.fix}" if finding.fix else ""]
            blocks.append("\n".join(
                textwrap.fill(line, WIDTH, initial_indent=indent if i else "", subsequent_indent=indent)
                for i, line in enumerate(lines) if line))
        if self.notes:
            blocks.append("\n".join(textwrap.fill(f"Note: {note}", WIDTH, subsequent_indent="      ")
                                    for note in self.notes))
        return "\n\n".join(blocks)

    def __repr__(self) -> str:
        return f"Diagnosis({', '.join(finding.cause for finding in self.findings) or 'no findings'})"

    def _repr_html_(self) -> str:
        return self._html(installed("matplotlib"))

    def _html(self, figures: bool = True) -> str:
        return report.fragment([(finding, self.experiment(finding)) for finding in self.findings], self.skills(),
                               self.seconds, self.notes, self.losses if figures else {},
                               self.layers if figures else {}, self.gradients)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them, without `layers`; numbers that are not finite become None.

        >>> Diagnosis(skill=float("nan"), losses={"as it is": [0.5, float("inf")]}).to_dict()["losses"]
        {'as it is': [0.5, None]}
        """
        gradients = None if self.gradients is None else {
            "ok": self.gradients.ok,
            "tensors": [{**asdict(tensor), "ok": tensor.ok} for tensor in self.gradients.tensors],
            "findings": [asdict(finding) for finding in self.gradients.findings],
            "notes": self.gradients.notes,
        }
        found: dict[str, Any] = as_json({
            "ok": self.ok, "findings": [asdict(finding) for finding in self.findings], "notes": self.notes,
            "skill": self.skill, "cured": self.cured, "reference": self.reference, "losses": self.losses,
            "gradients": gradients, "seconds": self.seconds,
        })
        return found

    def to_html(self, path: str | Path | None = None) -> str:
        """Return a page with the findings, the losses, the layers' distributions and the gradients.

        The page contains its figures and loads nothing.

        Parameters
        ----------
        path : optional
            A file to which it is written, in UTF-8.

        Raises
        ------
        MissingDependencyError
            matplotlib (extra "plots") is not installed.
        OutputError
            The file cannot be written.
        """
        require("matplotlib", "plots", "Diagnosis.to_html")
        text = report.page(self._html())
        if path is not None:
            try:
                Path(path).write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        return text
