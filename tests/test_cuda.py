"""Training on CUDA: what a step asks of the device, graphs, 16-bit storage, batches from the host, the compiler.

On a GPU where one answers, else on a CPU that plays one (tests/cuda). The kernels themselves: tests/test_kernels.py.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from replaying import PAIRS, PLAIN, RICH, Looking, bits

import xpdense as xd
from xpdense.activations import ACTIVATIONS
from xpdense.backend import Backend, resolve
from xpdense.data.arrays import Rows
from xpdense.losses import LOSSES, SoftmaxCrossEntropy, as_loss
from xpdense.ops import CudaOps, Memory, Ops, cublas, cuda, cuda_kernels
from xpdense.optimizers import OPTIMIZERS, as_optimizer
from xpdense.step import TrainStep


def data(loss: str = "squared_error", rows: int = 75, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, 6)), as_loss(loss).sample_target(rng, rows, 3)


# --- what a step asks of the device ---------------------------------------------------------------------------------

class Asked:
    """What the host asked of the device."""

    launches: list[str]
    allocations: int
    waits: int


@contextlib.contextmanager
def watched(backend: Backend) -> Iterator[Asked]:
    """Counts of allocations and waits, and the names of launches where they can be had."""
    cupy, asked = cuda._cupy(), Asked()
    if hasattr(cupy, "asked"):
        cupy.asked.clear()
        yield asked
        asked.launches, asked.waits = list(cupy.asked.launches), len(cupy.asked.waits)
        asked.allocations = cupy.asked.count("allocate", "generic")  # a generic function allocates its result
        return
    import cupyx

    class Hook(cupy.cuda.MemoryHook):
        name, count = "count", 0

        def malloc_preprocess(self, **_: Any) -> None:
            self.count += 1

    with Hook() as hook, cupyx.allow_synchronize(False):  # a wait is an error there
        yield asked
    asked.launches, asked.waits, asked.allocations = [], 0, hook.count


@pytest.mark.parametrize("precision", ["full", "float16"])
@pytest.mark.parametrize("layers", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("loss", "weighted"), [("softmax_cross_entropy", True), ("squared_error", False)])
def test_a_step_neither_waits_for_the_device_nor_allocates(layers, loss, weighted, precision, cuda_backend):
    net = xd.DenseNetwork(layers, inputs=6, backend="cupy", precision=precision)
    with cuda_backend.active():
        x, y = data(loss, rows=16)
        y = y if y.ndim == 1 else y.astype(np.float32)
        weight = cuda_backend.from_host(np.ones(16, np.float32)) if weighted else None
        stored = cuda_backend.from_host(x.astype(net.ops.dtype))
        rows, memory = Rows(stored, cuda_backend.from_host(y), weight), Memory()
        some, state = cuda_backend.from_host(np.arange(8)), xd.Adam(clip_norm=1.0).begin(net.arena)

        def step(number: int) -> None:
            batch = rows.take(net.ops, some, memory)
            TrainStep(net, as_loss(loss), state)(batch, number, 1e-3)

        step(0), step(1)  # compile, and make all memory
        with watched(cuda_backend) as asked:
            step(2), step(3)
    assert asked.waits == 0
    assert asked.allocations == 0


def test_an_optimizer_step_is_one_launch_and_clipping_one_more(cuda_backend):
    for rule in map(as_optimizer, OPTIMIZERS):
        for clip in (None, 1.0):
            rule.clip_norm = clip
            net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
            with cuda_backend.active():
                state = rule.begin(net.arena)
                state.update(net.ops)
                with watched(cuda_backend) as asked:
                    state.update(net.ops)
            assert len(asked.launches) in (0, 1 if clip is None else 2)  # 0: a real device does not tell


# --- the same training -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layers", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("loss", "optimizer"), PAIRS)
def test_a_training_is_that_of_the_cpu(loss, optimizer, layers, cuda_backend):
    x, y = data(loss)
    losses = []
    for backend, ops in (("cupy", "cuda"), ("numpy", "generic")):
        net = xd.DenseNetwork(layers, inputs=6, backend=backend, dtype="float64", ops=ops)
        rule = as_optimizer(optimizer, learning_rate=xd.Cosine(0.01), clip_norm=1.0, weight_decay=0.01)
        history = net.fit(x, y, loss=loss, optimizer=rule, epochs=3, batch_size=16, validation=0.2,
                          sample_weight=np.linspace(0.1, 2.0, 75))
        losses.append((history["loss"], history["validation_loss"]))
        prediction = net.predict(x)
        assert isinstance(prediction, np.ndarray)
    np.testing.assert_allclose(*losses, rtol=1e-7)


# --- graphs ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("layers", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("loss", "optimizer"), PAIRS)
def test_replayed_and_eager_steps_give_the_same_bits(loss, optimizer, layers, cuda_backend):
    x, y = data(loss)
    runs = []
    for callbacks in ([], [Looking()]):
        net = xd.DenseNetwork(layers, inputs=6, backend="cupy")
        rule = as_optimizer(optimizer, learning_rate=xd.Cosine(0.01), clip_norm=1.0, weight_decay=0.01)
        history = net.fit(x, y, loss=loss, optimizer=rule, epochs=3, batch_size=8, callbacks=callbacks)
        runs.append((history["loss"], bits(net)))
        assert history.steps == 30
        assert history.replayed == (0 if callbacks else 28), "nine full batches an epoch and one smaller, two recorded"
        assert ("callback" in history.no_capture_reason) == bool(callbacks)
    assert runs[0] == runs[1]


def test_a_loss_that_is_not_finite_in_a_replay_is_found_at_its_step(cuda_backend):
    found = []
    for callbacks in ([], [Looking()]):
        x, y = data(rows=96)
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
        with pytest.raises(xd.NonFiniteLossError) as caught:
            net.fit(x, y, loss="squared_error", batch_size=4, epochs=20,
                    optimizer=xd.SGD(xd.Exponential(0.05, 1.25)), callbacks=callbacks)
        found.append((caught.value.step, caught.value.layer, caught.value.restored_step, bits(net)))
    assert found[0] == found[1]


def test_where_no_graph_can_be_captured_steps_are_made_from_python_and_it_says_so_once(cuda_backend, monkeypatch):
    cupy, (x, y) = cuda._cupy(), data()

    class Refusing(cupy.cuda.Stream):
        def begin_capture(self, mode=None):
            raise RuntimeError("no graphs here")

    runs = []
    for stream in (cupy.cuda.Stream, Refusing):
        monkeypatch.setattr(cupy.cuda, "Stream", stream)
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                history = net.fit(x, y, loss="squared_error", epochs=2, batch_size=8)
        runs.append(bits(net))
        messages = [str(w.message) for w in caught if "captured" in str(w.message)]
        assert len(messages) == (stream is Refusing)
        assert ("no graphs here" in history.no_capture_reason) == (stream is Refusing)
    assert runs[0] == runs[1]


def test_without_cublas_products_are_cupys_and_nothing_is_captured(cuda_backend, monkeypatch):
    def missing():
        raise OSError("libcublas.so.13: cannot open shared object file")

    monkeypatch.setattr(cublas, "library", missing)
    x, y = data()
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", dtype="float64")
    history = net.fit(x, y, loss="squared_error", epochs=2, batch_size=8)
    assert history.replayed == 0
    assert "libcublas" in history.no_capture_reason
    other = xd.DenseNetwork(PLAIN, inputs=6, backend="numpy", dtype="float64")
    np.testing.assert_allclose(history["loss"], other.fit(x, y, loss="squared_error", epochs=2, batch_size=8)["loss"],
                               rtol=1e-9)


# --- fewer bits ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_fewer_bits_train_nearly_alike(precision, cuda_backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 6))
    y = np.stack([x[:, 0] * x[:, 1], np.sin(x[:, 2]), x[:, 3]], axis=1)
    nets, ends = [], []
    for chosen in ("full", precision):
        net = xd.DenseNetwork([xd.Dense(32, "gelu"), xd.LayerNorm(), xd.Dense(3)], inputs=6, backend="cupy",
                              precision=chosen)
        history = net.fit(x, y, loss="squared_error", optimizer=xd.Adam(0.01), epochs=12, batch_size=25)
        assert history.replayed > 80
        ends.append(history["loss"][-1])
        nets.append(net)
    assert ends[0] < 0.5
    assert ends[1] == pytest.approx(ends[0], rel=0.1)
    narrow = nets[1]
    assert str(narrow.params["0.weight"].dtype) == "float32", "the weights themselves stay in float32"
    assert str(narrow.arena.working.dtype) == (narrow.ops.dtype if precision != "tf32" else "float32")
    prediction = narrow.predict(x)
    assert prediction.dtype == np.float32
    assert narrow.evaluate(x, y)["loss"] == pytest.approx(float(np.mean((prediction - y) ** 2)), rel=0.02)


def test_tf32_is_asked_of_cublas_and_only_where_it_is_wanted(cuda_backend, monkeypatch):
    asked = []
    monkeypatch.setattr(cublas.Products, "_handle", lambda self: asked.append(self._compute))
    monkeypatch.setattr(cublas, "_check", lambda *_: None)
    for precision in ("full", "tf32", "bfloat16"):
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", precision=precision)
        with cuda_backend.active(), contextlib.suppress(Exception):  # a real cuBLAS refuses a missing handle
            net.ops.matmul(net.ops.empty((2, 3)), net.ops.empty((3, 4)))
    assert asked == [68, 77, 68], "CUBLAS_COMPUTE_32F, CUBLAS_COMPUTE_32F_FAST_TF32"


def test_what_a_callback_writes_to_the_weights_is_what_the_next_step_reads(cuda_backend):
    class Zero(xd.Callback):
        def __init__(self, when):
            self.when = when

        def on_epoch_end(self, run):
            if self.when == "epoch":
                run.network.params["0.weight"][...] = 0.0

    class EveryStep(Zero):
        def on_step_end(self, run):
            run.network.params["0.weight"][...] = 0.0

    x, y = data()
    for callback in (Zero("epoch"), EveryStep("step")):
        losses = []
        for precision in ("full", "bfloat16"):
            net = xd.DenseNetwork([xd.Dense(3)], inputs=6, backend="cupy", precision=precision)
            history = net.fit(x, y, loss="squared_error", optimizer=xd.SGD(1e-9), epochs=2, batch_size=25,
                              callbacks=[callback])
            losses.append(history["loss"][1])
        assert losses[1] == pytest.approx(float(np.mean(y**2)), rel=0.01)
        assert losses[1] == pytest.approx(losses[0], rel=0.01)


def test_early_stopping_restores_the_weights_that_products_read(cuda_backend):
    class Spoil(xd.Callback):
        def on_epoch_end(self, run):
            if run.epoch == 2:
                run.network.params["0.weight"][...] += 100.0

    x, y = data(rows=100)
    net = xd.DenseNetwork([xd.Dense(3)], inputs=6, backend="cupy", precision="bfloat16")
    net.fit(x, y, loss="squared_error", epochs=6, batch_size=25, validation=0.2,
            callbacks=[xd.EarlyStopping(patience=2), Spoil()])
    with cuda_backend.active():
        working, params = (cuda_backend.to_host(a).astype(np.float32) for a in (net.arena.working, net.arena.params))
    np.testing.assert_allclose(working, params, rtol=2.0**-8)
    assert np.abs(params).max() < 50


def test_a_second_training_in_float16_is_as_the_first(cuda_backend):
    x, y = data()
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", precision="float16")
    start, runs = net.arena.to_host(), []
    for _ in range(2):
        for name, value in start.items():
            net.arena.write(name, value)
        net.fit(x * 30, y * 30, loss="squared_error", epochs=2, batch_size=25)
        runs.append(bits(net))
    assert runs[0] == runs[1], "the loss scale begins anew"


def test_a_graph_keeps_the_memory_that_it_works_on(cuda_backend):
    x, y = data()
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
    with cuda_backend.active():
        for rows in (1, 2, 4):  # with these three shapes and the full batch's, the smaller batch makes it forget all
            net.forward(cuda_backend.from_host(np.zeros((rows, 6), np.float32)), train=True)
    history = net.fit(x, y, loss="squared_error", epochs=4, batch_size=8)
    other = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
    other.fit(x, y, loss="squared_error", epochs=4, batch_size=8, callbacks=[Looking()])
    assert history.replayed
    assert bits(net) == bits(other)


def test_arrays_whose_rows_lie_apart_train_and_replay_alike(cuda_backend):
    x, y = data()
    runs = []
    for spread in (False, True):
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
        with cuda_backend.active():
            given = [cuda_backend.from_host(np.ascontiguousarray(a.astype(np.float32).T)).T if spread else
                     cuda_backend.from_host(a.astype(np.float32)) for a in (x, y)]
        history = net.fit(*given, loss="squared_error", epochs=2, batch_size=8)
        assert history.replayed
        runs.append(bits(net))
    assert runs[0] == runs[1]


def test_weights_that_a_user_writes_are_those_that_predict(cuda_backend):
    net = xd.DenseNetwork([xd.Dense(1)], inputs=2, backend="cupy", precision="bfloat16")
    net.params["0.weight"][...] = 0.5
    np.testing.assert_array_equal(net.predict(np.ones((1, 2))), [[1.0]])


def test_a_step_that_overflows_float16_is_left_out_and_the_scale_halved(cuda_backend, monkeypatch):
    monkeypatch.setattr(cuda, "_GROWTH", 3)
    net = xd.DenseNetwork([xd.Dense(1, bias=False)], inputs=1, backend="cupy", precision="float16")
    ops, rule = net.ops, xd.Momentum(0.5)
    with cuda_backend.active():
        state = rule.begin(net.arena)
        ops.assign(ops.loss_scale, (2.0**15, 2.0))
        net.params["0.weight"][...] = 1.0
        net.arena.refresh()
        before = bits(net)
        batch = Rows(cuda_backend.from_host(np.full((1, 1), 100.0, np.float16)),
                     cuda_backend.from_host(np.zeros((1, 1), np.float32)), None)
        TrainStep(net, as_loss("squared_error"), state)(batch, 0, 1e-3)
        assert bits(net) == before, "the gradient 2 * 100 * 100 * 2**15 overflows"
        assert not cuda_backend.to_host(state.buffers["velocity"]).any()
        np.testing.assert_array_equal(cuda_backend.to_host(ops.loss_scale), [2.0**14, 0.0])
        small = Rows(cuda_backend.from_host(np.full((1, 1), 2.0**-10, np.float16)), batch.y, None)
        for step in range(4):
            TrainStep(net, as_loss("squared_error"), state)(small, step, 1e-3)
        np.testing.assert_array_equal(cuda_backend.to_host(ops.loss_scale), [2.0**15, 1.0])
        moved = 1.0 - cuda_backend.to_host(net.params["0.weight"])[0, 0]
        assert moved == pytest.approx(1e-3 * 2.0 * 2.0**-20 * (1 + 1.9 + 2.71 + 3.439), rel=0.1, abs=2.0**-23)


def test_fewer_bits_need_cuda_and_float32():
    x, y = data()
    with pytest.raises(xd.BackendError, match="needs CUDA's kernels, and the network is on numpy"):
        xd.DenseNetwork(PLAIN, inputs=6, precision="float16").fit(x, y, loss="squared_error")
    with pytest.raises(xd.BackendError, match="needs CUDA's kernels, and the network is on numpy"):
        xd.DenseNetwork(PLAIN, inputs=6, precision="tf32", backend="numpy")
    with pytest.raises(xd.ParameterError, match="goes with dtype 'float32'"):
        xd.DenseNetwork(PLAIN, inputs=6, precision="tf32", dtype="float64")
    with pytest.raises(xd.UnknownNameError, match="Known: bfloat16, float16, full, tf32"):
        xd.DenseNetwork(PLAIN, inputs=6, precision="half")


def test_features_that_overflow_float16_are_refused(cuda_backend):
    x, y = data()
    x[3, 2] = 1e5
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", precision="float16")
    with pytest.raises(xd.DataError, match=r"100000 \(row 3, column 2\), which overflows float16"):
        net.fit(x, y, loss="squared_error")


# --- batches from the host -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_data_that_would_fill_the_device_stay_on_the_host_and_train_to_the_same_bits(weighted, cuda_backend,
                                                                                     monkeypatch):
    x, y = data("softmax_cross_entropy", rows=300)
    weight = np.linspace(0.5, 1.5, 300) if weighted else None
    runs = []
    for exceeds in (False, True):
        monkeypatch.setattr(Backend, "exceeds_half_free", lambda self, size, exceeds=exceeds: exceeds)
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
        history = net.fit(x, y, loss="softmax_cross_entropy", epochs=3, batch_size=16, validation=0.2,
                          sample_weight=weight, metrics=["accuracy"], callbacks=[Looking()])
        runs.append((history["loss"], history["validation_loss"], history["validation_accuracy"], bits(net)))
    assert runs[0] == runs[1]
    history = net.fit(x, y, loss="softmax_cross_entropy", epochs=1, batch_size=16)
    assert "stay on the host" in history.no_capture_reason


def test_copies_run_beside_the_steps_and_wait_for_each_other_where_they_must(cuda_backend, monkeypatch):
    """On a device whose streams do nothing until somebody waits for them."""
    if not hasattr(cuda._cupy(), "asked"):
        pytest.skip("a real device decides by itself when it works")
    from emulator import stand_in_for

    source, rows = np.arange(40.0).reshape(20, 2), [np.array([i, 19 - i]) for i in range(6)]
    for copies_first in (True, False):
        cupy = stand_in_for(monkeypatch, deferred=True)
        twice, compute = cupy.ElementwiseKernel("T x", "T y", "y = 2 * x", "twice"), cupy.cuda.Stream(non_blocking=True)
        with compute:
            feed, results = cuda._Feed(cupy, (2, 2), source.dtype), [cupy.empty((2, 2)) for _ in rows]
            for some, result in zip(rows, results, strict=True):
                twice(feed.next(source, some), result)
            for stream in (feed._stream, compute) if copies_first else (compute, feed._stream):
                stream.synchronize()
        for some, result in zip(rows, results, strict=True):
            np.testing.assert_array_equal(result.get(), 2 * source[some])
    monkeypatch.setattr(Backend, "exceeds_half_free", lambda self, size: True)
    x, y = data(rows=200)
    runs = []
    for deferred in (False, True):
        cupy = stand_in_for(monkeypatch, deferred)
        monkeypatch.setattr(cublas, "library", lambda cupy=cupy: cupy.cublas)
        net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
        net.fit(x, y, loss="squared_error", epochs=2, batch_size=16)
        runs.append(bits(net))
    assert runs[0] == runs[1]


def test_the_data_go_to_the_device_by_its_free_memory(cuda_backend, monkeypatch):
    free = 1 << 24
    cupy = cuda._cupy()
    monkeypatch.setattr(cupy.cuda.runtime, "memGetInfo", lambda: (free, free))
    cupy.get_default_memory_pool().free_all_blocks()
    assert not cuda_backend.exceeds_half_free(free // 2 - 1000)
    assert cuda_backend.exceeds_half_free(free)
    assert not resolve("numpy").exceeds_half_free(1 << 60)


# --- the compiler, and races -----------------------------------------------------------------------------------------

def every_kernel(ops: CudaOps) -> None:
    """Each op in each of its forms, once."""
    storage, wide = np.dtype(ops._storage), np.dtype(ops.wide)

    def put(values: Any, dtype: Any = storage) -> Any:
        return ops.backend.from_host(np.asarray(values).astype(dtype))

    def ones(*shape: int, dtype: Any = storage) -> Any:
        return put(np.ones(shape), dtype)

    for activation in ACTIVATIONS.values():
        for bias in (ones(5), None):
            _, saved = ops.activate(activation, ones(7, 5), bias)
        for dbias in (ones(5), None):
            ops.activate_backward(activation, saved, ones(7, 5), dbias=dbias)
    ops.activate_backward(ACTIVATIONS["relu"], ones(300, 5), ones(300, 5), dbias=ones(5))
    for loss in (*(cls() for cls in LOSSES.values()), SoftmaxCrossEntropy(0.1)):
        for weight in (None, ones(7, dtype=wide)):
            ops.loss_and_gradient(loss, ones(7, 5), ones(7, 5, dtype=wide), weight)
            if loss.labels:
                ops.loss_and_gradient(loss, ones(7, 5), put(np.arange(7) % 5, np.int64), weight)
    for axis in (-1, -2):
        _, saved = ops.normalize(ones(7, 5), ones(5), ones(5), axis, 1e-5)
        ops.normalize_backward(saved, ones(7, 5), ones(5), axis, ones(5), ones(5))
    ops.scale_shift(ones(7, 5), *(ones(5, dtype=wide) for _ in range(2)), ones(5), ones(5), 1e-5)
    ops.dropout(ones(7, 5), 0.5, (1, 2), put([3], np.int64))
    for x in (ones(7, 5), ones(7, dtype=wide), put(np.arange(7), np.int64)):
        ops.gather(x, put([1, 2], np.int64))
    ops.add(ones(7, 5), ones(7, 5))
    ops.blend(ones(5, dtype=wide), ones(5, dtype=wide), 0.1)
    ops.penalize(ones(dtype=wide), ones(7, dtype=wide), 0.1)
    for few in (ones(3, dtype=wide), put([1], np.int64)):
        ops.assign(few, (1.0,))
        ops.move(few, few)
        ops._tables, ops._row = (few,), put([0], np.int64)
        ops.move(few, few + 0)
        ops.move(few + 0, few)
        ops._tables = ()
    cuda_kernels.increase(ops._cp)(put([0], np.int64))
    working = None if storage == wide else ones(2200)
    for rule in map(as_optimizer, OPTIMIZERS):
        for rule.clip_norm, rule.weight_decay in ((None, 0.0), (1.0, 0.1)):
            state = {slot: ones(2200, dtype=wide) for slot in rule.slots}
            hyper = put((0.01, *rule.scalars(0.01, 1)), wide)
            ops.update(rule, ones(2200, dtype=wide), ones(2200), state, hyper,
                       (rule.weight_decay, 1000), working)


def ops_in(cuda_backend: Backend, dtype: str) -> CudaOps:
    narrow = dtype in ("float16", "bfloat16")
    return CudaOps(cuda_backend, "float32" if narrow else dtype, dtype if narrow else "full")


@pytest.fixture
def stand_in(cuda_backend):
    cupy = cuda._cupy()
    if not hasattr(cupy, "asked"):
        pytest.skip("for the CPU that plays a device")
    return cupy


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_every_kernel_compiles_for_two_generations_of_devices(dtype, cuda_backend, stand_in, monkeypatch):
    import elementwise
    from emulator import compile_for

    texts: dict[str, set[str]] = {}  # of RawModules
    sources: dict[str, str] = {}  # of ElementwiseKernels

    class Raw:
        def __init__(self, code, options=()):
            self.code = code

        def get_function(self, name):
            texts.setdefault(self.code, set()).add(name)
            return lambda *_: None

    def collect(kernel, args, size, stream=None):
        given = [(a.dtype, a.ndim if p.raw else 1, a.flags.c_contiguous) if isinstance(a, np.ndarray) else None
                 for a, p in zip(args, kernel.params, strict=False)]  # the last is CuPy's index
        if all(a is None or a[2] for a in given):
            sources[elementwise.source(kernel, given, 1)] = kernel.name

    monkeypatch.setattr(stand_in, "RawModule", Raw)
    monkeypatch.setattr(stand_in.machine, "elementwise", collect)
    every_kernel(ops_in(cuda_backend, dtype))
    names = {name.removeprefix("xpdense_") for found in [*texts.values(), sources.values()] for name in found}
    assert {"column_sums", "loss", "normalize_rows", "normalize_rows_backward", "normalize_columns",
            "normalize_columns_backward", "clip", "update_adam", "activate_gelu", "dropout", "gather"} <= names
    assert len(texts) > 30
    assert len(sources) > 60
    includes = {line for source in sources for line in re.findall(r"(?m)^ *#include .*", source)}
    together = [f"namespace k{i} {{\n{re.sub(rf'{name}(?=[(])', f'{name}_{i}', source)}\n}}"
                for i, (source, name) in enumerate(sources.items())]  # one text: CuPy's headers are read once
    together = [*includes, *(re.sub(r"(?m)^ *#include .*", "", source) for source in together)]
    for text in (*texts, elementwise.device_text("\n".join(together))):
        for architecture in ("sm_80", "sm_90"):
            assert compile_for(text, architecture)[:4] == b"\x7fELF"


def raw_kernels(ops: CudaOps) -> None:
    """Each kernel whose threads work together, at sizes that leave threads and blocks without work."""
    def ones(*shape: int, dtype: Any = np.float32) -> Any:
        return ops.backend.from_host(np.ones(shape, dtype))

    ops.activate_backward(ACTIVATIONS["tanh"], ones(130, 33), ones(130, 33), dbias=ones(33))
    for loss, target in (("softmax_cross_entropy", np.arange(17) % 5), ("huber", np.ones((17, 5), np.float32))):
        ops.loss_and_gradient(as_loss(loss), ones(17, 5), ops.backend.from_host(target), ones(17))
    for axis in (-1, -2):
        _, saved = ops.normalize(ones(9, 35), ones(35), ones(35), axis, 1e-5)
        ops.normalize_backward(saved, ones(9, 35), ones(35), axis, ones(35), ones(35))
    rule = xd.SGD(clip_norm=1.0)
    ops.update(rule, ones(4100), ones(4100), {}, ones(1), (0.0, 0))


@pytest.mark.parametrize("sanitize", ["thread", "address,undefined"])
def test_kernels_whose_threads_work_together_have_no_race_and_stay_in_bounds(sanitize, cuda_backend, stand_in):
    stand_in.sanitize = sanitize
    raw_kernels(ops_in(cuda_backend, "float32"))
    assert {"column_sums", "loss", "normalize_rows", "normalize_columns", "clip"} <= set(stand_in.asked.launches)


@pytest.mark.parametrize(("file", "old", "new"), [
    ("blocks.h", "    part[at] = v;\n", "    part[at] = v;\n#undef __syncthreads\n#define __syncthreads()\n"),
    ("blocks.h", "    __threadfence();\n    __syncthreads();\n    if (threadIdx.x == 0", "    if (threadIdx.x == 0"),
    ("columns.cu", "if (!is_last(counter + blockIdx.x, gridDim.y, &last)) return;", "last = 1;"),
])
def test_a_missing_barrier_is_found(file, old, new, cuda_backend, stand_in, monkeypatch, tmp_path):
    from emulator import Finding

    for source in cuda_kernels.SOURCES.rglob("*.*"):
        copy = tmp_path / source.relative_to(cuda_kernels.SOURCES)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(source.read_bytes())
    text = (tmp_path / "cuda" / file).read_text()
    assert old in text
    (tmp_path / "cuda" / file).write_text(text.replace(old, new))
    monkeypatch.setattr(cuda_kernels, "SOURCES", tmp_path)
    for cached in (cuda_kernels.text, cuda_kernels.raw):
        cached.cache_clear()
    stand_in.sanitize = "thread"
    try:
        with pytest.raises(Finding, match="data race"):
            raw_kernels(ops_in(cuda_backend, "float32"))
    finally:
        for cached in (cuda_kernels.text, cuda_kernels.raw):
            cached.cache_clear()


def test_cuda_ops_are_what_cupy_arrays_get(cuda_backend):
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy")
    assert type(net.ops) is CudaOps
    assert type(xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", ops="generic").ops) is Ops
    with pytest.raises(xd.BackendError, match="ops='native' serve NumPy arrays, and the network is on cupy:0"):
        xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", ops="native")
    net = xd.DenseNetwork(PLAIN, inputs=6, backend="cupy", ops="cuda")
    before = net.predict(np.ones((2, 6), np.float32))
    with pytest.raises(xd.BackendError, match="serve CuPy arrays, and the network is on numpy"):
        net.to("numpy")
    np.testing.assert_array_equal(net.predict(np.ones((2, 6), np.float32)), before)
    row = next(row for row in xd.backends() if row.name == "cupy:0")
    assert (row.ops, row.replays) == ("cuda", True)
