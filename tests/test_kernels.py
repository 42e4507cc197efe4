"""The fused kernels agree with the generic ops in float64, on every processor, at shapes and values loops get wrong.

"native" are the loops compiled for the CPU, once for each instruction set; "cuda" are the kernels for CUDA, on a GPU
where one is, else run on the CPU (tests/cuda). Tolerances follow from the element type: `eps` of it, times the
operations a result has been through. Outputs are poisoned first, so that an element which is not written is seen.
"""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, leaky_relu
from xpdense.backend import resolve
from xpdense.losses import LOSSES, Huber, Quantile, SoftmaxCrossEntropy
from xpdense.ops import CudaOps, NativeOps, Ops, native, slots
from xpdense.optimizers import OPTIMIZERS

EXACT = Ops(resolve("numpy"), "float64")
SHAPES = [(1, 1), (1, 7), (5, 1), (3, 16), (7, 33), (130, 67)]
ACTIVATIONS_TRIED = [*ACTIVATIONS.values(), leaky_relu(0.3), elu(0.5)]
SERVED = [*((f"native {isa}", dtype) for isa in ("baseline", "avx2", "avx512") for dtype in ("float32", "float64")),
          *(("cuda", dtype) for dtype in ("float32", "float64", "float16", "bfloat16"))]


@pytest.fixture(params=SERVED, ids=" ".join)
def ops(request: pytest.FixtureRequest) -> Iterator[Ops]:
    """Ops with kernels, in one element type; what they hand to the generic ops is an error."""
    where, dtype = request.param
    if where == "cuda":
        backend = request.getfixturevalue("cuda_backend")
        narrow = dtype in ("float16", "bfloat16")
        made: Ops = CudaOps(backend, "float32" if narrow else dtype, dtype if narrow else "full")
        if dtype == "float16":
            made.loss_scale[0] = 4.0  # small enough for the values tried here
        with backend.active():
            yield refusing(made)
        return
    if not native.available:
        pytest.skip("the kernels were not compiled at the installation")
    isa = where.split()[1]
    try:
        if native._native.use(isa) != isa:
            pytest.skip(f"this processor has no {isa}")
        yield refusing(NativeOps(resolve("numpy"), dtype))
    finally:
        native._native.use("avx512")


def refusing(ops: Ops) -> Ops:
    def generic(op: str, *arguments: Any) -> Any:
        raise AssertionError(f"{op} was handed to the generic op")

    ops.kernels_only = lambda: setattr(ops, "_generic", generic)  # type: ignore[attr-defined]
    ops.kernels_only()  # type: ignore[attr-defined]
    return ops


def also_generic(ops: Ops) -> Ops:
    """The same ops, allowed to hand to the generic op what kernels do not take."""
    vars(ops).pop("_generic", None)
    return ops


# --- values and tolerances -----------------------------------------------------------------------------------------

def storage(ops: Ops) -> np.dtype:
    return np.dtype(ops.backend.dtype(ops.dtype))


def rounded(ops: Ops, values: Any, wide: bool = False) -> np.ndarray:
    """Values as the ops can hold them, in float64."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values).astype(ops.wide if wide else storage(ops)).astype(np.float64)


def put(ops: Ops, values: np.ndarray, dtype: Any = None) -> Any:
    with np.errstate(over="ignore", under="ignore"):
        return ops.backend.from_host(np.array(values).astype(dtype or storage(ops)))


def wide(ops: Ops, values: np.ndarray) -> Any:
    return put(ops, values, ops.wide)


def poison(ops: Ops, shape: tuple[int, ...], dtype: Any = None) -> Any:
    return put(ops, np.full(shape, np.nan), dtype)


def got(ops: Ops, array: Any) -> np.ndarray:
    return np.asarray(ops.backend.to_host(array)).astype(np.float64)


def values(ops: Ops, rng: np.random.Generator, shape: tuple[int, ...], scale: float = 3.0,
           most: float = 1e4) -> np.ndarray:
    """Normal values with awkward ones among them: zeros of both signs, denormal, tiny and large."""
    x = rng.standard_normal(shape) * scale
    denormal = float(np.finfo(storage(ops)).tiny) / 16 if ops.dtype != "bfloat16" else 1e-39
    awkward = [0.0, -0.0, denormal, -denormal, 1e-30, 20.0, -20.0, min(90.0, most), -min(90.0, most), most, -most]
    flat = x.reshape(-1)
    where = rng.permutation(flat.size)[: min(len(awkward), flat.size // 3)]
    flat[where] = np.array(awkward)[: len(where)]
    return rounded(ops, x)


def agree(ops: Ops, array: Any, exact: Any, ulps: float, scale: Any = 1.0, inner: float | None = None,
          dtype: str | None = None) -> None:
    """Within `ulps` roundings of the larger of the exact value and `scale`, elementwise; what is under the smallest
    normal number may be zero. A 16-bit result is rounded once (twice in place), and computed in float32."""
    exact = np.asarray(exact, np.float64)
    size = np.maximum(np.abs(exact), scale)
    dtype = dtype or ops.dtype
    if dtype in ("float16", "bfloat16"):
        eps, tiny = {"float16": (2.0**-10, 2.0**-14), "bfloat16": (2.0**-7, 2.0**-126)}[dtype]
        limit = 2 * eps * np.abs(exact) + ulps * np.finfo(np.float32).eps * size + tiny
    else:
        info = np.finfo(dtype)
        limit = ulps * float(info.eps) * size + float(info.tiny)
    result = got(ops, array)
    assert result.shape == exact.shape
    assert np.isfinite(result).all()
    error = np.abs(result - exact)
    assert (error <= limit).all(), f"{(error / limit).max():.3g} times the tolerance"


def value_scale(activation: Any, z: np.ndarray) -> Any:
    """What the roundings inside a formula are relative to, where that is not its result."""
    if activation.name == "hard_sigmoid":
        return 0.5  # the sum z / 6 + 1 / 2
    return np.abs(z) if activation.saves == "input" else 1e-3 * np.abs(z)  # z times what was rounded near 1


def derivative_scale(activation: Any, saved: np.ndarray) -> Any:
    """The same for the derivative: what multiplies 1 - t * t, in which the rounding of t near 1 is left over."""
    near = np.minimum(np.abs(saved), 6.0)  # beyond, t is 1 and nothing is left
    if activation.name == "gelu_tanh":
        return 1.0 + 0.4 * near * (1.0 + 0.134 * near**2)
    return 1.0 + (near if activation.saves == "input" else 0.0)


# --- the ops -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("activation", ACTIVATIONS_TRIED, ids=lambda a: f"{a.name}{list(a.config.values()) or ''}")
def test_activations_and_their_derivatives(activation, ops):
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        z, bias = values(ops, rng, shape), values(ops, rng, shape[1:], 0.5, most=100.0)
        for b in (bias, None):
            summed = rounded(ops, (z if b is None else z + b).astype(ops.wide)) if activation.saves == "input" else \
                rounded(ops, z if b is None else z + b, wide=True)
            a, saved = ops.activate(activation, put(ops, z), None if b is None else put(ops, b),
                                    out=poison(ops, shape))
            exact, _ = EXACT.activate(activation, summed.copy(), None)
            agree(ops, a, exact, 8, scale=value_scale(activation, summed))
        kept = got(ops, saved)
        da, exact_bias = values(ops, rng, shape), np.empty(shape[1:])
        exact = EXACT.activate_backward(activation, kept, da.copy(), dbias=exact_bias)
        steep = np.abs(da) * derivative_scale(activation, kept)
        for out in (poison(ops, shape), saved):
            dbias = poison(ops, shape[1:])
            dz = ops.activate_backward(activation, put(ops, kept), put(ops, da), out=out, dbias=dbias)
            agree(ops, dz, exact, 16, scale=steep)
            agree(ops, dbias, exact_bias, 16 * shape[0], scale=np.sum(steep, axis=0))
        agree(ops, ops.activate_backward(activation, put(ops, kept), put(ops, da), out=poison(ops, shape)), exact, 16,
              scale=steep)


def test_column_sums_of_many_rows(ops):
    """Enough rows that CUDA shares a column among blocks."""
    rng, relu = np.random.default_rng(8), ACTIVATIONS["relu"]
    saved, da = rounded(ops, rng.standard_normal((700, 45))), rounded(ops, rng.standard_normal((700, 45)))
    exact_bias = np.empty(45)
    exact = EXACT.activate_backward(relu, saved, da, dbias=exact_bias)
    for _ in range(2):  # the second call finds what the first has left in the memory between the blocks
        dbias = poison(ops, (45,))
        dz = ops.activate_backward(relu, put(ops, saved), put(ops, da), out=poison(ops, da.shape), dbias=dbias)
        agree(ops, dz, exact, 1)
        agree(ops, dbias, exact_bias, 700, scale=np.abs(exact).sum(axis=0))


@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("loss", [*(cls() for cls in LOSSES.values()), SoftmaxCrossEntropy(0.1), Huber(0.5),
                                  Quantile(0.9)], ids=repr)
def test_losses_and_their_gradients(loss, weighted, ops):
    rng = np.random.default_rng(2)
    scale = 1.0 if ops.loss_scale is None else 4.0
    for rows, outputs in SHAPES:
        z = values(ops, rng, (rows, outputs), 2.0, most=100.0 if ops.dtype == "float16" else 1e4)
        if loss.name == "poisson":
            z = np.minimum(z, 5.0 if ops.dtype == "float16" else 20.0)
        targets = [loss.sample_target(rng, rows, outputs)]
        if loss.labels:
            soft = rng.uniform(0.1, 1.0, (rows, outputs))
            targets.append(soft / soft.sum(axis=1, keepdims=True))
        weight = None
        if weighted:
            weight = rounded(ops, np.concatenate([[0.0], rng.uniform(0.5, 2.0, rows)])[:rows], wide=True)
        for target in targets:
            labels = target.ndim == 1
            exact_target = target.astype(np.int64) if labels else rounded(ops, target, wide=True)
            given = put(ops, exact_target, np.int64) if labels else wide(ops, exact_target)
            value, dz = loss(ops, put(ops, z), given, None if weight is None else wide(ops, weight),
                             poison(ops, z.shape), poison(ops, (), ops.wide))
            exact_value, exact_dz = EXACT.loss_and_gradient(loss, z, exact_target, weight)
            size = 1.0 + np.abs(z).max() ** (2 if loss.name == "squared_error" else 1)
            if loss.name == "poisson":
                size = np.exp(20.0)
            agree(ops, value, exact_value, 8 * outputs, scale=size, dtype=ops.wide)
            agree(ops, dz, exact_dz * scale, 16, scale=size * scale / rows / outputs)


def test_rows_without_weight_do_not_count_even_where_they_are_infinite(ops):
    scale = 1.0 if ops.loss_scale is None else 4.0
    for big in (1e30, np.inf):
        z, zero = put(ops, np.array([[big], [2.0]])), wide(ops, np.zeros((2, 1)))
        value, dz = ops.loss_and_gradient(xd.AbsoluteError(), z, zero, wide(ops, np.array([0.0, 3.0])))
        assert got(ops, value) == 2.0
        np.testing.assert_array_equal(got(ops, dz), [[0.0], [scale]])
    value, dz = ops.loss_and_gradient(xd.SquaredError(), put(ops, np.ones((2, 1))), zero, wide(ops, np.zeros(2)))
    assert got(ops, value) == 0
    assert (got(ops, dz) == 0).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_class_numbers_out_of_range_are_nobodys_class(smoothing, ops):
    z, loss = np.array([[1.0, 2.0, 4.0], [0.0, 1.0, 0.5]]), SoftmaxCrossEntropy(smoothing)
    scale = 1.0 if ops.loss_scale is None else 4.0
    for wrong in (-1, 3, -(10**8), 2**40):
        target = np.array([2, wrong])
        value, dz = ops.loss_and_gradient(loss, put(ops, z), put(ops, target, np.int64), None)
        exact_value, exact_dz = EXACT.loss_and_gradient(loss, z, target, None)
        agree(ops, value, exact_value, 8, dtype=ops.wide)
        agree(ops, dz, exact_dz * scale, 8)


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decoupled": True},
                                     {"weight_decay": 0.1, "decay_all": True}, {"clip_norm": 0.3}], ids=str)
@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_optimizers(cls, options, ops):
    rng, optimizer = np.random.default_rng(3), cls(0.01, **options)
    scale = 1.0 if ops.loss_scale is None else 4.0
    for size, decaying in ((1, 0), (7, 7), (100, 33), (5000, 512)):
        exact_p = rounded(ops, rng.standard_normal(size), wide=True)
        p, exact_state = wide(ops, exact_p), {slot: np.zeros(size) for slot in optimizer.slots}
        state = {slot: wide(ops, np.zeros(size)) for slot in optimizer.slots}
        working = None if ops.wide == ops.dtype else poison(ops, (size,))
        for step in (1, 2, 3):
            kept = rounded(ops, rng.standard_normal(size) * scale)
            g, hyper = put(ops, kept), rounded(ops, (0.01, *optimizer.scalars(0.01, step)), wide=True)
            ops.update(optimizer, p, g, state, wide(ops, hyper), (optimizer.weight_decay, decaying), working)
            EXACT.update(optimizer, exact_p, kept / scale, exact_state, hyper, (optimizer.weight_decay, decaying))
            np.testing.assert_array_equal(got(ops, g), kept)
        if cls.name != "lion":  # the sign of a sum near zero is rounding's; its momentum is compared
            agree(ops, p, exact_p, 100, dtype=ops.wide)
        if working is not None:
            np.testing.assert_array_equal(got(ops, working), rounded(ops, got(ops, p)))
        for slot in optimizer.slots:
            agree(ops, state[slot], exact_state[slot], 200, dtype=ops.wide)


def test_clipping_of_gradients_whose_squares_overflow_or_vanish(ops):
    optimizer = xd.SGD(1.0, clip_norm=1.0)
    most = {"float16": 6e4, "bfloat16": 3e37, "float32": 3e37, "float64": 1e300}[ops.dtype]
    scale = 1.0 if ops.loss_scale is None else 4.0
    for size in (3, 3000):
        kept = np.zeros(size)
        for kept[0] in (0.0, most, -most):
            kept = rounded(ops, kept)
            p, exact_p = wide(ops, np.zeros(size)), np.zeros(size)
            working = None if ops.wide == ops.dtype else poison(ops, (size,))
            ops.update(optimizer, p, put(ops, kept), {}, wide(ops, np.ones(1)), (0.0, 0), working)
            EXACT.update(optimizer, exact_p, kept / scale, {}, np.ones(1), (0.0, 0))
            agree(ops, p, exact_p, 8, dtype=ops.wide)


def test_every_optimizer_and_loss_and_activation_has_its_kernel(ops):
    """A formula that is registered and has no kernel fails in the tests above; this says so in a word."""
    for activation in ACTIVATIONS.values():
        ops.activate(activation, put(ops, np.ones((2, 2))), put(ops, np.ones(2)))
    for rule in OPTIMIZERS.values():
        assert vars(rule).get("kernel")
    for loss in LOSSES.values():
        assert vars(loss).get("kernel")


@pytest.mark.parametrize("axis", [-1, -2], ids=["over features", "over the batch"])
def test_norms(axis, ops):
    rng = np.random.default_rng(4)
    for shape in SHAPES:
        x, dy = rounded(ops, rng.standard_normal(shape)), rounded(ops, rng.standard_normal(shape))
        gain, bias = (rounded(ops, rng.standard_normal(shape[1:])) for _ in range(2))
        saved = poison(ops, shape), poison(ops, (3, shape[-3 - axis]), ops.wide)
        y, saved = ops.normalize(put(ops, x), put(ops, gain), put(ops, bias), axis, 1e-2, out=poison(ops, shape),
                                 saved=saved)
        exact_y, exact_saved = EXACT.normalize(x, gain, bias, axis, 1e-2)
        agree(ops, y, exact_y, 128, scale=np.abs(gain) * np.abs(exact_saved[0]) + np.abs(bias) + 1.0)
        for result, exact, dtype in zip(saved, exact_saved, [None, *[ops.wide] * 3], strict=True):
            agree(ops, result, exact, 128, dtype=dtype)
        kept = tuple(got(ops, part) for part in saved)
        dgain, dbias = poison(ops, shape[1:]), poison(ops, shape[1:])
        exact_dgain, exact_dbias = np.empty(shape[1:]), np.empty(shape[1:])
        dx = ops.normalize_backward(saved, put(ops, dy), put(ops, gain), axis, dgain, dbias, out=poison(ops, shape))
        exact_dx = EXACT.normalize_backward(kept, dy, gain, axis, exact_dgain, exact_dbias)
        agree(ops, dx, exact_dx, 1024, scale=10.0)
        agree(ops, dgain, exact_dgain, 256 * shape[0])
        agree(ops, dbias, exact_dbias, 16 * shape[0])
        variance, mean = np.abs(rng.standard_normal(shape[1:])), rng.standard_normal(shape[1:])
        variance, mean = rounded(ops, variance, wide=True), rounded(ops, mean, wide=True)
        z = ops.scale_shift(put(ops, x), wide(ops, mean), wide(ops, variance), put(ops, gain), put(ops, bias), 1e-5,
                            out=poison(ops, shape))
        exact = EXACT.scale_shift(x, mean, variance, gain, bias, 1e-5)
        agree(ops, z, exact, 64, scale=np.abs(exact).max())


def test_dropout_drops_the_same_elements(ops):
    for shape in SHAPES:
        for step in (0, 5, 2**40 + 3):
            y = ops.dropout(put(ops, np.ones(shape)), 0.3, (123456789, 2), put(ops, [step], np.int64),
                            out=poison(ops, shape))
            exact = EXACT.dropout(np.ones(shape), 0.3, (123456789, 2), np.array([step]))
            np.testing.assert_array_equal(got(ops, y) > 0, exact > 0)
            agree(ops, y, exact, 1)


@pytest.mark.parametrize("kind", ["stored", "wide", "int64"])
def test_gather(kind, ops):
    rng, dtype = np.random.default_rng(5), {"stored": storage(ops), "wide": ops.wide, "int64": np.int64}[kind]
    for x in (rng.standard_normal((9, 5)) * 10, np.arange(9.0), np.arange(6.0).reshape(6, 1)):
        x, rows = np.asarray(x).astype(dtype), np.array([5, 0, 3, 3])
        given, chosen = put(ops, x, dtype), put(ops, rows, np.int64)
        for out in (None, put(ops, np.full((4, *x.shape[1:]), 7), dtype)):
            result = ops.gather(given, chosen, out=out)
            np.testing.assert_array_equal(ops.backend.to_host(result), x[rows])
        if ops.name == "cuda":  # nothing can be raised there: a row that is not there is zeros
            outside = ops.gather(given, put(ops, [-1, len(x), 0], np.int64))
            np.testing.assert_array_equal(ops.backend.to_host(outside), [x[0] * 0, x[0] * 0, x[0]])


def test_add_blend_assign_and_move(ops):
    rng = np.random.default_rng(6)
    a, b = (rounded(ops, rng.standard_normal((6, 7))) for _ in range(2))
    agree(ops, ops.add(put(ops, a), put(ops, b), out=poison(ops, a.shape)), a + b, 1)
    running, batch = wide(ops, a[0]), wide(ops, b[0])
    ops.blend(running, batch, 0.1)
    agree(ops, running, a[0] + 0.1 * (b[0] - a[0]), 4, dtype=ops.wide)
    few = poison(ops, (3,), ops.wide)
    ops.assign(few, (0.5, 1e-3, -2.0))
    agree(ops, few, [0.5, 1e-3, -2.0], 1, dtype=ops.wide)
    step = put(ops, [0], np.int64)
    ops.assign(step, (2**40 + 3,))
    assert got(ops, step) == 2**40 + 3
    target = poison(ops, (6, 7))
    ops.move(put(ops, a), target)
    np.testing.assert_array_equal(got(ops, target), a)


@pytest.mark.parametrize("size", [1, 15, 16, 5003])
def test_a_penalty_is_added_to_the_loss(ops, size):
    weights = np.random.default_rng(8).standard_normal(size)
    given = wide(ops, weights)
    exact = ops.backend.to_host(given).astype(np.float64)
    value = wide(ops, np.array(0.75))
    agree(ops, ops.penalize(value, given, 0.01), 0.75 + 0.01 * np.sum(exact**2), 4, dtype=ops.wide)


def test_products(ops):
    rng = np.random.default_rng(7)
    for m, n, k in ((1, 1, 1), (3, 5, 7), (33, 2, 17)):
        a, b = rounded(ops, rng.standard_normal((m, k))), rounded(ops, rng.standard_normal((k, n)))
        for left in (put(ops, a), ops.transpose(put(ops, a.T.copy()))):
            for right in (put(ops, b), ops.transpose(put(ops, b.T.copy()))):
                agree(ops, ops.matmul(left, right, out=poison(ops, (m, n))), a @ b, 2 * k, scale=np.abs(a) @ np.abs(b))


# --- what kernels do not take ----------------------------------------------------------------------------------------

def test_leading_axes_and_strides_go_to_the_generic_op(ops):
    rng, relu, ops = np.random.default_rng(8), ACTIVATIONS["relu"], also_generic(ops)
    x, bias = rounded(ops, rng.standard_normal((3, 8, 10))), rounded(ops, rng.standard_normal((3, 10)))
    a, _ = ops.activate(relu, put(ops, x), put(ops, bias))
    agree(ops, a, np.maximum(x + bias[:, None, :], 0), 4)
    y, _ = ops.normalize(put(ops, x), put(ops, bias), put(ops, bias), -1, 1e-3)
    exact, _ = EXACT.normalize(x, bias, bias, -1, 1e-3)
    if ops.wide == ops.dtype:
        agree(ops, y, exact, 256, scale=4.0)
    target = wide(ops, x[0])
    value, dz = ops.loss_and_gradient(xd.SquaredError(), put(ops, x), target, None)
    exact_value, exact_dz = EXACT.loss_and_gradient(xd.SquaredError(), x, x[0], None)
    agree(ops, value, exact_value, 64, dtype=ops.wide)
    agree(ops, dz, exact_dz * (1.0 if ops.loss_scale is None else 4.0), 16)
    strided = put(ops, x[0])[:, ::2]
    agree(ops, ops.add(strided, strided), 2 * x[0][:, ::2], 1)
    dbias = poison(ops, (5,))
    dz = ops.activate_backward(relu, strided, strided, dbias=dbias)
    exact = np.maximum(x[0][:, ::2], 0)
    agree(ops, dz, exact, 4)
    agree(ops, dbias, exact.sum(axis=0), 64, scale=np.abs(exact).sum(axis=0))
    np.testing.assert_array_equal(got(ops, ops.gather(strided, put(ops, [1, 2], np.int64))), x[0][[1, 2], ::2])


def test_formulas_of_the_users_own_are_not_taken_for_ours(ops):
    ops, rng = also_generic(ops), np.random.default_rng(9)
    x = rounded(ops, rng.standard_normal((8, 10)))
    mine = xd.Activation("relu", lambda xp, z: z * 3.0, lambda xp, z: xp.ones_like(z) * 3.0)
    agree(ops, ops.activate(mine, put(ops, x), None)[0], x * 3.0, 4)

    class Doubled(xd.SquaredError):
        def value_and_gradient(self, xp, z, target):
            value, gradient = super().value_and_gradient(xp, z, target)
            return 2.0 * value, 2.0 * gradient

    once, twice = (got(ops, loss(ops, put(ops, x), wide(ops, x * 0))[0]) for loss in (xd.SquaredError(), Doubled()))
    assert twice == pytest.approx(2 * once, rel=1e-5)

    class Still(xd.SGD):
        def rule(self, xp, p, g, state, hyper):
            pass

    p = wide(ops, np.ones(4))
    if ops.loss_scale is None:
        ops.update(Still(0.1), p, put(ops, np.ones(4)), {}, wide(ops, np.array([0.1])), (0.0, 4))
        assert (got(ops, p) == 1).all()
    else:
        with pytest.raises(xd.ParameterError, match="built-in optimizers"):
            ops.update(Still(0.1), p, put(ops, np.ones(4)), {}, wide(ops, np.array([0.1])), (0.0, 4))


@pytest.mark.parametrize("cls", [NativeOps, CudaOps])
def test_signatures_are_those_of_the_specification(cls):
    for name, method in vars(cls).items():
        if not name.startswith("_") and callable(method):
            assert inspect.signature(method) == inspect.signature(getattr(Ops, name)), name


# --- slots -----------------------------------------------------------------------------------------------------------

def kernel_sources() -> dict[str, str]:
    files = [p for p in slots.SOURCES.rglob("*") if p.suffix in (".h", ".cu", ".cpp")]
    return {p.name: re.sub("//.*", "", p.read_text()) for p in files}


def test_no_slot_is_read_by_a_number():
    for name, text in kernel_sources().items():
        assert not re.findall(r"\ba\.[pns]\[\d+\]|\b(?:h|hyper|scaling)\[\d+\]", text), name
    assert not re.findall(r"\bc\[\d+\]", kernel_sources()["optimizers.h"])
    package = Path(xd.__file__).parent
    for path in (package / "optimizers.py", *(package / "ops").glob("*.py")):
        code = re.sub(r'"""(?s:.*?)"""|#.*', "", path.read_text())
        assert not re.findall(r"\b(?:hyper|loss_scale)\[\d+\]", code), path


def test_a_kernel_reads_each_slot_from_the_array_that_it_belongs_to():
    functions = kernel_sources()["loops.h"].split("using S = slots::")[1:]
    assert len(functions) >= 15
    names = slots.enums((slots.SOURCES / "slots.h").read_text())
    for text in functions:
        kernel = re.match(r"\w+", text)[0]
        for array, group in (("p", "arrays"), ("n", "sizes"), ("s", "scalars")):
            read = set(re.findall(rf"\ba\.{array}\[S::(\w+)", text)) - {"SCALARS"}
            assert read <= set(names[kernel].get(group, ())), f"{kernel}: {group}"


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++ here")
def test_a_compiler_numbers_the_slots_as_python_does(tmp_path):
    expected, lines = [], []
    for file, scope in (("slots.h", "slots::"), ("optimizers.h", "")):
        for struct, groups in slots.enums((slots.SOURCES / file).read_text()).items():
            owner = scope + struct + ("::" if scope and struct else "" if scope else "<float>::")
            for names in groups.values():
                expected += range(len(names))
                lines += [f'std::printf("%d ", int({owner}{name}));' for name in names]
    program = tmp_path / "numbers.cpp"
    program.write_text("#include <cstdio>\n" + "\n".join(
        f'#include "{slots.SOURCES / file}"' for file in ("slots.h", "common.h", "optimizers.h"))
        + "\nint main() {" + "\n".join(lines) + "}")
    subprocess.run(["g++", "-std=c++17", "-w", str(program), "-o", str(tmp_path / "numbers")], check=True)
    printed = subprocess.run([tmp_path / "numbers"], capture_output=True, text=True, check=True).stdout
    assert len(expected) > 80
    assert [int(number) for number in printed.split()] == expected


def test_an_unknown_or_missing_slot_is_an_error_that_names_it():
    x = np.zeros(3)
    assert slots.kernels.add(size=3, out=x, b=x, a=x) == ((x, x, x), (3,), ())
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'length'"):
        slots.kernels.add(a=x, b=x, out=x, length=3)
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required keyword-only argument: 'size'"):
        slots.kernels.add(a=x, b=x, out=x)
    with pytest.raises(AttributeError, match="subtract"):
        slots.kernels.subtract(a=x)
    with pytest.raises(TypeError, match=r"adam\(\) got an unexpected keyword argument 'beta3'"):
        slots.constants["adam"](beta1=0.9, beta3=0.99)


@pytest.mark.parametrize("cls", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_an_optimizer_gives_its_rule_all_constants_and_scalars(cls):
    rule = cls.kernel.removeprefix("update ")
    assert len(cls(0.1).constants()) == len(slots.CONSTANTS.get(rule, ()))
    assert slots.RATE == 0, "users' rules read the learning rate as hyper[0]"
    assert len(cls(0.1).scalars(0.1, 1)) in (0, len(slots.HYPER) - 1)
