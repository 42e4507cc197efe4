"""Checkpoints: a training that is broken off goes on to the same bits, and no failed write loses what was there."""

from __future__ import annotations

import builtins
import contextlib
import errno
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits

import xpdense as xd
from xpdense import checkpointing, files, storage
from xpdense.errors import OutputError

RNG = np.random.default_rng(4)
N = 3 * 32 * 8 + 3  # the last batch is smaller, and the full ones are bursts
X = RNG.standard_normal((N, 3)).astype(np.float32)
Y = (X.sum(axis=1) + 0.3 * RNG.standard_normal(N)).astype(np.float32)
WEIGHT = RNG.uniform(0.5, 2.0, N).astype(np.float32)
EPOCHS = 6


class Died(Exception):
    """Stands for the end of the process."""


class Die(xd.Callback):
    """Ends the training after some steps, at a pause, where the process might have been killed."""

    keeps_optimizer_settings = True

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pause(self, run: Any) -> None:
        if run.history.steps >= self.step:
            raise Died


class Count(xd.Callback):
    """Has a memory of its own, and numbers of it as arrays."""

    def on_train_begin(self, run: Any) -> None:
        self.seen = np.zeros(2)

    def on_epoch_end(self, run: Any) -> None:
        self.seen += [1.0, run.history["loss"][-1]]

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "note": ["kept"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["note"] == ["kept"]
        self.seen = np.array(state["seen"])


def network(**options: Any) -> xd.DenseNetwork:
    layers = [xd.Dense(8, "tanh"), xd.BatchNorm(), xd.Dropout(0.2), xd.Dense(1)]
    return xd.DenseNetwork(layers, **{"inputs": 3, "seed": 1} | options)


def fit(net: xd.DenseNetwork, *hooks: xd.Callback, rate: Any = None, optimizer: Any = xd.Adam, epochs: int = EPOCHS,
        data: Any = None, **options: Any) -> xd.History:
    rate = xd.ReduceOnPlateau(0.02, patience=1) if rate is None else rate
    options = {"loss": "squared_error", "batch_size": 8, "validation": 0.2} | options
    return net.fit(*((X, Y) if data is None else (data,)), optimizer=optimizer(rate), epochs=epochs,
                   callbacks=list(hooks), **options)


def saves(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def parquet(folder: Path) -> Any:
    import pandas

    folder.mkdir(exist_ok=True)
    frame = pandas.DataFrame(X, columns=list("abc")).assign(kind=np.array(["u", "v"])[np.arange(N) % 2], y=Y)
    frame.iloc[:150].to_parquet(folder / "1.parquet", row_group_size=40)
    frame.iloc[150:].to_parquet(folder / "2.parquet", row_group_size=40)
    return folder


def streamed(tmp_path: Path) -> dict[str, Any]:
    train, held = xd.data.open(parquet(tmp_path / "data"), window=64).split(0.2)
    return {"data": train, "validation": held, "net": {"inputs": train.inputs}}


VARIANTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "plain": lambda _: {},
    "no validation": lambda _: {"validation": None},
    "weights": lambda _: {"sample_weight": WEIGHT},
    "in order": lambda _: {"shuffle": False},
    "metrics": lambda _: {"metrics": ["r2"]},
    "momentum": lambda _: {"optimizer": xd.Momentum, "rate": xd.Cosine(0.01)},
    "lion": lambda _: {"optimizer": xd.Lion, "rate": 0.001},
    "float64": lambda _: {"net": {"dtype": "float64"}},
    "generic": lambda _: {"net": {"ops": "generic"}},
    "array_api_strict": lambda _: {"net": {"backend": "array_api_strict"}, "epochs": 2},
    "stream": streamed,
    "stream in order": lambda path: streamed(path) | {"shuffle": False},
}


# --- the same bits ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_that_is_broken_off_ends_in_the_same_bits(variant: str, tmp_path: Path) -> None:
    options = VARIANTS[variant](tmp_path)
    made = options.pop("net", {})
    unbroken = network(**made)
    whole = fit(unbroken, xd.EarlyStopping(patience=3), Count(), **options)
    for step in (1, 33, 100, 150):
        folder = tmp_path / str(step)
        with pytest.raises(Died):
            fit(network(**made), xd.EarlyStopping(patience=3), Count(), xd.Checkpoint(folder, every=8, unit="steps"),
                Die(step), **options)
        if step > 1:
            assert saves(folder), "nothing was written"
        net, keeper, count = network(**made), xd.Checkpoint(folder, every=8, unit="steps"), Count()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if step == 1 else "error", xd.ResumeWarning)
            history = fit(net, keeper, xd.EarlyStopping(patience=3), count, resume=folder, **options)
        assert bits(net) == bits(unbroken)
        for name in set(whole) - {"seconds", "rows_per_second"}:
            assert history[name] == whole[name]
        assert (history.epochs, history.steps) == (whole.epochs, whole.steps)
        assert count.seen[0] == whole.epochs


def test_a_checkpoint_is_made_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    with pytest.raises(Died):
        fit(network(), xd.Checkpoint(tmp_path, every=8, unit="steps"), Die(33), validation=None, epochs=50)
    state = storage.read_training(storage.checkpoints(tmp_path)[0]).config["loop"]
    assert 0 < state["step"] < -(-N // 8)


def test_what_ends_early_is_resumed_to_the_same_end(tmp_path: Path) -> None:
    whole = fit(network(), xd.EarlyStopping(patience=1), rate=0.2, epochs=40)
    assert whole.epochs < 40
    stopping = xd.EarlyStopping(patience=1)
    first = network()
    fit(first, stopping, xd.Checkpoint(tmp_path), rate=0.2, epochs=40)
    again, other = network(), xd.EarlyStopping(patience=1)
    history = fit(again, other, rate=0.2, epochs=40, resume=tmp_path)
    assert bits(again) == bits(first)
    assert (history.epochs, other.best_epoch, other.best) == (whole.epochs, stopping.best_epoch, stopping.best)


def test_a_finished_training_goes_on_to_more_epochs(tmp_path: Path) -> None:
    longer, net = network(), network()
    fit(longer, epochs=7)
    fit(network(), xd.Checkpoint(tmp_path), epochs=3)
    assert fit(net, xd.Checkpoint(tmp_path), epochs=7, resume=tmp_path).epochs == 7
    assert bits(net) == bits(longer)
    with pytest.raises(xd.ParameterError, match="epochs was 7 there, and is 6 here"):
        fit(network(), epochs=6, resume=tmp_path)


def test_a_schedule_of_the_whole_run_is_gone_on_with_to_its_end_only(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2, rate=xd.Cosine(0.01))
    with pytest.raises(xd.ParameterError, match="epochs was 2 there, and is 3 here"):
        fit(network(), epochs=3, rate=xd.Cosine(0.01), resume=tmp_path)


# --- which checkpoint ------------------------------------------------------------------------------------------

def damage(folder: Path, what: str) -> None:
    name = next(p for p in folder.iterdir() if p.name.startswith(what))
    data = bytearray(name.read_bytes())
    data[len(data) // 2] ^= 1
    name.write_bytes(data)


@pytest.mark.parametrize("what", ["weights", "training-", "training.json", "model.json"])
def test_a_damaged_newest_one_falls_back_to_the_one_before_and_says_so(what: str, tmp_path: Path) -> None:
    unbroken, net = network(), network()
    fit(unbroken)
    with pytest.raises(Died):
        fit(network(), xd.Checkpoint(tmp_path, every=8, unit="steps"), Die(100))
    damage(storage.checkpoints(tmp_path)[0], what)
    with pytest.warns(xd.ResumeWarning, match=r"damaged.*The checkpoint before it is taken"):
        fit(net, xd.Checkpoint(tmp_path, every=8, unit="steps"), resume=tmp_path)
    assert bits(net) == bits(unbroken)


def test_where_all_are_damaged_nothing_is_trained(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    for folder in storage.checkpoints(tmp_path):
        damage(folder, "weights")
    net = network()
    before = bits(net)
    with pytest.raises(xd.ModelFileError, match="damaged"), pytest.warns(xd.ResumeWarning):
        fit(net, epochs=2, resume=tmp_path)
    assert bits(net) == before


def test_another_backend_goes_on_with_it(tmp_path: Path) -> None:
    """Not to the same bits, but from there."""
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    for options in ({"backend": "array_api_strict"}, {"ops": "generic"}):
        assert fit(network(**options), epochs=3, resume=tmp_path).epochs == 3


def test_a_half_written_or_half_removed_one_is_none(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    (tmp_path / ".writing-abc").mkdir()
    (tmp_path / ".writing-abc" / "model.json").write_text("{")
    net, keeper = network(), xd.Checkpoint(tmp_path)
    fit(net, keeper, epochs=3, resume=tmp_path)
    assert not [name for name in saves(tmp_path) if name.startswith(".")]
    assert keeper.last is not None
    assert keeper.last.name == saves(tmp_path)[-1]


def test_the_last_ones_and_the_best_stay(tmp_path: Path) -> None:
    keeper = xd.Checkpoint(tmp_path, keep=2)
    values = iter([5.0, 4.0, 1.0, 2.0, 3.0, 1.0, 2.0, 2.0])
    keeper.monitor = "validation_scripted"
    history = fit(network(), keeper, epochs=8,
                  metrics=[xd.Metric("scripted", "values", lambda t, p: next(values), False)])
    steps = history.steps // 8
    assert saves(tmp_path) == [f"step-{steps * k:010d}" for k in (3, 7, 8)]
    assert keeper.best == tmp_path / f"step-{3 * steps:010d}"
    assert xd.load(keeper.best).evaluate(X, Y, loss="squared_error")["loss"] > 0  # a checkpoint is a model


def test_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    net, keeper = network(), xd.Checkpoint(tmp_path)
    fit(net, keeper, epochs=2)
    assert keeper.last is not None
    assert bits(xd.load(keeper.last)) == bits(net)


def test_one_that_is_kept_is_never_missed(tmp_path: Path) -> None:
    keeper = xd.Checkpoint(tmp_path, every=8, unit="steps", keep=1)
    fit(network(), keeper, epochs=2, validation=None)
    assert keeper.last is not None
    assert {path.name for path in tmp_path.iterdir()} <= {keeper.last.name, keeper.best.name if keeper.best else ""}


def test_one_checkpoint_can_be_named(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=3)
    longer, net = network(), network()
    fit(longer, epochs=3)
    fit(net, epochs=3, resume=storage.checkpoints(tmp_path)[-1])
    assert bits(net) == bits(longer)


@pytest.mark.parametrize(("unit", "every", "count"), [("epochs", 2, 3), ("steps", 32, 12), ("seconds", 1e-9, 18)])
def test_it_is_written_as_often_as_is_said(unit: str, every: float, count: int, tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path, every=every, unit=unit, keep=100), epochs=6)
    assert len(saves(tmp_path)) >= count


# --- refused before any work -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("options", "named"), [
    ({"batch_size": 16}, "batch_size was 8 there, and is 16 here"),
    ({"shuffle": False}, "shuffle was True"),
    ({"loss": xd.Huber(0.5)}, "loss was"),
    ({"rate": 0.5}, "learning_rate was"),
    ({"optimizer": xd.RMSprop}, "optimizer was"),
    ({"sample_weight": WEIGHT}, "data was"),
    ({"validation": None}, "rows was"),
    ({"metrics": ["r2"]}, "metrics was"),
    ({"data": xd.data.open(X, Y)}, "rows was"),
])
def test_another_training_is_refused_and_the_message_says_what_differs(options: dict[str, Any], named: str,
                                                                     tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    net = network()
    before = bits(net)
    with pytest.raises(xd.ParameterError, match=named):
        fit(net, epochs=2, resume=tmp_path, **options)
    assert bits(net) == before


def test_other_data_are_refused(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    other = X.copy()
    other[7, 1] += 1e-3
    with pytest.raises(xd.ParameterError, match="data was"):
        network().fit(other, Y, loss="squared_error", optimizer=xd.Adam(xd.ReduceOnPlateau(0.02, patience=1)), epochs=2,
                      batch_size=8, validation=0.2, resume=tmp_path)
    with pytest.raises(xd.ParameterError, match=r"layers was"):
        fit(xd.DenseNetwork([xd.Dense(9), xd.Dense(1)], inputs=3), epochs=2, resume=tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    import pandas

    def train(**options: Any) -> None:
        frame = pandas.DataFrame(X, columns=list("abc")).assign(y=Y + options.pop("shift", 0.0))
        frame.to_parquet(tmp_path / "t.parquet")
        data = xd.data.open(tmp_path / "t.parquet", "y")
        network().fit(data, loss="squared_error", epochs=2, callbacks=options.pop("callbacks", []), **options)

    def train_arrays(y: np.ndarray, **options: Any) -> None:
        network().fit(xd.data.open(X, y), loss="squared_error", epochs=2, **options)

    train(callbacks=[xd.Checkpoint(tmp_path / "a")])
    train(resume=tmp_path / "a")
    with pytest.raises(xd.ParameterError, match="data was"):
        train(resume=tmp_path / "a", shift=np.eye(N)[5])
    train_arrays(Y, callbacks=[xd.Checkpoint(tmp_path / "b")])
    train_arrays(Y, resume=tmp_path / "b")
    with pytest.raises(xd.ParameterError, match="data was"):
        train_arrays(Y[::-1], resume=tmp_path / "b")


def test_checkpoints_of_an_earlier_training_are_not_written_over(tmp_path: Path) -> None:
    fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    before = saves(tmp_path)
    with pytest.raises(OutputError, match="earlier training"):
        fit(network(), xd.Checkpoint(tmp_path), epochs=2)
    with pytest.raises(OutputError, match="earlier training"):
        fit(network(), xd.Checkpoint(tmp_path), epochs=2, resume=tmp_path.parent)
    assert saves(tmp_path) == before


def test_two_trainings_do_not_write_to_one_folder(tmp_path: Path) -> None:
    class Other(xd.Callback):
        def on_epoch_end(self, run: Any) -> None:
            fit(network(), xd.Checkpoint(tmp_path), epochs=1)

    with pytest.raises(OutputError, match="another training writes"):
        fit(network(), xd.Checkpoint(tmp_path, every=5), Other(), epochs=2)


def test_nothing_to_resume_from_is_an_error_and_nothing_yet_a_warning(tmp_path: Path) -> None:
    with pytest.raises(xd.ModelFileError, match="no folder"):
        fit(network(), resume=tmp_path / "nowhere")
    unbroken, net = network(), network()
    fit(unbroken)
    with pytest.warns(xd.ResumeWarning, match="no checkpoint yet"):
        fit(net, resume=tmp_path)
    assert bits(net) == bits(unbroken)


# --- writes that fail ------------------------------------------------------------------------------------------

class Killed(BaseException):
    """Stands for the end of the process: nothing may be cleaned up after it."""


@pytest.fixture(scope="module")
def halves() -> tuple[Any, Any]:
    net = network()
    tensors = {"a": np.arange(2000.0), "b": np.ones((3, 4), np.float32)}
    return (net.config(), net.arena.to_host()), ({"identity": {}, "loop": {"x": {"tensor": "a"}}}, tensors)


def faulty(monkeypatch: pytest.MonkeyPatch, at: int, how: str) -> Callable[[], int]:
    """Let call number `at` of all that touches the disk fail; what gives the number of calls made."""
    calls = 0
    error = {"ENOSPC": OSError(errno.ENOSPC, "No space left on device"), "killed": Killed(),
             "EIO": OSError(errno.EIO, "Input/output error")}[how]
    dead = False

    def counted(original: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls, dead
            if dead:
                raise Killed  # nothing is done after the end
            calls += 1
            if calls == at + 1:
                dead = how == "killed"
                raise error
            return original(*arguments, **options)
        return call

    class File:
        """A file whose writes may fail, or write a half."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            nonlocal calls, dead
            if dead:
                raise Killed
            calls += 1
            if calls == at + 1:
                self.file.write(data[: len(data) // 2])
                self.file.flush()
                dead = how == "killed"
                raise error
            return int(self.file.write(data))

        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: Any) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    real_open = builtins.open

    def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        file = counted(real_open)(path, mode, *arguments, **options)
        return File(file) if set(mode) & set("wx") else file

    for module in (files, storage):
        monkeypatch.setattr(module, "open", opened, raising=False)
    for name in ("fsync", "rename", "replace", "chmod", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    monkeypatch.setattr(tempfile, "mkdtemp", counted(tempfile.mkdtemp))
    monkeypatch.setattr(shutil, "rmtree", counted(shutil.rmtree))
    return lambda: calls


def attempts(monkeypatch: pytest.MonkeyPatch, how: str, act: Callable[[], Any]) -> Iterator[BaseException | None]:
    """Act again and again, with a failure at one place later each time, until there is no later place."""
    for at in range(200):
        with monkeypatch.context() as patch:
            calls = faulty(patch, at, how)
            error: BaseException | None = None
            try:
                act()
            except (OutputError, Killed) as raised:
                error = raised
            made = calls()
        yield error
        if made <= at:
            assert error is None
            assert at > 10, "there are more places than this"
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("how", ["ENOSPC", "EIO", "killed"])
def test_a_write_that_fails_anywhere_leaves_every_checkpoint_whole(how: str, halves: Any, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    storage.write_checkpoint(tmp_path, 1, *halves)
    failures = 0
    for error in attempts(monkeypatch, how, lambda: storage.write_checkpoint(tmp_path, 2, *halves)):
        failures += error is not None
        assert error is None or isinstance(error, Killed) or str(tmp_path) in str(error)
        found = storage.checkpoints(tmp_path)
        assert tmp_path / "step-0000000001" in found
        assert error is not None or tmp_path / "step-0000000002" in found
        for path in found:  # whatever has the name of a checkpoint is one
            assert storage.read(path).tensors()
            assert np.array_equal(storage.read_training(path).tensors()["a"], np.arange(2000.0))
        if how != "killed":
            assert saves(tmp_path) == [path.name for path in reversed(found)], "something was left behind"
        shutil.rmtree(tmp_path / "step-0000000002", ignore_errors=True)
    assert failures > 10


@pytest.mark.parametrize("how", ["ENOSPC", "killed"])
def test_a_step_that_is_written_again_is_never_without_a_checkpoint(how: str, halves: Any, tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = storage.write_checkpoint(tmp_path, 7, *halves)
    for _ in attempts(monkeypatch, how, lambda: storage.write_checkpoint(tmp_path, 7, *halves)):
        found = storage.checkpoints(tmp_path)
        assert found
        for folder in found:
            assert storage.read(folder).tensors()
            assert storage.read_training(folder).tensors()
        storage.sweep(tmp_path)
    assert storage.checkpoints(tmp_path) == [path]


@pytest.mark.parametrize("how", ["EIO", "killed"])
def test_a_removal_that_fails_anywhere_leaves_no_half_of_one(how: str, halves: Any, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(20):
        path = storage.write_checkpoint(tmp_path, at, *halves)
        with monkeypatch.context() as patch:
            calls = faulty(patch, at, how)
            with contextlib.suppress(OutputError, Killed):
                storage.remove(path)
            made = calls()
        for left in storage.checkpoints(tmp_path):
            assert storage.read(left).tensors()
            assert storage.read_training(left).tensors()
        storage.sweep(tmp_path)
        assert all(name.startswith("step-") for name in saves(tmp_path))
        if made <= at:
            return
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("how", ["ENOSPC", "killed"])
def test_a_training_whose_checkpoint_fails_goes_on_from_the_last_one(how: str, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = network()
    fit(unbroken, epochs=3)
    for at in (3, 17, 24, 31, 45):
        folder = tmp_path / f"{how}{at}"
        keeper = xd.Checkpoint(folder)
        with monkeypatch.context() as patch:
            faulty(patch, at, how)
            with pytest.raises((OutputError, Killed)):
                fit(network(), keeper, epochs=3)
        net = network()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", xd.ResumeWarning)
            fit(net, xd.Checkpoint(folder), epochs=3, resume=folder)
        assert bits(net) == bits(unbroken)


def test_a_folder_that_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Choose another folder"):
        xd.Checkpoint(tmp_path / "file")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder_is_said_at_once(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied"):
        xd.Checkpoint(tmp_path / "inside")


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("there is no device that is always full")
    with pytest.raises(OutputError, match="No space left"), files.replaced(full) as path, open(path, "wb") as file:
        file.write(b"x" * 100_000)


# --- formats ---------------------------------------------------------------------------------------------------

GOLDEN = Path(__file__).parent / "golden"


def test_a_model_of_format_1_is_read() -> None:
    net = xd.load(GOLDEN / "model-v1")
    expected = json.loads((GOLDEN / "model-v1-prediction.json").read_text())
    assert np.allclose(net.predict(np.array(expected["x"])), expected["prediction"], rtol=1e-6)
    assert net.extra == {"note": "written by format 1"}
    assert repr(net.loss) == repr(xd.Huber(0.5))


def test_a_newer_format_is_read_where_it_says_that_it_can_be(tmp_path: Path) -> None:
    net = network()
    net.save(tmp_path)
    index = json.loads((tmp_path / "model.json").read_text())
    index |= {"version": storage.VERSION + 1, "new": "a field that nobody here knows"}
    (tmp_path / "model.json").write_text(json.dumps(index))
    assert bits(xd.load(tmp_path)) == bits(net)
    index["reads"] = storage.VERSION + 1
    (tmp_path / "model.json").write_text(json.dumps(index))
    with pytest.raises(xd.ModelFileError, match="pip install --upgrade xpdense"):
        xd.load(tmp_path)


def test_every_bit_of_an_index_counts(tmp_path: Path) -> None:
    net = network()
    net.extra = {"mean": 0.25}
    net.save(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text.replace("0.25", "0.75"))
    with pytest.raises(xd.ModelFileError, match="damaged"):
        xd.load(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    network().save(tmp_path / "a")
    weights = next((tmp_path / "a").glob("weights-*"))
    shutil.move(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(xd.ModelFileError, match="is a link"):
        xd.load(tmp_path / "a")


def test_a_state_keeps_its_arrays_and_their_places() -> None:
    state = {"a": [1, {"b": np.arange(3)}], "c": np.float64(2.0), "d": None, "e": {"f": np.ones((2, 2), np.float32)}}
    plain, tensors = checkpointing._split(state)
    json.dumps(plain)
    back = checkpointing._joined(plain, tensors)
    assert back["a"][0] == 1
    assert np.array_equal(back["a"][1]["b"], np.arange(3))
    assert (back["c"], back["d"]) == (2.0, None)
    assert np.array_equal(back["e"]["f"], np.ones((2, 2)))


@pytest.mark.parametrize("precision", ["full", "float16"])
def test_a_training_on_a_device_goes_on_to_the_same_bits(precision: str, cuda_backend: Any, tmp_path: Path) -> None:
    """A GPU, or a CPU that plays one; in float16 the loss's scale is a part of what is remembered."""
    made: dict[str, Any] = {"backend": "cupy", "precision": precision}
    unbroken, net = network(**made), network(**made)
    fit(unbroken, epochs=2)
    with pytest.raises(Died):
        fit(network(**made), xd.Checkpoint(tmp_path, every=8, unit="steps"), Die(100), epochs=2)
    state = storage.read_training(storage.checkpoints(tmp_path)[0]).config["loop"]
    assert (state["scale"] is not None) == (precision == "float16")
    fit(net, xd.Checkpoint(tmp_path, every=8, unit="steps"), epochs=2, resume=tmp_path)
    assert bits(net) == bits(unbroken)
