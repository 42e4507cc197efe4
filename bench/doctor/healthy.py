"""Runs in which nothing is wrong, however odd they look."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cases import Case, Reference, build, train
from .setups import KINDS, STEPS, TASKS, Pair, Spec, epochs_for, pairs, rate_of, raw


def turn(part: str, number: int) -> tuple[Pair, str]:
    """Which pair and kind the run of this number has."""
    every = pairs(part)
    return every[number % len(every)], KINDS[number // len(every) % 2]


def draw(part: str, number: int, attempt: int) -> Case:
    """A candidate; number and attempt decide all."""
    rng = np.random.default_rng([number, attempt, part == "test", 31])
    pair, kind = turn(part, number)
    task = TASKS[pair.data]
    depth = int(rng.integers(1, 4))
    hidden = tuple(int(rng.choice([12, 16, 24, 32, 64, 128])) for _ in range(depth))
    activation = str(rng.choice(["relu", "tanh", "leaky_relu", "softplus", "sigmoid"][: 5 if depth < 3 else 3]))
    optimizer = str(rng.choice(["sgd", "momentum", "adam"] if kind == "ours" else ["sgd", "momentum"]))
    batch_size = int(rng.choice([8, 16, 32, 64, 128, 256]))
    rate = rate_of(pair.data, activation, optimizer) * float(2 ** rng.uniform(-1, 1)) * min(1, (batch_size / 32) ** 0.5)
    rows = str(rng.choice(["", "", "", "noise", "shifted", "constant", "raw" if pair.data in ("banana", "ring")
                           else "", "imbalance" if task != "regression" else ""]))
    size = len(raw(pair.data).x)
    epochs = epochs_for(size, batch_size, round(STEPS.get(pair.data, 450) * rng.choice([1, 1.5, 3])))
    spec = Spec(hidden, activation, optimizer, rate, batch_size, min(epochs, 200),
                weight_decay=float(rng.choice([0, 0, 1e-4, 1e-3])), dropout=float(rng.choice([0, 0, 0, 0.05, 0.1])),
                dtype=str(rng.choice(["float32", "float64"])))
    return Case(f"healthy {part} {number}.{attempt}", kind, pair, 1000 + number, part, (), spec, rows)


def run(part: str, number: int, reference: Callable[[Case], Reference]) -> tuple[Case, float, int]:
    """The first candidate of this number that trains as well as it should, its score, and how many did not."""
    for attempt in range(200):
        case = draw(part, number, attempt)
        reached, error = train(build(case))
        if not error and reference(case).healthy(reached):
            return case, reached, attempt
    raise RuntimeError(f"healthy run {part} {number}: none of 200 candidates trains well")
