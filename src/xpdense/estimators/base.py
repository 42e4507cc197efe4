"""What both estimators share: parameters, and fit from the user's arrays to fitted attributes."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
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
from ..data.arrays import Batches, Feed, Held, InMemory, Rows, features, moved, prepared, stored
from ..data.stream import Stream
from ..errors import BackendError, DivergenceError, ParameterError, boolean, warn_user
from ..history import History
from ..losses import Loss
from ..model import ASK_THE_DOCTOR
from ..network import Network
from ..optimizers import OPTIMIZERS, Adam, Optimizer, OptimizerState
from ..schedules import Schedule
from ..training import Loop
from . import streams
from .build import NORMS, Training, dense_layers, described_layers, draw, hidden_layers
from .inputs import as_rows, checked, device_backend, dispatching, some, source_of, to_host
from .progress import FitTasks, Progress, check_progress, note_loss, note_score
from .solvers import Continued, Rate, make_optimizer, minimize_lbfgs, set_rate

try:
    from sklearn.callback import CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """There are no callbacks."""

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

    It stands before scikit-learn's mixins, whose `score` it may have to spare arrays of a device.
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

    def _reporter(self, rows: Rows) -> Callable[[float], float]:
        """What makes the loss that is reported, scikit-learn's, of the loss that is minimised."""
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
        if not isinstance(X_val, Stream) and (X_val is None) != (y_val is None):
            raise ParameterError("X_val and y_val go together: one of them is missing")
        if sample_weight_val is not None and X_val is None:
            raise ParameterError("sample_weight_val goes with X_val and y_val")
        if boolean("doctor", doctor) and self.solver == "lbfgs":
            raise ParameterError("doctor=True watches steps, and solver='lbfgs' makes none: take solver='adam'")
        validation = None if X_val is None else (X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, validation, doctor=doctor)

    def _fit(self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, ...] | None, incremental: bool = False,
             classes: Any = None, doctor: bool = False) -> Any:
        first = not hasattr(self, "_network") or not (self.warm_start or incremental)
        with self._as_before(not first and not incremental):
            self._train(X, y, sample_weight, validation, incremental, first, classes, doctor)
        return self

    def training_of(self, X: Any, y: Any) -> Training:
        """What `fit(X, y)` would train, and how; for `diagnose`. L-BFGS is stood in for by Adam.

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
            rows = prepared(as_rows(X, network.dtype), target, None, network, loss)
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

    def _train(self, X: Any, y: Any, sample_weight: Any, validation: tuple[Any, ...] | None, incremental: bool,
               first: bool, classes: Any, doctor: bool) -> None:
        hidden = hidden_layers(self.hidden_layer_sizes)
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if isinstance(X, Stream):
            self._train_stream(X, y, sample_weight, validation, incremental, first, doctor)
            return
        if self.scoring not in (None, "loss"):
            check_scoring(self, self.scoring)
        place, given = source_of(X), (X, y, sample_weight)
        X, y = checked(self, X, y, reset=first)
        target, codes = self._encode(y, first, incremental, classes)
        weight = self._class_weights(_sample_weight(sample_weight, X), y, codes, incremental)
        random = check_random_state(self.random_state)
        if first:
            self._begin(hidden, X, place, random)
        else:
            changed = [name for name in _BUILT_FROM if not _same(self._built_from[name], getattr(self, name))]
            if changed:
                raise ParameterError(f"{changed[0]} has changed since the network was made, and this call goes on with "
                                     f"that network: clone the estimator, or set it back")
        network = self._network
        self._loss = loss = self._make_loss()
        with network.backend.active():
            rows = prepared(as_rows(X, network.dtype), target, weight, network, loss)
            penalty = self.alpha if weight is None else self.alpha * rows.count / _sum(weight)
            held, score, rows = self._held_out(rows, codes, validation, given, random, loss)
            if self.solver == "lbfgs":
                self._train_lbfgs(rows, held, score, loss, penalty, FitTasks(self, given, self.max_iter))
            else:
                self._train_stochastic(rows, held, score, loss, penalty, given, random, incremental, doctor)

    def _train_stream(self, X: Stream, y: Any, sample_weight: Any, validation: tuple[Any, ...] | None,
                      incremental: bool, first: bool, doctor: bool) -> None:
        feed, held, rows, score = streams.begin(self, X, y, sample_weight, validation, first)
        with self._network.backend.active():
            self._make_steps(feed, held, rows, score, self._loss, self.alpha, (X, y, None), incremental, doctor, float,
                             float)

    def _train_stochastic(self, rows: Rows, held: Rows | None, score: Any, loss: Loss, penalty: float,
                          given: tuple[Any, ...], random: np.random.RandomState, incremental: bool,
                          doctor: bool) -> None:
        batch_size = min(200, rows.count) if self.batch_size == "auto" else int(self.batch_size)
        if batch_size > rows.count:
            warn_user("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        batches = Shuffled(rows.count, batch_size, random, self.shuffle)
        report = self._reporter(rows)
        self._make_steps(InMemory(rows, batches), held, rows, score, loss, penalty, given, incremental, doctor, report,
                         report if held is None else self._reporter(held))

    def _make_steps(self, feed: Feed, held: Rows | Held | None, rows: Rows, score: Any, loss: Loss, penalty: float,
                    given: tuple[Any, ...], incremental: bool, doctor: bool,
                    report: Callable[[float], float], report_held: Callable[[float], float]) -> None:
        """The training itself, and what is said of it; `rows` are some of those that it is fed with."""
        network, epochs = self._network, 1 if incremental else int(self.max_iter)
        state = self._optimizer_state(penalty, epochs * len(feed), incremental)
        tasks, start = FitTasks(self, given, epochs), None if incremental else network.arena.snapshot()

        def check() -> None:
            if start is not None:
                last = progress.last_loss(start[0])
                progress.restore_best()
                check_progress(network, rows, loss, last, report, start, self.tol)

        progress = Progress(self, state, feed.count, score, tasks, report, report_held, check)
        callbacks: list[Callback] = [progress]
        if doctor:
            from ..doctor.watch import Doctor

            callbacks.append(Doctor())
        try:
            with np.errstate(all="ignore"):
                Loop(network, feed, loss=loss, optimizer=state.optimizer, epochs=epochs, validation=held,
                     callbacks=callbacks, state=state, history=self.history_).train()
        except KeyboardInterrupt:
            warn_user("Training interrupted by user.")
        except DivergenceError as error:
            error.advice = error.advice or ASK_THE_DOCTOR
            raise
        tasks.finish()
        if not (incremental or progress.converged) and self.n_iter_ == self.max_iter:
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

    def _held_out(self, rows: Rows, codes: Array | None, validation: tuple[Any, ...] | None, given: tuple[Any, ...],
                  random: np.random.RandomState, loss: Loss) -> tuple[Rows | None, Any, Rows]:
        """Validation rows, what gives the score on them, and the rows that are left to train on."""
        network = self._network
        if validation is not None:
            X_val, y_val, weight = validation
            x, y = checked(self, X_val, y_val, reset=False)
            target, _ = self._encode(y, False, True, None, validation=True)
            weight = _sample_weight(weight, x)
            held = prepared(as_rows(x, network.dtype), target, weight, network, loss, "validation ")
        elif self.early_stopping and self.solver != "lbfgs":
            stratify = host(codes) if codes is not None and self.n_outputs_ == 1 else None
            kept, out = train_test_split(np.arange(rows.count), random_state=random,
                                         test_size=self.validation_fraction, stratify=stratify)
            if len(out) < 2:
                raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your "
                                 "dataset.")
            held, rows = rows.some(network.ops, out), rows.some(network.ops, kept)
            if self.scoring not in (None, "loss"):
                validation = tuple(None if part is None else some(part, out) for part in given)
        else:
            return None, None, rows
        xp = network.ops.xp

        def own_score() -> float:
            logits = inference.logits(network, inference.slices_of(network, held))
            z = [xp.asarray(part, copy=True) for part in logits]
            ours = Rows(held.x, stored(held.y, network.backend),
                        None if held.weight is None else stored(held.weight, network.backend))
            return self._score_rows(xp, z[0] if len(z) == 1 else xp.concat(z, axis=0), ours)

        if self.scoring is None:
            return held, own_score, rows
        if self.scoring == "loss":
            return held, lambda: -self.history_["validation_loss"][-1], rows
        scorer = check_scoring(self, self.scoring)
        assert validation is not None
        if not dispatching():  # scikit-learn's metrics take NumPy arrays alone
            validation = tuple(map(to_host, validation))
        X_val, y_val, weight = validation
        takes = inspect.signature(scorer).parameters  # a function of the user's own may know of no weights
        weighs = "sample_weight" in takes or any(p.kind is p.VAR_KEYWORD for p in takes.values())
        weights = {"sample_weight": weight} if weight is not None and weighs else {}
        return held, lambda: float(scorer(self, X_val, y_val, **weights)), rows

    def _train_lbfgs(self, rows: Rows, held: Rows | None, score: Any, loss: Loss, penalty: float,
                     tasks: FitTasks) -> None:
        network, report, start = self._network, self._reporter(rows), self._network.arena.snapshot()
        report_validation = report if held is None else self._reporter(held)
        self.n_iter_ = 0

        def after(value: float) -> bool:
            tasks.begin()
            self.history_.append(loss=value)
            note_loss(self, report(value))
            if held is not None:
                measured = inference.evaluate(network, inference.slices_of(network, held), held, loss, ())["loss"]
                self.history_.note(validation_loss=report_validation(measured))
                note_score(self, score())
            return tasks.end(network)

        try:
            with np.errstate(all="ignore"):
                result = minimize_lbfgs(network, loss, rows, penalty, tol=self.tol, max_iter=self.max_iter,
                                        max_fun=self.max_fun, after=after)
        except KeyboardInterrupt:
            warn_user("Training interrupted by user.")
        else:
            self.n_iter_ = _check_optimize_result("lbfgs", result, self.max_iter)
            self.loss_ = report(float(result.fun))
            check_progress(network, rows, loss, 0.0, report, start, self.tol)
        tasks.finish()

    # --- predictions -------------------------------------------------------------------------------------------

    def _outputs(self, X: Any, method: str, function: Any) -> Array:
        """`function(xp, logits)` for X, as an array of X's namespace."""
        check_is_fitted(self)
        if isinstance(X, Stream):
            return inference.outputs(self._network, streams.slices_for(self, X), function, resolve("numpy"))
        network, place = self._network, source_of(X)
        table = getattr(self, "_table", None)
        if table is not None and hasattr(X, "columns") and hasattr(X, "iloc"):
            X = table.transform(X, network.dtype)
        if dispatching() and place.name != self._place:
            raise ValueError(f"Inputs passed to {type(self).__name__}.{method}() must use the same namespace and the "
                             f"same device as those passed to fit(): expected {self._place}, got {place.name}")
        x = as_rows(checked(self, X, reset=False)[0], network.dtype)
        slices = (features(part, network, "X") for part in inference.parts(network, x))
        return inference.outputs(network, slices, function, place)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """The mean accuracy, or R2, of the predictions for X.

        Parameters
        ----------
        X : (n_samples, n_features), or a Stream of a table, with its own targets
        y : (n_samples,) or (n_samples, n_outputs)
        sample_weight : (n_samples,), optional
        """
        if isinstance(X, Stream):
            return float((accuracy_score if is_classifier(self) else r2_score)(X.values(), self.predict(X)))
        if dispatching() or device_backend(X) is None:
            return float(super().score(X, y, sample_weight))
        metric = accuracy_score if is_classifier(self) else r2_score
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
