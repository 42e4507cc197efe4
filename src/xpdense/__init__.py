"""xpdense: dense neural networks, written once against the array API, trained on NumPy, CuPy and PyTorch arrays.

Names are imported when they are first used, so that `import xpdense` costs nothing and pulls in no extra.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "activations": ("Activation",),
    "arena": ("Parameter",),
    "callbacks": ("Callback", "EarlyStopping", "ProgressBar"),
    "doctor.diagnose": ("diagnose",),
    "doctor.watch": ("Doctor",),
    "doctor.diagnosis": ("Diagnosis",),
    "doctor.findings": ("Finding",),
    "doctor.gradients.check": ("GradientReport", "TensorCheck", "check_gradients", "check_network"),
    "doctor.gradients.explain": ("explain_gradients",),
    "learning_rate": ("RateTest", "find_learning_rate"),
    "checkpointing": ("Checkpoint",),
    "errors": ("ArrayTypeError", "BackendError", "DataError", "DivergenceError", "FileFormatError", "MemoryLimitError",
               "MissingDependencyError", "ModelFileError", "NonFiniteDataError", "NonFiniteLossError", "NotFittedError",
               "OutputError", "ParameterError", "ResumeWarning", "ShapeError", "TargetError", "UnknownNameError",
               "XpdenseError"),
    "estimators.classifier": ("MLPClassifier",),
    "estimators.regressor": ("MLPRegressor",),
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
_SUBMODULES = ("activations", "callbacks", "data", "doctor", "errors", "initializers", "losses", "metrics",
               "optimizers", "schedules")  # each with more names than belong here
_ESTIMATORS = all(find_spec(package) for package in ("sklearn", "narwhals"))
__all__ = sorted(name for name, home in _HOME_OF.items() if _ESTIMATORS or not home.startswith("estimators"))


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"xpdense.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xpdense' has no attribute {name!r}")
    errors = import_module("xpdense.errors")
    try:
        value = getattr(import_module(f"xpdense.{_HOME_OF[name]}"), name)
    except errors.MissingModuleError as error:
        if sys._getframe(1).f_code.co_name == "_handle_fromlist":  # `from xpdense import name` needs an ImportError
            raise
        raise errors.MissingNameError(str(error)) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


if TYPE_CHECKING:  # the same, for type checkers and editors
    from . import activations as activations
    from . import callbacks as callbacks
    from . import data as data
    from . import doctor as doctor
    from . import errors as errors
    from . import initializers as initializers
    from . import losses as losses
    from . import metrics as metrics
    from . import optimizers as optimizers
    from . import schedules as schedules
    from .activations import Activation as Activation
    from .arena import Parameter as Parameter
    from .callbacks import Callback as Callback
    from .callbacks import EarlyStopping as EarlyStopping
    from .callbacks import ProgressBar as ProgressBar
    from .checkpointing import Checkpoint as Checkpoint
    from .doctor.diagnose import diagnose as diagnose
    from .doctor.diagnosis import Diagnosis as Diagnosis
    from .doctor.findings import Finding as Finding
    from .doctor.gradients.check import GradientReport as GradientReport
    from .doctor.gradients.check import TensorCheck as TensorCheck
    from .doctor.gradients.check import check_gradients as check_gradients
    from .doctor.gradients.check import check_network as check_network
    from .doctor.gradients.explain import explain_gradients as explain_gradients
    from .doctor.watch import Doctor as Doctor
    from .errors import ArrayTypeError as ArrayTypeError
    from .errors import BackendError as BackendError
    from .errors import DataError as DataError
    from .errors import DivergenceError as DivergenceError
    from .errors import FileFormatError as FileFormatError
    from .errors import MemoryLimitError as MemoryLimitError
    from .errors import MissingDependencyError as MissingDependencyError
    from .errors import ModelFileError as ModelFileError
    from .errors import NonFiniteDataError as NonFiniteDataError
    from .errors import NonFiniteLossError as NonFiniteLossError
    from .errors import NotFittedError as NotFittedError
    from .errors import OutputError as OutputError
    from .errors import ParameterError as ParameterError
    from .errors import ResumeWarning as ResumeWarning
    from .errors import ShapeError as ShapeError
    from .errors import TargetError as TargetError
    from .errors import UnknownNameError as UnknownNameError
    from .errors import XpdenseError as XpdenseError
    from .estimators.classifier import MLPClassifier as MLPClassifier
    from .estimators.regressor import MLPRegressor as MLPRegressor
    from .history import History as History
    from .initializers import Initializer as Initializer
    from .layers import BatchNorm as BatchNorm
    from .layers import Dense as Dense
    from .layers import Dropout as Dropout
    from .layers import Layer as Layer
    from .layers import LayerNorm as LayerNorm
    from .layers import Residual as Residual
    from .learning_rate import RateTest as RateTest
    from .learning_rate import find_learning_rate as find_learning_rate
    from .losses import AbsoluteError as AbsoluteError
    from .losses import BinaryCrossEntropy as BinaryCrossEntropy
    from .losses import Huber as Huber
    from .losses import Loss as Loss
    from .losses import Poisson as Poisson
    from .losses import Quantile as Quantile
    from .losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
    from .losses import SquaredError as SquaredError
    from .metrics import Metric as Metric
    from .model import DenseNetwork as DenseNetwork
    from .model import load as load
    from .ops import backends as backends
    from .optimizers import SGD as SGD
    from .optimizers import Adagrad as Adagrad
    from .optimizers import Adam as Adam
    from .optimizers import AdamW as AdamW
    from .optimizers import Lion as Lion
    from .optimizers import Momentum as Momentum
    from .optimizers import Nesterov as Nesterov
    from .optimizers import Optimizer as Optimizer
    from .optimizers import RMSprop as RMSprop
    from .schedules import Constant as Constant
    from .schedules import Cosine as Cosine
    from .schedules import Exponential as Exponential
    from .schedules import InverseScaling as InverseScaling
    from .schedules import OneCycle as OneCycle
    from .schedules import ReduceOnPlateau as ReduceOnPlateau
    from .schedules import Schedule as Schedule
    from .schedules import Step as Step
