"""Array namespaces and devices: the backend of a name or of an array, and transfers to and from the host.

This module and `ops` are the only ones that depend on the namespace. CuPy and PyTorch are imported only when they are
requested by name, or when one of their arrays is passed in.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

import array_api_compat
import numpy as np

from .errors import ArrayTypeError, BackendError, MemoryLimitError, ParameterError, lookup

Array = Any  #: an array of any supported namespace

DTYPES = {"float32": np.float32, "float64": np.float64}


@dataclass(frozen=True)
class Backend:
    """An array namespace and one of its devices; see `resolve`.

    Attributes
    ----------
    name : str
        Namespace and device, such as "numpy", "torch:cpu", "cupy:0" or "array_api_strict:device1".
    kind : str
        The namespace's part of the name.
    xp : module
        The array-API namespace, from array-api-compat if it has the namespace.
    device : object
        The namespace's object for the device; None for NumPy.

    Examples
    --------
    >>> backend = resolve("numpy")
    >>> backend.zeros((2, 3), "float32").shape, backend.on_host
    ((2, 3), True)
    """

    name: str
    kind: str
    xp: Any
    device: Any

    @property
    def on_host(self) -> bool:
        """Whether arrays are in the memory of the host, so that reading a number does not synchronise."""
        return self.kind in ("numpy", "array_api_strict") or str(self.device) == "cpu"

    def dtype(self, name: str) -> Any:
        """Return the namespace's dtype of a name such as "float32" or "int64"."""
        if name == "bfloat16" and self.kind != "torch":
            try:
                return np.dtype(import_module("ml_dtypes").bfloat16)  # which CuPy supports
            except ImportError as error:
                raise BackendError("bfloat16 needs ml_dtypes: pip install ml-dtypes") from error
        return getattr(self.xp, name)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an uninitialised array; in NumPy it is aligned to a cache line, which malloc does not guarantee."""
        if self.kind == "numpy":
            return _aligned(np.empty, shape, dtype)
        return self.xp.empty(shape, dtype=self.dtype(dtype), device=self.device)

    def zeros(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Return an array of zeros, aligned as in `empty`."""
        if self.kind == "numpy":
            return _aligned(np.zeros, shape, dtype)
        return self.xp.zeros(shape, dtype=self.dtype(dtype), device=self.device)

    def from_host(self, values: np.ndarray) -> Array:
        """Return a NumPy array as an array of this backend; it may share the memory of `values`."""
        if self.kind == "numpy":
            return values
        if self.kind == "torch" and not (values.flags.writeable and values.flags.c_contiguous):
            values = np.array(values, order="C")
        return self.xp.asarray(values, device=self.device)

    def to_host(self, array: Array) -> np.ndarray:
        """Return an array of this backend as a NumPy array; this synchronises with the device."""
        if self.kind == "torch":
            array = array.detach().cpu()
            if array.dtype == self.xp.bfloat16:  # which NumPy does not have
                array = array.float()
        elif self.kind == "cupy":
            array = array.get()
        elif self.kind != "numpy":
            array = _to_cpu(array)
        return np.asarray(array)

    def contiguous(self, array: Array) -> Array:
        """Return the array in C order; an array that is contiguous already is returned as it is."""
        if self.kind == "torch":
            return array.contiguous()
        return self.xp.ascontiguousarray(array) if self.kind in ("numpy", "cupy") and array.ndim else array

    def adopted(self, array: Array) -> Array:
        """Return a user's array as a plain array of the namespace, without autograd history or subclass."""
        if self.kind == "torch":
            return array.detach()
        return np.asarray(array) if self.kind == "numpy" else array

    def active(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the device is the current one; only CuPy has a current device."""
        return self.device if self.kind == "cupy" else contextlib.nullcontext()

    @contextlib.contextmanager
    def copying(self) -> Iterator[Callable[[], None]]:
        """Return a context whose copies to the device run beside its computation; its value is a function to wait."""
        if self.kind != "cupy":
            yield lambda: None
            return
        with self.xp.cuda.Stream(non_blocking=True) as stream:
            yield stream.synchronize

    def memory(self) -> int:
        """Return the total memory of the device in bytes; 0 if it is not known."""
        if self.kind == "cupy":
            with self.device:
                return int(self.xp.cuda.runtime.memGetInfo()[1])
        if self.kind == "torch" and str(self.device).startswith("cuda"):
            return int(import_module("torch").cuda.mem_get_info(self.device)[1])
        try:
            here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):  # a system without these names
            return 0
        container = Path("/sys/fs/cgroup/memory.max")
        limit = container.read_text().strip() if container.is_file() else "max"
        return min(here, int(limit)) if limit.isdigit() else here

    def free(self) -> int:
        """Return the free memory of the device in bytes; 0 if it is not known."""
        if self.kind == "cupy":
            with self.device:
                return int(self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes())
        if self.kind == "torch" and str(self.device).startswith("cuda"):
            return int(import_module("torch").cuda.mem_get_info(self.device)[0])
        return _free_on_host()

    def exceeds_half_free(self, size: int) -> bool:
        """Whether `size` bytes are more than half of the free memory of a GPU; False on the host."""
        if self.kind != "cupy":
            return False
        return size > self.free() // 2

    def check_memory(self, needed: int, what: str) -> None:
        """Raise MemoryLimitError if `needed` bytes are more than the total memory of the device."""
        limit = self.memory()
        if limit and needed > limit:
            raise MemoryLimitError(
                f"{what} needs {needed / 2**30:,.1f} GiB, and {self.name} has {limit / 2**30:,.1f} GiB. "
                f"Use fewer or narrower layers, or a smaller batch_size."
            )

    @cached_property
    def matmul_takes_out(self) -> bool:
        """Whether `xp.matmul` takes `out=`, which is not part of the array API standard."""
        a = self.xp.ones((2, 2), dtype=self.xp.float32, device=self.device)
        out = self.xp.zeros((2, 2), dtype=self.xp.float32, device=self.device)
        try:
            self.xp.matmul(a, a, out=out)
        except TypeError:
            return False
        return bool(self.xp.all(out == 2.0))

    def __reduce__(self) -> tuple[Any, ...]:  # namespaces are modules, which do not pickle
        return resolve, (self.name,)


def _free_on_host() -> int:
    """Return the memory that Linux can allocate without swapping, within the limit of a container; else 0."""
    try:
        found = {line.split(":")[0]: line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines()}
        free = int(found["MemAvailable"]) * 1024
    except (OSError, KeyError, IndexError, ValueError):
        return 0
    with contextlib.suppress(OSError, KeyError, ValueError):  # no container, or none with a limit
        group = Path("/sys/fs/cgroup")
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(stat["inactive_file"]))  # the cache of files, which the system can free
    return free


def _aligned(make: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size, line = math.prod(shape) * np.dtype(dtype).itemsize, 64
    raw = make(size + line, np.uint8)
    start = -raw.ctypes.data % line
    return raw[start : start + size].view(dtype).reshape(shape)


# --- by name ---------------------------------------------------------------------------------------------------

def _numpy(device: str) -> Backend:
    if device not in ("", "cpu"):
        raise BackendError(f"NumPy computes on the CPU only, got device {device!r}: use 'numpy'")
    return Backend("numpy", "numpy", import_module("array_api_compat.numpy"), None)


def _array_api_strict(device: str) -> Backend:
    xp = _import("array_api_strict", "array_api_strict")
    try:
        place = xp.Device(device or "CPU_DEVICE")
    except ValueError as error:
        raise BackendError(f"array_api_strict has no device {device!r}: {error}") from None
    return Backend(f"array_api_strict:{device}" if device else "array_api_strict", "array_api_strict", xp, place)


def _torch(device: str) -> Backend:
    torch = _import("torch", "torch")
    try:
        place = torch.device(device or "cpu")
        if place.type == "meta":
            raise RuntimeError("it holds no numbers")
        if place.type == "cuda" and place.index is None and torch.cuda.is_available():
            place = torch.device("cuda", torch.cuda.current_device())
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BackendError(f"PyTorch {torch.__version__} cannot use device {device!r} here: {reason}") from None
    return Backend(f"torch:{place}", "torch", import_module("array_api_compat.torch"), place)


def _cupy(device: str) -> Backend:
    cupy = _import("cupy", "cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except RuntimeError as error:  # CUDARuntimeError: no driver or no card
        reason = str(error).rpartition(": ")[2]
        raise BackendError(f"CuPy {cupy.__version__} finds no CUDA device: {reason}") from None
    number = device.removeprefix("cuda:").removeprefix("cuda") or "0" if device else str(cupy.cuda.runtime.getDevice())
    if not number.isdigit() or int(number) >= count:
        known = ", ".join(f"cupy:{i}" for i in range(count))
        raise BackendError(f"there is no CUDA device {device!r}; here: {known}")
    return Backend(f"cupy:{int(number)}", "cupy", import_module("array_api_compat.cupy"), cupy.cuda.Device(int(number)))


def _jax(device: str) -> Backend:
    raise BackendError(_IMMUTABLE.format(name="jax"))


_IMMUTABLE = (
    "the arrays of {name} are immutable, and xpdense writes its parameters in place: it needs a namespace whose "
    "slices are writable views. Use numpy, cupy or torch, and pass numpy.asarray(x)."
)
_MAKERS: dict[str, Callable[[str], Backend]] = {
    "numpy": _numpy, "cupy": _cupy, "torch": _torch, "array_api_strict": _array_api_strict,
}
_INSTALL = {
    "numpy": "pip install numpy",
    "cupy": "pip install 'xpdense[cuda13]'   (CUDA 12 drivers: 'xpdense[cuda12]')",
    "torch": "pip install 'xpdense[torch]'",
    "array_api_strict": "pip install array-api-strict",
}


def _import(module: str, kind: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BackendError(f"backend {kind!r} is not installed: {_INSTALL[kind]}") from error


def resolve(name: str) -> Backend:
    """Return the backend of a name: a namespace, or a namespace and a device after a colon.

    Raises
    ------
    UnknownNameError
        The name of the namespace is not known; the message lists those that are.
    BackendError
        The namespace is not installed, or does not have the device.

    >>> resolve("numpy").name
    'numpy'
    """
    if not isinstance(name, str):
        raise ParameterError(f"backend must be a name such as 'numpy', 'cupy:1' or 'auto', got {name!r}")
    kind, _, device = name.partition(":")
    if kind == "jax":
        return _jax(device)
    if kind not in _MAKERS:
        lookup("backend", kind, {**_MAKERS, "auto": None})
        raise ParameterError("backend 'auto' takes no device: it follows the data")
    return _MAKERS[kind](device)


# --- by array --------------------------------------------------------------------------------------------------

def backend_of(array: Any) -> Backend | None:
    """Return the backend of an array; None for lists, frames and other values that NumPy can convert.

    >>> backend_of(np.zeros(3)).name
    'numpy'
    >>> backend_of([1, 2, 3]) is None
    True

    Raises
    ------
    BackendError
        The namespace's arrays cannot be written in place.
    """
    if array_api_compat.is_numpy_array(array):
        return _numpy("")
    if array_api_compat.is_torch_array(array):
        if "sparse" in str(array.layout):
            raise ArrayTypeError("the tensor is sparse: pass x.to_dense()")
        return _torch(str(array.device))
    if array_api_compat.is_cupy_array(array):
        return _cupy(str(array.device.id))
    if array_api_compat.is_jax_array(array):
        return _jax("")
    if not hasattr(array, "__array_namespace__"):
        return None
    xp = array.__array_namespace__()
    if xp.__name__.startswith("array_api_strict"):
        device = str(array_api_compat.device(array)).split("'")[1]
        return _array_api_strict("" if device == "CPU_DEVICE" else device)
    _refuse_immutable(xp)
    return Backend(xp.__name__, xp.__name__, xp, array_api_compat.device(array))


def _refuse_immutable(xp: Any) -> None:
    probe = xp.zeros(4)
    try:
        view = probe[1:3]
        view[...] = 1.0
        view += 1.0
        writable = float(probe[1]) == 2.0
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError):
        writable = False
    if not writable:
        raise BackendError(_IMMUTABLE.format(name=xp.__name__))


def _to_cpu(array: Array) -> Array:
    if "array_api_strict" in type(array).__module__:
        return array.to_device(array.__array_namespace__().Device("CPU_DEVICE"))
    return array_api_compat.to_device(array, "cpu")


def host(values: Any, what: str = "array") -> np.ndarray:
    """Return an array of any namespace, a list, a frame or a series as a NumPy array; `what` is its name in errors.

    Raises
    ------
    ArrayTypeError
        The values are sparse, or lists of unequal lengths.

    >>> host([[1, 2]]).shape
    (1, 2)
    """
    backend = backend_of(values)
    if backend is not None:
        return backend.to_host(values)
    if hasattr(values, "tocsr") or hasattr(values, "toarray"):
        raise ArrayTypeError(f"{what} is sparse ({type(values).__name__}): pass {what}.toarray()")
    try:
        return np.asarray(values)
    except ValueError as error:  # ragged lists
        raise ArrayTypeError(f"{what} cannot be made an array: {error}") from None


# --- availability ----------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class BackendInfo:
    """One row of `backends()`: a namespace on one device, or the reason why it is not available.

    Attributes
    ----------
    name : str
        Such as "numpy" or "cupy:0".
    available : bool
    version, device : str
        The version of the namespace and a description of the device.
    ops : str
        The ops that compute there: "native", "cuda" or "generic".
    note : str
        A reason or an advice, such as a command that installs the namespace.
    replays : bool
        Whether `fit` records a step and replays it without Python.

    Examples
    --------
    >>> from xpdense.ops import backends
    >>> [row.available for row in backends() if row.name == "numpy"]
    [True]
    """

    name: str
    available: bool
    version: str
    device: str
    ops: str
    note: str
    replays: bool = False


def installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported.

    >>> installed("numpy"), installed("no_such_module")
    (True, False)
    """
    return module in sys.modules or util.find_spec(module) is not None


def devices(kind: str) -> list[tuple[Backend, str]]:
    """Return the backends of a namespace on this machine, each with a description of its device.

    Raises
    ------
    BackendError
        The namespace is not available; the message has the reason, and the command that installs it.

    >>> [backend.name for backend, device in devices("numpy")]
    ['numpy']
    """
    if kind == "cupy":
        first = _cupy("0")
        runtime = first.xp.cuda.runtime
        names = [runtime.getDeviceProperties(i)["name"].decode() for i in range(runtime.getDeviceCount())]
        return [(_cupy(str(i)), name) for i, name in enumerate(names)]
    here = [(_MAKERS[kind](""), "CPU")]
    if kind == "torch":
        cuda = import_module("torch").cuda
        here += [(_torch(f"cuda:{i}"), cuda.get_device_name(i)) for i in range(cuda.device_count())]
    return here


def version(kind: str) -> str:
    """Return the version of an installed namespace; "" if it is not installed.

    >>> version("numpy") == np.__version__
    True
    """
    for distribution in {"cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy")}.get(kind, (kind,)):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return ""


def kinds() -> dict[str, str]:
    """Return the names of the namespaces, each with the command that installs it.

    >>> kinds()["numpy"]
    'pip install numpy'
    """
    return dict(_INSTALL)
