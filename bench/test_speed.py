"""Speed of a training epoch: xpdense, other libraries, and the floor, which is the matrix products alone.

Run with `make bench`, a part of it with `make bench BENCH="--dtype float32 --networks 64-64-10"`. Each contender (see
`contenders.py`) trains in a process of its own, which waits idle until it is told to (see `worker.py`). A round is one
epoch of each, one after the other, beginning with another one in each round. A figure is the median, over the rounds,
of the ratio to the floor's time in the same round: all meet the same machine, and a slow minute slows all of them.
Compilation is part of the warm-up. Peak memory is that of the whole process, with interpreter, data and compilation.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest

from .results import spread
from .worker import Worker

SPENT = [0.0]  #: seconds that xpdense has trained, as its process says


def clock() -> float:
    """The time that pytest-benchmark sees: it stands still but for xpdense's epochs, without the pipe's part."""
    return SPENT[0]


@pytest.mark.benchmark(timer=clock)
def test_speed(case, names, benchmark, results, request):
    rounds = request.config.getoption("--rounds")
    if case.is_long:
        rounds = max(3, rounds // (3 if (case.dtype, case.optimizer) == ("float32", "adam") else 5))
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(name, case)) for name in names]  # one after the other
        out = {worker.name: worker.out for worker in workers if worker.out}
        assert not {"floor", "xpdense"} & out.keys(), out
        workers = [worker for worker in workers if not worker.out]
        seconds = {worker.name: [] for worker in workers}

        def one_round() -> None:
            begin = len(seconds["floor"]) % len(workers)
            for worker in workers[begin:] + workers[:begin]:
                seconds[worker.name].append(worker.epoch())
            SPENT[0] += seconds["xpdense"][-1]

        benchmark.pedantic(one_round, rounds=rounds)
        memory = {worker.name: worker.memory() for worker in workers}
        results.blas |= {worker.name: worker.blas() for worker in workers}
    benchmark.extra_info |= results.add(case, seconds, memory, out)


def test_import_time(names, results, request):
    """Seconds that an import takes in a fresh interpreter, the files being in memory already.

    `import xpdense` puts its modules off until they are asked for: what is timed asks for the network.
    """
    ours = "from xpdense import DenseNetwork"
    if request.config.getoption("--backend").startswith("cupy"):
        ours += "; import cupy"
    imports = {"xpdense": ours, "scikit-learn": "from sklearn.neural_network import MLPClassifier",
               "PyTorch": "import torch", "JAX": "import jax"}
    seconds = {name: [] for name in names if name in imports}
    for begin in range(6):
        for name in [*seconds][begin % len(seconds):] + [*seconds][: begin % len(seconds)]:
            code = f"from time import perf_counter as now; start = now(); {imports[name]}; print(now() - start)"
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if run.returncode == 0 and begin:  # the first one reads the files
                seconds[name].append(float(run.stdout))
    results.imports = {name: spread(times) for name, times in seconds.items() if times}
