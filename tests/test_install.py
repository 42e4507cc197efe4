"""A wheel, an sdist and a checkout install into empty environments and train there, with and without a compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import xpdense as xd
from xpdense.ops import native

ROOT = Path(__file__).parent.parent
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")

# What an installation is asked: which files it runs, who serves NumPy, what lies in its kernels folder, does it learn.
ASK = """
import json, pathlib
import numpy as np
import xpdense as xd
from xpdense.ops import cuda_kernels

x = np.linspace(-1, 1, 128).reshape(-1, 2)
net = xd.DenseNetwork([xd.Dense(8, "tanh"), xd.Dense(1)], inputs=2, seed=0)
losses = net.fit(x, x.sum(axis=1), loss="squared_error", optimizer=xd.Adam(1e-2), epochs=20)["loss"]
row = next(row for row in xd.backends() if row.name == "numpy")
inside, checkout = (pathlib.Path(cuda_kernels.__file__).parents[up] / "kernels" for up in (1, 3))
kernels = inside if inside.is_dir() else checkout
print(json.dumps({
    "where": xd.__file__, "ops": row.ops, "note": row.note, "losses": losses, "kernels": str(kernels),
    "sources": {p.relative_to(kernels).as_posix(): p.read_text() for p in kernels.rglob("*") if p.is_file()},
}))
"""

# It leaves half of what it was asked for, and fails where it links.
HALF_WAY = """#!/bin/sh
failed=0
while [ $# -gt 0 ]; do
    case $1 in
        -shared|-bundle) failed=1;;
        -o) echo unfinished > "$2";;
    esac
    shift
done
exit $failed
"""


def run(*command: object, cwd: Path, **environment: str) -> str:
    """Run it in an environment that knows nothing of this process's Python; what it printed."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XPDENSE"))}
    done = subprocess.run([str(word) for word in command], cwd=cwd, env=kept | environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise AssertionError(done.stdout[-5000:])
    return done.stdout


def pip(*arguments: object, cwd: Path, **environment: str) -> str:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, cwd=cwd, **environment)


@pytest.fixture(scope="session")
def index(tmp_path_factory):
    """A package index that answers: the build needs setuptools, and an empty environment NumPy."""
    if not importlib.util.find_spec("pip"):
        pytest.skip("this Python has no pip")
    try:
        pip("--retries", 0, "--timeout", 15, "install", "--dry-run", "--ignore-installed", "--no-deps",
            "setuptools>=77", cwd=tmp_path_factory.mktemp("index"))
    except AssertionError as error:
        pytest.skip(f"no package index answers: {str(error).strip().splitlines()[-1]}")


@pytest.fixture
def source(tmp_path, index):
    """A copy of what a build reads, without anything that was built before."""
    copy, built = tmp_path / "checkout", shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
    copy.mkdir()
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("src", "kernels"):
        shutil.copytree(ROOT / name, copy / name, ignore=built)
    return copy


@pytest.fixture
def python(tmp_path):
    """The Python of a new environment with nothing in it."""
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment", cwd=tmp_path)
    return tmp_path / "environment" / "bin" / "python"


@pytest.fixture
def half_way(tmp_path):
    """The environment variables that name a compiler which leaves half a library."""
    compiler = tmp_path / "half-way"
    compiler.write_text(HALF_WAY)
    compiler.chmod(0o755)
    return {"CC": str(compiler), "CXX": str(compiler)}


@pytest.fixture
def quick(tmp_path):
    """The environment variables that name the real compiler without its optimizer, which takes a tenth of the time."""
    real = os.environ.get("CXX") or sysconfig.get_config_var("CXX")
    compiler = tmp_path / "quick"
    compiler.write_text(f'#!/bin/sh\nexec {real} "$@" -O0\n')
    compiler.chmod(0o755)
    return {"CC": str(compiler), "CXX": str(compiler)}


def trained(python: Path, tmp_path: Path) -> dict:
    """What the installation answers, asked from a folder that has nothing to do with it."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    answer = json.loads(run(python, "-c", ASK, cwd=elsewhere).splitlines()[-1])
    assert answer["losses"][-1] < answer["losses"][0] / 2
    return answer


def run_time_sources(source: Path) -> dict[str, str]:
    """The kernel sources that are compiled at run time, and so must be installed."""
    kernels = source / "kernels"
    paths = [*kernels.glob("*.h"), *kernels.glob("cuda/*.h"), *kernels.glob("cuda/*.cu")]
    assert len(paths) >= 5
    return {path.relative_to(kernels).as_posix(): path.read_text() for path in paths}


compiles = pytest.mark.skipif(not native.available, reason="there was no compiler at this installation either")


@pytest.mark.install
@compiles
def test_a_wheel_has_the_library_and_the_sources(source, python, tmp_path, half_way):
    pip("wheel", "--no-deps", "-w", tmp_path / "half", source, cwd=tmp_path, **half_way)
    [half] = (tmp_path / "half").iterdir()
    assert not [name for name in zipfile.ZipFile(half).namelist() if "_native" in name]
    pip("wheel", "--no-deps", "-w", tmp_path / "dist", source, cwd=tmp_path)  # in the same folder, after that failure
    [wheel] = (tmp_path / "dist").iterdir()
    pip("--python", python, "install", wheel, cwd=tmp_path)
    answer = trained(python, tmp_path)
    assert answer["ops"] == "native"
    assert "not compiled" not in answer["note"]
    assert Path(answer["kernels"]) == Path(answer["where"]).parent / "kernels"
    assert answer["sources"] == run_time_sources(source)
    assert python.parent.parent in Path(answer["where"]).parents


@pytest.mark.install
@compiles
def test_an_sdist_has_what_it_takes_to_compile(source, python, tmp_path, quick):
    pip("install", "--target", tmp_path / "tools", "setuptools>=77", cwd=tmp_path)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path / 'dist')!r})"
    run(sys.executable, "-c", code, cwd=source, PYTHONPATH=str(tmp_path / "tools"))
    [sdist] = (tmp_path / "dist").iterdir()
    expected = run_time_sources(source)
    shutil.rmtree(source)
    pip("--python", python, "install", sdist, cwd=tmp_path, **quick)
    answer = trained(python, tmp_path)
    assert answer["ops"] == "native"
    assert "not compiled" not in answer["note"]
    assert answer["sources"] == expected


@pytest.mark.install
@compiles
def test_a_checkout_installs_after_a_compiler_that_failed_half_way(source, python, tmp_path, half_way, quick):
    library = source / "src" / "xpdense" / f"_native{SUFFIX}"
    library.write_text("of other sources")
    pip("--python", python, "install", "-e", source, cwd=tmp_path, **half_way)
    assert not library.exists()
    answer = trained(python, tmp_path)
    assert answer["ops"] == "generic"
    cure = answer["note"].partition("then ")[2]
    assert cure == f"pip install -e '{source}'"
    pip("--python", python, "install", "-e", source, cwd=tmp_path, **quick)
    answer = trained(python, tmp_path)
    assert answer["ops"] == "native"
    assert "not compiled" not in answer["note"]
    assert Path(answer["where"]) == source / "src" / "xpdense" / "__init__.py"
    assert Path(answer["kernels"]) == source / "kernels"


@pytest.mark.install
def test_without_a_compiler_it_installs_and_says_so(source, python, tmp_path):
    said = pip("--python", python, "install", "-v", source, cwd=tmp_path, CC="/bin/false", CXX="/bin/false")
    assert "no C++ compiler that works: xpdense will compute with NumPy alone" in said
    answer = trained(python, tmp_path)
    assert answer["ops"] == "generic"
    assert "install g++ or clang, then pip install --force-reinstall" in answer["note"]
    assert answer["sources"] == run_time_sources(source)


def test_numpy_has_a_note_only_where_kernels_are_missed(monkeypatch):
    def note() -> str:
        return next(row.note for row in xd.backends() if row.name == "numpy")

    monkeypatch.delenv("XPDENSE_OPS", raising=False)
    if native.available:
        assert "not compiled" not in note()
    monkeypatch.setattr(native, "available", False)
    assert "kernels not compiled" in note()
    assert "then pip install " in note()
    monkeypatch.setenv("XPDENSE_OPS", "generic")  # asked for, not missed
    assert "not compiled" not in note()
