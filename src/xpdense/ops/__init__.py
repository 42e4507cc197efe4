"""The ops, and the choice of their class for a backend."""

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
    """Return the two options of a network.

    Raises
    ------
    UnknownNameError
        One is not known; the message lists those that are.

    >>> check_choice("tf32", "auto")
    ('tf32', 'auto')
    """
    lookup("precision", precision, PRECISIONS)
    lookup("ops", wanted, WANTED)
    return precision, wanted


def ops_class(backend: Backend, wanted: str = "auto") -> type[Ops]:
    """Return the class of the ops for a backend.

    Parameters
    ----------
    backend : Backend
    wanted : "auto", "native", "cuda" or "generic"
        With "auto" the environment variable XPDENSE_OPS decides, if it is set; else the fastest class is taken.

    Raises
    ------
    BackendError
        The class is not available, or does not support this backend.

    >>> from xpdense.backend import resolve
    >>> ops_class(resolve("numpy"), "generic").__name__
    'Ops'
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
        raise BackendError(f"native ops are not available: {_cure()}")
    if wanted == "generic" or (kind == "native" and not native.available):
        return Ops
    return {"native": NativeOps, "cuda": CudaOps, "generic": Ops}[kind]


def ops_for(backend: Backend, dtype: str, precision: str = "full", wanted: str = "auto") -> Ops:
    """Return the ops for a backend in an element type; `precision` is used by CudaOps alone.

    >>> from xpdense.backend import resolve
    >>> ops_for(resolve("array_api_strict"), "float64").name
    'generic'
    """
    cls = ops_class(backend, wanted)
    return CudaOps(backend, dtype, precision) if cls is CudaOps else cls(backend, dtype)


def backends() -> list[BackendInfo]:
    """Return a row for each namespace and device of this machine, and for each namespace that is not available.

    This imports the namespaces that are installed, which `import xpdense` does not.

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
    """Return the command that compiles the kernels, if NumPy computes without them and XPDENSE_OPS does not say so."""
    if backend.kind != "numpy" or native.available or os.environ.get("XPDENSE_OPS") == "generic":
        return ""
    return _cure()


def _cure() -> str:
    checkout = Path(__file__).resolve().parents[3]
    again = (f"-e '{checkout}'" if (checkout / "setup.py").exists()
             else "--force-reinstall --no-deps --no-cache-dir xpdense")
    return f"kernels not compiled: NumPy computes, more slowly; install g++ or clang, then pip install {again}"
