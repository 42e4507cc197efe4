"""A CUDA device played on the CPU: what `import cupy` gives, as far as the trainer uses it, on NumPy's memory.

    cupy = cupy_stand_in()
    x = cupy.asarray(values)                        # a HostArray, in memory aligned as a device's
    cupy.ElementwiseKernel("T x", "T y", "y = 2 * x", "twice")(x)
    cupy.RawModule(code=text).get_function("f")((1,), (32,), (x,))
    cupy.asked.count("elementwise")                   # launches, copies, allocations and waits, in order

Kernels are the real texts, compiled by g++ (elementwise.py, raw_kernels.py); products go to a shim of cuBLAS. While a
stream is capturing, what is launched is recorded and not made, as on a device, and what waits or allocates there is
refused. With `deferred=True` a stream that is not the default one does nothing before somebody waits for it: a
missing event or a pinned buffer that is written too early then shows in the numbers.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import array_api_compat
import array_api_compat.numpy as host_namespace
import building
import cupy as real_cupy
import elementwise
import numpy as np
import raw_kernels
from building import Finding
from raw_kernels import RawModule

__all__ = ["Entry", "Finding", "HostArray", "RawModule", "aligned", "compile_for", "cupy_stand_in", "stand_in_for"]

Work = Callable[[], Any]


class Entry(NamedTuple):
    """One thing that the host asked of the device."""

    kind: str  #: elementwise, raw, product, generic, copy, graph; allocate; wait
    name: str
    stream: int


class Log(list[Entry]):
    """What was asked for since the last clear(), in order."""

    def count(self, *kinds: str) -> int:  # type: ignore[override]
        return sum(entry.kind in kinds for entry in self)

    @property
    def waits(self) -> list[str]:
        """Every time that the host waited for the device, by what it called."""
        return [entry.name for entry in self if entry.kind == "wait"]

    @property
    def launches(self) -> list[str]:
        return [entry.name for entry in self if entry.kind not in ("allocate", "wait")]


# --- the device ------------------------------------------------------------------------------------------------

class Machine:
    """The one device: its streams, its log, and the rule of when a piece of work is made."""

    def __init__(self, deferred: bool) -> None:
        self.log, self.deferred = Log(), deferred
        self.memory = 1 << 34  #: bytes in all
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.memories: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
        self.null = Stream(self, null=True)
        self._local = threading.local()

    def stack(self) -> list[Stream]:
        if not hasattr(self._local, "stack"):
            self._local.stack = [self.null]
        return self._local.stack

    def launch(self, kind: str, name: str, work: Callable[..., Any], stream: Stream | None = None,
               arrays: Sequence[np.ndarray] = ()) -> None:
        """Have `work(*arrays)` made when its stream comes to it. A capture does not keep the arrays' memory."""
        stream = stream or self.stack()[-1]
        self.log.append(Entry(kind, name, stream.ptr))
        if stream.nodes is not None:
            parts = [_Part(array) for array in arrays]
            stream.nodes.append((kind, name, lambda: work(*(part.array(name) for part in parts))))
        elif self.deferred and not stream.is_null:
            stream.enqueue(lambda: work(*arrays))
        else:
            if self.deferred:  # the default stream comes after those that are not told to go their own way
                for other in list(self.streams.values()):
                    if not other.non_blocking:
                        other.drain()
            work(*arrays)

    def wait(self, name: str, stream: Stream | None = None) -> None:
        """The host waits for a stream; by default for the current one."""
        stream = stream or self.stack()[-1]
        stream.refuse_in_capture(f"{name} waits for the device")
        self.log.append(Entry("wait", name, stream.ptr))
        stream.drain()

    def allocate(self, shape: int | Sequence[int], dtype: Any, fill: int | None = 0xFF) -> HostArray:
        """Memory as cudaMalloc gives it: aligned, and of no particular content (NaN)."""
        self.stack()[-1].refuse_in_capture("memory is allocated")
        self.log.append(Entry("allocate", "", self.stack()[-1].ptr))
        return self._known(aligned(shape, dtype, fill))

    def _known(self, array: np.ndarray) -> HostArray:
        owner = _owner(array)
        self.memories[id(owner)] = owner
        return array.view(HostArray)

    def memory_at(self, address: int) -> np.ndarray:
        """The memory that was allocated there."""
        for memory in list(self.memories.values()):
            if 0 <= address - memory.ctypes.data < memory.nbytes:
                return memory
        raise Finding(f"there is no memory at {address:#x}: it has been freed, or never was the device's")

    def generic(self, name: str, function: Callable[..., Any], args: Sequence[Any], keywords: dict[str, Any]) -> Any:
        """A function of the array namespace: kernels of CuPy's own, made by NumPy."""
        given = [*_arrays(args), *_arrays(keywords.values())]
        for array in given:
            if type(array) is np.ndarray:
                raise TypeError(f"{name}: unsupported type {type(array)}: this array is not on the device")
        args, keywords = _plain(tuple(args)), {k: _plain(v) for k, v in keywords.items()}
        outs = [a for a in _arrays([keywords.get("out")]) if a is not None]
        stream = self.stack()[-1]
        if stream.nodes is not None and name in ("matmul", "dot", "tensordot", "vecdot"):
            raise NotImplementedError(f"calling cuBLAS API during stream capture is currently unsupported: {name}")
        if outs:
            self.launch("generic", name, lambda: function(*args, **keywords))
            return given[[a.ctypes.data for a in given].index(outs[0].ctypes.data)]
        if stream.nodes is None:
            stream.drain()  # it may well have come to here by now
        result = function(*args, **keywords)
        return self._adopted(name, result, given)

    def _adopted(self, name: str, result: Any, given: list[Any]) -> Any:
        if isinstance(result, tuple | list):
            parts = [self._adopted(name, r, given) for r in result]
            return type(result)(*parts) if hasattr(result, "_fields") else type(result)(parts)  # a named tuple
        if not isinstance(result, np.ndarray | np.generic):
            return result
        if isinstance(result, np.generic) or not any(np.may_share_memory(result, _plain(a)) for a in given):
            self.stack()[-1].refuse_in_capture(f"{name} allocates its result")
            self.log.append(Entry("generic", name, self.stack()[-1].ptr))
        return self._known(np.asarray(result))

    def elementwise(self, kernel: Any, args: Sequence[Any], size: int | None, stream: Stream | None) -> Any:
        for a in args:
            if type(a) is np.ndarray:
                raise TypeError(f"{kernel.name}: unsupported type {type(a)}: this array is not on the device")
        result, work, values = elementwise.prepare(kernel, args, size, self.allocate)
        if work is not None:
            self.launch("elementwise", kernel.name, work, stream, [v for v in values if isinstance(v, np.ndarray)])
        return result


_machine: Machine = None  # type: ignore[assignment]  # the last stand-in's


def aligned(shape: int | Sequence[int], dtype: Any, fill: int | None = None) -> np.ndarray:
    """An array that starts at a multiple of 256 bytes, each byte `fill` (None: zeros)."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    raw = np.zeros(size + 256, np.uint8) if not fill else np.full(size + 256, fill, np.uint8)
    start = -raw.ctypes.data % 256
    return raw[start : start + size].view(dtype).reshape(shape)


def _owner(array: np.ndarray) -> np.ndarray:
    """The array that owns the memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


class _Part:
    """A part of a memory that this does not keep."""

    def __init__(self, array: np.ndarray) -> None:
        self.owner = weakref.ref(_owner(array))
        self.low, high = np.lib.array_utils.byte_bounds(array) if array.size else (array.ctypes.data,) * 2
        self.bytes, self.how = high - self.low, (array.shape, array.dtype)
        self.offset, self.strides = array.ctypes.data - self.low, array.strides

    def array(self, name: str) -> np.ndarray:
        if self.owner() is None:
            raise Finding(f"{name}, in a graph: the memory that it was captured with has been freed")
        memory = (ctypes.c_char * self.bytes).from_address(self.low)
        return np.ndarray(*self.how, memory, self.offset, self.strides)


def _arrays(values: Any) -> list[np.ndarray]:
    found: list[np.ndarray] = []
    for v in values:
        if isinstance(v, np.ndarray):
            found.append(v)
        elif isinstance(v, tuple | list):
            found += _arrays(v)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, HostArray):
        return value.view(np.ndarray)
    if isinstance(value, tuple | list):
        return type(value)(_plain(v) for v in value)
    return value


class _Pointer(NamedTuple):
    ptr: int


class HostArray(np.ndarray):
    """A NumPy array that stands for CuPy's: what would wait for the device is logged, and refused while capturing."""

    __array_priority__ = 100.0

    @property
    def device(self) -> Device:
        return Device(0)

    @property
    def data(self) -> _Pointer:  # type: ignore[override]
        return _Pointer(self.ctypes.data)

    def __cupy_override_elementwise_kernel__(self, kernel: Any, *args: Any, **keywords: Any) -> Any:
        return _machine.elementwise(kernel, args, None, None)

    # --- what waits

    def get(self, stream: Stream | None = None, order: str = "C", out: np.ndarray | None = None,
            blocking: bool = True) -> np.ndarray:
        _no_copy_in_capture(stream, "D2H")
        host = np.empty(self.shape, self.dtype) if out is None else out
        _machine.launch("copy", "to host", lambda: np.copyto(host, self.view(np.ndarray)), stream)
        if blocking:
            _machine.wait("get()", stream)
        return host

    def set(self, values: np.ndarray, stream: Stream | None = None) -> None:
        if type(values) is not np.ndarray:
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if values.dtype != self.dtype:
            raise TypeError(f"{values.dtype} array cannot be set to {self.dtype} array")
        if values.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {values.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        _no_copy_in_capture(stream, "H2D")
        source = values if _is_pinned(values) else values.copy()  # CUDA stages what is not pinned before it returns
        _machine.launch("copy", "to device", lambda: np.copyto(self.view(np.ndarray), source), stream)

    def _waited(self, name: str) -> np.ndarray:
        _machine.wait(name)
        return self.view(np.ndarray)

    def __float__(self) -> float:
        return float(self._waited("float()"))

    def __int__(self) -> int:
        return int(self._waited("int()"))

    def __index__(self) -> int:
        return self._waited("index()").__index__()

    def __bool__(self) -> bool:
        return bool(self._waited("bool()"))

    def __complex__(self) -> complex:
        return complex(self._waited("complex()"))

    def item(self, *args: Any) -> Any:
        return self._waited("item()").item(*args)

    def tolist(self) -> Any:
        return self._waited("tolist()").tolist()

    def tobytes(self, *args: Any) -> bytes:
        return self._waited("tobytes()").tobytes(*args)

    def __repr__(self) -> str:
        return f"HostArray({self.view(np.ndarray)!r})"

    __str__ = __repr__

    # --- what is a launch

    def __array_ufunc__(self, ufunc: Any, method: str, *args: Any, **keywords: Any) -> Any:
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        return _machine.generic(name, getattr(ufunc, method), args, keywords)

    def __array_function__(self, function: Any, kinds: Any, args: Any, keywords: Any) -> Any:
        return _machine.generic(function.__name__, function, args, keywords)

    def __getitem__(self, key: Any) -> Any:
        plain = self.view(np.ndarray)
        if _arrays(key if isinstance(key, tuple) else (key,)):
            return _machine.generic("getitem", lambda a, k: a[k], (self, key), {})
        found = plain[key]
        if not isinstance(found, np.ndarray):  # a number is an array of no dimensions there
            found = plain[(*key, ...) if isinstance(key, tuple) else (key, ...)]
        return found.view(HostArray)

    def __setitem__(self, key: Any, value: Any) -> None:
        for array in _arrays((key, value)):
            if type(array) is np.ndarray:
                raise TypeError(f"unsupported type {type(array)}: this array is not on the device")
        key, value = _plain(key), _plain(value)
        _machine.launch("copy", "setitem", lambda: self.view(np.ndarray).__setitem__(key, value))

    def fill(self, value: Any) -> None:
        self[...] = value

    def astype(self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True) -> Any:
        if not copy and self.dtype == dtype:
            return self
        return _machine.generic("astype", lambda a: a.astype(dtype, order), (self,), {})

    def copy(self, order: Any = "C") -> Any:
        return _machine.generic("copy", lambda a: a.copy(order), (self,), {})

    __hash__ = None  # type: ignore[assignment]


def _no_copy_in_capture(stream: Stream | None, which: str) -> None:
    if (stream or _machine.stack()[-1]).nodes is not None:
        raise RuntimeError(f"the current stream is capturing, so {which} transfers are disallowed")


class _Pinned(np.ndarray):
    """The owner of pinned memory, which the arrays on it have as their base."""


def empty_pinned(shape: int | Sequence[int], dtype: Any = float, order: str = "C") -> np.ndarray:
    """cupyx.empty_pinned: a plain NumPy array that an asynchronous copy may read later."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    owner = _Pinned((max(size, 1),), np.uint8)
    owner[...] = 0xFF
    return np.asarray(owner)[:size].view(dtype).reshape(shape)


def _is_pinned(array: Any) -> bool:
    while array is not None and not isinstance(array, _Pinned):
        array = getattr(array, "base", None)
    return array is not None


# --- streams, events, graphs -----------------------------------------------------------------------------------

class Stream:
    """cupy.cuda.Stream. With a deferring machine it holds its work until somebody waits for it."""

    _pointers = itertools.count(0x5000, 0x10)

    def __init__(self, machine: Machine | None = None, null: bool = False, non_blocking: bool = False,
                 ptds: bool = False, priority: int | None = None) -> None:
        self._machine = machine or _machine
        self.is_null, self.non_blocking = null, non_blocking
        self.ptr = 0 if null else next(Stream._pointers)
        self.nodes: list[tuple[str, str, Work]] | None = None  #: what was recorded, while capturing
        self._broken = ""
        self._queue: deque[Work] = deque()
        self.made = self.asked = 0  #: pieces of work
        self._machine.streams[self.ptr] = self

    def enqueue(self, work: Work) -> None:
        self._queue.append(work)
        self.asked += 1

    def drain(self, until: int | None = None) -> None:
        """Make what was asked for; `until` says up to which piece."""
        while self._queue and (until is None or self.made < until):
            work = self._queue.popleft()
            self.made += 1
            work()

    def refuse_in_capture(self, what: str) -> None:
        if self.nodes is not None:
            self._broken = what
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")

    def __enter__(self) -> Stream:
        self._machine.stack().append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        self._machine.stack().pop()

    def use(self) -> Stream:
        self._machine.stack()[-1] = self
        return self

    def begin_capture(self, mode: int | None = None) -> None:
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.nodes is not None:
            raise RuntimeError("this stream is capturing already")
        self.nodes, self._broken = [], ""

    def end_capture(self) -> Graph:
        nodes, self.nodes = self.nodes, None
        if nodes is None:
            raise RuntimeError("this stream is not capturing")
        if self._broken:
            raise RuntimeError(f"operation failed due to a previous error during capture: {self._broken}")
        return Graph(self._machine, nodes)

    def is_capturing(self) -> bool:
        return self.nodes is not None

    @property
    def done(self) -> bool:
        self.refuse_in_capture("a query")
        return not self._queue

    def synchronize(self) -> None:
        self._machine.wait("Stream.synchronize", self)

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What is asked of this stream from now on comes after what the event recorded."""
        if self.nodes is not None or event.captured:
            raise NotImplementedError("events in a capture are not played here")
        if event.stream is None:
            return
        stream, until = event.stream, event.until
        if self.is_null:
            stream.drain(until)
        elif self._machine.deferred:
            self.enqueue(lambda: stream.drain(until))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and other.ptr == self.ptr

    def __hash__(self) -> int:
        return hash(self.ptr)


class Event:
    """cupy.cuda.Event: a point in what was asked of a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.stream: Stream | None = None
        self.until, self.captured = 0, False

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream or _machine.stack()[-1]
        self.until, self.captured = self.stream.asked, self.stream.nodes is not None

    @property
    def done(self) -> bool:
        return self.stream is None or self.stream.made >= self.until

    def synchronize(self) -> None:
        if self.captured:
            raise RuntimeError("operation not permitted on an event last recorded in a capturing stream")
        _machine.log.append(Entry("wait", "Event.synchronize", self.stream.ptr if self.stream else 0))
        if self.stream is not None:
            self.stream.drain(self.until)


class Graph:
    """What a capture recorded: `nodes` of (kind, name, work), each with the very arguments of its launch."""

    def __init__(self, machine: Machine, nodes: list[tuple[str, str, Work]]) -> None:
        self._machine, self.nodes = machine, nodes

    def launch(self, stream: Stream | None = None) -> None:
        def work() -> None:
            for _, _, node in self.nodes:
                node()

        self._machine.launch("graph", f"graph of {len(self.nodes)}", work, stream)

    def upload(self, stream: Stream | None = None) -> None:
        pass


class Device:
    """cupy.cuda.Device; there is one."""

    compute_capability = "90"

    def __init__(self, device: Any = None) -> None:
        self.id = int(getattr(device, "id", device) or 0)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        for stream in list(_machine.streams.values()):
            stream.refuse_in_capture("the device is synchronised")
            stream.drain()
        _machine.log.append(Entry("wait", "Device.synchronize", 0))

    @property
    def mem_info(self) -> tuple[int, int]:
        return _machine.memory, _machine.memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __int__(self) -> int:
        return self.id

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    __str__ = __repr__


# --- cuBLAS ----------------------------------------------------------------------------------------------------

class CublasShim:
    """What ctypes.CDLL gives for libcublas, of cublas_shim.cpp; a product is a launch on its handle's stream."""

    def __init__(self, machine: Machine) -> None:
        text = (building.HERE / "cublas_shim.cpp").read_text()
        self._machine, self._functions = machine, {}
        self._library = ctypes.CDLL(str(building.library(text)))
        self._streams: dict[Any, int] = {}

    def __getattr__(self, name: str) -> _CublasFunction:
        if name.startswith("_") or not hasattr(self._library, name):
            raise AttributeError(f"the shim of cuBLAS has no {name}")
        return self._functions.setdefault(name, _CublasFunction(self, name))


class _CublasFunction:
    """One function, with the argtypes and restype that its user gives it."""

    def __init__(self, shim: CublasShim, name: str) -> None:
        self._shim, self.__name__ = shim, name
        self._call = shim._library[name]  # an object of its own

    argtypes = property(lambda self: self._call.argtypes, lambda self, to: setattr(self._call, "argtypes", to))
    restype = property(lambda self: self._call.restype, lambda self, to: setattr(self._call, "restype", to))

    def __call__(self, *args: Any) -> int:
        if not self.argtypes:
            for i, a in enumerate(args):
                if isinstance(a, int) and not -(1 << 31) <= a < 1 << 31:
                    raise TypeError(f"{self.__name__}, argument {i}: ctypes passes a bare int in 32 bits; "
                                    f"use c_void_p or argtypes")
        status = self._call(*args)
        shim, name = self._shim, self.__name__
        if status == 0 and name == "cublasSetStream_v2":
            shim._streams[_address(args[0])] = _address(args[1])
        if status == 0 and name == "cublasGemmEx":
            job = ctypes.create_string_buffer(256)
            shim._library.shim_last(job)
            pointer = shim._streams.get(_address(args[0]), 0)
            if pointer not in shim._machine.streams:
                raise RuntimeError(f"cuBLAS's handle is on a stream that is not there any more: {pointer}")
            machine, stream = shim._machine, shim._machine.streams[pointer]
            now = stream.nodes is None and not machine.deferred
            memories = [] if now else [machine.memory_at(at) for i in (7, 10, 14) if (at := _address(args[i]))]
            machine.launch("product", name, lambda *_: shim._library.shim_run(job), stream, memories)
        return status


def _address(pointer: Any) -> int:
    return int((pointer.value if isinstance(pointer, ctypes._SimpleCData) else pointer) or 0)


# --- the stand-in ----------------------------------------------------------------------------------------------

class StandIn(types.ModuleType):
    """What `import cupy` gives. Names that are not set here are the array namespace's functions, on HostArrays."""

    asked: Log
    machine: Machine
    cublas: CublasShim

    def __getattr__(self, name: str) -> Any:
        function = getattr(host_namespace, name, None)
        if name.startswith("__") or function is None:
            raise AttributeError(f"the stand-in of CuPy has no {name!r}")
        if isinstance(function, type) or not callable(function):
            return function

        def on_device(*args: Any, **keywords: Any) -> Any:
            keywords.pop("device", None)
            return self.machine.generic(name, function, args, keywords)

        return on_device


def cupy_stand_in(deferred: bool = False) -> StandIn:
    """A namespace with the names of CuPy and a device of its own; HostArrays belong to the last one made."""
    global _machine
    machine = _machine = Machine(deferred)
    cupy = StandIn("cupy", cupy_stand_in.__doc__)

    class ElementwiseKernel(real_cupy.ElementwiseKernel):
        """CuPy's own class; a call is the machine's."""

        def __call__(self, *args: Any, size: int | None = None, stream: Any = None, block_size: int = 128) -> Any:
            if len(args) not in (self.nin, self.nargs):
                raise TypeError(f"Wrong number of arguments for {self.name!r}. It must be either {self.nin} or "
                                f"{self.nargs} (with outputs), but given {len(args)}.")
            return machine.elementwise(self, args, size, stream)

    def raw_module(code: str | None = None, *, sanitize: str | None = None, **keywords: Any) -> RawModule:
        def run(kernel: raw_kernels.RawKernel, work: Callable[..., None], arrays: list[Any], stream: Any) -> None:
            machine.launch("raw", kernel.name, work, stream, arrays)

        keywords.pop("backend", None)
        return RawModule(code=code or "", sanitize=sanitize or cupy.sanitize, runner=run, **keywords)

    def asarray(values: Any, dtype: Any = None, order: Any = None, *, device: Any = None, copy: Any = None) -> Any:
        if isinstance(values, HostArray):
            same = dtype is None or values.dtype == dtype
            return values.copy() if same and copy else values if same else values.astype(dtype)
        values = np.asarray(values, dtype)
        array = machine.allocate(values.shape, values.dtype)
        _no_copy_in_capture(None, "H2D")
        held = values.copy()
        machine.launch("copy", "to device", lambda: np.copyto(array.view(np.ndarray), held))
        return array

    def made(fill: int | None, name: str) -> Callable[..., HostArray]:
        def make(shape: Any, dtype: Any = float, order: str = "C", *, device: Any = None) -> HostArray:
            array = machine.allocate(shape, dtype or float)
            if fill is not None:
                machine.launch("copy", name, lambda: array.view(np.ndarray).fill(fill))
            return array

        return make

    def like(make: Callable[..., HostArray]) -> Callable[..., HostArray]:
        return lambda a, dtype=None, *, device=None: make(a.shape, a.dtype if dtype is None else dtype)

    pool = types.SimpleNamespace(free_bytes=lambda: 0, used_bytes=lambda: 0, total_bytes=lambda: 0,
                                 free_all_blocks=lambda *_: None)
    runtime = types.SimpleNamespace(
        getDeviceCount=lambda: 1, getDevice=lambda: 0, setDevice=lambda _: None,
        memGetInfo=lambda: (machine.memory, machine.memory), deviceSynchronize=lambda: Device(0).synchronize(),
        runtimeGetVersion=lambda: 13000, driverGetVersion=lambda: 13000, CUDARuntimeError=RuntimeError,
        getDeviceProperties=lambda i: {"name": b"a CPU that plays one", "totalGlobalMem": machine.memory,
                                       "multiProcessorCount": 2, "sharedMemPerBlock": 48 * 1024})
    cuda = types.SimpleNamespace(
        Stream=Stream, Event=Event, Device=Device, Graph=Graph, runtime=runtime, is_available=lambda: True,
        get_current_stream=lambda device_id=-1: machine.stack()[-1])
    empty, zeros, ones = made(None, "empty"), made(0, "zeros"), made(1, "ones")
    vars(cupy).update(
        asked=machine.log, machine=machine, cublas=CublasShim(machine), sanitize=None, ndarray=HostArray,
        ElementwiseKernel=ElementwiseKernel, RawModule=raw_module, cuda=cuda, asarray=asarray, array=asarray,
        empty=empty, zeros=zeros, ones=ones, empty_like=like(empty), zeros_like=like(zeros), ones_like=like(ones),
        asnumpy=lambda a: a.get() if isinstance(a, HostArray) else np.asarray(a),
        get_default_memory_pool=lambda: pool, __version__=real_cupy.__version__, __path__=[])
    return cupy


def stand_in_for(monkeypatch: Any, deferred: bool = False) -> StandIn:
    """Have a stand-in found wherever the package looks for CuPy, until a test's monkeypatch is undone."""
    building.nvrtc.getVersion()  # loads the compiler, for which CuPy asks itself where it is
    cupy, cupyx = cupy_stand_in(deferred), types.ModuleType("cupyx")
    cupyx.empty_pinned = empty_pinned  # type: ignore[attr-defined]
    for name, module in {"cupy": cupy, "cupyx": cupyx, "array_api_compat.cupy": cupy}.items():
        monkeypatch.setitem(sys.modules, name, module)
    is_numpy = array_api_compat.is_numpy_array
    monkeypatch.setattr(array_api_compat, "is_numpy_array", lambda x: is_numpy(x) and not isinstance(x, HostArray))
    monkeypatch.setattr(array_api_compat, "is_cupy_array", lambda x: isinstance(x, HostArray))
    return cupy


# --- the device's compiler -------------------------------------------------------------------------------------

def compile_for(kernel: Any, architecture: str | int, types: Sequence[Any] | None = None,
                options: Sequence[str] = ()) -> bytes:
    """Compile by NVRTC, without a device, to a cubin; ValueError with the compiler's log where it refuses.

    `kernel` is CUDA text, a RawModule, or an ElementwiseKernel with `types`: for each of its parameters an array's
    dtype, or the Python type float, int or bool for a number. The sources of elementwise.seen are of elementwise
    kernels that ran here: `compile_for(elementwise.device_text(source), "sm_90")`.
    """
    if not isinstance(kernel, str | RawModule):
        given = [None if t in (float, int, bool) else (np.dtype(t), 1, True) for t in types or ()]
        kernel = elementwise.device_text(elementwise.source(kernel, given, 1))
    if isinstance(kernel, RawModule):
        kernel, options = kernel.code, (*kernel.options, *options)
    name = architecture if str(architecture).startswith("sm_") else f"sm_{architecture}"
    return building.cubin(kernel, str(name), tuple(options))
