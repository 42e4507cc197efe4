"""Candidates that change the layers of a network, for programs that are one or can be rebuilt as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..layers import Dense, Layer
from ..losses import AbsoluteError, BinaryCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError
from ..network import Network
from ..optimizers import SGD
from .architecture import architecture_of, initial_gradients
from .candidates import Candidate, Cure, candidate, with_layers
from .gradients.reconstruct import Reconstruction, as_targets, draw_parameters
from .program import NetworkProgram, Subject
from .trial import Params, Setting

_LOSSES: dict[tuple[str, str], type[Loss]] = {
    ("binary cross-entropy", "sigmoid"): BinaryCrossEntropy, ("cross-entropy", "softmax"): SoftmaxCrossEntropy}
_BOUNDED = ("sigmoid", "tanh", "hard_sigmoid", "hard_tanh")


def as_network(setting: Setting, net: Reconstruction) -> Setting | None:
    """Return the setting of a network that computes as the program does and is trained by plain gradient descent.

    Its learning rate is measured on one step of the program. None if no network of this package computes the same.
    """
    start, output = setting.subject.params(), net.output
    target = as_targets(np.asarray(setting.y), net.layers[-1].units)
    loss = _LOSSES.get((net.loss, net.output))
    if loss is not None:
        output = "identity"
    elif net.loss in ("squared error", "absolute error") and output != "softmax":
        loss = SquaredError if net.loss == "squared error" else AbsoluteError
    if loss is None or target is None:
        return None
    layers = [Dense(layer.units, name) for layer, name in zip(net.layers, (*net.hidden, output), strict=True)]
    network = Network(layers, net.layers[0].inputs, "numpy", "float64")
    _write(network, net, start)
    rows = np.arange(min(setting.batch_size, len(setting.x)))
    program = NetworkProgram(network, loss(), SGD(1.0))
    wide = np.asarray(setting.x, np.float64)
    subject, last = setting.start(), net.layers[-1]
    drawn = draw_parameters(np.random.default_rng(41), net.layers, start, wide[rows])
    subject.write(drawn)
    _write(program.network, net, drawn)
    gradient = np.asarray(program.gradients(wide[rows], target[rows])[f"{len(layers) - 1}.weight"])
    with np.errstate(all="ignore"):
        subject.step(setting.x[rows], setting.y[rows])
    moved = last.matrix(drawn) - last.matrix(subject.params())
    size = float(np.sum(gradient * gradient))
    rate = float(np.sum(moved * gradient)) / size if size else 0.0
    if not np.isfinite(rate) or rate <= 0.0:
        return None
    return replace(setting, subject=Subject(NetworkProgram(network, loss(), SGD(rate))), x=wide, y=target,
                   gradients=None)


def _write(network: Network, net: Reconstruction, values: Params) -> None:
    for k, layer in enumerate(net.layers):
        network.arena.write(f"{k}.weight", np.ascontiguousarray(layer.matrix(values)))
        network.arena.write(f"{k}.bias", layer.vector(values))


def layer_candidates(setting: Setting) -> list[Candidate]:
    """Return candidates among the layers of a network of this package."""
    network, found = setting.subject.network, list[Candidate]()
    chain = architecture_of(setting.subject).layers
    if network is None or len(chain) < 2:
        return found
    hidden = [layer for layer in network.layers[:-1] if isinstance(layer, Dense)]
    names = [layer._activation.name for layer in hidden]
    if names and set(names) == {"identity"}:
        found.append(candidate(
            "no_nonlinearity", ", ".join(layer.weight for layer in chain[:-1]), "No hidden layer has an activation: "
            "the network is a linear model.", "Give hidden layers an activation such as relu.", 0.95,
            _with_hidden(lambda layer: Dense(layer.units, "relu")), {"activation": "relu"}))
    narrow = [layer for layer in chain[:-1] if layer.units <= 4]
    if narrow:
        units = ", ".join(str(layer.units) for layer in narrow)
        found.append(candidate(
            "capacity_too_small", ", ".join(layer.weight for layer in narrow), f"The layer has {units} "
            f"unit{'' if units == '1' else 's'}.", "Use 32 units.", 0.9,
            _with_hidden(lambda layer: Dense(max(32, layer.units), layer._activation)),
            {"hidden": [max(32, layer.units) for layer in chain[:-1]]}))
    if len(hidden) > 2 and any(name in _BOUNDED for name in names):
        grads = initial_gradients(setting.subject, setting.x, setting.y)
        first, last = (float(np.sqrt(np.mean(chain[k].matrix(grads) ** 2))) for k in (0, -1))
        if first < 0.05 * last:
            found.append(candidate(
                "gradient_vanishing", chain[0].weight, f"Through {len(hidden)} layers of {names[0]} the gradient per "
                f"weight shrinks to {first / last:.2g} of that of the last layer.",
                "Use relu with weights of sqrt(2 / inputs), or normalise between layers.", 0.9,
                _with_hidden(lambda layer: Dense(layer.units, "relu"), keep=False), {"activation": "relu"}))
    return found


def _with_hidden(change: Callable[[Dense], Layer], keep: bool = True) -> Cure:
    """Return a cure that changes all hidden dense layers; with `keep`, parameters that fit keep their values."""
    def cure(s: Setting) -> Setting:
        final = s.subject.program.network.layers[-1]
        return with_layers(s, lambda layer: change(layer) if isinstance(layer, Dense) and layer is not final else layer,
                           keep)
    return cure
