"""Options of the benchmarks, and the table that they print at the end."""

from __future__ import annotations

import platform
from importlib import metadata

import pytest
from rich.console import Console
from rich.table import Table

ROWS = pytest.StashKey[list[tuple[str, ...]]]()


def pytest_addoption(parser):
    parser.addoption("--backend", default="numpy", help="a backend of xpdense: numpy, cupy, torch, torch:cuda, ...")
    parser.addoption("--dtype", default="float32", help="float32 or float64")
    parser.addoption("--rounds", default=15, type=int, help="interleaved rounds of each measurement")


def pytest_configure(config):
    config.stash[ROWS] = []


@pytest.fixture
def report(request):
    """A function that adds a row to the table."""
    return request.config.stash[ROWS].append


def pytest_terminal_summary(config):
    rows = config.stash[ROWS]
    if not rows:
        return
    backend, dtype = config.getoption("--backend"), config.getoption("--dtype")
    table = Table(title=f"xpdense {metadata.version('xpdense')}, {backend}, {dtype}, Adam; "
                        f"Python {platform.python_version()}, NumPy {metadata.version('numpy')}; "
                        f"medians of interleaved rounds")
    for name in ("network", "batch", "what", "floor, ms", "xpdense, ms", "rows/s", "x floor"):
        table.add_column(name, justify="left" if name in ("network", "what") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    Console(width=110).print(table)
