"""What both estimators share: parameters, and fit from the user's arrays to fitted attributes."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from sklearn.base import _fit_context, clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, check_scoring, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.optimize import _check_optimize_result
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .. import inference
from ..activations import ACTIVATIONS, Activation
from ..backend import Array, Backend, host, resolve
from ..callbacks import Callback
from ..data.arrays import Rows, moved, stored
from ..data.dataset import ArrayDataset, Dataset, first_rows, is_dataset
from ..data.feeding import Batches, Feed, InMemory
from ..errors import BackendError, DivergenceError, ParameterError, ShapeError, boolean, warn_user
from ..history import History
from ..losses import Loss
from ..model import ASK_THE_DOCTOR
from ..network import Network
from ..optimizers import OPTIMIZERS, Adam, Optimizer, OptimizerState
from ..schedules import Schedule
from ..spec import Spec
from ..training import Loop
from .build import NORMS, FitCall, FitPlan, Training, dense_layers, described_layers, draw, hidden_layers
from .datasets import Survey, survey, targets_of
from .inputs import as_rows, checked, device_backend, dispatching, some, source_of, to_host
from .progress import FitTasks, Progress, check_progress, note_loss, note_score
from .solvers import Continued, Rate, make_optimizer, minimize_lbfgs, set_rate

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's class, and supports no callbacks."""

_BUILT_FROM = ("hidden_layer_sizes", "activation", "dropout", "normalization", "residual", "backend", "dtype",
               "precision")  # parameters that the network is made of
_RECORDS = ("history_", "loss_curve_", "validation_scores_")
_DURING_FIT = ("_callback_fit_ctx", "_skl_callbacks_to_teardown")  # scikit-learn's own, which it takes away itself


def is_stochastic(estimator: Any) -> bool:
    """Whether an estimator has partial_fit; for scikit-learn's `available_if`."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is only available for stochastic optimizers. lbfgs is not stochastic.")
    return True


class Shuffled(Batches):
    """Batches in the order that a RandomState gives, each epoch's a permutation of the one before."""

    def __init__(self, rows: int, batch_size: int, random: np.random.RandomState, shuffle: bool) -> None:
        super().__init__(rows, batch_size, 0, shuffle)
        self._random, self._numbers = random, np.arange(rows)

    def order(self, epoch: int) -> np.ndarray:
        if self.shuffle:
            self._numbers = self._numbers[self._random.permutation(self.rows)]
        return self._numbers


class BaseMLP(CallbackSupportMixin):
    """The parameters, the training and the predictions that classifier and regressor share.

    It precedes scikit-learn's mixins in the order of inheritance, because their `score` takes arrays on the host only.
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
        "activation": [StrOptions({"logistic", *ACTIVATIONS}), Activation, "array-like"],
        "solver": [StrOptions({"lbfgs", *OPTIMIZERS}), Optimizer],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left"), Options(Real, {np.inf})],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "backend": [str],
        "dtype": [StrOptions({"auto", "float32", "float64"})],
        "precision": [StrOptions({"full", "tf32", "float16", "bfloat16"})],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "normalization": [StrOptions(set(NORMS)), None],
        "residual": ["boolean"],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "scoring": [str, callable, None],
        "categorical_features": [StrOptions({"from_dtype"}), "array-like", None],
    }
    hidden_layer_sizes: Any
    activation: Any
    solver: Any
    alpha: float
    batch_size: Any
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    max_iter: int
    loss: Any
    shuffle: bool
    random_state: Any
    tol: float
    verbose: bool
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
    n_iter_no_change: float
    max_fun: int
    backend: str
    dtype: str
    precision: str
    dropout: float
    normalization: str | None
    residual: bool
    clip_norm: float | None
    scoring: Any
    categorical_features: Any

    _network: Network
    _loss: Loss  # of the last fit, whatever parameters have been set since
    _state: OptimizerState | None

    # --- what a subclass says ----------------------------------------------------------------------------------

    def _encode(self, y: Any, first: bool, incremental: bool, classes: Any,
                validation: bool = False) -> tuple[Array, Array | None]:
        """y as the loss takes it, and class numbers (n,) where rows have one class each; sets n_outputs_."""
        raise NotImplementedError

    def _make_loss(self) -> Loss:
        raise NotImplementedError

    def _decide(self, xp: Any, z: Array) -> Array:
        """Predictions from logits, as targets are: class numbers, labels or values."""
        raise NotImplementedError

    def _score_rows(self, xp: Any, z: Array, rows: Rows) -> float:
        """The estimator's score on validation rows, from their logits."""
        raise NotImplementedError

    def _class_weights(self, weight: Any, y: Any, codes: Array | None, incremental: bool) -> Any:
        """The rows' weights with those of their classes in them; None where all are 1."""
        return weight

    def _loss_share(self) -> float:
        """How many times the reported loss is minimised."""
        return 1.0

    def _encoder_of(self, data: Dataset) -> Callable[[Any], Any]:
        """What turns the targets of a data set's parts into those that the loss takes."""
        raise NotImplementedError

    def _reporter(self, parts: Iterable[Rows]) -> Callable[[float], float]:
        """Convert the loss that is minimised to the one that scikit-learn reports, for the rows of these parts."""
        return float

    # --- fit ---------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None,
            sample_weight_val: Any = None, doctor: bool = False) -> Any:
        """Train on X and y, from new weights, or with `warm_start` from those of the last fit.

        Parameters
        ----------
        X : array, sparse matrix or data frame (n_samples, n_features), or a Stream
            An array of any namespace stays where it is. A Stream (see `xpdense.data.open`), which brings its own
            targets and weights, is read while it is trained on; dtype "auto" is then float32.
        y : array (n_samples,) or (n_samples, n_outputs)
        sample_weight : array (n_samples,), optional
        X_val, y_val, sample_weight_val : optional
            Validation data, in place of a `validation_fraction` of X.
        doctor : bool
            Whether to watch: where the loss rises, does not fall or becomes NaN, or parameters do not move, `diagnose`
            examines the training, and a DoctorWarning or the error says what it found; `history_.diagnosis` holds it.
            Not with solver="lbfgs".

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Of a parameter or of the data, before any work is done.
        NonFiniteLossError, DivergenceError
            The training diverged. The estimator is as it was before the call.
        """
        if not is_dataset(X_val) and (X_val is None) != (y_val is None):
            raise ParameterError("X_val and y_val go together: one of them is missing")
        if sample_weight_val is not None and X_val is None:
            raise ParameterError("sample_weight_val goes with X_val and y_val")
        if boolean("doctor", doctor) and self.solver == "lbfgs":
            raise ParameterError("doctor=True watches steps, and solver='lbfgs' makes none: take solver='adam'")
        validation = None if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(FitCall(X, y, sample_weight, validation, doctor=doctor))

    def _fit(self, call: FitCall) -> Any:
        first = not hasattr(self, "_network") or not (self.warm_start or call.incremental)
        with self._as_before(not first and not call.incremental):
            self._train(replace(call, first=first))
        return self

    def training_of(self, X: Any, y: Any) -> Training:
        """What `fit(X, y)` would train, and how, for `diagnose`. Adam replaces L-BFGS.

        The estimator is not changed.
        """
        other = clone(self)
        other._validate_params()
        hidden, place = hidden_layers(other.hidden_layer_sizes), source_of(X)
        X, y = checked(other, X, y, reset=True)
        target, _ = other._encode(y, True, False, None)
        other._begin(hidden, X, place, check_random_state(other.random_state))
        network, loss = other._network, other._make_loss()
        with network.backend.active():
            rows = ArrayDataset(as_rows(X, network.dtype), target).prepare(network.spec(loss))
        optimizer = Adam() if other.solver == "lbfgs" else make_optimizer(other, other.alpha, other._loss_share())
        batch_size = min(200, rows.count) if other.batch_size == "auto" else int(other.batch_size)
        x, y = np.asarray(host(rows.x[:, ...])), np.asarray(host(rows.y))
        return Training(network, x, y, loss, optimizer, batch_size, int(other.max_iter), bool(other.shuffle))

    @contextlib.contextmanager
    def _as_before(self, weights_too: bool) -> Iterator[None]:
        """Leave the estimator as it was where what is done inside fails."""
        before, kept = dict(vars(self)), None
        epochs = {n: v.epochs if isinstance(v, History) else len(v) for n in _RECORDS if (v := before.get(n))}
        if weights_too:
            kept = self._network.arena.snapshot(), self._state and (self._state.steps, self._state.snapshot())
        try:
            yield
        except BaseException:
            now = self.__dict__
            for name in [n for n in now if n not in before and n not in _DURING_FIT]:
                del now[name]
            now.update({n: v for n, v in before.items() if n not in _DURING_FIT})
            for name, count in epochs.items():
                if name == "history_":
                    self.history_.cut(count)
                else:
                    del getattr(self, name)[count:]
            if kept is not None:
                self._network.arena.restore(kept[0])
                if self._state is not None and kept[1]:
                    self._state.steps = kept[1][0]
                    self._state.restore(kept[1][1])
            raise

    def _train(self, call: FitCall) -> None:
        if self.early_stopping and call.incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        plan = (self._plan_of_dataset if is_dataset(call.X) else self._plan_of_arrays)(call)
        with self._network.backend.active():
            if self.solver == "lbfgs":
                self._train_lbfgs(call, plan)
            else:
                self._make_steps(call, plan)

    def _plan_of_arrays(self, call: FitCall) -> FitPlan:
        """Check arrays as scikit-learn does, and prepare everything else."""
        hidden, place = hidden_layers(self.hidden_layer_sizes), source_of(call.X)
        if self.scoring not in (None, "loss"):
            check_scoring(self, self.scoring)
        X, y = checked(self, call.X, call.y, reset=call.first)
        target, codes = self._encode(y, call.first, call.incremental, call.classes)
        weight = self._class_weights(_sample_weight(call.sample_weight, X), y, codes, call.incremental)
        random = check_random_state(self.random_state)
        self._prepare_network(call, hidden, X, place, random)
        network, spec = self._network, self._network.spec(self._loss)
        with network.backend.active():
            data = ArrayDataset(as_rows(X, network.dtype), target, weight)
            count = data.prepare(spec).count
            penalty = self.alpha if weight is None else self.alpha * count / _sum(weight)
            data, held, given = self._held_out(call, data, codes, random, spec)
            rows = data.prepare(spec)
            batches = Shuffled(rows.count, self._batch_size(rows.count), random, self.shuffle)
            report = self._reporter([rows])
            plan = FitPlan(InMemory(rows, batches), rows, penalty, report, report)
            return plan if held is None else self._with_validation(plan, held, spec, lambda: given)

    def _plan_of_dataset(self, call: FitCall) -> FitPlan:
        """The same for a data set, whose own method divides it, and draws the batches."""
        hidden, data = hidden_layers(self.hidden_layer_sizes), call.X
        refused = {"y": call.y is not None, "sample_weight": call.sample_weight is not None,
                   "class_weight": getattr(self, "class_weight", None) is not None,
                   "categorical_features": self.categorical_features is not None}
        wrong = [name for name, given in refused.items() if given]
        if wrong:
            raise ParameterError(f"a data set, which brings its own targets, weights and categories, does not go with "
                                 f"{wrong[0]}")
        if self.scoring not in (None, "loss"):
            check_scoring(self, self.scoring)
        random, held = check_random_state(self.random_state), None
        if call.validation is not None:
            held, *others = call.validation
            if not is_dataset(held) or any(other is not None for other in others):
                raise ParameterError("X_val must be a data set where X is one, without y_val and sample_weight_val")
        elif self.early_stopping and self.solver != "lbfgs":
            data, held = data.split(self.validation_fraction, seed=int(random.randint(2**31 - 1)))
        found = survey(data, is_classifier(self))
        self._learn_targets(call, data, found)
        if call.first:
            self.n_features_in_, self._encoder = data.inputs, None
            self._table = data.preprocessing and data.preprocessing.table
        self._check_inputs(data)
        dtype = "float64" if self.dtype == "float64" else "float32"
        self._prepare_network(call, hidden, np.empty((0, data.inputs), dtype), resolve("numpy"), random)
        network, penalty = self._network, self.alpha
        spec = replace(network.spec(self._loss), encode=self._encoder_of(data))
        if found.total_weight is not None:
            penalty = self.alpha * data.rows / found.total_weight
        with network.backend.active():
            size, seed = self._batch_size(data.rows), int(random.randint(2**31 - 1))
            feed = data.feed(spec, size, seed, self.shuffle)
            rows = first_rows(data, spec)
            report = self._reporter([rows] if feed.once else feed.parts())
            plan = FitPlan(feed, rows, penalty, report, report)
            if held is None:
                return plan
            self._check_inputs(held)
            spec = replace(spec, encode=self._encoder_of(held))
            return self._with_validation(plan, held, spec, lambda: (held, *targets_of(held)))

    def _learn_targets(self, call: FitCall, data: Dataset, found: Survey) -> None:
        """Set what `fit` learns of a data set's targets."""
        if call.first:
            self._encode(found.y, True, False, None)

    def _prepare_network(self, call: FitCall, hidden: list[Any], X: Any, place: Backend,
                         random: np.random.RandomState) -> None:
        """Make the network, or check that it is still the one that the parameters describe; and make the loss."""
        if call.first:
            self._begin(hidden, X, place, random)
        else:
            changed = [name for name in _BUILT_FROM if not _same(self._built_from[name], getattr(self, name))]
            if changed:
                raise ParameterError(f"{changed[0]} has changed since the network was made, and this call goes on with "
                                     f"that network: clone the estimator, or set it back")
        self._loss = self._make_loss()

    def _check_inputs(self, data: Dataset) -> None:
        if data.inputs != self.n_features_in_:
            raise ShapeError(f"X has {data.inputs} features, but {type(self).__name__} is expecting "
                             f"{self.n_features_in_} features as input")

    def _batch_size(self, count: int) -> int:
        """The size of batches for so many rows."""
        batch_size = min(200, count) if self.batch_size == "auto" else int(self.batch_size)
        if batch_size > count and self.solver != "lbfgs":
            warn_user("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return batch_size

    def _make_steps(self, call: FitCall, plan: FitPlan) -> None:
        """Train by steps, and judge what they reached."""
        network, epochs = self._network, 1 if call.incremental else int(self.max_iter)
        state = self._optimizer_state(plan.penalty, epochs * len(plan.feed), call.incremental)
        tasks, start = FitTasks(self, call.given, epochs), None if call.incremental else network.arena.snapshot()

        def check() -> None:
            if start is not None:
                last = progress.last_loss(start[0])
                progress.restore_best()
                check_progress(network, plan.rows, self._loss, last, plan.report, start, self.tol)

        progress = Progress(self, state, plan.feed.count, plan.score, tasks, plan.report, plan.report_validation, check)
        callbacks: list[Callback] = [progress]
        if call.doctor:
            from ..doctor.watch import Doctor

            callbacks.append(Doctor())
        try:
            with np.errstate(all="ignore"):
                Loop(network, plan.feed, loss=self._loss, optimizer=state.optimizer, epochs=epochs,
                     validation=plan.validation, callbacks=callbacks, state=state, history=self.history_).train()
        except KeyboardInterrupt:
            warn_user("Training interrupted by user.")
        except DivergenceError as error:
            error.advice = error.advice or ASK_THE_DOCTOR
            raise
        tasks.finish()
        if not (call.incremental or progress.converged) and self.n_iter_ == self.max_iter:
            warn_user(f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                      f"hasn't converged yet.", ConvergenceWarning)

    # --- the network -------------------------------------------------------------------------------------------

    def _begin(self, hidden: list[Any], X: Any, place: Backend, random: np.random.RandomState) -> None:
        """A new network, its weights drawn as scikit-learn draws them, and records without an entry."""
        inputs = int(X.shape[1])
        seed = copy.deepcopy(random).randint(2**31 - 1)  # of a copy: what is drawn below is what scikit-learn draws
        dtype = self.dtype
        if dtype == "auto":
            dtype = "float32" if str(X.dtype).rpartition(".")[2] == "float32" else "float64"
        name = place.name if self.backend == "auto" else self.backend
        layers, factors = described_layers(self, hidden, inputs)
        self._network = Network(layers, inputs, backend=name, dtype=dtype, seed=int(seed), precision=self.precision)
        draw(self._network, factors, random)
        self._place, self._state, self.history_ = place.name, None, History()
        self._built_from = {name: getattr(self, name) for name in _BUILT_FROM}
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(factors) + 1
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self.best_loss_: float | None = None

    def _optimizer_state(self, penalty: float, steps: int, incremental: bool) -> OptimizerState:
        """The optimizer's state, new or that of the last call, with the parameters of this one."""
        optimizer, old = make_optimizer(self, penalty, self._loss_share()), self._state
        if old is None or type(old.optimizer) is not type(optimizer):
            self._state = optimizer.begin(self._network.arena)
        else:
            rate, planned = old.optimizer.learning_rate, optimizer.learning_rate
            if incremental:  # where a fit of its own begins its schedule anew
                optimizer.learning_rate = rate.inner if isinstance(rate, Continued) else rate
            elif isinstance(planned, Rate):
                set_rate(old, planned.value)
            old.optimizer = optimizer
        state = self._state
        assert state is not None
        if incremental and not isinstance(state.optimizer.learning_rate, Rate):
            state.optimizer.learning_rate = Continued(state.optimizer.learning_rate, state.steps, steps * self.max_iter)
        return state

    # --- the ways to train -------------------------------------------------------------------------------------

    def _held_out(self, call: FitCall, data: ArrayDataset, codes: Array | None, random: np.random.RandomState,
                  spec: Spec) -> tuple[ArrayDataset, ArrayDataset | None, tuple[Any, ...]]:
        """The rows to train on, the validation rows, and these as they were given."""
        if call.validation is not None:
            X_val, y_val, weight = call.validation
            if is_dataset(X_val):
                raise ParameterError("X_val must be an array where X is one, with y_val")
            x, y = checked(self, X_val, y_val, reset=False)
            target, _ = self._encode(y, False, True, None, validation=True)
            held = ArrayDataset(as_rows(x, spec.dtype), target, _sample_weight(weight, x), "validation ")
            return data, held, call.validation
        if not self.early_stopping or self.solver == "lbfgs":
            return data, None, ()
        stratify = host(codes) if codes is not None and self.n_outputs_ == 1 else None
        kept, out = train_test_split(np.arange(data.rows), random_state=random, test_size=self.validation_fraction,
                                     stratify=stratify)
        if len(out) < 2:
            raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your "
                             "dataset.")
        wanted = call.given if self.scoring not in (None, "loss") else ()
        return data.some(kept), data.some(out), tuple(None if part is None else some(part, out) for part in wanted)

    def _with_validation(self, plan: FitPlan, held: Dataset, spec: Spec,
                         given: Callable[[], tuple[Any, ...]]) -> FitPlan:
        """A plan with validation rows; `given()` are X, y and weights for a scorer of scikit-learn's."""
        rows = held.feed(spec, 1, 0, False)
        return replace(plan, validation=rows, report_validation=self._reporter(rows.parts()),
                       score=self._score_by(rows, given))

    def _score_by(self, rows: Feed, given: Callable[[], tuple[Any, ...]]) -> Callable[[], float]:
        """The function that gives the score on validation rows."""
        if self.scoring is None:
            return lambda: self._own_score(rows)
        if self.scoring == "loss":
            return lambda: -self.history_["validation_loss"][-1]
        scorer, validation = check_scoring(self, self.scoring), given()
        if not dispatching():  # scikit-learn's metrics take NumPy arrays alone
            validation = tuple(map(to_host, validation))
        X_val, y_val, weight = validation
        takes = inspect.signature(scorer).parameters  # a function of the user's own may know of no weights
        weighs = "sample_weight" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        weights = {"sample_weight": weight} if weight is not None and weighs else {}
        return lambda: float(scorer(self, X_val, y_val, **weights))

    def _own_score(self, held: Feed) -> float:
        """The estimator's own score on validation rows."""
        network = self._network
        xp, z, ys, weights = network.ops.xp, list[Array](), list[Array](), list[Array]()
        with network.backend.active(), np.errstate(all="ignore"):
            for part, logits in inference.logits(network, held.parts()):
                z.append(xp.asarray(logits, copy=True))
                ys.append(stored(part.y, network.backend))
                weights += [] if part.weight is None else [stored(part.weight, network.backend)]
            y = xp.concat(ys, axis=0)
            rows = Rows(y, y, xp.concat(weights, axis=0) if weights else None)
            return float(self._score_rows(xp, xp.concat(z, axis=0), rows))

    def _train_lbfgs(self, call: FitCall, plan: FitPlan) -> None:
        network, start, tasks = self._network, self._network.arena.snapshot(), FitTasks(self, call.given, self.max_iter)
        self.n_iter_ = 0

        def after(value: float) -> bool:
            tasks.begin()
            self.history_.append(loss=value)
            note_loss(self, plan.report(value))
            if plan.validation is not None and plan.score is not None:
                measured = inference.evaluate(network, plan.validation.parts(), self._loss, ())["loss"]
                self.history_.note(validation_loss=plan.report_validation(measured))
                note_score(self, plan.score())
            return tasks.end(network)

        try:
            with np.errstate(all="ignore"):
                result = minimize_lbfgs(network, self._loss, plan.feed.parts, plan.penalty, tol=self.tol,
                                        max_iter=self.max_iter, max_fun=self.max_fun, after=after)
        except KeyboardInterrupt:
            warn_user("Training interrupted by user.")
        else:
            self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
            self.loss_ = plan.report(float(result.fun))
            check_progress(network, plan.rows, self._loss, 0.0, plan.report, start, self.tol)
        tasks.finish()

    # --- predictions -------------------------------------------------------------------------------------------

    def _outputs(self, X: Any, method: str, function: Any) -> Array:
        """`function(xp, logits)` for X, as an array of X's namespace."""
        check_is_fitted(self)
        if is_dataset(X):
            self._check_inputs(X)
            return inference.outputs(self._network, X.parts(self._network.spec()), function, resolve("numpy"))
        network, place = self._network, source_of(X)
        table = getattr(self, "_table", None)
        if table is not None and hasattr(X, "columns") and hasattr(X, "iloc"):
            X = table.transform(X, network.dtype)
        if dispatching() and place.name != self._place:
            raise ValueError(f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the "
                             f"same device as those passed to fit(): expected {self._place}, got {place.name}")
        x = as_rows(checked(self, X, reset=False)[0], network.dtype)
        return inference.outputs(network, ArrayDataset(x, x_name="X").parts(network.spec()), function, place)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean accuracy, or R2, of the predictions for X.

        Parameters
        ----------
        X : (n_samples, n_features), or a Stream, with its own targets and weights
        y : (n_samples,) or (n_samples, n_outputs)
        sample_weight : (n_samples,), optional
        """
        metric = accuracy_score if is_classifier(self) else r2_score
        if is_dataset(X):
            y, sample_weight = targets_of(X)
            return float(metric(y, self.predict(X), sample_weight=sample_weight))
        if dispatching() or device_backend(X) is None:
            return float(super().score(X, y, sample_weight))
        weight = None if sample_weight is None else host(sample_weight)
        return float(metric(host(y), host(self.predict(X)), sample_weight=weight))

    # --- fitted attributes -------------------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[Array]:
        """The weights of each dense layer (fan_in, fan_out), in X's namespace: views where the network is there too."""
        return self._parameters("weight")

    @coefs_.setter
    def coefs_(self, values: list[Array]) -> None:
        self._set_parameters("weight", values)

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of each dense layer (fan_out,), as `coefs_`."""
        return self._parameters("bias")

    @intercepts_.setter
    def intercepts_(self, values: list[Array]) -> None:
        self._set_parameters("bias", values)

    def _parameters(self, key: str) -> list[Array]:
        if not hasattr(self, "_network"):
            raise AttributeError(f"this {type(self).__name__} is not fitted yet")
        network, place = self._network, resolve(self._place)
        params = [network.params.get(f"{name}.{key}") for name in dense_layers(self._network)]
        return _Parameters([p if p is None or place.name == network.backend.name else moved(p, network.backend, place)
                            for p in params], lambda values: self._set_parameters(key, values))

    def _set_parameters(self, key: str, values: list[Array]) -> None:
        names = [f"{name}.{key}" for name in dense_layers(self._network)]
        for name, value in zip(names, values, strict=True):
            if self._network.arena.declared[name].shape != tuple(value.shape):
                raise ParameterError(f"{name} has shape {self._network.arena.declared[name].shape}, got "
                                     f"{tuple(value.shape)}")
        for name, value in zip(names, values, strict=True):
            self._network.arena.write(name, np.array(host(value)))
        self._network.arena.refresh()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_network")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.array_api_support = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        held = state.get("_state")
        if held is not None:  # its buffers belong to an arena that is made anew on the other side
            buffers = {slot: np.array(held.arena.backend.to_host(b)) for slot, b in held.buffers.items()}
            state["_state"] = (held.optimizer, held.steps, buffers)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        saved = vars(self).get("_state")
        if saved is not None:
            optimizer, steps, buffers = saved
            arena = self._network.arena
            with arena.backend.active():
                self._state = OptimizerState(optimizer, arena)
                self._state.restore({slot: arena.backend.from_host(b) for slot, b in buffers.items()})
            self._state.steps = steps
        if "_place" in state:
            try:
                resolve(self._place)
            except BackendError:  # trained on arrays of a namespace that is not here
                self._place = "numpy"


class _Parameters(list[Array]):
    """Arrays of a network; setting one of them sets the network's."""

    def __init__(self, values: list[Array], write: Callable[[list[Array]], None]) -> None:
        super().__init__(values)
        self._write = write

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._write(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(self),)


def _same(one: Any, other: Any) -> bool:
    return one is other or np.array_equal(np.asarray(one, object), np.asarray(other, object))


def _sum(values: Any) -> float:
    backend = source_of(values)
    with backend.active():
        return float(backend.xp.sum(backend.xp.astype(values, backend.xp.float64)))


def _sample_weight(weight: Any, x: Any) -> Any:
    """Weights (n,) as an array, where X is or where they are; None stays None."""
    if weight is None or device_backend(weight) is not None:
        return weight
    return _check_sample_weight(weight, x) if device_backend(x) is None else np.asarray(weight, np.float64)
