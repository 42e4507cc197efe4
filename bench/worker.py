"""A process of its own for each contender: both ends of the pipe.

The process makes its network ready, trains it for a few epochs (where it compiles, if it does), and then waits,
blocked on the pipe. Told "epoch", it trains for one and answers with the seconds that took, by its own clock. So the
thread pool of one library never meets another's at work, and peak memory is one library's.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS, Case, Unavailable

ROOT = Path(__file__).resolve().parents[1]  #: where `python -m bench...` runs


def cores() -> int:
    """Cores that this process may use: what each contender gets as its number of threads."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """The parent's end, made once the process is ready; `out` is {}, or {why it does not take part: more of that}."""

    def __init__(self, name: str, case: Case, source: Path | None = None) -> None:
        """Start the process; it imports xpdense from the folder `source`, or else as this process does."""
        path = {"PYTHONPATH": f"{source}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"} if source else {}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(cores()))
        jax = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_PLATFORMS": "" if case.on_gpu else "cpu"}
        self.name, self.errors = name, tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", name, json.dumps(asdict(case))], cwd=ROOT,
            env=os.environ | threads | jax | path, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors)
        self.out: dict[str, str] = self._answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        """An end of its input ends the process."""
        self.process.communicate()
        self.errors.close()

    def epoch(self) -> float:
        """Seconds of one epoch."""
        return self._ask("epoch")["seconds"]

    def memory(self) -> dict[str, float]:
        """Peak memory in MiB, by place."""
        return self._ask("memory")

    def blas(self) -> list[dict[str, Any]]:
        """What `blas` says in the process."""
        return self._ask("blas")["blas"]

    def _ask(self, what: str) -> dict[str, Any]:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "failed" in answer:
            raise RuntimeError(f"{self.name}: {answer['failed']}")
        return answer

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        last = (self.errors.read().strip().splitlines() or ["it said nothing"])[-1]
        return {"failed": f"ended with code {self.process.returncode}: {last}"}


# --- in the process --------------------------------------------------------------------------------------------

def main() -> None:
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints must not come in between
    name, case = sys.argv[1], Case(**json.loads(sys.argv[2]))
    contender = None
    try:
        contender = CONTENDERS[name](case)
        before = contender.loss() if contender.loss else math.inf
        for _ in range(1 if case.is_long else 2):
            contender.epoch()
        after = contender.loss() if contender.loss else 0.0
        state = {} if after < before else {"wrong": f"the loss went from {before:.4g} to {after:.4g}"}
    except ModuleNotFoundError as error:
        state = {"skipped": f"{error.name} is not installed"}
    except Unavailable as error:
        state = {"skipped": str(error)}
    rest()
    print(json.dumps(state), file=pipe)
    for line in sys.stdin:
        if line.strip() == "blas":
            answer: dict[str, Any] = {"blas": blas()}
        elif line.strip() == "memory":
            answer = {"host": peak_memory() / 2**20}
            if contender.device_memory:
                answer["device"] = contender.device_memory() / 2**20
        else:
            start = time.perf_counter()
            contender.epoch()
            answer = {"seconds": time.perf_counter() - start}
            rest()
        print(json.dumps(answer), file=pipe)


def rest() -> None:
    """Return once the threads of this process are at rest: a pool spins for a while when its work is done."""
    end = time.monotonic() + 2.0
    while time.monotonic() < end:
        before = time.process_time()
        time.sleep(0.005)
        if time.process_time() - before < 0.001:
            return


def blas() -> list[dict[str, Any]]:
    """The BLAS libraries that this process has loaded: NumPy's, SciPy's and others' are often not the same."""
    from threadpoolctl import threadpool_info

    return [{"file": "/".join(Path(pool["filepath"]).parts[-2:]), "name": pool["internal_api"],
             "version": pool["version"], "architecture": pool.get("architecture"), "threads": pool["num_threads"]}
            for pool in threadpool_info() if pool["user_api"] == "blas"]


def peak_memory() -> int:
    """Bytes of memory that this process held at most; getrusage would count what its parent held before."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
