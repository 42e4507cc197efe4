"""The estimators next to scikit-learn's: the same parameters and random_state give the same model, warnings, errors."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from estimating import COUNTS, DATA, THREE, TWO, VALUES, X, quiet
from sklearn.exceptions import DataConversionWarning, NotFittedError

import xpdense as xd

NAMES = ("MLPClassifier", "MLPRegressor")
BOTH = {name: (getattr(xd, name), getattr(sklearn.neural_network, name)) for name in NAMES}
ATTRIBUTES = ("coefs_", "intercepts_", "loss_", "loss_curve_", "best_loss_", "validation_scores_",
              "best_validation_score_", "n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_")
SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam-betas": {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-3, "learning_rate_init": 0.01},
    "sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.05},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.02},
    "nesterov": {"solver": "sgd", "learning_rate_init": 0.02},
    "invscaling": {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.3, "learning_rate_init": 0.05},
    "adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2,
                 "learning_rate_init": 0.05},
}
CASES: dict[str, dict[str, Any]] = {
    **{f"{solver}-{activation}": {**parameters, "activation": activation}
       for solver, parameters in SOLVERS.items() for activation in ("identity", "logistic", "tanh", "relu")},
    "early_stopping": {"early_stopping": True, "n_iter_no_change": 3, "learning_rate_init": 0.05},
    "early_stopping-sgd": {"early_stopping": True, "validation_fraction": 0.3, **SOLVERS["adaptive"]},
    "early_stopping-unshuffled": {"early_stopping": True, "shuffle": False},
    "alpha": {"alpha": 20.0, "batch_size": 7},
    "alpha-sgd": {"alpha": 5.0, "batch_size": 13, **SOLVERS["nesterov"]},
    "batch_size-1": {"batch_size": 1, "max_iter": 2},
    "unshuffled": {"shuffle": False, "batch_size": 11},
    "no-hidden": {"hidden_layer_sizes": ()},
    "integer": {"hidden_layer_sizes": 5},
    "layers": {"hidden_layer_sizes": (9, 4, 7), "batch_size": 16},
    "converges": {"tol": 0.1, "n_iter_no_change": 1},
    "never-converges": {"n_iter_no_change": np.inf, "tol": 10.0},
    "lbfgs": {"solver": "lbfgs", "max_iter": 8, "alpha": 0.1},
    "lbfgs-tol": {"solver": "lbfgs", "max_iter": 60, "tol": 0.1, "alpha": 0.5},
    "lbfgs-no-hidden": {"solver": "lbfgs", "max_iter": 8, "hidden_layer_sizes": ()},
}


def makers(kind: str) -> tuple[Any, Any]:
    return BOTH["MLPRegressor" if kind in ("regression", "outputs", "poisson") else "MLPClassifier"]


def pair(kind: str, **parameters: Any) -> list[Any]:
    """Ours and scikit-learn's, of the same parameters."""
    parameters = {"hidden_layer_sizes": (6,), "max_iter": 12, "batch_size": 20, "random_state": 3, **parameters}
    return [maker(**parameters) for maker in makers(kind)]


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-9, x: Any = X) -> None:
    for name in ATTRIBUTES:
        if name in vars(theirs) and not (theirs.solver == "lbfgs" and name in ("loss_curve_", "t_", "best_loss_")):
            expected, found = getattr(theirs, name), getattr(ours, name)
            if name in ("coefs_", "intercepts_"):
                assert all(a.dtype == b.dtype for a, b in zip(found, expected, strict=True))
                expected, found = (np.concatenate([np.ravel(v) for v in each]) for each in (expected, found))
            if expected is None or isinstance(expected, str):
                assert found == expected, name
            else:
                np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)
    for method in ("predict", "predict_proba"):
        if hasattr(theirs, method):
            expected, found = getattr(theirs, method)(x), getattr(ours, method)(x)
            assert found.shape == expected.shape
            assert found.dtype == expected.dtype
            np.testing.assert_allclose(found, expected, rtol=tolerance * 10, atol=tolerance * 10, err_msg=method)
    if hasattr(theirs, "classes_"):
        np.testing.assert_array_equal(ours.classes_, theirs.classes_)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", DATA)
def test_the_model_is_scikit_learns(kind, case):
    if case.startswith("lbfgs") and kind == "outputs":
        pytest.skip("scikit-learn's gradient is not that of its loss there")
    models = pair(kind, **CASES[case])
    with quiet():
        for model in models:
            model.fit(X, DATA[kind])
    assert_same(*models)


@pytest.mark.parametrize("case", ["adam-relu", "nesterov-tanh", "early_stopping", "alpha"])
@pytest.mark.parametrize("kind", DATA)
def test_the_model_is_scikit_learns_in_float32(kind, case):
    models = pair(kind, **CASES[case])
    with quiet():
        for model in models:
            model.fit(X.astype(np.float32), DATA[kind].astype(np.float32 if kind in ("regression", "outputs")
                                                                 else int))
    assert_same(*models, 1e-5, X.astype(np.float32))


@pytest.mark.parametrize("case", ["adam-relu", "nesterov-tanh", "early_stopping", "alpha", "lbfgs"])
def test_poisson_is_scikit_learns(case):
    models = pair("poisson", loss="poisson", **CASES[case])
    with quiet():
        for model in models:
            model.fit(X, COUNTS)
    assert_same(*models)


@pytest.mark.parametrize("parameters", [{"solver": "lbfgs", "max_iter": 8}, {"batch_size": 60}, {"batch_size": 54,
                         "early_stopping": True}], ids=["lbfgs", "full batch", "early stopping"])
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "poisson"])
def test_sample_weights_are_scikit_learns(kind, parameters):
    parameters, weight = dict(parameters), np.linspace(0.0, 3.0, len(X))
    if parameters.get("early_stopping"):
        weight = np.full(len(X), 2.5)  # of one batch only that of all the same is the same in scikit-learn
    models = pair(kind, alpha=0.5, **parameters, **({"loss": "poisson"} if kind == "poisson" else {}))
    with quiet():
        for model in models:
            model.fit(X, {**DATA, "poisson": COUNTS}[kind], weight)
    assert_same(*models)
    y = {**DATA, "poisson": COUNTS}[kind]
    assert models[0].score(X, y, weight) == pytest.approx(models[1].score(X, y, weight), abs=1e-9)


def test_one_epoch_without_hidden_layers_from_the_same_start():
    """The one-layer case: plain SGD in the rows' order is the update that a pencil gives."""
    parameters = {"hidden_layer_sizes": (), "solver": "sgd", "momentum": 0.0, "shuffle": False, "max_iter": 1,
                  "alpha": 0.0, "learning_rate_init": 0.1, "warm_start": True}
    ours, theirs = pair("regression", **parameters)
    with quiet():
        ours.fit(X, VALUES), theirs.fit(X, VALUES)
        start = np.linspace(-1, 1, X.shape[1])[:, None], np.array([0.5])
        for model in (ours, theirs):
            model.coefs_, model.intercepts_ = [start[0].copy()], [start[1].copy()]
            model.fit(X, VALUES)
    w, b = start[0][:, 0].copy(), 0.5
    for rows in np.split(np.arange(len(X)), 3):
        error = X[rows] @ w + b - VALUES[rows]
        w, b = w - 0.1 * X[rows].T @ error / len(rows), b - 0.1 * error.mean()
    for model in (ours, theirs):
        np.testing.assert_allclose(model.coefs_[0][:, 0], w, atol=1e-6)
        np.testing.assert_allclose(model.intercepts_[0], b, atol=1e-6)


@pytest.mark.parametrize("random", [3, "instance"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "outputs"])
def test_partial_fit_is_scikit_learns(kind, solver, random):
    models = pair(kind, **SOLVERS[solver])
    y = DATA[kind]
    classes = {"classes": np.unique(y)} if kind in ("binary", "multiclass") else {}
    for model in models:
        if random == "instance":
            model.set_params(random_state=np.random.RandomState(5))
        for rows in (slice(0, 20), slice(20, 60), slice(10, 50), slice(0, 60)):
            model.partial_fit(X[rows], y[rows], **classes)
    assert_same(*models)


@pytest.mark.parametrize("kind", DATA)
def test_later_calls_are_scikit_learns(kind):
    """A second fit forgets the first, draws from a shared RandomState where that went on, and partial_fit follows."""
    y = DATA[kind]
    models = pair(kind)
    with quiet():
        for model in models:
            model.set_params(random_state=np.random.RandomState(5))
            model.fit(X[:30], y[:30]).fit(X[:, :2], y)
            if kind != "multilabel":  # scikit-learn's partial_fit wants each call's labels to be those it saw
                model.partial_fit(X[:, :2], y)
    assert_same(*models, x=X[:, :2])
    assert models[0].random_state.randint(1 << 30) == models[1].random_state.randint(1 << 30)


@pytest.mark.parametrize("name", NAMES)
def test_the_global_random_state_is_used_as_scikit_learn_does(name):
    models, after = pair("binary" if name == "MLPClassifier" else "regression", random_state=None), []
    for model in models:
        np.random.seed(7)  # noqa: NPY002
        with quiet():
            model.fit(X, TWO)
        after.append(np.random.randint(1 << 30))  # noqa: NPY002
    assert after[0] == after[1]
    assert_same(*models)


@pytest.mark.parametrize("case", ["adam-relu", "adaptive-tanh", "early_stopping", "early_stopping-sgd", "converges"])
def test_what_verbose_prints_is_scikit_learns(case, capsys):
    printed = []
    for model in pair("binary", verbose=True, **CASES[case]):
        with quiet():
            model.fit(X, TWO)
        printed.append(capsys.readouterr().out)
    assert "Iteration 1, loss = " in printed[0]
    assert printed[0] == printed[1]


# --- the same words ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_there_with_its_default_and_its_place(name):
    ours, theirs = (list(inspect.signature(maker).parameters.values()) for maker in BOTH[name])
    by_name = {parameter.name: parameter for parameter in ours}
    for parameter in theirs:
        assert (by_name[parameter.name].default, by_name[parameter.name].kind) == (parameter.default, parameter.kind)
    positional = [[p.name for p in each if p.kind is p.POSITIONAL_OR_KEYWORD] for each in (ours, theirs)]
    assert positional[0] == positional[1]
    assert all(by_name[n].kind is inspect.Parameter.KEYWORD_ONLY for n in by_name.keys() - set(positional[0]))


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("kind", DATA)
def test_every_fitted_attribute_and_method_is_there(kind, solver):
    ours, theirs = pair(kind, solver=solver)
    with quiet():
        ours.fit(X, DATA[kind]), theirs.fit(X, DATA[kind])
    public = [name for name in dir(theirs) if not name.startswith("_") and hasattr(theirs, name)]
    assert not [name for name in public if not hasattr(ours, name) and (solver, name) != ("lbfgs", "partial_fit")]


def classifying(**options: Any) -> Any:
    return lambda m, y: m.partial_fit(X, y, **options)


def fitted(x: Any = X, y: Any = None, then: Any = None, weight: Any = None) -> Any:
    """Fit x and y (a function of the right one), then do something else."""
    def act(model: Any, right: Any) -> Any:
        model.fit(x, right if y is None else y(right), **({} if weight is None else {"sample_weight": weight}))
        return then(model, right) if then else model

    return act


def spoilt(values: Any, value: float) -> np.ndarray:
    values = np.array(values, float)
    values[3] = value
    return values


BAD = {
    "hidden_layer_sizes": [0, (3, -1), (3, 0), 2.5, None, "a"], "activation": ["rlu", 3, None],
    "solver": ["adamm", None, 2], "alpha": [-1, "a", None, np.nan], "batch_size": [0, -3, "big", 1.5],
    "learning_rate": ["fast", 0.1, None], "learning_rate_init": [0, -1.0, "a"], "power_t": [-1, "a"],
    "max_iter": [0, -1, 1.5, "a"], "shuffle": ["yes", None], "random_state": ["a", -1, 1.5], "tol": [-1, "a"],
    "verbose": [-1, "a"], "warm_start": ["a", 2], "momentum": [-0.1, 1.1, "a"], "nesterovs_momentum": ["a"],
    "early_stopping": ["a", None], "validation_fraction": [1.0, -0.1, "a"], "beta_1": [1.0, -0.1],
    "beta_2": [1.0, -1], "epsilon": [0, -1], "n_iter_no_change": [0, 1.5, "a"], "max_fun": [0, 1.5],
}
MISTAKES: dict[str, Any] = {
    **{f"{name}={value!r}": ({name: value}, fitted()) for name, values in BAD.items() for value in values},
    "1-D X": fitted(X[:, 0]), "3-D X": fitted(X[:, :, None]), "text X": fitted([["a", "b"]] * 60), "no X": fitted(None),
    "NaN in X": fitted(spoilt(X, np.nan)), "infinity in X": fitted(spoilt(X, np.inf)), "complex X": fitted(X + 1j),
    "X without rows": fitted(X[:0], lambda y: y[:0]), "X without columns": fitted(X[:, :0]), "a number X": fitted(3.0),
    "word X": fitted("abc"), "NaN in sparse X": fitted(scipy.sparse.csr_matrix(spoilt(X, np.nan))),
    "short y": fitted(X, lambda y: y[:-1]), "no y": fitted(X, lambda y: ()), "a number y": fitted(X, lambda y: 3),
    "3-D y": fitted(X, lambda y: y.reshape(-1, 1, 1)), "NaN in y": fitted(X, lambda y: spoilt(y, np.nan)),
    "infinity in y": fitted(X, lambda y: spoilt(y, np.inf)), "complex y": fitted(X, lambda y: y + 1j),
    "None in y": fitted(X, lambda y: np.array(["a", 1, None] * 20, object)),
    "column y": fitted(X, lambda y: y[:, None]),
    "short weight": fitted(weight=np.ones(59)), "2-D weight": fitted(weight=np.ones((60, 2))),
    "NaN weight": fitted(weight=np.full(60, np.nan)), "text weight": fitted(weight=["a"] * 60),
    "zero weight": fitted(weight=np.zeros(60)), "a number for a weight": fitted(weight=2.0),
    "validation set too small": ({"early_stopping": True}, fitted(X[:9], lambda y: y[:9])),
    "early_stopping in partial_fit": ({"early_stopping": True}, lambda m, y: m.partial_fit(
        X, y, **({"classes": [0, 1, 2]} if hasattr(m, "predict_proba") else {}))),
    "batch_size clipped": ({"batch_size": 100}, fitted()),
    "predict before fit": lambda m, y: m.predict(X), "score before fit": lambda m, y: m.score(X, y),
    "predict of other width": fitted(then=lambda m, y: m.predict(X[:, :2])),
    "predict of NaN": fitted(then=lambda m, y: m.predict(spoilt(X, np.nan))),
    "predict of one row": fitted(then=lambda m, y: m.predict(X[0])),
    "predict of no rows": fitted(then=lambda m, y: m.predict(X[:0])),
    "score of short y": fitted(then=lambda m, y: m.score(X, y[:3])),
    "partial_fit of other width": fitted(then=lambda m, y: m.partial_fit(X[:, :2], y)),
    "warm_start of other width": ({"warm_start": True}, fitted(then=lambda m, y: m.fit(X[:, :2], y))),
}
OF_CLASSIFIERS: dict[str, Any] = {
    "classes missing": classifying(), "unknown label": classifying(classes=[0, 1]), "text classes":
    classifying(classes=["a", "b", "c"]), "NaN class": classifying(classes=[0, 1, np.nan]),
    "unknown label later": fitted(then=lambda m, y: m.partial_fit(X, y + 1)),
    "other classes later": fitted(then=lambda m, y: m.partial_fit(X, y, classes=[0, 1, 2, 3])),
    "warm_start of other classes": ({"warm_start": True}, fitted(then=lambda m, y: m.fit(X, y + 1))),
    "warm_start of fewer classes": ({"warm_start": True}, fitted(then=lambda m, y: m.fit(X, y % 2))),
    "warm_start and partial_fit": ({"warm_start": True}, fitted(then=lambda m, y: m.partial_fit(X, y % 2))),
    "real numbers": fitted(X, lambda y: VALUES), "several columns": fitted(X, lambda y: np.c_[y, y]),
    "text and numbers": fitted(X, lambda y: [1, "a"] * 30), "predict_proba before fit": lambda m, y: m.predict_proba(X),
    "a class of one row": ({"early_stopping": True}, fitted(X, lambda y: np.r_[9, y[1:]])),
    "partial_fit of lbfgs": ({"solver": "lbfgs"}, lambda m, y: m.partial_fit),
}
OF_REGRESSORS: dict[str, Any] = {"loss": ({"loss": "mse"}, fitted()), "other loss": ({"loss": None}, fitted())}
ERRORS = (ValueError, TypeError, AttributeError, NotFittedError)


def outcome(model: Any, act: Any, y: Any) -> tuple[Any, ...]:
    """What came of it: an error's kinds and how it begins, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            act(model, y)
            end: Any = None
        except Exception as error:
            says = re.split(r"must be|Got |Unknown label type|is not supported", str(error))  # ours takes more
            end = [kind.__name__ for kind in ERRORS if isinstance(error, kind)], says[0]
    return end, sorted({(warning.category.__name__, str(warning.message)) for warning in caught})


@pytest.mark.parametrize(("name", "mistake"), [
    *((name, mistake) for name in NAMES for mistake in MISTAKES),
    *(("MLPClassifier", mistake) for mistake in OF_CLASSIFIERS), *(("MLPRegressor", m) for m in OF_REGRESSORS),
])
def test_a_mistake_ends_as_in_scikit_learn(name, mistake):
    case = {**MISTAKES, **OF_CLASSIFIERS, **OF_REGRESSORS}[mistake]
    parameters, act = case if isinstance(case, tuple) else ({}, case)
    models = [maker(**{"max_iter": 2, **parameters}) for maker in BOTH[name]]
    ours, theirs = (outcome(model, act, THREE if name == "MLPClassifier" else VALUES) for model in models)
    assert ours == theirs


def test_the_warnings_name_their_kinds():
    model = xd.MLPRegressor(max_iter=2)
    with pytest.warns(Warning) as caught:  # noqa: PT030
        model.set_params(batch_size=100).fit(X, VALUES[:, None])
    assert [w.category.__name__ for w in caught] == ["DataConversionWarning", "UserWarning", "ConvergenceWarning"]
    assert caught[0].category is DataConversionWarning


@pytest.mark.parametrize("name", NAMES)
def test_lbfgs_has_no_partial_fit(name):
    ours = BOTH[name][0]
    assert not hasattr(ours(solver="lbfgs"), "partial_fit")
    assert hasattr(ours(), "partial_fit")
    with pytest.raises(AttributeError, match="partial_fit"):
        ours(solver="lbfgs").partial_fit(X, TWO)

