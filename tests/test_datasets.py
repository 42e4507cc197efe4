"""One way in for data: arrays, a stream of them, and a data set of a third kind train, evaluate and predict alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits
from third_dataset import ThirdDataset

import xpdense as xd

N = 200
RNG = np.random.default_rng(3)
X = RNG.standard_normal((N, 3)).astype(np.float32)
VALUES = (X[:, 0] - X[:, 1] ** 2).astype(np.float32)
CLASSES = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0)
WEIGHT = RNG.uniform(0.1, 3.0, N)
BACKENDS = [name for name in ("numpy", "torch", "array_api_strict") if find_spec(name)]

Given = tuple[Any, ...]  # x, y and sample_weight


def arrays(x: Any, y: Any, weight: Any) -> Given:
    return x, y, weight


def array_dataset(x: Any, y: Any, weight: Any) -> Given:
    return xd.data.ArrayDataset(x, y, weight), None, None


def stream(x: Any, y: Any, weight: Any) -> Given:
    def batches() -> Iterator[Any]:
        for i in range(0, len(x), 70):
            yield tuple(array[i : i + 70] for array in (x, y, weight) if array is not None)

    return xd.data.open(batches), None, None


def table(x: Any, y: Any, weight: Any) -> Given:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(np.asarray(x), columns=list("abc")).assign(y=np.asarray(y).ravel())
    frame = frame if weight is None else frame.assign(w=weight)
    return xd.data.open(frame, "y", weight=None if weight is None else "w"), None, None


def third(x: Any, y: Any, weight: Any) -> Given:
    return ThirdDataset(x, y, weight), None, None


KINDS: dict[str, Callable[[Any, Any, Any], Given]] = {
    kind.__name__: kind for kind in (arrays, array_dataset, stream, table, third)
}
ALIKE = [name for name in KINDS if name not in ("arrays", "table")]  # a table's features are standardised


def network(outputs: int = 1, **options: Any) -> xd.DenseNetwork:
    return xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dropout(0.1), xd.Dense(outputs)], inputs=3, seed=0, **options)


def fit(net: xd.DenseNetwork, given: Given, **options: Any) -> xd.History:
    options = {"loss": "squared_error", "epochs": 3, "batch_size": 33, **options}
    return net.fit(given[0], given[1], sample_weight=given[2], **options)


# --- alike -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize(("y", "loss", "outputs"), [
    (VALUES, "squared_error", 1), (CLASSES, "softmax_cross_entropy", 3), (np.stack([VALUES, -VALUES], 1), "huber", 2),
])
def test_every_kind_of_data_gives_the_same_training(y: Any, loss: str, outputs: int, kind: str, backend: str) -> None:
    options: dict[str, Any] = {"loss": loss, "shuffle": kind != "stream"}
    one, other = network(outputs, backend=backend), network(outputs, backend=backend)
    history = fit(one, KINDS[kind](X, y, WEIGHT), **options)
    expected = fit(other, (X, y, WEIGHT), **options)
    assert history["loss"] == expected["loss"]
    assert bits(one) == bits(other)
    data = KINDS[kind](X, y, WEIGHT)[0]
    metrics = ["accuracy"] if outputs == 3 else ["rmse"]
    assert one.evaluate(data, metrics=metrics) == pytest.approx(
        other.evaluate(X, y, sample_weight=WEIGHT, metrics=metrics), rel=1e-6 if kind == "stream" else 0)
    assert np.allclose(one.predict(data), other.predict(X), rtol=1e-6 if kind == "stream" else 0, atol=0)


@pytest.mark.parametrize("kind", ["array_dataset", "third"])
def test_a_fraction_is_held_out_alike(kind: str) -> None:
    one, other = network(), network()
    history = fit(one, KINDS[kind](X, VALUES, WEIGHT), validation=0.2, metrics=["r2"])
    expected = fit(other, (X, VALUES, WEIGHT), validation=0.2, metrics=["r2"])
    assert {n: v for n, v in history.items() if "second" not in n} == {n: v for n, v in expected.items()
                                                                        if "second" not in n}
    assert bits(one) == bits(other)


@pytest.mark.parametrize("kind", ALIKE)
def test_validation_data_may_be_of_any_kind(kind: str) -> None:
    held = X[:50], VALUES[:50], WEIGHT[:50]
    given = KINDS[kind](*held)[0]
    one, other = network(), network()
    assert fit(one, (X, VALUES, None), validation=given)["validation_loss"] == pytest.approx(
        fit(other, (X, VALUES, None), validation=held)["validation_loss"], rel=1e-6 if kind == "stream" else 0)


def test_a_third_data_set_resumes_to_the_same_bits(tmp_path: Path) -> None:
    one, other = network(), network()
    fit(one, third(X, VALUES, WEIGHT), epochs=4)
    fit(other, third(X, VALUES, WEIGHT), epochs=2, callbacks=[xd.Checkpoint(tmp_path)])
    again = network()
    fit(again, third(X, VALUES, WEIGHT), epochs=4, resume=tmp_path)
    assert bits(again) == bits(one)


def test_predictions_of_any_data_set_come_in_parts_and_go_to_a_file(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    net, data = network(2), ThirdDataset(X, VALUES)
    assert np.array_equal(np.concatenate(list(net.predict_parts(data))), net.predict(X))
    assert net.predict(data, out=tmp_path / "p.csv") == N


@pytest.mark.parametrize("kind", ALIKE)
def test_estimators_take_every_kind_of_data(kind: str) -> None:
    pytest.importorskip("sklearn")
    options: dict[str, Any] = {"max_iter": 4, "random_state": 3, "shuffle": False, "batch_size": 33}
    labels = np.array(["ash", "elm", "oak"])[CLASSES]
    cases: list[tuple[Any, np.ndarray, dict[str, Any]]] = [
        (xd.MLPClassifier, labels, {}), (xd.MLPClassifier, CLASSES * 2 + 1, {"label_smoothing": 0.1}),
        (xd.MLPClassifier, CLASSES > 0, {"solver": "sgd", "scoring": "f1", "early_stopping": True}),
        (xd.MLPClassifier, np.stack([CLASSES > 0, CLASSES > 1], 1).astype(int), {}),
        (xd.MLPClassifier, labels, {"solver": "lbfgs"}),
        (xd.MLPRegressor, VALUES, {"early_stopping": True}), (xd.MLPRegressor, CLASSES, {"loss": "poisson"}),
        (xd.MLPRegressor, np.stack([VALUES, -VALUES], 1), {}),
    ]
    for cls, y, extra in cases:
        one, other = (cls(hidden_layer_sizes=(8,), **options, **extra) for _ in range(2))
        held = KINDS[kind](X[:60], y[:60], WEIGHT[:60])[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            one.fit(KINDS[kind](X, y, WEIGHT)[0], X_val=held)
            other.fit(X, y, WEIGHT, X_val=X[:60], y_val=y[:60], sample_weight_val=WEIGHT[:60])
        exact = kind != "stream" and extra.get("solver") != "lbfgs"
        assert one.loss_curve_ == pytest.approx(other.loss_curve_, rel=0 if exact else 1e-5), (cls, extra)
        assert one.validation_scores_ == pytest.approx(other.validation_scores_, rel=0 if exact else 1e-5)
        if exact:
            assert bits(one._network) == bits(other._network)
        assert np.array_equal(one.predict(held), one.predict(X[:60])) or not exact
        assert one.score(held) == pytest.approx(one.score(X[:60], y[:60], WEIGHT[:60]), rel=1e-6)


@pytest.mark.parametrize("kind", ALIKE)
def test_partial_fit_takes_every_kind_of_data(kind: str) -> None:
    pytest.importorskip("sklearn")
    options: dict[str, Any] = {"random_state": 3, "shuffle": False, "batch_size": 33}
    one, other = xd.MLPClassifier((8,), **options), xd.MLPClassifier((8,), **options)
    for start in (0, 70):
        rows = slice(start, start + 70)
        one.partial_fit(KINDS[kind](X[rows], CLASSES[rows], None)[0])
        other.partial_fit(X[rows], CLASSES[rows], classes=[0, 1, 2])
    assert bits(one._network) == bits(other._network)
    with pytest.raises((ValueError, xd.DataError), match=r"classes not in `self.classes_`"):
        one.partial_fit(KINDS[kind](X, CLASSES + 1, None)[0])
    regressor, expected = (xd.MLPRegressor(hidden_layer_sizes=(8,), **options) for _ in range(2))
    assert np.array_equal(regressor.partial_fit(KINDS[kind](X, VALUES, None)[0]).predict(X),
                          expected.partial_fit(X, VALUES).predict(X))


# --- refused alike ---------------------------------------------------------------------------------------------

class Begun(xd.Callback):
    """Fails where a training begins."""

    def on_train_begin(self, run: Any) -> None:
        pytest.fail("the training began")


def last(array: np.ndarray, value: Any) -> np.ndarray:
    """The array, with another value in its last row."""
    array = array.copy()
    array[-1] = value
    return array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("y", "weight", "loss", "says"), [
    (VALUES, last(WEIGHT, -1.0), "squared_error", "must not be negative, got -1"),
    (VALUES, last(WEIGHT, np.inf), "squared_error", "inf"),
    (VALUES, np.zeros(N), "squared_error", "is zero for every row"),
    (last(np.abs(VALUES), -2.5), None, "poisson", "not negative, got -2.5"),
    (last(RNG.random(N), 1.5), None, "binary_cross_entropy", "from 0 to 1, got 1.5"),
])
@pytest.mark.parametrize("as_validation", [False, True])
def test_a_fault_in_the_last_row_is_found_before_a_training(y: Any, weight: Any, loss: str, says: str, kind: str,
                                                            as_validation: bool) -> None:
    net = network()
    before = bits(net), net.loss, net.preprocessing, net.backend.name
    given = KINDS[kind](X, y, weight)
    options: dict[str, Any] = {"loss": loss, "callbacks": [Begun()]}
    if as_validation:
        options["validation"] = given[0] if given[1] is None else given
        given = KINDS[kind](X, np.arange(N) % 5 / 4.0, None)
    with pytest.raises(xd.DataError, match=says):
        fit(net, given, **options)
    assert (bits(net), net.loss, net.preprocessing, net.backend.name) == before


@pytest.mark.parametrize("kind", [name for name in KINDS if name != "table"])
@pytest.mark.parametrize(("y", "says"), [(last(CLASSES, 3), "0..2"), (CLASSES[:, None].repeat(2, 1), r"\(n, 3\)")])
def test_class_numbers_are_checked_before_a_training(y: Any, says: str, kind: str) -> None:
    net = network(3)
    before = bits(net)
    with pytest.raises(xd.DataError, match=says):
        fit(net, KINDS[kind](X, y, None), loss="softmax_cross_entropy", callbacks=[Begun()])
    assert bits(net) == before


@pytest.mark.parametrize("kind", ["stream", "table", "third"])
@pytest.mark.parametrize("scale", [2.0**120, 2.0**-120])
def test_only_the_ratios_of_weights_matter(kind: str, scale: float) -> None:
    one, other = network(), network()
    fit(one, KINDS[kind](X, VALUES, WEIGHT * scale), shuffle=False)
    fit(other, KINDS[kind](X, VALUES, WEIGHT), shuffle=False)
    assert bits(one) == bits(other)
    large, plain = KINDS[kind](X, VALUES, WEIGHT * scale)[0], KINDS[kind](X, VALUES, WEIGHT)[0]
    assert one.evaluate(large)["loss"] == other.evaluate(plain)["loss"]


def test_weights_that_are_all_zero_have_no_mean_loss() -> None:
    for kind in KINDS.values():
        x, y, weight = kind(X, VALUES, np.zeros(N))
        with pytest.raises(xd.DataError, match="zero for every row"):
            network().evaluate(x, y, sample_weight=weight, loss="squared_error")


def test_training_rows_of_one_class_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"a": np.arange(20.0), "y": ["no"] * 19 + ["yes"]})
    training, _ = xd.data.open(frame, "y").split(0.5, seed=1)
    with pytest.raises(xd.TargetError, match="training rows have one value of 'y' only"):
        fit(xd.DenseNetwork([xd.Dense(1)], inputs=1), (training, None, None), loss="binary_cross_entropy")


def test_a_call_that_is_refused_moves_no_network() -> None:
    torch = pytest.importorskip("torch")
    net = network()
    for call in (lambda: fit(net, (torch.tensor(X), torch.tensor(VALUES[:9]), None)),
                 lambda: net.evaluate(torch.tensor(X), torch.tensor(VALUES[:9]), loss="squared_error"),
                 lambda: net.predict(torch.tensor(X[:, :2])), lambda: net.predict(torch.tensor(X) * np.nan)):
        with pytest.raises(xd.DataError):
            call()
        assert net.backend.name == "numpy"


def test_a_data_set_brings_its_own_targets() -> None:
    net, data = network(), ThirdDataset(X, VALUES)
    with pytest.raises(xd.ParameterError, match="brings its own y"):
        net.fit(data, VALUES, loss="squared_error")
    with pytest.raises(xd.ParameterError, match="brings its own y"):
        net.evaluate(data, sample_weight=WEIGHT, loss="squared_error")


def test_rows_of_a_split_are_named_by_their_number_in_the_arrays() -> None:
    bad = X.copy()
    bad[137, 1] = np.nan
    training, held = xd.data.ArrayDataset(bad, VALUES).split(0.5, seed=0)
    for part in (training, held):
        with pytest.raises(xd.NonFiniteDataError, match="row 137, column 1"):
            network().fit(part, loss="squared_error")


def test_the_digest_of_arrays_tells_their_rows() -> None:
    whole = xd.data.ArrayDataset(X, VALUES)
    one, other = whole.split(0.5, seed=0)
    assert len({whole.digest(), one.digest(), other.digest()}) == 3
    assert whole.digest() == xd.data.ArrayDataset(X.copy(), VALUES).digest()
    whole.prepare(network().spec(xd.SquaredError()))
    assert len({whole.digest(), one.digest(), other.digest()}) == 3
