"""The family of errors: what is wrong, which value, and what to do about it.

    XpdenseError
    ├── ParameterError      (ValueError)          an option's value
    │   └── UnknownNameError                      a name that is not registered; lists those that are
    ├── DataError           (ValueError)          the values or shapes of the data
    │   ├── ShapeError
    │   ├── NonFiniteDataError
    │   ├── TargetError
    │   └── FileFormatError                       a data file that cannot be read as one
    ├── ArrayTypeError      (TypeError)           object, complex, sparse or text arrays
    ├── BackendError        (RuntimeError)        a namespace or device that cannot serve
    ├── MissingDependencyError (ImportError)      an extra that is not installed
    ├── MemoryLimitError    (MemoryError)         more than this machine has
    ├── ModelFileError      (ValueError)          a saved model that is damaged or of another version
    ├── OutputError         (OSError)             a place that cannot be written
    ├── NotFittedError      (ValueError, AttributeError)
    └── DivergenceError     (FloatingPointError, ValueError)  a training that made the loss worse
        └── NonFiniteLossError                    the loss of a running training became NaN or infinite

Every one is an XpdenseError and also what Python's users expect to catch.
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
    """The root of the family."""


class ParameterError(XpdenseError, ValueError):
    """An option has a value that cannot work."""


class UnknownNameError(ParameterError):
    """A name that nobody registered."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(str(name), names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
        self._arguments = kind, name, names

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


class DataError(XpdenseError, ValueError):
    """The data cannot be trained on or predicted from as they are."""


class ShapeError(DataError):
    """Shapes that do not fit together."""


class NonFiniteDataError(DataError):
    """NaN or infinity where a number is needed."""


class TargetError(DataError):
    """Targets that the loss or the task cannot use."""


class FileFormatError(DataError):
    """A data file that cannot be read as what its name says."""


class ArrayTypeError(XpdenseError, TypeError):
    """An array whose element type is not a real number."""


class BackendError(XpdenseError, RuntimeError):
    """A namespace or device that is not here or cannot serve."""


class MissingDependencyError(XpdenseError, ImportError):
    """An optional package that is not installed; the message says how to get it."""


class MemoryLimitError(XpdenseError, MemoryError):
    """A network or batch larger than the memory of the device."""


class ModelFileError(XpdenseError, ValueError):
    """A saved model that is missing, damaged, or from a newer version."""


class OutputError(XpdenseError, OSError):
    """A folder or file that cannot be written."""


class NotFittedError(XpdenseError, ValueError, AttributeError):
    """Something that needs a trained network was asked of an untrained one."""


class DivergenceError(XpdenseError, FloatingPointError, ValueError):
    """A training at whose end the loss is far above that of the untrained network.

    Attributes
    ----------
    diagnosis : Diagnosis, optional
        What a `Doctor` among the callbacks found.
    advice : str
        The end of the message: what to do, or what was found.
    """

    diagnosis: Any = None
    advice = ""

    def __str__(self) -> str:
        return f"{super().__str__()} {self.advice}".rstrip()


class DoctorWarning(UserWarning):
    """A training looks wrong, and the doctor found why."""


class ResumeWarning(UserWarning):
    """A training goes on from another place than its newest checkpoint; the message says why."""


@dataclass(frozen=True)
class LayerExtremes:
    """Largest absolute values around one layer at the step where the loss became non-finite.

    `inputs` is what the layer was given, `outputs` what it made of it, `weights` and `gradients` its parameters and
    their last gradients. NaNs are left out of these; `not_finite` names those of the four that hold NaN or infinity.
    """

    name: str
    inputs: float
    outputs: float
    weights: float
    gradients: float
    not_finite: tuple[str, ...] = ()


@dataclass(eq=False)
class NonFiniteLossError(DivergenceError):
    """The training loss became NaN or infinite; the network holds good weights again.

    Attributes
    ----------
    step : int
        Number of the optimizer step, from 0, whose loss was not finite.
    epoch : int
        Its epoch, from 0.
    loss : float
        The loss at that step: nan, inf or -inf.
    layer : str
        Name of the first layer, from the input, whose output was not finite; "the loss" where every layer's
        output was still finite.
    restored_step : int
        The network's weights are those with which step `restored_step` started, unless a callback put others back,
        as EarlyStopping does with those of its best epoch.
    largest_weight, largest_gradient, largest_input : float
        Largest absolute value over all layers of the weights, their gradients and the batch's inputs; NaNs left out.
    layers : list of LayerExtremes
        The same by layer, in forward order.
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
    """Whether an error says that memory is at its end: Python's, NumPy's, CuPy's (a MemoryError) or PyTorch's."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def lookup(kind: str, name: object, known: Mapping[str, T]) -> T:
    """`known[name]`, or an UnknownNameError that lists the known names.

    >>> lookup("colour", "red", {"red": 1})
    1
    """
    if not isinstance(name, str) or name not in known:
        raise UnknownNameError(kind, name, known)
    return known[name]


def made(kind: str, known: Mapping[str, Callable[..., T]], config: Mapping[str, Any]) -> T:
    """What `known[config["name"]]` makes of the other entries of `config`, or a ParameterError.

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
    """Import an optional module, or say which extra brings it.

    >>> require("json", "cli", "reading JSON").__name__
    'json'
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = (error.name or module).partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {missing}, which is not installed: pip install 'xpdense[{extra}]'"
        ) from error


def positive_int(name: str, value: Any, minimum: int = 1) -> int:
    """`value` as an int of at least `minimum`, or a ParameterError.

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
    """`value`, which must be True or False, or a ParameterError.

    >>> boolean("bias", True)
    True
    """
    if type(value).__name__ not in ("bool", "bool_"):  # Python's and NumPy's
        raise ParameterError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def real(name: str, value: Any, low: float = float("-inf"), high: float = float("inf"),
         *, open_low: bool = False, open_high: bool = False) -> float:
    """`value` as a finite float between `low` and `high`, or a ParameterError.

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
