"""Recording a training step and replaying it: a list of bound kernel calls on the CPU, a CUDA graph on a GPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .backend import Array
from .data.arrays import Rows
from .step import TrainStep

_SLICE = 0.05  # seconds of replaying after which Python, and with it Ctrl-C, has its turn


@dataclass(frozen=True)
class Ran:
    """What `Replay.run` did.

    Attributes
    ----------
    losses : array (made,)
        The losses of the steps that were made, on the device.
    made, replayed : int
        The steps that were made, and those of them that were replayed.
    bad : float or None
        The loss of the step after these where it ended the replay, as it is not finite.
    """

    losses: Array
    made: int
    replayed: int
    bad: float | None = None


class Replay:
    """Steps on batches of one size, recorded once and then replayed without Python.

    What changes from step to step lies in tables with a row for each step of a burst, whose memory stays where it is:
    the rows of the batch, the step's number, the optimizer's scalars, the loss. Nothing else is written to.

    Parameters
    ----------
    train_step : TrainStep
    take : callable
        Gives the batch (size,) of row numbers as Rows, in memory that stays where it is.
    size : int
        Rows of a batch.
    steps : int
        The most steps of a burst.

    Attributes
    ----------
    refused : bool
        Whether the step turned out to be one that cannot be recorded.
    """

    def __init__(self, train_step: TrainStep, take: Callable[[Array], Rows], size: int, steps: int) -> None:
        self.train_step, self.take, self.size, self.refused = train_step, take, size, False
        backend, dtype = train_step.network.backend, train_step.network.dtype
        self._rows = backend.zeros((steps, size), "int64")
        self._batch = backend.zeros((size,), "int64")
        self._numbers = backend.zeros((steps, 1), "int64")
        self._hyper = backend.zeros((steps, train_step.state.hyper.shape[0]), dtype)
        self._losses = backend.zeros((steps, 1), dtype)
        self._program: Callable[[int, int], int] | None = None
        self._seconds = _SLICE  # of a step, at most; measured with the first replay

    def forget(self) -> None:
        """Record the step anew, with the settings of the optimizer that there are then."""
        self._program = None

    def run(self, first: int, rows: Array, rates: Sequence[float], interrupted: Callable[[], bool]) -> Ran:
        """Make the steps first, first + 1, ..., one for each rate, on the batches whose row numbers follow each other.

        It makes fewer where a loss is not finite, before that step changes anything, where `interrupted()` says so
        between two of them, and one alone where the step cannot be recorded.

        Parameters
        ----------
        first : int
            The number of the first step.
        rows : int64 array (steps * size,)
        rates : sequence of float (steps,)
        interrupted : callable
        """
        network, state, count = self.train_step.network, self.train_step.state, len(rates)
        backend, numbers = network.backend, range(first, first + count)
        self._rows[:count] = rows.reshape(count, self.size)
        self._numbers[:count] = backend.from_host(np.array(numbers).reshape(count, 1))
        scalars = [state.scalars(number, rate) for number, rate in zip(numbers, rates, strict=True)]
        self._hyper[:count] = backend.from_host(np.array(scalars, network.dtype))
        done = replayed = 0
        if self._program is None:
            try:
                tables = (self._rows, self._numbers, self._hyper, self._losses)
                self._program, done = network.ops.capture(self._first_row, tables), 1
            except _NotFiniteError as error:
                return Ran(self._losses[:0, 0], 0, 0, error.loss)
            self.refused = self._program is None
        while self._program is not None and done < count and not (done and interrupted()):
            start, most = time.perf_counter(), min(count - done, max(1, int(_SLICE / self._seconds)))
            made = self._program(done, most)
            self._seconds = (time.perf_counter() - start) / most
            done, replayed = done + made, replayed + made
            if made < most:
                return Ran(self._losses[:done, 0], done, replayed, float(self._losses[done, 0]))
        return Ran(self._losses[:done, 0], done, replayed)

    def _first_row(self) -> None:
        """Make the step of the tables' first row, which is recorded as it is made."""
        network, state, ops = self.train_step.network, self.train_step.state, self.train_step.network.ops
        ops.move(self._numbers[0], network.step_on_device)
        ops.move(self._hyper[0], state.hyper)
        ops.move(self._rows[0], self._batch)

        def on_loss(value: Array) -> None:
            ops.move(value.reshape(1), self._losses[0])
            ops.stop_unless_finite(value)
            if ops.ends_replays and not math.isfinite(float(value)):  # elsewhere losses are read after the burst
                raise _NotFiniteError(float(value))

        self.train_step.on_device(self.take(self._batch), on_loss)


class _NotFiniteError(Exception):
    """The loss of the step that is being recorded is not finite."""

    def __init__(self, loss: float) -> None:
        self.loss = loss
