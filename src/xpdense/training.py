"""Training, top to bottom: one step, then the loop around it. The one place to read first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .backend import Array
from .callbacks import Callback, Run
from .comm import Solo
from .data.arrays import Batches, Rows
from .errors import LayerExtremes, NonFiniteLossError, real
from .history import History
from .layers import Tape, forward
from .losses import Loss
from .metrics import Metric
from .network import Network
from .optimizers import Optimizer, OptimizerState

_BURST = 32  # steps between two looks at the losses on a device, and between two snapshots


def train_step(network: Network, loss: Loss, optimizer: OptimizerState, batch: Rows, step: int, rate: float,
               comm: Solo, watch: Callable[[Array], None] | None = None) -> Array:
    """Forward, loss, backward, update: one step on one batch.

    Parameters
    ----------
    batch : Rows
        x (batch, inputs), y (batch, outputs) or (batch,), weight (batch,) or None.
    step : int
        Number of the step, from 0.
    rate : float
        The learning rate.
    watch : callable, optional
        Called with the loss before anything is changed by it.

    Returns
    -------
    The batch's mean loss, a scalar on the device.
    """
    network.set_step(step)
    z = network.forward(batch.x, train=True)  # (batch, outputs)
    value, dz = loss(network.ops, z, batch.y, batch.weight)  # scalar on the device, (batch, outputs)
    if watch is not None:
        watch(value)
    network.backward(dz)  # overwrites arena.grads
    comm.mean_(network.arena.grads)
    optimizer.step(network.ops, step, rate)  # one op over the arena
    return value


def train(network: Network, rows: Rows, validation: Rows | None, *, loss: Loss, optimizer: Optimizer, epochs: int,
          batches: Batches, metrics: Sequence[Metric], callbacks: Sequence[Callback], comm: Solo) -> History:
    """The loop: epochs of steps, a row of the history after each. Everything is checked and in place already."""
    run = Run(network, History(), epochs, len(batches), validation is not None)
    prefix, held = ("", rows) if validation is None else ("validation_", validation)
    run.metrics = {prefix + metric.name: metric.greater_is_better for metric in metrics}
    loop = _Loop(network, rows, loss, optimizer, batches, run, comm, callbacks)
    begun: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_train_begin(run)
            begun.append(callback)
        for run.epoch in range(epochs):
            start = time.perf_counter()
            mean, rate = loop.epoch()
            seconds = time.perf_counter() - start
            values = {"loss": mean}
            if validation is not None or metrics:
                measured = evaluate(network, parts(network, held.x), held, loss, metrics)
                values |= {prefix + name: value for name, value in measured.items() if prefix or name != "loss"}
            run.history.append(**values, learning_rate=rate, seconds=seconds, rows_per_second=rows.count / seconds)
            optimizer.learning_rate.observe(values.get("validation_loss", mean))
            for callback in callbacks:
                callback.on_epoch_end(run)
            if run.stop:
                break
    finally:
        for callback in begun:
            callback.on_train_end(run)
    return run.history


class _Loop:
    """The steps of an epoch, with a look at the losses: at each where that is free, else after a burst of steps.

    A burst that holds a loss that is not finite is made again from the copy taken at its start, looking at each loss:
    a step is deterministic, so the same one fails, now with everything still there to explain it. `good` is the last
    copy of weights and optimizer state with which a loss was computed and was finite.
    """

    def __init__(self, network: Network, rows: Rows, loss: Loss, optimizer: Optimizer, batches: Batches, run: Run,
                 comm: Solo, callbacks: Sequence[Callback]) -> None:
        self.network, self.rows, self.loss, self.optimizer = network, rows, loss, optimizer
        self.batches, self.run, self.comm = batches, run, comm
        self.stepping = [c for c in callbacks if type(c).on_step_end is not Callback.on_step_end]
        self.state = optimizer.begin(network.arena)
        self.weight = None if rows.weight is None else np.asarray(network.backend.to_host(rows.weight), np.float64)
        self.good = self.start = self._copy(0)

    def epoch(self) -> tuple[float, float]:
        """Make the steps of epoch `run.epoch`; its mean loss and its last learning rate."""
        backend, run, steps = self.network.backend, self.run, len(self.batches)
        order, first, rate = self.batches.epoch(run.epoch), run.epoch * steps, 0.0
        mass = np.array([len(rows) if self.weight is None else self.weight[rows].sum() for rows in order])
        flat, size = backend.from_host(np.concatenate(order)), self.batches.batch_size  # one copy to the device
        drawn = [flat[i * size : i * size + len(rows)] for i, rows in enumerate(order)]
        losses = backend.zeros((steps,), self.network.dtype)
        for begin in range(0, steps, _BURST):
            burst = range(begin, min(begin + _BURST, steps))
            if self._due(first + begin):
                self.start = self._copy(first + begin)
            for i in burst:
                losses[i], rate = self._step(first + i, drawn[i], look=backend.on_host)
                run.step = first + i
                for callback in self.stepping:
                    callback.on_step_end(run)
            seen = backend.to_host(losses[begin : burst.stop])
            if not np.isfinite(seen).all():
                self._restore(self.start)
                for i in burst:
                    self._step(first + i, drawn[i], look=True)
                i = begin + int(np.argmin(np.isfinite(seen)))  # a callback had a hand in it: it does not come again
                self._fail(float(seen[i - begin]), self.rows.take(self.network.ops, drawn[i]), first + i)
            self._check_weights(first + burst.stop, drawn[burst[-1]])
            self.good = self.start
        return float(np.average(np.asarray(backend.to_host(losses), np.float64), weights=mass)), rate

    def _step(self, step: int, rows: Array, look: bool) -> tuple[Array, float]:
        schedule = self.optimizer.learning_rate
        rate = real(f"the learning rate that {type(schedule).__name__} gives for step {step}",
                    schedule(step, self.run.epochs * self.run.steps_per_epoch), 0.0)
        batch = self.rows.take(self.network.ops, rows)

        def watch(value: Array) -> None:
            if not math.isfinite(float(value)):
                self._fail(float(value), batch, step)
            if step == self.start[0]:
                self.good = self.start

        loss = train_step(self.network, self.loss, self.state, batch, step, rate, self.comm, watch if look else None)
        return loss, rate

    def _check_weights(self, step: int, rows: Array) -> None:
        """The last update before a step may have broken the weights, or a running variance, which no loss shows."""
        xp, arena = self.network.backend.xp, self.network.arena
        if not all(bool(xp.all(xp.isfinite(buffer))) for buffer in (arena.params, arena.state)):
            self._fail(math.nan, self.rows.take(self.network.ops, rows), step)

    def _due(self, step: int) -> bool:
        """Whether a burst that begins at a step needs a copy: every one on a device; else when the last is old."""
        age = step - self.start[0]
        return age >= _BURST or (age > 0 and not self.network.backend.on_host)

    def _copy(self, step: int) -> tuple[int, Any, Any, Array | None]:
        grads = None
        if not self.network.backend.on_host:  # what an explanation shows after a burst has been made again
            grads = self.network.backend.xp.asarray(self.network.arena.grads, copy=True)
        return step, self.network.arena.snapshot(), self.state.snapshot(), grads

    def _restore(self, copy: tuple[int, Any, Any, Array | None]) -> None:
        self.network.arena.restore(copy[1])
        self.state.restore(copy[2])
        if copy[3] is not None:
            self.network.arena.grads[...] = copy[3]

    def _fail(self, value: float, batch: Rows, step: int) -> None:
        """Explain the batch whose loss was not finite, put good weights back, and raise."""
        layers, layer = explain(self.network, batch.x)
        self._restore(self.good)
        raise NonFiniteLossError(
            step, self.run.epoch, value, layer, self.good[0],
            largest_weight=_largest(row.weights for row in layers),
            largest_gradient=_largest(row.gradients for row in layers),
            largest_input=layers[0].inputs, layers=layers,
        )


def explain(network: Network, x: Array) -> tuple[list[LayerExtremes], str]:
    """Largest absolute values around each layer for a batch, and the first layer whose output is not finite."""
    rows, culprit = [], "the loss"
    for position, (name, x_in, y) in enumerate(network.trace(x)):
        inside = [layer for key, layer in network.named_layers() if key.partition(".")[0] == str(position)]
        found = {
            "inputs": [x_in], "outputs": [y], "weights": [p for layer in inside for p in layer.params.values()],
            "gradients": [g for layer in inside for g in layer.grads.values()],
        }
        flat = {what: [network.backend.to_host(a).ravel() for a in arrays] for what, arrays in found.items()}
        largest = {what: _largest(np.concatenate([*arrays, [0.0]])) for what, arrays in flat.items()}
        broken = tuple(what for what, arrays in flat.items() if not all(np.isfinite(a).all() for a in arrays))
        rows.append(LayerExtremes(name, **largest, not_finite=broken))
        if culprit == "the loss" and "outputs" in broken:
            culprit = name
    return rows, culprit


def _largest(values: Iterable[float] | np.ndarray) -> float:
    """The largest absolute value, NaNs left out."""
    return float(np.nanmax(np.abs(np.fromiter(values, np.float64))))


# --- without training ------------------------------------------------------------------------------------------

def batch_rows(network: Network) -> int:
    """Rows that are worked on at once outside training: as many as keep the widest layer near 2**21 elements."""
    return max(1, 2**21 // max(network.widths()))


def parts(network: Network, x: Any) -> Iterator[Any]:
    """x (n, inputs) in slices of at most `batch_rows` rows."""
    n, rows = int(x.shape[0]), batch_rows(network)
    for i in range(0, n, rows):
        yield x if n <= rows else x[i : min(i + rows, n), ...]


def logits(network: Network, slices: Iterable[Array]) -> Iterator[Array]:
    """The logits of each slice, in memory that the next one uses again."""
    tape = Tape()
    for x in slices:
        yield forward(network.ops, network.layers, x, tape)


def evaluate(network: Network, slices: Iterable[Array], rows: Rows, loss: Loss,
             metrics: Sequence[Metric]) -> dict[str, float]:
    """Mean loss over the rows, weighted where they have weights, and the metrics.

    `slices` are the features of `rows`, one slice after the other; targets and weights are taken from `rows`.
    """
    to_host, xp = network.backend.to_host, network.ops.xp
    weight = None if rows.weight is None else np.asarray(to_host(rows.weight), np.float64)
    total, mass, end, predictions = 0.0, 0.0, 0, []
    for z in logits(network, slices):
        start, end = end, end + int(z.shape[0])
        share = float(end - start) if weight is None else float(weight[start:end].sum())
        value, _ = loss(network.ops, z, rows.y[start:end, ...],
                        None if rows.weight is None else rows.weight[start:end])
        total, mass = total + float(value) * share, mass + share
        if metrics:
            predictions.append(np.array(to_host(loss.link(xp, z))))
    values = {"loss": total / mass}
    if metrics:
        target, prediction = to_host(rows.y), np.concatenate(predictions)
        values |= {metric.name: metric(loss, target, prediction, weight) for metric in metrics}
    return values
