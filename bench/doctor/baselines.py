"""Other rules of diagnosis, on what a plain training shows: losses, weights, gradients and activations over its steps.

In brief, after what the papers say; not the authors' code. Each symptom is mapped to the cause of this benchmark that
it points to. The training is watched 40 times and not at every step, on its own rows and not on others; where
a paper's threshold counts steps, or is its user's to choose, a plain value stands for it.

AutoTrainer: Zhang, Zhai, Ma and Shen, ICSE 2021. DeepDiagnosis: Wardat, Cruz, Le and Rajan, ICSE 2022.
UMLAUT: Schoop, Huang and Hartmann, CHI 2021. TheDeepChecker: Ben Braiek and Khomh, TOSEM 2023.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from xpdense.doctor.program import NetworkProgram

from .cases import Built, batches, score

LOOKS = 40


@dataclass
class Record:
    """What was seen.

    Attributes
    ----------
    losses, skills : list of float
        At each look, on up to 512 training rows.
    weights, gradients : list of dict of arrays
    activations : list of list of arrays
        Of each hidden layer.
    predicted : ndarray
        Before any step.
    error : str
    """

    built: Built
    losses: list[float] = field(default_factory=list)
    skills: list[float] = field(default_factory=list)
    weights: list[dict[str, Any]] = field(default_factory=list)
    gradients: list[dict[str, Any]] = field(default_factory=list)
    activations: list[list[Any]] = field(default_factory=list)
    predicted: Any = None
    error: str = ""

    @property
    def broken(self) -> bool:
        """NaN or infinity in a loss, a weight or a gradient."""
        return not all(np.isfinite(self.losses)) or any(
            not np.all(np.isfinite(v)) for look in (self.weights[-1:] + self.gradients[-1:]) for v in look.values())


def record(built: Built) -> Record:
    """A training of a copy with about 40 looks at it."""
    found = Record(built)
    stride = max(1, len(built.x) // 256)
    x, y = built.x[::stride], built.y[::stride]
    truth = None if built.case.task == "multi" and y.ndim > 1 else y if y.ndim == 1 else y[:, 0]
    every = list(batches(len(built.x), built.batch_size, built.epochs, built.shuffle, built.case.seed))
    with np.errstate(all="ignore"):
        try:
            program = copy.deepcopy(built.program)
            if built.loss is not None:
                program = NetworkProgram(program, built.loss, built.optimizer, len(every))
            looks = set(np.linspace(0, len(every) - 1, min(LOOKS, len(every))).astype(int).tolist())
            for number, some in enumerate(every):
                if number in looks:
                    found.losses.append(float(program.loss(x, y)))
                    found.weights.append({n: np.array(v, float) for n, v in program.params.items()})
                    found.gradients.append({n: np.array(v, float) for n, v in program.gradients(x, y).items()})
                    predicted = np.asarray(program.predict(x), float)
                    found.predicted = predicted if found.predicted is None else found.predicted
                    found.activations.append(_activations(program, x))
                    if truth is not None:
                        found.skills.append(score(predicted, truth, built.classes))
                program.step(built.x[some], built.y[some])
        except Exception as error:  # what a training raises is what there is to see
            found.error = f"{type(error).__name__}: {error}"
    return found


def _activations(program: Any, x: Any) -> list[Any]:
    if isinstance(program, NetworkProgram):
        network = program.network
        layers = network.trace(np.asarray(x, network.dtype))
        return [np.array(out, float) for name, _, out in layers[:-1] if "Dropout" not in name]
    program.forward(x)
    return [np.array(a, float) for a in program.inputs[1:]]


def _matrices(values: dict[str, Any]) -> list[Any]:
    return [v for v in values.values() if v.ndim == 2]


def always_rate(r: Record) -> list[str]:
    """What everyone tries first."""
    return ["learning_rate_too_high"]


def autotrainer(r: Record) -> list[str]:
    """Vanishing and exploding gradient, dying ReLU, oscillating loss, slow convergence; in their order."""
    found: list[str] = []
    if r.broken or r.error:
        found.append("gradient_exploding")
    for grads in r.gradients[-5:]:
        sizes = [float(np.mean(np.abs(g))) for g in _matrices(grads)]
        if len(sizes) > 1 and sizes[-1] > 0 and sizes[0] / sizes[-1] < 1e-3 and sizes[0] < 1e-4:
            found.append("gradient_vanishing")
        if max(sizes) > 70:
            found.append("gradient_exploding")
    dead = [np.mean(np.all(a <= 0, axis=0)) for a in (r.activations[-1] if r.activations else [])]
    if dead and max(dead) > 0.7:
        found.append("dead_relu")
    steps = np.diff(r.losses)
    if len(steps) > 3:
        turns = np.mean((steps[1:] * steps[:-1] < 0) & (np.abs(steps[1:]) > 0.03 * np.abs(r.losses[1:-1])))
        if turns > 0.5 and (not r.skills or r.skills[-1] < 0.6):
            found.append("learning_rate_too_high")
    if r.losses and r.losses[0] - r.losses[-1] < 0.03 * len(r.losses) * 0.01 and (not r.skills or r.skills[-1] < 0.6):
        found.append("learning_rate_too_low")
    return list(dict.fromkeys(found))


def deepdiagnosis(r: Record) -> list[str]:
    """Eight symptoms, the first that is met in a training, as their decision tree goes on to name a cause."""
    if r.error or r.broken:
        return ["nonfinite_input" if not np.all(np.isfinite(r.built.x)) else "learning_rate_too_high"]
    for k, (acts, grads) in enumerate(zip(r.activations, r.gradients, strict=False)):
        if any(np.mean(a <= 0) == 1 for a in acts):
            return ["dead_relu"]
        bounded = [a for a in acts if (a.min() >= 0 and a.max() <= 1) or (-1 <= a.min() < 0 and a.max() <= 1)]
        if any(np.mean((np.abs(a) > 0.95) | (np.abs(a) < 0.0005)) > 0.95 for a in bounded):
            return ["saturated_units"]
        sizes = [float(np.mean(np.abs(g))) for g in _matrices(grads)]
        if sizes and max(sizes) < 1e-7:
            return ["gradient_vanishing"]
        if sizes and max(sizes) > 1e4:
            return ["gradient_exploding"]
        if k and all(np.allclose(v, w, rtol=0, atol=1e-12) for v, w in
                     zip(r.weights[k].values(), r.weights[k - 1].values(), strict=True)):
            return ["learning_rate_too_low"]
    if len(r.losses) > 5 and r.losses[-1] >= r.losses[0]:
        return ["learning_rate_too_high"]
    if len(r.skills) > 5 and max(r.skills[-5:]) <= r.skills[0] + 0.01:
        return ["labels_shuffled", "activation_loss_mismatch"]
    return []


def umlaut(r: Record) -> list[str]:
    """Heuristics about input, rate, loss and output, without a model of how they work together."""
    found: list[str] = []
    x = r.built.x
    if not np.all(np.isfinite(x)):
        found.append("nonfinite_input")
    if r.error or r.broken:
        found.append("learning_rate_too_high")
    if np.nanmin(x) < -1 - 1e-6 or np.nanmax(x) > 1 + 1e-6:
        found.append("features_unscaled")
    p = r.predicted
    if p is not None and r.built.case.task != "regression" and (
            np.min(p) < 0 or np.max(p) > 1 or (p.shape[1] > 1 and np.max(np.abs(p.sum(axis=1) - 1)) > 1e-3)):
        found.append("activation_loss_mismatch")
    if r.built.spec.rate > 0.01:
        found.append("learning_rate_too_high")
    if r.built.spec.rate < 1e-7:
        found.append("learning_rate_too_low")
    if r.built.spec.dropout > 0.5:
        found.append("dropout_too_strong")
    if r.skills and r.skills[-1] > 0.95 and r.skills[0] < 0.5:
        found.append("leakage")
    return list(dict.fromkeys(found))


def thedeepchecker(r: Record) -> list[str]:
    """Checks of a program's state before and during its training, in the order of their phases."""
    found: list[str] = []
    x, built = r.built.x, r.built
    if not np.all(np.isfinite(x)):
        found.append("nonfinite_input")
    std, mean = np.nanstd(x, axis=0), np.nanmean(x, axis=0)
    if np.any((std == 0) & (np.abs(mean) > 1)):
        found.append("constant_feature")
    moving = std > 0
    if np.any(np.abs(mean[moving]) > 0.5) or np.any(np.abs(std[moving] - 1) > 0.5):
        found.append("features_unscaled")
    if built.classes and built.y.ndim == 1:
        counts = np.unique(built.y, return_counts=True)[1]
        if len(counts) < 2:
            found.append("single_class")
        elif counts.min() < 0.2 * counts.max():
            found.append("class_imbalance")
    if not built.classes and abs(float(np.std(built.y)) - 1) > 0.5:
        found.append("target_unscaled")
    if r.weights:
        for w in _matrices(r.weights[0]):
            if w.shape[1] > 1 and np.allclose(w, w[:, :1]):
                found.append("init_symmetric")
            ratio = float(np.std(w) / np.sqrt(2 / w.shape[0]))
            if ratio > 3:
                found.append("init_too_large")
            if 0 < ratio < 0.1:
                found.append("init_too_small")
    if built.classes and r.losses and abs(r.losses[0] - np.log(built.classes)) > 0.5 * np.log(built.classes):
        found.append("activation_loss_mismatch")
    if r.activations:
        for a in r.activations[len(r.activations) // 2]:
            if np.mean(np.all(a <= 0, axis=0)) > 0.5:
                found.append("dead_relu")
            elif a.min() >= -1 and a.max() <= 1 and np.mean(np.abs(a) > 0.95) > 0.5:
                found.append("saturated_units")
    ratios = []
    if len(r.weights) > 2:
        for k in range(1, len(r.weights)):
            pairs = zip(_matrices(r.weights[k - 1]), _matrices(r.weights[k]), strict=True)
            ratios += [np.linalg.norm(b - a) / (np.linalg.norm(a) + 1e-12) for a, b in pairs]
        steps = max(1, len(built.x) * built.epochs // built.batch_size // len(r.weights))
        middle = float(np.median(ratios)) / steps
        if middle > 1e-1 or r.broken or r.error:
            found.append("learning_rate_too_high")
        elif middle < 1e-5:
            found.append("learning_rate_too_low")
        frozen = [n for n in r.weights[0] if np.array_equal(r.weights[0][n], r.weights[-1][n])]
        if frozen and len(frozen) < len(r.weights[0]):
            found.append("parameter_frozen")
    elif r.error:
        found.append("labels_out_of_range")
    return list(dict.fromkeys(found))


BASELINES = {"always the rate": always_rate, "AutoTrainer": autotrainer, "DeepDiagnosis": deepdiagnosis,
             "UMLAUT": umlaut, "TheDeepChecker": thedeepchecker}


def verdicts(built: Built) -> dict[str, list[str]]:
    """What each says; a rule that stumbles over a broken training says nothing."""
    seen = record(built)
    found: dict[str, list[str]] = {}
    for name, rule in BASELINES.items():
        try:
            with np.errstate(all="ignore"):
                found[name] = rule(seen)
        except (ValueError, TypeError, IndexError):
            found[name] = []
    return found
