"""One training of very many steps of a small network: neither its memory grows nor does it slow down.

    make soak
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import xpdense as xd

BATCH, ROWS = 8, 8000  # a thousand steps an epoch
LIMIT = 1024.0  # bytes per thousand steps


class Measure(xd.Callback):
    """Resident memory in bytes and the time, after each epoch."""

    keeps_optimizer_settings = True

    def __init__(self) -> None:
        self.bytes: list[int] = []
        self.times = [time.perf_counter()]

    def on_epoch_end(self, run: Any) -> None:
        self.bytes.append(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
        self.times.append(time.perf_counter())


def measure(steps: int, stream: bool, keep: bool) -> dict[str, Any]:
    """Train for so many steps, from arrays or a stream, with or without checkpoints."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 4)).astype(np.float32)
    y = x[:, 0] * x[:, 1]
    net, watch = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(1)], inputs=4), Measure()
    with tempfile.TemporaryDirectory() as folder:
        hooks: list[xd.Callback] = [watch]
        if keep:
            hooks.append(xd.Checkpoint(f"{folder}/kept", every=20_000, unit="steps"))
        data = (xd.data.open(x, y, window=1000),) if stream else (x, y)
        net.fit(*data, loss="squared_error", batch_size=BATCH, epochs=steps * BATCH // ROWS, callbacks=hooks)
    seen, seconds = np.array(watch.bytes), np.diff(watch.times)
    half, tenth = len(seen) // 2, max(1, len(seen) // 10)
    slope = float(np.polyfit(np.arange(len(seen) - half), seen[half:], 1)[0])  # bytes per epoch, a thousand steps
    rate = [float(1000.0 / np.median(part)) for part in (seconds[:tenth], seconds[-tenth:])]
    return {"steps": steps, "stream": stream, "checkpoints": keep, "bytes_per_1000_steps": slope,
            "mib_first_last": [seen[0] / 2**20, seen[-1] / 2**20], "steps_per_second_first_last": rate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--checkpoint", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    found = measure(options.steps, options.stream, options.checkpoint)
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")
    first, last = found["steps_per_second_first_last"]
    sys.exit(0 if found["bytes_per_1000_steps"] < LIMIT and last > 0.8 * first else 1)


if __name__ == "__main__":
    main()
