"""`MLPRegressor`: scikit-learn's, on any backend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, _fit_context
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from ..backend import Array, host
from ..data.arrays import Rows
from ..data.dataset import Dataset
from ..errors import TargetError
from ..losses import AbsoluteError, Huber, Loss, Poisson, Quantile, SquaredError
from .base import BaseMLP, is_stochastic
from .build import FitCall
from .datasets import Survey, known_labels
from .progress import r2

_LOSSES: dict[str, type[Loss]] = {
    cls.name: cls for cls in (SquaredError, Poisson, AbsoluteError, Huber, Quantile)
}


class MLPRegressor(BaseMLP, RegressorMixin, BaseEstimator):
    """A multi-layer perceptron regressor with the parameters of `sklearn.neural_network.MLPRegressor`, and more.

    With scikit-learn's own parameters and one `random_state` it makes the same initial weights, the same batches and
    the same steps as scikit-learn, up to rounding. 'lbfgs' with several outputs is the exception: its gradient is that
    of the loss, the mean over the outputs, where scikit-learn's is larger by their number.

    Parameters
    ----------
    loss : str or Loss
        'squared_error' (half of it), 'poisson' (half of the deviance; the output is an exponential),
        'absolute_error', 'huber' (delta 1), 'quantile' (the median), or an object such as xd.Quantile(0.9).

    All others are those of MLPClassifier, but for class_weight and label_smoothing; `scoring` None is R2.

    Attributes
    ----------
    The same as MLPClassifier's, but for classes_.

    Raises
    ------
    NonFiniteLossError, DivergenceError
        By fit: the training diverged; the message says where.

    Examples
    --------
    >>> import numpy as np
    >>> from xpdense import MLPRegressor
    >>> X = np.linspace(-2, 2, 200).reshape(-1, 1)
    >>> model = MLPRegressor(activation="tanh", solver="lbfgs", max_iter=500, random_state=0).fit(X, np.sin(X[:, 0]))
    >>> bool(model.score(X, np.sin(X[:, 0])) > 0.999)
    True
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(_LOSSES)), Loss],
    }

    def __init__(
        self, loss: Any = "squared_error", hidden_layer_sizes: Any = (100,), activation: Any = "relu", *,
        solver: Any = "adam", alpha: float = 0.0001, batch_size: Any = "auto", learning_rate: Any = "constant",
        learning_rate_init: float = 0.001, power_t: float = 0.5, max_iter: int = 200, shuffle: bool = True,
        random_state: Any = None, tol: float = 1e-4, verbose: bool = False, warm_start: bool = False,
        momentum: float = 0.9, nesterovs_momentum: bool = True, early_stopping: bool = False,
        validation_fraction: float = 0.1, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-8,
        n_iter_no_change: float = 10, max_fun: int = 15000, backend: str = "auto", dtype: str = "auto",
        precision: str = "full", dropout: float = 0.0, normalization: str | None = None, residual: bool = False,
        clip_norm: float | None = None, scoring: Any = None, categorical_features: Any = None,
    ) -> None:
        self.__dict__.update({k: v for k, v in locals().items() if k not in ("self", "__class__")})

    @available_if(is_stochastic)
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> MLPRegressor:
        """One epoch over X and y, from the weights and the optimizer's state as they are.

        Parameters
        ----------
        X : (n_samples, n_features), or a Stream, with its own targets and weights
        y : (n_samples,) or (n_samples, n_outputs)
        sample_weight : (n_samples,), optional

        Returns
        -------
        self
        """
        self._fit(FitCall(X, y, sample_weight, incremental=True))
        return self

    def _encode(self, y: Any, first: bool, incremental: bool, classes: Any,
                validation: bool = False) -> tuple[Array, Array | None]:
        if first:
            self.n_outputs_ = 1 if y.ndim == 1 else int(y.shape[1])
            self.out_activation_ = "exp" if self._make_loss().name == "poisson" else "identity"
        return y, None

    def _learn_targets(self, call: FitCall, data: Dataset, found: Survey) -> None:
        target = data.preprocessing and data.preprocessing.target
        if target and target.is_text:
            raise TargetError(f"the target {target.column!r} holds text, and a regressor needs numbers")
        super()._learn_targets(call, data, found)

    def _encoder_of(self, data: Dataset) -> Callable[[Any], Any]:
        labels = known_labels(data)  # whole numbers that look like classes
        return host if labels is None else lambda y: labels.astype(np.float64)[host(y)]

    def _make_loss(self) -> Loss:
        if isinstance(self.loss, Loss):
            return self.loss
        factor = {"squared_error": 0.5 * self._loss_share(), "poisson": float(self.n_outputs_)}.get(self.loss, 1.0)
        return _LOSSES[self.loss](factor=factor)

    def _loss_share(self) -> float:
        # scikit-learn reports the mean over the outputs and goes down the gradient of the sum. 'lbfgs' compares the
        # loss with its gradient, and needs the mean's.
        return float(self.n_outputs_) if self.loss == "squared_error" and self.solver != "lbfgs" else 1.0

    def _reporter(self, parts: Iterable[Rows]) -> Callable[[float], float]:
        share = self._loss_share()
        if self.loss != "poisson":
            return lambda value: value / share
        total, total_weight = 0.0, 0.0
        for rows in parts:
            xp = np if rows.on_host else self._network.ops.xp
            y = xp.astype(rows.y, xp.float64)
            terms = xp.sum(y * xp.log(xp.where(y > 0, y, xp.ones_like(y))) - y, axis=-1)
            weight = xp.ones_like(terms) if rows.weight is None else xp.astype(rows.weight, xp.float64)
            total, total_weight = total + float(xp.sum(terms * weight)), total_weight + float(xp.sum(weight))
        least = total / total_weight  # makes the loss that of a deviance, 0 at its best
        return lambda value: value + least

    def _predicted(self, xp: Any, z: Array) -> Array:
        return self._loss.link(xp, z)

    def _decide(self, xp: Any, z: Array) -> Array:
        values = self._predicted(xp, z)
        return values[:, 0] if self.n_outputs_ == 1 else values

    def _score_rows(self, xp: Any, z: Array, rows: Rows) -> float:
        return r2(xp, self._predicted(xp, z), rows.y, rows.weight)

    def predict(self, X: Any) -> Array:
        """Predictions (n_samples,), or (n_samples, n_outputs) where there are several, in X's namespace."""
        return self._outputs(X, "predict", self._decide)
