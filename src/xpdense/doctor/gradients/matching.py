"""Matching of a program's gradients with formulas, layer by layer from the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .. import advice
from ..findings import Finding
from ..program import Subject
from .chain import DenseLayer
from .constants import constant_name, scale_fix, with_layer_sizes
from .formulas import Formula, bias_terms, hidden_formulas, output_formulas, wrong_bias_sums
from .reconstruct import LOSSES, Reconstruction, as_targets, derivative, draw_parameters
from .recover import Gradients, Recovered, recover_dz

Scale = tuple[float, float]  # the factor by which a gradient is wrong, on a single row and on the batch


@dataclass
class LayerGradients:
    """The tensors of one layer with the drawn parameters, and the program's gradients."""

    dense: DenseLayer
    matrix: np.ndarray  # (inputs, units)
    z: np.ndarray  # (rows, units)
    a: np.ndarray  # (rows, units)
    inputs: np.ndarray  # (rows, inputs)
    row_weights: np.ndarray  # (rows, inputs, units), from single rows
    row_bias: np.ndarray  # (rows, units), from single rows
    batch_weights: np.ndarray  # (inputs, units)
    batch_bias: np.ndarray  # (units,)
    dz: np.ndarray | None = None  # (rows, units), the program's, from single rows
    batch_dz: np.ndarray | None = None  # (rows, units), the program's, from the batch
    scale: Scale = (1.0, 1.0)


@dataclass(frozen=True)
class Found:
    """A finding, whether earlier layers inherit its error, and the scale if the error is a constant factor."""

    finding: Finding
    passes_on: bool = False
    scale: Scale | None = None

    @property
    def names(self) -> list[str]:
        """The tensors of the finding."""
        return self.finding.where.split(", ")

    def also_at(self, names: str) -> Found:
        """Return the finding with more tensors."""
        return replace(self, finding=replace(self.finding, where=f"{self.finding.where}, {names}"))


@dataclass
class Matcher:
    """The comparison of a program's gradients with formulas; `run` it, then read `found`.

    Parameters
    ----------
    subject : Subject
    reconstruction : Reconstruction
    present : mapping of names to ndarray
        The program's parameters.
    x, y : ndarray
        A small batch; rows that make all inputs of a layer zero are removed.
    seed : int

    Attributes
    ----------
    found : list of Found
    tolerance : float
    """

    subject: Subject
    reconstruction: Reconstruction
    present: Mapping[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    seed: int
    found: list[Found] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tolerance = 1e-6 if all(p.dtype == np.float64 for p in self.present.values()) else 1e-4
        target = as_targets(self.y, self.reconstruction.layers[-1].units)
        assert target is not None
        self.target = target
        self.wide = np.asarray(self.x, np.float64)
        self.sizes = {"features": self.x.shape[1], "outputs": target.shape[1]}

    def run(self) -> None:
        """Match all layers."""
        values = self._draw()
        rows = len(self.x)
        gradients = Gradients(self.subject, values, self.x, self.y, self.tolerance)
        self._check_calls(gradients)
        if gradients.unsteady:
            return
        singles = [gradients(self.x[i:i + 1], self.y[i:i + 1]) for i in range(rows)]
        batch = gradients(self.x, self.y)
        z, a = self.reconstruction.forward(values, self.wide)
        after: LayerGradients | None = None
        for k, dense in reversed(list(enumerate(self.reconstruction.layers))):
            layer = LayerGradients(
                dense, dense.matrix(values), z[k], a[k + 1], a[k], np.stack([dense.matrix(g) for g in singles]),
                np.stack([dense.vector(g) for g in singles]), dense.matrix(batch), dense.vector(batch))
            self._match(k, layer, after, z)
            after = layer
        self._check_clip(values)

    def _draw(self) -> dict[str, np.ndarray]:
        """Draw parameters, and remove the rows on which all inputs of a layer are zero: they hide dz."""
        best, hiding = dict[str, np.ndarray](), np.ones(len(self.x), bool)
        for attempt in range(50):
            rng = np.random.default_rng([self.seed, 11, attempt])
            values = draw_parameters(rng, self.reconstruction.layers, self.present, self.wide)
            _, a = self.reconstruction.forward(values, self.wide)
            zero = np.any([~np.any(inputs, axis=1) for inputs in a[:-1]], axis=0)
            if not best or np.sum(zero) < np.sum(hiding):
                best, hiding = values, zero
            if not np.any(zero):
                break
        self.x, self.y, self.target = self.x[~hiding], self.y[~hiding], self.target[~hiding]
        self.wide = self.wide[~hiding]
        return best

    def _add(self, finding: Finding, passes_on: bool = False, scale: Scale | None = None) -> None:
        self.found.append(Found(finding, passes_on, scale))

    # --- calls -----------------------------------------------------------------------------------------------------

    def _check_calls(self, gradients: Gradients) -> None:
        """Report gradients that depend on previous calls, and parameters that computing them changes."""
        if gradients.accumulated:
            self._add(Finding(
                "gradient_accumulated", ", ".join(sorted(gradients.accumulated)),
                "Each call at the same parameters adds the same amount to the result of the previous call.",
                None, None, advice.ACCUMULATED, 0.99))
        if gradients.unsteady:
            self._add(Finding(
                "gradient_accumulated", ", ".join(sorted(gradients.unsteady)),
                "Three calls at the same parameters give three different results, which do not add up.",
                None, None, f"{advice.ACCUMULATED} Use no random numbers, or the same ones for loss and gradients.",
                0.7))
        if gradients.moved:
            self._add(Finding(
                "gradient_wrong", ", ".join(sorted(gradients.moved)),
                "Computing the gradients changes these parameters.", None, None, advice.UPDATED, 0.95))

    # --- one layer -------------------------------------------------------------------------------------------------

    def _match(self, k: int, layer: LayerGradients, after: LayerGradients | None, z: list[np.ndarray]) -> None:
        dense = layer.dense
        others = {"they use z of the previous layer instead of its output": z[k - 1]} if k else {}
        if not np.any(layer.row_weights) and not np.any(layer.batch_weights):
            self._add_frozen(dense.weight)
            dz = layer.row_bias if np.any(layer.row_bias) else None
            recovered = Recovered(dz, "", 0.0, False, layer.inputs)
        else:
            recovered = recover_dz(layer.row_weights, layer.matrix, layer.inputs, others, self.tolerance)
            self._check_weights(layer, recovered)
        layer.dz = recovered.dz
        if layer.dz is None:
            self._add(Finding("gradient_wrong", dense.weight, "The gradients of single rows are not the product of the "
                              "layer's inputs with any dz.", None, None, advice.WEIGHTS, 0.9), passes_on=True)
            return
        da, formula, constant = self._match_dz(k, layer, after, z)
        self._match_batch(layer, recovered, formula, constant, after)
        self._check_weights_scale(layer, after)
        self._check_bias(layer, da, last=after is None)

    def _add_frozen(self, name: str) -> None:
        self._add(Finding("parameter_frozen", name, "The gradient is zero on every row, also with random parameters.",
                          None, None, advice.FROZEN, 0.99))

    def _check_weights(self, layer: LayerGradients, recovered: Recovered) -> None:
        """Report gradients of the weights that are not inputs ⊗ dz, and a penalty that the loss does not have."""
        weight = layer.dense.weight
        if recovered.how:
            self._add(Finding("gradient_wrong", weight, f"The gradients of single rows are reproduced if "
                              f"{recovered.how}.", None, None, advice.WEIGHTS, 0.99))
        penalty, expected = recovered.penalty, 2.0 * self.reconstruction.one.weights
        error, size = abs(penalty - expected), float(np.max(np.abs(layer.row_weights)))
        seen = error * float(np.max(np.abs(layer.matrix))) > 3.0 * self.tolerance * size
        if recovered.dz is not None and seen and error > 50.0 * self.tolerance * max(abs(expected), abs(penalty)):
            self._add(Finding("gradient_wrong", weight, f"The gradient contains {penalty:.4g} times the weights, and "
                              f"the penalty of the loss makes it {expected:.4g}.", None, None, advice.PENALTY, 0.99))

    def _incoming(self, after: LayerGradients) -> list[tuple[str, np.ndarray]]:
        """Return the gradients that the next layer's dz may give for a layer's output, the right one first."""
        assert after.dz is not None
        found = [("", after.dz @ after.matrix.T)]
        if after.matrix.shape[0] == after.matrix.shape[1]:
            found.append((f"dz is passed on through {after.dense.weight} instead of its transpose",
                          after.dz @ after.matrix))
        return found

    def _match_dz(self, k: int, layer: LayerGradients, after: LayerGradients | None,
                  z: list[np.ndarray]) -> tuple[np.ndarray | None, Formula | None, float]:
        """Return the incoming gradient, and the first formula that gives the program's dz up to a constant."""
        assert layer.dz is not None
        net, one = self.reconstruction, self.reconstruction.one.factor
        if after is None:
            da = LOSSES[net.loss][1](layer.a, self.target)
            formulas = output_formulas(net.loss, net.output, layer.z, self.target, (1.0, one, 0.5))
            base = one
        elif after.dz is None:
            self._add(Finding("gradient_wrong", layer.dense.names, "The gradient that the next layer passes back could "
                              "not be recovered.", None, None, "Correct the next layer first.", 0.3))
            return None, None, 1.0
        else:
            incoming = self._incoming(after)
            da, t = incoming[0][1], after.scale[0]
            per_output = 1.0 / self.sizes["outputs"]
            scales = tuple(dict.fromkeys((1.0, 1.0 / t, 1.0 / one, 1.0 / (t * one), 2.0, 0.5, per_output)))
            formulas = hidden_formulas(net.hidden[k], layer.z, layer.inputs, z[k + 1], incoming, scales)
            base = 1.0
        chosen = self._best(formulas, layer.dz)
        if chosen is not None:
            formula, constant, error = chosen
            layer.scale = (constant / base * (after.scale[0] if after else 1.0),) * 2
            if formula.cause:
                self._add(Finding(
                    formula.cause, layer.dense.names, f"The program's dz of {layer.dense.weight} is reproduced to "
                    f"{error:.0e} if {formula.words}; {self._distance(k, layer, after)}.", None, error, formula.fix,
                    0.99), passes_on=True)
            return da, formula, constant
        updated = self._already_updated(k, layer, after) if after is not None else None
        if updated is not None:
            return da, updated, 1.0
        what = "the loss and the last activation" if after is None else f"{net.hidden[k]} and the next layer"
        self._add(Finding(
            "gradient_wrong", layer.dense.names, f"The program's dz of {layer.dense.weight} does not follow from {what}"
            f", nor from any known fault; {self._distance(k, layer, after)}.", None, None,
            "Derive this layer's dz again; the layers after it are right or have findings of their own.", 0.9),
            passes_on=True)
        return da, None, 1.0

    def _best(self, formulas: Iterable[Formula], dz: np.ndarray) -> tuple[Formula, float, float] | None:
        """Return the right formula if it gives dz, else the wrong one that fits best, with its constant and error."""
        best: tuple[Formula, float, float] | None = None
        for formula in formulas:
            constant, error = _fit(dz, formula.dz)
            if error <= self.tolerance and (best is None or error < 0.1 * best[2]):
                best = formula, constant, error
            if best is not None and not best[0].cause:
                break
        return best

    def _right(self, k: int, layer: LayerGradients, after: LayerGradients | None) -> np.ndarray:
        net = self.reconstruction
        if after is None:
            return next(output_formulas(net.loss, net.output, layer.z, self.target, ())).dz
        incoming = self._incoming(after)[:1]
        return next(hidden_formulas(net.hidden[k], layer.z, layer.inputs, layer.z[:0], incoming, ())).dz

    def _distance(self, k: int, layer: LayerGradients, after: LayerGradients | None) -> str:
        assert layer.dz is not None
        error = _fit(layer.dz, self._right(k, layer, after))[1]
        return f"it differs from the right formula by {error:.0%} of its largest entry"

    def _already_updated(self, k: int, layer: LayerGradients, after: LayerGradients) -> Formula | None:
        """Report dz that came through weights which were already updated by a multiple of their gradient."""
        assert layer.dz is not None
        assert after.dz is not None
        slope = self._right(k, layer, after)
        through = np.einsum("ru,riu->ri", after.dz, after.row_weights)  # dz @ gradient.T, row by row
        moved = through * np.divide(slope, after.dz @ after.matrix.T)
        table = np.stack([slope.ravel(), moved.ravel()], axis=1)
        if not np.all(np.isfinite(table)):
            return None
        factors = np.linalg.lstsq(table, layer.dz.ravel(), rcond=None)[0]
        error = float(np.max(np.abs(table @ factors - layer.dz.ravel())) / np.max(np.abs(layer.dz)))
        if error > self.tolerance or not factors[0]:
            return None
        layer.scale = (float(factors[0]) * after.scale[0],) * 2
        self._add(Finding(
            "gradient_wrong", layer.dense.names, f"The program's dz is reproduced to {error:.0e} if "
            f"{after.dense.weight} was already updated, by {-factors[1] / factors[0]:.4g} times its gradient, when dz "
            "passed through it.", None, error, advice.UPDATED, 0.99), passes_on=True)
        moved_matrix = factors[0] * after.matrix + factors[1] * after.batch_weights
        slopes = derivative(self.reconstruction.hidden[k], layer.z)

        def remake(da: np.ndarray) -> np.ndarray:
            assert after.batch_dz is not None
            return np.asarray(slopes * (after.batch_dz @ moved_matrix.T))

        return Formula("gradient_wrong", "", "", layer.dz, remake)

    # --- the batch, constants, biases -------------------------------------------------------------------------------

    def _match_batch(self, layer: LayerGradients, recovered: Recovered, formula: Formula | None, constant: float,
                     after: LayerGradients | None) -> None:
        """Find the batch's dz: that of the single rows, or of the same formula on the batch's smaller gradients."""
        assert layer.dz is not None
        rows, weights = len(self.x), layer.batch_weights - recovered.penalty * layer.matrix
        if recovered.transposed:
            weights = weights.T if weights.shape[0] == weights.shape[1] else weights.reshape(weights.shape[::-1]).T
        options = [layer.dz]
        if formula is not None and after is not None and after.batch_dz is not None:
            incoming = after.batch_dz @ after.matrix.T
            options += [constant * formula.remake(incoming * m) / m for m in (1.0, 1.0 / rows, float(rows))]
        fits = [_fit(weights, recovered.left.T @ dz) for dz in options]
        enough = 10.0 * min(error for _, error in fits) + 1e-3 * self.tolerance
        best = next((i for i, (_, error) in enumerate(fits) if error <= enough), 0)
        if fits[best][1] <= 3.0 * self.tolerance:
            layer.batch_dz = options[best]
            layer.scale = (layer.scale[0], layer.scale[0] * fits[best][0] * self._one_to_many())
            return
        layer.batch_dz = None
        if np.any(layer.batch_weights) and (after is None or after.batch_dz is not None):
            self._add(Finding("gradient_wrong", layer.dense.weight, "The gradient of a batch is not a multiple of the "
                              "sum over its rows.", None, None,
                              "Compute it as inputs.T @ dz with the whole batch, which sums over the rows.", 0.9))

    def _check_weights_scale(self, layer: LayerGradients, after: LayerGradients | None) -> None:
        if not np.any(layer.row_weights):  # dz was taken from the bias
            return
        above = after.scale if after is not None else (1.0, 1.0)
        if not self._same(layer.scale, (1.0, 1.0)) and not self._same(layer.scale, above):
            self._add_scaled(layer.dense.weight, layer.scale, above, layer.dense)
        elif not self._same(layer.scale, (1.0, 1.0)):
            self._inherit(layer.dense.weight, above)

    def _same(self, a: Scale, b: Scale) -> bool:
        return all(abs(p - q) <= 10.0 * self.tolerance * max(abs(p), abs(q)) for p, q in zip(a, b, strict=True))

    def _inherit(self, name: str, scale: Scale) -> None:
        """Add a tensor to the last finding with the same scale."""
        for i in range(len(self.found) - 1, -1, -1):
            other = self.found[i].scale
            if other is not None and self._same(other, scale):
                self.found[i] = self.found[i].also_at(name)
                return

    def _name_of(self, scale: Scale, dense: DenseLayer) -> str | None:
        return _scale_name(scale, len(self.x), with_layer_sizes(self.sizes, [dense]), 10.0 * self.tolerance)

    def _add_scaled(self, name: str, scale: Scale, above: Scale, dense: DenseLayer) -> None:
        """Report a constant factor: of the whole gradient, or what this layer adds to the factor of the next one."""
        total = self._name_of(scale, dense)
        local = self._name_of((scale[0] / above[0], scale[1] / above[1]), dense)
        text = total or local
        relative = "" if total or not local else " relative to the next layer"
        seen = (f"The gradient is {scale[0]:.6g} times the right one on a single row, and {scale[1]:.6g} times on "
                f"{len(self.x)} rows")
        if text == "-1":
            finding = Finding("gradient_sign", name, f"{seen}: its sign is flipped{relative}.", None, None,
                              "Flip its sign.", 0.99)
        else:
            what = f"the constant is {text}{relative}" if text else "no product of the sizes equals the constant"
            finding = Finding("gradient_scale", name, f"{seen}: {what}.", None, None, scale_fix(text, scale[1]), 0.99)
        for i, other in enumerate(self.found):
            if replace(other.finding, where=name) == finding:
                self.found[i] = other.also_at(name)
                return
        self._add(finding, scale=scale)

    def _check_bias(self, layer: LayerGradients, da: np.ndarray | None, last: bool) -> None:
        name = layer.dense.bias
        if name is None or layer.dz is None or layer.dz is layer.row_bias:
            return
        if not np.any(layer.row_bias) and not np.any(layer.batch_bias):
            self._add_frozen(name)
            return
        bias = 2.0 * layer.dense.vector(self.subject.params())
        of_row = layer.row_bias - self.reconstruction.one.biases * bias
        of_batch = layer.batch_bias - self.reconstruction.many.biases * bias
        target = self.target if last else None
        for words, rows in bias_terms(layer.dz, layer.dz if da is None else da, layer.z, layer.a, layer.inputs, target):
            factor, error = _fit(of_row, rows)
            if error > self.tolerance:
                continue
            if words:
                self._add(Finding("bias_gradient_wrong", name, f"The gradient is reproduced to {error:.0e} by {words}, "
                                  f"times {factor:.4g}.", None, error, advice.BIAS, 0.99))
            else:
                self._check_bias_sum(name, layer, factor, of_batch)
            return
        self._add(Finding("bias_gradient_wrong", name, "The gradient is neither the layer's dz, which gives that of "
                          f"{layer.dense.weight}, nor any other tensor of the layer.", None, None, advice.BIAS, 0.9))

    def _check_bias_sum(self, name: str, layer: LayerGradients, factor: float, of_batch: np.ndarray) -> None:
        """Check on the batch a bias gradient that is `factor` times dz on single rows: its sum, and its constant."""
        if layer.batch_dz is None:
            return
        whole = float(np.max(np.abs(layer.batch_dz).sum(axis=0)))  # a sum is no more exact than its terms
        many, error = _fit(of_batch, layer.batch_dz.sum(axis=0), whole)
        scale = layer.scale[0] * factor, layer.scale[0] * many * self._one_to_many()
        plain = error <= 10.0 * self.tolerance and (len(of_batch) > 2 or self._same(scale, layer.scale)
                                                    or self._name_of(scale, layer.dense) is not None)
        if not plain:
            usual = factor * layer.scale[1] / (layer.scale[0] * self._one_to_many())
            words = next((words for words, value in wrong_bias_sums(usual * layer.batch_dz)
                          if self._equal(of_batch, value)), "")
            if words or error > 10.0 * self.tolerance:
                self._add(Finding("bias_gradient_wrong", name, "The gradient is right on a single row, and on "
                                  f"{len(self.x)} rows it is {words or 'not the sum of dz over the rows'}.",
                                  None, None, advice.BIAS, 0.99))
                return
        if self._same(scale, (1.0, 1.0)):
            return
        if self._same(scale, layer.scale):
            self._inherit(name, scale)
        else:
            self._add_scaled(name, scale, layer.scale, layer.dense)

    def _equal(self, a: np.ndarray, b: np.ndarray) -> bool:
        constant, error = _fit(a, b)
        return error <= 10.0 * self.tolerance and (len(a) > 2 or abs(constant - 1.0) <= 10.0 * self.tolerance)

    def _one_to_many(self) -> float:
        return self.reconstruction.one.factor / self.reconstruction.factor(len(self.x))

    # --- the clip --------------------------------------------------------------------------------------------------

    def _check_clip(self, values: Mapping[str, np.ndarray]) -> None:
        """Report a loss that is constant between logits of 50 and 60 while its gradient is not zero."""
        net = self.reconstruction
        dense = net.layers[-1]
        if "entropy" not in net.loss or dense.bias is None:
            return
        flat, broken, epsilon = False, False, 0.0
        for sign in (1.0, -1.0):
            losses = []
            for size in (60.0, 50.0):
                logits = np.zeros(dense.units)
                logits[0] = sign * size
                bias = values[dense.bias]
                self.subject.write({**values, dense.weight: 0.0 * values[dense.weight],
                                    dense.bias: logits.reshape(bias.shape).astype(bias.dtype)})
                losses.append(_or_nan(lambda: self.subject.loss(self.x, self.y)))
                if size == 60.0:
                    grads = self.subject.gradients(self.x, self.y)
                    broken |= not all(np.all(np.isfinite(g)) for g in grads.values())
            if np.all(np.isfinite(losses)) and losses[0] > 0 and abs(losses[0] - losses[1]) <= 1e-6 * abs(losses[0]):
                flat = True
                z = np.tile(logits, (len(self.x), 1)) * 6.0 / 5.0
                total = net.factor(len(self.x)) * float(np.sum(cross_entropy(net.loss, z, self.target)))
                epsilon = max(epsilon, float(np.exp(-60.0 * (losses[0] / total))))
        if flat and (broken or epsilon > 1e-6):
            self._add(Finding(
                "probability_clipped", dense.names, "The loss is the same at logits of 50 and of 60, that of a "
                f"probability of {epsilon:.1g}, and the gradient there is {'NaN or infinite' if broken else 'not zero'}"
                ": the loss is clipped, and its derivative is not.", None, None, advice.CLIPPED,
                0.95 if broken else 0.6))


def cross_entropy(loss: str, z: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the cross-entropies (rows, outputs) at logits z, exact even if probabilities are 0 or 1."""
    if loss.startswith("binary"):
        return np.asarray(np.logaddexp(0.0, z) - target * z)
    return np.asarray(target * (np.logaddexp.reduce(z, axis=1, keepdims=True) - z))


def _or_nan(call: Callable[[], float]) -> float:
    try:
        return float(call())
    except ArithmeticError:
        return float("nan")


def _fit(actual: np.ndarray, candidate: np.ndarray, whole: float = 0.0) -> tuple[float, float]:
    """Fit actual = constant * candidate; return the constant and the largest error, relative to the largest entry.

    The error is relative to constant * whole if that is larger.
    """
    size = float(np.sum(candidate * candidate))
    largest = float(np.max(np.abs(actual), initial=0.0))
    if not np.isfinite(size) or not size or not np.isfinite(largest) or not largest:
        return 1.0, float("inf")
    constant = float(np.sum(actual * candidate) / size)
    error = float(np.max(np.abs(actual - constant * candidate))) / max(largest, abs(constant) * whole)
    return constant, error if constant else float("inf")


def _scale_name(scale: Scale, rows: int, sizes: Mapping[str, int], tolerance: float) -> str | None:
    """Name a constant from its values on a single row and on many."""
    if scale[0] * scale[1] <= 0:
        return None
    of_one = constant_name(abs(scale[0]), sizes, tolerance)
    power = float(np.log(scale[1] / scale[0]) / np.log(rows))
    if of_one is None or abs(power - round(power)) > 10.0 * tolerance:
        return None
    batch = {0: "", 1: "batch", -1: "1/batch", 2: "batch²", -2: "1/batch²"}.get(round(power))
    if batch is None:
        return None
    sign = "-" if scale[0] < 0 else ""
    if not batch:
        return sign + of_one
    if of_one == "1":
        return sign + batch
    return sign + (f"batch{of_one[1:]}" if batch == "batch" and of_one.startswith("1/") else f"{of_one} · {batch}")
