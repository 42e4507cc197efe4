"""Training, top to bottom: one step, then the loop around it. The one place to read first."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend import Array, Backend, host
from .callbacks import Callback, ProgressBar, Run
from .comm import Solo
from .data.arrays import Batches, Feed, Held, InMemory, Rows, Window, moved, stored
from .errors import LayerExtremes, MemoryLimitError, ModelFileError, NonFiniteLossError, is_out_of_memory, real
from .history import History
from .layers import Tape, forward
from .losses import Loss
from .metrics import Metric
from .network import Network
from .ops import Memory
from .optimizers import Optimizer, OptimizerState

_BURST = 32  # steps between two looks at the losses on a device, and there between two copies of the weights
_POSITION = ("epoch", "step", "total", "mass", "seconds", "last_rate")  # of a loop, between two steps
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)  # what a bad state ends in
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


def train(network: Network, rows: Rows | Feed, validation: Rows | Held | None, *, loss: Loss, optimizer: Optimizer,
          epochs: int, metrics: Sequence[Metric], callbacks: Sequence[Callback], comm: Solo,
          batches: Batches | None = None, state: OptimizerState | None = None, history: History | None = None,
          resume: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None = None) -> History:
    """The loop: epochs of steps, a row of the history after each. Everything is checked and in place already.

    With the `state` and the `history` of an earlier training it goes on from there; the schedule starts afresh. With
    its weights and what `Run.state_dict` gave, as `resume`, it goes on from that very step.
    """
    feed = rows if isinstance(rows, Feed) else InMemory(rows, batches or Batches(rows.count, rows.count, 0))
    state = state or optimizer.begin(network.arena)
    run = Run(network, History() if history is None else history, epochs, len(feed), validation is not None)
    prefix = "" if validation is None else "validation_"
    run.metrics = {prefix + metric.name: metric.greater_is_better for metric in metrics}
    network.ops.begin_training()
    loop = _Loop(network, feed, loss, state, run, comm, callbacks)
    run.state_dict = loop.state_dict
    begun: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_train_begin(run)
            begun.append(callback)
        if resume is not None:
            before = network.arena.snapshot()
            try:
                loop.load_state_dict(*resume)
            except _DAMAGED as error:
                network.arena.restore(before)
                raise ModelFileError(f"the checkpoint is damaged: {error!r}") from error
        while loop.epoch < epochs and not run.stop:
            run.epoch, start = loop.epoch, time.perf_counter() - loop.seconds
            mean, rate = loop.make_epoch()
            seconds = time.perf_counter() - start
            values = {"loss": mean}
            if validation is not None:
                values |= {prefix + n: v for n, v in _measured(network, validation, loss, metrics).items()}
            elif metrics:
                values |= {n: v for n, v in _measured(network, feed.held(), loss, metrics).items() if n != "loss"}
            run.history.append(**values, learning_rate=rate, seconds=seconds, rows_per_second=feed.count / seconds)
            optimizer.learning_rate.observe(values.get("validation_loss", mean))
            loop.next_epoch()
            for callback in callbacks:
                callback.on_epoch_end(run)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        loop.replay = loop.tail = None
        loop.restore_good()
        raise MemoryLimitError(
            f"{network.backend.name} ran out of memory after {run.history.steps:,} steps, in batches of "
            f"{feed.batch_size:,} rows: lower batch_size, or use narrower layers. The network holds the weights from "
            f"before step {loop.good.step:,}. ({str(error).strip() or type(error).__name__})") from error
    finally:
        loop.replay = loop.tail = None  # they hold the loop, and it them, and much memory
        feed.close()
        for callback in begun:
            callback.on_train_end(run)
    return run.history


def check_memory(network: Network, optimizer: Optimizer, batch_size: int, feeding: int = 0) -> None:
    """Raise MemoryLimitError where a training needs more memory than there is left, before any of it is asked for.

    Counted are, of the parameters, the optimizer's state and two copies of both; of a batch, its features, and for
    each layer its output, what backward needs of it, and the gradients of both. `feeding` is what waits for each row
    of a batch besides, in bytes. The network itself and the data are there already.
    """
    free = network.backend.free()
    item, slots = np.dtype(network.dtype).itemsize, len(optimizer.slots)
    copies = item * (slots + 2 * (1 + slots)) * int(network.arena.params.shape[0])
    row = item * 4 * sum(network.widths()) + feeding
    if not free or copies + row * batch_size <= free:
        return
    fits = (free - copies) // row
    fits = 2 ** (fits.bit_length() - 1) if fits > 0 else 0
    advice = f"batch_size={fits:,} would fit." if fits else "No batch size fits: use fewer or narrower layers."
    raise MemoryLimitError(
        f"this training needs about {_size(copies + row * batch_size)} more, {_size(copies)} for the optimizer's state "
        f"and copies of the {network.size:,} parameters and {_size(row * batch_size)} for a batch of {batch_size:,} "
        f"rows; {network.backend.name} has {_size(free)} free. {advice}")


def _size(count: int) -> str:
    """
    >>> _size(3 * 2**20)
    '3.0 MiB'
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def _measured(network: Network, rows: Rows | Held, loss: Loss, metrics: Sequence[Metric]) -> dict[str, float]:
    if isinstance(rows, Rows):
        return evaluate(network, slices_of(network, rows), rows, loss, metrics)
    return evaluate_parts(network, bounded(network, rows.parts()), loss, metrics)


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

    def __init__(self, network: Network, feed: Feed, loss: Loss, state: OptimizerState, run: Run, comm: Solo,
                 callbacks: Sequence[Callback]) -> None:
        self.network, self.feed, self.rows, self.loss, self.state = network, feed, feed.rows, loss, state
        self.run, self.comm, self.begun, self.callbacks = run, comm, state.steps, callbacks
        self.stepping = [c for c in callbacks if type(c).on_step_end is not Callback.on_step_end]
        self.pausing = [c for c in callbacks if type(c).on_pause is not Callback.on_pause]
        self.epoch, self.step, self.total, self.mass, self.seconds = 0, 0, 0.0, 0.0, 0.0
        self.begun_at = 0.0
        self.memory: dict[int, Memory] = {}  # of batches, by their size
        self.copies: list[_Copy] = []
        self.good = self.start = self._copy(self.begun)
        self.last_rate = 0.0
        self.watched = any(type(c) is not ProgressBar for c in self.stepping)  # somebody may look in at every step
        run.history.why_not_replayed = self._why_not_replayed()
        full, rest = divmod(feed.count, feed.batch_size)
        replays, again = not run.history.why_not_replayed, run.epochs > 1
        self.replay = _Replay(self, feed.batch_size, min(full, _BURST)) if replays and (again or full > 1) else None
        self.tail = _Replay(self, rest, 1) if replays and again and rest else None  # the last, smaller batch
        self.settled = all(c.leaves_settings for c in callbacks)

    def _why_not_replayed(self) -> str:
        """Why every step must be made from Python; nothing where none must."""
        if not self.network.ops.captures:
            return self.network.ops.no_capture_reason
        if not self.network.is_builtin:
            return "a layer is not one of the package's own"
        if self.rows.on_host:
            return "the data stay on the host: they are sparse, or too large for the device"
        return "a callback looks in at every step" if self.watched else ""

    def make_epoch(self) -> tuple[float, float]:
        """Make the steps of epoch `epoch` from step `step` on; its mean loss and its last learning rate."""
        self.begun_at = time.perf_counter() - self.seconds
        self.network.arena.refresh()  # a callback may have written to the parameters
        for replay in (self.replay, self.tail):
            if replay and not self.settled:
                replay.program = None  # to be recorded anew, with the weight decay or the rate that there is now
        for window in self.feed.windows(self.epoch, self.step):
            self._make(window)
        return self.total / self.mass, self.last_rate

    def next_epoch(self) -> None:
        """An epoch has been made, and its row of the history written."""
        self.epoch, self.step, self.total, self.mass, self.seconds = self.epoch + 1, 0, 0.0, 0.0, 0.0

    def _make(self, window: Window) -> None:
        """Make the steps of a window, in bursts."""
        backend, run, order, size = self.network.backend, self.run, window.order, self.feed.batch_size
        count, first = len(order), self.begun + self.epoch * len(self.feed) + window.first
        steps = -(-count // size)
        mass = np.add.reduceat(np.ones(count) if window.weight is None else window.weight, range(0, count, size))
        flat = order if self.rows.on_host else backend.from_host(order)  # one copy to the device
        losses = backend.zeros((min(steps, _BURST),), self.network.dtype)

        def drawn(i: int) -> Array:
            """The rows of the window's step i."""
            return flat[i * size : min((i + 1) * size, count)]

        begin = 0
        while begin < steps:
            stop = min(begin + _BURST, steps)
            if self._due(first + begin):
                self.start = self._copy(first + begin)
            made, full = 0, min(stop, count // size) - begin
            if self.replay and full > 0:
                made = self.replay.run(first, begin, flat[begin * size : (begin + full) * size], losses)
            if self.tail and stop == steps == begin + made + 1 and count % size:
                made += self.tail.run(first, begin + made, drawn(steps - 1), losses[made:])
            i = begin if self.stepping else begin + made
            while i < stop and not (run.interrupted and i >= begin + made > begin):
                if i >= begin + made:
                    losses[i - begin] = self._step(first + i, drawn(i), look=backend.on_host)
                    made += 1
                run.step = first + i
                for callback in self.stepping:
                    callback.on_step_end(run)
                if self.watched:
                    self.network.arena.refresh()
                i += 1
            stop = begin + made  # before its end, where it was interrupted
            run.history.steps += made
            self.state.steps, run.step = first + stop, first + stop - 1
            seen = backend.to_host(losses[:made])
            if not np.isfinite(seen).all():
                self._restore(self.start)
                for i in range(begin, stop):
                    self._step(first + i, drawn(i), look=True)
                i = begin + int(np.argmin(np.isfinite(seen)))  # a callback had a hand in it: it does not come again
                self.fail(float(seen[i - begin]), self.take(drawn(i)), first + i)
            self._check_weights(first + stop, drawn(stop - 1))
            self.good = self.start
            for value, share in zip(seen.tolist(), mass[begin:stop].tolist(), strict=True):  # one by one: the sum does
                self.total, self.mass = self.total + value * share, self.mass + share  # not depend on the bursts
            begin, self.step = stop, window.first + stop
            self.seconds = time.perf_counter() - self.begun_at
            for callback in self.pausing:
                callback.on_pause(run)

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands, between two steps: all that the steps to come depend on, but for the weights."""
        history, scale = self.run.history, getattr(self.network.ops, "loss_scale", None)  # of float16 on CUDA
        state: dict[str, Any] = {name: getattr(self, name) for name in _POSITION}
        state |= {"stop": self.run.stop, "steps": history.steps, "replayed": history.replayed,
                  "begun": self.begun, "schedule": self.state.optimizer.learning_rate.state_dict(),
                  "history": {name: np.asarray(values, np.float64) for name, values in history.items()},
                  "optimizer": {slot: self.network.backend.to_host(b) for slot, b in self.state.buffers.items()},
                  "scale": None if scale is None else self.network.backend.to_host(scale),
                  "callbacks": [[type(c).__name__, c.state_dict()] for c in self.callbacks]}
        return state

    def load_state_dict(self, weights: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Go on from there; an error where the state is none."""
        history, backend, optimizer = self.run.history, self.network.backend, self.state
        for name in _POSITION:
            setattr(self, name, type(getattr(self, name))(state[name]))
        self.run.stop, self.begun = bool(state["stop"]), int(state["begun"])
        history.steps, history.replayed = int(state["steps"]), int(state["replayed"])
        if not (0 <= self.epoch <= history.steps and 0 <= self.step <= len(self.feed) and self.begun >= 0):
            raise ValueError("its place in the training is none")
        for name, value in weights.items():
            self.network.arena.write(name, value)
        self.network.arena.refresh()
        history.restore(state["history"])
        if history.epochs != self.epoch or any(len(column) != self.epoch for column in history.values()):
            raise ValueError("its history is not that of its epochs")
        optimizer.optimizer.learning_rate.load_state_dict(state["schedule"])
        saved = {slot: state["optimizer"][slot] for slot in optimizer.buffers}
        if any(tuple(values.shape) != tuple(optimizer.buffers[slot].shape) for slot, values in saved.items()):
            raise ValueError("its optimizer's state is of another size")
        optimizer.restore({slot: backend.from_host(values) for slot, values in saved.items()})
        if state["scale"] is not None:
            self.network.ops.assign(self.network.ops.loss_scale, tuple(state["scale"].tolist()))
        optimizer.steps = self.begun + self.epoch * len(self.feed) + self.step
        left = list(state["callbacks"])
        for callback in self.callbacks:  # each the first that is left of its type; what shows progress may be missing
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                callback.load_state_dict(found[1])
        self.copies.clear()
        self.good = self.start = self._copy(optimizer.steps)

    def restore_good(self) -> None:
        """Put the last good weights back, and let go of the memory that the steps worked in."""
        self.memory.clear()
        self.network.forget()
        self._restore(self.good)

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
        """Make the steps first + begin, first + begin + 1, ... on rows by numbers (steps * size,).

        How many it made: one alone where the step cannot be recorded, fewer where somebody interrupts. Their losses
        are written to the beginning of `losses`.
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
                loop.run.history.why_not_replayed = ops.no_capture_reason if not ops.captures else \
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
            if loop.run.interrupted:
                break
        losses[:done] = self.losses[:done, 0]
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


def bounded(network: Network, found: Iterable[Rows]) -> Iterator[Rows]:
    """Rows that come in parts, in parts of at most `batch_rows`."""
    most = batch_rows(network)
    for rows in found:
        for i in range(0, rows.count, most):
            weight = None if rows.weight is None else rows.weight[i : i + most]
            yield Rows(rows.x[i : i + most], rows.y[i : i + most], weight)


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
    def parts() -> Iterator[Rows]:
        start = 0
        for x in slices:
            end = start + int(x.shape[0])
            yield Rows(x, rows.y[start:end, ...], None if rows.weight is None else rows.weight[start:end])
            start = end

    return evaluate_parts(network, parts(), loss, metrics)


def evaluate_parts(network: Network, parts: Iterable[Rows], loss: Loss, metrics: Sequence[Metric]) -> dict[str, float]:
    """The same, of rows that come in parts; metrics keep a prediction and a target for each row."""
    backend, xp, held = network.backend, network.ops.xp, list[Rows]()
    total, mass, kept = 0.0, 0.0, []

    def slices() -> Iterator[Array]:
        for part in parts:
            held[:] = [part]
            yield stored(part.x, backend)

    for z in logits(network, slices()):
        part = held[0]
        weight = None if part.weight is None else np.asarray(host(part.weight), np.float64)
        share = float(z.shape[0]) if weight is None else float(weight.sum())
        value, _ = loss(network.ops, z, stored(part.y, backend),
                        None if part.weight is None else stored(part.weight, backend))
        total, mass = total + float(value) * share, mass + share
        if metrics:
            kept.append((np.array(host(part.y)), np.array(backend.to_host(loss.link(xp, z))), weight))
    values = {"loss": total / mass}
    if metrics:
        target, prediction = (np.concatenate(column) for column in list(zip(*kept, strict=True))[:2])
        weight = None if kept[0][2] is None else np.concatenate([row[2] for row in kept])
        values |= {metric.name: metric(loss, target, prediction, weight) for metric in metrics}
    return values
