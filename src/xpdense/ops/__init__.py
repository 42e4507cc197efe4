"""The ops, and the one choice of which class serves a backend."""

from __future__ import annotations

from ..backend import Backend, BackendInfo, devices, installed, kinds, version
from ..errors import BackendError
from .cuda import CudaOps
from .generic import Ops

__all__ = ["CudaOps", "Ops", "backends", "ops_for"]


def ops_class(backend: Backend) -> type[Ops]:
    return CudaOps if backend.kind == "cupy" else Ops


def ops_for(backend: Backend, dtype: str) -> Ops:
    """The ops that serve a backend in an element type; called once, when a network is put there.

    >>> from xpdense.backend import resolve
    >>> ops_for(resolve("numpy"), "float64").name
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
