"""The tests on a real CUDA device, then the benchmark there, into one JSON file.

    PYTHONPATH=src python3 tests/gpu/run.py --out build/gpu

It needs a checkout and what a Python with CuPy, SciPy and pytest has: nothing is installed or downloaded. The file is
OUT/<card>.json: the card, the versions, every test with its outcome, and what the benchmark wrote.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
TESTS = ["tests/test_kernels.py", "tests/test_cuda.py", "tests/test_backends.py"]
if importlib.util.find_spec("sklearn") and importlib.util.find_spec("narwhals"):
    TESTS += ["tests/test_estimators.py", "tests/test_sklearn_checks.py"]
PACKAGES = ("numpy", "scipy", "cupy-cuda13x", "cupy-cuda12x", "array-api-compat", "torch", "jax", "pytest")


def environment() -> dict[str, str]:
    """That of this process, with the checkout's sources, and with SciPy's copy of array-api-compat where need be."""
    paths = [str(ROOT / "src")]
    if importlib.util.find_spec("array_api_compat") is None:
        scipy = Path(importlib.util.find_spec("scipy").submodule_search_locations[0])  # type: ignore[union-attr,index]
        copies = [path for path in (scipy / "_lib", scipy / "_external") if (path / "array_api_compat").is_dir()]
        if not copies:
            raise SystemExit("array-api-compat is not installed, and SciPy has no copy of it")
        folder = Path(tempfile.mkdtemp())
        (folder / "array_api_compat").symlink_to(copies[0] / "array_api_compat")
        paths.append(str(folder))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "XPDENSE_GPU": "1"}


def card() -> dict[str, object]:
    import cupy

    try:
        device = cupy.cuda.runtime.getDeviceProperties(0)
    except RuntimeError as error:
        raise SystemExit(f"this is for a machine with a CUDA device: {error}") from None
    return {"name": device["name"].decode(), "memory": device["totalGlobalMem"],
            "compute_capability": f"{device['major']}.{device['minor']}",
            "driver": cupy.cuda.runtime.driverGetVersion(), "runtime": cupy.cuda.runtime.runtimeGetVersion()}


def tests(env: dict[str, str]) -> dict[str, object]:
    """Every test's outcome, from pytest's own report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default", "-k", "cuda or cupy",
             f"--junit-xml={report}", *TESTS], cwd=ROOT, env=env, check=False)
        outcomes = {}
        for case in ElementTree.parse(report).iter("testcase"):
            inner = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
            outcomes[f"{case.get('classname')}::{case.get('name')}"] = inner
    counted = {outcome: list(outcomes.values()).count(outcome) for outcome in sorted(set(outcomes.values()))}
    return {"exit_status": done.returncode, "counted": counted,
            "not_passed": {name: outcome for name, outcome in outcomes.items() if outcome != "passed"}}


def benchmark(env: dict[str, str], out: Path) -> list[object]:
    """What `pytest bench --backend cupy` wrote."""
    done = subprocess.run([sys.executable, "-m", "pytest", "bench", "-q", "-p", "no:cacheprovider", "-W", "default",
                           "--backend", "cupy", "--results", str(out / "bench")], cwd=ROOT, env=env, check=False)
    if done.returncode:
        print(f"the benchmark ended with status {done.returncode}", file=sys.stderr)
    return [json.loads(path.read_text()) for path in sorted((out / "bench").glob("*.json"))]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--out", type=Path, default=ROOT / "build" / "gpu")
    out: Path = arguments.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    env, found = environment(), card()
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    result = {"card": found, "python": platform.python_version(), "packages": versions, "tests": tests(env)}
    path = out / f"{str(found['name']).replace(' ', '-').lower()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")  # whatever happens to the benchmark, this is there
    result["benchmark"] = benchmark(env, out)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{found['name']}: {result['tests']['counted']}; wrote {path}")  # type: ignore[index]
    return int(bool(result["tests"]["exit_status"]) or not result["benchmark"])  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(main())
