"""The end of a program: what it can predict, whatever its parameters are, and whether its loss belongs to that."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..layers import Dense, Layer
from ..losses import Loss
from .anatomy import Anatomy
from .candidates import Candidate, in_network, with_layers
from .findings import Finding
from .program import NetworkProgram, Subject
from .rebuild import Inside, draw
from .task import Task
from .trial import Setting


@dataclass(frozen=True)
class Ends:
    """Predictions of some rows by drawn parameters, of the usual size and of a hundred times that.

    Attributes
    ----------
    usual, large : list of ndarray (rows, outputs)
    params : list of dict
        Those that `usual` were made with.
    """

    usual: list[np.ndarray]
    large: list[np.ndarray]
    params: list[dict[str, np.ndarray]]

    @property
    def low(self) -> float:
        return float(min(p.min() for p in self.large))

    @property
    def high(self) -> float:
        return float(max(p.max() for p in self.large))

    @property
    def are_probabilities(self) -> bool:
        return self.low >= -1e-6 and self.high <= 1.0 + 1e-6


def ends(subject: Subject, anatomy: Anatomy, x: np.ndarray, seed: int) -> Ends | None:
    """What copies of the program predict; None where its parameters are no chain of layers, or it cannot."""
    if not anatomy.chain or "predict" not in subject.can:
        return None
    rng, copy = np.random.default_rng([seed, 23]), subject.copy()
    usual, large, params = [], [], []
    with np.errstate(all="ignore"):
        for _ in range(4):
            values = subject.params() | draw(rng, anatomy.chain, subject.params(), np.asarray(x, np.float64))
            params.append(values)
            copy.write(values)
            usual.append(copy.predict(x))
            last = anatomy.chain[-1]
            raised = {n: (100.0 * v).astype(v.dtype) for n, v in values.items() if n in (last.weight, last.bias)}
            copy.write(values | raised)
            large.append(copy.predict(x))
    if not all(np.isfinite(p).all() for p in usual):
        return None
    kept = [p for p in large if np.isfinite(p).all()] or usual
    return Ends(usual, kept, params)


def of_output(setting: Setting, task: Task, found: Ends, anatomy: Anatomy, inside: Inside | str,
              x: np.ndarray, y: np.ndarray) -> list[Candidate]:
    """What is wrong with the last activation and its loss, for some rows x and y.

    Parameters
    ----------
    found : Ends
        Of x.
    inside : Inside or str
    """
    where = anatomy.chain[-1].names if anatomy.chain else "output"
    k = found.usual[0].shape[1]

    def proof(cause: str, evidence: str, fix: str, cure: Callable[[Setting], Setting] | None = None) -> Candidate:
        return Candidate(Finding(cause, where, evidence, fix=fix, confidence=0.97), cure, True)

    if isinstance(inside, Inside) and " of " in inside.link:
        name = inside.link.partition(" ")[0]
        return [proof("double_softmax", f"The loss is that of a {inside.link}: it takes for logits what has been "
                      f"through a {name} already.", f"Apply one {name}: give the loss logits, or probabilities to "
                      "one that takes these.")]
    broadcast = _broadcast(setting, found, x, y)
    if broadcast is not None:
        return [broadcast]
    if k == 1:
        if found.low >= 0.5 - 1e-6 and found.high <= math.e / (1.0 + math.e) + 1e-6 and task.classes:
            return [proof("double_softmax", f"The probability lies from {found.low:.4g} to {found.high:.4g}, however "
                          "large the logits: that of a sigmoid of a sigmoid.",
                          "Apply one sigmoid: give the loss the logit, or the probability to one that takes it.")]
        if all(np.all(np.abs(p - 1.0) < 1e-9) for p in [*found.usual, *found.large]):
            return [proof("softmax_on_one_unit", "Its prediction is 1 for every row and whatever the parameters are: a "
                          "softmax over one unit.", "Take a sigmoid for one unit, or one unit for each class.")]
    else:
        rows = all(np.allclose(p.sum(axis=1), 1.0, atol=1e-3) for p in found.usual)
        columns = all(np.allclose(p.sum(axis=0), 1.0, atol=1e-3) for p in found.usual)
        if columns and not rows:
            return [proof("softmax_wrong_axis", "Predictions add up to 1 down each column, over the rows of a batch, "
                          "and not along each row.", "Take the softmax along the axis of the classes: axis=1, its "
                          "maximum and its sum with keepdims=True.")]
        ceiling = math.e / (math.e + k - 1)
        highest = max(float(p.max()) for p in [*found.usual, *found.large])
        if rows and highest <= ceiling + 1e-3 and found.low > 0.5 / (math.e + k - 1):
            return [proof("double_softmax", f"No probability exceeds {highest:.4g}, however large the logits: that "
                          f"of a softmax of a softmax of {k} classes, {ceiling:.4g}.",
                          "Apply one softmax: give the loss logits, or probabilities to one that takes these.")]
    every = np.concatenate([p.ravel() for p in found.large])
    if task.classes and 0.001 < found.low < found.high < 0.999 and np.mean(
            (np.abs(every - found.low) < 1e-6) | (np.abs(every - found.high) < 1e-6)) > 0.3:
        return [proof("probability_clipped", f"Probabilities are cut off at {found.low:.4g} and {found.high:.4g}: "
                      "beyond, nothing is learnt.", "Take the loss of the logits (logaddexp, log-sum-exp); then "
                      "nothing needs a clip.")]
    mismatch = _mismatch(setting, task, found, inside, x, y)
    return [proof("activation_loss_mismatch", *mismatch)] if mismatch else []


def _broadcast(setting: Setting, found: Ends, x: np.ndarray, y: np.ndarray) -> Candidate | None:
    """A loss that does not care which target belongs to which row, since it compares all with all."""
    subject = setting.subject.copy()
    coarse = any(value.dtype.itemsize < 4 for value in found.params[0].values())
    if "loss" not in subject.can or len(np.unique(y)) < 2 or found.usual[0].shape[1] != 1 or coarse:
        return None
    rng = np.random.default_rng(37)
    target = _of_their_size(y, found.usual)
    other = target.reshape(len(y)) if y.ndim == 2 else target[:, None]
    same, reshaped = [], []
    with np.errstate(all="ignore"):
        for values, predicted in zip(found.params, found.usual, strict=True):
            subject.write(values)
            try:
                here = subject.loss(x, target)
                moved = [subject.loss(x, target[rng.permutation(len(y))]) for _ in range(3)]
                reshaped.append(abs(subject.loss(x, other) - here) > 1e-5 * abs(here))
            except Exception:  # a shape that it does not take
                return None
            counts = float(predicted.std() * target.std())  # what it would change, had it a say
            if not np.isfinite([here, *moved]).all() or counts < 1e-3 * abs(here):
                return None
            same.append(max(abs(m - here) for m in moved) < 1e-3 * counts)
    if not all(same):
        return None
    if not any(reshaped):
        return Candidate(
            Finding("target_shape_broadcast", "loss", f"The loss stays {here:.6g} when targets change places: it "
                    "compares every row with every target.", fix="Give predictions and targets one shape before they "
                    "are subtracted: (n,) and (n, 1) make (n, n).", confidence=0.98), None, True)
    shape, wanted = tuple(setting.y.shape), tuple(setting.y.reshape(len(setting.y), -1)[:, 0].shape)
    if y.ndim == 1:
        wanted = (*shape, 1)
    return Candidate(
        Finding("target_shape_broadcast", "y", f"The loss stays {here:.6g} when targets change places: y of shape "
                f"{shape} is broadcast against predictions of another shape, all rows against all.",
                fix=f"Give y as {wanted}, the shape of the predictions.", confidence=0.98),
        lambda s: replace(s, y=s.y.reshape(wanted)), True)


def _of_their_size(y: np.ndarray, predicted: list[np.ndarray]) -> np.ndarray:
    """Values moved and scaled to those of predictions; two classes as they are."""
    if len(np.unique(y)) == 2:
        return y
    centre, spread = float(np.mean(predicted)), float(np.std(predicted))
    return np.asarray((y - y.mean()) / y.std() * spread + centre, y.dtype if y.dtype.kind == "f" else np.float64)


def _mismatch(setting: Setting, task: Task, found: Ends, inside: Inside | str, x: np.ndarray,
              y: np.ndarray) -> tuple[str, str] | None:
    """Evidence and fix where predictions cannot be what the targets are, or the loss is no loss of them."""
    low, high = found.low, found.high
    if not task.classes:
        target = np.asarray(setting.y, np.float64).reshape(len(setting.y), -1)
        every = np.concatenate([p.ravel() for p in found.large])
        near, room = 1e-6 * (high - low), 1e-6 + 0.02 * min(high - low, float(np.ptp(target)))
        # An end is one where predictions heap up.
        least = low if np.mean(every <= low + near) > 0.05 and high > low else -math.inf
        most = high if np.mean(every >= high - near) > 0.05 and high > low else math.inf
        outside = float(np.mean((target < least - room) | (target > most + room)))
        if outside > 0.02:
            return (f"Predictions lie from {least:.3g} to {most:.3g} whatever the parameters are, and {outside:.0%} "
                    "of the targets do not.", "Leave the last layer without an activation.")
        return None
    if isinstance(inside, Inside):
        if inside.form == "cross-entropy" and inside.link == "sigmoid" and task.outputs > 1:
            return ("The loss is the cross-entropy of classes that exclude each other, and the outputs are sigmoids, "
                    "which do not.", "Take a softmax at the end, or binary cross-entropy.")
        if "entropy" in inside.form or inside.link != "relu":
            return None
        return ("The last layer's ReLU gives no gradient where it is zero.", "Take a sigmoid or a softmax at the end.")
    if found.are_probabilities:
        return None
    subject = setting.subject.copy()
    losses = []
    with np.errstate(all="ignore"):
        for values in found.params:
            subject.write(values)
            losses.append(subject.loss(x, y) if "loss" in subject.can else 0.0)
    if np.isfinite(losses).all() and "loss" in subject.can and _squares(found, losses, y):
        return None
    return (f"Predictions lie from {low:.3g} to {high:.3g} and are taken for probabilities"
            + (": their loss is NaN or infinite." if not np.isfinite(losses).all() else "."),
            "Take a sigmoid (one unit) or a softmax (a unit for each class) at the end.")


def _squares(found: Ends, losses: list[float], y: np.ndarray) -> bool:
    """Whether the losses are those of squared or absolute errors, which take any prediction."""
    target = np.asarray(y, np.float64).reshape(len(y), -1)
    if target.shape != found.usual[0].shape:
        return False
    for power in (1.0, 2.0):
        sums = np.array([np.sum(np.abs(p - target) ** power) for p in found.usual])
        ratio = np.array(losses) / sums
        if np.ptp(ratio) <= 1e-3 * np.abs(ratio).max():
            return True
    return False


def of_labels(setting: Setting, task: Task, probabilities: bool) -> list[Candidate]:
    """Class numbers or codes that are not those which the outputs stand for."""
    y, k = np.asarray(setting.y), task.outputs
    if not task.classes:
        return []
    flat = y.reshape(len(y), -1)
    kinds = np.unique(flat)

    def found(cause: str, evidence: str, fix: str, recode: Callable[[np.ndarray], np.ndarray],
              proven: bool = True) -> list[Candidate]:
        return [Candidate(Finding(cause, "y", evidence, fix=fix, confidence=0.97),
                          lambda s: replace(s, y=recode(np.asarray(s.y)).astype(
                              y.dtype if y.dtype.kind in "fi" else np.int64)), proven)]

    def numbers(values: np.ndarray) -> np.ndarray:
        return np.searchsorted(kinds, values).reshape(values.shape)

    if k == 1 and flat.shape[1] == 1:
        if not probabilities:
            return []
        if len(kinds) > 2:
            return [Candidate(Finding("labels_mis_encoded", "y", f"It holds {len(kinds)} class numbers, and the one "
                                      "output is a probability.", fix="Take an output for each class, with a softmax.",
                                      confidence=0.95), None, True)]
        if kinds.min() < 0 or kinds.max() > 1:
            coded = ", ".join(f"{v:g}" for v in kinds)
            cause = "labels_mis_encoded" if kinds.min() < 0 else "labels_out_of_range"
            return found(cause, f"The classes are {coded}, and the output is a probability, from 0 to 1.",
                         "Code the two classes as 0 and 1.", numbers)
        return []
    if flat.shape[1] == 1:
        if kinds.min() < 0 or kinds.max() >= k:
            return found("labels_out_of_range", f"Class numbers go from {kinds.min():g} to {kinds.max():g}, and the "
                         f"{k} outputs stand for 0 to {k - 1}.", f"Number the classes from 0 to {k - 1}.", numbers)
        eye = np.eye(k)
        return [Candidate(
            Finding("labels_mis_encoded", "y", f"It has the shape {tuple(y.shape)} and holds class numbers, against "
                    f"{k} outputs.",
                    fix=f"Give a row of {k} numbers for each, 1 at its class and 0 elsewhere (one-hot).",
                    confidence=0.9), lambda s: replace(s, y=eye[np.asarray(s.y).reshape(-1).astype(int)]))]
    sums = flat.sum(axis=1)
    if flat.shape[1] == k and len(kinds) == 2 and k > 2 and np.all(np.sum(flat == kinds[1], axis=1) == k - 1):
        return found("labels_mis_encoded", "Each row has a 1 at every class but one: the code is upside down.",
                     "Give a 1 at the row's class and 0 elsewhere (one-hot).", lambda v: kinds[0] + kinds[1] - v)
    if flat.shape[1] == k and len(kinds) == 2 and (kinds[0] != 0 or kinds[1] != 1) and probabilities:
        return found("labels_mis_encoded", f"Rows add up to {sums[0]:g}, and hold {kinds[0]:g} and {kinds[1]:g}: the "
                     "outputs are probabilities.", "Give a 1 at the row's class and 0 elsewhere (one-hot).", numbers)
    return []


def doubled_link(setting: Setting) -> Candidate | None:
    """A network of this package whose last layer has an activation before the loss's own."""
    program = setting.subject.program
    if not isinstance(program, NetworkProgram):
        return None
    last = program.network.layers[-1].config().get("activation", "identity")
    if last == "identity" or type(program.chosen).link is Loss.link:
        return None

    def cure(s: Setting) -> Setting:
        def plain(layer: Layer) -> Layer:
            return Dense(layer.units, bias=layer.bias) if layer is final else layer
        final = s.subject.program.network.layers[-1]
        return in_network(s, network=with_layers(s.subject.program.network, plain))
    name = last if isinstance(last, str) else last.get("name", "another")
    where = f"{len(program.network.layers) - 1}.weight, {len(program.network.layers) - 1}.bias"
    return Candidate(
        Finding("activation_loss_mismatch", where, f"The last layer has the activation {name}, and "
                f"{program.chosen.name} applies its own to the logits.",
                fix="Leave the last layer without an activation.", confidence=0.97), cure, True)
