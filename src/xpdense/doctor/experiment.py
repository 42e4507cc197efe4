"""The experiment behind `recognise`: layer by layer from the output, which candidate gives what the program gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from .chain import Link
from .constants import named
from .findings import Finding
from .program import Subject
from .reading import Gradients, Reading, read, rows_of
from .rebuild import FORMS, Inside, derivative, draw, targets
from .suspects import Suspect, of_bias, of_hidden, of_output, of_rows

Scale = tuple[float, float]  # by which a gradient is off: of one row, of the sample


@dataclass
class Layer:
    """What is known of one layer, at the drawn weights."""

    link: Link
    matrix: np.ndarray  # (inputs, units)
    z: np.ndarray  # (rows, units)
    a: np.ndarray
    inputs: np.ndarray  # (rows, inputs)
    row_weights: np.ndarray  # (rows, inputs, units), the program's gradients of single rows
    row_bias: np.ndarray  # (rows, units)
    batch_weights: np.ndarray  # (inputs, units), and of the sample
    batch_bias: np.ndarray
    dz: np.ndarray | None = None  # the program's, of single rows
    batch_dz: np.ndarray | None = None  # the program's, of the sample
    scale: Scale = (1.0, 1.0)  # by which its dz and gradients are off


@dataclass(frozen=True)
class Found:
    """A finding, the tensors that it is of, whether the layers before inherit it, and of a constant which it is."""

    finding: Finding
    names: tuple[str, ...]
    passes_on: bool
    scale: Scale | None

    def of_more(self, *names: str) -> Found:
        every = (*self.names, *names)
        return replace(self, finding=replace(self.finding, where=", ".join(every)), names=every)


@dataclass
class Experiment:
    """The candidates of every layer, compared with what the program gives: first `run`, then read `found`."""

    subject: Subject
    inside: Inside
    present: Mapping[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    seed: int
    found: list[Found] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tolerance = 1e-6 if all(p.dtype == np.float64 for p in self.present.values()) else 1e-4
        target = targets(self.y, self.inside.chain[-1].units)
        assert target is not None
        self.target = target
        self.wide = np.asarray(self.x, np.float64)
        self.sizes = {"features": self.x.shape[1], "outputs": target.shape[1]}

    def run(self) -> None:
        inside, values = self.inside, self._awake()
        rows = len(self.x)
        gradients = Gradients(self.subject, values, self.x, self.y, self.tolerance)
        self._calls(gradients)
        if gradients.unsteady:
            return
        singles = [gradients(self.x[i:i + 1], self.y[i:i + 1]) for i in range(rows)]
        batch = gradients(self.x, self.y)
        z, a = inside.forward(values, self.wide)
        after: Layer | None = None
        for k in range(len(inside.chain) - 1, -1, -1):
            link = inside.chain[k]
            layer = Layer(link, link.matrix(values), z[k], a[k + 1], a[k], *rows_of(link, singles), link.matrix(batch),
                          link.vector(batch))
            self._layer(k, layer, after, z)
            after = layer
        self._clip(values)

    def _awake(self) -> dict[str, np.ndarray]:
        """Drawn weights at which no layer's input is zero in all features: such a row hides dz. Else it is left out."""
        best, asleep = dict[str, np.ndarray](), np.ones(len(self.x), bool)
        for attempt in range(50):
            rng = np.random.default_rng([self.seed, 11, attempt])
            values = draw(rng, self.inside.chain, self.present, self.wide)
            _, a = self.inside.forward(values, self.wide)
            zero = np.any([~np.any(inputs, axis=1) for inputs in a[:-1]], axis=0)
            if not best or np.sum(zero) < np.sum(asleep):
                best, asleep = values, zero
            if not np.any(zero):
                break
        self.x, self.y, self.target = self.x[~asleep], self.y[~asleep], self.target[~asleep]
        self.wide = self.wide[~asleep]
        return best

    def _add(self, cause: str, names: str, evidence: str, fix: str, after: float | None = None, sure: float = 0.99,
             passes_on: bool = False, scale: Scale | None = None) -> None:
        finding = Finding(cause, names, evidence, None, after, fix, sure)
        self.found.append(Found(finding, tuple(names.split(", ")), passes_on, scale))

    # --- calls -----------------------------------------------------------------------------------------------------

    def _calls(self, gradients: Gradients) -> None:
        if gradients.accumulated:
            self._add("gradient_accumulated", ", ".join(sorted(gradients.accumulated)),
                      "Each call at the same parameters adds the same again to what the call before gave.",
                      "Set gradients anew at each call (=, not +=).")
        if gradients.unsteady:
            self._add("gradient_accumulated", ", ".join(sorted(gradients.unsteady)),
                      "Three calls at the same parameters give three results, and not by adding up.",
                      "Keep nothing from the call before; draw nothing at random, or the same for loss and gradients.",
                      sure=0.7)
        if gradients.moved:
            self._add("gradient_wrong", ", ".join(sorted(gradients.moved)),
                      "Computing the gradients changes these parameters.",
                      "Update only after all gradients are there, in a step of its own.", sure=0.95)

    # --- one layer -------------------------------------------------------------------------------------------------

    def _layer(self, k: int, layer: Layer, after: Layer | None, z: list[np.ndarray]) -> None:
        link = layer.link
        others = {"they are made of the z of the layer before, not of its output": z[k - 1]} if k else {}
        if not np.any(layer.row_weights) and not np.any(layer.batch_weights):
            self._add("parameter_frozen", link.weight, "Its gradient is zero on every row, at drawn weights too.",
                      "Compute it, under the name that the update reads.")
            dz = layer.row_bias if np.any(layer.row_bias) else None
            reading = Reading(dz, "", 0.0, "", layer.inputs)
        else:
            reading = read(layer.row_weights, layer.matrix, layer.inputs, others, self.tolerance)
            self._shape(layer, reading)
        layer.dz = reading.dz
        if layer.dz is None:
            self._add("gradient_wrong", link.weight,
                      "The gradients of single rows are no product of the layer's input with any dz.",
                      "Make it of inputs.T @ dz.", sure=0.9, passes_on=True)
            return
        da, suspect, constant = self._convict(k, layer, after, z)
        self._batch(layer, reading, suspect, constant, after)
        self._weights_scale(layer, after)
        self._bias(layer, da, last=after is None)

    def _shape(self, layer: Layer, reading: Reading) -> None:
        link = layer.link
        if reading.how:
            self._add("gradient_wrong", link.weight, f"Of single rows they are reproduced if {reading.how}.",
                      "Make it of inputs.T @ dz, the inputs as forward had them.")
        expected = 2.0 * self.inside.one.weights
        off, size = abs(reading.penalty - expected), float(np.max(np.abs(layer.row_weights)))
        seen = off * float(np.max(np.abs(layer.matrix))) > 3.0 * self.tolerance * size
        if reading.dz is not None and seen and off > 50.0 * self.tolerance * max(abs(expected), abs(reading.penalty)):
            self._add("gradient_wrong", link.weight, f"It holds {reading.penalty:.4g} times the weights themselves, "
                      f"where the loss's penalty makes it {expected:.4g}.",
                      "Have the same L2 term in the loss and in the gradient.")

    def _coming(self, after: Layer) -> list[tuple[str, np.ndarray]]:
        """The gradients that may come into a layer of the program's dz of the one after."""
        assert after.dz is not None
        ways = [("", after.dz @ after.matrix.T)]
        if after.matrix.shape[0] == after.matrix.shape[1]:
            words = f"dz is passed on through {after.link.weight}, not through its transpose"
            ways.append((words, after.dz @ after.matrix))
        return ways

    def _convict(self, k: int, layer: Layer, after: Layer | None,
                 z: list[np.ndarray]) -> tuple[np.ndarray | None, Suspect | None, float]:
        """The first candidate that gives the program's dz but for a constant; with the incoming gradient."""
        assert layer.dz is not None
        inside, one = self.inside, self.inside.one.factor
        if after is None:
            da = FORMS[inside.form][1](layer.a, self.target)
            suspects = of_output(inside.form, inside.link, layer.z, self.target, (1.0, one, 0.5))
            base = one
        elif after.dz is None:
            self._add("gradient_wrong", layer.link.names, "What comes back from the layer after could not be read.",
                      "Repair the layer after first.", sure=0.3)
            return None, None, 1.0
        else:
            coming = self._coming(after)
            da, t = coming[0][1], after.scale[0]
            share = 1.0 / self.sizes["outputs"]
            scales = tuple(dict.fromkeys((1.0, 1.0 / t, 1.0 / one, 1.0 / (t * one), 2.0, 0.5, share)))
            suspects = of_hidden(inside.hidden[k], layer.z, layer.inputs, z[k + 1], coming, scales)
            base = 1.0
        chosen = self._best(suspects, layer.dz)
        if chosen is not None:
            suspect, constant, error = chosen
            layer.scale = (constant / base * (after.scale[0] if after else 1.0),) * 2
            if suspect.cause:
                wrong = _fit(layer.dz, self._right(k, layer, after))[1]
                self._add(suspect.cause, layer.link.names, f"The program's dz of {layer.link.weight} is reproduced to "
                          f"{error:.0e} if {suspect.words}; done right it is off by {wrong:.0%} of its largest.",
                          suspect.fix, error, passes_on=True)
            return da, suspect, constant
        updated = self._already_updated(k, layer, after) if after is not None else None
        if updated is not None:
            return da, updated, 1.0
        wrong = _fit(layer.dz, self._right(k, layer, after))[1]
        what = "the loss and the last activation" if after is None else f"{inside.hidden[k]} and the layer after it"
        self._add("gradient_wrong", layer.link.names, f"The program's dz of {layer.link.weight} is not what {what} "
                  f"make of what comes in (off by {wrong:.0%} of its largest), nor what any known fault makes of it.",
                  "Derive this layer's dz anew; those after it are right or named.", sure=0.9, passes_on=True)
        return da, None, 1.0

    def _best(self, suspects: Iterable[Suspect], dz: np.ndarray) -> tuple[Suspect, float, float] | None:
        """The right way if it gives dz, else the wrong one that gives it best; with its constant and its error."""
        best: tuple[Suspect, float, float] | None = None
        for suspect in suspects:
            constant, error = _fit(dz, suspect.dz)
            if error <= self.tolerance and (best is None or error < 0.1 * best[2]):
                best = suspect, constant, error
            if best is not None and not best[0].cause:
                break
        return best

    def _right(self, k: int, layer: Layer, after: Layer | None) -> np.ndarray:
        inside = self.inside
        if after is None:
            return next(of_output(inside.form, inside.link, layer.z, self.target, ())).dz
        coming = self._coming(after)[:1]
        return next(of_hidden(inside.hidden[k], layer.z, layer.inputs, layer.z[:0], coming, ())).dz

    def _already_updated(self, k: int, layer: Layer, after: Layer) -> Suspect | None:
        """Whether dz came through weights from which a multiple of their gradient is already taken."""
        assert layer.dz is not None
        assert after.dz is not None
        slope = self._right(k, layer, after)
        through = np.einsum("ru,riu->ri", after.dz, after.row_weights)  # dz @ gradient.T, row by row
        moved = through * np.divide(slope, after.dz @ after.matrix.T)
        table = np.stack([slope.ravel(), moved.ravel()], axis=1)
        if not np.all(np.isfinite(table)):
            return None
        share = np.linalg.lstsq(table, layer.dz.ravel(), rcond=None)[0]
        error = float(np.max(np.abs(table @ share - layer.dz.ravel())) / np.max(np.abs(layer.dz)))
        if error > self.tolerance or not share[0]:
            return None
        layer.scale = (float(share[0]) * after.scale[0],) * 2
        self._add("gradient_wrong", layer.link.names, f"The program's dz is reproduced to {error:.0e} if "
                  f"{after.link.weight} are already updated, by {-share[1] / share[0]:.4g} times their gradient, "
                  "when dz passes through them.",
                  "Compute all gradients first, then update.", error, passes_on=True)
        moved_matrix = share[0] * after.matrix + share[1] * after.batch_weights
        slopes = derivative(self.inside.hidden[k], layer.z)

        def remake(da: np.ndarray) -> np.ndarray:
            assert after.batch_dz is not None
            return np.asarray(slopes * (after.batch_dz @ moved_matrix.T))

        return Suspect("gradient_wrong", "", "", layer.dz, remake)

    # --- the batch, constants, biases -------------------------------------------------------------------------------

    def _batch(self, layer: Layer, reading: Reading, suspect: Suspect | None, constant: float,
               after: Layer | None) -> None:
        """The sample's dz: the rows' own, or that of the same fault on the sample's smaller gradients."""
        assert layer.dz is not None
        rows, weights = len(self.x), layer.batch_weights - reading.penalty * layer.matrix
        if reading.shape:
            weights = weights.T if weights.shape[0] == weights.shape[1] else weights.reshape(weights.shape[::-1]).T
        ways = [layer.dz]
        if suspect is not None and after is not None and after.batch_dz is not None:
            coming = after.batch_dz @ after.matrix.T
            ways += [constant * suspect.remake(coming * m) / m for m in (1.0, 1.0 / rows, float(rows))]
        fits = [_fit(weights, reading.left.T @ dz) for dz in ways]
        enough = 10.0 * min(error for _, error in fits) + 1e-3 * self.tolerance
        best = next((i for i, (_, error) in enumerate(fits) if error <= enough), 0)
        if fits[best][1] <= 3.0 * self.tolerance:
            layer.batch_dz, share = ways[best], fits[best][0]
            layer.scale = (layer.scale[0], layer.scale[0] * share * self._one_to_many())
            return
        layer.batch_dz = None
        if np.any(layer.batch_weights) and (after is None or after.batch_dz is not None):
            self._add("gradient_wrong", layer.link.weight,
                      "The gradient of a batch is no multiple of the sum of its rows'.",
                      "Sum over the rows, by inputs.T @ dz with the whole batch.", sure=0.9)

    def _sizes_of(self, link: Link) -> dict[str, int]:
        known = dict(self.sizes)
        for text, number in ((f"inputs of {link.weight}", link.inputs), (f"units of {link.weight}", link.units)):
            if number not in known.values():
                known[text] = number
        return known

    def _weights_scale(self, layer: Layer, after: Layer | None) -> None:
        if not np.any(layer.row_weights):  # read from the bias
            return
        above = after.scale if after is not None else (1.0, 1.0)
        if not self._same(layer.scale, (1.0, 1.0)) and not self._same(layer.scale, above):
            self._scaled(layer.link.weight, layer.scale, above, layer.link)
        elif not self._same(layer.scale, (1.0, 1.0)):
            self._inherits(layer.link.weight, above)

    def _same(self, a: Scale, b: Scale) -> bool:
        return all(abs(p - q) <= 10.0 * self.tolerance * max(abs(p), abs(q)) for p, q in zip(a, b, strict=True))

    def _inherits(self, name: str, scale: Scale) -> None:
        """Another tensor of the same constant joins the last finding of it."""
        for i in range(len(self.found) - 1, -1, -1):
            other = self.found[i].scale
            if other is not None and self._same(other, scale):
                self.found[i] = self.found[i].of_more(name)
                return

    def _scaled(self, name: str, scale: Scale, above: Scale, link: Link) -> None:
        """A finding of a constant: of the whole gradient, or of what this layer adds to the constant from above."""
        rows, sizes = len(self.x), self._sizes_of(link)
        total = _constant(scale, rows, sizes, 10.0 * self.tolerance)
        local = _constant((scale[0] / above[0], scale[1] / above[1]), rows, sizes, 10.0 * self.tolerance)
        text = total or local
        of_above = "" if total or not local else " that which comes from the layer after"
        seen = f"It is {scale[0]:.6g} times the right one on one row, and {scale[1]:.6g} times on {rows} rows"
        if text == "-1":
            self._add("gradient_sign", name, f"{seen}: its sign is flipped{of_above}.", "Flip its sign.", scale=scale)
        else:
            what = f"the constant is {text}{of_above}" if text else "no product of the sizes"
            self._add("gradient_scale", name, f"{seen}: {what}.", _cure(text), scale=scale)
        self._join_last()

    def _join_last(self) -> None:
        """Two findings of one constant become one."""
        *before, last = self.found
        for i, other in enumerate(before):
            if replace(other.finding, where=last.finding.where) == last.finding:
                self.found = before
                self.found[i] = other.of_more(*last.names)
                return

    def _bias(self, layer: Layer, da: np.ndarray | None, last: bool) -> None:
        name = layer.link.bias
        if name is None or layer.dz is None or layer.dz is layer.row_bias:
            return
        if not np.any(layer.row_bias) and not np.any(layer.batch_bias):
            self._add("parameter_frozen", name, "Its gradient is zero on every row, at drawn weights too.",
                      "Compute it, under the name that the update reads.")
            return
        bias = 2.0 * layer.link.vector(self.subject.params())
        of_row = layer.row_bias - self.inside.one.biases * bias
        of_batch = layer.batch_bias - self.inside.many.biases * bias
        target = self.target if last else None
        for words, rows in of_bias(layer.dz, layer.dz if da is None else da, layer.z, layer.a, layer.inputs, target):
            share, error = _fit(of_row, rows)
            if error > self.tolerance:
                continue
            if words:
                self._add("bias_gradient_wrong", name, f"It is reproduced to {error:.0e} if it is made of {words}, "
                          f"times {share:.4g}.", "Sum the layer's dz over the rows: dz.sum(axis=0).", error)
            else:
                self._bias_of_dz(name, layer, share, of_batch)
            return
        self._add("bias_gradient_wrong", name, f"It is not the layer's dz, of which {layer.link.weight} is made, nor "
                  "any other tensor of the layer.", "Sum the layer's dz over the rows: dz.sum(axis=0).", sure=0.9)

    def _bias_of_dz(self, name: str, layer: Layer, share: float, of_batch: np.ndarray) -> None:
        """A bias gradient that is dz on single rows: is it its sum on many, and by the same constant as the weights?"""
        if layer.batch_dz is None:
            return
        whole = float(np.max(np.abs(layer.batch_dz).sum(axis=0)))  # a sum is no more exact than what it is of
        many, error = _fit(of_batch, layer.batch_dz.sum(axis=0), whole)
        scale = layer.scale[0] * share, layer.scale[0] * many * self._one_to_many()
        plain = error <= 10.0 * self.tolerance and (len(of_batch) > 2 or self._same(scale, layer.scale) or _constant(
            scale, len(self.x), self._sizes_of(layer.link), 10.0 * self.tolerance) is not None)
        if not plain:
            usual = share * layer.scale[1] / (layer.scale[0] * self._one_to_many())
            words = next((words for words, value in of_rows(usual * layer.batch_dz)
                          if self._equal(of_batch, value)), "")
            if words or error > 10.0 * self.tolerance:
                self._add("bias_gradient_wrong", name, f"Of {len(self.x)} rows it is "
                          f"{words or 'no sum of the rows of dz'}, though right on one row.",
                          "Sum the layer's dz over the rows: dz.sum(axis=0).")
                return
        if self._same(scale, (1.0, 1.0)):
            return
        if self._same(scale, layer.scale):
            self._inherits(name, scale)
        else:
            self._scaled(name, scale, layer.scale, layer.link)

    def _equal(self, a: np.ndarray, b: np.ndarray) -> bool:
        constant, error = _fit(a, b)
        return error <= 10.0 * self.tolerance and (len(a) > 2 or abs(constant - 1.0) <= 10.0 * self.tolerance)

    def _one_to_many(self) -> float:
        return self.inside.one.factor / self.inside.factor(len(self.x))

    # --- the clip --------------------------------------------------------------------------------------------------

    def _clip(self, values: Mapping[str, np.ndarray]) -> None:
        """Logits of 60 and of -60: is the loss flat there, and what is its gradient?"""
        inside = self.inside
        link = inside.chain[-1]
        if "entropy" not in inside.form or link.bias is None:
            return
        flat, broken, epsilon = False, False, 0.0
        for sign in (1.0, -1.0):
            losses = []
            for size in (60.0, 50.0):
                logits = np.zeros(link.units)
                logits[0] = sign * size
                far = {**values, link.weight: 0.0 * values[link.weight],
                       link.bias: logits.reshape(values[link.bias].shape).astype(values[link.bias].dtype)}
                self.subject.write(far)
                losses.append(_or_nan(lambda: self.subject.loss(self.x, self.y)))
                if size == 60.0:
                    grads = self.subject.gradients(self.x, self.y)
                    broken |= not all(np.all(np.isfinite(g)) for g in grads.values())
            if np.all(np.isfinite(losses)) and losses[0] > 0 and abs(losses[0] - losses[1]) <= 1e-6 * abs(losses[0]):
                flat = True
                z = np.tile(logits, (len(self.x), 1)) * 6.0 / 5.0
                share = losses[0] / (inside.factor(len(self.x)) * float(np.sum(cost(inside.form, z, self.target))))
                epsilon = max(epsilon, float(np.exp(-60.0 * share)))
        if flat and (broken or epsilon > 1e-6):
            then = "NaN or infinite" if broken else "not zero"
            self._add("probability_clipped", link.names, "Logits of 50 and of 60 have the same loss, that of a "
                      f"probability of {epsilon:.1g}, and the gradient there is {then}: the loss clips, its "
                      "derivative does not.",
                      "Take the loss of the logits (logaddexp, log-sum-exp) and dz = p - y; then nothing needs a clip.",
                      sure=0.95 if broken else 0.6)


def cost(form: str, z: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Cross-entropies at logits, exact where probabilities are 0 or 1."""
    if form.startswith("binary"):
        return np.asarray(np.logaddexp(0.0, z) - target * z)
    return np.asarray(target * (np.logaddexp.reduce(z, axis=1, keepdims=True) - z))


def _or_nan(call: Callable[[], float]) -> float:
    try:
        return float(call())
    except ArithmeticError:
        return float("nan")


def _fit(actual: np.ndarray, candidate: np.ndarray, whole: float = 0.0) -> tuple[float, float]:
    """The constant that brings the candidate nearest, and the largest error that remains, of the largest entry.

    With `whole` the error is of that many times the constant, if this is more.
    """
    size = float(np.sum(candidate * candidate))
    largest = float(np.max(np.abs(actual), initial=0.0))
    if not np.isfinite(size) or not size or not np.isfinite(largest) or not largest:
        return 1.0, float("inf")
    constant = float(np.sum(actual * candidate) / size)
    error = float(np.max(np.abs(actual - constant * candidate))) / max(largest, abs(constant) * whole)
    return constant, error if constant else float("inf")


def _constant(scale: Scale, rows: int, sizes: Mapping[str, int], tolerance: float) -> str | None:
    """A constant's name, from what it is on one row and on many."""
    if scale[0] * scale[1] <= 0:
        return None
    of_one = named(abs(scale[0]), sizes, tolerance)
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


def _cure(text: str | None) -> str:
    bare = (text or "").removeprefix("-")
    if bare == "batch":
        return "Divide it by the number of rows: the loss is a mean, the gradient a sum."
    if bare == "1/batch":
        return "Divide by the batch once, or have the loss a mean too."
    if bare.startswith("batch/"):
        return f"Divide it by the number of rows, where it is divided by the {bare.removeprefix('batch/')}."
    if text is None:
        return "Find the factor that is in one alone."
    return f"Divide it by {text}, or have the factor in the loss too."
