"""What the doctor says: a cause with its evidence."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes
    ----------
    cause : str
        A code, such as gradient_scale.
    where : str
        The tensor, or the tensors of a layer, parted by commas.
    evidence : str
        What was measured, in a sentence with numbers.
    before, after : float, optional
        What an experiment measured with the cause left in, and with it taken away: the skill (1 is perfect, 0 is a
        constant prediction); for gradients the relative error.
    fix : str
        What to change, in a sentence.
    confidence : float
        From 0 to 1: near 1 where an experiment reproduces what the program gives.
    change : dict
        The same for a machine, where it is not in the source: {"learning_rate_factor": 0.1}, {"standardise": "X"},
        {"standardise": "y"}, {"redraw": [names]}, {"zero": [names]}, {"batch_size": 32}, {"shuffle": True},
        {"balance": True}, {"drop_rows": [numbers]}, {"drop_columns": [numbers]}, {"weight_decay": 0.0},
        {"dropout": 0.0}, {"dtype": "float64"}, {"hold_rate": True}, {"activation": "relu"}, {"hidden": [widths]},
        {"epochs": 10}.

    >>> print(Finding("gradient_sign", "W1", "It is -1 times the measured one.", fix="Flip it.", confidence=0.99))
    gradient_sign at W1 (sure to 99 %): It is -1 times the measured one. Flip it.
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
        sure = f"{100.0 * self.confidence:.0f} %"
        return f"{self.cause} at {self.where} (sure to {sure}): {self.evidence} {self.fix}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: numbers that are not finite become None.

        >>> Finding("gradient_wrong", "W1", "", before=float("nan")).to_dict()["before"] is None
        True
        """
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(self).items()}
