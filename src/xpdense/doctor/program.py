"""The interface of the programs that the doctor examines, and its implementation by a network of this package.

    params                dict of the live arrays: the program computes with what is written into them
    predict(X)            (n, outputs) or (n,)
    loss(X, y)            float
    gradients(X, y)       dict of arrays, named as params
    step(X, y)            one update on one batch

A program may lack some of these members; then less can be found.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backend import Array, backend_of, host
from ..data.arrays import Rows, features, labelled
from ..data.dataset import ArrayDataset
from ..inference import logits
from ..losses import Loss
from ..network import Network
from ..optimizers import Optimizer, OptimizerState
from ..step import loss_and_gradients

NAMES = ("params", "predict", "loss", "gradients", "step")


class Subject:
    """A program whose arrays are NumPy arrays; experiments copy it.

    Attributes
    ----------
    program : object
    can : set of str
        Which of the five members it has.
    """

    def __init__(self, program: Any) -> None:
        self.program = program
        self.can = {name for name in NAMES if hasattr(program, name)}

    def copy(self) -> Subject:
        """Return an independent copy."""
        return Subject(copy.deepcopy(self.program))

    @property
    def network(self) -> Network | None:
        """The network of this package, if the program is one."""
        return self.program.network if isinstance(self.program, NetworkProgram) else None

    def params(self) -> dict[str, np.ndarray]:
        """Return copies of the parameters."""
        return {name: np.array(host(value)) for name, value in self.program.params.items()}

    def write(self, values: Mapping[str, np.ndarray]) -> None:
        """Set parameters in place."""
        for name, value in values.items():
            target = self.program.params[name]
            backend = backend_of(target)
            target[...] = value if backend is None else backend.from_host(np.ascontiguousarray(value))

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (n, outputs)."""
        found = np.asarray(host(self.program.predict(x)), np.float64)
        return found[:, None] if found.ndim == 1 else found

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the loss."""
        return float(self.program.loss(x, y))

    def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """Return copies of the gradients, in float64."""
        return {name: np.array(host(g), np.float64) for name, g in self.program.gradients(x, y).items()}

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Make one update on one batch."""
        self.program.step(x, y)

    def replace_gradients(self, gradients: Callable[[Any, Any], Mapping[str, np.ndarray]]) -> None:
        """Replace the gradients; the program's `step` uses them if it calls `self.gradients`."""
        self.program.gradients = gradients


class NetworkProgram:
    """A network of this package as a program, whose parts the doctor can change.

    Parameters
    ----------
    network : Network
        A copy of it is used.
    loss : Loss
    optimizer : Optimizer
    total : int
        Number of steps of the training, for the schedule.
    """

    def __init__(self, network: Network, loss: Loss, optimizer: Optimizer, total: int = 1000) -> None:
        self.network, self.chosen, self.optimizer = copy.deepcopy(network), loss, copy.deepcopy(optimizer)
        self.state: OptimizerState = self.optimizer.begin(self.network.arena)
        self.total = total

    def __deepcopy__(self, memo: Any) -> NetworkProgram:
        return NetworkProgram(self.network, self.chosen, self.optimizer, self.total)

    @property
    def params(self) -> dict[str, Array]:
        """The live parameters."""
        return self.network.params

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Return predictions (n, outputs)."""
        network = self.network
        parts = ArrayDataset(np.asarray(x)).parts(network.spec())
        return np.concatenate([host(self.chosen.link(network.ops.xp, z)) for _, z in logits(network, parts)])

    def _rows(self, x: np.ndarray, y: np.ndarray) -> Rows:
        spec = self.network.spec(self.chosen)
        return labelled(features(x, spec), y, None, spec)

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        """Return the loss of a training pass, in which normalisation uses the batch's statistics."""
        rows = self._rows(x, y)
        self.network.arena.refresh()
        return float(self.chosen(self.network.ops, self.network.forward(rows.x, train=True), rows.y)[0])

    def gradients(self, x: np.ndarray, y: np.ndarray) -> Mapping[str, Array]:
        """Return the gradients of `loss`, which the next call overwrites."""
        network, rows = self.network, self._rows(x, y)
        network.arena.refresh()
        loss_and_gradients(network, self.chosen, rows)
        return network.grads

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        """Make the step of `step.TrainStep`, with the gradients of `self.gradients`."""
        network, state = self.network, self.state
        network.set_step(state.steps)
        state.set_step(network.ops, state.steps, float(self.optimizer.learning_rate(state.steps, self.total)))
        gradients = self.gradients(x, y)
        if "gradients" in vars(self):  # replaced gradients
            for name, own in network.grads.items():
                own[...] = network.backend.from_host(np.ascontiguousarray(host(gradients[name]), network.dtype))
        state.update(network.ops, len(x))
        state.steps += 1
