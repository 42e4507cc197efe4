"""The ops, and the one choice of which class serves a backend."""

from __future__ import annotations

import os
from pathlib import Path

from ..backend import Backend, BackendInfo, devices, installed, kinds, version
from ..errors import BackendError, lookup
from . import native
from .cuda import CudaOps
from .generic import Memory, Ops
from .native import NativeOps

__all__ = ["CudaOps", "Memory", "NativeOps", "Ops", "backends", "check_choice", "ops_class", "ops_for"]


WANTED = {"auto": None, "native": None, "cuda": None, "generic": None}
PRECISIONS = {"full": None, "tf32": None, "float16": None, "bfloat16": None}


def check_choice(precision: str, wanted: str) -> tuple[str, str]:
    """The two options of a network, by name, or an UnknownNameError."""
    lookup("precision", precision, PRECISIONS)
    lookup("ops", wanted, WANTED)
    return precision, wanted


def ops_class(backend: Backend, wanted: str = "auto") -> type[Ops]:
    """Which class serves a backend; where nothing is asked for, the environment variable XPDENSE_OPS is asked.

    Raises
    ------
    BackendError
        What is wanted is not there, or does not serve this backend.
    """
    forced = wanted != "auto"
    if not forced:
        wanted = os.environ.get("XPDENSE_OPS") or "auto"
        lookup("value of XPDENSE_OPS", wanted, WANTED)
    kind = {"numpy": "native", "cupy": "cuda"}.get(backend.kind, "generic")
    if forced and wanted not in ("generic", kind):
        serves = "NumPy" if wanted == "native" else "CuPy"
        raise BackendError(f"ops={wanted!r} serve {serves} arrays, and the network is on {backend.name}")
    if kind == "native" and wanted == "native" and not native.available:
        raise BackendError(f"native ops were asked for: {_cure()}")
    if wanted == "generic" or (kind == "native" and not native.available):
        return Ops
    return {"native": NativeOps, "cuda": CudaOps, "generic": Ops}[kind]


def ops_for(backend: Backend, dtype: str, precision: str = "full", wanted: str = "auto") -> Ops:
    """The ops that serve a backend in an element type; called once, when a network is put there.

    `precision` is for CudaOps, and without effect elsewhere.

    >>> from xpdense.backend import resolve
    >>> ops_for(resolve("array_api_strict"), "float64").name
    'generic'
    """
    cls = ops_class(backend, wanted)
    return CudaOps(backend, dtype, precision) if cls is CudaOps else cls(backend, dtype)


def backends() -> list[BackendInfo]:
    """What is here: a row for each namespace and device, or the reason and the install command for what is not.

    It imports the namespaces that are installed, which `import xpdense` does not.

    >>> [row.name for row in backends() if row.name == "numpy"]
    ['numpy']
    """
    rows = []
    for kind, install in kinds().items():
        if not installed(kind):
            rows.append(BackendInfo(kind, False, "", "", "", install))
            continue
        try:
            here = devices(kind)
            for backend, place in here:
                with backend.active():
                    ops = ops_for(backend, "float32")
                note = _note(backend) or ("" if ops.captures or type(ops) is Ops else ops.no_capture_reason)
                rows.append(BackendInfo(backend.name, True, version(kind), place, ops.name, note, ops.captures))
        except BackendError as error:
            rows.append(BackendInfo(kind, False, version(kind), "", "", str(error)))
    return rows


def _note(backend: Backend) -> str:
    """Where NumPy serves without the kernels and nobody asked for that: why, and the command that compiles them."""
    if backend.kind != "numpy" or native.available or os.environ.get("XPDENSE_OPS") == "generic":
        return ""
    return _cure()


def _cure() -> str:
    checkout = Path(__file__).resolve().parents[3]
    again = (f"-e '{checkout}'" if (checkout / "setup.py").exists()
             else "--force-reinstall --no-deps --no-cache-dir xpdense")
    return f"kernels not compiled, NumPy alone, slower and equal: install g++ or clang, then pip install {again}"
