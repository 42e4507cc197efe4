"""A network's memory and structure: one buffer, named views, workspaces that stay, initial weights, decay, clipping."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, leaky_relu
from xpdense.arena import ALIGNMENT
from xpdense.backend import resolve
from xpdense.initializers import INITIALIZERS, as_initializer, normal, uniform
from xpdense.optimizers import OPTIMIZERS

RNG = np.random.default_rng(13)
X = RNG.standard_normal((24, 3)).astype(np.float32)
Y = RNG.standard_normal((24, 2)).astype(np.float32)
BACKENDS = pytest.mark.parametrize("backend", ["numpy", "torch", "array_api_strict:device1"])
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def network(**options: Any) -> xd.DenseNetwork:
    """Every kind of layer, with sizes that leave gaps between the tensors."""
    if "backend" in options:
        pytest.importorskip(options["backend"].partition(":")[0])
    layers = [xd.Dense(5, "tanh"), xd.BatchNorm(), xd.Dropout(0.2), xd.Residual([xd.LayerNorm(), xd.Dense(5, "relu")]),
              xd.Dense(2)]
    return xd.DenseNetwork(layers, **{"inputs": 3, "seed": 6} | options)


def one_step(net: xd.DenseNetwork, optimizer: xd.Optimizer, gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a step with these gradients changes of each parameter."""
    before = net.arena.to_host()
    for name, value in gradients.items():
        net.grads[name][...] = net.backend.from_host(value.astype(net.dtype))
    optimizer.begin(net.arena).step(net.ops, 0, optimizer.learning_rate(0, 1))
    return {name: value - before[name] for name, value in net.arena.to_host().items() if name in gradients}


# --- the arena -------------------------------------------------------------------------------------------------

NAMES = ["0.weight", "0.bias", "1.gain", "1.bias", "3.0.gain", "3.0.bias", "3.1.weight", "3.1.bias", "4.weight",
         "4.bias"]


@BACKENDS
def test_every_parameter_is_a_writable_view_into_one_buffer(backend: str) -> None:
    net = network(backend=backend)
    assert list(net.params) == list(net.grads) == NAMES
    for views, buffer in ((net.params, net.arena.params), (net.grads, net.arena.grads)):
        buffer[...] = net.backend.from_host(np.zeros(buffer.shape, np.float32))
        for number, view in enumerate(views.values(), 1):
            view[...] = net.backend.from_host(np.full(view.shape, number, np.float32))
        held = np.asarray(net.backend.to_host(buffer))
        assert [int(np.sum(held == n)) for n in range(1, 11)] == [math.prod(v.shape) for v in views.values()]
    own = dict(net.named_layers())
    assert np.all(net.backend.to_host(own["3.1"].params["weight"]) == 7)
    assert "weight" not in own["1"].params
    assert np.all(net.backend.to_host(own["4"].grads["bias"]) == 10)


def test_views_share_the_buffers_memory() -> None:
    net = network()
    for name in NAMES:
        assert np.shares_memory(net.params[name], net.arena.params)
        assert np.shares_memory(net.grads[name], net.arena.grads)
    assert np.shares_memory(net.arena.values("1.running_mean"), net.arena.state)
    assert np.shares_memory(dict(net.named_layers())["1"].params["running_mean"], net.arena.state)
    assert net.arena.params.flags.c_contiguous
    assert net.arena.params.ndim == 1


@DTYPES
def test_tensors_start_at_multiples_of_16_elements_and_those_that_decay_come_first(dtype: str) -> None:
    net = network(dtype=dtype)
    item, base = net.arena.params.itemsize, net.arena.params.ctypes.data
    starts = {name: (view.ctypes.data - base) // item for name, view in net.params.items()}
    assert ALIGNMENT == 16
    assert all(start % 16 == 0 for start in starts.values())
    decaying = {name for name in NAMES if name.endswith("weight")}
    assert {name for name, start in starts.items() if start < net.arena.decay_size} == decaying
    ends = {name: start + net.params[name].size for name, start in starts.items()}
    order = sorted(NAMES, key=starts.__getitem__)
    assert all(ends[a] <= starts[b] for a, b in pairwise(order)), "none overlap"
    assert max(ends[name] for name in decaying) <= net.arena.decay_size <= min(starts[n] for n in set(NAMES) - decaying)
    assert net.arena.params.shape == net.arena.grads.shape
    assert net.arena.params.dtype == dtype
    assert net.size == 3 * 5 + 5 + 5 + 5 + 5 + 5 + 25 + 5 + 10 + 2


@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gaps_between_tensors_stay_zero(name: str, decay_all: bool) -> None:
    net = network()
    gaps = np.ones(net.arena.params.shape, bool)
    base = net.arena.params.ctypes.data
    for view in net.params.values():
        start = (view.ctypes.data - base) // 4
        gaps[start : start + view.size] = False
    assert gaps.sum() > 50
    optimizer = OPTIMIZERS[name](0.01, weight_decay=0.1, clip_norm=1.0, decay_all=decay_all)
    net.fit(X, Y, loss="squared_error", optimizer=optimizer, epochs=3, batch_size=5)
    assert np.all(net.arena.params[gaps] == 0)
    assert np.all(net.arena.grads[gaps] == 0)
    assert np.all(net.arena.params[~gaps] != 0)


def test_snapshots_are_copies_that_come_back() -> None:
    net = network()
    net.fit(X, Y, loss="squared_error", epochs=1)
    saved, before = net.arena.snapshot(), net.arena.to_host()
    buffers = net.arena.params, net.arena.state
    net.fit(X, Y, loss="squared_error", epochs=1)
    assert any(np.any(value != before[name]) for name, value in net.arena.to_host().items())
    net.arena.restore(saved)
    assert all(np.array_equal(value, before[name]) for name, value in net.arena.to_host().items())
    assert net.arena.params is buffers[0], "in place: views stay valid"
    assert net.arena.state is buffers[1]


def test_writing_a_parameter_changes_the_prediction() -> None:
    net = network()
    net.params["4.weight"][...] = 0.0
    net.params["4.bias"][...] = 3.0
    np.testing.assert_array_equal(net.predict(X), np.full((24, 2), 3.0, np.float32))


# --- layers and names ------------------------------------------------------------------------------------------

def test_layers_are_named_by_their_place() -> None:
    net = network()
    kinds = {name: type(layer).__name__ for name, layer in net.named_layers()}
    assert list(kinds.items()) == [("0", "Dense"), ("1", "BatchNorm"), ("2", "Dropout"), ("3", "Residual"),
                                   ("3.0", "LayerNorm"), ("3.1", "Dense"), ("4", "Dense")]
    assert net.widths() == [3, 5, 5, 5, 5, 2]
    assert (net.inputs, net.outputs) == (3, 2)


def test_a_layer_used_twice_or_by_two_networks_has_parameters_of_each() -> None:
    dense, block = xd.Dense(3, "tanh"), xd.Residual([xd.Dense(3)])
    one, two = xd.DenseNetwork([dense, dense, block], inputs=3), xd.DenseNetwork([dense, block], inputs=3, seed=1)
    assert not hasattr(dense, "params")
    assert not hasattr(block.layers[0], "params")
    views = [*one.params.values(), *two.params.values()]
    assert len(views) == 10
    assert not any(np.shares_memory(a, b) for i, a in enumerate(views) for b in views[:i])
    one.fit(X, X, loss="squared_error", epochs=1)
    assert not np.array_equal(one.params["0.weight"], one.params["1.weight"])


def test_nested_layers_know_the_width_before_them() -> None:
    inner = xd.Residual([xd.Dense(9), xd.Dense(7)])
    net = xd.DenseNetwork([xd.Dense(4), xd.Residual([xd.Dense(7), inner, xd.Dense(4)])], 3)
    shapes = {name: tuple(p.shape) for name, p in net.params.items() if name.endswith("weight")}
    assert shapes == {"0.weight": (3, 4), "1.0.weight": (4, 7), "1.1.0.weight": (7, 9), "1.1.1.weight": (9, 7),
                      "1.2.weight": (7, 4)}


def test_summary_has_a_row_per_layer() -> None:
    net = xd.DenseNetwork([xd.Dense(5, leaky_relu(0.2)), xd.BatchNorm(), xd.Dropout(0.2),
                           xd.Residual([xd.Dense(5, "relu", bias=False)]), xd.Dense(2)], inputs=3)
    rows = net.summary()
    assert [(shape, size) for _, shape, size in rows] == [("(batch, 5)", 20), ("(batch, 5)", 10), ("(batch, 5)", 0),
                                                          ("(batch, 5)", 25), ("(batch, 2)", 12)]
    descriptions = [row[0] for row in rows]
    assert descriptions[2] == "Dropout(rate=0.2)"
    assert descriptions[3].startswith("Residual(Dense(units=5, activation=relu")
    assert "leaky_relu" in descriptions[0]
    assert "0.2" in descriptions[0]
    assert sum(row[2] for row in rows) == net.size


def test_repr_says_how_to_make_it() -> None:
    net = network(dtype="float64")
    text = repr(net)
    assert text.startswith("DenseNetwork([Dense(units=5, activation='tanh'")
    assert text.endswith(
        "inputs=3, backend='numpy', dtype='float64')")
    assert repr(xd.Dropout(0.2)) == "Dropout(rate=0.2)"
    assert repr(xd.Huber(0.5)) == "Huber(delta=0.5)"
    names = {name: getattr(xd, name) for name in ("Dense", "BatchNorm", "Dropout", "LayerNorm")}
    for layer in net.layers:
        if not isinstance(layer, xd.Residual):
            assert eval(repr(layer), names).config() == layer.config()


def test_networks_of_a_seed_are_equal_and_of_another_are_not() -> None:
    one, same, other = network(), network(), network(seed=7)
    for name in NAMES:
        assert np.array_equal(one.params[name], same.params[name])
        assert np.array_equal(one.params[name], other.params[name]) == (not name.endswith("weight"))


@BACKENDS
@DTYPES
def test_initial_weights_are_the_same_everywhere_up_to_rounding(backend: str, dtype: str) -> None:
    precise = network(dtype="float64").arena.to_host()
    for name, value in network(backend=backend, dtype=dtype).arena.to_host().items():
        np.testing.assert_array_equal(value, precise[name].astype(dtype))


# --- passes ----------------------------------------------------------------------------------------------------

@BACKENDS
def test_a_forward_pass_outside_training_changes_nothing(backend: str) -> None:
    net = network(backend=backend)
    net.fit(X, Y, loss="squared_error", epochs=1)
    x = net.backend.from_host(X.copy())
    before = {n: v.tobytes() for n, v in net.arena.to_host().items()}
    grads = np.array(net.backend.to_host(net.arena.grads))
    held = dict(net._tapes), net._tape
    first = np.array(net.backend.to_host(net.forward(x)))
    np.testing.assert_array_equal(net.backend.to_host(net.forward(x)), first)
    assert {n: v.tobytes() for n, v in net.arena.to_host().items()} == before
    np.testing.assert_array_equal(net.backend.to_host(net.arena.grads), grads)
    np.testing.assert_array_equal(net.backend.to_host(x), X)
    assert (dict(net._tapes), net._tape) == held


@BACKENDS
def test_a_training_pass_leaves_its_input_and_the_gradient_that_it_is_given(backend: str) -> None:
    net = network(backend=backend)
    x, dz = net.backend.from_host(X.copy()), net.backend.from_host(Y.copy())
    net.forward(x, train=True)
    net.backward(dz)
    np.testing.assert_array_equal(net.backend.to_host(x), X)
    np.testing.assert_array_equal(net.backend.to_host(dz), Y)


def test_backward_overwrites_gradients_whatever_was_there() -> None:
    net = network()
    net.forward(X, train=True)
    net.backward(Y)
    expected = net.arena.grads.copy()
    for view in net.grads.values():
        view[...] = np.nan
    net.forward(X, train=True)
    net.backward(Y)
    np.testing.assert_array_equal(net.arena.grads, expected)


def test_workspaces_are_made_once_per_batch_size() -> None:
    net = xd.DenseNetwork([xd.Dense(5, "tanh"), xd.Dense(5, "gelu"), xd.Dense(2)], inputs=3)

    def buffers(tape: Any) -> dict[tuple[int, ...], int]:
        found = {(): 0}
        for i, child in enumerate(tape.children):
            found |= {(i, *key): data for key, data in buffers(child).items()}
        return found | {(name,): array.ctypes.data for name, array in tape._buffers.items()}

    seen = []
    for rows in (24, 7, 24, 7, 24):
        z = net.forward(X[:rows], train=True)
        tape = net._tape
        assert tape is not None
        net.backward(Y[:rows])
        assert z.shape == (rows, 2)
        seen.append((z.ctypes.data, buffers(tape)))
    assert len(seen[0][1]) >= 8
    assert seen[0] == seen[2] == seen[4]
    assert seen[1] == seen[3]
    assert seen[0] != seen[1]


def test_workspaces_of_many_batch_sizes_do_not_pile_up() -> None:
    net = network()
    for rows in range(1, 25):
        net.forward(X[:rows], train=True)
        net.backward(Y[:rows])
    assert len(net._tapes) <= 4


def test_a_training_step_allocates_little() -> None:
    import tracemalloc

    net = xd.DenseNetwork([xd.Dense(256, "relu"), xd.Dense(256, "relu"), xd.Dense(2)], inputs=3)
    x, dz = RNG.standard_normal((2048, 3)).astype(np.float32), RNG.standard_normal((2048, 2)).astype(np.float32)
    for _ in range(2):
        net.forward(x, train=True)
        net.backward(dz)
    tracemalloc.start()
    net.forward(x, train=True)
    net.backward(dz)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2048 * 256 * 4 * 0.75, "no layer's activations are made anew; pieces of them are"


@BACKENDS
def test_dropout_falls_elsewhere_at_each_step_and_the_same_at_the_same(backend: str) -> None:
    pytest.importorskip(backend.partition(":")[0])
    net = xd.DenseNetwork([xd.Dropout(0.5), xd.Dropout(0.5)], inputs=3, backend=backend)
    ones = net.backend.from_host(np.ones((400, 3), np.float32))

    def draw(step: int) -> np.ndarray:
        net.set_step(step)
        return np.array(net.backend.to_host(net.forward(ones, train=True)))

    first = draw(5)
    assert np.array_equal(draw(5), first)
    assert not np.array_equal(draw(6), first)
    assert set(np.unique(first)) == {0.0, 4.0}
    assert abs(np.mean(first == 4.0) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 1200), "the two layers drop independently"


def test_one_row_leaves_running_statistics_alone() -> None:
    net = xd.DenseNetwork([xd.BatchNorm(), xd.Dense(1)], inputs=3)
    before = net.arena.to_host()
    net.forward(X[:1], train=True)
    assert all(np.array_equal(value, before[name]) for name, value in net.arena.to_host().items())
    net.forward(X, train=True)
    after = net.arena.to_host()
    np.testing.assert_allclose(after["0.running_mean"], 0.1 * X.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after["0.running_variance"], 0.9 + 0.1 * X.var(axis=0), rtol=1e-5)


# --- initial weights -------------------------------------------------------------------------------------------

VARIANCES = {"glorot": 2 / (300 + 200), "he": 2 / 300, "lecun": 1 / 300}


@pytest.mark.parametrize("name", [f"{kind}_{shape}" for kind in VARIANCES for shape in ("normal", "uniform")])
def test_scaled_initializers_have_their_moments(name: str) -> None:
    kind, _, shape = name.partition("_")
    values = as_initializer(name).draw(np.random.default_rng(1), (300, 200))
    variance, n = VARIANCES[kind], 60_000
    assert values.shape == (300, 200)
    assert values.dtype == np.float64
    assert abs(values.mean()) < 4 * math.sqrt(variance / n)
    kurtosis = 3.0 if shape == "normal" else 1.8
    assert abs(values.var() / variance - 1) < 4 * math.sqrt((kurtosis - 1) / n)
    if shape == "uniform":
        limit = math.sqrt(3 * variance)
        assert limit * 0.999 < np.abs(values).max() <= limit
    else:
        assert np.abs(values).max() > 3.5 * math.sqrt(variance)


def test_plain_initializers_have_their_parameters() -> None:
    rng = np.random.default_rng(2)
    assert abs(normal(0.3).draw(rng, (200, 200)).std() - 0.3) < 0.005
    assert abs(np.abs(uniform(0.3).draw(rng, (200, 200))).max() - 0.3) < 1e-3
    assert abs(as_initializer("normal").draw(rng, (200, 200)).std() - 0.05) < 0.001
    assert abs(np.abs(as_initializer("uniform").draw(rng, (200, 200))).max() - 0.05) < 1e-3
    assert np.all(as_initializer("zeros").draw(rng, (4, 3)) == 0)
    assert np.all(as_initializer("ones").draw(rng, (3,)) == 1)


@pytest.mark.parametrize("shape", [(40, 40), (60, 20), (20, 60), (1, 5), (5, 1)])
def test_orthogonal_is(shape: tuple[int, int]) -> None:
    w = as_initializer("orthogonal").draw(np.random.default_rng(3), shape)
    assert w.shape == shape
    assert w.flags.c_contiguous
    product = w.T @ w if shape[0] >= shape[1] else w @ w.T
    np.testing.assert_allclose(product, np.eye(min(shape)), atol=1e-12)


def test_orthogonal_is_uniform_over_rotations() -> None:
    draws = [as_initializer("orthogonal").draw(np.random.default_rng(i), (2, 2)) for i in range(400)]
    assert 160 < sum(np.linalg.det(d) > 0 for d in draws) < 240
    assert 160 < sum(d[0, 0] > 0 for d in draws) < 240


@pytest.mark.parametrize("name", INITIALIZERS)
def test_every_initializer_draws_every_shape_in_float64(name: str) -> None:
    for shape in ((4, 7), (7, 4), (5,)) if name != "orthogonal" else ((4, 7), (7, 4)):
        values = as_initializer(name).draw(np.random.default_rng(0), shape)
        assert values.shape == shape
        assert values.dtype == np.float64
        assert np.array_equal(values, as_initializer(name).draw(np.random.default_rng(0), shape))


@pytest.mark.parametrize("activation", [*ACTIVATIONS, leaky_relu(0.1), elu(0.5)], ids=lambda a: getattr(a, "name", a))
def test_the_default_initializer_follows_the_activation(activation: Any) -> None:
    name = getattr(activation, "name", activation)
    rectifiers = {"relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "mish", "softplus"}
    expected = "he_normal" if name in rectifiers else "lecun_normal" if name == "selu" else "glorot_uniform"
    layer = xd.Dense(4, activation)
    assert layer.config()["initializer"] == expected
    assert xd.Dense(4, activation, initializer="zeros").config()["initializer"] == "zeros"
    w = xd.DenseNetwork([xd.Dense(200, activation)], inputs=300, seed=1).params["0.weight"]
    assert np.std(w) == pytest.approx(math.sqrt(VARIANCES[expected.partition("_")[0]]), rel=0.02)


def test_biases_norms_and_statistics_start_where_they_do_nothing() -> None:
    start = network().arena.to_host()
    assert all(np.all(v == 0) for n, v in start.items() if n.endswith(("bias", "running_mean")))
    assert all(np.all(v == 1) for n, v in start.items() if n.endswith(("gain", "running_variance")))


# --- decay and clipping ----------------------------------------------------------------------------------------

@BACKENDS
@pytest.mark.parametrize("decay_all", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_is_for_weights_unless_for_all(decoupled: bool, decay_all: bool, backend: str) -> None:
    net = network(backend=backend, dtype="float64")
    for name in NAMES:
        net.params[name][...] = net.backend.from_host(RNG.uniform(0.5, 2.0, net.params[name].shape))
    before = net.arena.to_host()
    gradients = {name: np.zeros(before[name].shape) for name in NAMES}
    change = one_step(net, xd.SGD(0.1, weight_decay=0.3, decoupled=decoupled, decay_all=decay_all), gradients)
    for name in NAMES:
        expected = -0.1 * 0.3 * before[name] if decay_all or name.endswith("weight") else 0.0 * before[name]
        np.testing.assert_allclose(change[name], expected, rtol=1e-12, atol=1e-15)


def test_coupled_decay_goes_through_the_optimizer_and_decoupled_decay_does_not() -> None:
    """Adam's first step is of size `rate` whatever the gradient, the decay's share included where it is coupled."""
    for decoupled in (False, True):
        net = network(dtype="float64")
        before = net.arena.to_host()["0.weight"]
        gradients = {name: np.full(p.shape, 1e-3) for name, p in net.params.items()}
        change = one_step(net, xd.Adam(0.01, weight_decay=0.1, decoupled=decoupled), gradients)["0.weight"]
        if decoupled:
            np.testing.assert_allclose(change, -0.01 * (0.1 * before + 1.0), rtol=1e-3)
        else:
            np.testing.assert_allclose(change, -0.01 * np.sign(1e-3 + 0.1 * before), rtol=1e-2)


def test_adamw_and_lion_decouple_by_default_and_the_others_do_not() -> None:
    assert {name for name, cls in OPTIMIZERS.items() if cls().decoupled} == {"adamw", "lion"}
    assert xd.AdamW().weight_decay == 0.01
    assert xd.Adam().weight_decay == 0.0
    assert not xd.AdamW(decoupled=False).decoupled


@BACKENDS
@pytest.mark.parametrize("norm", [0.1, 1.0, 1000.0])
def test_clip_norm_bounds_the_norm_of_all_gradients_together(norm: float, backend: str) -> None:
    net = network(backend=backend, dtype="float64")
    gradients = {name: RNG.standard_normal(tuple(p.shape)) for name, p in net.params.items()}
    total = math.sqrt(sum(np.sum(g * g) for g in gradients.values()))
    assert 1.0 < total < 1000.0
    change = one_step(net, xd.SGD(1.0, clip_norm=norm), gradients)
    moved = math.sqrt(sum(np.sum(c * c) for c in change.values()))
    assert moved == pytest.approx(min(total, norm), rel=1e-5)
    assert moved <= norm * (1 + 1e-12)
    for name, g in gradients.items():
        np.testing.assert_allclose(change[name], -g * min(1.0, norm / total), rtol=1e-5)
        np.testing.assert_array_equal(net.backend.to_host(net.grads[name]), g)


def test_clipping_comes_before_the_decay() -> None:
    net = network(dtype="float64")
    before = net.arena.to_host()["0.weight"]
    gradients = {name: np.full(p.shape, 1e6) for name, p in net.params.items()}
    change = one_step(net, xd.SGD(1.0, clip_norm=1e-9, weight_decay=0.5), gradients)["0.weight"]
    np.testing.assert_allclose(change, -0.5 * before, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_survives_squares_beyond_the_type(dtype: str) -> None:
    net = network(dtype=dtype)
    large = {"float32": 1e25, "float64": 1e200}[dtype]
    gradients = {name: np.full(p.shape, large) for name, p in net.params.items()}
    with np.errstate(all="ignore"):
        change = one_step(net, xd.SGD(1.0, clip_norm=1.0), gradients)
    assert math.sqrt(sum(np.sum(c.astype(float) ** 2) for c in change.values())) == pytest.approx(1.0, rel=1e-4)


def test_backends_of_a_network_move_by_name_or_by_themselves() -> None:
    pytest.importorskip("torch")
    net = network()
    values = net.arena.to_host()
    for target, name in (("torch", "torch:cpu"), (resolve("numpy"), "numpy"), ("numpy", "numpy")):
        net.to(target)
        assert net.backend.name == name
        assert all(np.array_equal(value, values[n]) for n, value in net.arena.to_host().items())
        dict(net.named_layers())["3.1"].params["bias"][...] = 1.5
        assert np.all(net.arena.to_host()["3.1.bias"] == 1.5), "layers hold views of where the network is now"
        dict(net.named_layers())["3.1"].params["bias"][...] = 0.0
