"""Every layer, activation and loss, registered or a user's own, has the gradient that differences of the loss show.

On NumPy each combination is probed at every entry of every parameter. The other backends are probed at a few, and
their gradients are compared with NumPy's in full. The last part is about the check itself: it must be able to fail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, leaky_relu
from xpdense.activations import sigmoid as logistic
from xpdense.data.arrays import prepared
from xpdense.layers import LAYERS, backward
from xpdense.losses import LOSSES, as_loss
from xpdense.network import Network
from xpdense.ops import Ops

SEED, ROWS, OUTPUTS = 3, 6, 3  # with this seed no probe meets a kink
WEIGHTS = {"unweighted": None, "weighted": np.array([0.5, 0.0, 2.0, 1.0, 3.0, 0.25])}

rng = np.random.default_rng(SEED)
ONE_HOT = np.eye(OUTPUTS)[rng.integers(0, OUTPUTS, ROWS)]
SOFT = rng.dirichlet(np.ones(OUTPUTS), ROWS)

#: name -> loss, targets (None: drawn by the loss itself)
LOSS_CASES: dict[str, tuple[Any, np.ndarray | None]] = {
    **{name: (name, None) for name in LOSSES},
    "softmax, smoothed": (xd.SoftmaxCrossEntropy(label_smoothing=0.2), None),
    "softmax, one-hot": ("softmax_cross_entropy", ONE_HOT),
    "softmax, soft": ("softmax_cross_entropy", SOFT),
    "softmax, soft, smoothed": (xd.SoftmaxCrossEntropy(label_smoothing=0.2), SOFT),
    "softmax, rows that do not sum to 1": ("softmax_cross_entropy", 3.0 * SOFT[:, ::-1] * SOFT),
    "binary, multi-label": ("binary_cross_entropy", rng.integers(0, 2, (ROWS, OUTPUTS))),
    "huber, delta": (xd.Huber(delta=0.3), None),
    "quantile, q": (xd.Quantile(q=0.9), None),
}


def every_layer(activation: Any) -> list[xd.Layer]:
    return [xd.Dense(3, activation), xd.BatchNorm(), xd.Residual([xd.LayerNorm(), xd.Dense(3, activation)]),
            xd.Dropout(0.3), xd.Dense(OUTPUTS)]


def assert_right(report: xd.GradientReport, kinks: float = 0.05) -> None:
    """Right, and not because every probe was left out."""
    assert report.ok, f"\n{report}"
    assert all(t.probes > 0 for t in report.tensors)
    assert sum(t.kinks for t in report.tensors) <= kinks * sum(t.probes for t in report.tensors), f"\n{report}"


# --- on NumPy: everything, at every entry ------------------------------------------------------------------------

def test_the_network_under_test_holds_every_layer() -> None:
    network = Network(every_layer("tanh"), 2, "numpy", "float64")
    assert {type(layer).__name__ for _, layer in network.named_layers()} == LAYERS.keys()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_layer_and_loss_with_every_activation(activation: str) -> None:
    for loss in LOSSES:
        for weight in WEIGHTS.values():
            report = xd.check_network(every_layer(activation), inputs=2, loss=loss, sample_weight=weight, rows=ROWS,
                                      seed=SEED, entries=1000, directions=1)
            assert_right(report)


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("case", LOSS_CASES)
def test_every_form_of_loss_and_target(case: str, weight: np.ndarray | None) -> None:
    loss, y = LOSS_CASES[case]
    x = None if y is None else np.random.default_rng(SEED).standard_normal((ROWS, 2))
    report = xd.check_network(every_layer("tanh"), inputs=2, loss=loss, x=x, y=y, sample_weight=weight, rows=ROWS,
                              seed=SEED, entries=1000, directions=1)
    assert_right(report)


@pytest.mark.parametrize("activation", [leaky_relu(0.3), elu(0.4)], ids=["leaky_relu", "elu"])
def test_activations_with_parameters_of_their_own(activation: xd.Activation) -> None:
    assert_right(xd.check_network([xd.Dense(5, activation), xd.Dense(2)], inputs=3, seed=SEED, entries=1000))


def test_one_output_and_no_bias() -> None:
    layers = [xd.Dense(4, "gelu", bias=False), xd.LayerNorm(), xd.Dense(1, bias=False)]
    assert_right(xd.check_network(layers, inputs=3, loss="binary_cross_entropy", seed=SEED, entries=1000))


# --- on every backend --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_on_every_backend(backend: str, activation: str) -> None:
    report = xd.check_network([xd.Dense(4, activation), xd.Dense(2)], inputs=3, backend=backend, seed=SEED, entries=2,
                              directions=1)
    assert_right(report)


@pytest.mark.parametrize("case", LOSS_CASES)
def test_every_loss_on_every_backend(backend: str, case: str) -> None:
    loss, y = LOSS_CASES[case]
    x = None if y is None else np.random.default_rng(SEED).standard_normal((ROWS, 2))
    report = xd.check_network([xd.Dense(OUTPUTS)], inputs=2, loss=loss, x=x, y=y, rows=ROWS, backend=backend, seed=SEED,
                              sample_weight=WEIGHTS["weighted"], entries=2, directions=1)
    assert_right(report)


@pytest.mark.parametrize("layer", [
    xd.Dense(4, "tanh"), xd.Dropout(0.4), xd.BatchNorm(), xd.LayerNorm(), xd.Residual([xd.Dense(4, "tanh")]),
    xd.Residual([xd.BatchNorm(), xd.Residual([xd.LayerNorm(), xd.Dense(4)]), xd.Dropout(0.4)]),
], ids=lambda layer: type(layer).__name__)
def test_every_layer_on_every_backend(backend: str, layer: xd.Layer) -> None:
    # first where nobody needs its input's gradient, then where somebody does
    for layers in ([xd.Dropout(0.2), layer, xd.Dense(2)], [xd.Dense(4, "silu"), layer, xd.Dense(2)]):
        assert_right(xd.check_network(layers, inputs=4, backend=backend, seed=SEED, entries=2, directions=1))


def gradients(backend: str, activation: str, loss: xd.Loss, weight: np.ndarray | None) -> dict[str, np.ndarray]:
    network = Network(every_layer(activation), 2, backend, "float64", SEED)
    rng = np.random.default_rng(SEED)
    y = loss.sample_target(rng, ROWS, OUTPUTS)
    rows = prepared(rng.standard_normal((ROWS, 2)), y, weight, network.spec(loss))
    value, dz = loss(network.ops, network.forward(rows.x, train=True), rows.y, rows.weight)
    network.backward(dz)
    found = {name: np.array(network.backend.to_host(g)) for name, g in network.grads.items()}
    return found | {"loss": np.array(float(value))}


def test_every_combination_has_the_same_gradients_on_every_backend(backend: str) -> None:
    for activation in ACTIVATIONS:
        for name in LOSSES:
            for weight in WEIGHTS.values():
                expected = gradients("numpy", activation, as_loss(name), weight)
                for key, value in gradients(backend, activation, as_loss(name), weight).items():
                    scale = max(1.0, float(np.max(np.abs(expected[key]))))
                    np.testing.assert_allclose(value, expected[key], rtol=0, atol=1e-12 * scale,
                                               err_msg=f"{activation}, {name}, {key}")


def test_backward_overwrites_what_was_there(backend: str) -> None:
    network = Network(every_layer("gelu"), 2, backend, "float64", SEED)
    loss, rng = as_loss("squared_error"), np.random.default_rng(SEED)
    found = []
    for rows in (ROWS, 2 * ROWS, ROWS):  # another batch size between two of the same
        data = prepared(rng.standard_normal((rows, 2)), rng.standard_normal((rows, OUTPUTS)), None, network.spec(loss))
        if not found:
            first = data
        data = first if rows == ROWS else data
        _, dz = loss(network.ops, network.forward(data.x, train=True), data.y, None)
        network.backward(dz)
        found.append({name: np.array(network.backend.to_host(g)) for name, g in network.grads.items()})
    for name, value in found[0].items():
        assert np.array_equal(value, found[2][name]), name
        assert not np.array_equal(value, found[1][name]), name


# --- a user's own ------------------------------------------------------------------------------------------------

SQUARED_RELU = xd.Activation("squared_relu", forward=lambda xp, z: xp.maximum(z, 0.0) ** 2,
                             derivative=lambda xp, z: 2.0 * xp.maximum(z, 0.0))
SOFTSIGN = xd.Activation("softsign", forward=lambda xp, z: z / (1.0 + xp.abs(z)),
                         derivative=lambda xp, a: (1.0 - xp.abs(a)) ** 2, saves="output")


class Scale(xd.Layer):
    """A learnt gain for each feature."""

    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"gain": xd.Parameter((inputs,), "ones")}

    def forward(self, ops: Ops, x: Any, tape: Any) -> Any:
        tape.x = x
        return x * self.params["gain"]

    def backward(self, ops: Ops, dy: Any, tape: Any) -> Any:
        self.grads["gain"][...] = ops.xp.sum(dy * tape.x, axis=0)
        return dy * self.params["gain"]


class LogCosh(xd.Loss):
    name = "log_cosh"

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        e = z - target
        return xp.mean(xp.log(xp.cosh(e)), axis=-1), xp.tanh(e) / z.shape[-1]


@pytest.mark.parametrize("activation", [SQUARED_RELU, SOFTSIGN], ids=lambda a: a.name)
def test_activation_layer_and_loss_of_a_user(backend: str, activation: xd.Activation) -> None:
    layers = [xd.Dense(4, activation), Scale(), xd.Residual([Scale(), xd.Dense(4, activation)]), xd.Dense(2)]
    report = xd.check_network(layers, inputs=3, loss=LogCosh(), backend=backend, seed=SEED, entries=2, directions=1,
                              sample_weight=WEIGHTS["weighted"])
    assert_right(report)


# --- the check can fail ------------------------------------------------------------------------------------------

class HandDense(xd.Layer):
    """tanh(x @ weight + bias), right; the faults below replace one piece each."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"weight": xd.Parameter((inputs, inputs), "glorot_uniform"), "bias": xd.Parameter((inputs,))}

    def forward(self, ops: Ops, x: Any, tape: Any) -> Any:
        tape.x, tape.z = x, x @ self.params["weight"] + self.params["bias"]
        tape.a = np.tanh(tape.z)
        return tape.a

    def backward(self, ops: Ops, dy: Any, tape: Any) -> Any:
        x, z, a, weight = tape.x, tape.z, tape.a, self.params["weight"]
        if self.fault == "derivative of the incoming gradient":
            dz = dy * (1.0 - np.tanh(dy) ** 2)
        elif self.fault == "derivative of the output":
            dz = dy * (1.0 - np.tanh(a) ** 2)
        elif self.fault == "no derivative":
            dz = dy
        else:
            dz = dy * (1.0 - np.tanh(z) ** 2)
        dweight = x.T @ dz
        if self.fault == "weight gradient with the sign flipped":
            dweight = -dweight
        elif self.fault == "weight gradient transposed":
            dweight = dweight.T
        elif self.fault == "1 / features instead of 1 / batch":
            dweight = dweight * x.shape[0] / x.shape[1]
        elif self.fault == "weight gradient left at zero":
            dweight = np.zeros_like(dweight)
        dbias = np.sum(dz, axis=0)
        if self.fault == "bias gradient of the incoming gradient":
            dbias = np.sum(dy, axis=0)
        elif self.fault == "bias gradient of the output":
            dbias = np.mean(a, axis=0)
        elif self.fault == "bias gradient summed over the features":
            dbias = np.sum(dz, axis=1)[: dz.shape[1]]
        if self.fault == "gradients added to what was there":
            dweight, dbias = self.grads["weight"] + dweight, self.grads["bias"] + dbias
        self.grads["weight"][...], self.grads["bias"][...] = dweight, dbias
        if self.fault == "weight not transposed on the way back":
            return dz @ weight
        if self.fault == "input gradient with the sign flipped":
            return -dz @ weight.T
        return dz @ weight.T


LAYER_FAULTS = [
    "derivative of the incoming gradient", "derivative of the output", "no derivative",
    "weight gradient with the sign flipped", "weight gradient transposed", "1 / features instead of 1 / batch",
    "weight gradient left at zero", "bias gradient of the incoming gradient", "bias gradient of the output",
    "bias gradient summed over the features", "weight not transposed on the way back",
    "input gradient with the sign flipped", "gradients added to what was there",
]


def checked_by_hand(fault: str) -> xd.GradientReport:
    return xd.check_network([xd.Dense(4, "sigmoid"), HandDense(fault), xd.Dense(2)], inputs=3, rows=5, seed=SEED)


def test_the_hand_written_layer_is_right() -> None:
    assert_right(checked_by_hand(""))


@pytest.mark.parametrize("fault", LAYER_FAULTS)
def test_a_wrong_layer_is_found(fault: str) -> None:
    report = checked_by_hand(fault)
    assert not report.ok
    wrong = {t.name for t in report.tensors if not t.ok}
    assert not wrong & {"2.weight", "2.bias"}  # what comes after the fault is right
    assert all(t.probes > 0 for t in report.tensors)  # found by probes, not for want of them
    if "weight gradient" in fault or "bias gradient" in fault:
        assert wrong == {"1.weight" if "weight" in fault else "1.bias"}


WRONG_ACTIVATIONS = {
    "sign": xd.Activation("a", lambda xp, z: xp.tanh(z), lambda xp, a: a * a - 1.0, "output"),
    "of z, given a": xd.Activation("a", lambda xp, z: xp.tanh(z), lambda xp, a: 1.0 - xp.tanh(a) ** 2, "output"),
    "of a, given z": xd.Activation("a", lambda xp, z: xp.tanh(z), lambda xp, z: 1.0 - z * z, "input"),
    "product rule": xd.Activation("a", lambda xp, z: z * logistic(xp, z), lambda xp, z: logistic(xp, z)),
    "straight through": xd.Activation("a", lambda xp, z: xp.tanh(z), lambda xp, z: xp.ones_like(z)),
    "slope forgotten": xd.Activation("a", lambda xp, z: xp.maximum(z, 0.1 * z),
                                     lambda xp, z: xp.astype(z > 0, z.dtype)),
    "factor": xd.Activation("a", lambda xp, z: xp.clip(z / 6.0 + 0.5, 0.0, 1.0),
                            lambda xp, a: xp.astype((a > 0) & (a < 1), a.dtype), "output"),
    "a little": xd.Activation("a", lambda xp, z: xp.tanh(z), lambda xp, a: 1.0001 * (1.0 - a * a), "output"),
}


@pytest.mark.parametrize("fault", WRONG_ACTIVATIONS)
def test_a_wrong_activation_is_found(backend: str, fault: str) -> None:
    layers = [xd.Dense(4, WRONG_ACTIVATIONS[fault]), xd.Dense(2)]
    report = xd.check_network(layers, inputs=3, backend=backend, seed=SEED, entries=3)
    assert {t.name for t in report.tensors if not t.ok} == {"0.weight", "0.bias"}


class WrongSquaredError(xd.Loss):
    factor = 1.0

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        e, outputs = z - target, z.shape[-1]
        gradient = {"sign": -2.0 * e / outputs, "factor": e / outputs, "summed over outputs": 2.0 * e,
                    "1 / features instead of 1 / batch": 2.0 * e / outputs * z.shape[-2] / outputs,
                    "of the target": 2.0 * target / outputs, "sign of e": xp.sign(e) / outputs}
        return xp.mean(e * e, axis=-1), gradient[self.fault]


class WrongBinaryCrossEntropy(xd.BinaryCrossEntropy):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> tuple[Any, Any]:
        value, gradient = super().value_and_gradient(xp, z, target)
        p = logistic(xp, z)
        if self.fault == "link's derivative forgotten":
            return value, gradient / (p * (1.0 - p))
        if self.fault == "sigmoid twice":
            return value, gradient * p * (1.0 - p)
        assert self.fault == "clip in the value alone"
        q = xp.clip(p, 0.4, 0.6)
        return xp.mean(-target * xp.log(q) - (1.0 - target) * xp.log(1.0 - q), axis=-1), gradient


@pytest.mark.parametrize("loss", [
    *(WrongSquaredError(f) for f in ("sign", "factor", "summed over outputs", "1 / features instead of 1 / batch",
                                     "of the target", "sign of e")),
    *(WrongBinaryCrossEntropy(f) for f in ("link's derivative forgotten", "sigmoid twice", "clip in the value alone")),
], ids=lambda loss: loss.fault)
def test_a_wrong_loss_is_found(loss: xd.Loss) -> None:
    report = xd.check_network([xd.Dense(4, "tanh"), xd.Dense(3)], inputs=3, loss=loss, seed=SEED)
    assert not report.ok
    assert all(t.probes > 0 for t in report.tensors)


def derivative_of_da(ops: Ops, activation: Any, saved: Any, da: Any, out: Any = None, dbias: Any = None) -> Any:
    dz = da * activation.derivative(ops.xp, da)
    if dbias is not None:
        dbias[...] = ops.xp.sum(dz, axis=-2)
    return dz


def bias_of_da(ops: Ops, activation: Any, saved: Any, da: Any, out: Any = None, dbias: Any = None) -> Any:
    if dbias is not None:
        dbias[...] = ops.xp.sum(da, axis=-2)
    return da * activation.derivative(ops.xp, saved)


def mean_over_outputs(ops: Ops, loss: Any, z: Any, target: Any, weight: Any, dz: Any = None,
                      value: Any = None) -> tuple[Any, Any]:
    per_row, gradient = loss.value_and_gradient(ops.xp, z, target)
    return ops.xp.mean(per_row, axis=-1), gradient / z.shape[-1]


def norm_as_if_constant(ops: Ops, saved: Any, dy: Any, gain: Any, axis: int, dgain: Any, dbias: Any,
                        out: Any = None) -> Any:
    dgain[...], dbias[...] = ops.xp.sum(dy * saved[0], axis=-2), ops.xp.sum(dy, axis=-2)
    return dy * gain[..., None, :] * saved[1]


def every_element_shifted(ops: Ops, a: Any, b: Any, out: Any = None) -> Any:
    return np.add(a @ b, 0.01, out=out)


@pytest.mark.parametrize(("op", "wrong"), [
    ("activate_backward", derivative_of_da), ("activate_backward", bias_of_da),
    ("loss_and_gradient", mean_over_outputs), ("normalize_backward", norm_as_if_constant),
    ("matmul", every_element_shifted),
], ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_op_is_found(monkeypatch: pytest.MonkeyPatch, op: str, wrong: Callable[..., Any]) -> None:
    layers = [xd.Dense(4, "tanh"), xd.Residual([xd.LayerNorm(), xd.Dense(4, "tanh")]), xd.BatchNorm(), xd.Dense(2)]
    monkeypatch.setenv("XPDENSE_OPS", "generic")
    assert xd.check_network(layers, inputs=3, seed=SEED).ok
    monkeypatch.setattr(Ops, op, wrong)
    report = xd.check_network(layers, inputs=3, seed=SEED)
    assert not report.ok
    assert all(t.probes > 0 for t in report.tensors)


def another_mask(layer: Any, ops: Ops, dy: Any, tape: Any) -> Any:
    return ops.dropout(dy, layer.rate, (layer._key[0], layer._key[1] + 1), tape.step)


def not_scaled(layer: Any, ops: Ops, dy: Any, tape: Any) -> Any:
    return ops.dropout(dy, layer.rate, layer._key, tape.step) * (1.0 - layer.rate)


def without_the_input(layer: Any, ops: Ops, dy: Any, tape: Any) -> Any:
    return backward(ops, layer.layers, dy, tape)


@pytest.mark.parametrize(("layer", "wrong"), [
    (xd.Dropout(0.4), another_mask), (xd.Dropout(0.4), not_scaled), (xd.Residual([xd.Dense(4)]), without_the_input),
], ids=lambda value: getattr(value, "__name__", type(value).__name__))
def test_a_wrong_way_back_is_found(monkeypatch: pytest.MonkeyPatch, layer: xd.Layer, wrong: Callable[..., Any]) -> None:
    layers = [xd.Dense(4, "tanh"), layer, xd.Dense(2)]
    assert xd.check_network(layers, inputs=3, seed=SEED).ok
    monkeypatch.setattr(type(layer), "backward", wrong)
    report = xd.check_network(layers, inputs=3, seed=SEED)
    assert {t.name for t in report.tensors if not t.ok} == {"0.weight", "0.bias"}
