"""One seed is one run: the same bits twice on a backend, the same numbers up to rounding on every other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.backend import Backend, backend_of, resolve
from xpdense.losses import LOSSES, as_loss
from xpdense.network import Network
from xpdense.optimizers import OPTIMIZERS, as_optimizer

ROWS, INPUTS, OUTPUTS, BATCH, EPOCHS = 45, 5, 3, 16, 2  # batches of 16, 16 and 13
RATES = {"sgd": 0.05, "momentum": 0.02, "nesterov": 0.02, "rmsprop": 0.005, "adagrad": 0.02, "adam": 0.01,
         "adamw": 0.01, "lion": 0.002}

#: Every loss and every optimizer, in pairs.
PAIRS = [(list(LOSSES)[i % len(LOSSES)], name) for i, name in enumerate(OPTIMIZERS)]


def layers() -> list[xd.Layer]:
    return [xd.Dense(8, "relu"), xd.BatchNorm(), xd.Dropout(0.2), xd.Residual([xd.LayerNorm(), xd.Dense(8, "gelu")]),
            xd.Dropout(0.3), xd.Dense(6, "tanh"), xd.Dense(OUTPUTS)]


def data(loss: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    x = rng.standard_normal((ROWS, INPUTS))
    return x, as_loss(loss).sample_target(rng, ROWS, OUTPUTS), rng.uniform(0.0, 2.0, ROWS)


def run(backend: str, dtype: str, loss: str, optimizer: str, seed: int = 3,
        **options: Any) -> tuple[dict[str, list[float]], dict[str, np.ndarray], xd.DenseNetwork]:
    """The losses of a training with everything in it, and every parameter and running mean after it."""
    net = xd.DenseNetwork(layers(), INPUTS, backend, dtype, seed)
    x, y, weight = data(loss)
    rate = xd.Cosine(RATES[optimizer], warmup=0.2)
    rule = as_optimizer(optimizer, learning_rate=rate, clip_norm=1.0, weight_decay=0.01)
    history = net.fit(x, y, loss=loss, optimizer=rule, batch_size=BATCH, epochs=EPOCHS, sample_weight=weight,
                      validation=0.2, **options)
    return {name: history[name] for name in ("loss", "validation_loss")}, net.arena.to_host(), net


@pytest.mark.parametrize(("loss", "optimizer"), PAIRS)
def test_one_seed_is_one_run_on_every_backend(backend: str, loss: str, optimizer: str) -> None:
    expected, weights, _ = run("numpy", "float64", loss, optimizer)
    found, values, _ = run(backend, "float64", loss, optimizer)
    for name, losses in expected.items():
        np.testing.assert_allclose(found[name], losses, rtol=1e-10)
    for name, weight in weights.items():
        np.testing.assert_allclose(values[name], weight, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("loss", "optimizer"), PAIRS)
def test_one_seed_is_one_run_to_the_bit_on_one_backend(backend: str, loss: str, optimizer: str, dtype: str) -> None:
    first, weights, _ = run(backend, dtype, loss, optimizer)
    run(backend, dtype, loss, optimizer, seed=5)  # what else was trained in between does not matter
    second, again, _ = run(backend, dtype, loss, optimizer)
    assert first == second
    assert all(values.dtype == dtype for values in weights.values())
    assert all(np.array_equal(values, again[name]) for name, values in weights.items())


def test_another_seed_is_another_run(backend: str) -> None:
    first, weights, _ = run(backend, "float64", "squared_error", "adam", seed=3)
    second, others, _ = run(backend, "float64", "squared_error", "adam", seed=4)
    assert all(a != b for a, b in zip(first["loss"], second["loss"], strict=True))
    assert all(not np.array_equal(values, others[name]) for name, values in weights.items())


def test_the_order_of_batches_and_dropout_each_follow_the_seed() -> None:
    x, y = data("squared_error")[:2]
    for only, options in ((xd.Dense(8, "tanh"), {}), (xd.Dropout(0.5), {"shuffle": False})):
        ends = []
        for seed in (1, 2, 1):
            net = xd.DenseNetwork([xd.Dense(8, "tanh"), only, xd.Dense(OUTPUTS)], INPUTS, "numpy", "float64", seed)
            for name, values in net.params.items():  # the same start for all: what is left is the order, or the masks
                values[...] = np.random.default_rng(len(name)).standard_normal(values.shape) / 3
            ends.append(net.fit(x, y, loss="squared_error", batch_size=BATCH, epochs=2, **options)["loss"])
        assert ends[0] == ends[2]
        assert ends[0] != ends[1]


def test_training_on_goes_the_same_way_too(backend: str) -> None:
    ends = []
    for _ in range(2):
        net = run(backend, "float32", "huber", "adam")[2]
        x, y, _ = data("huber")
        losses = net.fit(x, y, loss="huber", optimizer="momentum", batch_size=7, epochs=2)["loss"]
        ends.append((losses, net.arena.to_host()))
    assert ends[0][0] == ends[1][0]
    assert all(np.array_equal(values, ends[1][1][name]) for name, values in ends[0][1].items())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_start_is_the_same_to_the_bit_on_every_backend(backend: str, dtype: str) -> None:
    expected = Network(layers(), INPUTS, "numpy", dtype, seed=11).arena.to_host()
    found = Network(layers(), INPUTS, backend, dtype, seed=11).arena.to_host()
    assert all(np.array_equal(found[name], values) for name, values in expected.items())
    other = Network(layers(), INPUTS, backend, dtype, seed=12).arena.to_host()
    assert all(not np.array_equal(other[name], values) for name, values in expected.items() if "weight" in name)


def test_a_network_moved_to_another_backend_goes_on_the_same(backend: str) -> None:
    x, y, _ = data("squared_error")
    losses = []
    for places in (("numpy", "numpy"), ("numpy", backend), (backend, "numpy")):
        net = xd.DenseNetwork(layers(), INPUTS, places[0], "float64", 3)
        net.fit(x, y, loss="squared_error", batch_size=BATCH, epochs=2)
        net.to(places[1])
        losses.append(net.fit(x, y, loss="squared_error", batch_size=BATCH, epochs=2)["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-10)
    np.testing.assert_allclose(losses[2], losses[0], rtol=1e-10)


# --- what goes in comes out --------------------------------------------------------------------------------------

@pytest.mark.parametrize("loss", LOSSES)
def test_predictions_come_in_the_namespace_of_the_input(place: Backend, loss: str) -> None:
    x, y, weight = data(loss)
    net = xd.DenseNetwork(layers(), INPUTS, dtype="float64", seed=3)
    given = [place.from_host(values) for values in (x, y, weight)]
    net.fit(given[0], given[1], loss=loss, sample_weight=given[2], batch_size=BATCH, epochs=2)
    assert net.backend.name == place.name  # "auto" follows the input
    prediction = net.predict(given[0])
    found = backend_of(prediction)
    assert found is not None
    assert found.name == place.name
    assert tuple(prediction.shape) == (ROWS, OUTPUTS)
    expected = xd.DenseNetwork(layers(), INPUTS, "numpy", "float64", 3)
    expected.fit(x, y, loss=loss, sample_weight=weight, batch_size=BATCH, epochs=2)
    np.testing.assert_allclose(place.to_host(prediction), expected.predict(x), rtol=1e-10, atol=1e-10)


def test_a_named_backend_gives_back_what_it_was_given(backend: str) -> None:
    x, y, _ = data("squared_error")
    net = xd.DenseNetwork(layers(), INPUTS, backend)
    net.fit(x, y, loss="squared_error", epochs=1)
    assert type(net.predict(x)) is np.ndarray  # NumPy in, NumPy out
    assert net.backend.name == resolve(backend).name
    place = resolve(backend)
    fixed = xd.DenseNetwork(layers(), INPUTS, "numpy")
    fixed.fit(place.from_host(x), place.from_host(y), loss="squared_error", epochs=1)
    assert fixed.backend.name == "numpy"
    found = backend_of(fixed.predict(place.from_host(x)))
    assert found is not None
    assert found.name == place.name
