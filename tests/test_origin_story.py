"""Where the package comes from: "my loss increases instead of decreasing, and I can't find the bug".

Below is the network that people write by hand: ReLU, a sigmoid at the end, binary cross-entropy, plain gradient
descent on all rows. As it stands it is right, and equal to xpdense. Each of the five classic faults can be switched
on; the tests say what each does to the loss on a real data set (breast cancer, 569 rows of 30 features, standardised)
on which xpdense, from the same start, converges.
"""

from __future__ import annotations

import numpy as np
import pytest

import xpdense as xd

datasets = pytest.importorskip("sklearn.datasets", reason="the data set is scikit-learn's")

WIDTHS = (30, 16, 8, 1)
FAULTS = (
    "the derivative is taken of the incoming gradient",
    "the bias gradient is that of the output",
    "the scale is 1 / features",
    "the loss is clipped, its derivative is not",
    "the initial weights are a hundred times too large",
)
DERIVATIVE, BIAS, SCALE, CLIP, WEIGHTS = FAULTS


class Dense:
    """One layer, as in the question."""

    def __init__(self, inputs: int, units: int, activation: str, rng: np.random.Generator, fault: str | None) -> None:
        self.activation, self.fault = activation, fault
        self.weight = rng.standard_normal((inputs, units)) * np.sqrt((2.0 if activation == "relu" else 1.0) / inputs)
        if fault == WEIGHTS:
            self.weight *= 100.0
        self.bias = np.zeros(units)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.x, self.z = x, x @ self.weight + self.bias
        self.a = np.maximum(self.z, 0.0) if self.activation == "relu" else 1.0 / (1.0 + np.exp(-self.z))
        return self.a

    def derivative(self, z: np.ndarray) -> np.ndarray:
        if self.activation == "relu":
            return (z > 0).astype(float)
        a = 1.0 / (1.0 + np.exp(-z))
        return a * (1.0 - a)

    def backward(self, da: np.ndarray, rate: float) -> np.ndarray:
        return self.step(da * self.derivative(da if self.fault == DERIVATIVE else self.z), rate)

    def step(self, dz: np.ndarray, rate: float) -> np.ndarray:
        rows = self.x.shape[1] if self.fault == SCALE else self.x.shape[0]
        dweight = self.x.T @ dz / rows
        dbias = (self.a if self.fault == BIAS else dz).sum(0) / rows
        dx = dz @ self.weight.T
        self.weight -= rate * dweight
        self.bias -= rate * dbias
        return dx


class DenseNeuralNetwork:
    """The layers, the loss, and gradient descent."""

    def __init__(self, seed: int = 0, fault: str | None = None, widths: tuple[int, ...] = WIDTHS) -> None:
        rng = np.random.default_rng(seed)
        activations = ["relu"] * (len(widths) - 2) + ["sigmoid"]
        self.fault = fault
        self.layers = [Dense(*shape, activation, rng, fault)
                       for *shape, activation in zip(widths[:-1], widths[1:], activations, strict=True)]

    def fit(self, x: np.ndarray, y: np.ndarray, rate: float, steps: int) -> np.ndarray:
        """The loss before each step."""
        losses = []
        for _ in range(steps):
            p = x
            for layer in self.layers:
                p = layer.forward(p)
            *hidden, last = self.layers
            if self.fault == CLIP:
                q = np.clip(p, 1e-15, 1.0 - 1e-15)
                losses.append(-np.mean(y * np.log(q) + (1.0 - y) * np.log(1.0 - q)))
                gradient = last.backward((p - y) / (p * (1.0 - p)), rate)
            else:  # at the logits, where sigmoid and cross-entropy cancel
                losses.append(np.mean(np.maximum(last.z, 0.0) - last.z * y + np.log1p(np.exp(-np.abs(last.z)))))
                gradient = last.step(p - y, rate)
            for layer in reversed(hidden):
                gradient = layer.backward(gradient, rate)
        return np.array(losses)


@pytest.fixture(scope="module")
def cancer() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y[:, None].astype(float)


def by_hand(data: tuple[np.ndarray, np.ndarray], fault: str | None, rate: float, steps: int,
            widths: tuple[int, ...] = WIDTHS) -> np.ndarray:
    with np.errstate(all="raise" if fault is None else "ignore", under="ignore"):
        return DenseNeuralNetwork(0, fault, widths).fit(*data, rate, steps)


def by_xpdense(data: tuple[np.ndarray, np.ndarray], rate: float, steps: int,
               widths: tuple[int, ...] = WIDTHS) -> tuple[np.ndarray, xd.DenseNetwork]:
    """The same training from the same start."""
    hidden = [xd.Dense(units, "relu") for units in widths[1:-1]]
    net = xd.DenseNetwork([*hidden, xd.Dense(1)], inputs=widths[0], dtype="float64")
    for i, layer in enumerate(DenseNeuralNetwork(0, None, widths).layers):
        net.params[f"{i}.weight"][...], net.params[f"{i}.bias"][...] = layer.weight, layer.bias
    history = net.fit(*data, loss="binary_cross_entropy", optimizer=xd.SGD(rate), batch_size=len(data[0]), epochs=steps,
                      shuffle=False)
    return np.array(history["loss"]), net


RATE, STEPS = 0.5, 200


def test_right_by_hand_it_is_equal_to_xpdense(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    network = DenseNeuralNetwork()
    losses = network.fit(*cancer, RATE, 50)
    found, net = by_xpdense(cancer, RATE, 50)
    np.testing.assert_allclose(found, losses, rtol=1e-10)
    for i, layer in enumerate(network.layers):
        np.testing.assert_allclose(net.params[f"{i}.weight"], layer.weight, rtol=0, atol=1e-10)
        np.testing.assert_allclose(net.params[f"{i}.bias"], layer.bias, rtol=0, atol=1e-10)


def test_xpdense_converges_where_the_faults_do_not(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    losses, net = by_xpdense(cancer, RATE, STEPS)
    assert 0.6 < losses[0] < 0.7
    assert np.all(np.diff(losses) < 0)  # at every single step
    assert losses[-1] < 0.03
    assert net.evaluate(*cancer, metrics=["accuracy"])["accuracy"] > 0.99


def test_a_derivative_of_the_incoming_gradient_makes_the_loss_rise(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    losses = by_hand(cancer, DERIVATIVE, RATE, STEPS)
    assert np.min(losses) > 0.35  # never near 0.03
    assert losses[-1] > losses[0] > 0.6  # falls a while, then rises to above its start
    assert np.sum(np.diff(losses) > 0) > 50


def test_a_bias_gradient_of_the_wrong_tensor_makes_the_loss_rise(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    losses = by_hand(cancer, BIAS, RATE, STEPS)
    assert np.min(losses) > 0.6
    assert losses[-1] > 4.0  # about eight times its start
    assert np.mean(np.diff(losses) > 0) > 0.8


def test_a_scale_of_one_over_features_makes_the_loss_jump(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    losses = by_hand(cancer, SCALE, RATE, STEPS)
    assert np.max(losses) > 50.0  # the steps are 569 / 30 times too long, and longer in the layers behind
    assert np.min(losses) > 0.5
    assert losses[-1] > losses[0]


def test_weights_a_hundred_times_too_large_stall_at_the_loss_of_a_coin(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    losses = by_hand(cancer, WEIGHTS, RATE, STEPS)
    y = cancer[1].mean()
    assert losses[0] > 1e4
    assert np.max(losses) > 1e9
    assert np.min(losses) >= -(y * np.log(y) + (1 - y) * np.log(1 - y)) - 1e-12  # of knowing only how many are ill
    assert np.all(np.abs(np.diff(losses[-50:])) < 1e-3)  # it moves no more: every ReLU is dead


def test_a_clip_in_the_loss_alone_ends_in_nan_after_900_good_steps(cancer: tuple[np.ndarray, np.ndarray]) -> None:
    widths, rate, steps = (30, 16, 1), 1.0, 1200
    losses = by_hand(cancer, CLIP, rate, steps, widths)
    finite = np.isfinite(losses)
    end = int(np.argmin(finite))  # the first probability that is 1 to the last bit: 0 / 0
    assert 500 < end < 1100
    assert not np.any(finite[end:])
    right = by_hand(cancer, None, rate, steps, widths)
    np.testing.assert_allclose(losses[:end], right[:end], rtol=1e-9)  # until then nothing gives it away
    found, _ = by_xpdense(cancer, rate, steps, widths)
    assert np.all(np.diff(right) < 0)
    assert np.all(np.diff(found) < 0)
    assert found[-1] < 0.0025


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_xor_is_learnt_from_every_seed_with_the_settings_as_they_are(activation: str, seed: int) -> None:
    x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    net = xd.DenseNetwork([xd.Dense(16, activation), xd.Dense(1)], inputs=2, seed=seed)
    history = net.fit(x, y, loss="binary_cross_entropy")
    assert history["loss"][-1] < 0.05
    assert np.array_equal(net.predict(x).round().ravel(), y)
