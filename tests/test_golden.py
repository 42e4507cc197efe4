"""Fifty losses of every loss, optimizer and schedule, against those that PyTorch made (golden/make_golden.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense import schedules
from xpdense.losses import LOSSES, as_loss
from xpdense.optimizers import OPTIMIZERS, as_optimizer

GOLDEN = json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
STEPS = 50


def tolerance(dtype: str) -> float:
    """What rounding may do to a loss, of its size plus one: four eps a step. 4.4e-14 in float64, 2.4e-5 in float32."""
    return STEPS * 4 * float(np.finfo(dtype).eps)


def trained(case: dict[str, Any], backend: str, dtype: str) -> xd.History:
    """The case's training, through the front door."""
    hidden = [xd.Dense(units, activation) for units, activation in GOLDEN["hidden"]]
    net = xd.DenseNetwork([*hidden, xd.Dense(case["outputs"])], inputs=6, backend=backend, dtype=dtype)
    start = GOLDEN["start"][str(case["outputs"])]
    assert net.params.keys() == start.keys()
    for name, values in start.items():
        net.params[name][...] = net.backend.from_host(np.array(values, dtype))
    settings = dict(case["optimizer"])
    rate: Any = settings.pop("learning_rate")
    if "schedule" in case:
        arguments = dict(case["schedule"])
        rate = getattr(schedules, arguments.pop("name"))(**arguments)
    optimizer = as_optimizer(settings.pop("name"), learning_rate=rate, **settings)
    x, y = np.array(GOLDEN["data"]["x"]), np.array(GOLDEN["data"][case["target"]])
    weight = np.array(GOLDEN["data"]["weight"]) if case.get("weighted") else None
    return net.fit(x, y, loss=as_loss(case["loss"]), optimizer=optimizer, batch_size=len(x), epochs=STEPS,
                   shuffle=False, sample_weight=weight)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", CASES)
def test_fifty_losses_are_those_of_pytorch(name: str, dtype: str) -> None:
    case = CASES[name]
    history = trained(case, "numpy", dtype)
    np.testing.assert_allclose(history["loss"], case["losses"], rtol=tolerance(dtype), atol=tolerance(dtype))
    if "rates" in case:  # PyTorch multiplies from step to step, xpdense does not
        np.testing.assert_allclose(history["learning_rate"], case["rates"], rtol=tolerance("float64"), atol=1e-17)


def test_fifty_losses_are_those_of_pytorch_on_every_backend(backend: str) -> None:
    for name in ("poisson, weighted", "nesterov, clip_norm=0.3, weight_decay=0.05"):
        history = trained(CASES[name], backend, "float64")
        limit = tolerance("float64")
        np.testing.assert_allclose(history["loss"], CASES[name]["losses"], rtol=limit, atol=limit)


def test_every_loss_and_optimizer_has_a_golden_trajectory() -> None:
    assert {case["loss"]["name"] for case in CASES.values()} == LOSSES.keys(), "add a case to make_golden.py"
    assert {case["optimizer"]["name"] for case in CASES.values()} == OPTIMIZERS.keys(), "add a case to make_golden.py"


def test_the_trajectories_differ_from_one_another() -> None:
    # two cases with the same losses would mean that a setting was not looked at when the file was made
    assert CASES["adam"]["losses"] == CASES["softmax_cross_entropy"]["losses"]  # one case under two names
    losses = {tuple(case["losses"]) for case in CASES.values()}
    assert len(losses) == len(CASES) - 1
    assert all(len(case) == STEPS for case in losses)
    assert all(case[-1] < 0.95 * case[0] for case in losses)
