"""The training loop: epochs of steps, a row of the history after each, and callbacks in between.

The step itself is in `step`; recording and replaying it in `replay`; copies of good weights in `rollback`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from .backend import Array
from .callbacks import Callback, Position, Run, call_each
from .comm import Comm, Solo
from .data.arrays import Rows
from .data.feeding import Feed, Window
from .errors import MemoryLimitError, ModelFileError, is_out_of_memory, real
from .history import History
from .inference import evaluate
from .losses import Loss
from .metrics import Metric
from .network import Network
from .ops import Memory
from .optimizers import Optimizer, OptimizerState
from .replay import Replay
from .rollback import Rollback
from .step import TrainStep

_BURST = 32  # steps after which losses are read from the device, and callbacks see weights and position together
_DAMAGED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)  # what a bad state ends in


class Loop:
    """A training: everything is checked and in place before it begins.

    Parameters
    ----------
    network : Network
    feed : Feed
        Batches of the training rows.
    loss : Loss
    optimizer : Optimizer
    epochs : int
    validation : Feed, optional
        Rows that are evaluated after each epoch.
    metrics : sequence of Metric
        Measured after each epoch, on the validation rows if there are any, else on the training rows.
    callbacks : sequence of Callback
    comm : Comm
        The processes that share the training.
    state : OptimizerState, optional
        That of an earlier training, which this one continues; the schedule starts afresh.
    history : History, optional
        That of an earlier training, to which this one adds.
    identity : mapping, optional
        What another training must have in common to continue this one; see `checkpointing.identify`.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> from xpdense.data.feeding import Batches, InMemory
    >>> network = xd.DenseNetwork([xd.Dense(1)], inputs=1)
    >>> rows = Rows(np.ones((4, 1), "float32"), np.ones((4, 1), "float32"), None)
    >>> feed = InMemory(rows, Batches(4, 2, seed=0))
    >>> Loop(network, feed, loss=xd.SquaredError(), optimizer=xd.SGD(), epochs=3).train().steps
    6
    """

    def __init__(self, network: Network, feed: Feed, *, loss: Loss, optimizer: Optimizer, epochs: int,
                 validation: Feed | None = None, metrics: Sequence[Metric] = (),
                 callbacks: Sequence[Callback] = (), comm: Comm | None = None, state: OptimizerState | None = None,
                 history: History | None = None, identity: Mapping[str, Any] | None = None) -> None:
        self.network, self.feed, self.validation = network, feed, validation
        self.metrics, self.callbacks = metrics, callbacks
        self.state = state or optimizer.begin(network.arena)
        self.train_step = TrainStep(network, loss, self.state, comm or Solo())
        self.run = Run(network, loss, optimizer, feed, History() if history is None else history, epochs,
                       validation is not None, Position(begun=self.state.steps), self.state_dict, identity or {})
        self.prefix = "" if validation is None else "validation_"
        self.run.metrics = {self.prefix + metric.name: metric.greater_is_better for metric in metrics}
        self.stepping = [c for c in callbacks if type(c).on_step_end is not Callback.on_step_end]
        self.watched = not all(c.only_counts_steps for c in self.stepping)
        self.memory: dict[int, Memory] = {}  # of batches, by their size
        self.losses = network.backend.zeros((_BURST,), network.dtype)
        self.rollback = Rollback(network, self.state, self.state.steps)
        self.run.history.no_capture_reason = self._no_capture_reason()
        self.replays: dict[int, Replay] = {}  # by the size of the batch: full ones, and the last, smaller one
        full, rest = divmod(feed.count, feed.batch_size)
        if not self.run.history.no_capture_reason:
            if epochs > 1 or full > 1:
                self.replays[feed.batch_size] = Replay(self.train_step, self._take, feed.batch_size, min(full, _BURST))
            if epochs > 1 and rest:
                self.replays[rest] = Replay(self.train_step, self._take, rest, 1)

    def train(self, resume: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None = None) -> History:
        """Make the epochs, with the hooks of the callbacks around them.

        Parameters
        ----------
        resume : tuple, optional
            Weights, and what `Run.state_dict` gave with them: the training continues from that very step.

        Raises
        ------
        NonFiniteLossError
            The network holds good weights again.
        MemoryLimitError, ModelFileError
        """
        run, begun = self.run, list[Callback]()
        self.network.ops.begin_training()
        try:
            for callback in self.callbacks:
                callback.on_train_begin(run)
                begun.append(callback)
            if resume is not None:
                self._resume(*resume)
            while run.position.complete_epochs < run.epochs and not run.stop:
                self._epoch()
        except Exception as error:
            failure = self._out_of_memory(error) if is_out_of_memory(error) else error
            call_each([partial(callback.on_failure, run, failure) for callback in begun])
            if failure is error:
                raise
            raise failure from error
        finally:
            self.replays.clear()
            self.feed.close()
            call_each([partial(callback.on_train_end, run) for callback in begun])
        return run.history

    # --- epochs and bursts -------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Make the steps of the epoch that `position` is in, from its step on; write its row of the history."""
        run, position, feed = self.run, self.run.position, self.feed
        position.enter()
        begin = time.perf_counter() - position.seconds
        self.network.arena.refresh()  # a callback may have written to the parameters
        if not all(callback.keeps_optimizer_settings for callback in self.callbacks):
            for replay in self.replays.values():
                replay.forget()
        for window in feed.windows(position.epoch, position.step):
            self._window(window, begin)
        values, seconds = {"loss": position.total / position.total_weight}, time.perf_counter() - begin
        if self.validation is not None or self.metrics:
            parts = (feed if self.validation is None else self.validation).parts()
            scores = evaluate(self.network, parts, self.train_step.loss, self.metrics)
            values |= {self.prefix + name: value for name, value in scores.items()} | values  # "loss" stays
        run.history.append(**values, learning_rate=position.last_rate, seconds=seconds,
                           rows_per_second=feed.count / seconds)
        run.optimizer.learning_rate.observe(values.get("validation_loss", values["loss"]))
        position.complete = True
        for callback in self.callbacks:
            callback.on_epoch_end(run)

    def _window(self, window: Window, begin: float) -> None:
        """Make the steps of a window, in bursts."""
        position, count, size = self.run.position, len(window.order), self.feed.batch_size
        weights = np.add.reduceat(np.ones(count) if window.weight is None else window.weight, range(0, count, size))
        on_host = self.feed.rows.on_host
        order = window.order if on_host else self.network.backend.from_host(window.order)  # one copy to the device
        start = 0
        while start < len(weights):
            losses = self._burst(order[start * size : min((start + _BURST) * size, count)])
            stop = start + len(losses)
            for loss, weight in zip(losses.tolist(), weights[start:stop].tolist(), strict=True):
                position.total += loss * weight  # one by one, so that bursts do not change the sum
                position.total_weight += weight
            start, position.seconds = stop, time.perf_counter() - begin
            for callback in self.callbacks:
                callback.on_pause(self.run)

    def _burst(self, rows: Array) -> np.ndarray:
        """Make steps on the batches whose row numbers (n,) follow each other; their losses (made,).

        On the CPU each loss is checked before its step changes anything. On a device they are read at the end; a burst
        with one that is not finite is made again from the copy of its beginning, with a check of each loss: steps are
        deterministic, so that the same one fails, and all that the report needs is still there.
        """
        run, position, size, backend = self.run, self.run.position, self.feed.batch_size, self.network.backend
        count = int(rows.shape[0])
        begin, first, steps = position.step, run.next_step, -(-count // size)
        batches = [rows[i * size : min((i + 1) * size, count)] for i in range(steps)]
        self.rollback.before(first)
        made = self._replay(first, rows)
        i = 0 if self.stepping else made
        while i < steps and not (run.interrupted and i >= made > 0):
            if i >= made:
                self.losses[i] = self._step(first + i, batches[i], check=backend.on_host)
                made += 1
            i, position.step = i + 1, begin + i + 1
            for callback in self.stepping:
                callback.on_step_end(run)
            if self.watched:
                self.network.arena.refresh()
        run.history.steps += made
        position.step, self.state.steps = begin + made, first + made
        losses = backend.to_host(self.losses[:made])
        if not np.isfinite(losses).all():
            self.rollback.restore(self.rollback.start)
            for i in range(made):
                self._step(first + i, batches[i], check=True)
            i = int(np.argmin(np.isfinite(losses)))  # it was finite this time: a callback had changed something
            raise self._failure(float(losses[i]), batches[i], first + i)
        xp, arena = backend.xp, self.network.arena
        if not all(bool(xp.all(xp.isfinite(buffer))) for buffer in (arena.params, arena.state)):
            raise self._failure(math.nan, batches[made - 1], first + made)  # the last update, which no loss shows
        self.rollback.confirm()
        return losses

    def _replay(self, first: int, rows: Array) -> int:
        """Make those steps of a burst that can be replayed; how many these are."""
        made, run, size = 0, self.run, self.feed.batch_size
        full, rest = divmod(int(rows.shape[0]), size)
        for replay, count in [(self.replays.get(size), full), (self.replays.get(rest), int(rest > 0))]:
            if not count:
                continue
            if replay is None:
                break
            rates = [self._rate(first + made + i) for i in range(count)]
            batches = rows[made * size : made * size + count * replay.size]
            ran = replay.run(first + made, batches, rates, lambda: run.interrupted > 0)
            run.history.replayed += ran.replayed
            self.losses[made : made + ran.made] = ran.losses
            if ran.made and self.network.ops.ends_replays:
                self.rollback.confirm()
            if ran.bad is not None:
                bad = batches[ran.made * replay.size : (ran.made + 1) * replay.size]
                raise self._failure(ran.bad, bad, first + made + ran.made)
            made += ran.made
            if replay.refused:
                self.replays.clear()
                run.history.no_capture_reason = self._no_capture_reason() or \
                    "an activation, the loss or the optimizer is not one of the package's own"
            if ran.made < count:
                break
        return made

    def _step(self, number: int, rows: Array, check: bool) -> Array:
        """Make one step from Python; with `check`, its loss is read before the step changes anything."""
        def on_loss(loss: Array) -> None:
            if not math.isfinite(float(loss)):
                raise self._failure(float(loss), rows, number)
            self.rollback.confirm()

        return self.train_step(self._take(rows), number, self._rate(number), on_loss if check else None)

    def _take(self, rows: Array) -> Rows:
        """A batch, in memory that the next batch of its size is written to."""
        return self.feed.rows.take(self.network.ops, rows, self.memory.setdefault(int(rows.shape[0]), Memory()))

    def _rate(self, step: int) -> float:
        """The learning rate of a step."""
        schedule = self.run.optimizer.learning_rate
        rate = schedule(step - self.run.position.begun, self.run.epochs * self.run.steps_per_epoch)
        if type(rate) is not float or not 0.0 <= rate < math.inf:
            rate = real(f"the learning rate that {type(schedule).__name__} gives for step {step}", rate, 0.0)
        self.run.position.last_rate = rate
        return rate

    def _no_capture_reason(self) -> str:
        """Why every step must be made from Python; "" if it need not be."""
        if not self.network.ops.captures:
            return self.network.ops.no_capture_reason
        if not self.network.is_builtin:
            return "a layer is not one of the package's own"
        if self.feed.rows.on_host:
            return "the data stay on the host: they are sparse, or too large for the device"
        return "a callback looks in at every step" if self.watched else ""

    # --- failing -----------------------------------------------------------------------------------------------

    def _failure(self, loss: float, rows: Array, step: int) -> Exception:
        return self.rollback.fail(loss, self._take(rows), step, self.run.position.epoch)

    def _out_of_memory(self, error: Exception) -> MemoryLimitError:
        """The error to raise; the memory that steps worked in is free again, and good weights are put back."""
        self.replays.clear()
        self.memory.clear()
        self.network.forget()
        self.rollback.restore(self.rollback.good)
        return MemoryLimitError(
            f"{self.network.backend.name} ran out of memory after {self.run.history.steps:,} steps, in batches of "
            f"{self.feed.batch_size:,} rows: lower batch_size, or use narrower layers. The network holds the weights "
            f"from before step {self.rollback.good.step:,}. ({str(error).strip() or type(error).__name__})")

    # --- position ----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the steps to come depend on, other than the weights: to be asked for between two steps."""
        run, history, backend = self.run, self.run.history, self.network.backend
        scale = getattr(self.network.ops, "loss_scale", None)  # of float16 on CUDA
        return {**run.position.to_dict(), "stop": run.stop, "steps": history.steps, "replayed": history.replayed,
                "schedule": run.optimizer.learning_rate.state_dict(),
                "history": {name: np.asarray(values, np.float64) for name, values in history.items()},
                "optimizer": {slot: backend.to_host(buffer) for slot, buffer in self.state.buffers.items()},
                "scale": None if scale is None else backend.to_host(scale),
                "callbacks": [[type(c).__name__, c.state_dict()] for c in self.callbacks]}

    def _resume(self, weights: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        before = self.network.arena.snapshot()
        try:
            self._load(weights, state)
        except _DAMAGED as error:
            self.network.arena.restore(before)
            raise ModelFileError(f"the checkpoint is damaged: {error!r}") from error

    def _load(self, weights: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Take the weights and the state of a checkpoint; one of `_DAMAGED` where they do not fit together."""
        run, history, network, backend = self.run, self.run.history, self.network, self.network.backend
        position, buffers = Position.from_dict(state), self.state.buffers
        history.steps, history.replayed, run.stop = int(state["steps"]), int(state["replayed"]), bool(state["stop"])
        if not (0 <= position.epoch <= history.steps and 0 <= position.step <= len(self.feed) and position.begun >= 0):
            raise ValueError("epoch or step out of range")
        for name, value in weights.items():
            network.arena.write(name, value)
        network.arena.refresh()
        history.restore(state["history"])
        if history.epochs != position.epoch or any(len(column) != position.epoch for column in history.values()):
            raise ValueError("the history has another number of epochs")
        run.optimizer.learning_rate.load_state_dict(state["schedule"])
        saved = {slot: state["optimizer"][slot] for slot in buffers}
        if any(tuple(values.shape) != tuple(buffers[slot].shape) for slot, values in saved.items()):
            raise ValueError("the optimizer's state has another shape")
        self.state.restore({slot: backend.from_host(values) for slot, values in saved.items()})
        if state["scale"] is not None:
            network.ops.assign(network.ops.loss_scale, tuple(state["scale"].tolist()))
        run.position = position
        self.state.steps = run.next_step
        left = list(state["callbacks"])
        for callback in self.callbacks:  # each takes the first entry of its type; one that shows progress may be new
            found = next((entry for entry in left if entry[0] == type(callback).__name__), None)
            if found is not None:
                left.remove(found)
                callback.load_state_dict(found[1])
        self.rollback = Rollback(network, self.state, self.state.steps)
