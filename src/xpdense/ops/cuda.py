"""The ops on CuPy arrays. The generic ones run as they are; fused kernels override them by name."""

from __future__ import annotations

from .generic import Ops


class CudaOps(Ops):
    """Ops on a CUDA device through CuPy; a product goes to cuBLAS and writes into `out` itself."""

    name = "cuda"
