"""The library of kernels compiled for the CPU: what must not reach a kernel, its threads, and who chooses it.

That the kernels compute what they should: tests/test_kernels.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS
from xpdense.backend import resolve
from xpdense.ops import NativeOps, Ops, native, ops_for

pytestmark = pytest.mark.skipif(not native.available, reason="the kernels were not compiled at the installation")

NUMPY = resolve("numpy")
DTYPES = ["float32", "float64"]


@pytest.fixture(params=["baseline", "avx2", "avx512"], autouse=True)
def instruction_set(request):
    """Each set of vector instructions that this processor has."""
    got = native._native.use(request.param)
    if got != request.param:
        native._native.use("avx512")
        pytest.skip(f"this processor has no {request.param}")
    yield got
    native._native.use("avx512")


def test_a_row_number_outside_of_the_array_is_an_error():
    ops = NativeOps(NUMPY, "float32")
    for x in (np.ones((9, 5), np.float32), np.arange(9)):
        for bad in ([9], [-1]):
            with pytest.raises(IndexError, match="outside"):
                ops.gather(x, np.array(bad))


def test_wrong_arguments_of_the_library_itself_are_refused():
    call, number = native._native.call, native._native.kernels["add"]
    x = np.zeros(4, np.float32)
    assert call(number, 0, (x, x, x), (4,), ()) is True
    assert call(number, 1, (x, x, x), (4,), ()) is False, "float32 where float64 is wanted"
    assert call(number, 0, (x[::2], x, x), (2,), ()) is False, "not contiguous"
    for arguments in ((10**6, 0, (x,), (), ()), (number, 0, [x], (), ()), (number, 0, (x,) * 8, (), ()), (number,)):
        with pytest.raises((TypeError, ValueError)):
            call(*arguments)
    with pytest.raises(TypeError):
        call(number, 0, (3, x, x), (4,), ())


def test_a_training_is_the_same_with_and_without_the_kernels(instruction_set):
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((70, 5)), rng.integers(0, 3, 70)
    layers = [xd.Dense(9, "gelu"), xd.Dropout(0.2), xd.Residual([xd.LayerNorm(), xd.Dense(9, "mish")]), xd.BatchNorm(),
              xd.Dense(3)]
    losses = []
    for cls in (NativeOps, Ops):
        net = xd.DenseNetwork(layers, inputs=5, dtype="float64")
        net.ops = cls(NUMPY, "float64")
        losses.append(net.fit(x, y, loss="softmax_cross_entropy", epochs=5, batch_size=16)["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-10)


def test_an_argument_chooses(monkeypatch):
    for wanted, cls in (("native", NativeOps), ("generic", Ops)):
        for environment in ("native", "generic"):
            monkeypatch.setenv("XPDENSE_OPS", environment)
            net = xd.DenseNetwork([xd.Dense(3)], inputs=2, ops=wanted)
            assert type(net.ops) is cls, "the argument goes before the environment"
    with pytest.raises(xd.BackendError, match="serve CuPy arrays, and the network is on numpy"):
        xd.DenseNetwork([xd.Dense(3)], inputs=2, ops="cuda")
    with pytest.raises(xd.UnknownNameError, match="Known: auto, cuda, generic, native"):
        xd.DenseNetwork([xd.Dense(3)], inputs=2, ops="fast")
    monkeypatch.setattr(native, "available", False)
    assert type(xd.DenseNetwork([xd.Dense(3)], inputs=2, ops="generic").ops) is Ops
    with pytest.raises(xd.BackendError, match="install g"):
        xd.DenseNetwork([xd.Dense(3)], inputs=2, ops="native")
    monkeypatch.delenv("XPDENSE_OPS")
    assert type(xd.DenseNetwork([xd.Dense(3)], inputs=2).ops) is Ops


def test_the_environment_chooses():
    code = "import xpdense as xd; print(xd.backends()[0].ops)"
    for wanted in ("native", "generic"):
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XPDENSE_OPS": wanted}, text=True,
                              capture_output=True, check=True)
        assert done.stdout.strip() == wanted
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XPDENSE_OPS": "fast"}, text=True,
                          capture_output=True, check=False)
    assert "Known: auto, cuda, generic, native" in done.stderr
    assert isinstance(ops_for(NUMPY, "float32"), NativeOps) or os.environ.get("XPDENSE_OPS") == "generic"


# --- what must not reach a kernel --------------------------------------------------------------------------------

def both_ways(act):
    """What `act` gives with compiled ops, and what with the generic ones."""
    return [act(cls(NUMPY, "float32")) for cls in (NativeOps, Ops)]


def test_one_row_may_have_any_stride():
    wide = np.arange(60000, dtype=np.float32).reshape(20000, 3)
    for x in (wide[::10000][:1], np.array([1, 2, 3], np.float32)[None], wide[::-1][:1], np.zeros((4, 0), np.float32)):
        one, other = both_ways(lambda ops, x=x: ops.gather(x, np.zeros(2, np.int64)))
        np.testing.assert_array_equal(one, other)


def test_gather_takes_only_what_fits():
    x, ops = np.arange(12, dtype=np.float32).reshape(4, 3), NativeOps(NUMPY, "float32")
    np.testing.assert_array_equal(ops.gather(x, np.array([1, 2], np.int32)), x[1:3])
    small = np.zeros((1, 3), np.float32)
    np.testing.assert_array_equal(ops.gather(x, np.array([3, 3]), out=small), x[[3, 3]])
    np.testing.assert_array_equal(small, 0)


def test_what_extends_a_class_of_ours_is_not_taken_for_it():
    class Long(xd.Adam):
        def scalars(self, rate, step):
            return (*super().scalars(rate, step), *[1.0] * 400)

    class Forgetful(xd.Momentum):
        slots = ()

    class Other(xd.Huber):
        def __init__(self):
            self.alpha = 3.0
            super().__init__(0.1)

    p = np.ones(8, np.float32)
    for rule in (Long(0.1), xd.Adam(0.1)):
        state = {slot: np.zeros(8, np.float32) for slot in rule.slots}
        hyper = np.array((0.1, *rule.scalars(0.1, 1)), np.float32)
        results = both_ways(lambda ops, rule=rule, state=state, hyper=hyper: [
            q := p.copy(), ops.update(rule, q, p * 0.5, {k: v.copy() for k, v in state.items()}, hyper, (0.0, 8))][0])
        np.testing.assert_allclose(*results, rtol=1e-6)
    with pytest.raises(KeyError):
        NativeOps(NUMPY, "float32").update(Forgetful(0.1), p.copy(), p, {}, np.array([0.1], np.float32), (0.0, 8))
    z, t = np.array([[2.0]], np.float32), np.zeros((1, 1), np.float32)
    one, other = both_ways(lambda ops: ops.loss_and_gradient(Other(), z, t, None)[0])
    assert one == other
    noted = xd.Huber(0.5)
    noted.note = "x"
    assert NativeOps(NUMPY, "float32").loss_and_gradient(noted, z, t, None)[0] == pytest.approx(0.5 * (2.0 - 0.25))


def test_missing_short_and_read_only_arrays_go_to_the_generic_op():
    ops, x = NativeOps(NUMPY, "float32"), np.ones((2, 50), np.float32)
    with pytest.raises(TypeError):
        ops.dropout(x, 0.5, (0, 0), None)
    one = np.ones(1, np.float32)
    np.testing.assert_allclose(*both_ways(lambda o: o.scale_shift(x, one, one, one, one, 1e-5)), rtol=1e-6)
    rising = x * np.arange(50, dtype=np.float32)
    np.testing.assert_allclose(*both_ways(lambda o: o.normalize(rising, x[0], x[0], 0, 1e-5)[0]), rtol=1e-5, atol=1e-5)
    fixed = np.full((2, 3), -1.0, np.float32)
    fixed.flags.writeable = False
    np.testing.assert_array_equal(ops.activate(ACTIVATIONS["relu"], fixed, None)[0], np.zeros((2, 3)))
    assert (fixed == -1).all()
    assert native._native.call(native._native.kernels["add"], 0, (x, None, x), (100,), ()) is False


def test_a_replay_follows_what_a_callback_changes_between_epochs():
    class Decaying(xd.Callback):
        def __init__(self, rule):
            self.rule = rule

        def on_epoch_end(self, run):
            self.rule.weight_decay = 3.0

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((64, 4)), rng.standard_normal(64)
    sums = []
    for cls in (NativeOps, Ops):
        net, rule = xd.DenseNetwork([xd.Dense(1)], inputs=4), xd.SGD(0.1)
        net.ops = cls(NUMPY, "float32")
        net.fit(x, y, loss="squared_error", optimizer=rule, batch_size=8, epochs=4, callbacks=[Decaying(rule)])
        sums.append(np.abs(net.arena.to_host()["0.weight"]).sum())
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


# --- the second thread -------------------------------------------------------------------------------------------

SHARED = {"rows": 700, "cols": 1030, "size": 1_500_001}  # more than is worth a second thread, and no round numbers


def poison(shape, dtype):
    return np.full(shape, np.nan, dtype)


def large_results(dtype):
    """What every kernel that two threads share makes of large arrays."""
    rng, ops = np.random.default_rng(8), NativeOps(NUMPY, dtype)
    shape, size = (SHARED["rows"], SHARED["cols"]), SHARED["size"]
    z, da = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
    bias, dbias = rng.standard_normal(shape[1:]).astype(dtype), poison(shape[1:], dtype)
    results = [ops.gather(z, rng.integers(0, len(z), 900), out=poison((900, shape[1]), dtype))]
    for name in ("relu", "tanh", "gelu"):
        a, saved = ops.activate(ACTIVATIONS[name], z.copy(), bias)
        results += [a, ops.activate_backward(ACTIVATIONS[name], saved.copy(), da, dbias=dbias), dbias.copy()]
    for rule in (xd.Adam(0.1, weight_decay=0.1), xd.Momentum(0.1, clip_norm=1.0), xd.SGD(0.1)):
        p, g = rng.standard_normal(size).astype(dtype), rng.standard_normal(size).astype(dtype)
        state = {slot: np.abs(rng.standard_normal(size)).astype(dtype) for slot in rule.slots}
        hyper = np.array((0.1, *rule.scalars(0.1, 3)), dtype)
        ops.update(rule, p, g, state, hyper, (rule.weight_decay, 1_400_003))
        results += [p, *state.values()]
    return [a.tobytes() for a in results]


@pytest.fixture
def two_threads():
    before = native._native.use_threads(2)
    yield
    native._native.use_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_threads_make_the_same_bits_as_one(dtype, two_threads):
    native._native.use_threads(1)
    alone = large_results(dtype)
    assert native._native.use_threads(2) == 1
    assert all(large_results(dtype) == alone for _ in range(2))
    with ThreadPoolExecutor(3) as callers:  # one of them has the helper, the others work alone
        assert all(made == alone for made in callers.map(large_results, [dtype] * 3))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own_second_thread(two_threads, instruction_set):
    if instruction_set != "baseline":
        pytest.skip("once is enough")
    code = textwrap.dedent("""
        import os, sys, threading
        import numpy as np
        from xpdense import _native
        _native.use_threads(2)
        x = np.ones((2000, 2000), np.float32)

        def activate():
            z = x.copy()
            assert _native.call(_native.kernels["activate tanh"], 0, (z, None, z), z.shape, (0.0,))
            return z.tobytes()

        expected, going = activate(), True
        def keep_busy():
            while going:
                activate()
        busy = threading.Thread(target=keep_busy)
        busy.start()
        codes = []
        for _ in range(10):
            child = os.fork()
            if not child:
                os._exit(0 if activate() == expected else 1)
            codes.append(os.waitpid(child, 0)[1])
        going = False
        busy.join()
        sys.exit(any(codes))
    """)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"])
def test_one_thread_for_blas_is_one_thread_for_the_kernels(variable):
    code = "from xpdense import _native; print(_native.use_threads(1))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, variable: "1"}, text=True,
                          capture_output=True, check=True)
    assert done.stdout.strip() == "1"
