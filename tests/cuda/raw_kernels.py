"""RawModule on the CPU: hand-written CUDA kernels by the calls that CuPy has for a GPU, on NumPy arrays.

    module = RawModule(code=text, sanitize=None)
    module.get_function("name")(grid, block, args, shared_mem=0)

`sanitize` is None, for a library in this process, or what g++ -fsanitize takes ("thread", "address,undefined"), for a
program that runs a launch on a copy of its arguments. Finding is raised for a sanitizer's report and, in every mode,
for threads that wait for one another, a barrier that threads meet at different calls, and a bad shuffle.

What it cannot find: launch limits beyond the ones checked here, rounding of the hardware (FMA, fast intrinsics), a
memory model weaker than this one, speed. Blocks run one after the other: one that waits for another never ends.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import building
import numpy as np
from building import Finding

ENVIRONMENT = {"TSAN_OPTIONS": "exitcode=66 atexit_sleep_ms=0", "ASAN_OPTIONS": "detect_leaks=0"}
# How g++ writes a type, less the 2, 3 or 4 at a vector's end, and NumPy's name for it.
TYPES = {"float": "f4", "double": "f8", "_Float16": "f2", "bool": "?", "char": "i1", "signed char": "i1",
         "short int": "i2", "int": "i4", "long int": "i8", "long long int": "i8", "unsigned char": "u1",
         "short unsigned int": "u2", "unsigned int": "u4", "long unsigned int": "u8", "long long unsigned int": "u8",
         "uint": "u4", "ushort": "u2"}
VECTOR = re.compile(r"(float|double|int|uint|ushort)[234]$")


class RawModule:
    """Kernels of one text. `runner(kernel, work, arrays, stream)` makes work(*arrays) in time; by default at once."""

    def __init__(self, *, code: str, options: Sequence[str] = (), name_expressions: Sequence[str] = (),
                 sanitize: str | None = None, runner: Callable[..., None] | None = None) -> None:
        self.code, self.options, self.sanitize, self.runner = code, tuple(options), sanitize, runner
        flags = ["-g", *(o for o in options if o[:2] in ("-D", "-I", "-U"))]
        if sanitize:
            flags += ["-O1", "-DCU_MAIN", f"-fsanitize={sanitize}", "-fno-sanitize-recover=all"]
            if "address" in sanitize:
                flags.append("-fsanitize-sections=cu_shared")  # or ASan leaves __shared__ arrays without red zones
        else:
            flags += ["-O0", "-fPIC", "-shared", "-Wl,-Bsymbolic"]
        key = [code, building.header_text(), Path(__file__).read_text(), building.compiler(), *name_expressions, *flags]
        self.path = building.kept(key, ".program" if sanitize else ".so",
                                  lambda new: compile_module(code, list(name_expressions), tuple(flags), new))
        strays = building.kept(key, ".strays", lambda new: new.write_text(template_statics(self.path)))
        self.strays = np.array([int(word, 16) for word in strays.read_text().split()], np.int64)
        if sanitize:
            lines = subprocess.run([self.path], capture_output=True, text=True, check=True).stdout.splitlines()
        else:
            self.library = ctypes.PyDLL(str(self.path))  # keeps the interpreter's lock: one launch at a time
            self.library.cu_describe.restype = self.library.cu_launch.restype = ctypes.c_char_p
            lines, n = [], 0
            while told := self.library.cu_describe(n):
                lines, n = [*lines, told.decode()], n + 1
        self.kernels = {}
        for i, line in enumerate(lines):
            name, types, *sizes = line.split("|")
            inside = re.search(r"P = \{(.*)\}\]", types)
            parts = re.split(r", (?![^<]*>)", inside[1]) if inside and inside[1] else []
            self.kernels[name] = (i, [p.replace("volatile ", "") for p in parts], [int(s) for s in sizes])

    def get_function(self, name: str) -> RawKernel:
        if name not in self.kernels:
            raise KeyError(f"no kernel {name!r} in this module, which has {', '.join(self.kernels)}")
        return RawKernel(self, name, *self.kernels[name])


class RawKernel:
    """One kernel of a module."""

    max_dynamic_shared_size_bytes = 48 * 1024  #: to be raised by the caller, as with CuPy

    def __init__(self, module: RawModule, name: str, index: int, types: list[str], sizes: list[int]) -> None:
        self.module, self.name, self.index, self.types, self.sizes = module, name, index, types, sizes

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared_mem: int = 0,
                 stream: Any = None) -> None:
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        threads = block[0] * block[1] * block[2]
        if min(*grid, *block) < 1 or threads > 1024 or block[2] > 64 or max(grid[1:]) > 65535 or grid[0] >= 1 << 31:
            raise ValueError(f"{self.name}: no GPU takes grid {grid}, block {block}")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"{self.name}: {shared_mem} bytes of shared memory, with "
                             f"{self.max_dynamic_shared_size_bytes} allowed")
        if len(args) != len(self.types):
            raise TypeError(f"{self.name} takes {len(self.types)} arguments, not {len(args)}")
        values = [parameter(f"{self.name}, argument {i}", *each)
                  for i, each in enumerate(zip(args, self.types, self.sizes, strict=True))]
        dims = tuple(int(v) for v in (*grid, *block, shared_mem))
        run = self._in_program if self.module.sanitize else self._in_library
        if self.module.runner is None:
            run(dims, values)
            return

        def work(*arrays: np.ndarray) -> None:
            left = iter(arrays)
            run(dims, [next(left) if "*" in t else v for t, v in zip(self.types, scalars, strict=True)])

        # What a launch keeps is its numbers; its arrays' memory is for the runner to keep.
        scalars = [None if "*" in t else v for t, v in zip(self.types, values, strict=True)]
        self.module.runner(self, work, [v for v, t in zip(values, self.types, strict=True) if "*" in t], stream)

    def _in_library(self, dims: tuple[int, ...], values: list[np.ndarray]) -> None:
        n = len(values)
        addresses = [v.ctypes.data for v in values]
        held = (ctypes.c_void_p * n)(*addresses)
        start, step = ctypes.addressof(held), ctypes.sizeof(ctypes.c_void_p)
        at = [start + step * i if "*" in t else a for i, (t, a) in enumerate(zip(self.types, addresses, strict=True))]
        error = self.module.library.cu_launch(
            self.index, (ctypes.c_uint * 7)(*dims), (ctypes.c_void_p * n)(*at),
            ctypes.c_void_p(self.module.strays.ctypes.data), ctypes.c_size_t(len(self.module.strays) // 2))
        if error:
            raise Finding(error.decode())

    def _in_program(self, dims: tuple[int, ...], values: list[np.ndarray]) -> None:
        bounds = [np.lib.array_utils.byte_bounds(v) if v.size else (v.ctypes.data,) * 2 for v in values]
        memories: list[list[int]] = []
        for low, high in sorted(set(bounds)):  # arrays that overlap are parts of one memory
            if memories and low < memories[-1][1]:
                memories[-1][1] = max(high, memories[-1][1])
            else:
                memories.append([low, high])
        head = 11 + len(self.module.strays) + 3 * (len(memories) + len(values))
        starts = 8 * head + np.cumsum([0, *(high - low for low, high in memories)])
        table = [self.index, *dims, len(memories), len(values), len(self.module.strays) // 2, *self.module.strays]
        for start, (low, high) in zip(starts, memories, strict=False):
            table += [start, high - low, low]
        for v, (low, high), t in zip(values, bounds, self.types, strict=True):
            m = next(i for i, (a, b) in enumerate(memories) if a <= low and high <= b)
            table += [m, v.ctypes.data - memories[m][0], "*" in t]
        with tempfile.NamedTemporaryFile() as file:
            file.write(np.array(table, np.int64).tobytes())
            file.writelines(ctypes.string_at(low, high - low) for low, high in memories)
            file.flush()
            run = subprocess.run([self.module.path, file.name], capture_output=True, text=True,
                                 env=os.environ | ENVIRONMENT)
            if run.returncode:
                raise Finding(run.stdout + run.stderr)
            data = Path(file.name).read_bytes()
        for start, (low, high) in zip(starts, memories, strict=False):
            ctypes.memmove(low, data[start : start + high - low], high - low)


def compile_module(code: str, expressions: list[str], flags: tuple[str, ...], out: Path) -> None:
    """Preprocess, so that macros have written their kernels; make pointers of dynamic shared arrays; compile."""
    text = building.gxx(f'#include "host_cuda.h"\n#line 1 "kernel.cu"\n{code}\n', ("-E", *flags), "-")
    own = text.index('"kernel.cu"')
    dynamic = (r"extern\s+__shared__\s+((?:alignas|__attribute__)\s*\(.*?\)+\s*)?([\w:\s]+?)\s+"
               r"((?:alignas|__attribute__)\s*\(.*?\)+\s*)?(\w+)\s*\[\s*\]\s*;")
    body = text[own:]
    for found in re.finditer(dynamic, body):
        if body[: found.start()].count("{") <= body[: found.start()].count("}"):
            raise ValueError("extern __shared__ must stand inside the kernel")
    text = text[:own] + re.sub(dynamic, r"\2 *\4 = (\2 *)cu::dyn;", body)
    names = expressions or building.kernel_names(body)
    if not names:
        raise ValueError('no kernel in this text: none is declared `extern "C" __global__ void name(`')
    rows = " ".join(f'{{"{n}", cu::Kernel<({n})>::call, cu::types({n}), cu::sizes({n})}},' for n in names)
    shared = '-D__shared__=static __attribute__((section("cu_shared")))'
    building.gxx(f"{text}\ncu::Entry cu::table[] = {{{rows} {{}}}};\n", ("-D__global__=", shared, *flags), out)


def template_statics(path: Path) -> str:
    """Where the __shared__ arrays of templates and inline functions are, for which g++ ignores the section."""
    lines = subprocess.run(["nm", "-SC", path], capture_output=True, text=True, check=True).stdout
    own = r"^(\w+) (\w+) [bBuV] (?!.*(?:guard variable|\bcu::)).*\)::\w+$"
    return " ".join(f"{at} {size}" for at, size in re.findall(own, lines, flags=re.M))


def parameter(what: str, value: Any, t: str, size: int) -> np.ndarray:
    """A value as an array whose memory is the argument, once it is known to fit a parameter of the type t."""
    base = t.removeprefix("const ").rstrip("*& ")
    vector = VECTOR.match(base)
    dtype = TYPES.get(vector[1] if vector else base)
    if "*" in t:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{what}: {t} wants an array, not {type(value).__name__} {value!r}")
        fits = value.dtype == dtype if dtype else size in (0, value.dtype.itemsize)
        if not fits:
            raise TypeError(f"{what}: {t} wants elements of {dtype or f'{size} bytes'}, not {value.dtype}")
        if not value.flags.writeable and not t.startswith("const"):
            raise TypeError(f"{what}: {t} wants an array that can be written")
        return value.view(np.ndarray)
    if isinstance(value, np.ndarray) and value.ndim:
        raise TypeError(f"{what}: {t} wants a scalar, not an array")
    if dtype is None:  # a struct by value
        if getattr(value, "nbytes", None) != size:
            raise TypeError(f"{what}: {t} wants a NumPy scalar of {size} bytes, not {type(value).__name__}")
        return np.array(value)
    fits = {int: "iu", bool: "b", float: "f" if dtype == "f8" else ""}.get(type(value))  # CuPy passes 8 bytes
    if np.dtype(dtype).kind not in fits if fits is not None else getattr(value, "dtype", None) != dtype:
        raise TypeError(f"{what}: {t} wants a {dtype} scalar, not {type(value).__name__} {value!r}")
    return np.array(value, dtype)
