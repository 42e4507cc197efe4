"""Writes golden.json: what PyTorch makes of the same data, weights and settings, in float64.

Nothing of xpdense is imported: the losses are torch.nn.functional's, the optimizers and schedules torch.optim's, the
gradients autograd's. What PyTorch lacks is written from its paper: Lion (arXiv:2302.06675), the quantile loss
(Koenker and Bassett 1978), decay that is decoupled from SGD (arXiv:1711.05101). Run it by hand,

    python tests/golden/make_golden.py

when a loss, an optimizer or an activation is added. The network is 6 - 8 tanh - 6 gelu - outputs; a step sees all rows.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

STEPS, ROWS, INPUTS = 50, 13, 6  # an odd number of rows: as many errors above as below zero would cancel to noise
HIDDEN = ((8, "tanh"), (6, "gelu"))
Tensor = torch.Tensor


# --- data and weights ------------------------------------------------------------------------------------------

def data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    soft = rng.dirichlet(np.ones(3), ROWS)
    weight = rng.uniform(0.2, 3.0, ROWS)
    weight[4] = 0.0
    return {
        "x": rng.standard_normal((ROWS, INPUTS)),
        "values": rng.standard_normal((ROWS, 2)),
        "counts": rng.poisson(2.0, (ROWS, 2)),
        "binary": rng.integers(0, 2, (ROWS, 1)),
        "labels": rng.integers(0, 2, (ROWS, 3)),
        "classes": np.arange(ROWS) % 3,
        "soft": soft,
        "weight": weight,
    }


def start(outputs: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([21, outputs])
    widths = [INPUTS, *(units for units, _ in HIDDEN), outputs]
    values = {}
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        values[f"{i}.weight"] = rng.standard_normal((fan_in, fan_out)) / fan_in**0.5
        values[f"{i}.bias"] = 0.1 * rng.standard_normal(fan_out)
    return values


# --- losses: each (rows, outputs), target -> one number per row -------------------------------------------------

def per_row(config: dict[str, Any]) -> Callable[[Tensor, Tensor], Tensor]:
    name = config["name"]
    if name == "binary_cross_entropy":
        return lambda z, t: F.binary_cross_entropy_with_logits(z, t, reduction="none").mean(1)
    if name == "softmax_cross_entropy":
        smoothing = config.get("label_smoothing", 0.0)
        return lambda z, t: F.cross_entropy(z, t, reduction="none", label_smoothing=smoothing)
    if name == "squared_error":
        return lambda z, t: F.mse_loss(z, t, reduction="none").mean(1)
    if name == "absolute_error":
        return lambda z, t: F.l1_loss(z, t, reduction="none").mean(1)
    if name == "huber":
        return lambda z, t: F.huber_loss(z, t, reduction="none", delta=config.get("delta", 1.0)).mean(1)
    if name == "poisson":
        return lambda z, t: F.poisson_nll_loss(z, t, log_input=True, full=False, reduction="none").mean(1)
    assert name == "quantile", name
    q = config.get("q", 0.5)
    return lambda z, t: torch.where(t > z, q * (t - z), (1.0 - q) * (z - t)).mean(1)


# --- optimizers ------------------------------------------------------------------------------------------------

class Lion(torch.optim.Optimizer):
    """Algorithm 2 of arXiv:2302.06675."""

    def __init__(self, groups: Any, lr: float, betas: tuple[float, float], weight_decay: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = beta1 * m + (1.0 - beta1) * p.grad
                p.sub_(group["lr"] * (torch.sign(c) + group["weight_decay"] * p))
                m.copy_(beta2 * m + (1.0 - beta2) * p.grad)


def by_hand(config: dict[str, Any]) -> bool:
    """Whether the decay is decoupled and the optimizer's step has none of its own."""
    return bool(config.get("decoupled")) and config["name"] not in ("adamw", "lion")


def make_optimizer(config: dict[str, Any], weights: list[Tensor], biases: list[Tensor]) -> torch.optim.Optimizer:
    name, rate = config["name"], config["learning_rate"]
    decay = config.get("weight_decay", 0.01 if name == "adamw" else 0.0)
    if by_hand(config):
        decay = 0.0
    groups = [{"params": weights, "weight_decay": decay},
              {"params": biases, "weight_decay": decay if config.get("decay_all") else 0.0}]
    betas = (config.get("beta1", 0.9), config.get("beta2", 0.99 if name == "lion" else 0.999))
    if name == "lion":
        return Lion(groups, rate, betas, 0.0)
    if name in ("sgd", "momentum", "nesterov"):
        momentum = 0.0 if name == "sgd" else config.get("momentum", 0.9)
        return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=name == "nesterov")
    if name == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, alpha=config.get("decay", 0.99), eps=config.get("epsilon", 1e-8))
    if name == "adagrad":
        return torch.optim.Adagrad(groups, lr=rate, eps=config.get("epsilon", 1e-10))
    cls = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    return cls(groups, lr=rate, betas=betas, eps=config.get("epsilon", 1e-8))


def make_schedule(config: dict[str, Any], optimizer: torch.optim.Optimizer) -> Any:
    name, rate = config["name"], config["learning_rate"]
    schedules = torch.optim.lr_scheduler
    if name == "Cosine":
        return schedules.CosineAnnealingLR(optimizer, STEPS, eta_min=rate * config["final"])
    if name == "OneCycle":
        return schedules.OneCycleLR(optimizer, rate, total_steps=STEPS, pct_start=config["rise"],
                                    div_factor=config["start"], final_div_factor=config["end"], cycle_momentum=False)
    if name == "Exponential":
        return schedules.ExponentialLR(optimizer, config["decay"])
    assert name == "Step", name
    return schedules.StepLR(optimizer, config["every"], config["factor"])


# --- training --------------------------------------------------------------------------------------------------

def trajectory(case: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Train, and write the losses (and, under a schedule, the learning rates) into the case."""
    x = torch.tensor(arrays["x"])
    target = torch.tensor(arrays[case["target"]])
    if case["target"] != "classes":
        target = target.to(torch.float64)
    weight = torch.tensor(arrays["weight"]) if case.get("weighted") else torch.ones(ROWS, dtype=torch.float64)
    params = {name: torch.tensor(v, requires_grad=True) for name, v in start(case["outputs"]).items()}
    weights = [p for name, p in params.items() if name.endswith("weight")]
    biases = [p for name, p in params.items() if name.endswith("bias")]
    settings = case["optimizer"]
    optimizer = make_optimizer(settings, weights, biases)
    schedule = make_schedule(case["schedule"], optimizer) if "schedule" in case else None
    rows, case["losses"], rates = per_row(case["loss"]), [], []
    for _ in range(STEPS):
        a = x
        for i, (_, activation) in enumerate(HIDDEN):
            a = getattr(F, activation)(a @ params[f"{i}.weight"] + params[f"{i}.bias"])
        z = a @ params["2.weight"] + params["2.bias"]
        loss = (weight * rows(z, target)).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        if "clip_norm" in settings:
            torch.nn.utils.clip_grad_norm_(list(params.values()), settings["clip_norm"])
        rates.append(float(optimizer.param_groups[0]["lr"]))
        if by_hand(settings):
            with torch.no_grad():
                for p in weights:
                    p.mul_(1.0 - rates[-1] * settings["weight_decay"])
        optimizer.step()
        if schedule is not None:
            schedule.step()
        case["losses"].append(float(loss.detach()))
    if schedule is not None:
        case["rates"] = rates


def cases() -> list[dict[str, Any]]:
    adam = {"name": "adam", "learning_rate": 0.02}
    found: list[dict[str, Any]] = []

    def add(name: str, loss: dict[str, Any], target: str, outputs: int, optimizer: dict[str, Any] = adam,
            **others: Any) -> None:
        case = {"name": name, "loss": loss, "target": target, "outputs": outputs, "optimizer": optimizer}
        found.append(case | others)

    softmax = {"name": "softmax_cross_entropy"}
    add("binary_cross_entropy", {"name": "binary_cross_entropy"}, "binary", 1)
    add("binary_cross_entropy, multi-label", {"name": "binary_cross_entropy"}, "labels", 3)
    add("binary_cross_entropy, weighted", {"name": "binary_cross_entropy"}, "labels", 3, weighted=True)
    add("softmax_cross_entropy", softmax, "classes", 3)
    add("softmax_cross_entropy, weighted", softmax, "classes", 3, weighted=True)
    add("softmax_cross_entropy, soft targets", softmax, "soft", 3)
    add("softmax_cross_entropy, smoothed", {**softmax, "label_smoothing": 0.1}, "classes", 3)
    add("softmax_cross_entropy, smoothed soft targets", {**softmax, "label_smoothing": 0.2}, "soft", 3, weighted=True)
    add("squared_error", {"name": "squared_error"}, "values", 2)
    add("squared_error, weighted", {"name": "squared_error"}, "values", 2, weighted=True)
    add("absolute_error", {"name": "absolute_error"}, "values", 2)
    add("huber", {"name": "huber"}, "values", 2)
    add("huber, delta, weighted", {"name": "huber", "delta": 0.4}, "values", 2, weighted=True)
    add("poisson", {"name": "poisson"}, "counts", 2)
    add("poisson, weighted", {"name": "poisson"}, "counts", 2, weighted=True)
    add("quantile", {"name": "quantile"}, "values", 2)
    add("quantile, q, weighted", {"name": "quantile", "q": 0.8}, "values", 2, weighted=True)

    rates = {"sgd": 0.3, "momentum": 0.1, "nesterov": 0.1, "rmsprop": 0.01, "adagrad": 0.05, "adam": 0.02,
             "adamw": 0.02, "lion": 0.005}
    settings: list[dict[str, Any]] = [
        *({"name": name} for name in rates),
        {"name": "momentum", "momentum": 0.5},
        {"name": "rmsprop", "decay": 0.9, "epsilon": 1e-3},
        {"name": "adagrad", "epsilon": 1e-2},
        {"name": "adam", "beta1": 0.7, "beta2": 0.95, "epsilon": 1e-4},
        {"name": "lion", "beta1": 0.8, "beta2": 0.9},
        *({"name": name, "weight_decay": 0.05} for name in rates if name != "lion"),
        {"name": "lion", "weight_decay": 0.5, "decoupled": True},
        {"name": "momentum", "weight_decay": 0.05, "decoupled": True},
        {"name": "rmsprop", "weight_decay": 0.5, "decoupled": True},
        {"name": "adam", "weight_decay": 0.05, "decay_all": True},
        {"name": "sgd", "clip_norm": 0.3},
        {"name": "adam", "clip_norm": 0.3},
        {"name": "nesterov", "clip_norm": 0.3, "weight_decay": 0.05},
        {"name": "adamw", "clip_norm": 0.3, "weight_decay": 0.5},
    ]
    for given in settings:
        name = ", ".join([given["name"], *(f"{k}={v}" for k, v in given.items() if k != "name")])
        add(name, softmax, "classes", 3, {**given, "learning_rate": rates[given["name"]]})
    for schedule in (
        {"name": "Cosine", "learning_rate": 0.05, "warmup": 0.0, "final": 0.0},
        {"name": "Cosine", "learning_rate": 0.05, "warmup": 0.0, "final": 0.1},
        {"name": "OneCycle", "learning_rate": 0.05, "rise": 0.3, "start": 25.0, "end": 1e4},
        {"name": "OneCycle", "learning_rate": 0.05, "rise": 0.5, "start": 10.0, "end": 100.0},
        {"name": "Exponential", "learning_rate": 0.05, "decay": 0.95},
        {"name": "Step", "learning_rate": 0.05, "every": 15, "factor": 0.5},
    ):
        name = ", ".join(str(v) for v in schedule.values())
        under = {"name": "adam", "learning_rate": schedule["learning_rate"]}
        add(name, softmax, "classes", 3, under, schedule=schedule)
    return found


# --- activations -----------------------------------------------------------------------------------------------

def activations() -> dict[str, Any]:
    """Values and derivatives by autograd.

    Two of PyTorch's own are not exact enough: F.softplus is linear from 20 on, and the derivative of F.hardsigmoid is
    1/6 in float32 whatever the type.
    """
    z = np.concatenate([[-1e4, -100.0, -30.0], np.linspace(-9.03, 9.07, 61), [1e-9, -1e-9, 30.0, 100.0, 1e4]])
    functions: dict[str, Callable[[Tensor], Tensor]] = {
        "identity": lambda z: z * 1.0, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": F.relu,
        "leaky_relu": F.leaky_relu, "elu": F.elu, "selu": F.selu, "gelu": F.gelu,
        "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"), "silu": F.silu, "mish": F.mish,
        "softplus": lambda z: torch.logaddexp(z, torch.zeros_like(z)),
        "hard_sigmoid": lambda z: torch.clamp(z / 6.0 + 0.5, 0.0, 1.0), "hard_tanh": F.hardtanh,
    }
    table: dict[str, Any] = {"z": z.tolist(), "value": {}, "derivative": {}}
    for name, function in functions.items():
        points = torch.tensor(z, requires_grad=True)
        a = function(points)
        a.sum().backward()
        assert points.grad is not None
        table["value"][name], table["derivative"][name] = a.detach().tolist(), points.grad.tolist()
    return table


def main() -> None:
    torch.set_num_threads(1)
    arrays, made = data(), cases()
    for case in made:
        trajectory(case, arrays)
    document = {
        "made_by": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "hidden": HIDDEN,
        "data": {name: value.tolist() for name, value in arrays.items()},
        "start": {str(k): {n: v.tolist() for n, v in start(k).items()} for k in (1, 2, 3)},
        "activations": activations(),
    }
    lines = [f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}" for key, value in document.items()]
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in made)  # a line each, for the diffs' sake
    text = "{" + ",\n".join(lines) + ',\n"cases":[\n' + rows + "\n]}\n"
    assert json.loads(text)["cases"] == made
    assert "NaN" not in text
    assert "Infinity" not in text
    (Path(__file__).parent / "golden.json").write_text(text)


if __name__ == "__main__":
    main()
