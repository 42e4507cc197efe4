"""Metrics by name are scikit-learn's, called with what each of them wants of a network's targets and predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.losses import as_loss
from xpdense.metrics import METRICS, as_metrics

sk = pytest.importorskip("sklearn.metrics")

RNG = np.random.default_rng(3)
N = 60
WEIGHT = RNG.uniform(0.1, 3.0, N)
WEIGHTS = pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])

BINARY = RNG.uniform(0.02, 0.98, (N, 1)).astype(np.float32)  # P(1)
TRUTH = (BINARY[:, 0] + RNG.normal(0.0, 0.4, N) > 0.5).astype(np.int64)
SCORES = RNG.standard_normal((N, 4))
MULTI = (np.exp(SCORES) / np.exp(SCORES).sum(axis=1, keepdims=True)).astype(np.float32)  # (n, 4)
CLASSES = np.where(RNG.uniform(size=N) < 0.5, MULTI.argmax(axis=1), RNG.integers(0, 4, N))
LABELS = RNG.uniform(0.02, 0.98, (N, 3)).astype(np.float32)  # P of each of three labels
TAGS = (LABELS + RNG.normal(0.0, 0.4, (N, 3)) > 0.5).astype(np.int64)
VALUES = RNG.standard_normal((N, 2)).astype(np.float32)
TARGETS = (VALUES + 0.3 * RNG.standard_normal((N, 2))).astype(np.float32)


def measure(name: str, loss: str, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
    metric, = as_metrics([name], as_loss(loss))
    value = metric(as_loss(loss), target, prediction, weight)
    assert type(value) is float
    return value


@WEIGHTS
@pytest.mark.parametrize("shape", [(N,), (N, 1)], ids=str)
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"])
def test_two_classes_with_one_output(name: str, shape: tuple[int, ...], weight: np.ndarray | None) -> None:
    p = BINARY[:, 0].astype(np.float64)
    predicted = (p >= 0.5).astype(int)
    expected = {
        "accuracy": lambda: sk.accuracy_score(TRUTH, predicted, sample_weight=weight),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(TRUTH, predicted, sample_weight=weight),
        "f1": lambda: sk.f1_score(TRUTH, predicted, sample_weight=weight),
        "roc_auc": lambda: sk.roc_auc_score(TRUTH, p, sample_weight=weight),
        "log_loss": lambda: sk.log_loss(TRUTH, p, sample_weight=weight),
    }[name]()
    target = TRUTH.reshape(shape).astype(np.float32)
    assert measure(name, "binary_cross_entropy", target, BINARY, weight) == pytest.approx(expected, rel=1e-12)


@WEIGHTS
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"])
def test_two_classes_with_two_outputs(name: str, weight: np.ndarray | None) -> None:
    both = np.concatenate([1 - BINARY, BINARY], axis=1)
    p = both.astype(np.float64)
    predicted = p.argmax(axis=1)
    expected = {
        "accuracy": lambda: sk.accuracy_score(TRUTH, predicted, sample_weight=weight),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(TRUTH, predicted, sample_weight=weight),
        "f1": lambda: sk.f1_score(TRUTH, predicted, sample_weight=weight),
        "roc_auc": lambda: sk.roc_auc_score(TRUTH, p[:, 1], sample_weight=weight),
        "log_loss": lambda: sk.log_loss(TRUTH, p / p.sum(axis=1, keepdims=True), sample_weight=weight),
    }[name]()
    assert measure(name, "softmax_cross_entropy", TRUTH, both, weight) == pytest.approx(expected, rel=1e-12)


@WEIGHTS
@pytest.mark.parametrize("target", [CLASSES, np.eye(4, dtype=np.float32)[CLASSES]], ids=["class numbers", "one-hot"])
@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"])
def test_several_classes(name: str, target: np.ndarray, weight: np.ndarray | None) -> None:
    p = MULTI.astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    predicted = p.argmax(axis=1)
    expected = {
        "accuracy": lambda: sk.accuracy_score(CLASSES, predicted, sample_weight=weight),
        "balanced_accuracy": lambda: sk.balanced_accuracy_score(CLASSES, predicted, sample_weight=weight),
        "f1": lambda: sk.f1_score(CLASSES, predicted, sample_weight=weight, average="macro"),
        "roc_auc": lambda: sk.roc_auc_score(CLASSES, p, sample_weight=weight, multi_class="ovr"),
        "log_loss": lambda: sk.log_loss(CLASSES, p, sample_weight=weight),
    }[name]()
    assert measure(name, "softmax_cross_entropy", target, MULTI, weight) == pytest.approx(expected, rel=1e-12)


@WEIGHTS
@pytest.mark.parametrize("name", ["accuracy", "f1", "roc_auc", "log_loss"])
def test_several_labels(name: str, weight: np.ndarray | None) -> None:
    p = LABELS.astype(np.float64)
    predicted = (p >= 0.5).astype(int)
    expected = {
        "accuracy": lambda: sk.accuracy_score(TAGS, predicted, sample_weight=weight),
        "f1": lambda: sk.f1_score(TAGS, predicted, sample_weight=weight, average="macro"),
        "roc_auc": lambda: sk.roc_auc_score(TAGS, p, sample_weight=weight),
        # scikit-learn has no log loss of several labels: it is the mean over them of each one's
        "log_loss": lambda: np.mean([sk.log_loss(TAGS[:, k], p[:, k], sample_weight=weight) for k in range(3)]),
    }[name]()
    target = TAGS.astype(np.float32)
    assert measure(name, "binary_cross_entropy", target, LABELS, weight) == pytest.approx(expected, rel=1e-12)


@WEIGHTS
@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("name", ["r2", "rmse", "mae"])
def test_regression(name: str, columns: int, weight: np.ndarray | None) -> None:
    target, prediction = TARGETS[:, :columns], VALUES[:, :columns]
    function = {"r2": sk.r2_score, "rmse": sk.root_mean_squared_error, "mae": sk.mean_absolute_error}[name]
    expected = function(target, prediction.astype(np.float64), sample_weight=weight)
    assert measure(name, "squared_error", target, prediction, weight) == pytest.approx(expected, rel=1e-9)


def test_every_metric_is_compared_above_and_knows_its_direction() -> None:
    assert set(METRICS) == {"accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss", "r2", "rmse", "mae"}
    better = {name for name, metric in METRICS.items() if metric.greater_is_better}
    assert set(METRICS) - better == {"log_loss", "rmse", "mae"}


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1", "log_loss"])
def test_a_class_that_the_data_lack_is_no_trouble(name: str) -> None:
    """A small validation set need not hold every class; a network may predict one that it lacks."""
    few = np.arange(N) % 2 + 1  # classes 1 and 2 of 4
    value = measure(name, "softmax_cross_entropy", few, MULTI, None)
    p = MULTI.astype(np.float64)
    p /= p.sum(axis=1, keepdims=True)
    predicted = p.argmax(axis=1)
    assert set(predicted) == {0, 1, 2, 3}
    recalls = [np.mean(predicted[few == k] == k) for k in (1, 2)]
    expected = {
        "accuracy": lambda: np.mean(predicted == few),
        "balanced_accuracy": lambda: np.mean(recalls),
        "f1": lambda: sk.f1_score(few, predicted, average="macro", zero_division=0.0),
        "log_loss": lambda: -np.mean(np.log(p[np.arange(N), few])),
    }[name]()
    assert value == pytest.approx(expected, rel=1e-9)


def test_one_class_in_binary_data_is_no_trouble_where_the_metric_has_a_value() -> None:
    ones = np.ones((N, 1), np.float32)
    p = BINARY[:, 0].astype(np.float64)
    assert measure("accuracy", "binary_cross_entropy", ones, BINARY, None) == pytest.approx(np.mean(p >= 0.5))
    assert measure("log_loss", "binary_cross_entropy", ones, BINARY, None) == pytest.approx(-np.mean(np.log(p)))
    f1 = 2 * np.sum(p >= 0.5) / (N + np.sum(p >= 0.5))
    assert measure("f1", "binary_cross_entropy", ones, BINARY, None) == pytest.approx(f1)


def test_certain_and_wrong_predictions_have_a_finite_log_loss() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    assert np.isfinite(measure("log_loss", "softmax_cross_entropy", np.array([1, 0]), certain, None))


@pytest.mark.parametrize("weight", [None, WEIGHT.astype(np.float32)], ids=["unweighted", "weighted"])
def test_evaluate_measures_what_predict_predicts(weight: np.ndarray | None) -> None:
    x = RNG.standard_normal((N, 3)).astype(np.float32)
    cases: list[tuple[str, np.ndarray, int, list[str]]] = [
        ("binary_cross_entropy", TRUTH, 1, ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"]),
        ("binary_cross_entropy", TAGS, 3, ["accuracy", "f1", "roc_auc"]),
        ("softmax_cross_entropy", CLASSES, 4, ["accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss"]),
        ("squared_error", TARGETS, 2, ["r2", "rmse", "mae"]),
    ]
    for loss, y, outputs, names in cases:
        net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(outputs)], inputs=3)
        net.fit(x, y, loss=loss, epochs=2)
        found = net.evaluate(x, y, sample_weight=weight, metrics=names)
        assert list(found) == ["loss", *names]
        for name in names:
            expected = measure(name, loss, y, np.asarray(net.predict(x)), weight)
            assert found[name] == pytest.approx(expected, rel=1e-6, abs=1e-7)
        if "log_loss" in names:
            assert found["log_loss"] == pytest.approx(found["loss"], rel=1e-5)


def test_a_users_function_gets_targets_and_predictions_and_names_its_column() -> None:
    seen: dict[str, Any] = {}

    def worst(target: np.ndarray, prediction: np.ndarray) -> float:
        seen["target"], seen["prediction"] = target, prediction
        return float(np.max(np.abs(target - prediction)))

    x = RNG.standard_normal((N, 3)).astype(np.float32)
    net = xd.DenseNetwork([xd.Dense(2)], inputs=3)
    history = net.fit(x, TARGETS, loss="squared_error", epochs=2, metrics=[worst], validation=(x, TARGETS))
    np.testing.assert_array_equal(seen["target"], TARGETS)
    np.testing.assert_array_equal(seen["prediction"], net.predict(x))
    assert history["validation_worst"][-1] == worst(TARGETS, np.asarray(net.predict(x)))


def test_a_metric_of_ones_own_may_be_one_of_scikit_learns_functions() -> None:
    median = xd.Metric("median_error", "values", "median_absolute_error", greater_is_better=False)
    value = median(as_loss("squared_error"), TARGETS, VALUES, None)
    assert value == pytest.approx(sk.median_absolute_error(TARGETS, VALUES), rel=1e-6)


@pytest.mark.parametrize("name", ["torch", "array_api_strict:device1"])
def test_metrics_are_the_same_on_every_backend(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    x = RNG.standard_normal((N, 3)).astype(np.float32)
    found = []
    for backend in ("numpy", name):
        net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(4)], inputs=3, backend=backend)
        net.fit(x, CLASSES, loss="softmax_cross_entropy", epochs=2)
        found.append(net.evaluate(x, CLASSES, metrics=["accuracy", "f1", "roc_auc"], sample_weight=WEIGHT))
    assert found[0] == pytest.approx(found[1], rel=1e-4)
