"""The ops, and the one choice of which class serves a backend."""

from __future__ import annotations

import os

from ..backend import Backend, BackendInfo, devices, installed, kinds, version
from ..errors import BackendError, lookup
from . import native
from .cuda import CudaOps
from .generic import Ops
from .native import NativeOps

__all__ = ["CudaOps", "NativeOps", "Ops", "backends", "ops_for"]


def ops_class(backend: Backend) -> type[Ops]:
    """Which class serves a backend. The environment variable XPDENSE_OPS=generic keeps the compiled kernels out."""
    if backend.kind == "cupy":
        return CudaOps
    wanted = os.environ.get("XPDENSE_OPS", "native")
    lookup("value of XPDENSE_OPS", wanted, {"native": None, "generic": None})
    return NativeOps if backend.kind == "numpy" and native.available and wanted == "native" else Ops


def ops_for(backend: Backend, dtype: str) -> Ops:
    """The ops that serve a backend in an element type; called once, when a network is put there.

    >>> from xpdense.backend import resolve
    >>> ops_for(resolve("array_api_strict"), "float64").name
    'generic'
    """
    return ops_class(backend)(backend, dtype)


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
            rows += [BackendInfo(b.name, True, version(kind), place, ops_class(b).name, "") for b, place in here]
        except BackendError as error:
            rows.append(BackendInfo(kind, False, version(kind), "", "", str(error)))
    return rows
