"""The compiled kernels agree with the generic ops in float64, at shapes and values that loops get wrong.

Tolerances follow from the element type: `eps` of it, times the operations a result has been through. Outputs are
poisoned first, so that an element which is not written is seen.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, leaky_relu
from xpdense.backend import resolve
from xpdense.losses import LOSSES, Huber, Quantile, SoftmaxCrossEntropy
from xpdense.ops import NativeOps, Ops, native, ops_for
from xpdense.optimizers import OPTIMIZERS

pytestmark = pytest.mark.skipif(not native.available, reason="the kernels were not compiled at the installation")

NUMPY = resolve("numpy")
EXACT = Ops(NUMPY, "float64")
DTYPES = ["float32", "float64"]
SHAPES = [(1, 1), (1, 7), (5, 1), (3, 16), (7, 33), (130, 67)]
ACTIVATIONS_TRIED = [*ACTIVATIONS.values(), leaky_relu(0.3), elu(0.5)]


@pytest.fixture(params=["baseline", "avx2", "avx512"], autouse=True)
def instruction_set(request):
    """Each set of vector instructions that this processor has."""
    got = native._native.use(request.param)
    if got != request.param:
        native._native.use("avx512")
        pytest.skip(f"this processor has no {request.param}")
    yield got
    native._native.use("avx512")


def values(rng, shape, dtype, scale=3.0):
    """Normal values with a few awkward ones among them."""
    x = rng.standard_normal(shape) * scale
    awkward = [0.0, -0.0, 1e-30, -1e-30, 20.0, -20.0, 90.0, -90.0, 1e4, -1e4]
    flat = x.reshape(-1)
    where = rng.permutation(flat.size)[: min(len(awkward), flat.size // 3)]
    flat[where] = np.array(awkward)[: len(where)]
    return x.astype(dtype)


def poison(shape, dtype):
    return np.full(shape, np.nan, dtype)


def agree(got, exact, dtype, ulps, scale=1.0):
    """Within `ulps` roundings of the larger of the exact value and `scale`, elementwise; what is under the smallest
    normal number may be zero."""
    info = np.finfo(dtype)
    exact = np.asarray(exact, np.float64)
    limit = ulps * info.eps * np.maximum(np.abs(exact), scale) + info.tiny
    error = np.abs(np.asarray(got, np.float64) - exact)
    assert np.isfinite(got).all()
    assert (error <= limit).all(), f"{(error / limit).max():.3g} times the tolerance"


def value_scale(activation, z):
    """What the roundings inside a formula are relative to, where that is not its result."""
    if activation.name == "hard_sigmoid":
        return 0.5  # the sum z / 6 + 1 / 2
    return np.abs(z) if activation.saves == "input" else 1e-3 * np.abs(z)  # z times what was rounded near 1


def derivative_scale(activation, saved):
    """The same for the derivative: what multiplies 1 - t * t, in which the rounding of t near 1 is left over."""
    near = np.minimum(np.abs(saved), 6.0)  # beyond, t is 1 and nothing is left
    if activation.name == "gelu_tanh":
        return 1.0 + 0.4 * near * (1.0 + 0.134 * near**2)
    return 1.0 + (near if activation.saves == "input" else 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS_TRIED, ids=lambda a: f"{a.name}{list(a.config.values()) or ''}")
def test_activations_and_their_derivatives(activation, dtype):
    rng, ops = np.random.default_rng(1), NativeOps(NUMPY, dtype)
    for shape in SHAPES:
        z, bias = values(rng, shape, dtype), values(rng, shape[1:], dtype, 0.5)
        for b in (bias, None):
            wide = z.astype(np.float64) if b is None else (z + b).astype(np.float64)
            a, saved = ops.activate(activation, z.copy(), b, out=poison(shape, dtype))
            exact, _ = EXACT.activate(activation, wide.copy(), None)
            agree(a, exact, dtype, 8, scale=value_scale(activation, wide))
        da, dbias = values(rng, shape, dtype), poison(shape[1:], dtype)
        kept = saved.astype(np.float64)
        exact_bias = np.empty(shape[1:])
        exact = EXACT.activate_backward(activation, kept, da.astype(np.float64), dbias=exact_bias)
        for out in (poison(shape, dtype), saved):
            dz = ops.activate_backward(activation, saved, da, out=out, dbias=dbias)
        steep = np.abs(da.astype(np.float64)) * derivative_scale(activation, kept)
        agree(dz, exact, dtype, 16, scale=steep)
        agree(dbias, exact_bias, dtype, 16 * shape[0], scale=np.sum(steep, axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("loss", [*(cls() for cls in LOSSES.values()), SoftmaxCrossEntropy(0.1), Huber(0.5),
                                  Quantile(0.9)], ids=repr)
def test_losses_and_their_gradients(loss, weighted, dtype):
    rng, ops = np.random.default_rng(2), NativeOps(NUMPY, dtype)
    for rows, outputs in SHAPES:
        z = values(rng, (rows, outputs), dtype, 2.0)
        if loss.name == "poisson":
            z = np.minimum(z, 20.0)
        targets = [loss.sample_target(rng, rows, outputs)]
        if loss.labels:
            soft = rng.uniform(0.1, 1.0, (rows, outputs))
            targets.append(soft / soft.sum(axis=1, keepdims=True))
        weight = np.concatenate([[0.0], rng.uniform(0.5, 2.0, rows)])[:rows].astype(dtype) if weighted else None
        for target in targets:
            target = target.astype(np.int64 if target.ndim == 1 else dtype)
            value, dz = loss(ops, z, target, weight, poison(z.shape, dtype))
            exact = target if target.ndim == 1 else target.astype(np.float64)
            exact_value, exact_dz = EXACT.loss_and_gradient(
                loss, z.astype(np.float64), exact, None if weight is None else weight.astype(np.float64))
            size = 1.0 + np.abs(z.astype(np.float64)).max() ** (2 if loss.name == "squared_error" else 1)
            if loss.name == "poisson":
                size = np.exp(20.0)
            agree(value, exact_value, dtype, 8 * outputs, scale=size)
            agree(dz, exact_dz, dtype, 16, scale=size / rows / outputs)


def test_rows_without_weight_do_not_count_even_where_they_are_infinite():
    ops = NativeOps(NUMPY, "float32")
    z, target = np.array([[1e30], [2.0]], np.float32), np.zeros((2, 1), np.float32)
    value, dz = ops.loss_and_gradient(xd.SquaredError(), z[1:], target[1:], np.ones(1, np.float32))
    assert value == 4.0
    value, dz = ops.loss_and_gradient(xd.SquaredError(), z * 0, target, np.zeros(2, np.float32))
    assert value == 0
    assert (dz == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True},
                                     {"weight_decay": 0.1, "decay_all": True}, {"clip_norm": 0.3}], ids=str)
@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers(cls, options, dtype):
    rng, ops, optimizer = np.random.default_rng(3), NativeOps(NUMPY, dtype), cls(0.01, **options)
    for size, decaying in ((1, 0), (7, 7), (100, 33), (1000, 512)):
        p = rng.standard_normal(size).astype(dtype)
        state = {slot: np.zeros(size, dtype) for slot in optimizer.slots}
        exact_p, exact_state = p.astype(np.float64), {slot: np.zeros(size) for slot in optimizer.slots}
        for step in (1, 2, 3):
            g = rng.standard_normal(size).astype(dtype)
            kept = g.copy()
            hyper = np.array((0.01, *optimizer.scalars(0.01, step)))
            ops.update(optimizer, p, g, state, hyper.astype(dtype), decaying)
            EXACT.update(optimizer, exact_p, g.astype(np.float64), exact_state, hyper, decaying)
            np.testing.assert_array_equal(g, kept)
        if cls.name != "lion":  # the sign of a sum near zero is rounding's; its momentum is compared
            agree(p, exact_p, dtype, 100)
        for slot in optimizer.slots:
            agree(state[slot], exact_state[slot], dtype, 200)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_and_loss_and_activation_has_its_kernel(name):
    ops = NativeOps(NUMPY, "float32")
    assert OPTIMIZERS[name]().kernel in ops._numbers
    assert {f"activate {a}" for a in ACTIVATIONS} <= ops._numbers.keys()
    assert {f"activate_backward {a}" for a in ACTIVATIONS} <= ops._numbers.keys()
    assert {cls.kernel for cls in LOSSES.values()} <= ops._numbers.keys()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [-1, -2], ids=["over features", "over the batch"])
def test_norms(axis, dtype):
    rng, ops = np.random.default_rng(4), NativeOps(NUMPY, dtype)
    for shape in SHAPES:
        x, dy = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
        gain, bias = (rng.standard_normal(shape[1:]).astype(dtype) for _ in range(2))
        wide = [a.astype(np.float64) for a in (x, gain, bias)]
        y, saved = ops.normalize(x, gain, bias, axis, 1e-2, out=poison(shape, dtype))
        exact_y, exact_saved = EXACT.normalize(*wide, axis, 1e-2)
        agree(y, exact_y, dtype, 128, scale=1.0)
        for got, exact in zip(saved, exact_saved, strict=True):
            assert got.shape == exact.shape
            agree(got, exact, dtype, 128)
        dgain, dbias = poison(shape[1:], dtype), poison(shape[1:], dtype)
        exact_dgain, exact_dbias = np.empty(shape[1:]), np.empty(shape[1:])
        dx = ops.normalize_backward(saved, dy, gain, axis, dgain, dbias, out=poison(shape, dtype))
        exact_dx = EXACT.normalize_backward(exact_saved, dy.astype(np.float64), wide[1], axis, exact_dgain, exact_dbias)
        agree(dx, exact_dx, dtype, 1024)
        agree(dgain, exact_dgain, dtype, 256 * shape[0])
        agree(dbias, exact_dbias, dtype, 16 * shape[0])
        variance = np.abs(rng.standard_normal(shape[1:])).astype(dtype)
        z = ops.scale_shift(x, bias, variance, gain, bias, 1e-5, out=poison(shape, dtype))
        agree(z, EXACT.scale_shift(*(a.astype(np.float64) for a in (x, bias, variance, gain, bias)), 1e-5), dtype, 64,
              scale=np.abs(z).max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_drops_the_same_elements(dtype):
    ops, generic = NativeOps(NUMPY, dtype), Ops(NUMPY, dtype)
    for shape in SHAPES:
        for step in (0, 5, 2**40 + 3):
            x, at = np.ones(shape, dtype), np.array([step])
            y = ops.dropout(x, 0.3, (123456789, 2), at, out=poison(shape, dtype))
            np.testing.assert_array_equal(y, generic.dropout(x, 0.3, (123456789, 2), at))


@pytest.mark.parametrize("dtype", [*DTYPES, "int64"])
def test_gather_and_add(dtype):
    rng, ops = np.random.default_rng(5), NativeOps(NUMPY, "float32" if dtype == "float32" else "float64")
    for x in (rng.standard_normal((9, 5)).astype(dtype), np.arange(9).astype(dtype)):
        rows = np.array([8, 0, 3, 3])
        np.testing.assert_array_equal(ops.gather(x, rows), x[rows])
        np.testing.assert_array_equal(ops.gather(x, rows, out=np.full((4, *x.shape[1:]), 7, dtype)), x[rows])
        for bad in ([9], [-1]):
            with pytest.raises(IndexError, match="outside"):
                ops.gather(x, np.array(bad))
    a, b = rng.standard_normal((6, 7)).astype(ops.dtype), rng.standard_normal((6, 7)).astype(ops.dtype)
    np.testing.assert_array_equal(ops.add(a, b, out=poison(a.shape, ops.dtype)), a + b)


def test_what_a_kernel_does_not_take_goes_to_the_generic_op():
    ops, rng = NativeOps(NUMPY, "float32"), np.random.default_rng(6)
    x = rng.standard_normal((3, 8, 10)).astype(np.float32)
    relu = ACTIVATIONS["relu"]
    np.testing.assert_array_equal(ops.activate(relu, x.copy(), None)[0], np.maximum(x, 0))  # a leading axis
    strided = x[0][:, ::2]
    np.testing.assert_array_equal(ops.activate(relu, strided.copy(order="F"), None)[0], np.maximum(strided, 0))
    np.testing.assert_array_equal(ops.gather(x[0].T, np.array([1, 2])), x[0].T[[1, 2]])
    mine = xd.Activation("relu", lambda xp, z: z * 3.0, lambda xp, z: xp.ones_like(z) * 3.0)
    np.testing.assert_allclose(ops.activate(mine, x[0].copy(), None)[0], x[0] * 3.0, rtol=1e-6)

    class Doubled(xd.SquaredError):
        def value_and_gradient(self, xp, z, target):
            value, gradient = super().value_and_gradient(xp, z, target)
            return 2.0 * value, 2.0 * gradient

    z, target = x[0], np.zeros_like(x[0])
    once, twice = (loss(ops, z, target)[0] for loss in (xd.SquaredError(), Doubled()))
    assert twice == pytest.approx(2 * once)

    class Still(xd.SGD):
        def rule(self, xp, p, g, state, hyper):
            pass

    p = np.ones(4, np.float32)
    ops.update(Still(0.1), p, p.copy(), {}, np.array([0.1], np.float32), 4)
    assert (p == 1).all()


def test_signatures_are_those_of_the_specification():
    for name, method in vars(NativeOps).items():
        if not name.startswith("_") and callable(method):
            assert inspect.signature(method) == inspect.signature(getattr(Ops, name)), name


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


def test_the_environment_chooses():
    code = "import xpdense as xd; print(xd.backends()[0].ops)"
    for wanted in ("native", "generic"):
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XPDENSE_OPS": wanted}, text=True,
                              capture_output=True, check=True)
        assert done.stdout.strip() == wanted
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "XPDENSE_OPS": "fast"}, text=True,
                          capture_output=True, check=False)
    assert "Known: generic, native" in done.stderr
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


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_numbers_out_of_range_are_nobodys_class(smoothing):
    z, loss = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.5]], np.float32), SoftmaxCrossEntropy(smoothing)
    for wrong in (-1, 3, -(10**8), 2**40):
        one, other = both_ways(lambda ops, wrong=wrong: ops.loss_and_gradient(loss, z, np.array([2, wrong]), None))
        np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
        np.testing.assert_allclose(one[1], other[1], rtol=1e-6, atol=1e-7)


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
            q := p.copy(), ops.update(rule, q, p * 0.5, {k: v.copy() for k, v in state.items()}, hyper, 8)][0])
        np.testing.assert_allclose(*results, rtol=1e-6)
    with pytest.raises(KeyError):
        NativeOps(NUMPY, "float32").update(Forgetful(0.1), p.copy(), p, {}, np.array([0.1], np.float32), 8)
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
