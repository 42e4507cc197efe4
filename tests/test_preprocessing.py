"""Preprocessing: a typed member of a network, kept in its model file under the names of earlier formats."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.data.preprocessing import Preprocessing
from xpdense.data.table import TableEncoder
from xpdense.data.target import TargetEncoder

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

KEYS = {"data", "table", "target", "task", "classes", "mean", "scale"}
FRAME = pandas.DataFrame({"age": [20.0, 30.0, 40.0, 50.0], "city": ["Rome", "Oslo", None, "Rome"],
                          "y": ["no", "yes", "no", "yes"], "price": [1.5, 2.5, 9.0, 4.0]})


def preprocessing(target: str = "y") -> Preprocessing:
    return Preprocessing(TableEncoder.fit(FRAME[["age", "city"]]), TargetEncoder.infer(target, FRAME[target]), "people")


def network(found: Preprocessing | None = None) -> xd.DenseNetwork:
    net = xd.DenseNetwork([xd.Dense(1)], inputs=4, seed=0)
    net.preprocessing = found
    return net


def saved_extra(folder: Path) -> dict[str, Any]:
    extra: dict[str, Any] = json.loads((folder / "model.json").read_text())["model"]["extra"]
    return extra


@pytest.mark.parametrize("target", ["y", "price"])
@pytest.mark.parametrize("name", ["people", None])
def test_preprocessing_comes_back_from_json_as_it_was(target: str, name: str | None) -> None:
    found = replace(preprocessing(target), data_name=name)
    state = found.to_dict()
    assert set(state) == KEYS - (set() if name else {"data"})
    assert Preprocessing.from_dict(json.loads(json.dumps(state))) == found
    assert Preprocessing.split({**state, "note": 1}) == (found, {"note": 1})


def test_text_columns_are_those_that_must_not_be_read_as_numbers() -> None:
    assert preprocessing("y").text == ["city", "y"]
    assert preprocessing("price").text == ["city"]


def test_a_model_file_has_the_entries_of_earlier_formats(tmp_path: Path) -> None:
    net = network(preprocessing())
    net.extra = {"note": [1, "two"]}
    net.save(tmp_path / "new")
    assert saved_extra(tmp_path / "new") == {"note": [1, "two"], **preprocessing().to_dict()}
    old = network()
    old.extra = {"note": [1, "two"], **preprocessing().to_dict()}  # as earlier versions held it in memory
    old.save(tmp_path / "old")
    assert (tmp_path / "old" / "model.json").read_bytes() == (tmp_path / "new" / "model.json").read_bytes()
    again = xd.load(tmp_path / "old")
    assert again.preprocessing == preprocessing()
    assert again.extra == {"note": [1, "two"]}


def test_a_model_of_format_1_has_a_typed_preprocessing(tmp_path: Path) -> None:
    shutil.copytree(Path(__file__).parent / "golden" / "model-v1", tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model.json").read_text())
    assert index["version"] == 1
    index["model"]["extra"] |= preprocessing().to_dict()
    (tmp_path / "m" / "model.json").write_text(json.dumps(index))
    net = xd.load(tmp_path / "m")
    assert net.preprocessing == preprocessing()
    assert net.extra == {"note": "written by format 1"}


@pytest.mark.parametrize("extra", [
    {"table": "oak", "scale": 0.1}, {"classes": ["cat", "dog"], "mean": 3}, {"data": "mine"},
    dict.fromkeys(KEYS - {"scale"}, 0),
])
def test_entries_of_the_user_stay_in_extra(extra: dict[str, Any], tmp_path: Path) -> None:
    net = network()
    net.extra = extra
    net.save(tmp_path)
    again = xd.load(tmp_path)
    assert again.preprocessing is None
    assert again.extra == extra


def test_an_entry_that_is_not_a_name_of_data_stays_in_extra(tmp_path: Path) -> None:
    net = network(replace(preprocessing(), data_name=None))
    net.extra = {"data": 5}
    net.save(tmp_path)
    again = xd.load(tmp_path)
    assert again.preprocessing == net.preprocessing
    assert again.extra == {"data": 5}


@pytest.mark.parametrize("key", sorted(KEYS))
def test_an_entry_that_would_be_lost_is_refused(key: str, tmp_path: Path) -> None:
    net = network(preprocessing())
    net.extra = {key: "mine"}
    with pytest.raises(xd.ParameterError, match=f"extra must not hold '{key}'"):
        net.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("damage", [
    {"table": {}}, {"table": None}, {"table": []}, {"task": "regression"}, {"task": "magic"}, {"classes": ["a"] * 2},
    {"classes": 5}, {"target": 1}, {"mean": None}, {"scale": 0.0},
])
def test_a_damaged_preprocessing_is_refused(damage: dict[str, Any], tmp_path: Path) -> None:
    state = preprocessing().to_dict() | damage
    with pytest.raises(xd.ModelFileError, match="damaged"):
        Preprocessing.from_dict(state)
    net = network()
    net.extra = state
    net.save(tmp_path)
    with pytest.raises(xd.ModelFileError, match="damaged"):
        xd.load(tmp_path)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_keep_it(copied: Callable[[xd.DenseNetwork], xd.DenseNetwork]) -> None:
    assert copied(network(preprocessing())).preprocessing == preprocessing()


def test_a_network_learns_it_from_a_table_and_keeps_it_after_arrays(tmp_path: Path) -> None:
    FRAME.drop(columns="price").to_csv(tmp_path / "people.csv", index=False)
    data = xd.data.open(tmp_path / "people.csv")
    net = network()
    net.fit(data, loss="binary_cross_entropy", epochs=2)
    assert net.preprocessing == preprocessing()
    assert net.extra == {}
    for arrays in ((np.eye(4), [0, 1, 0, 1]), (xd.data.open(np.eye(4), np.array([0, 1, 0, 1])),)):
        net.fit(*arrays, loss="binary_cross_entropy", epochs=1)
    assert net.preprocessing == preprocessing()
    net.save(tmp_path / "m")
    again = xd.load(tmp_path / "m")
    new = xd.data.open(tmp_path / "people.csv", like=again)
    assert np.array_equal(again.predict(new), net.predict(data))
    with pytest.raises(xd.ParameterError, match="like must be a stream, or a network that was trained on a table"):
        xd.data.open(tmp_path / "people.csv", like=network())
