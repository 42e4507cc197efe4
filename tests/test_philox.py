"""Random bits by counter: the known answers, the same bits everywhere, and dropout made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.backend import Backend, resolve
from xpdense.layers import Tape
from xpdense.network import Network
from xpdense.ops import Ops, ops_for
from xpdense.ops.philox import philox, random_words

#: From kat_vectors of Random123 1.14, "philox4x32 10": counter, key, answer.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN, ids=["zeros", "ones", "pi"])
def test_the_known_answers_of_random123(place: Backend, counter: str, key: str, answer: str) -> None:
    arrays = tuple(place.from_host(np.array([word])) for word in words(counter))
    k0, k1 = words(key)
    assert [int(word[0]) for word in philox(arrays, (k0, k1))] == words(answer)
    assert list(philox(tuple(words(counter)), (k0, k1))) == words(answer)  # type: ignore[arg-type]


@pytest.mark.parametrize("step", [0, 1, 2**32 - 1, 2**32, 2**40 + 5])
def test_words_follow_the_counter_that_the_docstring_names(place: Backend, step: int) -> None:
    key, size = (12345, 2**32 - 1), 11  # not a multiple of four
    found = random_words(place.xp, size, place.from_host(np.array([step])), key, place.device)
    expected = [word for i in range(3) for word in philox((i, 0, step % 2**32, step // 2**32), key)]
    assert place.to_host(found).tolist() == expected[:size]


def test_words_are_uniform() -> None:
    found = random_words(np, 2**16, np.array([7]), (1, 2), None)
    assert found.min() >= 0
    assert found.max() < 2**32
    # mean and variance of a uniform word, to four standard errors
    u = found / 2**32
    assert abs(u.mean() - 0.5) < 4 / math.sqrt(12 * u.size)
    assert abs(u.var() - 1 / 12) < 4 / math.sqrt(180 * u.size)
    bits = (found[:, None] >> np.arange(32)) & 1
    assert np.all(np.abs(bits.mean(0) - 0.5) < 5 / math.sqrt(4 * u.size))


# --- dropout -----------------------------------------------------------------------------------------------------

def dropped(ops: Ops, shape: tuple[int, ...], rate: float, key: tuple[int, int] = (0, 1), step: int = 0) -> np.ndarray:
    x = ops.backend.from_host(np.ones(shape, ops.dtype))
    return np.array(ops.backend.to_host(ops.dropout(x, rate, key, ops.backend.from_host(np.array([step])))))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_dropout_keeps_the_fraction_and_the_mean(place: Backend, dtype: str, rate: float) -> None:
    y = dropped(ops_for(place, dtype), (200, 50), rate)
    assert y.dtype == dtype
    np.testing.assert_allclose(np.unique(y), [0.0, 1.0 / (1.0 - rate)], rtol=np.finfo(dtype).eps)
    deviation = math.sqrt(rate * (1 - rate) / y.size)
    assert abs(np.mean(y == 0.0) - rate) < 4 * deviation
    assert abs(np.mean(y) - 1.0) < 4 * deviation / (1.0 - rate)


def test_the_same_elements_are_dropped_on_every_backend(place: Backend) -> None:
    for dtype in ("float64", "float32"):
        expected = dropped(ops_for(resolve("numpy"), "float64"), (9, 7), 0.4, (3, 5), 2**33 + 1) == 0.0
        assert np.array_equal(dropped(ops_for(place, dtype), (9, 7), 0.4, (3, 5), 2**33 + 1) == 0.0, expected)


def test_dropout_differs_by_step_key_and_layer(ops: Ops) -> None:
    masks = [dropped(ops, (20, 20), 0.5, key, step)
             for key, step in (((0, 1), 0), ((0, 1), 1), ((0, 2), 0), ((1, 1), 0), ((0, 1), 2**32))]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert 0.3 < np.mean(mask == other) < 0.7  # half agree by chance
    assert np.array_equal(masks[0], dropped(ops, (20, 20), 0.5))


def test_a_larger_rate_drops_what_a_smaller_one_does(ops: Ops) -> None:
    small, large = dropped(ops, (30, 30), 0.2), dropped(ops, (30, 30), 0.6)
    assert np.all(large[small == 0.0] == 0.0)
    assert np.array_equal(dropped(ops, (3, 3), 0.0), np.ones((3, 3)))


def test_backward_uses_the_mask_of_forward(backend: str) -> None:
    net = Network([xd.Dropout(0.5), xd.Dropout(0.3), xd.Residual([xd.Dropout(0.5)])], 6, backend, "float64", seed=4)
    layers = [net.layers[0], net.layers[1], net.layers[2].sublayers()[0]]
    x = np.random.default_rng(0).standard_normal((40, 6)) + 10.0
    masks = []
    for layer in layers:
        tape = Tape(train=True, step=net.backend.from_host(np.array([5])))
        y = net.backend.to_host(layer.forward(net.ops, net.backend.from_host(x), tape))
        dx = net.backend.to_host(layer.backward(net.ops, net.backend.from_host(np.ones_like(x)), tape))
        assert np.array_equal(y == 0.0, dx == 0.0)
        np.testing.assert_allclose(y, x * dx, rtol=1e-15)
        masks.append(dx == 0.0)
    assert np.sum(masks[0] != masks[2]) > 0  # layers of one rate drop each their own
    assert np.all(np.any(masks[0] != masks[1], axis=0))


def test_outside_training_nothing_is_dropped(backend: str) -> None:
    net = Network([xd.Dropout(0.9)], 5, backend, "float64")
    x = net.backend.from_host(np.ones((4, 5)))
    assert np.array_equal(net.backend.to_host(net.forward(x)), np.ones((4, 5)))
    assert not np.array_equal(net.backend.to_host(net.forward(x, train=True)), np.ones((4, 5)))


class Seen(xd.Layer):
    """Passes everything on, and keeps what it saw in training."""

    zeros: list[np.ndarray] = []  # noqa: RUF012  (of the class, for a network trains a copy of its layers)

    def forward(self, ops: Ops, x: Any, tape: Tape) -> Any:
        if tape.train:
            self.zeros.append(ops.backend.to_host(x) == 0.0)
        return x

    def backward(self, ops: Ops, dy: Any, tape: Tape) -> Any:
        return dy


def test_a_training_drops_others_at_every_step_and_in_every_epoch(backend: str) -> None:
    Seen.zeros = []
    net = xd.DenseNetwork([xd.Dropout(0.5), Seen(), xd.Dense(1)], 50, backend)
    net.fit(np.ones((8, 50)), np.ones(8), loss="squared_error", batch_size=4, epochs=2)
    assert len(Seen.zeros) == 4
    for i, mask in enumerate(Seen.zeros):
        assert 0.3 < np.mean(mask) < 0.7
        assert all(0.3 < np.mean(mask == other) < 0.7 for other in Seen.zeros[:i])  # half agree by chance


def test_each_training_step_drops_its_own(backend: str) -> None:
    net = Network([xd.Dropout(0.5)], 50, backend, "float64")
    x = net.backend.from_host(np.ones((4, 50)))
    found = []
    for step in (0, 1, 0):
        net.set_step(step)
        found.append(np.array(net.backend.to_host(net.forward(x, train=True))))
    assert np.array_equal(found[0], found[2])
    assert not np.array_equal(found[0], found[1])
