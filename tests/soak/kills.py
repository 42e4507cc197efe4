"""Trainings that are killed at random moments and resumed until they end: the bits must be those of an unbroken run.

    make soak

Each run is a process of its own, forked from one that has imported everything. A part of the kills is aimed at the
moment in which a checkpoint is being written, or removed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import xpdense as xd

ROWS, EPOCHS = 1500, 60
VARIANTS: dict[str, dict[str, Any]] = {
    "adam": {}, "momentum, float64": {"optimizer": "momentum", "dtype": "float64"},
    "generic": {"ops": "generic", "epochs": 20}, "stream": {"stream": True},
    "stream of windows": {"stream": True, "window": 256},
}


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 6)).astype(np.float32)
    return x, (np.sin(2.0 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.1 * rng.standard_normal(ROWS)).astype(np.float32)


def parquet(folder: Path) -> Path:
    """The same rows as a file, with a column of categories."""
    import pandas

    x, y = data()
    path = folder / "data.parquet"
    frame = pandas.DataFrame(x, columns=list("abcdef")).assign(kind=np.array(["u", "v", "w"])[np.arange(ROWS) % 3], y=y)
    frame.to_parquet(path, row_group_size=170)
    return path


def train(folder: Path, file: Path, *, optimizer: str = "adam", dtype: str = "float32", ops: str = "auto",
          epochs: int = EPOCHS, stream: bool = False, window: int | None = None) -> bytes:
    """A training that writes a checkpoint every few steps and goes on from the last one; the bytes of its weights."""
    x, y = data()
    made: dict[str, Any] = {"x": x, "y": y, "validation": 0.2}
    inputs = x.shape[1]
    if stream:
        kept, held = xd.data.open(file, "y", window=window).split(0.2)
        made, inputs = {"x": kept, "validation": held}, kept.inputs
    layers = [xd.Dense(24, "relu"), xd.BatchNorm(), xd.Dropout(0.1), xd.Dense(1)]
    net = xd.DenseNetwork(layers, inputs=inputs, seed=7, dtype=dtype, ops=ops)
    rate = xd.ReduceOnPlateau(0.01, patience=2)
    rule = {"adam": xd.Adam, "momentum": xd.Momentum}[optimizer](rate)
    folder.mkdir(exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xd.ResumeWarning)
        net.fit(**made, loss="squared_error", optimizer=rule, batch_size=16, epochs=epochs, resume=folder,
                callbacks=[xd.Checkpoint(folder, every=20, unit="steps"), xd.EarlyStopping(patience=40)])
    return b"".join(value.tobytes() for value in net.arena.to_host().values())


def start(folder: Path, file: Path, out: Path, options: dict[str, Any]) -> int:
    """A process that trains and then writes its weights to `out`."""
    pid = os.fork()
    if pid:
        return pid
    try:
        weights = train(folder, file, **options)
        out.with_suffix(".part").write_bytes(weights)
        os.replace(out.with_suffix(".part"), out)
    except BaseException as error:  # the parent sees the exit code; the reason goes to the log
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)
    os._exit(0)


def ended(pid: int) -> int | None:
    """The status of a process, None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def killed(pid: int, folder: Path, rng: random.Random, seconds: float, aimed: bool) -> tuple[bool, bool]:
    """Kill a process at a random moment, or as it writes; whether it still ran, and whether something was half done."""
    deadline, at = time.monotonic() + 60.0, time.monotonic() + rng.uniform(0.0, seconds)
    skip = rng.randrange(6)  # which of its writes
    seen = False
    while time.monotonic() < deadline:
        if ended(pid) is not None:
            return False, False
        if aimed:
            writing = folder.exists() and any(name.startswith(".writing-") for name in os.listdir(folder))
            if writing and not seen:
                skip -= 1
            seen = writing
            if writing and skip < 0:
                break
        elif time.monotonic() >= at:
            break
        else:
            time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return True, folder.exists() and any(name.startswith(".writing-") for name in os.listdir(folder))


def soak(runs: int, seed: int, variants: dict[str, dict[str, Any]], most: int = 3) -> dict[str, Any]:
    """Kill and resume so many runs; what came of them."""
    found: dict[str, Any] = {"runs": 0, "kills": 0, "kills in a write": 0, "equal": 0, "unequal": []}
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        file, names, unbroken, seconds = parquet(place), list(variants), {}, {}
        for variant, options in variants.items():
            out, since = place / "unbroken", time.monotonic()
            status = os.waitpid(start(place / "whole", file, out, options), 0)[1]
            assert status == 0, f"the unbroken run of {variant} failed"
            seconds[variant], unbroken[variant] = time.monotonic() - since, out.read_bytes()
            shutil.rmtree(place / "whole")
        for number in range(runs):
            rng, variant = random.Random(f"{seed} {number}"), names[number % len(names)]
            folder, out = place / "run", place / "weights"
            out.unlink(missing_ok=True)
            for _ in range(rng.randint(1, most)):
                pid = start(folder, file, out, variants[variant])
                running, within = killed(pid, folder, rng, seconds[variant], aimed=rng.random() < 0.5)
                found["kills"] += running
                found["kills in a write"] += within
                if not running:
                    break
            if not out.exists():
                os.waitpid(start(folder, file, out, variants[variant]), 0)
            same = out.exists() and out.read_bytes() == unbroken[variant]
            found["runs"] += 1
            found["equal"] += same
            if not same:
                found["unequal"].append(f"{variant}, run {number} of seed {seed}")
            shutil.rmtree(folder, ignore_errors=True)
    return found | {"seconds": round(time.monotonic() - begun, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = soak(options.runs, options.seed, VARIANTS)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if found["equal"] == found["runs"] == options.runs else 1)


if __name__ == "__main__":
    main()
