"""What a wrong gradient is, from differences of the loss and from the other gradients alone.

First each tensor by itself: zero, of the wrong sign, off by a constant, transposed, without a penalty. What remains is
told by where it lies in the chain of layers: an error that begins at a layer and is in all the layers before it was
made between this layer and the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import numpy as np

from .chain import Link, chains
from .constants import named
from .findings import Finding
from .probes import LossOf, Probed, slope

Findings = dict[str, Finding]
FEW = 3  # so many probes that a constant for all of them is no chance


def judge(loss: LossOf, probed: Mapping[str, Probed], second: Mapping[str, np.ndarray] | None,
          sizes: Mapping[str, int], size: float) -> Findings:
    """A finding for each tensor whose gradient is wrong, or is another one at the second call.

    Parameters
    ----------
    loss : callable
    probed : mapping of names to Probed
    second : mapping of names to arrays, optional
        The gradients of a second call.
    sizes : mapping of names to int
    size : float
        Of the loss, at least 1.
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
    """Gradients that a second call at the same parameters gives anew and otherwise."""
    found = {}
    for name, p in probed.items():
        other = np.asarray(second[name])
        scale = float(np.max(np.abs(np.concatenate([p.given.ravel(), other.ravel()])), initial=0.0))
        if np.allclose(other, p.given, rtol=0.0, atol=1e-2 * p.tolerance * scale + 1e-300):
            continue
        more = p.along(other - p.given)
        if p.vectors and p.fits(more):
            what, sure = "the second call gives the first one's and the measured gradient together", 0.99
        else:
            ratio = float(np.linalg.norm(other) / max(float(np.linalg.norm(p.given)), 1e-300))
            what, sure = f"the second call gives another result, of {ratio:.4g} times the norm", 0.8
        found[name] = Finding("gradient_accumulated", name, f"At the same parameters {what}.", p.error(),
                              p.error(more) if p.vectors else None,
                              "Set gradients anew at each call (=, not +=); keep nothing from the call before.", sure)
    return _joined(found)


def _flat(loss: LossOf, values: dict[str, np.ndarray], wrong: Iterable[Probed]) -> Findings:
    """The loss moves with no parameter, though gradients are not zero."""
    here = float(loss({**values}))
    small = [float(loss({n: (t * v).astype(v.dtype) for n, v in values.items()})) for t in (0.0, 0.01, 0.1)]
    if any(value != here for value in small):
        cause, sure = "probability_clipped", 0.7
        what = (f"the loss is {here:.4g} and moves with no parameter, though it does at smaller ones "
                f"({small[-1]:.4g} at a tenth): it is clipped here, and its gradient is not")
        fix = "Take the logarithm of the logits (log-sum-exp, logaddexp) in place of clipped probabilities."
    else:
        cause, sure = "gradient_wrong", 0.9
        what = f"the loss is {here:.4g} whatever the parameters are"
        fix = "Compute the loss with the parameters that it is given, not with those that the network holds."
    return _joined({p.name: Finding(cause, p.name, f"{what[0].upper()}{what[1:]}.", p.error(), None, fix, sure)
                    for p in wrong})


def _joined(found: Findings) -> Findings:
    """The same finding of several tensors as one, its errors the largest."""
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

def _alone(wrong: list[Probed], chain: tuple[Link, ...], sizes: Mapping[str, int]) -> Findings:
    found, partner = Findings(), dict[str, str]()
    for link in chain:
        if link.bias is not None:
            partner |= {link.weight: link.bias, link.bias: link.weight}
    constants = {p.name: _constant(p) for p in wrong}
    for p in wrong:
        constant = constants[p.name]
        other = constants.get(partner.get(p.name, ""))
        known = _sizes_at(p.name, chain, sizes)
        finding = _not_finite(p) or _frozen(p)
        if finding is None and constant is not None:
            shared = other is not None and abs(other - constant) <= 2.0 * p.tolerance * abs(constant)
            alone = partner.get(p.name) not in constants
            finding = _scaled(p, constant, known, shared, alone)
        finding = finding or _reordered(p) or _without_penalty(p)
        if finding is not None:
            found[p.name] = finding
    return _joined(found)


def _sizes_at(name: str, chain: tuple[Link, ...], sizes: Mapping[str, int]) -> dict[str, int]:
    """Those given, and the layer's own; each number under its first name."""
    known = dict(sizes)
    if chain:
        known.setdefault("features", chain[0].inputs)
        known.setdefault("outputs", chain[-1].units)
    for link in chain:
        if name in (link.weight, link.bias):
            if link.inputs not in known.values():
                known[f"inputs of {link.weight}"] = link.inputs
            if link.units not in known.values():
                known[f"units of {link.weight}"] = link.units
    return known


def _not_finite(p: Probed) -> Finding | None:
    bad = int(np.sum(~np.isfinite(p.given)))
    if not bad:
        return None
    return Finding("gradient_wrong", p.name, f"{bad} of its {p.given.size} entries are NaN or "
                   "infinite.", p.error(), None,
                   "Look for a division by zero, or for log(0) and exp of a large number.", 1.0)


def _frozen(p: Probed) -> Finding | None:
    if np.any(p.given):
        return None
    return Finding("parameter_frozen", p.name, f"Its gradient is zero; the measured one reaches "
                   f"{float(np.max(np.abs(p.measured))):.3g}.", p.error(), None,
                   "Compute it, under the name that the update reads.", 0.99)


def _constant(p: Probed) -> float | None:
    """The constant by which the gradient is off, if it is."""
    with np.errstate(all="ignore"):
        constant = float(p.expected @ p.measured / (p.measured @ p.measured))
    if not np.isfinite(constant) or not constant or not p.fits(p.expected / constant):
        return None
    return constant


def _scaled(p: Probed, constant: float, sizes: Mapping[str, int], shared: bool, alone: bool) -> Finding | None:
    """Off by a constant; of few probes any gradient is, so that the constant must then be one with a name."""
    seen = int(np.sum(np.abs(p.measured[: p.entries]) > max(0.01 * float(np.max(np.abs(p.measured))), p.floor)))
    text = named(abs(constant), sizes, min(10.0 * p.tolerance, 2e-2) if seen >= FEW or shared else
                 min(p.tolerance, 1e-4))
    exact = p.tolerance <= 1e-3
    if seen < FEW and not shared and (text is None or not exact) and abs(constant + 1.0) > p.tolerance:
        return None
    if text == "1" and constant > 0:
        return None
    if text is None and not shared and not alone:  # the layer's other gradient is wrong otherwise: nearly a constant
        return None
    sure = 0.99 if seen >= FEW else 0.9 if shared else 0.7
    after = p.error(p.expected / constant)
    if text == "1" and constant < 0:
        return Finding("gradient_sign", p.name, "It is -1 times the measured one.", p.error(), after,
                       "Flip its sign: of what the loss does, or of the update.", sure)
    of = f", which is {text}" if text else ", which is no product of the sizes that are known"
    sign = " (and of the wrong sign)" if constant < 0 else ""
    return Finding("gradient_scale", p.name, f"It is {constant:.6g} times the measured "
                   f"one{of}{sign}.", p.error(), after,
                   f"Divide it by {text or format(constant, '.6g')}: {_meaning(text)}.", sure)


def _meaning(text: str | None) -> str:
    first = (text or "").split(" or ")[0]
    if first == "batch":
        return "the loss is a mean over the batch, the gradient a sum"
    if first == "1/batch":
        return "it is divided by the batch once too often, or the loss is a sum and the gradient a mean"
    if first.startswith("batch/"):
        return f"it is divided by the {first.removeprefix('batch/')} where it should be by the batch"
    if first in ("2", "1/2"):
        return "the square's factor 2, or the loss's 1/2, is in one of them alone"
    return "the factor is in the loss or in the gradient alone"


def _reordered(p: Probed) -> Finding | None:
    """The right numbers at the wrong places."""
    if p.given.ndim != 2 or 1 in p.given.shape:
        return None
    forms = {"transposed": p.given.reshape(p.given.shape[::-1]).T}
    if p.given.shape[0] == p.given.shape[1]:
        forms["transposed"] = p.given.T
    for word, gradient in forms.items():
        if p.fits(p.along(gradient)):
            return Finding("gradient_wrong", p.name, f"It is the measured one, {word}.", p.error(),
                           p.error(p.along(gradient)), "Transpose it: inputs.T @ dz for weights of (inputs, "
                               "units).", 0.99)
    return None


def _without_penalty(p: Probed) -> Finding | None:
    """Off by a multiple of the parameters: a penalty is in the loss or in the gradient alone."""
    values, off = p.along(np.asarray(p.value, np.float64)), p.expected - p.measured
    if int(np.sum(np.abs(values[: p.entries]) > 1e-3)) < FEW:
        return None
    rate = float(off @ values / (values @ values))
    if not p.fits(p.expected - rate * values):
        return None
    side = "lacks a penalty that the loss has" if rate < 0 else "has a penalty that the loss lacks"
    return Finding("gradient_wrong", p.name, f"It {side}: it is off by {rate:.4g} times the parameters themselves.",
                   p.error(), p.error(p.expected - rate * values), "Have the same L2 term in both.", 0.97)


def _unknown(p: Probed) -> Finding:
    return Finding("gradient_wrong", p.name, f"It differs from the measured one, and not by a constant{_pattern(p)}.",
                   p.error(), None, "Derive it anew from what the loss computes.", 0.9)


def _pattern(p: Probed) -> str:
    """Which entries are wrong, where not all are."""
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

def _by_layers(chain: tuple[Link, ...], probed: Mapping[str, Probed], found: Findings, rest: set[str],
               measure: Callable[[str, np.ndarray], float | None]) -> Findings:
    """From the output backwards: the layers at which an error begins, and those that inherit it."""
    new: Findings = {}
    above: Finding | None = None  # an error of what comes down from the layer after
    for k in range(len(chain) - 1, -1, -1):
        link = chain[k]
        weight_wrong, bias_wrong = link.weight in rest, link.bias in rest
        if bias_wrong and not weight_wrong and link.bias is not None:
            new[link.bias] = _bias_alone(probed[link.bias], link, found.get(link.weight))
            continue
        if not weight_wrong:
            continue
        p = probed[link.weight]
        bias_right = link.bias is not None and link.bias not in rest and link.bias not in found
        finding: Finding | None
        if bias_right and probed[str(link.bias)].vectors:
            finding = _wrong_input(p, link)
        elif k == len(chain) - 1:
            above = finding = _loss_disagrees(p, link)
        else:
            bias_of_next = new.get(str(chain[k + 1].bias), None)
            aside = bias_of_next is not None and bias_of_next.cause == "bias_gradient_wrong"
            finding = _derivative_missing(link, chain[k + 1], probed, measure if aside else None) or above
            above = finding = finding or _derivative_wrong(p, link, chain[k + 1])
        new |= {name: finding for name in (link.weight, link.bias) if name in rest and name is not None}
    return new


def _bias_alone(p: Probed, link: Link, explained: Finding | None) -> Finding:
    weight = f"the gradient of {link.weight} of the same layer is not, so that dz is right" if explained is None else \
        f"not as that of {link.weight} of the same layer is"
    return Finding("bias_gradient_wrong", p.name, f"It is wrong (error {p.error():.2g}{_pattern(p)}), though {weight}.",
                   p.error(), None, "Sum dz over the rows (axis 0): not another tensor, not another axis.",
                   0.95 if explained is None else 0.7)


def _wrong_input(p: Probed, link: Link) -> Finding:
    return Finding("gradient_wrong", p.name, f"It is wrong (error {p.error():.2g}{_pattern(p)}), though that of "
                   f"{link.bias} is not, so that dz is right: the tensor that it is multiplied with is not the "
                   "layer's input.", p.error(), None, "Use what forward gave the layer: inputs.T @ dz.", 0.9)


def _loss_disagrees(p: Probed, link: Link) -> Finding:
    return Finding("gradient_wrong", link.names, f"It is wrong (error {p.error():.2g}{_pattern(p)}) from the last "
                   "layer on, and not by a constant: the derivative of the loss, or of the last activation, is not "
                   "that of the loss.", p.error(), None,
                   "Derive dz of the last layer anew; with sigmoid or softmax and cross-entropy it is p - y, with "
                   "squared error (p - y) times the activation's derivative.", 0.8)


def _derivative_wrong(p: Probed, link: Link, after: Link) -> Finding:
    if np.linalg.norm(p.expected - p.measured) < 0.1 * np.linalg.norm(p.measured):
        return Finding("gradient_wrong", link.names, f"It is a little wrong (error {p.error():.2g}) from here down to "
                       f"the first layer, and {after.names} after it is not: as if {after.weight} are already updated "
                       "when dz passes through them.", p.error(), None,
                       "Compute all gradients first, then update.", 0.5)
    square = ", or their weights not transposed" if after.inputs == after.units else ""
    return Finding("activation_derivative_of_wrong_tensor", link.names,
                   f"It is wrong (error {p.error():.2g}) from here down to the first layer, and {after.names} after "
                   "it is not: what comes back from there is made wrong. The derivative is there and is not that "
                   f"of the forward pass (else {after.weight} are already updated when they are used{square}).",
                   p.error(), None,
                   "Take the derivative of what forward computed (z, or a where the formula is of a), never of the "
                   "incoming gradient; and update after all gradients are there.", 0.5)


def _derivative_missing(link: Link, after: Link, probed: Mapping[str, Probed],
                        measure: Callable[[str, np.ndarray], float | None] | None) -> Finding | None:
    """Without the derivative, a bias gradient is the next layer's bias gradient through its weights: is it?

    With `measure`, the next one is measured, for there its bias gradient alone is wrong.
    """
    if link.bias is None or after.bias is None:
        return None
    matrix = after.matrix({after.weight: probed[after.weight].value})  # (units, units of the next)
    given = link.vector({link.bias: probed[link.bias].given})
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
    return _passed_on(probed[link.bias], link, after, constant, error, measure is not None)


def _passed_on(p: Probed, link: Link, after: Link, constant: float, error: float, measured: bool) -> Finding | None:
    """What it means that a bias gradient is `constant` times the next one's through the weights, but for `error`.

    Of a small incoming gradient the derivative is nearly that at 0: 1/4 of a sigmoid, 1 of tanh; nearly, not quite.
    """
    exact = 1e-6 if p.single else 1e-11
    limit, few = (p.tolerance if measured else exact), p.given.size < FEW
    said = (f"The gradient of {link.bias} is {constant:.6g} times that of {after.bias} through {after.weight}, "
            f"to {error:.1g}")
    near_one, quarter = abs(constant - 1.0) <= (10.0 * limit if few else 1e-2), abs(constant - 0.25) <= 2.5e-3
    if error <= limit and (near_one or not (few or quarter)):
        return Finding("activation_derivative_missing", link.names,
                       f"{said}: as if the incoming gradient is passed on as it is.", p.error(), error,
                       "Multiply the incoming gradient by the activation's derivative at z before all else.",
                       0.98 if limit == exact == 1e-11 else 0.7)
    if error <= 1e-2 and (near_one or quarter) and p.given.size > 1:  # one number is always a multiple of another
        return Finding("activation_derivative_of_wrong_tensor", link.names,
                       f"{said}: so it is where the derivative is taken of numbers near 0, as the incoming gradient's "
                       f"are ({'1/4 is the sigmoid' if quarter else '1 is tanh'}'s there).", p.error(), error,
                       "Take the derivative of what forward computed, never of the incoming gradient.",
                       0.9 if not few else 0.7)
    return None
