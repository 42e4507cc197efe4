"""xpdense: dense neural networks, written once against the array API, trained on NumPy, CuPy and PyTorch arrays.

Names are imported when they are first used, so that `import xpdense` costs nothing and pulls in no extra.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "activations": ("Activation",),
    "arena": ("Parameter",),
    "callbacks": ("Callback", "EarlyStopping", "ProgressBar"),
    "doctor.gradients": ("GradientReport", "check_gradients", "check_network"),
    "errors": ("ArrayTypeError", "BackendError", "DataError", "FileFormatError", "MemoryLimitError",
               "MissingDependencyError", "ModelFileError", "NonFiniteDataError", "NonFiniteLossError", "NotFittedError",
               "OutputError", "ParameterError", "ShapeError", "TargetError", "UnknownNameError", "XpdenseError"),
    "history": ("History",),
    "initializers": ("Initializer",),
    "layers": ("BatchNorm", "Dense", "Dropout", "Layer", "LayerNorm", "Residual"),
    "losses": ("AbsoluteError", "BinaryCrossEntropy", "Huber", "Loss", "Poisson", "Quantile", "SoftmaxCrossEntropy",
               "SquaredError"),
    "metrics": ("Metric",),
    "model": ("DenseNetwork", "load"),
    "ops": ("backends",),
    "optimizers": ("SGD", "Adagrad", "Adam", "AdamW", "Lion", "Momentum", "Nesterov", "Optimizer", "RMSprop"),
    "schedules": ("Constant", "Cosine", "Exponential", "InverseScaling", "OneCycle", "ReduceOnPlateau", "Schedule",
                  "Step"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    if name in ("activations", "data", "initializers"):  # modules with more names than belong here
        return import_module(f"xpdense.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xpdense' has no attribute {name!r}")
    value = getattr(import_module(f"xpdense.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if TYPE_CHECKING:
    from . import activations, data, initializers
    from .activations import Activation
    from .arena import Parameter
    from .callbacks import Callback, EarlyStopping, ProgressBar
    from .doctor.gradients import GradientReport, check_gradients, check_network
    from .errors import (
        ArrayTypeError,
        BackendError,
        DataError,
        FileFormatError,
        MemoryLimitError,
        MissingDependencyError,
        ModelFileError,
        NonFiniteDataError,
        NonFiniteLossError,
        NotFittedError,
        OutputError,
        ParameterError,
        ShapeError,
        TargetError,
        UnknownNameError,
        XpdenseError,
    )
    from .history import History
    from .initializers import Initializer
    from .layers import BatchNorm, Dense, Dropout, Layer, LayerNorm, Residual
    from .losses import (
        AbsoluteError,
        BinaryCrossEntropy,
        Huber,
        Loss,
        Poisson,
        Quantile,
        SoftmaxCrossEntropy,
        SquaredError,
    )
    from .metrics import Metric
    from .model import DenseNetwork, load
    from .ops import backends
    from .optimizers import SGD, Adagrad, Adam, AdamW, Lion, Momentum, Nesterov, Optimizer, RMSprop
    from .schedules import Constant, Cosine, Exponential, InverseScaling, OneCycle, ReduceOnPlateau, Schedule, Step
