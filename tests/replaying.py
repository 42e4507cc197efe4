"""What the tests of trainings share: networks to record and replay, somebody who looks on, and weights to the bit."""

from __future__ import annotations

import xpdense as xd
from xpdense.losses import LOSSES
from xpdense.optimizers import OPTIMIZERS

PLAIN = [xd.Dense(9, "relu"), xd.Dense(7, "gelu"), xd.Dense(3)]
RICH = [xd.LayerNorm(), xd.Dense(9, "mish"), xd.Dropout(0.2), xd.BatchNorm(),
        xd.Residual([xd.LayerNorm(), xd.Dense(5, "tanh", bias=False), xd.Dropout(0.1), xd.Dense(9, "elu")]),
        xd.Dense(3)]
PAIRS = [(loss, list(OPTIMIZERS)[i % len(OPTIMIZERS)]) for i, loss in enumerate([*LOSSES, *LOSSES][:len(OPTIMIZERS)])]


class Looking(xd.Callback):
    """Somebody who may look at the weights after each step: every step is made by Python then."""

    def on_step_end(self, run):
        pass


def bits(net: xd.DenseNetwork) -> dict[str, bytes]:
    """Parameters and running statistics, to the bit."""
    return {name: value.tobytes() for name, value in net.arena.to_host().items()}
