"""Compilers: g++ for host code that stands for CUDA's, kept in build/emulated, and NVRTC for the real thing.

A file is kept under the hash of everything that it depends on, is written under another name first and then renamed,
so that any number of processes may ask for it at once.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import cupy
from cupy._core import core
from cupy_backends.cuda.libs import nvrtc

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / "build" / "emulated"
HEADER = HERE / "host_cuda.h"
# Contraction to FMA is the device's to choose, and never g++'s: results are those of the text.
FLAGS = ("-std=gnu++17", "-fno-strict-aliasing", "-ffp-contract=off", "-fvisibility=hidden", "-w")


def kept(depends_on: list[str], suffix: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` writes, made once for the texts it depends on."""
    path = CACHE / (hashlib.sha256("\0".join(depends_on).encode()).hexdigest()[:24] + suffix)
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}{suffix}")
        try:
            make(new)
            new.rename(path)
        finally:
            new.unlink(missing_ok=True)
    return path


@functools.cache
def compiler() -> str:
    """What g++ says it is."""
    return subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout


class Finding(RuntimeError):
    """What is wrong with a kernel; the text is the whole report."""


@functools.cache
def arrays_header() -> str:
    """CuPy's class of an array argument, with its plain index checked."""
    text = (Path(core._get_header_dir_path()) / "cupy" / "carray.cuh").read_text()
    plain = "const T& operator[](ptrdiff_t idx) const {"
    assert text.count(plain) == 1, "CuPy's carray.cuh is another one than this was written for"
    return text.replace(plain, plain + "\n    if (idx < 0 || idx >= size_) return cu::outside<T>(idx, size_);")


@functools.cache
def includes() -> tuple[str, ...]:
    """Where host code finds host_cuda.h, CuPy's headers, and CUDA's own: empty ones, as host_cuda.h stands for them."""
    ours = CACHE / f"include-{hashlib.sha256(arrays_header().encode()).hexdigest()[:8]}"
    (ours / "cupy").mkdir(parents=True, exist_ok=True)
    for name in ("cuda_fp16.h", "cuda_bf16.h", "cuda_runtime.h"):
        (ours / name).touch()
    new = ours / f"carray.{os.getpid()}"
    new.write_text(arrays_header())
    new.rename(ours / "cupy" / "carray.cuh")
    return (f"-I{HERE}", f"-I{ours}", f"-I{core._get_header_dir_path()}")


def gxx(text: str, flags: tuple[str, ...], out: Path | str) -> str:
    """Run g++ on a text; what it wrote to standard output. ValueError: its messages."""
    command = ["g++", *FLAGS, *flags, *includes(), "-x", "c++", "-", "-o", str(out)]
    made = subprocess.run(command, input=text, capture_output=True, text=True)
    if made.returncode:
        raise ValueError("g++ failed:\n" + made.stderr)
    return made.stdout


@functools.cache
def header_text() -> str:
    """All that host code includes and is not the compiler's."""
    return HEADER.read_text() + arrays_header()


def library(text: str, flags: tuple[str, ...] = ("-O2",)) -> Path:
    """A shared library of a text."""
    flags = (*flags, "-fPIC", "-shared", "-Wl,-Bsymbolic")
    return kept([text, header_text(), compiler(), cupy.__version__, *flags], ".so", lambda new: gxx(text, flags, new))


def device_options(options: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The options that CuPy gives NVRTC on a device, less the architecture."""
    own = tuple(o for o in options if not o.startswith(("--std", "-std")))
    return core.assemble_cupy_compiler_options(()) + ("-ftz=true", "--device-as-default-execution-space", *own)


def cubin(text: str, architecture: str, options: tuple[str, ...] = ()) -> bytes:
    """Device code of a text by NVRTC, without a device. ValueError: the compiler's log."""
    options = (*device_options(options), f"-arch={architecture}")

    def make(new: Path) -> None:
        program = nvrtc.createProgram(text, "kernel.cu", (), ())
        try:
            nvrtc.compileProgram(program, options)
        except nvrtc.NVRTCError:
            raise ValueError(f"NVRTC failed for {architecture}:\n{nvrtc.getProgramLog(program)}") from None
        else:
            new.write_bytes(nvrtc.getCUBIN(program))
        finally:
            nvrtc.destroyProgram(program)

    return kept([text, str(nvrtc.getVersion()), cupy.__version__, *options], ".cubin", make).read_bytes()


def kernel_names(preprocessed: str) -> list[str]:
    """The kernels of a text that has been through the preprocessor, which knows the ones that macros write."""
    between = r"\s+(?:__attribute__\s*\(\(.*?\)\)\s*)*"
    return re.findall(rf"__global__{between}void{between}(\w+)\s*\(", preprocessed)
