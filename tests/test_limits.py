"""What a machine has is asked before it is used up; and several threads may predict with one network at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits

import xpdense as xd
from xpdense.backend import Backend, resolve
from xpdense.step import TrainStep

RNG = np.random.default_rng(2)
X = RNG.standard_normal((400, 5)).astype(np.float32)
Y = X @ np.arange(5.0)
BACKENDS = [name for name in ("numpy", "torch", "array_api_strict") if find_spec(name)]


def network(**options: Any) -> xd.DenseNetwork:
    layers = [xd.Dense(32, "gelu"), xd.BatchNorm(), xd.Residual([xd.Dense(32, "tanh"), xd.Dropout(0.2)]),
              xd.LayerNorm(), xd.Dense(3)]
    return xd.DenseNetwork(layers, inputs=5, seed=0, **options)


# --- memory ----------------------------------------------------------------------------------------------------

def free(monkeypatch: pytest.MonkeyPatch, mib: float) -> None:
    monkeypatch.setattr(Backend, "free", lambda self: int(mib * 2**20))


def test_a_training_that_does_not_fit_is_refused_with_a_batch_size_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    net = xd.DenseNetwork([xd.Dense(1000, "relu"), xd.Dense(1)], inputs=5)
    before = bits(net)
    free(monkeypatch, 2.0)
    with pytest.raises(xd.MemoryLimitError) as caught:
        net.fit(X, Y, loss="squared_error", batch_size=400, epochs=1)
    text = str(caught.value)
    assert "numpy has 2.0 MiB free" in text
    assert "400 rows" in text
    size = int(text.rpartition("batch_size=")[2].partition(" ")[0].replace(",", ""))
    assert size >= 1
    assert bits(net) == before
    net.fit(X, Y, loss="squared_error", batch_size=size, epochs=1)
    with pytest.raises(xd.MemoryLimitError):
        net.fit(X, Y, loss="squared_error", batch_size=2 * size, epochs=1)


def test_a_network_that_fits_with_no_batch_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    net = xd.DenseNetwork([xd.Dense(1000, "relu"), xd.Dense(1)], inputs=5)
    free(monkeypatch, 0.01)
    with pytest.raises(xd.MemoryLimitError, match="No batch size fits"):
        net.fit(X, Y, loss="squared_error", batch_size=4, epochs=1)


def test_a_stream_asks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    net = xd.DenseNetwork([xd.Dense(1000, "relu"), xd.Dense(1)], inputs=5)
    free(monkeypatch, 2.0)
    with pytest.raises(xd.MemoryLimitError, match="would fit"):
        net.fit(xd.data.open(X, Y), loss="squared_error", batch_size=400, epochs=1)


def test_what_a_stream_reads_ahead_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((400, 1000), np.float32)
    net = xd.DenseNetwork([xd.Dense(1)], inputs=1000)
    free(monkeypatch, 10.0)  # four copies of the features fit, ten do not
    net.fit(x, x[:, 0], loss="squared_error", batch_size=400, epochs=1)
    with pytest.raises(xd.MemoryLimitError, match="would fit"):
        net.fit(xd.data.open(x, x[:, 0]), loss="squared_error", batch_size=400, epochs=1)


@pytest.mark.parametrize("hidden", [64, 1024])
def test_the_estimate_covers_what_a_training_asks_for(hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a factor of three of what NumPy is asked for, and not less than it."""
    import re
    import tracemalloc

    x = np.zeros((8192, 8), np.float32)
    net = xd.DenseNetwork([xd.Dense(hidden, "relu"), xd.Dense(hidden, "tanh"), xd.Dense(1)], inputs=8, ops="generic")
    with monkeypatch.context() as patch:
        free(patch, 0.001)
        with pytest.raises(xd.MemoryLimitError) as caught:
            net.fit(x, x[:, 0], loss="squared_error", batch_size=4096, epochs=1)
    found = re.search(r"about ([\d.,]+) (MiB|GiB) more", str(caught.value))
    assert found is not None
    estimated = float(found[1].replace(",", "")) * {"MiB": 2**20, "GiB": 2**30}[found[2]]
    tracemalloc.start()
    net.fit(x, x[:, 0], loss="squared_error", batch_size=4096, epochs=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak / 3 < estimated
    assert 0.8 * peak < estimated, (peak / 2**20, estimated / 2**20)


def test_the_free_memory_of_this_machine_is_known() -> None:
    if not Path("/proc/meminfo").exists():
        pytest.skip("it is read from /proc")
    place = resolve("numpy")
    assert 2**26 < place.free() <= place.memory()


class OutOfMemoryError(RuntimeError):
    """What PyTorch raises."""


@pytest.mark.parametrize("error", [MemoryError("cannot allocate 8 GiB"), OutOfMemoryError("CUDA out of memory")])
@pytest.mark.parametrize("step", [0, 70])
def test_memory_that_ends_in_the_middle_leaves_a_network_that_works(error: Exception, step: int,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    net, made = network(ops="generic"), 0
    original = TrainStep.__call__

    def failing(*arguments: Any, **options: Any) -> Any:
        nonlocal made
        made += 1
        if made > step:
            net.arena.params[...] = np.nan  # whatever the failed step has left behind
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(TrainStep, "__call__", failing)
    with pytest.raises(xd.MemoryLimitError, match="lower batch_size"):
        net.fit(X, Y[:, None] * np.ones(3), loss="squared_error", batch_size=8, epochs=3)
    monkeypatch.undo()
    assert np.isfinite(net.predict(X)).all()
    net.fit(X, Y[:, None] * np.ones(3), loss="squared_error", batch_size=8, epochs=1)


# --- threads ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("backend", BACKENDS)
def test_threads_predict_with_one_network_at_once(backend: str) -> None:
    net = network(backend=backend)
    net.fit(X, Y[:, None] * np.ones(3), loss="squared_error", epochs=1)
    sizes = [1, 7, 64, 333, 400]
    alone = {n: net.predict(X[:n]).tobytes() for n in sizes}
    rounds = 4 if backend == "array_api_strict" else 60
    start, wrong = threading.Barrier(8), list[int]()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(rounds):
            n = int(rng.choice(sizes))
            if net.predict(X[:n]).tobytes() != alone[n]:
                wrong.append(n)
            if rng.random() < 0.1:
                net.evaluate(X[:64], Y[:64, None] * np.ones(3))

    with ThreadPoolExecutor(8) as pool:
        for result in [pool.submit(work, seed) for seed in range(8)]:
            result.result()
    assert wrong == []


def test_threads_predict_with_one_estimator_at_once() -> None:
    pytest.importorskip("sklearn")
    found = xd.MLPClassifier((16,), max_iter=400, random_state=0, tol=1e-2).fit(X, Y > 0)
    alone = found.predict_proba(X).tobytes()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: found.predict_proba(X).tobytes() == alone, range(300)))
    assert all(results)


def test_threads_stream_predictions_of_one_network_at_once() -> None:
    net, data = network(), xd.data.open(X)
    alone = net.predict(X).tobytes()
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: net.predict(data).tobytes() == alone, range(40)))


def test_networks_train_in_threads_of_their_own() -> None:
    def trained(_: int) -> dict[str, bytes]:
        net = network()
        net.fit(X, Y[:, None] * np.ones(3), loss="squared_error", batch_size=8, epochs=4)
        return bits(net)

    alone = trained(0)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == alone for found in pool.map(trained, range(12)))
