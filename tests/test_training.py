"""Training: what an epoch is, what is recorded, who gets a say, and what happens when the loss is no number."""

from __future__ import annotations

import csv
import math
import pickle
import sys
import threading
import tracemalloc
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits

import xpdense as xd
from xpdense import model
from xpdense.activations import ACTIVATIONS
from xpdense.backend import Backend
from xpdense.data.arrays import Rows
from xpdense.data.feeding import Batches, InMemory
from xpdense.errors import LayerExtremes
from xpdense.initializers import normal
from xpdense.losses import as_loss
from xpdense.network import Network
from xpdense.optimizers import as_optimizer
from xpdense.step import TrainStep
from xpdense.training import Loop

RNG = np.random.default_rng(7)
X = RNG.standard_normal((50, 3)).astype(np.float32)
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3).astype(np.float32)  # (50, 1)
LABELS = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)  # (50,) in 0..2
WEIGHT = RNG.uniform(0.1, 2.0, 50).astype(np.float32)

BACKENDS = ["numpy", "torch", "array_api_strict:device1"]


@pytest.fixture(params=BACKENDS)
def place(request: pytest.FixtureRequest) -> str:
    if find_spec(request.param.partition(":")[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture(params=["each step", "bursts"])
def look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How often the losses are looked at: at each step on the host, after a burst on a device."""
    if request.param == "bursts":
        monkeypatch.setattr(Backend, "on_host", property(lambda self: False))
    return request.param


def network(*layers: xd.Layer, **options: Any) -> xd.DenseNetwork:
    return xd.DenseNetwork(list(layers) or [xd.Dense(6, "tanh"), xd.Dense(1)], **{"inputs": 3, "seed": 3} | options)


def fit(net: xd.DenseNetwork, **options: Any) -> xd.History:
    return net.fit(**{"x": X, "y": Y, "loss": "squared_error", "epochs": 3, "batch_size": 16} | options)


def shuffled(epoch: int, rows: int = 50, batch_size: int = 16, seed: int = 3) -> list[np.ndarray]:
    """The batches of an epoch, as documented: drawn by the seed and the epoch, the last one smaller."""
    order = np.random.default_rng([seed, 1, epoch]).permutation(rows)
    return [order[i : i + batch_size] for i in range(0, rows, batch_size)]


def by_hand(net: xd.DenseNetwork, batches: Sequence[np.ndarray], optimizer: xd.Optimizer, total: int,
            weight: np.ndarray | None = None) -> list[float]:
    """A training made of single steps; the losses of its batches."""
    put, loss = net.backend.from_host, as_loss("squared_error")
    state, losses = optimizer.begin(net.arena), []
    for step, rows in enumerate(batches):
        batch = Rows(put(X[rows]), put(Y[rows]), None if weight is None else put(weight[rows]))
        rate = optimizer.learning_rate(step, total)
        losses.append(float(TrainStep(net, loss, state)(batch, step, rate)))
    return losses


# --- the history -----------------------------------------------------------------------------------------------

def test_history_has_one_number_per_epoch_under_every_name() -> None:
    net = network(xd.Dense(6, "tanh"), xd.Dense(3))
    history = fit(net, y=LABELS, loss="softmax_cross_entropy", validation=(X, LABELS), metrics=["accuracy", "log_loss"])
    assert list(history) == ["loss", "validation_loss", "validation_accuracy", "validation_log_loss", "learning_rate",
                             "seconds", "rows_per_second"]
    assert all(len(values) == 3 and all(type(v) is float for v in values) for values in history.values())
    assert history.epochs == 3
    assert len(history) == 7
    assert history["learning_rate"] == [1e-3] * 3
    assert all(s > 0 for s in history["seconds"])
    assert history["rows_per_second"] == [50 / s for s in history["seconds"]]
    np.testing.assert_allclose(history["validation_loss"], history["validation_log_loss"], rtol=1e-5)


def test_metrics_without_validation_are_those_of_the_training_rows_after_the_epoch() -> None:
    net = network()
    history = fit(net, metrics=["rmse"], epochs=1)
    assert list(history) == ["loss", "rmse", "learning_rate", "seconds", "rows_per_second"]
    assert history["rmse"][0] == pytest.approx(math.sqrt(np.mean((net.predict(X) - Y) ** 2)), rel=1e-5)


def test_validation_loss_is_that_of_evaluate_after_the_epoch() -> None:
    net = network()
    history = fit(net, validation=(X[:20], Y[:20], WEIGHT[:20]), metrics=["mae"])
    measured = net.evaluate(X[:20], Y[:20], sample_weight=WEIGHT[:20], metrics=["mae"])
    assert history["validation_loss"][-1] == measured["loss"]
    assert history["validation_mae"][-1] == measured["mae"]
    residual = (net.predict(X[:20]) - Y[:20])[:, 0]
    assert measured["loss"] == pytest.approx(np.average(residual**2, weights=WEIGHT[:20]), rel=1e-5)
    assert measured["mae"] == pytest.approx(np.average(np.abs(residual), weights=WEIGHT[:20]), rel=1e-5)


def test_learning_rate_of_the_history_is_that_of_the_last_step_of_each_epoch() -> None:
    from xpdense.schedules import Exponential

    history = fit(network(), optimizer=xd.SGD(Exponential(0.01, 0.9)))
    assert history["learning_rate"] == [0.01 * 0.9**step for step in (3, 7, 11)]


def test_a_plateau_of_the_validation_loss_lowers_the_learning_rate() -> None:
    schedule = xd.ReduceOnPlateau(1e-9, factor=0.5, patience=1, tolerance=1.0)
    history = fit(network(), optimizer=xd.SGD(schedule), validation=(X, Y), epochs=5)
    assert history["learning_rate"] == [1e-9, 1e-9, 1e-9, 0.5e-9, 0.5e-9]
    assert fit(network(), optimizer=xd.SGD(schedule), epochs=1)["learning_rate"] == [1e-9], "it begins anew"


def test_to_frame_and_to_csv_hold_the_numbers_of_the_history(tmp_path: Path) -> None:
    history = fit(network(), validation=0.2)
    frame = history.to_frame()
    assert list(frame.index) == [1, 2, 3]
    assert frame.index.name == "epoch"
    assert {name: list(frame[name]) for name in frame} == dict(history)
    history.to_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {name: [float(row[name]) for row in rows] for name in history} == dict(history)


def test_plot_draws_every_curve_and_writes_a_picture(tmp_path: Path) -> None:
    history = fit(network(), validation=0.2, metrics=["rmse"])
    figure = history.plot()
    drawn = {a.get_ylabel(): {line.get_label(): list(line.get_ydata()) for line in a.lines} for a in figure.axes}
    assert drawn == {"loss": {"training": history["loss"], "validation": history["validation_loss"]},
                     "rmse": {"validation": history["validation_rmse"]}}
    history.plot(tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes().startswith(b"\x89PNG")
    assert "matplotlib.pyplot" not in sys.modules or figure.number is None  # no window, no global state


def test_plot_of_a_loss_that_is_not_positive_has_a_linear_axis() -> None:
    history = xd.History()
    history.append(loss=1.0)
    history.append(loss=-0.5)
    assert history.plot().axes[0].get_yscale() == "linear"


# --- what an epoch is ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_fit_is_its_steps_with_the_last_smaller_batch(name: str, weight: np.ndarray | None, place: str,
                                                      look: str) -> None:
    fitted, stepped = network(backend=place), network(backend=place)
    history = fit(fitted, optimizer=name, sample_weight=weight)
    batches = [rows for epoch in range(3) for rows in shuffled(epoch)]
    assert [len(rows) for rows in batches[:4]] == [16, 16, 16, 2]
    losses = by_hand(stepped, batches, as_optimizer(name), 12, weight=weight)
    assert bits(fitted) == bits(stepped)
    sizes = [len(rows) if weight is None else weight[rows].sum(dtype=np.float64) for rows in batches]
    means = [np.average(losses[i : i + 4], weights=sizes[i : i + 4]) for i in (0, 4, 8)]
    np.testing.assert_allclose(history["loss"], means, rtol=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_a_step_goes_down_the_gradient_of_the_batchs_mean(weight: np.ndarray | None, place: str) -> None:
    """A linear model by hand in NumPy: nothing of the library but the order of the rows."""
    net = network(xd.Dense(2), backend=place, dtype="float64")
    y = np.concatenate([Y, -Y], axis=1).astype(np.float64)
    w, b = net.arena.to_host()["0.weight"], np.zeros(2)
    means = []
    for epoch in range(3):
        losses, sizes = [], []
        for rows in shuffled(epoch):
            share = np.full(len(rows), 1 / len(rows)) if weight is None else weight[rows] / weight[rows].sum()
            x = X[rows].astype(np.float64)
            e = x @ w + b - y[rows]
            losses.append(share @ np.mean(e * e, axis=1))
            sizes.append(len(rows) if weight is None else weight[rows].sum())
            dz = e * share[:, None]  # of mean((z - y)**2) over the two outputs
            w, b = w - 0.05 * x.T @ dz, b - 0.05 * dz.sum(axis=0)
        means.append(np.average(losses, weights=sizes))
    history = fit(net, y=y, sample_weight=weight, optimizer=xd.SGD(0.05))
    np.testing.assert_allclose(history["loss"], means, rtol=1e-6)
    np.testing.assert_allclose(net.arena.to_host()["0.weight"], w, rtol=1e-6)
    np.testing.assert_allclose(net.arena.to_host()["0.bias"], b, rtol=1e-6)


def test_epoch_loss_is_the_mean_over_rows_not_over_batches() -> None:
    net = network()
    before = net.evaluate(X, Y, loss="squared_error")["loss"]
    history = fit(net, optimizer=xd.SGD(1e-30), epochs=1, batch_size=49)  # a batch of 49 rows and one of a single row
    assert history["loss"][0] == pytest.approx(before, rel=1e-6)
    weighted = net.evaluate(X, Y, loss="squared_error", sample_weight=WEIGHT)["loss"]
    history = fit(net, optimizer=xd.SGD(1e-30), epochs=1, batch_size=49, sample_weight=WEIGHT)
    assert history["loss"][0] == pytest.approx(weighted, rel=1e-6)


def test_without_shuffling_batches_are_the_rows_in_order() -> None:
    fitted, stepped = network(), network()
    fit(fitted, optimizer="sgd", shuffle=False, epochs=2)
    batches = [np.arange(50)[i : i + 16] for i in range(0, 50, 16)] * 2
    by_hand(stepped, batches, as_optimizer("sgd"), 8)
    assert bits(fitted) == bits(stepped)


def test_shuffled_epochs_have_orders_of_their_own_that_the_seed_repeats() -> None:
    class Spy(xd.Layer):
        def forward(self, ops: Any, x: Any, tape: Any) -> Any:
            if tape.train:
                seen.extend(np.asarray(x)[:, 0].tolist())
            return x

        def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
            return dy

    orders = []
    for seed in (3, 3, 4):
        seen: list[float] = []
        fit(network(Spy(), xd.Dense(1), seed=seed), epochs=2)
        orders.append((seen[:50], seen[50:]))
        assert sorted(seen[:50]) == sorted(seen[50:]) == sorted(X[:, 0].tolist())
    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    assert orders[0][0] != orders[2][0]


def test_a_batch_larger_than_the_data_is_the_data() -> None:
    whole, huge = network(), network()
    fit(whole, batch_size=50)
    fit(huge, batch_size=10**12)
    assert bits(whole) == bits(huge)


def test_a_single_row_trains() -> None:
    history = fit(network(), x=X[:1], y=Y[:1], optimizer=xd.Adam(0.05), epochs=50)
    assert history["loss"][-1] < 0.01 * history["loss"][0]


@pytest.mark.parametrize(("rows", "batch_size", "epochs"), [(50, 16, 1250), (50, 7, 625), (50, 50, 5000), (50, 1, 100)])
def test_default_number_of_epochs_makes_5000_steps(rows: int, batch_size: int, epochs: int) -> None:
    assert model.default_epochs(-(-rows // batch_size)) == epochs


def test_default_number_of_epochs_is_at_least_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_STEPS", 20)
    assert fit(network(), epochs=None, batch_size=5).epochs == 10
    assert fit(network(), epochs=None, batch_size=50).epochs == 20


def test_fitting_again_goes_on_from_the_weights_with_a_fresh_optimizer() -> None:
    twice, stepped = network(), network()
    optimizer = xd.Momentum(0.05)
    fit(twice, optimizer=optimizer, epochs=1)
    fit(twice, optimizer=optimizer, epochs=1)
    for _ in range(2):
        by_hand(stepped, shuffled(0), xd.Momentum(0.05), 4)
    assert bits(twice) == bits(stepped)


def test_fitting_again_with_another_loss_and_more_rows_works() -> None:
    net = network()
    fit(net, epochs=1)
    fit(net, x=X[:7], y=np.abs(Y[:7]), loss="poisson", epochs=1, optimizer="rmsprop")
    assert net.loss is not None
    assert net.loss.name == "poisson"
    assert np.all(net.predict(X) > 0)


# --- validation and weights ------------------------------------------------------------------------------------

def test_held_out_rows_are_not_trained_on() -> None:
    x = np.repeat(np.arange(40.0, dtype=np.float32)[:, None], 3, axis=1)  # a row's number is its feature
    trained, measured = set(), set()

    class Spy(xd.Layer):
        def forward(self, ops: Any, x: Any, tape: Any) -> Any:
            (trained if tape.train else measured).update(np.asarray(x)[:, 0].tolist())
            return x * 0.01

        def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
            return dy * 0.01

    history = fit(network(Spy(), xd.Dense(1)), x=x, y=x[:, :1], validation=0.25)
    assert len(measured) == 10
    assert len(trained) == 30
    assert not trained & measured
    assert len(history["validation_loss"]) == 3
    assert measured not in (set(range(30, 40)), set(range(10))), "drawn at random"


def test_validation_takes_lists_and_any_namespace() -> None:
    expected = fit(network(), validation=(X, Y))["validation_loss"]
    assert fit(network(), validation=[X.tolist(), Y.tolist()])["validation_loss"] == expected


def test_rows_of_weight_zero_have_no_influence() -> None:
    weight = np.where(np.arange(50) % 3 == 0, 0.0, WEIGHT).astype(np.float32)
    outliers_x, outliers_y = X.copy(), Y.copy()
    outliers_x[weight == 0], outliers_y[weight == 0] = 1e3, -1e6
    clean, spoilt = network(), network()
    first = fit(clean, sample_weight=weight, validation=(X, Y, weight))
    second = fit(spoilt, x=outliers_x, y=outliers_y, sample_weight=weight, validation=(outliers_x, outliers_y, weight))
    assert bits(clean) == bits(spoilt)
    assert first["loss"] == second["loss"]
    np.testing.assert_allclose(first["validation_loss"], second["validation_loss"], rtol=1e-6)


def test_a_weight_counts_as_that_many_rows() -> None:
    repeats = np.arange(50) % 3 + 1
    weighted, repeated = network(), network()
    fit(weighted, sample_weight=repeats.astype(float), batch_size=50, optimizer="sgd")
    fit(repeated, x=np.repeat(X, repeats, axis=0), y=np.repeat(Y, repeats, axis=0), batch_size=1000, optimizer="sgd")
    for name, value in weighted.arena.to_host().items():
        np.testing.assert_allclose(value, repeated.arena.to_host()[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**60, 2.0**127])
def test_only_the_ratio_of_weights_matters(scale: float) -> None:
    plain, scaled = network(), network()
    weight = np.where(np.arange(50) % 2 == 0, 0.5, 1.0)
    first = fit(plain, sample_weight=weight)["loss"]
    second = fit(scaled, sample_weight=weight * scale)["loss"]
    np.testing.assert_allclose(second, first, rtol=1e-6)
    assert bits(plain) == bits(scaled), "a power of two changes no rounding"


def test_a_batch_whose_weights_are_all_zero_changes_nothing() -> None:
    weight = np.zeros(50, np.float32)
    weight[0] = 1.0
    net, single = network(), network()
    fit(net, sample_weight=weight, optimizer="sgd", epochs=1, shuffle=False)
    by_hand(single, [np.arange(1)], as_optimizer("sgd"), 4)
    for name, value in net.arena.to_host().items():
        np.testing.assert_allclose(value, single.arena.to_host()[name], rtol=1e-6, atol=1e-8)


def test_a_matrix_or_a_memory_map_is_the_array_of_its_numbers(tmp_path: Path) -> None:
    import warnings

    expected = network(xd.Dense(5, "gelu"), xd.BatchNorm(), xd.Dense(1))
    fit(expected)
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    mapped[:] = X
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix_x, matrix_y = np.matrix(X), np.matrix(Y)  # as `todense` of a sparse matrix gives them
    for x, y in ((mapped, Y), (matrix_x, matrix_y)):
        net = network(xd.Dense(5, "gelu"), xd.BatchNorm(), xd.Dense(1))
        fit(net, x=x, y=y)
        assert bits(net) == bits(expected)
        assert type(net.predict(x)) is np.ndarray


def test_tensors_that_require_gradients_train_and_predict() -> None:
    torch = pytest.importorskip("torch")
    expected, net = network(backend="torch"), network()
    fit(expected)
    fit(net, x=torch.tensor(X, requires_grad=True), y=torch.tensor(Y, requires_grad=True))
    assert bits(net) == bits(expected)
    prediction = net.predict(torch.tensor(X, requires_grad=True))
    assert not prediction.requires_grad


# --- callbacks -------------------------------------------------------------------------------------------------

class Noting(xd.Callback):
    """Writes down what it is told."""

    def __init__(self, log: list[Any], name: str = "a", fail_at: tuple[str, int] | None = None,
                 error: type[BaseException] = KeyboardInterrupt) -> None:
        self.log, self.name, self.fail_at, self.error = log, name, fail_at, error

    def _note(self, hook: str, number: int) -> None:
        self.log.append((self.name, hook, number))
        if self.fail_at == (hook, number):
            raise self.error

    def on_train_begin(self, run: Any) -> None:
        self._note("begin", run.epochs)

    def on_step_end(self, run: Any) -> None:
        self._note("step", run.step)

    def on_epoch_end(self, run: Any) -> None:
        self._note("epoch", run.epoch)
        assert run.history.epochs == run.epoch + 1, "the row of the history is written before"

    def on_train_end(self, run: Any) -> None:
        self._note("end", run.epoch)


def test_callbacks_are_called_in_order(look: str) -> None:
    log: list[Any] = []
    fit(network(), callbacks=[Noting(log, "a"), Noting(log, "b")], epochs=2, batch_size=25)
    expected = [("begin", 2), ("step", 0), ("step", 1), ("epoch", 0), ("step", 2), ("step", 3), ("epoch", 1),
                ("end", 1)]
    assert log == [(name, *event) for event in expected for name in ("a", "b")]


@pytest.mark.parametrize("fail_at", [("begin", 2), ("step", 1), ("epoch", 0)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_callbacks_that_have_begun_are_told_of_the_end_however_it_comes(fail_at: tuple[str, int],
                                                                        error: type[BaseException]) -> None:
    log: list[Any] = []
    with pytest.raises(error):
        fit(network(), callbacks=[Noting(log, "a"), Noting(log, "b", fail_at, error)], epochs=2, batch_size=25)
    begun = {name for name, hook, _ in log if hook == "begin"} - ({"b"} if fail_at[0] == "begin" else set())
    assert {name for name, hook, _ in log if hook == "end"} == begun


class Failing(Noting):
    """Also notes `on_failure`, and raises in its last hooks."""

    def on_failure(self, run: Any, error: Exception) -> None:
        self.log.append((self.name, "failure", error))

    def on_train_end(self, run: Any) -> None:
        super().on_train_end(run)
        raise RuntimeError(f"the end of {self.name}")


def test_every_callback_ends_whatever_another_one_raised() -> None:
    log: list[Any] = []
    with pytest.raises(RuntimeError, match="the end of a") as caught:
        fit(network(), callbacks=[Failing(log, "a"), Failing(log, "b"), Noting(log, "c")], epochs=1, batch_size=50)
    assert [name for name, hook, _ in log if hook == "end"] == ["a", "b", "c"]
    assert "the end of b" in caught.value.__notes__[0]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_callbacks_are_told_of_an_error_before_the_end_and_of_an_interrupt_only_by_the_end(
        error: type[BaseException]) -> None:
    log: list[Any] = []
    with pytest.raises(RuntimeError, match="the end of a"):
        fit(network(), callbacks=[Failing(log, "a"), Noting(log, "b", ("epoch", 0), error)], epochs=2, batch_size=50)
    told = [hook for name, hook, _ in log if name == "a"]
    assert told == ["begin", "step", "epoch", *(["failure"] if error is ZeroDivisionError else []), "end"]


def test_a_loss_that_is_not_finite_is_told_with_good_weights_in_place() -> None:
    seen: list[Any] = []

    class Told(xd.Callback):
        def on_failure(self, run: Any, error: Exception) -> None:
            seen.append((error, bits(run.network)))

    net = network()
    start = bits(net)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=xd.SGD(1e30), callbacks=[Told()])
    assert seen == [(caught.value, start)]


def test_after_a_failure_the_optimizer_counts_the_steps_of_the_weights_that_are_put_back() -> None:
    class Late(xd.Schedule):
        def __call__(self, step: int, total: int) -> float:
            return 1e-3 if step < 40 else 1e30

    net, loss = network(dtype="float32"), as_loss("squared_error")
    rows = Rows(X.astype(np.float32), Y.astype(np.float32), None)
    state = xd.Adam(Late()).begin(net.arena)
    with pytest.raises(xd.NonFiniteLossError) as caught, np.errstate(all="ignore"):
        Loop(net, InMemory(rows, Batches(50, 5, 0)), loss=loss, optimizer=state.optimizer, epochs=9,
             state=state).train()
    assert state.steps == caught.value.restored_step < caught.value.step


def test_stop_ends_the_training_after_the_epoch() -> None:
    class Stop(xd.Callback):
        def on_step_end(self, run: Any) -> None:
            run.stop = run.stop or run.epoch == 1

    assert fit(network(), callbacks=[Stop()], epochs=10).epochs == 2


def test_one_callback_needs_no_list() -> None:
    log: list[Any] = []
    fit(network(), callbacks=Noting(log), epochs=1)
    assert log[-1] == ("a", "end", 0)


class Scripted:
    """A metric that gives these values, epoch by epoch, and keeps the network's weights at each."""

    __name__ = "scripted"

    def __init__(self, values: Sequence[float]) -> None:
        self.values, self.weights = list(values), list[dict[str, bytes]]()
        self.net: xd.DenseNetwork | None = None

    def __call__(self, target: np.ndarray, prediction: np.ndarray) -> float:
        assert self.net is not None
        self.weights.append(bits(self.net))
        return self.values[len(self.weights) - 1]


def scripted(values: Sequence[float], greater: bool,
             **options: Any) -> tuple[xd.DenseNetwork, xd.EarlyStopping, Scripted, int]:
    """A training whose monitored metric takes these values."""
    metric = Scripted(values)
    net = metric.net = network(xd.Dense(4, "tanh"), xd.BatchNorm(), xd.Dense(1))
    stopping = xd.EarlyStopping("validation_scripted", patience=2, **options)
    history = fit(net, epochs=len(values), validation=(X, Y), callbacks=[stopping],
                  metrics=[xd.Metric("scripted", "values", metric, greater)])
    return net, stopping, metric, history.epochs


@pytest.mark.parametrize(("values", "greater", "best", "epochs"), [
    ([3.0, 2.0, 1.0, 1.5, 2.0, 0.0], False, 2, 5),
    ([3.0, 2.0, 4.0, 3.5, 3.9, 9.0], True, 2, 5),
    ([3.0, 2.0, 4.0, 3.5, 9.0], True, 4, 5),
    ([5.0, 5.0, 5.0, 1.0], False, 0, 3),
    ([-3.0, -4.0, -5.0, -4.5, -4.9, -9.0], False, 2, 5),
], ids=["least", "greatest", "never stopped", "equal is no better", "negative"])
def test_early_stopping_stops_and_puts_the_best_weights_back(values: list[float], greater: bool, best: int,
                                                             epochs: int) -> None:
    net, stopping, metric, run = scripted(values, greater)
    assert run == epochs
    assert (stopping.best_epoch, stopping.best) == (best, values[best])
    assert bits(net) == metric.weights[best]


def test_early_stopping_counts_as_better_only_what_is_so_by_the_tolerance() -> None:
    _, stopping, _, run = scripted([3.0, 2.95, 2.91, 0.0], False, tolerance=0.1)
    assert (stopping.best_epoch, run) == (0, 3)


def test_early_stopping_may_leave_the_last_weights() -> None:
    net, stopping, metric, _ = scripted([1.0, 2.0, 3.0], False, restore_best=False)
    assert stopping.best_epoch == 0
    assert bits(net) == metric.weights[-1] != metric.weights[0]


@pytest.mark.parametrize("greater", [False, True])
def test_early_stopping_takes_nan_for_no_value(greater: bool) -> None:
    nan = float("nan")
    _, stopping, _, run = scripted([nan, 3.0, 3.0, nan, 9.0], greater)
    assert (stopping.best_epoch, stopping.best, run) == (1, 3.0, 4)


def test_early_stopping_watches_the_validation_loss_or_else_the_loss() -> None:
    stopping = xd.EarlyStopping(patience=3)
    history = fit(network(), callbacks=[stopping], validation=0.3, epochs=4)
    assert stopping.best == min(history["validation_loss"])
    history = fit(network(), callbacks=[stopping], epochs=4)
    assert stopping.best == min(history["loss"])
    history = fit(network(), callbacks=[xd.EarlyStopping("loss", patience=1)], validation=0.3, epochs=4)
    assert history.epochs == 4


def test_early_stopping_restores_on_ctrl_c_and_on_errors() -> None:
    for error in (KeyboardInterrupt, ZeroDivisionError):
        log: list[Any] = []
        weights: list[dict[str, bytes]] = []

        class Keep(xd.Callback):
            def on_epoch_end(self, run: Any, weights: list[dict[str, bytes]] = weights) -> None:
                weights.append(bits(run.network))

        net = network()
        with pytest.raises(error):
            fit(net, callbacks=[xd.EarlyStopping("loss"), Keep(), Noting(log, "b", ("step", 10), error)], epochs=5)
        assert len(weights) == 2
        assert bits(net) == weights[1]


def test_early_stopping_restores_when_the_training_diverges() -> None:
    weights: list[dict[str, bytes]] = []

    class Keep(xd.Callback):
        def on_epoch_end(self, run: Any) -> None:
            weights.append(bits(run.network))

    net, stopping = network(), xd.EarlyStopping("loss")
    with pytest.raises(xd.NonFiniteLossError):
        fit(net, optimizer=Breaking(0.01, break_at=9, by=np.inf), callbacks=[Keep(), stopping], epochs=9)
    assert bits(net) == weights[stopping.best_epoch]


def test_training_is_silent_unless_a_bar_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    fit(network(), validation=0.2)
    assert capsys.readouterr() == ("", "")
    fit(network(), validation=0.2, progress=True, epochs=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert "6/6" in err
    assert "validation_loss=" in err


# --- the user's own --------------------------------------------------------------------------------------------

class Halve(xd.Layer):
    """y = x / 2 * gain."""

    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"gain": xd.Parameter((inputs,), "ones")}

    def forward(self, ops: Any, x: Any, tape: Any) -> Any:
        tape.x = x
        return 0.5 * x * self.params["gain"]

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        self.grads["gain"][...] = 0.5 * ops.xp.sum(dy * tape.x, axis=0)
        return 0.5 * dy * self.params["gain"]


class LogCosh(xd.Loss):
    name = "log_cosh"

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> Any:
        e = z - target
        return xp.mean(xp.log(xp.cosh(e)), axis=-1), xp.tanh(e) / z.shape[-1]


class SignDescent(xd.Optimizer):
    slots = ("last",)

    def rule(self, xp: Any, p: Any, g: Any, state: Any, hyper: Any) -> None:
        state["last"][...] = xp.sign(g)
        p -= hyper[0] * state["last"]


class Linear(xd.Schedule):
    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: int, total: int) -> float:
        return self.rate * (1.0 - step / total)


def test_the_users_own_of_everything_trains_on_every_backend(place: str) -> None:
    square = xd.Activation("square", lambda xp, z: z * z, lambda xp, z: 2.0 * z)
    log: list[Any] = []
    net = network(Halve(), xd.Dense(8, square), xd.Residual([Halve(), xd.Dense(8, "tanh")]), xd.Dense(1), backend=place)
    history = fit(net, loss=LogCosh(), optimizer=SignDescent(Linear(0.01)), callbacks=[Noting(log)], epochs=40,
                  metrics=[lambda target, prediction: float(np.max(np.abs(target - prediction)))])
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    assert history["learning_rate"][-1] == pytest.approx(0.01 / 160)
    assert history["<lambda>"][-1] == pytest.approx(np.max(np.abs(net.predict(X) - Y)), rel=1e-4)
    assert not np.all(net.backend.to_host(net.params["0.gain"]) == 1.0)
    assert len([event for event in log if event[1] == "step"]) == 160


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_users_activation_is_the_users_whatever_its_name(name: str) -> None:
    triple = xd.Activation(name, forward=lambda xp, z: 3.0 * z, derivative=lambda xp, z: xp.full_like(z, 3.0))
    net = network(xd.Dense(4, triple), xd.Dense(1))
    weights = net.arena.to_host()
    expected = 3.0 * X @ weights["0.weight"] @ weights["1.weight"]
    np.testing.assert_allclose(net.predict(X), expected, rtol=1e-5, atol=1e-6)
    net.forward(X, train=True)
    net.backward(np.ones_like(Y))
    dz = 3.0 * np.ones_like(Y) @ weights["1.weight"].T
    np.testing.assert_allclose(net.grads["0.weight"], X.T @ dz, rtol=1e-5, atol=1e-4)

@pytest.mark.parametrize("base", [xd.SquaredError, xd.BinaryCrossEntropy, xd.Huber], ids=lambda cls: cls.__name__)
def test_a_users_loss_is_the_users_though_it_inherits_a_name(base: type[xd.Loss]) -> None:
    class Constant(base):  # type: ignore[misc, valid-type]
        def value_and_gradient(self, xp: Any, z: Any, target: Any) -> Any:
            return xp.mean(0.0 * z + 7.0, axis=-1), 0.0 * z

    net = network()
    before = bits(net)
    assert fit(net, y=(Y > 0) * 1.0, loss=Constant())["loss"] == pytest.approx([7.0] * 3)
    assert bits(net) == before


@pytest.mark.parametrize("base", [xd.SGD, xd.Momentum, xd.Adam], ids=lambda cls: cls.__name__)
def test_a_users_optimizer_is_the_users_though_it_inherits_a_name(base: type[xd.Optimizer]) -> None:
    class Still(base):  # type: ignore[misc, valid-type]
        def rule(self, xp: Any, p: Any, g: Any, state: Any, hyper: Any) -> None:
            pass

    net = network()
    before = bits(net)
    fit(net, optimizer=Still(0.1))
    assert bits(net) == before


def test_what_numpy_does_about_underflow_is_the_callers_business_and_changes_nothing() -> None:
    x, y, weight = X.astype(np.float64), Y.astype(np.float64), WEIGHT.astype(np.float64)
    x[0, 0], y[1, 0], weight[2] = 1e-50, -1e-60, 1e-70
    calm, strict = network(), network()
    fit(calm, x=x, y=y, sample_weight=weight, validation=(x, y, weight))
    with np.errstate(all="raise"):
        fit(strict, x=x, y=y, sample_weight=weight, validation=(x, y, weight))
        prediction = strict.predict(x)
        strict.evaluate(x, y, sample_weight=weight)
        network(xd.Dense(4, initializer=normal(1e-44)))
        assert np.geterr()["under"] == "raise"
    assert bits(calm) == bits(strict)
    np.testing.assert_array_equal(prediction, calm.predict(x))


# --- a loss that is no number ----------------------------------------------------------------------------------

class Breaking(xd.Optimizer):
    """Plain gradient descent whose update at step `break_at` adds `by` to every parameter."""

    def __init__(self, learning_rate: Any = 0.01, *, break_at: int, by: float, **common: Any) -> None:
        super().__init__(learning_rate, **common)
        self.break_at, self.by = break_at, by

    def scalars(self, rate: float, step: int) -> tuple[float, ...]:
        return (self.by if step - 1 == self.break_at else 0.0,)

    def rule(self, xp: Any, p: Any, g: Any, state: Any, hyper: Any) -> None:
        p -= hyper[0] * g - hyper[1]


def growing(factor: float = 1.25) -> xd.Optimizer:
    """Gradient descent whose learning rate grows without bound, so that it diverges after some good steps."""
    from xpdense.schedules import Exponential

    return xd.SGD(Exponential(1e-4, factor))


def assert_good_weights(net: xd.DenseNetwork) -> None:
    assert all(np.isfinite(value).all() for value in net.arena.to_host().values())
    assert np.isfinite(net.predict(X)).all()
    assert math.isfinite(net.evaluate(X, Y, loss="squared_error")["loss"])


def test_a_diverging_run_says_where_and_holds_the_weights_of_the_step_that_it_names(place: str, look: str) -> None:
    layers = xd.Dense(8, "relu"), xd.Residual([xd.Dense(8, "relu")]), xd.Dense(1)
    net, replay = network(*layers, backend=place), network(*layers, backend=place)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=growing(1.05), epochs=20, batch_size=1)
    error = caught.value
    batches = [rows for epoch in range(20) for rows in shuffled(epoch, batch_size=1)]
    with np.errstate(all="ignore"):
        losses = by_hand(network(*layers, backend=place), batches[: error.step + 1], growing(1.05), 1000)
    assert np.isfinite(losses[:-1]).all()
    assert not np.isfinite(losses[-1])
    assert repr(error.loss) == repr(losses[-1])
    assert error.step == len(losses) - 1
    assert error.epoch == error.step // 50
    assert 0 < error.restored_step <= error.step
    by_hand(replay, batches[: error.restored_step], growing(1.05), 1000)
    assert bits(net) == bits(replay)
    assert_good_weights(net)

    assert [row.name for row in error.layers] == ["layer 0 (Dense)", "layer 1 (Residual)", "layer 2 (Dense)"]
    assert error.layer == next((row.name for row in error.layers if "outputs" in row.not_finite), "the loss")
    assert error.largest_input == pytest.approx(np.abs(X[batches[error.step]]).max())
    assert error.layers[0].inputs == error.largest_input
    assert not error.largest_weight <= 1e3
    assert not error.largest_gradient <= 1e3
    assert f"step {error.step} (epoch {error.epoch})" in str(error)
    assert "lower learning rate" in str(error)


def test_both_ways_of_looking_find_the_same_step_and_the_same_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = []
    for on_host in (True, False):
        monkeypatch.setattr(Backend, "on_host", property(lambda self, on_host=on_host: on_host))
        net = network(xd.Dense(8, "relu"), xd.Dropout(0.2), xd.BatchNorm(), xd.Dense(8, "relu"), xd.Dense(1))
        with pytest.raises(xd.NonFiniteLossError) as caught:
            fit(net, optimizer=growing(), epochs=20, batch_size=4)
        error = caught.value
        errors.append((error.step, error.epoch, error.loss, error.layer, repr(error.layers)))
        assert 0 < error.step - error.restored_step <= 64, "at most two bursts are lost"
    assert errors[0] == errors[1]


def test_both_ways_of_looking_train_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for on_host in (True, False):
        monkeypatch.setattr(Backend, "on_host", property(lambda self, on_host=on_host: on_host))
        net = network(xd.Dense(8, "relu"), xd.Dropout(0.2), xd.BatchNorm(), xd.Dense(1))
        runs.append((fit(net, batch_size=1, optimizer="adam")["loss"], bits(net)))
    assert runs[0] == runs[1]


def test_a_huge_learning_rate_leaves_good_weights(place: str, look: str) -> None:
    net = network(xd.Dense(8, "relu"), xd.Dense(1), backend=place)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=xd.SGD(1e6), epochs=20)
    assert caught.value.step <= 8
    assert caught.value.restored_step in (0, 4)
    assert_good_weights(net)


def test_huge_inputs_fail_at_the_first_step_and_change_nothing(place: str, look: str) -> None:
    net = network(backend=place)
    before = bits(net)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, x=X * 1e20, y=Y * 1e25)
    error = caught.value
    assert (error.step, error.epoch, error.restored_step, error.layer) == (0, 0, 0, "the loss")
    assert error.loss == math.inf
    assert error.largest_input > 1e20
    assert bits(net) == before


def test_inputs_that_overflow_a_layer_name_that_layer(place: str) -> None:
    net = network(xd.Dense(8, "relu"), xd.Dense(8, "relu"), xd.Dense(8, "relu"), xd.Dense(1), backend=place)
    for name in ("0.weight", "1.weight"):
        net.params[name][...] = net.backend.from_host(np.full(net.params[name].shape, 1e15, np.float32))
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, x=np.abs(X) * 1e15)
    assert caught.value.layer == "layer 1 (Dense)"
    found = [row.not_finite for row in caught.value.layers]
    assert found == [(), ("outputs",), ("inputs", "outputs"), ("inputs", "outputs")]
    assert caught.value.largest_weight == pytest.approx(1e15)


@pytest.mark.parametrize("by", [math.inf, math.nan, 1e30])
@pytest.mark.parametrize("break_at", [0, 5, 30, 31, 32, 49, 63, 81, 99])
def test_weights_after_a_break_are_those_from_before_it_wherever_it_falls(break_at: int, by: float, look: str) -> None:
    """Steps 31, 81 end a burst, 49 and 99 an epoch: a snapshot is taken right after what broke."""
    net, replay = network(), network()
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=Breaking(break_at=break_at, by=by), epochs=3, batch_size=1)
    assert caught.value.step == break_at + 1
    assert caught.value.restored_step <= break_at, "the weights after the break are the broken ones"
    assert caught.value.layers[0].not_finite == (() if math.isfinite(by) else ("outputs", "weights"))
    assert caught.value.layer == ("the loss" if math.isfinite(by) else "layer 0 (Dense)")
    assert not math.isnan(caught.value.largest_weight), "what can be said is said"
    batches = [rows for epoch in range(3) for rows in shuffled(epoch, batch_size=1)]
    by_hand(replay, batches[: caught.value.restored_step], Breaking(break_at=-1, by=0.0), 150)
    assert bits(net) == bits(replay)
    assert_good_weights(net)


@pytest.mark.parametrize("by", [math.inf, math.nan])
def test_weights_that_break_in_the_very_last_update_are_caught(by: float, place: str, look: str) -> None:
    net, replay = network(backend=place), network(backend=place)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=Breaking(break_at=11, by=by), epochs=3)
    assert caught.value.step == 12
    assert caught.value.epoch == 2
    batches = [rows for epoch in range(3) for rows in shuffled(epoch)]
    by_hand(replay, batches[: caught.value.restored_step], Breaking(break_at=-1, by=0.0), 12)
    assert bits(net) == bits(replay)
    assert_good_weights(net)


@pytest.mark.parametrize("batch_size", [16, 2])
def test_running_statistics_that_overflow_are_caught_too(batch_size: int, look: str) -> None:
    """Normalised by an infinite variance the training rows are zeros, their loss is fine, and predictions are NaN."""
    x, y = np.tile(X, (3, 1)) * np.float32(1e25), np.tile(Y, (3, 1))  # batches of 2: a burst ends within the epoch
    net = network(xd.BatchNorm(), xd.Dense(1))
    with pytest.raises(xd.NonFiniteLossError):
        fit(net, x=x, y=y, batch_size=batch_size)
    assert all(np.isfinite(value).all() for value in net.arena.to_host().values())
    assert np.isfinite(net.predict(X)).all()


def test_clipping_gradients_whose_squares_overflow_keeps_their_direction() -> None:
    """The message of a diverging run recommends clip_norm: it must not stop the training without a word."""
    net = network(xd.Dense(1))
    before = net.arena.to_host()["0.weight"]
    fit(net, x=X * 1e20, y=Y, loss="absolute_error", optimizer=xd.SGD(1.0, clip_norm=0.5), epochs=1, batch_size=50)
    change = net.arena.to_host()["0.weight"] - before
    assert np.linalg.norm(change) == pytest.approx(0.5, rel=1e-3)


def test_the_optimizer_state_goes_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst is made again from its start: with a momentum from its end, another step would fail."""
    monkeypatch.setattr(Backend, "on_host", property(lambda self: False))
    states = []

    class Momentum(xd.Momentum):
        def begin(self, arena: Any) -> Any:
            states.append(super().begin(arena))
            return states[-1]

    from xpdense.schedules import Exponential

    net, replay = network(), network()
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(net, optimizer=Momentum(Exponential(1e-4, 1.3)), epochs=20, batch_size=1)
    batches = [rows for epoch in range(20) for rows in shuffled(epoch, batch_size=1)]
    by_hand(replay, batches[: caught.value.restored_step], Momentum(Exponential(1e-4, 1.3)), 1000)
    assert states[0].buffers["velocity"].tobytes() == states[1].buffers["velocity"].tobytes()


def test_the_error_pickles_and_is_what_python_expects() -> None:
    error = xd.NonFiniteLossError(7, 1, math.inf, "layer 0 (Dense)", 5, 1.0, 2.0, 3.0,
                                  [LayerExtremes("layer 0 (Dense)", 3.0, math.inf, 1.0, 2.0, ("outputs",))])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is xd.NonFiniteLossError
    assert isinstance(again, FloatingPointError)
    assert vars(again) == vars(error)
    assert str(again) == str(error)
    assert "began in layer 0 (Dense), whose outputs are not finite" in str(error)


# --- predict and evaluate --------------------------------------------------------------------------------------

BLOCK = xd.Residual([xd.LayerNorm(), xd.Dense(6)])
ALL_LAYERS = xd.Dense(6, "gelu"), xd.Dropout(0.3), xd.BatchNorm(), BLOCK, xd.Dense(3)


@pytest.mark.parametrize(("loss", "y", "metric"), [("softmax_cross_entropy", LABELS, "accuracy"),
                                                   ("squared_error", np.repeat(Y, 3, axis=1), "r2")])
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_predict_and_evaluate_work_in_batches_of_any_size(rows: int, loss: str, y: np.ndarray, metric: str, place: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(*ALL_LAYERS, backend=place)
    fit(net, y=y, loss=loss, epochs=1)
    prediction, measured = net.predict(X), net.evaluate(X, y, metrics=[metric], sample_weight=WEIGHT)
    monkeypatch.setattr(Network, "part_rows", rows)
    np.testing.assert_allclose(net.predict(X), prediction, rtol=1e-5, atol=1e-6)
    again = net.evaluate(X, y, metrics=[metric], sample_weight=WEIGHT)
    assert again == pytest.approx(measured, rel=1e-5)
    assert net.predict(X[:1]).shape == (1, 3)


def test_memory_of_predict_and_evaluate_does_not_grow_with_rows_times_width() -> None:
    net = network(xd.Dense(8192, "relu"), xd.Dense(1), inputs=2)
    x = RNG.standard_normal((4096, 2)).astype(np.float32)
    net.predict(x[:1])
    whole = 4096 * 8192 * 4  # bytes of the hidden layer for all rows
    for use in (lambda: net.predict(x), lambda: net.evaluate(x, x[:, :1], loss="squared_error")):
        tracemalloc.start()
        use()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < whole / 4


def test_rows_that_are_not_finite_are_found_in_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Network, "part_rows", 3)
    x = X.copy()
    x[49, 2] = np.nan
    with pytest.raises(xd.NonFiniteDataError):
        network().predict(x)


def test_threads_predict_at_once_and_get_the_right_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(*ALL_LAYERS)
    fit(net, y=LABELS, loss="softmax_cross_entropy", epochs=1)
    monkeypatch.setattr(Network, "part_rows", 5)
    parts = [X[i : i + 17] + i for i in range(8)]
    expected = [net.predict(part) for part in parts]
    wrong: list[int] = []
    start = threading.Barrier(8)

    def work(i: int) -> None:
        start.wait()
        wrong.extend(i for _ in range(20) if not np.array_equal(net.predict(parts[i]), expected[i]))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []


def test_predict_and_evaluate_leave_no_trace_in_a_training(place: str) -> None:
    class Look(xd.Callback):
        def on_step_end(self, run: Any) -> None:
            run.network.predict(X[:7])
            run.network.evaluate(X, LABELS, loss="softmax_cross_entropy")
            run.network.forward(run.network.backend.from_host(X))

    results = []
    for callbacks in ([], [Look()]):
        net = network(*ALL_LAYERS, backend=place)
        results.append((fit(net, y=LABELS, loss="softmax_cross_entropy", callbacks=callbacks)["loss"], bits(net)))
    assert results[0] == results[1]


def test_predict_between_forward_and_backward_changes_no_gradient() -> None:
    net = network(*ALL_LAYERS)
    gradients = []
    for disturbed in (False, True):
        z = net.forward(X, train=True)
        if disturbed:
            net.predict(X[:5])
            net.predict(X)
        net.backward(z * 0.1)
        gradients.append(net.arena.grads.copy())
    np.testing.assert_array_equal(*gradients)


def test_dropout_is_for_training_only() -> None:
    net = network(xd.Dropout(0.9), xd.Dense(1))
    np.testing.assert_allclose(net.predict(X), X @ net.params["1.weight"] + net.params["1.bias"], rtol=1e-5, atol=1e-6)


def test_predictions_are_those_of_the_loss() -> None:
    net = network()
    z = net.forward(X)
    for loss, y, link in (("squared_error", Y, lambda z: z), ("poisson", np.abs(Y), np.exp),
                          ("binary_cross_entropy", (Y > 0) * 1, lambda z: 1.0 / (1.0 + np.exp(-z)))):
        fit(net, y=y, loss=loss, epochs=1, optimizer=xd.SGD(1e-30))
        np.testing.assert_allclose(net.predict(X), link(z), rtol=1e-5)
