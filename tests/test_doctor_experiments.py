"""`diagnose` on a network written by hand, and on one of this package, with one thing wrong: that is what it names.

The data are real: wine (178 rows, 13 features, 3 classes), digits and diabetes, standardised.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_doctor_gradients import OriginStory

import xpdense as xd
from xpdense.doctor.task import Task

datasets = pytest.importorskip("sklearn.datasets", reason="the data sets are scikit-learn's")

Array = np.ndarray


def scaled(x: Array) -> Array:
    std = x.std(axis=0)
    return (x - x.mean(axis=0)) / np.where(std > 0, std, 1.0)


def rows(name: str) -> tuple[Array, Array]:
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    x = scaled(x)
    return (x, scaled(y[:, None])) if name == "diabetes" else (x[:700], y[:700])


class Hand:
    """ReLU or another, and softmax with cross-entropy on class numbers; plain gradient descent."""

    weight_decay = dropout = 0.0

    def __init__(self, widths: tuple[int, ...], rate: float = 0.1, hidden: str = "relu",
                 dtype: str = "float64") -> None:
        self.rng = rng = np.random.default_rng(0)
        self.rate, self.hidden, self.layers = rate, hidden, len(widths) - 1
        self.params: dict[str, Array] = {}
        for k in range(self.layers):
            shape = widths[k], widths[k + 1]
            self.params[f"W{k + 1}"] = (rng.standard_normal(shape) * np.sqrt(2 / shape[0])).astype(dtype)
            self.params[f"b{k + 1}"] = np.zeros(shape[1], dtype)

    def activate(self, z: Array) -> Array:
        return {"relu": np.maximum(z, 0), "tanh": np.tanh(z), "identity": z}[self.hidden]

    def derivative(self, z: Array) -> Array:
        return {"relu": (z > 0).astype(z.dtype), "tanh": 1 - np.tanh(z) ** 2, "identity": np.ones_like(z)}[self.hidden]

    def output(self, z: Array) -> Array:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)

    def forward(self, x: Array, train: bool = False) -> tuple[list[Array], list[Array]]:
        a, zs = [x], []
        for k in range(1, self.layers + 1):
            zs.append(a[-1] @ self.params[f"W{k}"] + self.params[f"b{k}"])
            a.append(self.activate(zs[-1]) if k < self.layers else self.output(zs[-1]))
            if train and self.dropout and k < self.layers:
                a[-1] = a[-1] * (self.rng.random(a[-1].shape) > self.dropout) / (1 - self.dropout)
        return zs, a

    def predict(self, x: Array) -> Array:
        return self.forward(x)[1][-1]

    def target(self, y: Array) -> Array:
        return np.eye(self.params[f"b{self.layers}"].size)[y]

    def loss(self, x: Array, y: Array) -> float:
        return float(-np.mean(np.sum(self.target(y) * np.log(self.predict(x) + 1e-300), axis=1)))

    def dz(self, p: Array, y: Array) -> Array:
        return (p - self.target(y)) / len(y)

    def gradients(self, x: Array, y: Array) -> dict[str, Array]:
        zs, a = self.forward(x, train=True)
        dz, grads = self.dz(a[-1], y), {}
        for k in range(self.layers, 0, -1):
            grads[f"W{k}"], grads[f"b{k}"] = a[k - 1].T @ dz, dz.sum(axis=0)
            if k > 1:
                dz = (dz @ self.params[f"W{k}"].T) * self.derivative(zs[k - 2])
        return grads

    def step(self, x: Array, y: Array) -> None:
        for name, gradient in self.gradients(x, y).items():
            decay = self.weight_decay * self.params[name] if name[0] == "W" else 0.0
            self.params[name] -= (self.rate * (gradient + decay)).astype(self.params[name].dtype)


class HandValues(Hand):
    """The same for values: the output as it is, and squared error."""

    def output(self, z: Array) -> Array:
        return z

    def loss(self, x: Array, y: Array) -> float:
        return float(np.mean((self.predict(x) - y) ** 2))

    def dz(self, p: Array, y: Array) -> Array:
        return 2 * (p - y) / len(y)


def hand(widths: tuple[int, ...] = (13, 24, 3), **options: Any) -> Hand:
    return Hand(widths, **options)


DIGITS = (64, 24, 10)


def made(base: type[Hand] = Hand, widths: tuple[int, ...] = (13, 24, 3), **methods: Any) -> Hand:
    """A program with other methods or attributes."""
    return type("Mine", (base,), methods)(widths)


def with_params(program: Hand, change: Callable[[dict[str, Array]], None]) -> Hand:
    change(program.params)
    return program


def causes(found: xd.Diagnosis) -> list[str]:
    return [finding.cause for finding in found.findings]


# --- sound ones --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["wine", "digits", "breast_cancer", "diabetes"])
def test_a_sound_program_has_no_finding(name, seed):
    x, y = rows(name)
    order = np.random.default_rng(seed).permutation(len(x))
    base, outputs = (HandValues, 1) if name == "diabetes" else (Hand, int(y.max()) + 1)
    program = base((x.shape[1], 24, outputs), rate=0.02 if name == "diabetes" else 0.1)
    assert causes(xd.diagnose(program, x[order], y[order], epochs=30, seed=seed)) == []


@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_a_sound_network_has_no_finding(backend):
    x, y = rows("wine")
    layers = [xd.Dense(24, "relu"), xd.Dropout(0.1), xd.LayerNorm(), xd.Dense(3)]
    net = xd.DenseNetwork(layers, 13, backend=backend)
    assert causes(xd.diagnose(net, x, y, loss="softmax_cross_entropy", optimizer=xd.Adam(0.01), epochs=40)) == []


def test_nothing_that_is_given_is_changed_and_the_answer_is_the_same_again():
    x, y = rows("wine")
    program, copies = hand(rate=100.0), (x.copy(), y.copy())
    before = copy.deepcopy(vars(program))
    one, two = (xd.diagnose(program, x, y, epochs=20) for _ in range(2))
    assert one.to_dict() | {"seconds": 0} == two.to_dict() | {"seconds": 0}
    assert all(np.array_equal(before["params"][n], p) for n, p in program.params.items())
    assert np.array_equal(copies[0], x)
    assert np.array_equal(copies[1], y)


# --- one thing wrong, by hand --------------------------------------------------------------------------------------

def scale_weights(params: dict[str, Array]) -> None:
    for name in ("W1", "W2"):
        params[name] *= 100.0


def same_weights(params: dict[str, Array]) -> None:
    for name in ("W1", "W2"):
        params[name][...] = 0.01


def dead_biases(params: dict[str, Array]) -> None:
    params["b1"] -= 50.0


def slowing_step(self: Hand, x: Array, y: Array) -> None:
    Hand.step(self, x, y)
    self.rate *= 0.7


class Missing(Hand):
    def derivative(self, z: Array) -> Array:
        return np.ones_like(z)


PROGRAMS: dict[str, tuple[Callable[[], Hand], dict[str, Any], str, str]] = {
    # name: program, options of diagnose, where, and a key of the change
    "learning_rate_too_high": (lambda: hand(rate=100.0), {}, "learning rate", "learning_rate_factor"),
    "learning_rate_too_low": (lambda: hand(rate=1e-5), {}, "learning rate", "learning_rate_factor"),
    "init_too_large": (lambda: with_params(hand(DIGITS, hidden="tanh"), scale_weights), {}, "W1", "redraw"),
    "init_symmetric": (lambda: with_params(hand(DIGITS, hidden="tanh"), same_weights), {}, "W1", "redraw"),
    "dead_relu": (lambda: with_params(hand(), dead_biases), {}, "b1", "zero"),
    "saturated_units": (lambda: with_params(hand(hidden="tanh"), dead_biases), {}, "b1", "zero"),
    "gradient_sign": (lambda: made(dz=lambda s, p, y: -Hand.dz(s, p, y)), {}, "W1", ""),
    "gradient_scale": (lambda: made(dz=lambda s, p, y: Hand.dz(s, p, y) * len(y)), {}, "W1", ""),
    "activation_derivative_missing": (lambda: Missing((13, 24, 3), hidden="tanh"), {}, "W1", ""),
    "weight_decay_too_strong": (lambda: made(widths=DIGITS, weight_decay=2.0), {}, "weight_decay", "weight_decay"),
    "dropout_too_strong": (lambda: made(widths=DIGITS, dropout=0.97), {}, "dropout", "dropout"),
    "softmax_wrong_axis": (lambda: made(output=lambda s, z: Hand.output(s, z.T).T), {}, "W2", ""),
    "double_softmax": (lambda: made(output=lambda s, z: Hand.output(s, Hand.output(s, z))), {}, "W2", ""),
    "plateau": (lambda: made(step=slowing_step), {}, "learning rate", ""),
}


@pytest.mark.parametrize("cause", PROGRAMS)
def test_what_is_wrong_with_a_program_is_named(cause):
    make, options, where, change = PROGRAMS[cause]
    program = make()
    data = rows("wine" if program.params["W1"].shape[0] == 13 else "digits")
    found = xd.diagnose(program, *data, epochs=20, **options)
    finding = found.findings[0]
    assert finding.cause == cause, str(found)
    assert where in finding.where
    assert set(finding.change) == ({change} if change else set())
    if change:
        assert finding.after > finding.before + 0.1
    assert finding.fix
    assert 0.5 < finding.confidence <= 1.0


def test_what_looks_odd_and_does_no_harm_is_ruled_out():
    x, y = rows("digits")
    assert np.any((x.std(axis=0) > 0) & (x.std(axis=0) < 0.3))  # of the first 700 rows: it is a candidate
    found = xd.diagnose(Hand(DIGITS, rate=100.0), x, y, epochs=20)
    assert causes(found) == ["learning_rate_too_high"]


def test_predictions_that_are_not_finite_have_the_least_skill():
    task = Task(2, np.array([0, 1, 0, 1]), 1)
    right = np.array([[0.1], [0.9], [0.2], [0.8]])
    assert task.skill(right, np.arange(4)) == 1.0
    assert task.skill(np.where(right > 0.85, np.nan, right), np.arange(4)) == -1.0


def test_sixteen_bits_are_named():
    class Small(Hand):
        def loss(self, x: Array, y: Array) -> float:
            return 1e-6 * super().loss(x, y)

        def dz(self, p: Array, y: Array) -> Array:
            return (super().dz(p, y) * 1e-6).astype(p.dtype)

    program = Small((13, 24, 3), rate=1e5, dtype="float16")
    x, y = rows("wine")
    found = xd.diagnose(program, x.astype(np.float16), y, epochs=30)
    assert found.findings[0].cause in ("precision_underflow", "precision_overflow")
    assert found.findings[0].change == {"dtype": "float64"}


def test_a_linear_network_is_named_where_the_task_is_not():
    x = np.random.default_rng(0).standard_normal((400, 13))
    y = (x[:, 0] * x[:, 1] > 0).astype(int) + 1
    found = xd.diagnose(Hand((13, 24, 3), hidden="identity"), x[:, :], y, epochs=60)
    assert causes(found)[0] in ("no_nonlinearity", "labels_shuffled")  # of 13 columns two tell


@pytest.mark.parametrize(("cause", "widths", "hidden"), [
    ("no_nonlinearity", (2, 24, 2), "identity"), ("capacity_too_small", (2, 1, 2), "relu")])
def test_layers_that_cannot_do_it_are_named(cause, widths, hidden):
    x = np.random.default_rng(0).standard_normal((500, 2))
    found = xd.diagnose(Hand(widths, hidden=hidden), x, (x[:, 0] * x[:, 1] > 0).astype(int), epochs=60)
    assert causes(found) == [cause]
    assert found.findings[0].where == "0.weight" or "W1" in found.findings[0].where


# --- one thing wrong with the data ---------------------------------------------------------------------------------

def column(x: Array, values: Any) -> Array:
    x = x.copy()
    x[:, 2] = values
    return x


def conflicting(x: Array, y: Array) -> tuple[Array, Array]:
    return np.concatenate([x, x]), np.concatenate([y, (y + 1) % 3])


def imbalanced(x: Array, y: Array) -> tuple[Array, Array]:
    x, y = rows("digits")
    keep = np.flatnonzero((y < 2) | (y == 2))
    few = keep[y[keep] == 2][:12]
    order = np.random.default_rng(0).permutation(np.concatenate([keep[y[keep] != 2], few]))
    return np.hstack([x[order, 20:32], 0 * x[order, :1]]), y[order]


def leaking(x: Array, y: Array) -> tuple[Array, Array]:
    return column(np.random.default_rng(0).standard_normal(x.shape) + 0.3 * y[:, None], y - 1.0), y


DATA: dict[str, tuple[Callable[[Array, Array], tuple[Array, Array]], dict[str, Any], str]] = {
    "features_unscaled": (lambda x, y: (x * 500.0 + 100.0, y), {}, "standardise"),
    "constant_feature": (lambda x, y: (column(x, 1000.0), y), {}, "drop_columns"),
    "nonfinite_input": (lambda x, y: (np.where(np.arange(x.size).reshape(x.shape) == 70, np.nan, x), y), {},
                        "drop_rows"),
    "labels_out_of_range": (lambda x, y: (x, y - 1), {}, ""),
    "labels_shuffled": (lambda x, y: (x, np.random.default_rng(0).permutation(y)), {}, ""),
    "single_class": (lambda x, y: (x, 0 * y), {}, ""),
    "conflicting_duplicates": (conflicting, {}, ""),
    "leakage": (leaking, {}, "drop_columns"),
}


@pytest.mark.parametrize("cause", DATA)
def test_what_is_wrong_with_the_data_is_named(cause):
    change, options, key = DATA[cause]
    x, y = change(*rows("wine"))
    found = xd.diagnose(hand(), x, y, **({"epochs": 30} | options))
    assert causes(found)[0] == cause, str(found)
    assert set(found.findings[0].change) == ({key} if key else set())


def test_rows_of_which_there_are_too_few_are_named():
    x, y = rows("digits")
    some = np.concatenate([np.flatnonzero(y == c)[:4] for c in range(10)])
    assert "too_few_samples" in causes(xd.diagnose(Hand((64, 24, 10)), x[some], y[some], epochs=100))


def test_rows_in_the_order_of_their_class_are_named():
    x, y = rows("digits")
    order = np.argsort(y, kind="stable")
    found = xd.diagnose(Hand((64, 24, 10), rate=0.5), x[order], y[order], epochs=2, shuffle=False)
    assert causes(found)[0] == "not_shuffled"
    assert found.findings[0].change == {"shuffle": True}


def test_batches_of_one_row_are_named():
    x, y = rows("digits")
    found = xd.diagnose(Hand((64, 24, 10), rate=0.5), x, y, epochs=4, batch_size=1)
    assert causes(found)[0] == "batch_too_small"


@pytest.mark.parametrize(("cause", "change"), [
    ("target_unscaled", lambda y: y * 700.0 + 5000.0), ("target_shape_broadcast", lambda y: y[:, 0])])
def test_what_is_wrong_with_values_is_named(cause, change):
    x, y = rows("diabetes")
    found = xd.diagnose(HandValues((10, 24, 1), rate=0.02), x, change(y), epochs=30)
    assert causes(found)[0] == cause, str(found)


def test_an_output_that_cannot_reach_the_values_is_named():
    x, y = rows("diabetes")
    program = made(HandValues, (10, 24, 1), output=lambda s, z: 1 / (1 + np.exp(-z)))
    assert causes(xd.diagnose(program, x, y, epochs=30))[0] == "activation_loss_mismatch"


def test_a_softmax_over_one_unit_is_named():
    x, y = rows("breast_cancer")
    program = made(HandValues, (30, 16, 1), output=lambda s, z: Hand.output(s, z))
    assert causes(xd.diagnose(program, x, y[:, None].astype(float), epochs=10)) == ["softmax_on_one_unit"]


# --- one thing wrong with a network of this package ------------------------------------------------------------------

def ours(*layers: xd.Layer) -> xd.DenseNetwork:
    return xd.DenseNetwork([*layers, xd.Dense(10)], inputs=64)


NETWORKS: dict[str, tuple[Callable[[], xd.DenseNetwork], xd.Optimizer, str]] = {
    "learning_rate_too_high": (lambda: ours(xd.Dense(24, "relu")), xd.Momentum(30.0), "learning rate"),
    "learning_rate_too_low": (lambda: ours(xd.Dense(24, "relu")), xd.SGD(1e-5), "learning rate"),
    "weight_decay_too_strong": (lambda: ours(xd.Dense(24, "relu")), xd.SGD(0.1, weight_decay=3.0), "optimizer"),
    "dropout_too_strong": (lambda: ours(xd.Dense(24, "relu"), xd.Dropout(0.97)), xd.SGD(0.1), "1"),
    "init_symmetric": (lambda: xd.DenseNetwork([xd.Dense(24, "tanh", initializer="zeros"),
                                                xd.Dense(10, initializer="zeros")], 64), xd.SGD(0.1), "0.weight"),
    "init_too_large": (lambda: ours(xd.Dense(24, "tanh", initializer={"name": "normal", "std": 10.0})), xd.SGD(0.1),
                       "0.weight"),
    "plateau": (lambda: ours(xd.Dense(24, "relu")), xd.SGD(xd.Exponential(0.1, 0.5)), "learning rate"),
}


@pytest.mark.parametrize("cause", NETWORKS)
def test_what_is_wrong_with_a_network_is_named(cause):
    make, optimizer, where = NETWORKS[cause]
    x, y = rows("digits")
    found = xd.diagnose(make(), x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=20)
    assert causes(found)[0] == cause, str(found)
    assert where in found.findings[0].where
    assert found.findings[0].after > found.findings[0].before


def test_a_last_activation_before_the_losss_own_is_named():
    net = xd.DenseNetwork([xd.Dense(24, "relu"), xd.Dense(3, "sigmoid")], inputs=13)
    found = xd.diagnose(net, *rows("wine"), loss="softmax_cross_entropy", epochs=20)
    assert causes(found) == ["activation_loss_mismatch"]


def test_an_activation_of_ones_own_with_a_wrong_derivative_is_named():
    wrong = xd.Activation("cube", lambda xp, z: z * z * z, lambda xp, z: 2.0 * z * z)
    net = xd.DenseNetwork([xd.Dense(24, wrong), xd.Dense(3)], inputs=13)
    found = xd.diagnose(net, *rows("wine"), loss="softmax_cross_entropy", optimizer=xd.SGD(0.01), epochs=20)
    assert found.findings[0].cause in ("gradient_wrong", "gradient_scale")
    assert "0.weight" in found.findings[0].where


@pytest.mark.parametrize("loss", [xd.Quantile(0.9), "absolute_error", "huber"])
def test_losses_of_values_have_their_own_skill(loss):
    x, y = rows("diabetes")
    net = xd.DenseNetwork([xd.Dense(16, "relu"), xd.Dense(1)], inputs=10)
    assert causes(xd.diagnose(net, x, y, loss=loss, optimizer=xd.Adam(0.003), epochs=40)) == []


def test_the_network_of_the_origin_gets_all_its_five_faults_named():
    class Trained(OriginStory):
        def step(self, x: Array, y: Array) -> None:
            for name, gradient in self.gradients(x, y).items():
                self.params[name] -= 0.1 * gradient

    x, y = rows("breast_cancer")
    program = Trained("derivative", "bias", "scale", "clip", "weights")
    found = xd.diagnose(program, x, y[:, None].astype(float), batch_size=len(x), epochs=400)
    assert set(causes(found)) == {"activation_derivative_of_wrong_tensor", "bias_gradient_wrong", "gradient_scale",
                                  "probability_clipped", "init_too_large"}
    assert found.cured > found.reference - 0.05


# --- what cannot be examined, and what is not a program --------------------------------------------------------------

class Some:
    """Only some of the five names."""

    def __init__(self, *names: str) -> None:
        program = hand()
        for name in names:
            setattr(self, name, getattr(program, name))


def test_what_a_program_lacks_is_said():
    found = xd.diagnose(Some("params", "predict"), *rows("wine"))
    assert "no step" in " ".join(found.notes)
    assert "gradients" in " ".join(found.notes)


def test_gradients_that_are_random_are_not_taken_for_wrong():
    rng = np.random.default_rng(0)
    program = made(forward=lambda s, x, train=False: Hand.forward(s, x * (rng.random(x.shape) > 0.1) if train else x))
    found = xd.diagnose(program, *rows("wine"), epochs=30)
    assert causes(found) == []


def test_an_error_of_the_programs_step_is_told():
    def step(self: Hand, x: Array, y: Array) -> None:
        raise RuntimeError("out of luck")
    found = xd.diagnose(made(step=step), *rows("wine"))
    assert causes(found) == ["unknown"]
    assert "out of luck" in found.findings[0].evidence


@pytest.mark.parametrize(("program", "x", "y", "options", "message"), [
    (None, None, None, {}, "needs a program with"),
    (hand(), np.zeros(5), np.zeros(5), {}, "shape"),
    (hand(), None, np.zeros(3), {}, "one for each"),
    (hand(), None, np.array(["a"] * 178), {}, "must be numbers"),
    (hand(), np.zeros((178, 5)), None, {}, "5 features raised"),
    (hand(), None, None, {"batch_size": 0}, "batch_size"),
    (hand(), None, None, {"epochs": 1.5}, "epochs"),
    (hand(), None, None, {"seed": -1}, "seed"),
    (hand(), None, None, {"shuffle": "no"}, "shuffle"),
    (hand(), None, None, {"loss": "squared_error"}, "brings its own"),
    (xd.DenseNetwork([xd.Dense(3)], 13), None, None, {}, "needs loss="),
    (xd.DenseNetwork([xd.Dense(3)], 12), None, None, {"loss": "squared_error"}, "takes 12 features"),
])
def test_a_users_mistake_is_said_before_any_work(program, x, y, options, message):
    wine = rows("wine")
    with pytest.raises(xd.XpdenseError, match=message):
        xd.diagnose(program, wine[0] if x is None else x, wine[1] if y is None else y, **options)


def test_a_program_that_cannot_be_copied_is_told_so():
    program = hand()
    program.lock = threading.Lock()
    with pytest.raises(xd.ParameterError, match="__deepcopy__"):
        xd.diagnose(program, *rows("wine"))
