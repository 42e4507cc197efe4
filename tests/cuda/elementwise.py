"""ElementwiseKernel on the CPU: the source that CuPy itself generates, with its type rules, compiled by g++.

CuPy's private names are used here, so its version is pinned where the tests run.
"""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import building
import cupy
import numpy as np
from cupy._core import _carray, _kernel, _scalar

ARRAY, INDEXER, SCALAR = 1, 2, 3  # cupy/_core/_kernel.pxd
_FORMATS = {"?": "?7x", "e": "e6x", "f": "f4x", "d": "d"}  # a scalar in eight bytes

seen: dict[str, str] = {}  #: the source of every variant that was run in this process, with its kernel's name


def source(kernel: Any, arguments: Sequence[Any], loop: int) -> str:
    """The kernel as CuPy writes it. `arguments`: (dtype, ndim, contiguous) or None for a scalar; `loop` the ndim."""
    types = tuple(None if a is None else np.dtype(a[0]) for a in arguments)
    inputs, outputs, names = kernel._decide_params_type(types[: kernel.nin], types[kernel.nin :])
    described = [
        _kernel._ArgInfo(SCALAR, _scalar.CScalar, np.dtype(t), 0, True, True) if a is None else
        _kernel._ArgInfo(ARRAY, cupy.ndarray, np.dtype(t), a[1], a[2], True)
        for a, t in zip(arguments, (*inputs, *outputs), strict=True)]
    described.append(_kernel._ArgInfo(INDEXER, _carray.Indexer, None, loop, True, True))
    more = {k: v for k, v in kernel.kwargs.items() if k != "options"}
    return _kernel._get_elementwise_kernel_code(
        tuple(described), names, kernel.params, kernel.operation, kernel.name, kernel.preamble, **more)


def device_text(generated: str) -> str:
    """What CuPy hands to NVRTC for a generated source."""
    return "".join(f"#include <{header}>\n" for header in building.core._cupy_header_list) + generated


def host_function(generated: str, name: str) -> Callable[[bytes], None]:
    """The loop as a function of its packed arguments: of an array pointer, shape, strides; of a scalar its bytes."""
    signature = re.search(rf"__global__ void {re.escape(name)}\((.*?)\) {{", generated, re.S)
    assert signature
    calls, at = [], 0
    for parameter in re.split(r", (?![^<]*>)", signature[1]):
        t = parameter.rsplit(" ", 1)[0].removeprefix("const ")
        if found := re.match(r"CArray<(.+), (\d+), (\d), \d>$", t):
            ndim, contiguous = int(found[2]), found[3] == "1"
            shape = f", p + {at + 1}" if ndim else ""
            strides = f", p + {at + 1 + ndim}" if ndim and not contiguous else ""
            calls.append(f"{t}(({found[1]} *)p[{at}]{shape}{strides})")
            at += 1 + ndim * (1 if contiguous else 2)
        elif found := re.match(r"CIndexer<(\d+)", t):
            calls.append(f"{t}(p + {at})" if int(found[1]) else f"{t}()")
        else:
            calls.append(f"*(const {t} *)(p + {at})")
            at += 1
    text = f"""#define CU_ELEMENTWISE
#include "host_cuda.h"
#include <cupy/carray.cuh>
{generated}
extern "C" __attribute__((visibility("default"))) const char *run(const long long *p) {{
    cu::error[0] = 0;
    {name}({", ".join(calls)});
    return *cu::error ? cu::error : 0;
}}
"""
    run = ctypes.PyDLL(str(building.library(text, ("-O0", "-D__global__=")))).run
    run.argtypes, run.restype = (ctypes.c_char_p,), ctypes.c_char_p

    def checked(packed: bytes) -> None:
        if error := run(packed):
            raise building.Finding(f"{name}: {error.decode()}")

    return checked


class Plan:
    """What a kernel is for arguments of some types: the function, and how its arguments are packed."""

    def __init__(self, kernel: Any, arguments: Sequence[Any], loop: int) -> None:
        generated = source(kernel, arguments, loop)
        seen[generated] = kernel.name
        self.run = host_function(generated, kernel.name)
        types = tuple(None if a is None else np.dtype(a[0]) for a in arguments)
        decided = kernel._decide_params_type(types[: kernel.nin], types[kernel.nin :])
        scalars = [np.dtype(t) for a, t in zip(arguments, (*decided[0], *decided[1]), strict=True) if a is None]
        self.casts = [float if t.kind == "f" else bool if t.kind == "b" else _integer(t) for t in scalars]
        parts, left = ["="], iter(scalars)
        for a in arguments:
            if a is None:
                t = next(left)
                parts.append(_FORMATS.get(t.char, "q" if t.kind == "i" else "Q"))
            else:
                parts.append(f"{1 + a[1] * (1 if a[2] else 2)}q")
        self.format = struct.Struct("".join(parts) + f"{loop}q")

    def pack(self, values: Sequence[Any], shape: tuple[int, ...]) -> bytes:
        """The arguments of one call: `values` are NumPy arrays and numbers."""
        flat: list[Any] = []
        casts = iter(self.casts)
        for v in values:
            if isinstance(v, np.ndarray):
                flat.append(v.__array_interface__["data"][0])
                flat += v.shape
                if not v.flags.c_contiguous:
                    flat += v.strides
            else:
                flat.append(next(casts)(v))
        try:
            return self.format.pack(*flat, *shape)
        except OverflowError:  # a double too large for a float, which is infinite there
            return self.format.pack(*(np.copysign(np.inf, v) if isinstance(v, float) and abs(v) > 1e4 else v
                                      for v in flat), *shape)


def _integer(t: np.dtype) -> Callable[[Any], int]:
    """A number as the type's bits say it, wrapped around where it is too large."""
    bits, signed = 8 * t.itemsize, t.kind == "i"

    def cast(value: Any) -> int:
        value = int(value) & (1 << bits) - 1
        return value - (1 << bits) if signed and value >> bits - 1 else value

    return cast


_plans: dict[Any, dict[Any, Plan]] = {}


def prepare(kernel: Any, args: Sequence[Any], size: int | None,
            allocate: Callable[[tuple[int, ...], Any], Any]) -> tuple[Any, Callable[..., None] | None, list[Any]]:
    """CuPy's call as far as its launch: what it returns; the launch, None where there is no element; its arguments."""
    params, nin = kernel.params, kernel.nin
    shapes = [a.shape for p, a in zip(params, args, strict=False) if not p.raw and isinstance(a, np.ndarray)]
    if size is not None:
        shape: tuple[int, ...] = (size,)
        if shapes:
            raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
    elif not shapes:
        raise ValueError("Loop size is undecided.")
    else:
        shape = shapes[0] if shapes.count(shapes[0]) == len(shapes) else np.broadcast_shapes(*shapes)
    values = list(args)
    if len(args) == nin:
        known = tuple(a.dtype if isinstance(a, np.ndarray) else None for a in args)
        values += [allocate(shape, t) for t in kernel._decide_params_type(known, ())[1]]
    returned = values[nin:]
    result = None if kernel.no_return else returned[0] if kernel.nout == 1 and not kernel.return_tuple \
        else tuple(returned)
    flat = kernel.reduce_dims
    for i, (p, v) in enumerate(zip(params, values, strict=False)):
        if isinstance(v, np.ndarray) and not p.raw:
            if v.shape != shape:
                if not p.is_const:
                    raise ValueError(f"Out shape is mismatched: {v.shape} and {shape} in {kernel.name}")
                values[i] = v = np.broadcast_to(v, shape)
            flat = flat and v.flags.c_contiguous
    if 0 in shape:
        return result, None, values
    loop = (int(np.prod(shape)),) if flat and len(shape) != 1 else shape
    key: list[Any] = [len(loop)]
    for i, (p, v) in enumerate(zip(params, values, strict=False)):
        if not isinstance(v, np.ndarray):
            key.append(None)
            continue
        if flat and not p.raw and v.ndim != 1:
            values[i] = v = v.reshape(loop)
        key.append((v.dtype, v.ndim, v.flags.c_contiguous))
    plans = _plans.setdefault(kernel, {})
    plan = plans.get(found := tuple(key))
    if plan is None:
        plan = plans[found] = Plan(kernel, key[1:], len(loop))
    packed, run = plan.pack(values, loop), plan.run
    return result, lambda *_: run(packed), values  # the arguments are packed: whoever launches keeps their memory
