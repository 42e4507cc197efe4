"""Matrix products on CuPy arrays, by cuBLAS itself.

CuPy's products cannot be captured in a CUDA graph, and choose TF32 for a whole process. So cublasGemmEx is called
through ctypes, with a handle and a workspace for each thread and device. The numbers below are those of cublas_api.h
and library_types.h.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from importlib import import_module
from typing import Any

from ..backend import Array
from ..errors import BackendError

_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # cudaDataType_t
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_TF32 = 68, 70, 77  # cublasComputeType_t
_DEFAULT_ALGORITHM = -1
_WORKSPACE = 32 << 20  # bytes; the size that cuBLAS recommends for the newest devices

_mine = threading.local()  # handles, by device


@functools.cache
def library() -> Any:
    """Return the library that CuPy finds; raises OSError or ImportError if it finds no library."""
    found = import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
    return ctypes.CDLL(found.abs_path)


class Products:
    """The product c = a b in one element type; callers check the arrays (see `CudaOps.matmul`).

    float16 and bfloat16 are accumulated in float32. With `tf32`, float32 is multiplied with ten bits of mantissa.
    """

    def __init__(self, cupy: Any, dtype: str, tf32: bool = False) -> None:
        self._cupy, self._type, wide = cupy, _TYPES[dtype], dtype == "float64"
        self._compute = _COMPUTE_64F if wide else _COMPUTE_32F_FAST_TF32 if tf32 else _COMPUTE_32F
        number = ctypes.c_double if wide else ctypes.c_float
        self._one, self._zero = number(1.0), number(0.0)
        self._gemm = library().cublasGemmEx
        pointer, integer = ctypes.c_void_p, ctypes.c_int
        self._gemm.argtypes = [pointer, *[integer] * 5, pointer, *[pointer, integer, integer] * 2, pointer,
                               pointer, *[integer] * 4]

    def __call__(self, a: Array, b: Array, c: Array, transpose_a: bool, transpose_b: bool) -> None:
        """Compute c (m, n) = a (m, k) b (k, n); a transposed operand is a view of contiguous memory (k, m) or (n, k).

        cuBLAS stores columns and so computes the transposes: c' (n, m) = b' a'.
        """
        (m, k), n = a.shape, b.shape[1]
        row_a, row_b = m if transpose_a else k, k if transpose_b else n
        _check(self._gemm(
            self._handle(), int(transpose_b), int(transpose_a), n, m, k, ctypes.byref(self._one),
            b.data.ptr, self._type, row_b, a.data.ptr, self._type, row_a, ctypes.byref(self._zero),
            c.data.ptr, self._type, n, self._compute, _DEFAULT_ALGORITHM), "cublasGemmEx")

    def _handle(self) -> ctypes.c_void_p:
        """Return this thread's handle for the current device, on the current stream."""
        device = self._cupy, self._cupy.cuda.runtime.getDevice()
        handles = vars(_mine).setdefault("handles", {})
        if device not in handles:
            handles[device] = _Handle(self._cupy)
        handle: _Handle = handles[device]
        handle.use(self._cupy.cuda.get_current_stream().ptr)
        return handle.pointer


class _Handle:
    """A cuBLAS handle with its workspace; setting a stream resets the workspace, so both are set together."""

    def __init__(self, cupy: Any) -> None:
        self.pointer, self.stream = ctypes.c_void_p(), -1
        self.workspace = cupy.empty(_WORKSPACE, dtype="uint8")
        _check(library().cublasCreate_v2(ctypes.byref(self.pointer)), "cublasCreate")
        weakref.finalize(self, library().cublasDestroy_v2, self.pointer).atexit = False  # its thread has ended

    def use(self, stream: int) -> None:
        if stream != self.stream:
            _check(library().cublasSetStream_v2(self.pointer, ctypes.c_void_p(stream)), "cublasSetStream")
            _check(library().cublasSetWorkspace_v2(self.pointer, ctypes.c_void_p(self.workspace.data.ptr),
                                                   ctypes.c_size_t(_WORKSPACE)), "cublasSetWorkspace")
            self.stream = stream


def _check(status: int, function: str) -> None:
    if status:
        raise BackendError(f"{function} failed with status {status} (see cublasStatus_t in cuBLAS's documentation)")
