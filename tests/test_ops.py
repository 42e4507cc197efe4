"""The ops: leading axes against a loop over them, pieces against the whole, formulas against einsum in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpdense.activations import ACTIVATIONS
from xpdense.losses import LOSSES, SoftmaxCrossEntropy, as_loss
from xpdense.ops import Ops
from xpdense.optimizers import OPTIMIZERS, as_optimizer

K, BATCH, FEATURES = 3, 5, 4  # no two alike, so that no axis can pass for another
EPS = float(np.finfo(np.float64).eps)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def put(ops: Ops, values: np.ndarray) -> Any:
    """A copy of its own on the backend: some ops write into what they are given."""
    return ops.backend.from_host(np.array(values))


def got(ops: Ops, array: Any) -> np.ndarray:
    return np.array(ops.backend.to_host(array))


def assert_close(ops: Ops, array: Any, expected: np.ndarray, eps: float = 16.0) -> None:
    """To a few roundings of the largest value; a sum over a leading axis may be made in another order."""
    value = got(ops, array)
    assert value.dtype == np.float64
    assert value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=0, atol=eps * EPS * max(1.0, float(np.max(np.abs(expected)))))


# --- moving and multiplying --------------------------------------------------------------------------------------

@pytest.mark.parametrize("with_out", [False, True])
def test_matmul_takes_leading_axes(ops: Ops, with_out: bool) -> None:
    a, b = drawn(2, K, BATCH, 6), drawn(2, K, 6, FEATURES, seed=1)
    out = ops.empty((2, K, BATCH, FEATURES)) if with_out else None
    y = ops.matmul(put(ops, a), put(ops, b), out=out)
    assert_close(ops, y, np.einsum("lkbi,lkio->lkbo", a, b))
    if with_out:
        assert_close(ops, out, got(ops, y))


def test_matmul_shares_one_batch_among_many_networks(ops: Ops) -> None:
    x, weight = drawn(BATCH, 6), drawn(K, 6, FEATURES, seed=1)
    assert_close(ops, ops.matmul(put(ops, x), put(ops, weight)), np.einsum("bi,kio->kbo", x, weight))


def test_the_products_of_backward_with_leading_axes(ops: Ops) -> None:
    x, dz, weight = drawn(K, BATCH, 6), drawn(K, BATCH, FEATURES, seed=1), drawn(K, 6, FEATURES, seed=2)
    dweight = ops.matmul(ops.transpose(put(ops, x)), put(ops, dz), out=ops.empty((K, 6, FEATURES)))
    assert_close(ops, dweight, np.einsum("kbi,kbo->kio", x, dz))
    dx = ops.matmul(put(ops, dz), ops.transpose(put(ops, weight)), out=ops.empty((K, BATCH, 6)))
    assert_close(ops, dx, np.einsum("kbo,kio->kbi", dz, weight))


def test_gather_takes_rows_of_any_shape(ops: Ops) -> None:
    x, rows = drawn(7, 2, 3), np.array([5, 0, 5, 6])
    assert np.array_equal(got(ops, ops.gather(put(ops, x), ops.backend.from_host(rows))), x[rows])
    assert np.array_equal(got(ops, ops.gather(put(ops, x[:, 0, 0]), ops.backend.from_host(rows))), x[rows, 0, 0])


def test_add_may_write_into_its_first_operand(ops: Ops) -> None:
    a, b = drawn(K, BATCH, FEATURES), drawn(K, BATCH, FEATURES, seed=1)
    for where in ("nowhere", "out", "a"):
        first = put(ops, a)
        out = {"nowhere": None, "out": ops.empty(a.shape), "a": first}[where]
        assert np.array_equal(got(ops, ops.add(first, put(ops, b), out=out)), a + b)
        assert where == "a" or np.array_equal(got(ops, first), a)


# --- activations -------------------------------------------------------------------------------------------------

def layer(ops: Ops, name: str, z: np.ndarray, bias: np.ndarray | None, da: np.ndarray,
          reuse: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The activation's output, dz and dbias; with `reuse`, dz is written over what forward saved."""
    activation = ACTIVATIONS[name]
    b = None if bias is None else put(ops, bias)
    a, saved = ops.activate(activation, put(ops, z), b, out=ops.empty(z.shape) if reuse else None)
    a = got(ops, a)
    dbias = put(ops, np.full((*z.shape[:-2], z.shape[-1]), 7.0))  # to be overwritten
    dz = ops.activate_backward(activation, saved, put(ops, da), out=saved if reuse else None, dbias=dbias)
    return a, got(ops, dz), got(ops, dbias)


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_take_leading_axes(ops: Ops, name: str, reuse: bool) -> None:
    z, bias, da = drawn(K, BATCH, FEATURES), drawn(K, FEATURES, seed=1), drawn(K, BATCH, FEATURES, seed=2)
    together = layer(ops, name, z, bias, da, reuse)
    for k in range(K):
        for value, expected in zip(together, layer(ops, name, z[k], bias[k], da[k]), strict=True):
            np.testing.assert_allclose(value[k], expected, rtol=0, atol=16 * EPS)
    np.testing.assert_allclose(together[2], np.einsum("kbf->kf", together[1]), rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_in_pieces_are_those_of_the_whole(ops: Ops, name: str) -> None:
    z, bias, da = drawn(K, 11, FEATURES), drawn(K, FEATURES, seed=1), drawn(K, 11, FEATURES, seed=2)
    ops.piece = 1 << 30
    whole = layer(ops, name, z, bias, da)
    ops.piece = 2 * K * FEATURES  # two rows of each: the last piece is smaller
    pieces = layer(ops, name, z, bias, da)
    assert np.array_equal(whole[0], pieces[0])
    assert np.array_equal(whole[1], pieces[1])
    np.testing.assert_allclose(pieces[2], whole[2], rtol=0, atol=16 * EPS)


def test_without_a_bias_nothing_is_added(ops: Ops) -> None:
    z, da = drawn(BATCH, FEATURES), drawn(BATCH, FEATURES, seed=1)
    for name in ACTIVATIONS:
        none, zero = layer(ops, name, z, None, da), layer(ops, name, z, np.zeros(FEATURES), da)
        assert all(np.array_equal(a, b) for a, b in zip(none, zero, strict=True)), name


# --- norms and dropout -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("axis", [-1, -2], ids=["features", "batch"])
def test_norms_take_leading_axes(ops: Ops, axis: int) -> None:
    x, dy = drawn(K, BATCH, FEATURES), drawn(K, BATCH, FEATURES, seed=1)
    gain, bias = drawn(K, FEATURES, seed=2), drawn(K, FEATURES, seed=3)

    def both(*index: int) -> list[np.ndarray]:
        part = [put(ops, value[index]) for value in (x, dy, gain, bias)]
        y, saved = ops.normalize(part[0], part[2], part[3], axis, 1e-5)
        y, dgain, dbias = got(ops, y), put(ops, bias[index]), put(ops, bias[index])
        dx = ops.normalize_backward(saved, part[1], part[2], axis, dgain, dbias)
        return [y, *(got(ops, value) for value in (dx, dgain, dbias, saved[2], saved[3]))]

    together = both()
    for k in range(K):
        for value, expected in zip(together, both(k), strict=True):
            np.testing.assert_allclose(value[k], expected, rtol=0, atol=64 * EPS)
    mean, variance = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    x_hat = (x - mean) / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(together[0], gain[:, None] * x_hat + bias[:, None], rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(together[2], np.einsum("kbf,kbf->kf", dy, x_hat), rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(together[3], np.einsum("kbf->kf", dy), rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(together[4], mean, rtol=0, atol=64 * EPS)
    np.testing.assert_allclose(together[5], variance, rtol=0, atol=64 * EPS)
    given = [put(ops, value) for value in (x, drawn(K, FEATURES, seed=4), drawn(K, FEATURES, seed=5) ** 2, gain, bias)]
    scaled = gain[:, None] * (x - drawn(K, 1, FEATURES, seed=4)) / np.sqrt(drawn(K, 1, FEATURES, seed=5) ** 2 + 1e-5)
    assert_close(ops, ops.scale_shift(*given, 1e-5), scaled + bias[:, None], eps=64)


def test_dropout_depends_on_the_position_alone(ops: Ops) -> None:
    x = np.ones((K, BATCH, FEATURES))
    step = ops.backend.from_host(np.array([3]))
    together = got(ops, ops.dropout(put(ops, x), 0.5, (1, 2), step))
    flat = got(ops, ops.dropout(put(ops, x.reshape(-1)), 0.5, (1, 2), step))
    assert np.array_equal(together, flat.reshape(x.shape))
    assert 0 < np.sum(together) < 2 * x.size


# --- losses ------------------------------------------------------------------------------------------------------

def targets(name: str) -> dict[str, np.ndarray]:
    """Targets (batch, outputs), and class numbers (batch,) where the loss takes them."""
    rng = np.random.default_rng(4)
    soft = rng.dirichlet(np.ones(FEATURES), BATCH)
    if name == "softmax_cross_entropy":
        return {"numbers": rng.integers(0, FEATURES, BATCH), "soft": soft}
    drawn = as_loss(name).sample_target(rng, BATCH, FEATURES)
    return {"drawn": np.asarray(drawn, np.float64)}


@pytest.mark.parametrize("weight", [None, np.array([1.0, 0.0, 2.5, 0.5, 1.0])], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", [*LOSSES, "smoothed"])
def test_losses_take_leading_axes(ops: Ops, name: str, weight: np.ndarray | None) -> None:
    loss = SoftmaxCrossEntropy(label_smoothing=0.1) if name == "smoothed" else as_loss(name)
    for kind, target in targets(loss.name).items():
        for shape in ((K, BATCH, FEATURES), (2, K, BATCH, FEATURES), (BATCH, BATCH, FEATURES)):
            z, y = drawn(*shape), ops.backend.from_host(target)
            w = None if weight is None else put(ops, weight)
            value, dz = loss(ops, put(ops, z), y, w)
            assert (tuple(value.shape), tuple(dz.shape)) == (shape[:-2], shape), kind
            for k in np.ndindex(shape[:-2]):
                one, gradient = loss(ops, put(ops, z[k]), y, w)
                np.testing.assert_allclose(got(ops, value)[k], float(one), rtol=0, atol=16 * EPS, err_msg=kind)
                np.testing.assert_allclose(got(ops, dz)[k], got(ops, gradient), rtol=0, atol=16 * EPS, err_msg=kind)


# --- the optimizer -----------------------------------------------------------------------------------------------

SIZE, DECAYED = 40, 24


def updated(ops: Ops, name: str, options: dict[str, Any], params: np.ndarray, grads: np.ndarray) -> list[np.ndarray]:
    """Parameters and state after three steps."""
    optimizer = as_optimizer(name, learning_rate=0.1, **options)
    p, g = put(ops, params), put(ops, grads)
    state = {slot: put(ops, np.zeros(params.shape)) for slot in optimizer.slots}
    for step in (1, 2, 3):
        hyper = put(ops, np.array([0.1, *optimizer.scalars(0.1, step)]))
        ops.update(optimizer, p, g, state, hyper, (optimizer.weight_decay, DECAYED))
        assert np.array_equal(got(ops, g), grads)
        g *= -0.7
        grads = grads * -0.7
    return [got(ops, p), *(got(ops, s) for s in state.values())]


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {}, "clipped": {"clip_norm": 2.0}, "coupled": {"weight_decay": 0.1, "decoupled": False},
    "decoupled": {"weight_decay": 0.1, "decoupled": True},
    "all": {"weight_decay": 0.1, "decay_all": True, "clip_norm": 2.0},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_updates_take_leading_axes_and_come_in_pieces(ops: Ops, name: str, options: str) -> None:
    params, grads = drawn(K, SIZE), drawn(K, SIZE, seed=1) * np.array([[0.1], [1.0], [5.0]])
    together = updated(ops, name, OPTIONS[options], params, grads)
    ops.piece = 7  # divides neither the decayed part nor the rest
    pieces = updated(ops, name, OPTIONS[options], params, grads)
    for k in range(K):
        alone = updated(ops, name, OPTIONS[options], params[k], grads[k])
        for value, in_pieces, expected in zip(together, pieces, alone, strict=True):
            np.testing.assert_allclose(value[k], expected, rtol=64 * EPS, atol=64 * EPS)
            np.testing.assert_allclose(in_pieces[k], expected, rtol=64 * EPS, atol=64 * EPS)


def test_decay_reaches_the_weights_alone(ops: Ops) -> None:
    params = drawn(SIZE)
    for decoupled in (False, True):
        options = {"weight_decay": 0.5, "decoupled": decoupled}
        after = updated(ops, "sgd", options, params, np.zeros(SIZE))[0]
        np.testing.assert_allclose(after[:DECAYED], params[:DECAYED] * 0.95**3, rtol=1e-14)
        assert np.array_equal(after[DECAYED:], params[DECAYED:])
        after = updated(ops, "sgd", options | {"decay_all": True}, params, np.zeros(SIZE))[0]
        np.testing.assert_allclose(after, params * 0.95**3, rtol=1e-14)


def test_clipping_is_by_the_norm_of_all_gradients_together(ops: Ops) -> None:
    params, grads = np.zeros(SIZE), np.full(SIZE, 3.0)  # of norm 3 sqrt(40)
    optimizer = as_optimizer("sgd", learning_rate=1.0, clip_norm=2.0)
    p = put(ops, params)
    ops.update(optimizer, p, put(ops, grads), {}, put(ops, np.array([1.0])), (0.0, DECAYED))
    np.testing.assert_allclose(np.linalg.norm(got(ops, p)), 2.0, rtol=1e-6)
    np.testing.assert_allclose(got(ops, p), got(ops, p)[0], rtol=1e-15)  # the direction is kept
    small = put(ops, params)
    ops.update(optimizer, small, put(ops, grads / 100), {}, put(ops, np.array([1.0])), (0.0, DECAYED))
    assert np.array_equal(got(ops, small), -grads / 100)  # below the limit nothing is changed
