"""What data need to know of a network: `Network.spec` makes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .backend import Backend
from .losses import Loss


@dataclass(frozen=True, eq=False)
class Spec:
    """What a network takes, and where.

    Attributes
    ----------
    inputs, outputs : int
        Features of a row, and outputs for it.
    dtype : "float32" or "float64"
    storage : str
        The type in which features are stored: `dtype`, or "float16" or "bfloat16" where the precision says so.
    backend : Backend
        Where the network is, or will be.
    part_rows : int
        The most rows that the network should be given at once outside training.
    loss : Loss or None
        It checks the targets; None where they are not needed, or are not to be checked.
    encode : callable, optional
        What the targets of each part are passed through before the loss checks them: an estimator turns labels into
        class numbers. Without a loss its results, of any type, are the targets of the rows, whose weights then are
        as they were given.

    Examples
    --------
    >>> import xpdense as xd
    >>> spec = xd.DenseNetwork([xd.Dense(2)], inputs=3).spec(xd.SquaredError())
    >>> spec.inputs, spec.outputs, spec.dtype, spec.backend.name
    (3, 2, 'float32', 'numpy')
    """

    inputs: int
    outputs: int
    dtype: str
    storage: str
    backend: Backend
    part_rows: int
    loss: Loss | None = None
    encode: Callable[[Any], Any] | None = None

    @property
    def wants_targets(self) -> bool:
        """Whether rows need targets, and not their features only."""
        return self.loss is not None or self.encode is not None
