"""What watching a fit costs, and how long a diagnosis of a larger network takes; added to the result of run.py.

Fits with and without doctor=True alternate in one process; the overhead is the median of the ratios of neighbours.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import xpdense as xd

from ..results import FOLDER, SMOKE, environment, write

PAIRS = 25
NETWORKS = {  #: hidden widths, rows, side of the digits, epochs
    "64-32-10, 1,800 rows, 30 epochs": ([32], 1800, 8, 30),
    "64-256-128-10, 1,800 rows, 30 epochs": ([256, 128], 1800, 8, 30),
    "784-256-10, 10,000 rows, 5 epochs": ([256], 10_000, 28, 5)}


def digits(rows: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits of side x side pixels with noise, drawn again and again."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    some = rng.integers(0, len(x), rows)
    wide = np.kron(x.reshape(-1, 8, 8), np.ones((1, -(-side // 8), -(-side // 8))))[:, :side, :side].reshape(len(x), -1)
    return (wide[some] / 16.0 + 0.3 * rng.standard_normal((rows, side * side))).astype(np.float32), y[some]


def overhead(hidden: list[int], rows: int, side: int, epochs: int, pairs: int = PAIRS) -> dict[str, Any]:
    """The median ratio of a watched fit's seconds to a plain one's, and its quartiles."""
    x, y = digits(rows, side)
    layers = [*(xd.Dense(width, "relu") for width in hidden), xd.Dense(10)]

    def seconds(doctor: bool) -> float:
        network = xd.DenseNetwork(layers, side * side)
        start = time.perf_counter()
        history = network.fit(x, y, loss="softmax_cross_entropy", epochs=epochs, doctor=doctor)
        assert history.diagnosis is None, "it is a training that goes well"
        return time.perf_counter() - start

    seconds(True)
    ratios = []
    for pair in range(pairs):
        order = (True, False) if pair % 2 else (False, True)
        times = {doctor: seconds(doctor) for doctor in order}
        ratios.append(times[True] / times[False])
    low, median, high = np.percentile(ratios, [25, 50, 75])
    return {"percent": 100 * (median - 1), "quartiles": [100 * (low - 1), 100 * (high - 1)],
            "plain_seconds": times[False]}


def large() -> dict[str, float]:
    """Seconds of a diagnosis of a 784-256-10 network on 10,000 rows: a sound one, and three that are not."""
    x, y = digits(10_000, 28)
    network = xd.DenseNetwork([xd.Dense(256, "relu"), xd.Dense(10)], 784)
    found = {}
    for name, optimizer in (("sound", xd.Adam(1e-3)), ("rate too high", xd.Adam(10.0)), ("rate too low", xd.SGD(1e-6)),
                            ("decay too strong", xd.SGD(0.1, weight_decay=1.0))):
        diagnosis = xd.diagnose(network, x, y, loss="softmax_cross_entropy", optimizer=optimizer, epochs=10)
        found[name] = diagnosis.seconds
        print(f"784-256-10, 10,000 rows, {name}: {diagnosis.seconds:.1f} s, "
              f"{', '.join(f.cause for f in diagnosis.findings) or 'sound'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one network and two pairs, to see that it runs")
    smoke = parser.parse_args().smoke
    path, names = (SMOKE, list(NETWORKS)[:1]) if smoke else (FOLDER, list(NETWORKS))
    path = path / "doctor.json"
    watching = {name: overhead(*NETWORKS[name], pairs=2 if smoke else PAIRS) for name in names}
    for name, cost in watching.items():
        print(f"watching {name}: {cost['percent']:+.2f} % (quartiles {cost['quartiles'][0]:+.2f} to "
              f"{cost['quartiles'][1]:+.2f}), a plain fit takes {cost['plain_seconds']:.2f} s")
    result = json.loads(path.read_text()) if path.exists() else {}
    write(path, result | {"watching": watching, "large": {} if smoke else large(), "watched_on": environment()})


if __name__ == "__main__":
    main()
