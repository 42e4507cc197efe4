"""The ways in which dz is made wrong, as formulas: candidates that an experiment compares with what a program gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .rebuild import FORMS, USUAL, activate, derivative, through

MISSING = "activation_derivative_missing"
WRONG_TENSOR = "activation_derivative_of_wrong_tensor"
WRONG = "gradient_wrong"

Make = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Suspect:
    """One way to make dz.

    Attributes
    ----------
    cause : str
        A finding's code; empty for the right way.
    words : str
        What the program would do.
    fix : str
    dz : ndarray (rows, units)
        What it would give.
    remake : callable (da) -> dz
        The same of another incoming gradient.
    """

    cause: str
    words: str
    fix: str
    dz: np.ndarray
    remake: Make


def of_hidden(name: str, z: np.ndarray, inputs: np.ndarray, z_next: np.ndarray,
              coming: Sequence[tuple[str, np.ndarray]], scales: Sequence[float]) -> Iterator[Suspect]:
    """dz of a hidden layer, the right way first.

    Parameters
    ----------
    name : str
        Its activation.
    z, inputs, z_next : ndarray
        Its pre-activation (rows, units), its inputs, and the pre-activation of the layer after it.
    coming : list of (words, da)
        The incoming gradient, right and wrong; the words of the right one are empty.
    scales : list of float
        By what the program's incoming gradient may differ from these.
    """
    for words, da in coming:
        fix = "Pass dz on through the transposed weights (dz @ W.T), as they were in forward." if words else ""
        for cause, of, cure, make in _factors(name, z, inputs, z_next, scales):
            if words and cause:
                continue  # two faults in one step
            with np.errstate(all="ignore"):
                yield Suspect(cause or (WRONG if words else ""), words or of, fix or cure, make(da), make)


Factor = tuple[str, str, str, Make]


def _times(factor: np.ndarray) -> Make:
    return lambda da: da * factor


def _times_of_itself(formula: Make, scale: float) -> Make:
    return lambda da: da * formula(scale * da)


def _factors(name: str, z: np.ndarray, inputs: np.ndarray, z_next: np.ndarray,
             scales: Sequence[float]) -> Iterator[Factor]:
    """Cause, words, fix and formula of what the incoming gradient can be multiplied with, the right one first."""
    a, right = activate(name, z), derivative(name, z)
    at_z = f"Take {name}'s derivative at z, the input of the activation in forward."
    yield "", "", "", _times(right)
    yield (MISSING, f"{name}'s derivative is left out", f"Multiply the incoming gradient by {name}'s derivative at z.",
           lambda da: da)
    for scale in scales:
        yield (WRONG_TENSOR, f"{name}'s derivative is taken of the incoming gradient", at_z,
               _times_of_itself(lambda da: derivative(name, da), scale))
    yield WRONG_TENSOR, f"{name}'s derivative is taken of its output a in place of z", at_z, _times(derivative(name, a))
    formula = _OF_OUTPUT.get(name)
    if formula is not None:
        of_a = f"Give {name}'s formula a, the output of forward, or use that of z."
        yield WRONG_TENSOR, "the derivative's formula of the output a is given z", of_a, _times(formula(z))
        for scale in scales:
            yield (WRONG_TENSOR, "the derivative's formula of the output a is given the incoming gradient", of_a,
                   _times_of_itself(formula, scale))
    for words, other in (("the layer's input", inputs), ("the next layer's z", z_next)):
        if other.shape == z.shape:
            yield WRONG_TENSOR, f"{name}'s derivative is taken of {words}", at_z, _times(derivative(name, other))
    yield WRONG, "the incoming gradient is multiplied by the activation in place of its derivative", at_z, _times(a)
    yield WRONG, f"{name}'s derivative is multiplied twice", "Multiply by it once.", _times(right * right)
    for one in USUAL:
        if one not in (name, "identity"):
            yield (WRONG, f"the derivative is that of {one}, forward has {name}", f"Use {name}'s derivative.",
                   _times(derivative(one, z)))


_OF_OUTPUT: dict[str, Make] = {"sigmoid": lambda a: a * (1.0 - a), "tanh": lambda a: 1.0 - a * a}


def of_output(form: str, link: str, z: np.ndarray, target: np.ndarray, scales: Sequence[float]) -> Iterator[Suspect]:
    """dz of the last layer, the right way first.

    Parameters
    ----------
    form, link : str
        The loss, and what it takes of z.
    z, target : ndarray (rows, outputs)
    scales : list of float
        By what the program's derivative of the loss may differ.
    """
    p, y = activate(link, z), target

    def suspect(cause: str, words: str, fix: str, make: Make, da: np.ndarray) -> Suspect:
        return Suspect(cause, words, fix, make(da), make)

    with np.errstate(all="ignore"):
        own = FORMS[form][1](p, y)
        yield suspect("", "", "", lambda da: through(link, z, da), own)
        if link != "identity":
            yield suspect(MISSING, f"the derivative of the loss by the prediction is passed on without {link}'s "
                          "derivative",
                          f"Multiply it by {link}'s derivative at z.", lambda da: da, own)
        if link not in ("identity", "softmax"):
            yield from (suspect(s[0], s[1], s[2], s[3], own) for s in _factors(link, z, z[:0], z[:0], scales)
                        if s[0] == WRONG_TENSOR)
        if link in ("sigmoid", "softmax"):
            simple = "With squared error dz is (p - y) times the whole derivative of the link."
            if "entropy" in form:
                simple = "With sigmoid or softmax and cross-entropy dz is p - y, and nothing more."
            yield suspect(WRONG, f"{link}'s derivative is multiplied in once more: dz is (p - y) p (1 - p)", simple,
                          lambda da: da, (p - y) * p * (1.0 - p))
            yield suspect(WRONG, "only the diagonal of softmax's derivative is taken" if link == "softmax" else
                          "only the term of y = 1 is differentiated", simple, lambda da: da, -y * (1.0 - p))
        for other, (_, slope) in FORMS.items():
            if other != form:
                fix = f"Differentiate {form}, the loss that is reported, or report {other}."
                words = f"the gradient is that of {other}, the loss is {form}"
                yield suspect(WRONG, words, fix, lambda da: through(link, z, da), slope(p, y))
                yield suspect(WRONG, f"{words}, and {link}'s derivative is left out", fix, lambda da: da, slope(p, y))


def of_bias(dz: np.ndarray, da: np.ndarray, z: np.ndarray, a: np.ndarray, inputs: np.ndarray,
            target: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """What a bias gradient can be the sum of (rows, units): dz itself first, then words and wrong tensors."""
    yield "", dz
    yield "the incoming gradient da, before the activation's derivative", da
    yield "the layer's output a", a
    yield "the layer's pre-activation z", z
    for words, of in (("dz", dz), ("da", da)):
        across = np.repeat(of.sum(axis=1, keepdims=True), dz.shape[1], axis=1)
        yield f"{words} summed over the units (axis 1) in place of the rows", across
    if inputs.shape == dz.shape:
        yield "the layer's input", inputs
    if target is not None and target.shape == dz.shape:
        yield "the target y", target


def of_rows(dz: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """What a bias gradient can be of a whole batch's dz (rows, units), if it is not its sum: (units,) each."""
    units = dz.shape[1]
    yield "the first row of dz alone", dz[0]
    yield "the last row of dz alone", dz[-1]
    yield "dz summed over the wrong axis", np.resize(dz.sum(axis=1), units)
    yield "the sum of all of dz", np.full(units, dz.sum())
