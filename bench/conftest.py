"""Options of the benchmarks; at the end, the table and the file of results."""

from __future__ import annotations

from pathlib import Path

import pytest

from .contenders import NETWORKS, Case, contenders
from .results import FOLDER, SMOKE, Results

CONFIGURATIONS = [("float32", "adam"), ("float64", "adam"), ("float32", "sgd")]
RESULTS = pytest.StashKey[Results]()
#: Programs: without benchmarks, but --doctest-modules would import them.
collect_ignore = ["doctor", "compare.py", "estimators.py", "flights.py"]
SELECTING = ("dtype", "optimizer", "networks", "peers")  #: options that leave something out


def pytest_addoption(parser):
    parser.addoption("--backend", default="numpy", help="a backend of xpdense: numpy, cupy, torch, torch:cuda, ...")
    parser.addoption("--dtype", help="float32 or float64; both unless given")
    parser.addoption("--optimizer", help="adam or sgd; both unless given")
    parser.addoption("--networks", help=f"some of {','.join(NETWORKS)}")
    parser.addoption("--peers", help=f"some of {','.join(contenders(False)[2:])}")
    parser.addoption("--results", type=Path, default=FOLDER, help="the folder for the file of results")
    parser.addoption("--smoke", action="store_true", help="one case of xpdense alone, to see that it runs")
    parser.addoption("--rounds", default=7, type=int, help="interleaved rounds; of the largest network a third")


def pytest_configure(config):
    config.stash[RESULTS] = Results()
    if config.getoption("--smoke"):
        vars(config.option).update(dtype="float32", optimizer="adam", networks=next(iter(NETWORKS)), rounds=2,
                                   peers="xpdense step,xpdense generic", results=SMOKE)


def chosen(config, option, known):
    """What a list of names on the command line chooses, in the order in which it is known."""
    wanted = config.getoption(option)
    names = known if wanted is None else list(filter(None, wanted.split(",")))
    if unknown := set(names) - set(known):
        raise pytest.UsageError(f"{option}: there is no {', '.join(sorted(unknown))}; some of {','.join(known)}")
    return [name for name in known if name in names]


def names_of(config):
    """The contenders of this run; the floor and xpdense's `fit` are always among them."""
    first, second, *peers = contenders(Case("", "", "", config.getoption("--backend")).on_gpu)
    return [first, second, *chosen(config, "--peers", peers)]


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    option = metafunc.config.getoption
    dtype, optimizer = option("--dtype"), option("--optimizer")
    pairs = [pair for pair in CONFIGURATIONS if dtype in (None, pair[0]) and optimizer in (None, pair[1])]
    pairs = [(dtype, optimizer)] if dtype and optimizer else pairs
    cases = [Case(network, *pair, option("--backend")) for pair in pairs
             for network in chosen(metafunc.config, "--networks", list(NETWORKS))]
    metafunc.parametrize("case", cases, ids=lambda case: f"{case.network} {case.dtype} {case.optimizer}")


@pytest.fixture
def results(request):
    return request.config.stash[RESULTS]


@pytest.fixture
def names(request):
    return names_of(request.config)


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    results, backend = config.stash[RESULTS], config.getoption("--backend")
    if not results.cases:
        return
    results.print(names_of(config), backend)
    partial = any(config.getoption(f"--{option}") for option in SELECTING) and not config.getoption("--smoke")
    if exitstatus or partial:
        terminalreporter.write_line("not written to a file: a part of the benchmarks")
    else:
        command = " ".join(["pytest", *map(str, config.invocation_params.args)])
        path = results.write(config.getoption("--results"), backend, command)
        terminalreporter.write_line(f"wrote {path}")
