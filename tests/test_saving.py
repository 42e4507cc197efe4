"""Saved models: the same bits come back, on any backend; a failed save loses nothing; loading runs no code."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from replaying import bits

import xpdense as xd
from xpdense.activations import ACTIVATIONS, elu, leaky_relu
from xpdense.errors import OutputError
from xpdense.initializers import INITIALIZERS, Initializer, normal, uniform
from xpdense.losses import LOSSES

RNG = np.random.default_rng(11)
X = RNG.standard_normal((30, 3)).astype(np.float32)
Y = RNG.standard_normal((30, 2)).astype(np.float32)
BACKENDS = [name for name in ("numpy", "torch", "array_api_strict", "array_api_strict:device1")
            if find_spec(name.partition(":")[0])]


def trained(*layers: xd.Layer, loss: str | xd.Loss = "squared_error", **options: Any) -> xd.DenseNetwork:
    net = xd.DenseNetwork([*layers, xd.Dense(2)], **{"inputs": 3, "seed": 2} | options)
    net.fit(X, Y, loss=loss, epochs=2, batch_size=8)
    return net


def assert_same(one: xd.DenseNetwork, other: xd.DenseNetwork) -> None:
    """Everything that a model is made of."""
    assert bits(one) == bits(other)
    for name in ("layers", "inputs", "dtype", "seed", "loss", "extra"):
        assert repr(getattr(one, name)) == repr(getattr(other, name))
    assert np.asarray(one.predict(X)).tobytes() == np.asarray(other.predict(X)).tobytes()


class Scale(xd.Layer):
    """A user's layer with an argument, a parameter and a state of its own."""

    def __init__(self, start: float = 1.0) -> None:
        self.start = start

    def parameters(self, inputs: int) -> dict[str, xd.Parameter]:
        return {"gain": xd.Parameter((inputs,), normal(self.start)),
                "seen": xd.Parameter((1,), "zeros", trained=False)}

    def forward(self, ops: Any, x: Any, tape: Any) -> Any:
        tape.x = x
        if tape.train:
            self.params["seen"][...] += float(x.shape[0])
        return x * self.params["gain"]

    def backward(self, ops: Any, dy: Any, tape: Any) -> Any:
        self.grads["gain"][...] = ops.xp.sum(dy * tape.x, axis=0)
        return dy * self.params["gain"]


class Power(xd.Loss):
    """A user's loss with an argument."""

    name = "power"

    def __init__(self, exponent: int = 4) -> None:
        self.exponent = exponent

    def value_and_gradient(self, xp: Any, z: Any, target: Any) -> Any:
        e = z - target
        return xp.mean(e**self.exponent, axis=-1), self.exponent * e ** (self.exponent - 1) / z.shape[-1]

    def link(self, xp: Any, z: Any) -> Any:
        return 2.0 * z


SQUARE = xd.Activation("square", lambda xp, z: z * z, lambda xp, z: 2.0 * z)


def make_steep(slope: float = 2.0) -> xd.Activation:
    return xd.Activation("steep", forward=lambda xp, z: slope * z, derivative=lambda xp, z: xp.full_like(z, slope),
                         config={"slope": slope})


def make_constant(value: float = 0.5) -> Initializer:
    return Initializer("constant", lambda rng, shape: np.full(shape, value))


# --- round trips -----------------------------------------------------------------------------------------------

LAYERS = {
    "dense": lambda: [xd.Dense(5)],
    "no bias": lambda: [xd.Dense(5, "relu", bias=False)],
    "dropout": lambda: [xd.Dense(5, "tanh"), xd.Dropout(0.25)],
    "batch norm": lambda: [xd.BatchNorm(0.3, epsilon=1e-3)],
    "layer norm": lambda: [xd.LayerNorm(1e-4)],
    "residual": lambda: [xd.Residual([xd.LayerNorm(), xd.Residual([xd.Dense(3, "gelu"), xd.BatchNorm()])])],
    **{f"activation {name}": lambda name=name: [xd.Dense(5, name)] for name in ACTIVATIONS},
    "leaky_relu(0.3)": lambda: [xd.Dense(5, leaky_relu(0.3))],
    "elu(0.7)": lambda: [xd.Dense(5, elu(0.7))],
    "elu of a mapping": lambda: [xd.Dense(5, {"name": "elu", "alpha": 0.2})],
    **{f"initializer {name}": lambda name=name: [xd.Dense(5, initializer=name)] for name in INITIALIZERS},
    "normal(0.3)": lambda: [xd.Dense(5, initializer=normal(0.3))],
    "uniform(0.3)": lambda: [xd.Dense(5, initializer=uniform(0.3))],
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    net = trained(*LAYERS[name]())
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model")
    assert_same(net, again)
    again.fit(X, Y, loss="squared_error", epochs=1, batch_size=8)
    net.fit(X, Y, loss="squared_error", epochs=1, batch_size=8)
    assert bits(net) == bits(again), "it trains on as the original does"


@pytest.mark.parametrize("loss", [*(cls() for cls in LOSSES.values()), xd.Huber(0.3), xd.Quantile(0.9),
                                  xd.SoftmaxCrossEntropy(0.1)], ids=repr)
def test_every_loss_comes_back_with_its_parameters(loss: xd.Loss, tmp_path: Path) -> None:
    net = trained(xd.Dense(4, "tanh"))
    net.loss = loss
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model")
    assert type(again.loss) is type(loss)
    assert_same(net, again)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_element_types_come_back(dtype: str, tmp_path: Path) -> None:
    net = trained(xd.Dense(4, "tanh"), dtype=dtype, seed=2**40 + 1)
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model")
    assert_same(net, again)
    assert all(value.dtype == dtype for value in again.arena.to_host().values())


def test_an_untrained_network_comes_back_without_a_loss(tmp_path: Path) -> None:
    net = xd.DenseNetwork([xd.Dense(2)], inputs=3)
    net.save(tmp_path / "model")
    assert xd.load(tmp_path / "model").loss is None
    assert_same(net, xd.load(tmp_path / "model"))


def test_running_statistics_are_saved(tmp_path: Path) -> None:
    net = trained(xd.BatchNorm())
    mean = net.arena.to_host()["0.running_mean"]
    assert np.all(mean != 0)
    assert np.all(net.arena.to_host()["0.running_variance"] != 1)
    net.save(tmp_path / "model")
    np.testing.assert_array_equal(xd.load(tmp_path / "model").arena.to_host()["0.running_mean"], mean)


@pytest.mark.parametrize("source", BACKENDS)
def test_a_model_loads_on_every_backend(source: str, tmp_path: Path) -> None:
    net = trained(xd.Dense(4, "tanh"), xd.BatchNorm(), backend=source)
    net.save(tmp_path / "model")
    for target in BACKENDS:
        again = xd.load(tmp_path / "model", backend=target)
        assert again.backend.kind == target.partition(":")[0]
        assert bits(again) == bits(net)
        np.testing.assert_allclose(again.predict(X), net.predict(X), rtol=1e-5, atol=1e-6)
    assert xd.load(tmp_path / "model").follows_input


def test_the_users_own_come_back_through_custom(tmp_path: Path) -> None:
    net = trained(Scale(0.5), xd.Dense(3, SQUARE), xd.Residual([Scale(2.0), xd.Dense(3, SQUARE)]), loss=Power(6))
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model", custom={"Scale": Scale, "square": SQUARE, "power": Power})
    assert_same(net, again)
    assert again.arena.to_host()["0.seen"] == 60
    assert isinstance(again.loss, Power)
    assert again.loss.exponent == 6


def test_a_users_activation_with_parameters_comes_back_through_custom(tmp_path: Path) -> None:
    net = trained(xd.Dense(4, make_steep(3.0)))
    net.save(tmp_path / "model")
    assert_same(net, xd.load(tmp_path / "model", custom={"steep": make_steep(3.0)}))


def test_a_users_initializer_does_not_keep_a_model_from_loading(tmp_path: Path) -> None:
    net = trained(xd.Dense(4, initializer=make_constant()))
    net.save(tmp_path / "model")
    assert_same(net, xd.load(tmp_path / "model", custom={"constant": make_constant()}))


def test_the_users_own_wins_over_ours_of_that_name(tmp_path: Path) -> None:
    net = trained(xd.Dense(4, xd.Activation("relu", lambda xp, z: z * z, lambda xp, z: 2.0 * z)))
    net.save(tmp_path / "model")
    own = {"relu": net.layers[0]._activation}  # type: ignore[attr-defined]
    np.testing.assert_array_equal(xd.load(tmp_path / "model", custom=own).predict(X), net.predict(X))


def test_extra_comes_back(tmp_path: Path) -> None:
    net = trained()
    net.extra = {"classes": ["cat", "dög"], "scale": 0.1, "n": 3, "none": None, "nested": {"a": [1, [2.5, True]]}}
    net.save(tmp_path / "model")
    again = xd.load(tmp_path / "model")
    assert again.extra == net.extra
    again.save(tmp_path / "again")
    assert xd.load(tmp_path / "again").extra == net.extra


def test_paths_may_be_words_and_folders_are_made(tmp_path: Path) -> None:
    net = trained()
    net.save(str(tmp_path / "a" / "b" / "model"))
    assert_same(net, xd.load(str(tmp_path / "a" / "b" / "model")))


def test_a_moved_folder_loads(tmp_path: Path) -> None:
    net = trained()
    net.save(tmp_path / "model")
    (tmp_path / "model").rename(tmp_path / "elsewhere")
    assert_same(net, xd.load(tmp_path / "elsewhere"))


def test_files_can_be_read_by_those_whom_the_umask_lets(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        trained().save(tmp_path / "model")
        assert os.umask(0o027) == 0o027, "saving leaves the umask as it is"
    finally:
        os.umask(old)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()} == {0o640}


# --- replacing and failing -------------------------------------------------------------------------------------

def test_saving_over_a_model_replaces_it_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    trained(xd.Dense(7), seed=9).save(tmp_path / "model")
    net = trained(xd.BatchNorm())
    net.save(tmp_path / "model")
    assert_same(net, xd.load(tmp_path / "model"))
    assert len(list((tmp_path / "model").iterdir())) == 2
    net.save(tmp_path / "model")  # the same weights once more
    assert_same(net, xd.load(tmp_path / "model"))
    assert len(list((tmp_path / "model").iterdir())) == 2


class Killed(BaseException):
    """Stands for the end of the process: nothing may be cleaned up after it."""


_CALLS: dict[str, tuple[Any, str]] = {
    **{f"os.{name}": (os, name) for name in ("fsync", "replace", "open", "chmod")},
    **{name: (Path, name) for name in ("unlink", "iterdir", "mkdir")},
    "mkstemp": (tempfile, "mkstemp"),
}


def attempt(net: xd.DenseNetwork, folder: Path, call: str, k: int, killed: bool) -> tuple[BaseException | None, int]:
    """Save, where call number k of one function fails: the error, and how many calls were made."""
    place, name = _CALLS[call]
    original, unlink = getattr(place, name), Path.unlink
    calls, dead = 0, False

    def fail(*arguments: Any, **options: Any) -> Any:
        nonlocal calls, dead
        calls += 1
        if calls == k + 1:
            dead = killed
            raise Killed if killed else OSError(28, "No space left on device")
        return original(*arguments, **options)

    def clean_up(*arguments: Any, **options: Any) -> None:  # a dead process does not
        if not dead:
            unlink(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", clean_up)
        patch.setattr(place, name, fail)
        try:
            net.save(folder)
        except (OutputError, Killed) as error:
            return error, calls
    return None, calls


@pytest.mark.parametrize("call", _CALLS)
@pytest.mark.parametrize("killed", [False, True], ids=["fails", "killed"])
@pytest.mark.parametrize("there", ["a model", "nothing"])
def test_a_save_that_fails_anywhere_leaves_the_old_or_the_new_model(call: str, killed: bool, there: str,
                                                                    tmp_path: Path) -> None:
    old, new = trained(seed=1), trained(xd.Dense(4), seed=2)
    failures = 0
    for k in range(100):
        folder = tmp_path / str(k)
        if there == "a model":
            old.save(folder)
        error, calls = attempt(new, folder, call, k, killed)
        failures += error is not None
        assert error is None or isinstance(error, Killed) == killed
        assert error is None or killed or "No space left on device" in str(error)
        if error is not None and there == "nothing" and not (folder / "model.json").exists():
            with pytest.raises(xd.ModelFileError, match=r"model\.json"):
                xd.load(folder)
        else:
            possible = [bits(new)] if error is None or there == "nothing" else [bits(old), bits(new)]
            assert bits(xd.load(folder)) in possible
        if calls <= k:
            break
        new.save(folder)  # the next save mends everything, leftovers included
        assert_same(new, xd.load(folder))
        assert sorted(p.suffix for p in folder.iterdir()) == [".json", ".safetensors"]
    assert calls <= k, "it was never called without failing"
    assert failures > 0 or (there, call) in {("nothing", "unlink"), ("a model", "mkdir")}


def test_what_cannot_be_saved_touches_nothing(tmp_path: Path) -> None:
    net = trained()
    net.save(tmp_path / "model")
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    net.extra = {"when": object()}
    for folder in ("model", "new"):
        with pytest.raises(OutputError, match="JSON"):
            net.save(tmp_path / folder)
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert not (tmp_path / "new").exists()


def test_a_model_is_a_small_index_and_its_weights(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    net = trained(xd.Dense(4))
    net.save(tmp_path / "model")
    index = json.loads((tmp_path / "model" / "model.json").read_text())
    tensors = load_file(tmp_path / "model" / index["weights"])
    assert {name: value.tobytes() for name, value in tensors.items()} == bits(net)
    assert (index["format"], index["version"], index["reads"]) == ("xpdense-model", 2, 2)
    assert [layer["type"] for layer in index["model"]["layers"]] == ["Dense", "Dense"]


# --- pickle and copy -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_pickles_and_copies_predict_the_same_and_train_apart(way: str, backend: str) -> None:
    net = trained(xd.Dense(4, leaky_relu(0.3), initializer=uniform(0.2)), xd.Dropout(0.1), xd.BatchNorm(),
                  xd.Residual([xd.LayerNorm(), xd.Dense(4, "gelu")]), loss=xd.Huber(0.5), backend=backend)
    net.extra = {"a": 1}
    again = pickle.loads(pickle.dumps(net)) if way == "pickle" else copy.deepcopy(net)
    assert_same(net, again)
    assert again.backend.name == net.backend.name
    before = bits(net)
    again.fit(X, Y, loss="squared_error", epochs=1)
    assert bits(net) == before != bits(again)


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_pickles_and_copies_keep_the_users_layers_and_losses(way: str) -> None:
    net = trained(Scale(0.5), loss=Power(2))
    again = pickle.loads(pickle.dumps(net)) if way == "pickle" else copy.deepcopy(net)
    assert_same(net, again)


def test_a_copy_keeps_the_users_activations() -> None:
    for activation in (SQUARE, make_steep(3.0)):
        net = trained(xd.Dense(4, activation), xd.Dense(3, initializer=make_constant()))
        np.testing.assert_array_equal(copy.deepcopy(net).predict(X), net.predict(X))


def test_a_pickle_from_a_device_that_is_not_here_opens_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    net = trained(xd.Dense(4))
    state = net.__getstate__() | {"backend": "torch:cuda:99"}
    again = xd.DenseNetwork.__new__(xd.DenseNetwork)
    again.__setstate__(state)
    assert again.backend.name == "numpy"
    assert_same(net, again)


def test_loading_needs_no_pickle_and_runs_no_code(tmp_path: Path) -> None:
    trained(xd.BatchNorm(), xd.Dense(4, leaky_relu(0.2))).save(tmp_path / "model")
    script = f"""
import sys
import numpy  # which imports pickle for itself
sys.modules["pickle"] = sys.modules["_pickle"] = None
import xpdense
seen = set()
sys.addaudithook(lambda event, arguments: seen.add(event))
print(xpdense.load({str(tmp_path / "model")!r}).size)
assert not seen & {{"pickle.find_class", "os.system", "subprocess.Popen", "ctypes.dlopen"}}, seen
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("32\n", "")
