"""Bad input ends in an error of the family, which says what to do, before any work and before any file is touched."""

from __future__ import annotations

import gzip
import hashlib
import json
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import xpdense as xd
from xpdense import storage
from xpdense.activations import elu, leaky_relu
from xpdense.errors import (
    ArrayTypeError,
    BackendError,
    DataError,
    FileFormatError,
    MemoryLimitError,
    ModelFileError,
    NonFiniteDataError,
    NotFittedError,
    OutputError,
    ParameterError,
    ShapeError,
    TargetError,
    UnknownNameError,
    XpdenseError,
)
from xpdense.initializers import normal, uniform
from xpdense.schedules import Cosine, Exponential, InverseScaling, OneCycle, ReduceOnPlateau, Step

RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1])
VALUES = RNG.standard_normal((8, 1)).astype(np.float32)
ONES = np.ones(8, np.float32)


class Situation:
    """Two small networks and a shelf of folders, none of which an error may change."""

    def __init__(self, shelf: Path) -> None:
        self.shelf = shelf
        self.classifier = xd.DenseNetwork([xd.Dense(4, "tanh"), xd.Dense(3)], inputs=3)
        self.regressor = xd.DenseNetwork([xd.Dense(4, "tanh"), xd.BatchNorm(), xd.Dense(1)], inputs=3)

    def state(self) -> Any:
        """Everything that must stay as it is, to the bit."""
        networks = (self.classifier, self.regressor)
        weights = [{n: v.tobytes() for n, v in net.arena.to_host().items()} for net in networks]
        files = {str(p): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
                 for p in self.shelf.rglob("*")}
        return weights, files


Act = Callable[[Situation], Any]


class Case(NamedTuple):
    id: str
    act: Act
    error: type[XpdenseError]
    says: str
    needs: str = "numpy"  # a module without which the case is skipped


def classify(**changes: Any) -> Act:
    """Fit three classes, with these changes."""
    arguments = {"x": X, "y": LABELS, "loss": "softmax_cross_entropy", "epochs": 1} | changes
    return lambda s: s.classifier.fit(**arguments)


def regress(**changes: Any) -> Act:
    """Fit one output, with these changes."""
    arguments = {"x": X, "y": VALUES, "loss": "squared_error", "epochs": 1} | changes
    return lambda s: s.regressor.fit(**arguments)


def build(make: Callable[[], Any], **options: Any) -> Act:
    """Make a network of the layers that `make` gives."""
    arguments = {"inputs": 3} | options
    return lambda s: xd.DenseNetwork(make(), **arguments)


def optimize(make: Callable[[], Any]) -> Act:
    """Fit with the optimizer that `make` gives."""
    return lambda s: s.regressor.fit(X, VALUES, loss="squared_error", epochs=1, optimizer=make())


def load(folder: str, **options: Any) -> Act:
    """Load a folder of the shelf."""
    return lambda s: xd.load(s.shelf / folder, **options)


def spoilt(array: np.ndarray, value: float, dtype: Any = None) -> np.ndarray:
    """A copy with `value` in row 5."""
    array = np.array(array, dtype=dtype or array.dtype)
    array[5] = value
    return array


# --- namespaces that cannot serve ------------------------------------------------------------------------------

class Frozen:
    """An array whose elements cannot be set, as JAX's."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)
        self.shape, self.ndim, self.dtype, self.device = self.values.shape, self.values.ndim, self.values.dtype, "cpu"

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return FROZEN

    def __getitem__(self, key: Any) -> Frozen:
        return type(self)(self.values[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        raise TypeError("this array is immutable")

    def __add__(self, other: Any) -> Frozen:
        return type(self)(self.values + other)

    def __float__(self) -> float:
        return float(self.values)


class Copying(Frozen):
    """An array that can be set, and whose slices are copies."""

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return COPYING

    def __getitem__(self, key: Any) -> Frozen:
        return Copying(self.values[key].copy())

    def __setitem__(self, key: Any, value: Any) -> None:
        self.values[key] = value


def namespace(name: str, cls: type[Frozen]) -> Any:
    module: Any = types.ModuleType(name)
    module.zeros = lambda shape, **_: cls(np.zeros(shape))
    return module


FROZEN, COPYING = namespace("frozen_arrays", Frozen), namespace("copying_arrays", Copying)


# --- the user's own, which a saved model needs again -----------------------------------------------------------

class Scale(xd.Layer):
    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"gain": xd.Parameter((inputs,), "ones")}

    def forward(self, ops: Any, x: Any, tape: Any) -> Any:
        return x * self.params["gain"]


class Dotted(xd.Layer):
    """A layer whose parameter's name would be taken for a path."""

    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"a.gain": xd.Parameter((inputs,), "ones")}


class Own(xd.Loss):
    name = "own_loss"

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> Any:
        e = z - target
        return xp.mean(e * e, axis=-1), 2.0 * e / z.shape[-1]


SQUARE = xd.Activation("own_square", lambda xp, z: z * z, lambda xp, z: 2.0 * z)


# --- folders that are no models, or no good ones ---------------------------------------------------------------

def saved(folder: Path, layers: Any = None, seed: int = 0, loss: xd.Loss | None = None) -> Path:
    network = xd.DenseNetwork(layers or [xd.Dense(4, "tanh"), xd.Dense(1)], inputs=3, seed=seed)
    network.loss = loss
    network.save(folder)
    return folder


def weights_of(folder: Path) -> Path:
    return next(folder.glob("weights-*.safetensors"))


def change_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / "model.json").read_text())
    change(index)
    if isinstance(index.get("model"), dict):
        index["checksum"] = storage._checksum(index["model"])  # as whoever makes such a file would
    (folder / "model.json").write_text(json.dumps(index))


def put_weights(folder: Path, data: bytes) -> None:
    """Other weights, with an index that says they are right."""
    digest = hashlib.sha256(data).hexdigest()
    weights_of(folder).unlink()
    (folder / f"weights-{digest[:16]}.safetensors").write_bytes(data)
    change_index(folder, lambda i: i.update(weights=f"weights-{digest[:16]}.safetensors", sha256=digest))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shelf = tmp_path_factory.mktemp("shelf")
    (shelf / "a_file").write_text("not a folder")
    (shelf / "empty").mkdir()
    (shelf / "taken").mkdir()
    (shelf / "taken" / "thesis.tex").write_text("three years of work")
    other = saved(shelf / "good", seed=5)
    wide = saved(shelf / "wide", layers=[xd.Dense(5), xd.Dense(1)])

    weights = weights_of(saved(shelf / "weights_cut"))
    weights.write_bytes(weights.read_bytes()[:-7])
    weights_of(saved(shelf / "weights_gone")).unlink()
    weights_of(saved(shelf / "weights_swapped")).write_bytes(weights_of(other).read_bytes())
    put_weights(saved(shelf / "weights_of_another"), weights_of(wide).read_bytes())
    put_weights(saved(shelf / "weights_garbage"), b"this is not safetensors" * 9)

    index = saved(shelf / "index_cut") / "model.json"
    index.write_bytes(index.read_bytes()[:40])
    (saved(shelf / "index_binary") / "model.json").write_bytes(bytes(range(128, 256)))
    (saved(shelf / "index_list") / "model.json").write_text("[1, 2]")
    (saved(shelf / "index_deep") / "model.json").write_text("[" * 200_000)
    change_index(saved(shelf / "other_format"), lambda i: i.update(format="sklearn"))
    change_index(saved(shelf / "newer"), lambda i: i.update(version=99, reads=99))
    change_index(saved(shelf / "no_version"), lambda i: i.pop("version"))
    change_index(saved(shelf / "outside"), lambda i: i.update(weights="../x"))
    change_index(saved(shelf / "outside_too"), lambda i: i.update(weights="/" + i["weights"]))
    change_index(saved(shelf / "no_network"), lambda i: i.update(model=[]))
    change_index(saved(shelf / "no_layers"), lambda i: i["model"].pop("layers"))
    change_index(saved(shelf / "bad_layer"), lambda i: i["model"]["layers"][0].update(type="Conv2d"))
    change_index(saved(shelf / "bad_argument"), lambda i: i["model"]["layers"][0].update(stride=2))
    change_index(saved(shelf / "bad_loss"), lambda i: i["model"].update(loss={"name": "hinge"}))
    change_index(saved(shelf / "absurd"), lambda i: i["model"]["layers"][0].update(units=10**12))
    saved(shelf / "own_layer", layers=[Scale(), xd.Dense(1)])
    saved(shelf / "own_activation", layers=[xd.Dense(4, SQUARE), xd.Dense(1)])
    saved(shelf / "own_loss", loss=Own())

    (shelf / "ragged.csv").write_text("a,b,y\n1,2,0\n3,4,1\n5,6,0,7\n")
    (shelf / "no_rows.csv").write_text("a,b,y\n")
    (shelf / "nothing.csv").write_text("")
    (shelf / "one_class.csv").write_text("a,y\n1,yes\n2,yes\n3,yes\n")
    (shelf / "one_row.csv").write_text("a,y\n1,2.5\n")
    (shelf / "no_target.csv").write_text("a,b\n1,2\n3,4\n")
    (shelf / "infinite.csv").write_text("a,y\n1,0.5\ninf,1.5\n3,2.5\n4,0.25\n")
    (shelf / "missing_target.csv").write_text("a,y\n1,0.5\n2,\n3,2.5\n4,0.25\n")
    (shelf / "broken.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    np.savez(shelf / "no_y.npz", x=X)
    (shelf / "packed.csv").write_bytes(gzip.compress(b"a,y\n1,2\n"))
    (shelf / "three.csv").write_text("a,b,c\n1,2,3\n4,5,7\n")
    np.save(shelf / "x.npy", X)
    (shelf / "cut.npy").write_bytes((shelf / "x.npy").read_bytes()[:-9])
    (shelf / "not.npy").write_text("not an array")
    for name in ("kept", "torn"):
        regress(epochs=2, callbacks=[xd.Checkpoint(shelf / name, keep=1)])(Situation(shelf))
    for path in (shelf / "torn").glob("step-*/training.json"):
        path.write_bytes(path.read_bytes()[:-40])
    np.savez(shelf / "objects.npz", x=np.array([{}, []], dtype=object), y=np.zeros(2))
    return shelf


# --- the table -------------------------------------------------------------------------------------------------

def _torch(make: Callable[[Any], Any]) -> Any:
    import torch

    return make(torch)


def _sparse() -> Any:
    import scipy.sparse

    return scipy.sparse.csr_array(X)


def history() -> xd.History:
    history = xd.History()
    history.append(loss=1.0)
    return history


def _extra(value: Any) -> Act:
    def act(s: Situation) -> None:
        s.classifier.extra = {"value": value}
        s.classifier.save(s.shelf / "new")

    return act


def _call_loss(target: np.ndarray, weight: np.ndarray | None = None, loss: str = "squared_error") -> Act:
    from xpdense.losses import as_loss

    return lambda s: as_loss(loss)(s.regressor.ops, VALUES, target, weight)


DATA = [
    # values that are not finite
    Case("x-nan", classify(x=spoilt(X, np.nan)), NonFiniteDataError, "impute or remove"),
    Case("x-inf", classify(x=spoilt(X, np.inf)), NonFiniteDataError, "row 5, column 0"),
    Case("x-minus-inf", classify(x=spoilt(X, -np.inf)), NonFiniteDataError, "-inf"),
    Case("x-list-with-nan", regress(x=[[0.0, 1.0, float("nan")]] * 8), NonFiniteDataError, "x holds nan"),
    Case("y-nan", regress(y=spoilt(VALUES, np.nan)), NonFiniteDataError, "y holds nan (row 5"),
    Case("y-inf", regress(y=spoilt(VALUES, np.inf)), NonFiniteDataError, "impute or remove"),
    Case("y-minus-inf", regress(y=spoilt(VALUES, -np.inf)), NonFiniteDataError, "impute or remove"),
    Case("y-class-nan", classify(y=spoilt(LABELS, np.nan, float)), NonFiniteDataError, "y holds nan"),
    Case("weight-nan", regress(sample_weight=spoilt(ONES, np.nan)), NonFiniteDataError, "sample_weight holds nan"),
    Case("weight-inf", regress(sample_weight=spoilt(ONES, np.inf)), NonFiniteDataError, "sample_weight holds inf"),
    Case("weight-minus-inf", regress(sample_weight=spoilt(ONES, -np.inf)), NonFiniteDataError, "sample_weight"),
    Case("predict-nan", lambda s: s.regressor.predict(spoilt(X, np.nan)), NonFiniteDataError, "impute or remove"),
    Case("evaluate-nan", lambda s: s.regressor.evaluate(spoilt(X, np.nan), VALUES, loss="squared_error"),
         NonFiniteDataError, "impute or remove"),
    Case("float16-overflow", regress(x=spoilt(X, np.inf, np.float16)), NonFiniteDataError, "float16 ends at 65504"),
    Case("float32-overflow", regress(x=spoilt(X, 1e40, float)), NonFiniteDataError, "dtype='float64'"),
    Case("y-float32-overflow", regress(y=spoilt(VALUES, 1e40, float)), NonFiniteDataError, "overflows float32"),
    Case("weight-float32-overflow", regress(sample_weight=spoilt(ONES, 1e40, float)), NonFiniteDataError, "overflows"),
    Case("torch-nan", lambda s: s.regressor.predict(_torch(lambda t: t.full((4, 3), float("nan")))),
         NonFiniteDataError, "impute or remove", "torch"),
    Case("torch-bfloat16-nan", lambda s: s.regressor.predict(
        _torch(lambda t: t.full((4, 3), float("nan"), dtype=t.bfloat16))), NonFiniteDataError, "impute", "torch"),

    # shapes
    Case("x-no-rows", classify(x=X[:0], y=LABELS[:0]), DataError, "x is empty"),
    Case("predict-no-rows", lambda s: s.regressor.predict(X[:0]), DataError, "x is empty"),
    Case("x-no-columns", classify(x=X[:, :0]), ShapeError, "x has 0 features, and the network takes 3"),
    Case("x-empty-list", classify(x=[], y=[]), ShapeError, "(rows, features)"),
    Case("x-1d", regress(x=X[:, 0]), ShapeError, "x.reshape(-1, 1)"),
    Case("x-3d", regress(x=X[:, :, None]), ShapeError, "x must be (rows, features)"),
    Case("x-scalar", lambda s: s.regressor.predict(3.0), ShapeError, "x must be (rows, features)"),
    Case("fit-features", regress(x=X[:, :2]), ShapeError, "x has 2 features, and the network takes 3"),
    Case("predict-features", lambda s: s.regressor.predict(X[:, :2]), ShapeError, "the network takes 3"),
    Case("predict-one-row", lambda s: s.regressor.predict(X[0]), ShapeError, "x.reshape(1, -1)"),
    Case("evaluate-features", lambda s: s.regressor.evaluate(X[:, :2], VALUES, loss="squared_error"), ShapeError,
         "the network takes 3"),
    Case("forward-features", lambda s: s.regressor.forward(X[:, :2]), ShapeError, "takes 3 features"),
    Case("backward-first", lambda s: s.regressor.backward(VALUES), ShapeError, "forward(x, train=True)"),
    Case("y-shorter", regress(y=VALUES[:7]), ShapeError, "y has 7 rows, and x has 8"),
    Case("y-scalar", regress(y=1.0), ShapeError, "y has no rows"),
    Case("y-wide", regress(y=np.ones((8, 2))), ShapeError, "(n, 1)"),
    Case("y-3d", regress(y=np.ones((8, 1, 1))), ShapeError, "(n, 1)"),
    Case("y-1d-for-many-outputs", classify(loss="squared_error"), ShapeError, "(n, 3)"),
    Case("labels-n1", classify(y=LABELS[:, None]), ShapeError, "pass y[:, 0]"),
    Case("weight-n1", regress(sample_weight=ONES[:, None]), ShapeError, "one weight a row"),
    Case("weight-shorter", regress(sample_weight=ONES[:7]), ShapeError, "must have shape (8,)"),
    Case("weight-scalar", regress(sample_weight=2.0), ShapeError, "one weight a row"),
    Case("loss-broadcast", _call_loss(VALUES[:, 0]), ShapeError, "must not be broadcast"),
    Case("loss-broadcast-row", _call_loss(VALUES.T, loss="huber"), ShapeError, "must not be broadcast"),
    Case("loss-weight-n1", _call_loss(VALUES, ONES[:, None]), ShapeError, "weight"),
    Case("loss-weight-shorter", _call_loss(VALUES, ONES[:1]), ShapeError, "weight"),

    # element types
    Case("x-object", regress(x=X.astype(object)), ArrayTypeError, "encode categories as numbers"),
    Case("x-complex", regress(x=X.astype(complex)), ArrayTypeError, "complex numbers"),
    Case("x-text", regress(x=X.astype(str)), ArrayTypeError, "encode categories as numbers"),
    Case("x-bytes", regress(x=X.astype(bytes)), ArrayTypeError, "text"),
    Case("x-dates", regress(x=np.full((8, 3), "2020-01-01", "datetime64[D]")), ArrayTypeError, "dates"),
    Case("x-timedelta", regress(x=np.full((8, 3), 1, "timedelta64[D]")), ArrayTypeError, "real numbers"),
    Case("x-record", regress(x=np.zeros((8, 3), [("a", float)])), ArrayTypeError, "real numbers"),
    Case("x-none", regress(x=None), ArrayTypeError, "real numbers"),
    Case("x-word", lambda s: s.regressor.predict("abc"), ArrayTypeError, "text"),
    Case("x-sparse", lambda s: s.regressor.predict(_sparse()), ArrayTypeError, "x.toarray()"),
    Case("x-sparse-fit", lambda s: regress(x=_sparse())(s), ArrayTypeError, "x.toarray()"),
    Case("x-ragged", regress(x=[[1.0, 2.0, 3.0], [4.0]]), ArrayTypeError, "cannot be made an array"),
    Case("x-masked", regress(x=np.ma.masked_array(X, X > 0)), ArrayTypeError, "x.filled("),
    Case("y-text", classify(y=np.array(list("abcabcab"))), ArrayTypeError, "encode categories as numbers"),
    Case("y-object", classify(y=np.array(list("abcabcab"), dtype=object)), ArrayTypeError, "y holds objects"),
    Case("y-complex", regress(y=VALUES.astype(complex)), ArrayTypeError, "y holds complex"),
    Case("y-dates", regress(y=np.full(8, "2020-01-01", "datetime64[D]")), ArrayTypeError, "y holds dates"),
    Case("y-none", regress(y=None), ParameterError, "y is missing"),
    Case("weight-text", regress(sample_weight=["1"] * 8), ArrayTypeError, "sample_weight holds text"),
    Case("torch-complex", lambda s: s.regressor.predict(_torch(lambda t: t.zeros((4, 3), dtype=t.complex64))),
         ArrayTypeError, "real numbers", "torch"),
    Case("torch-sparse", lambda s: s.regressor.predict(_torch(lambda t: t.eye(3).to_sparse())), ArrayTypeError,
         "sparse", "torch"),

    # targets that the loss cannot use
    Case("label-too-large", classify(y=LABELS + 1), TargetError, "must lie in 0..2"),
    Case("label-negative", classify(y=LABELS - 1), TargetError, "got -1"),
    Case("label-fraction", classify(y=LABELS + 0.5), TargetError, "must be whole"),
    Case("label-huge", classify(y=LABELS * 1e30), TargetError, "class numbers must"),
    Case("one-hot-negative", classify(y=-np.eye(3)[LABELS]), TargetError, "not negative"),
    Case("one-hot-of-zeros", classify(y=np.zeros((8, 3))), TargetError, "a class in every row"),
    Case("binary-minus-one", regress(loss="binary_cross_entropy", y=np.sign(VALUES)), TargetError,
         "code the two classes as 0 and 1"),
    Case("binary-one-two", regress(loss="binary_cross_entropy", y=1 + (VALUES > 0)), TargetError, "as 0 and 1"),
    Case("poisson-negative", regress(loss="poisson"), TargetError, "not negative"),
    Case("softmax-of-one", regress(loss="softmax_cross_entropy", y=np.zeros(8, int)), ShapeError,
         "binary_cross_entropy with 1"),
    Case("weight-negative", regress(sample_weight=spoilt(ONES, -1.0)), DataError, "must not be negative, got -1"),
    Case("weight-all-zero", regress(sample_weight=0 * ONES), DataError, "nothing would be learnt"),
    Case("one-class-roc-auc", classify(y=0 * LABELS, metrics=["roc_auc"]), TargetError, "roc_auc"),
    Case("one-class-roc-auc-evaluate",
         lambda s: s.regressor.evaluate(X, np.zeros(8), loss="binary_cross_entropy", metrics=["roc_auc"]),
         TargetError, "roc_auc"),
    Case("r2-of-class-numbers", classify(metrics=["r2"]), TargetError, "r2 cannot be computed"),
    Case("balanced-accuracy-of-labels", classify(y=np.eye(3)[LABELS], loss="binary_cross_entropy",
                                                 metrics=["balanced_accuracy"]), TargetError, "balanced_accuracy"),

    # validation
    Case("validation-zero", regress(validation=0.0), ParameterError, "validation must be"),
    Case("validation-one", regress(validation=1.0), ParameterError, "(0, 1)"),
    Case("validation-more", regress(validation=1.5), ParameterError, "(0, 1)"),
    Case("validation-nan", regress(validation=float("nan")), ParameterError, "(0, 1)"),
    Case("validation-true", regress(validation=True), ParameterError, "validation must be"),
    Case("validation-text", regress(validation="a fifth"), ParameterError, "validation must be"),
    Case("validation-array", regress(validation=X), ParameterError, "validation must be"),
    Case("validation-alone", regress(validation=(X,)), ParameterError, "(x, y, sample_weight)"),
    Case("validation-four", regress(validation=(X, VALUES, ONES, ONES)), ParameterError, "tuple of 4"),
    Case("validation-one-row", regress(x=X[:1], y=VALUES[:1], validation=0.5), DataError, "1 row cannot be split"),
    Case("validation-x", regress(validation=(X[:, :2], VALUES)), ShapeError, "validation x has 2 features"),
    Case("validation-y", regress(validation=(X, VALUES[:7])), ShapeError, "validation y has 7 rows"),
    Case("validation-nan-y", regress(validation=(X, spoilt(VALUES, np.nan))), NonFiniteDataError, "validation y"),
    Case("validation-weight", regress(validation=(X, VALUES, ONES[:, None])), ShapeError, "validation sample_weight"),
    Case("validation-empty", regress(validation=(X[:0], VALUES[:0])), DataError, "validation x is empty"),
]

NAMES = [
    Case("name-activation", build(lambda: [xd.Dense(4, "rele")]), UnknownNameError, "Did you mean 'relu'? Known: elu"),
    Case("name-activation-none", build(lambda: [xd.Dense(4, None)]), UnknownNameError, "Known: elu"),  # type: ignore
    Case("name-activation-function", build(lambda: [xd.Dense(4, np.tanh)]), UnknownNameError,  # type: ignore
         "Known: elu"),
    Case("name-initializer", build(lambda: [xd.Dense(4, initializer="he")]), UnknownNameError, "Known: glorot_normal"),
    Case("name-initializer-empty", build(lambda: [xd.Dense(4, initializer="")]), UnknownNameError,
         "Known: glorot_normal"),
    Case("name-loss", regress(loss="mse"), UnknownNameError, "Known: absolute_error, binary_cross_entropy"),
    Case("name-loss-function", regress(loss=lambda z, t: 0.0), UnknownNameError, "Known: absolute_error"),
    Case("name-loss-evaluate", lambda s: s.regressor.evaluate(X, VALUES, loss="mse"), UnknownNameError, "Known: abs"),
    Case("name-optimizer", regress(optimizer="adm"), UnknownNameError, "Did you mean 'adam'? Known: adagrad, adam"),
    Case("name-optimizer-none", regress(optimizer=None), UnknownNameError, "Known: adagrad"),
    Case("name-metric", classify(metrics=["acuracy"]), UnknownNameError, "Did you mean 'accuracy'? Known: accuracy"),
    Case("name-metric-evaluate", lambda s: s.regressor.evaluate(X, VALUES, loss="squared_error", metrics=["r3"]),
         UnknownNameError, "Known: accuracy"),
    Case("name-dtype", build(lambda: [xd.Dense(1)], dtype="float16"), UnknownNameError, "Known: float32, float64"),
    Case("name-dtype-class", build(lambda: [xd.Dense(1)], dtype=np.float32), UnknownNameError, "Known: float32"),
    Case("name-backend", build(lambda: [xd.Dense(1)], backend="nump"), UnknownNameError,
         "Did you mean 'numpy'? Known: array_api_strict, auto, cupy, numpy, torch"),
    Case("name-backend-to", lambda s: s.regressor.to("pytorch"), UnknownNameError, "Known: array_api_strict"),
    Case("name-backend-load", load("good", backend="tf"), UnknownNameError, "Known: array_api_strict"),
    Case("name-monitor", regress(callbacks=[xd.EarlyStopping("validation_loss")]), UnknownNameError, "Known: loss."),
    Case("name-monitor-metric", classify(callbacks=[xd.EarlyStopping("accuracy")], validation=0.25,
                                         metrics=["accuracy"]), UnknownNameError, "Known: loss, validation_accuracy"),
]

NUMBERS = [
    *(Case(f"learning-rate-{value!r:.9}", optimize(lambda value=value: xd.Adam(value)), ParameterError, "learning_rate")
      for value in (0, -0.1, float("nan"), float("inf"), "0.1", True, None, [0.1], 10**400, 1j)),
    Case("learning-rate-function", optimize(lambda: xd.SGD(lambda step: 0.1)), ParameterError, "subclass"),  # type: ignore
    *(Case(f"epochs-{value!r:.9}", regress(epochs=value), ParameterError, "epochs must be")
      for value in (0, -1, 1.5, "3", True, float("nan"), np.array([1, 2]))),
    *(Case(f"batch-size-{value!r:.9}", regress(batch_size=value), ParameterError, "batch_size must be")
      for value in (0, -1, 2.5, "32", True, None)),
    Case("shuffle", regress(shuffle="no"), ParameterError, "shuffle must be True or False"),
    *(Case(f"units-{value!r:.9}", build(lambda value=value: [xd.Dense(value)]), ParameterError, "units must be")
      for value in (0, -3, 2.0, "4", True)),
    Case("bias", build(lambda: [xd.Dense(1, bias="no")]), ParameterError, "bias must be True or False"),  # type: ignore
    *(Case(f"inputs-{value!r:.9}", build(lambda: [xd.Dense(1)], inputs=value), ParameterError, "inputs must be")
      for value in (0, -1, 3.0, None)),
    *(Case(f"seed-{value!r:.9}", build(lambda: [xd.Dense(1)], seed=value), ParameterError, "seed must be")
      for value in (-1, 0.5, None)),
    *(Case(f"rate-{value!r:.9}", build(lambda value=value: [xd.Dropout(value), xd.Dense(1)]), ParameterError,
           "rate must be a") for value in (1.0, -0.1, float("nan"), "half", True)),
    Case("layer-norm-epsilon", build(lambda: [xd.LayerNorm(0.0), xd.Dense(1)]), ParameterError, "epsilon must be"),
    Case("batch-norm-momentum", build(lambda: [xd.BatchNorm(1.5), xd.Dense(1)]), ParameterError, "momentum must be"),
    Case("slope-one", lambda s: leaky_relu(1.0), ParameterError, "slope must be a finite number in (0, 1)"),
    Case("slope-negative", lambda s: leaky_relu(-0.1), ParameterError, "slope must be"),
    Case("slope-by-another-name", build(lambda: [xd.Dense(4, {"name": "leaky_relu", "alpha": 0.1})]), ParameterError,
         "slope"),
    Case("elu-alpha", lambda s: elu(0.0), ParameterError, "alpha must be"),
    Case("initializer-std", lambda s: normal(-1.0), ParameterError, "std must be"),
    Case("initializer-limit", lambda s: uniform(float("inf")), ParameterError, "limit must be"),
    Case("delta", lambda s: xd.Huber(0.0), ParameterError, "delta must be"),
    *(Case(f"q-{value!r}", lambda s, value=value: xd.Quantile(value), ParameterError, "q must be a finite number in (0")
      for value in (0.0, 1.0, 90)),
    *(Case(f"label-smoothing-{value!r}", lambda s, value=value: xd.SoftmaxCrossEntropy(value), ParameterError,
           "label_smoothing must be a finite number in [0, 1)") for value in (1.0, -0.1)),
    *(Case(f"clip-norm-{value!r}", optimize(lambda value=value: xd.Adam(clip_norm=value)), ParameterError,
           "clip_norm must be") for value in (0, -1.0, "1", float("inf"))),
    *(Case(f"weight-decay-{value!r}", optimize(lambda value=value: xd.AdamW(weight_decay=value)), ParameterError,
           "weight_decay must be") for value in (-0.1, float("nan"), "0.1")),
    Case("decay-all", optimize(lambda: xd.SGD(decay_all="no")), ParameterError,  # type: ignore
         "decay_all must be True or False"),
    *(Case(f"beta1-{value!r}", optimize(lambda value=value: xd.Adam(beta1=value)), ParameterError, "beta1 must be")
      for value in (1.0, -0.1)),
    Case("beta2", optimize(lambda: xd.Lion(beta2=1.0)), ParameterError, "beta2 must be"),
    *(Case(f"momentum-{value!r}", optimize(lambda value=value: xd.Momentum(momentum=value)), ParameterError,
           "momentum must be a finite number in [0, 1]") for value in (1.5, -0.5)),
    Case("rmsprop-decay", optimize(lambda: xd.RMSprop(decay=1.0)), ParameterError, "decay must be"),
    *(Case(f"epsilon-{cls.__name__}", optimize(lambda cls=cls: cls(epsilon=0.0)), ParameterError, "epsilon must be")
      for cls in (xd.Adam, xd.RMSprop, xd.Adagrad)),  # 0 / 0 where a gradient has always been 0
    *(Case(f"patience-{value!r}", lambda s, value=value: xd.EarlyStopping(patience=value), ParameterError,
           "patience must be") for value in (0, -1, 1.5, "3")),
    Case("tolerance", lambda s: xd.EarlyStopping(tolerance=-1.0), ParameterError, "tolerance must be"),
    Case("restore-best", lambda s: xd.EarlyStopping(restore_best="no"), ParameterError,  # type: ignore
         "restore_best must be True or False"),
    Case("schedule-every", lambda s: Step(0.1, every=0), ParameterError, "every must be"),
    Case("schedule-factor", lambda s: Step(0.1, every=1, factor=0.0), ParameterError, "factor must be"),
    Case("schedule-decay", lambda s: Exponential(0.1, decay=-1.0), ParameterError, "decay must be"),
    Case("schedule-power", lambda s: InverseScaling(0.1, power=-1.0), ParameterError, "power must be"),
    Case("schedule-warmup", lambda s: Cosine(0.1, warmup=1.0), ParameterError, "warmup must be"),
    Case("schedule-rise", lambda s: OneCycle(0.1, rise=0.0), ParameterError, "rise must be"),
    Case("schedule-plateau", lambda s: ReduceOnPlateau(0.1, factor=1.0), ParameterError, "factor must be"),
    Case("schedule-rate", lambda s: Cosine(0.0), ParameterError, "learning_rate must be"),
    Case("units-without-memory", build(lambda: [xd.Dense(10**12), xd.Dense(1)]), MemoryLimitError, "narrower layers"),
    Case("inputs-without-memory", build(lambda: [xd.Dense(64)], inputs=10**12), MemoryLimitError, "fewer or narrower"),
    Case("batch-without-memory", lambda s: xd.DenseNetwork([xd.Dense(50_000), xd.Dense(1)], 1).fit(
        np.zeros((2**20, 1), np.float32), np.zeros(2**20, np.float32), loss="squared_error", epochs=1,
        batch_size=10**12), MemoryLimitError, "would fit"),
]

KINDS = [
    Case("layers-empty", build(lambda: []), ParameterError, "at least one layer"),
    Case("layers-one", build(lambda: xd.Dense(1)), ParameterError, "must be a list"),
    Case("layers-number", build(lambda: [64, 1]), ParameterError, "such as Dense(64, 'relu')"),
    Case("layers-class", build(lambda: [xd.Dense]), ParameterError, "did you mean Dense(...)?"),
    Case("layers-name", build(lambda: ["relu", xd.Dense(1)]), ParameterError, "each layer must be a Layer"),
    Case("layers-generator", build(lambda: (xd.Dense(1) for _ in range(2))), ParameterError, "must be a list"),
    Case("residual-empty", build(lambda: [xd.Residual([])]), ParameterError, "at least one layer"),
    Case("residual-class", build(lambda: [xd.Residual([xd.LayerNorm])]), ParameterError,  # type: ignore
         "did you mean LayerNorm(...)?"),
    Case("residual-width", build(lambda: [xd.Residual([xd.Dense(5)])]), ShapeError, "end it with Dense(3)"),
    Case("residual-inside", build(lambda: [xd.Dense(5), xd.Residual([xd.Residual([xd.Dense(4)])])]), ShapeError,
         "end it with Dense(5)"),
    Case("loss-class", regress(loss=xd.Huber), ParameterError, "pass an instance of the loss: Huber()"),
    Case("optimizer-class", regress(optimizer=xd.Adam), ParameterError, "pass an instance"),
    Case("optimizer-dict", regress(optimizer={"name": "adam"}), ParameterError, "such as Adam(1e-3)"),
    Case("callback-class", regress(callbacks=[xd.EarlyStopping]), ParameterError, "did you mean EarlyStopping()?"),
    Case("callback-function", regress(callbacks=[print]), ParameterError, "must be a Callback"),
    Case("metric-alone", classify(metrics="accuracy"), ParameterError, "must be a list, such as ['accuracy']"),
    Case("metric-number", classify(metrics=[3]), ParameterError, "(target, prediction) -> float"),
    Case("metric-twice", regress(metrics=["r2", "mae", "r2"]), ParameterError, "'r2' is asked for twice"),
    Case("metric-twice-own", regress(metrics=[lambda t, p: 0.0, lambda t, p: 1.0]), ParameterError, "twice"),
    *(Case(f"metric-called-{name}", regress(metrics=[xd.Metric(name, "values", "r2_score", True)]), ParameterError,
           "another name") for name in ("loss", "seconds", "learning_rate", "rows_per_second")),
    Case("metric-takes", lambda s: xd.Metric("m", "value", "r2_score", True), ParameterError,
         "'labels', 'probabilities' or 'values'"),
    Case("metric-function", regress(metrics=[xd.Metric("m", "values", "r3_score", True)]), ParameterError,
         "sklearn.metrics has no 'r3_score'"),
    *(Case(f"metric-{name}-of-regression", regress(metrics=[name]), ParameterError, "use r2, rmse or mae")
      for name in ("accuracy", "balanced_accuracy", "f1", "roc_auc", "log_loss")),
    Case("activation-saves", lambda s: xd.Activation("a", np.tanh, np.tanh, saves="both"), ParameterError,
         "'input' or 'output'"),
    Case("parameter-name", build(lambda: [Dotted(), xd.Dense(1)]), ParameterError, "must not hold a dot"),
    Case("evaluate-untrained", lambda s: s.regressor.evaluate(X, VALUES), NotFittedError, "pass loss='squared_error'"),
]

BACKENDS = [
    Case("jax-by-name", build(lambda: [xd.Dense(1)], backend="jax"), BackendError, "immutable"),
    Case("immutable-predict", lambda s: s.regressor.predict(Frozen(X)), BackendError, "frozen_arrays are immutable"),
    Case("immutable-fit", regress(x=Frozen(X)), BackendError, "numpy.asarray(x)"),
    Case("immutable-y", regress(y=Frozen(VALUES)), BackendError, "Use numpy, cupy or torch"),
    Case("slices-are-copies", regress(x=Copying(X)), BackendError, "writable views"),
    Case("numpy-device", build(lambda: [xd.Dense(1)], backend="numpy:1"), BackendError, "use 'numpy'"),
    Case("auto-device", build(lambda: [xd.Dense(1)], backend="auto:1"), ParameterError, "it follows the data"),
    Case("backend-module", build(lambda: [xd.Dense(1)], backend=np), ParameterError, "a name such as 'numpy'"),
    Case("backend-none", build(lambda: [xd.Dense(1)], backend=None), ParameterError, "a name such as 'numpy'"),
    Case("strict-device", build(lambda: [xd.Dense(1)], backend="array_api_strict:device9"), BackendError,
         "no device 'device9'", "array_api_strict"),
    Case("torch-device-number", build(lambda: [xd.Dense(1)], backend="torch:cuda:99"), BackendError,
         "cannot use device 'cuda:99'", "torch"),
    Case("torch-device-word", build(lambda: [xd.Dense(1)], backend="torch:gpu"), BackendError,
         "cannot use device 'gpu'", "torch"),
    Case("torch-device-meta", build(lambda: [xd.Dense(1)], backend="torch:meta"), BackendError,
         "cannot use device 'meta'", "torch"),
    Case("torch-to", lambda s: s.regressor.to("torch:cuda:99"), BackendError, "cannot use device", "torch"),
    Case("cupy-device", build(lambda: [xd.Dense(1)], backend="cupy:99"), BackendError, "CU"),
    Case("cupy-load", load("good", backend="cupy:99"), BackendError, "CU"),
]

FILES = [
    Case("save-below-a-file", lambda s: s.regressor.save(s.shelf / "a_file" / "model"), OutputError, "another folder"),
    Case("save-over-a-file", lambda s: s.regressor.save(s.shelf / "a_file"), OutputError, "another folder"),
    Case("save-beside-others", lambda s: s.regressor.save(s.shelf / "taken"), OutputError, "a folder of its own"),
    Case("save-object", _extra(object()), OutputError, "does not fit JSON"),
    Case("save-nan", _extra(float("nan")), OutputError, "does not fit JSON"),
    Case("history-csv", lambda s: xd.History().to_csv(s.shelf / "a_file" / "h.csv"), OutputError, "cannot write"),
    Case("history-plot", lambda s: history().plot(s.shelf / "a_file" / "h.png"), OutputError, "cannot write",
         "matplotlib"),
    Case("history-plot-format", lambda s: history().plot(s.shelf / "h.xyz"), ParameterError, "png", "matplotlib"),
    Case("history-plot-empty", lambda s: xd.History().plot(), ParameterError, "no epochs", "matplotlib"),
    Case("load-missing", load("nowhere"), ModelFileError, "it has no model.json"),
    Case("load-empty", load("empty"), ModelFileError, "it has no model.json"),
    Case("load-file", load("a_file"), ModelFileError, "model.json"),
    Case("load-weights-cut", load("weights_cut"), ModelFileError, "is damaged"),
    Case("load-weights-gone", load("weights_gone"), ModelFileError, "cannot be read"),
    Case("load-weights-swapped", load("weights_swapped"), ModelFileError, "checksum"),
    Case("load-weights-of-another", load("weights_of_another"), ModelFileError, "not those of its layers"),
    Case("load-weights-garbage", load("weights_garbage"), ModelFileError, "its header would take"),
    Case("load-index-cut", load("index_cut"), ModelFileError, "cannot be read"),
    Case("load-index-binary", load("index_binary"), ModelFileError, "cannot be read"),
    Case("load-index-list", load("index_list"), ModelFileError, "is not an xpdense model"),
    Case("load-index-deep", load("index_deep"), ModelFileError, "cannot be read"),
    Case("load-other-format", load("other_format"), ModelFileError, "is not an xpdense model"),
    Case("load-newer", load("newer"), ModelFileError, "pip install --upgrade xpdense"),
    Case("load-no-version", load("no_version"), ModelFileError, "which format it has"),
    Case("load-outside", load("outside"), ModelFileError, "names no file of weights: '../x'"),
    Case("load-outside-too", load("outside_too"), ModelFileError, "names no file of weights: '/"),
    Case("load-no-network", load("no_network"), ModelFileError, "holds no model"),
    Case("load-no-layers", load("no_layers"), ModelFileError, "layers"),
    Case("load-bad-layer", load("bad_layer"), ModelFileError, "unknown layer 'Conv2d'"),
    Case("load-bad-argument", load("bad_argument"), ModelFileError, "stride"),
    Case("load-bad-loss", load("bad_loss"), ModelFileError, "unknown loss 'hinge'"),
    Case("load-absurd", load("absurd"), ModelFileError, "not those of its layers"),
    Case("load-own-layer", load("own_layer"), ModelFileError, "custom="),
    Case("load-own-activation", load("own_activation"), ModelFileError, "custom="),
    Case("load-own-loss", load("own_loss"), ModelFileError, "custom="),
]

def train(data: str, *options: str) -> Act:
    """`xpdense train` on a file of the shelf, without what prints its errors."""
    def act(s: Situation) -> None:
        from typer.main import get_command

        from xpdense.cli import app

        command = get_command(app).commands["train"]  # type: ignore[attr-defined]
        out = [] if "--out" in options else ["--out", str(s.shelf / "run")]
        arguments = [option.replace("SHELF", str(s.shelf)) for option in options]
        command.main([str(s.shelf / data) if "." in data else data, *out, *arguments], standalone_mode=False)
    return act


TABLES = [
    Case("csv-ragged", train("ragged.csv"), FileFormatError, "line 4", "typer"),
    Case("csv-header-only", train("no_rows.csv"), FileFormatError, "no rows", "typer"),
    Case("csv-empty", train("nothing.csv"), FileFormatError, "empty", "typer"),
    Case("csv-missing-file", train("absent.csv"), UnknownNameError, "digits", "typer"),
    Case("csv-missing-column", train("ragged.csv", "--target", "z"), FileFormatError, "line 4", "typer"),
    Case("csv-missing-target-column", train("infinite.csv", "--target", "Y"), UnknownNameError, "Known: a, y",
         "typer"),
    Case("csv-no-target-named", train("no_target.csv"), DataError, "--target", "typer"),
    Case("csv-one-class", train("one_class.csv"), TargetError, "yes", "typer"),
    Case("csv-one-row", train("one_row.csv"), TargetError, "one value only", "typer"),
    Case("csv-infinite", train("infinite.csv"), NonFiniteDataError, "a", "typer"),
    Case("csv-missing-targets", train("missing_target.csv"), TargetError, "1", "typer"),
    Case("parquet-broken", train("broken.parquet"), FileFormatError, "parquet", "typer"),
    Case("npz-without-y", train("no_y.npz"), FileFormatError, "y", "typer"),
    Case("npz-objects", train("objects.npz"), FileFormatError, "never unpickled", "typer"),
    Case("train-data", train("digitz"), UnknownNameError, "Did you mean 'digits'?", "typer"),
    Case("train-task", train("iris", "--task", "ranking"), UnknownNameError, "Known: binary", "typer"),
    Case("train-loss", train("iris", "--loss", "hinge"), UnknownNameError, "Known: absolute_error", "typer"),
    Case("train-loss-of-another-task", train("iris", "--loss", "huber"), ParameterError, "does not fit", "typer"),
    Case("train-hidden", train("iris", "--hidden", "64,many"), ParameterError, "--hidden", "typer"),
    Case("train-test", train("iris", "--test", "1.0"), ParameterError, "--test", "typer"),
    Case("train-out-below-a-file", train("iris", "--out", "SHELF/a_file/run"), OutputError, "cannot write", "typer"),
    Case("train-out-of-a-stranger", train("iris", "--out", "SHELF/taken"), OutputError, "thesis.tex", "typer"),
]

def stream(source: Any, *arguments: Any, shelf: bool = True, **options: Any) -> Act:
    """Open something, a file of the shelf by default, and fit one output on it."""
    def act(s: Situation) -> None:
        data = xd.data.open(s.shelf / source if shelf else source, *arguments, **options)
        s.regressor.fit(data, loss="squared_error", epochs=1)
    return act


def resume(folder: str, **changes: Any) -> Act:
    """Go on with a training of the shelf, with these changes."""
    return lambda s: regress(**({"epochs": 2, "resume": s.shelf / folder} | changes))(s)


STREAMS = [
    Case("open-missing", stream("nowhere.parquet"), FileFormatError, "no file or folder"),
    Case("open-ending", stream("a_file"), FileFormatError, "unsupported file extension"),
    Case("open-empty-folder", stream("empty"), FileFormatError, "holds no Parquet files", "pyarrow"),
    Case("open-broken-parquet", stream("broken.parquet"), FileFormatError, "cannot be read as Parquet", "pyarrow"),
    Case("open-ragged-csv", stream("ragged.csv"), FileFormatError, "line 4", "pandas"),
    Case("open-empty-csv", stream("nothing.csv"), FileFormatError, "is empty", "pandas"),
    Case("open-header-only", stream("no_rows.csv"), FileFormatError, "no rows", "pandas"),
    Case("open-gzip", stream("packed.csv"), FileFormatError, "unpack it", "pandas"),
    Case("open-target", stream("infinite.csv", "z"), UnknownNameError, "Known: a, y", "pandas"),
    Case("open-target-kind", stream("infinite.csv", 5), ParameterError, "name of a column", "pandas"),
    Case("open-columns-text", stream("infinite.csv", "y", columns="a"), ParameterError, "list of different", "pandas"),
    Case("open-columns-twice", stream("infinite.csv", "y", columns=["a", "a"]), ParameterError, "different", "pandas"),
    Case("open-columns-none", stream("infinite.csv", "y", columns=[]), ParameterError, "list of different", "pandas"),
    Case("open-columns-target", stream("infinite.csv", "y", columns=["y"]), ParameterError, "must not hold", "pandas"),
    Case("open-weight-text", stream("three.csv", "a", weight="c", columns=["b", "c"]), ParameterError, "must not hold",
         "pandas"),
    Case("open-task", stream("infinite.csv", "y", task="ranking"), UnknownNameError, "Known: binary", "pandas"),
    Case("open-infinite", stream("infinite.csv", "y"), NonFiniteDataError, "rows 1 to 4: column 'a' holds inf",
         "pandas"),
    Case("open-no-target", stream("three.csv"), TargetError, "no target", "pandas"),
    Case("open-missing-targets", stream("missing_target.csv", "y"), TargetError, "1 of 4 rows", "pandas"),
    Case("open-other-width", stream("missing_target.csv", "a"), ShapeError, "network takes 3", "pandas"),
    Case("open-npy-no-y", stream("x.npy"), TargetError, "no target"),
    Case("open-npy-cut", stream("cut.npy"), FileFormatError, "does not fit its"),
    Case("open-npy-none", stream("not.npy"), FileFormatError, "is not an npy file"),
    Case("open-npy-rows", stream("x.npy", VALUES[:5]), ShapeError, "and x has 8 rows"),
    Case("open-array-text", stream(np.array([["a"]]), shelf=False), ArrayTypeError, "text"),
    Case("open-array-flat", stream(np.zeros(3), shelf=False), ShapeError, "(rows, features)"),
    Case("open-number", stream(5, shelf=False), ParameterError, "must be a path"),
    Case("open-torch", lambda s: xd.data.open(_torch(lambda t: t.zeros((4, 3)))), ArrayTypeError, "pass it to fit",
         "torch"),
    Case("open-none", stream(None, shelf=False), ParameterError, "must be a path"),
    Case("open-window", stream(X, VALUES, shelf=False, window=0), ParameterError, "window must be"),
    Case("open-standardise", stream(X, VALUES, shelf=False, standardise=1), ParameterError, "standardise must be"),
    Case("open-array-columns", stream(X, VALUES, shelf=False, columns=["a"]), ParameterError, "are of tables"),
    Case("open-nan", stream(spoilt(X, np.nan), VALUES, shelf=False), NonFiniteDataError, "x holds nan (row 5"),
    Case("open-like", stream(X, VALUES, shelf=False, like=5), ParameterError, "like must be"),
    Case("open-generator", stream((b for b in [(X, VALUES)]), shelf=False), ParameterError, "read once"),
    Case("open-empty-batches", stream(list, shelf=False), DataError, "holds no"),
    Case("open-batches-target", stream([(X, VALUES)], "y", shelf=False), ParameterError, "bring their targets"),
    Case("open-split", lambda s: xd.data.open(X).split(1.0), ParameterError, "validation"),
    Case("open-split-all", lambda s: xd.data.open(X).split(0.5, test=0.5), ParameterError, "no rows to train on"),
    Case("open-split-part", lambda s: xd.data.open(X).split(0.5)[0].split(0.5), ParameterError, "a split of another"),
    Case("stream-with-y", lambda s: regress(x=xd.data.open(X, VALUES))(s), ParameterError, "brings its own y"),
    Case("stream-evaluate-y", lambda s: s.regressor.evaluate(xd.data.open(X, VALUES), VALUES, loss="squared_error"),
         ParameterError, "leave them out"),
    Case("predict-out-of-arrays", lambda s: s.regressor.predict(X, out="p.csv"), ParameterError, "is for streams"),
    Case("predict-out-folder", lambda s: s.regressor.predict(xd.data.open(X), out=s.shelf), OutputError, "is a folder",
         "pandas"),
    Case("checkpoint-unit", lambda s: xd.Checkpoint(s.shelf / "c", unit="hours"), UnknownNameError, "Known: epochs"),
    *(Case(f"checkpoint-every-{value!r}", lambda s, value=value: xd.Checkpoint(s.shelf / "c", every=value),
           ParameterError, "every must be") for value in (0, -1, 1.5, "2", None)),
    Case("checkpoint-keep", lambda s: xd.Checkpoint(s.shelf / "c", keep=0), ParameterError, "keep must be"),
    Case("checkpoint-file", lambda s: xd.Checkpoint(s.shelf / "a_file"), OutputError, "Choose another folder"),
    Case("checkpoint-taken", lambda s: regress(callbacks=[xd.Checkpoint(s.shelf / "kept")])(s), OutputError,
         "earlier training"),
    Case("resume-missing", resume("nowhere"), ModelFileError, "there is no folder"),
    Case("resume-file", resume("a_file"), ModelFileError, "there is no folder"),
    Case("resume-other-batches", resume("kept", batch_size=3), ParameterError, "batch_size was 8 there, and is 3"),
    Case("resume-other-data", resume("kept", y=VALUES + 1), ParameterError, "data was"),
    Case("resume-other-optimizer", resume("kept", optimizer="sgd"), ParameterError, "optimizer was"),
    Case("resume-fewer-epochs", resume("kept", epochs=1), ParameterError, "epochs was 2 there, and is 1 here"),
    Case("resume-torn", resume("torn"), ModelFileError, "cannot be read"),
]

CASES = [*DATA, *NAMES, *NUMBERS, *KINDS, *BACKENDS, *FILES, *TABLES, *STREAMS]


def as_param(case: Case) -> Any:
    missing = find_spec(case.needs) is None
    return pytest.param(case, id=case.id, marks=pytest.mark.skipif(missing, reason=f"{case.needs} is not installed"))


@pytest.mark.parametrize("case", [as_param(case) for case in CASES])
def test_bad_input_is_named_and_nothing_has_happened(case: Case, shelf: Path) -> None:
    situation = Situation(shelf)
    before = situation.state()
    with pytest.raises(XpdenseError) as caught:
        case.act(situation)
    assert type(caught.value) is case.error
    assert case.says in str(caught.value)
    assert situation.state() == before


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 360


def test_the_same_calls_with_good_input_do_change_something(shelf: Path, tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    situation = Situation(shelf)
    before = situation.state()
    classify()(situation)
    regress()(situation)
    (classifier, regressor), files = situation.state()
    assert classifier != before[0][0]
    assert regressor != before[0][1]
    assert files == before[1]
    situation.regressor.save(tmp_path / "model")
    assert xd.load(tmp_path / "model").size == situation.regressor.size
    assert xd.load(shelf / "good").size == 3 * 4 + 4 + 4 + 1
