"""Mistakes that train silently elsewhere, and here are refused or cannot be made."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import xpdense as xd
from xpdense.backend import Backend
from xpdense.layers import backward, forward

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 3))
Y = X[:, 0] - X[:, 1]


def fit(net, y=Y, **options):
    return net.fit(X, y, **({"loss": "squared_error", "epochs": 3} | options))


@pytest.mark.parametrize(("loss", "y"), [("binary_cross_entropy", Y > 0), ("poisson", np.abs(Y)),
                                         ("softmax_cross_entropy", (Y > 0).astype(int))])
@pytest.mark.parametrize("name", ["sigmoid", "relu", "softplus"])
def test_an_activation_before_a_loss_that_brings_its_own_is_refused(name, loss, y):
    net = xd.DenseNetwork([xd.Dense(4, "relu"), xd.Dense(2 if "softmax" in loss else 1, name)], inputs=3)
    for use in (lambda: fit(net, y, loss=loss), lambda: net.evaluate(X, y, loss=loss)):
        with pytest.raises(xd.ParameterError, match=r"applies its own to the logits: use Dense\("):
            use()


def test_an_activation_before_a_loss_without_a_link_is_fine():
    net = xd.DenseNetwork([xd.Dense(4, "relu"), xd.Dense(1, "softplus")], inputs=3)
    assert fit(net, np.abs(Y), epochs=50)["loss"][-1] < fit(net, np.abs(Y), epochs=1)["loss"][0] * 1.01


def test_a_second_backward_is_refused():
    net = xd.DenseNetwork([xd.Dense(64, "relu"), xd.Dense(1)], inputs=3)
    z = net.forward(np.zeros((2048, 3), np.float32), train=True)
    net.backward(z)
    with pytest.raises(xd.ShapeError, match="one for each"):
        net.backward(z)


class Wrapped(xd.Layer):
    """A user's container."""

    def __init__(self, inner):
        self.inner = inner

    def sublayers(self):
        return [self.inner]

    def outputs(self, inputs):
        return self.inner.outputs(inputs)

    def forward(self, ops, x, tape):
        return forward(ops, [self.inner], x, tape)

    def backward(self, ops, dy, tape):
        return backward(ops, [self.inner], dy, tape)


class Halved(xd.Residual):
    def forward(self, ops, x, tape):
        return super().forward(ops, x, tape) * 0.5

    def backward(self, ops, dy, tape):
        return super().backward(ops, dy * 0.5, tape)


@pytest.mark.parametrize("container", [Wrapped(xd.Dense(3, "tanh")), Halved([xd.Dense(3, "tanh")])],
                         ids=["own", "residual"])
def test_networks_share_no_layer(container):
    one = xd.DenseNetwork([container], inputs=3, seed=0)
    before = one.predict(X)
    other = xd.DenseNetwork([container], inputs=3, seed=5)
    np.testing.assert_array_equal(one.predict(X), before)
    assert type(one.layers[0]) is type(container)
    assert not np.allclose(other.predict(X), before)
    assert xd.check_network([xd.Dense(3), container, xd.Dense(1)], inputs=3).ok


def test_a_container_comes_back_from_disk(tmp_path):
    net = xd.DenseNetwork([Halved([xd.Dense(3, "tanh")])], inputs=3)
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model", custom={"Halved": Halved})
    np.testing.assert_array_equal(again.predict(X), net.predict(X))


def test_a_loss_that_a_callback_made_infinite_is_an_error_on_a_device_too(monkeypatch):
    class Meddler(xd.Callback):
        def on_step_end(self, run):
            run.network.params["0.weight"][...] = np.nan if run.step == 1 else 0.0

    monkeypatch.setattr(Backend, "on_host", property(lambda self: False))
    with pytest.raises(xd.NonFiniteLossError) as caught:
        fit(xd.DenseNetwork([xd.Dense(1)], inputs=3), batch_size=8, callbacks=[Meddler()])
    assert caught.value.step == 2


@pytest.mark.parametrize("value", [lambda xp, e: xp.mean(e * e), lambda xp, e: e * e],
                         ids=["one number", "one per output"])
def test_a_users_loss_must_give_a_value_for_each_row(value):
    class Own(xd.Loss):
        def value_and_gradient(self, xp, z, target):
            return value(xp, z - target), 2 * (z - target)

    with pytest.raises(xd.ShapeError, match="a value for each row"):
        fit(xd.DenseNetwork([xd.Dense(1)], inputs=3), loss=Own())


def test_early_stopping_asks_which_way_a_function_of_the_users_is_better():
    def error(target, prediction):
        return float(np.mean(np.abs(target - prediction)))

    net = xd.DenseNetwork([xd.Dense(1)], inputs=3)
    watching = {"callbacks": [xd.EarlyStopping("validation_error", patience=5)], "validation": 0.25, "epochs": 40,
                "optimizer": xd.Adam(0.02)}
    with pytest.raises(xd.ParameterError, match="greater_is_better"):
        fit(net, metrics=[error], **watching)
    history = fit(net, metrics=[xd.Metric("error", "values", error, greater_is_better=False)], **watching)
    assert history["validation_error"][-1] < history["validation_error"][0]


def test_a_gradient_that_adds_to_what_was_there_is_found():
    class Adding(xd.Layer):
        def parameters(self, inputs):
            return {"gain": xd.Parameter((inputs,), "ones")}

        def forward(self, ops, x, tape):
            tape.x = x
            return x * self.params["gain"]

        def backward(self, ops, dy, tape):
            self.grads["gain"][...] += ops.xp.sum(dy * tape.x, axis=0)
            return dy * self.params["gain"]

    report = xd.check_network([xd.Dense(3), Adding(), xd.Dense(1)], inputs=2)
    assert [t.name for t in report.tensors if not t.ok] == ["1.gain"]


def test_a_strongly_curved_loss_has_no_kinks():
    layers = [xd.Dense(3, "silu"), xd.BatchNorm(), xd.Residual([xd.LayerNorm(), xd.Dense(3, "silu")]), xd.Dropout(0.3),
              xd.Dense(3)]
    report = xd.check_network(layers, inputs=2, loss="softmax_cross_entropy", seed=8, entries=100, directions=1)
    assert report.ok, report
    assert sum(t.kinks for t in report.tensors) == 0


def test_a_callback_that_predicts_elsewhere_does_not_move_the_network():
    torch = pytest.importorskip("torch")

    class Predicting(xd.Callback):
        def on_epoch_end(self, run):
            assert isinstance(run.network.predict(X), np.ndarray)

    net = xd.DenseNetwork([xd.Dense(1)], inputs=3)
    net.fit(torch.asarray(X), torch.asarray(Y), loss="squared_error", epochs=2, callbacks=[Predicting()])
    assert net.backend.kind == "torch"
    net.predict(X)
    assert net.backend.kind == "numpy", "outside a training it follows its input"


def test_a_schedule_that_gives_no_rate_is_named():
    class Broken(xd.Schedule):
        def __call__(self, step, total):
            return float("nan") if step else 0.1

    with pytest.raises(xd.ParameterError, match="Broken gives for step 1"):
        fit(xd.DenseNetwork([xd.Dense(1)], inputs=3), optimizer=xd.SGD(Broken()))


def test_labels_of_a_small_integer_type_are_compared_as_numbers():
    net = xd.DenseNetwork([xd.Dense(300)], inputs=3)
    assert fit(net, np.full(40, 200, np.uint8), loss="softmax_cross_entropy").epochs == 3


def test_a_network_without_parameters_and_a_layer_that_would_not_load_are_refused(tmp_path):
    with pytest.raises(xd.ParameterError, match="nothing to train"):
        fit(xd.DenseNetwork([xd.Dropout(0.5)], inputs=1))

    class Counting(xd.Layer):
        def __init__(self):
            self.calls = 0

    with pytest.raises(xd.ParameterError, match="underscore"):
        xd.DenseNetwork([Counting()], inputs=3).save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_errors_pickle():
    with pytest.raises(xd.UnknownNameError) as caught:
        xd.Dense(3, "rleu")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_reduce_on_plateau_does_not_raise_the_rate():
    with pytest.raises(xd.ParameterError, match="minimum"):
        xd.ReduceOnPlateau(0.01, minimum=0.1)
