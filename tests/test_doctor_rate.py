"""A learning rate found by experiment: for every optimizer and loss, of arrays of any namespace."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.preprocessing import StandardScaler

import xpdense as xd
from xpdense.backend import Backend, host
from xpdense.errors import DivergenceError, NonFiniteDataError, NonFiniteLossError, OutputError, ParameterError
from xpdense.learning_rate import RateTest, find_learning_rate
from xpdense.losses import LOSSES
from xpdense.optimizers import OPTIMIZERS, as_optimizer

DIGITS = load_digits(return_X_y=True)
X, Y = DIGITS[0] / 16.0, DIGITS[1]


def network(inputs: int = 64, outputs: int = 10, **options: Any) -> xd.DenseNetwork:
    return xd.DenseNetwork([xd.Dense(32, "relu"), xd.Dense(outputs)], inputs=inputs, **options)


def small(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).standard_normal((120, 3))
    return x, (x[:, :1] * x[:, 1:2] > 0).astype(float)


@pytest.fixture(scope="module")
def found() -> RateTest:
    return find_learning_rate(network(), X, Y, loss="softmax_cross_entropy")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_suggestion_trains_better_than_rates_a_hundred_times_off(optimizer: str) -> None:
    found = find_learning_rate(network(), X, Y, loss="softmax_cross_entropy", optimizer=optimizer)

    def trained(rate: float) -> float:
        net = network(seed=1)
        try:
            net.fit(X[:1200], Y[:1200], loss="softmax_cross_entropy", epochs=15,
                    optimizer=as_optimizer(optimizer, learning_rate=rate))
        except NonFiniteLossError:
            return math.inf
        return net.evaluate(X[1200:], Y[1200:])["loss"]

    best = trained(found.suggestion)
    assert best < 0.3 * trained(found.suggestion / 100)
    assert best < 0.3 * trained(found.suggestion * 100)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_rate_by_which_it_falls(loss: str) -> None:
    x, y = load_diabetes(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    y = (y > 140).astype(int) if "entropy" in loss else y / 100
    net = network(10, 2 if loss == "softmax_cross_entropy" else 1)
    found = find_learning_rate(net, x, y, loss=loss)
    assert found.tried[found.suggestion] < net.evaluate(x, y, loss=loss)["loss"]


def test_the_test_and_its_suggestion_fit_together(found: RateTest) -> None:
    assert len(found.rates) == len(found.losses) == len(found.smoothed) <= 200
    assert found.rates[0] == pytest.approx(1e-7)
    assert np.ptp(np.diff(np.log(found.rates))) < 1e-9  # the same factor in each step
    assert found.diverges == found.rates[-1]
    assert found.suggestion in found.tried
    assert found.tried[found.suggestion] < 1.1 * min(found.tried.values()) + 0.05
    assert 1e-4 < found.steepest < found.diverges
    assert 3 < len(found.tried) <= 8


def test_the_network_and_the_optimizer_stay_as_they_are(place: Backend) -> None:
    x, y = (place.from_host(a.astype(np.float32)) for a in small())
    net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.BatchNorm(), xd.Dropout(0.2), xd.Dense(1)], inputs=3)
    optimizer = xd.Adam(xd.ReduceOnPlateau(0.1))
    before, backend = {n: host(v).copy() for n, v in net.arena.to_host().items()}, net.backend.name
    find_learning_rate(net, x, y, loss="binary_cross_entropy", optimizer=optimizer, steps=20)
    after = net.arena.to_host()
    assert all(np.array_equal(value, after[name]) for name, value in before.items())
    assert (net.backend.name, net.loss, optimizer.learning_rate.current) == (backend, None, 0.1)


def test_every_namespace_gives_the_same_rate(place: Backend) -> None:
    x, y = small()

    def suggestion(x: Any, y: Any) -> RateTest:
        net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(1)], inputs=3, dtype="float64")
        return find_learning_rate(net, x, y, loss="binary_cross_entropy", batch_size=32, steps=40)

    ours, theirs = suggestion(x, y), suggestion(place.from_host(x), place.from_host(y))
    assert theirs.suggestion == ours.suggestion
    np.testing.assert_allclose(theirs.losses[:20], ours.losses[:20], rtol=1e-6)


def test_the_same_seed_gives_the_same_test_whatever_the_optimizers_own_rate() -> None:
    x, y = small()
    net = network(3, 1)
    one, other = (find_learning_rate(net, x, y, loss="binary_cross_entropy", optimizer=o, steps=20).to_dict()
                  for o in (xd.SGD(1e-9), xd.SGD(xd.Cosine(5.0))))
    assert one == other


@pytest.mark.parametrize("rows", [1, 4, 49, 50])
def test_few_rows_are_enough(rows: int) -> None:
    x, y = small()
    found = find_learning_rate(network(3, 1), x[:rows], y[:rows], loss="binary_cross_entropy", steps=10)
    assert found.suggestion in found.tried


@pytest.mark.parametrize(("options", "message"), [
    ({"steps": 9}, "steps must be at least 10"), ({"low": 1.0, "high": 1.0}, "low must be below high"),
    ({"low": 0.0}, "low must be"), ({"high": math.inf}, "high must be"), ({"batch_size": 0}, "batch_size"),
    ({"seed": -1}, "seed"), ({"loss": "none"}, "unknown loss"), ({"optimizer": "none"}, "unknown optimizer"),
])
def test_what_cannot_work_is_refused_before_the_data_are_looked_at(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        find_learning_rate(network(), None, None, **{"loss": "squared_error", **options})


def test_what_is_no_network_is_refused() -> None:
    for wrong in (None, [xd.Dense(1)], xd.DenseNetwork([xd.Dropout(0.5)], inputs=3)):
        with pytest.raises(ParameterError):
            find_learning_rate(wrong, *small(), loss="squared_error")
    with pytest.raises(NonFiniteDataError):
        find_learning_rate(network(3, 1), np.full((9, 3), np.nan), np.zeros(9), loss="squared_error")


def test_where_every_rate_diverges_it_is_told() -> None:
    x, y = small()
    with pytest.raises(DivergenceError, match="before any step"):
        find_learning_rate(network(3, 1), 1e30 * x, 1e30 * y, loss="squared_error")
    with pytest.raises(DivergenceError, match="from a lower rate on"):
        find_learning_rate(network(3, 1), x, y, loss="squared_error", optimizer="sgd", low=1e4, high=1e5)


def test_it_prints_converts_and_draws(found: RateTest, tmp_path: Path) -> None:
    assert str(found).startswith(f"learning rate {found.suggestion:.2g}: the loss falls fastest at")
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["suggestion"] == found.suggestion
    found.plot(tmp_path / "rates.png")
    assert (tmp_path / "rates.png").stat().st_size > 10_000
    RateTest([0.1, 1.0], [0.5, math.inf], [0.5, math.inf], 0.1, 0.1, 1.0, {0.1: 0.0, 1.0: math.inf}).plot()
    with pytest.raises(OutputError, match="cannot write"):
        found.plot(tmp_path / "none" / "rates.png")
    with pytest.raises(ParameterError, match="cannot write"):
        found.plot(tmp_path / "rates.unheard")
