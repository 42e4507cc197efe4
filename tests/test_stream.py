"""Streams: every row once an epoch, from every source; what one pass learns; errors with their place; flat memory."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits

import xpdense as xd
from xpdense.data.csv import CsvSource
from xpdense.data.datasets import read
from xpdense.data.feeding import StreamFeed
from xpdense.data.prefetch import prefetched
from xpdense.data.table import TableEncoder
from xpdense.losses import as_loss

pandas = pytest.importorskip("pandas")
dataset = pytest.importorskip("pyarrow.dataset")

N = 1000
RNG = np.random.default_rng(8)
X = RNG.standard_normal((N, 3)).astype(np.float32)
Y = np.arange(N, dtype=np.float64)  # a name for each row
BACKENDS = [name for name in ("numpy", "torch", "array_api_strict") if find_spec(name)]


def table() -> Any:
    frame = pandas.DataFrame({"a": RNG.normal(20.0, 9.0, N), "b": RNG.integers(0, 40, N).astype(float),
                              "colour": RNG.choice(["red", "green", "blue"], N), "flag": RNG.random(N) < 0.3,
                              "when": pandas.Timestamp("2024-05-01")})
    frame.loc[::7, "b"] = np.nan
    frame.loc[::11, "colour"] = None
    return frame.assign(y=Y)


TABLE = table()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("streams")
    TABLE.to_parquet(shelf / "one.parquet", row_group_size=130, index=False)
    (shelf / "folder" / "deep").mkdir(parents=True)
    TABLE.iloc[:444].to_parquet(shelf / "folder" / "1.parquet", row_group_size=99, index=False)
    TABLE.iloc[444:].to_parquet(shelf / "folder" / "deep" / "2.parquet", row_group_size=200, index=False)
    TABLE.drop(columns="when").to_csv(shelf / "t.csv", index=False)
    TABLE.drop(columns="when").to_csv(shelf / "t.tsv", index=False, sep="\t")
    np.save(shelf / "x.npy", X)
    np.save(shelf / "y.npy", Y)
    return shelf


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, N, 77):
        yield X[i : i + 77], Y[i : i + 77]


SOURCES: dict[str, Callable[[Path], xd.data.Stream]] = {
    "parquet": lambda s: xd.data.open(s / "one.parquet", "y"),
    "folder": lambda s: xd.data.open(str(s / "folder"), "y"),
    "dataset": lambda s: xd.data.open(dataset.dataset(s / "folder"), "y"),
    "arrow table": lambda s: xd.data.open(dataset.dataset(s / "one.parquet").to_table(), "y"),
    "frame": lambda s: xd.data.open(TABLE, "y"),
    "csv": lambda s: xd.data.open(s / "t.csv", "y"),
    "tsv": lambda s: xd.data.open(s / "t.tsv", "y"),
    "npy": lambda s: xd.data.open(s / "x.npy", s / "y.npy"),
    "memory map": lambda s: xd.data.open(np.load(s / "x.npy", mmap_mode="r"), np.load(s / "y.npy", mmap_mode="r")),
    "arrays": lambda s: xd.data.open(X, Y, standardise=True),
    "batches": lambda s: xd.data.open(batches),
    "list of batches": lambda s: xd.data.open(list(batches())),
}


def network(data: xd.data.Stream, **options: Any) -> xd.DenseNetwork:
    return xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(1)], inputs=data.inputs, seed=0, **options)


def epochs_of(data: xd.data.Stream, *epochs: int, shuffle: bool = True, batch_size: int = 16,
              seed: int = 5) -> list[np.ndarray]:
    """The targets, in the order in which they are trained on, of some epochs."""
    net = network(data)
    feed = StreamFeed(data, net.spec(as_loss("squared_error")), batch_size, seed, shuffle)
    found = []
    for epoch in epochs:
        rows, step = [], 0
        for window in feed.windows(epoch):
            assert window.first == step, "a step is missing"
            step += -(-len(window.order) // batch_size)
            rows.append(np.asarray(feed.rows.y)[window.order].ravel().copy())
        assert step == len(feed)
        found.append(np.concatenate(rows))
    feed.close()
    return found


# --- rows ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("source", SOURCES)
def test_every_row_comes_once_an_epoch_and_in_an_order_of_the_seed(source: str, window: int | None,
                                                                 shelf: Path) -> None:
    data = SOURCES[source](shelf)
    data.window = window
    first, second = epochs_of(data, 0, 1)
    for order in (first, second):
        assert np.array_equal(np.sort(order), Y)
        assert not np.array_equal(order, Y)
    assert not np.array_equal(first, second)
    assert np.array_equal(epochs_of(data, 0)[0], first)
    assert np.array_equal(epochs_of(data, 1)[0], second), "an epoch's order must not depend on those before it"
    assert not np.array_equal(epochs_of(data, 0, seed=6)[0], first)
    assert np.array_equal(epochs_of(data, 0, shuffle=False)[0], Y)


@pytest.mark.parametrize("start", [1, 5, 31, 62])
@pytest.mark.parametrize("window", [None, 64, 200])
def test_an_epoch_goes_on_from_any_step(window: int | None, start: int, shelf: Path) -> None:
    data = SOURCES["folder"](shelf)
    data.window = window
    net = network(data)
    whole = epochs_of(data, 3)[0]
    feed = StreamFeed(data, net.spec(as_loss("squared_error")), 16, 5, True)
    rest = [np.asarray(feed.rows.y)[w.order].ravel().copy() for w in feed.windows(3, start)]
    feed.close()
    assert np.array_equal(np.concatenate(rest), whole[start * 16 :])


def test_a_folder_may_name_values_and_a_file_may_lack_a_column(tmp_path: Path) -> None:
    for part, frame in (("year=2023", TABLE.iloc[:300]), ("year=2024", TABLE.iloc[300:].drop(columns="b"))):
        (tmp_path / f"{part}" / "kind=x").mkdir(parents=True)
        frame.drop(columns="when").to_parquet(tmp_path / part / "kind=x" / "p.parquet", row_group_size=120)
    data = xd.data.open(tmp_path, "y")
    x, y = data.head(N)
    frame = TABLE.drop(columns="when").assign(year=np.repeat([2023, 2024], [300, 700]), kind="x")
    frame.loc[300:, "b"] = np.nan
    expected = TableEncoder.fit(frame.drop(columns="y"))
    assert data.features == expected.features
    assert np.allclose(x, expected.transform(frame))
    assert np.array_equal(y, Y)


def test_windows_mix_rows_from_all_over_their_length(shelf: Path) -> None:
    data = SOURCES["parquet"](shelf)
    data.window = 500
    first = epochs_of(data, 0)[0][:500]
    assert np.abs(np.diff(first)).mean() > 100


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_in_order_trains_as_the_arrays_do(backend: str, shelf: Path) -> None:
    data = SOURCES["npy"](shelf)
    one, other = network(data, backend=backend), network(data, backend=backend)
    options: dict[str, Any] = {"loss": "squared_error", "shuffle": False, "batch_size": 33, "epochs": 3}
    history = one.fit(data, **options)
    assert history["loss"] == other.fit(X, Y, **options)["loss"]
    assert bits(one) == bits(other)


def test_weights_come_with_the_rows(shelf: Path) -> None:
    weight = RNG.uniform(0.1, 3.0, N)
    data = xd.data.open(lambda: ((X[i : i + 50], Y[i : i + 50] / N, weight[i : i + 50]) for i in range(0, N, 50)))
    one, other = network(data), network(data)
    options: dict[str, Any] = {"loss": "squared_error", "shuffle": False, "batch_size": 33, "epochs": 3}
    one.fit(data, **options)
    other.fit(X, Y / N, sample_weight=weight, **options)
    assert np.allclose(one.predict(X), other.predict(X), rtol=1e-5)
    found = one.evaluate(data, metrics=["rmse"])
    expected = one.evaluate(X, Y / N, sample_weight=weight, metrics=["rmse"])
    assert found == pytest.approx(expected)
    frame = TABLE.assign(w=weight)
    frame.to_parquet(shelf / "weighted.parquet", row_group_size=100)
    weighted = xd.data.open(shelf / "weighted.parquet", "y", weight="w")
    plain = SOURCES["parquet"](shelf)
    assert weighted.features == plain.features
    assert network(weighted).evaluate(weighted, loss="squared_error") != network(plain).evaluate(plain,
                                                                                              loss="squared_error")


def test_a_generator_is_read_once() -> None:
    data = xd.data.open(batches(), rows=N)
    assert data.inputs == 3
    history = network(data).fit(data, loss="squared_error", epochs=1)
    assert history.steps == -(-N // 128)
    with pytest.raises(xd.DataError, match="read once, and it has been"):
        network(data).fit(data, loss="squared_error", epochs=1)
    large = xd.data.open(batches(), rows=N, window=50)
    with pytest.raises(xd.ParameterError, match="or epochs=1"):
        network(large).fit(large, loss="squared_error", epochs=2)
    assert network(large).fit(large, loss="squared_error", epochs=1).epochs == 1
    with pytest.raises(xd.ParameterError, match="pass a function that makes it"):
        xd.data.open(batches())


# --- what is learnt --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", ["parquet", "folder", "csv", "tsv"])
def test_what_a_pass_learns_is_what_the_whole_table_teaches(source: str, shelf: Path) -> None:
    data = SOURCES[source](shelf)
    frame = TABLE.drop(columns="when") if source in ("csv", "tsv") else TABLE
    expected = TableEncoder.fit(frame.drop(columns="y"))
    assert data.features == expected.features
    assert data.encoder is not None
    for found, column in zip(data.encoder.columns, expected.columns, strict=True):
        assert (found.name, type(found)) == (column.name, type(column))
        if hasattr(column, "mean"):
            assert (found.mean, found.scale) == pytest.approx((column.mean, column.scale), rel=1e-12)
        else:
            assert found == column
    assert data.encoder.notes == expected.notes or source in ("csv", "tsv") or "when" in data.encoder.notes[0]
    x, y = data.head(N)
    assert np.allclose(x, expected.transform(frame), rtol=1e-6)
    assert np.array_equal(y, Y)


def test_parts_are_disjoint_and_only_the_first_teaches(shelf: Path) -> None:
    parts = SOURCES["folder"](shelf).split(0.2, test=0.1, seed=3)
    rows = [part.targets() for part in parts]
    assert np.array_equal(np.sort(np.concatenate(rows)), Y)
    assert [part.rows for part in parts] == [len(r) for r in rows]
    assert 150 < parts[1].rows < 250
    assert 60 < parts[2].rows < 140
    taught = TABLE.iloc[np.sort(rows[0]).astype(int)]
    assert parts[2].features == TableEncoder.fit(taught.drop(columns="y")).features
    assert parts[0].encoder is not None
    number = parts[0].encoder.columns[0]
    assert number.mean == pytest.approx(taught["a"].mean())
    again = SOURCES["folder"](shelf).split(0.2, test=0.1, seed=3)
    assert np.array_equal(again[1].targets(), rows[1])


def test_more_categories_than_are_counted_keep_the_frequent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.data import table as module

    monkeypatch.setattr(module, "_MOST_COUNTED", 200)
    statistics = module.ColumnStatistics("c", "text")
    for i in range(50):
        rare = [f"rare {i} {k}" for k in range(40)]
        statistics.add(pandas.Series(["often"] * 20 + ["common"] * 10 + rare))
    column, notes = statistics.encoder()
    assert isinstance(column, module.Category)
    assert {"often", "common"} <= set(column.categories)
    assert len(statistics.counts) <= 240
    assert "more than" in notes[0]
    identifier = module.ColumnStatistics("id", "text")
    for i in range(50):
        identifier.add(pandas.Series([f"{i} {k}" for k in range(40)]))
    assert identifier.encoder()[0] is None


@pytest.mark.parametrize("text", [
    'a,name,y\n1,"x, and\ny",0\n2,z,1\n3,"say ""so""",0\n4,z,1\n',
    "\ufeffa,code,y\n1,007,0\n2,08,1\n\n3,7,0\n4,12,1\n",
    "a,b,y\r\n1,,0\r\n,True,1\r\n3,False,0\r\n4,True,1\r\n",
    "a,,y\n1,5,0\n2,6,1\n3,7,0\n4,8,1",
])
def test_a_csv_file_is_read_as_the_whole_file_would_be(text: str, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.data import csv

    monkeypatch.setattr(csv, "GROUP", 2)
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode())
    data, frame = xd.data.open(path, "y"), read(str(path)).frame
    assert [group.rows for group in data.source.groups] == [2, 2]
    expected = TableEncoder.fit(frame.drop(columns="y"))
    assert data.features == expected.features
    assert np.allclose(data.head()[0], expected.transform(frame))


def test_a_column_that_turns_to_text_late_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.data import csv

    monkeypatch.setattr(csv, "GROUP", 2)
    path = tmp_path / "t.csv"
    path.write_text("a,y\n1,0\n2,1\n1,0\nmany,1\n")
    assert xd.data.open(path, "y").features == ["a=1", "a=2", "a=many"]


def test_a_model_knows_the_tables_it_was_trained_on(shelf: Path, tmp_path: Path) -> None:
    data = SOURCES["parquet"](shelf)
    net = network(data)
    net.fit(data, loss="squared_error", epochs=1)
    net.save(tmp_path / "m")
    again = xd.load(tmp_path / "m")
    TABLE.drop(columns="y").iloc[:9].to_parquet(tmp_path / "new.parquet")
    new = xd.data.open(tmp_path / "new.parquet", like=again)
    assert np.allclose(again.predict(new), net.predict(data)[:9], rtol=1e-4, atol=1e-6)  # in parts of other sizes
    with pytest.raises(xd.TargetError, match="no target"):
        again.evaluate(new)
    assert again.evaluate(xd.data.open(shelf / "t.csv", like=again))["loss"] == pytest.approx(
        again.evaluate(data)["loss"], rel=1e-5)
    TABLE[["a", "y"]].to_parquet(tmp_path / "less.parquet")
    with pytest.raises(xd.DataError, match="has no column 'b'"):
        xd.data.open(tmp_path / "less.parquet", like=again)


# --- predictions -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_predictions_go_to_a_file_as_they_are_made(ending: str, shelf: Path, tmp_path: Path) -> None:
    frame = TABLE.assign(y=np.where(TABLE["a"] > 20, "old", "new"))
    frame.to_parquet(tmp_path / "c.parquet", row_group_size=300)
    data = xd.data.open(tmp_path / "c.parquet", "y")
    net = network(data)
    net.fit(data, loss="binary_cross_entropy", epochs=2)
    out = tmp_path / f"p.{ending}"
    assert net.predict(data, out=out) == N
    found = pandas.read_csv(out) if ending == "csv" else pandas.read_parquet(out)
    p = net.predict(data)[:, 0]
    assert list(found.columns) == ["prediction", "probability_new", "probability_old"]
    assert np.allclose(found["probability_old"], p)
    assert list(found["prediction"]) == list(np.where(p >= 0.5, "old", "new"))
    arrays = SOURCES["npy"](shelf)
    other = xd.DenseNetwork([xd.Dense(2)], inputs=3)
    assert other.predict(arrays, out=out) == N
    found = pandas.read_csv(out) if ending == "csv" else pandas.read_parquet(out)
    assert list(found.columns) == ["output_0", "output_1"]


def test_predictions_that_fail_leave_the_file_that_was_there(tmp_path: Path) -> None:
    def failing() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        yield X[:600], Y[:600]
        raise RuntimeError("the cable is out")

    (tmp_path / "p.csv").write_text("mine")
    data = xd.data.open(failing, rows=N)
    with pytest.raises(xd.DataError, match="the cable is out"):
        network(data).predict(data, out=tmp_path / "p.csv")
    assert (tmp_path / "p.csv").read_text() == "mine"
    assert os.listdir(tmp_path) == ["p.csv"]
    with pytest.raises(xd.OutputError, match="there is no folder"):
        network(data).predict(data, out=tmp_path / "new" / "p.csv")


# --- what goes wrong -------------------------------------------------------------------------------------------

def fails(data: xd.data.Stream, match: str, error: type[Exception] = xd.DataError) -> None:
    """A training fails so, and leaves no thread behind."""
    before = threading.active_count()
    with pytest.raises(error, match=match):
        network(data).fit(data, loss="squared_error", epochs=3, batch_size=10)
    assert threading.active_count() == before


def test_an_error_in_the_reader_names_file_and_row_group(tmp_path: Path) -> None:
    frame = TABLE.copy()
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=100)
    data = xd.data.open(tmp_path / "t.parquet", "y", window=50)
    assert data.inputs
    frame.loc[731, "y"] = np.nan
    frame.to_parquet(tmp_path / "bad.parquet", row_group_size=100)
    bad = xd.data.open(tmp_path / "bad.parquet", "y", like=data, window=50)
    fails(bad, r"bad\.parquet, row group 7: .*have no target", xd.TargetError)
    frame.loc[731, "y"], frame.loc[345, "a"] = 1.0, np.inf
    frame.to_parquet(tmp_path / "bad.parquet", row_group_size=100)
    bad = xd.data.open(tmp_path / "bad.parquet", "y", like=data, window=50)
    fails(bad, r"bad\.parquet, row group 3: column 'a' holds inf \(row 46\)", xd.NonFiniteDataError)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "t.parquet", row_group_size=500)
    data = xd.data.open(tmp_path / "t.parquet", "y", window=50)
    assert data.inputs
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:6000] = b"\xff" * 5996
    (tmp_path / "t.parquet").write_bytes(content)
    again = xd.data.open(tmp_path / "t.parquet", "y", like=data, window=50)
    fails(again, r"t\.parquet, row group 0")


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "x.npy"])
def test_a_file_that_changes_under_the_reader_is_an_error(name: str, shelf: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "x.npy":
        np.save(path, X)
        data = xd.data.open(path, Y, window=50)
    elif name == "t.csv":
        TABLE.to_csv(path, index=False)
        data = xd.data.open(path, "y", window=50)
    else:
        TABLE.to_parquet(path, row_group_size=100)
        data = xd.data.open(path, "y", window=50)
    assert data.inputs
    content = path.read_bytes()
    path.write_bytes(content + b"\n")
    fails(data, "changed while it was used")
    path.unlink()
    fails(data, "is gone")


def test_batches_that_are_fewer_than_said_are_an_error() -> None:
    fails(xd.data.open(batches(), rows=N + 7), "changed while it was used")
    length = 13
    data = xd.data.open(lambda: list(batches())[:length], window=20)
    assert data.rows == N
    length = 5
    fails(data, "had 1,000")


@pytest.mark.parametrize(("batch", "match"), [
    ("text", "is not .x, y."), ((X[:5],) * 4, "is not .x, y."), ((X[:5], Y[:4]), "rows"),
    ((X[:5].astype(str), Y[:5]), "text"), ((np.full((5, 3), np.nan), Y[:5]), "holds nan"),
    ((X[:5, :2], Y[:5]), "takes 3"), ((X[:5], Y[:5], -np.ones(5)), "negative"),
])
def test_a_bad_batch_is_named(batch: Any, match: str) -> None:
    def spoiled() -> Iterator[Any]:
        yield X[:100], Y[:100], np.ones(100)
        yield batch

    data = xd.data.open(spoiled, rows=105, window=20)
    fails(data, f"the iterable: .*{match}", (xd.DataError, xd.ArrayTypeError))  # type: ignore[arg-type]


# --- reading ahead ---------------------------------------------------------------------------------------------

def test_reading_goes_ahead_by_a_bounded_number_in_another_thread() -> None:
    made, threads = [], set()

    def items() -> Iterator[int]:
        for i in range(100):
            threads.add(threading.current_thread().name)
            made.append(i)
            yield i

    reader = prefetched(items(), depth=2)  # type: ignore[arg-type]
    assert next(reader) == 0
    time.sleep(0.3)
    assert len(made) == 4  # one is taken, two wait, one more is in the reader's hands
    assert threads == {"xpdense reader"}
    assert list(reader) == list(range(1, 100))


def test_closing_ends_the_reader_and_closes_what_it_reads() -> None:
    closed = []

    def items() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    reader = prefetched(items())  # type: ignore[arg-type]
    next(reader)
    reader.close()
    assert closed == [True]
    assert not [thread for thread in threading.enumerate() if thread.name == "xpdense reader"]


def test_an_error_comes_after_what_came_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    reader = prefetched(items())  # type: ignore[arg-type]
    assert [next(reader), next(reader)] == [1, 2]
    with pytest.raises(OSError, match="gone"):
        next(reader)


def test_an_interrupted_training_leaves_no_thread(shelf: Path) -> None:
    class Interrupt(xd.Callback):
        def on_pause(self, run: Any) -> None:
            raise KeyboardInterrupt

    data = SOURCES["folder"](shelf)
    data.window = 64
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        network(data).fit(data, loss="squared_error", epochs=2, callbacks=[Interrupt()])
    assert threading.active_count() == before


_MEMORY = """
import sys
import xpdense as xd

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

data = xd.data.open(sys.argv[1], "y")
net = xd.DenseNetwork([xd.Dense(16, "relu"), xd.Dense(1)], inputs=data.inputs)
train, held = data.split(0.1)
net.fit(train, loss="squared_error", epochs=2, validation=held, batch_size=256)
net.evaluate(held)
net.predict(data, out=sys.argv[2])
print(peak(), data.rows)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_ten_times_the_rows_take_the_same_memory(ending: str, tmp_path: Path) -> None:
    rows = 3_000_000 if ending == "parquet" else 60_000  # a tenth of which fills the windows
    frame = pandas.DataFrame({name: RNG.standard_normal(rows).round(3) for name in "abcde"})
    frame = frame.assign(kind=RNG.choice(["u", "v", "w"], rows), y=frame["a"] - frame["b"])
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.{ending}"
        part = frame if times == 10 else frame.iloc[: rows // 10]
        if ending == "csv":
            part = pandas.concat([part] * 5)
            part.to_csv(path, index=False)
        else:
            part.to_parquet(path, row_group_size=50_000)
        result = subprocess.run([sys.executable, "-c", _MEMORY, str(path), str(tmp_path / "p.parquet")],
                                capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        peak, count = map(int, result.stdout.split())
        assert count == len(part)
        peaks.append(peak)
    assert peaks[1] < 1.1 * peaks[0], peaks


# --- estimators ------------------------------------------------------------------------------------------------

def test_a_classifier_fits_a_stream(shelf: Path, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    frame = TABLE.assign(y=np.where(TABLE["a"] > 20, "old", "new"))
    frame.to_parquet(tmp_path / "c.parquet", row_group_size=300)
    data = xd.data.open(tmp_path / "c.parquet", "y")
    found = xd.MLPClassifier((16,), max_iter=60, random_state=0, learning_rate_init=0.01, tol=0.0,
                             n_iter_no_change=100)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        found.fit(data)
    assert list(found.classes_) == ["new", "old"]
    assert found.n_features_in_ == data.inputs
    assert found.score(data) > 0.97
    assert list(found.predict(data)) == list(found.predict(frame.drop(columns="y")))
    assert np.allclose(found.predict_proba(data), found.predict_proba(data.head(N)[0].astype(np.float32)), atol=1e-5)
    train, held = data.split(0.2)
    stopped = xd.MLPClassifier((16,), max_iter=200, random_state=0, learning_rate_init=0.01, early_stopping=True)
    stopped.fit(train, X_val=held)
    assert stopped.best_validation_score_ > 0.95
    assert stopped.fit(data).validation_scores_


def test_a_stream_in_order_fits_an_estimator_as_its_arrays_do() -> None:
    pytest.importorskip("sklearn")
    y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0)
    options: dict[str, Any] = {"max_iter": 4, "random_state": 3, "shuffle": False}
    one, other = xd.MLPClassifier((8,), **options), xd.MLPClassifier((8,), **options)
    for estimator, data in ((one, (xd.data.open(X, y),)), (other, (X, y))):
        with pytest.warns(UserWarning, match="Maximum iterations"):
            estimator.fit(*data)
    assert one.loss_curve_ == pytest.approx(other.loss_curve_, rel=1e-6)
    assert np.array_equal(one.classes_, other.classes_)
    target = np.stack([X[:, 0], X[:, 1] * 2], axis=1)
    first = xd.MLPRegressor(hidden_layer_sizes=(8,), **options)
    second = xd.MLPRegressor(hidden_layer_sizes=(8,), **options)
    for regressor, data in ((first, (xd.data.open(X, target),)), (second, (X, target))):
        with pytest.warns(UserWarning, match="Maximum iterations"):
            regressor.fit(*data)
    assert np.allclose(first.predict(X), second.predict(X), rtol=1e-5)
    assert first.score(xd.data.open(X, target)) == pytest.approx(second.score(X, target), rel=1e-5)


@pytest.mark.parametrize(("options", "fit", "match"), [
    ({"class_weight": "balanced"}, {}, "class_weight"), ({"categorical_features": [0]}, {}, "categorical_features"),
    ({}, {"y": Y}, "does not go with y"), ({}, {"sample_weight": np.ones(N)}, "sample_weight"),
    ({}, {"X_val": X, "y_val": Y}, "X_val must be a data set"),
])
def test_what_does_not_go_with_a_stream_is_said(options: Any, fit: Any, match: str) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(xd.ParameterError, match=match):
        xd.MLPClassifier((4,), **options).fit(xd.data.open(X, Y > 500), **fit)


def test_csv_groups_lie_where_the_index_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.data import csv

    monkeypatch.setattr(csv, "GROUP", 3)
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f'{i},"x\n{i}"\n' for i in range(10)))
    source = CsvSource(path)
    assert [group.rows for group in source.groups] == [3, 3, 3, 1]
    values = [list(chunk["a"]) for group in reversed(source.groups) for chunk in source.read(group, ["a"])]
    assert values == [[9.0], [6.0, 7.0, 8.0], [3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]
    assert source.groups[1].label.endswith("rows 4 to 6")


@pytest.mark.parametrize("window", [None, 128])
def test_a_stream_is_trained_on_by_a_device(window: int | None, cuda_backend: Any, shelf: Path) -> None:
    """A GPU, or a CPU that plays one."""
    data = SOURCES["npy"](shelf)
    data.window = window
    options: dict[str, Any] = {"loss": "squared_error", "batch_size": 33, "epochs": 2}
    device, host = network(data, backend="cupy"), network(data)
    losses = device.fit(data, **options)["loss"], host.fit(data, **options)["loss"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert np.allclose(np.asarray(device.predict(data)), host.predict(data), atol=1e-4)
    assert device.evaluate(data)["loss"] == pytest.approx(host.evaluate(data)["loss"], rel=1e-4)


@pytest.mark.parametrize(("bad", "match"), [("weight", "must not be negative"), ("y", "from 0 to 1, got -1")])
def test_what_is_wrong_in_the_last_batch_is_said_before_the_first_step(bad: str, match: str) -> None:
    x, y, weight = np.ones((30, 2)), np.arange(30) % 2, np.ones(30)
    (weight if bad == "weight" else y)[-1] = -1
    net = xd.DenseNetwork([xd.Dense(1)], inputs=2)
    before = {name: np.array(value) for name, value in net.params.items()}
    batches = [(x[i : i + 10], y[i : i + 10], weight[i : i + 10]) for i in (0, 10, 20)]
    made = []

    class Steps(xd.Callback):
        def on_step_end(self, run: Any) -> None:
            made.append(run.step)

    with pytest.raises(xd.DataError, match=match):
        net.fit(xd.data.open(batches, window=10), loss="binary_cross_entropy", epochs=2, batch_size=5, shuffle=False,
                callbacks=[Steps()])
    assert not made
    assert all(np.array_equal(net.params[name], value) for name, value in before.items())
