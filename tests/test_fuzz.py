"""Files from strangers: whatever is in them, a loader gives a named error or what it loads; it runs nothing."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzz import targets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import xpdense as xd
from xpdense.data import datasets

pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

SEEDS = {name: targets.seeds(name) for name in targets.TARGETS}
JSON_VALUES = [None, True, -1, 0, 10**12, 10**400, 0.5, "", "x", "../x", [], {}, [[]], {"name": "relu"}, [1, 2]]


def edited(draw: Any, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or put in."""
    out = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, max(0, len(out) - 1))), draw(st.sampled_from([1, 1, 2, 8, 40]))
        kind = draw(st.sampled_from(["change", "cut", "double", "insert", "end"]))
        if kind == "change":
            out[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "cut":
            del out[at : at + length]
        elif kind == "double":
            out[at:at] = out[at : at + length]
        elif kind == "insert":
            out[at:at] = draw(st.binary(max_size=8))
        else:
            del out[at:]
    return bytes(out)


EXAMPLES = {"model": 150, "checkpoint": 40, "npz": 150, "csv": 150, "parquet": 100}


@pytest.mark.parametrize("target", targets.TARGETS)
def test_a_changed_file_gives_a_named_error_or_what_it_holds(target: str) -> None:
    @settings(max_examples=EXAMPLES[target], derandomize=True, deadline=10_000, database=None,
              suppress_health_check=list(HealthCheck))
    @given(st.data())
    def check(data: Any) -> None:
        targets.holds(target, edited(data.draw, data.draw(st.sampled_from(SEEDS[target]))))

    check()


@pytest.mark.parametrize("target", targets.TARGETS)
def test_what_is_not_changed_loads(target: str) -> None:
    assert targets.holds(target, SEEDS[target][0])


@pytest.mark.parametrize("target", ["model", "checkpoint"])
@pytest.mark.parametrize("value", JSON_VALUES, ids=lambda value: repr(value)[:12])
def test_any_value_at_any_place_of_an_index(target: str, value: Any) -> None:
    text, _, tensors = SEEDS[target][-1].partition(targets.CUT)
    key = "model" if target == "model" else "training"
    index = json.loads(text)
    places = targets.every_place(index[key], value)
    every = 1 if target == "model" else max(1, len(places) // 12)
    for body in places[::every]:
        targets.holds(target, json.dumps(index | {key: body}).encode() + targets.CUT + tensors)


def model_with(change: Any) -> bytes:
    text, _, tensors = SEEDS["model"][0].partition(targets.CUT)
    index = json.loads(text)
    return json.dumps(change(index) or index).encode() + targets.CUT + tensors


@pytest.mark.parametrize("text", [
    b"[" * 100_000, b'{"a":' * 50_000, b'{"format": "xpdense-model", "version": NaN}', b"\xff\xfe", b"", b"null",
    b'{"format": "xpdense-model", "format": "xpdense-model", "version": 1}', b"9" * 10_000, b'{"version": 1e999}',
])
def test_an_index_that_is_none(text: bytes) -> None:
    assert not targets.holds("model", text + targets.CUT + b"")


def peak(act: Any) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("units", [10**6, 10**12, 10**30, 2**31, -1, 0, "9" * 30])
def test_layers_that_say_they_are_huge_cost_nothing(units: Any) -> None:
    data = model_with(lambda i: i["model"]["layers"][0].update(units=units))
    assert peak(lambda: targets.holds("model", data)) < 2**24
    data = model_with(lambda i: i["model"].update(inputs=units))
    assert peak(lambda: targets.holds("model", data)) < 2**24


def head(entries: dict[str, Any], content: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


@pytest.mark.parametrize("tensors", [
    head({}, length=2**62), head({}, length=2**64 - 1), head({}, length=0), b"\x01", head({"a": 1}),
    head({"0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 10**15]}}),
    head({"0.weight": {"dtype": "F32", "shape": [10**9, 10**9], "data_offsets": [0, 24]}}, bytes(24)),
    head({"0.weight": {"dtype": "F32", "shape": [-2, -3], "data_offsets": [0, 24]}}, bytes(24)),
    head({"0.weight": {"dtype": "F99", "shape": [2, 3], "data_offsets": [0, 24]}}, bytes(24)),
    head({"0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [8, 32]}}, bytes(32)),
    head({"0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
          "0.bias": {"dtype": "F32", "shape": [3], "data_offsets": [12, 24]}}, bytes(24)),
    head({"0.weight": {"dtype": "F32", "shape": [2.5, 3], "data_offsets": [0, 24]}}, bytes(24)),
    head({"0.weight": {"dtype": "F32", "shape": [True, 6], "data_offsets": [0, 24]}}, bytes(24)),
])
def test_heads_that_lie_are_found_before_memory_is_asked_for(tensors: bytes) -> None:
    index = SEEDS["model"][0].partition(targets.CUT)[0]
    assert peak(lambda: targets.holds("model", index + targets.CUT + tensors)) < 2**24
    assert not targets.holds("model", index + targets.CUT + tensors)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "weights-0123456789abcdef.safetensors/../../x", ".", "",
                                  "weights-0123456789abcdeg.safetensors", "training-0123456789abcdef.safetensors"])
def test_a_name_leads_out_of_no_folder(name: str, tmp_path: Path) -> None:
    targets.network().save(tmp_path / "m")
    index = json.loads((tmp_path / "m" / "model.json").read_text())
    (tmp_path / "m" / "model.json").write_text(json.dumps(index | {"weights": name}))
    with pytest.raises(xd.ModelFileError, match="names no file of weights"):
        xd.load(tmp_path / "m")


# --- archives and tables ---------------------------------------------------------------------------------------

def archive(path: Path, member: bytes, name: str = "x.npy", **options: Any) -> str:
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr(name, member)
    return str(path)


def npy(header: str) -> bytes:
    text = header.ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize("shape", ["(10**12, 4)", "(1000000000000, 4)", "(-5, 4)", "(2**40,)", "(1, 2, 3, 4, 5)", "()"])
def test_an_array_that_says_it_is_huge_costs_nothing(shape: str, tmp_path: Path) -> None:
    member = npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}") + bytes(64)
    path = archive(tmp_path / "a.npz", member)
    with pytest.raises(xd.DataError):
        datasets.read(path, needs_target=False)
    assert peak(lambda: targets.holds("npz", Path(path).read_bytes())) < 2**24
    (tmp_path / "a.npy").write_bytes(member)
    with pytest.raises(xd.DataError):
        xd.data.open(tmp_path / "a.npy")


def test_an_array_larger_than_memory_is_refused_with_the_numbers(tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    from xpdense.backend import Backend

    np.savez(tmp_path / "a.npz", x=np.zeros((1000, 10)))
    monkeypatch.setattr(Backend, "free", lambda self: 100_000)
    with pytest.raises(xd.FileFormatError, match=r"takes 80,000 bytes, and 100,000 are free"):
        datasets.read(str(tmp_path / "a.npz"), needs_target=False)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("objects.npz", x=np.array([Bomb()], dtype=object))
    with pytest.raises(xd.FileFormatError, match="never unpickled"):
        datasets.read("objects.npz", needs_target=False)
    np.save("objects.npy", np.array([[Bomb()]], dtype=object))
    with pytest.raises(xd.ArrayTypeError):
        xd.data.open("objects.npy")
    for name in ("a.npz", "a.npy", "a.csv", "a.parquet"):
        Path(name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(xd.XpdenseError):
            datasets.read(name)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [
    b'a,"b\n1,2\n', b"a,b\n1\n", b"\0\0\0",
    b",".join(b"c%d" % i for i in range(9_999)) + b",y\n" + b"1," * 9_999 + b"1\n",
    b"a,y\n" + b"1" * 400_000 + b",1\n", b"a,y\n\xff,1\n", b"a,a\n1,2\n", b"a,y\r1,2\r", b'"' * 1001, b"y\n1\n2\n",
])
def test_odd_tables_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    targets.holds("csv", content)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(content)[:-3])
    with pytest.raises(xd.XpdenseError):
        datasets.read(str(tmp_path / "t.csv.gz"))


def test_a_parquet_file_that_is_cut_anywhere_is_refused() -> None:
    seed = SEEDS["parquet"][0]
    for end in range(0, len(seed), 61):
        assert not targets.holds("parquet", seed[:end])


def test_an_archive_cut_anywhere_is_refused() -> None:
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(400.0).reshape(100, 4))
    data = file.getvalue()
    for end in range(0, len(data), 23):
        assert not targets.holds("npz", data[:end])


def test_text_that_is_none_is_refused(tmp_path: Path) -> None:
    for code in (0x110000, 0xD800, 0xFFFFFFFF):
        y = np.frombuffer(np.array([97, code, 98], np.uint32).tobytes(), "<U1")
        np.savez(tmp_path / "a.npz", x=np.eye(3), y=y)
        with pytest.raises(xd.FileFormatError, match="invalid Unicode"):
            datasets.read(str(tmp_path / "a.npz"))


def test_a_parquet_file_whose_words_are_wrong_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    for words in (b'{"columns": [{}], "index_columns": [{"kind": "range"}]}', b"\xff", b"[]"):
        table = pa.table({"a": [1.0, 2.0], "y": [0.5, 1.5]}).replace_schema_metadata({b"pandas": words})
        parquet.write_table(table, tmp_path / "a.parquet")
        targets.holds("parquet", (tmp_path / "a.parquet").read_bytes())
    parquet.write_table(pa.table({"abcd": [1.0, 2.0], "y": [0.5, 1.5]}), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    assert not targets.holds("parquet", content.replace(b"abcd", b"ab\xf0d"))


def test_an_archive_of_another_version_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(3))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 6] = 80  # the version that is needed to read it
    assert not targets.holds("npz", bytes(content))


def test_a_table_of_a_target_alone_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("y\n1\n2\n")
    with pytest.raises(xd.DataError, match="no column to learn from"):
        xd.data.open(tmp_path / "t.csv")
