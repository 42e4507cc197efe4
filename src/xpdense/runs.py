"""One run of `xpdense train`: its options, the training that they and the data make, and its folder."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from .activations import as_activation
from .backend import DTYPES, resolve
from .data import datasets
from .data.csv import SEPARATORS
from .data.dataset import ArrayDataset, Dataset
from .data.parquet import SUFFIXES
from .data.preprocessing import Preprocessing
from .data.stream import open as open_stream
from .data.table import TableEncoder
from .data.target import TargetEncoder, as_task, as_task_loss
from .errors import (
    DataError,
    ModelFileError,
    OutputError,
    ParameterError,
    TargetError,
    lookup,
    positive_int,
    real,
)
from .files import check_writable, replaced
from .layers import Dense
from .losses import LOSSES, Loss, as_loss
from .metrics import METRICS
from .model import DenseNetwork
from .ops import check_choice
from .optimizers import Optimizer, as_optimizer
from .storage import check_only_own_files, checkpoints

FILE, FORMAT, VERSION = "run.json", "xpdense-run", 1
RUN_FILES = ("model", "history.csv", "curves.png", FILE, "checkpoints")
_EVERY = re.compile(r"(\d+(?:\.\d+)?) *(epochs?|steps?|s|sec|seconds?|min|minutes?|h|hours?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")
_VALUE_METRICS = ("r2", "rmse", "mae")


# --- options ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Options:
    """What the command line says of a training; see `xpdense train --help`."""

    data: str
    target: str | None = None
    task: str | None = None
    hidden: str = "256,128"
    activation: str = "relu"
    loss: str | None = None
    optimizer: str = "adam"
    learning_rate: float | None = None
    weight_decay: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    backend: str = "auto"
    dtype: str = "float32"
    precision: str = "full"
    ops: str = "auto"
    validation: float = 0.1
    patience: int = 20
    test: float = 0.2
    seed: int = 0
    stream: bool | None = None
    checkpoint_every: str | None = None

    @staticmethod
    def names() -> list[str]:
        return [entry.name for entry in fields(Options)]

    @staticmethod
    def of_run(folder: Path) -> Options:
        """The options of an earlier run, or a ModelFileError where its folder does not say them."""
        path = folder / FILE
        try:
            if path.stat().st_size > 2**20:
                raise ValueError("it is too large")
            saved = json.loads(path.read_text())
            if saved["format"] != FORMAT or saved["version"] > VERSION:
                raise ValueError(f"it is of format {saved['format']} {saved['version']}")
            known = {entry.name: str(entry.type) for entry in fields(Options)}
            options = saved["options"]
            wrong = [n for n, v in options.items() if n not in known or not _fits(v, known[n])]
            if wrong:
                raise ValueError(f"unknown or ill-typed option {wrong[0]!r}")
            return Options(**options)
        except FileNotFoundError:
            raise ModelFileError(f"{folder} is no run to go on with: it has no {FILE}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(f"{path} cannot be read: {error}") from error

    def checked(self) -> tuple[float, str]:
        """Check what needs no data; how often a checkpoint is written, and in what unit.

        Raises
        ------
        ParameterError, UnknownNameError, BackendError
        """
        positive_int("--patience", self.patience)
        _widths(self.hidden)
        as_activation(self.activation)
        _optimizer(self)
        if self.task is not None:
            as_task(self.task)
        if self.loss is not None:
            lookup("loss", self.loss, LOSSES)
        lookup("dtype", self.dtype, DTYPES)
        check_choice(self.precision, self.ops)
        if self.backend != "auto":
            resolve(self.backend)
        for name, value in (("--epochs", self.epochs), ("--batch-size", self.batch_size)):
            if value is not None:
                positive_int(name, value)
        positive_int("--seed", self.seed, 0)
        for name, fraction in (("--validation", self.validation), ("--test", self.test)):
            real(name, fraction, 0.0, 1.0, open_high=True)
        return _every(self.checkpoint_every)

    def save(self, folder: Path) -> None:
        """Write them to the folder of their run, with the data's place from wherever it will be asked for."""
        options = asdict(self)
        if Path(self.data).exists():
            options["data"] = str(Path(self.data).resolve())
        text = json.dumps({"format": FORMAT, "version": VERSION, "options": options}, indent=1)
        with replaced(folder / FILE) as temporary:
            temporary.write_text(text)


def _fits(value: Any, annotation: str) -> bool:
    kinds = {"str": str, "int": int, "float": (int, float), "bool": bool, "None": type(None)}
    wanted = annotation.split(" | ")
    if isinstance(value, bool) and "bool" not in wanted:
        return False
    return any(isinstance(value, kinds[name]) for name in wanted)  # type: ignore[arg-type]


def _every(text: str | None) -> tuple[float, str]:
    """
    >>> _every("500steps"), _every("10 min")
    ((500, 'steps'), (600.0, 'seconds'))
    """
    if text is None:
        return 600.0, "seconds"
    found = _EVERY.fullmatch(text.strip().lower())
    if found is None:
        raise ParameterError(f"--checkpoint-every must be such as 2epochs, 500steps, 30s or 10min, got {text!r}")
    number, unit = found[1], found[2]
    if unit[:4] not in ("epoc", "step"):
        return real("--checkpoint-every", float(number) * _SECONDS[unit[0]], 0.0, open_low=True), "seconds"
    if "." in number:
        raise ParameterError(f"--checkpoint-every must be a whole number of {unit}, got {text!r}")
    return positive_int("--checkpoint-every", int(number)), unit.rstrip("s") + "s"


def _widths(text: str) -> list[int]:
    if text.strip().lower() in ("", "0", "none"):
        return []
    try:
        return [positive_int("--hidden", int(part)) for part in text.split(",")]
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"--hidden must be widths such as 256,128, or none for a linear model, "
                             f"got {text!r}") from None


def _optimizer(options: Options) -> Optimizer:
    arguments = {}
    if options.learning_rate is not None:
        arguments["learning_rate"] = real("--learning-rate", options.learning_rate, 0.0, open_low=True)
    if options.weight_decay is not None:
        arguments["weight_decay"] = real("--weight-decay", options.weight_decay, 0.0)
    return as_optimizer(options.optimizer, **arguments)


def streamed(data: str, wanted: bool | None) -> bool:
    """Whether DATA is read while it is used: where that is wanted, a folder, or a file large for what memory is free.

    Raises
    ------
    ParameterError
        It is wanted, and cannot be done.
    """
    path = Path(data)
    possible = path.is_dir() or (path.is_file() and path.suffix.lower() in (*SEPARATORS, *SUFFIXES))
    if wanted is not None:
        if wanted and not possible:
            raise ParameterError(f"--stream reads .csv, .tsv and .parquet files and folders of .parquet files, and "
                                 f"{data} is none of them")
        return wanted
    free = resolve("numpy").free()
    return possible and (path.is_dir() or bool(free and path.stat().st_size > free // 16))


# --- the plan --------------------------------------------------------------------------------------------------

@dataclass
class Plan:
    """A training that is about to begin: all that its options and its data say.

    Attributes
    ----------
    data : PlannedData
    network, loss, optimizer, batch_size, epochs :
        What is trained, and how.
    baseline : array (1, outputs)
        The best prediction without features.
    """

    data: PlannedData
    network: DenseNetwork
    loss: Loss
    optimizer: Optimizer
    batch_size: int
    epochs: int
    baseline: np.ndarray

    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """Targets (n,) as the target encoder encodes them, and predictions (n, outputs), of the rows to score by."""
        return self.data.scored_targets(), np.asarray(self.network.predict(self.data.scored))


@dataclass
class PlannedData:
    """The rows of a plan, whether they are in memory or read while they are used.

    Attributes
    ----------
    name : str
    rows, columns : int
        The target's column is not counted.
    encoder : TableEncoder
    target_encoder : TargetEncoder
    training, validation, scored : Dataset
        Rows to train on, to decide when to stop by (None without any), and to score by.
    scored_targets : callable
        Gives the targets (n,) of the rows to score by, as the target encoder encodes them.
    mean : float
        That of the training rows' targets, in their own units, or of their class numbers.
    class_counts : array (classes,)
        Rows of each class; empty for a regression.
    counts : dict
        How many rows each split has.
    remark : str
        How the rows were split.
    streams : bool
        Whether they are read while they are used.
    """

    name: str
    rows: int
    columns: int
    encoder: TableEncoder
    target_encoder: TargetEncoder
    training: Dataset
    validation: Dataset | None
    scored: Dataset
    scored_targets: Callable[[], np.ndarray]
    mean: float
    class_counts: np.ndarray
    counts: dict[str, int]
    remark: str
    streams: bool


def planned(options: Options) -> Plan:
    """Check everything that can be wrong, before anything is written or trained."""
    options.checked()
    data = (_streamed_data if streamed(options.data, options.stream) else _table_data)(options)
    target, loss = data.target_encoder, as_task_loss(data.target_encoder.task, options.loss)
    network = _network(options, data.training.inputs, target, loss, data.mean)
    network.preprocessing = Preprocessing(data.encoder, target, data.name)
    if target.classes:
        baseline = data.class_counts[None, -network.outputs :] / data.class_counts.sum()
    else:
        baseline = np.full((1, 1), (data.mean - target.mean) / target.scale)
    return Plan(data, network, as_loss(loss), *_schedule(options, data.training.rows, network), baseline)


def _table_data(options: Options) -> PlannedData:
    """A table in memory, split exactly, and class by class where that is possible."""
    table = datasets.read(options.data)
    column = table.column(options.target)
    values = table.frame[column]
    target = TargetEncoder.infer(column, values, options.task and as_task(options.task))
    loss = as_task_loss(target.task, options.loss)
    y = target.encode(values)  # (n,) class numbers or values
    if not target.classes:
        as_loss(loss).check_target(np, y, 1)
    rows = _Split(table, y, target, options)
    columns = table.frame.drop(columns=column)
    encoder = TableEncoder.fit(columns.iloc[rows.train])
    if not target.classes and loss != "poisson":
        target = target.standardised(y[rows.train])
    x, known = encoder.transform(columns, options.dtype), y[rows.train]
    scored = rows.test if len(rows.test) else rows.train
    splits = {"training": rows.train, "validation": rows.validation, "test": rows.test}
    whole = ArrayDataset(x, target.scaled(y))
    return PlannedData(
        table.name, len(table.frame), columns.shape[1], encoder, target, whole.some(rows.train),
        whole.some(rows.validation) if len(rows.validation) else None, whole.some(scored), lambda: y[scored],
        float(known.mean()), np.bincount(known, minlength=len(target.classes)) if target.classes else np.arange(0),
        {name: len(split) for name, split in splits.items() if name == "training" or not table.whole}, rows.remark,
        False)


def _streamed_data(options: Options) -> PlannedData:
    """Data that are read while they are used, in one pass before the training and in each epoch; split row by row."""
    data = open_stream(options.data, options.target, task=options.task)
    if not data.has_target:
        known = ", ".join(data.source.columns or ())
        raise DataError(f"no column is called {', '.join(datasets.TARGET_NAMES)}, as a target would be: name one "
                        f"(--target). {data.source.name} has the columns {known}")
    splits = data.split(options.validation, options.test, options.seed)
    train = splits[0].learn()
    assert train.target_encoder is not None
    if not train.target_encoder.classes and as_task_loss(train.target_encoder.task, options.loss) != "poisson":
        train.standardise_target()
    target, encoder, scored = train.target_encoder, train.encoder, splits[2] if options.test else train
    assert encoder is not None
    return PlannedData(
        data.source.name, data.rows, len(encoder.inputs), encoder, target, train,
        splits[1] if options.validation else None, scored, scored.targets, train.target_moments[0],
        np.array([train.target_counts[label] for label in target.classes], np.float64),
        {name: part.rows for name, part in zip(("training", "validation", "test"), splits, strict=False)},
        "drawn row by row", True)


def _schedule(options: Options, count: int, network: DenseNetwork) -> tuple[Optimizer, int, int]:
    """Optimizer, batch size and epochs for so many training rows."""
    optimizer = _optimizer(options)
    if options.weight_decay is None and not optimizer.decoupled:
        optimizer.weight_decay = min(0.01, 1.0 / count)  # a prior on the weights, of the strength of one row
    batch_size = options.batch_size or min(128, 2 ** (count.bit_length() // 2))
    epochs = options.epochs or min(50, max(10, -(-5000 // -(-count // batch_size))))
    network.check_precision()
    return optimizer, batch_size, epochs


def _network(options: Options, inputs: int, goal: TargetEncoder, loss: str, mean: float) -> DenseNetwork:
    """Hidden layers and the output, which starts at zero: training begins at a constant prediction, not at a random
    function that it would first have to unlearn."""
    widths, last = _widths(options.hidden), Dense(goal.outputs(loss), initializer="zeros")
    network = DenseNetwork([*(Dense(width, options.activation) for width in widths), last], inputs, options.backend,
                           options.dtype, options.seed, options.precision, options.ops)
    if loss == "poisson":
        network.params[f"{len(widths)}.bias"][...] = float(np.log(mean))
    return network


class _Split:
    """Which rows train, validate and test, and a remark on how that was decided."""

    def __init__(self, table: datasets.Table, y: np.ndarray, goal: TargetEncoder, options: Options) -> None:
        classes, empty = (y if goal.classes else None), np.arange(0)
        self.train, self.validation, self.test = np.arange(len(y)), empty, empty
        stratified = []
        if table.whole:
            self.remark = f"{table.name} is not split: all rows train, and all test"
            return
        if options.test:
            self.train, self.test, by_class = datasets.stratified_split(self.train, options.test, classes,
                                                                        options.seed, "the test")
            stratified.append(by_class)
        if options.validation:
            self.train, self.validation, by_class = datasets.stratified_split(self.train, options.validation, classes,
                                                                              options.seed, "validation")
            stratified.append(by_class)
        self.remark = ""
        if goal.classes and stratified:
            self.remark = "split class by class" if all(stratified) else \
                "not split class by class: a class has too few rows for that"
        if len(np.unique(y[self.train])) == 1:
            raise TargetError(f"the {len(self.train)} training rows have one value of {goal.column!r} only: there is "
                              f"nothing to learn. Hold out fewer rows (--test, --validation)")


def scores_of(goal: TargetEncoder, loss: Loss, y: np.ndarray, prediction: np.ndarray) -> Mapping[str, float]:
    """Metrics that fit the task, of y (n,) as `TargetEncoder.encode` returns it and predictions (n, outputs); NaN if a
    metric is undefined, such as the AUC of a single class."""
    truth, estimate = (y, prediction) if goal.classes else (y[:, None], goal.values(prediction))
    scores = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, of scores that are not defined
        for name in _CLASS_METRICS if goal.classes else _VALUE_METRICS:
            try:
                scores[name] = METRICS[name](loss, truth, estimate, None)
            except DataError:
                scores[name] = float(np.nan)
    return scores


# --- the folder ------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def run_folder(out: Path | None, name: str, options: Options, resumed: bool) -> Iterator[Path]:
    """The folder of the run: a new one, or `out`, made and tried before any work; gone again if the run fails with
    nothing to go on from."""
    made: list[Path] = []
    if out is None:
        folder = _claimed(Path("runs"), name)
        made = [folder]
    else:
        folder, path = out, out
        while not path.exists() and path != path.parent:
            made.append(path)
            path = path.parent
        if out.is_dir():
            _check_earlier(out, resumed)
    check_writable(folder)
    try:
        if not resumed:
            options.save(folder)
        yield folder
    except BaseException:
        if made and not checkpoints(folder / "checkpoints"):
            with contextlib.suppress(OSError):  # it is not empty: something was saved
                (folder / FILE).unlink(missing_ok=True)
                if (folder / "checkpoints").is_dir():
                    (folder / "checkpoints").rmdir()
                for path in made:
                    path.rmdir()
        raise


def check_going_on(folder: Path) -> None:
    """Raise ParameterError where a run has ended, and holds no checkpoint to go on from."""
    if (folder / "model").exists() and not checkpoints(folder / "checkpoints"):
        raise ParameterError(f"the run in {folder} has ended, and kept no checkpoints: there is nothing to go on with")


def _check_earlier(out: Path, resumed: bool) -> None:
    """Raise OutputError where a folder holds anything that a run must not replace."""
    names = {path.name for path in out.iterdir()}
    run = names & {"model", FILE}
    others = sorted(names - set(RUN_FILES)) or (sorted(names) if names and not run else [])
    if others:
        raise OutputError(f"{out} holds {others[0]!r} and is no earlier run: choose another folder")
    if (out / "model").is_dir():
        check_only_own_files(out / "model")
    there = checkpoints(out / "checkpoints")
    if there and not resumed:
        raise OutputError(f"{out} holds a run with checkpoints ({there[0].name}): go on with it (--resume {out}), or "
                          f"choose another folder")


def _claimed(parent: Path, name: str) -> Path:
    """A new folder of this name, with a number where it is taken; made at once, so that two runs never share one."""
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not parent.is_dir():
                raise OutputError(f"cannot make {folder}: {parent} is a file. Name a folder (--out).") from None
        except OSError as error:
            raise OutputError(f"cannot make {folder}: {error.strerror or error}. Name a folder (--out).") from error
    raise AssertionError
