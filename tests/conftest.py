"""What the tests share: the matrix of backends, and the golden file.

A test that takes `backend` runs on each of BACKENDS. "array_api_strict:device1" is the strict namespace's second
device: an array that strayed from the host is an error there, as it would be on a GPU. CuPy joins where it is
installed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # before SciPy is imported: scikit-learn's array_api_dispatch needs it

from xpdense.backend import Backend, installed, resolve
from xpdense.errors import BackendError
from xpdense.ops import Ops, cublas, ops_for

collect_ignore = ["golden/make_golden.py"]  # it needs PyTorch, and is run by hand

BACKENDS = ["numpy", "array_api_strict:device1", "torch", *(["cupy"] if installed("cupy") else [])]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """A backend's name, as a user writes it; where it is not here, the skip says why."""
    if request.param == "cupy":
        request.getfixturevalue("cuda_backend")
    try:
        resolve(request.param)
    except BackendError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def place(backend: str) -> Backend:
    """The backend itself."""
    return resolve(backend)


@pytest.fixture
def ops(place: Backend) -> Ops:
    """The backend's ops in float64."""
    return ops_for(place, "float64")


@pytest.fixture
def cuda_backend(monkeypatch: pytest.MonkeyPatch) -> Backend:
    """CuPy's backend: a GPU where one answers, else a CPU that plays one (tests/cuda)."""
    try:
        return resolve("cupy")
    except BackendError as error:
        if os.environ.get("XPDENSE_GPU"):
            raise
        if not installed("cupy") or sys.platform != "linux" or not shutil.which("g++"):
            pytest.skip(f"CUDA kernels run without a GPU on Linux, with CuPy and g++: {error}")
    from emulator import stand_in_for

    cupy = stand_in_for(monkeypatch)
    monkeypatch.setattr(cublas, "library", lambda: cupy.cublas)
    return resolve("cupy")


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """What tests/golden/make_golden.py wrote: the numbers of an independent implementation."""
    return json.loads((Path(__file__).parent / "golden" / "golden.json").read_text())
