"""Speed of one step and of one epoch, next to the floor: the same matrix products alone, timed in the same rounds.

A step is called from Python; an epoch is a whole `fit`, which records its step and replays it where it can.

Run with `make bench`, or `pytest bench --backend numpy --dtype float32`. The floor is the network's products of one
step (forward, weight gradients, input gradients but the first layer's), written into memory that is already there.
A round times the floor, then the step, so that both meet the same machine; the ratio is the median over rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import pytest

import xpdense as xd
from xpdense.comm import Solo
from xpdense.data.arrays import Rows
from xpdense.losses import as_loss
from xpdense.network import Network
from xpdense.training import train_step

NETWORKS = [((64, 64, 10), 32), ((32, 256, 256, 2), 256), ((784, 512, 256, 10), 128),
            ((1024, 2048, 2048, 1024, 100), 1024)]


def steps_of(network: Network, batch: int) -> int:
    """Steps of an epoch: about as long for every network, 10 at least and 256 at most."""
    return min(256, max(10, int(4e10 / (6 * batch * network.size))))


def network_of(widths: tuple[int, ...], backend: str, dtype: str) -> xd.DenseNetwork:
    layers = [*(xd.Dense(width, "relu") for width in widths[1:-1]), xd.Dense(widths[-1])]
    return xd.DenseNetwork(layers, inputs=widths[0], backend=backend, dtype=dtype)


def floor_of(network: Network, batch: int) -> Callable[[], None]:
    """The products of one step, on arrays of the network's shapes, backend and dtype."""
    ops, widths = network.ops, network.widths()
    activations = [ops.empty((batch, width)) for width in widths]
    for a in activations:
        a[...] = 0.5
    weights = [network.params[f"{i}.weight"] for i in range(len(network.layers))]
    results = [ops.empty((batch, width)) for width in widths]
    gradients = [ops.empty(w.shape) for w in weights]

    def run() -> None:
        for i, w in enumerate(weights):
            ops.matmul(activations[i], w, out=results[i + 1])
        for i in reversed(range(len(weights))):
            ops.matmul(ops.transpose(activations[i]), activations[i + 1], out=gradients[i])
            if i:
                ops.matmul(activations[i + 1], ops.transpose(weights[i]), out=results[i])

    return run


@pytest.fixture(params=NETWORKS, ids=lambda case: "-".join(map(str, case[0])))
def case(request):
    widths, batch = request.param
    network = network_of(widths, request.config.getoption("--backend"), request.config.getoption("--dtype"))
    rng = np.random.default_rng(0)
    rows = steps_of(network, batch) * batch
    x = rng.standard_normal((rows, widths[0])).astype(network.dtype)
    y = rng.integers(0, widths[-1], rows)
    return network, batch, network.backend.from_host(x), network.backend.from_host(y)


@pytest.mark.parametrize("what", ["step", "epoch"])
def test_speed(case, what, benchmark, report, request):
    network, batch, x, y = case
    floor, backend = floor_of(network, batch), network.backend
    with backend.active():
        repeats = steps_of(network, batch)
        if what == "step":
            work = steps(network, batch, x, y, repeats)
        else:
            def work() -> None:
                network.fit(x, y, loss="softmax_cross_entropy", batch_size=batch, epochs=1)

        def timed_floor() -> None:
            start = time.perf_counter()
            for _ in range(repeats):
                floor()
            backend.to_host(network.params["0.bias"])  # waits for the device
            floors.append(time.perf_counter() - start)

        floors: list[float] = []
        timed_floor(), work()  # warm-up
        floors.clear()
        rounds = request.config.getoption("--rounds")
        benchmark.pedantic(work, setup=timed_floor, rounds=rounds)
    times = benchmark.stats.stats.data
    ratio = statistics.median(t / f for t, f in zip(times, floors, strict=True))
    rate = repeats * batch / statistics.median(times)
    benchmark.extra_info |= {"rows_per_second": rate, "ratio_to_floor": ratio}
    report((
        "-".join(map(str, network.widths())), str(batch), what, f"{statistics.median(floors) / repeats * 1e3:.3f}",
        f"{statistics.median(times) / repeats * 1e3:.3f}", f"{rate:,.0f}", f"{ratio:.2f}",
    ))


def steps(network: Network, batch: int, x, y, repeats: int) -> Callable[[], None]:
    """That many training steps, each on another batch of the data, drawn before."""
    loss, state = as_loss("softmax_cross_entropy"), xd.Adam(1e-4).begin(network.arena)
    order = np.random.default_rng(0).permutation(x.shape[0])
    batches = [network.backend.from_host(order[i : i + batch]) for i in range(0, len(order), batch)]
    rows, comm, count = Rows(x, y, None), Solo(), 0

    def run() -> None:
        nonlocal count
        for _ in range(repeats):
            train_step(network, loss, state, rows.take(network.ops, batches[count % len(batches)]), count, 1e-4, comm)
            count += 1
        network.backend.to_host(network.params["0.bias"])  # waits for the device

    return run
