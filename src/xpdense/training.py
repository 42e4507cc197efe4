"""Training, top to bottom: one step, then the loop around it. The one place to read first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import Array, Backend, host
from .callbacks import Callback, ProgressBar, Run
from .comm import Solo
from .data.arrays import Batches, Rows, moved, stored
from .errors import LayerExtremes, NonFiniteLossError, real
from .history import History
from .layers import Tape, forward
from .losses import Loss
from .metrics import Metric
from .network import Network
from .ops import Memory
from .optimizers import Optimizer, OptimizerState

_BURST = 32  # steps between two looks at the losses on a device, and there between two copies of the weights
_OLD = 128  # steps between two copies where each loss is looked at, and a copy is for the case of a failure alone


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
    The batch's mean loss, with the optimizer's penalty, a scalar on the device, in memory that the next step writes to.
    """
    network.set_step(step)
    optimizer.set_step(network.ops, step, rate)
    return step_on_device(network, loss, optimizer, batch, comm, watch)


def step_on_device(network: Network, loss: Loss, optimizer: OptimizerState, batch: Rows, comm: Solo,
                   watch: Callable[[Array], None] | None = None) -> Array:
    """The step itself, once its number and rate are on the device: what can be recorded and replayed."""
    z = network.forward(batch.x, train=True)  # (batch, outputs)
    memory = network.buffer("dz", z.shape), network.buffer("loss", (), network.ops.wide)
    value, dz = loss(network.ops, z, batch.y, batch.weight, *memory)  # scalar on the device, (batch, outputs)
    rows, arena = int(batch.x.shape[-2]), network.arena
    if optimizer.optimizer.reported_penalty:  # its gradient is the update's business
        weights = arena.params[: arena.decay_size]
        value = network.ops.penalize(value, weights, 0.5 * optimizer.optimizer.reported_penalty / rows)
    if watch is not None:
        watch(value)
    network.backward(dz)  # overwrites arena.grads
    comm.mean_(arena.grads)
    optimizer.update(network.ops, rows)  # one op over the arena
    return value


def train(network: Network, rows: Rows, validation: Rows | None, *, loss: Loss, optimizer: Optimizer, epochs: int,
          batches: Batches, metrics: Sequence[Metric], callbacks: Sequence[Callback], comm: Solo,
          state: OptimizerState | None = None, history: History | None = None) -> History:
    """The loop: epochs of steps, a row of the history after each. Everything is checked and in place already.

    With the `state` and the `history` of an earlier training it goes on from there; the schedule starts afresh.
    """
    state = state or optimizer.begin(network.arena)
    run = Run(network, History() if history is None else history, epochs, len(batches), validation is not None)
    prefix, held = ("", rows) if validation is None else ("validation_", validation)
    run.metrics = {prefix + metric.name: metric.greater_is_better for metric in metrics}
    network.ops.begin_training()
    loop = _Loop(network, rows, loss, state, batches, run, comm, callbacks)
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
                measured = evaluate(network, slices_of(network, held), held, loss, metrics)
                values |= {prefix + name: value for name, value in measured.items() if prefix or name != "loss"}
            run.history.append(**values, learning_rate=rate, seconds=seconds, rows_per_second=rows.count / seconds)
            optimizer.learning_rate.observe(values.get("validation_loss", mean))
            for callback in callbacks:
                callback.on_epoch_end(run)
            if run.stop:
                break
    finally:
        loop.replay = loop.tail = None  # they hold the loop, and it them, and much memory
        for callback in begun:
            callback.on_train_end(run)
    return run.history


@dataclass
class _Copy:
    """Weights and optimizer state before a step, and the gradients where an explanation needs them."""

    step: int
    arena: tuple[Array, Array]
    state: dict[str, Array] | None  # None: as it begins
    grads: Array | None


class _Loop:
    """The steps of an epoch, with a look at the losses: at each where that is free, else after a burst of steps.

    A burst that holds a loss that is not finite is made again from the copy taken at its start, looking at each loss:
    a step is deterministic, so the same one fails, now with everything still there to explain it. `good` is the last
    copy of weights and optimizer state with which a loss was computed and was finite.
    """

    def __init__(self, network: Network, rows: Rows, loss: Loss, state: OptimizerState, batches: Batches, run: Run,
                 comm: Solo, callbacks: Sequence[Callback]) -> None:
        self.network, self.rows, self.loss, self.state = network, rows, loss, state
        self.batches, self.run, self.comm, self.begun = batches, run, comm, state.steps
        self.stepping = [c for c in callbacks if type(c).on_step_end is not Callback.on_step_end]
        self.weight = None if rows.weight is None else np.asarray(host(rows.weight), np.float64)
        self.memory: dict[int, Memory] = {}  # of batches, by their size
        self.copies: list[_Copy] = []
        self.good = self.start = self._copy(self.begun)
        self.last_rate = 0.0
        self.watched = any(type(c) is not ProgressBar for c in self.stepping)  # somebody may look in at every step
        run.history.why_not_replayed = self._why_not_replayed()
        full, rest = divmod(batches.rows, batches.batch_size)
        replays, again = not run.history.why_not_replayed, run.epochs > 1
        self.replay = _Replay(self, batches.batch_size, min(full, _BURST)) if replays and (again or full > 1) else None
        self.tail = _Replay(self, rest, 1) if replays and again and rest else None  # the last, smaller batch
        self.settled = all(c.leaves_settings for c in callbacks)

    def _why_not_replayed(self) -> str:
        """Why every step must be made from Python; nothing where none must."""
        if not self.network.ops.captures:
            return self.network.ops.why_not
        if not self.network.is_all_ours:
            return "a layer is not one of the package's own"
        if self.rows.on_host:
            return "the data stay on the host: they are sparse, or too large for the device"
        return "a callback looks in at every step" if self.watched else ""

    def epoch(self) -> tuple[float, float]:
        """Make the steps of epoch `run.epoch`; its mean loss and its last learning rate."""
        backend, run, steps = self.network.backend, self.run, len(self.batches)
        self.network.arena.refresh()  # a callback may have written to the parameters
        order, first = self.batches.order(run.epoch), self.begun + run.epoch * steps
        count, size = len(order), self.batches.batch_size
        mass = np.add.reduceat(np.ones(count) if self.weight is None else self.weight[order], range(0, count, size))
        flat = order if self.rows.on_host else backend.from_host(order)  # one copy to the device

        def drawn(i: int) -> Array:
            """The rows of the epoch's step i."""
            return flat[i * size : min((i + 1) * size, count)]

        losses = backend.zeros((steps,), self.network.dtype)
        for replay in (self.replay, self.tail):
            if replay and not self.settled:
                replay.program = None  # to be recorded anew, with the weight decay or the rate that there is now
        for begin in range(0, steps, _BURST):
            burst = range(begin, min(begin + _BURST, steps))
            if self._due(first + begin):
                self.start = self._copy(first + begin)
            made, full = 0, min(burst.stop, count // size) - begin
            if self.replay and full > 0:
                made = self.replay.run(first, begin, flat[begin * size : (begin + full) * size], losses)
            if self.tail and begin + made == steps - 1:
                made += self.tail.run(first, begin + made, drawn(steps - 1), losses)
            run.history.steps += len(burst)
            self.state.steps = first + burst.stop
            for i in burst if self.stepping else burst[made:]:
                if i >= begin + made:
                    losses[i] = self._step(first + i, drawn(i), look=backend.on_host)
                run.step = first + i
                for callback in self.stepping:
                    callback.on_step_end(run)
                if self.watched:
                    self.network.arena.refresh()
            run.step = first + burst[-1]
            seen = backend.to_host(losses[begin : burst.stop])
            if not np.isfinite(seen).all():
                self._restore(self.start)
                for i in burst:
                    self._step(first + i, drawn(i), look=True)
                i = begin + int(np.argmin(np.isfinite(seen)))  # a callback had a hand in it: it does not come again
                self.fail(float(seen[i - begin]), self.take(drawn(i)), first + i)
            self._check_weights(first + burst.stop, drawn(burst[-1]))
            self.good = self.start
        return float(np.asarray(backend.to_host(losses), np.float64) @ mass / mass.sum()), self.last_rate

    def take(self, rows: Array) -> Rows:
        """A batch, in memory that the next batch of its size is written to."""
        return self.rows.take(self.network.ops, rows, self.memory.setdefault(int(rows.shape[0]), Memory()))

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        schedule = self.state.optimizer.learning_rate
        rate = schedule(step - self.begun, self.run.epochs * self.run.steps_per_epoch)
        if type(rate) is not float or not 0.0 <= rate < math.inf:
            rate = real(f"the learning rate that {type(schedule).__name__} gives for step {step}", rate, 0.0)
        self.last_rate = rate
        return rate

    def _step(self, step: int, rows: Array, look: bool) -> Array:
        batch = self.take(rows)

        def watch(value: Array) -> None:
            self.judge(float(value), batch, step)

        return train_step(self.network, self.loss, self.state, batch, step, self.rate(step), self.comm,
                          watch if look else None)

    def judge(self, loss: float, batch: Rows, step: int) -> None:
        """Fail where the loss of a step is not finite; where it is, the weights that it was computed with are good."""
        if not math.isfinite(loss):
            self.fail(loss, batch, step)
        if step >= self.start.step:
            self.good = self.start

    def _check_weights(self, step: int, rows: Array) -> None:
        """The last update before a step may have broken the weights, or a running variance, which no loss shows."""
        xp, arena = self.network.backend.xp, self.network.arena
        if not all(bool(xp.all(xp.isfinite(buffer))) for buffer in (arena.params, arena.state)):
            self.fail(math.nan, self.take(rows), step)

    def _due(self, step: int) -> bool:
        """Whether a burst that begins at a step needs a copy: every one on a device; else when the last is old."""
        age = step - self.start.step
        return age >= _OLD or (age > 0 and not self.network.backend.on_host)

    def _copy(self, step: int) -> _Copy:
        """A copy of weights and optimizer state before a step, in memory that holds one which nobody needs any more."""
        network = self.network
        free = next((c for c in self.copies if c is not self.good), None) if len(self.copies) > 1 else None
        if free is None:
            grads = None
            if not network.backend.on_host:  # what an explanation shows after a burst has been made again
                grads = network.backend.xp.zeros_like(network.arena.grads)
            free = _Copy(step, network.arena.snapshot(), self.state.snapshot() if step else None, grads)
            self.copies.append(free)
        else:
            free.step = step
            network.arena.snapshot(free.arena)
            free.state = self.state.snapshot(free.state)
        if free.grads is not None:
            free.grads[...] = network.arena.grads
        return free

    def _restore(self, copy: _Copy) -> None:
        self.network.arena.restore(copy.arena)
        self.state.restore(copy.state)
        self.state.steps = copy.step
        if copy.grads is not None:
            self.network.arena.grads[...] = copy.grads

    def fail(self, value: float, batch: Rows, step: int) -> None:
        """Explain the batch whose loss was not finite, put good weights back, and raise."""
        layers, layer = explain(self.network, batch.x)
        self._restore(self.good)
        raise NonFiniteLossError(
            step, self.run.epoch, value, layer, self.good.step,
            largest_weight=_largest(row.weights for row in layers),
            largest_gradient=_largest(row.gradients for row in layers),
            largest_input=layers[0].inputs, layers=layers,
        )


class _Replay:
    """Batches of one size, recorded once as a program of bound calls and replayed without Python.

    What changes from step to step lies in tables, a row per step of a burst, whose memory stays where it is: the rows
    of the batch, the step's number, the optimizer's scalars, the loss. A replay ends by itself at a loss that is not
    finite, before it changes anything.
    """

    def __init__(self, loop: _Loop, size: int, most: int) -> None:
        """For batches of `size` rows, at most `most` in a burst."""
        self.loop, self.size = loop, size
        backend, dtype = loop.network.backend, loop.network.dtype
        self.rows = backend.zeros((most, size), "int64")
        self.batch = backend.zeros((size,), "int64")
        self.steps = backend.zeros((most, 1), "int64")
        self.hyper = backend.zeros((most, loop.state.hyper.shape[0]), dtype)
        self.losses = backend.zeros((most, 1), dtype)
        self.program: Callable[[int, int], int] | None = None
        self.seconds = 0.05  # of a step, at most; measured with the first replay

    def run(self, first: int, begin: int, numbers: Array, losses: Array) -> int:
        """Make the steps begin, begin + 1, ... of the epoch whose first is `first`, on rows by numbers (steps * size,).

        How many it made: one alone where the step cannot be recorded.
        """
        loop, count = self.loop, len(numbers) // self.size
        self.rows[:count] = numbers.reshape(count, self.size)
        backend, steps = loop.network.backend, range(first + begin, first + begin + count)
        self.steps[:count] = backend.from_host(np.array(steps).reshape(count, 1))
        scalars = np.array([loop.state.scalars(step, loop.rate(step)) for step in steps], loop.network.dtype)
        self.hyper[:count] = backend.from_host(scalars)
        done = 0
        if self.program is None:
            tables = (self.rows, self.steps, self.hyper, self.losses)
            self.program, done = loop.network.ops.capture(self._first_row, tables), 1
            if self.program is None:  # something in the step is not ours to replay
                ops, loop.replay, loop.tail = loop.network.ops, None, None
                loop.run.history.why_not_replayed = ops.why_not if not ops.captures else \
                    "an activation, the loss or the optimizer is not the package's own"
        while self.program is not None and done < count:
            start = time.perf_counter()
            most = min(count - done, max(1, int(0.05 / self.seconds)))  # Python, and with it Ctrl-C, comes in between
            made = self.program(done, most)
            self.seconds = (time.perf_counter() - start) / most
            done += made
            loop.run.history.replayed += made
            if made and loop.network.ops.ends_replays:
                loop.good = loop.start  # losses were computed from it on, and were finite
            if made < most:  # it ended by itself, at a loss that is not
                batch = loop.take(self.rows[done])
                loop.fail(float(self.losses[done, 0]), batch, first + begin + done)
        losses[begin : begin + done] = self.losses[:done, 0]
        return done

    def _first_row(self) -> None:
        """The step of the tables' first row, which is made as it is recorded."""
        loop, network, ops = self.loop, self.loop.network, self.loop.network.ops
        ops.move(self.steps[0], network.step_on_device)
        ops.move(self.hyper[0], loop.state.hyper)
        ops.move(self.rows[0], self.batch)
        batch = loop.take(self.batch)

        def watch(value: Array) -> None:
            ops.move(value.reshape(1), self.losses[0])
            ops.stop_unless_finite(value)
            if ops.ends_replays:  # elsewhere the losses are looked at after the burst
                loop.judge(float(value), batch, int(self.steps[0, 0]))

        step_on_device(network, loop.loss, loop.state, batch, loop.comm, watch)


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
    """x (n, inputs), of any place, in slices of at most `batch_rows` rows."""
    n, rows = int(x.shape[0]), batch_rows(network)
    for i in range(0, n, rows):
        yield x[i : min(i + rows, n), ...]


def slices_of(network: Network, rows: Rows) -> Iterator[Array]:
    """The features of rows in slices of at most `batch_rows`, on the network's backend."""
    return (stored(x, network.backend) for x in parts(network, rows.x))


def logits(network: Network, slices: Iterable[Array]) -> Iterator[Array]:
    """The logits of each slice in the network's dtype, in memory that the next one uses again."""
    tape, ops = Tape(), network.ops
    network.arena.refresh()
    for x in slices:
        z = forward(ops, network.layers, x, tape)
        yield z if ops.wide == ops.dtype else ops.xp.astype(z, network.backend.dtype(ops.wide))


def outputs(network: Network, slices: Iterable[Array], function: Callable[[Any, Array], Array],
            place: Backend) -> Array:
    """`function(xp, logits)` of each slice, one after the other, as one array (n, ...) of `place`."""
    xp = network.ops.xp
    with network.backend.active(), np.errstate(all="ignore"):
        out = [moved(xp.asarray(function(xp, z), copy=True), network.backend, place) for z in logits(network, slices)]
    with place.active():
        return out[0] if len(out) == 1 else place.xp.concat(out, axis=0)


def evaluate(network: Network, slices: Iterable[Array], rows: Rows, loss: Loss,
             metrics: Sequence[Metric]) -> dict[str, float]:
    """Mean loss over the rows, weighted where they have weights, and the metrics.

    `slices` are the features of `rows`, one slice after the other; targets and weights are taken from `rows`.
    """
    backend, xp = network.backend, network.ops.xp
    weight = None if rows.weight is None else np.asarray(host(rows.weight), np.float64)
    total, mass, end, predictions = 0.0, 0.0, 0, []
    for z in logits(network, slices):
        start, end = end, end + int(z.shape[0])
        share = float(end - start) if weight is None else float(weight[start:end].sum())
        value, _ = loss(network.ops, z, stored(rows.y[start:end, ...], backend),
                        None if rows.weight is None else stored(rows.weight[start:end], backend))
        total, mass = total + float(value) * share, mass + share
        if metrics:
            predictions.append(np.array(backend.to_host(loss.link(xp, z))))
    values = {"loss": total / mass}
    if metrics:
        target, prediction = host(rows.y), np.concatenate(predictions)
        values |= {metric.name: metric(loss, target, prediction, weight) for metric in metrics}
    return values
