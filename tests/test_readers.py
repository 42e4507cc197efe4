"""Readers of files: a whole table and the chunks of its stream hold the same columns, types and values."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpdense as xd
from xpdense.data import csv
from xpdense.data.columns import as_series, kind_of, numbers_of, texts_of
from xpdense.data.datasets import read
from xpdense.data.sources import BatchSource, UnchangedFile

pandas = pytest.importorskip("pandas")
arrow = pytest.importorskip("pyarrow")


def assert_same_table(path: Path, groups: int) -> Any:
    """Read a file both ways, and return the whole table."""
    frame, source = read(str(path)).frame, xd.data.open(path).source
    assert source.columns is not None
    assert list(frame.columns) == list(source.columns)
    assert len(source.groups) == groups
    chunks = [chunk for group in source.groups for chunk in source.read(group, list(frame.columns))]
    assert sum(map(len, chunks)) == len(frame) == sum(group.rows for group in source.groups)
    for name, kind in source.columns.items():
        whole, parts = frame[name], [as_series(chunk[name]) for chunk in chunks]
        assert np.array_equal(np.concatenate([part.isna() for part in parts]), whole.isna())
        if kind in ("number", "boolean"):
            assert (kind_of(whole) == "boolean") == (kind == "boolean")
            found = np.concatenate([numbers_of(name, chunk[name]) for chunk in chunks])
            assert np.array_equal(found, numbers_of(name, whole), equal_nan=True)
        elif kind == "text":
            assert not pandas.api.types.is_numeric_dtype(whole.dtype)
            assert list(pandas.concat([texts_of(part) for part in parts]).dropna()) == list(texts_of(whole).dropna())
        else:
            assert kind == "empty" or kind in str(whole.dtype) or "datetime" in str(whole.dtype)
    return frame


CSV = {
    "missing values": "a,b,c,y\n1,,x,0\n,2.5,,1\n3,NA,z,0\n,,,\n5,1e3,x,1\n",
    "codes": "a,code,late,y\n1,007,5,0\n2,12,6,1\n3,9,7,0\n4,8,08,1\n5,0,0,0\n",
    "booleans": "a,b,y\nTrue,,0\nFalse,True,1\nTrue,,0\nFalse,False,1\nTrue,,0\n",
    "quoted fields": 'a,"b, c",y\n"x, ""1""",1,0\n"two\nlines",2,1\nz,3,0\n"",4,1\n"5",5,0\n',
    "byte order mark": "\ufeffa,b,y\n1,x,0\n2,y,1\n3,x,0\n4,y,1\n5,z,0\n",
    "windows": "a,b,y\r\n1,x,0\r\n\r\n2,y,1\r\n3,x,0\r\n4,y,1\r\n5,z,0",
    "no name": "a,,y\n1,007,0\n2,8,1\n3,9,0\n4,1,1\n5,2,0\n",
    "late text": "a,b,y\n1,1,0\n2,2.5,1\n3,3,0\n4,4,1\nmany,True,0\n",
    "numbers": "a,b,y\n0.30000000000000004,9007199254740993,0\n1e-320,-1,1\n2,3,0\n123456789.987654321,5,1\n.5,6,0\n",
    "empty column": "a,b,y\n1,,0\n2,,1\n3,,0\n4,,1\n5,,0\n",
}


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("case", CSV)
def test_csv_is_the_same_table_both_ways(case: str, ending: str, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "GROUP", 2)
    text = CSV[case].replace(", ", ";").replace(",", "\t") if ending == ".tsv" else CSV[case]
    path = tmp_path / f"t{ending}"
    path.write_bytes(text.encode())
    frame = assert_same_table(path, 3)
    assert len(frame) == 5
    packed = tmp_path / f"t{ending}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    pandas.testing.assert_frame_equal(read(str(packed)).frame, frame)
    with pytest.raises(xd.FileFormatError, match="is a gzip file, which cannot be read from its middle"):
        xd.data.open(packed)


def test_codes_are_text_in_a_column_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV["no name"])
    assert list(read(str(tmp_path / "t.csv")).frame["Unnamed: 1"]) == ["007", "8", "9", "1", "2"]


def test_an_error_in_a_later_group_names_the_row_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv, "GROUP", 2)
    (tmp_path / "t.csv").write_text("a,y\n1,0\n2,1\n3,0\ninf,1\n5,0\n")
    with pytest.raises(xd.NonFiniteDataError, match=r"t\.csv, rows 3 to 4: column 'a' holds inf \(row 4\)"):
        xd.data.open(tmp_path / "t.csv").head()


def mixed(rows: int) -> Any:
    i = np.arange(rows)
    frame = pandas.DataFrame({
        "whole": i, "real": i / 3, "big": pandas.array([2**60 + 1, None] * (rows // 2), "Int64"),
        "flag": i % 3 == 0, "maybe": pandas.array([True, None] * (rows // 2), "boolean"),
        "text": ["x", None] * (rows // 2), "kind": pandas.Categorical(["u", "v"] * (rows // 2)),
        "size": pandas.Categorical([3, 1] * (rows // 2)),
        "price": [Decimal("1.25"), None] * (rows // 2), "none": None, "when": pandas.Timestamp("2024-05-01"), "y": i})
    frame.loc[::5, "real"] = np.nan
    return frame


def test_parquet_is_the_same_table_both_ways(tmp_path: Path) -> None:
    mixed(30).to_parquet(tmp_path / "t.parquet", row_group_size=7)
    assert len(assert_same_table(tmp_path / "t.parquet", 5).columns) == 12


@pytest.mark.parametrize("index", [
    pandas.Index(np.arange(30) ** 2), pandas.Index([f"row {i}" for i in range(30)], name="key")])
def test_the_index_of_a_saved_frame_is_not_a_column(index: Any, tmp_path: Path) -> None:
    frame = mixed(30).set_index(index).drop(index=index[0])
    frame.to_parquet(tmp_path / "t.parquet", row_group_size=7)
    assert list(assert_same_table(tmp_path / "t.parquet", 5).columns) == list(frame.columns)
    assert list(xd.data.open(arrow.Table.from_pandas(frame)).source.columns) == list(frame.columns)  # type: ignore[arg-type]


def test_a_partitioned_folder_is_the_same_table_both_ways(tmp_path: Path) -> None:
    for year, place in ((2023, "Oslo"), (2024, "Rome")):
        folder = tmp_path / f"year={year}" / f"place={place}"
        folder.mkdir(parents=True)
        mixed(10).drop(columns=["real"] if year == 2024 else []).to_parquet(folder / "p.parquet", row_group_size=6)
    frame = assert_same_table(tmp_path, 4)
    assert list(frame["year"]) == [2023] * 10 + [2024] * 10
    assert list(frame["place"]) == ["Oslo"] * 10 + ["Rome"] * 10
    assert frame["real"][10:].isna().all()


def test_npz_and_npy_hold_the_same_rows(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32), np.arange(40)
    np.savez(tmp_path / "t.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    frame, (rows, target) = read(str(tmp_path / "t.npz")).frame, xd.data.open(tmp_path / "x.npy",
                                                                           tmp_path / "y.npy").head()
    assert np.array_equal(frame[["x0", "x1", "x2"]].to_numpy(), rows)
    assert np.array_equal(frame["y"], target)  # type: ignore[arg-type]


def write(content: str | bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content.encode() if isinstance(content, str) else content)


def write_twice_named(path: Path) -> None:
    from pyarrow import parquet

    parquet.write_table(arrow.Table.from_arrays([[1], [2]], names=["a", "a"]), path)


@pytest.mark.parametrize(("name", "make", "message"), [
    ("t.csv", write(""), "is empty"), ("t.csv", write("a,y\n"), "a header and no rows"),
    ("t.csv", write("a,y\n1,2\n3\n"), "line 3 of .* has 1 fields, and the header has 2"),
    ("t.csv", write("a,a\n1,2\n"), "more than one column called 'a'"),
    ("t.tsv", write(b"a\ty\n\xe9\t1\n"), "not UTF-8"),
    ("t.csv", write("a;y\n1;2\n"), "separate columns by commas"), ("t.csv", write("a\0,y\n1,2\n"), "zero bytes"),
    ("t.parquet", write(b"PAR1junkPAR1"), "cannot be read as Parquet"),
    ("t.parquet", write_twice_named, "duplicate field names"),
    ("t.parquet", lambda path: mixed(0).to_parquet(path), "holds no rows"),
    ("folder", Path.mkdir, "holds no Parquet files"),
])
def test_both_ways_refuse_a_file_with_the_same_message(name: str, make: Callable[[Path], object], message: str,
                                                       tmp_path: Path) -> None:
    make(tmp_path / name)
    said = []
    for reader in (read, xd.data.open):
        with pytest.raises(xd.FileFormatError, match=message) as caught:
            reader(str(tmp_path / name))
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert str(tmp_path / name) in said[0]


def test_a_table_with_two_columns_of_one_name_is_refused() -> None:
    with pytest.raises(xd.FileFormatError, match="the data set has more than one column called 'a'"):
        xd.data.open(arrow.Table.from_arrays([[1], [2]], names=["a", "a"]))


def test_a_changed_file_is_noticed_by_size_and_by_time(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("abc")
    file = UnchangedFile(path)
    file.check()
    path.write_text("abcd")
    with pytest.raises(xd.DataError, match=r"changed while it was used \(3 bytes, now 4\)"):
        file.check()


def test_the_first_batch_of_a_generator_is_not_lost() -> None:
    source = BatchSource((([i], None) for i in range(3)), rows=3)
    assert source.first()[0] == [0]
    assert [chunk[0] for chunk in source.read(source.groups[0])] == [[0], [1], [2]]
