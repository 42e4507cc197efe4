"""Files that exist stay readable: models of both formats, runs and checkpoints load, predict and go on as they did.

tests/fixtures holds files that earlier revisions wrote, and what those made of them (make_fixtures.py, kept.json). The
results are the same to the bit where what the last bits depend on is the same: versions of NumPy and SciPy, the BLAS
and the kernels it has chosen for the processor, the processor's instructions, the C library, compiled ops. Elsewhere
they are close, by TOLERANCE for predictions, and by TRAINED where a training has gone on. What is called "exact" has
numbers of which every sum is exact in whatever order: it is the same to the bit everywhere.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures import trainings
from fixtures.trainings import HERE, WHERE

import xpdense as xd

KEPT = json.loads((HERE / "kept.json").read_text())
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
TRAINED = {"float32": 2e-3, "float64": 1e-9}


@functools.cache
def same_machine(ops: str = "auto") -> bool:
    """Whether the last bits must be those of the machine that wrote the files."""
    then, now = dict(KEPT["machine"]), trainings.machine()
    if not then["blas"] or any(blas not in now["blas"] for blas in then["blas"]):  # another package may bring its own
        return False
    alike = [name for name in then if name != "blas" and (name != "ops" or ops == "auto")]
    return all(now[name] == then[name] for name in alike)


def check(found: Any, kept: Any, dtype: str, to_the_bit: bool, tolerance: dict[str, float] = TOLERANCE) -> None:
    """Numbers that a network of this dtype made must be the kept ones."""
    found, kept = np.asarray(found), np.asarray(kept)
    assert found.shape == kept.shape
    if to_the_bit:
        assert found.astype(kept.dtype).tobytes() == kept.tobytes()
    else:
        np.testing.assert_allclose(found, kept, rtol=tolerance[dtype], atol=tolerance[dtype])


def check_tensors(net: xd.DenseNetwork, kept: xd.DenseNetwork, to_the_bit: bool) -> None:
    found, wanted = trainings.tensors(net), trainings.tensors(kept)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        check(found[name], value, net.dtype, to_the_bit, TRAINED)


# --- the files -------------------------------------------------------------------------------------------------

def test_the_kept_files_are_as_they_were_written() -> None:
    parts = {name.partition("/")[0] for name in KEPT["files"]}
    files = [path for part in parts for path in (HERE / part).rglob("*") if path.is_file()]
    assert {path.relative_to(HERE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files} == \
        KEPT["files"]


def test_every_folder_that_is_kept_is_read() -> None:
    folders = {path.relative_to(HERE).as_posix() for part in ("models", "runs") for path in HERE.glob(f"{part}/*/*")}
    assert folders == {*KEPT["models"], *KEPT["runs"], *(f"runs/interrupted/{name}" for name in KEPT["interrupted"])}
    assert {path.name for path in (HERE / "checkpoints").iterdir()} == KEPT["checkpoints"].keys()


@pytest.mark.parametrize("name", [*KEPT["models"], *(f"{name}/model" for name in KEPT["runs"])])
def test_each_model_is_of_the_format_that_its_place_says(name: str) -> None:
    index = json.loads((HERE / name / "model.json").read_text())
    assert index["version"] == int(name.split("/")[1].removeprefix("format-"))
    assert ("checksum" in index) == (index["version"] > 1)


def test_every_layer_loss_activation_and_initializer_is_kept() -> None:
    text = "".join((HERE / name / "model.json").read_text() for name in KEPT["models"])
    layers = ("Dense", "Dropout", "BatchNorm", "LayerNorm", "Residual", "Scale")
    for name in (*layers, *trainings.ACTIVATIONS, *trainings.INITIALIZERS, *trainings.LOSSES):
        assert f'"{name}"' in text, name


# --- models ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ops", ["auto", "generic"])
@pytest.mark.parametrize("name", KEPT["models"])
def test_a_kept_model_predicts_what_it_did(name: str, ops: str) -> None:
    net, kept = trainings.loaded(HERE / name, ops), KEPT["models"][name][ops]
    to_the_bit = same_machine(ops) or name.endswith("/exact")
    prediction = net.predict(trainings.seen())
    assert prediction.dtype == net.dtype == ("float64" if name.endswith("-float64") else "float32")
    check(prediction, kept["prediction"], net.dtype, to_the_bit)
    loss = trainings.evaluated(name.rpartition("/")[2], net)
    if kept["loss"] is None:
        assert net.loss is None
    else:
        check(loss, kept["loss"], net.dtype, to_the_bit)


@pytest.mark.parametrize("name", KEPT["models"])
def test_a_kept_model_says_what_it_said(name: str) -> None:
    net, note = trainings.loaded(HERE / name, "auto"), name.rpartition("/")[2]
    trained = note not in ("exact", "untrained")
    assert net.extra == ({"note": note, "numbers": [1, 2.5], "inner": {"none": None, "yes": True}} if trained else {})
    assert (net.inputs, net.seed) == (3, 5 if trained else 6 if note == "untrained" else 0)
    if note in trainings.LOSSES:
        loss = trainings.LOSSES[note][0]()
        assert type(net.loss) is type(loss)
        assert vars(net.loss) == vars(loss)


@pytest.mark.parametrize("name", KEPT["models"])
def test_a_kept_model_that_is_saved_anew_is_the_same(name: str, tmp_path: Path) -> None:
    net = trainings.loaded(HERE / name, "auto")
    net.save(tmp_path / Path(name).name)
    again = trainings.loaded(tmp_path / Path(name).name, "auto")
    assert repr(again.layers) == repr(net.layers)
    check_tensors(again, net, True)
    x = trainings.array("x")
    assert again.predict(x).tobytes() == net.predict(x).tobytes()


@pytest.mark.parametrize("number", [1, 2])
def test_exact_predictions_are_the_same_on_every_backend(number: int, backend: str) -> None:
    name = f"models/format-{number}/exact"
    net = xd.load(HERE / name, backend=backend)
    check(net.predict(trainings.seen()), KEPT["models"][name]["generic"]["prediction"], "float32", True)


# --- runs of the command line ----------------------------------------------------------------------------------

def xpdense(*arguments: Any, code: int = 0) -> Any:
    """The result of `xpdense ARGUMENTS`, among the kept files."""
    for extra in ("pandas", "rich", "sklearn", "pyarrow", "matplotlib"):
        pytest.importorskip(extra)
    testing, cli = pytest.importorskip("typer.testing"), pytest.importorskip("xpdense.cli")
    result = testing.CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture
def among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept runs name their data from here."""
    monkeypatch.chdir(HERE)
    monkeypatch.setenv("COLUMNS", "80")


def table(text: str) -> dict[str, list[str]]:
    rows = list(csv.DictReader(io.StringIO(text)))
    return {name: [row[name] for row in rows] for name in rows[0]}


def check_table(found: str, kept: str, dtype: str, to_the_bit: bool) -> None:
    if to_the_bit:
        assert found == kept
    mine, theirs = table(found), table(kept)
    assert list(mine) == list(theirs)
    for name, values in theirs.items():
        if name == "prediction" and not values[0][0].isdigit():  # labels
            assert mine[name] == values
        else:
            check(list(map(float, mine[name])), list(map(float, values)), dtype, to_the_bit)


@pytest.mark.parametrize("name", KEPT["runs"])
def test_a_kept_run_predicts_for_tables_what_it_did(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    net, kept = xd.load(HERE / name / "model"), KEPT["runs"][name]
    rows = xd.data.open(WHERE / "later.csv", like=net)
    assert (rows.features, net.dtype) == (kept["features"], kept["dtype"])
    check(net.predict(rows), kept["prediction"], net.dtype, same_machine())
    check(net.evaluate(rows)["loss"], kept["loss"], net.dtype, same_machine())
    net.save(tmp_path)
    again = xd.load(tmp_path)
    assert again.extra == net.extra
    assert again.predict(xd.data.open(WHERE / "later.csv", like=again)).tobytes() == net.predict(rows).tobytes()


@pytest.mark.usefixtures("among_them")
@pytest.mark.parametrize("way", ["--no-stream", "--stream"])
@pytest.mark.parametrize("name", KEPT["runs"])
def test_the_command_line_predicts_and_scores_by_a_kept_run_as_it_did(name: str, way: str, tmp_path: Path) -> None:
    kept, out = KEPT["runs"][name], tmp_path / "p.csv"
    proba = ["--proba"] if ",probability_" in kept["predict"] else []
    xpdense("predict", HERE / name, "data/later.csv", *proba, "--out", out, way)
    check_table(out.read_text(), kept["predict"], kept["dtype"], same_machine())
    found = trainings.scores(xpdense("evaluate", HERE / name, "data/people.csv", way).stdout)
    if same_machine() and way == "--no-stream":
        assert found == kept["evaluate"]
    else:
        assert list(found) == list(kept["evaluate"])
        check(list(map(float, found.values())), list(map(float, kept["evaluate"].values())), "float32", False,
              {"float32": 1e-3})  # of what is printed: four digits


@pytest.mark.usefixtures("among_them")
def test_a_kept_run_that_has_ended_says_so() -> None:
    result = xpdense("train", "--resume", HERE / "runs" / "format-2" / "price", code=2)
    assert "has ended" in result.stderr


# --- going on --------------------------------------------------------------------------------------------------

def check_history(found: dict[str, Any], kept: dict[str, Any], dtype: str, to_the_bit: bool) -> None:
    assert found.keys() == kept.keys()
    for name, values in kept.items():
        check(found[name], values, dtype, to_the_bit, TRAINED)


def check_end(name: str, net: xd.DenseNetwork, said: dict[str, Any]) -> None:
    """The end of a training must be the kept one."""
    kept, to_the_bit = KEPT["checkpoints"][name], same_machine("generic" if name.startswith("npy") else "auto")
    check_tensors(net, xd.load(HERE / "ends" / name), to_the_bit or name == "exact")
    check_history(said["history"], kept["history"], net.dtype, to_the_bit)
    for entry in ("steps", "best_epoch", "epochs"):
        assert said.get(entry) == kept.get(entry)
    for entry in said.keys() & {"best", "losses"}:
        check(said[entry], kept[entry], net.dtype, to_the_bit, TRAINED)


@pytest.mark.parametrize("name", KEPT["checkpoints"])
def test_a_kept_checkpoint_goes_on_to_the_end_that_it_had(name: str, tmp_path: Path) -> None:
    if name.startswith(("csv", "parquet")):
        pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
    folder = shutil.copytree(HERE / "checkpoints" / name, tmp_path / name)
    keeper = xd.Checkpoint(folder, keep=2)
    net, said = trainings.fit(name, keeper, resume=folder)
    check_end(name, net, said)
    assert (keeper.best and keeper.best.name) == KEPT["checkpoints"][name]["keeper's best"]


@pytest.mark.parametrize("name", KEPT["checkpoints"])
def test_an_earlier_one_of_the_kept_checkpoints_goes_on_to_the_same_end(name: str) -> None:
    if name.startswith(("csv", "parquet")):
        pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
    first = min((HERE / "checkpoints" / name).iterdir())
    check_end(name, *trainings.fit(name, resume=first))


@pytest.mark.parametrize("name", KEPT["checkpoints"])
def test_a_kept_checkpoint_is_a_model(name: str) -> None:
    for folder in (HERE / "checkpoints" / name).iterdir():
        net = xd.load(folder)
        assert net.loss is not None
        assert np.isfinite(net.predict(np.zeros((2, net.inputs)))).all()


@pytest.mark.usefixtures("among_them")
@pytest.mark.parametrize("name", KEPT["interrupted"])
def test_a_kept_run_that_was_interrupted_goes_on_to_the_end_that_it_had(name: str, tmp_path: Path) -> None:
    kept, folder = KEPT["interrupted"][name], shutil.copytree(HERE / "runs" / "interrupted" / name, tmp_path / name)
    output = xpdense("train", "--resume", folder).stdout
    assert output.partition("epoch")[2].split()[0] == kept["first"]  # the epoch that was under way
    net = xd.load(folder / "model")
    check_tensors(net, xd.load(HERE / "ends" / f"run-{name}"), same_machine())
    check_history(trainings.written(folder), kept["history"], net.dtype, same_machine())
    assert net.extra == xd.load(HERE / "ends" / f"run-{name}").extra
