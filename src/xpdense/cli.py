"""The command line: arguments, what is printed, and the wiring between them. Everything else lives elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import os
import runpy
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from .errors import (
    DataError,
    ModelFileError,
    NonFiniteLossError,
    OutputError,
    ParameterError,
    TargetError,
    XpdenseError,
    lookup,
    positive_int,
    real,
    require,
)

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.table import Table as Grid
    from typer.core import TyperGroup
except ImportError as error:  # the script is installed with the package, these are not
    print(f"error: the command line needs {error.name}, which is not installed: pip install 'xpdense[cli]'",
          file=sys.stderr)
    raise SystemExit(2) from None

if TYPE_CHECKING:
    from .callbacks import Callback, EarlyStopping, Run
    from .data.datasets import Table
    from .data.table import TableEncoder
    from .data.target import Target
    from .doctor.diagnosis import Diagnosis
    from .losses import Loss
    from .model import DenseNetwork
    from .optimizers import Optimizer

_CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")
_VALUE_METRICS = ("r2", "rmse", "mae")
_RUN_FILES = ("model", "history.csv", "curves.png")
_UsageError: Any = typer.BadParameter.__base__  # typer has no public name for it


class _Group(TyperGroup):
    """Every error of the library ends as one line on stderr and an exit code: 2, 1 for a training that diverged."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except XpdenseError as error:
            print("error:", " ".join(str(error).split()), file=sys.stderr)
            raise typer.Exit(1 if isinstance(error, NonFiniteLossError) else 2) from None
        except _UsageError as error:
            command = " ".join(["xpdense", *filter(None, [ctx.invoked_subcommand])])
            print(f"error: {error.format_message()} See {command} --help", file=sys.stderr)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("interrupted: nothing was saved", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(cls=_Group, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line on `arguments`, those of the process by default; ends in SystemExit."""
    app(None if arguments is None else list(arguments), prog_name="xpdense")


def _version(asked: bool) -> None:
    if asked:
        from . import __version__

        print(f"xpdense {__version__}")
        raise typer.Exit


@app.callback()
def _xpdense(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True,
                                                   help="Show the version and exit.")] = False) -> None:
    """Dense neural networks for tables: train one, predict with it, evaluate it."""


_Data = Annotated[str, typer.Argument(
    metavar="DATA", show_default=False,
    help="digits, iris, wine, breast_cancer, diabetes, xor, or a file: .csv, .tsv (also .gz), .parquet, or .npz with "
         "arrays x and y.")]
_Model = Annotated[Path, typer.Argument(metavar="MODEL", show_default=False,
                                        help="The folder of a run, or the model in it.")]
_BackendName = Annotated[str, typer.Option("--backend", help="numpy, cupy, torch, ..., with a device if wanted "
                                                             "(cupy:1); auto is numpy.")]


# --- train -----------------------------------------------------------------------------------------------------

_Target = Annotated[str | None, typer.Option(
    metavar="COLUMN", help="The column to predict.  [default: the one called target, y, label or class]")]
_Task = Annotated[str | None, typer.Option(
    help="binary, multi-class or regression.  [default: what the target looks like: text and at most 20 different "
         "whole numbers are classes]")]
_Hidden = Annotated[str, typer.Option(
    help="Widths of the hidden layers, input side first; none for a linear model.")]
_Activation = Annotated[str, typer.Option(help="Of the hidden layers.")]
_Loss = Annotated[str | None, typer.Option(
    help="[default: binary_cross_entropy, softmax_cross_entropy or squared_error, by the task]")]
_Optimizer = Annotated[str, typer.Option(
    help="sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw or lion.")]
_LearningRate = Annotated[float | None, typer.Option(help="[default: the optimizer's own]")]
_WeightDecay = Annotated[float | None, typer.Option(
    help="[default: 1 / training rows, at most 0.01; adamw's and lion's own]")]
_Epochs = Annotated[int | None, typer.Option(
    help="Passes over the training rows.  [default: 5,000 steps, but 10 to 50]")]
_BatchSize = Annotated[int | None, typer.Option(
    help="Rows per step.  [default: near the square root of the training rows, at most 128]")]
_Dtype = Annotated[str, typer.Option(help="float32 or float64.")]
_Precision = Annotated[str, typer.Option(help="On CUDA: full, tf32, float16 or bfloat16.")]
_Ops = Annotated[str, typer.Option(help="auto, native, cuda or generic.")]
_Test = Annotated[float, typer.Option(help="Fraction of the rows held out for the final score.")]
_Seed = Annotated[int, typer.Option(help="Of the splits, initial weights and batches.")]
_Validation = Annotated[float, typer.Option(
    help="Fraction of the rows not held out for the test that decides when to stop.")]


@app.command()
def train(
    data: _Data,
    target: _Target = None,
    task: _Task = None,
    hidden: _Hidden = "256,128",
    activation: _Activation = "relu",
    loss: _Loss = None,
    optimizer: _Optimizer = "adam",
    learning_rate: _LearningRate = None,
    weight_decay: _WeightDecay = None,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    backend: _BackendName = "auto",
    dtype: _Dtype = "float32",
    precision: _Precision = "full",
    ops: _Ops = "auto",
    validation: _Validation = 0.1,
    patience: Annotated[int, typer.Option(
        help="Epochs without a better validation loss before it stops; the best weights are kept.")] = 20,
    test: _Test = 0.2,
    seed: _Seed = 0,
    out: Annotated[Path | None, typer.Option(
        metavar="DIR", help="Folder for the model, the history and its curves.  [default: a new one in runs/]")] = None,
) -> None:
    """Train a network on DATA and score it on rows it has not seen."""
    positive_int("--patience", patience)
    require("matplotlib", "cli", "drawing curves.png")
    plan = _plan(data, target=target, task=task, hidden=hidden, activation=activation, loss=loss, optimizer=optimizer,
                 learning_rate=learning_rate, weight_decay=weight_decay, epochs=epochs, batch_size=batch_size,
                 backend=backend, dtype=dtype, precision=precision, ops=ops, validation=validation, test=test,
                 seed=seed)
    network, table, rows, goal = plan.network, plan.table, plan.rows, plan.goal
    metric = "accuracy" if goal.classes else "r2"
    with _run_folder(out, table.name) as folder:
        _describe(plan)
        stopping = _early_stopping(patience) if len(rows.validation) else None
        history = network.fit(
            *plan.of(rows.train), loss=plan.loss, optimizer=plan.rule, batch_size=plan.batch_size, epochs=plan.epochs,
            validation=plan.of(rows.validation) if stopping else None, metrics=[metric],
            callbacks=[*_watching(metric), *([stopping] if stopping else [])])
        print(f"made {history.steps:,} steps, {history.replayed:,} of them replayed without Python")
        if history.why_not_replayed:
            print(f"note     steps were made from Python: {history.why_not_replayed}")
        if stopping:
            print(f"kept the weights of epoch {stopping.best_epoch + 1}, whose validation loss "
                  f"{_shown(stopping.best)} was the lowest of {history.epochs}")
        _show_score(network, goal, plan.loss, plan.x, plan.y, rows)
        try:
            network.save(folder / "model")
            history.to_csv(folder / "history.csv")
            history.plot(folder / "curves.png")
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    print(f"wrote {folder}{os.sep}: {', '.join(_RUN_FILES)}")


@dataclass
class _Plan:
    """A training that is about to begin: all that its options and its data say.

    `x` (n, features) and `y` (n,), class numbers or values in the target's units, are all rows; `scaled` is y as the
    network learns it.
    """

    table: Table
    columns: int
    encoder: TableEncoder
    goal: Target
    rows: _Split
    x: np.ndarray
    y: np.ndarray
    scaled: np.ndarray
    network: DenseNetwork
    loss: Loss
    rule: Optimizer
    batch_size: int
    epochs: int

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and targets of some rows, as `fit` takes them."""
        return self.x[rows], self.scaled[rows]


def _plan(data: str, *, target: str | None, task: str | None, hidden: str, activation: str, loss: str | None,
          optimizer: str, learning_rate: float | None, weight_decay: float | None, epochs: int | None,
          batch_size: int | None, backend: str, dtype: str, precision: str, ops: str, validation: float, test: float,
          seed: int) -> _Plan:
    """Everything that can be wrong is checked before anything is read, written or trained."""
    from .activations import as_activation
    from .backend import DTYPES, resolve
    from .data import datasets
    from .data.table import TableEncoder
    from .data.target import Target, as_task, as_task_loss
    from .losses import LOSSES, as_loss
    from .ops import check_choice

    widths = _widths(hidden)
    as_activation(activation)
    rule = _optimizer(optimizer, learning_rate, weight_decay)
    task = None if task is None else as_task(task)
    if loss is not None:
        lookup("loss", loss, LOSSES)
    lookup("dtype", dtype, DTYPES)
    check_choice(precision, ops)
    if backend != "auto":
        resolve(backend)
    for name, value in (("--epochs", epochs), ("--batch-size", batch_size)):
        if value is not None:
            positive_int(name, value)
    positive_int("--seed", seed, 0)
    for name, fraction in (("--validation", validation), ("--test", test)):
        real(name, fraction, 0.0, 1.0, open_high=True)

    table = datasets.read(data)
    column = table.column(target)
    values = table.frame[column]
    goal = Target.infer(column, values, task)
    loss = as_task_loss(goal.task, loss)
    chosen = as_loss(loss)
    y = goal.encode(values)  # (n,) class numbers or values
    if not goal.classes:
        chosen.check_target(np, y, 1)
    rows = _Split(table, y, goal, validation, test, seed)
    features = table.frame.drop(columns=column)
    encoder = TableEncoder.fit(features.iloc[rows.train])
    if not goal.classes and loss != "poisson":
        goal = goal.standardised(y[rows.train])
    x, y_scaled = encoder.transform(features, dtype), goal.scaled(y)
    network = _network(widths, activation, x.shape[1], goal, loss, y[rows.train], backend=backend, dtype=dtype,
                       seed=seed, precision=precision, ops=ops)
    network.extra = {"data": table.name, "table": encoder.to_dict(), **goal.to_dict()}
    count = len(rows.train)
    if weight_decay is None and not rule.decoupled:
        rule.weight_decay = min(0.01, 1.0 / count)  # a prior on the weights, of the strength of one row
    batch_size = batch_size or min(128, 2 ** (count.bit_length() // 2))
    epochs = epochs or min(50, max(10, -(-5000 // -(-count // batch_size))))
    network.check_precision()
    return _Plan(table, features.shape[1], encoder, goal, rows, x, y, y_scaled, network, chosen, rule, batch_size,
                 epochs)


class _Split:
    """Which rows train, validate and test, and a remark on how that was decided."""

    def __init__(self, table: Table, y: np.ndarray, goal: Target, validation: float, test: float, seed: int) -> None:
        from .data.datasets import split

        classes, nobody = (y if goal.classes else None), np.arange(0)
        self.train, self.validation, self.test = np.arange(len(y)), nobody, nobody
        stratified = []
        if table.whole:
            self.test, self.remark = self.train, f"{table.name} is not split: all rows train, and all test"
            return
        if test:
            self.train, self.test, by_class = split(self.train, test, classes, seed, "the test")
            stratified.append(by_class)
        if validation:
            self.train, self.validation, by_class = split(self.train, validation, classes, seed, "validation")
            stratified.append(by_class)
        self.remark = ""
        if goal.classes and stratified:
            self.remark = "split class by class" if all(stratified) else \
                "not split class by class: a class has too few rows for that"
        if len(np.unique(y[self.train])) == 1:
            raise TargetError(f"the {len(self.train)} training rows have one value of {goal.column!r} only: there is "
                              f"nothing to learn. Hold out fewer rows (--test, --validation)")


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


def _optimizer(name: str, learning_rate: float | None, weight_decay: float | None) -> Optimizer:
    from .optimizers import as_optimizer

    arguments = {}
    if learning_rate is not None:
        arguments["learning_rate"] = real("--learning-rate", learning_rate, 0.0, open_low=True)
    if weight_decay is not None:
        arguments["weight_decay"] = real("--weight-decay", weight_decay, 0.0)
    return as_optimizer(name, **arguments)


def _network(widths: list[int], activation: str, inputs: int, goal: Target, loss: str, y: np.ndarray,
             **options: Any) -> DenseNetwork:
    """Hidden layers and the output, which starts at zero: training begins at a constant prediction, not at a random
    function that it would first have to unlearn."""
    from .layers import Dense
    from .model import DenseNetwork

    last = Dense(goal.outputs(loss), initializer="zeros")
    network = DenseNetwork([*(Dense(width, activation) for width in widths), last], inputs, **options)
    if loss == "poisson":
        network.params[f"{len(widths)}.bias"][...] = float(np.log(y.mean()))
    return network


@contextlib.contextmanager
def _run_folder(out: Path | None, name: str) -> Iterator[Path]:
    """The folder of the run: a new one, or `out`, made and tried before any work; gone again if the run fails."""
    from .checkpoint import check_no_strangers, check_writable

    if out is None:
        folder = _claimed(Path("runs"), name)
        made = True
    else:
        folder, made = out, not out.exists()
        if out.is_dir():
            names = {path.name for path in out.iterdir()}
            strangers = sorted(names - set(_RUN_FILES)) or ([] if not names or "model" in names else sorted(names))
            if strangers:
                raise OutputError(f"{out} holds {strangers[0]!r} and is no earlier run: choose another folder")
            if (out / "model").is_dir():
                check_no_strangers(out / "model")
    check_writable(folder)
    try:
        yield folder
    except BaseException:
        if made:
            with contextlib.suppress(OSError):  # it is not empty: something was saved
                folder.rmdir()
        raise


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


def _early_stopping(patience: int) -> EarlyStopping:
    from .callbacks import EarlyStopping

    return EarlyStopping(patience=patience)


def _watching(metric: str) -> list[Callback]:
    """What shows how a training goes: a line per epoch and, on a terminal, a bar under them."""
    from tqdm import tqdm

    from .callbacks import Callback, ProgressBar

    class EpochLines(Callback):
        def on_epoch_end(self, run: Run) -> None:
            history, width = run.history, len(str(run.epochs))
            parts = [f"epoch {run.epoch + 1:{width}}/{run.epochs}", f"loss {_shown(history['loss'][-1])}"]
            prefix = "validation_" if run.has_validation else ""
            if prefix:
                parts.append(f"validation loss {_shown(history['validation_loss'][-1])}")
            parts.append(f"{metric} {_shown(history[prefix + metric][-1])}")
            parts.append(f"{history['rows_per_second'][-1] / 1000:.1f} k rows/s")
            tqdm.write("  ".join(parts))
            sys.stdout.flush()

    class Bar(ProgressBar):
        def on_epoch_end(self, run: Run) -> None:
            """The lines say it already."""

    return [EpochLines(), *([Bar()] if sys.stderr.isatty() else [])]


# --- doctor ----------------------------------------------------------------------------------------------------

_DataOrProgram = Annotated[str, typer.Argument(
    metavar="DATA", show_default=False,
    help="As of train; or a Python file, which is run, and defines program, X and y (and batch_size, epochs, "
         "shuffle).")]


@app.command()
def doctor(
    data: _DataOrProgram,
    target: _Target = None,
    task: _Task = None,
    hidden: _Hidden = "256,128",
    activation: _Activation = "relu",
    loss: _Loss = None,
    optimizer: _Optimizer = "adam",
    learning_rate: _LearningRate = None,
    weight_decay: _WeightDecay = None,
    epochs: _Epochs = None,
    batch_size: _BatchSize = None,
    backend: _BackendName = "auto",
    dtype: _Dtype = "float32",
    precision: _Precision = "full",
    ops: _Ops = "auto",
    validation: _Validation = 0.1,
    test: _Test = 0.2,
    seed: _Seed = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the diagnosis as a page, too.")] = None,
    patience: Annotated[int, typer.Option(hidden=True)] = 20,
    out: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Say why a training fails: the one that `train` would make with these options, or that of a Python file.

    The exit status is 0 where nothing is found, 1 where something is.
    """
    from .doctor.diagnose import diagnose

    if html is not None:
        _check_file(html, data)
        require("matplotlib", "cli", "drawing the page")
    if data.endswith(".py"):
        found = _of_program(data, batch_size, epochs, seed)
    else:
        plan = _plan(data, target=target, task=task, hidden=hidden, activation=activation, loss=loss,
                     optimizer=optimizer,
                     learning_rate=learning_rate, weight_decay=weight_decay, epochs=epochs, batch_size=batch_size,
                     backend=backend, dtype=dtype, precision=precision, ops=ops, validation=validation, test=test,
                     seed=seed)
        x, y = plan.of(plan.rows.train)
        found = diagnose(plan.network, x, y, loss=plan.loss, optimizer=plan.rule, batch_size=plan.batch_size,
                         epochs=plan.epochs, seed=seed)
    print(found)
    if html is not None:
        found.to_html(html)
        print(f"wrote {html}", file=sys.stderr)
    if not found.ok:
        raise typer.Exit(1)


def _of_program(file: str, batch_size: int | None, epochs: int | None, seed: int) -> Diagnosis:
    """The diagnosis of what a Python file defines."""
    from .doctor.diagnose import diagnose

    if not Path(file).is_file():
        raise ParameterError(f"there is no file {file!r}")
    sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        names = runpy.run_path(file)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f", line {lines[-1]}" if lines else ""
        raise ParameterError(f"{file}{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    lacking = [name for name in ("program", "X", "y") if name not in names]
    if lacking:
        raise ParameterError(f"{file} does not define {', '.join(lacking)}: the doctor needs program, X and y")
    options = {name: names[name] for name in ("loss", "optimizer", "shuffle") if name in names}
    return diagnose(names["program"], names["X"], names["y"], batch_size=batch_size or names.get("batch_size"),
                    epochs=epochs or names.get("epochs"), seed=seed, **options)


# --- predict, evaluate, backends -------------------------------------------------------------------------------

@app.command()
def predict(
    model: _Model,
    data: _Data,
    proba: Annotated[bool, typer.Option("--proba", help="Add a column with the probability of each class.")] = False,
    out: Annotated[Path | None, typer.Option(metavar="FILE", show_default=False,
                                             help="CSV file to write.  [default: standard output]")] = None,
    backend: _BackendName = "auto",
) -> None:
    """Predict the target for each row of DATA, as CSV."""
    pandas = require("pandas", "cli", "reading tables")
    network, encoder, goal = _load(model, backend)
    if proba and not goal.classes:
        raise ParameterError(f"--proba needs classes, and {goal.column!r} is a quantity: leave it out")
    if out is not None:
        _check_file(out, data)
    table = _read_for(encoder, goal, data, needs_target=False)
    prediction = np.asarray(network.predict(encoder.transform(table.frame, network.dtype)))
    columns: dict[str, Any] = {"prediction": goal.decoded(prediction)}
    if proba:
        names = (f"probability_{label}" for label in goal.classes)
        columns |= dict(zip(names, goal.probabilities(prediction).T, strict=True))
    text = str(pandas.DataFrame(columns).to_csv(index=False, lineterminator="\n"))
    if out is None:
        typer.echo(text, nl=False)
    else:
        _write(out, text)
        print(f"wrote {_many(len(prediction), 'prediction')} to {out}", file=sys.stderr)


@app.command()
def evaluate(model: _Model, data: _Data, backend: _BackendName = "auto") -> None:
    """Score a model on DATA, which has the target's column."""
    network, encoder, goal = _load(model, backend)
    table = _read_for(encoder, goal, data, needs_target=True)
    if goal.column not in table.frame.columns:
        raise DataError(f"{table.name} has no column {goal.column!r}, which the model predicts: there is nothing to "
                        f"score it by")
    values = table.frame[table.column(goal.column)]
    x, y = encoder.transform(table.frame, network.dtype), goal.encode(values)
    loss = network.loss
    assert loss is not None  # _load has seen to it
    scores = {"loss": network.evaluate(x, goal.scaled(y))["loss"]}
    scores |= _scores(goal, loss, y, np.asarray(network.predict(x)))
    known = ", those that it was trained on among them" if data == network.extra.get("data") else ""
    title = f"{goal.task} of {goal.column!r}, {_many(len(y), 'row')} of {table.name}{known}"
    _print_grid(title, ["score", "value"], [[name, _shown(value)] for name, value in scores.items()])
    if goal.scale != 1.0 or goal.mean != 0.0:
        print(f"The loss, {loss.name}, is of the standardised target; the other scores are in the target's units.")


@app.command()
def backends() -> None:
    """List array namespaces, devices, the ops that serve them, and whether training replays recorded steps."""
    from .ops import backends as found

    cells = [[b.name, "yes" if b.available else "no", b.version, b.device, b.ops, "yes" if b.replays else "no",
              b.note] for b in found()]
    _print_grid("", ["backend", "available", "version", "device", "ops", "replays", "note"], cells, whole=6)


def _load(path: Path, backend: str) -> tuple[DenseNetwork, TableEncoder, Target]:
    """The network of a run's folder, or of its model folder, with the table and target that it was trained on."""
    from .data.table import TableEncoder
    from .data.target import TASKS, Target
    from .model import load

    if not path.is_dir():
        raise ModelFileError(f"there is no folder {path}: name that of a run, or of the model in it")
    inside = path / "model"
    network = load(inside if (inside / "model.json").exists() else path, backend=backend)
    if "table" not in network.extra:
        raise ModelFileError(f"{path} does not say what table it was trained on: it was not made by `xpdense train`; "
                             f"use xpdense.load(...).predict(x)")
    encoder, goal = TableEncoder.from_dict(network.extra["table"]), Target.from_dict(network.extra)
    loss = network.loss.name if network.loss else None
    if loss not in TASKS[goal.task] or (len(encoder.features), goal.outputs(loss)) != (network.inputs, network.outputs):
        raise ModelFileError(f"the network in {path} does not fit the table and target that are saved with it")
    return network, encoder, goal


def _read_for(encoder: TableEncoder, goal: Target, data: str, needs_target: bool) -> Table:
    from .data.datasets import read

    text = [*encoder.text, *([goal.column] if any(isinstance(label, str) for label in goal.classes) else [])]
    return read(data, text=text, columns=encoder.inputs, target=goal.column, needs_target=needs_target)


def _check_file(out: Path, data: str) -> None:
    from .checkpoint import check_writable

    if out.is_dir():
        raise OutputError(f"{out} is a folder: name a file")
    if out.exists() and Path(data).exists() and out.samefile(data):
        raise OutputError(f"{out} is the data: name another file")
    if not out.exists() or out.is_file():
        check_writable(out.parent)


def _write(path: Path, text: str) -> None:
    """Write a file so that it is either there as a whole or as it was; a device or a pipe is simply written to."""
    special = path.exists() and not path.is_file()
    target = path if special else Path(os.path.realpath(path))
    temporary = target if special else target.with_name(f".writing-{os.getpid()}-{target.name}")
    try:
        try:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                file.write(text)
            if not special:
                os.replace(temporary, target)
        finally:
            if not special:
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


# --- what is printed -------------------------------------------------------------------------------------------

def _describe(plan: _Plan) -> None:
    from .backend import devices

    table, goal, rows, network, rule = plan.table, plan.goal, plan.rows, plan.network, plan.rule
    kind = f"{goal.task}, {len(goal.classes)} classes" if goal.classes else goal.task
    features = len(plan.encoder.features)
    print(f"data     {table.name}: {_many(len(table.frame), 'row')}, {_many(plan.columns, 'column')} made "
          f"{_many(features, 'feature')}")
    print(f"target   {goal.column!r}: {kind}")
    if table.whole:
        print(f"rows     {len(rows.train):,} training ({rows.remark})")
    else:
        parts = (f"{len(part):,} {name}" for name, part in
                 (("training", rows.train), ("validation", rows.validation), ("test", rows.test)))
        print(f"rows     {', '.join(parts)}" + (f" ({rows.remark})" if rows.remark else ""))
    for note in plan.encoder.notes:
        print(f"note     {note}")
    backend = network.backend
    device = next((words for here, words in devices(backend.kind) if here.name == backend.name), str(backend.device))
    print(f"device   {backend.name} on {device}, served by {network.ops.name} ops in {network.dtype}")
    print(f"training {plan.loss.name}, {rule.name} at {rule.learning_rate(0, 1):g}, weight decay "
          f"{rule.weight_decay:.2g}, batches of {plan.batch_size:,}")
    cells = [[description, shape, f"{size:,}"] for description, shape, size in network.summary()]
    _print_grid("", ["layer", "output", "parameters"], [*cells, ["all", "", f"{network.size:,}"]], numbers=True)


def _show_score(network: DenseNetwork, goal: Target, loss: Loss, x: np.ndarray, y: np.ndarray, rows: _Split) -> None:
    """The test score, next to what one gets without looking at the features."""
    seen = not len(rows.test)
    part, known = rows.train if seen else rows.test, y[rows.train]
    scores = _scores(goal, loss, y[part], np.asarray(network.predict(x[part])))
    if goal.classes:
        baseline = np.bincount(known, minlength=len(goal.classes))[None, -network.outputs :] / len(known)
    else:
        baseline = np.full((1, 1), goal.scaled(known).mean())
    constant = goal.decoded(baseline)[0]
    name = f"always {_shown(constant) if isinstance(constant, float) else constant}"
    trivial = _scores(goal, loss, y[part], np.repeat(baseline, len(part), axis=0))
    title = f"test score, {_many(len(part), 'row')}" if not seen else \
        f"score on the {_many(len(part), 'training row')} (no rows were held out for a test)"
    _print_grid(title, ["score", "network", name], [[n, _shown(v), _shown(trivial[n])] for n, v in scores.items()],
                numbers=True)


def _scores(goal: Target, loss: Loss, y: np.ndarray, prediction: np.ndarray) -> Mapping[str, float]:
    """Metrics that fit the task, of y (n,) as `Target.encode` gives it and predictions (n, outputs); NaN where one has
    no value, as AUC of a single class."""
    from .metrics import METRICS

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


def _shown(value: float) -> str:
    """
    >>> [_shown(value) for value in (1.0, 54.321, 0.000123, float("nan"))]
    ['1.0000', '54.32', '1.2e-04', 'n/a']
    """
    if value != value:
        return "n/a"
    size = abs(value)
    if 0 < size < 1e-3 or size >= 1e5:
        return f"{value:.1e}" if size < 1 else f"{value:.3e}"
    return f"{value:.4f}" if size < 10 else f"{value:.2f}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _print_grid(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: bool = False,
                whole: int = 0) -> None:
    """A table; with `numbers`, all but its first column are set flush right. The first `whole` are never folded."""
    grid = Grid(box=box.SIMPLE, show_edge=False, pad_edge=False, collapse_padding=True)
    for i, name in enumerate(columns):
        grid.add_column(name, justify="right" if numbers and i else "left", overflow="fold", no_wrap=i < whole)
    for row in rows:
        grid.add_row(*row)
    sys.stdout.flush()
    console = Console(highlight=False, markup=False)
    console.print(*([f"\n{title}"] if title else []), grid, sep="\n")
    console.print()


if __name__ == "__main__":
    main()
