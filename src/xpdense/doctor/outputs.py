"""Checks of a program's outputs, its loss and its labels: whether they belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..layers import Dense
from ..losses import Loss
from . import advice
from .candidates import Candidate, candidate, with_layers
from .gradients.chain import DenseLayer
from .gradients.reconstruct import Reconstruction, draw_parameters
from .program import NetworkProgram, Subject
from .task import Task
from .trial import Setting


@dataclass(frozen=True)
class OutputRange:
    """Predictions with random parameters, and with the last layer's parameters a hundred times as large.

    Attributes
    ----------
    usual, large : list of ndarray (rows, outputs)
    params : list of dict
        The parameters of `usual`.
    """

    usual: list[np.ndarray]
    large: list[np.ndarray]
    params: list[dict[str, np.ndarray]]

    @property
    def low(self) -> float:
        """The smallest prediction."""
        return float(min(p.min() for p in self.large))

    @property
    def high(self) -> float:
        """The largest prediction."""
        return float(max(p.max() for p in self.large))

    @property
    def are_probabilities(self) -> bool:
        """Whether all predictions are in [0, 1]."""
        return self.low >= -1e-6 and self.high <= 1.0 + 1e-6

    @property
    def all_large(self) -> np.ndarray:
        """All values of `large`, flat."""
        return np.concatenate([p.ravel() for p in self.large])


def output_range(subject: Subject, layers: Sequence[DenseLayer], x: np.ndarray, seed: int) -> OutputRange | None:
    """Measure what a copy of a program predicts; None without layers, or if predictions are not finite."""
    if not layers or "predict" not in subject.can:
        return None
    rng, copy = np.random.default_rng([seed, 23]), subject.copy()
    usual, large, params = [], [], []
    with np.errstate(all="ignore"):
        for _ in range(4):
            drawn = draw_parameters(rng, layers, subject.params(), np.asarray(x, np.float64))
            values = subject.params() | drawn
            params.append(values)
            copy.write(values)
            usual.append(copy.predict(x))
            last = (layers[-1].weight, layers[-1].bias)
            raised = {n: (100.0 * v).astype(v.dtype) for n, v in values.items() if n in last}
            copy.write(values | raised)
            large.append(copy.predict(x))
    if not all(np.isfinite(p).all() for p in usual):
        return None
    return OutputRange(usual, [p for p in large if np.isfinite(p).all()] or usual, params)


def output_candidate(setting: Setting, task: Task, outputs: OutputRange, where: str, net: Reconstruction | str | None,
                     x: np.ndarray, y: np.ndarray) -> Candidate | None:
    """Return what is wrong with the last activation and its loss.

    Parameters
    ----------
    setting : Setting
    task : Task
    outputs : OutputRange
        Measured on x.
    where : str
        The tensors of the last layer.
    net : Reconstruction or str, optional
    x, y : ndarray
        Some rows.
    """
    k = outputs.usual[0].shape[1]

    def proof(cause: str, evidence: str, fix: str) -> Candidate:
        return candidate(cause, where, evidence, fix, 0.97, None, proven=True)

    def doubled(evidence: str, name: str) -> Candidate:
        return proof("double_softmax", evidence, f"Apply one {name}: pass logits to this loss, or use a loss that "
                     "takes probabilities.")

    if isinstance(net, Reconstruction) and " of " in net.output:
        name = net.output.partition(" ")[0]
        return doubled(f"The loss applies a {name} to its input, which a {name} has already been applied to.", name)
    broadcast = _broadcast(setting, outputs, x, y)
    if broadcast is not None:
        return broadcast
    if k == 1:
        if outputs.low >= 0.5 - 1e-6 and outputs.high <= math.e / (1.0 + math.e) + 1e-6 and task.classes:
            return doubled(f"The probability is between {outputs.low:.4g} and {outputs.high:.4g} even for large "
                           "logits, the range of a sigmoid of a sigmoid.", "sigmoid")
        if all(np.all(np.abs(p - 1.0) < 1e-9) for p in [*outputs.usual, *outputs.large]):
            return proof("softmax_on_one_unit", "The prediction is 1 for every row and with all parameters: it is a "
                         "softmax over one unit.", "Use a sigmoid for one unit, or one unit per class.")
    else:
        rows = all(np.allclose(p.sum(axis=1), 1.0, atol=1e-3) for p in outputs.usual)
        columns = all(np.allclose(p.sum(axis=0), 1.0, atol=1e-3) for p in outputs.usual)
        if columns and not rows:
            return proof("softmax_wrong_axis", "Predictions sum to 1 along each column, over the rows of a batch, and "
                         "not along each row.", "Compute the softmax along the class axis: axis=1, with keepdims=True "
                         "for the maximum and the sum.")
        ceiling = math.e / (math.e + k - 1)
        highest = max(float(p.max()) for p in [*outputs.usual, *outputs.large])
        if rows and highest <= ceiling + 1e-3 and outputs.low > 0.5 / (math.e + k - 1):
            return doubled(f"No probability exceeds {highest:.4g} even for large logits; the maximum of a softmax of a "
                           f"softmax of {k} classes is {ceiling:.4g}.", "softmax")
    every = outputs.all_large
    if task.classes and 0.001 < outputs.low < outputs.high < 0.999 and np.mean(
            (np.abs(every - outputs.low) < 1e-6) | (np.abs(every - outputs.high) < 1e-6)) > 0.3:
        return proof("probability_clipped", f"Probabilities are clipped to [{outputs.low:.4g}, {outputs.high:.4g}]: "
                     "outside, the gradient is zero.", advice.CLIPPED)
    mismatch = _mismatch(setting, task, outputs, net, x, y)
    return proof("activation_loss_mismatch", *mismatch) if mismatch else None


def _broadcast(setting: Setting, outputs: OutputRange, x: np.ndarray, y: np.ndarray) -> Candidate | None:
    """Return a candidate for a loss that is unchanged by permuting the targets, since it compares all rows with all."""
    subject = setting.subject.copy()
    coarse = any(value.dtype.itemsize < 4 for value in outputs.params[0].values())
    if "loss" not in subject.can or len(np.unique(y)) < 2 or outputs.usual[0].shape[1] != 1 or coarse:
        return None
    rng = np.random.default_rng(37)
    target = _like_predictions(y, outputs.usual)
    other = target.reshape(len(y)) if y.ndim == 2 else target[:, None]
    same, reshaped = [], []
    with np.errstate(all="ignore"):
        for values, predicted in zip(outputs.params, outputs.usual, strict=True):
            subject.write(values)
            try:
                here = subject.loss(x, target)
                moved = [subject.loss(x, target[rng.permutation(len(y))]) for _ in range(3)]
                reshaped.append(abs(subject.loss(x, other) - here) > 1e-5 * abs(here))
            except Exception:  # the loss does not accept this shape
                return None
            counts = float(predicted.std() * target.std())  # the size of the change if each row had its own target
            if not np.isfinite([here, *moved]).all() or counts < 1e-3 * abs(here):
                return None
            same.append(max(abs(m - here) for m in moved) < 1e-3 * counts)
    if not all(same):
        return None
    evidence = f"The loss stays {here:.6g} when the targets are permuted"
    if not any(reshaped):
        return candidate("target_shape_broadcast", "loss", f"{evidence}: it compares every row with every target.",
                         "Give predictions and targets the same shape before they are subtracted: (n,) and (n, 1) make "
                         "(n, n).", 0.98, None, proven=True)
    shape = tuple(setting.y.shape)
    wanted = (*shape, 1) if y.ndim == 1 else (len(setting.y),)
    return candidate("target_shape_broadcast", "y", f"{evidence}: y of shape {shape} is broadcast against predictions "
                     "of another shape, every row against every target.", "Give y the shape of the predictions, "
                     f"{wanted}.", 0.98, lambda s: replace(s, y=s.y.reshape(wanted)), proven=True)


def _like_predictions(y: np.ndarray, predicted: list[np.ndarray]) -> np.ndarray:
    """Scale values to the mean and the standard deviation of the predictions, but return two classes unchanged."""
    if len(np.unique(y)) == 2:
        return y
    centre, spread = float(np.mean(predicted)), float(np.std(predicted))
    return np.asarray((y - y.mean()) / y.std() * spread + centre, y.dtype if y.dtype.kind == "f" else np.float64)


def _mismatch(setting: Setting, task: Task, outputs: OutputRange, net: Reconstruction | str | None, x: np.ndarray,
              y: np.ndarray) -> tuple[str, str] | None:
    """Return evidence and fix if predictions cannot reach the targets, or the loss does not fit the predictions."""
    low, high = outputs.low, outputs.high
    if not task.classes:
        target = np.asarray(setting.y, np.float64).reshape(len(setting.y), -1)
        every = outputs.all_large
        near, room = 1e-6 * (high - low), 1e-6 + 0.02 * min(high - low, float(np.ptp(target)))
        # The range is bounded on a side where predictions accumulate.
        least = low if np.mean(every <= low + near) > 0.05 and high > low else -math.inf
        most = high if np.mean(every >= high - near) > 0.05 and high > low else math.inf
        outside = float(np.mean((target < least - room) | (target > most + room)))
        if outside > 0.02:
            return (f"Predictions are between {least:.3g} and {most:.3g} with all parameters, and {outside:.0%} of the "
                    "targets are not.", advice.IDENTITY)
        return None
    if isinstance(net, Reconstruction):
        if net.loss == "cross-entropy" and net.output == "sigmoid" and task.outputs > 1:
            return ("The loss is the cross-entropy of mutually exclusive classes, and the outputs are sigmoids, which "
                    "are not.", "Use a softmax at the output, or binary cross-entropy.")
        if "entropy" in net.loss or net.output != "relu":
            return None
        return ("The last layer's ReLU gives no gradient if it is zero.", "Use a sigmoid or a softmax at the output.")
    if outputs.are_probabilities:
        return None
    subject = setting.subject.copy()
    losses = []
    with np.errstate(all="ignore"):
        for values in outputs.params:
            subject.write(values)
            losses.append(subject.loss(x, y) if "loss" in subject.can else 0.0)
    finite = bool(np.isfinite(losses).all())
    if finite and "loss" in subject.can and _are_errors(outputs, losses, y):
        return None
    return (f"Predictions are between {low:.3g} and {high:.3g} and are used as probabilities"
            + ("." if finite else ": their loss is NaN or infinite."),
            "Use a sigmoid (one unit) or a softmax (one unit per class) at the output.")


def _are_errors(outputs: OutputRange, losses: list[float], y: np.ndarray) -> bool:
    """Whether the losses are those of squared or absolute errors, which accept any prediction."""
    target = np.asarray(y, np.float64).reshape(len(y), -1)
    if target.shape != outputs.usual[0].shape:
        return False
    for power in (1.0, 2.0):
        sums = np.array([np.sum(np.abs(p - target) ** power) for p in outputs.usual])
        ratio = np.array(losses) / sums
        if np.ptp(ratio) <= 1e-3 * np.abs(ratio).max():
            return True
    return False


def label_candidate(setting: Setting, task: Task, probabilities: bool) -> Candidate | None:
    """Return a candidate for class labels that are not encoded as the outputs need them."""
    y, k = np.asarray(setting.y), task.outputs
    if not task.classes:
        return None
    flat = y.reshape(len(y), -1)
    kinds = np.unique(flat)

    def found(cause: str, evidence: str, fix: str, recode: Callable[[np.ndarray], np.ndarray]) -> Candidate:
        def cure(s: Setting) -> Setting:
            return replace(s, y=recode(np.asarray(s.y)).astype(y.dtype if y.dtype.kind in "fi" else np.int64))
        return candidate(cause, "y", evidence, fix, 0.97, cure, proven=True)

    def numbered(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(kinds, values).reshape(values.shape)

    if k == 1 and flat.shape[1] == 1:
        if not probabilities:
            return None
        if len(kinds) > 2:
            return candidate("labels_mis_encoded", "y", f"It holds {len(kinds)} class numbers, and the only output is "
                             "a probability.", "Use one output per class, with a softmax.", 0.95, None, proven=True)
        if kinds.min() < 0 or kinds.max() > 1:
            coded = ", ".join(f"{v:g}" for v in kinds)
            return found("labels_mis_encoded" if kinds.min() < 0 else "labels_out_of_range",
                         f"The classes are {coded}, and the output is a probability, from 0 to 1.",
                         "Encode the two classes as 0 and 1.", numbered)
        return None
    if flat.shape[1] == 1:
        if kinds.min() < 0 or kinds.max() >= k:
            return found("labels_out_of_range", f"Class numbers go from {kinds.min():g} to {kinds.max():g}, and the "
                         f"{k} outputs are those of classes 0 to {k - 1}.", f"Number the classes from 0 to {k - 1}.",
                         numbered)
        eye = np.eye(k)
        return candidate("labels_mis_encoded", "y", f"It has the shape {tuple(y.shape)} and holds class numbers, while "
                         f"there are {k} outputs.", advice.ONE_HOT, 0.9,
                         lambda s: replace(s, y=eye[np.asarray(s.y).reshape(-1).astype(int)]))
    if flat.shape[1] == k and len(kinds) == 2 and k > 2 and np.all(np.sum(flat == kinds[1], axis=1) == k - 1):
        return found("labels_mis_encoded", "Each row has 1 at every class but one: the one-hot labels are inverted.",
                     advice.ONE_HOT, lambda v: kinds[0] + kinds[1] - v)
    if flat.shape[1] == k and len(kinds) == 2 and (kinds[0] != 0 or kinds[1] != 1) and probabilities:
        return found("labels_mis_encoded", f"Rows sum to {flat[0].sum():g} and hold {kinds[0]:g} and {kinds[1]:g}, "
                     "while the outputs are probabilities.", advice.ONE_HOT, numbered)
    return None


def second_activation(setting: Setting) -> Candidate | None:
    """Return a candidate for a network of this package whose last layer has an activation before that of the loss."""
    program = setting.subject.program
    if not isinstance(program, NetworkProgram):
        return None
    last = program.network.layers[-1].config().get("activation", "identity")
    if last == "identity" or type(program.chosen).link is Loss.link:
        return None

    def cure(s: Setting) -> Setting:
        final = s.subject.program.network.layers[-1]
        return with_layers(s, lambda layer: Dense(layer.units, bias=layer.bias) if layer is final else layer)
    name = last if isinstance(last, str) else last.get("name", "another")
    k = len(program.network.layers) - 1
    return candidate("activation_loss_mismatch", f"{k}.weight, {k}.bias", f"The last layer has the activation {name}, "
                     f"and {program.chosen.name} applies its own to the logits.", advice.IDENTITY, 0.97, cure,
                     proven=True)
