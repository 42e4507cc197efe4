"""Trainings that outlive their process: the Checkpoint callback, and resuming from what it has written."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import storage
from .callbacks import Callback, Run, monitored
from .data.dataset import Dataset
from .data.feeding import Feed
from .errors import ModelFileError, OutputError, ParameterError, ResumeWarning, lookup, positive_int, real, warn_user
from .files import check_writable
from .losses import Loss
from .metrics import Metric
from .network import Network
from .optimizers import Optimizer

UNITS = ("epochs", "steps", "seconds")


class Checkpoint(Callback):
    """Write checkpoints, from which `fit(..., resume=folder)` continues to the same bits as an unbroken run.

    A checkpoint holds weights, optimizer state, schedule, the position in the epoch, history and what the other
    callbacks remember; the order of rows and dropout are functions of the seed and the step. It is a folder "step-..."
    that appears when it is complete, and a model that `load` reads. A checkpoint that is due is written at the next
    pause of the steps, after at most 32 of them.

    On Ctrl-C or SIGTERM the training finishes the present step, writes a checkpoint, and ends with a KeyboardInterrupt
    or a SystemExit of 143. A second signal ends it at once. This holds in the main thread; in others Python receives
    no signals.

    Parameters
    ----------
    folder : str or Path
        Made where it is missing; it belongs to one training.
    every : number
        How many of `unit` lie between two checkpoints.
    unit : "epochs", "steps" or "seconds"
    keep : int
        How many of the last checkpoints are kept, besides the best: that of the best epoch at whose end one was due.
    monitor : str, optional
        What tells the best, a name of the history; default "validation_loss", or "loss" where there is no validation.

    Attributes
    ----------
    last, best : Path or None
        The folders of the last checkpoint and of the best.

    Raises
    ------
    OutputError
        The folder cannot be written; `fit` raises it where the folder holds checkpoints of another training.
    ParameterError

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np, xpdense as xd
    >>> x = np.linspace(-1.0, 1.0, 64)[:, None]
    >>> net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(1)], inputs=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     keeper = xd.Checkpoint(folder, every=2)
    ...     history = net.fit(x, x**2, loss="squared_error", epochs=4, callbacks=[keeper])
    ...     keeper.last.name
    'step-0000000004'
    """

    keeps_optimizer_settings = True
    comes_last = True  # it saves what other callbacks remember

    def __init__(self, folder: str | Path, *, every: float = 1, unit: str = "epochs", keep: int = 3,
                 monitor: str | None = None) -> None:
        lookup("unit", unit, dict.fromkeys(UNITS))
        self.every = real("every", every, 0.0, open_low=True) if unit == "seconds" else positive_int("every", every)
        self.folder, self.unit, self.keep, self.monitor = Path(folder), unit, positive_int("keep", keep), monitor
        self.last: Path | None = None
        self.best: Path | None = None
        check_writable(self.folder)

    def on_train_begin(self, run: Run) -> None:
        self._name, self._sign = monitored(run, self.monitor)
        self._lock = _locked(self.folder)
        storage.sweep(self.folder)
        self._run, self._before = run, dict[int, Any]()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        self._at = self._best_at = self._now(run)
        self._best_value: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best and self.best.name, "best_value": self._best_value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        name, value = state["best"], state["best_value"]
        if name in [path.name for path in storage.checkpoints(self.folder)]:
            self.best, self._best_value = self.folder / str(name), float(value)
        self._at = self._best_at = self._now(self._run)

    def on_pause(self, run: Run) -> None:
        if run.interrupted or (self.unit != "epochs" and self._due(run, self._at)):
            self._save(run)
        self._leave(run)

    def on_epoch_end(self, run: Run) -> None:
        value = run.history[self._name][-1]
        better = self._best_value is None or self._sign * value < self._sign * self._best_value  # never so of NaN
        better = better and value == value and self._due(run, self._best_at)
        ends = run.stop or run.epoch + 1 == run.epochs
        if better or ends or run.interrupted or (self.unit == "epochs" and self._due(run, self._at)):
            if better:
                self._best_value, self.best = value, self.folder / f"step-{run.history.steps:010d}"
                self._best_at = self._now(run)
            self._save(run)
        self._leave(run)

    def on_train_end(self, run: Run) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def check(self, resume: Path | None) -> None:
        """Raise OutputError where the folder holds checkpoints of a training that is not being resumed."""
        there = storage.checkpoints(self.folder)
        ours = [path.resolve() for path in (self.folder, *there)]  # the folder, or one of its checkpoints
        if there and (resume is None or resume.resolve() not in ours):
            raise OutputError(f"{self.folder} holds checkpoints of an earlier training ({there[0].name}): go on with "
                              f"it (resume={str(self.folder)!r}), or name another folder")

    def _now(self, run: Run) -> tuple[int, int, float]:
        return run.history.epochs, run.history.steps, time.monotonic()

    def _due(self, run: Run, since: tuple[float, ...]) -> bool:
        position = UNITS.index(self.unit)
        return bool(self._now(run)[position] - since[position] >= self.every)

    def _save(self, run: Run) -> None:
        network = run.network
        state, tensors = _split({"identity": run.identity, "loop": run.state_dict()})
        self.last = storage.write_checkpoint(self.folder, run.history.steps, (network.config(),
                                                network.arena.to_host()), (state, tensors))
        self._at = self._now(run)
        for old in storage.checkpoints(self.folder)[self.keep :]:
            if old not in (self.best, self.last):
                storage.remove(old)

    def _note(self, number: int, frame: Any) -> None:
        """A signal: the first asks for an end, the second is one."""
        if self._run.interrupted:
            self._end(number, "interrupted twice: the step under way was not finished")
        self._run.interrupted = number

    def _leave(self, run: Run) -> None:
        if run.interrupted:
            self._end(run.interrupted, f"interrupted after {run.history.steps:,} steps: {self.last} holds them, and "
                                       f"resume={str(self.folder)!r} goes on from there")

    def _end(self, number: int, message: str) -> None:
        error = KeyboardInterrupt(message) if number == signal.SIGINT else SystemExit(128 + number)
        error.add_note(message)
        raise error


def _locked(folder: Path) -> int | None:
    """A lock on the folder, held until it is closed or the process ends, so that only one training writes to it."""
    try:
        import fcntl
    except ImportError:  # a system without it
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OutputError(f"another training writes its checkpoints to {folder}: wait for it, or name another "
                          f"folder") from None
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


# --- going on --------------------------------------------------------------------------------------------------

def resumed(resume: str | Path, network: Network,
            identity: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The weights and the position of the newest checkpoint that is complete.

    `resume` is a folder of checkpoints, or one of them. The result is None where the folder holds no checkpoint yet:
    the training begins at its beginning, and a ResumeWarning says so.

    Raises
    ------
    ModelFileError
        There is no such folder, or every checkpoint in it is damaged.
    ParameterError
        They belong to another training; the message says in what it differs.
    """
    folder = Path(resume)
    single = (folder / "training.json").exists()
    if not folder.is_dir():
        raise ModelFileError(f"there is no folder {folder} to resume from")
    found = [folder] if single else storage.checkpoints(folder)
    if not found:
        warn_user(f"{folder} holds no checkpoint yet: the training begins at its beginning", ResumeWarning)
        return None
    for path in found:
        try:
            model, training = storage.read(path), storage.read_training(path)
            declared = {name: parameter.shape for name, parameter in network.arena.declared.items()}
            _compare(path, training.config.get("identity"), identity)
            if model.shapes != declared:
                raise ModelFileError(f"the weights of {path} are not those of this network")
            weights, tensors = model.tensors(), training.tensors()
            loop = _loop(path, training.config, tensors)
        except ModelFileError as error:
            if path is found[-1]:
                raise
            warn_user(f"{error}. The checkpoint before it is taken.", ResumeWarning)
            continue
        return weights, loop
    raise AssertionError


def _loop(path: Path, config: dict[str, Any], tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    loop: dict[str, Any] = storage.read_with(str(path), lambda: _joined(config, tensors)["loop"])
    return loop


def _compare(path: Path, saved: Any, identity: Mapping[str, Any]) -> None:
    """Raise ParameterError where a checkpoint belongs to another training."""
    if not isinstance(saved, dict):
        raise ModelFileError(f"{path} does not say which training it belongs to")
    for name, value in identity.items():
        longer = name == "epochs" and not identity["schedule_needs_total"] and saved.get(name, 0) <= value
        if saved.get(name) != value and not longer:
            raise ParameterError(f"{path} is of another training: {name} was {_short(saved.get(name))} there, and is "
                                 f"{_short(value)} here")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def identify(network: Network, feed: Feed, validation: Dataset | None, loss: Loss, optimizer: Optimizer,
             epochs: int, metrics: Sequence[Metric], callbacks: Sequence[Callback]) -> dict[str, Any]:
    """What two trainings must have in common for one to continue the other, as JSON can hold it."""
    remembering = [type(c).__name__ for c in callbacks if type(c).state_dict is not Callback.state_dict]
    return {"layers": network.config()["layers"], "inputs": network.inputs, "dtype": network.dtype,
            "seed": network.seed, "precision": network.precision, "loss": loss.config(),
            "optimizer": _described(optimizer),
            "learning_rate": _described(optimizer.learning_rate),
            "schedule_needs_total": optimizer.learning_rate.needs_total, "batch_size": feed.batch_size,
            "epochs": epochs, "shuffle": feed.shuffle, "rows": feed.count, "data": feed.digest(),
            "validation data": None if validation is None else validation.digest(),
            "metrics": [metric.name for metric in metrics],
            "callbacks": [name for name in remembering if name != Checkpoint.__name__]}


def _described(value: Any) -> dict[str, Any]:
    """The type of an object and those of its settings that JSON can hold; what it remembers begins with "_"."""
    plain = {k: v for k, v in vars(value).items() if not k.startswith("_") and isinstance(v, (int, float, str, bool))}
    return {"type": type(value).__name__} | {k: v for k, v in plain.items() if k != "current"}


# --- arrays within a state -------------------------------------------------------------------------------------

def _split(state: Any) -> tuple[Any, dict[str, np.ndarray]]:
    """A state in which a name stands for every array, and these by name."""
    tensors: dict[str, np.ndarray] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, np.ndarray):
            tensors[path] = value
            return {"tensor": path}
        if isinstance(value, Mapping):
            return {key: walk(inner, f"{path}/{key}" if path else str(key)) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [walk(inner, f"{path}/{i}") for i, inner in enumerate(value)]
        return value.item() if isinstance(value, np.generic) else value

    return walk(state, ""), tensors


def _joined(state: Any, tensors: Mapping[str, np.ndarray]) -> Any:
    """The state again."""
    if isinstance(state, dict):
        if set(state) == {"tensor"}:
            return tensors[state["tensor"]]
        return {key: _joined(inner, tensors) for key, inner in state.items()}
    return [_joined(inner, tensors) for inner in state] if isinstance(state, list) else state
