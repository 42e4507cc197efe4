"""Other layers than a program has: experiments on the network of this package that it is, or that it was rebuilt as."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..layers import Dense, Layer
from ..losses import AbsoluteError, BinaryCrossEntropy, Loss, SoftmaxCrossEntropy, SquaredError
from ..network import Network
from ..optimizers import SGD
from .anatomy import Anatomy
from .candidates import Candidate, in_network, with_layers
from .findings import Finding
from .program import NetworkProgram, Subject
from .rebuild import Inside, draw, targets
from .trial import Setting

_LOSSES: dict[tuple[str, str], type[Loss]] = {
    ("binary cross-entropy", "sigmoid"): BinaryCrossEntropy, ("cross-entropy", "softmax"): SoftmaxCrossEntropy}
_BOUNDED = ("sigmoid", "tanh", "hard_sigmoid", "hard_tanh")


def as_network(setting: Setting, inside: Inside) -> Setting | None:
    """The setting of a network of this package that computes as the program does, by plain gradient descent.

    Its learning rate is the one that the program's first step shows. None where no network does.
    """
    start, link = setting.subject.params(), inside.link
    target = targets(np.asarray(setting.y), inside.chain[-1].units)
    chosen = _LOSSES.get((inside.form, inside.link))
    if chosen is not None:
        link = "identity"
    elif inside.form in ("squared error", "absolute error") and link != "softmax":
        chosen = SquaredError if inside.form == "squared error" else AbsoluteError
    if chosen is None or target is None:
        return None
    units = [one.units for one in inside.chain]
    layers = [Dense(n, activation) for n, activation in zip(units, (*inside.hidden, link), strict=True)]
    network = Network(layers, inside.chain[0].inputs, "numpy", "float64")
    for k, one in enumerate(inside.chain):
        network.arena.write(f"{k}.weight", np.ascontiguousarray(one.matrix(start)))
        network.arena.write(f"{k}.bias", one.vector(start))
    rows = np.arange(min(setting.batch_size, len(setting.x)))
    program = NetworkProgram(network, chosen(), SGD(1.0))
    wide = np.asarray(setting.x, np.float64)
    subject, last = setting.start(), inside.chain[-1]
    drawn = draw(np.random.default_rng(41), inside.chain, start, wide[rows])
    subject.write(drawn)
    for k, one in enumerate(inside.chain):
        program.network.arena.write(f"{k}.weight", np.ascontiguousarray(one.matrix(drawn)))
        program.network.arena.write(f"{k}.bias", one.vector(drawn))
    ours = np.asarray(program.gradients(wide[rows], target[rows])[f"{len(units) - 1}.weight"])
    with np.errstate(all="ignore"):
        subject.step(setting.x[rows], setting.y[rows])
    moved = last.matrix(drawn) - last.matrix(subject.params())
    size = float(np.sum(ours * ours))
    rate = float(np.sum(moved * ours)) / size if size else 0.0
    if not np.isfinite(rate) or rate <= 0.0:
        return None
    return replace(setting, subject=Subject(NetworkProgram(network, chosen(), SGD(rate))), x=wide, y=target,
                   gradients=None)


def of_structure(setting: Setting, anatomy: Anatomy) -> list[Candidate]:
    """Suspects among the layers themselves, of a network of this package."""
    network, found = setting.subject.network, list[Candidate]()
    if network is None or len(anatomy.chain) < 2:
        return found
    hidden = [layer for layer in network.layers[:-1] if isinstance(layer, Dense)]
    names = [layer._activation.name for layer in hidden]
    weights = ", ".join(link.weight for link in anatomy.chain[:-1])
    if names and set(names) == {"identity"}:
        found.append(Candidate(
            Finding("no_nonlinearity", weights, "No hidden layer has an activation: the network is a linear model.",
                    fix="Give hidden layers an activation such as relu.", confidence=0.95,
                    change={"activation": "relu"}),
            _each(lambda layer: Dense(layer.units, "relu"))))
    narrow = [link for link in anatomy.chain[:-1] if link.units <= 4]
    if narrow:
        units = ", ".join(str(link.units) for link in narrow)
        found.append(Candidate(
            Finding("capacity_too_small", ", ".join(link.weight for link in narrow), f"The layer has {units} "
                    f"unit{'' if units == '1' else 's'}.", fix="Take 32 units.", confidence=0.9,
                    change={"hidden": [max(32, link.units) for link in anatomy.chain[:-1]]}),
            _each(lambda layer: Dense(max(32, layer.units), layer._activation))))
    if len(hidden) > 2 and any(name in _BOUNDED for name in names):
        shares = gradient_shares(setting, anatomy)
        if shares and shares[0] < 0.05 * shares[-1]:
            found.append(Candidate(
                Finding("gradient_vanishing", anatomy.chain[0].weight, f"Through {len(hidden)} layers of {names[0]} "
                        f"the gradient shrinks to {shares[0] / shares[-1]:.2g} of what it is at the last, per weight.",
                        fix="Take relu with weights of sqrt(2 / inputs), or normalise between layers.", confidence=0.9,
                        change={"activation": "relu"}),
                _each(lambda layer: Dense(layer.units, "relu"), keep=False)))
    return found


def gradient_shares(setting: Setting, anatomy: Anatomy) -> list[float]:
    """The root mean square of each layer's gradient at the start, from the input side."""
    every = max(1, len(setting.x) // 256)
    with np.errstate(all="ignore"):
        grads = setting.subject.copy().gradients(setting.x[::every], setting.y[::every])
    return [float(np.sqrt(np.mean(link.matrix(grads) ** 2))) for link in anatomy.chain]


def _each(change: Callable[[Dense], Layer], keep: bool = True) -> Callable[[Setting], Setting]:
    """Change every hidden dense layer; its parameters stay where they fit, or are drawn anew."""
    def cure(s: Setting) -> Setting:
        network = s.subject.program.network
        final = network.layers[-1]
        hidden = [layer for layer in network.layers if isinstance(layer, Dense) and layer is not final]
        made = with_layers(network, lambda layer: change(layer) if any(layer is one for one in hidden) else layer, keep)
        return in_network(s, network=made)
    return cure
