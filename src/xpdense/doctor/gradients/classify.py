"""Classification of wrong gradients from differences of the loss and the other gradients alone.

Each tensor is first examined by itself: a gradient may be zero, of the wrong sign, wrong by a constant factor,
transposed, or without a penalty. The others are explained by their position in the chain of layers: an error that
begins at a layer, and is in all layers before it, was made between this layer and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from .. import advice
from ..findings import Finding
from .chain import DenseLayer, chains
from .constants import constant_name, scale_fix, with_layer_sizes
from .probes import LossOf, Probed, slope

Findings = dict[str, Finding]  # by tensor
FEW = 3  # with fewer probes, a common constant may be a coincidence


def classify(loss: LossOf, probed: Mapping[str, Probed], second: Mapping[str, np.ndarray] | None,
             sizes: Mapping[str, int], size: float) -> Findings:
    """Return a finding for each tensor whose gradient is wrong, or differs at a second call.

    Parameters
    ----------
    loss : callable
    probed : mapping of names to Probed
    second : mapping of names to arrays, optional
        The gradients of a second call.
    sizes : mapping of names to int
    size : float
        The size of the loss, at least 1.
    """
    found = {} if second is None else _changed(probed, second)
    wrong = [p for name, p in probed.items() if p.vectors and not p.fits(p.expected) and name not in found]
    chain = next(iter(chains({name: p.value.shape for name, p in probed.items()})), ())
    if wrong and all(not np.any(p.measured) for p in probed.values() if p.vectors):
        return found | _flat(loss, {name: p.value for name, p in probed.items()}, wrong)
    found |= _alone(wrong, chain, sizes)
    rest = {p.name for p in wrong} - found.keys()

    def measure(name: str, vector: np.ndarray) -> float | None:
        values, length = {n: p.value for n, p in probed.items()}, float(np.linalg.norm(vector))
        if not length:
            return 0.0
        value = slope(loss, values, name, vector / length, probed[name].tolerance, size)
        return None if value is None else value * length

    if chain:
        found |= _by_layers(chain, probed, found, rest, measure)
    return found | {name: _unknown(probed[name]) for name in rest - found.keys()}


# --- all at once -------------------------------------------------------------------------------------------------

def _changed(probed: Mapping[str, Probed], second: Mapping[str, np.ndarray]) -> Findings:
    """Return findings for gradients that differ at a second call with the same parameters."""
    found = {}
    for name, p in probed.items():
        other = np.asarray(second[name])
        scale = float(np.max(np.abs(np.concatenate([p.given.ravel(), other.ravel()])), initial=0.0))
        if np.allclose(other, p.given, rtol=0.0, atol=1e-2 * p.tolerance * scale + 1e-300):
            continue
        more = p.along(other - p.given)
        if p.vectors and p.fits(more):
            what, confidence = "a second call gives the sum of the first result and the measured gradient", 0.99
        else:
            ratio = float(np.linalg.norm(other) / max(float(np.linalg.norm(p.given)), 1e-300))
            what, confidence = f"a second call gives another result, of {ratio:.4g} times the norm", 0.8
        found[name] = Finding("gradient_accumulated", name, f"At the same parameters {what}.", p.error(),
                              p.error(more) if p.vectors else None, advice.ACCUMULATED, confidence)
    return _joined(found)


def _flat(loss: LossOf, values: dict[str, np.ndarray], wrong: Iterable[Probed]) -> Findings:
    """Return findings for a loss that changes with no parameter while its gradients are not zero."""
    here = float(loss({**values}))
    small = [float(loss({n: (t * v).astype(v.dtype) for n, v in values.items()})) for t in (0.0, 0.01, 0.1)]
    if any(value != here for value in small):
        finding = Finding(
            "probability_clipped", "", f"The loss is {here:.4g} and changes with no parameter, but it does at smaller "
            f"parameters ({small[-1]:.4g} at a tenth): the loss is clipped here, and its gradient is not.",
            fix=advice.CLIPPED, confidence=0.7)
    else:
        finding = Finding(
            "gradient_wrong", "", f"The loss is {here:.4g} whatever the parameters are.",
            fix="Compute the loss from the parameters that are passed to it, not from those that the network holds.",
            confidence=0.9)
    return _joined({p.name: replace(finding, where=p.name, before=p.error()) for p in wrong})


def _joined(found: Findings) -> Findings:
    """Merge equal findings of several tensors, with the largest of their errors."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, f in found.items():
        groups.setdefault((f.cause, f.evidence, f.fix), []).append(name)
    joined: Findings = {}
    for names in groups.values():
        several = [found[name] for name in names]
        before = max((f.before for f in several if f.before is not None), default=None)
        after = max((f.after for f in several if f.after is not None), default=None)
        one = replace(several[0], where=", ".join(names), before=before, after=after,
                      confidence=max(f.confidence for f in several))
        joined |= dict.fromkeys(names, one)
    return joined


# --- one tensor --------------------------------------------------------------------------------------------------

def _alone(wrong: list[Probed], chain: tuple[DenseLayer, ...], sizes: Mapping[str, int]) -> Findings:
    """Return the findings that need only one tensor, or the weights and the bias of one layer."""
    found, partner = Findings(), dict[str, str]()
    for layer in chain:
        if layer.bias is not None:
            partner |= {layer.weight: layer.bias, layer.bias: layer.weight}
    constants = {p.name: _constant(p) for p in wrong}
    ends = {"features": chain[0].inputs, "outputs": chain[-1].units} if chain else {}
    sizes = {**sizes, **ends, **sizes}  # a size that was given keeps its value
    for p in wrong:
        constant = constants[p.name]
        other = constants.get(partner.get(p.name, ""))
        finding = _not_finite(p) or _zero(p)
        if finding is None and constant is not None:
            known = with_layer_sizes(sizes, [layer for layer in chain if p.name in (layer.weight, layer.bias)])
            shared = other is not None and abs(other - constant) <= 2.0 * p.tolerance * abs(constant)
            alone = partner.get(p.name) not in constants
            finding = _scaled(p, constant, known, shared, alone)
        finding = finding or _transposed(p) or _penalty(p)
        if finding is not None:
            found[p.name] = finding
    return _joined(found)


def _not_finite(p: Probed) -> Finding | None:
    bad = int(np.sum(~np.isfinite(p.given)))
    if not bad:
        return None
    return Finding("gradient_wrong", p.name, f"{bad} of its {p.given.size} entries are NaN or infinite.", p.error(),
                   None, "Look for a division by zero, log(0), or exp of a large number.", 1.0)


def _zero(p: Probed) -> Finding | None:
    if np.any(p.given):
        return None
    return Finding("parameter_frozen", p.name, "The gradient is zero, and the measured one reaches "
                   f"{float(np.max(np.abs(p.measured))):.3g}.", p.error(), None, advice.FROZEN, 0.99)


def _constant(p: Probed) -> float | None:
    """Return the constant factor by which the gradient is wrong, if there is one."""
    with np.errstate(all="ignore"):
        constant = float(p.expected @ p.measured / (p.measured @ p.measured))
    if not np.isfinite(constant) or not constant or not p.fits(p.expected / constant):
        return None
    return constant


def _scaled(p: Probed, constant: float, sizes: Mapping[str, int], shared: bool, alone: bool) -> Finding | None:
    """Return a finding for a constant factor.

    With few probes every gradient seems to be wrong by a constant, which must then be a product of the sizes.

    Parameters
    ----------
    shared, alone : bool
        Whether the layer's other gradient is wrong by the same constant, and whether it is right.
    """
    seen = int(np.sum(np.abs(p.measured[: p.entries]) > max(0.01 * float(np.max(np.abs(p.measured))), p.floor)))
    text = constant_name(abs(constant), sizes, min(10.0 * p.tolerance, 2e-2) if seen >= FEW or shared else
                         min(p.tolerance, 1e-4))
    exact = p.tolerance <= 1e-3
    if seen < FEW and not shared and (text is None or not exact) and abs(constant + 1.0) > p.tolerance:
        return None
    if text == "1" and constant > 0:
        return None
    if text is None and not shared and not alone:  # the layer's other gradient is wrong in another way
        return None
    confidence = 0.99 if seen >= FEW else 0.9 if shared else 0.7
    after = p.error(p.expected / constant)
    if text == "1" and constant < 0:
        return Finding("gradient_sign", p.name, "The gradient is -1 times the measured one.", p.error(), after,
                       "Flip its sign: that of the loss's derivative, or that of the update.", confidence)
    which = f", which is {text}" if text else ", which is no product of the sizes that are known"
    sign = " (and of the wrong sign)" if constant < 0 else ""
    return Finding("gradient_scale", p.name, f"The gradient is {constant:.6g} times the measured one{which}{sign}.",
                   p.error(), after, scale_fix(text, constant), confidence)


def _transposed(p: Probed) -> Finding | None:
    if p.given.ndim != 2 or 1 in p.given.shape:
        return None
    square = p.given.shape[0] == p.given.shape[1]
    expected = p.along(p.given.T if square else p.given.reshape(p.given.shape[::-1]).T)
    if not p.fits(expected):
        return None
    return Finding("gradient_wrong", p.name, "The gradient is the measured one, transposed.", p.error(),
                   p.error(expected), "Transpose it: inputs.T @ dz for weights of shape (inputs, units).", 0.99)


def _penalty(p: Probed) -> Finding | None:
    """Return a finding for an error that is a multiple of the parameters."""
    values, error = p.along(np.asarray(p.value, np.float64)), p.expected - p.measured
    if int(np.sum(np.abs(values[: p.entries]) > 1e-3)) < FEW:
        return None
    rate = float(error @ values / (values @ values))
    if not p.fits(p.expected - rate * values):
        return None
    side = "lacks a penalty that the loss has" if rate < 0 else "has a penalty that the loss lacks"
    return Finding("gradient_wrong", p.name, f"The gradient {side}: its error is {rate:.4g} times the parameters.",
                   p.error(), p.error(p.expected - rate * values), advice.PENALTY, 0.97)


def _unknown(p: Probed) -> Finding:
    return Finding("gradient_wrong", p.name, "The gradient differs from the measured one, and not by a constant factor"
                   f"{_pattern(p)}.", p.error(), None, "Derive it again from the formula of the loss.", 0.9)


def _pattern(p: Probed) -> str:
    """Describe which entries are wrong, unless all are."""
    bad = p.errors(p.expected)[: p.entries] > p.tolerance
    if not bad.any() or bad.all():
        return ""
    places = np.array([np.unravel_index(int(np.argmax(v)), v.shape) for v in p.vectors[: p.entries]])[bad]
    text = f": {int(bad.sum())} of {p.entries} entries are wrong"
    for axis, word in enumerate(("row", "column") if p.value.ndim == 2 else ("entry",)):
        if len(set(places[:, axis])) == 1:
            return f"{text}, all in {word} {places[0, axis]}"
    return text


# --- in the chain of layers --------------------------------------------------------------------------------------

Measure = Callable[[str, np.ndarray], float | None]


def _by_layers(chain: tuple[DenseLayer, ...], probed: Mapping[str, Probed], found: Findings, rest: set[str],
               measure: Measure) -> Findings:
    """Return findings for the layers at which an error begins, from the output on, and those that inherit it."""
    new: Findings = {}
    above: Finding | None = None  # an error of the gradient that comes from the next layer
    for k in range(len(chain) - 1, -1, -1):
        layer = chain[k]
        weight_wrong, bias_wrong = layer.weight in rest, layer.bias in rest
        if bias_wrong and not weight_wrong and layer.bias is not None:
            new[layer.bias] = _bias_alone(probed[layer.bias], layer, found.get(layer.weight))
            continue
        if not weight_wrong:
            continue
        p = probed[layer.weight]
        bias_right = layer.bias is not None and layer.bias not in rest and layer.bias not in found
        finding: Finding | None
        if bias_right and probed[str(layer.bias)].vectors:
            finding = _wrong_input(p, layer)
        elif k == len(chain) - 1:
            above = finding = _loss_disagrees(p, layer)
        else:
            bias_of_next = new.get(str(chain[k + 1].bias), None)
            measured = bias_of_next is not None and bias_of_next.cause == "bias_gradient_wrong"
            finding = _derivative_missing(layer, chain[k + 1], probed, measure if measured else None) or above
            above = finding = finding or _derivative_wrong(p, layer, chain[k + 1])
        new |= {name: finding for name in (layer.weight, layer.bias) if name in rest and name is not None}
    return new


def _bias_alone(p: Probed, layer: DenseLayer, explained: Finding | None) -> Finding:
    other = "is right, and therefore dz is right" if explained is None else "has another fault"
    return Finding("bias_gradient_wrong", p.name, f"The gradient is wrong (error {p.error():.2g}{_pattern(p)}), while "
                   f"that of {layer.weight} in the same layer {other}.", p.error(), None, advice.BIAS,
                   0.95 if explained is None else 0.7)


def _wrong_input(p: Probed, layer: DenseLayer) -> Finding:
    return Finding("gradient_wrong", p.name, f"The gradient is wrong (error {p.error():.2g}{_pattern(p)}), while that "
                   f"of {layer.bias} is right, and therefore dz: the inputs that it is multiplied with are wrong.",
                   p.error(), None, advice.WEIGHTS, 0.9)


def _loss_disagrees(p: Probed, layer: DenseLayer) -> Finding:
    return Finding("gradient_wrong", layer.names, f"The gradient is wrong (error {p.error():.2g}{_pattern(p)}) from "
                   "the last layer on, and not by a constant factor: the derivative of the loss or of the last "
                   "activation does not belong to the loss.", p.error(), None,
                   "Derive dz of the last layer again: with sigmoid or softmax and cross-entropy it is p - y, with "
                   "squared error (p - y) times the activation's derivative.", 0.8)


def _derivative_wrong(p: Probed, layer: DenseLayer, after: DenseLayer) -> Finding:
    where = (f"(error {p.error():.2g}) from this layer down to the first, while {after.names} of the next layer is "
             "right")
    if np.linalg.norm(p.expected - p.measured) < 0.1 * np.linalg.norm(p.measured):
        return Finding("gradient_wrong", layer.names, f"The gradient is slightly wrong {where}: {after.weight} may "
                       "already have been updated when dz passed through it.", p.error(), None, advice.UPDATED, 0.5)
    square = ", or its weights are not transposed" if after.inputs == after.units else ""
    return Finding("activation_derivative_of_wrong_tensor", layer.names, f"The gradient is wrong {where}: a derivative "
                   "of the activation is applied, but not that of the forward pass (or "
                   f"{after.weight} was already updated when it was used{square}).", p.error(), None,
                   "Take the derivative at what the forward pass computed (z, or a if the formula is one of a), never "
                   "at the incoming gradient; update after all gradients are computed.", 0.5)


def _derivative_missing(layer: DenseLayer, after: DenseLayer, probed: Mapping[str, Probed],
                        measure: Measure | None) -> Finding | None:
    """Test whether a bias gradient is that of the next layer through its weights, as without the derivative.

    The next layer's bias gradient is measured with `measure` if it is itself wrong.
    """
    if layer.bias is None or after.bias is None:
        return None
    matrix = after.matrix({after.weight: probed[after.weight].value})  # (units, units of the next)
    given = layer.vector({layer.bias: probed[layer.bias].given})
    vectors = np.eye(len(given)) if len(given) <= 8 else np.random.default_rng(0).standard_normal((8, len(given)))
    if measure is None:
        through = vectors @ matrix @ after.vector({after.bias: probed[after.bias].given})
    else:
        shape = probed[after.bias].value.shape
        slopes = [measure(after.bias, (v @ matrix).reshape(shape)) for v in vectors]
        if any(s is None for s in slopes):
            return None
        through = np.array(slopes, np.float64)
    actual = vectors @ given
    if not np.any(through) or not np.all(np.isfinite(actual)):
        return None
    constant = float(actual @ through / (through @ through))
    error = float(np.max(np.abs(actual - constant * through)) / max(float(np.max(np.abs(actual))), 1e-300))
    return _passed_on(probed[layer.bias], layer, after, constant, error, measure is not None)


def _passed_on(p: Probed, layer: DenseLayer, after: DenseLayer, constant: float, error: float,
               measured: bool) -> Finding | None:
    """Explain a bias gradient that is, up to `error`, `constant` times the next one through the weights.

    The derivative of a small incoming gradient is nearly, but not exactly, the derivative at 0: 1/4 for sigmoid, 1 for
    tanh.
    """
    exact = 1e-6 if p.single else 1e-11
    limit, few = (p.tolerance if measured else exact), p.given.size < FEW
    text = (f"The gradient of {layer.bias} is {constant:.6g} times that of {after.bias} through {after.weight}, "
            f"to {error:.1g}")
    near_one, quarter = abs(constant - 1.0) <= (10.0 * limit if few else 1e-2), abs(constant - 0.25) <= 2.5e-3
    if error <= limit and (near_one or not (few or quarter)):
        return Finding("activation_derivative_missing", layer.names,
                       f"{text}: the incoming gradient is passed on as it is.", p.error(), error,
                       "Multiply the incoming gradient by the activation's derivative at z.",
                       0.98 if limit == exact == 1e-11 else 0.7)
    if error <= 1e-2 and (near_one or quarter) and p.given.size > 1:  # two single numbers always have a ratio
        return Finding("activation_derivative_of_wrong_tensor", layer.names,
                       f"{text}: the derivative is taken at numbers near 0, such as the incoming gradient, where that "
                       f"of {'sigmoid is 1/4' if quarter else 'tanh is 1'}.", p.error(), error,
                       "Take the derivative at what the forward pass computed, never at the incoming gradient.",
                       0.9 if not few else 0.7)
    return None
