"""The command line: arguments, what is printed, and the wiring between them. Everything else lives elsewhere."""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from .errors import (
    DataError,
    ModelFileError,
    NonFiniteLossError,
    OutputError,
    ParameterError,
    XpdenseError,
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
    from .callbacks import Callback, Run
    from .data.datasets import Table
    from .data.preprocessing import Preprocessing
    from .data.stream import Stream
    from .doctor.diagnosis import Diagnosis
    from .model import DenseNetwork
    from .runs import Plan

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
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
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
_OptionalData = Annotated[str | None, typer.Argument(
    metavar="[DATA]", show_default=False,
    help="digits, iris, wine, breast_cancer, diabetes, xor, or a file: .csv, .tsv (also .gz), .parquet, a folder of "
         ".parquet files, or .npz with arrays x and y. Not with --resume.")]
_Stream = Annotated[bool | None, typer.Option(
    "--stream/--no-stream", show_default=False,
    help="Read DATA while it is used, in bounded memory.  [default: a folder, or a file that is large for this "
         "machine's memory]")]
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
    context: typer.Context,
    data: _OptionalData = None,
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
    stream: _Stream = None,
    checkpoint_every: Annotated[str | None, typer.Option(
        metavar="N", help="How often to write a checkpoint: 2epochs, 500steps, 30s, 10min; they stay in "
                          "DIR/checkpoints.  [default: 10min, and they go when the run has ended well]")] = None,
    resume: Annotated[Path | None, typer.Option(
        metavar="DIR", show_default=False,
        help="Go on with the run of this folder, with its options, from its newest checkpoint.")] = None,
) -> None:
    """Train a network on DATA and score it on rows it has not seen.

    Ctrl-C ends the step under way and writes a checkpoint, from which --resume goes on.
    """
    from .callbacks import EarlyStopping
    from .checkpointing import Checkpoint
    from .runs import Options, check_going_on, planned, run_folder

    given = {name for name in context.params if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"}
    if resume is not None:
        if given - {"resume"}:
            name = next(name for name in context.params if name in given - {"resume"})
            name = "DATA" if name == "data" else f"--{name.replace('_', '-')}"
            raise ParameterError(f"--resume goes on with the options of the run: leave out {name}")
        options, out = Options.of_run(resume), resume
        check_going_on(resume)
    elif data is None:
        raise ParameterError("DATA is missing: name a set or a file. See xpdense train --help")
    else:
        options = Options(**{name: context.params[name] for name in Options.names()})
    every, unit = options.checked()
    require("matplotlib", "cli", "drawing curves.png")
    plan = planned(options)
    network, goal = plan.network, plan.data.target_encoder
    metric = "accuracy" if goal.classes else "r2"
    with run_folder(out, plan.data.name, options, resume is not None) as folder:
        _describe(plan)
        keeper = Checkpoint(folder / "checkpoints", every=every, unit=unit)
        stopping = EarlyStopping(patience=options.patience) if plan.data.validation is not None else None
        try:
            history = network.fit(
                plan.data.training, loss=plan.loss, optimizer=plan.optimizer, batch_size=plan.batch_size,
                epochs=plan.epochs, validation=plan.data.validation, metrics=[metric],
                resume=None if resume is None else keeper.folder,
                callbacks=[*_watching(metric), keeper, *([stopping] if stopping else [])])
        except (KeyboardInterrupt, SystemExit) as end:
            if keeper.last is not None:
                print(f"interrupted: xpdense train --resume {folder} goes on from {keeper.last.name}", file=sys.stderr)
                raise typer.Exit(130 if isinstance(end, KeyboardInterrupt) else int(end.code or 0)) from None
            raise
        print(f"made {history.steps:,} steps, {history.replayed:,} of them replayed without Python")
        if history.no_capture_reason:
            print(f"note     steps were made from Python: {history.no_capture_reason}")
        if stopping:
            print(f"kept the weights of epoch {stopping.best_epoch + 1}, whose validation loss "
                  f"{_shown(stopping.best)} was the lowest of {history.epochs}")
        _show_score(plan)
        try:
            network.save(folder / "model")
            history.to_csv(folder / "history.csv")
            history.plot(folder / "curves.png")
            if options.checkpoint_every is None:
                shutil.rmtree(keeper.folder)
        except OSError as error:
            raise OutputError(f"cannot write to {folder}: {error.strerror or error}") from error
    print(f"wrote {folder}{os.sep}: {', '.join(_RUN_FILES)}")


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
    context: typer.Context,
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
        from .runs import Options, planned

        names = {name: context.params[name] for name in Options.names() if name in context.params}
        plan = planned(Options(**names, stream=False))
        training: Any = plan.data.training
        found = diagnose(plan.network, *training.head(training.rows), loss=plan.loss, optimizer=plan.optimizer,
                         batch_size=plan.batch_size, epochs=plan.epochs, seed=seed)
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
    stream: _Stream = None,
) -> None:
    """Predict the target for each row of DATA, as CSV, or as Parquet where FILE ends so."""
    from .data.writing import write_predictions
    from .runs import streamed

    network, found = _load(model, backend)
    goal = found.target
    if proba and not goal.classes:
        raise ParameterError(f"--proba needs classes, and {goal.column!r} is a quantity: leave it out")
    if out is not None:
        _check_file(out, data)
    if streamed(data, stream):
        rows = write_predictions(out, network.predict_parts(_stream_for(network, data)), goal, proba)
    else:
        table = _read_for(found, data, needs_target=False)
        prediction = np.asarray(network.predict(found.table.transform(table.frame, network.dtype)))
        rows = write_predictions(out, [prediction], goal, proba)
    if out is not None:
        print(f"wrote {_many(rows, 'prediction')} to {out}", file=sys.stderr)


@app.command()
def evaluate(model: _Model, data: _Data, backend: _BackendName = "auto", stream: _Stream = None) -> None:
    """Score a model on DATA, which has the target's column."""
    from .data.datasets import data_name
    from .runs import scores_of, streamed

    network, found = _load(model, backend)
    loss, goal = network.loss, found.target
    assert loss is not None  # _load has seen to it
    name = data_name(data)
    if streamed(data, stream):
        rows = _stream_for(network, data)
        if not rows.has_target:
            raise DataError(_NO_TARGET.format(name=name, column=goal.column))
        y, prediction = rows.targets(), np.asarray(network.predict(rows))
        scores = {"loss": network.evaluate(rows)["loss"]}
    else:
        table = _read_for(found, data, needs_target=True)
        if goal.column not in table.frame.columns:
            raise DataError(_NO_TARGET.format(name=name, column=goal.column))
        x, y = found.table.transform(table.frame, network.dtype), goal.encode(table.frame[table.column(goal.column)])
        prediction = np.asarray(network.predict(x))
        scores = {"loss": network.evaluate(x, goal.scaled(y))["loss"]}
    scores |= scores_of(goal, loss, y, prediction)
    known = ", those that it was trained on among them" if data == found.data_name else ""
    title = f"{goal.task} of {goal.column!r}, {_many(len(y), 'row')} of {name}{known}"
    _print_grid(title, ["score", "value"], [[name, _shown(value)] for name, value in scores.items()])
    if goal.scale != 1.0 or goal.mean != 0.0:
        print(f"The loss, {loss.name}, is of the standardised target; the other scores are in the target's units.")


_NO_TARGET = "{name} has no column {column!r}, which the model predicts: there is nothing to score it by"


@app.command()
def backends() -> None:
    """List array namespaces, devices, the ops that serve them, and whether training replays recorded steps."""
    from .ops import backends as found

    cells = [[b.name, "yes" if b.available else "no", b.version, b.device, b.ops, "yes" if b.replays else "no",
              b.note] for b in found()]
    _print_grid("", ["backend", "available", "version", "device", "ops", "replays", "note"], cells, whole=6)


def _load(path: Path, backend: str) -> tuple[DenseNetwork, Preprocessing]:
    """The network of a run's folder, or of its model folder, with the encoders of its table."""
    from .data.target import TASKS
    from .model import load

    if not path.is_dir():
        raise ModelFileError(f"there is no folder {path}: name that of a run, or of the model in it")
    inside = path / "model"
    network = load(inside if (inside / "model.json").exists() else path, backend=backend)
    found = network.preprocessing
    if found is None:
        raise ModelFileError(f"{path} does not say what table it was trained on: it was not made by `xpdense train`; "
                             f"use xpdense.load(...).predict(x)")
    loss, widths = network.loss.name if network.loss else "", (network.inputs, network.outputs)
    if loss not in TASKS[found.target.task] or (len(found.table.features), found.target.outputs(loss)) != widths:
        raise ModelFileError(f"the network in {path} does not fit the table and target that are saved with it")
    return network, found


def _read_for(found: Preprocessing, data: str, needs_target: bool) -> Table:
    from .data.datasets import read

    return read(data, text=found.text, columns=found.table.inputs, target=found.target.column,
                needs_target=needs_target)


def _stream_for(network: DenseNetwork, data: str) -> Stream:
    from .data import open as open_stream

    return open_stream(data, like=network)


def _check_file(out: Path, data: str) -> None:
    from .data.writing import check_file

    if out.exists() and Path(data).exists() and out.samefile(data):
        raise OutputError(f"{out} is the data: name another file")
    check_file(out)


# --- what is printed -------------------------------------------------------------------------------------------

def _describe(plan: Plan) -> None:
    from .backend import devices

    data, goal, network, rule = plan.data, plan.data.target_encoder, plan.network, plan.optimizer
    kind = f"{goal.task}, {len(goal.classes)} classes" if goal.classes else goal.task
    print(f"data     {data.name}: {_many(data.rows, 'row')}, {_many(data.columns, 'column')} made "
          f"{_many(len(data.encoder.features), 'feature')}{', read as they are needed' if data.streams else ''}")
    print(f"target   {goal.column!r}: {kind}")
    parts = ", ".join(f"{count:,} {name}" for name, count in data.counts.items())
    print(f"rows     {parts}" + (f" ({data.remark})" if data.remark else ""))
    for note in data.encoder.notes:
        print(f"note     {note}")
    backend = network.backend
    device = next((words for here, words in devices(backend.kind) if here.name == backend.name), str(backend.device))
    print(f"device   {backend.name} on {device}, served by {network.ops.name} ops in {network.dtype}")
    print(f"training {plan.loss.name}, {rule.name} at {rule.learning_rate(0, 1):g}, weight decay "
          f"{rule.weight_decay:.2g}, batches of {plan.batch_size:,}")
    cells = [[description, shape, f"{size:,}"] for description, shape, size in network.summary()]
    _print_grid("", ["layer", "output", "parameters"], [*cells, ["all", "", f"{network.size:,}"]], numbers=True)


def _show_score(plan: Plan) -> None:
    """The test score, next to what one gets without looking at the features."""
    from .runs import scores_of

    goal, (y, prediction) = plan.data.target_encoder, plan.scored()
    scores, constant = scores_of(goal, plan.loss, y, prediction), goal.decoded(plan.baseline)[0]
    name = f"always {_shown(constant) if isinstance(constant, float) else constant}"
    trivial = scores_of(goal, plan.loss, y, np.repeat(plan.baseline, len(y), axis=0))
    title = f"test score, {_many(len(y), 'row')}" if plan.data.counts.get("test") else \
        f"score on the {_many(len(y), 'training row')} (no rows were held out for a test)"
    _print_grid(title, ["score", "network", name], [[n, _shown(v), _shown(trivial[n])] for n, v in scores.items()],
                numbers=True)


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
