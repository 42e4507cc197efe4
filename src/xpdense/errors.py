"""The hierarchy of errors. A message says what is wrong, which value, and what to do about it.

    XpdenseError
    ├── ParameterError      (ValueError)          an invalid option
    │   └── UnknownNameError                      a name that is not registered; lists those that are
    ├── DataError           (ValueError)          invalid values or shapes of data
    │   ├── ShapeError                            shapes that do not fit together
    │   ├── NonFiniteDataError                    NaN or infinity
    │   ├── TargetError                           targets that the loss or a metric cannot use
    │   └── FileFormatError                       a data file that cannot be read
    ├── ArrayTypeError      (TypeError)           an object, complex, sparse or text array
    ├── BackendError        (RuntimeError)        an unavailable namespace or device
    ├── MissingDependencyError                    an optional package that is not installed,
    │   ├── MissingModuleError (ImportError)      found by a function that needs it
    │   └── MissingNameError (AttributeError)     found by access to a name, as `xpdense.MLPClassifier`
    ├── MemoryLimitError    (MemoryError)         more memory than the device has
    ├── ModelFileError      (ValueError)          a damaged model file, or one of a newer version
    ├── OutputError         (OSError)             a file or folder that cannot be written
    ├── NotFittedError      (ValueError, AttributeError)  a method that needs a trained network
    └── DivergenceError     (FloatingPointError, ValueError)  a training that increased the loss
        └── NonFiniteLossError                    a training loss that became NaN or infinite

Each error is an XpdenseError and also the built-in exception in parentheses.
"""

from __future__ import annotations

import difflib
import inspect
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")


class XpdenseError(Exception):
    """Base class of all errors that this package raises.

    >>> issubclass(ShapeError, XpdenseError)
    True
    """


class ParameterError(XpdenseError, ValueError):
    """An option has an invalid value.

    >>> positive_int("epochs", 0)
    Traceback (most recent call last):
        ...
    xpdense.errors.ParameterError: epochs must be at least 1, got 0
    """


class UnknownNameError(ParameterError):
    """A name is not registered.

    >>> lookup("activation", "rleu", {"relu": 1, "tanh": 2})
    Traceback (most recent call last):
        ...
    xpdense.errors.UnknownNameError: unknown activation 'rleu'. Did you mean 'relu'? Known: relu, tanh.
    """

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
        self._arguments = kind, name, names

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class DataError(XpdenseError, ValueError):
    """Data cannot be used for training or prediction as they are.

    >>> [error.__name__ for error in DataError.__subclasses__()]
    ['ShapeError', 'NonFiniteDataError', 'TargetError', 'FileFormatError']
    """


class ShapeError(DataError):
    """Shapes of arrays do not fit together.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=2).predict([[1.0, 2.0, 3.0]])
    Traceback (most recent call last):
        ...
    xpdense.errors.ShapeError: x has 3 features, and the network takes 2
    """


class NonFiniteDataError(DataError):
    """Data hold NaN or infinity.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=2).predict([[1.0, float("nan")]])
    Traceback (most recent call last):
        ...
    xpdense.errors.NonFiniteDataError: x holds nan (row 0, column 1), ...
    """


class TargetError(DataError):
    """Targets cannot be used by the loss, a metric or the task.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=1).fit([[1.0]], [3.0], loss="binary_cross_entropy")
    Traceback (most recent call last):
        ...
    xpdense.errors.TargetError: binary_cross_entropy needs targets from 0 to 1, got 3; ...
    """


class FileFormatError(DataError):
    """A data file cannot be read in the format that its name says.

    >>> import xpdense as xd
    >>> xd.data.open("missing.parquet")
    Traceback (most recent call last):
        ...
    xpdense.errors.FileFormatError: there is no file or folder missing.parquet
    """


class ArrayTypeError(XpdenseError, TypeError):
    """An array holds elements that are not real numbers.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=1).predict([["red"]])
    Traceback (most recent call last):
        ...
    xpdense.errors.ArrayTypeError: x holds text (dtype <U3), and a network needs real numbers; ...
    """


class BackendError(XpdenseError, RuntimeError):
    """A namespace or device is not available.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=1, backend="numpy:cuda")
    Traceback (most recent call last):
        ...
    xpdense.errors.BackendError: NumPy computes on the CPU only, got device 'cuda': use 'numpy'
    """


class MissingDependencyError(XpdenseError):
    """An optional package is not installed; the message says how to install it.

    >>> [error.__name__ for error in MissingDependencyError.__subclasses__()]
    ['MissingModuleError', 'MissingNameError']
    """


class MissingModuleError(MissingDependencyError, ImportError):
    """A function or class needs an optional package that is not installed.

    >>> require("no_such_module", "plots", "History.plot")
    Traceback (most recent call last):
        ...
    xpdense.errors.MissingModuleError: History.plot needs no_such_module, which is not installed: pip install
    'xpdense[plots]'
    """


class MissingNameError(MissingDependencyError, AttributeError):
    """A name of this package needs an optional package that is not installed.

    >>> issubclass(MissingNameError, AttributeError)  # hasattr is then False
    True
    """


class MemoryLimitError(XpdenseError, MemoryError):
    """A network or a batch needs more memory than the device has.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(2**24)], inputs=2**24)
    Traceback (most recent call last):
        ...
    xpdense.errors.MemoryLimitError: training a network of 281,474,993,487,872 parameters in float32 needs ...
    """


class ModelFileError(XpdenseError, ValueError):
    """A saved model is missing, damaged, or of a newer version.

    >>> import xpdense as xd
    >>> xd.load("missing")
    Traceback (most recent call last):
        ...
    xpdense.errors.ModelFileError: missing is not a model folder: it has no model.json
    """


class OutputError(XpdenseError, OSError):
    """A file or folder cannot be written.

    >>> import xpdense as xd
    >>> xd.History().to_csv("missing/history.csv")
    Traceback (most recent call last):
        ...
    xpdense.errors.OutputError: cannot write missing/history.csv: No such file or directory
    """


class NotFittedError(XpdenseError, ValueError, AttributeError):
    """A method that needs a trained network was called before training.

    >>> import xpdense as xd
    >>> xd.DenseNetwork([xd.Dense(1)], inputs=1).evaluate([[1.0]], [1.0])
    Traceback (most recent call last):
        ...
    xpdense.errors.NotFittedError: evaluate needs a loss: the network has not been trained; pass ...
    """


class DivergenceError(XpdenseError, FloatingPointError, ValueError):
    """At the end of a training the loss is far above that of the untrained network.

    Attributes
    ----------
    diagnosis : Diagnosis, optional
        The diagnosis of a `Doctor` among the callbacks.
    advice : str
        The end of the message: what to do about it, or what the diagnosis found.

    >>> error = DivergenceError("the loss rose from 1 to 90.")
    >>> error.advice = "Lower the learning rate."
    >>> str(error)
    'the loss rose from 1 to 90. Lower the learning rate.'
    """

    diagnosis: Any = None
    advice = ""

    def __str__(self) -> str:
        return f"{super().__str__()} {self.advice}".rstrip()


class DoctorWarning(UserWarning):
    """A training looks wrong; the message says why.

    >>> import warnings
    >>> warnings.filterwarnings("error", category=DoctorWarning)  # stops such a training
    """


class ResumeWarning(UserWarning):
    """A training does not resume from its newest checkpoint; the message says why.

    >>> import warnings
    >>> warnings.filterwarnings("error", category=ResumeWarning)  # refuses to train then
    """


@dataclass(frozen=True)
class LayerExtremes:
    """Largest absolute values in one layer at the step whose loss was not finite.

    Attributes
    ----------
    name : str
        Name of the layer.
    inputs, outputs, weights, gradients : float
        Largest absolute value of its inputs, its outputs, its parameters and their gradients, leaving out NaNs.
    not_finite : tuple of str
        Which of these four hold NaN or infinity.

    >>> LayerExtremes("dense_1", inputs=1.0, outputs=float("inf"), weights=1e30, gradients=2.0,
    ...               not_finite=("outputs",)).not_finite
    ('outputs',)
    """

    name: str
    inputs: float
    outputs: float
    weights: float
    gradients: float
    not_finite: tuple[str, ...] = ()


@dataclass(eq=False)
class NonFiniteLossError(DivergenceError):
    """The training loss became NaN or infinite; weights from before are restored.

    Attributes
    ----------
    step : int
        Number of the optimizer step, from 0, whose loss was not finite.
    epoch : int
        Number of the epoch, from 0, of that step.
    loss : float
        Loss at that step: nan, inf or -inf.
    layer : str
        Name of the first layer, from the input, whose output was not finite; "the loss" where every layer's
        output was still finite.
    restored_step : int
        The network's weights are those from before step `restored_step`, unless a callback restored others, as
        EarlyStopping restores those of the best epoch.
    largest_weight, largest_gradient, largest_input : float
        Largest absolute value of all layers' weights and gradients and of the batch's inputs, leaving out NaNs.
    layers : list of LayerExtremes
        Largest absolute values by layer, in forward order.
    diagnosis, advice
        As of DivergenceError.

    >>> error = NonFiniteLossError(step=7, epoch=1, loss=float("nan"), layer="dense_1", restored_step=4,
    ...                            largest_weight=1e30, largest_gradient=2.0, largest_input=1.0)
    >>> print(error)
    the loss became nan at step 7 (epoch 1); it began in dense_1. Largest weight 1e+30, gradient 2, input 1. ...
    """

    step: int
    epoch: int
    loss: float
    layer: str
    restored_step: int
    largest_weight: float
    largest_gradient: float
    largest_input: float
    layers: list[LayerExtremes] = field(default_factory=list)
    diagnosis: Any = field(default=None, repr=False)
    advice: str = field(default="", repr=False)

    def __str__(self) -> str:
        broken = next((row.not_finite for row in self.layers if row.name == self.layer), ())
        where = f"{self.layer}, whose {' and '.join(broken)} are not finite" if broken else self.layer
        return (
            f"the loss became {self.loss} at step {self.step} (epoch {self.epoch}); it began in {where}. "
            f"Largest weight {self.largest_weight:.3g}, gradient {self.largest_gradient:.3g}, "
            f"input {self.largest_input:.3g}. The weights from before step {self.restored_step} are restored. "
            f"A lower learning rate, scaled inputs or clip_norm=1.0 are the usual cures. {self.advice}"
        ).rstrip()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.__dataclass_fields__)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error reports exhausted memory: a MemoryError (also NumPy's, CuPy's), or PyTorch's OutOfMemoryError.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(ValueError())
    (True, False)
    """
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def lookup(kind: str, name: object, known: Mapping[str, T]) -> T:
    """Return `known[name]`, or raise an UnknownNameError that lists the known names.

    >>> lookup("colour", "red", {"red": 1})
    1
    """
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]


def made(kind: str, known: Mapping[str, Callable[..., T]], config: Mapping[str, Any]) -> T:
    """Return `known[config["name"]](**rest)`, where `rest` are the other entries of `config`.

    Raises ParameterError where the callable has no parameter of such a name.

    >>> made("number", {"square": lambda x: x * x}, {"name": "square", "x": 3})
    9
    """
    arguments = dict(config)
    maker = lookup(kind, arguments.pop("name", None), known)
    accepted = inspect.signature(maker).parameters
    for name in arguments:
        if name not in accepted:
            raise ParameterError(f"the {kind} {config['name']!r} has no parameter {name!r}; "
                                 f"it has: {', '.join(accepted) or 'none'}")
    return maker(**arguments)


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or raise a MissingModuleError that says which extra installs it.

    >>> require("json", "cli", "reading JSON").__name__
    'json'
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingModuleError(
            f"{purpose} needs {missing}, which is not installed: pip install 'xpdense[{extra}]'"
        ) from error


def positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`, or raise a ParameterError.

    >>> positive_int("epochs", 3)
    3
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ParameterError(f"{name} must be a whole number, got {value!r}") from None
    if number < minimum:
        raise ParameterError(f"{name} must be at least {minimum}, got {number}")
    return number


def boolean(name: str, value: object) -> bool:
    """Return `value` as a bool if it is True or False, else raise a ParameterError.

    >>> boolean("bias", True)
    True
    """
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
        raise ParameterError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real(name: str, value: Any, low: float = float("-inf"), high: float = float("inf"),
         *, open_low: bool = False, open_high: bool = False) -> float:
    """Return `value` as a finite float between `low` and `high`, or raise a ParameterError.

    >>> real("rate", 0.5, 0, 1)
    0.5
    """
    try:
        if isinstance(value, (str, bytes, bool)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ParameterError(f"{name} must be a number, got {value!r}") from None
    above = number > low if open_low else number >= low
    below = number < high if open_high else number <= high
    if not (above and below and abs(number) != float("inf")):
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
        raise ParameterError(f"{name} must be a finite number in {interval}, got {value!r}")
    return number


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that called this package, directly or through scikit-learn."""
    level, frame, inside = 1, sys._getframe(), ("xpdense", "sklearn", "contextlib")
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, level)
