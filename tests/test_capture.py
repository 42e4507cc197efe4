"""A step that was recorded and is replayed gives the same bits as one that Python makes."""

from __future__ import annotations

import numpy as np
import pytest
from replaying import PAIRS, PLAIN, RICH, Looking, bits

import xpdense as xd
from xpdense.backend import resolve
from xpdense.losses import as_loss
from xpdense.ops import NativeOps, native
from xpdense.optimizers import as_optimizer

pytestmark = pytest.mark.skipif(not native.available or not NativeOps(resolve("numpy"), "float32").captures,
                                reason="a step is recorded where the kernels were compiled and SciPy is installed")


@pytest.fixture
def replays(monkeypatch):
    """How many steps were replayed."""
    made = []
    capture = NativeOps.capture

    def counting(self, step, tables):
        run = capture(self, step, tables)
        return None if run is None else lambda first, count: made.append(run(first, count)) or made[-1]

    monkeypatch.setattr(NativeOps, "capture", counting)
    return made


CUBE = xd.Activation("cube", lambda xp, z: z**3, lambda xp, z: 3 * z**2)


def both(layers, replays, loss="squared_error", optimizer="adam", dtype="float32", rows=75, weighted=False, **options):
    """The two runs, and how many steps of the first were replayed."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((rows, 6))
    y = as_loss(loss).sample_target(rng, rows, 3)
    weight = rng.uniform(0.0, 2.0, rows) if weighted else None
    runs = []
    for callbacks in ([], [Looking()]):
        net = xd.DenseNetwork(layers, inputs=6, dtype=dtype)
        history = net.fit(x, y, loss=loss, optimizer=optimizer, sample_weight=weight, callbacks=callbacks,
                          **{"epochs": 5, "batch_size": 8} | options)
        runs.append((history["loss"], history["learning_rate"], bits(net)))
        if not callbacks:
            replayed = sum(replays)
    assert sum(replays) == replayed, "with somebody looking, nothing is replayed"
    return *runs, replayed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("layers", [PLAIN, RICH], ids=["plain", "rich"])
@pytest.mark.parametrize(("loss", "optimizer"), PAIRS)
def test_replayed_and_eager_steps_give_the_same_bits(loss, optimizer, layers, weighted, dtype, replays):
    rule = as_optimizer(optimizer, learning_rate=xd.Cosine(0.01), clip_norm=1.0, weight_decay=0.01)
    one, other, replayed = both(layers, replays, loss, rule, dtype, weighted=weighted)
    assert one == other
    assert replayed == 5 * 10 - 2, "nine full batches an epoch and a smaller one, the first of each size recorded"


@pytest.mark.parametrize("rows", [8, 9, 16, 17, 75, 8 * 70])
@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_whatever_the_number_of_batches(rows, batch_size, replays):
    one, other, _ = both(RICH, replays, rows=rows, batch_size=batch_size, epochs=3)
    assert one == other


def test_labels_shuffling_and_validation(replays):
    one, other, replayed = both(PLAIN, replays, "softmax_cross_entropy", validation=0.2, shuffle=False)
    assert one == other
    assert replayed


def test_a_loss_that_is_not_finite_ends_the_replay_at_that_step(replays):
    errors = []
    for callbacks in ([], [Looking()]):
        rng = np.random.default_rng(1)
        x, y = rng.standard_normal((96, 6)), rng.standard_normal((96, 3))
        net = xd.DenseNetwork(RICH, inputs=6)
        with pytest.raises(xd.NonFiniteLossError) as caught:
            net.fit(x, y, loss="squared_error", batch_size=4, epochs=20,
                    optimizer=xd.SGD(xd.Exponential(0.05, 1.25)), callbacks=callbacks)
        error = caught.value
        errors.append((error.step, error.layer, repr(error.loss), error.restored_step, repr(error.layers), bits(net)))
    assert errors[0] == errors[1]
    assert errors[0][0] % 24 > 1, "in the middle of a burst"
    assert sum(replays) > 10


class Passing(xd.Layer):
    """A user's layer."""

    def forward(self, ops, x, tape):
        return x * 1.0

    def backward(self, ops, dy, tape):
        return dy * 1.0


@pytest.mark.parametrize("layer", [Passing(), xd.Dense(6, CUBE)], ids=["layer", "activation"])
def test_what_is_the_users_own_is_not_replayed(layer, replays):
    one, other, replayed = both([layer, xd.Dense(3)], replays)
    assert one == other
    assert replayed == 0


def test_a_users_loss_and_optimizer_are_not_replayed(replays):
    class Cubed(xd.Loss):
        def value_and_gradient(self, xp, z, target):
            e = xp.abs(z - target)
            return xp.mean(e**3, axis=-1), 3 * e * (z - target) / z.shape[-1]

    class Still(xd.SGD):
        def rule(self, xp, p, g, state, hyper):
            p -= 0.5 * hyper[0] * g

    for options in ({"loss": Cubed()}, {"optimizer": Still(0.01)}):
        one, other, replayed = both(PLAIN, replays, **options)
        assert one == other
        assert replayed == 0


def test_early_stopping_goes_with_it(replays):
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((80, 6)), rng.standard_normal(80)
    runs = []
    for more in ([], [Looking()]):
        net, stopping = xd.DenseNetwork([xd.Dense(30, "relu"), xd.Dense(1)], inputs=6), xd.EarlyStopping(patience=3)
        history = net.fit(x, y, loss="squared_error", optimizer=xd.Adam(0.02), validation=0.3, batch_size=8, epochs=60,
                          callbacks=[stopping, *more])
        runs.append((history["validation_loss"], stopping.best_epoch, bits(net)))
    assert runs[0] == runs[1]
    assert len(runs[0][0]) < 60
    assert replays


def test_a_program_stays_within_its_tables_and_takes_only_calls():
    library = native._native
    x, table = np.zeros(2, np.float32), np.arange(6, dtype=np.float32).reshape(3, 2)
    call = (library.kernels["move"], 0, (table[0], x), (8,), ())
    program = library.Program([call], (table,))
    assert program.run(1, 2) == 2
    np.testing.assert_array_equal(x, [4, 5])
    for first, count in ((0, 4), (-1, 1), (3, 1)):
        with pytest.raises(IndexError):
            program.run(first, count)
    for calls in ([1], [(10**6, 0, (), (), ())], [(0, 0, (table[:, 0],), (), ())]):
        with pytest.raises((TypeError, ValueError)):
            library.Program(calls, (table,))


def test_arrays_whose_rows_lie_apart_are_replayed_alike(replays):
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((75, 6)), rng.standard_normal((75, 3))
    runs = []
    for given in ((x, y), (np.asfortranarray(x), np.repeat(y, 2, axis=1)[:, ::2])):
        net = xd.DenseNetwork(PLAIN, inputs=6, dtype="float64")
        history = net.fit(*given, loss="squared_error", epochs=3, batch_size=8)
        assert (history.steps, history.replayed) == (30, 28)
        runs.append(bits(net))
    assert runs[0] == runs[1]
