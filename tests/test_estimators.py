"""What the estimators promise beyond scikit-learn's: arrays of every namespace, what is added, how a fit may end."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from estimating import DATA, LABELS, OUTPUTS, THREE, TWO, VALUES, X, classifier, flat, maker, regressor
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

import xpdense as xd
from xpdense.activations import ACTIVATIONS
from xpdense.backend import Backend, backend_of, host
from xpdense.losses import Huber, SquaredError
from xpdense.optimizers import OPTIMIZERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # fits are short here
RNG = np.random.default_rng(3)
STILL = {"solver": "sgd", "learning_rate_init": 1e-15, "max_iter": 1, "batch_size": 60, "alpha": 0.0}  # as drawn
STEP = {**STILL, "learning_rate_init": 1.0, "momentum": 0.0}  # one plain step on all rows
NAMES = list("abcd")
FRAME = pd.DataFrame(X, columns=NAMES)


# --- inside scikit-learn ----------------------------------------------------------------------------------------------

def routed() -> Any:
    with config_context(enable_metadata_routing=True):
        model = classifier().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        weight = np.where(TWO, 1e-9, 1.0)  # only one class counts
        found = cross_validate(model.set_params(max_iter=60, learning_rate_init=0.1), X, TWO, cv=2,
                               params={"sample_weight": weight})
    assert min(found["test_score"]) > 0.99
    return found


INSIDE: dict[str, Any] = {
    "pipeline": lambda: make_pipeline(StandardScaler(), classifier()).fit(X, TWO).score(X, TWO),
    "set_output": lambda: make_pipeline(StandardScaler().set_output(transform="pandas"), classifier()).fit(
        FRAME, TWO)[-1].feature_names_in_.tolist() == NAMES or pytest.fail("names are lost"),
    "grid search": lambda: GridSearchCV(classifier(), {"alpha": [1e-4, 1.0], "solver": ["adam", xd.Adam(0.01)]},
                                        cv=2, n_jobs=2).fit(X, TWO).best_estimator_.predict(X),
    "cross validation": lambda: cross_val_score(regressor(), X, OUTPUTS, cv=3),
    "column transformer": lambda: make_pipeline(ColumnTransformer([("a", StandardScaler(), NAMES[:2])]),
                                                regressor()).fit(FRAME, VALUES).predict(FRAME),
    "calibration": lambda: CalibratedClassifierCV(classifier(), cv=2).fit(X, TWO, np.ones(60)).predict_proba(X),
    "voting": lambda: VotingClassifier([("a", classifier()), ("b", classifier(random_state=1))], voting="soft").fit(
        X, THREE).predict(X),
    "metadata routing": routed,
}


@pytest.mark.parametrize("use", INSIDE)
def test_it_works_inside_scikit_learn(use):
    assert INSIDE[use]() is not None


COPIES: dict[str, Any] = {
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)), "deepcopy": lambda model, _: copy.deepcopy(model),
    "joblib": lambda model, folder: joblib.load(joblib.dump(model, folder / "model")[0]),
    "clone": lambda model, _: clone(model).fit(X, TWO),
    "set_params": lambda model, _: xd.MLPClassifier().set_params(**model.get_params()).fit(X, TWO),
    "again": lambda model, _: model.fit(X, THREE).fit(X, TWO),
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("parameters", [{}, {
    "solver": xd.AdamW(0.01), "learning_rate": xd.Cosine(0.1),
    "hidden_layer_sizes": [xd.Dense(5, "tanh"), xd.Dropout(0.1), xd.BatchNorm(), 4],
}], ids=["plain", "objects"])
def test_a_copy_is_the_same_and_goes_on_the_same(way, parameters, tmp_path):
    model = classifier(**parameters).fit(X, TWO)
    before, names = flat(model), repr(model)
    again = COPIES[way](model, tmp_path)
    assert repr(again) == names
    np.testing.assert_array_equal(flat(again), before)
    np.testing.assert_array_equal(again.predict_proba(X), classifier(**parameters).fit(X, TWO).predict_proba(X))
    if way in ("pickle", "deepcopy", "joblib"):
        again.partial_fit(X, TWO)
        np.testing.assert_array_equal(flat(model), before)
        np.testing.assert_array_equal(flat(again), flat(model.partial_fit(X, TWO)))


@pytest.mark.parametrize("cuda", [False, True], ids=["numpy", "cupy"])
def test_another_process_reads_it_where_cupy_is_not(cuda, tmp_path, request):
    x = request.getfixturevalue("cuda_backend").from_host(X) if cuda else X
    model = regressor().fit(x, VALUES)
    (tmp_path / "model").write_bytes(pickle.dumps(model.partial_fit(x, VALUES)))
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "cupy.py").write_text("raise ImportError")
    code = ("import pickle, sys; import numpy as np; x = np.load('x.npy');"
            "model = pickle.load(open('model', 'rb')); found = model.predict(x); assert type(found) is np.ndarray;"
            "np.savez('found', before=found, after=model.partial_fit(x, x[:, 0]).predict(x))")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_allclose(found["before"], host(model.predict(x)), rtol=1e-12)
    np.testing.assert_allclose(found["after"], host(model.partial_fit(x, X[:, 0]).predict(x)), rtol=1e-12)


# --- arrays of other namespaces ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True, "validation_fraction": 0.3}, {"solver": "lbfgs"}],
                         ids=["adam", "early_stopping", "lbfgs"])
@pytest.mark.parametrize("kind", DATA)
def test_arrays_of_a_namespace_stay_in_it(kind, parameters, place):
    x, y, make, weight = place.from_host(X), place.from_host(DATA[kind]), maker(kind), np.linspace(0.5, 2.0, 60)
    model, reference = make(**parameters).fit(x, y), make(**parameters).fit(X, DATA[kind])
    for _ in range(2):
        for method in ("predict", "predict_proba", "predict_log_proba"):
            if hasattr(model, method):
                found = getattr(model, method)(x)
                assert backend_of(found).name == place.name
                np.testing.assert_allclose(host(found), getattr(reference, method)(X), atol=1e-8)
        assert backend_of(model.coefs_[0]).name == place.name
        for w in (None, weight):
            there = None if w is None else place.from_host(w)
            assert model.score(x, y, there) == pytest.approx(reference.score(X, DATA[kind], w))
        if parameters:
            return
        model.partial_fit(x, y, place.from_host(weight)), reference.partial_fit(X, DATA[kind], weight)


@pytest.mark.parametrize("make", [classifier, regressor])
@pytest.mark.parametrize("scoring", [None, "loss", "scorer"])
def test_validation_data_and_scores_in_a_namespace(scoring, make, place):
    x, y = place.from_host(X), place.from_host(TWO)
    if scoring == "scorer":
        scoring = "accuracy" if make is classifier else "neg_mean_absolute_error"
    for own in (False, True):
        model, reference = (
            make(early_stopping=True, validation_fraction=0.3, scoring=scoring).fit(
                *data, **({"X_val": data[0], "y_val": data[1]} if own else {})) for data in ((x, y), (X, TWO)))
        np.testing.assert_allclose(model.validation_scores_, reference.validation_scores_, atol=1e-9)


def test_classes_that_are_text_and_the_classes_of_partial_fit(place):
    x, words = place.from_host(X), np.array(["no", "yes"])[TWO]
    found = classifier().fit(x, words).predict(x)
    assert found.tolist() == classifier().fit(X, words).predict(X).tolist()
    model = classifier().partial_fit(x, place.from_host(TWO), classes=place.from_host(np.arange(3)))
    assert model.predict_proba(x).shape == (60, 3)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide:RuntimeWarning")  # scikit-learn's scaler
def test_scikit_learn_follows_the_namespace_where_it_is_told_to(place):
    x, y = place.from_host(X), place.from_host(TWO)
    if isinstance(x, np.ndarray):
        pytest.skip("scikit-learn takes the CPU that plays CuPy for NumPy")
    with config_context(array_api_dispatch=True):
        model, reference = (make_pipeline(StandardScaler(), classifier()).fit(*data) for data in ((x, y), (X, TWO)))
        assert backend_of(model.predict(x)).name == place.name
        assert model.score(x, y) == pytest.approx(reference.score(X, TWO))
        with pytest.raises(ValueError, match="must use the same namespace"):
            model[-1].predict(X)
    assert type(model[-1].predict(X)) is np.ndarray


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", DATA)
def test_x_never_leaves_the_device(kind, early_stopping, cuda_backend, monkeypatch):
    rows, brought = np.arange(600) % 60, []
    x, y = (cuda_backend.from_host(np.ascontiguousarray(values[rows])) for values in (X, DATA[kind]))
    to_host = Backend.to_host
    monkeypatch.setattr(Backend, "to_host", lambda self, a: (
        brought.append(a.size if self.kind == "cupy" else 0), to_host(self, a))[1])
    with contextlib.suppress(TypeError):  # of a real CuPy, whose methods stay as they are
        get = type(x).get
        monkeypatch.setattr(type(x), "get", lambda a, *args, **k: (brought.append(a.size), get(a, *args, **k))[1])
    model = maker(kind)(early_stopping=early_stopping).fit(x, y)
    assert max(brought) <= (600 if early_stopping and kind == "binary" else 60)  # classes, to stratify the split
    brought.clear()
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(model, method):
            getattr(model, method)(x)
    if not early_stopping:
        model.partial_fit(x, y)
    assert max(brought, default=0) <= 60
    model.score(x, y)
    assert max(brought, default=0) <= y.size
    assert backend_of(model.predict(x)).name == cuda_backend.name


# --- targets, weights, losses -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("y", [TWO, THREE], ids=["two", "three"])
def test_class_weights_are_sample_weights(y):
    weight, given = np.array([1.0, 3.0, 0.5])[y], np.linspace(0.0, 2.0, 60)
    cases = [({0: 1.0, 1: 3.0, **({2: 0.5} if y.max() == 2 else {})}, weight),
             ("balanced", compute_sample_weight("balanced", y))]
    for class_weight, rows in cases:
        for more in (None, given):
            ours, theirs = classifier(class_weight=class_weight).fit(X, y, more), classifier()
            theirs.fit(X, y, rows if more is None else rows * more)
            np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-12)
    ours = classifier(class_weight=cases[0][0]).partial_fit(X, y, classes=[0, 1, 2][: y.max() + 1])
    np.testing.assert_allclose(flat(ours), flat(classifier().partial_fit(X, y, weight, classes=np.unique(y))))
    with pytest.raises(ValueError, match="balanced"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=np.unique(y))


@pytest.mark.parametrize("kind", DATA)
def test_a_weight_of_two_is_the_row_twice(kind):
    weight, y = np.arange(60) % 3, DATA[kind]
    rows, options = np.repeat(np.arange(60), weight), {"batch_size": 1000, "solver": "sgd", "momentum": 0.0}
    models = []
    for x, target, w in ((X, y, weight), (X[rows], y[rows], None)):
        with pytest.warns(UserWarning, match="clipped"):
            models.append(maker(kind)(**options).fit(x, target, w))
        classes = {"classes": np.unique(y) if y.ndim == 1 else [0, 1, 2]} if maker(kind) is classifier else {}
        with pytest.warns(UserWarning, match="clipped"):
            models[-1].partial_fit(x, target, w, **classes)
    np.testing.assert_allclose(flat(models[0]), flat(models[1]), rtol=1e-9)
    assert models[0].loss_ == pytest.approx(models[1].loss_)


def test_labels_and_outputs_in_every_call_of_partial_fit():
    model = classifier(batch_size="auto").partial_fit(X, LABELS, classes=[0, 1, 2])
    for rows in (slice(0, 1), slice(5, 9), slice(0, 60)):
        model.partial_fit(X[rows], LABELS[rows]).partial_fit(X[rows], np.zeros_like(LABELS[rows]))
    assert model.predict(X).shape == (60, 3)
    model = regressor(batch_size="auto").partial_fit(X, OUTPUTS).partial_fit(X[:3], OUTPUTS[:3])
    assert model.predict(X).shape == (60, 2)


def huber(e: np.ndarray, delta: float) -> np.ndarray:
    return np.where(np.abs(e) <= delta, e**2 / 2, delta * (np.abs(e) - delta / 2))


FORMULAS: list[tuple[Any, Any]] = [
    ("squared_error", lambda e: e**2 / 2), ("absolute_error", np.abs), ("huber", lambda e: huber(e, 1.0)),
    ("quantile", lambda e: np.abs(e) / 2), (xd.Quantile(0.9), lambda e: np.maximum(0.9 * e, -0.1 * e)),
    (Huber(0.3), lambda e: huber(e, 0.3)), (SquaredError(), lambda e: e**2),
]


@pytest.mark.parametrize(("loss", "formula"), FORMULAS, ids=lambda value: getattr(value, "__name__", repr(value)))
@pytest.mark.parametrize("y", [VALUES, OUTPUTS], ids=["one", "several"])
def test_the_loss_is_what_its_name_says(loss, formula, y):
    model = regressor(loss=loss, **{**STILL, "alpha": 3.0}).fit(X, y)
    penalty = 3.0 / 2 * sum((w**2).sum() for w in model.coefs_) / 60
    assert model.loss_ == pytest.approx(formula(y - model.predict(X)).mean() + penalty, rel=1e-9)
    for solver in ("adam", "lbfgs"):
        model = regressor(loss=loss, solver=solver, max_iter=20).fit(X, y)
        assert model.loss_ < model.loss_curve_[0]


@pytest.mark.parametrize("y", [TWO, THREE, LABELS], ids=["two", "three", "labels"])
def test_label_smoothing_is_training_on_smoothed_targets(y):
    start, after = (classifier(hidden_layer_sizes=(), label_smoothing=0.2, **how).fit(X, y) for how in (STILL, STEP))
    p = start.predict_proba(X)[:, 1:] if y is TWO else start.predict_proba(X)
    hard = np.eye(3)[y] if y is THREE else y.reshape(60, -1)
    soft = hard * 0.8 + 0.2 / (3 if y is THREE else 2)
    np.testing.assert_allclose(after.coefs_[0], start.coefs_[0] - X.T @ (p - soft) / 60, rtol=1e-9)
    terms = soft * np.log(p) + (0.0 if y is THREE else (1 - soft) * np.log(1 - p))
    assert start.loss_ == pytest.approx(-terms.sum(axis=1).mean(), rel=1e-9)


@pytest.mark.parametrize("loss", [xd.BinaryCrossEntropy(), SquaredError()], ids=repr)
def test_a_loss_of_the_users_own_decides_as_its_probabilities_say(loss):
    model = classifier(loss=loss, max_iter=30).fit(X, TWO)
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X)[:, 1] > 0.5)


@pytest.mark.parametrize("labels", [2, 3])
def test_the_loss_of_a_confident_mistake_is_the_true_one(labels):
    x, y = np.eye(labels), np.roll(np.arange(labels), 1)
    model = classifier(hidden_layer_sizes=(), warm_start=True, **{**STILL, "batch_size": labels}).fit(x, y)
    model.coefs_ = [60.0 * (np.eye(3) if labels == 3 else np.array([[-1.0], [1.0]]))]
    model.intercepts_ = [np.zeros_like(b) for b in model.intercepts_]
    assert model.fit(x, y).loss_ == pytest.approx(60.0)
    model.coefs_ = [20.0 * w for w in model.coefs_]
    assert (model.predict_proba(x) == 0.0).any()
    assert model.predict_log_proba(x).min() == pytest.approx(-1200.0)


# --- the network ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", [*ACTIVATIONS, "logistic"])
def test_every_activation_by_name_as_an_object_and_layer_by_layer(name):
    shape = {"hidden_layer_sizes": (6, 5), "max_iter": 10, "learning_rate_init": 0.01}
    model = classifier(activation=name, **shape).fit(X, TWO)
    assert model.loss_ < model.loss_curve_[0]
    same = [[name, name], *([ACTIVATIONS[name]] if name in ACTIVATIONS else [])]
    for activation in same:
        np.testing.assert_array_equal(flat(classifier(activation=activation, **shape).fit(X, TWO)), flat(model))
    other = classifier(activation=[name, "identity" if name != "identity" else "tanh"], **shape).fit(X, TWO)
    assert not np.array_equal(flat(other)[-1:], flat(model)[-1:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_by_name_and_as_an_object(name):
    options = {"learning_rate_init": 1e-3, "momentum": 0.0, "max_iter": 10}
    named, made = (regressor(solver=solver, **options).fit(X, VALUES) for solver in (name, OPTIMIZERS[name](1e-3)))
    assert named.loss_ < named.loss_curve_[0]
    np.testing.assert_allclose(flat(named), flat(made), atol=1e-6)  # scikit-learn's Adam has another epsilon
    assert made.solver.learning_rate == xd.Constant(1e-3)
    assert made.solver.penalty == 0.0  # the object is the user's


@pytest.mark.parametrize("schedule", [xd.Cosine(0.01), xd.OneCycle(0.01), xd.Step(0.01, every=4),
                                      xd.InverseScaling(0.1)], ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("solver", ["adam", "sgd", "lion"])
def test_a_schedule_is_followed_over_all_epochs(solver, schedule):
    model = classifier(solver=solver, learning_rate=schedule).fit(X, TWO)
    assert model.history_["learning_rate"] == [schedule(3 * epoch + 2, 15) for epoch in range(5)]


@pytest.mark.parametrize(("parameters", "kinds"), [
    ({"dropout": 0.3}, "Dense Dropout Dense"), ({"normalization": "batch"}, "Dense BatchNorm Dense"),
    ({"normalization": "layer", "dropout": 0.1}, "Dense LayerNorm Dropout Dense"),
    ({"hidden_layer_sizes": [xd.Dense(5, "tanh"), xd.Dropout(0.1), 4]}, "Dense Dropout Dense Dense"),
], ids=lambda value: " ".join(value) if isinstance(value, dict) else "")
def test_layers_between_the_layers(parameters, kinds):
    model = classifier(max_iter=30, learning_rate_init=0.01, **parameters).fit(X, TWO)
    assert [type(layer).__name__ for _, layer in model._network.named_layers()] == kinds.split()
    assert model.loss_ < model.loss_curve_[0]
    np.testing.assert_array_equal(model.predict_proba(X), model.predict_proba(X))
    before = flat(model)
    clone(model).fit(X[:, :2], THREE)  # layers of a parameter are nobody's but the user's
    np.testing.assert_array_equal(flat(model), before)


def test_a_residual_layer_adds_its_input():
    model = regressor(hidden_layer_sizes=(4, 7, 7), residual=True, activation="tanh").fit(X, VALUES)
    h, widths = X, (4, 4, 7, 7)
    for w, b, before, after in zip(model.coefs_[:-1], model.intercepts_[:-1], widths[:-1], widths[1:], strict=True):
        h = np.tanh(h @ w + b) + (h if before == after else 0.0)
    np.testing.assert_allclose(model.predict(X), (h @ model.coefs_[-1] + model.intercepts_[-1])[:, 0])


def test_clip_norm_limits_a_step():
    start, after = (regressor(clip_norm=1e-3, **how).fit(X, VALUES) for how in (STILL, STEP))
    assert np.linalg.norm(flat(after) - flat(start)) == pytest.approx(1e-3)


@pytest.mark.parametrize("y", [VALUES, OUTPUTS], ids=["one", "several"])
def test_the_gradient_of_lbfgs_is_that_of_its_loss(y, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr("xpdense.estimators.solvers.minimize", lambda function, start, **_: asked.append(
        (function, start)) or (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.warns(UserWarning, match="interrupted"):
        regressor(solver="lbfgs", alpha=2.0, activation="tanh").fit(X, y)
    function, start = asked[0]
    gradient = function(start)[1]
    for i in RNG.integers(start.size, size=12):
        shift = 1e-5 * (np.arange(start.size) == i)
        assert gradient[i] == pytest.approx((function(start + shift)[0] - function(start - shift)[0]) / 2e-5, abs=1e-8)
