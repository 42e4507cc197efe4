"""Who is timed: one function per contender makes its network ready and says how to train it for an epoch.

All train the same network (dense, ReLU, He-normal or the library's own start) on the same data in batches of one size,
drawn anew in every epoch, with the mean softmax cross-entropy and Adam (rate 1e-3, betas 0.9 and 0.999, epsilon 1e-8)
or plain SGD (rate 1e-3). Each is written as its own users would write it; what that means is said at each. Nothing of
a library is imported before its contender is made: a process holds one of them, and its memory is its own.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

RATE = 1e-3
NETWORKS = {"64-64-10": 32, "32-256-256-2": 256, "784-512-256-10": 128, "1024-2048-2048-1024-100": 1024}  #: batches


class Unavailable(Exception):
    """The contender cannot run here; the message says why."""


@dataclass(frozen=True)
class Case:
    """What is trained, and how.

    Attributes
    ----------
    backend : str
        Of xpdense. The others compute on the GPU where this does.
    """

    network: str
    dtype: str
    optimizer: str
    backend: str

    @property
    def widths(self) -> list[int]:
        return [int(width) for width in self.network.split("-")]

    @property
    def batch(self) -> int:
        return NETWORKS[self.network]

    @property
    def step_work(self) -> int:
        """Floating-point operations of a step, nearly: three products per layer."""
        return 6 * self.batch * sum(i * o for i, o in pairwise(self.widths))

    @property
    def steps(self) -> int:
        """Steps of an epoch: about as much work for every network, 8 at least and 2,048 at most."""
        return min(2048, max(8, int(8e10 / self.step_work)))

    @property
    def is_long(self) -> bool:
        """Whether an epoch takes seconds: fewer of them must do then."""
        return self.steps * self.step_work > 1e11

    @property
    def on_gpu(self) -> bool:
        return self.backend.startswith("cupy") or "cuda" in self.backend

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Features (n, inputs), and classes (n,): a linear map with as much noise, so that some can be learnt."""
        rng, classes = np.random.default_rng(0), self.widths[-1]
        x = rng.standard_normal((self.steps * self.batch, self.widths[0]))
        signal = x @ rng.standard_normal((self.widths[0], classes)) / math.sqrt(self.widths[0])
        y = (signal + rng.standard_normal(signal.shape)).argmax(axis=1)
        return x.astype(self.dtype), y


@dataclass(frozen=True)
class Contender:
    """A network that is ready.

    Attributes
    ----------
    epoch : callable
        Trains on all rows once, and waits for the device.
    loss : callable, optional
        The mean loss on the first rows of the data, now.
    device_memory : callable, optional
        Bytes that it has taken on the GPU.
    """

    epoch: Callable[[], None]
    loss: Callable[[], float] | None = None
    device_memory: Callable[[], int] | None = None


SEEN = 1024  #: rows on which a loss is computed


# --- xpdense ---------------------------------------------------------------------------------------------------

def _model(case: Case) -> tuple[Any, Any]:
    """The network and its optimizer."""
    import xpdense as xd

    layers = [*(xd.Dense(width, "relu") for width in case.widths[1:-1]), xd.Dense(case.widths[-1])]
    network = xd.DenseNetwork(layers, inputs=case.widths[0], backend=case.backend, dtype=case.dtype)
    return network, {"adam": xd.Adam, "sgd": xd.SGD}[case.optimizer](RATE)


def _network(case: Case) -> tuple[Any, Any, Any, Any]:
    """The network, its data where it computes, and its optimizer."""
    network, optimizer = _model(case)
    with network.backend.active():
        x, y = (network.backend.from_host(a) for a in case.data())
    return network, x, y, optimizer


def revision(case: Case) -> Contender:
    """`fit` on NumPy's arrays, by calls that every revision has: what `compare` times."""
    (network, optimizer), (x, y) = _model(case), case.data()
    return Contender(
        lambda: network.fit(x, y, loss="softmax_cross_entropy", optimizer=optimizer, batch_size=case.batch, epochs=1),
        lambda: network.evaluate(x[:SEEN], y[:SEEN], loss="softmax_cross_entropy")["loss"])


def _contender(case: Case, network: Any, x: Any, y: Any, work: Callable[[], Any]) -> Contender:
    def epoch() -> None:
        with network.backend.active():
            work()
            network.backend.to_host(network.params["0.bias"])  # waits for the device

    def loss() -> float:
        return network.evaluate(x[:SEEN], y[:SEEN], loss="softmax_cross_entropy")["loss"]

    def device_memory() -> int:
        return network.backend.xp.get_default_memory_pool().total_bytes()

    return Contender(epoch, loss, device_memory if network.backend.kind == "cupy" else None)


def floor(case: Case) -> Contender:
    """The matrix products of the steps alone, on the BLAS that a step uses, into memory that is already there.

    A step's are: forward, gradients of weights, gradients of inputs but the first layer's.
    """
    network, *_ = _network(case)
    ops, widths = network.ops, network.widths()
    with network.backend.active():
        activations, results = ([ops.empty((case.batch, width)) for width in widths] for _ in range(2))
        for a in activations:
            a[...] = 0.5
        weights = [network.params[f"{i}.weight"] for i in range(len(network.layers))]
        gradients = [ops.empty(w.shape) for w in weights]

    def products() -> None:
        for _ in range(case.steps):
            for i, w in enumerate(weights):
                ops.matmul(activations[i], w, out=results[i + 1])
            for i in reversed(range(len(weights))):
                ops.matmul(ops.transpose(activations[i]), activations[i + 1], out=gradients[i])
                if i:
                    ops.matmul(activations[i + 1], ops.transpose(weights[i]), out=results[i])

    return Contender(_contender(case, network, None, None, products).epoch)


def fit(case: Case, ops: str = "auto") -> Contender:
    """`fit` as a user calls it: it checks the data, shuffles, keeps a history. Or the same with the generic ops."""
    os.environ["XPDENSE_OPS"] = ops
    network, x, y, optimizer = _network(case)
    return _contender(case, network, x, y, partial(
        network.fit, x, y, loss="softmax_cross_entropy", optimizer=optimizer, batch_size=case.batch, epochs=1))


def step(case: Case) -> Contender:
    """`train_step` called from Python, once per batch; the batches are drawn before."""
    from xpdense.comm import Solo
    from xpdense.data.arrays import Rows
    from xpdense.losses import as_loss
    from xpdense.training import train_step

    network, x, y, optimizer = _network(case)
    with network.backend.active():
        loss, state = as_loss("softmax_cross_entropy"), optimizer.begin(network.arena)
        order = np.random.default_rng(0).permutation(len(x)).reshape(case.steps, case.batch)
        batches, count = [network.backend.from_host(drawn) for drawn in order], 0
    rows, comm = Rows(x, y, None), Solo()

    def work() -> None:
        nonlocal count
        for drawn in batches:
            train_step(network, loss, state, rows.take(network.ops, drawn), count, RATE, comm)
            count += 1

    return _contender(case, network, x, y, work)


# --- the others ------------------------------------------------------------------------------------------------

def scikit_learn(case: Case) -> Contender:
    """`MLPClassifier.partial_fit`, which is one epoch. Of two classes it makes one output."""
    from sklearn.metrics import log_loss
    from sklearn.neural_network import MLPClassifier

    x, y = case.data()
    model = MLPClassifier(case.widths[1:-1], solver=case.optimizer, alpha=0.0, batch_size=case.batch,
                          learning_rate_init=RATE, momentum=0.0, nesterovs_momentum=False, random_state=0)
    classes = np.arange(case.widths[-1])
    model.partial_fit(x[: case.batch], y[: case.batch], classes=classes)  # it has no weights before its first step

    def loss() -> float:
        return float(log_loss(y[:SEEN], model.predict_proba(x[:SEEN]), labels=classes))

    return Contender(lambda: model.partial_fit(x, y), loss)


def torch(case: Case, how: str = "eager", fused: bool | None = None) -> Contender:
    """The plain loop: batches by index, `zero_grad`, `backward`, `step`.

    The optimizer is torch.optim's as it comes (on the CPU a loop over the parameters, on a GPU "foreach"), or its
    fused one. "compiled": torch.compile of network and loss. "graph": a step recorded once as a CUDA graph, replayed
    on another batch each time.
    """
    import torch
    from torch import nn

    if case.on_gpu and not torch.cuda.is_available():
        raise Unavailable("this PyTorch finds no CUDA device")
    device = torch.device("cuda" if case.on_gpu else "cpu")
    torch.manual_seed(0)
    x, y = (torch.from_numpy(a).to(device) for a in case.data())
    layers = [layer for i, o in pairwise(case.widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    model = nn.Sequential(*layers[:-1]).to(device, x.dtype)
    options = {"capturable": True} if how == "graph" and case.optimizer == "adam" else {}
    make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[case.optimizer]
    optimizer = make(model.parameters(), lr=RATE, fused=fused, **options)

    def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    forward = torch.compile(loss_of) if how == "compiled" else loss_of

    def step(rows: torch.Tensor) -> None:
        optimizer.zero_grad()
        forward(x[rows], y[rows]).backward()
        optimizer.step()

    if how == "graph":
        drawn = torch.arange(case.batch, device=device)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # the steps before a capture must not be on the stream that it takes
            for _ in range(3):
                step(drawn)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step(drawn)

    def replay(rows: torch.Tensor) -> None:
        drawn.copy_(rows)
        graph.replay()

    def epoch() -> None:
        for rows in torch.randperm(len(x), device=device).split(case.batch):
            replay(rows) if how == "graph" else step(rows)
        if case.on_gpu:
            torch.cuda.synchronize()

    def loss() -> float:
        with torch.no_grad():
            return float(loss_of(x[:SEEN], y[:SEEN]))

    return Contender(epoch, loss, torch.cuda.max_memory_reserved if case.on_gpu else None)


def jax(case: Case) -> Contender:
    """The whole epoch as one jitted `lax.scan` over the steps; parameters and state are donated to it.

    The order of rows is drawn by NumPy and handed in; a step gathers its batch inside the scan.
    """
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", case.dtype == "float64")
    jax.config.update("jax_default_matmul_precision", "highest")  # on a GPU the default would be TF32
    try:
        device = jax.devices("gpu" if case.on_gpu else "cpu")[0]
    except RuntimeError:
        raise Unavailable("this JAX finds no GPU") from None
    rng = np.random.default_rng(0)
    x, y = jax.device_put(case.data(), device)
    start = [((rng.standard_normal((i, o)) * math.sqrt(2 / i)).astype(case.dtype), np.zeros(o, case.dtype))
             for i, o in pairwise(case.widths)]
    zeros = jax.tree.map(np.zeros_like, start)
    carry = jax.device_put((start, zeros, zeros, np.zeros((), case.dtype)), device)

    def loss_of(params, x, y):
        *hidden, (w, b) = params
        for w_hidden, b_hidden in hidden:
            x = jax.nn.relu(x @ w_hidden + b_hidden)
        z = x @ w + b
        return jnp.mean(jax.nn.logsumexp(z, axis=1) - jnp.take_along_axis(z, y[:, None], axis=1)[:, 0])

    def update(params, grads, m, v, t):
        if case.optimizer == "sgd":
            return jax.tree.map(lambda p, g: p - RATE * g, params, grads), m, v
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate, root = RATE / (1 - 0.9**t), jnp.sqrt(1 - 0.999**t)
        return jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) / root + 1e-8), params, m, v), m, v

    @partial(jax.jit, donate_argnums=0)
    def train(carry, order, x, y):
        def step(carry, rows):
            params, m, v, t = carry
            loss, grads = jax.value_and_grad(loss_of)(params, x[rows], y[rows])
            return (*update(params, grads, m, v, t + 1), t + 1), loss

        return jax.lax.scan(step, carry, order)

    def epoch() -> None:
        nonlocal carry
        order = rng.permutation(len(x)).reshape(case.steps, case.batch)
        carry, losses = train(carry, jax.device_put(order, device), x, y)
        jax.block_until_ready((carry, losses))

    def loss() -> float:
        return float(loss_of(carry[0], x[:SEEN], y[:SEEN]))

    return Contender(epoch, loss, (lambda: device.memory_stats()["peak_bytes_in_use"]) if case.on_gpu else None)


#: In the order of the table's columns. "floor" and "xpdense" are always timed: the others are compared with them.
#: "revision" is no column of it.
CONTENDERS: dict[str, Callable[[Case], Contender]] = {
    "floor": floor,
    "xpdense": fit,
    "xpdense step": step,
    "xpdense generic": partial(fit, ops="generic"),
    "scikit-learn": scikit_learn,
    "PyTorch": torch,
    "PyTorch fused": partial(torch, fused=True),
    "PyTorch compiled": partial(torch, how="compiled", fused=True),
    "PyTorch graph": partial(torch, how="graph", fused=True),
    "JAX": jax,
    "revision": revision,
}


def contenders(on_gpu: bool) -> list[str]:
    """The names of those that compute there."""
    return [name for name in CONTENDERS if name not in ("revision", "scikit-learn" if on_gpu else "PyTorch graph")]
