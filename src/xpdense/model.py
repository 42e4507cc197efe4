"""`DenseNetwork`: a network that fits, predicts, evaluates, saves and loads."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import inference, storage
from .backend import Array, Backend, resolve
from .callbacks import Callback, as_callbacks
from .checkpointing import Checkpoint, identify, resumed
from .data.dataset import ArrayDataset, Dataset, as_dataset, is_dataset, place_of
from .data.preprocessing import Preprocessing
from .data.writing import write_predictions
from .errors import (
    DivergenceError,
    MemoryLimitError,
    ModelFileError,
    NotFittedError,
    ParameterError,
    UnknownNameError,
    XpdenseError,
    boolean,
    positive_int,
)
from .history import History
from .layers import Layer, from_config, stack
from .losses import Loss, as_loss
from .memory import check_memory
from .metrics import Metric, as_metrics, check_metrics
from .network import Network, declared_by
from .ops import check_choice
from .optimizers import Optimizer, as_optimizer
from .training import Loop

ASK_THE_DOCTOR = "fit(..., doctor=True) looks for the cause."
_STEPS = 5000  # optimizer steps of a training whose number of epochs is not said


def default_epochs(steps_per_epoch: int) -> int:
    """As many epochs as make 5,000 steps, at least 10.

    >>> default_epochs(4)
    1250
    """
    return max(10, -(-_STEPS // steps_per_epoch))


class DenseNetwork(Network):
    """A stack of layers that is trained by gradient descent.

    Parameters
    ----------
    layers : list of Layer
        The last one gives the logits: it has no activation (or the identity), since every loss brings its own link.
    inputs : int
        Number of features.
    backend : str
        "auto" follows the input: NumPy arrays are computed on by NumPy, CuPy arrays on their GPU. "numpy", "cupy",
        "torch", "array_api_strict", each also with a device ("cupy:1", "torch:cuda"), move the data there.
    dtype : "float32" or "float64"
    seed : int
        Of initial weights, the order of batches and dropout. One seed gives the same training on every backend up to
        rounding, and to the bit on one of them.
    precision : "full", "tf32", "float16" or "bfloat16"
        For dtype "float32" on CUDA. "tf32" rounds what matrix products multiply to ten bits of mantissa. "float16" and
        "bfloat16" store activations, gradients and a copy of the weights in 16 bits; the weights themselves, the
        optimizer's state and every sum stay in float32, and in float16 the loss is scaled up before backward.
    ops : "auto", "native", "cuda" or "generic"
        Which implementation computes: "native" (kernels compiled for the CPU) and "cuda" insist on it, "generic" keeps
        to array-API calls. "auto" takes the fastest there is, or what the environment variable XPDENSE_OPS says.

    Attributes
    ----------
    params, grads : dict of arrays
        Views, by names such as "0.weight".
    loss : Loss or None
        The loss of the last training, which `predict` and `evaluate` use.
    preprocessing : Preprocessing or None
        The encoders of the table that the network was last trained on; None if it was trained on arrays only.
    extra : dict
        The user's own entries, which are saved with the model.

    Examples
    --------
    >>> import numpy as np, xpdense as xd
    >>> x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]); y = np.array([0, 1, 1, 0])
    >>> net = xd.DenseNetwork([xd.Dense(16, "tanh"), xd.Dense(1)], inputs=2)
    >>> history = net.fit(x, y, loss="binary_cross_entropy", optimizer=xd.Adam(0.05), epochs=200)
    >>> net.predict(x).round().ravel()
    array([0., 1., 1., 0.], dtype=float32)
    """

    def __init__(self, layers: Sequence[Layer], inputs: int, backend: str = "auto", dtype: str = "float32",
                 seed: int = 0, precision: str = "full", ops: str = "auto") -> None:
        super().__init__(layers, inputs, backend, dtype, seed, precision, ops)
        self.loss: Loss | None = None
        self.preprocessing: Preprocessing | None = None
        self.extra: dict[str, Any] = {}

    # --- training ----------------------------------------------------------------------------------------------

    def fit(self, x: Any, y: Any = None, *, loss: str | Loss, optimizer: str | Optimizer = "adam",
            batch_size: int = 128, epochs: int | None = None,
            validation: float | tuple[Any, ...] | Dataset | None = None, sample_weight: Any = None,
            metrics: Sequence[str | Callable[..., float] | Metric] = (), callbacks: Sequence[Callback] = (),
            shuffle: bool = True, progress: bool = False, doctor: bool = False,
            resume: str | Path | None = None) -> History:
        """Train on x and y, from the weights as they are; the optimizer, and the order of batches, start afresh.

        Parameters
        ----------
        x : array (n, inputs), or a Stream
            Of any namespace, or what NumPy makes an array of; or data that are read when they are needed, see
            `xpdense.data.open`, which bring their own y and weights. The encoders of a table's columns and
            target become the member `preprocessing`, so that a saved model can predict from such tables.
        y : array
            (n, outputs); (n,) where there is one output; class numbers (n,) for softmax_cross_entropy.
        loss : str or Loss
            binary_cross_entropy, softmax_cross_entropy, squared_error, absolute_error, huber, poisson, quantile.
        optimizer : str or Optimizer
            sgd, momentum, nesterov, rmsprop, adagrad, adam, adamw, lion, with their default learning rates.
        batch_size : int
            Rows per step; a last, smaller batch is trained on too.
        epochs : int, optional
            Passes over the data. Default: as many as make 5,000 steps, at least 10.
        validation : float, (x, y) or (x, y, sample_weight), or a Stream, optional
            A fraction of the rows to hold out, drawn by the seed, or data of its own.
        sample_weight : array (n,), optional
        metrics : list
            accuracy, balanced_accuracy, f1, roc_auc, log_loss, r2, rmse, mae, or `function(target, prediction)` of
            NumPy arrays, target (n,) class numbers or (n, outputs), prediction (n, outputs), without weights;
            measured after each epoch on the validation data, or else on the training data.
        callbacks : list of Callback
            Such as EarlyStopping().
        shuffle : bool
            Whether each epoch has an order of its own.
        progress : bool
            Whether to show a bar.
        doctor : bool
            Whether to add a `Doctor` to the callbacks, which says why a training fails.
        resume : str or Path, optional
            A folder that a Checkpoint has written to in a training of the same network, data and settings: it goes on
            from its newest checkpoint, on the CPU to the same bits as without the break. `epochs` may be more, unless
            the learning rate's schedule depends on them. Where the folder holds none yet, it begins at the beginning.

        Returns
        -------
        History
            A mapping: `history["loss"]` has one number per epoch.

        Raises
        ------
        ParameterError, DataError, ArrayTypeError, BackendError, MemoryLimitError
            Before any work is done.
        ModelFileError
            What `resume` names is not there, or none of its checkpoints is whole.
        NonFiniteLossError
            The loss became NaN or infinite; the network holds good weights again.
        """
        loss, optimizer = as_loss(loss), as_optimizer(optimizer)
        metrics, callbacks = as_metrics(metrics, loss), self._callbacks(callbacks, progress, doctor, resume)
        self._check_loss(loss)
        if not self.size:
            raise ParameterError("no layer of the network has parameters: there is nothing to train")
        epochs = None if epochs is None else positive_int("epochs", epochs)
        batch_size, shuffle = positive_int("batch_size", batch_size), boolean("shuffle", shuffle)
        place = self._place(x)
        spec = self.spec(loss, place)
        with place.active():
            training = as_dataset(x, y, sample_weight)
            held_out = self._validation(validation)
            if held_out is None and validation is not None:
                training, held_out = training.split(validation, seed=self.seed)  # type: ignore[arg-type]
            check_memory(self, optimizer, min(batch_size, training.rows), place, getattr(training, "copies_ahead", 0))
            evaluated = None if held_out is None else held_out.feed(spec, batch_size, self.seed, False)
            feed = training.feed(spec, batch_size, self.seed, shuffle)
            if feed.once and epochs != 1:
                raise ParameterError("a generator can be read once: pass a function that makes it, or epochs=1")
            check_metrics(metrics, loss, self.outputs, (evaluated or feed).parts)
            epochs = epochs or default_epochs(len(feed))
            identity, state = dict[str, Any](), None
            if resume is not None or any(isinstance(callback, Checkpoint) for callback in callbacks):
                identity = identify(self, feed, held_out, loss, optimizer, epochs, metrics, callbacks)
                state = None if resume is None else resumed(resume, self, identity)
            self.to(place)  # nothing is refused from here on
            self.loss, self.preprocessing = loss, training.preprocessing or self.preprocessing
            with self._staying(), np.errstate(all="ignore"):  # a loss that is not finite is an error of its own
                return Loop(self, feed, loss=loss, optimizer=optimizer, epochs=epochs, validation=evaluated,
                            metrics=metrics, callbacks=callbacks, identity=identity).train(state)

    def _callbacks(self, given: Any, progress: bool, doctor: bool, resume: str | Path | None) -> list[Callback]:
        """The callbacks of a training, checked."""
        callbacks = as_callbacks(given, progress)
        if boolean("doctor", doctor):
            from .doctor.watch import Doctor

            callbacks.append(Doctor())
        for callback in callbacks:
            if isinstance(callback, Checkpoint):
                callback.check(None if resume is None else Path(resume))
        return callbacks

    def _validation(self, given: Any) -> Dataset | None:
        """The data set of (x, y) or (x, y, sample_weight), or the one that is given; None for a fraction."""
        if is_dataset(given):
            dataset: Dataset = given
            return dataset
        if not isinstance(given, (tuple, list)):
            return None
        if len(given) not in (2, 3):
            raise ParameterError(f"validation must be a fraction, (x, y) or (x, y, sample_weight), got a "
                                 f"{type(given).__name__} of {len(given)}")
        x, y, *weight = given
        return ArrayDataset(x, y, weight[0] if weight else None, "validation ")

    @contextlib.contextmanager
    def _staying(self) -> Iterator[None]:
        """A training, during which a callback that predicts must not move the network."""
        follows, self.follows_input = self.follows_input, False
        try:
            yield
        except DivergenceError as error:
            error.advice = error.advice or ASK_THE_DOCTOR
            raise
        finally:
            self.follows_input = follows

    # --- using -------------------------------------------------------------------------------------------------

    def predict(self, x: Any, out: str | Path | None = None) -> Any:
        """Predictions (n, outputs): probabilities for the cross-entropies, rates for Poisson, else the outputs.

        They come as an array of x's own namespace and device, NumPy if x is not an array. Memory is bounded: rows are
        worked on in batches.

        Parameters
        ----------
        x : array (n, inputs), or a Stream
        out : str or Path, optional
            A .csv or .parquet file to write the predictions of a stream to, as they are made: a column for each
            output; of a table, "prediction" as the target is (a label or a value), and the probability of each class.

        Returns
        -------
        The array; or with `out` how many rows were written.

        Raises
        ------
        ShapeError, ArrayTypeError, NonFiniteDataError, DataError
        OutputError
            `out` cannot be written; what was there is still there.
        """
        if out is not None:
            if not is_dataset(x):
                raise ParameterError("out= is for streams, whose predictions may be many: see xpdense.data.open")
            return write_predictions(out, self.predict_parts(x), getattr(x.preprocessing, "target", None))
        source = place_of(x) or resolve("numpy")
        place = source if self.follows_input else self.backend
        parts = as_dataset(x).parts(self.spec(None, place))
        with self._on(place):
            return inference.outputs(self, parts, self._link, source)

    def predict_parts(self, x: Any) -> Iterator[np.ndarray]:
        """The predictions for a data set, as NumPy arrays (n, outputs), a part of its rows at a time.

        Parameters
        ----------
        x : array (n, inputs), or a Stream
        """
        place = self._place(x)
        parts = as_dataset(x).parts(self.spec(None, place))
        self.to(place)
        for part in parts:
            yield np.asarray(inference.outputs(self, [part], self._link, resolve("numpy")))

    @property
    def _link(self) -> Callable[[Any, Array], Array]:
        return self.loss.link if self.loss else _identity

    def evaluate(self, x: Any, y: Any = None, *, loss: str | Loss | None = None, sample_weight: Any = None,
                 metrics: Sequence[str | Callable[..., float] | Metric] = ()) -> dict[str, float]:
        """The mean loss, and metrics, on data: {"loss": ..., "accuracy": ...}.

        The loss is that of the last training unless one is given.

        Parameters
        ----------
        x : array (n, inputs), or a Stream, which brings its own y and weights
        y : array (n, outputs), (n,) where there is one output, class numbers (n,) for softmax_cross_entropy
        loss : str or Loss, optional
        sample_weight : array (n,), optional
        metrics : list, as in `fit`

        Raises
        ------
        NotFittedError
            The network has not been trained, and no loss is given.
        ParameterError, DataError, ArrayTypeError
        """
        if loss is None:
            loss = self.loss
        if loss is None:
            raise NotFittedError("evaluate needs a loss: the network has not been trained; pass loss='squared_error' "
                                 "or another")
        loss = as_loss(loss)
        self._check_loss(loss)
        metrics, place = as_metrics(metrics, loss), self._place(x)
        if y is None and not is_dataset(x):
            raise ParameterError("y is missing: evaluate(x, y)")
        with place.active():
            parts = as_dataset(x, y, sample_weight).parts(self.spec(loss, place))
        with self._on(place), np.errstate(all="ignore"):
            return inference.evaluate(self, parts, loss, metrics)

    def _check_loss(self, loss: Loss) -> None:
        """Raise ParameterError where the last layer has an activation, and the loss applies its own to the logits."""
        last = self.layers[-1].config().get("activation", "identity")
        if last != "identity" and type(loss).link is not Loss.link:
            raise ParameterError(f"the last layer has the activation {last!r}, and {loss.name} applies its own to "
                                 f"the logits: use Dense({self.outputs})")

    def _place(self, x: Any) -> Backend:
        """The backend on which x is worked on: for a network of backend "auto", that of x."""
        return (place_of(x) or resolve("numpy")) if self.follows_input else self.backend

    @contextlib.contextmanager
    def _on(self, place: Backend) -> Iterator[None]:
        """Move the network to a backend, and back where an error is raised."""
        before = self.backend
        self.to(place)
        try:
            with place.active():
                yield
        except BaseException:
            self.to(before)
            raise

    # --- saving ------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model to a folder: weights as safetensors, the rest as JSON.

        What the folder held of an earlier model is replaced in one moment. Raises OutputError where the folder
        cannot be written or holds other files.
        """
        storage.write(path, self.config(), self.arena.to_host())

    def config(self) -> dict[str, Any]:
        """All that a saved model holds, other than its tensors."""
        state = {} if self.preprocessing is None else self.preprocessing.to_dict()
        taken = sorted(state.keys() & self.extra.keys())
        if taken:
            raise ParameterError(f"extra must not hold {taken[0]!r}: the model file keeps the network's preprocessing "
                                 f"under that name")
        return {**super().config(), "loss": None if self.loss is None else self.loss.config(),
                "extra": {**self.extra, **state}}

    # --- showing -----------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        layers = ", ".join(map(repr, self.layers))
        return f"DenseNetwork([{layers}], inputs={self.inputs}, backend={self.backend.name!r}, dtype={self.dtype!r})"

    def summary(self) -> list[tuple[str, str, int]]:
        """A row per layer: its description, the shape that comes out, the number of trained parameters."""
        rows = []
        for position, (layer, width) in enumerate(zip(self.layers, self.widths()[1:], strict=True)):
            declared = self.arena.declared.items()
            size = sum(p.size for name, p in declared if p.trained and name.partition(".")[0] == str(position))
            rows.append((_described(layer), f"(batch, {width})", size))
        return rows


def load(path: str | Path, *, backend: str = "auto", precision: str = "full", ops: str = "auto",
         custom: Mapping[str, Any] | None = None) -> DenseNetwork:
    """A saved network, on any backend, whichever it was trained on.

    Parameters
    ----------
    path : the folder
    backend, precision, ops : str
        As in DenseNetwork; they are not saved.
    custom : mapping, optional
        The user's own by name: classes of layers, activations, initializers, a loss or its class.

    Raises
    ------
    ModelFileError
        Nothing is there, or it is damaged, or from a newer version.
    BackendError
        The backend is not here.
    """
    custom = custom or {}
    check_choice(precision, ops)
    place = resolve("numpy" if backend == "auto" else backend)
    saved_model = storage.read(path)
    config = saved_model.config
    try:
        layers = [from_config(layer, custom) for layer in config["layers"]]
        inputs = positive_int("inputs", config["inputs"])
        declared, _ = declared_by(stack(layers), inputs)
        if {name: parameter.shape for name, parameter in declared.items()} != saved_model.shapes:
            raise ValueError("its weights are not those of its layers")
        network = DenseNetwork(layers, inputs, backend, config["dtype"], config["seed"], precision, ops)
        saved = config["loss"]
        if isinstance(saved, dict) and saved.get("name") in custom:
            arguments = {k: v for k, v in saved.items() if k != "name"}
            own = custom[saved["name"]]
            network.loss = own if isinstance(own, Loss) else own(**arguments)
        else:
            network.loss = None if saved is None else as_loss(saved)
        network.preprocessing, network.extra = Preprocessing.split(dict(config.get("extra", {})))
    except UnknownNameError as error:
        raise ModelFileError(f"{path} holds something of its author's own: {error} Pass it as load(path, "
                             f"custom={{name: it}}).") from error
    except MemoryLimitError:
        raise
    except (XpdenseError, KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise ModelFileError(f"{path} does not describe a network that can be made: {error}") from error
    with place.active():
        for name, value in saved_model.tensors().items():
            network.arena.write(name, value)
    return network


def _identity(xp: Any, z: Array) -> Array:
    return z


def _described(layer: Layer) -> str:
    arguments = ", ".join(f"{k}={v}" for k, v in layer.config().items() if k not in ("layers", "initializer"))
    inside = " + ".join(_described(inner) for inner in layer.sublayers())
    return f"{type(layer).__name__}({arguments}{inside})"
