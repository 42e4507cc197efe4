"""Formulas of dz and of bias gradients, right and wrong, which are compared with what a program computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .reconstruct import LOSSES, USUAL, activate, backward, derivative

MISSING = "activation_derivative_missing"
WRONG_TENSOR = "activation_derivative_of_wrong_tensor"
WRONG = "gradient_wrong"

Make = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Formula:
    """One way to compute dz.

    Attributes
    ----------
    cause : str
        The cause to report if the program computes dz in this way; empty for the right formula.
    words : str
        What the program would do.
    fix : str
    dz : ndarray (rows, units)
    remake : callable (da) -> dz
        The formula, for another incoming gradient.
    """

    cause: str
    words: str
    fix: str
    dz: np.ndarray
    remake: Make


def hidden_formulas(name: str, z: np.ndarray, inputs: np.ndarray, z_next: np.ndarray,
                    incoming: Sequence[tuple[str, np.ndarray]], scales: Sequence[float]) -> Iterator[Formula]:
    """Yield formulas of a hidden layer's dz, the right one first.

    Parameters
    ----------
    name : str
        The layer's activation.
    z, inputs, z_next : ndarray
        The layer's pre-activation (rows, units), its inputs, and the pre-activation of the next layer.
    incoming : list of (words, da)
        Incoming gradients, right and wrong; the words of the right one are empty.
    scales : list of float
        Factors by which the program's incoming gradient may differ from these.
    """
    for words, da in incoming:
        fix = "Pass dz on through the transposed weights (dz @ W.T), as they were in the forward pass." if words else ""
        for cause, factor_words, factor_fix, make in _factors(name, z, inputs, z_next, scales):
            if words and cause:
                continue  # two faults in one step
            with np.errstate(all="ignore"):
                yield Formula(cause or (WRONG if words else ""), words or factor_words, fix or factor_fix, make(da),
                              make)


Factor = tuple[str, str, str, Make]  # cause, words, fix, formula


def _times(factor: np.ndarray) -> Make:
    return lambda da: da * factor


def _times_function_of_da(function: Make, scale: float) -> Make:
    return lambda da: da * function(scale * da)


def _factors(name: str, z: np.ndarray, inputs: np.ndarray, z_next: np.ndarray,
             scales: Sequence[float]) -> Iterator[Factor]:
    """Yield what the incoming gradient can be multiplied by, the right factor first."""
    a, right = activate(name, z), derivative(name, z)
    at_z = f"Take {name}'s derivative at z, the input of the activation in the forward pass."
    yield "", "", "", _times(right)
    yield (MISSING, f"{name}'s derivative is left out", f"Multiply the incoming gradient by {name}'s derivative at z.",
           lambda da: da)
    for scale in scales:
        yield (WRONG_TENSOR, f"{name}'s derivative is taken of the incoming gradient", at_z,
               _times_function_of_da(lambda da: derivative(name, da), scale))
    yield WRONG_TENSOR, f"{name}'s derivative is taken of its output a instead of z", at_z, _times(derivative(name, a))
    formula = _DERIVATIVE_OF_OUTPUT.get(name)
    if formula is not None:
        of_a = f"Evaluate this formula of {name}'s derivative at the output a, or use the formula of z."
        yield WRONG_TENSOR, "the derivative's formula of the output a is evaluated at z", of_a, _times(formula(z))
        for scale in scales:
            yield (WRONG_TENSOR, "the derivative's formula of the output a is evaluated at the incoming gradient", of_a,
                   _times_function_of_da(formula, scale))
    for words, other in (("the layer's input", inputs), ("the next layer's z", z_next)):
        if other.shape == z.shape:
            yield WRONG_TENSOR, f"{name}'s derivative is taken of {words}", at_z, _times(derivative(name, other))
    yield WRONG, "the incoming gradient is multiplied by the activation instead of its derivative", at_z, _times(a)
    yield WRONG, f"{name}'s derivative is multiplied twice", "Multiply by it once.", _times(right * right)
    for other_name in USUAL:
        if other_name not in (name, "identity"):
            yield (WRONG, f"the derivative of {other_name} is used, while the forward pass has {name}",
                   f"Use {name}'s derivative.", _times(derivative(other_name, z)))


_DERIVATIVE_OF_OUTPUT: dict[str, Make] = {"sigmoid": lambda a: a * (1.0 - a), "tanh": lambda a: 1.0 - a * a}


def output_formulas(loss: str, output: str, z: np.ndarray, target: np.ndarray,
                    scales: Sequence[float]) -> Iterator[Formula]:
    """Yield formulas of the last layer's dz, the right one first.

    Parameters
    ----------
    loss, output : str
        The loss, and the activation that it applies to z.
    z, target : ndarray (rows, outputs)
    scales : list of float
        Factors by which the program's derivative of the loss may differ.
    """
    p, y = activate(output, z), target

    def formula(cause: str, words: str, fix: str, make: Make, da: np.ndarray) -> Formula:
        return Formula(cause, words, fix, make(da), make)

    def pass_on(da: np.ndarray) -> np.ndarray:
        return da

    with np.errstate(all="ignore"):
        da = LOSSES[loss][1](p, y)
        yield formula("", "", "", lambda da: backward(output, z, da), da)
        if output != "identity":
            yield formula(MISSING, f"the derivative of the loss with respect to the prediction is passed on without "
                          f"{output}'s derivative", f"Multiply it by {output}'s derivative at z.", pass_on, da)
        if output not in ("identity", "softmax"):
            yield from (formula(*factor, da) for factor in _factors(output, z, z[:0], z[:0], scales)
                        if factor[0] == WRONG_TENSOR)
        if output in ("sigmoid", "softmax"):
            fix = "With squared error, dz is (p - y) times the full derivative of the output activation."
            if "entropy" in loss:
                fix = "With sigmoid or softmax and cross-entropy, dz is p - y."
            yield formula(WRONG, f"{output}'s derivative is multiplied once more: dz is (p - y) p (1 - p)", fix,
                          pass_on, (p - y) * p * (1.0 - p))
            yield formula(WRONG, "only the diagonal of softmax's derivative is taken" if output == "softmax" else
                          "only the term for y = 1 is differentiated", fix, pass_on, -y * (1.0 - p))
        for other, (_, slope) in LOSSES.items():
            if other != loss:
                fix = f"Differentiate {loss}, the loss that is reported, or report {other}."
                words = f"the gradient is that of {other}, while the loss is {loss}"
                yield formula(WRONG, words, fix, lambda da: backward(output, z, da), slope(p, y))
                yield formula(WRONG, f"{words}, and {output}'s derivative is left out", fix, pass_on, slope(p, y))


def bias_terms(dz: np.ndarray, da: np.ndarray, z: np.ndarray, a: np.ndarray, inputs: np.ndarray,
               target: np.ndarray | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a bias gradient can be the sum of, (rows, units) each: dz with no words, then wrong tensors."""
    yield "", dz
    yield "the incoming gradient da, before the activation's derivative", da
    yield "the layer's output a", a
    yield "the layer's pre-activation z", z
    for words, of in (("dz", dz), ("da", da)):
        across = np.repeat(of.sum(axis=1, keepdims=True), dz.shape[1], axis=1)
        yield f"{words} summed over the units (axis 1) instead of the rows", across
    if inputs.shape == dz.shape:
        yield "the layer's input", inputs
    if target is not None and target.shape == dz.shape:
        yield "the target y", target


def wrong_bias_sums(dz: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what a bias gradient (units,) can be instead of the sum of a batch's dz (rows, units)."""
    units = dz.shape[1]
    yield "only the first row of dz", dz[0]
    yield "only the last row of dz", dz[-1]
    yield "dz summed over the wrong axis", np.resize(dz.sum(axis=1), units)
    yield "the sum of all entries of dz", np.full(units, dz.sum())
