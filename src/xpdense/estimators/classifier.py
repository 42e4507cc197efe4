"""`MLPClassifier`: scikit-learn's, on any backend."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets, type_of_target

from ..activations import sigmoid
from ..backend import Array, host, resolve
from ..data.arrays import Rows
from ..data.dataset import Dataset
from ..errors import ParameterError, TargetError
from ..losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from .base import BaseMLP, is_stochastic
from .build import FitCall
from .datasets import Survey, known_labels
from .inputs import source_of, to_host, unique
from .progress import accuracy


class MLPClassifier(BaseMLP, ClassifierMixin, BaseEstimator):
    """A multi-layer perceptron classifier with the parameters of `sklearn.neural_network.MLPClassifier`, and more.

    With scikit-learn's own parameters and one `random_state` it makes the same initial weights, the same batches and
    the same steps as scikit-learn, up to rounding.

    Parameters
    ----------
    hidden_layer_sizes : list of int or Layer
        Units of each hidden layer; a Layer of the package stands for itself.
    activation : str, Activation, or a list with one for each hidden layer
        'identity', 'logistic' (also 'sigmoid'), 'tanh', 'relu', and every other activation of the package.
    solver : str or Optimizer
        'lbfgs', 'sgd', 'adam', and every other optimizer of the package, whose own rate then counts where it is an
        object.
    alpha : float
        L2 penalty alpha / 2 * |coefs_|**2 on the sum of the losses of a batch.
    batch_size : int or 'auto'
        'auto' is min(200, n_samples).
    learning_rate : str or Schedule
        'constant'; 'invscaling' or 'adaptive' for solver='sgd'; or a schedule of the package, over all `max_iter`
        epochs.
    learning_rate_init, power_t, momentum, nesterovs_momentum, beta_1, beta_2, epsilon
        Of the solvers 'sgd' and 'adam', as in scikit-learn.
    max_iter : int
        Epochs, or iterations of 'lbfgs', at most.
    shuffle : bool
    random_state : int, RandomState or None
    tol, n_iter_no_change : float, int
        The training ends when loss (with `early_stopping`: score) has not become better by `tol` for more than
        `n_iter_no_change` epochs.
    verbose : bool
    warm_start : bool
        Whether `fit` goes on from the last one's weights and optimizer state.
    early_stopping, validation_fraction
        Whether to hold out a part of the rows, end by the score on it, and keep the best weights.
    max_fun : int
        Calls of the loss by 'lbfgs', at most.
    loss : 'log_loss' or Loss
        At the logits: one for two classes, one for each class or label otherwise.
    class_weight : dict, 'balanced' or None
    label_smoothing : float
        Share of a target that is spread over all classes.
    backend : str
        'auto' computes where X is; 'numpy', 'cupy', 'torch', ... move it there, and results back.
    dtype : 'auto', 'float32' or 'float64'
        'auto' is that of X, float64 where it is not float32.
    precision : str
        On CUDA, as in DenseNetwork.
    dropout : float
        After each hidden layer.
    normalization : 'batch', 'layer' or None
        After each hidden layer's activation.
    residual : bool
        Whether a hidden layer as wide as the one before adds its input to its output.
    clip_norm : float or None
        Largest norm of the gradient.
    scoring : str, callable or None
        For early stopping: None is accuracy, 'loss' the validation loss, else what scikit-learn's scorers take.
    categorical_features : 'from_dtype', mask or list, optional
        Columns that are one-hot encoded; categories not seen in fit are all zeros.

    Attributes
    ----------
    classes_ : array (n_classes,)
        On the host. For multi-label targets, the numbers of the labels.
    coefs_, intercepts_ : list of arrays (fan_in, fan_out), (fan_out,)
    loss_, best_loss_, loss_curve_
        The true mean loss of each epoch with its L2 term; nothing is clipped.
    validation_scores_, best_validation_score_
    history_ : History
        Loss, validation loss and score, rate and speed of each epoch; `to_frame()`, `plot()`.
    n_iter_, t_, n_layers_, n_outputs_, out_activation_, n_features_in_, feature_names_in_
        As in scikit-learn.

    Raises
    ------
    NonFiniteLossError, DivergenceError
        By fit: the training diverged; the message says where.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from xpdense import MLPClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), MLPClassifier(learning_rate_init=0.01, random_state=0)).fit(X, y)
    >>> model.predict(X[:3]), bool(model.score(X, y) > 0.97)
    (array([0, 0, 0]), True)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "label_smoothing": [Interval(Real, 0, 1, closed="left")],
    }

    def __init__(
        self, hidden_layer_sizes: Any = (100,), activation: Any = "relu", *, solver: Any = "adam",
        alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: Any = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, loss: Any = "log_loss", class_weight: Any = None,
        label_smoothing: float = 0.0, backend: str = "auto", dtype: str = "auto", precision: str = "full",
        dropout: float = 0.0, normalization: str | None = None, residual: bool = False,
        clip_norm: float | None = None, scoring: Any = None, categorical_features: Any = None,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k not in ("self", "__class__")})

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None, classes: Any = None) -> MLPClassifier:
        """One epoch over X and y, from the weights and the optimizer's state as they are.

        Parameters
        ----------
        X : (n_samples, n_features), or a Stream, with its own targets and weights
        y : (n_samples,), or labels (n_samples, n_labels) of 0 and 1
        sample_weight : (n_samples,), optional
        classes : array of all classes
            Needed at the first call for arrays; y need not hold all of them.

        Returns
        -------
        self
        """
        known = () if classes is None else to_host(classes)
        self._fit(FitCall(X, y, sample_weight, incremental=True, classes=known))
        return self

    # --- targets -----------------------------------------------------------------------------------------------

    def _encode(self, y: Any, first: bool, incremental: bool, classes: Any,
                validation: bool = False) -> tuple[Array, Array | None]:
        if classes is not None:
            _check_partial_fit_first_call(self, classes if len(classes) else None)
        if issparse(y):
            y = y.toarray()
        backend = source_of(y)
        multilabel = y.ndim == 2
        if backend.kind == "numpy":
            kind = type_of_target(y, input_name="y")
            if "multioutput" in kind:
                raise ValueError("Multioutput target data is not supported: y has several columns, and they are not "
                                 "labels of 0 and 1")
            if kind not in ("binary", "multiclass", "multilabel-indicator"):
                check_classification_targets(y)
            y = y.astype(np.int64) if multilabel else y
        known = hasattr(self, "classes_") and (incremental or not first)
        if multilabel:
            return self._encode_labels(y, backend, known and not first), None
        found, codes = unique(y, backend)
        if backend.kind != "numpy" and found.dtype.kind == "f" and np.any(found != np.round(found)):
            raise TargetError("Unknown label type: continuous. y must hold class labels, not real numbers")
        if not known:
            self.classes_ = found
        elif not np.array_equal(found, self.classes_):
            codes = self._places(found, codes, backend, self.warm_start and not validation)
        if first:
            self.n_outputs_ = 1 if len(self.classes_) <= 2 else len(self.classes_)
            self.out_activation_ = "logistic" if self.n_outputs_ == 1 else "softmax"
        return self._targets_of(codes, backend), codes

    def _targets_of(self, codes: Array, backend: Any) -> Array:
        """Class numbers (n,) as the loss takes them."""
        xp = backend.xp
        if self.out_activation_ == "softmax" and self._make_loss().labels:
            return codes
        if self.out_activation_ == "softmax":  # a loss of the user's own, of each output by itself
            numbers = backend.from_host(np.arange(self.n_outputs_))
            return xp.astype(codes[:, None] == numbers[None, :], xp.float64)
        if self._multilabel:
            raise TargetError(f"y must have {self.n_outputs_} columns, one for each label, as in the last call to fit")
        return self._smooth(xp.astype(codes, xp.float64)[:, None])

    def _learn_targets(self, call: FitCall, data: Dataset, found: Survey) -> None:
        target = data.preprocessing and data.preprocessing.target
        if target and not target.classes:
            raise TargetError(f"the target {target.column!r} looks like a quantity: open the stream with "
                              f"task='multi-class' if its values are classes")
        y, classes = found.y if found.labels is None else found.labels, call.classes
        if classes is not None and not len(classes):  # a data set says by itself
            classes = y if call.first else self.classes_
        self._encode(y, call.first, call.incremental, classes)

    def _encoder_of(self, data: Dataset) -> Callable[[Any], Any]:
        if self._multilabel:
            return lambda y: self._encode(host(y), False, True, None)[0]
        labels, numpy = known_labels(data), resolve("numpy")
        numbers = None if labels is None else self._numbers_of(labels)

        def encode(y: Any) -> Array:
            values = host(y)
            codes = self._numbers_of(values) if numbers is None else numbers[values]
            if codes.min(initial=0) < 0:
                self._refuse(np.unique(values if labels is None else labels[values]))
            return self._targets_of(codes, numpy)

        return encode

    def _numbers_of(self, labels: np.ndarray) -> np.ndarray:
        """The numbers (n,) of the classes; -1 for a label that is not one."""
        places = np.minimum(np.searchsorted(self.classes_, labels), len(self.classes_) - 1)
        return np.where(self.classes_[places] == labels, places, -1)

    @property
    def _multilabel(self) -> bool:
        return self.out_activation_ == "logistic" and self.n_outputs_ > 1

    def _encode_labels(self, y: Any, backend: Any, known: bool) -> Array:
        labels = int(y.shape[1])
        if known and not (self._multilabel and labels == self.n_outputs_):
            raise TargetError(f"y has {labels} columns of labels, and the last call to fit had "
                              f"{self.n_outputs_ if self._multilabel else 'one of classes'}")
        with backend.active():
            xp = backend.xp
            if backend.kind != "numpy" and not bool(xp.all((y == 0) | (y == 1))):
                raise TargetError("y has several columns, and they are not labels of 0 and 1")
            self.classes_, self.n_outputs_, self.out_activation_ = np.arange(labels), labels, "logistic"
            return self._smooth(xp.astype(y, xp.float64))

    def _smooth(self, target: Array) -> Array:
        return target * (1.0 - self.label_smoothing) + 0.5 * self.label_smoothing if self.label_smoothing else target

    def _places(self, found: np.ndarray, codes: Array, backend: Any, all_of_them: bool) -> Array:
        """The places among the known classes of codes among those found; a ValueError where they do not fit."""
        if all_of_them and set(found) != set(self.classes_):
            raise ValueError(f"warm_start can only be used where `y` has the same classes as in the previous call to "
                             f"fit. Previously got {self.classes_}, `y` has {found}")
        if len(np.setdiff1d(found, self.classes_)):
            self._refuse(found)
        places = backend.from_host(np.searchsorted(self.classes_, found).astype(np.int64))
        return backend.xp.take(places, codes, axis=0)

    def _refuse(self, found: np.ndarray) -> None:
        raise ValueError(f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has "
                         f"{found}.")

    def _class_weights(self, weight: Any, y: Any, codes: Array | None, incremental: bool) -> Any:
        if self.class_weight is None:
            return weight
        if incremental and self.class_weight == "balanced":
            raise ParameterError("class_weight='balanced' needs all of y, and partial_fit sees a part of it: pass a "
                                 "dict, such as sklearn.utils.class_weight.compute_class_weight gives")
        if codes is None:
            of_rows = compute_sample_weight(self.class_weight, host(y))
            return of_rows if weight is None else of_rows * host(weight)
        backend = source_of(codes)
        xp, classes = backend.xp, self.classes_
        with backend.active():
            if self.class_weight == "balanced":
                counts = [int(xp.sum(xp.astype(codes == i, xp.int64))) for i in range(len(classes))]
                of_class = int(codes.shape[0]) / (len(classes) * np.maximum(counts, 1))
            else:
                of_class = compute_class_weight(self.class_weight, classes=classes, y=classes)
            of_rows = xp.take(backend.from_host(of_class), codes, axis=0)
            if weight is None:
                return of_rows
            return of_rows * (weight if source_of(weight).name == backend.name else backend.from_host(host(weight)))

    # --- the loss ----------------------------------------------------------------------------------------------

    def _make_loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            if self.label_smoothing:
                raise ParameterError("label_smoothing goes with loss='log_loss'; xd.SoftmaxCrossEntropy has its own")
            return self.loss
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy(self.label_smoothing)
        return BinaryCrossEntropy(factor=float(self.n_outputs_))  # the sum over labels, as in scikit-learn

    @property
    def _is_our_loss(self) -> bool:
        """Whether the loss of the last fit is a cross-entropy, whose probabilities are known at the logits."""
        return type(self._loss) in (BinaryCrossEntropy, SoftmaxCrossEntropy)

    def _decide(self, xp: Any, z: Array) -> Array:
        if self.out_activation_ == "softmax":
            return xp.argmax(z, axis=-1)
        chosen = xp.astype(z > 0 if self._is_our_loss else self._loss.link(xp, z) > 0.5, xp.int64)
        return chosen if self._multilabel else chosen[:, 0]

    def _score_rows(self, xp: Any, z: Array, rows: Rows) -> float:
        if not bool(xp.all(xp.isfinite(z))):
            return float("nan")
        truth = rows.y
        if truth.ndim == 2 and self.out_activation_ == "softmax":
            truth = xp.argmax(truth, axis=-1)
        elif truth.ndim == 2:
            truth = xp.astype(truth > 0.5, xp.int64)
            truth = truth if self._multilabel else truth[:, 0]
        return accuracy(xp, self._decide(xp, z), truth, rows.weight)

    # --- predictions -------------------------------------------------------------------------------------------

    def predict(self, X: Any) -> Array:
        """The class of each row (n_samples,), or its labels (n_samples, n_labels), in X's namespace.

        Classes that are text come as a NumPy array.
        """
        found = self._outputs(X, "predict", self._decide)
        if self._multilabel:
            return found
        if self.classes_.dtype.kind not in "biuf":
            return self.classes_[np.minimum(host(found), len(self.classes_) - 1)]
        place = source_of(X)
        with place.active():
            if len(self.classes_) == 1:
                found = found * 0
            return place.xp.take(place.from_host(self.classes_), found, axis=0)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, or of the labels, (n_samples, n_classes), in X's namespace."""
        return self._outputs(X, "predict_proba", self._probabilities)

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities (n_samples, n_classes), also of those too small to be numbers."""
        return self._outputs(X, "predict_log_proba", self._log_probabilities)

    def _probabilities(self, xp: Any, z: Array) -> Array:
        if not self._is_our_loss:
            p = self._loss.link(xp, z)
            return p if z.shape[-1] > 1 else xp.concat([1.0 - p, p], axis=-1)[:, : len(self.classes_)]
        if self.out_activation_ == "softmax":
            return SoftmaxCrossEntropy().link(xp, z)
        if self._multilabel:
            return sigmoid(xp, z)
        if len(self.classes_) == 1:
            return xp.ones_like(z)
        return xp.concat([sigmoid(xp, -z), sigmoid(xp, z)], axis=-1)

    def _log_probabilities(self, xp: Any, z: Array) -> Array:
        if not self._is_our_loss or len(self.classes_) == 1:
            return xp.log(self._probabilities(xp, z))
        if self.out_activation_ == "softmax":
            shifted = z - xp.max(z, axis=-1, keepdims=True)
            return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
        below = xp.log1p(xp.exp(-xp.abs(z)))
        true, false = xp.minimum(z, xp.zeros_like(z)) - below, xp.minimum(-z, xp.zeros_like(z)) - below
        return true if self._multilabel else xp.concat([false, true], axis=-1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
