"""What a diagnosis holds."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import installed
from ..errors import OutputError, require
from .findings import Finding
from .gradients import GradientReport

WIDTH = 100  # of the printed lines


@dataclass(frozen=True, eq=False)
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

    Examples
    --------
    >>> cause = Finding("learning_rate_too_high", "optimizer", "The loss rose from 0.7 to 31.", before=0.02, after=0.95,
    ...                 fix="Divide it by 10.", confidence=0.9)
    >>> print(Diagnosis((cause,), skill=0.02, cured=0.95, reference=0.96))
    1 finding. Skill: 0.02 as it is, 0.95 with every cure, 0.96 of a sound training (1 is perfect, 0 is
    a constant prediction).
    <BLANKLINE>
    1. learning_rate_too_high at optimizer (sure to 90 %)
       The loss rose from 0.7 to 31.
       Experiment: with it, skill 0.02; without it, 0.95.
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
        """Whether nothing was found."""
        return not self.findings

    @property
    def headline(self) -> str:
        """The whole in a line: how many findings, and the skill as it is, cured, and of a sound training."""
        count = len(self.findings)
        first = f"{count} finding{'s' if count > 1 else ''}." if count else "Sound: nothing was found."
        skills = ", ".join(f"{value:.2f} {words}" for words, value in self.skills().items())
        return f"{first} Skill: {skills} (1 is perfect, 0 is a constant prediction)." if skills else first

    def skills(self) -> dict[str, float]:
        """The skills that are known, by what they are of."""
        found = {"as it is": self.skill, "with every cure": self.cured, "of a sound training": self.reference}
        return {words: value for words, value in found.items() if value is not None}

    def experiment(self, finding: Finding) -> str:
        """What was measured with a finding's cause left in and with it taken away, in a sentence; empty if nothing."""
        of_gradient = self.gradients is not None and finding in self.gradients.findings
        what, form = ("relative error", ".2g") if of_gradient else ("skill", ".2f")
        measured = [(side, value) for side, value in (("with it", finding.before), ("without it", finding.after))
                    if value is not None]
        if not measured:
            return ""
        (side, value), *other = measured
        return f"{side}, {what} {value:{form}}" + "".join(f"; {s}, {v:{form}}" for s, v in other) + "."

    def __str__(self) -> str:
        blocks = [textwrap.fill(self.headline, WIDTH)]
        for number, finding in enumerate(self.findings, 1):
            head = f"{number}. "
            indent = " " * len(head)
            experiment = self.experiment(finding)
            lines = [f"{head}{finding.cause} at {finding.where} (sure to {100.0 * finding.confidence:.0f} %)",
                     finding.evidence, f"Experiment: {experiment}" if experiment else "",
                     f"Fix: {finding.fix}" if finding.fix else ""]
            blocks.append("\n".join(
                textwrap.fill(line, WIDTH, initial_indent=indent if i else "", subsequent_indent=indent)
                for i, line in enumerate(lines) if line))
        if self.notes:
            blocks.append("\n".join(textwrap.fill(f"Note: {note}", WIDTH, subsequent_indent="      ")
                                    for note in self.notes))
        return "\n\n".join(blocks)

    def __repr__(self) -> str:
        return f"Diagnosis({', '.join(finding.cause for finding in self.findings) or 'sound'})"

    def _repr_html_(self) -> str:
        from .report import fragment

        return fragment(self, figures=installed("matplotlib"))

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it, without the values of `layers`; numbers that are not finite become None.

        >>> Diagnosis(skill=float("nan"), losses={"as it is": [0.5, float("inf")]}).to_dict()["losses"]
        {'as it is': [0.5, None]}
        """
        gradients = None if self.gradients is None else {
            "ok": self.gradients.ok,
            "tensors": [{**asdict(tensor), "ok": tensor.ok} for tensor in self.gradients.tensors],
            "findings": [asdict(finding) for finding in self.gradients.findings],
            "notes": self.gradients.notes,
        }
        found: dict[str, Any] = _plain({
            "ok": self.ok, "findings": [asdict(finding) for finding in self.findings], "notes": self.notes,
            "skill": self.skill, "cured": self.cured, "reference": self.reference, "losses": self.losses,
            "gradients": gradients, "seconds": self.seconds,
        })
        return found

    def to_html(self, path: str | Path | None = None) -> str:
        """A page with the findings, the losses, the layers' distributions and the gradients; needs no network.

        Parameters
        ----------
        path : optional
            A file to write it to, in UTF-8.

        Raises
        ------
        MissingDependencyError
            matplotlib (extra "plots") is not installed.
        OutputError
            The file cannot be written.
        """
        require("matplotlib", "plots", "Diagnosis.to_html")
        from .report import page

        text = page(self)
        if path is not None:
            try:
                Path(path).write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
            except OSError as error:
                raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
        return text


def _plain(value: Any) -> Any:
    """The same in what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
