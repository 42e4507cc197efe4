"""Networks that people write by hand, with one fault or two in a layer: the check of gradients names which.

`by_differences` is what `check_gradients` says, from the loss alone; `by_experiment` what `explain_gradients` says,
which runs the program. `python tests/test_doctor_gradients.py` prints how many of all cases each names.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.doctor.gradients.chain import chains
from xpdense.doctor.gradients.constants import constant_name
from xpdense.doctor.program import NetworkProgram
from xpdense.losses import as_loss
from xpdense.network import Network

Fault = tuple[int, str]  # layer, what is wrong there

HIDDEN: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "sigmoid": (lambda z: 1 / (1 + np.exp(-z)), lambda z: np.exp(-z) / (1 + np.exp(-z)) ** 2),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(z.dtype)),
    "identity": (lambda z: z, np.ones_like),
}
OUTPUTS = ("bce", "ce", "mse", "sigmoid-mse", "softmax-mse")
NAMES = {
    "W1": lambda k: (f"W{k + 1}", f"b{k + 1}"),
    "0.weight": lambda k: (f"{k}.weight", f"{k}.bias"),
    "weights1": lambda k: (f"weights{k + 1}", f"biases{k + 1}"),
}


@dataclass(frozen=True)
class Config:
    widths: tuple[int, ...]
    hidden: str
    output: str
    names: str = "W1"
    transposed: bool = False
    dtype: str = "float64"
    rows: int = 40
    seed: int = 0


class HandNetwork:
    """Written as by hand, right but for its faults."""

    def __init__(self, config: Config, faults: tuple[Fault, ...] = ()) -> None:
        self.c, self.faults = config, faults
        rng = np.random.default_rng(config.seed)
        self.layers = len(config.widths) - 1
        self.params: dict[str, np.ndarray] = {}
        for k, (i, o) in enumerate(itertools.pairwise(config.widths)):
            w, b = rng.standard_normal((i, o)) / np.sqrt(i), 0.1 * rng.standard_normal(o)
            names = NAMES[config.names](k)
            self.params[names[0]] = (w.T if config.transposed else w).astype(config.dtype).copy()
            self.params[names[1]] = b.astype(config.dtype)
        self.kept: dict[str, np.ndarray] = {}
        x = rng.standard_normal((config.rows, config.widths[0])).astype(config.dtype)
        outputs = config.widths[-1]
        if config.output in ("ce", "softmax-mse"):
            y = np.eye(outputs)[rng.integers(0, outputs, config.rows)]
        elif config.output == "mse":
            y = rng.standard_normal((config.rows, outputs))
        else:
            y = rng.integers(0, 2, (config.rows, outputs)).astype(float)
        self.data = x, y.astype(config.dtype)

    def has(self, k: int, fault: str) -> bool:
        return (k, fault) in self.faults

    def weight(self, params: dict[str, np.ndarray], k: int) -> np.ndarray:
        w = params[NAMES[self.c.names](k)[0]]
        return w.T if self.c.transposed else w

    def forward(self, x: np.ndarray, params: dict[str, np.ndarray] | None = None) -> tuple[list[Any], list[Any]]:
        params = self.params if params is None else params
        zs, a = [], [x]
        for k in range(self.layers):
            z = a[-1] @ self.weight(params, k) + params[NAMES[self.c.names](k)[1]]
            zs.append(z)
            if k < self.layers - 1:
                a.append(HIDDEN[self.c.hidden][0](z))
            elif self.c.output in ("bce", "sigmoid-mse"):
                a.append(1 / (1 + np.exp(-z)))
            elif self.c.output == "mse":
                a.append(z)
            else:
                e = np.exp(z - z.max(1, keepdims=True))
                a.append(e / e.sum(1, keepdims=True))
        return zs, a

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x)[1][-1]

    def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
        p = self.forward(x, params)[1][-1]
        if self.c.output == "bce":
            return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
        if self.c.output == "ce":
            return float(-np.mean(np.sum(y * np.log(p), axis=1)))
        return float(np.mean((p - y) ** 2))

    def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        z, a = self.forward(x)
        p, grads, n, last = a[-1], {}, len(x), self.layers - 1
        if self.c.output in ("bce", "ce"):
            dz = (p - y) / n / (y.shape[1] if self.c.output == "bce" else 1)
            if self.has(last, "extra derivative"):
                dz = dz * p * (1 - p)
            da = dz
        else:
            da = 2 * (p - y) / n / y.shape[1]
            if self.c.output == "mse" or self.has(last, "missing"):
                dz = da
            elif self.c.output == "sigmoid-mse":
                dz = da * p * (1 - p)
            else:
                dz = p * (da - (da * p).sum(1, keepdims=True))
        for k in range(last, -1, -1):
            if k < last:
                dz = self.through(k, da, z[k], a[k + 1])
            if self.has(k, "dz sign"):
                dz = -dz
            self.of_layer(k, grads, a[k], z, a[k + 1], da, dz)
            w = self.weight(self.params, k)
            if self.has(k, "updated before use"):
                dw = grads[NAMES[self.c.names](k)[0]]
                w = w - 0.1 * (dw.T if self.c.transposed else dw)
            da = dz @ (w if self.has(k, "not transposed") else w.T)
        return grads

    def through(self, k: int, da: np.ndarray, z: np.ndarray, a: np.ndarray) -> np.ndarray:
        slope = HIDDEN[self.c.hidden][1]
        if self.has(k, "missing"):
            return da
        if self.has(k, "of the incoming gradient"):
            return da * slope(da)
        if self.has(k, "of the output"):
            return da * slope(a)
        if self.has(k, "formula of a given z"):
            return da * (z * (1 - z) if self.c.hidden == "sigmoid" else 1 - z * z)
        return da * slope(z)

    def of_layer(self, k: int, grads: dict[str, np.ndarray], inputs: np.ndarray, z: list[Any], a: np.ndarray,
                 da: np.ndarray, dz: np.ndarray) -> None:
        n, units = dz.shape
        if self.has(k, "weight of z"):
            inputs = z[k - 1]
        dw, db = inputs.T @ dz, dz.sum(0)
        if self.has(k, "bias of the output"):
            db = a.sum(0) / n
        if self.has(k, "bias of z"):
            db = z[k].sum(0) / n
        if self.has(k, "bias of da"):
            db = da.sum(0)
        if self.has(k, "bias over axis 1"):
            db = np.resize(dz.sum(1), units)
        if self.has(k, "bias zero"):
            db = 0 * db
        if self.has(k, "bias mean"):
            db = db / n
        if self.has(k, "weight zero"):
            dw = 0 * dw
        if self.has(k, "weight sign"):
            dw = -dw
        if self.has(k, "weight reshaped"):
            dw = dw.T.reshape(dw.shape)
        if self.has(k, "weight twice"):
            dw = 2 * dw
        if self.has(k, "penalty in the gradient alone"):
            dw = dw + 0.01 * self.weight(self.params, k)
        if self.has(k, "1/features"):
            dw, db = dw * n / inputs.shape[1], db * n / inputs.shape[1]
        if self.has(k, "sum"):
            dw, db = dw * n, db * n
        names = NAMES[self.c.names](k)
        for name, g in zip(names, (dw.T if self.c.transposed else dw, db), strict=True):
            if self.has(k, "accumulated"):
                self.kept[name] = g = self.kept.get(name, 0) + g
            grads[name] = g.copy()

    def step(self, x: np.ndarray, y: np.ndarray) -> None:
        for name, g in self.gradients(x, y).items():
            self.params[name] -= 0.1 * g

    # --- what the doctor says --------------------------------------------------------------------------------------

    def by_differences(self) -> xd.GradientReport:
        x, y = self.data
        grads = self.gradients(x, y)
        sizes = {"batch": len(x), "features": x.shape[1], "outputs": y.shape[1]}
        return xd.check_gradients(lambda p: self.loss(x, y, p), self.params, grads, sizes=sizes,
                                  again=lambda: self.gradients(x, y))

    def by_experiment(self, report: xd.GradientReport | None = None) -> xd.GradientReport:
        return xd.explain_gradients(self, *self.data, report)


#: fault -> code, and the tensors of its layer, or of the layer before, that it is named at
CODES: dict[str, tuple[str, str]] = {
    "missing": ("activation_derivative_missing", "Wb"),
    "of the incoming gradient": ("activation_derivative_of_wrong_tensor", "Wb"),
    "of the output": ("activation_derivative_of_wrong_tensor", "Wb"),
    "formula of a given z": ("activation_derivative_of_wrong_tensor", "Wb"),
    "extra derivative": ("gradient_wrong", "Wb"),
    "bias of the output": ("bias_gradient_wrong", "b"),
    "bias of z": ("bias_gradient_wrong", "b"),
    "bias of da": ("bias_gradient_wrong", "b"),
    "bias over axis 1": ("bias_gradient_wrong", "b"),
    "bias zero": ("parameter_frozen", "b"),
    "bias mean": ("gradient_scale", "b"),
    "weight zero": ("parameter_frozen", "W"),
    "weight sign": ("gradient_sign", "W"),
    "weight reshaped": ("gradient_wrong", "W"),
    "weight of z": ("gradient_wrong", "W"),
    "weight twice": ("gradient_scale", "W"),
    "penalty in the gradient alone": ("gradient_wrong", "W"),
    "1/features": ("gradient_scale", "Wb"),
    "sum": ("gradient_scale", "Wb"),
    "dz sign": ("gradient_sign", "Wb"),
    "accumulated": ("gradient_accumulated", "Wb"),
    "not transposed": ("gradient_wrong", "before"),
    "updated before use": ("gradient_wrong", "before"),
}


def possible(c: Config, k: int, fault: str) -> bool:
    """Whether a layer of this network can have the fault, so that it changes anything."""
    last, hidden = len(c.widths) - 2, c.hidden
    if fault == "missing":
        return (k < last and hidden != "identity") or (k == last and c.output in ("sigmoid-mse", "softmax-mse"))
    if fault in ("of the incoming gradient", "of the output", "formula of a given z"):
        smooth = hidden in ("sigmoid", "tanh")
        return k < last and (smooth or (hidden == "relu" and fault == "of the incoming gradient"))
    if fault == "extra derivative":
        return k == last and c.output in ("bce", "ce")
    if fault == "bias of da":
        return k < last and hidden != "identity"
    if fault == "bias of z":
        return k < last and hidden != "identity"
    if fault in ("weight of z",):
        return k > 0 and hidden != "identity"
    if fault == "weight reshaped":
        return min(c.widths[k: k + 2]) > 1
    if fault == "not transposed":
        return k > 0 and c.widths[k] == c.widths[k + 1]
    if fault == "updated before use":
        return k > 0
    if fault == "bias over axis 1":  # which is zero after a softmax
        return k < last or c.output not in ("ce", "softmax-mse")
    return True


def tensors(c: Config, k: int, fault: str) -> set[str]:
    where = CODES[fault][1]
    if where == "before":
        k, where = k - 1, "Wb"
    if fault == "dz sign":  # which the layers before inherit
        return {name for j in range(k + 1) for name in NAMES[c.names](j)}
    return {name for name, letter in zip(NAMES[c.names](k), "Wb", strict=True) if letter in where}


def configs(dtype: str = "float64") -> Iterator[Config]:
    """Every hidden activation with every output; conventions, names and widths take turns."""
    for i, (hidden, output) in enumerate(itertools.product(("sigmoid", "tanh", "relu"), OUTPUTS)):
        either = {"bce": (1, 3), "ce": (3, 2), "mse": (2, 1), "sigmoid-mse": (1, 2), "softmax-mse": (3, 4)}
        outputs = either[output][i % 2]
        widths = ((6, 5, 5, outputs), (4, 7, outputs), (5, 6, 4, 3, outputs))[i % 3]
        yield Config(widths, hidden, output, list(NAMES)[(i + i // 3) % 3], bool((i + i // 2) % 2), dtype, seed=i)


def cases(dtype: str) -> Iterator[tuple[Config, int, str]]:
    for c in configs(dtype):
        for k, fault in itertools.product(range(len(c.widths) - 1), CODES):
            if possible(c, k, fault):
                yield c, k, fault


def wanted(c: Config, faults: tuple[Fault, ...]) -> set[tuple[str, str]]:
    """Code and tensor of each fault; a bias gradient made of another tensor has no constant of its own."""
    pairs = {(CODES[fault][0], name) for k, fault in faults for name in tensors(c, k, fault)}
    made_of_another = {name for cause, name in pairs if cause == "bias_gradient_wrong"}
    return {(cause, name) for cause, name in pairs if cause != "gradient_scale" or name not in made_of_another}


def verdict(report: xd.GradientReport, c: Config, faults: tuple[Fault, ...]) -> str:
    """right: every fault with its code, at its tensors, and nothing else; unknown: only less is said; wrong; unseen."""
    said = {(f.cause, name) for f in report.findings for name in f.where.split(", ")}
    if said == wanted(c, faults):
        return "right"
    if not said:
        return "unseen"
    more = said - wanted(c, faults)
    return "unknown" if all(cause == "gradient_wrong" for cause, _ in more) else "wrong"


WORDS = ("right", "unknown", "wrong", "unseen")
PIECES = (("missing", "of the incoming gradient", "of the output", "formula of a given z"),
          ("bias of the output", "bias of z", "bias over axis 1"), ("weight twice", "1/features", "weight sign"))


def pairs(dtype: str, number: int) -> Iterator[tuple[Config, tuple[Fault, ...]]]:
    """Two faults of different pieces of a network, in the same layer or in two."""
    rng, every = np.random.default_rng(1), list(configs(dtype))
    while number:
        c = every[rng.integers(len(every))]
        first, second = (PIECES[i] for i in rng.permutation(len(PIECES))[:2])
        faults = tuple((int(rng.integers(len(c.widths) - 1)), str(rng.choice(piece))) for piece in (first, second))
        if all(possible(c, *fault) for fault in faults):
            number -= 1
            yield c, faults


def table(dtype: str, experiment: bool) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for c, k, fault in cases(dtype):
        network = HandNetwork(c, ((k, fault),))
        report = network.by_differences()
        if experiment:
            report = network.by_experiment(report)
        counts.setdefault(fault, Counter())[verdict(report, c, ((k, fault),))] += 1
    return counts


# --- every fault, in every layer that can have it ------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fault", CODES)
def test_a_fault_is_named_by_experiment(fault: str, dtype: str) -> None:
    """Each in its layer, and nothing besides."""
    seen = 0
    for c, k, _ in (case for case in cases(dtype) if case[2] == fault):
        report = HandNetwork(c, ((k, fault),)).by_experiment()
        assert verdict(report, c, ((k, fault),)) == "right", f"{c}, layer {k}\n{report}"
        assert not report.ok
        for finding in report.findings:
            assert finding.fix
            assert finding.confidence >= 0.9
        seen += 1
    assert seen >= 6


#: what differences of the loss cannot tell, and what is said in place of it
LESS = {
    "missing": {"unknown"},  # at the output: the loss or its derivative is wrong
    "of the output": {"unknown"},  # so small an error is as well that of updated weights
    "formula of a given z": {"unknown"},
    "not transposed": {"wrong"},  # a derivative of a wrong tensor, it is said, sure to 50 %
    "updated before use": {"wrong"},  # the same, where the update is large
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("fault", CODES)
def test_a_fault_is_named_by_differences(fault: str, dtype: str) -> None:
    for c, k, _ in (case for case in cases(dtype) if case[2] == fault):
        report = HandNetwork(c, ((k, fault),)).by_differences()
        found = verdict(report, c, ((k, fault),))
        assert found in {"right"} | LESS.get(fault, set()), f"{c}, layer {k}\n{report}"
        if found == "wrong":
            assert all(f.confidence <= 0.5 for f in report.findings), report
        wrong = {t.name for t in report.tensors if not t.ok}
        assert all(t.finding is not None for t in report.tensors if t.name in wrong), report


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_two_faults_are_named_by_experiment(dtype: str) -> None:
    for c, faults in pairs(dtype, 150):
        report = HandNetwork(c, faults).by_experiment()
        assert verdict(report, c, faults) == "right", f"{c}\n{faults}\n{report}"


@pytest.mark.parametrize("seed", range(100))
def test_a_right_network_has_no_finding(seed: int) -> None:
    rng = np.random.default_rng([seed, 5])
    widths = rng.integers(2, 40 if seed % 4 == 0 else 9, rng.integers(1, 5)).tolist()
    output = str(rng.choice(OUTPUTS))
    outputs = int(rng.integers(2, 5) if output in ("ce", "softmax-mse") else rng.integers(1, 4))
    hidden, kind, dtype = (str(rng.choice(of)) for of in (list(HIDDEN), list(NAMES), ["float64", "float32"]))
    rows = int(rng.integers(1, 300))
    network = HandNetwork(Config((*widths, outputs), hidden, output, kind, bool(rng.integers(2)), dtype, rows, seed))
    names = list(network.params)
    if seed % 5 == 0:  # saturated
        for value in network.params.values():
            value *= 4.0
    if seed % 7 == 0:
        network.params[names[1]][...] = 0.0
    if seed % 11 == 0:  # a kink at every row, where the bias is zero too
        network.params[names[0]][...] = 0.0
    if seed % 13 == 0:  # gradients that are zero
        network.data[0][:, 0] = 0.0
    with np.errstate(all="ignore"):
        report = network.by_differences()
        assert not report.findings, report
        report = network.by_experiment(report)
    assert not report.findings, report
    assert not report.notes


# --- the five faults of the origin story ---------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cancer() -> tuple[np.ndarray, np.ndarray]:
    datasets = pytest.importorskip("sklearn.datasets", reason="the data set is scikit-learn's")
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return (x - x.mean(0)) / x.std(0), y[:, None].astype(float)


class OriginStory:
    """The network of test_origin_story.py by the five names, each of its faults switched on by a word."""

    def __init__(self, *faults: str) -> None:
        self.faults, rng, self.widths = faults, np.random.default_rng(0), (30, 16, 8, 1)
        self.params: dict[str, np.ndarray] = {}
        for k, (i, o) in enumerate(itertools.pairwise(self.widths)):
            self.params[f"W{k + 1}"] = rng.standard_normal((i, o)) * np.sqrt((2.0 if k < 2 else 1.0) / i)
            self.params[f"b{k + 1}"] = np.zeros(o)
            if "weights" in faults:
                self.params[f"W{k + 1}"] *= 100.0

    def forward(self, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        zs, a = [], [x]
        for k in range(3):
            zs.append(a[-1] @ self.params[f"W{k + 1}"] + self.params[f"b{k + 1}"])
            a.append(np.maximum(zs[-1], 0.0) if k < 2 else 1.0 / (1.0 + np.exp(-zs[-1])))
        return zs, a

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.forward(x)[1][-1][:, 0]

    def loss(self, x: np.ndarray, y: np.ndarray) -> float:
        zs, a = self.forward(x)
        if "clip" in self.faults:
            q = np.clip(a[-1], 1e-15, 1.0 - 1e-15)
            return float(-np.mean(y * np.log(q) + (1.0 - y) * np.log(1.0 - q)))
        return float(np.mean(np.maximum(zs[-1], 0.0) - zs[-1] * y + np.log1p(np.exp(-np.abs(zs[-1])))))

    def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        zs, a = self.forward(x)
        grads, da = {}, np.zeros(0)
        for k in (2, 1, 0):
            if k == 2:
                da = (a[3] - y) / (a[3] * (1.0 - a[3]))
            of = da if "derivative" in self.faults else zs[k]
            s = 1.0 / (1.0 + np.exp(-of))
            dz = a[3] - y if k == 2 and not {"clip", "derivative"} & set(self.faults) else \
                da * (s * (1.0 - s) if k == 2 else (of > 0))
            rows = x.shape[0] if "scale" not in self.faults else a[k].shape[1]
            grads[f"W{k + 1}"] = a[k].T @ dz / rows
            grads[f"b{k + 1}"] = (a[k + 1] if "bias" in self.faults else dz).sum(0) / rows
            da = dz @ self.params[f"W{k + 1}"].T
        return grads


ORIGIN = {"derivative": "activation_derivative_of_wrong_tensor", "bias": "bias_gradient_wrong",
          "scale": "gradient_scale", "clip": "probability_clipped"}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("faults", [(), ("weights",), *((f,) for f in ORIGIN), *itertools.combinations(ORIGIN, 2),
                                    (*ORIGIN,), (*ORIGIN, "weights")], ids="+".join)
def test_the_faults_of_the_origin_story_are_named_all(cancer: tuple[np.ndarray, np.ndarray],
                                                      faults: tuple[str, ...]) -> None:
    report = xd.explain_gradients(OriginStory(*faults), *cancer)
    assert {f.cause for f in report.findings} == {ORIGIN[f] for f in faults if f in ORIGIN}, report
    for cause in ("bias_gradient_wrong", "activation_derivative_of_wrong_tensor", "gradient_scale"):
        layers = {name[1] for f in report.findings if f.cause == cause for name in f.where.split(", ")}
        assert layers in (set(), {"1", "2", "3"})
    for f in report.findings:
        if f.cause == "gradient_scale":
            assert "batch/" in f.evidence


# --- one by one ----------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X, Y, W = RNG.standard_normal((50, 3)), RNG.standard_normal(50), RNG.standard_normal(3)
RIGHT = 2 * X.T @ (X @ W - Y) / 50


def squares(params: dict[str, np.ndarray]) -> float:
    return float(np.mean((X @ params["w"] - Y) ** 2))


@pytest.mark.parametrize(("factor", "text"), [
    (50 / 3, "batch/features"), (50, "batch"), (1 / 50, "1/batch"), (2, "2"), (0.5, "1/2"), (-3, "features"),
    (0.777, "no product of the sizes"),
])
def test_a_constant_is_named(factor: float, text: str) -> None:
    report = xd.check_gradients(squares, {"w": W}, {"w": factor * RIGHT}, sizes={"batch": 50, "features": 3})
    finding, = report.findings
    assert finding.cause == "gradient_scale"
    assert f"which is {text}" in finding.evidence
    assert format(factor, ".6g") in finding.evidence
    assert finding.before is not None
    assert finding.after is not None
    assert finding.after < 1e-5 < finding.before
    assert str(finding) in str(report)


def test_equal_sizes_are_all_named() -> None:
    assert constant_name(8.0, {"batch": 8, "features": 8}) == "batch or features"


def test_a_second_call_tells_what_was_accumulated() -> None:
    report = xd.check_gradients(squares, {"w": W}, {"w": RIGHT}, again=lambda: {"w": 2 * RIGHT})
    assert [f.cause for f in report.findings] == ["gradient_accumulated"]
    assert not report.ok
    assert xd.check_gradients(squares, {"w": W}, {"w": RIGHT}, again=lambda: {"w": RIGHT.copy()}).ok
    stale = xd.check_gradients(squares, {"w": W}, {"w": RIGHT + 1.0}, again=lambda: {"w": 2 * RIGHT + 1.0})
    assert [f.cause for f in stale.findings] == ["gradient_accumulated"]
    assert stale.findings[0].confidence > 0.9


def test_a_loss_that_ignores_its_parameters_is_told_from_one_that_is_clipped() -> None:
    ignored, = xd.check_gradients(lambda p: squares({"w": W}), {"w": W}, {"w": RIGHT}).findings
    assert ignored.cause == "gradient_wrong"
    assert "whatever the parameters are" in ignored.evidence

    def clipped(params: dict[str, np.ndarray]) -> float:
        p = np.clip(1 / (1 + np.exp(-(X[:, :1] * 0 + 1) * params["w"])), 1e-7, 1 - 1e-7)
        return float(-np.mean(np.log(1 - p)))

    far, = xd.check_gradients(clipped, {"w": np.full(1, 30.0)}, {"w": np.ones(1)}).findings
    assert far.cause == "probability_clipped"


def test_a_gradient_that_is_nan_is_named() -> None:
    finding, = xd.check_gradients(squares, {"w": W}, {"w": np.array([np.nan, 1.0, 2.0])}).findings
    assert "1 of its 3 entries are NaN" in finding.evidence
    assert finding.to_dict()["before"] is None


def test_a_wrong_column_is_named() -> None:
    a = RNG.standard_normal((4, 5))
    wrong = 2 * a
    wrong[:, 3] = 7.0
    finding, = xd.check_gradients(lambda p: float(np.sum(p["A"] ** 2)), {"A": a}, {"A": wrong}).findings
    assert "all in column 3" in finding.evidence


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rate", [0.01, 0.0001])
@pytest.mark.parametrize("fault", ["", "missing", "bias of the output"])
def test_a_program_whose_loss_has_a_penalty_is_reconstructed(fault: str, rate: float, dtype: str) -> None:
    class Penalised(HandNetwork):
        def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
            p = self.params if params is None else params
            return super().loss(x, y, params) + rate * sum(float(np.sum(v ** 2)) for n, v in p.items() if n[0] == "W")

        def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
            return {n: g + 2 * rate * self.params[n] * (n[0] == "W") for n, g in super().gradients(x, y).items()}

    c = Config((4, 5, 3), "tanh", "ce", dtype=dtype)
    report = Penalised(c, ((0, fault),)).by_experiment()
    assert not report.notes
    assert {f.cause for f in report.findings} == ({CODES[fault][0]} if fault else set())


def test_a_penalty_in_the_loss_alone_is_named() -> None:
    class Penalised(HandNetwork):
        def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
            p = self.params if params is None else params
            return super().loss(x, y, params) + 0.01 * sum(float(np.sum(v ** 2)) for n, v in p.items() if n[0] == "W")

    network = Penalised(Config((4, 5, 3), "tanh", "ce"))
    for report in (network.by_differences(), network.by_experiment()):
        assert {name for f in report.findings for name in f.where.split(", ")} == {"W1", "W2"}
        assert all("penalty" in f.evidence for f in report.findings)


def test_a_program_that_cannot_be_reconstructed_says_so() -> None:
    class Odd(HandNetwork):
        def forward(self, x: np.ndarray, params: dict[str, np.ndarray] | None = None) -> tuple[list[Any], list[Any]]:
            return super().forward(np.sin(3 * x), params)

    network = Odd(Config((4, 5, 1), "tanh", "bce"), ((0, "missing"),))
    report = network.by_experiment(network.by_differences())
    assert "could not be reconstructed: no usual activations" in str(report)
    assert [f.cause for f in report.findings] == ["activation_derivative_missing"]  # what differences tell, stays


def test_gradients_that_change_the_parameters_are_named() -> None:
    class Hasty(HandNetwork):
        def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
            grads = super().gradients(x, y)
            for name, g in grads.items():
                self.params[name] -= 0.1 * g
            return grads

    report = Hasty(Config((4, 5, 1), "tanh", "bce")).by_experiment()
    assert ["changes these parameters" in f.evidence for f in report.findings] == [True]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("epsilon", [1e-15, 1e-8, 1e-6])
def test_a_loss_of_log_p_plus_epsilon_is_understood(epsilon: float, dtype: str) -> None:
    class Guarded(HandNetwork):
        def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
            return float(-np.mean(np.sum(y * np.log(self.forward(x, params)[1][-1] + epsilon), axis=1)))

    c = Config((4, 5, 3), "tanh", "ce", dtype=dtype)
    for faults in ((), ((0, "missing"),)):
        report = Guarded(c, faults).by_experiment()
        assert [f.cause for f in report.findings] == ["activation_derivative_missing"] * len(faults), report
        assert not report.notes


class Clipping(HandNetwork):
    """Clips the probability in the loss; its gradient is p - y all the same."""

    def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
        p = np.clip(self.forward(x, params)[1][-1], 1e-12, 1 - 1e-12)
        return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_clip_that_does_no_harm_is_named_only_where_it_shows() -> None:
    network = Clipping(Config((4, 5, 1), "tanh", "bce"))
    assert network.by_experiment(network.by_differences()).ok
    for value in network.params.values():
        value *= 60.0
    finding, = network.by_experiment(network.by_differences()).findings
    assert finding.cause == "probability_clipped"
    assert "unclipped it is" in finding.evidence


@pytest.mark.parametrize("loss", ["softmax_cross_entropy", "binary_cross_entropy", "squared_error", "absolute_error"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_network_of_this_package_is_reconstructed_and_is_right(loss: str, dtype: str) -> None:
    network = Network([xd.Dense(6, "gelu"), xd.Dense(3)], 4, "numpy", dtype, 0)
    rng, chosen = np.random.default_rng(0), as_loss(loss)
    program = NetworkProgram(network, chosen, xd.SGD(0.1))
    report = xd.explain_gradients(program, rng.standard_normal((30, 4)), chosen.sample_target(rng, 30, 3))
    assert not report.findings, report
    assert not report.notes


def test_arrays_of_another_namespace_are_taken() -> None:
    torch = pytest.importorskip("torch")

    class Torch(HandNetwork):
        def gradients(self, x: Any, y: Any) -> dict[str, Any]:
            kept, self.params = self.params, {n: np.asarray(p) for n, p in self.params.items()}
            found = super().gradients(x, y)
            self.params = kept
            return {n: torch.asarray(g) for n, g in found.items()}

        def forward(self, x: Any, params: Any = None) -> Any:
            params = self.params if params is None else params
            return super().forward(x, {n: np.asarray(p) for n, p in params.items()})

    network = Torch(Config((4, 5, 3), "relu", "ce"), ((0, "missing"),))
    network.params = {n: torch.asarray(p) for n, p in network.params.items()}
    for report in (network.by_differences(), network.by_experiment()):
        assert [f.cause for f in report.findings] == ["activation_derivative_missing"]


def test_labels_in_place_of_one_hot_rows_are_understood() -> None:
    class Labels(HandNetwork):
        def loss(self, x: np.ndarray, y: np.ndarray, params: dict[str, np.ndarray] | None = None) -> float:
            return super().loss(x, np.eye(3)[y], params)

        def gradients(self, x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
            return super().gradients(x, np.eye(3)[y])

        def predict(self, x: np.ndarray) -> np.ndarray:
            return super().predict(x).argmax(axis=1)

    network = Labels(Config((4, 5, 3), "tanh", "ce"), ((0, "of the output"),))
    report = xd.explain_gradients(network, network.data[0], network.data[1].argmax(axis=1))
    assert [f.cause for f in report.findings] == ["activation_derivative_of_wrong_tensor"]
    assert "tanh's derivative is taken of its output" in report.findings[0].evidence


@pytest.mark.parametrize(("shapes", "expected"), [
    ({"W2": (4, 1), "W1": (3, 4), "b2": (1, 1), "b1": (1, 4)}, ["W1, b1", "W2, b2"]),
    ({"w_in": (4, 3), "b_in": (4, 1), "w_out": (1, 4), "b_out": (1, 1)}, ["w_in, b_in", "w_out, b_out"]),
    ({"coefs_0": (3, 4), "coefs_1": (4, 2)}, ["coefs_0", "coefs_1"]),
    ({"Wh": (3, 4), "bh": (4,), "Wo": (4, 2), "bo": (2,)}, ["Wh, bh", "Wo, bo"]),
    ({"w": (3,)}, None),
    ({"W1": (3, 4), "W2": (5, 2)}, None),
])
def test_layers_are_found_by_names_and_shapes(shapes: dict[str, tuple[int, ...]], expected: list[str] | None) -> None:
    found = chains(shapes)
    assert ([link.names for link in found[0]] if found else None) == expected


if __name__ == "__main__":
    for dtype, experiment in itertools.product(("float64", "float32"), (False, True)):
        total: Counter[str] = Counter()
        print(f"\n{dtype}, {'explain_gradients' if experiment else 'check_gradients'}")
        with np.errstate(all="ignore"):
            for fault, count in table(dtype, experiment).items():
                print(f"{fault:32}", *(f"{word} {count[word]:3d}  " for word in WORDS))
                total += count
        print(f"{'all':32}", *(f"{word} {total[word]:3d}  " for word in WORDS))
