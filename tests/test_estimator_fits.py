"""How a fit of the estimators goes, is watched, goes on, and ends: validation, records, callbacks, frames, failures."""

from __future__ import annotations

import gc
import pickle
import warnings
import weakref
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import sklearn.neural_network
from estimating import DATA, LABELS, OUTPUTS, THREE, TWO, VALUES, X, classifier, flat, maker, regressor
from sklearn.metrics import accuracy_score, log_loss, mean_poisson_deviance, r2_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xpdense as xd
from xpdense.errors import DivergenceError, NonFiniteLossError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # fits are short here
WEIGHT = np.linspace(0.0, 2.0, 60)

# --- validation and records -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", DATA)
def test_validation_data_of_ones_own_are_scored_after_every_epoch(kind):
    y, seen = DATA[kind], []

    def scorer(model: Any, x: Any, truth: Any, sample_weight: Any = None) -> float:
        assert x is X
        assert truth is y
        seen.append((model.score(x, truth, sample_weight), -len(seen)))
        return float(seen[-1][1])

    for early_stopping in (False, True):
        model = maker(kind)(early_stopping=early_stopping).fit(X, y, X_val=X, y_val=y, sample_weight_val=WEIGHT)
        asked = maker(kind)(early_stopping=early_stopping, scoring=scorer).fit(
            X, y, X_val=X, y_val=y, sample_weight_val=WEIGHT)
        np.testing.assert_allclose(model.validation_scores_, [score for score, _ in seen])
        assert asked.validation_scores_ == [float(value) for _, value in seen] == asked.history_["validation_score"]
        seen.clear()
        without = maker(kind)(max_iter=1 if early_stopping else 5).fit(X, y)  # the first score was the best
        np.testing.assert_array_equal(flat(asked), flat(without))


SCORES = {"accuracy": lambda m, x, y: accuracy_score(y, m.predict(x)),
          "neg_log_loss": lambda m, x, y: -log_loss(y, m.predict_proba(x)),
          "loss": lambda m, x, y: -log_loss(y, m.predict_proba(x)), None: lambda m, x, y: m.score(x, y)}


@pytest.mark.parametrize("scoring", SCORES)
def test_scoring_decides_on_rows_that_are_held_out(scoring):
    options = {"early_stopping": True, "learning_rate_init": 0.05, "validation_fraction": 0.3, "max_iter": 30}
    model = classifier(scoring=scoring, **options).fit(X, TWO)
    random = np.random.RandomState(0)
    for shape in ((4, 6), (6,), (6, 1), (1,)):  # what the weights are drawn with comes first
        random.uniform(size=shape)
    held = train_test_split(np.arange(60), test_size=0.3, random_state=random, stratify=TWO)[1]
    assert model.best_validation_score_ == max(model.validation_scores_) > model.validation_scores_[0]
    assert SCORES[scoring](model, X[held], TWO[held]) == pytest.approx(model.best_validation_score_)
    assert model.best_loss_ is None


def test_what_goes_wrong_with_validation_is_said():
    for options in ({"X_val": X}, {"y_val": TWO}, {"sample_weight_val": WEIGHT}):
        with pytest.raises(ValueError, match="go"):
            classifier().fit(X, TWO, **options)
    with pytest.raises(ValueError, match="classes not in"):
        classifier().fit(X, TWO, X_val=X, y_val=THREE)
    with pytest.raises(ValueError, match="X has 2 features"):
        classifier().fit(X, TWO, X_val=X[:, :2], y_val=TWO)
    with pytest.raises(ValueError, match="'good' is not a valid scoring value"):
        classifier(scoring="good", early_stopping=True).fit(X, TWO)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_the_history_becomes_a_frame_and_a_picture(solver, tmp_path):
    model = regressor(solver=solver).fit(X, VALUES, X_val=X, y_val=VALUES)
    frame = model.history_.to_frame()
    assert frame["loss"].tolist() == model.loss_curve_
    assert frame["validation_score"].tolist() == model.validation_scores_
    assert frame["validation_score"].iloc[-1] == pytest.approx(r2_score(VALUES, model.predict(X)))
    assert frame["validation_loss"].iloc[-1] == pytest.approx(((VALUES - model.predict(X)) ** 2).mean() / 2)
    model.history_.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


# --- going on ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("solver", ["adam", "sgd", "rmsprop", "adagrad", "lion", xd.AdamW(0.01)], ids=str)
@pytest.mark.parametrize("kind", DATA)
def test_what_goes_on_is_a_run_that_was_not_interrupted(kind, solver):
    options, y = {"solver": solver, "shuffle": False, "tol": 0.0}, DATA[kind]
    whole = maker(kind)(max_iter=8, **options).fit(X, y)
    warm = maker(kind)(warm_start=True, **options).fit(X, y).set_params(max_iter=3).fit(X, y)
    parts = maker(kind)(**options).fit(X, y)
    for _ in range(3):
        parts.partial_fit(X, y)
    for model in (warm, parts):
        np.testing.assert_allclose(flat(model), flat(whole), rtol=1e-12)
        assert model.loss_curve_ == pytest.approx(whole.loss_curve_)
        assert (model.t_, model.history_.epochs) == (480, 8)
    assert (warm.n_iter_, parts.n_iter_) == (3, 1)


# --- callbacks --------------------------------------------------------------------------------------------------------

class Watch:
    """A callback that writes down what it is told, and acts after some epochs."""

    def __init__(self, epochs: int = 99, interrupt: bool = False) -> None:
        self.epochs, self.interrupt, self.told, self.scores = epochs, interrupt, [], []

    def setup(self, estimator: Any, context: Any) -> None:
        self.told.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.told.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.told.append(f"begin {context.task_name}")

    def on_fit_task_end(self, estimator: Any, context: Any, *, X: Any = None, y: Any = None,
                        fitted_estimator: Any = None) -> bool:
        self.told.append(f"end {context.task_name}")
        if fitted_estimator is not None and X is not None:
            self.scores.append(fitted_estimator.score(X, y))
        reached = context.task_name == "epoch" and estimator.n_iter_ >= self.epochs
        if reached and self.interrupt:
            raise KeyboardInterrupt
        return reached


@pytest.fixture
def callback() -> Any:
    return pytest.importorskip("sklearn.callback", reason="scikit-learn has callbacks from 1.9 on")


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"solver": "sgd"}],
                         ids=lambda options: "".join(map(str, options.values())))
@pytest.mark.parametrize("end", ["max_iter", "stop"])
def test_a_callback_is_told_of_every_epoch_and_can_end_the_fit(end, options, callback):
    watch = Watch(3 if end == "stop" else 99)
    model = classifier(max_iter=9 if end == "stop" else 3, **options).set_callbacks(watch).fit(X, TWO)
    assert model.n_iter_ == 3
    assert watch.told == ["setup", "begin fit", *["begin epoch", "end epoch"] * 3, "end fit", "teardown"]
    assert watch.scores[-1] == model.score(X, TWO)
    np.testing.assert_array_equal(flat(model), flat(classifier(max_iter=3, **options).fit(X, TWO)))
    assert not [name for name in vars(model) if "callback" in name and name != "_skl_callbacks"]


def test_scores_are_logged_alone_in_a_pipeline_and_in_a_grid_search(callback):
    epochs = [classifier(max_iter=n).fit(X, TWO).score(X, TWO) for n in (1, 2, 3)]

    def logged(wrap: Any) -> list[float]:
        monitor = callback.ScoringMonitor(scoring="accuracy")
        model = classifier(max_iter=3).set_callbacks(monitor)
        wrap(model).fit(X, TWO)
        return [row["accuracy"] for row in monitor.get_logs().data if row["task_name"] == "epoch"]

    assert logged(lambda model: model) == logged(lambda model: make_pipeline("passthrough", model)) == epochs
    assert len(logged(lambda model: GridSearchCV(model, {"alpha": [0.1, 1.0]}, cv=2))) == 3 * 5
    assert len(logged(lambda model: make_pipeline(StandardScaler(), model))) == 3


def test_a_bar_is_shown(callback, capsys):
    classifier(tol=10.0, n_iter_no_change=1).set_callbacks(callback.ProgressBar()).fit(X, TWO)
    assert "MLPClassifier" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}],
                         ids=lambda options: "".join(map(str, options.values())))
def test_ctrl_c_keeps_what_was_learnt(options, callback):
    watch = Watch(3, interrupt=True)
    with pytest.warns(UserWarning, match=r"^Training interrupted by user\.$"):
        model = classifier(max_iter=9, **options).set_callbacks(watch).fit(X, TWO)
    assert (model.n_iter_, watch.told[-1]) == (3, "teardown")
    np.testing.assert_array_equal(flat(model), flat(classifier(max_iter=3, **options).fit(X, TWO)))


# --- ends that are not happy ------------------------------------------------------------------------------------------

DIVERGING: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "finite": ({"learning_rate_init": 2.0, "max_iter": 1}, DivergenceError),
    "infinite": ({"learning_rate_init": 2.0, "max_iter": 50}, NonFiniteLossError),
    "in the last step": ({"learning_rate_init": 1e6, "max_iter": 1, "batch_size": 60}, DivergenceError),
    "two outputs": ({"learning_rate_init": 3.0, "max_iter": 1}, DivergenceError),
}


@pytest.mark.parametrize("before", ["unfitted", "fitted", "warm_start"])
@pytest.mark.parametrize("case", DIVERGING)
def test_a_diverging_fit_raises_and_leaves_the_estimator_as_it_was(case, before):
    options, kind = DIVERGING[case]
    y = 10 * (OUTPUTS if case == "two outputs" else VALUES)
    model, state = regressor(solver="sgd", momentum=0.0, warm_start=before == "warm_start"), {}
    if before != "unfitted":
        model.fit(X, y / 10)
        names = ("loss_", "loss_curve_", "best_loss_", "n_iter_", "t_")
        state = {name: np.array(getattr(model, name)) for name in names}
        state |= {"flat": flat(model), "predictions": model.predict(X), "epochs": model.history_.epochs}
    public = set(vars(model))
    model.set_params(**options)
    with pytest.raises(kind) as caught:
        model.fit(X, y)
    assert isinstance(caught.value, (ValueError, DivergenceError))
    assert set(vars(model)) == public
    assert hasattr(model, "coefs_") == (before != "unfitted")
    if state:
        now = {name: getattr(model, name) for name in names}
        now |= {"flat": flat(model), "predictions": model.predict(X), "epochs": model.history_.epochs}
        for name, value in state.items():
            np.testing.assert_array_equal(now[name], value, err_msg=name)
        model.set_params(learning_rate_init=1e-3, max_iter=2).fit(X, y / 10)  # and goes on from there
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = sklearn.neural_network.MLPRegressor(hidden_layer_sizes=(6,), solver="sgd", momentum=0.0,
                                                     random_state=0, **{"batch_size": 20, **options})
        if case != "infinite":
            assert theirs.fit(X, y).score(X, y) < -10


@pytest.mark.parametrize("options", [{"alpha": 100.0}, {"alpha": 1e4, "solver": "lbfgs"}, {
    "learning_rate_init": 1e-9, "alpha": 50.0}, {"early_stopping": True, "alpha": 100.0}], ids=str)
@pytest.mark.parametrize("kind", DATA)
def test_a_large_penalty_is_no_divergence(kind, options):
    assert maker(kind)(**options).fit(X, DATA[kind]).n_iter_ >= 1


def test_hard_targets_are_no_divergence():
    assert regressor().fit(X, 1e9 * VALUES).n_iter_ == regressor().fit(X, np.zeros(60)).n_iter_ == 5


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
def test_bad_data_leave_the_estimator_as_it_was(call):
    model = classifier(warm_start=True).fit(X, TWO)
    before, attributes = flat(model), set(vars(model))
    for x, y in ((X[:, :2], TWO), (np.full_like(X, np.nan), TWO), (X, TWO[:3]), (X, THREE), (X, LABELS)):
        with pytest.raises(ValueError, match=r"X|y|inconsistent"):
            getattr(model, call)(x, y)
    np.testing.assert_array_equal(flat(model), before)
    assert (model.n_features_in_, model.classes_.tolist(), set(vars(model))) == (4, [0, 1], attributes)


# --- sparse matrices and frames ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["csr_array", "csc_array", "csr_matrix", "csc_matrix"])
@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"dtype": "float32"}], ids=str)
def test_sparse_is_dense_in_small_parts(options, kind, monkeypatch):
    dense = np.tile(np.where(np.abs(X) > 0.8, X, 0.0), (50, 2))
    x, shapes = getattr(scipy.sparse, kind)(dense), [0]
    y, values = np.tile(TWO, 50), np.tile(OUTPUTS, (50, 1))
    options = {**options, "hidden_layer_sizes": (1024,), "max_iter": 1, "batch_size": 500}
    for make, target in ((classifier, y), (regressor, values)):
        reference = make(**options).fit(dense, target)
        with monkeypatch.context() as patch:
            for name in ("csr_array", "csc_array", "csr_matrix", "csc_matrix"):
                cls = getattr(scipy.sparse, name)
                for method in ("toarray", "todense"):
                    whole = getattr(cls, method)
                    patch.setattr(cls, method, lambda m, *a, whole=whole, **k: (
                        shapes.append(m.shape[0]), whole(m, *a, **k))[1])
            model = make(**options).fit(x, target)
            found = model.predict(x)
            if options.get("solver") != "lbfgs" and not options.get("early_stopping"):
                model.partial_fit(x, target), reference.partial_fit(dense, target)
        np.testing.assert_allclose(flat(model), flat(reference), atol=1e-9)
        assert found.shape == target.shape
        np.testing.assert_allclose(model.predict(x), reference.predict(dense), atol=1e-9)
    assert 0 < max(shapes) <= 2**21 // 1024  # the rows that are worked on at once, of 3,000


def table() -> dict[str, Any]:
    return {"size": X[:, 0], "colour": np.array(["red", "green", "blue"])[THREE], "flag": X[:, 2] > 0, "age": X[:, 1]}


FRAMES: dict[str, Any] = {
    "pandas": lambda t: pd.DataFrame(t),
    "pandas categories": lambda t: pd.DataFrame(t).astype({"colour": "category"}),
    "polars": lambda t: pl.DataFrame(t),
    "polars categories": lambda t: pl.DataFrame(t).with_columns(pl.col("colour").cast(pl.Categorical)),
    "pyarrow": lambda t: pa.table(t),
    "pyarrow dictionary": lambda t: pa.table({**t, "colour": pa.array(t["colour"]).dictionary_encode()}),
}


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("columns", ["from_dtype", ["colour", "flag"], [1, 2], [-3, -2], [False, True, True, False]],
                         ids=str)
def test_frames_and_their_categories(columns, frame):
    make, rows = FRAMES[frame], table()
    x = make(rows)
    model = classifier(categorical_features=columns).fit(x, TWO)
    assert model.feature_names_in_.tolist() == list(rows)
    assert model.n_features_in_ == 4
    hot = np.column_stack([*(rows["colour"] == c for c in ("blue", "green", "red")), ~rows["flag"], rows["flag"],
                           rows["size"], rows["age"]]).astype(float)
    reference = classifier().fit(hot, TWO)
    np.testing.assert_allclose(model.predict_proba(x), reference.predict_proba(hot), rtol=1e-12)
    hot[:, :3] = 0.0
    pink = make({**rows, "colour": np.array(["pink"] * 60)})
    np.testing.assert_allclose(model.predict_proba(pink), reference.predict_proba(hot), rtol=1e-12)
    model.partial_fit(pink, TWO)
    for other, says in (({n: rows[n] for n in ("colour", "size", "flag", "age")}, "must be in the same order"),
                        ({n: rows[n] for n in ("size", "colour", "flag")}, "yet now missing:\n- age"),
                        ({**rows, "more": X[:, 0]}, "unseen at fit time:\n- more")):
        with pytest.raises(ValueError, match=says):
            model.predict(make(other))


@pytest.mark.parametrize("frame", ["pandas", "polars", "pyarrow"])
def test_frames_of_numbers(frame):
    x = FRAMES[frame]({name: X[:, i] for i, name in enumerate("abcd")})
    model = regressor(early_stopping=True, scoring="r2").fit(x, OUTPUTS)
    assert model.feature_names_in_.tolist() == list("abcd")
    reference = regressor(early_stopping=True, scoring="r2").fit(X, OUTPUTS)
    np.testing.assert_array_equal(model.predict(x), reference.predict(X))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_categories_of_arrays_and_mistakes_with_them():
    coded, x = np.column_stack([X[:, 0], THREE]), pd.DataFrame(table())
    model = classifier(categorical_features=[1]).fit(coded, TWO)
    assert model.coefs_[0].shape[0] == classifier(categorical_features=[1]).fit(coded.astype(object).tolist(),
                                                                                TWO).coefs_[0].shape[0] == 4
    for wrong in (["tint"], [4], [-5], [True, False], [True] * 5):
        with pytest.raises(ValueError, match="categorical_features"):
            classifier(categorical_features=wrong).fit(x, TWO)
    with pytest.raises(TypeError, match="sparse"):
        classifier(categorical_features=[0]).fit(scipy.sparse.csr_array(X), TWO)


# --- odd input --------------------------------------------------------------------------------------------------------

READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False
SAME: dict[str, Any] = {
    "read-only": READ_ONLY, "Fortran order": np.asfortranarray(X), "negative strides": X[::-1].copy()[::-1],
    "every second column": np.repeat(X, 2, axis=1)[:, ::2], "big-endian": X.astype(">f8"), "list": X.tolist(),
    "masked": np.ma.array(X), "object": X.astype(object), "memory": memoryview(X),
}


@pytest.mark.parametrize("case", SAME)
def test_the_same_numbers_are_the_same_however_they_lie(case):
    x = SAME[case]
    np.testing.assert_array_equal(classifier().fit(x, TWO).predict_proba(x), classifier().fit(X, TWO).predict_proba(X))


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "bool", "longdouble", "float32"])
def test_numbers_of_every_type(dtype):
    x = np.clip(10 * X + 20, 0, 100).astype(dtype)
    model = classifier().fit(x, TWO)
    assert model.coefs_[0].dtype == ("float32" if dtype == "float32" else "float64")
    if dtype != "float32":
        np.testing.assert_array_equal(model.predict_proba(x), classifier().fit(x.astype(float), TWO).predict_proba(x))


WORDS = np.array(["no", "yes"])
ODD: dict[str, tuple[Any, Any, Any, Any]] = {  # estimator, X, y, what it predicts are among
    "one row": (classifier, X[:1], [7], [7]), "one row of numbers": (regressor, X[:1], [7.0], None),
    "one feature": (classifier, X[:, :1], TWO, [0, 1]), "one class": (classifier, X, np.full(60, 5), [5]),
    "one class of text": (classifier, X, ["a"] * 60, ["a"]), "constant": (regressor, X, np.ones(60), None),
    "list of text": (classifier, X, WORDS[TWO].tolist(), ["no", "yes"]),
    "bool": (classifier, X, TWO > 0, [False, True]),
    "objects": (classifier, X, WORDS.astype(object)[TWO], ["no", "yes"]), "huge": (classifier, X * 1e150, TWO, [0, 1]),
    "floats": (classifier, X, TWO + 1.0, [1.0, 2.0]), "bool numbers": (regressor, X, TWO > 0, None),
    "negative classes": (classifier, X, -THREE, [-2, -1, 0]), "tiny": (regressor, X * 1e-300, VALUES * 1e-300, None),
    "series": (classifier, pd.DataFrame(X), pd.Series(WORDS[TWO]), ["no", "yes"]),
    "categories": (classifier, X, pd.Series(pd.Categorical(WORDS[TWO])), ["no", "yes"]),
    "polars series": (classifier, X, pl.Series(WORDS[TWO]), ["no", "yes"]),
    "frame of outputs": (regressor, X, pd.DataFrame(OUTPUTS), None), "arrow": (regressor, X, pa.array(VALUES), None),
    "whole numbers": (classifier, pd.DataFrame((10 * X).astype(int)), TWO, [0, 1]),
    "objects of numbers": (regressor, X, VALUES.astype(object), None),
    "sparse labels": (classifier, X, scipy.sparse.csr_array(LABELS), [0, 1]),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_input_is_taken(case):
    make, x, y, values = ODD[case]
    model = make(batch_size="auto").fit(x, y)
    found = model.predict(x)
    assert len(found) == len(x)
    assert np.isfinite(found).all() if values is None else set(np.unique(found)) <= set(values)
    if values is not None and case != "sparse labels":
        assert model.predict_proba(x).shape == (len(x), len(model.classes_))
        assert set(model.classes_) == set(values)


@pytest.mark.parametrize("options", [{"learning_rate": "adaptive", "learning_rate_init": 0.01, "tol": 1e-2,
                                      "n_iter_no_change": 2}, {"learning_rate_init": 1e-5, "momentum": 0.99}], ids=str)
def test_a_warm_start_at_another_rate_goes_on_falling(options):
    model = xd.MLPRegressor("squared_error", (20,), solver="sgd", warm_start=True, random_state=0, **options)
    losses = []
    for _ in range(4):
        losses.append(model.fit(X, X[:, 0]).loss_)
        model.set_params(learning_rate_init=0.01)
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_a_fitted_estimator_holds_no_data(solver):
    x = np.random.default_rng(0).standard_normal((3000, 20))
    held = weakref.ref(x)
    model = xd.MLPRegressor(solver=solver, max_iter=2, tol=10.0, n_iter_no_change=1, random_state=0)
    model.fit(x, x[:, 0])
    del x
    gc.collect()
    assert held() is None


def test_a_parameter_of_the_network_must_not_change_between_warm_starts():
    model = xd.MLPClassifier((5,), max_iter=1, warm_start=True, random_state=0)
    model.fit(X, TWO).set_params(activation="tanh")
    with pytest.raises(xd.ParameterError, match="activation has changed"):
        model.fit(X, TWO)
    model.set_params(activation="relu", alpha=1.0).fit(X, TWO)


def test_the_link_is_that_of_the_fit_and_a_coefficient_can_be_set():
    model = xd.MLPRegressor(hidden_layer_sizes=(), solver="lbfgs", random_state=0).fit(X, X[:, 0])
    before = model.predict(X)
    np.testing.assert_array_equal(model.set_params(loss="poisson").predict(X), before)
    model.coefs_[0] = model.coefs_[0] * 0.0
    np.testing.assert_array_equal(model.predict(X), np.full(len(X), model.intercepts_[0][0]))
    assert type(pickle.loads(pickle.dumps(model.coefs_))) is list


def test_the_validation_loss_of_poisson_is_half_its_deviance():
    y, y_val = 50 * np.exp(0.3 * X[:, 0]), np.exp(0.3 * X[:20, 0])
    model = xd.MLPRegressor("poisson", max_iter=3, random_state=0)
    model.fit(X, y, X_val=X[:20], y_val=y_val)
    half = 0.5 * mean_poisson_deviance(y_val, model.predict(X[:20]))
    assert model.history_["validation_loss"][-1] == pytest.approx(half)
