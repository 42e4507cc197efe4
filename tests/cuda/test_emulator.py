"""The played device does what a device would, and finds the faults that are planted here."""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
import shutil
import sys

import numpy as np
import pytest

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.skip("contexts are switched in the assembler of x86-64, under Linux", allow_module_level=True)
if not shutil.which("g++"):
    pytest.skip("kernels are compiled by g++, which is not here", allow_module_level=True)
pytest.importorskip("cupy", reason="kernels' sources are made by CuPy, which is not installed")

import elementwise
from emulator import Finding, HostArray, RawModule, compile_for, cupy_stand_in, stand_in_for

from xpdense.backend import backend_of, resolve

SHAPES = [(1,), (7,), (1, 1), (5, 1), (33, 31), (2, 3, 5)]


@pytest.fixture
def cupy():
    return cupy_stand_in()


def values(shape, dtype="float64"):
    return np.random.default_rng(3).standard_normal(shape).astype(dtype)


def host(array):
    assert isinstance(array, HostArray)
    return np.asarray(array)


# --- elementwise kernels ---------------------------------------------------------------------------------------

def scaled(cupy):
    return cupy.ElementwiseKernel("T x, raw T table, int64 n, float32 scale", "T y, raw int64 where",
                                  "y = T(float(x) * scale + float(table[i % n])); where[_ind.size() - 1 - i] = i",
                                  "scaled")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_elementwise_kernel_on_every_type_and_layout(cupy, shape, dtype):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    x, table = values(shape, dtype), values(3, dtype)
    size = x.size
    want = (x.astype("f8") * 1.5 + table.astype("f8")[np.arange(size) % 3].reshape(shape))
    for turned in (False, True):
        given = cupy.asarray(x.T.copy() if turned else x)
        y, where = cupy.empty(shape, dtype), cupy.empty(size, "int64")
        out = scaled(cupy)(given.T if turned else given, cupy.asarray(table), 3, 1.5, y, where)
        assert out == (y, where) or (out[0] is y and out[1] is where)
        tolerance = {2: 1e-2, 4: 1e-6, 8: 1e-6}[dtype.itemsize]
        np.testing.assert_allclose(host(y).astype("f8"), want, rtol=tolerance, atol=tolerance)
        assert (host(where) == np.arange(size)[::-1]).all()


def test_outputs_are_made_where_none_are_given_and_inputs_are_broadcast(cupy):
    add = cupy.ElementwiseKernel("T x, T y", "T sum, T difference", "sum = x + y; difference = x - y", "add")
    x, y = values((4, 5)), values(5)
    total, difference = add(cupy.asarray(x), cupy.asarray(y))
    assert (host(total) == x + y).all()
    assert (host(difference) == x - y).all()
    with pytest.raises(ValueError, match="Out shape"):
        add(cupy.asarray(x), cupy.asarray(y), cupy.empty(5), cupy.empty((4, 5)))


def test_in_place_and_without_any_input(cupy):
    row = cupy.zeros(1, "int64")
    increase = cupy.ElementwiseKernel("", "int64 row", "row += 1", "increase")
    assert [increase(row) is row for _ in range(3)] == [True] * 3
    assert host(row) == 3
    cupy.ElementwiseKernel("", "raw T x", "x[i] = i", "count")(x := cupy.empty(4), size=3)
    assert (host(x)[:3] == [0, 1, 2]).all()
    assert np.isnan(host(x)[3]), "memory that nobody wrote"


def test_an_empty_loop_is_no_launch(cupy):
    twice = cupy.ElementwiseKernel("T x", "T y", "y = 2 * x", "twice")
    assert twice(cupy.zeros((0, 3))).shape == (0, 3)
    assert not cupy.asked.count("elementwise")


def test_types_are_checked_as_cupy_checks_them(cupy):
    twice = cupy.ElementwiseKernel("T x", "T y", "y = 2 * x", "twice")
    with pytest.raises(TypeError, match="mismatch"):
        twice(cupy.zeros(3, "float32"), cupy.zeros(3, "float64"))
    with pytest.raises(TypeError, match="not on the device"):
        twice(cupy.zeros(3), np.zeros(3))
    with pytest.raises(TypeError, match="Wrong number"):
        twice(cupy.zeros(3), cupy.zeros(3), cupy.zeros(3))
    with pytest.raises(ValueError, match="not declared"):
        cupy.ElementwiseKernel("T x", "T y", "y = wrong", "broken")(cupy.zeros(3))


def test_an_element_outside_of_an_array_is_found(cupy):
    shift = cupy.ElementwiseKernel("raw T x", "T y", "y = x[i + 1]", "shift")
    shift(x := cupy.zeros(4), cupy.zeros(3))
    with pytest.raises(Finding, match="shift: element 4 of an array of 4"):
        shift(x, cupy.zeros(4))


# --- raw kernels -----------------------------------------------------------------------------------------------

TEXT = r"""
__device__ float warp_sum(float v) {
    for (int d = 16; d; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, d);
    return v;
}
// The sum of x, in a fixed order: by warps, blocks, and the block that comes last.
extern "C" __global__ void total(const float *x, float *partial, unsigned *counter, float *out, long long n) {
    __shared__ float part[32];
    __shared__ bool last;
    float v = 0;
    for (long long i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) v += x[i];
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
    __syncthreads();
    v = warp_sum(threadIdx.x % 32 < blockDim.x / 32 ? part[threadIdx.x % 32] : 0.f);
    if (threadIdx.x == 0) {
        partial[blockIdx.x] = v;
        __threadfence();
        last = atomicAdd(counter, 1u) == gridDim.x - 1;
        if (last) *counter = 0;
    }
    __syncthreads();
    if (!last || threadIdx.x) return;
    v = 0;
    for (unsigned b = 0; b < gridDim.x; b++) v += partial[b];
    *out = v;
}
template <class T> __device__ void turn(T *x, int rows, int cols, T *y) {
    __shared__ T tile[8][9];
    const int i = blockIdx.y * 8 + threadIdx.y, j = blockIdx.x * 8 + threadIdx.x;
    if (i < rows && j < cols) tile[threadIdx.y][threadIdx.x] = x[i * cols + j];
    __syncthreads();
    const int to = blockIdx.x * 8 + threadIdx.y, from = blockIdx.y * 8 + threadIdx.x;
    if (to < cols && from < rows) y[to * rows + from] = tile[threadIdx.x][threadIdx.y];
}
#define TURN(T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(64) turn_##T(T *x, int rows, int cols, T *y) {  \
        turn(x, rows, cols, y);                                                                  \
    }
TURN(float) TURN(double)
extern "C" __global__ void backwards(const S *x, S *y, int n) {
    extern __shared__ S held[];
    const int t = threadIdx.x;
    if (t < n) held[t] = x[t];
    __syncthreads();
    if (t < n) y[t] = S(float(held[n - 1 - t]) * 2.f);
}
extern "C" __global__ void lanes(unsigned *inc, int *down, int *up, unsigned *votes) {
    const int t = threadIdx.x;
    atomicInc(inc, 9u);
    down[t] = __shfl_down_sync(0xffffffffu, t, 3, 8);
    up[t] = __shfl_up_sync(0xffffffffu, t, 1);
    votes[t] = __ballot_sync(0xffffffffu, t % 3 == 0);
    if (t % 2) down[t] += __shfl_xor_sync(0xaaaaaaaau, 1000 * t, 2);  // the odd lanes alone
    else up[t] += __shfl_xor_sync(0x55555555u, 1000 * t, 2);          // at the same time, the even ones
}
"""
STORED = {"float16": ("#include <cuda_fp16.h>\n", "__half"), "bfloat16": ("#include <cuda_bf16.h>\n", "__nv_bfloat16"),
          "float32": ("", "float"), "float64": ("", "double")}


@functools.cache
def module(text=TEXT, stored="float32", sanitize=None):
    include, name = STORED[stored]
    return RawModule(code=f"{include}typedef {name} S;\n#line 1\n{text}", options=("--std=c++17",), sanitize=sanitize)


def total(made, n, blocks=3, threads=64):
    x = values(n, "float32")
    partial, counter, out = np.full(blocks, np.nan, "f4"), np.zeros(1, "u4"), np.full(1, np.nan, "f4")
    made.get_function("total")((blocks,), (threads,), (x, partial, counter, out, np.int64(n)))
    assert counter == 0
    np.testing.assert_allclose(out, x.sum(dtype="f8"), rtol=1e-5, atol=1e-5)
    return out[0]


def turn(made, rows, cols, dtype="float32"):
    x, y = values((rows, cols), dtype), np.full((cols, rows), np.nan, dtype)
    made.get_function(f"turn_{'float' if dtype == 'float32' else 'double'}")(
        (-(-cols // 8), -(-rows // 8)), (8, 8), (x, rows, cols, y))
    assert (y == x.T).all()


@pytest.mark.parametrize(("n", "blocks", "threads"), [(1, 1, 32), (100, 3, 64), (1000, 5, 1024), (33, 4, 96)])
def test_the_last_block_adds_up_whatever_the_order_of_blocks(n, blocks, threads):
    first = total(module(), n, blocks, threads)
    assert first == total(module(), n, blocks, threads), "the second launch goes through its blocks backwards"


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (9, 7), (3, 40)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shared_memory_of_a_template_and_kernels_that_a_macro_writes(size, dtype):
    turn(module(), *size, dtype)


@pytest.mark.parametrize("stored", STORED)
def test_dynamic_shared_memory_and_16_bit_types(stored):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if stored == "bfloat16" else stored)
    x, y = values(45).astype(dtype), np.zeros(45, dtype)
    kernel = module(TEXT, stored).get_function("backwards")
    kernel((1,), (64,), (x, y, 45), shared_mem=45 * dtype.itemsize)
    assert (y == (x[::-1].astype("f4") * 2).astype(dtype)).all()
    with pytest.raises(TypeError, match="argument 0"):
        kernel((1,), (64,), (x.view("u1"), y, 45))


def test_shuffles_votes_and_atomics_between_some_of_the_lanes():
    t = np.arange(64)
    inc, votes, (down, up) = np.zeros(1, "u4"), np.zeros(64, "u4"), np.zeros((2, 64), "i4")
    module().get_function("lanes")((2,), (64,), (inc, down, up, votes))
    assert inc == 128 % 10
    assert (down == np.where(t % 8 < 5, t + 3, t) + np.where(t % 2, 1000 * (t ^ 2), 0)).all()
    assert (up == np.where(t % 32, t - 1, t) + np.where(t % 2, 0, 1000 * (t ^ 2))).all()
    for w in (0, 32):
        assert votes[w] == sum(1 << lane % 32 for lane in range(w, w + 32) if lane % 3 == 0)


def test_arguments_are_checked_by_the_kernels_own_types():
    kernel, x, n = module().get_function("total"), np.zeros(3, "f4"), np.int64(3)
    good = (x, x.copy(), np.zeros(1, "u4"), x.copy(), n)
    for words, at, bad in [("argument 0", 0, x.astype("f8")), ("argument 4", 4, np.int32(3)), ("argument 4", 4, 3.0),
                           ("argument 2", 2, np.zeros(1, "i4")), ("argument 3", 3, 5)]:
        with pytest.raises(TypeError, match=words):
            kernel((1,), (32,), (*good[:at], bad, *good[at + 1 :]))
    with pytest.raises(TypeError, match="takes 5"):
        kernel((1,), (32,), good[:4])
    for grid, block, shared in [((0,), (32,), 0), ((1,), (2048,), 0), ((1, 70000), (32,), 0), ((1,), (32,), 50000)]:
        with pytest.raises(ValueError, match=r"no GPU|shared memory"):
            kernel(grid, block, good, shared_mem=shared)
    with pytest.raises(KeyError, match="no kernel 'other'"):
        module().get_function("other")


MISUSE = [  # each on two lines
    ("every thread left waits, line {} and line {}", "if (t % 32 < 16) __syncthreads();", "else __syncwarp();"),
    ("every thread left waits, line {} and line {}", "if (t < 32) __syncthreads();", "else __syncthreads();"),
    ("not in its mask", "if (t < 8)", "__syncwarp(0xfu);"),
    ("no part", "if (t % 32 < 8)", "a[t] = __shfl_down_sync(0xffu, t, 4);"),
    ("every thread left waits", "if (t % 32 < 8) a[t] = __shfl_xor_sync(~0u, t, 4);", "else __syncthreads();"),
    ("the stack is full", "volatile char much[70000]; for (int i = 0; i < 70000; i++)", "much[i] = 1;"),
]


@pytest.mark.parametrize("number", range(len(MISUSE)))
def test_barriers_and_shuffles_used_wrongly_are_found(number):
    head = 'extern "C" __global__ void k{}(int *a) {{ const int t = threadIdx.x; '
    made = module("".join(head.format(i) + "\n".join(f[1:]) + " }\n" for i, f in enumerate(MISUSE)))
    with pytest.raises(Finding) as found:
        made.get_function(f"k{number}")((2,), (64,), (np.zeros(64, "i4"),))
    assert MISUSE[number][0].format(2 * number + 1, 2 * number + 2) in str(found.value)


def test_a_thread_that_has_ended_is_not_waited_for():
    made = module("""extern "C" __global__ void k(int *a, int n) { __shared__ int s[64]; const int t = threadIdx.x;
        if (t >= n) return; s[t] = t; __syncthreads(); a[t] = s[n - 1 - t]; }""")
    made.get_function("k")((3,), (64,), (a := np.zeros(64, "i4"), 45))
    assert (a[:45] == np.arange(45)[::-1]).all()


# --- sanitizers ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("sanitize", ["thread", "address,undefined"])
def test_right_kernels_are_clean(sanitize):
    made = module(TEXT, "float32", sanitize)
    for n, blocks, threads in [(1, 1, 32), (100, 3, 64), (200, 4, 96)]:
        total(made, n, blocks, threads)
    turn(made, 9, 20)


PLANTED = [
    ("no barrier before the sum of the warps", "thread", "= v;\n    __syncthreads();\n    v =", "= v;\n    v ="),
    ("no barrier after the tile", "thread", "cols + j];\n    __syncthreads();", "cols + j];"),
    ("no fence before the counter", "thread", "__threadfence();\n        last =", "last ="),
    ("the fence after the counter", "thread",
     "__threadfence();\n        last = atomicAdd(counter, 1u) == gridDim.x - 1;",
     "last = atomicAdd(counter, 1u) == gridDim.x - 1;\n        __threadfence();"),
    ("a plain sum across blocks", "thread", "partial[blockIdx.x] = v;", "*out += v;"),
    ("an element past the end", "address,undefined", "i < n; i", "i <= n; i"),
    ("a shared array that is too small", "address,undefined", "part[32]", "part[1]"),
    ("a row of the tile too few", "address,undefined", "tile[8][9]", "tile[7][9]"),
    ("a number that overflows", "address,undefined", "float v = 0;\n", "float v = int(n) + 2147483600 == 7;\n"),
]


@pytest.mark.parametrize(("what", "sanitize", "old", "new"), PLANTED, ids=[p[0] for p in PLANTED])
def test_planted_faults_are_found(what, sanitize, old, new):
    assert TEXT.count(old) == 1, what
    made = module(TEXT.replace(old, new), "float32", sanitize)
    with pytest.raises(Finding, match=r"data race|overflow|out of bounds") as found:
        turn(made, 9, 20) if "tile" in what else total(made, 100, 3, 64)
    assert "kernel.cu" in str(found.value), "the report names the line"


def test_a_shuffle_orders_no_memory():
    text = """extern "C" __global__ void k(int *a) { __shared__ int s[32]; const int t = threadIdx.x; s[t] = t;
        /**/ a[t] = s[31 - t] + __shfl_xor_sync(0xffffffffu, t, 1); }"""
    for between, clean in [("__shfl_xor_sync(0xffffffffu, t, 1);", False), ("__syncwarp();", True)]:
        kernel = module(text.replace("/**/", between), "float32", "thread").get_function("k")
        if clean:
            kernel((1,), (32,), (np.zeros(32, "i4"),))
        else:
            with pytest.raises(Finding, match="data race"):
                kernel((1,), (32,), (np.zeros(32, "i4"),))


def test_parts_of_one_array_stay_parts_of_it_in_a_sanitized_run():
    text = """extern "C" __global__ void k(const int *a, int *b, int n) {
        if (threadIdx.x < n) b[threadIdx.x] = 2 * a[threadIdx.x]; }"""
    kernel, a = module(text, "float32", "address,undefined").get_function("k"), np.arange(9, dtype="i4")
    kernel((1,), (32,), (a, a, 9))
    kernel((1,), (32,), (a[:4], a[4:8], 4))
    assert (a[:8] == [0, 2, 4, 6, 0, 4, 8, 12]).all()
    kernel((1,), (32,), (a[5:7], a[6:], 1))
    assert a[6] == 8


# --- streams, capture, waiting ---------------------------------------------------------------------------------

@pytest.fixture
def increase(cupy):
    return cupy.ElementwiseKernel("", "T x", "x += 1", "increase")


def test_what_is_captured_is_made_by_the_replay_alone(cupy, increase):
    x, stream = cupy.zeros(3), cupy.cuda.Stream(non_blocking=True)
    twice = cupy.RawModule(code='extern "C" __global__ void twice(double *x) { x[threadIdx.x] *= 2; }')
    kernel = twice.get_function("twice")
    with stream:
        stream.begin_capture()
        increase(x)
        kernel((1,), (3,), (x,))
        x += 1.0
        x[0] = x[1]
        graph = stream.end_capture()
    assert (host(x) == 0).all()
    assert [name for _, name, _ in graph.nodes] == ["increase", "twice", "add", "setitem"]
    graph.launch()
    graph.launch(stream)
    assert (host(x) == 9).all()
    assert cupy.cuda.get_current_stream().ptr == 0


def test_what_a_device_cannot_capture_is_refused(cupy, increase):
    x, stream = cupy.zeros((2, 2)), cupy.cuda.Stream(non_blocking=True)

    def ends():
        with stream:
            return stream.end_capture()

    for call in [lambda: cupy.empty(3), lambda: x + 1, lambda: cupy.sum(x), lambda: float(x[0, 0]),
                 stream.synchronize, lambda: x.copy(), lambda: cupy.cuda.Device(0).synchronize()]:
        with stream:
            stream.begin_capture()
            with pytest.raises(RuntimeError, match="capturing"):
                call()
        with pytest.raises(RuntimeError, match="previous error"):
            ends()
    for call, kind in [(lambda: x.get(), RuntimeError), (lambda: x.set(np.zeros((2, 2))), RuntimeError),
                       (lambda: x @ x, NotImplementedError), (lambda: cupy.matmul(x, x, out=x), NotImplementedError)]:
        with stream:
            stream.begin_capture()
            with pytest.raises(kind, match="captur"):
                call()
            increase(x)
        assert len(ends().nodes) == 1
    with pytest.raises(RuntimeError, match="not capturing"):
        stream.end_capture()
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.get_current_stream().begin_capture()


@pytest.mark.parametrize("kind", ["elementwise", "raw", "product"])
def test_a_graph_keeps_no_memory(cupy, increase, kind):
    """As CUDA's: what it was captured with must be kept by whoever replays it."""
    blas, stream = Blas(cupy), cupy.cuda.Stream(non_blocking=True)
    twice = cupy.RawModule(code='extern "C" __global__ void twice(float *x) { x[threadIdx.x] *= 2; }')
    x, kept = cupy.zeros(20, "f4"), cupy.zeros(20, "f4")
    blas.library.cublasSetStream_v2(blas.handle, ctypes.c_void_p(stream.ptr))
    with stream:
        stream.begin_capture()
        if kind == "elementwise":
            increase(x)
        elif kind == "raw":
            twice.get_function("twice")((1,), (20,), (x,))
        else:
            assert blas.gemm(x, kept, kept) == 0
        graph = stream.end_capture()
    part = x[3:]
    del x
    graph.launch()
    del part
    with pytest.raises(Finding, match="has been freed"):
        graph.launch()


def test_every_wait_is_counted(cupy):
    x = cupy.ones(3)
    cupy.asked.clear()
    assert [float(x[0]), int(x[1]), bool(x[2] == 1), x[0].item(), x.tolist()] == [1.0, 1, True, 1.0, [1.0] * 3]
    assert type(x.get()) is np.ndarray
    assert cupy.asked.waits == ["float()", "int()", "bool()", "item()", "tolist()", "get()"]
    cupy.asked.clear()
    y = cupy.where(x > 0, x, 0.0)[1:] * 2.0
    y += x[0]
    assert not cupy.asked.waits
    assert isinstance(y, HostArray)
    assert cupy.asked.count("generic") == 4
    with pytest.raises(TypeError, match="not on the device"):
        x + np.ones(3)
    with pytest.raises(TypeError, match="not on the device"):
        x[...] = np.ones(3)


def feed(cupy, fault):
    """Two batches through one pinned buffer and a stream of its own; the sums that the default stream sees."""
    pinned = sys.modules["cupyx"].empty_pinned(4, "f8")
    copies, work = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    batch, sums = cupy.zeros(4), cupy.zeros(2)
    add = cupy.ElementwiseKernel("raw T x, int64 at", "raw T sums", "sums[at] += x[i]", "add")
    copied, used = cupy.cuda.Event(disable_timing=True), cupy.cuda.Event()
    for step in range(2):
        if fault != "buffer":
            copied.synchronize()
        pinned[...] = step + 1
        if fault != "used":
            copies.wait_event(used)
        batch.set(pinned, stream=copies)
        copied.record(copies)
        with work:
            if fault != "copied":
                work.wait_event(copied)
            add(batch, step, sums, size=4)
            used.record()
    (copies if fault == "used" else work).synchronize()
    work.synchronize()
    return host(sums).tolist()


@pytest.mark.parametrize("fault", ["", "buffer", "used", "copied"])
def test_a_stream_that_is_late_shows_what_was_not_waited_for(fault, monkeypatch):
    assert feed(stand_in_for(monkeypatch), fault) == [4.0, 8.0], "at once, no fault shows"
    late = feed(stand_in_for(monkeypatch, deferred=True), fault)
    assert (late == [4.0, 8.0]) == (fault == ""), late


def test_the_package_finds_the_stand_in(monkeypatch):
    cupy = stand_in_for(monkeypatch)
    place = resolve("cupy:0")
    assert place.xp is cupy
    x = place.from_host(np.ones((2, 3), "f4"))
    assert x.data.ptr % 256 == 0
    assert backend_of(x).name == "cupy:0"
    assert place.memory() == cupy.machine.memory
    assert place.matmul_takes_out
    assert place.to_host(place.xp.sum(x, axis=0)).tolist() == [2.0] * 3


# --- products --------------------------------------------------------------------------------------------------

KINDS = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
PRODUCTS = [("float32", "float32", 68), ("float32", "float32", 77), ("float64", "float64", 70),
            ("float16", "float16", 68), ("float16", "float32", 68), ("float16", "float16", 64),
            ("bfloat16", "bfloat16", 68), ("bfloat16", "float32", 68)]


class Blas:
    """A handle, and cublasGemmEx with its arguments by name."""

    def __init__(self, cupy):
        self.library, self.handle = cupy.cublas, ctypes.c_void_p()
        assert self.library.cublasCreate_v2(ctypes.byref(self.handle)) == 0
        self.alpha, self.beta = ctypes.c_float(1.0), ctypes.c_float(0.0)

    def gemm(self, a, b, c, /, **changes):
        given = {"handle": self.handle, "transa": 0, "transb": 0, "m": 4, "n": 5, "k": 3,
                 "alpha": ctypes.byref(self.alpha), "a": ctypes.c_void_p(a.data.ptr), "a_type": 0, "lda": 4,
                 "b": ctypes.c_void_p(b.data.ptr), "b_type": 0, "ldb": 3, "beta": ctypes.byref(self.beta),
                 "c": ctypes.c_void_p(c.data.ptr), "c_type": 0, "ldc": 4, "compute": 68, "algorithm": -1}
        assert not changes.keys() - given.keys()
        return self.library.cublasGemmEx(*(given | changes).values())


def as_dtype(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


@pytest.mark.parametrize(("stored", "result", "compute"), PRODUCTS)
def test_products_of_every_type_and_turn(cupy, stored, result, compute):
    blas, kind, out = Blas(cupy), as_dtype(stored), as_dtype(result)
    number = {64: np.float16, 70: np.float64}.get(compute, np.float32)
    sizes = [(1, 1, 1), (4, 5, 3), (33, 2, 17)]
    for (m, n, k), turn_a, turn_b, beta in itertools.product(sizes, (0, 1), (0, 1), (0, 2)):
        a, b, c = values((m, k)).astype(kind), values((k, n)).astype(kind), values((m, n)).astype(out)
        if beta == 0:
            c[...] = np.nan
        # column order: what is stored is the transpose, with a leading dimension larger than it need be
        stored_as = (a if turn_a else a.T, b if turn_b else b.T, c.T)
        rows = [np.zeros((x.shape[0], x.shape[1] + 2), x.dtype) for x in stored_as]
        for x, full in zip(stored_as, rows, strict=True):
            full[:, :-2] = x
        da, db, dc = map(cupy.asarray, rows)
        alpha, plus = np.array([0.5], number), np.array([beta], number)
        assert blas.gemm(da, db, dc, transa=turn_a, transb=turn_b, m=m, n=n, k=k, a_type=KINDS[stored],
                         b_type=KINDS[stored], c_type=KINDS[result], lda=rows[0].shape[1], ldb=rows[1].shape[1],
                         ldc=rows[2].shape[1], alpha=ctypes.c_void_p(alpha.ctypes.data),
                         beta=ctypes.c_void_p(plus.ctypes.data), compute=compute) == 0
        want = 0.5 * (a.astype("f8") @ b.astype("f8")) + (beta * c.astype("f8") if beta else 0.0)
        tolerance = {2: 3e-2, 4: 1e-5, 8: 1e-13}[min(out.itemsize, 8)]
        np.testing.assert_allclose(host(dc)[:, :-2].T.astype("f8"), want, rtol=tolerance, atol=tolerance)
        assert (host(dc)[:, -2:] == 0).all()


INVALID, UNSUPPORTED = 7, 15


@pytest.mark.parametrize(("status", "changes"), [
    (1, {"handle": None}),
    (INVALID, {"lda": 3}), (INVALID, {"ldb": 2}), (INVALID, {"ldc": 3}), (INVALID, {"m": -1}), (INVALID, {"transa": 3}),
    (INVALID, {"transa": 1, "lda": 2}), (INVALID, {"transb": 1, "ldb": 4}), (INVALID, {"a_type": 5}),
    (INVALID, {"compute": 0}), (INVALID, {"algorithm": 60}), (INVALID, {"alpha": None}), (INVALID, {"c": None}),
    (UNSUPPORTED, {"compute": 70}), (UNSUPPORTED, {"b_type": 2}), (UNSUPPORTED, {"c_type": 2}),
    (UNSUPPORTED, {"a_type": 2, "b_type": 2, "compute": 77}), (UNSUPPORTED, {"a_type": 2, "b_type": 2, "c_type": 14}),
    (0, {"lda": 4}), (0, {"algorithm": 99}),
], ids=str)
def test_what_cublas_refuses_is_refused(cupy, status, changes):
    a, b, c = cupy.zeros(20, "f4"), cupy.zeros(20, "f4"), cupy.zeros(20, "f4")
    assert Blas(cupy).gemm(a, b, c, **changes) == status
    assert cupy.asked.count("product") == (status == 0)


def test_a_pointer_that_ctypes_would_cut_is_found(cupy):
    a, b, c = cupy.zeros(20, "f4"), cupy.zeros(20, "f4"), cupy.zeros(20, "f4")
    with pytest.raises(TypeError, match="argument 7"):
        Blas(cupy).gemm(a, b, c, a=1 << 40)


def test_a_product_is_captured_on_its_handles_stream(cupy):
    blas, stream = Blas(cupy), cupy.cuda.Stream(non_blocking=True)
    a, b, c = cupy.ones(12, "f4"), cupy.ones(15, "f4"), cupy.zeros(20, "f4")
    workspace = cupy.empty(1 << 10, "uint8").data.ptr
    assert blas.library.cublasSetStream_v2(blas.handle, ctypes.c_void_p(stream.ptr)) == 0
    for at, status in [(workspace + 8, INVALID), (workspace, 0)]:
        size = ctypes.c_size_t(1 << 9)
        assert blas.library.cublasSetWorkspace_v2(blas.handle, ctypes.c_void_p(at), size) == status
    assert blas.library.cublasSetMathMode(blas.handle, 3) == 0
    with stream:
        stream.begin_capture()
        assert blas.gemm(a, b, c) == 0
        graph = stream.end_capture()
    assert (host(c) == 0).all()
    a *= 2.0
    graph.launch()
    assert (host(c) == 6).all()
    assert blas.library.cublasDestroy_v2(blas.handle) == 0


# --- the device's compiler -------------------------------------------------------------------------------------

@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_takes_what_runs_here(cupy, architecture):
    scaled(cupy)(cupy.zeros(3), cupy.zeros(3), 3, 1.0, cupy.zeros(3), cupy.zeros(3, "int64"))
    [source] = [source for source, name in elementwise.seen.items() if name == "scaled" and "double" in source][:1]
    assert compile_for(elementwise.device_text(source), architecture)[:4] == b"\x7fELF"
    for dtype in ("float16", "float32"):
        types = (dtype, dtype, int, float, dtype, "int64")
        assert compile_for(scaled(cupy), architecture, types)[:4] == b"\x7fELF"
    for stored in ("bfloat16", "float16"):
        assert compile_for(module(TEXT, stored), architecture)[:4] == b"\x7fELF"


def test_nvrtc_says_what_is_wrong(cupy):
    with pytest.raises(ValueError, match='"wrong" is undefined'):
        compile_for(cupy.ElementwiseKernel("T x", "T y", "y = wrong", "broken"), 80, ("float32", "float32"))
    with pytest.raises(ValueError, match="NVRTC failed for sm_90"):
        compile_for('extern "C" __global__ void k(int *a) { a[0] = }', "sm_90")
