"""What data need to know of a network: `Network.spec` makes it."""

from __future__ import annotations

from dataclasses import dataclass

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
        None where targets are not needed.

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
