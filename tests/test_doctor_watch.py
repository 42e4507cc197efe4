"""A fit with doctor=True: silent where it goes well, and with a cause where it does not."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import xpdense as xd
import xpdense.doctor.watch
from xpdense.data.arrays import Batches, InMemory, prepared
from xpdense.doctor.watch import _constant_loss
from xpdense.errors import DoctorWarning
from xpdense.losses import as_loss
from xpdense.training import Loop

datasets = pytest.importorskip("sklearn.datasets", reason="the data sets are scikit-learn's")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(return_X_y=True)
    return x[:600] / 16.0, y[:600]


def network(seed: int = 0) -> xd.DenseNetwork:
    return xd.DenseNetwork([xd.Dense(24, "relu"), xd.Dense(10)], inputs=64, seed=seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_fit_that_goes_well_is_the_same_to_the_bit_and_nothing_is_said(digits, seed):
    watched, plain = network(seed), network(seed)
    history = watched.fit(*digits, loss="softmax_cross_entropy", epochs=8, doctor=True)
    again = plain.fit(*digits, loss="softmax_cross_entropy", epochs=8)
    assert history.diagnosis is None
    assert history["loss"] == again["loss"]
    assert history.replayed == again.replayed
    assert all(np.array_equal(watched.params[name], plain.params[name]) for name in plain.params)


def test_a_fit_that_learns_nothing_is_warned_of_with_its_cause(digits):
    with pytest.warns(DoctorWarning, match="learning_rate_too_high") as caught:
        history = network().fit(*digits, loss="softmax_cross_entropy", optimizer=xd.SGD(100.0), epochs=8, doctor=True)
    assert caught[0].filename == __file__
    finding = history.diagnosis.findings[0]
    assert finding.change["learning_rate_factor"] < 1.0
    assert finding.after > finding.before + 0.5


def test_it_is_examined_from_the_weights_before_the_fit(digits):
    net = network(5)
    start = {name: np.array(value).ravel() for name, value in net.params.items()}
    with pytest.warns(DoctorWarning):
        history = net.fit(*digits, loss="softmax_cross_entropy", optimizer=xd.SGD(100.0), epochs=8, doctor=True)
    assert all(np.array_equal(history.diagnosis.layers[name], value) for name, value in start.items())


def test_a_layer_that_stays_as_it_was_is_a_signal(digits):
    net, chosen = network(), as_loss("softmax_cross_entropy")
    rows = prepared(*digits, None, net, chosen)
    feed, doctor = InMemory(rows, Batches(600, 32, 0)), xd.Doctor()
    run = Loop(net, feed, loss=chosen, optimizer=xd.SGD(0.1), epochs=2).run
    doctor.on_train_begin(run)
    for loss in (2.0, 0.1):
        run.history.append(loss=loss)
    net.params["1.weight"][...] += 1.0
    assert doctor.signals(run) == ["0.weight, 0.bias, 1.bias did not move"]


def test_weights_that_do_not_move_are_seen(digits):
    net = xd.DenseNetwork([xd.Dense(24, "relu"), xd.Dense(10)], inputs=64)
    net.params["0.bias"][...] = -100.0  # no unit is ever active
    with pytest.warns(DoctorWarning, match="dead_relu"):
        net.fit(*digits, loss="softmax_cross_entropy", epochs=8, doctor=True)


def test_the_error_of_a_loss_that_is_not_finite_says_what_the_doctor_found():
    x = np.linspace(0, 1000, 200).reshape(-1, 1)
    net = xd.DenseNetwork([xd.Dense(32, "relu"), xd.Dense(1)], inputs=1)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        net.fit(x, x[:, 0] ** 2, loss="squared_error", optimizer=xd.SGD(0.1), epochs=5, doctor=True)
    error = caught.value
    causes = {finding.cause for finding in error.diagnosis.findings}
    assert causes & {"features_unscaled", "target_unscaled"}
    assert error.diagnosis.findings[0].cause in str(error)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_without_the_doctor_the_error_says_how_to_ask_for_it():
    x = np.linspace(0, 1000, 50).reshape(-1, 1)
    net = xd.DenseNetwork([xd.Dense(8, "relu"), xd.Dense(1)], inputs=1)
    with pytest.raises(xd.NonFiniteLossError, match=r"doctor=True") as caught:
        net.fit(x, x[:, 0] ** 2, loss="squared_error", optimizer=xd.SGD(0.1), epochs=5)
    assert caught.value.diagnosis is None


def test_a_stream_is_watched_too(digits):
    with pytest.warns(DoctorWarning, match="learning_rate_too_high"):
        history = network().fit(xd.data.open(*digits), loss="softmax_cross_entropy", optimizer=xd.SGD(100.0), epochs=8,
                                callbacks=[xd.Doctor()])
    assert history.diagnosis.findings[0].cause == "learning_rate_too_high"
    good = network().fit(xd.data.open(*digits), loss="softmax_cross_entropy", epochs=8, doctor=True)
    assert good.diagnosis is None


def test_an_interrupted_fit_is_not_examined(digits):
    class Interrupt(xd.Callback):
        def on_epoch_end(self, run):
            raise KeyboardInterrupt

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(KeyboardInterrupt):
            network().fit(*digits, loss="softmax_cross_entropy", optimizer=xd.SGD(100.0), epochs=3,
                          callbacks=[Interrupt(), xd.Doctor()])


def test_where_the_doctor_fails_the_error_of_the_training_is_raised(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no")
    monkeypatch.setattr(xpdense.doctor.watch, "diagnose", broken)
    x = np.linspace(0, 1000, 50).reshape(-1, 1)
    net = xd.DenseNetwork([xd.Dense(8, "relu"), xd.Dense(1)], inputs=1)
    with pytest.raises(xd.NonFiniteLossError) as caught:
        net.fit(x, x[:, 0] ** 2, loss="squared_error", optimizer=xd.SGD(0.1), epochs=5, doctor=True)
    assert "RuntimeError: no" in caught.value.__notes__[0]


@pytest.mark.parametrize(("loss", "target"), [
    ("softmax_cross_entropy", np.arange(40) % 3), ("softmax_cross_entropy", np.eye(3)[np.arange(40) % 3]),
    ("binary_cross_entropy", np.arange(120).reshape(40, 3) % 2), ("squared_error", np.arange(120.0).reshape(40, 3)),
    ("absolute_error", np.arange(120.0).reshape(40, 3))])
def test_no_other_constant_has_a_lower_loss(loss, target):
    chosen, net = as_loss(loss), xd.DenseNetwork([xd.Dense(3)], inputs=2, dtype="float64")
    rows = prepared(np.zeros((40, 2)), target, None, net, chosen)
    feed = InMemory(rows, Batches(40, 8, 0))
    best = _constant_loss(Loop(net, feed, loss=chosen, optimizer=xd.SGD(0.1), epochs=1).run)
    rng, y = np.random.default_rng(0), np.asarray(rows.y)
    share = np.bincount(y, minlength=3) / 40 if y.ndim == 1 else y.mean(axis=0)
    centre = {"softmax_cross_entropy": np.log, "binary_cross_entropy": lambda p: np.log(p / (1 - p)),
              "squared_error": lambda mean: mean, "absolute_error": lambda _: np.median(y, axis=0)}[loss](share)
    for scale in (0.0, 0.01, 0.1, 1.0):
        for _ in range(20):
            z = np.broadcast_to(rng.standard_normal(3) * scale + centre, (40, 3)).copy()
            assert float(chosen(net.ops, z, rows.y)[0]) >= best - 1e-9
    assert best == pytest.approx(float(chosen(net.ops, np.broadcast_to(centre, (40, 3)).copy(), rows.y)[0]))


def test_a_fit_of_rows_too_few_to_examine_ends_as_without_the_doctor(digits):
    x, y = digits
    net = network()
    with pytest.warns(DoctorWarning, match="needs 8 rows"):
        history = net.fit(x[:5], y[:5], loss="softmax_cross_entropy", optimizer=xd.SGD(1e3), epochs=9, doctor=True)
    assert history.epochs == 9
    assert history.diagnosis is None


def test_an_estimator_watches_too(digits):
    with pytest.raises(xd.DivergenceError, match="learning_rate_too_high"):
        xd.MLPClassifier(solver="sgd", learning_rate_init=50.0, max_iter=20, random_state=0).fit(*digits, doctor=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        model = xd.MLPClassifier(max_iter=30, random_state=0).fit(*digits, doctor=True)
    assert model.history_.diagnosis is None


def test_lbfgs_is_not_watched(digits):
    with pytest.raises(xd.ParameterError, match="lbfgs"):
        xd.MLPClassifier(solver="lbfgs").fit(*digits, doctor=True)


@pytest.mark.parametrize("value", ["yes", 1, None])
def test_doctor_is_true_or_false(digits, value):
    with pytest.raises(xd.ParameterError, match="doctor"):
        network().fit(*digits, loss="softmax_cross_entropy", doctor=value)
    with pytest.raises(xd.ParameterError, match="doctor"):
        xd.MLPClassifier().fit(*digits, doctor=value)


@pytest.mark.parametrize("model", [
    xd.MLPClassifier(max_iter=30, random_state=1), xd.MLPClassifier(solver="lbfgs", random_state=1),
    xd.MLPClassifier(solver="sgd", learning_rate_init=0.1, max_iter=40, random_state=1)])
def test_an_estimator_is_diagnosed_as_it_would_be_trained(digits, model):
    x, y = digits
    before = dict(vars(model))
    assert xd.diagnose(model, x, np.array(list("abcdefghij"))[y]).ok
    assert vars(model) == before
    training = model.training_of(x, y)
    assert training.network.widths() == [64, 100, 10]
    assert training.x.shape == x.shape


def test_an_estimator_begins_at_the_weights_of_its_fit(digits):
    model = xd.MLPClassifier(max_iter=1, learning_rate_init=1e-12, random_state=3)
    start = model.training_of(*digits).network.params["0.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(*digits)
    np.testing.assert_allclose(model.coefs_[0], start, atol=1e-9)


def test_the_rate_of_an_estimator_is_found_too_high(digits):
    found = xd.diagnose(xd.MLPClassifier(solver="sgd", learning_rate_init=50.0, max_iter=20, random_state=0), *digits)
    assert found.findings[0].cause == "learning_rate_too_high"
