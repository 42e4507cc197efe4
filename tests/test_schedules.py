"""Learning rates: where they begin, turn and end, and that a training uses them step by step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.schedules import as_schedule


def rates(schedule: xd.Schedule, total: int) -> list[float]:
    return [schedule(step, total) for step in range(total)]


def test_a_number_is_a_constant_rate() -> None:
    assert rates(as_schedule(0.3), 4) == [0.3] * 4
    schedule = xd.Constant(0.3)
    assert as_schedule(schedule) is schedule


def test_step_falls_by_its_factor_after_so_many_steps() -> None:
    np.testing.assert_allclose(rates(xd.Step(1.0, every=3, factor=0.5), 8), [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25])


def test_exponential_falls_at_every_step() -> None:
    np.testing.assert_allclose(rates(xd.Exponential(0.2, decay=0.9), 5), 0.2 * 0.9 ** np.arange(5))


def test_inverse_scaling_falls_by_a_power_of_the_step() -> None:
    np.testing.assert_allclose(rates(xd.InverseScaling(2.0, power=0.5), 9), 2.0 / np.sqrt(np.arange(1, 10)))


def test_cosine_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    found = rates(xd.Cosine(1.0, warmup=0.2, final=0.1), 100)
    np.testing.assert_allclose(found[:20], np.arange(1, 21) / 20)  # the first step is not lost to a rate of zero
    assert found[20] == 1.0
    np.testing.assert_allclose(found[60], 0.55)  # half way down
    assert np.all(np.diff(found[20:]) < 0)
    np.testing.assert_allclose(xd.Cosine(1.0, warmup=0.2, final=0.1)(100, 100), 0.1)
    assert found[-1] > 0.1  # the last step still moves


def test_cosine_without_warmup_begins_at_the_top_and_goes_to_nothing() -> None:
    schedule = xd.Cosine(0.5, warmup=0.0)
    assert schedule(0, 10) == 0.5
    assert schedule(10, 10) == 0.0
    assert schedule(15, 10) == 0.0  # a run that goes on stays there
    assert rates(schedule, 1) == [0.5]


def test_one_cycle_begins_low_peaks_and_ends_lower() -> None:
    found = rates(xd.OneCycle(1.0, rise=0.3, start=25.0, end=1e4), 100)
    np.testing.assert_allclose([found[0], found[29], found[99]], [1 / 25, 1.0, 1 / 25e4], rtol=1e-9)
    assert np.argmax(found) == 29
    assert np.all(np.diff(found[:30]) > 0)
    assert np.all(np.diff(found[29:]) < 0)


@pytest.mark.parametrize("schedule", [
    xd.Constant(0.1), xd.Step(0.1, every=2), xd.Exponential(0.1, decay=0.9), xd.InverseScaling(0.1), xd.Cosine(0.1),
    xd.Cosine(0.1, warmup=0.9), xd.OneCycle(0.1), xd.OneCycle(0.1, rise=0.5), xd.OneCycle(0.1, rise=0.01),
    xd.OneCycle(0.1, rise=0.1), xd.OneCycle(0.1, rise=0.99), xd.ReduceOnPlateau(0.1),
], ids=repr)
def test_runs_of_any_length_have_rates_above_zero_and_not_above_the_given_one(schedule: xd.Schedule) -> None:
    for total in (1, 2, 3, 4, 5, 10, 20, 100):
        for step, rate in enumerate(rates(schedule, total)):
            assert 0.0 < rate <= 0.1 * (1 + 1e-15), (step, total)


# --- reduce on plateau -------------------------------------------------------------------------------------------

def test_reduce_on_plateau_waits_and_then_reduces() -> None:
    schedule = xd.ReduceOnPlateau(1.0, factor=0.5, patience=2, tolerance=0.1, minimum=0.2)
    found = []
    for loss in (1.0, 0.8, 0.75, 0.75, 0.71, 0.5, 0.45, math.nan, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45, 0.45):
        schedule.observe(loss)
        found.append(schedule(0, 1))
    # 0.75 is not 0.1 below 0.8, nor is 0.71: after more than two such epochs the rate halves; NaN is not better
    assert found == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]


def trained(schedule: xd.Schedule, **options: Any) -> xd.History:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    net = xd.DenseNetwork([xd.Dense(4, "tanh"), xd.Dense(1)], inputs=3)
    return net.fit(x, y, loss="squared_error", optimizer=xd.SGD(schedule), batch_size=8, **options)


def test_a_training_steps_through_its_schedule() -> None:
    class Recorded(xd.Schedule):
        def __init__(self) -> None:
            self.calls: list[tuple[int, int]] = []

        def __call__(self, step: int, total: int) -> float:
            self.calls.append((step, total))
            return 0.1 / (1 + step)

    schedule = Recorded()
    history = trained(schedule, epochs=4)
    assert schedule.calls == [(step, 12) for step in range(12)]  # three batches in each of four epochs
    assert history["learning_rate"] == [0.1 / 3, 0.1 / 6, 0.1 / 9, 0.1 / 12]


def test_a_training_moves_by_the_rate_of_the_schedule() -> None:
    x, y = np.array([[1.0]]), np.array([0.0])
    net = xd.DenseNetwork([xd.Dense(1, bias=False)], inputs=1, dtype="float64")
    net.params["0.weight"][...] = 1.0
    net.fit(x, y, loss="squared_error", optimizer=xd.SGD(xd.Step(0.1, every=1, factor=0.5)), epochs=3)
    np.testing.assert_allclose(net.params["0.weight"], [[0.8 * 0.9 * 0.95]])  # w -= rate * 2 w


def test_reduce_on_plateau_in_a_training_on_every_backend(backend: str) -> None:
    # no epoch is better by so much: the first sets the mark, and from then on every second one halves the rate
    x, y = np.random.default_rng(0).standard_normal((6, 2)), np.arange(6.0)
    net = xd.DenseNetwork([xd.Dense(1)], inputs=2, backend=backend, dtype="float64")
    schedule = xd.ReduceOnPlateau(0.01, factor=0.5, patience=1, tolerance=1e9)
    for _ in range(2):  # it begins anew with each training
        history = net.fit(x, y, loss="squared_error", optimizer=xd.SGD(schedule), epochs=8)
        np.testing.assert_allclose(history["learning_rate"], 0.01 * 0.5 ** np.array([0, 0, 0, 1, 1, 2, 2, 3]))


def test_reduce_on_plateau_keeps_the_rate_while_the_loss_falls() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3))
    net = xd.DenseNetwork([xd.Dense(1)], inputs=3, dtype="float64")
    schedule = xd.ReduceOnPlateau(0.1, factor=0.5, patience=0, tolerance=0.0)
    history = net.fit(x, x.sum(1), loss="squared_error", optimizer=xd.SGD(schedule), epochs=30)
    assert np.all(np.diff(history["loss"]) < 0)
    assert history["learning_rate"] == [0.1] * 30


@pytest.mark.parametrize("validation", [None, 0.3], ids=["training loss", "validation loss"])
def test_schedules_observe_the_validation_loss_where_there_is_one(validation: float | None) -> None:
    class Observing(xd.Constant):
        def observe(self, loss: float) -> None:
            self.seen = [*getattr(self, "seen", []), loss]

    schedule = Observing(0.1)
    history = trained(schedule, epochs=5, validation=validation)
    assert schedule.seen == history["validation_loss" if validation else "loss"]
