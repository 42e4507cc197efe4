"""Losses: the textbook's formula where that is safe, the right number where it is not, means over what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.backend import Backend
from xpdense.losses import LOSSES, as_loss
from xpdense.ops import Ops, ops_for

ROWS, OUTPUTS = 8, 3


def computed(ops: Ops, loss: xd.Loss, z: Any, target: Any, weight: Any = None) -> tuple[float, np.ndarray]:
    """The batch's loss and its gradient at the logits."""
    def place(values: Any, dtype: str = ops.dtype) -> Any:
        return ops.backend.from_host(np.array(values, dtype))

    numbers = loss.labels and np.ndim(target) == 1
    value, dz = loss(ops, place(z), place(target, "int64" if numbers else ops.dtype),
                     None if weight is None else place(weight))
    return float(value), np.array(ops.backend.to_host(dz))


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-z))


def softmax(z: np.ndarray) -> np.ndarray:
    return np.exp(z) / np.exp(z).sum(-1, keepdims=True)


def quantile(z: np.ndarray, t: np.ndarray, q: float) -> np.ndarray:
    return np.where(t >= z, q * (t - z), (1.0 - q) * (z - t))


#: name -> the formula of the textbook, (rows, outputs) each -> one number per row
NAIVE: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "binary_cross_entropy": lambda z, t: -(t * np.log(sigmoid(z)) + (1 - t) * np.log(1 - sigmoid(z))).mean(1),
    "softmax_cross_entropy": lambda z, t: -np.log(softmax(z)[np.arange(len(t)), t]),
    "squared_error": lambda z, t: ((z - t) ** 2).mean(1),
    "absolute_error": lambda z, t: np.abs(z - t).mean(1),
    "huber": lambda z, t: np.where(np.abs(z - t) <= 1, (z - t) ** 2 / 2, np.abs(z - t) - 0.5).mean(1),
    "poisson": lambda z, t: (np.exp(z) - t * z).mean(1),
    "quantile": lambda z, t: quantile(z, t, 0.5).mean(1),
}


def sample(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 2.0 * rng.standard_normal((ROWS, OUTPUTS)), as_loss(name).sample_target(rng, ROWS, OUTPUTS)


def test_every_loss_has_a_formula_here() -> None:
    assert NAIVE.keys() == LOSSES.keys()


@pytest.mark.parametrize("name", LOSSES)
def test_where_the_textbook_is_safe_its_formula_gives_the_same(ops: Ops, name: str) -> None:
    z, target = sample(name)
    value, dz = computed(ops, as_loss(name), z, target)
    np.testing.assert_allclose(value, NAIVE[name](z, target).mean(), rtol=1e-14)
    assert dz.shape == z.shape
    h = 1e-6  # the gradient is of the mean over the batch: each row's part is 1 / rows of it
    step = np.zeros_like(z)
    step[2, 1] = h
    slope = (NAIVE[name](z + step, target).mean() - NAIVE[name](z - step, target).mean()) / (2 * h)
    np.testing.assert_allclose(dz[2, 1], slope, atol=1e-9)


def test_squared_error_has_no_half(ops: Ops) -> None:
    value, dz = computed(ops, xd.SquaredError(), [[3.0, 1.0]], [[1.0, 1.0]])
    assert value == 2.0  # the mean of 4 and 0
    assert np.array_equal(dz, [[2.0, 0.0]])


# --- never clipped, always finite --------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_wrong_and_certain_prediction_costs_what_it_costs(place: Backend, dtype: str) -> None:
    ops = ops_for(place, dtype)
    for size in (60.0, 1e4):  # a probability clipped at 1e-16 would cost 36.8
        assert computed(ops, xd.BinaryCrossEntropy(), [[-size]], [[1.0]]) == (size, [[-1.0]])
        assert computed(ops, xd.BinaryCrossEntropy(), [[size]], [[0.0]]) == (size, [[1.0]])
        value, dz = computed(ops, xd.SoftmaxCrossEntropy(), [[-size, 0.0]], [0])
        assert value == size
        np.testing.assert_allclose(dz, [[-1.0, 1.0]], rtol=1e-15)


def test_a_right_and_certain_prediction_costs_a_little_and_not_nothing(ops: Ops) -> None:
    value, dz = computed(ops, xd.BinaryCrossEntropy(), [[-40.0]], [[0.0]])
    np.testing.assert_allclose([value, dz[0, 0]], math.exp(-40.0), rtol=1e-15)
    value, dz = computed(ops, xd.BinaryCrossEntropy(), [[40.0]], [[1.0]])
    np.testing.assert_allclose(value, math.exp(-40.0), rtol=1e-15)


EXTREMES = np.array([[-1e4, 1e4, 0.0], [1e4, -1e4, 1.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4]])
EXTREME_TARGETS: dict[str, list[Any]] = {
    "binary_cross_entropy": [np.zeros((4, 3)), np.ones((4, 3)), np.full((4, 3), 0.5)],
    "softmax_cross_entropy": [np.array([0, 1, 2, 0]), np.array([1, 0, 0, 2]), np.full((4, 3), 1 / 3)],
    "poisson": [np.zeros((4, 3)), np.full((4, 3), 5.0)],
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", LOSSES)
def test_at_ten_thousand_value_and_gradient_are_finite(place: Backend, name: str, dtype: str) -> None:
    z = np.minimum(EXTREMES, 50.0) if name == "poisson" else EXTREMES  # the next test is about poisson's other end
    for target in EXTREME_TARGETS.get(name, [np.zeros((4, 3)), EXTREMES[::-1]]):
        with np.errstate(over="raise", invalid="raise", divide="raise"):
            value, dz = computed(ops_for(place, dtype), as_loss(name), z, target)
        assert math.isfinite(value)
        assert value >= 0.0 or name == "poisson"
        assert np.all(np.isfinite(dz))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_poisson_loss_beyond_the_type_is_infinite(place: Backend, dtype: str) -> None:
    ops = ops_for(place, dtype)
    assert computed(ops, xd.Poisson(), [[-1e4]], [[3.0]]) == (3e4, [[-3.0]])
    with np.errstate(over="ignore"):
        assert computed(ops, xd.Poisson(), [[1e4]], [[3.0]])[0] == math.inf
    assert math.isfinite(computed(ops, xd.Poisson(), [[88.0]], [[3.0]])[0])


def test_the_link_of_a_cross_entropy_is_a_probability(ops: Ops) -> None:
    z = ops.backend.from_host(EXTREMES.copy())
    p = ops.backend.to_host(xd.SoftmaxCrossEntropy().link(ops.xp, z))
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-15)
    assert np.array_equal(p[0], [0.0, 1.0, 0.0])
    p = ops.backend.to_host(xd.BinaryCrossEntropy().link(ops.xp, z))
    assert np.array_equal(p[0], [0.0, 1.0, 0.5])
    rate = ops.backend.to_host(xd.Poisson().link(ops.xp, ops.backend.from_host(np.array([[-1e4, 0.0, 1.0]]))))
    np.testing.assert_allclose(rate, [[0.0, 1.0, math.e]], rtol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_predictions_are_the_link_of_the_logits(backend: str, name: str) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, 2)), as_loss(name).sample_target(rng, ROWS, OUTPUTS)
    net = xd.DenseNetwork([xd.Dense(OUTPUTS)], inputs=2, backend=backend, dtype="float64")
    net.fit(x, y, loss=name, epochs=1)
    z = x @ net.backend.to_host(net.params["0.weight"]) + net.backend.to_host(net.params["0.bias"])
    link = {"binary_cross_entropy": sigmoid, "softmax_cross_entropy": softmax, "poisson": np.exp}.get(name, np.array)
    np.testing.assert_allclose(net.predict(x), link(z), rtol=1e-13)


# --- weights -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", LOSSES)
def test_a_weight_counts_as_so_many_rows(ops: Ops, name: str) -> None:
    z, target = sample(name)
    times = np.array([1, 0, 2, 3, 1, 1, 0, 4])
    value, dz = computed(ops, as_loss(name), z, target, times)
    again, repeated = computed(ops, as_loss(name), np.repeat(z, times, axis=0), np.repeat(target, times, axis=0))
    np.testing.assert_allclose(value, again, rtol=1e-14)
    owner = np.repeat(np.arange(ROWS), times)
    summed = np.zeros_like(dz)
    np.add.at(summed, owner, repeated)
    np.testing.assert_allclose(dz, summed, atol=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_only_the_ratios_of_weights_matter(ops: Ops, name: str) -> None:
    z, target = sample(name)
    plain, dz = computed(ops, as_loss(name), z, target)
    for size in (1.0, 1e-12, 1e12):
        value, gradient = computed(ops, as_loss(name), z, target, np.full(ROWS, size))
        np.testing.assert_allclose(value, plain, rtol=1e-14)
        np.testing.assert_allclose(gradient, dz, rtol=1e-13)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_weight_gives_nothing_and_no_nan(ops: Ops, name: str) -> None:
    z, target = sample(name)
    value, dz = computed(ops, as_loss(name), z, target, np.zeros(ROWS))
    assert value == 0.0
    assert np.array_equal(dz, np.zeros_like(z))


def test_a_batch_without_weight_leaves_the_network_as_it_is(backend: str) -> None:
    x, y = np.random.default_rng(0).standard_normal((4, 2)), np.array([1.0, 2.0, 3.0, 4.0])
    ends = []
    for rows, weight in ((slice(None), [0.0, 0.0, 1.0, 3.0]), (slice(2, 4), [1.0, 3.0])):
        net = xd.DenseNetwork([xd.Dense(3, "tanh"), xd.Dense(1)], inputs=2, backend=backend, dtype="float64")
        history = net.fit(x[rows], y[rows], loss="squared_error", optimizer=xd.SGD(0.1), sample_weight=weight, epochs=3,
                          batch_size=2, shuffle=False)
        ends.append([history["loss"], net.arena.to_host()])
    assert ends[0][0] == ends[1][0]
    assert all(np.array_equal(ends[0][1][name], ends[1][1][name]) for name in ends[0][1])


# --- definitions -------------------------------------------------------------------------------------------------

def test_class_numbers_are_one_hot_targets(ops: Ops) -> None:
    z, numbers = sample("softmax_cross_entropy")
    value, dz = computed(ops, xd.SoftmaxCrossEntropy(), z, numbers)
    again, gradient = computed(ops, xd.SoftmaxCrossEntropy(), z, np.eye(OUTPUTS)[numbers])
    assert value == again
    assert np.array_equal(dz, gradient)
    np.testing.assert_allclose(dz.sum(1), 0.0, atol=1e-16)


def test_label_smoothing_is_a_soft_target(ops: Ops) -> None:
    z, numbers = sample("softmax_cross_entropy")
    soft = 0.9 * np.eye(OUTPUTS)[numbers] + 0.1 / OUTPUTS
    value, dz = computed(ops, xd.SoftmaxCrossEntropy(label_smoothing=0.1), z, numbers)
    again, gradient = computed(ops, xd.SoftmaxCrossEntropy(), z, soft)
    np.testing.assert_allclose(value, again, rtol=1e-15)
    np.testing.assert_allclose(dz, gradient, atol=1e-16)


def test_two_classes_are_the_same_to_both_cross_entropies(ops: Ops) -> None:
    z, numbers = np.linspace(-5.0, 5.0, ROWS)[:, None], np.arange(ROWS) % 2
    value, dz = computed(ops, xd.BinaryCrossEntropy(), z, numbers[:, None])
    pair, gradient = computed(ops, xd.SoftmaxCrossEntropy(), np.hstack([np.zeros_like(z), z]), numbers)
    np.testing.assert_allclose(value, pair, rtol=1e-14)
    np.testing.assert_allclose(dz[:, 0], gradient[:, 1], atol=1e-16)


def test_huber_is_quadratic_within_delta_and_linear_beyond(ops: Ops) -> None:
    def loss(e: float) -> tuple[float, float]:
        value, dz = computed(ops, xd.Huber(delta=2.0), [[e]], [[0.0]])
        return value, dz[0, 0]

    assert loss(1.0) == (0.5, 1.0)
    assert loss(2.0) == (2.0, 2.0)
    assert loss(-5.0) == (2.0 * (5.0 - 1.0), -2.0)
    z, target = sample("huber")
    np.testing.assert_allclose(computed(ops, xd.Huber(1e6), z, target)[0],
                               computed(ops, xd.SquaredError(), z, target)[0] / 2, rtol=1e-14)


def test_the_quantile_loss_is_least_at_the_quantile(ops: Ops) -> None:
    target = np.arange(101.0)[:, None]
    for q in (0.1, 0.5, 0.9):
        losses = [computed(ops, xd.Quantile(q), np.full((101, 1), z), target)[0] for z in range(101)]
        assert np.argmin(losses) == round(100 * q)
        dz = computed(ops, xd.Quantile(q), [[0.0], [0.0], [0.0]], [[1.0], [-1.0], [0.0]])[1]
        np.testing.assert_allclose(dz, [[-q / 3], [(1 - q) / 3], [0.0]], atol=1e-16)


def test_half_the_absolute_error_is_the_median_s_loss(ops: Ops) -> None:
    z, target = sample("absolute_error")
    value, dz = computed(ops, xd.AbsoluteError(), z, target)
    half, gradient = computed(ops, xd.Quantile(0.5), z, target)
    np.testing.assert_allclose(value, 2.0 * half, rtol=1e-15)
    np.testing.assert_allclose(dz, 2.0 * gradient, rtol=1e-15)


def test_a_target_is_never_broadcast(ops: Ops) -> None:
    z = np.zeros((ROWS, 1))
    for name in LOSSES:
        if name != "softmax_cross_entropy":
            with pytest.raises(xd.ShapeError, match="must not be broadcast"):
                computed(ops, as_loss(name), z, np.zeros(ROWS))
