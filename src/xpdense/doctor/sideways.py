"""What is wrong with the rows themselves, whatever is trained on them."""

from __future__ import annotations

import numpy as np

from .findings import Finding
from .sound import Learnt, learn
from .task import Task
from .trial import Outcome, Setting, Trials


def of_rows(trials: Trials, setting: Setting, task: Task, x: np.ndarray, final: Outcome, sound: Learnt,
            ill: bool) -> list[Finding]:
    return []
