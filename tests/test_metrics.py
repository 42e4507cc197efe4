"""Metrics by name have scikit-learn's values, for arrays and for rows that come in parts."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense import metrics
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


@pytest.fixture(autouse=True)
def sums_from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of values go over to sums at once, as they do after a million rows."""
    monkeypatch.setattr(metrics, "_KEPT", 0)


@pytest.mark.parametrize("name", ["r2", "rmse", "mae"])
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_few_rows_have_the_value_of_scikit_learn_to_the_bit(name: str, rows: int,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "_KEPT", 2**20)
    target, prediction = TARGETS.astype(np.float64), VALUES.astype(np.float64)
    expected = getattr(sk, METRICS[name].function)(target, prediction, sample_weight=WEIGHT)
    assert in_parts(METRICS[name], "squared_error", target, prediction, WEIGHT, rows) == expected


def in_parts(metric: xd.Metric, loss: str, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None,
             rows: int) -> float:
    accumulator = metric.accumulator(as_loss(loss))
    for start in range(0, len(target), rows):
        part = slice(start, start + rows)
        accumulator.add(target[part], prediction[part], None if weight is None else weight[part])
    return accumulator.value()


def measure(name: str, loss: str, target: np.ndarray, prediction: np.ndarray, weight: np.ndarray | None) -> float:
    """The value of all rows at once, which every division into parts must give, too."""
    metric, = as_metrics([name], as_loss(loss))
    value = metric(as_loss(loss), target, prediction, weight)
    assert type(value) is float
    for rows in (4, 45):
        assert in_parts(metric, loss, target, prediction, weight, rows) == pytest.approx(value, rel=1e-12, abs=1e-13)
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
    assert measure(name, "squared_error", target, prediction, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["accuracy", "balanced_accuracy", "f1"])
def test_unweighted_label_metrics_are_scikit_learns_to_the_bit(name: str) -> None:
    function = {"accuracy": sk.accuracy_score, "balanced_accuracy": sk.balanced_accuracy_score, "f1": sk.f1_score}[name]
    more = {"average": "macro"} if name == "f1" else {}
    cases: list[tuple[str, np.ndarray, np.ndarray, np.ndarray, dict[str, str]]] = [
        ("binary_cross_entropy", TRUTH, BINARY, (BINARY[:, 0] >= 0.5).astype(int), {}),
        ("softmax_cross_entropy", CLASSES, MULTI, MULTI.argmax(axis=1), more),
        ("binary_cross_entropy", TAGS, LABELS, (LABELS >= 0.5).astype(int), more),
    ]
    for loss, target, prediction, predicted, options in cases[:2] if name == "balanced_accuracy" else cases:
        expected = function(target, predicted, **options)
        assert METRICS[name](as_loss(loss), target, prediction, None) == expected
        assert in_parts(METRICS[name], loss, target, prediction, None, 7) == expected


@WEIGHTS
@pytest.mark.parametrize("name", ["r2", "rmse", "mae"])
def test_an_offset_that_all_targets_share_costs_no_digits(name: str, weight: np.ndarray | None) -> None:
    target, prediction = np.round(TARGETS.astype(np.float64) * 64) / 64, np.round(VALUES.astype(np.float64) * 64) / 64
    expected = measure(name, "squared_error", target, prediction, weight)  # 64ths, which 1e8 leaves exact
    assert measure(name, "squared_error", target + 1e8, prediction + 1e8, weight) == pytest.approx(expected, rel=1e-12)


@WEIGHTS
@pytest.mark.parametrize("first", ["smallest", "largest", "outlier"])
def test_r2_of_many_parts_does_not_depend_on_their_order(first: str, weight: np.ndarray | None) -> None:
    target, prediction = TARGETS[:, :1].astype(np.float64), VALUES[:, :1].astype(np.float64)
    target[0] += 1e6 if first == "outlier" else 0.0
    order = {"smallest": np.argsort(target[:, 0]), "largest": np.argsort(-target[:, 0]), "outlier": np.arange(N)}[first]
    many = np.concatenate([order, *[order[1:]] * 200])  # the first row once, the others 201 times
    w = None if weight is None else weight[many]
    expected = sk.r2_score(target[many], prediction[many], sample_weight=w)
    assert in_parts(METRICS["r2"], "squared_error", target[many], prediction[many], w, 5) == pytest.approx(
        expected, rel=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 60])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e8 + 0.1])
def test_r2_of_constant_targets_is_one_if_they_are_predicted_and_else_zero(value: float, rows: int) -> None:
    target = np.full((N, 2), value)
    assert in_parts(METRICS["r2"], "squared_error", target, target, None, rows) == 1.0
    assert in_parts(METRICS["r2"], "squared_error", target, target + 1.0, None, rows) == 0.0
    half = np.stack([target[:, 0], TARGETS[:, 0]], axis=1)
    expected = sk.r2_score(TARGETS[:, 0].astype(np.float64), VALUES[:, 0].astype(np.float64)) / 2  # the other is zero
    assert in_parts(METRICS["r2"], "squared_error", half, np.stack([target[:, 0] + 1, VALUES[:, 0]], axis=1), None,
                    rows) == pytest.approx(expected, rel=1e-12)


def test_r2_needs_two_rows_in_one_part_or_in_two() -> None:
    one = METRICS["r2"].accumulator(as_loss("squared_error"))
    one.add(np.array([[1.0]]), np.array([[2.0]]), None)
    with pytest.raises(xd.TargetError, match="r2 cannot be computed of these targets: it needs two rows"):
        one.value()
    one.add(np.array([[3.0]]), np.array([[3.0]]), None)
    assert one.value() == sk.r2_score([1.0, 3.0], [2.0, 3.0])


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_part_of_rows_without_weight_counts_nothing(name: str) -> None:
    values = METRICS[name].takes == "values"
    loss = as_loss("squared_error" if values else "binary_cross_entropy")
    target, prediction = (TARGETS, VALUES) if values else (TRUTH, BINARY)
    accumulator = METRICS[name].accumulator(loss)
    nothing = np.zeros(20)
    accumulator.add(target[:20], prediction[:20], nothing)
    accumulator.add(target[20:], prediction[20:], WEIGHT[20:])
    expected = METRICS[name](loss, target[20:], prediction[20:], WEIGHT[20:])
    assert accumulator.value() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(xd.TargetError, match=f"{name} cannot be computed of these targets"):
        METRICS[name](loss, target[:20], prediction[:20], nothing)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_memory_is_bounded_where_the_metric_allows_it(name: str) -> None:
    values = METRICS[name].takes == "values"
    accumulator = METRICS[name].accumulator(as_loss("squared_error" if values else "binary_cross_entropy"))
    sizes = []
    for _ in range(200):
        accumulator.add(*((TARGETS, VALUES) if values else (TRUTH, BINARY)), WEIGHT)
        sizes.append(len(pickle.dumps(accumulator)))
    assert sizes[-1] > 100 * sizes[0] if name == "roc_auc" else sizes[-1] < sizes[0] + 20


def test_many_classes_predicted_right_are_no_regression_problem() -> None:
    """scikit-learn warns where classes are more than half of the rows, and a metric's rows are distinct pairs."""
    classes = np.arange(40).repeat(10)
    for name in ("accuracy", "balanced_accuracy", "f1"):
        assert measure(name, "softmax_cross_entropy", classes, np.eye(40)[classes], None) == 1.0


@pytest.mark.parametrize("name", ["r2", "rmse", "mae"])
def test_values_that_do_not_fit_are_a_target_error(name: str) -> None:
    loss = as_loss("squared_error")
    for prediction in (VALUES, np.full((N, 1), np.nan)):
        with pytest.raises(xd.TargetError, match=f"{name} cannot be computed of these targets"):
            METRICS[name](loss, TARGETS[:, 0], prediction, None)


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


def test_a_users_function_gets_all_rows_of_all_parts_even_if_the_buffers_are_reused() -> None:
    seen = []
    accumulator = xd.Metric("seen", "labels", lambda *arrays: seen.append(arrays) or 0.0, None).accumulator(
        as_loss("squared_error"))
    target, prediction = np.empty((20, 2), np.float32), np.empty((20, 2), np.float32)
    for start in (0, 20, 40):
        target[:], prediction[:] = TARGETS[start : start + 20], VALUES[start : start + 20]
        accumulator.add(target, prediction, WEIGHT[:20])
    accumulator.value()
    np.testing.assert_array_equal(seen[0][0], TARGETS)
    np.testing.assert_array_equal(seen[0][1], VALUES)
    assert seen[0][1].dtype == np.float32


@pytest.mark.parametrize("rows", [7, N])
@WEIGHTS
def test_a_metric_of_ones_own_may_be_one_of_scikit_learns_functions(weight: np.ndarray | None, rows: int) -> None:
    median = xd.Metric("median_error", "values", "median_absolute_error", greater_is_better=False)
    expected = sk.median_absolute_error(TARGETS, VALUES.astype(np.float64), sample_weight=weight)
    assert in_parts(median, "squared_error", TARGETS, VALUES, weight, rows) == pytest.approx(expected, rel=1e-12)
    distance = xd.Metric("class_distance", "labels", "mean_absolute_error", greater_is_better=False)
    expected = sk.mean_absolute_error(CLASSES, MULTI.argmax(axis=1), sample_weight=weight)
    value = in_parts(distance, "softmax_cross_entropy", CLASSES, MULTI, weight, rows)
    assert value == pytest.approx(expected, rel=1e-12)
    f1 = xd.Metric("other_name", "labels", "f1_score", greater_is_better=True)
    expected = METRICS["f1"](as_loss("softmax_cross_entropy"), CLASSES, MULTI, weight)
    assert in_parts(f1, "softmax_cross_entropy", CLASSES, MULTI, weight, rows) == pytest.approx(expected, rel=1e-12)


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
