"""Where a network computes: what is imported, what follows what, what comes back, and which ops serve."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.backend import Backend, backend_of, host, resolve
from xpdense.errors import BackendError, MissingDependencyError
from xpdense.ops import CudaOps, NativeOps, Ops, native, ops_for

RNG = np.random.default_rng(5)
X = RNG.standard_normal((40, 3)).astype(np.float32)
Y = (X[:, :1] - 2 * X[:, 1:2]).astype(np.float32)


def network(backend: str = "auto", dtype: str = "float32") -> xd.DenseNetwork:
    block = xd.Residual([xd.LayerNorm(), xd.Dense(6)])
    layers = [xd.Dense(6, "gelu"), xd.Dropout(0.2), xd.BatchNorm(), block, xd.Dense(1)]
    return xd.DenseNetwork(layers, inputs=3, backend=backend, dtype=dtype, seed=4)


def fit(net: xd.DenseNetwork, x: Any = X, y: Any = Y, **options: Any) -> xd.History:
    return net.fit(x, y, loss="squared_error", epochs=3, batch_size=16, **options)


def values(net: xd.DenseNetwork) -> np.ndarray:
    return np.concatenate([value.ravel() for value in net.arena.to_host().values()])


# --- what is imported ------------------------------------------------------------------------------------------

_USE = """
x = numpy.ones((8, 3)); y = numpy.arange(8.0)
net = xpdense.DenseNetwork([xpdense.Dense(4, "relu"), xpdense.BatchNorm(), xpdense.Dense(1)], inputs=3)
net.fit(x, y, loss="squared_error", epochs=2, validation=0.25, callbacks=[xpdense.EarlyStopping()])
net.evaluate(x, y)
net.save(sys.argv[1])
xpdense.load(sys.argv[1]).predict(x)
"""


def imported(script: str, *arguments: str) -> set[str]:
    """Top-level modules that a script brings in beyond those of a bare interpreter."""
    script = f"import sys\nbefore = set(sys.modules)\n{script}\nfound = set(sys.modules) - before\nprint(*found)"
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_xpdense_brings_in_nothing_but_the_standard_library() -> None:
    third_party = imported("import xpdense") - sys.stdlib_module_names
    assert third_party == {"xpdense"}


def test_training_and_saving_on_numpy_bring_in_no_more_than_they_need(tmp_path: Path) -> None:
    plain = imported("import numpy.random, sysconfig; sysconfig.get_config_vars()")
    used = imported(f"import numpy, xpdense\n{_USE}", str(tmp_path / "model"))
    blas = imported("import scipy.linalg.cython_blas") if native.available and find_spec("scipy") else set()
    assert used - plain - sys.stdlib_module_names - blas == {"xpdense", "array_api_compat", "safetensors"}


def test_every_public_name_is_there() -> None:
    assert len(xd.__all__) > 40
    assert sorted(xd.__all__) == xd.__all__
    for name in xd.__all__:
        assert getattr(xd, name).__module__.startswith("xpdense.")
        assert name in dir(xd)
    with pytest.raises(AttributeError, match="no attribute 'Conv2d'"):
        xd.Conv2d  # noqa: B018


# --- what is here ----------------------------------------------------------------------------------------------

def test_backends_lists_every_namespace_with_what_it_takes_to_get_it() -> None:
    rows = xd.backends()
    kinds = [row.name.partition(":")[0] for row in rows]
    assert list(dict.fromkeys(kinds)) == ["numpy", "cupy", "torch", "array_api_strict"]
    for row, kind in zip(rows, kinds, strict=True):
        if row.available:
            assert row.version
            assert row.device
            served = {"cupy": "cuda", "numpy": "native" if native.available else "generic"}
            assert row.ops == served.get(kind, "generic")
            assert not row.note or row.name == "numpy"  # there it says that the kernels, or SciPy, are missing
            assert resolve(row.name).name == row.name
        elif find_spec(kind) is None:
            assert "pip install" in row.note
            assert not row.ops
        else:
            assert row.version
            assert "finds no CUDA device" in row.note


def test_backends_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense import ops

    monkeypatch.setattr(ops, "installed", lambda module: module == "numpy")
    notes = {row.name: row.note for row in xd.backends() if not row.available}
    assert notes.keys() == {"cupy", "torch", "array_api_strict"}
    assert "pip install 'xpdense[cuda13]'" in notes["cupy"]
    assert "'xpdense[cuda12]'" in notes["cupy"]
    assert notes["torch"] == "pip install 'xpdense[torch]'"
    assert notes["array_api_strict"] == "pip install array-api-strict"


def test_backends_reports_a_cupy_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """CuPy installed, no driver: a row with the reason, not an error."""
    from xpdense import ops

    def devices(kind: str) -> Any:
        if kind == "cupy":
            raise BackendError("CuPy 14 finds no CUDA device: no driver")
        return [(resolve("numpy"), "CPU")]

    monkeypatch.setattr(ops, "installed", lambda module: True)
    monkeypatch.setattr(ops, "devices", devices)
    row = next(row for row in xd.backends() if row.name == "cupy")
    assert not row.available
    assert "finds no CUDA device" in row.note


@pytest.mark.parametrize(("module", "backend", "says"), [
    ("cupy", "cupy", "pip install 'xpdense[cuda13]'"),
    ("cupy", "cupy:1", "'xpdense[cuda12]'"),
    ("torch", "torch", "pip install 'xpdense[torch]'"),
    ("array_api_strict", "array_api_strict", "pip install array-api-strict"),
])
def test_a_namespace_that_is_not_installed_names_its_command(module: str, backend: str, says: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(BackendError) as caught:
        network(backend)
    assert says in str(caught.value)
    assert "is not installed" in str(caught.value)


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """As if the package were not installed, whatever has been imported of it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)


def test_metrics_without_scikit_learn_name_its_command_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "sklearn")
    net = network()
    before = values(net)
    with pytest.raises(MissingDependencyError, match=r"'rmse' needs sklearn.*pip install 'xpdense\[sklearn\]'"):
        fit(net, metrics=["rmse"])
    with pytest.raises(ImportError):
        net.evaluate(X, Y, loss="squared_error", metrics=["r2"])
    np.testing.assert_array_equal(values(net), before)
    fit(net, metrics=[lambda target, prediction: 1.0])


@pytest.mark.parametrize("package", ["sklearn", "narwhals"])
def test_estimators_without_scikit_learn_name_its_command(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, package)
    for name in [n for n in sys.modules if n.startswith("xpdense.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(vars(xd), "MLPClassifier", raising=False)
    command = rf"needs {package}.*pip install 'xpdense\[sklearn\]'"
    with pytest.raises(MissingDependencyError, match=command):
        xd.MLPClassifier()
    with pytest.raises(AttributeError, match=command):
        xd.MLPClassifier()
    assert not hasattr(xd, "MLPClassifier")
    assert getattr(xd, "MLPClassifier", None) is None
    for statement in ("from xpdense import MLPClassifier", "from xpdense import Dense, MLPClassifier",
                      "import xpdense.estimators.classifier"):
        with pytest.raises(MissingDependencyError, match=command) as caught:
            exec(statement, {})
        assert isinstance(caught.value, ImportError)


def test_everything_can_be_listed_without_any_extra() -> None:
    extras = ("sklearn", "narwhals", "pandas", "matplotlib", "typer", "rich", "pyarrow", "tqdm")
    code = (f"import sys; sys.modules |= dict.fromkeys({extras}); from xpdense import *; import xpdense as xd; "
            "import inspect, pydoc; print(hasattr(xd, 'MLPClassifier'), 'MLPClassifier' in xd.__all__, xd.losses.Huber is xd.Huber, "
            "len(inspect.getmembers(xd)) > 60, 'DenseNetwork' in pydoc.render_doc(xd))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True", "True"]


def test_frames_and_plots_without_their_packages_name_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    history = fit(network())
    hide(monkeypatch, "pandas")
    with pytest.raises(MissingDependencyError, match=r"History.to_frame needs pandas.*pip install 'xpdense\[plots\]'"):
        history.to_frame()
    hide(monkeypatch, "matplotlib")
    monkeypatch.delitem(sys.modules, "xpdense.plots", raising=False)
    with pytest.raises(MissingDependencyError, match=r"History.plot needs matplotlib.*pip install 'xpdense\[plots\]'"):
        history.plot()


# --- following and moving --------------------------------------------------------------------------------------

def test_a_network_of_backend_auto_follows_its_input_and_trains_the_same() -> None:
    torch = pytest.importorskip("torch")
    moving, staying = network(), network()
    for x, y in ((X, Y), (torch.tensor(X), torch.tensor(Y)), (X.tolist(), Y.tolist())):
        fit(moving, x, y)
        fit(staying)
        kind = "torch" if isinstance(x, torch.Tensor) else "numpy"
        assert moving.backend.kind == kind
        prediction = moving.predict(x)
        assert type(prediction) is (torch.Tensor if kind == "torch" else np.ndarray)
        np.testing.assert_allclose(host(prediction), staying.predict(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(values(moving), values(staying), rtol=1e-3, atol=1e-4)


def test_targets_weights_and_validation_may_be_of_another_namespace_than_x() -> None:
    torch = pytest.importorskip("torch")
    weight = np.linspace(0.5, 1.5, 40)
    expected, mixed = network(), network()
    fit(expected, sample_weight=weight, validation=(X, Y, weight))
    fit(mixed, X, torch.tensor(Y), sample_weight=torch.tensor(weight), validation=(torch.tensor(X), Y.tolist(), weight))
    assert mixed.backend.kind == "numpy"
    np.testing.assert_array_equal(values(mixed), values(expected))


@pytest.mark.parametrize("name", ["torch", "array_api_strict", "array_api_strict:device1"])
def test_a_named_backend_takes_numpy_input_and_gives_numpy_back(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    named, plain = network(name), network()
    history, expected = fit(named, validation=0.25), fit(plain, validation=0.25)
    for column in ("loss", "validation_loss"):
        np.testing.assert_allclose(history[column], expected[column], rtol=1e-4)
    prediction = named.predict(X)
    assert type(prediction) is np.ndarray
    assert named.backend.kind == name.partition(":")[0]
    np.testing.assert_allclose(prediction, plain.predict(X), rtol=1e-4, atol=1e-5)
    assert named.evaluate(X, Y)["loss"] == pytest.approx(plain.evaluate(X, Y)["loss"], rel=1e-4)


def test_a_network_named_numpy_gives_tensors_back_for_tensors() -> None:
    torch = pytest.importorskip("torch")
    net = network("numpy")
    fit(net, torch.tensor(X), torch.tensor(Y))
    prediction = net.predict(torch.tensor(X))
    assert net.backend.kind == "numpy"
    assert type(prediction) is torch.Tensor
    np.testing.assert_array_equal(prediction.numpy(), net.predict(X))


@pytest.mark.parametrize("batched", [False, True])
def test_everything_of_the_second_device_stays_on_it(batched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    xp = pytest.importorskip("array_api_strict")
    from xpdense.network import Network

    if batched:
        monkeypatch.setattr(Network, "part_rows", 7)
    device = xp.Device("device1")
    net = network()
    fit(net, xp.asarray(X, device=device), xp.asarray(Y, device=device))
    assert net.backend.name == "array_api_strict:device1"
    prediction = net.predict(xp.asarray(X, device=device))
    assert prediction.device == device
    assert prediction.shape == (40, 1)
    assert net.forward(xp.asarray(X, device=device)).device == device
    assert {p.device for p in (*net.params.values(), *net.grads.values(), net.arena.state)} == {device}
    np.testing.assert_allclose(host(prediction), net.predict(X), rtol=1e-5, atol=1e-6)
    assert net.backend.name == "numpy", "and then it follows NumPy home"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_element_types_of_input_do_not_change_those_of_the_network(dtype: str) -> None:
    net = network(dtype=dtype)
    for given in (np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16, bool, ">f4"):
        fit(net, (X * 2).astype(given), Y.astype(given))
        assert net.predict((X * 2).astype(given)).dtype == dtype


@pytest.mark.parametrize("name", ["numpy", "torch"])
def test_read_only_strided_and_reversed_arrays_are_read_and_never_written(name: str) -> None:
    pytest.importorskip(name)
    big = np.zeros((80, 6), np.float32)
    big[::2, ::2] = X
    views = [np.asfortranarray(X), big[::2, ::2], np.ascontiguousarray(X[::-1])[::-1], X.copy()]
    views[-1].flags.writeable = False
    before = [view.copy() for view in views]
    expected = network(name)
    fit(expected)
    for view, kept in zip(views, before, strict=True):
        net = network(name)
        fit(net, view)
        np.testing.assert_array_equal(values(net), values(expected))
        net.predict(view)
        np.testing.assert_array_equal(view, kept)


def test_moving_keeps_values_and_gives_new_views() -> None:
    pytest.importorskip("torch")
    net = network()
    fit(net)
    before, here = values(net), net.arena
    net.to("numpy")
    assert net.arena is here, "already there"
    net.to("torch")
    assert net.backend.name == "torch:cpu"
    assert net.ops.backend is net.backend
    np.testing.assert_array_equal(values(net), before)
    net.to(resolve("numpy"))
    np.testing.assert_array_equal(values(net), before)
    assert np.all(net.arena.grads == 0)


def test_lists_frames_and_series_are_numpy_input() -> None:
    pandas = pytest.importorskip("pandas")
    net = network()
    expected = net.predict(X)
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    for x in (X.tolist(), frame, tuple(map(tuple, X.tolist()))):
        assert backend_of(x) is None
        prediction = net.predict(x)
        assert type(prediction) is np.ndarray
        np.testing.assert_allclose(prediction, expected, rtol=1e-6)
    fit(net, frame, pandas.Series(Y[:, 0]), sample_weight=pandas.Series(np.ones(40)))


def test_a_mutable_namespace_without_a_name_here_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any namespace whose slices are views will do: it is found from its arrays."""
    xp = pytest.importorskip("array_api_strict")
    import types

    module: Any = types.ModuleType("somebodys_arrays")
    vars(module).update({name: value for name, value in vars(xp).items() if not name.startswith("__")})
    monkeypatch.setattr(type(xp.zeros(1)), "__array_namespace__", lambda self, api_version=None: module)
    place = backend_of(xp.zeros(1))
    assert place is not None
    assert (place.name, place.kind) == ("somebodys_arrays", "somebodys_arrays")
    net, expected = network(), network()
    fit(net, xp.asarray(X), xp.asarray(Y))
    fit(expected)
    assert net.backend.kind == "somebodys_arrays"
    np.testing.assert_allclose(values(net), values(expected), rtol=1e-4, atol=1e-5)
    assert type(net.predict(xp.asarray(X))) is type(xp.asarray(X))
    again = copy.deepcopy(net)  # nobody can find that namespace by its name: on the CPU, then
    np.testing.assert_array_equal(values(again), values(net))
    np.testing.assert_allclose(again.predict(X), expected.predict(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["numpy", "torch", "array_api_strict:device1"])
def test_backends_pickle_by_name(name: str) -> None:
    pytest.importorskip(name.partition(":")[0])
    place = resolve(name)
    again = pickle.loads(pickle.dumps(place))
    assert (again.name, again.kind, again.xp, again.device) == (place.name, place.kind, place.xp, place.device)


def test_memory_is_known_and_its_limit_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    place = resolve("numpy")
    assert place.memory() > 2**26
    place.check_memory(2**20, "a small thing")
    monkeypatch.setattr(Backend, "memory", lambda self: 2**20)
    with pytest.raises(xd.MemoryLimitError, match=r"a large thing needs 2\.0 GiB, and numpy has 0\.0 GiB"):
        place.check_memory(2**31, "a large thing")
    with pytest.raises(MemoryError):
        xd.DenseNetwork([xd.Dense(1000), xd.Dense(1000)], inputs=3)
    monkeypatch.setattr(Backend, "memory", lambda self: 0)
    place.check_memory(2**60, "nobody knows whether this")


# --- the ops ---------------------------------------------------------------------------------------------------

def subclasses(cls: type) -> list[type]:
    return [sub for direct in cls.__subclasses__() for sub in (direct, *subclasses(direct))]


OURS = [cls for cls in subclasses(Ops) if cls.__module__.startswith("xpdense.")]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_faster_ops_override_by_the_same_name_and_signature(cls: type) -> None:
    overridden = [name for name, value in vars(cls).items() if callable(value) and not name.startswith("_")]
    for name in overridden:
        general = getattr(Ops, name, None)
        assert general is not None, f"{name} is no op of the specification"
        assert str(inspect.signature(getattr(cls, name))) == str(inspect.signature(general)), name
    assert cls.__dict__["name"] != Ops.name


def test_the_signature_check_sees_a_difference() -> None:
    class Wrong(Ops):
        name = "wrong"

        def add(self, a: Any, b: Any) -> Any:  # type: ignore[override]
            return a + b

    with pytest.raises(AssertionError, match="add"):
        test_faster_ops_override_by_the_same_name_and_signature(Wrong)


def test_cuda_ops_serve_cupy_kernels_numpy_and_the_generic_ones_everything_else() -> None:
    assert issubclass(CudaOps, Ops)
    assert CudaOps in OURS
    plain = resolve("numpy")
    pretended = Backend("cupy:0", "cupy", plain.xp, None)
    assert type(ops_for(pretended, "float32")) is CudaOps
    assert type(ops_for(plain, "float32")) is (NativeOps if native.available else Ops)
    for name in ("torch", "array_api_strict"):
        if find_spec(name):
            assert type(ops_for(resolve(name), "float32")) is Ops


def test_ops_on_a_device_work_in_one_piece_and_on_the_host_in_pieces() -> None:
    plain = resolve("numpy")
    assert ops_for(Backend("cupy:0", "cupy", plain.xp, None), "float32").piece > 2**40
    assert ops_for(plain, "float32").piece < 2**20
